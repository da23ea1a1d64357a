"""The shape of a config: the slots that take a component, and every setting that no component brings."""

import difflib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import MISSING

PACKAGE = Path(__file__).resolve().parents[1]
CONF = next(
    p for p in (PACKAGE / "conf", PACKAGE.parent / "conf") if p.is_dir()
)  # the first is in a wheel, the second in a checkout


class ConfigError(ValueError):
    """An error that the user can fix: one line, `key=value: the rule; the fix`. The command line exits 2 on it."""


def did_you_mean(word: str, keys: Iterable[str]) -> str:
    """Return ` (did you mean budget.steps?)`, the key whose last part is closest to `word`, or an empty string."""
    by_name = {key.rpartition(".")[2]: key for key in reversed(list(keys))}
    near = difflib.get_close_matches(word, by_name, 1)
    return f" (did you mean {by_name[near[0]]}?)" if near else ""


@dataclass(frozen=True)
class Range:
    """The values that a setting may take. Null, where the type allows it, is always in range."""

    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] | None = None

    def violation(self, value: Any) -> str | None:
        """Return the rule that `value` breaks, or None."""
        if value is None:
            return None
        if isinstance(value, float) and not math.isfinite(value):
            return "must be finite; null, where it is allowed, means none"
        if self.choices is not None and value not in self.choices:
            return f"choose from {', '.join(self.choices)}"
        if self.at_least is not None and not value >= self.at_least:
            return f"must be at least {self.at_least}"
        if self.above is not None and not value > self.above:
            return f"must be above {self.above}"
        if self.below is not None and not value < self.below:
            return f"must be below {self.below}"
        return None


def slot(kind: str, help: str, common: type | None = None) -> Any:
    """Declare a place for one component of `kind`; conf/config.yaml names the default.

    `common` is a dataclass of the settings that the slot has whichever component is chosen.
    """
    return field(default=MISSING, metadata={"kind": kind, "help": help, "common": common})


def setting(default: Any, help: str, **limits: Any) -> Any:
    """Declare a value; `limits` are those of Range."""
    return field(default=default, metadata={"help": help, "range": Range(**limits), "choices": limits.get("choices")})


def section(kind: type, help: str) -> Any:
    """Declare a group of settings."""
    return field(default_factory=kind, metadata={"help": help})


@dataclass
class ModelCommon:
    """Settings of every model."""

    vocab_size: int | None = setting(None, "tokens; null: the tokenizer's own; a larger number pads it", at_least=1)


@dataclass
class SizeSection:
    """The three numbers of a model's size."""

    n_layer: int = setting(4, "number of blocks", at_least=1)
    n_head: int = setting(4, "attention heads", at_least=1)
    dim: int = setting(128, "width of the residual stream", at_least=1)


@dataclass
class DataCommon:
    """Settings of all data, texts and tasks."""

    window: int = setting(64, "tokens in a training example", at_least=1)
    sampling: str = setting(
        "random", "random: windows drawn by (seed, step); epoch: each window once an epoch", choices=("random", "epoch")
    )
    val_fraction: float = setting(0.1, "share of the text, from its end, used for validation", above=0, below=1)
    shuffle_tokens: bool = setting(
        False,
        "true: train on the text's tokens in random order, the same in every run, and validate on the text itself: a"
        " control that must be far worse",
    )


@dataclass
class ScheduleCommon:
    """Settings of every learning rate schedule."""

    warmup: float | None = setting(
        None,
        "linear warm-up: steps, or a fraction of the run if below 1; null: 5 % of the run, but at least 150 steps and"
        " at most half of it",
        at_least=0,
    )


@dataclass
class BudgetSection:
    """The length of a run, in one of five units."""

    steps: int | None = setting(None, "optimizer steps", at_least=1)
    tokens: float | None = setting(None, "training tokens", above=0)
    flops: float | None = setting(None, "FLOPs, forward and backward", above=0)
    seconds: float | None = setting(None, "seconds of training, not counting evaluations", above=0)
    tokens_per_param: float | None = setting(None, "training tokens per parameter; Chinchilla: 20", above=0)


