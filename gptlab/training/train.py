"""A run, from its config to its record."""

import hashlib
from pathlib import Path
from typing import Any

from rich.console import Console

from gptlab.config import ConfigError, Settings, as_settings, read_yaml, to_yaml
from gptlab.config.diff import diff_from_baseline
from gptlab.config.overrides import typed
from gptlab.config.user_files import ComponentError, blame, files_of
from gptlab.data import AnyDataset
from gptlab.distributed import find_processes
from gptlab.files import read_json, write_json
from gptlab.model.build import build_init
from gptlab.model.match_cost import CostMatch
from gptlab.runs import checkpoint
from gptlab.runs.environment import environment
from gptlab.runs.folder import components_of, use_files
from gptlab.runs.lock import locked
from gptlab.runs.record import (
    NoRecorder,
    Recorder,
    read_status,
    read_summary,
    record_again,
    write_run_files,
)
from gptlab.runs.run_label import RunLabel, label_of
from gptlab.runs.signals import Stop
from gptlab.runs.states import OUTCOMES
from gptlab.runs.trackers import RunInfo
from gptlab.runs.wandb_tracker import agents_run_id
from gptlab.training.prepare import (
    Memo,
    PreparedRun,
    folder_of,
    match_to_baseline,
    prepare_matched,
    tracker_settings,
)
from gptlab.training.progress import Display, headline
from gptlab.training.trainer import Trainer


def train(cfg: Settings, *, quiet: bool = False, job_type: str = "train", memo: Memo | None = None) -> dict[str, Any]:
    """Train the run that `cfg` describes, or resume it; return its summary, with `run_dir` in it.

    A run that has ended already is not run again: its summary is returned.

    Args:
        cfg: a config as load_config returns it.
        quiet: print nothing.
        job_type: the run's job type in W&B.
        memo: the results of `prepare` for other configs.

    Raises:
        ConfigError: if the config cannot be satisfied, before anything is written in the run's folder.
        ComponentError: if a component of the user's failed while training; its cause is the error itself.
    """
    memo = memo or Memo()
    return train_matched(*match_to_baseline(as_settings(cfg), memo), quiet=quiet, job_type=job_type, memo=memo)


def train_matched(
    cfg: Settings,
    match: CostMatch | None,
    *,
    quiet: bool = False,
    job_type: str = "train",
    memo: Memo | None = None,
    label: RunLabel | None = None,
) -> dict[str, Any]:
    """Train a run whose config `match_to_baseline` has returned; `train` explains the rest.

    `label` is what the tracker says of the run; None if no sweep has given one.
    """
    memo = memo or Memo()
    label = label or label_of(cfg)
    processes = find_processes(cfg)
    console = Console(quiet=quiet or not processes.is_first)
    folder = folder_of(cfg, memo)
    if done := _outcome(folder):  # known before a text is opened
        address = _report_to_agent(cfg, folder, job_type, label) if processes.is_first else None
        line = f"{_closing_lines(done, folder, address)} has ended already; delete it to run again"
        console.print(line, markup=False, highlight=False, soft_wrap=True)
        return done
    run = prepare_matched(cfg, match, memo=memo)
    folder = run.folder  # another one if the text has been replaced in the meantime
    with processes.joined(run.device.device), processes.on_rank0(locked(folder)), Stop() as stop:
        last = folder / "checkpoint" / checkpoint.LAST
        done, resumes = processes.broadcast((_outcome(folder), last.exists()))
        if done:  # another process has run it in the meantime
            return done
        if resumes:
            _refuse_other_tokens(folder, run.dataset)
        trainer = Trainer(run)
        resumed = trainer.restore(last) if resumes else None
        if run.start and resumed is None:
            run.start.apply(trainer.model)
        recorder: Recorder = NoRecorder()
        if processes.is_first:
            _write_before(run, trainer)
            info = run_info(run.cfg, job_type, label, folder)
            config = _recorded(run.cfg, label)
            recorder = Recorder(folder, config=config, settings=run.tracker, info=info, resume_step=resumed)
        with Display(console, run.budget.steps or run.budget.seconds or 1) as display, recorder:
            _print_header(display, run, trainer, resumed)
            try:
                summary = trainer.run(recorder, display, folder, stop)
            except Exception as e:
                if place := blame(e):
                    raise ComponentError(place) from e
                raise
            display.line(_closing_lines(summary, folder, recorder.tracker_hint()))
    return summary | {"run_dir": str(folder)}


def _outcome(folder: Path) -> dict[str, Any] | None:
    """Return the summary of a run that has ended, or None for any other."""
    state = read_status(folder).get("state")
    return {"state": state, **read_summary(folder), "run_dir": str(folder)} if state in OUTCOMES else None


