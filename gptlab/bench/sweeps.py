"""`gptlab bench --sweep`: small cells, from the start of the first process to the last result, a sweep against loops.

All ways train as many steps and evaluate as many tokens. nanoGPT's train.py, with eval_iters=1, evaluates a batch of
each split before its first and before its last step, four batches in all, and saves a checkpoint at the latter; gptlab
here evaluates at the end on as many tokens, and saves a checkpoint and the best weights. The text is tokenised before.
"""

import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptlab.bench.machine import describe_machine
from gptlab.bench.peers import OTHER, SAME, NanoGPT, Peer, find_peers
from gptlab.bench.process import run_process
from gptlab.bench.subject import prepare
from gptlab.bench.timing import rates, ratios, spread
from gptlab.config import ConfigError
from gptlab.config.compose import typed
from gptlab.data import Dataset
from gptlab.training.prepare import PreparedRun

CELLS = 16
EVALUATED = 4  # batches that nanoGPT's train.py evaluates
OWN_KEYS = ("seed", "name", "runs_dir", "eval.tokens", "eval.every")


@dataclass
class Way:
    """Of training cells; `run` trains so many of them and leaves what they write in a folder."""

    name: str
    how: str
    cells: int
    run: Callable[[int, Path], object]
    seconds: list[float] = field(default_factory=list)  # of a cell, by round


