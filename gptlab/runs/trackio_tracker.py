"""One run in Trackio, a local tracker with a dashboard. It gets the same names and numbers as W&B."""

import contextlib
import errno
import importlib.util
import io
import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from gptlab.config import ConfigError
from gptlab.files import require_writable
from gptlab.runs.states import RunState
from gptlab.runs.trackers import MINIMA, RunInfo, Tracker, one_line, with_histograms


@dataclass(frozen=True)
class TrackioSettings:
    """Settings of Trackio; runs go to TRACKIO_DIR or `dir`/trackio. Raises ConfigError if Trackio is not installed."""

    status_key: ClassVar[str] = "trackio"
    title: ClassVar[str] = "Trackio"
    dir: Path
    project: str = "gptlab"

    def __post_init__(self) -> None:
        if importlib.util.find_spec("trackio") is None:
            raise ConfigError("record=trackio: needs Trackio; pip install 'gptlab[trackio]', or use record=wandb")
        if folder := os.environ.get("TRACKIO_DIR"):
            require_writable(Path(folder) / "file", f"TRACKIO_DIR={folder}")

    def start(
        self, info: RunInfo, run_id: str, config: Mapping[str, Any], history: Iterable[Mapping[str, Any]] = ()
    ) -> "TrackioRun":
        """Start a run, or continue the one with that id."""
        return TrackioRun(self, info, run_id, config, history)


class TrackioRun(Tracker):
    """A started run. `history`, its metrics up to the checkpoint, replaces what Trackio's store has of it."""

    def __init__(
        self,
        settings: TrackioSettings,
        info: RunInfo,
        run_id: str,
        config: Mapping[str, Any],
        history: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self._logged = 0  # lines
        self._step = 0
        self._curves: set[str] = set()
        self._project = settings.project
        self._trackio = _import_trackio(settings.dir)
        self._folder = _writable(self._trackio.utils.TRACKIO_DIR)
        try:
            self._trackio.sqlite_storage.SQLiteStorage.validate_project_name(self._project)
        except ValueError as error:
            raise ConfigError(f"wandb.project={self._project}: {one_line(error)}") from error
        try:
            self._delete(run_id)
            self._run = self._start(info, run_id, config)
        except Exception as error:
            rule = f"Trackio rejected the run ({one_line(error)})"
            raise ConfigError(f"TRACKIO_DIR={self._folder}: {rule}; give another, or use record=wandb") from error
        for metrics in history:
            self.log(metrics)

    def _start(self, info: RunInfo, run_id: str, config: Mapping[str, Any]) -> Any:
        # Trackio would ask Hugging Face for the user's name over the network and wait for the answer.
        run_class = type("Run", (self._trackio.run.Run,), {"_get_username": lambda self: None})
        # Not trackio.init, which joins runs of the same name (two sweeps may share one) and ends a notebook's own run.
        return run_class(
            url=None,
            project=self._project,
            client=None,
            name=info.name,
            run_id=run_id,
            group=info.group,
            config=dict(config),
        )

    def _delete(self, run_id: str) -> None:
        """Delete what the store has of this run."""
        storage = self._trackio.sqlite_storage.SQLiteStorage
        if self._in_fragments():
            self._trackio.fragments.import_inbox_dir()
        if not storage.get_project_db_path(self._project).exists():
            return
        for run in self._trackio.Api().runs(self._project):
            if run.id == run_id and not run.delete():
                raise OSError(f"{self._folder} is not writable, or locked")

    def _in_fragments(self) -> bool:
        """Return whether Trackio writes files that its dashboard reads in later, as it does on network filesystems."""
        return bool(self._trackio.utils.get_storage_mode() == "jsonl")

    def _log(self, metrics: Mapping[str, Any]) -> None:
        """Queue a line; a thread of Trackio writes the queue twice a second."""
        self._step = int(metrics.get("step", self._step))
        self._logged += 1
        values = with_histograms(metrics, self._trackio)
        values.pop("step", None)  # Trackio has its own column for it
        self._curves |= values.keys()
        self._run.log(values, step=self._step)

    def _finish(self, state: RunState, summary: Mapping[str, Any]) -> None:
        """Log the last evaluation and the summary's numbers without a curve as points, which Trackio draws as bars."""
        final = {f"final/{k}": summary.get(k) for k in MINIMA}
        others = {k: v for k, v in summary.items() if k not in self._curves}
        points = {k: v for k, v in (others | final).items() if type(v) in (int, float)}
        if points:
            self._log(points)
        with contextlib.redirect_stdout(io.StringIO()):  # Trackio prints that it finishes
            self._run.finish()
        self._check_stored()

    def _check_stored(self) -> None:
        """Report lines that Trackio could not write; it only warns about them itself."""
        if self._in_fragments():
            return
        stored = self._trackio.sqlite_storage.SQLiteStorage.get_log_count(self._project, run_id=self._run.id)
        if stored < self._logged:
            self.error = f"the store has {stored} of {self._logged} lines; metrics.jsonl holds the whole run"

    def _hint(self) -> str:
        folder, project = shlex.quote(str(self._folder)), shlex.quote(self._project)
        return f"`TRACKIO_DIR={folder} trackio show --project {project}`"


def _import_trackio(folder: Path) -> ModuleType:
    """Import Trackio. It reads TRACKIO_DIR once per process, when first imported; the hint names the folder it took."""
    os.environ.setdefault("TRACKIO_DIR", str((folder / "trackio").absolute()))
    import trackio
    import trackio.run

    return trackio


def _writable(folder: Path) -> Path:
    """Return the folder relative to the current one, or raise ConfigError; Trackio would only warn at every line."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(f"TRACKIO_DIR={folder}: cannot be written ({error.strerror}); give another") from error
    return Path(os.path.relpath(folder))
