"""Trackers record a run in addition to its own folder. W&B and Trackio each have a module with a `Tracker`."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any, ClassVar, Protocol

from gptlab.runs.metrics import METRICS
from gptlab.runs.states import RunState

# For these metrics a tracker shows the lowest value as well as the last one.
MINIMA = tuple(metric.key for metric in METRICS.values() if metric.keep_minimum)


@dataclass(frozen=True)
class RunInfo:
    """How a tracker lists a run: `name` is arm and seed, `group` the sweep, `tags` what sets it apart."""

    name: str
    group: str
    job_type: str = "train"
    tags: Sequence[str] = ()
    notes: str | None = None
    folder: Path | None = None  # the run's own, of which a tracker may keep files


class Tracker(ABC):
    """A started run in a tracker.

    Once it has started, trouble with the tracker never stops the training: `error` and `hint` report it.
    """

    error: str | None = None  # one line
    lacking: str = ""  # what the tracker did not take beside the metrics, and why

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Send one line of metrics; values may be a Histogram."""
        self._unless_stopped(self._log, metrics)

    def log_sample(self, row: Mapping[str, Any]) -> None:
        """Send text from the model, as the row of a table: arm, seed, step and text."""
        self._beside("sample", self._log_sample, row)

    def finish(self, state: RunState, summary: Mapping[str, Any]) -> None:
        """End the run with its final state and numbers, and wait for the last uploads."""
        self._unless_stopped(self._finish, state, summary)

    def hint(self) -> str:
        """Return one line for the user: the run's address, the command that uploads or shows it, or the error."""
        return self.error or self._hint() + self.lacking

    @abstractmethod
    def _log(self, metrics: Mapping[str, Any]) -> None: ...

    def _log_sample(self, row: Mapping[str, Any]) -> None:  # noqa: B027 - a tracker need not have tables
        pass

    @abstractmethod
    def _finish(self, state: RunState, summary: Mapping[str, Any]) -> None: ...

    @abstractmethod
    def _hint(self) -> str: ...

    def _unless_stopped(self, send: Callable[..., None], *args: Any) -> None:
        if self.error:
            return
        try:
            send(*args)
        except Exception as error:
            self._give_up(error)

    def _beside(self, what: str, send: Callable[..., None], *args: Any) -> None:
        """Send something beside the metrics, which go on without it."""
        if self.error:
            return
        try:
            send(*args)
        except Exception as error:
            self.lacking += f"; without the {what} ({type(error).__name__}: {one_line(error)})"

    def _give_up(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {one_line(error)}"
        self.error = f"stopped ({reason}); metrics.jsonl holds the whole run"


class TrackerSettings(Protocol):
    """The tracker that records a run, and where it does."""

    status_key: ClassVar[str]  # key of the hint in status.json
    title: ClassVar[str]

    def start(
        self, info: RunInfo, run_id: str, config: Mapping[str, Any], history: Iterable[Mapping[str, Any]]
    ) -> Tracker | None:
        """Start a run, or continue the one with that id; None if the tracker is disabled.

        `history` holds everything that a resumed run logged up to its checkpoint.
        """


@dataclass(frozen=True)
class Histogram:
    """Counts in equal bins from `low` to `high`."""

    low: float
    high: float
    counts: list[int]

    def to_library(self, library: ModuleType) -> Any:
        """Return it as the Histogram class of wandb or trackio."""
        n = len(self.counts)
        edges = [self.low + (self.high - self.low) * i / n for i in range(n + 1)]
        return library.Histogram(np_histogram=(self.counts, edges))


def with_histograms(metrics: Mapping[str, Any], library: ModuleType) -> dict[str, Any]:
    """Return the metrics with every Histogram as the class of wandb or trackio."""
    return {k: v.to_library(library) if isinstance(v, Histogram) else v for k, v in metrics.items()}


def to_tracker(snapshot: Mapping[str, Any]) -> dict[str, Any]:
    """Return a diagnostics snapshot as a tracker draws it: a curve such as `stream_rms/03` for each layer.

    For values per head it takes the mean; for the largest attention logits, the maximum. Norms of single parameters
    stay in diagnostics.jsonl.
    """
    curves: dict[str, Any] = {}
    for name, value in snapshot.items():
        if isinstance(value, list):
            over_heads = max if name.endswith("_max") else fmean
            for layer, x in enumerate(value):
                if x != []:  # heads are unknown for attention that is not gptlab's
                    curves[f"{name}/{layer:02}"] = over_heads(x) if isinstance(x, list) else x
        elif not isinstance(value, dict):
            curves[name] = value
    return {name: Histogram(**x) if isinstance(x, dict) else x for name, x in curves.items()}


def logged_history(
    metrics: Iterable[Mapping[str, Any]], snapshots: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the lines that a run sent to its tracker, in their order."""
    return sorted([*metrics, *map(to_tracker, snapshots)], key=itemgetter("step"))


def one_line(error: Exception) -> str:
    """Return the message of an error without line breaks."""
    return " ".join(str(error).split())
