"""A run's model and tokenizer, read from its folder."""

from pathlib import Path

from gptlab.config import ConfigError
from gptlab.config.compose import edit
from gptlab.data import Tokenizer, tokenizer_from_json
from gptlab.model.build import build_model
from gptlab.model.gpt import LanguageModel
from gptlab.runs import checkpoint
from gptlab.runs.folder import best_weights, open_config
from gptlab.runs.record import read_json


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
