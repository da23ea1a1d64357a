"""A dashboard in W&B: a saved workspace and a report, with runs grouped by arm and a mean and band over the seeds."""

import importlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gptlab.config import ConfigError
from gptlab.runs.metrics import METRICS
from gptlab.runs.wandb_api import blaming_wandb, connect, owner_of
from gptlab.runs.wandb_tracker import SAMPLES

DRAWN = tuple(metric.key for metric in METRICS.values() if metric.in_dashboard)
AXES = {"tokens": "tokens", "cost/flops": "FLOPs", "seconds": "seconds of training"}
PINNED_COLUMNS = ("config:arm.value", *(f"summary:final/{m}" for m in DRAWN), "summary:parameters")
TRAINED = ("train/loss", "train/grad_norm", "train/lr")
SPEED = ("speed/tokens_per_s",)
# One panel each, with a line per layer: what diagnostics=basic, the default, logs.
BY_LAYER = {
    "stream_rms": "root mean square of the residual stream",
    "grad_norm": "gradient norm",
    "weight_norm": "weight norm",
    "update_ratio": "log10 of update over weight",
}
TRAINING = ("train", "sweep")  # job types; tuning runs are left out
BAND: Any = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
MAX_ARMS = 100  # arms in one panel; W&B's default is 10
FULL_WIDTH = 24  # columns of a report's grid


@dataclass(frozen=True)
class _Part:
    """A part of the workspace and of the report."""

    title: str
    panels: list[Any]
    columns: int = 3  # of panels in the workspace
    of_runs: bool = False  # in the report, whether it shows single runs in place of arms


def save_dashboard(entity: str | None, project: str, name: str | None) -> tuple[str, str]:
    """Save a new workspace and a new report, for the sweep `name` or for all sweeps; return their two addresses.

    Raises ConfigError if W&B cannot be reached or rejects them.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError("dashboard: needs wandb-workspaces; pip install 'gptlab[dashboard]'")
    api = connect("dashboard")
    with blaming_wandb("dashboard", "check the network, the key and --entity"):
        owner = owner_of(api, entity)
        if all(project != known.name for known in api.projects(owner)):
            raise ConfigError(f"--project={project}: {owner} has no such project; train a run in it first")
        workspace = _workspace(owner, project, name).save()
        report = _report(owner, project, name).save()
        return workspace.url, report.url


def _reports() -> Any:
    """Import the library that builds reports; it has no types."""
    return importlib.import_module("wandb_workspaces.reports.v2")


def _title(name: str | None) -> str:
    return f"gptlab {name}"[:128] if name else "gptlab"


def _curves() -> list[Any]:
    """Return line plots: a row per metric, a column per axis; so val/loss against tokens comes first."""
    return [
        _curve((row, column), f"{metric} against {label}", x=axis, y=[metric], title_x=label)
        for row, metric in enumerate(DRAWN)
        for column, (axis, label) in enumerate(AXES.items())
    ]


def _curves_of(metrics: Sequence[str]) -> list[Any]:
    """Return a row of line plots against tokens, one for each metric."""
    return [_curve((0, i), metric, x="tokens", y=[metric], title_x="tokens") for i, metric in enumerate(metrics)]


def _layers() -> list[Any]:
    """Return line plots of the diagnostics, with a line for each layer."""
    return [
        _curve(divmod(i, 2), f"{title}, by layer", x="tokens", metric_regex=f"^{name}/[0-9]+$", title_x="tokens")
        for i, (name, title) in enumerate(BY_LAYER.items())
    ]


def _curve(place: tuple[int, int], title: str, **options: Any) -> Any:
    """Return a line plot at a row and a column of the grid."""
    wr, width = _reports(), FULL_WIDTH // len(AXES)
    layout = wr.Layout(x=place[1] * width, y=place[0] * width, w=width, h=width)
    return wr.LinePlot(title=title, smoothing_type="none", max_runs_to_show=MAX_ARMS, layout=layout, **options, **BAND)


def _bars() -> list[Any]:
    wr = _reports()
    width = FULL_WIDTH // len(DRAWN)
    return [
        wr.BarPlot(
            title=f"{metric} at the end",
            metrics=[f"final/{metric}"],
            max_runs_to_show=MAX_ARMS,
            max_bars_to_show=MAX_ARMS,
            layout=wr.Layout(x=column * width, y=0, w=width, h=8),
            **BAND,
        )
        for column, metric in enumerate(DRAWN)
    ]


def _differences() -> Any:
    wr = _reports()
    return wr.RunComparer(diff_only=True, layout=wr.Layout(x=0, y=0, w=FULL_WIDTH, h=12))


def _texts() -> Any:
    wr = _reports()
    return wr.WeavePanelSummaryTable(table_name=SAMPLES, layout=wr.Layout(x=0, y=0, w=FULL_WIDTH, h=12))


def _parts() -> list[_Part]:
    """Return the parts of the workspace and the report, in their order."""
    return [
        _Part("Validation", _curves()),
        _Part("At the end", _bars(), columns=2),
        _Part("Training", _curves_of(TRAINED)),
        _Part("Speed", _curves_of(SPEED)),
        _Part("Diagnostics", _layers()),
        _Part("Samples of text", [_texts()], columns=1, of_runs=True),
        _Part("Differences between the configs", [_differences()], columns=1, of_runs=True),
    ]


def _filters(name: str | None) -> list[Any]:
    """Return the filters that select the runs of the sweep `name`, or of all sweeps."""
    from wandb_workspaces import expr

    sweep = [expr.Metric("Group") == name] if name else []
    return [*sweep, expr.Metric("JobType").isin(list(TRAINING))]


def _workspace(entity: str, project: str, name: str | None) -> Any:
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    arm = expr.Config("arm")
    return ws.Workspace(
        entity=entity,
        project=project,
        name=_title(name),
        sections=[
            ws.Section(
                name=part.title,
                panels=part.panels,
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(part.columns, -(-len(part.panels) // part.columns)),
            )
            for part in _parts()
        ],
        settings=ws.WorkspaceSettings(x_axis="tokens", max_runs=MAX_ARMS),
        runset_settings=ws.RunsetSettings(
            filters=_filters(name),
            groupby=[arm] if name else [expr.Metric("Group"), arm],  # an arm's name is unique within its sweep only
            pinned_columns=list(PINNED_COLUMNS),
        ),
    )


def _report(entity: str, project: str, name: str | None) -> Any:
    wr = _reports()

    def runs(label: str, groupby: list[str]) -> Any:
        return wr.Runset(entity=entity, project=project, name=label, filters=_filters(name), groupby=groupby)

    arms = ["config.arm"] if name else ["group", "config.arm"]
    return wr.Report(
        entity=entity,
        project=project,
        title=_title(name),
        description="Lines and bars are means over an arm's seeds; the bands are one standard deviation to each side.",
        width="fluid",
        blocks=[
            block
            for part in _parts()
            for block in (
                wr.H2(part.title),
                wr.PanelGrid(runsets=[runs("runs", []) if part.of_runs else runs("arms", arms)], panels=part.panels),
            )
        ],
    )
