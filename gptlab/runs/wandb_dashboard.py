"""A dashboard in W&B: a saved workspace and a report, with runs grouped by arm and a mean and band over the seeds."""

import importlib
import importlib.util
from typing import Any

from gptlab.config import ConfigError
from gptlab.runs.metrics import METRICS
from gptlab.runs.wandb_api import blaming_wandb, connect, owner_of

DRAWN = tuple(metric.key for metric in METRICS.values() if metric.in_dashboard)
AXES = {"tokens": "tokens", "cost/flops": "FLOPs", "seconds": "seconds of training"}
PINNED_COLUMNS = ("config:arm.value", *(f"summary:final/{m}" for m in DRAWN), "summary:parameters")
TRAINING = ("train", "sweep")  # job types; tuning runs are left out
BAND: Any = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}
MAX_ARMS = 100  # arms in one panel; W&B's default is 10
FULL_WIDTH = 24  # columns of a report's grid


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
    """Return line plots: a row per metric, a column per axis."""
    wr = _reports()
    width = FULL_WIDTH // len(AXES)
    return [
        wr.LinePlot(
            title=f"{metric} against {label}",
            x=axis,
            y=[metric],
            title_x=label,
            smoothing_type="none",
            max_runs_to_show=MAX_ARMS,
            layout=wr.Layout(x=column * width, y=row * width, w=width, h=width),
            **BAND,
        )
        for row, metric in enumerate(DRAWN)
        for column, (axis, label) in enumerate(AXES.items())
    ]


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
            ws.Section(name="Validation", panels=_curves(), is_open=True),
            ws.Section(name="At the end", panels=_bars(), is_open=True, layout_settings=ws.SectionLayoutSettings(2, 1)),
            ws.Section(
                name="Differences between the configs",
                panels=[_differences()],
                is_open=True,
                layout_settings=ws.SectionLayoutSettings(1, 1),
            ),
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
            wr.H2("Validation"),
            wr.PanelGrid(runsets=[runs("arms", arms)], panels=_curves()),
            wr.H2("At the end"),
            wr.PanelGrid(runsets=[runs("arms", arms)], panels=_bars()),
            wr.H2("Differences between the configs"),
            wr.PanelGrid(runsets=[runs("runs", [])], panels=[_differences()]),
        ],
    )
