"""The record of a run: plain files in its folder, and a copy in Weights & Biases or Trackio.

metrics.jsonl      one JSON object per line, given to the operating system as soon as it is logged; may contain NaN
diagnostics.jsonl  snapshots from inside the model (gptlab/diagnostics), apart because they are long
sample.txt         text from the trained model
status.json        state (running, finished, diverged, failed, interrupted) and its reason, process, times
summary.json       the final numbers, written when a run finishes or diverges
config.yaml, overrides.txt, env.json, components/    what was run, and on what
"""

import json
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from gptlab.files import FileError, decode_utf8, read_json, read_json_lines, write_bytes, write_json, write_text
from gptlab.runs.signals import Stopped
from gptlab.runs.states import OUTCOMES, RunState
from gptlab.runs.trackers import RunInfo, Tracker, TrackerSettings, logged_history, to_tracker
from gptlab.runs.wandb_tracker import COMPONENTS, agents_run_id, new_id

METRICS, SNAPSHOTS, SAMPLE = "metrics.jsonl", "diagnostics.jsonl", "sample.txt"
STATUS, SUMMARY = "status.json", "summary.json"


class Recorder:
    """A context manager that records a run. Leave it with finish(), or with an exception, which it records.

    `resume_step` is the step of the checkpoint that the run goes on from: lines of later steps are dropped, so that the
    files end as if the run had never been killed. With None the run starts from scratch.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        config: Mapping[str, Any],
        settings: TrackerSettings,
        info: RunInfo,
        resume_step: int | None = None,
    ) -> None:
        self.run_dir = run_dir
        self._config, self._settings, self._info = config, settings, info
        self._resume_step = resume_step
        self._metrics: TextIO | None = None
        self._tracker: Tracker | None = None
        resumes = resume_step is not None
        # A run that was stopped before its first checkpoint starts from scratch and keeps its id: under a new one, what
        # the tracker has of the first try would stay there as a second run of this arm and seed.
        previous = read_status(run_dir)
        previous = previous if resumes or previous.get("state") not in OUTCOMES else {}
        self._status: dict[str, Any] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": (previous.get("started") if resumes else None) or _now(),
            "wandb_id": agents_run_id() or previous.get("wandb_id") or new_id(run_dir.name),  # Trackio's id too
        }

    def __enter__(self) -> Self:
        self._set_state(RunState.RUNNING)
        try:
            self._open()
        except BaseException as error:
            self._abandon(error)
            raise
        return self

    def _open(self) -> None:
        for name in (SUMMARY, SAMPLE):
            (self.run_dir / name).unlink(missing_ok=True)
        for name in (METRICS, SNAPSHOTS):
            if name == METRICS or (self.run_dir / name).exists():
                write_text(self.run_dir / name, "".join(_lines_up_to(self.run_dir / name, self._resume_step)))
        self._metrics = (self.run_dir / METRICS).open("a", encoding="utf-8", buffering=1)  # flushed after every line
        history = logged_history(read_metrics(self.run_dir), read_snapshots(self.run_dir))
        self._tracker = self._settings.start(self._info, self._status["wandb_id"], self._config, history)

    def log(self, metrics: Mapping[str, float]) -> None:
        """Record one line of metrics, with `step` and `tokens`, in metrics.jsonl and the tracker."""
        assert self._metrics is not None and "step" in metrics
        _write_line(self._metrics, metrics, self.run_dir / METRICS)
        if self._tracker:
            self._tracker.log(metrics)

    def log_diagnostics(self, snapshot: Mapping[str, Any]) -> None:
        """Record one snapshot, with its `step`, in diagnostics.jsonl, and its curves in the tracker."""
        assert "step" in snapshot
        path = self.run_dir / SNAPSHOTS
        with path.open("a", encoding="utf-8") as file:
            _write_line(file, snapshot, path)
        if self._tracker:
            self._tracker.log(to_tracker(snapshot))

    def log_sample(self, step: int, text: str) -> None:
        """Record text from the model after `step`, in sample.txt and the tracker."""
        write_text(self.run_dir / SAMPLE, text)
        if self._tracker:
            self._tracker.log_sample(_sample(self._config, step, text))

    def finish(self, state: str, summary: Mapping[str, Any], reason: str | None = None) -> None:
        """Record the outcome, `finished` or `diverged`, and the final numbers."""
        outcome = RunState(state)
        assert outcome in OUTCOMES
        write_json(self.run_dir / SUMMARY, summary)
        self._end(outcome, reason, summary)

    def tracker_hint(self) -> str | None:
        """Return one line that says where the tracker has the run, or what went wrong there; None without a tracker."""
        return f"{self._settings.title}: {self._tracker.hint()}" if self._tracker else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status["state"] != RunState.RUNNING:  # an error after finish() does not change the outcome
            self._close()
        else:
            assert error is not None, "left without finish()"
            self._abandon(error)

    def _abandon(self, error: BaseException) -> None:
        state, reason = _state_after(error)
        with suppress(OSError):  # on a full disk `error` is the one that the user must see, not those it causes here
            self._end(state, reason, {"reason": reason})
        with suppress(OSError):
            self._close()

    def _close(self) -> None:
        if self._metrics:
            self._metrics.close()

    def _end(self, state: RunState, reason: str | None, summary: Mapping[str, Any]) -> None:
        try:
            self._set_state(state, reason)  # before the last uploads, which may be slow or fail
        finally:
            if self._tracker:
                self._tracker.finish(state, summary)
        self._set_state(state, reason)  # a second time, with the hint that the uploads left

    def _set_state(self, state: RunState, reason: str | None = None) -> None:
        hint = {self._settings.status_key: self._tracker.hint() if self._tracker else None}
        self._status |= {"state": state, "reason": reason, "updated": _now()} | hint
        write_json(self.run_dir / STATUS, self._status)


class NoRecorder(Recorder):
    """The recorder of all ranks except 0. It records nothing, since rank 0 records for all ranks."""

    def __init__(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def log(self, metrics: Mapping[str, float]) -> None:
        pass

    def log_sample(self, step: int, text: str) -> None:
        pass

    def finish(self, *args: Any, **kwargs: Any) -> None:
        pass

    def tracker_hint(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        pass


def record_again(
    run_dir: Path, *, config: Mapping[str, Any], settings: TrackerSettings, info: RunInfo, run_id: str
) -> str | None:
    """Send the record of an ended run to the tracker under a new id; return a title and the hint where it is."""
    history = logged_history(read_metrics(run_dir), read_snapshots(run_dir))
    if tracker := settings.start(info, run_id, config, history):
        if (sample := run_dir / SAMPLE).exists():
            step = int(read_summary(run_dir)["step"])
            tracker.log_sample(_sample(config, step, decode_utf8(sample.read_bytes(), str(sample))))
        tracker.finish(RunState(read_status(run_dir)["state"]), read_summary(run_dir))
        return f"{settings.title}: {tracker.hint()}"
    return None


def write_run_files(
    run_dir: Path, config_yaml: str, overrides: Sequence[str], env: Mapping[str, Any], use: Mapping[str, bytes]
) -> None:
    """Write what is known before the first step: config, overrides, environment, and the user's files by path."""
    write_text(run_dir / "config.yaml", config_yaml)
    write_text(run_dir / "overrides.txt", "".join(f"{override}\n" for override in overrides))
    write_json(run_dir / "env.json", env)
    for path, content in use.items():
        write_bytes(run_dir / COMPONENTS / path, content)


