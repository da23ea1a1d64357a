"""Draw comparisons of an arm with itself from the kept runs, and count how often gptlab calls it better or worse.

fixed   Both arms have one learning rate; each gets seeds of its own.
tuned   Both arms search their rate on two tuning seeds, are judged around it and re-centred, as `tune: auto` does,
        among the four rates that were run. An experiment that asks for another rate gives no verdict.
text    Two arms that differ by text: how often the interval misses the difference over the whole text, if only a sample
        of its blocks is read. The blocks are those of real runs at two rates; the noise of the seeds is normal.

`python experiments/same_arm/replay.py` draws, which takes three minutes, and writes levels.json, from which the page is
made.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from gptlab.compare import build_comparison
from gptlab.compare.analysis.effects import Evidence, Rules, compare_scores
from gptlab.compare.analysis.statistics import interval
from gptlab.compare.analysis.text_share import block_deviations, estimate
from gptlab.compare.analysis.verdict import BETTER, WORSE
from gptlab.compare.build import collect_runs
from gptlab.sweeps.arms import CellSpec, SweepPlan
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.tuning import stages

HERE = Path(__file__).parent
METRIC, SETTING, OWN = "val/loss", "optimizer.lr", "1e-2"
SEEDS = (3, 5, 10)
TUNING_SEEDS = 2
DRAWS = 1000
CLAIMS = (BETTER, WORSE)
TWO_RATES = (0.0025, 0.01)  # their difference varies along the text
NOISES = (0.01, 0.002)  # standard deviations of a paired difference in nats: as measured, and small beside the text's
STRETCH = 4  # blocks that are drawn together, since neighbours are alike


@dataclass
class Ended:
    """The part of a Cell that the tuning reads."""

    spec: CellSpec
    loss: float
    state: str = "finished"


class Kept:
    """The final losses of the kept runs and their deviations by block of text, by rate and seed."""

    def __init__(self, path: Path):
        self.loss: dict[tuple[float, int], float] = {}
        self.deviations: dict[tuple[float, int], np.ndarray | None] = {}
        for run in collect_runs([path]).runs:
            key = float(run.config["optimizer"]["lr"]), run.seed
            self.loss[key], self.deviations[key] = run.number(METRIC), block_deviations(run.summary, METRIC)
        self.rates = sorted({rate for rate, _ in self.loss})
        self.seeds = sorted({seed for _, seed in self.loss})

    def word(self, arms: Sequence[Sequence[tuple[float, int]]]) -> str:
        """Return the verdict on two arms, each given as the runs of its seeds."""
        named = dict(zip("ab", arms, strict=True))
        scores = {arm: pd.Series([self.loss[run] for run in runs]) for arm, runs in named.items()}
        deviations = {arm: {i: self.deviations[run] for i, run in enumerate(runs)} for arm, runs in named.items()}
        return compare_scores(scores, {"b": "a"}, Rules(METRIC), Evidence(deviations=deviations))["b"].word


def measure() -> None:
    """Draw the comparisons, and write how often they made a claim into levels.json."""
    kept, rng = Kept(HERE / "kept.json"), np.random.default_rng(0)
    fixed = {f"{rate:g}": [_fixed(kept, rate, n, rng) for n in SEEDS] for rate in kept.rates}
    tuned = [_tuned(kept, n, rng) for n in SEEDS]
    text = {f"{noise:g}": [_text(kept, noise, n, rng) for n in SEEDS] for noise in NOISES}
    levels = {"draws": DRAWS, "seeds": SEEDS, "fixed": fixed, "tuned": tuned, "text": text}
    (HERE / "levels.json").write_text(json.dumps(levels, indent=1) + "\n")


def main() -> dict[str, bytes]:
    """Return the page made from levels.json and the kept runs."""
    kept, levels = Kept(HERE / "kept.json"), json.loads((HERE / "levels.json").read_text())
    comparison = build_comparison([HERE / "kept.json"])
    lines = [
        f"# {comparison.question}",
        "",
        comparison.literature or "",
        "",
        f"{len(kept.seeds)} seeds at each of {len(kept.rates)} learning rates; {levels['draws']} comparisons for each"
        " number. Different comparisons share runs, so the numbers are less certain than independent draws would be.",
        "",
        f"| better or worse, though the same arm | {' | '.join(f'{n} seeds' for n in levels['seeds'])} |",
        f"| --- | {' | '.join('---:' for _ in levels['seeds'])} |",
        *(f"| fixed at {rate} | {_percent(shares)} |" for rate, shares in levels["fixed"].items()),
        f"| tuned | {_percent([claimed for claimed, _ in levels['tuned']])} |",
        "",
        "Experiments with tuned arms that asked for a rate beyond the four, which are not counted: "
        f"{', '.join(f'{edge:.0%}' for _, edge in levels['tuned'])}.",
        "",
        f"The validation text as a sample: runs at {TWO_RATES[0]:g} and {TWO_RATES[1]:g} are compared on blocks of text"
        f" drawn from the real ones, {STRETCH} neighbours together. The interval should miss the difference over all"
        " blocks in 5 %; one over the seeds alone misses it more often the more seeds there are. The seeds' noise is"
        " normal, with the standard deviation given.",
        "",
        f"| misses of the interval | {' | '.join(f'{n} seeds' for n in levels['seeds'])} |",
        f"| --- | {' | '.join('---:' for _ in levels['seeds'])} |",
        *(
            f"| {kind}, sd {noise} nats | {_percent([rates[i] for rates in by_seeds])} |"
            for noise, by_seeds in levels["text"].items()
            for i, kind in enumerate(("seeds and text", "seeds alone"))
        ),
        "",
        "| learning rate | val/loss, mean ± sd over the seeds |",
        "| ---: | ---: |",
    ]
    for rate in kept.rates:
        losses = np.array([kept.loss[rate, seed] for seed in kept.seeds])
        lines.append(f"| {rate:g} | {losses.mean():.4f} ± {losses.std(ddof=1):.4f} |")
    return {"RESULTS.md": ("\n".join(lines) + "\n").encode()}


def _percent(shares: Sequence[float]) -> str:
    return " | ".join(f"{share:.1%}" for share in shares)


def row() -> dict[str, str]:
    """Return what stands in place of verdicts on the page of all experiments."""
    return {"verdicts": "measures how often equal arms are told apart; see its page"}


def _fixed(kept: Kept, rate: float, n: int, rng: np.random.Generator) -> float:
    """Return the share of claims between two halves of 2 n seeds at one rate."""
    claims = 0
    for _ in range(DRAWS):
        seeds = rng.permutation(kept.seeds)[: 2 * n]
        claims += kept.word([[(rate, int(seed)) for seed in half] for half in (seeds[:n], seeds[n:])]) in CLAIMS
    return claims / DRAWS


def _tuned(kept: Kept, n: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the share of claims between two tuned arms, and the share of experiments that left the four rates."""
    words = ["norm=layernorm,rmsnorm", f"{SETTING}={OWN}", f"seed={','.join(map(str, range(n)))}"]
    plan = plan_sweep(words, tune=[f"{SETTING}=auto"])
    claims = edges = 0
    for _ in range(DRAWS):
        seeds = rng.permutation(kept.seeds)[: 2 * (n + TUNING_SEEDS)].reshape(2, -1)
        replay = _Replay(kept, plan, {arm.name: own.tolist() for arm, own in zip(plan.arms, seeds, strict=True)})
        try:
            claims += kept.word(replay.best_runs()) in CLAIMS
        except KeyError:  # a rate that was not run
            edges += 1
    return claims / (DRAWS - edges), edges / DRAWS


