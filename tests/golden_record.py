"""The golden record: the configs, costs, cells and tables that gptlab makes of its presets, options and experiments.

`python tests/golden_record.py` writes golden_record.json again, and with `--losses FILE` the losses of five training
steps of each option too, which hold on one machine only.
"""

import io
import json
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from gptlab import load_config, train
from gptlab.compare import compare
from gptlab.config import SLOTS, ConfigError, flatten, plain, registry
from gptlab.config.compose import files_in
from gptlab.model.cost import cost
from gptlab.runs.folder import run_dir
from gptlab.sweeps.grid import plan_sweep

HERE = Path(__file__).parent
ROOT = HERE.parent
FILE = HERE / "golden_record.json"
BASE = ["size=tiny", "data=pystdlib", "tokenizer=byte", "data.window=32"]


def cases() -> dict[str, list[str]]:
    """The overrides of every case, by its name."""
    registry.load()
    found = {"baseline": BASE}
    for preset in files_in("preset"):
        found[f"preset={preset}"] = [f"preset={preset}", *BASE]
    for slot, kind in SLOTS.items():
        for entry in registry.entries(kind):
            own = [f"{slot}={entry.name}"]
            if getattr(entry.cls, "leaks", False):
                own.append(f"{slot}.allow_leak=true")
            if slot == "data" and entry.name in ("text", "huggingface"):
                own.append("data.path=some.txt")
            if slot == "tokenizer" and entry.name == "huggingface":
                own.append("tokenizer.path=some")
            base = [w for w in BASE if not w.startswith(f"{slot}=")]
            found[f"{slot}={entry.name}"] = [*base, *own]
    return found


def composed(overrides: list[str]) -> dict:
    """The complete config of a run and what follows from it, or the error that refuses it."""
    try:
        cfg = load_config(overrides)
        with_size = overrides if cfg.model.vocab_size else [*overrides, "model.vocab_size=256"]
        figures = cost(load_config(with_size))
    except Exception as e:
        return {"refused": str(e)}
    figures = {k: figures[k] for k in ("parameters", "parameters_non_embedding", "flops_per_token", "state_bytes")}
    folder = run_dir(cfg, {"data": "any", "tokenizer": "any"})  # no text is read: some have another one on each machine
    return {"config": plain(cfg), "folder": str(folder), **figures}


def planned(file: Path) -> dict:
    """Every cell of an experiment's file as overrides, tuning included."""
    sweep = plan_sweep([str(file.relative_to(ROOT))])
    cells = [*sweep.tuning_cells, *sweep.cells]
    return {"name": sweep.name, "n_cells": len(cells), "cells": [sorted(cell.overrides) for cell in cells]}


def compared(file: Path) -> dict[str, str]:
    """The printed table and the Markdown that `compare` makes of kept numbers."""
    console = Console(file=io.StringIO(), width=160, no_color=True)
    with tempfile.TemporaryDirectory() as folder:
        markdown = Path(folder) / "out.md"
        try:
            compare([file], markdown=markdown, console=console)
        except ConfigError as e:  # kept numbers that a script of the experiment's own divides
            return {"refused": str(e)}
        text = console.file.getvalue().replace(str(markdown), "OUT.md")
        return {"table": text, "markdown": markdown.read_text(encoding="utf-8")}


def record() -> dict:
    baseline = composed(BASE)
    rows = {}
    for name, overrides in cases().items():
        row = composed(overrides)
        if name != "baseline" and "config" in row:  # what differs, and what is absent, says it all
            own, theirs = flatten(row.pop("config")), flatten(baseline["config"])
            row["differs"] = {k: v for k, v in own.items() if theirs.get(k, "absent") != v}
            row["absent"] = sorted(set(theirs) - set(own))
        rows[name] = row
    experiments = {str(f.relative_to(ROOT)): planned(f) for f in sorted(ROOT.glob("experiments/*/*.yaml"))}
    tables = {str(f.relative_to(ROOT)): compared(f) for f in sorted(ROOT.glob("experiments/*/kept*.json"))}
    return {"configs": rows, "experiments": experiments, "tables": tables}


def losses() -> dict[str, object]:
    """val/loss and the training losses of five steps of every case."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(400)))
        more = [
            "wandb.mode=disabled",
            f"runs_dir={folder}/runs",
            "device=cpu",
            "precision=float32",
            "budget.steps=5",
            "train.log_every=1",
            "eval.tokens=512",
            "eval.final_tokens=512",
            "schedule.warmup=null",  # a case's own would be longer than five steps
            "train.batch_size=2",
            "size.n_layer=2",
        ]
        for name, overrides in cases().items():
            own = [w for w in overrides if not w.startswith(("data=pystdlib", "data.path"))]
            if not any(w.startswith("data=") for w in own):
                own += ["data=text", f"data.path={text}"]
            try:
                summary = train(load_config([*own, *more]), quiet=True)
                lines = (Path(summary["run_dir"]) / "metrics.jsonl").read_text().splitlines()
                found[name] = [json.loads(line).get("train/loss") for line in lines] + [summary.get("val/loss")]
            except Exception as e:
                found[name] = f"{type(e).__name__}: {str(e)[:200]}"
    return found


if __name__ == "__main__":
    if "--losses" in sys.argv:
        Path(sys.argv[-1]).write_text(json.dumps(losses(), indent=1))
    else:
        FILE.write_text(json.dumps(record(), indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
