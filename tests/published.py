"""The published sizes, each with the preset it belongs to."""

from gptlab import load_config
from gptlab.config import CONF
from gptlab.config.compose import files_in
from gptlab.config.presets import preset_of, values
from tiny import configure

FILES = {name: CONF / "size" / f"{name}.yaml" for name in files_in("size")}
PUBLISHED = {name: preset_of(file) for name, file in FILES.items() if preset_of(file)}


def sized(size):
    """Return the config of a size with its preset. Presets are composed by Hydra once; sizes are set as overrides."""
    return configure(
        load_config([f"preset={PUBLISHED[size]}", "size=124m"]), *(f"{k}={v}" for k, v in values(FILES[size]).items())
    )
