"""The verdict on each arm in the summaries of its runs in W&B.

The runs have ended when they are compared, so the verdict is added through W&B's public API. The keys of the summary:

- verdict/word: the verdict with its mark, or "baseline".
- verdict/metric, verdict/reference: the metric, and the arm that this one is compared with.
- verdict/difference, verdict/low, verdict/high: of the arm minus its reference, with the interval.
- verdict/multiplier, verdict/multiplier_low, verdict/multiplier_high: the compute multiplier in tokens; absent where it
  lies beyond the budgets. verdict/multiplier_text says it then as well: ">2 (1.7 to >2)".
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, NamedTuple
from urllib.parse import unquote

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.read.runs import Run
from gptlab.runs.wandb_api import blaming_wandb, owner_of
from gptlab.runs.wandb_tracker import resolve_project

SOURCE = "compare --wandb"  # what an error names
PREFIX = "verdict/"
RUN_PAGE = re.compile(r"https?://.+/([^/]+)/([^/]+)/runs/([^/?#]+)")
AT_ONCE = 50  # runs that are asked for in one request


@dataclass(frozen=True)
class Sent:
    """The number of runs whose summary in W&B got the verdict, and of those that W&B does not have."""

    updated: int
    absent: int

    def __str__(self) -> str:
        done = f"W&B: {_runs(self.updated)} got {'its' if self.updated == 1 else 'their'} verdict"
        if not self.absent:
            return done
        are = "is" if self.absent == 1 else "are"
        return f"{done}, {_runs(self.absent)} {are} not there; send offline runs with `wandb sync`, then repeat this"


class Place(NamedTuple):
    """The place of a run in W&B."""

    entity: str
    project: str
    id: str


def send_verdicts(api: Any, comparisons: Sequence[Comparison]) -> Sent:
    """Write the verdict on each arm into the summaries of its runs, through a wandb.Api.

    Raises ConfigError if W&B rejects it.
    """
    by_project: dict[tuple[str, str], dict[str, dict[str, Any]]] = defaultdict(dict)
    updated = 0
    with blaming_wandb(SOURCE, "check the network and the key, then repeat the command"):
        for result, metric in ((result, one.metric) for one in comparisons for result in one.results):
            verdict = _verdict(result, metric)
            for run in result.arm.runs:
                if place := place_of(run, api):
                    by_project[place.entity, place.project][place.id] = verdict
        for (entity, project), verdicts in by_project.items():
            for run in _runs_in_wandb(api, entity, project, list(verdicts)):
                _replace_verdict(run.summary, verdicts[run.id])
                updated += 1
    return Sent(updated, sum(len(result.arm.runs) for one in comparisons for result in one.results) - updated)


def _verdict(result: Result, metric: str) -> dict[str, Any]:
    """Return the part of a summary that says the verdict on an arm; numbers that are not finite are left out."""
    effect, found = result.effect, result.multiplier
    values: dict[str, Any] = {"word": effect.verdict if effect else "baseline", "metric": metric}
    if effect:
        values |= {"reference": result.reference, "difference": effect.mean, "low": effect.low, "high": effect.high}
    if found and not found.tokens.reason:
        tokens = found.tokens
        values |= {"multiplier": tokens.value, "multiplier_low": tokens.low, "multiplier_high": tokens.high}
        values["multiplier_text"] = str(tokens)
    plain = {key: float(value) if isinstance(value, float) else value for key, value in values.items()}  # no numpy
    return {PREFIX + k: v for k, v in plain.items() if not isinstance(v, float) or isfinite(v)}


def place_of(run: Run, api: Any) -> Place | None:
    """Return where W&B has the run, or would have it once it is synced; None if it was not recorded for W&B."""
    hint, run_id = run.status.get("wandb"), run.status.get("wandb_id")
    if found := RUN_PAGE.fullmatch(hint or ""):
        return Place(*map(unquote, found.groups()))
    settings = run.config.get("wandb")
    if not hint or not run_id or settings is None:
        return None
    return Place(owner_of(api, settings.get("entity")), resolve_project(settings.get("project")), run_id)


def _runs_in_wandb(api: Any, entity: str, project: str, ids: list[str]) -> Iterator[Any]:
    """Yield those runs of a project that W&B has. The project may not be there yet."""
    if all(project != known.name for known in api.projects(entity)):
        return
    for i in range(0, len(ids), AT_ONCE):
        wanted = {"name": {"$in": ids[i : i + AT_ONCE]}}
        yield from api.runs(f"{entity}/{project}", filters=wanted, per_page=AT_ONCE, lazy=False)


def _replace_verdict(summary: Any, verdict: Mapping[str, Any]) -> None:
    known = list(summary.keys())  # a summary cannot be iterated itself
    for key in known:
        if key.startswith(PREFIX) and key not in verdict:
            del summary[key]  # of an earlier comparison
    summary.update(verdict)


def _runs(n: int) -> str:
    return f"{n} run{'s' * (n != 1)}"
