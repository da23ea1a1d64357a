"""The record of a run: plain files in its folder first, then Weights & Biases or Trackio.

metrics.jsonl   one JSON object a line, on its way to the disk as soon as it is logged; NaN as Python's json writes it
diagnostics.jsonl    the same of the looks inside the model, apart because they are long (gptlab/diagnostics)
status.json     state (running, finished, diverged, failed, interrupted) and its reason, process, times
summary.json    the final numbers; there only when the run came to its end
config.yaml, overrides.txt, env.json, components/    what was run, and on what
"""

import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Any, Literal, Self, TextIO

from gptlab.runs.signals import Stopped
from gptlab.runs.trackio_tracker import TrackioRun, TrackioSettings
from gptlab.runs.wandb_tracker import Histogram, RunInfo, WandbRun, WandbSettings, agents_run_id, new_id

LOOKS = "diagnostics.jsonl"


class Recorder:
    """A run being recorded: a context manager that is left with finish(), or with an exception, which it records.

    `resume_step` is the step of the checkpoint that the run goes on from: metrics of later steps are dropped, so that
    the file ends as if the run had never been killed. None starts afresh.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        config: Mapping[str, Any],
        settings: WandbSettings | TrackioSettings,
        info: RunInfo,
        resume_step: int | None = None,
    ) -> None:
        self.run_dir = run_dir
        self._config, self._settings, self._info = config, settings, info
        self._resume_step = resume_step
        self._metrics: TextIO | None = None
        self._tracker: WandbRun | TrackioRun | None = None
        previous = read_status(run_dir) if resume_step is not None else {}
        self._status: dict[str, Any] = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started": previous.get("started") or _now(),
            "wandb_id": agents_run_id() or previous.get("wandb_id") or new_id(run_dir.name),  # Trackio's too
        }

    def __enter__(self) -> Self:
        self._set_state("running")
        try:
            self._open()
        except BaseException as error:
            self._abandon(error)
            raise
        return self

    def _open(self) -> None:
        (self.run_dir / "summary.json").unlink(missing_ok=True)
        path = self.run_dir / "metrics.jsonl"
        kept = _lines_up_to(path, self._resume_step)
        write_text(path, "".join(kept))
        self._metrics = path.open("a", encoding="utf-8", buffering=1)  # a line is the operating system's at once
        looks = self.run_dir / LOOKS
        kept_looks = _lines_up_to(looks, self._resume_step)
        if looks.exists():
            write_text(looks, "".join(kept_looks))
        history = _history(map(json.loads, kept), map(json.loads, kept_looks))
        self._tracker = _open_tracker(self._settings, self._info, self._status["wandb_id"], self._config, history)

    def log(self, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl, then W&B or Trackio. Holds `step` and `tokens` beside whatever was measured."""
        assert self._metrics is not None and "step" in metrics
        _write_line(self._metrics, metrics, self.run_dir / "metrics.jsonl")
        if self._tracker:
            self._tracker.log(metrics)

    def look(self, look: Mapping[str, Any]) -> None:
        """One line of diagnostics.jsonl, and its `panels` for W&B or Trackio."""
        assert "step" in look
        path = self.run_dir / LOOKS
        with path.open("a", encoding="utf-8") as file:
            _write_line(file, look, path)
        if self._tracker:
            self._tracker.log(panels(look))

    def finish(
        self, state: Literal["finished", "diverged"], summary: Mapping[str, Any], reason: str | None = None
    ) -> None:
        """The outcome and its numbers."""
        write_json(self.run_dir / "summary.json", summary)
        self._end(state, reason, summary)

    def where(self) -> str | None:
        """One line for the user: the run's address, the command that uploads or shows it, or what went wrong there."""
        return f"{self._settings.title}: {self._tracker.where()}" if self._tracker else None

    def wandb_where(self) -> str | None:
        """The same without the name of the tracker."""
        return self._tracker.where() if self._tracker else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status["state"] != "running":  # what goes wrong after finish() does not change the outcome
            self._close()
        else:
            assert error is not None, "left without finish()"
            self._abandon(error)

    def _abandon(self, error: BaseException) -> None:
        state, reason = _outcome(error)
        with suppress(OSError):  # on a full disk the error on its way is the one to see, not those it brings here
            self._end(state, reason, {"reason": reason})
        with suppress(OSError):
            self._close()

    def _close(self) -> None:
        if self._metrics:
            self._metrics.close()

    def _end(self, state: str, reason: str | None, summary: Mapping[str, Any]) -> None:
        try:
            self._set_state(state, reason)  # before the last uploads, which may take a while or be cut off
        finally:
            if self._tracker:
                self._tracker.finish(state, summary)
        self._set_state(state, reason)  # once more, with what became of the uploads

    def _set_state(self, state: str, reason: str | None = None) -> None:
        where = {self._settings.record: self.wandb_where()}
        self._status |= {"state": state, "reason": reason, "updated": _now()} | where
        write_json(self.run_dir / "status.json", self._status)


