"""A run's model and tokenizer, read from its folder."""

from pathlib import Path

from gptlab.config import ConfigError
from gptlab.config.compose import edit
from gptlab.data import Tokenizer, tokenizer_from_json
from gptlab.files import read_json
from gptlab.model.build import build_model
from gptlab.model.gpt import LanguageModel
from gptlab.runs import checkpoint
from gptlab.runs.folder import open_config
from gptlab.runs.weights import best_weights


def open_run(folder: str | Path) -> tuple[LanguageModel, Tokenizer]:
    """Return a run's model, as `open_model` does, and its tokenizer; ConfigError if the run has none."""
    model, tokenizer = open_model(folder), open_tokenizer(folder)
    if tokenizer is None:
        raise ConfigError(
            f"{folder}: has no tokenizer.json, so it reads no text; take a run on text, or convert with a tokenizer"
        )
    return model, tokenizer


def open_model(folder: str | Path) -> LanguageModel:
    """Return a run's model with its best weights, on the CPU and in evaluation mode."""
    cfg = edit(open_config(folder), eval__lengths=[1])  # no room for texts longer than it was trained on
    model = build_model(cfg)
    checkpoint.load_weights(best_weights(Path(folder)), model)
    return model.eval()


def open_tokenizer(folder: str | Path) -> Tokenizer | None:
    """Return a run's tokenizer; None for tasks, and for converted weights that came without one."""
    state = read_json(Path(folder) / "tokenizer.json")
    return tokenizer_from_json(state) if state else None
