"""`gptlab compare` and `gptlab status` on thousands of runs, in seconds and in little memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from gptlab import load_config
from gptlab.config import plain
from run_folders import CONFIG, ENV, FLOPS, PER_STEP, write_sweep

SEEDS, EVALUATED = 10, 4  # every fourth record is an evaluation's
CODE = """
import json, resource, sys, time
from pathlib import Path
from gptlab.compare import compare
from gptlab.sweeps.status import statuses_in
what, top, options = sys.argv[1:]
compare([top], **json.loads(options)) if what == "compare" else statuses_in(Path(top))
print(json.dumps([time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


def seconds_and_gib(what, top, **options):
    """Return seconds of CPU time and memory of a separate process."""
    words = [sys.executable, "-c", CODE, what, str(top), json.dumps(options)]
    out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    seconds, gib = json.loads(out.splitlines()[-1])
    print(f"{what} {options}: {seconds:.1f} s, {gib:.2f} GiB")
    return seconds, gib


def write_many(top, *, arms, records, config=CONFIG):
    """Write the runs of a sweep with SEEDS seeds for each arm."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, records + 1) * 10
    tail = np.exp(-steps / 4000) - np.exp(-steps[-1] / 4000)
    cells = []
    for arm in range(arms):
        for seed in range(SEEDS):
            final = 2 + 0.01 * arm + rng.normal(0, 0.01)
            values = final + 3 * tail
            folder = top / f"arm-{arm}-seed-{seed}"
            folder.mkdir(parents=True)
            lines = []
            for i, (step, value) in enumerate(zip(steps.tolist(), values.tolist(), strict=True)):
                tokens = step * PER_STEP
                at = {"step": step, "tokens": tokens, "seconds": tokens / 1e5, "cost/flops": float(tokens * FLOPS)}
                measured = {"val/loss": value, "val/bpb": value / 3}
                if (i + 1) % EVALUATED:
                    measured = {"train/loss": value, "train/grad_norm": value, "train/lr": 1e-3}
                lines.append(json.dumps(at | measured) + "\n")
            (folder / "metrics.jsonl").write_text("".join(lines))
            when = f"2026-01-01T{arm // 60:02}:{arm % 60:02}:00+00:00"
            own = {"seed": seed, "variant": f"arm {arm}", "size": {"dim": arm}}
            (folder / "config.yaml").write_text(yaml.dump(config | own, Dumper=yaml.CSafeDumper))
            (folder / "status.json").write_text(json.dumps({"state": "finished", "started": when, "updated": when}))
            (folder / "env.json").write_text(json.dumps(ENV))
            costs = {"parameters": 8e5, "parameters_non_embedding": 7e5, "flops_per_token": FLOPS, "state_bytes": 1e7}
            (folder / "summary.json").write_text(json.dumps(costs | at | measured | {"speed/tokens_per_s": 1e5}))
            cells.append({"label": folder.name, "folder": folder.name, "steps": int(steps[-1]), "seconds": None})
    write_sweep(top, question="Which?", variants={f"arm {arm}": [] for arm in range(arms)}, cells=cells)


@pytest.mark.slow
def test_500_runs_of_2000_records(tmp_path):
    write_many(tmp_path / "runs", arms=50, records=2000)
    files = {"html": "report.html", "keep": "kept.json", "png": "picture.png", "markdown": "text.md"}
    for options in ({}, {key: str(tmp_path / name) for key, name in files.items()}):
        seconds, gib = seconds_and_gib("compare", tmp_path / "runs", **options)
        assert seconds < 30 and gib < 1  # 10 s on a machine that does nothing else
    assert (tmp_path / "kept.json").stat().st_size < 3e6


@pytest.mark.slow
def test_10_000_runs_of_20_records(tmp_path):
    write_many(tmp_path / "runs", arms=1000, records=20, config=plain(load_config()))
    seconds, gib = seconds_and_gib("compare", tmp_path / "runs")
    assert seconds < 60 and gib < 2
    seconds, gib = seconds_and_gib("status", tmp_path / "runs")
    assert seconds < 10 and gib < 1  # what is imported included
