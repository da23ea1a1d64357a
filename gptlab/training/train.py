"""One run, from its config to its record."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from gptlab.config import SLOTS, AnyConfig, ConfigError, Settings, flatten, plain, registry
from gptlab.config.compose import C, edit, typed
from gptlab.config.diff import differences
from gptlab.data import AnyDataset, Task, load_dataset, open_task
from gptlab.distributed import find_processes
from gptlab.model.build import build_init, slots_missing, slots_used
from gptlab.model.match_cost import CostMatch, apply_cost_match
from gptlab.runs import checkpoint
from gptlab.runs.environment import environment
from gptlab.runs.folder import ENDED, run_dir, use_files
from gptlab.runs.lock import locked
from gptlab.runs.record import (
    NoRecorder,
    Recorder,
    read_json,
    read_status,
    read_summary,
    record_again,
    write_json,
    write_run_files,
)
from gptlab.runs.signals import Stop
from gptlab.runs.trackio_tracker import TrackioSettings
from gptlab.runs.wandb_tracker import RunInfo, WandbSettings, agents_run_id, resolve_mode
from gptlab.training.budget import make_plan
from gptlab.training.device import Machine, choose_machine, keep_freed_memory
from gptlab.training.init_from import Start, plan_start
from gptlab.training.progress import Display, headline
from gptlab.training.trainer import Trainer


def train(cfg: AnyConfig, *, quiet: bool = False, job_type: str = "train") -> dict[str, Any]:
    """Train what `cfg` describes, or go on where it was stopped; returns the summary, with `run_dir` in it.

    A run that has ended already is not run again. Raises ConfigError before anything is written in the run's folder.
    """
    return train_matched(*fair(Settings.of(plain(cfg))), quiet=quiet, job_type=job_type)


def train_matched(
    cfg: Settings, match: CostMatch | None, *, quiet: bool = False, job_type: str = "train"
) -> dict[str, Any]:
    """`train` of what `fair` gave."""
    processes = find_processes(cfg)
    folder = run_dir(cfg)
    console = Console(quiet=quiet or not processes.is_first)
    if done := _outcome(folder):
        where = _tell_the_agent(cfg, folder, job_type) if processes.is_first else None
        told = f"{_closing_lines(done, folder, where)} has ended already; delete it to run again"
        console.print(told, markup=False, highlight=False, soft_wrap=True)
        return done
    settings = tracker_settings(cfg)
    machine = choose_machine(cfg)
    dataset = open_dataset(cfg)
    full: Any = with_vocabulary(cfg, dataset)
    plan = make_plan(full)
    start = plan_start(full, dataset)
    if machine.device.type == "cpu":
        keep_freed_memory()
    with processes.joined(machine.device), processes.by_first(locked(folder)), Stop() as stop:
        last = folder / "checkpoint" / checkpoint.LAST
        done, resumes = processes.of_first((_outcome(folder), last.exists()))
        if done:  # another run of it was quicker
            return done
        if resumes:
            _refuse_another_text(folder, dataset)
        trainer = Trainer(full, plan, machine, dataset, processes)
        resumed = trainer.restore(last) if resumes else None
        if start and resumed is None:
            start.apply(trainer.model)
        recorder: Recorder = NoRecorder()
        if processes.is_first:
            _write_before(folder, full, machine, dataset, start, match)
            info = _wandb_info(full, job_type)
            recorder = Recorder(folder, config=_recorded(full), settings=settings, info=info, resume_step=resumed)
        with Display(console, plan.steps or plan.seconds or 1) as display, recorder:
            _introduce(display, folder, trainer, resumed, start, match)
            summary = trainer.run(recorder, display, folder, stop)
            display.line(_closing_lines(summary, folder, recorder.where()))
    return summary | {"run_dir": str(folder)}


def _outcome(folder: Path) -> dict[str, Any] | None:
    """The summary of a run that has ended."""
    state = read_status(folder).get("state")
    return {"state": state, **read_summary(folder), "run_dir": str(folder)} if state in ENDED else None


def tracker_settings(cfg: AnyConfig) -> WandbSettings | TrackioSettings:
    """Where the run is recorded beside its folder, as `record` says."""
    if cfg.record == "trackio":
        return TrackioSettings(Path(cfg.runs_dir), cfg.wandb.project)
    return WandbSettings(resolve_mode(cfg.wandb.mode), Path(cfg.runs_dir), cfg.wandb.project, cfg.wandb.entity)


def open_dataset(cfg: AnyConfig) -> AnyDataset:
    data = registry.build("data", cfg.data)
    if isinstance(data, Task):
        return open_task(data, cfg)
    dataset = load_dataset(
        data,
        registry.build("tokenizer", cfg.tokenizer),
        window=cfg.data.window,
        val_fraction=cfg.data.val_fraction,
    )
    if dataset.n_val <= (longest := cfg.data.window * max(cfg.eval.lengths)):
        raise ConfigError(
            f"eval.lengths={list(cfg.eval.lengths)}: the val split has {dataset.n_val:,} tokens, no more than"
            f" {longest:,}; set shorter ones"
        )
    return dataset


def with_vocabulary(cfg: C, dataset: AnyDataset) -> C:
    """The config with the vocabulary's size; more than the tokenizer's or the task's is padding, less is refused."""
    size = cfg.model.vocab_size or dataset.vocab_size
    if size < dataset.vocab_size:
        raise ConfigError(
            f"model.vocab_size={size}: {_tokens_of(cfg, dataset)} has {dataset.vocab_size} tokens; give no fewer"
        )
    return edit(cfg, model__vocab_size=size)


