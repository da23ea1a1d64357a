"""`gptlab inspect`: the looks inside a run, or inside two side by side, as a table and a picture."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptlab.config import ConfigError
from gptlab.diagnostics.activations import Snapshot
from gptlab.diagnostics.plot import draw_runs
from gptlab.runs.record import read_snapshots

ENDINGS = (".png", ".pdf", ".svg")
COLUMNS = {
    "stream_rms": "stream after",
    "attention_rms": "attention",
    "ffn_rms": "FFN",
    "grad_norm": "gradient",
    "weight_norm": "weights",
    "update_ratio": "log10 update:weight",
}


def inspect(folders: Sequence[Path], png: Path | None, console: Console) -> None:
    """The picture goes beside the first run's other files if nothing else is said."""
    path = png or folders[0] / "diagnostics.png"
    check_picture(path)
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"inspect {folders[0]}: named twice; give one run, or two that differ")
    looks = [_looks(folder) for folder in folders]
    names = [_name(folder) for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    runs = dict(zip(names, looks, strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(draw_runs(runs, path.suffix[1:]))
    for name, own in runs.items():
        console.print(name, markup=False, highlight=False, soft_wrap=True)
        console.print(_table(own[-1]))
    console.print(f"picture: {path}", markup=False, highlight=False, soft_wrap=True)


def check_picture(path: Path) -> None:
    if path.suffix not in ENDINGS:
        raise ConfigError(f"png={path}: the name must end in {' or '.join(ENDINGS)}")


def _looks(folder: Path) -> list[Snapshot]:
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: not a run's folder; there is no config.yaml in it")
    if not (looks := read_snapshots(folder)):
        raise ConfigError(f"{folder}: has no look inside yet; train with diagnostics=basic or diagnostics=full")
    check_blocks(str(folder), looks[-1])
    return looks


def check_blocks(place: str, look: Snapshot) -> None:
    if not look["stream_rms"]:
        raise ConfigError(f"{place}: the model has no blocks, so there is nothing to show by layer; leave it out")


def _name(folder: Path) -> str:
    """What differs from the baseline, or where there is nothing said of it the folder's name."""
    said = folder / "overrides.txt"
    words = said.read_text(encoding="utf-8").split("\n") if said.is_file() else []
    return f"{folder.resolve().parent.name}: {' '.join(words).strip() or folder.resolve().name}"


def _table(look: Snapshot) -> Table:
    """Of the last look, by layer: root mean squares, norms."""
    table = Table(box=None, pad_edge=False, header_style="", title=f"step {look['step']:,}", title_justify="left")
    table.add_column("block", justify="right")
    n_layer = len(look["grad_norm"])
    shown = {title: look[key][-n_layer:] for key, title in COLUMNS.items()}  # of the stream, what it is after each
    shown = {title: values for title, values in shown.items() if not all(map(math.isnan, values))}
    for title in shown:
        table.add_column(title, justify="right")
    for layer, values in enumerate(zip(*shown.values(), strict=True), start=1):
        table.add_row(str(layer), *(f"{value:.3g}" for value in values))
    return table
