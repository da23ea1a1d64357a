"""`gptlab compare` on hundreds of runs, in seconds and in little memory."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from run_folders import CONFIG, ENV, FLOPS, PER_STEP, write_sweep

ARMS, SEEDS, RECORDS, EVALUATED = 50, 10, 2000, 4  # every fourth record is an evaluation's
CODE = """
import json, resource, sys, time
started = time.perf_counter()
from gptlab.compare import compare
compare([sys.argv[1]], **json.loads(sys.argv[2]))
print(json.dumps([time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


def write_many(top):
    """500 runs of 2,000 records."""
    rng = np.random.default_rng(0)
    steps = np.arange(1, RECORDS + 1) * 10
    tail = np.exp(-steps / 4000) - np.exp(-steps[-1] / 4000)
    for arm in range(ARMS):
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
            config = CONFIG | {"seed": seed, "variant": f"arm {arm}", "size": {"dim": arm}}
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
            (folder / "status.json").write_text(json.dumps({"state": "finished", "started": f"{arm:02}"}))
            (folder / "env.json").write_text(json.dumps(ENV))
            costs = {"parameters": 8e5, "parameters_non_embedding": 7e5, "flops_per_token": FLOPS, "state_bytes": 1e7}
            (folder / "summary.json").write_text(json.dumps(costs | at | measured | {"speed/tokens_per_s": 1e5}))
    write_sweep(top, question="Which?", variants={f"arm {arm}": [] for arm in range(ARMS)})


@pytest.mark.slow
def test_500_runs_of_2000_records(tmp_path):
    write_many(tmp_path / "runs")
    files = {"html": "report.html", "keep": "kept.json", "png": "picture.png", "markdown": "text.md"}
    for options in ({}, {key: str(tmp_path / name) for key, name in files.items()}):
        words = [sys.executable, "-c", CODE, str(tmp_path / "runs"), json.dumps(options)]
        out = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        seconds, gib = json.loads(out.splitlines()[-1])
        print(f"{options}: {seconds:.1f} s, {gib:.2f} GiB")
        assert seconds < 30 and gib < 1  # 10 s on a machine that does nothing else
    assert (tmp_path / "kept.json").stat().st_size < 3e6
