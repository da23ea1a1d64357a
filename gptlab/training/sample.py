"""A sample of text from the model that a run has trained.

It draws from a random stream of its own, so nothing that the run measures depends on it.
"""

from collections.abc import Callable
from typing import Any

from gptlab.config import ConfigError, Settings, drawing_seed
from gptlab.config.user_files import blame
from gptlab.data import AnyDataset, Dataset
from gptlab.distributed import ProcessGroup
from gptlab.model.generate import PROMPT, generate
from gptlab.model.gpt import LanguageModel
from gptlab.model.init import seed_number


def sample_text(
    cfg: Settings, model: LanguageModel, dataset: AnyDataset, processes: ProcessGroup, say: Callable[[str], Any]
) -> str | None:
    """Return text that the model writes at temperature 1, or None for tasks, if none is wanted, and on other ranks.

    It never raises, since the run has ended well: `say` gets a line with the reason why there is no text.

    Args:
        cfg: the run's config; `eval.sample_tokens` is the length.
        model: the trained model, which is left in evaluation mode.
        dataset: what it was trained on.
        processes: those that trained it.
        say: takes a line for the log.
    """
    n = cfg.eval.get("sample_tokens")  # configs of older versions do not have it
    if not n or not isinstance(dataset, Dataset) or not processes.is_first:
        return None
    if processes.kind == "fsdp":  # all processes would have to compute each token
        say("sample   none: the processes hold shards of the model; `gptlab sample` reads its checkpoint")
        return None
    try:
        tokens = generate(
            model.eval(),
            _start(dataset),
            n,
            seed=seed_number(drawing_seed(cfg), "sample"),
            n_tokens_known=dataset.vocab_size,
        )
        return dataset.tokenizer.decode(tokens)
    except Exception as e:
        say(f"sample   none: {blame(e) or ' '.join(f'{type(e).__name__}: {e}'.split())}")
        return None


def _start(dataset: Dataset) -> list[int]:
    """Return the tokens of PROMPT, or the first token of the validation text where the tokenizer has none for it."""
    try:
        return dataset.tokenizer.encode(PROMPT).tolist() or [int(dataset.val[0])]
    except ConfigError:
        return [int(dataset.val[0])]
