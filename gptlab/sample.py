"""Text from a trained model, token by token."""

from pathlib import Path

import torch
from torch import Tensor

from gptlab import checkpoint
from gptlab.components.model import LanguageModel
from gptlab.compose import edit
from gptlab.config import ConfigError
from gptlab.data import Tokenizer, tokenizer_from_json
from gptlab.model import build_model
from gptlab.record import read_json
from gptlab.run_folder import best_weights, open_config


def open_run(folder: Path) -> tuple[LanguageModel, Tokenizer]:
    """The model of a run with its best weights, in evaluation mode, and its tokenizer."""
    model, tokenizer = open_model(folder), open_tokenizer(folder)
    if tokenizer is None:
        raise ConfigError(
            f"{folder}: has no tokenizer.json, so it reads no text; take a run on text, or convert with a tokenizer"
        )
    return model, tokenizer


def open_model(folder: Path) -> LanguageModel:
    cfg = edit(open_config(folder), eval__lengths=[1])  # no longer texts than it was trained on
    model = build_model(cfg)
    checkpoint.load_weights(best_weights(folder), model)
    return model.eval()


def open_tokenizer(folder: Path) -> Tokenizer | None:
    """None where weights were converted that came without one."""
    state = read_json(folder / "tokenizer.json")
    return tokenizer_from_json(state) if state else None


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
