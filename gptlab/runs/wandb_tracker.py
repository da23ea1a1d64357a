"""One run in Weights & Biases: the mode is decided early, nothing ever prompts, hangs or stops the training."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from gptlab.config import ConfigError
from gptlab.runs.metrics import METRICS

MODES = ("online", "offline", "disabled")
INIT_TIMEOUT = 20  # seconds until an unreachable server is an error
FINISH_TIMEOUT = 30  # seconds for the last uploads; without a limit a lost network blocks the end of the run for ever
EXIT_CODES = {"finished": 0, "diverged": 0, "failed": 1, "interrupted": 255}  # 255 is what W&B itself gives Ctrl-C
# W&B's summary keeps their min and their last value
MINIMA = tuple(metric.key for metric in METRICS.values() if metric.keep_minimum)


@dataclass(frozen=True)
class WandbSettings:
    """Where a run goes. `mode` is what resolve_mode gives; all runs share the folder `dir`/wandb, or WANDB_DIR's."""

    record: ClassVar[str] = "wandb"
    title: ClassVar[str] = "W&B"
    mode: str
    dir: Path
    project: str = "gptlab"
    entity: str | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.project) <= 128 or set(self.project) & set("/\\#?%:"):
            raise ConfigError(f"wandb.project={self.project}: must be 1 to 128 characters, none of them / \\ # ? % :")


@dataclass(frozen=True)
class RunInfo:
    """How W&B lists a run: `name` says what differs, `group` the sweep, `tags` the components (norm=rmsnorm)."""

    name: str
    group: str
    job_type: str = "train"
    tags: Sequence[str] = ()


@dataclass(frozen=True)
class Histogram:
    """Counts in equal bins from `low` to `high`; each tracker has a class of its own for it."""

    low: float
    high: float
    counts: list[int]

    def for_tracker(self, tracker: ModuleType) -> Any:
        n = len(self.counts)
        edges = [self.low + (self.high - self.low) * i / n for i in range(n + 1)]
        return tracker.Histogram(np_histogram=(self.counts, edges))


def for_tracker(metrics: Mapping[str, Any], tracker: ModuleType) -> dict[str, Any]:
    return {k: v.for_tracker(tracker) if isinstance(v, Histogram) else v for k, v in metrics.items()}


def resolve_mode(mode: str | None) -> str:
    """`mode`, else WANDB_MODE, else online if an API key is configured, else offline. Asks neither user nor network."""
    place = "wandb.mode" if mode else "WANDB_MODE"
    wanted = mode or os.environ.get("WANDB_MODE")
    if wanted and wanted not in MODES:
        raise ConfigError(f"{place}={wanted}: must be one of {', '.join(MODES)}")
    if wanted in ("offline", "disabled"):
        return wanted
    if has_api_key():
        return "online"
    if wanted == "online":
        raise ConfigError(f"{place}=online: no API key is configured; run `wandb login` or use wandb.mode=offline")
    return "offline"


def new_id(folder: str) -> str:
    """A readable id for the run in `folder`, which no other run of that name, elsewhere or earlier, shares."""
    readable = re.sub(r"[^\w.-]+", "-", folder, flags=re.ASCII)
    return f"{readable[:55]}-{secrets.token_hex(4)}"


def agents_run_id() -> str | None:
    """The id of the run that `wandb agent` has opened for this process; in a sweep wandb takes no other."""
    return os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None


