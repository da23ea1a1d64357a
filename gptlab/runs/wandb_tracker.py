"""One run in Weights & Biases. The mode is decided early; nothing prompts, hangs or stops the training."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from gptlab.config import ConfigError
from gptlab.files import require_writable
from gptlab.runs.states import OUTCOMES, RunState
from gptlab.runs.trackers import MINIMA, RunInfo, Tracker, one_line, with_histograms

DEFAULT_PROJECT = "gptlab"
TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
OWN = {
    "WANDB_ERROR_REPORTING": "false",  # it looks up a host even for an offline run
    "WANDB_HTTP_TIMEOUT": "10",  # seconds until a question to an unreachable server is an error, by default 19
    "WANDB_SILENT": "true",  # exceptions are still raised; gptlab prints where the run is
}
SAMPLES = "samples"  # the table of texts
COMPONENTS = "components"  # subfolder of a run's folder with the user's files
SEARCH = "tune"  # job type of runs that search a learning rate, among which some are meant to diverge
MODES = ("online", "offline", "disabled")
INIT_TIMEOUT = 20  # seconds until an unreachable server is an error
FINISH_TIMEOUT = 30  # seconds for the last uploads; without a limit a lost network would block the end of the run
WEIGHTS_TIMEOUT = 600  # the same with the weights
EXIT_CODES = {  # 255 is what W&B itself gives Ctrl-C
    RunState.FINISHED: 0,
    RunState.DIVERGED: 0,
    RunState.FAILED: 1,
    RunState.INTERRUPTED: 255,
}


@dataclass(frozen=True)
class WandbSettings:
    """The settings of W&B. `mode` comes from resolve_mode; all runs share the folder WANDB_DIR, or else `dir`/wandb."""

    status_key: ClassVar[str] = "wandb"
    title: ClassVar[str] = "W&B"
    mode: str
    dir: Path
    project: str = DEFAULT_PROJECT
    entity: str | None = None
    code: bool = True  # whether the user's component files are sent
    checkpoint: bool = False  # whether the best weights are sent

    def __post_init__(self) -> None:
        if not 0 < len(self.project) <= 128 or set(self.project) & set("/\\#?%:"):
            raise ConfigError(f"wandb.project={self.project}: must be 1 to 128 characters, none of them / \\ # ? % :")
        if self.mode != "disabled":
            _check_environment()
            if folder := os.environ.get("WANDB_DIR"):
                require_writable(Path(folder) / "wandb" / "run", f"WANDB_DIR={folder}")

    def start(
        self, info: RunInfo, run_id: str, config: Mapping[str, Any], history: Iterable[Mapping[str, Any]] = ()
    ) -> "WandbRun | None":
        """Start a run, or continue the one with that id; None if W&B is disabled."""
        return WandbRun(self, info, run_id, config, history) if self.mode != "disabled" else None


def resolve_mode(mode: str | None) -> str:
    """Return `mode`, else WANDB_MODE or WANDB_DISABLED, else online if an API key is configured, else offline.

    Asks neither the user nor the network. Raises ConfigError for an unknown mode, and for online without a key.
    """
    source = "wandb.mode" if mode else "WANDB_MODE"
    wanted = mode or os.environ.get("WANDB_MODE") or ("disabled" if _disabled_in_environment() else None)
    if wanted and wanted not in MODES:
        raise ConfigError(f"{source}={wanted}: must be one of {', '.join(MODES)}")
    if wanted in ("offline", "disabled"):
        return wanted
    if has_api_key():
        return "online"
    if wanted == "online":
        raise ConfigError(f"{source}=online: no API key is configured; run `wandb login` or use wandb.mode=offline")
    return "offline"


def resolve_project(project: str | None) -> str:
    """Return `project`, else WANDB_PROJECT, else gptlab."""
    return project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT


def _disabled_in_environment() -> bool:
    text = os.environ.get("WANDB_DISABLED", "").lower()
    if text not in ("", *TRUE, *FALSE):
        raise ConfigError(f"WANDB_DISABLED={text}: must be true or false; WANDB_MODE=disabled does the same")
    return text in TRUE


def _check_environment() -> None:
    """Refuse a WANDB_* variable that wandb would reject once the run has begun; an empty one is as none."""
    for name in [name for name, value in os.environ.items() if name.startswith("WANDB_") and not value]:
        del os.environ[name]
    wandb = import_wandb()
    for name, value in os.environ.items():
        if name.startswith("WANDB_"):
            try:
                wandb.Settings().update_from_env_vars({name: value})
            except Exception as error:  # pydantic's, and others of wandb's own
                reason = error.errors()[0]["msg"] if hasattr(error, "errors") else one_line(error)
                raise ConfigError(f"{name}={value}: W&B rejects it ({reason}); correct or unset it") from error


def new_id(folder: str) -> str:
    """Return a readable id for the run in `folder`, different from that of any other run in a folder of this name."""
    readable = re.sub(r"[^\w.-]+", "-", folder, flags=re.ASCII)
    return f"{readable[:55]}-{secrets.token_hex(4)}"


def agents_run_id() -> str | None:
    """Return the id of the run that `wandb agent` opened for this process; in a W&B sweep wandb accepts no other."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


