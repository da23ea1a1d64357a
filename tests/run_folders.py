"""Synthetic run folders, as `gptlab sweep` writes and `gptlab compare` reads them."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from rich.console import Console

from gptlab.compare import compare

CONFIG = {
    "norm": {"name": "layernorm", "eps": 1e-5},
    "placement": {"name": "pre"},
    "attention": {"name": "softmax", "pattern": None},
    "bias": True,
    "seed": 0,
    "name": "x",
    "variant": None,
    "phase": None,
    "runs_dir": "runs",
    "wandb": {"mode": None},
}
ENV = {
    "host": "secret-host",
    "command": ["/home/jane/.venv/bin/gptlab", "sweep"],
    "python": "3.11.7",
    "packages": {"gptlab": "0.1.0", "torch": "2.13.0"},
    "cpu": "Some CPU",
    "torch_threads": 2,
    "gpus": [],
    "device": "cpu",
    "precision": "float32",
    "git": None,
}
RMS = {"norm": {"name": "rmsnorm", "eps": 1e-5, "learnable": True}}
POST = {"placement": {"name": "post"}}
PER_STEP = 768  # tokens
FLOPS = 4_857_216  # per token


def write_run(
    folder: Path,
    loss=2.0,
    *,
    seed=0,
    state="finished",
    curve=(),
    times=("", ""),
    tokens=76800,
    summary=None,
    where=None,
    **changes,
) -> Path:
    """Write a run. `curve` holds the records of metrics.jsonl; a record without tokens gets some."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**CONFIG, "seed": seed, **changes}))
    status = {"state": state, "started": times[0], "updated": times[1], "wandb": where}
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "env.json").write_text(json.dumps(ENV))
    records = [{"tokens": 100 * i, **point} for i, point in enumerate(curve)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    numbers = {"val/loss": loss, "val/bpb": loss / 3, "tokens": tokens, "seconds": 60.0, "parameters": 809_536}
    numbers |= {"parameters_non_embedding": 800_000, "flops_per_token": FLOPS, "state_bytes": 12_952_576}
    numbers |= {"speed/tokens_per_s": 15_340.0 + seed} | (summary or {})
    if state in ("finished", "diverged"):
        (folder / "summary.json").write_text(json.dumps(numbers))
    return folder


def write_arm(top: Path, name: str, losses, **changes):
    for seed, loss in enumerate(losses):
        write_run(top / f"{name}-{seed}", loss, seed=seed, times=(f"{len(list(top.glob('*'))):04}", ""), **changes)


def learning(loss, *, steps=400, every=50, speed=10_000.0, flops=FLOPS, seed=0, start=5.5):
    """Return a curve as the trainer logs it, from ln V down to `loss`, and the matching part of the summary."""
    rng = np.random.default_rng([seed, round(loss * 1e6)])
    records = []
    for step in range(every, steps + 1, every):
        tokens = step * PER_STEP
        at = {"step": step, "tokens": tokens, "seconds": round(tokens / speed, 4), "cost/flops": float(tokens * flops)}
        value = loss + (start - loss) * (np.exp(-5 * step / steps) - np.exp(-5)) + rng.normal(0, 1e-4) * (step < steps)
        records += [at | {"train/loss": value + 0.1}, at | {"val/loss": float(value), "val/bpb": float(value) / 3}]
    end = {**records[-1], "speed/tokens_per_s": speed, "flops_per_token": flops}
    return {"curve": records, "summary": end, "tokens": end["tokens"]}


def write_sweep(top: Path, **said):
    (top / "sweep.yaml").write_text(json.dumps(said))


def shown(paths, width=None, **options) -> tuple[pd.DataFrame, str]:
    """Return the DataFrame and the printed text, for a terminal of `width` or, if it is None, a pipe."""
    out = io.StringIO()
    console = Console(file=out, width=width or 80, force_terminal=width is not None, color_system=None)
    return compare(paths, console=console, **options), out.getvalue()


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def rows(frame: pd.DataFrame) -> dict:
    return frame.set_index("arm").to_dict("index")
