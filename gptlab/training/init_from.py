"""train.init_from: start a run from the weights in a folder instead of from `init`.

A weight is taken if the folder has one of the same name and shape, whichever component it belongs to: a different norm
keeps the gains, a different FFN of the same kind keeps the matrices. With train.init_partial=true, weights that only
the new model has are drawn by `init`, as in a run from scratch, and weights that only the folder has are skipped;
otherwise both are errors. Settings are not compared: if one changes the meaning of a weight, as norm.zero_centered and
position.pairing do, the weight is taken unchanged.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gptlab.config import ConfigError, Settings, read_yaml
from gptlab.convert.folders import open_transformers, read_transformers
from gptlab.data import AnyDataset, TaskDataset, Tokenizer
from gptlab.data.hf_tokenizer import HuggingFaceVocabulary
from gptlab.distributed import shard_like
from gptlab.model.cost import meta_model
from gptlab.runs.checkpoint import read_shapes, read_weights
from gptlab.runs.load import open_tokenizer
from gptlab.runs.lock import is_locked
from gptlab.runs.weights import best_weights, folder_kind, weights_hash

SETTING = "train.init_from"
NAMES_SHOWN = 3
TOKENS_COMPARED = 4096  # tokens of the validation split, to tell whether two tokenizers are the same
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Start:
    """The weights that a run starts from: a folder, and the names of those taken, drawn and skipped."""

    path: str
    sha256: str  # hash of the files with the weights
    taken: list[str]
    new: list[str]  # weights of this model that init draws
    left_out: list[str]  # weights of the folder that are skipped
    same_tokens: bool | None  # whether both tokenizers agree; None if the folder has no tokenizer

    def apply(self, model: nn.Module) -> None:
        """Copy the weights into the model."""
        state = model.state_dict()  # shares memory with the model
        weights = _weights(Path(self.path).expanduser())
        with torch.no_grad():
            for name in self.taken:
                state[name].copy_(shard_like(weights[name], state[name]))

    def record(self) -> dict[str, Any]:
        """Return the record for env.json."""
        return asdict(self)

    def describe(self) -> list[str]:
        """Return lines for the user."""
        n = len(self.taken) + len(self.new)
        lines = [f"{len(self.taken)} of {n} weights from {self.path}"]
        if self.new:
            lines.append(f"{len(self.new)} drawn by init: {_some(self.new)}")
        if self.left_out:
            lines.append(f"{len(self.left_out)} of the folder's skipped: {_some(self.left_out)}")
        if self.same_tokens is False:
            lines.append("its tokenizer differs: the same token id meant something else there")
        return lines


def plan_start(cfg: Settings, dataset: AnyDataset) -> Start | None:
    """Return the weights that a run starts from, None if from `init`. The vocabulary's size must be known.

    Raises:
        ConfigError: if weights or tokenizers do not fit and train.init_partial is false.
    """
    given = cfg.train.init_from
    if given is None:
        return None
    folder = Path(given).expanduser()
    sha256 = weights_hash(folder, SETTING)
    if is_locked(folder):
        raise ConfigError(f"{SETTING}={given}: is a run in progress, whose best weights may change; wait for its end")
    ours, theirs = _shapes(meta_model(cfg)), _shapes_in(folder)
    taken = [name for name, shape in ours.items() if theirs.get(name) == shape]
    start = Start(
        path=given,
        sha256=sha256,
        taken=taken,
        new=[name for name in ours if name not in taken],
        left_out=[name for name in theirs if name not in taken],
        same_tokens=_same_tokens(folder, dataset),
    )
    if not cfg.train.init_partial:
        _refuse_misfit(start, ours, theirs)
    elif not taken:
        raise ConfigError(f"{SETTING}={given}: none of its weights fits this model; see `gptlab show` for both")
    return start


def _refuse_misfit(start: Start, ours: Shapes, theirs: Shapes) -> None:
    table = "embedding.weight"
    a, b = theirs.get(table, ()), ours.get(table, ())
    if a != b and a[1:] == b[1:] != ():
        raise ConfigError(
            f"{SETTING}={start.path}: its vocabulary has {a[0]:,} tokens, this model's {b[0]:,}; set "
            f"model.vocab_size={a[0]} and {_tokenizer_of(start.path)}"
        )
    misfits = [f"{name} ({_why(theirs.get(name), ours[name])})" for name in start.new]
    misfits += [f"{name} (not in this model)" for name in start.left_out if name not in ours]
    if misfits:
        raise ConfigError(
            f"{SETTING}={start.path}: {len(misfits)} weights do not fit: {_some(misfits)}; "
            f"train.init_partial=true takes only the others"
        )
    if start.same_tokens is False:
        raise ConfigError(
            f"{SETTING}={start.path}: its tokenizer gives other tokens for the same text; set "
            f"{_tokenizer_of(start.path)}, or train.init_partial=true to start anyway"
        )


def _why(theirs: tuple[int, ...] | None, ours: tuple[int, ...]) -> str:
    sizes = [" x ".join(map(str, shape)) or "one number" for shape in (theirs or (), ours)]
    return f"{sizes[0]} there, {sizes[1]} here" if theirs is not None else "missing there"


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _tokenizer_of(path: str) -> str:
    """Return the overrides that give a run the folder's tokenizer."""
    folder = Path(path).expanduser()
    if folder_kind(folder, SETTING) == "transformers":
        return f"tokenizer=huggingface tokenizer.path={path}"
    tokenizer = read_yaml(folder / "config.yaml").tokenizer
    if tokenizer.name == "huggingface":
        return f"tokenizer=huggingface tokenizer.path={tokenizer.path}"
    if len(tokenizer) > 1 or tokenizer.name == "char":  # learned from its own text
        return f"tokenizer=huggingface tokenizer.path=OUT after `gptlab convert --from {path} --to OUT`"
    return f"tokenizer={tokenizer.name}"


def _same_tokens(folder: Path, dataset: AnyDataset) -> bool | None:
    """Compare two tokenizers on the run's own text, since one tokenizer may have two names. A task has no text."""
    theirs = _tokenizer_in(folder)
    if theirs is None:
        return None
    if isinstance(dataset, TaskDataset):
        return False
    text = dataset.tokenizer.decode(dataset.val[:TOKENS_COMPARED])
    try:
        return theirs.encode(text).tolist() == dataset.tokenizer.encode(text).tolist()
    except ConfigError:  # an unknown character
        return False


def _tokenizer_in(folder: Path) -> Tokenizer | None:
    if folder_kind(folder, SETTING) == "run":
        return open_tokenizer(folder)
    return HuggingFaceVocabulary(path=str(folder)).fit("", "") if (folder / "tokenizer.json").exists() else None


def _shapes_in(folder: Path) -> Shapes:
    if folder_kind(folder, SETTING) == "transformers":
        return _shapes(meta_model(read_transformers(folder, SETTING)))
    return read_shapes(best_weights(folder))


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def _weights(folder: Path) -> dict[str, Tensor]:
    if folder_kind(folder, SETTING) == "transformers":
        return open_transformers(folder, SETTING).state_dict()
    return read_weights(best_weights(folder))
