"""Arms that were tuned: each of their seeds has several runs, at the chosen values and beside them.

A seed's score is that of the best of these runs. So the noise of choosing a value is in the spread over the seeds, and
two arms that respond alike to the setting are told apart in no more than 5 % of comparisons, whatever values their
tuning has chosen (gptlab/sweeps/tuning.py; docs/verdicts.md).
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gptlab.compare.analysis.arms import Arm, as_text
from gptlab.compare.analysis.comparison import Tuning
from gptlab.compare.analysis.tuning_curves import arm_of, as_value
from gptlab.compare.read.runs import Run
from gptlab.runs.metrics import metric_named
from gptlab.runs.states import OUTCOMES, RunState


@dataclass(frozen=True)
class JudgedValues:
    """The values of the tuned settings that the runs of a comparison have; sweep.yaml holds them by arm."""

    chosen: Mapping[str, Mapping[str, Any]]  # arm -> setting -> the value chosen
    beside: Mapping[str, Mapping[str, Sequence[Any]]]  # arm -> setting -> the values that every seed has, with that one

    @classmethod
    def of(cls, sweep: Mapping[str, Any]) -> "JudgedValues":
        """Take the values from the content of a sweep.yaml; it has none if nothing was tuned."""
        chosen = {arm: dict(map(_setting, texts)) for arm, texts in (sweep.get("chosen") or {}).items()}
        beside = {
            arm: {key: [as_value(text.strip("'")) for text in texts] for key, texts in values.items()}
            for arm, values in (sweep.get("judged_at") or {}).items()
        }
        return cls(chosen, beside)

    def is_chosen(self, run: Run) -> bool:
        """Return whether the run has the values that its arm has chosen, or belongs to no tuned arm."""
        return not self._others(run) and (bool(self._of(run)) or run.phase != "neighbour")

    def is_beside(self, run: Run) -> bool:
        """Return whether one of the run's tuned values lies beside the chosen one."""
        others = self._others(run)
        beside = self.beside.get(run.config.get("variant") or "", {})
        return len(others) == 1 and all(value in beside.get(key, ()) for key, value in others.items())

    def runs_per_seed(self, label: str | None) -> int:
        """Return how many runs each seed of an arm has."""
        return 1 + sum(len(values) - 1 for values in self.beside.get(label or "", {}).values())

    def _of(self, run: Run) -> Mapping[str, Any]:
        return self.chosen.get(run.config.get("variant") or "", {})

    def _others(self, run: Run) -> dict[str, Any]:
        """Return the tuned settings in which the run differs from the chosen values."""
        chosen = self._of(run)
        settings = as_text(run.config) if chosen else {}
        values = {key: as_value(settings.get(key, "null")) for key in chosen}
        return {key: value for key, value in values.items() if value != chosen[key]}


def _setting(override: str) -> tuple[str, Any]:
    key, _, text = override.partition("=")
    return key, as_value(text.strip("'"))


def at_best_values(
    arms: Sequence[Arm], neighbours: Sequence[Run], judged: JudgedValues, settings: Sequence[str], metric: str
) -> list[Arm]:
    """Return the arms with the best run of each seed by `metric`; `arms` hold those at the chosen values.

    Args:
        arms: the arms, whose runs have the values that were chosen.
        neighbours: the runs beside these values.
        judged: the values that every seed must have run.
        settings: those that are tuned.
        metric: the metric that is judged.
    """
    beside: dict[int, dict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in neighbours:
        if (index := arm_of(run, arms, settings)) is not None:
            beside[index][run.seed].append(run)
    return [
        replace(
            arm, runs=[_best([run, *beside[i][run.seed]], judged.runs_per_seed(arm.label), metric) for run in arm.runs]
        )
        for i, arm in enumerate(arms)
    ]


def _best(runs: list[Run], n_planned: int, metric: str) -> Run:
    """Return the run of one seed that counts: the best one, or one that shows why there is none yet."""
    missing = [run for run in runs if run.state not in OUTCOMES]
    if missing:
        return missing[0]
    if len(runs) < n_planned:
        return replace(runs[0], status=runs[0].status | {"state": RunState.WAITING}, summary={})
    sign = -1 if metric_named(metric).higher_is_better else 1

    def rank(run: Run) -> float:
        value = sign * run.number(metric)
        return math.inf if run.state == RunState.DIVERGED or math.isnan(value) else value

    return min(runs, key=rank)


def notes_at_edges(tunings: Sequence[Tuning], labels: Sequence[str]) -> dict[str, str]:
    """Return, for each arm whose best value is the lowest or highest tried, a note that says so."""
    notes: dict[str, list[str]] = defaultdict(list)
    for tuning in tunings:
        points = tuning.points
        for row in points[points["chosen"] & points["at_edge"]].to_dict("records"):
            tried = points.loc[points["arm"] == row["arm"], "value"]
            end = "highest" if row["value"] == tried.max() else "lowest"
            notes[row["arm"]].append(f"{tuning.setting}={row['value']:g} is the {end} tried")
    return {label: "; ".join(notes[label]) for label in labels if label in notes}
