"""The type of a config: nested, read-only settings."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Self

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gptlab.config.schema import ConfigError


class Settings(dict[str, Any]):
    """A config as nested dicts whose keys are attributes too: `cfg.train.batch_size`.

    Read-only: edited copies share their sections, which makes a copy cheap enough for sweeps of thousands of cells.
    """

    @classmethod
    def of(cls, tree: dict[str, Any]) -> Self:
        """Return the nested dicts of `tree` as settings."""
        return cls({k: cls.of(v) if isinstance(v, dict) else v for k, v in tree.items()})

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{name}: a config is read-only; make a copy with gptlab.config.compose.edit")

    def edited(self, key: str, value: Any) -> Self:
        """Return a copy with a new value at a dotted key such as `ffn.hidden`."""
        first, _, rest = key.partition(".")
        return type(self)({**self, first: self[first].edited(rest, value) if rest else value})


def as_settings(cfg: Any) -> Settings:
    """Return a config as settings; it may be a dict or an OmegaConf object.

    Raises:
        ConfigError: if it is neither.
    """
    if isinstance(cfg, Settings):
        return cfg
    if isinstance(cfg, dict) or OmegaConf.is_dict(cfg):
        return Settings.of(plain(cfg))
    raise ConfigError(f"config={cfg!r}: must be a config; load_config(['norm=rmsnorm', 'size=tiny']) returns one")


def plain(cfg: Any) -> dict[str, Any]:
    """Return a copy of a config as nested dicts and lists."""
    if isinstance(cfg, dict):
        return {k: plain(v) if isinstance(v, dict) else v for k, v in cfg.items()}
    return OmegaConf.to_container(cfg, resolve=True)  # type: ignore[return-value]


def drawing_seed(cfg: Mapping[str, Any]) -> int:
    """Return the seed from which a run draws its weights, batches and dropout: seed + train.seed_offset.

    Runs are named and paired by `seed` alone. Configs of older versions have no offset.
    """
    return int(cfg["seed"] + cfg["train"].get("seed_offset", 0))


def to_yaml(cfg: Settings) -> str:
    """Return a config as the text of a YAML file."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(cfg)))


def read_yaml(path: Path) -> Settings:
    """Read a file that `to_yaml` has written. Raises ConfigError if it is not readable."""
    try:
        cfg = as_settings(OmegaConf.load(path))
    except ConfigError:
        raise ConfigError(f"{path}: is not a config but a list") from None
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path}: not readable ({' '.join(str(e).split())})") from e
    if not cfg:
        raise ConfigError(f"{path}: is empty; restore it, or delete its folder")
    return cfg