@dataclass
class TrainSection:
    """A training step, and what is written while training."""

    batch_size: int = setting(12, "windows per optimizer step", at_least=1)
    micro_batch_size: int | None = setting(None, "windows per forward pass; null: the whole batch", at_least=1)
    loss_chunk: int | None = setting(
        None, "tokens whose logits exist at once; null: as many as fit in 256 MiB of float32", at_least=1
    )
    grad_clip: float | None = setting(1.0, "largest norm of the gradient; null: no clipping", above=0)
    dropout: float = setting(0.0, "dropout rate of embeddings, attention weights and branches", at_least=0, below=1)
    log_every: int = setting(10, "steps between logged training metrics", at_least=1)
    checkpoint_every: int | None = setting(None, "steps between checkpoints; null: at every evaluation", at_least=1)
    seed_offset: int = setting(
        0,
        "added to seed where random numbers are drawn, but not where runs are paired: 1000000 makes a null arm, which"
        " differs from its baseline by noise alone",
        at_least=0,
    )
    init_from: str | None = setting(None, "folder of a run or of a transformers model whose weights to start from")
    init_partial: bool = setting(False, "take only the weights of init_from that fit, draw the others by init")


@dataclass
class EvalSection:
    """Evaluation on the validation split."""

    every: int = setting(250, "steps between evaluations; the last step always has one", at_least=1)
    tokens: int | None = setting(
        131072,
        "tokens that an evaluation reads while training, in windows spread evenly over the validation split; null: all",
        at_least=2,
    )
    final_tokens: int | None = setting(
        10_000_000,
        "tokens that the evaluation after the last step reads likewise; null: all; of a task at most eval.tokens",
        at_least=2,
    )
    batch_size: int | None = setting(
        None, "windows per forward pass; null: as many as in training, and at least 4,096 tokens", at_least=1
    )
    lengths: list[int] = field(
        default_factory=lambda: [1],
        metadata={"help": "multiples of data.window at which the last evaluation is done too"},
    )
    sample_tokens: int | None = setting(
        200, "tokens of text that the trained model writes into sample.txt; 0 or null: none", at_least=0
    )


@dataclass
class WandbSection:
    """Weights & Biases."""

    mode: str | None = setting(
        None,
        "null: WANDB_MODE, otherwise online if there is an API key",
        choices=("online", "offline", "disabled"),
    )
    project: str | None = setting(None, "project of the runs; null: WANDB_PROJECT, otherwise gptlab")
    entity: str | None = setting(None, "user or team; null: the API key's default")
    code: bool = setting(True, "send the files of `use`, as the code of the run")
    checkpoint: bool = setting(False, "send the best weights, as an artifact of the run")


