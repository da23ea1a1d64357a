"""`gptlab new`: a working component in a file of the user's own."""

import importlib.util
from pathlib import Path

from gptlab.config import ConfigError, did_you_mean
from gptlab.files import require_writable, write_text

TEMPLATES = Path(__file__).parent / "templates"
# An option of the slot to compare the new one with, in the command that `gptlab new` prints.
COUNTERPARTS = {
    "model": "gpt",
    "block": "serial",
    "placement": "pre",
    "norm": "layernorm",
    "attention": "softmax",
    "position": "learned",
    "ffn": "gelu",
    "embedding": "table",
    "head": "linear",
    "init": "gpt2",
    "optimizer": "adamw",
    "schedule": "cosine",
    "tokenizer": "byte",
    "data": "",  # arms are compared on one text or task
    "task": "",
}


def write_template(kind: str, file: Path) -> list[str]:
    """Write the template of `kind` to a new file, and return the commands to try next.

    Raises ConfigError for an unknown kind, a file that exists, or a name that cannot be imported.
    """
    if kind not in COUNTERPARTS:
        hint = did_you_mean(kind, COUNTERPARTS)
        raise ConfigError(f"new {kind}: no such kind{hint}; choose from {', '.join(COUNTERPARTS)}")
    if file.suffix != ".py" or not file.stem.isidentifier():
        raise ConfigError(f"new {kind} {file}: must be a Python module; name it like my_{kind}.py")
    if file.exists():
        raise ConfigError(f"new {kind} {file}: exists already; give another name")
    if importlib.util.find_spec(file.stem) is not None:
        raise ConfigError(f"new {kind} {file}: there is another module named {file.stem!r}; give another name")
    require_writable(file, f"new {kind} {file}")
    write_text(file, (TEMPLATES / f"{kind}.py").read_text(encoding="utf-8"))
    slot = "data" if kind == "task" else kind
    if other := COUNTERPARTS[kind]:
        arms = f"{slot}={other},my_{kind}"
    else:
        arms = f"{slot}=my_{kind} norm=layernorm,rmsnorm"
    budget = "size=tiny budget.steps=100"
    return [
        f"gptlab check use={file}",
        f"gptlab train use={file} {slot}=my_{kind} {budget}",
        f"gptlab sweep use={file} {arms} {budget} seed=0,1,2 name={file.stem}",
    ]