class WandbRun:
    """A started run, online or offline.

    `history` holds the metrics of a resumed run up to its checkpoint. They are logged again where the server does not
    have them, so that an offline run is whole in one folder and syncs as if it had never been killed.

    After the start, trouble with W&B never stops the training: it is kept in `error`, and where() tells it.
    """

    def __init__(
        self,
        settings: WandbSettings,
        info: RunInfo,
        run_id: str,
        config: Mapping[str, Any],
        history: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        self.error: str | None = None
        folder = _wandb_dir(settings)
        self._run = _init(settings, info, run_id, config, folder)
        self._url: str | None = self._run.url
        self._folder = Path(os.path.relpath(self._run.dir)).parent
        _define_axes(self._run)
        if not self._run.resumed:
            for metrics in history:
                self.log(metrics)
            self._remove_superseded(folder, run_id)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Without W&B's own step=, which would drop what a resumed run logs; the x axis is `tokens`."""
        if self.error:
            return
        try:
            self._run.log(for_tracker(metrics, import_wandb()))
        except Exception as error:
            self._give_up(error)

    def finish(self, state: str, summary: Mapping[str, Any]) -> None:
        if self.error:
            return
        try:
            final = {f"final/{k}": summary[k] for k in MINIMA if k in summary}  # a number, which W&B can draw as a bar
            others = {k: v for k, v in summary.items() if k not in MINIMA}
            self._run.summary.update({"state": state} | others | final)
            self._run.finish(exit_code=EXIT_CODES[state])
        except TimeoutError:
            command = f"`wandb sync --include-online {self._folder}`"
            self.error = f"not all was uploaded in {FINISH_TIMEOUT} s; {command} sends it"
        except Exception as error:
            self._give_up(error)

    def where(self) -> str:
        """One line for the user: the run's address, the command that uploads it, or what went wrong."""
        return self.error or self._url or f"`wandb sync {self._folder}`"

    def _give_up(self, error: Exception) -> None:
        self.error = f"W&B stopped ({type(error).__name__}: {one_line(error)}); metrics.jsonl holds the whole run"
        with contextlib.suppress(Exception):
            import_wandb().teardown()  # the service is gone; the next run of this process starts a new one

    def _remove_superseded(self, folder: Path, run_id: str) -> None:
        for old in (folder / "wandb").glob(f"offline-run-*-{run_id}"):
            if not self.error and not old.samefile(self._folder):
                shutil.rmtree(old)


def import_wandb() -> ModuleType:
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it looks up a host even for an offline run
    os.environ.setdefault("WANDB_SILENT", "true")  # exceptions still come; the command line says where the run is
    import wandb

    return wandb


def has_api_key(place: str = "wandb.mode=online", mend: str = "run `wandb login` or use wandb.mode=offline") -> bool:
    """Whether wandb would find credentials for its server: environment, netrc or settings files."""
    import_wandb()
    from wandb.errors import AuthenticationError
    from wandb.sdk import wandb_setup
    from wandb.sdk.lib import wbauth

    # Not wandb.login(prompt=False), which asks the server, nor wandb.setup(), whose service every child would inherit.
    host = wandb_setup.singleton().settings.base_url
    try:
        return wbauth.authenticate_session(host=host, source="gptlab", prompt=False, update_session=False) is not None
    except AuthenticationError as error:
        raise ConfigError(f"{place}: {error}; {mend}") from error


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
            config=dict(config),
            resume="allow",
            reinit="create_new",  # leaves a run that a notebook has open alone
            settings=wandb.Settings(
                console="off",
                init_timeout=INIT_TIMEOUT,
                finish_timeout=FINISH_TIMEOUT,
                finish_timeout_raises=True,
                x_transaction_log_flush_interval=1,  # seconds; of the default 15 all would be lost with a kill
            ),
        )
    except wandb.errors.Error as error:
        rule = f"W&B does not take the run ({one_line(error)})"
        raise ConfigError(f"wandb.mode={settings.mode}: {rule}; use wandb.mode=offline, then `wandb sync`") from error


def _define_axes(run: Any) -> None:
    run.define_metric("tokens")
    run.define_metric("*", step_metric="tokens")
    for name in MINIMA:
        run.define_metric(name, step_metric="tokens", summary="min,last")


def one_line(error: Exception) -> str:
    """What an error says, without its line breaks."""
    return " ".join(str(error).split())
