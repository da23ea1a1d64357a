"""`gptlab probe`: the scale of activations and gradients by layer at initialisation, for every arm of a grid.

A run with `diagnostics=full` records the same numbers in its first snapshot, up to the precision it trains in.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from math import nan
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gptlab.cli.inspect_run import check_picture, require_blocks
from gptlab.config.compose import load_config
from gptlab.diagnostics.activations import Snapshot, probe_activations
from gptlab.diagnostics.plot import draw_arms
from gptlab.diagnostics.watch import probe_batch
from gptlab.files import write_bytes
from gptlab.model.build import build_model
from gptlab.sweeps.grid import plan_sweep
from gptlab.training.prepare import Memo, prepare


def probe(arguments: Sequence[str], png: Path | None, console: Console) -> dict[str, Snapshot]:
    """Print and return a snapshot of each arm of a sweep; with several seeds, of each arm and seed.

    Raises ConfigError for a model without blocks, and for a picture's name with an unknown ending.
    """
    if png is not None:
        check_picture(png)
    planned = plan_sweep(arguments)
    memo = Memo()
    snapshots: dict[str, Snapshot] = {}
    for seed in planned.seeds:
        for arm in planned.arms:
            name = f"{arm.name} seed={seed}" if len(planned.seeds) > 1 else arm.name
            snapshots[name] = _take_snapshot(planned.cell(arm, seed).overrides, memo)
            require_blocks(name, snapshots[name])
    if png is not None:
        write_bytes(png, draw_arms(snapshots, png.suffix[1:]))
    console.print(_table(snapshots))
    if png is not None:
        console.print(f"picture: {png}", markup=False, highlight=False, soft_wrap=True)
    return snapshots


def _take_snapshot(overrides: Sequence[str], memo: Memo) -> Snapshot:
    run = prepare(load_config(overrides), memo=memo)
    device = run.device.device
    model = build_model(run.cfg).to(device)
    if run.start:
        run.start.apply(model)
    inputs, targets = probe_batch(run.dataset, run.cfg.data.window, run.cfg.train.batch_size)
    return probe_activations(model, inputs.to(device), targets.to(device), nullcontext(), full=True)


def _table(snapshots: dict[str, Snapshot]) -> Table:
    """Return the values of the first and the last block, and the ratio of the last to the first."""
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("arm")
    for title in ("stream\nblock 1", "\nlast", "\nlast/1", "gradient\nblock 1", "\nlast", "\nlast/1", "entropy\nnats"):
        table.add_column(title, justify="right")
    for name, snapshot in snapshots.items():
        numbers: list[float] = []
        for first, *rest in (snapshot["stream_rms"][1:], snapshot["probe/residual_grad_norm"]):
            last = rest[-1] if rest else first
            numbers += [first, last, last / first if first else nan]
        table.add_row(Text(name), *(f"{x:.3g}" for x in numbers), f"{snapshot['logits/entropy']:.3f}")
    return table
