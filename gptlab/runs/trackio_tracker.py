"""One run in Trackio, the local tracker: the same names and numbers that W&B gets, compared in its own dashboard."""

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
from gptlab.runs.wandb_tracker import MINIMA, RunInfo, for_tracker, one_line


@dataclass(frozen=True)
class TrackioSettings:
    """Where a run goes: the folder `dir`/trackio, or TRACKIO_DIR's. Made only where Trackio is installed."""

    record: ClassVar[str] = "trackio"
    title: ClassVar[str] = "Trackio"
    dir: Path
    project: str = "gptlab"

    def __post_init__(self) -> None:
        if importlib.util.find_spec("trackio") is None:
            raise ConfigError("record=trackio: needs Trackio; pip install 'gptlab[trackio]', or use record=wandb")


class TrackioRun:
    """A started run. What the store has of it from before is replaced by `history`, its metrics up to the checkpoint.

    After the start, trouble with Trackio never stops the training: it is kept in `error`, and where() tells it.
    """

    def __init__(
        self,
        settings: TrackioSettings,
        info: RunInfo,
        run_id: str,
        config: Mapping[str, Any],
        history: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.error: str | None = None
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
            self._forget(run_id)
            self._run = self._start(info, run_id, config)
        except Exception as error:
            rule = f"Trackio does not take the run ({one_line(error)})"
            raise ConfigError(f"TRACKIO_DIR={self._folder}: {rule}; give another, or use record=wandb") from error
        for metrics in history:
            self.log(metrics)

    def _start(self, info: RunInfo, run_id: str, config: Mapping[str, Any]) -> Any:
        class Run(self._trackio.run.Run):  # type: ignore[name-defined]
            def _get_username(self) -> None:
                """Not asked for: Trackio asks Hugging Face over the network, and waits for the answer."""

        # Not trackio.init: that joins runs by their name, which two sweeps may share, and ends a notebook's own run.
        return Run(
            url=None,
            project=self._project,
            client=None,
            name=info.name,
            run_id=run_id,
            group=info.group,
            config=dict(config),
        )

    def _forget(self, run_id: str) -> None:
        storage = self._trackio.sqlite_storage.SQLiteStorage
        if self._in_fragments():
            self._trackio.fragments.import_inbox_dir()
        if not storage.get_project_db_path(self._project).exists():
            return
        for run in self._trackio.Api().runs(self._project):
            if run.id == run_id and not run.delete():
                raise OSError(f"{self._folder} is not writable, or locked")

    def _in_fragments(self) -> bool:
        """Whether Trackio writes files that its dashboard reads in later, as it does on network filesystems."""
        return self._trackio.utils.get_storage_mode() == "jsonl"

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Queued; a thread of Trackio's writes twice a second."""
        if self.error:
            return
        self._step = int(metrics.get("step", self._step))
        self._logged += 1
        values = for_tracker(metrics, self._trackio)
        values.pop("step", None)  # Trackio's own column
        self._curves |= values.keys()
        try:
            self._run.log(values, step=self._step)
        except Exception as error:
            self._give_up(error)

    def finish(self, state: str, summary: Mapping[str, Any]) -> None:
        """The last evaluation and what of the summary is no curve become points, which Trackio draws as bars."""
        final = {f"final/{k}": summary.get(k) for k in MINIMA}
        others = {k: v for k, v in summary.items() if k not in self._curves}
        points = {k: v for k, v in (others | final).items() if type(v) in (int, float)}
        if points:
            self.log(points)
        if self.error:
            return
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # it says that it finishes
                self._run.finish()
            self._count()
        except Exception as error:
            self._give_up(error)

    def _count(self) -> None:
        """Trackio only warns of what it could not write."""
        if self._in_fragments():
            return
        stored = self._trackio.sqlite_storage.SQLiteStorage.get_log_count(self._project, run_id=self._run.id)
        if stored < self._logged:
            self.error = f"the store has {stored} of {self._logged} lines; metrics.jsonl holds the whole run"

    def where(self) -> str:
        """One line for the user: the command that opens the dashboard, or what went wrong."""
        folder, project = shlex.quote(str(self._folder)), shlex.quote(self._project)
        return self.error or f"`TRACKIO_DIR={folder} trackio show --project {project}`"

    def _give_up(self, error: Exception) -> None:
        self.error = f"Trackio stopped ({type(error).__name__}: {one_line(error)}); metrics.jsonl holds the whole run"


def _import_trackio(folder: Path) -> ModuleType:
    """Trackio reads TRACKIO_DIR once a process, when it is first imported; where() names the folder that it took."""
    os.environ.setdefault("TRACKIO_DIR", str((folder / "trackio").absolute()))
    import trackio
    import trackio.run

    return trackio


def _writable(folder: Path) -> Path:
    """The folder, from here; Trackio would only warn of every line that it cannot write."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ConfigError(f"TRACKIO_DIR={folder}: cannot be written ({error.strerror}); give another") from error
    return Path(os.path.relpath(folder))
