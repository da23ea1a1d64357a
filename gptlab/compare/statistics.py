"""Arms -> the numbers of the table."""

from collections import Counter

import pandas as pd
from scipy.special import stdtrit

from gptlab.compare.arms import Arm, names
from gptlab.compare.runs import Run
from gptlab.config import ConfigError

CONFIDENCE = 0.95


def tabulate(arms: list[Arm], metric: str) -> pd.DataFrame:
    """One row per arm; the first is the baseline. NaN is what cannot be known.

    mean, std: of `metric` over the finished seeds; std with n - 1. difference, low, high: arm minus baseline, the mean
    over the pairs of one seed finished in both, with its t interval.
    """
    baseline = arms[0]
    rows = []
    for arm, name in zip(arms, names(arms), strict=True):
        scores = _scores(arm, metric)
        state = Counter(run.state for run in arm.runs)
        rows.append(
            {
                "arm": name,
                "differs": arm.changes(baseline),
                "seeds": state["finished"],
                "mean": scores.mean(skipna=False),
                "std": scores.std(skipna=False),
                **_paired(scores, _scores(baseline, metric) if arm is not baseline else scores.iloc[:0]),
                "parameters": _median(arm, "parameters"),
                "flops_per_token": _median(arm, "flops_per_token"),
                "tokens_per_s": _median(arm, "speed/tokens_per_s"),
                "tokens": _median(arm, "tokens", of="finished"),
                "diverged": state["diverged"],
                "failed": state["failed"],
                "unfinished": len(arm.runs) - state["finished"] - state["diverged"] - state["failed"],
            }
        )
    return pd.DataFrame(rows)


def _scores(arm: Arm, metric: str) -> pd.Series:
    """The metric of the finished runs, by seed."""
    return pd.Series({run.seed: _score(run, metric) for run in arm.runs if run.state == "finished"}, dtype=float)


def _score(run: Run, metric: str) -> float:
    if metric not in run.summary:
        known = [key for key, value in run.summary.items() if type(value) in (int, float)]
        raise ConfigError(f"metric={metric}: not in {run.folder}/summary.json; choose from {', '.join(known)}")
    return run.summary[metric]


def _paired(scores: pd.Series, reference: pd.Series) -> dict[str, float]:
    pairs = (scores - reference)[scores.index.intersection(reference.index)]
    n, mean = len(pairs), pairs.mean(skipna=False)
    half = stdtrit(n - 1, (1 + CONFIDENCE) / 2) * pairs.std(skipna=False) / n**0.5 if n > 1 else float("nan")
    return {"difference": mean, "low": mean - half, "high": mean + half, "pairs": n}


def _median(arm: Arm, key: str, of: str | None = None) -> float:
    """Over the runs that have come to an end, or only those in state `of`."""
    known = [run.summary[key] for run in arm.runs if run.summary.get(key) is not None and of in (None, run.state)]
    return pd.Series(known, dtype=float).median()
