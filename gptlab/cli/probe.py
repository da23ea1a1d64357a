"""`gptlab probe`: the scale of activations and gradients by layer at initialisation, of every arm of a grid.

The model of a run with `diagnostics=full` has the same numbers in its first look, up to the precision it trains in.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptlab.cli.inspect_run import check_blocks, check_picture
from gptlab.config.compose import load_settings
from gptlab.diagnostics.activations import Snapshot, probe_activations
from gptlab.diagnostics.plot import draw_arms
from gptlab.diagnostics.watch import probe_batch
from gptlab.model.build import build_model
from gptlab.sweeps.grid import plan_sweep
from gptlab.training.device import choose_machine
from gptlab.training.train import fair, open_dataset, with_vocabulary


def probe(words: Sequence[str], png: Path | None, console: Console) -> dict[str, Snapshot]:
    """A look at each arm; `words` are those of a sweep, and of several seeds each is an arm."""
    if png is not None:
        check_picture(png)
    planned = plan_sweep(words)
    looks: dict[str, Snapshot] = {}
    for seed in planned.seeds:
        for arm in planned.arms:
            name = f"{arm.name} seed={seed}" if len(planned.seeds) > 1 else arm.name
            looks[name] = _look(planned.cell(arm, seed))
            check_blocks(name, looks[name])
    if png is not None:
        png.parent.mkdir(parents=True, exist_ok=True)
        png.write_bytes(draw_arms(looks, png.suffix[1:]))
    console.print(_table(looks))
    if png is not None:
        console.print(f"picture: {png}", markup=False, highlight=False, soft_wrap=True)
    return looks


def _look(overrides: Sequence[str]) -> Snapshot:
    cfg, _ = fair(load_settings(overrides))
    dataset, device = open_dataset(cfg), choose_machine(cfg).device
    model = build_model(with_vocabulary(cfg, dataset)).to(device)
    inputs, targets = probe_batch(dataset, cfg.data.window, cfg.train.batch_size)
    return probe_activations(model, inputs.to(device), targets.to(device), nullcontext(), full=True)


def _table(looks: dict[str, Snapshot]) -> Table:
    """The first and the last block, and how many times as large the last one's is."""
    table = Table(box=None, pad_edge=False, header_style="")
    table.add_column("arm")
    for title in ("stream\nblock 1", "\nlast", "\nlast/1", "gradient\nblock 1", "\nlast", "\nlast/1", "entropy\nnats"):
        table.add_column(title, justify="right")
    for name, look in looks.items():
        stream, grads = look["stream_rms"][1:], look["probe/residual_grad_norm"]
        pairs = [x for own in (stream, grads) for x in (own[0], own[-1], own[-1] / own[0] if own[0] else float("nan"))]
        table.add_row(name, *(f"{x:.3g}" for x in pairs), f"{look['logits/entropy']:.3f}")
    return table