class NoRecorder(Recorder):
    """Of a process beside the first, which records for all of them."""

    def __init__(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def log(self, metrics: Mapping[str, float]) -> None:
        pass

    def finish(self, *args: Any, **kwargs: Any) -> None:
        pass

    def where(self) -> None:
        pass

    def __exit__(self, *error: Any) -> None:
        pass


def panels(look: Mapping[str, Any]) -> dict[str, Any]:
    """A look as a tracker draws it: `stream_rms/03` for each layer, of heads the mean, a Histogram as it is.

    The largest logit of an attention is that of all its heads. Single parameters are in the file alone.
    """
    found: dict[str, Any] = {}
    for name, value in look.items():
        if isinstance(value, list):
            of_heads = max if name.endswith("_max") else fmean
            for layer, x in enumerate(value):
                if x != []:  # of an attention that is not ours, no heads are known
                    found[f"{name}/{layer:02}"] = of_heads(x) if isinstance(x, list) else x
        elif not isinstance(value, dict):
            found[name] = value
    return {name: Histogram(**x) if isinstance(x, dict) else x for name, x in found.items()}


def record_again(
    run_dir: Path, *, config: Mapping[str, Any], settings: WandbSettings | TrackioSettings, info: RunInfo, run_id: str
) -> str | None:
    """A run that has ended, as one more run of the tracker's; returns where."""
    history = _history(read_metrics(run_dir), read_looks(run_dir))
    if tracker := _open_tracker(settings, info, run_id, config, history):
        tracker.finish(read_status(run_dir)["state"], read_summary(run_dir))
        return f"{settings.title}: {tracker.where()}"
    return None


def _history(metrics: Iterable[Mapping[str, Any]], looks: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """What was logged, in the order in which it was."""
    return sorted([*metrics, *map(panels, looks)], key=itemgetter("step"))


def _open_tracker(
    settings: WandbSettings | TrackioSettings,
    info: RunInfo,
    run_id: str,
    config: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
) -> WandbRun | TrackioRun | None:
    if isinstance(settings, TrackioSettings):
        return TrackioRun(settings, info, run_id, config, history)
    return WandbRun(settings, info, run_id, config, history) if settings.mode != "disabled" else None


def write_run_files(
    run_dir: Path, config_yaml: str, overrides: Sequence[str], env: Mapping[str, Any], use: Sequence[Path]
) -> None:
    """What is known before the first step: the config, how it was asked for, the environment, the user's own code."""
    write_text(run_dir / "config.yaml", config_yaml)
    write_text(run_dir / "overrides.txt", "".join(f"{override}\n" for override in overrides))
    write_json(run_dir / "env.json", env)
    for source in use:
        write_text(run_dir / "components" / source.name, source.read_text(encoding="utf-8"))


def read_status(run_dir: Path) -> dict[str, Any]:
    """status.json, {} where there is none. A process that was killed leaves `running` behind."""
    return read_json(run_dir / "status.json")


def read_summary(run_dir: Path) -> dict[str, Any]:
    """summary.json, {} for a run that has not come to its end."""
    return read_json(run_dir / "summary.json")


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, but for a last one that a kill or a full disk cut off."""
    return [json.loads(line) for line in _whole_lines(run_dir / "metrics.jsonl")]


def read_looks(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of diagnostics.jsonl, as whole as read_metrics's; none of a run without diagnostics."""
    return [json.loads(line) for line in _whole_lines(run_dir / LOOKS)]


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """All or nothing: whoever reads `path`, at whatever moment, finds the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write_line(file: TextIO, content: Mapping[str, Any], path: Path) -> None:
    try:
        file.write(json.dumps(content) + "\n")
        file.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def _whole_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def _lines_up_to(path: Path, step: int | None) -> list[str]:
    return [line for line in _whole_lines(path) if json.loads(line)["step"] <= step] if step is not None else []


def _outcome(error: BaseException) -> tuple[str, str]:
    """State and reason, in one line, of a run that this exception ended."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", "SIGINT"
    if isinstance(error, SystemExit):
        return "interrupted", str(error) if isinstance(error, Stopped) else f"exit {error.code}"
    return "failed", " ".join(f"{type(error).__name__}: {error}".split())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