@dataclass
class Config:
    """All settings of a run."""

    model: Any = slot("model", "the kind of model; the slots below are its parts", ModelCommon)
    block: Any = slot("block", "how attention and FFN join the residual stream")
    placement: Any = slot("placement", "where the norms of a sublayer sit")
    norm: Any = slot("norm", "normalisation of the residual stream")
    qk_norm: Any = slot("norm", "normalisation of queries and keys, per head")
    attention: Any = slot("attention", "how tokens attend to each other")
    position: Any = slot("position", "how the model knows the order of tokens")
    ffn: Any = slot("ffn", "feed-forward network")
    embedding: Any = slot("embedding", "from tokens to the residual stream")
    head: Any = slot("head", "from the residual stream to logits")
    bias: bool = setting(True, "false: no bias in any component; true: as each component's own settings say")
    init: Any = slot("init", "initial weights")
    match: Any = slot("match", "solve for the FFN's width so that all arms cost the same")
    size: SizeSection = section(SizeSection, "size of the model")
    optimizer: Any = slot("optimizer", "how gradients change the weights")
    schedule: Any = slot("schedule", "learning rate over the run", ScheduleCommon)
    data: Any = slot("data", "what to train on: a text, or a task that generates its own tokens", DataCommon)
    tokenizer: Any = slot("tokenizer", "from text to tokens")
    budget: BudgetSection = section(BudgetSection, "length of the run: set exactly one")
    train: TrainSection = section(TrainSection, "training step, logging and checkpoints")
    eval: EvalSection = section(EvalSection, "evaluation, on the same validation tokens every time")
    seed: int = setting(0, "seed of weights, batches and dropout, each with a stream of its own", at_least=0)
    device: str = setting("auto", "auto: the first available of cuda, mps, cpu")
    precision: str = setting(
        "auto",
        "bf16: autocast; bf16_weights: everything but the optimizer in bf16; auto: bf16 on GPUs, bf16_weights on CPUs"
        " with fast bf16 products",
        choices=("auto", "float32", "bf16", "bf16_weights"),
    )
    parallel: str = setting(
        "auto",
        "training by several processes, started with torchrun; auto: ddp; fsdp: shard the model",
        choices=("auto", "ddp", "fsdp"),
    )
    compile: bool | None = setting(None, "torch.compile; null: on CUDA only")
    use: Any = setting(None, "file with your own components, or a list of files")
    name: str = setting("default", "name of the experiment or sweep")
    variant: str | None = setting(None, "name of the arm within an experiment")
    phase: str | None = setting(
        None,
        "of a run that is no run of an arm; tune: it chooses a value; neighbour: its value is beside the chosen one;"
        " budget: the baseline at another budget",
        choices=("tune", "neighbour", "budget"),
    )
    rung: str | None = setting(None, "name of the rung, a size with its budget, within an experiment that has several")
    runs_dir: str = setting("runs", "folder of all runs; a run's own is runs_dir/name/slug-hash")
    record: str = setting("wandb", "tracker: W&B, or Trackio on this machine", choices=("wandb", "trackio"))
    wandb: WandbSection = section(WandbSection, "Weights & Biases")
    diagnostics: str = setting(
        "basic",
        "statistics of activations and gradients; basic: scale per layer; full: also histograms, heads, dead units;"
        " one process only",
        choices=("none", "basic", "full"),
    )
    diagnostics_every: int = setting(50, "steps between diagnostics; the first step always has them", at_least=1)


SLOTS: dict[str, str] = {f.name: f.metadata["kind"] for f in fields(Config) if "kind" in f.metadata}
COMMON: dict[str, type] = {f.metadata["kind"]: f.metadata["common"] for f in fields(Config) if f.metadata.get("common")}
KINDS = tuple(dict.fromkeys(SLOTS.values()))
# The settings that make up the model; the others say how and on what it is trained.
ARCHITECTURE = (
    *("block", "placement", "norm", "qk_norm", "attention", "position", "ffn", "embedding", "head"),
    *("bias", "init"),
)
GROUPS = (*SLOTS, "size", "preset")  # chosen by name: norm=rmsnorm, size=tiny, preset=gpt2
# Settings that do not change a run's outcome: where it is written, what is recorded, by how many processes.
BOOKKEEPING = (
    *("name", "variant", "phase", "rung", "match", "parallel", "runs_dir", "record", "wandb"),
    *("diagnostics", "diagnostics_every", "eval.sample_tokens"),
)


def is_bookkeeping(key: str) -> bool:
    """Return whether a setting, given by its dotted key, is one of BOOKKEEPING or lies within one."""
    return key in BOOKKEEPING or key.partition(".")[0] in BOOKKEEPING


def without_bookkeeping(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a config, as nested dicts, with the settings alone that can change a run's outcome."""
    return {
        key: without_bookkeeping(value, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in tree.items()
        if not is_bookkeeping(f"{prefix}{key}")
    }


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys; a component's name is the value of its slot.

    {"norm": {"name": "rmsnorm", "eps": 1e-5}} -> {"norm": "rmsnorm", "norm.eps": 1e-5}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            if "name" in value:
                flat[f"{prefix}{key}"] = value["name"]
            flat.update(flatten({k: v for k, v in value.items() if k != "name"}, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
