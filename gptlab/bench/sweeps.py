"""`gptlab bench --sweep`: a sweep of small cells against loops, from the start of the first process to the last result.

All methods train the same number of steps and evaluate the same number of tokens. nanoGPT's train.py, with
eval_iters=1, evaluates a batch of each split before its first and before its last step, four batches in all, and saves
a checkpoint at the last. gptlab evaluates the same number of tokens at the end, and saves a checkpoint and the best
weights. The text is already tokenised.
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

from gptlab.bench.host import describe_machine, run_process
from gptlab.bench.peers import OTHER, SAME, NanoGPT, Peer, find_peers
from gptlab.bench.subject import prepare
from gptlab.bench.timing import rates, ratios, spread
from gptlab.config import ConfigError
from gptlab.config.overrides import typed
from gptlab.training.prepare import PreparedRun

CELLS = 16
EVALUATED = 4  # batches that nanoGPT's train.py evaluates
HOW_A_SWEEP_RUNS = "one process checks all cells, and the workers of its launcher train them"
FIXED = ("seed", "name", "runs_dir", "eval.tokens", "eval.final_tokens", "eval.every")


@dataclass
class SweepMethod:
    """A way to train cells: `run` trains a number of them and writes to a folder."""

    name: str
    how: str
    cells: int
    run: Callable[[int, Path], object]
    seconds: list[float] = field(default_factory=list)  # per cell, one value for each round


def bench_sweep(
    overrides: Sequence[str],
    report: Callable[[str], None],
    *,
    against: Sequence[str] = (),
    cells: int | None = None,
    loop_cells: int | None = None,
    blocks: int | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Time a sweep of small cells against loops over the same cells.

    Args:
        overrides: The overrides of the cells; those of `hydra.*` are for the sweep's launcher.
        report: Called with each stage of the benchmark.
        against: nanogpt=PATH, to time a loop over its train.py too.
        cells: The number of cells, which differ in the seed.
        loop_cells: The number of cells that the loops train; None for all of them.
        blocks: The number of rounds.
        threads: The threads of torch in each process; None for torch's default.

    Returns:
        All figures, as `--json` writes them.

    Raises:
        ConfigError: An override or a peer is refused; nothing has been timed by then.
    """
    if threads:
        torch.set_num_threads(threads)  # recorded only; the processes get their threads from run_process
    cells, rounds = cells or CELLS, blocks or 1
    n_loop = loop_cells or cells
    if n_loop > cells:
        raise ConfigError(f"--loop-cells={n_loop}: the loops train a part of --cells={cells}; give at most that many")
    launcher, settings = _split_overrides(overrides)
    subject = prepare(settings)
    steps = subject.budget.steps
    if steps is None or steps < 2:
        raise ConfigError("budget: bench --sweep times cells of a known number of steps, 2 or more; give budget.steps")
    evaluated = EVALUATED * subject.micro_batch_size * subject.cfg.data.window
    settings += ["name=bench", f"eval.tokens={evaluated}", f"eval.final_tokens={evaluated}", f"eval.every={steps}"]
    gptlab = Gptlab(settings, launcher, threads)
    scripts = [TrainPy(peer, subject, threads) for peer in find_peers(against)]
    methods = [
        SweepMethod("gptlab sweep", HOW_A_SWEEP_RUNS, cells, gptlab.sweep),
        SweepMethod("gptlab train", "a process for each cell, one after the other", n_loop, gptlab.loop),
        *(SweepMethod("nanoGPT's train.py", script.how, n_loop, script.loop) for script in scripts),
    ]
    with tempfile.TemporaryDirectory(prefix="gptlab-bench-") as name:
        for script in scripts:
            script.lay_out(Path(name))
        time_methods(methods, rounds, Path(name), report)
    return {
        "kind": "sweep",
        "machine": describe_machine(subject),
        "cell": _cell_figures(subject, steps, evaluated),
        "rounds": rounds,
        "ways": [method_figures(method, methods[0]) for method in methods],
    }


def _cell_figures(subject: PreparedRun, steps: int, evaluated: int) -> dict[str, int]:
    dataset: Any = subject.dataset  # a text: `prepare` refuses tasks
    return {
        "parameters": int(subject.budget.cost["parameters"]),
        "steps": steps,
        "trained_tokens": steps * subject.budget.tokens_per_step,
        "evaluated_tokens": min(evaluated, dataset.n_val - 1),
    }