def _refuse_other_tokens(folder: Path, dataset: AnyDataset) -> None:
    """Reject resuming a run with other data, or other tokens of its text, than those it began with."""
    if read_json(folder / "env.json").get("data_hash") != dataset.hash:
        raise ConfigError(f"{folder}: began with another text; restore that text, or delete the folder")
    if dataset.tokenizer and read_json(folder / "tokenizer.json") != dataset.tokenizer.to_json():
        raise ConfigError(f"{folder}: began with another tokenizer; restore its file, or delete the folder")


def _print_header(display: Display, run: PreparedRun, trainer: Trainer, resumed: int | None) -> None:
    cfg, cost, data = run.cfg, run.budget.cost, run.dataset
    display.line(f"run      {run.folder}")
    display.line(
        f"model    {cost['parameters']:,.0f} parameters, {cost['parameters_non_embedding']:,.0f} without embeddings;"
        f" {cost['flops_per_token'] / 1e6:,.2f} MFLOPs per token"
    )
    if hasattr(init := build_init(cfg), "describe"):
        display.line(f"init     {init.describe()}")
    if run.match:
        display.line(f"match    {run.match.describe()}")
    tokens = f", {cfg.tokenizer.name} tokens" if data.tokenizer else ""
    display.line(f"data     {cfg.data.name}{tokens}: {data.describe()}")
    display.line(f"budget   {run.budget.describe()}")
    partly = " (loss only)" if trainer.objective.compiled == "loss only" else ""
    display.line(f"machine  {run.device.describe()}{partly}{run.processes.describe()}")
    for line in run.start.describe() if run.start else []:
        display.line(f"start    {line}")
    if resumed is not None:
        display.line(f"resumed  after step {resumed:,}")


def _closing_lines(summary: dict[str, Any], folder: Path, address: str | None) -> str:
    if summary["state"] == "diverged":
        outcome = f"diverged at step {summary['diverged_step']:,}; lower optimizer.lr, or lengthen schedule.warmup"
    else:
        outcome = headline(summary)
    speed = f"{summary['speed/tokens_per_s']:,.0f} tokens/s" if summary["speed/tokens_per_s"] else ""
    lines = [f"{outcome}  {speed}", f"{folder}"]
    return "\n".join(lines + ([address] if address else []))


def _write_before(run: PreparedRun, trainer: Trainer) -> None:
    """Write the files that are known before the first step."""
    overrides = [f"{k}={typed(v)}" for k, v in diff_from_baseline(run.cfg).items()]
    env = environment(run.dataset.hash, components_of(run.cfg))
    env |= {"device": str(run.device.device), "precision": run.device.precision}
    if run.dataset.tokenizer:
        env["tokenizer_hash"] = hashlib.sha256(run.dataset.content["tokenizer"].encode()).hexdigest()
    why = run.device.why_compile
    if trainer.objective.compiled == "loss only":
        why += "; the model loops over time, which torch.compile unrolls"
    env |= {"compiled": trainer.objective.compiled, "compiled_why": why}
    if run.start:
        env["init_from"] = run.start.record()
    if run.match:
        env["match"] = run.match.record()
    write_run_files(run.folder, to_yaml(run.cfg), overrides, env, files_of(use_files(run.cfg)))
    if run.dataset.tokenizer:
        write_json(run.folder / "tokenizer.json", run.dataset.tokenizer.to_json())


def _report_to_agent(cfg: Settings, folder: Path, job_type: str, label: RunLabel) -> str | None:
    """Copy a run that has ended into the run that `wandb agent` has opened for it; return its address.

    Without this the agent's run would stay empty.
    """
    if not (run_id := agents_run_id()):
        return None
    settings, config = tracker_settings(cfg), _recorded(read_yaml(folder / "config.yaml"), label)
    info = run_info(cfg, job_type, label, folder)
    return record_again(folder, config=config, settings=settings, info=info, run_id=run_id)


def _recorded(cfg: Settings, label: RunLabel) -> dict[str, Any]:
    """Return the config as trackers get it: with the arm, by which their dashboards group the seeds."""
    return {"arm": label.arm, **cfg}


def run_info(cfg: Settings, job_type: str, label: RunLabel, folder: Path) -> RunInfo:
    """Return how a tracker lists a run."""
    group = f"{cfg.name}/{cfg.rung}" if cfg.rung else cfg.name
    return RunInfo(name=label.name, group=group, job_type=job_type, tags=label.tags, notes=label.notes, folder=folder)
