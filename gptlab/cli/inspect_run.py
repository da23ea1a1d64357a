"""`gptlab inspect`: the diagnostics of one run, or of two side by side, as a table and a picture."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gptlab.config import ConfigError
from gptlab.diagnostics.activations import Snapshot
from gptlab.diagnostics.plot import draw_runs
from gptlab.files import FileError, decode_utf8, require_writable, write_bytes
from gptlab.runs.record import SNAPSHOTS, read_snapshots

PICTURE_ENDINGS = (".png", ".pdf", ".svg")
TITLES = {
    "stream_rms": "stream after",
    "attention_rms": "attention",
    "ffn_rms": "FFN",
    "grad_norm": "gradient",
    "weight_norm": "weights",
    "update_ratio": "log10 update:weight",
}


def inspect(folders: Sequence[Path], png: Path | None, console: Console) -> dict[str, Any]:
    """Print the last snapshot of each run, draw all of them, and return both as data.

    The picture goes to diagnostics.png in the first run's folder unless `png` names a file. Raises ConfigError for a
    folder without snapshots, or for the same folder twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError(f"inspect {folders[0]}: named twice; give one run, or two that differ")
    picture = png or folders[0] / "diagnostics.png"
    check_picture(picture)
    snapshots = [_read_snapshots(folder) for folder in folders]
    names = [_name(folder) for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    runs = dict(zip(names, snapshots, strict=True))
    write_bytes(picture, draw_runs(runs, picture.suffix[1:]))
    for name, series in runs.items():
        console.print(name, markup=False, highlight=False, soft_wrap=True)
        console.print(_table(series[-1]))
    console.print(f"picture: {picture}", markup=False, highlight=False, soft_wrap=True)
    last = [
        {"folder": str(folder), "name": name, "n_snapshots": len(series), "last": series[-1]}
        for folder, (name, series) in zip(folders, runs.items(), strict=True)
    ]
    return {"picture": str(picture), "runs": last}


def check_picture(path: Path) -> None:
    """Reject a picture's name with an ending that cannot be drawn."""
    if path.suffix not in PICTURE_ENDINGS:
        raise ConfigError(f"png={path}: the name must end in {' or '.join(PICTURE_ENDINGS)}")
    require_writable(path, f"--png={path}")


def _read_snapshots(folder: Path) -> list[Snapshot]:
    if not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: not a run's folder; there is no config.yaml in it")
    if not (snapshots := read_snapshots(folder)):
        raise ConfigError(f"{folder}: has no snapshots yet; train with diagnostics=basic or diagnostics=full")
    if any("step" not in snapshot or "stream_rms" not in snapshot for snapshot in snapshots):
        raise FileError(f"{folder / SNAPSHOTS}: has a line that is no snapshot; restore it, or delete the run's folder")
    require_blocks(str(folder), snapshots[-1])
    return snapshots


def require_blocks(name: str, snapshot: Snapshot) -> None:
    """Reject a model without blocks, which has nothing to show by layer."""
    if not snapshot["stream_rms"]:
        raise ConfigError(f"{name}: the model has no blocks, so there is nothing to show by layer; leave it out")


def _name(folder: Path) -> str:
    """Return the run's differences from the baseline, or the folder's name if there are none."""
    file = folder / "overrides.txt"
    overrides = decode_utf8(file.read_bytes(), str(file)).split("\n") if file.is_file() else []
    return f"{folder.resolve().parent.name}: {' '.join(overrides).strip() or folder.resolve().name}"


def _table(snapshot: Snapshot) -> Table:
    """Return a row for each block: root mean squares and norms. Columns without any value are left out."""
    title = f"step {snapshot['step']:,}"
    table = Table(box=None, pad_edge=False, header_style="", title=title, title_justify="left")
    table.add_column("block", justify="right")
    n_layer = len(snapshot["grad_norm"])
    # The stream has one value more, that before the first block.
    columns = {title: snapshot[key][-n_layer:] for key, title in TITLES.items()}
    columns = {title: values for title, values in columns.items() if not all(map(math.isnan, values))}
    for title in columns:
        table.add_column(title, justify="right")
    for layer, values in enumerate(zip(*columns.values(), strict=True), start=1):
        table.add_row(str(layer), *(f"{value:.3g}" for value in values))
    return table