def read_status(run_dir: str | Path) -> dict[str, Any]:
    """Return status.json, or {}. After a kill its state is still `running`; `lock.state_of` corrects that."""
    status = read_json(Path(run_dir) / STATUS)
    if status.get("state", RunState.WAITING) not in list(RunState):
        raise FileError(f"{Path(run_dir) / STATUS}: state={status['state']} is none of {', '.join(RunState)}")
    return status


def read_summary(run_dir: str | Path) -> dict[str, Any]:
    """Return summary.json, or {} for a run without an outcome."""
    return read_json(Path(run_dir) / SUMMARY)


def read_metrics(run_dir: str | Path) -> list[dict[str, float]]:
    """Return the complete lines of metrics.jsonl, without a last one that was cut off."""
    return read_json_lines(Path(run_dir) / METRICS)


def read_snapshots(run_dir: str | Path) -> list[dict[str, Any]]:
    """Return the complete lines of diagnostics.jsonl, without a last one that was cut off; [] if there are none."""
    return read_json_lines(Path(run_dir) / SNAPSHOTS)


def _sample(config: Mapping[str, Any], step: int, text: str) -> dict[str, Any]:
    """Return the row of a sample in a tracker's table."""
    return {"arm": config.get("arm"), "seed": config.get("seed"), "step": step, "text": text}


def _write_line(file: TextIO, content: Mapping[str, Any], path: Path) -> None:
    try:
        file.write(json.dumps(content) + "\n")
        file.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _lines_up_to(path: Path, step: int | None) -> list[str]:
    if step is None:
        return []
    return [json.dumps(line) + "\n" for line in read_json_lines(path) if line["step"] <= step]


def _state_after(error: BaseException) -> tuple[RunState, str]:
    """Return the state of a run that this exception ended, and the reason in one line."""
    if isinstance(error, KeyboardInterrupt):
        return RunState.INTERRUPTED, "SIGINT"
    if isinstance(error, SystemExit):
        return RunState.INTERRUPTED, str(error) if isinstance(error, Stopped) else f"exit {error.code}"
    return RunState.FAILED, " ".join(f"{type(error).__name__}: {error}".split())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
