"""Text from a trained model, token by token."""

import torch
from torch import Tensor

from gptlab.model.attention_kernels import any_length
from gptlab.model.gpt import LanguageModel

PROMPT = "\n"  # where text begins unless a prompt is given


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
    """Return `tokens` and n more.

    When the model's window is full, the older half is dropped and the rest is read again from position 0, with or
    without the cache.

    Args:
        model: The model, in evaluation mode.
        tokens: The prompt. If it is longer than the window, the model sees only its end.
        n: Number of tokens to add.
        temperature: Divides the logits; 0 takes the likeliest token.
        top_k: Draw from the k likeliest tokens alone.
        seed: Seed of the draws.
        n_tokens_known: Draw only from tokens below this one, which leaves out the vocabulary's padding.
        cached: Read each token once. If false, read the whole window again for each new token.
    """
    generator = torch.Generator().manual_seed(seed)
    device = model.embedding.weight.device
    tokens = list(tokens)
    start = max(0, len(tokens) - model.max_len)  # the first token that the model sees
    cache = model.new_cache()
    with any_length():
        for _ in range(n):
            if len(tokens) - start > model.max_len:
                start = len(tokens) - max(1, model.max_len // 2)
                cache = model.new_cache()
            elif not cached:
                cache = model.new_cache()
            unread = torch.tensor([tokens[start + cache.n_read :]], device=device)
            logits = model(unread, cache if cached else None)[0, -1, :n_tokens_known]
            tokens.append(_draw(logits.cpu(), temperature, top_k, generator))
    return tokens


def _draw(logits: Tensor, temperature: float, top_k: int | None, generator: torch.Generator) -> int:
    """Draw a token from logits, (V,)."""
    if temperature == 0:
        return int(logits.argmax())
    logits = logits.float() / temperature
    if top_k is not None and top_k < len(logits):
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    return int(torch.multinomial(logits.softmax(-1), 1, generator=generator))