def _tokens_of(cfg: AnyConfig, dataset: AnyDataset) -> str:
    return f"tokenizer={cfg.tokenizer.name}" if dataset.tokenizer else f"data={cfg.data.name}"


def fair(cfg: C, dataset: AnyDataset | None = None) -> tuple[C, CostMatch | None]:
    """The config as `match=` makes it, and what that came to."""
    if cfg.match.name == "none":
        return cfg, None
    _, done = apply_cost_match(with_vocabulary(cfg, dataset or open_dataset(cfg)))
    changed = done is not None and done.width != done.width_before
    return edit(cfg, ffn__hidden=done.width) if done and changed else cfg, done


def _refuse_another_text(folder: Path, dataset: AnyDataset) -> None:
    """A run goes on with the text that it began with, or not at all."""
    if read_json(folder / "env.json").get("data_hash") != dataset.hash:
        raise ConfigError(f"{folder}: began with another text than there is now; restore that, or delete the folder")


def _introduce(
    display: Display,
    folder: Path,
    trainer: Trainer,
    resumed: int | None,
    start: Start | None,
    match: CostMatch | None,
) -> None:
    cfg, cost, data = trainer.cfg, trainer.plan.cost, trainer.dataset
    display.line(f"run      {folder}")
    display.line(
        f"model    {cost['parameters']:,.0f} parameters, {cost['parameters_non_embedding']:,.0f} without embeddings;"
        f" {cost['flops_per_token'] / 1e6:,.2f} MFLOPs per token"
    )
    if hasattr(init := build_init(plain(cfg)), "describe"):
        display.line(f"init     {init.describe()}")
    if match:
        display.line(f"match    {match.describe()}")
    tokens = f", {cfg.tokenizer.name} tokens" if data.tokenizer else ""
    display.line(f"data     {cfg.data.name}{tokens}: {data.describe()}")
    display.line(f"budget   {trainer.plan.describe()}")
    display.line(f"machine  {trainer.machine.describe()}{trainer.processes.describe()}")
    for line in start.describe() if start else []:
        display.line(f"start    {line}")
    if resumed is not None:
        display.line(f"resumed  after step {resumed:,}")


def _closing_lines(summary: dict[str, Any], folder: Path, where: str | None) -> str:
    if summary["state"] == "diverged":
        outcome = f"diverged at step {summary['diverged_step']:,}"
    else:
        outcome = headline(summary)
    speed = f"{summary['speed/tokens_per_s']:,.0f} tokens/s" if summary["speed/tokens_per_s"] else ""
    lines = [f"{outcome}  {speed}", f"{folder}"]
    return "\n".join(lines + ([where] if where else []))


def _write_before(
    folder: Path,
    cfg: AnyConfig,
    machine: Machine,
    dataset: AnyDataset,
    start: Start | None,
    match: CostMatch | None,
) -> None:
    overrides = [f"{k}={typed(v)}" for k, v in differences(cfg).items()]
    env = environment(dataset.hash) | {"device": str(machine.device), "precision": machine.precision}
    if start:
        env["init_from"] = start.record()
    if match:
        env["match"] = match.record()
    write_run_files(folder, OmegaConf.to_yaml(OmegaConf.create(plain(cfg))), overrides, env, use_files(cfg))
    if dataset.tokenizer:
        write_json(folder / "tokenizer.json", dataset.tokenizer.to_json())


def _tell_the_agent(cfg: AnyConfig, folder: Path, job_type: str) -> str | None:
    """A run that has ended, told to the run that `wandb agent` opened for it, which would stay empty; says where."""
    if not (run_id := agents_run_id()):
        return None
    settings, config = tracker_settings(cfg), _recorded(OmegaConf.load(folder / "config.yaml"))
    return record_again(folder, config=config, settings=settings, info=_wandb_info(cfg, job_type), run_id=run_id)


def _recorded(cfg: Any) -> dict[str, Any]:
    """The config as W&B and Trackio get it, with the arm: what their dashboards group the seeds by."""
    return {"arm": _arm(cfg), **plain(cfg)}


def _arm(cfg: AnyConfig) -> str:
    different = " ".join(f"{k}={typed(v)}" for k, v in differences(cfg).items() if k not in ("seed", "use"))
    return cfg.variant or different or "baseline"


def _wandb_info(cfg: AnyConfig, job_type: str) -> RunInfo:
    flat = flatten(plain(cfg))
    lacking = slots_missing(slots_used(plain(cfg)))
    return RunInfo(
        name=f"{_arm(cfg)} seed={cfg.seed}",
        group=cfg.name,
        job_type=job_type,
        tags=[f"{slot}={flat[slot]}" for slot in SLOTS if slot not in lacking],
    )
