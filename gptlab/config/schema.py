"""The shape of a run: the slots that take a component, and every setting that is not a component's own."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from omegaconf import MISSING, DictConfig, OmegaConf

PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir())  # in a wheel; in a checkout


class ConfigError(ValueError):
    """Something the user can mend. One line, `place=value: the rule; the mend`; the command line exits 2 on it."""


def did_you_mean(word: str, places: Iterable[str]) -> str:
    """` (did you mean budget.steps?)`, the place whose last name is nearest to `word`; empty if none is near."""
    by_name = {place.rpartition(".")[2]: place for place in reversed(list(places))}
    near = difflib.get_close_matches(word, by_name, 1)
    return f" (did you mean {by_name[near[0]]}?)" if near else ""


def slot(kind: str, help: str, common: type | None = None) -> Any:
    """A place that takes one component of `kind`; conf/config.yaml says which by default.

    `common` is a dataclass of settings that the slot has whichever component is chosen.
    """
    return field(default=MISSING, metadata={"kind": kind, "help": help, "common": common})


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: tuple[str, ...] | None = None,
) -> Any:
    """A value with its range or choices; null, where the type allows it, is always in range."""
    rules = {"at_least": at_least, "above": above, "below": below, "choices": choices}
    return field(default=default, metadata={"help": help, **rules})


def section(kind: type, help: str) -> Any:
    return field(default_factory=kind, metadata={"help": help})


@dataclass
class ModelCommon:
    vocab_size: int | None = setting(None, "tokens; null: the tokenizer's. More than that is padding", at_least=1)


@dataclass
class Size:
    n_layer: int = setting(4, "blocks", at_least=1)
    n_head: int = setting(4, "attention heads", at_least=1)
    dim: int = setting(128, "width of the residual stream", at_least=1)


@dataclass
class DataCommon:
    window: int = setting(64, "tokens a training example is long", at_least=1)
    sampling: str = setting(
        "random", "windows drawn by (seed, step), or each once an epoch", choices=("random", "epoch")
    )
    val_fraction: float = setting(0.1, "validation's share of the text, taken from its end", above=0, below=1)


@dataclass
class ScheduleCommon:
    warmup: float = setting(0.05, "linear warm-up: steps, or below 1 a fraction of the run", at_least=0)


@dataclass
class Budget:
    steps: int | None = setting(None, "optimizer steps", at_least=1)
    tokens: float | None = setting(None, "training tokens", above=0)
    flops: float | None = setting(None, "FLOPs of forward and backward", above=0)
    seconds: float | None = setting(None, "seconds of training, evaluations not counted", above=0)
    tokens_per_param: float | None = setting(None, "training tokens per parameter; Chinchilla: 20", above=0)


@dataclass
class Train:
    batch_size: int = setting(12, "windows per optimizer step", at_least=1)
    micro_batch_size: int | None = setting(None, "windows per forward pass; null: the whole batch", at_least=1)
    loss_chunk: int | None = setting(
        None, "tokens that have logits at once; null: as many as take 256 MiB in float32", at_least=1
    )
    grad_clip: float | None = setting(1.0, "largest norm of the gradient; null: no clipping", above=0)
    dropout: float = setting(0.0, "share zeroed: embeddings, attention weights, branches", at_least=0, below=1)
    log_every: int = setting(10, "steps between lines of training metrics", at_least=1)
    checkpoint_every: int | None = setting(None, "steps between checkpoints; null: at every evaluation", at_least=1)
    init_from: str | None = setting(None, "a run's folder, or one of transformers: start from its weights")
    init_partial: bool = setting(False, "take of init_from what has the same name and shape, draw the rest by init")


@dataclass
class Eval:
    every: int = setting(250, "steps between evaluations; there is always one at the end", at_least=1)
    tokens: int | None = setting(131072, "the first so many of the validation split are read; null: all", at_least=2)
    batch_size: int | None = setting(None, "windows; null: as in training", at_least=1)
    lengths: list[int] = field(
        default_factory=lambda: [1], metadata={"help": "at the end, val/loss also in windows so many times as long"}
    )


@dataclass
class Wandb:
    mode: str | None = setting(
        None, "null: WANDB_MODE, else online if there is a key", choices=("online", "offline", "disabled")
    )
    project: str = setting("gptlab", "where W&B keeps the runs")
    entity: str | None = setting(None, "user or team; null: the key's own")


@dataclass
class Config:
    model: Any = slot("model", "what is trained, out of which of these parts", ModelCommon)
    block: Any = slot("block", "how attention and FFN join the stream")
    placement: Any = slot("placement", "where the norms of a sublayer sit")
    norm: Any = slot("norm", "normalisation of the stream")
    qk_norm: Any = slot("norm", "normalisation of queries and keys, per head")
    attention: Any = slot("attention", "how tokens read each other")
    position: Any = slot("position", "how order is told")
    ffn: Any = slot("ffn", "feed-forward network")
    embedding: Any = slot("embedding", "from tokens to the stream")
    head: Any = slot("head", "from the stream to logits")
    bias: bool = setting(True, "false: no bias anywhere; true: where the components' own knobs have one")
    init: Any = slot("init", "how weights start")
    match: Any = slot("match", "what the FFN's width is solved for, so that arms cost the same")
    size: Size = section(Size, "of the model")
    optimizer: Any = slot("optimizer", "from gradients to weights")
    schedule: Any = slot("schedule", "learning rate over the run", ScheduleCommon)
    data: Any = slot("data", "what to train on: a text, or a task that makes its own tokens", DataCommon)
    tokenizer: Any = slot("tokenizer", "text to tokens")
    budget: Budget = section(Budget, "how long to train: exactly one is set, the others follow from it")
    train: Train = section(Train, "a training step, and what is kept of it")
    eval: Eval = section(Eval, "on the validation split, the same windows every time")
    seed: int = setting(0, "of weights, batches and dropout, each a stream of its own", at_least=0)
    device: str = setting("auto", "auto: cuda, mps or cpu, the first there is")
    precision: str = setting(
        "auto",
        "bf16: autocast; bf16_weights: all but the optimizer; auto: the first on GPUs, the second on CPUs that have it",
        choices=("auto", "float32", "bf16", "bf16_weights"),
    )
    parallel: str = setting(
        "auto",
        "several processes, as torchrun starts them: auto: ddp; fsdp: the model in parts",
        choices=("auto", "ddp", "fsdp"),
    )
    compile: bool | None = setting(None, "torch.compile; null: on CUDA only")
    use: Any = setting(None, "your own component file, or a list of them")
    name: str = setting("default", "of the experiment or sweep")
    variant: str | None = setting(None, "the arm's name within an experiment")
    phase: str | None = setting(None, "tune: this run chooses a setting and is not compared", choices=("tune",))
    runs_dir: str = setting("runs", "folder of all runs; a run's own is runs_dir/name/slug-hash")
    record: str = setting(
        "wandb", "beside the run's folder: W&B, or Trackio on this machine", choices=("wandb", "trackio")
    )
    wandb: Wandb = section(Wandb, "the record in Weights & Biases")
    diagnostics: str = setting(
        "basic",
        "of the inside of one process: scales by layer; full: histograms, heads, dead units too",
        choices=("none", "basic", "full"),
    )
    diagnostics_every: int = setting(50, "steps between two looks inside; the first step has one", at_least=1)


class Settings(dict[str, Any]):
    """A composed config as plain data, nested, its keys read as attributes too: `cfg.train.batch_size`.

    For who reads only: it is made, edited and read in a hundredth of a DictConfig's time, which matters to sweeps of
    thousands of cells. Never changed in place, since edited ones share their sections.
    """

    @classmethod
    def of(cls, tree: dict[str, Any]) -> Self:
        return cls({k: cls.of(v) if isinstance(v, dict) else v for k, v in tree.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def edited(self, place: str, value: Any) -> Self:
        """With another value at `ffn.hidden`."""
        key, _, below = place.partition(".")
        return type(self)({**self, key: self[key].edited(below, value) if below else value})


AnyConfig = DictConfig | Settings


def plain(cfg: AnyConfig | dict[str, Any]) -> dict[str, Any]:
    """The config as nested dicts and lists."""
    if isinstance(cfg, dict):
        return {k: plain(v) if isinstance(v, dict) else v for k, v in cfg.items()}
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


SLOTS: dict[str, str] = {f.name: f.metadata["kind"] for f in fields(Config) if "kind" in f.metadata}
COMMON: dict[str, type] = {f.metadata["kind"]: f.metadata["common"] for f in fields(Config) if f.metadata.get("common")}
KINDS = tuple(dict.fromkeys(SLOTS.values()))
# What a model is made of; the rest says on what and how it is trained.
ARCHITECTURE = (
    *("block", "placement", "norm", "qk_norm", "attention", "position", "ffn", "embedding", "head"),
    *("bias", "init"),
)
GROUPS = (*SLOTS, "size", "preset")  # chosen by name: norm=rmsnorm, size=tiny, preset=gpt2
# Where a run goes, among how many it is divided, and what is written of it; not what it is.
BOOKKEEPING = (
    *("name", "variant", "phase", "match", "parallel", "runs_dir", "record", "wandb"),
    *("diagnostics", "diagnostics_every"),
)


def flatten(tree: dict[str, Any], at: str = "") -> dict[str, Any]:
    """{"norm": {"eps": 1e-5}} -> {"norm.eps": 1e-5}; a component's name stands under its slot: {"norm": "rmsnorm"}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            if "name" in value:
                flat[f"{at}{key}"] = value["name"]
            flat.update(flatten({k: v for k, v in value.items() if k != "name"}, f"{at}{key}."))
        else:
            flat[f"{at}{key}"] = value
    return flat