def bench_sweep(
    overrides: Sequence[str],
    tell: Callable[[str], None],
    *,
    against: Sequence[str] = (),
    cells: int | None = None,
    loop_cells: int | None = None,
    blocks: int | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """All figures of the benchmark, as `--json` writes them. Raises ConfigError before anything is timed."""
    if threads:
        torch.set_num_threads(threads)  # which the figures say; the processes have it from run_process
    cells, rounds = cells or CELLS, blocks or 1
    n_loop = loop_cells or cells
    if n_loop > cells:
        raise ConfigError(f"--loop-cells={n_loop}: the loops run a part of --cells={cells}; give no more")
    words = [w for w in overrides if not w.startswith("hydra")]
    if own := next((w for w in words if w.partition("=")[0] in OWN_KEYS), None):
        raise ConfigError(f"{own}: bench --sweep sets it itself, the same for all; leave it out")
    subject = prepare(words)
    plan, dataset = subject.budget, subject.dataset
    assert isinstance(dataset, Dataset)
    if plan.steps is None or plan.steps < 2:
        raise ConfigError("budget: bench --sweep times cells of a known number of steps, 2 or more; give budget.steps")
    evaluated = EVALUATED * subject.micro_batch_size * subject.cfg.data.window
    fixed = ["name=bench", f"eval.tokens={evaluated + 1}", f"eval.every={plan.steps}"]
    fixed += [] if any(w.startswith("wandb.mode=") for w in words) else ["wandb.mode=disabled"]
    gptlab = Gptlab(words + fixed, [w for w in overrides if w.startswith("hydra")], threads)
    ways = [
        Way("gptlab sweep", "one process checks all cells, its launcher's workers train them", cells, gptlab.sweep),
        Way("gptlab train", "a process for each cell, one after the other", n_loop, gptlab.loop),
    ]
    scripts = [TrainPy(peer, subject, threads) for peer in find_peers(against)]
    ways += [Way("nanoGPT's train.py", script.how, n_loop, script.loop) for script in scripts]
    with tempfile.TemporaryDirectory(prefix="gptlab-bench-") as name:
        for script in scripts:
            script.lay_out(Path(name))
        _race(ways, rounds, Path(name), tell)
    return {
        "kind": "sweep",
        "machine": describe_machine(subject),
        "cell": {
            "parameters": int(plan.cost["parameters"]),
            "steps": plan.steps,
            "trained_tokens": plan.steps * plan.tokens_per_step,
            "evaluated_tokens": min(evaluated, dataset.n_val - 1),
        },
        "rounds": rounds,
        "ways": [_told(way, ways[0]) for way in ways],
    }


def _race(ways: Sequence[Way], rounds: int, folder: Path, tell: Callable[[str], None]) -> None:
    """Every other round backwards, so that a drift of the machine favours none."""
    for i in range(rounds):
        for j, way in list(enumerate(ways))[:: -1 if i % 2 else 1]:
            tell(f"{way.cells} cells by {way.name}")
            started = time.perf_counter()
            way.run(way.cells, folder / f"{i}-{j}")
            way.seconds.append((time.perf_counter() - started) / way.cells)


def _told(way: Way, sweep: Way) -> dict[str, Any]:
    return {
        "name": way.name,
        "how": way.how,
        "cells": way.cells,
        "seconds_per_cell": way.seconds,
        "cells_per_hour": spread(rates(3600, way.seconds)),
        "ratio": spread(ratios(way.seconds, sweep.seconds)),  # of speeds: the sweep's over this one's
    }


@dataclass(frozen=True)
class Gptlab:
    """The same cells by its two verbs; they differ in the seed."""

    words: list[str]
    launcher: list[str]
    threads: int | None

    def sweep(self, cells: int, folder: Path) -> None:
        self._run("sweep", f"seed={','.join(map(str, range(cells)))}", folder, self.launcher)
        if (ended := len(list(folder.glob("*/*/summary.json")))) < cells:
            raise ConfigError(f"bench: {ended} of {cells} cells of the sweep came to an end")

    def loop(self, cells: int, folder: Path) -> None:
        for i in range(cells):
            self._run("train", f"seed={i}", folder, [])

    def _run(self, verb: str, seeds: str, folder: Path, launcher: list[str]) -> None:
        words = [*self.words, seeds, f"runs_dir={typed(str(folder))}", *launcher]
        run_process([sys.executable, "-m", "gptlab", verb, *words], threads=self.threads)


class TrainPy:
    """nanoGPT's train.py, run in a folder that has around it what it expects in its checkout."""

    def __init__(self, peer: Peer, subject: PreparedRun, threads: int | None):
        if not isinstance(peer, NanoGPT):
            raise ConfigError(f"--against {peer.name}: has no script that trains; leave it out, or give nanogpt=PATH")
        cfg = subject.cfg
        peer.check(cfg)
        self.checkout = peer.folder.resolve()
        self.how = f"{SAME if peer.is_like(cfg) else OTHER}; a process for each cell, one after the other"
        if not (self.checkout / "train.py").is_file():
            raise ConfigError(f"--against nanogpt={peer.folder}: has no train.py; give a checkout of nanoGPT")
        if cfg.model.vocab_size > 2**16:
            rule = f"{cfg.model.vocab_size:,} tokens are more than the 16 bits of nanoGPT's files hold"
            raise ConfigError(f"tokenizer={cfg.tokenizer.name}: {rule}; choose a smaller one")
        self.subject, self.threads = subject, threads

    def lay_out(self, folder: Path) -> None:
        """configurator.py, which train.py reads from where it runs, and the tokens as its prepare.py writes them."""
        self.folder = folder / "nanogpt"
        data = self.folder / "data" / "bench"
        data.mkdir(parents=True)
        (self.folder / "configurator.py").symlink_to(self.checkout / "configurator.py")
        text: Any = self.subject.dataset
        for split, tokens in (("train", text.train), ("val", text.val)):
            np.asarray(tokens).astype(np.uint16, casting="safe").tofile(data / f"{split}.bin")
        (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": self.subject.cfg.model.vocab_size}))

    def loop(self, cells: int, folder: Path) -> None:
        command = [sys.executable, str(self.checkout / "train.py"), *self.arguments()]
        for i in range(cells):
            run_process([*command, f"--out_dir={folder / str(i)}"], threads=self.threads, cwd=self.folder)

    def arguments(self) -> list[str]:
        """It trains max_iters + 1 steps, and evaluates and saves where eval_interval divides the steps before."""
        cfg, machine, steps = self.subject.cfg, self.subject.device, self.subject.budget.steps
        assert steps
        last = steps - 1
        values = {
            "dataset": "bench",
            "device": str(machine.device),
            "dtype": "bfloat16" if machine.precision.startswith("bf16") else "float32",
            "compile": machine.compile,
            "eval_iters": 1,
            "eval_interval": last,
            "log_interval": cfg.train.log_every,
            "block_size": cfg.data.window,
            "batch_size": self.subject.micro_batch_size,
            "gradient_accumulation_steps": self.subject.n_micro_batches,
            "n_layer": cfg.size.n_layer,
            "n_head": cfg.size.n_head,
            "n_embd": cfg.size.dim,
            "bias": cfg.bias,
            "dropout": cfg.train.dropout,
            "max_iters": last,
            "lr_decay_iters": steps,
        }
        return [f"--{key}={value}" for key, value in values.items()]