def _text(kept: Kept, noise: float, n: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the share of intervals that miss the difference over the whole text: of gptlab's, and over seeds alone."""
    low, high = TWO_RATES
    along = np.stack([np.subtract(kept.deviations[high, seed], kept.deviations[low, seed]) for seed in kept.seeds])
    blocks = along.shape[1]
    missed = np.zeros(2)
    for _ in range(DRAWS):
        starts = rng.integers(0, blocks, blocks // STRETCH)
        read = along[rng.permutation(len(along))[:n]][:, np.add.outer(starts, np.arange(STRETCH)).ravel() % blocks]
        means = read.mean(1)
        differences = rng.normal(0, noise, n) + means
        for i, deviations in enumerate((read - means[:, None], None)):
            ends = interval(estimate(differences, deviations, 0.0).estimate)
            missed[i] += not ends[0] <= 0 <= ends[1]
    return float(missed[0] / DRAWS), float(missed[1] / DRAWS)


class _Replay:
    """A tuned sweep whose runs are taken from the kept ones; `seeds` holds those of each arm, for the tuning first."""

    def __init__(self, kept: Kept, plan: SweepPlan, seeds: dict[str, list[int]]):
        self.kept, self.plan, self.seeds = kept, plan, seeds

    def best_runs(self) -> list[list[tuple[float, int]]]:
        """Tune both arms, and return the run that counts for each of their seeds. KeyError: one was never made."""
        for stage in stages(self.plan):
            stage.cells = [Ended(spec, self.kept.loss[self._run(spec)]) for spec in stage.specs]
        best: dict[tuple[str, str], tuple[float, tuple[float, int]]] = {}
        for cell in stage.cells:
            found = cell.loss, self._run(cell.spec)
            key = cell.spec.arm.name, cell.spec.seed
            best[key] = min(found, best.get(key, found))
        return [[best[arm.name, seed][1] for seed in self.plan.seeds] for arm in self.plan.arms]

    def _run(self, spec: CellSpec) -> tuple[float, int]:
        own, tuning = self.seeds[spec.arm.name], self.plan.tune_seeds
        seed = own[tuning.index(spec.seed)] if spec.seed in tuning else own[len(tuning) + int(spec.seed)]
        return float(spec.tuned[SETTING]), seed


if __name__ == "__main__":
    measure()
    for name, content in main().items():
        (HERE / name).write_bytes(content)