class WandbRun(Tracker):
    """A started run, online or offline.

    `history` holds the metrics of a resumed run up to its checkpoint. They are logged again where the server does not
    have them, so that an offline run is whole in one folder and syncs as if it had never been killed.
    """

    def __init__(
        self,
        settings: WandbSettings,
        info: RunInfo,
        run_id: str,
        config: Mapping[str, Any],
        history: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        folder = _wandb_dir(settings)
        self._settings, self._info = settings, info
        self._run = _init(settings, info, run_id, config, folder)
        self._url: str | None = self._run.url
        self._folder = Path(os.path.relpath(self._run.dir)).parent
        _define_axes(self._run)
        if settings.code and info.folder and (info.folder / COMPONENTS).is_dir():
            self._beside("code", self._send_code, info.folder / COMPONENTS)
        if not self._run.resumed:
            for metrics in history:
                self.log(metrics)
            self._remove_superseded(folder, run_id)

    def _log(self, metrics: Mapping[str, Any]) -> None:
        """Log without W&B's own step=, which would drop what a resumed run logs; the x axis is `tokens`."""
        self._run.log(with_histograms(metrics, import_wandb()))

    def _log_sample(self, row: Mapping[str, Any]) -> None:
        table = import_wandb().Table(columns=list(row), data=[list(row.values())])
        self._run.log({"step": row["step"], SAMPLES: table})

    def _send_code(self, folder: Path) -> None:
        self._run.log_code(folder, name=f"components-{self._run.id}")

    def _send_weights(self, folder: Path) -> None:
        from gptlab.runs.checkpoint import BEST  # with torch, which a command that only reads does without

        file = folder / "checkpoint" / BEST
        if not file.exists():
            return
        artifact = import_wandb().Artifact(f"weights-{self._run.id}", "model")
        artifact.add_file(file, policy="immutable", skip_cache=True)  # without a copy in the home folder
        self._run.log_artifact(artifact, aliases=["best"])

    def _send_alert(self, summary: Mapping[str, Any]) -> None:
        level = import_wandb().AlertLevel.WARN
        text = f"{self._info.group}: the loss was not finite at step {summary.get('diverged_step')}"
        self._run.alert(f"{self._info.name} diverged", text, level=level)

    def _finish(self, state: RunState, summary: Mapping[str, Any]) -> None:
        if state == RunState.DIVERGED and self._info.job_type != SEARCH:
            self._beside("alert", self._send_alert, summary)
        if self._settings.checkpoint and self._info.folder and state in OUTCOMES:
            self._beside("weights", self._send_weights, self._info.folder)
        try:
            final = {f"final/{k}": summary[k] for k in MINIMA if k in summary}  # a number, which W&B can draw as a bar
            others = {k: v for k, v in summary.items() if k not in MINIMA and not isinstance(v, list)}
            self._run.summary.update({"state": state.value} | others | final)
            self._run.finish(exit_code=EXIT_CODES[state])
        except TimeoutError:
            command = f"`wandb sync --include-online {self._folder}`"
            self.error = f"not all was uploaded in {_finish_timeout(self._settings)} s; {command} sends it"

    def _hint(self) -> str:
        return self._url or f"`wandb sync {self._folder}`"

    def _give_up(self, error: Exception) -> None:
        super()._give_up(error)
        with contextlib.suppress(Exception):
            import_wandb().teardown()  # its service has died; the next run of this process starts a new one

    def _remove_superseded(self, folder: Path, run_id: str) -> None:
        """Delete earlier offline folders of this run, whose content the new one has."""
        for old in (folder / "wandb").glob(f"offline-run-*-{run_id}"):
            if not self.error and not old.samefile(self._folder):
                shutil.rmtree(old)


def import_wandb() -> ModuleType:
    """Import wandb with error reports and messages off."""
    for name, value in OWN.items():
        os.environ.setdefault(name, value)
    import wandb

    return wandb


def has_api_key(source: str = "wandb.mode=online", fix: str = "run `wandb login` or use wandb.mode=offline") -> bool:
    """Return whether wandb would find credentials for its server: environment, netrc or settings files.

    Raises ConfigError for credentials that wandb rejects.
    """
    import_wandb()
    from wandb.errors import AuthenticationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    _check_environment()
    # Not wandb.login(prompt=False), which asks the server, nor wandb.setup(), whose service every child would inherit.
    host = wandb_setup.singleton().settings.base_url
    try:
        return wbauth.authenticate_session(host=host, source="gptlab", prompt=False, update_session=False) is not None
    except AuthenticationError as error:
        raise ConfigError(f"{source}: {error}; {fix}") from error


def _wandb_dir(settings: WandbSettings) -> Path:
    folder = Path(os.environ.get("WANDB_DIR") or settings.dir).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):  # wandb would write to /tmp instead
        raise ConfigError(f"WANDB_DIR={folder}: must be a folder that can be written to; unset it to use runs_dir")
    return folder


