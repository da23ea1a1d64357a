"""Rules that types alone cannot express: ranges, exactly one budget, no unknown keys in files of conf/."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from gptlab.config import SLOTS, Config, ConfigError, Settings, did_you_mean, registry
from gptlab.config.schema import Range

UNLIMITED = Range()
TRACKERS_FOLDERS = ("wandb", "trackio")
MOST_TOKENS = 2**36  # of a step; their ids alone would take half a terabyte
MOST_LAYERS = 100_000  # more would take hours to build, and have no use
LONGEST_NAME = 255  # bytes, on every common file system


def validate(cfg: Settings) -> None:
    """Raise ConfigError at the first setting of a composed config that breaks a rule."""
    _validate_choices(cfg)
    for key, value, allowed in _settings_with_ranges(cfg, Config):
        if broken := allowed.violation(value):
            raise ConfigError(f"{key}={value}: {broken}")
    _validate_optimizer(cfg)
    _validate_budget({f"budget.{k}": v for k, v in cfg.budget.items()})
    _validate_name("name", cfg.name)
    if cfg.rung is not None:
        _validate_name("rung", cfg.rung)
    if not (lengths := cfg.eval.lengths) or min(lengths) < 1:
        raise ConfigError(f"eval.lengths={lengths}: must be multiples of data.window, such as [1,2,4]")
    if cfg.size.n_layer > MOST_LAYERS:
        raise ConfigError(f"size.n_layer={cfg.size.n_layer}: must be at most {MOST_LAYERS:,}")
    micro, batch = cfg.train.micro_batch_size, cfg.train.batch_size
    if batch * cfg.data.window > MOST_TOKENS:
        raise ConfigError(
            f"train.batch_size={batch}: {batch * cfg.data.window:,} tokens in a step are too many; set less"
        )
    if micro is not None and batch % micro:
        raise ConfigError(f"train.micro_batch_size={micro}: must divide train.batch_size={batch}")


def _validate_name(key: str, name: str) -> None:
    """Check the name of a folder in runs_dir, where the trackers have folders too."""
    if "/" in name or name.startswith("."):
        raise ConfigError(f"{key}={name}: must be the name of a folder; leave out / and a leading dot")
    if name.lower() in TRACKERS_FOLDERS:
        raise ConfigError(f"{key}={name}: is the folder of the tracker's own files; give another name")
    if len(name.encode()) > LONGEST_NAME:
        raise ConfigError(f"{key}={name[:40]}...: must have at most {LONGEST_NAME} bytes, as all names of folders")


def _validate_choices(cfg: Settings) -> None:
    """Check the settings of components whose annotation is Literal[...]."""
    for slot in SLOTS:
        for name, choices in registry.entry(slot, cfg[slot].name).choices.items():
            if cfg[slot][name] not in choices:
                raise ConfigError(f"{slot}.{name}={cfg[slot][name]}: choose from {', '.join(map(str, choices))}")


def _validate_optimizer(cfg: Settings) -> None:
    """Reject an init that scales learning rates, such as mup, with an optimizer whose steps it cannot scale."""
    init, optimizer = (registry.entry(slot, cfg[slot].name) for slot in ("init", "optimizer"))
    if hasattr(init.cls, "lr_scale") and not getattr(optimizer.cls, "elementwise", False):
        suited = ", ".join(e.name for e in registry.entries("optimizer") if getattr(e.cls, "elementwise", False))
        raise ConfigError(
            f"init={init.name}: its learning rates do not work with optimizer={optimizer.name}; choose {suited}"
        )


def _validate_budget(budget: dict[str, Any]) -> None:
    given = {k: v for k, v in budget.items() if v is not None}
    if not given:
        raise ConfigError(f"budget=null: must be set; give one of {', '.join(budget)}")
    if len(given) > 1:
        overrides = " ".join(f"{k}={v:g}" for k, v in given.items())
        raise ConfigError(f"{overrides}: a run has one budget; leave out all but one")


def _settings_with_ranges(tree: Mapping[str, Any], schema: Any, prefix: str = "") -> Iterator[tuple[str, Any, Range]]:
    """Yield (key, value, range) for every setting; raise ConfigError for a key that no dataclass has."""
    known = {f.name: f for f in fields(schema)}
    if not known.keys() <= tree.keys():
        raise ConfigError(f"{prefix.rstrip('.')}: choose a component by name")
    for name, value in tree.items():
        if name not in known:
            raise ConfigError(f"{prefix}{name}: no such setting{did_you_mean(name, [f'{prefix}{k}' for k in known])}")
        if isinstance(value, dict):
            is_slot = not prefix and name in SLOTS
            kind = registry.entry(name, value["name"]).schema if is_slot else known[name].type
            if not is_dataclass(kind):
                raise ConfigError(f"{prefix}{name}: choose a component by name")
            yield from _settings_with_ranges(value, kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, known[name].metadata.get("range", UNLIMITED)