def _split_overrides(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the launcher's overrides and those of the cells, which record nothing in W&B unless asked to."""
    launcher = [override for override in overrides if override.startswith("hydra")]
    settings = [override for override in overrides if override not in launcher]
    if fixed := next((override for override in settings if override.partition("=")[0] in FIXED), None):
        raise ConfigError(f"{fixed}: bench --sweep sets this itself, for all methods alike; leave it out")
    if not any(override.startswith("wandb.mode=") for override in settings):
        settings.append("wandb.mode=disabled")
    return launcher, settings


def time_methods(methods: Sequence[SweepMethod], rounds: int, folder: Path, report: Callable[[str], None]) -> None:
    """Run each method once per round, every other round backwards, so that a drift of the machine favours none."""
    for i in range(rounds):
        for j, method in list(enumerate(methods))[:: -1 if i % 2 else 1]:
            report(f"{method.cells} cells by {method.name}")
            started = time.perf_counter()
            method.run(method.cells, folder / f"{i}-{j}")
            method.seconds.append((time.perf_counter() - started) / method.cells)


def method_figures(method: SweepMethod, sweep: SweepMethod) -> dict[str, Any]:
    """Return the figures of a method, with the ratio of the sweep's speed to its speed."""
    return {
        "name": method.name,
        "how": method.how,
        "cells": method.cells,
        "seconds_per_cell": method.seconds,
        "cells_per_hour": spread(rates(3600, method.seconds)),
        "ratio": spread(ratios(method.seconds, sweep.seconds)),
    }


@dataclass(frozen=True)
class Gptlab:
    """gptlab's own two methods: `gptlab sweep`, and a loop of `gptlab train`."""

    settings: list[str]
    launcher: list[str]
    threads: int | None

    def sweep(self, cells: int, folder: Path) -> None:
        self._run("sweep", f"seed={','.join(map(str, range(cells)))}", folder, self.launcher)
        if (finished := len(list(folder.glob("*/*/summary.json")))) < cells:
            raise ConfigError(f"bench: {finished} of {cells} cells of the sweep finished")

    def loop(self, cells: int, folder: Path) -> None:
        for i in range(cells):
            self._run("train", f"seed={i}", folder, [])

    def _run(self, verb: str, seeds: str, folder: Path, launcher: list[str]) -> None:
        overrides = [*self.settings, seeds, f"runs_dir={typed(str(folder))}", *launcher]
        run_process([sys.executable, "-m", "gptlab", verb, *overrides], threads=self.threads)


class TrainPy:
    """The train.py of nanoGPT, run in a folder laid out like its checkout."""

    def __init__(self, peer: Peer, subject: PreparedRun, threads: int | None):
        if not isinstance(peer, NanoGPT):
            raise ConfigError(f"--against {peer.name}: has no training script; leave it out, or give nanogpt=PATH")
        cfg = subject.cfg
        peer.check(cfg)
        self.checkout = peer.folder.resolve()
        self.how = f"{SAME if peer.matches(cfg) else OTHER}; a process for each cell, one after the other"
        if not (self.checkout / "train.py").is_file():
            raise ConfigError(f"--against nanogpt={peer.folder}: has no train.py; give a checkout of nanoGPT")
        if cfg.model.vocab_size > 2**16:
            rule = f"nanoGPT's files have 16 bits per token, too few for a vocabulary of {cfg.model.vocab_size:,}"
            raise ConfigError(f"tokenizer={cfg.tokenizer.name}: {rule}; choose a smaller one")
        self.subject, self.threads = subject, threads

    def lay_out(self, folder: Path) -> None:
        """Write the tokens as its prepare.py does, and link configurator.py, which train.py reads from its folder."""
        self.folder = folder / "nanogpt"
        data = self.folder / "data" / "bench"
        data.mkdir(parents=True)
        (self.folder / "configurator.py").symlink_to(self.checkout / "configurator.py")
        dataset: Any = self.subject.dataset
        for split, tokens in (("train", dataset.train), ("val", dataset.val)):
            np.asarray(tokens).astype(np.uint16, casting="safe").tofile(data / f"{split}.bin")
        (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": self.subject.cfg.model.vocab_size}))

    def loop(self, cells: int, folder: Path) -> None:
        command = [sys.executable, str(self.checkout / "train.py"), *self.arguments()]
        for i in range(cells):
            run_process([*command, f"--out_dir={folder / str(i)}"], threads=self.threads, cwd=self.folder)

    def arguments(self) -> list[str]:
        """Return its flags.

        It trains max_iters + 1 steps, and evaluates and saves before each step that eval_interval divides.
        """
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
