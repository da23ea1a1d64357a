"""Text from a trained model, token by token."""

import torch
from torch import Tensor

from gptlab.model.gpt import LanguageModel


@torch.inference_mode()
def generate(
    model: LanguageModel,
    tokens: list[int],
    n: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    n_tokens_known: int | None = None,
    cached: bool = True,
) -> list[int]:
    """`tokens` and n more. Temperature 0 takes the likeliest; `n_tokens_known` leaves out the vocabulary's padding.

    The model sees at most its window. When that is full, the older half is dropped and the rest read anew from
    position 0, with the cache as without it.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = list(tokens)
    start = max(0, len(tokens) - model.max_len)  # the first token that the model sees
    cache, n_read = model.new_cache(), 0
    for _ in range(n):
        if len(tokens) - start > model.max_len:
            start = len(tokens) - max(1, model.max_len // 2)
            cache, n_read = model.new_cache(), 0
        if not cached:
            cache, n_read = model.new_cache(), 0
        unread = torch.tensor([tokens[start + n_read :]])
        logits = model(unread, cache if cached else None)[0, -1, :n_tokens_known]
        n_read += unread.shape[1]
        tokens.append(_draw(logits, temperature, top_k, generator))
    return tokens


def _draw(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """(V,) -> a token."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits.float() / temperature
    if top_k is not None and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))
