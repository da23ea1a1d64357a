"""train.init_from: the weights that a run starts from instead of `init`.

A weight is taken where the folder has one of the same name and shape, whichever component it is part of: another norm
keeps the gains, another FFN of the same kind its matrices. What only the new component has is drawn by `init`, as in a
run from scratch, and what only the old one had is left out; both only with train.init_partial=true. Settings are not
compared: where one changes what a weight means, as norm.zero_centered and position.pairing do, the weight is taken as
it is.
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
from gptlab.distributed import as_held
from gptlab.model.cost import meta_model
from gptlab.runs.checkpoint import read_shapes, read_weights
from gptlab.runs.load import open_tokenizer
from gptlab.runs.lock import is_locked
from gptlab.runs.weights import best_weights, folder_kind, weights_hash

PLACE = "train.init_from"
FEW = 3  # names told of many
PROBE = 4096  # tokens of the validation split that show whether two tokenizers are one
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Start:
    """Which weights are taken from where. Names are those of this model's weights, and of the folder's left out."""

    path: str
    sha256: str  # of the files with the weights
    taken: list[str]
    new: list[str]  # by init
    left_out: list[str]
    same_tokens: bool | None  # whether the folder's tokenizer reads text as the run's does; None where it has none

    def apply(self, model: nn.Module) -> None:
        state = model.state_dict()  # the weights themselves, not copies
        weights = _weights(Path(self.path).expanduser())
        with torch.no_grad():
            for name in self.taken:
                state[name].copy_(as_held(weights[name], state[name]))

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def describe(self) -> list[str]:
        n = len(self.taken) + len(self.new)
        lines = [f"{len(self.taken)} of {n} weights from {self.path}"]
        if self.new:
            lines.append(f"{len(self.new)} new ones by init: {_some(self.new)}")
        if self.left_out:
            lines.append(f"{len(self.left_out)} of the folder's left out: {_some(self.left_out)}")
        if self.same_tokens is False:
            lines.append("its tokenizer is another: a token there was not what it is here")
        return lines


def plan_start(cfg: Settings, dataset: AnyDataset) -> Start | None:
    """What `cfg`, its vocabulary's size known, starts from; None if from `init`.

    Raises ConfigError for what does not fit, unless train.init_partial says that it need not.
    """
    given = cfg.train.init_from
    if given is None:
        return None
    folder = Path(given).expanduser()
    sha256 = weights_hash(folder, PLACE)
    if is_locked(folder):
        raise ConfigError(f"{PLACE}={given}: is a run that goes on; wait for its end, the best weights may change")
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
        raise ConfigError(f"{PLACE}={given}: none of its weights fits this model; see `gptlab show` for both")
    return start


def _refuse_misfit(start: Start, ours: Shapes, theirs: Shapes) -> None:
    table = "embedding.weight"
    a, b = theirs.get(table, ()), ours.get(table, ())
    if a != b and a[1:] == b[1:] != ():
        raise ConfigError(
            f"{PLACE}={start.path}: its vocabulary has {a[0]:,} tokens and this model's {b[0]:,}; set "
            f"model.vocab_size={a[0]} and {_tokenizer_of(start.path)}"
        )
    misfits = [f"{name} ({_why(theirs.get(name), ours[name])})" for name in start.new]
    misfits += [f"{name} (not in this model)" for name in start.left_out if name not in ours]
    if misfits:
        raise ConfigError(
            f"{PLACE}={start.path}: {len(misfits)} weights do not fit: {_some(misfits)}; "
            f"train.init_partial=true takes the others"
        )
    if start.same_tokens is False:
        raise ConfigError(
            f"{PLACE}={start.path}: its tokenizer gives other tokens for the same text; set "
            f"{_tokenizer_of(start.path)}, or train.init_partial=true to go on all the same"
        )


def _why(theirs: tuple[int, ...] | None, ours: tuple[int, ...]) -> str:
    sizes = [" x ".join(map(str, shape)) or "one number" for shape in (theirs or (), ours)]
    return f"{sizes[0]} there, {sizes[1]} here" if theirs is not None else "not there"


def _some(names: list[str]) -> str:
    more = len(names) - FEW
    return ", ".join(names[:FEW]) + (f" and {more} more" if more > 0 else "")


def _tokenizer_of(path: str) -> str:
    """The overrides that give a run the folder's tokenizer."""
    folder = Path(path).expanduser()
    if folder_kind(folder, PLACE) == "transformers":
        return f"tokenizer=huggingface tokenizer.path={path}"
    tokenizer = read_yaml(folder / "config.yaml").tokenizer
    if tokenizer.name == "huggingface":
        return f"tokenizer=huggingface tokenizer.path={tokenizer.path}"
    if len(tokenizer) > 1 or tokenizer.name == "char":  # made from the text that it was trained on
        return f"tokenizer=huggingface tokenizer.path=OUT after `gptlab convert --from {path} --to OUT`"
    return f"tokenizer={tokenizer.name}"


def _same_tokens(folder: Path, dataset: AnyDataset) -> bool | None:
    """Tried on the run's own text: two tokenizers may be one under two names. A task's tokens are no text's."""
    theirs = _tokenizer_in(folder)
    if theirs is None:
        return None
    if isinstance(dataset, TaskDataset):
        return False
    text = dataset.tokenizer.decode(dataset.val[:PROBE])
    try:
        return theirs.encode(text).tolist() == dataset.tokenizer.encode(text).tolist()
    except ConfigError:  # a character that it does not know
        return False


def _tokenizer_in(folder: Path) -> Tokenizer | None:
    if folder_kind(folder, PLACE) == "run":
        return open_tokenizer(folder)
    return HuggingFaceVocabulary(path=str(folder)).fit("", "") if (folder / "tokenizer.json").exists() else None


def _shapes_in(folder: Path) -> Shapes:
    if folder_kind(folder, PLACE) == "transformers":
        return _shapes(meta_model(read_transformers(folder, PLACE)))
    return read_shapes(best_weights(folder))


def _shapes(model: nn.Module) -> Shapes:
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


def _weights(folder: Path) -> dict[str, Tensor]:
    if folder_kind(folder, PLACE) == "transformers":
        return open_transformers(folder, PLACE).state_dict()
    return read_weights(best_weights(folder))