def _init(settings: WandbSettings, info: RunInfo, run_id: str, config: Mapping[str, Any], folder: Path) -> Any:
    wandb = import_wandb()
    try:
        return wandb.init(
            mode=settings.mode,
            dir=folder,
            project=settings.project,
            entity=settings.entity,
            id=run_id,
            name=info.name[:128],
            group=info.group[:128],
            job_type=info.job_type,
            tags=[tag[:64] for tag in info.tags],
            notes=info.notes,
            config=dict(config),
            resume="allow",
            reinit="create_new",  # does not touch a run that a notebook has open
            settings=wandb.Settings(
                console="off",
                init_timeout=INIT_TIMEOUT,
                finish_timeout=_finish_timeout(settings),
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=1,  # seconds; a kill loses up to this much, by default 15
            ),
        )
    except wandb.errors.Error as error:
        rule = f"W&B rejected the run ({one_line(error)})"
        raise ConfigError(f"wandb.mode={settings.mode}: {rule}; use wandb.mode=offline, then `wandb sync`") from error


def _finish_timeout(settings: WandbSettings) -> int:
    return WEIGHTS_TIMEOUT if settings.checkpoint else FINISH_TIMEOUT


def _define_axes(run: Any) -> None:
    run.define_metric("tokens")
    run.define_metric("*", step_metric="tokens")
    if agents_run_id():  # W&B steers its sweep by plain numbers, not by a minimum beside the last value
        return
    for name in MINIMA:
        run.define_metric(name, step_metric="tokens", summary="min,last")
