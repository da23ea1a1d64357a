"""Draw comparisons of an arm with itself from the kept runs, and count how often gptlab calls it better or worse.

fixed   Both arms have one learning rate; each gets seeds of its own.
tuned   Both arms search their rate on two tuning seeds, are judged around it and re-centred, as `tune: auto` does,
        among the four rates that were run. An experiment that asks for another rate gives no verdict.
text    Two arms that differ by text: how often the interval misses the difference over the whole text, if only a sample
        of its blocks is read. The blocks are those of real runs at two rates; the noise of the seeds is normal.
sequential
        Arms of one learning rate are looked at after every seed, as `seeds: {first: 3, last: 12}` does. No two arms
        share a seed, so that the 32 seeds allow two arms up to 16 seeds, and five arms up to 6.
differing
        Arms of two learning rates on the same seeds, looked at after every seed, and with 8 fixed seeds.

`python experiments/same_arm/replay.py` draws, which takes three minutes, and writes levels.json, from which the page is
made. `python experiments/same_arm/replay.py sequential` draws the last two parts alone, which takes two minutes.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gptlab.compare import build_comparison
from gptlab.compare.analysis.comparison import Effect
from gptlab.compare.analysis.effects import Evidence, Rules
from gptlab.compare.analysis.sequential import GIVEN_UP, Looks
from gptlab.compare.analysis.settling import compare_so_far, settle
from gptlab.compare.analysis.statistics import interval
from gptlab.compare.analysis.text_share import block_deviations, estimate
from gptlab.compare.analysis.verdict import BETTER, EQUIVALENT, WORSE
from gptlab.compare.collect import collect_runs
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
FIRST = 3  # seeds at the first look
DESIGNS = (  # arms beside the baseline, seeds at the last look, experiments
    {"arms": 1, "last": 12, "draws": 1000},
    {"arms": 1, "last": 16, "draws": 1000},
    {"arms": 4, "last": 6, "draws": 400},
)
DRAWS_DIFFERING = 300
LAST, FIXED = 12, 8  # seeds at the last look, and fixed ones, for arms that differ


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
        return self.effects(arms, float("nan"))[0].word

    def effects(
        self, arms: Sequence[Sequence[tuple[float, int]]], margin: float, last: int | None = None
    ) -> list[Effect]:
        """Return the effects of all arms but the first, each given as the runs of its seeds.

        With `last`, the arms are looked at after every seed from FIRST to `last`.
        """
        named = {str(i): runs for i, runs in enumerate(arms)}
        scores = {arm: pd.Series([self.loss[run] for run in runs]) for arm, runs in named.items()}
        deviations = {arm: {i: self.deviations[run] for i, run in enumerate(runs)} for arm, runs in named.items()}
        references, evidence = dict.fromkeys(list(named)[1:], "0"), Evidence(deviations=deviations)
        rules = Rules(METRIC, margin, looks=Looks(FIRST, tuple(range(last))) if last else None)
        ended = {arm: range(len(runs)) for arm, runs in named.items()}
        progress = settle(scores, references, ended, rules, evidence) if last else {}
        return list(compare_so_far(scores, references, rules, evidence, progress).values())


def measure_sequential() -> None:
    """Draw the sequential comparisons, and add what they said to levels.json."""
    kept, rng = Kept(HERE / "kept.json"), np.random.default_rng(1)
    margin, levels = build_comparison([HERE / "kept.json"]).margin, json.loads((HERE / "levels.json").read_text())
    levels["margin"] = margin
    levels["sequential"] = [
        {"rate": rate, **design, **_sequential(kept, rate, margin, rng, **design)}
        for design in DESIGNS
        for rate in kept.rates
    ]
    levels["differing"] = [
        {"rates": rates, **_differing(kept, rates, margin, rng)} for rates in combinations(kept.rates, 2)
    ]
    (HERE / "levels.json").write_text(json.dumps(levels, indent=1) + "\n")


def measure() -> None:
    """Draw the comparisons with fixed seeds, and write how often they made a claim into levels.json."""
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
        *_sequential_lines(levels, len(kept.seeds)),
        "| learning rate | val/loss, mean ± sd over the seeds | stuck seeds |",
        "| ---: | ---: | ---: |",
    ]
    stuck = {float(result.arm.runs[0].config["optimizer"]["lr"]): len(result.stuck) for result in comparison.results}
    for rate in kept.rates:
        losses = np.array([kept.loss[rate, seed] for seed in kept.seeds])
        lines.append(f"| {rate:g} | {losses.mean():.4f} ± {losses.std(ddof=1):.4f} | {stuck[rate]} |")
    return {"RESULTS.md": ("\n".join(lines) + "\n").encode()}


def _sequential_lines(levels: dict[str, Any], n_seeds: int) -> list[str]:
    """Return the two tables of the arms that were looked at after every seed."""
    longest = max(design["last"] for design in DESIGNS if design["arms"] == 1)
    return [
        f"Sequential seeds: the arms are looked at after {FIRST} seeds and after each further one, with the usual"
        f" margin of {levels['margin']:.4f} nats. No two arms share a seed, so that {n_seeds} seeds allow two arms"
        f" {longest} seeds each. Better or worse is the share of experiments in which it was said of any arm; the other"
        " columns are over the arms.",
        "",
        "| the same arm with sequential seeds | experiments | better or worse | equivalent | given up | seeds used |",
        f"| --- |{' ---: |' * 5}",
        *(
            f"| {_arms(found['arms'])} at {found['rate']:g}, {FIRST} to {found['last']} seeds | {found['draws']} |"
            f" {_percent([found[key] for key in ('claimed', 'equivalent', 'given_up')])} | {found['seeds']:.1f} |"
            for found in levels["sequential"]
        ),
        "",
        "Two arms that differ: runs at two learning rates on the same seeds, the lower rate as the baseline. An arm is"
        " settled if it is called better, worse or equivalent. A word is contrary if it is better or worse and the mean"
        f" over all {n_seeds} seeds has the opposite sign. {levels['differing'][0]['draws']} experiments each.",
        "",
        f"| difference over {n_seeds} seeds, mean ± sd | settled, {FIRST} to {LAST} seeds | {FIXED} seeds |"
        f" contrary, {FIRST} to {LAST} seeds | {FIXED} seeds | runs, {FIRST} to {LAST} seeds | {FIXED} seeds |",
        f"| --- |{' ---: |' * 6}",
        *(
            f"| {found['rates'][1]:g} against {found['rates'][0]:g}, {found['mean']:+.4f} ± {found['sd']:.4f} |"
            f" {_percent([*found['settled'], *found['contrary']])} | {found['runs']:.1f} | {2 * FIXED} |"
            for found in levels["differing"]
        ),
        "",
    ]


def _arms(n: int) -> str:
    return "1 arm and baseline" if n == 1 else f"{n} arms and baseline"


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


def _sequential(
    kept: Kept, rate: float, margin: float, rng: np.random.Generator, *, arms: int, last: int, draws: int
) -> dict[str, float]:
    """Return the words on equal arms whose seeds are disjoint, and the mean number of seeds of an arm."""
    claims, effects = 0, []
    for _ in range(draws):
        seeds = rng.permutation(kept.seeds)[: (arms + 1) * last].reshape(arms + 1, last)
        found = kept.effects([[(rate, int(seed)) for seed in own] for own in seeds], margin, last)
        claims += any(effect.word in CLAIMS for effect in found)
        effects += found
    return {
        "claimed": claims / draws,
        "equivalent": float(np.mean([effect.word == EQUIVALENT for effect in effects])),
        "given_up": float(np.mean([effect.progress.state == GIVEN_UP for effect in effects if effect.progress])),
        "seeds": float(np.mean([effect.progress.seeds for effect in effects if effect.progress])),
    }


def _differing(kept: Kept, rates: tuple[float, float], margin: float, rng: np.random.Generator) -> dict[str, Any]:
    """Return the shares of settled arms and of contrary words, looked at after every seed and with fixed seeds."""
    differences = np.array([kept.loss[rates[1], seed] - kept.loss[rates[0], seed] for seed in kept.seeds])
    contrary = WORSE if differences.mean() < 0 else BETTER
    words: list[list[str]] = [[], []]
    runs = 0
    for _ in range(DRAWS_DIFFERING):
        seeds = rng.permutation(kept.seeds)[:LAST]
        arms = [[(rate, int(seed)) for seed in seeds] for rate in rates]
        looked, fixed = kept.effects(arms, margin, LAST)[0], kept.effects([a[:FIXED] for a in arms], margin)[0]
        words[0].append(looked.word)
        words[1].append(fixed.word)
        runs += 2 * looked.progress.seeds if looked.progress else 0
    return {
        "draws": DRAWS_DIFFERING,
        "mean": float(differences.mean()),
        "sd": float(differences.std(ddof=1)),
        "settled": [sum(word in (*CLAIMS, EQUIVALENT) for word in said) / DRAWS_DIFFERING for said in words],
        "contrary": [said.count(contrary) / DRAWS_DIFFERING for said in words],
        "runs": runs / DRAWS_DIFFERING,
    }


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
    if sys.argv[1:] != ["sequential"]:
        measure()
    measure_sequential()
    for name, content in main().items():
        (HERE / name).write_bytes(content)
