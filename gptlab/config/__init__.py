"""What a run is, as settings: slots and sections, components by name, overrides -> one complete config."""

from gptlab.config.schema import (
    ARCHITECTURE,
    BOOKKEEPING,
    COMMON,
    CONF,
    GROUPS,
    KINDS,
    PACKAGE,
    SLOTS,
    AnyConfig,
    Budget,
    Config,
    ConfigError,
    Settings,
    did_you_mean,
    flatten,
    plain,
)

__all__ = [
    "ARCHITECTURE",
    "BOOKKEEPING",
    "COMMON",
    "CONF",
    "GROUPS",
    "KINDS",
    "PACKAGE",
    "SLOTS",
    "AnyConfig",
    "Budget",
    "Config",
    "ConfigError",
    "Settings",
    "did_you_mean",
    "flatten",
    "plain",
]
