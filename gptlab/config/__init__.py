"""Runs as settings: slots and sections, components by name, and overrides that make one complete config."""

from gptlab.config.schema import (
    ARCHITECTURE,
    BOOKKEEPING,
    COMMON,
    CONF,
    GROUPS,
    KINDS,
    PACKAGE,
    SLOTS,
    BudgetSection,
    Config,
    ConfigError,
    did_you_mean,
    flatten,
    is_bookkeeping,
    without_bookkeeping,
)
from gptlab.config.settings import Settings, as_settings, drawing_seed, plain, read_yaml, to_yaml

__all__ = [
    "ARCHITECTURE",
    "BOOKKEEPING",
    "COMMON",
    "CONF",
    "GROUPS",
    "KINDS",
    "PACKAGE",
    "SLOTS",
    "BudgetSection",
    "Config",
    "ConfigError",
    "Settings",
    "as_settings",
    "did_you_mean",
    "drawing_seed",
    "flatten",
    "is_bookkeeping",
    "plain",
    "read_yaml",
    "to_yaml",
    "without_bookkeeping",
]
