"""One run, from its config to its record. What a step does stands in Trainer.training_step."""

import math
import signal
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from gptlab import checkpoint, registry
from gptlab.compose import differences, edit, plain
from gptlab.config import SLOTS, ConfigError, flatten
from gptlab.data import Dataset, TrainBatches, load_dataset
from gptlab.environment import environment
from gptlab.evaluate import evaluate
from gptlab.model import build_model, seed_number
from gptlab.plan import Machine, Plan, choose_machine, make_plan
from gptlab.progress import Display
from gptlab.record import Recorder, read_status, read_summary, write_json, write_run_files
from gptlab.runs import ENDED, locked, run_dir, use_files
from gptlab.wandb_run import RunInfo, WandbSettings, resolve_mode

FAR_OFF = 0.1  # an initial loss further than this share from ln V deserves a warning


class Diverged(Exception):
    """The loss of `step` was not finite."""

    def __init__(self, step: int):
        super().__init__(f"the loss was not finite at step {step}")
        self.step = step


def train(cfg: DictConfig, *, quiet: bool = False, job_type: str = "train") -> dict[str, Any]:
    """Train what `cfg` describes, or go on where it was stopped; returns the summary, with `run_dir` in it.

    A run that has ended already is not run again. Raises ConfigError before anything is written in the run's folder.
    """
    folder = run_dir(cfg)
    console = Console(quiet=quiet)
    if done := _outcome(folder):
        console.print(f"{folder} has ended already; delete it to run again", markup=False, highlight=False)
        return done
    wandb = wandb_settings(cfg)
    machine = choose_machine(cfg)
    dataset = open_dataset(cfg)
    full = with_vocabulary(cfg, dataset)
    plan = make_plan(full)
    with locked(folder), _sigterm_as_exit():
        if done := _outcome(folder):  # another process was quicker
            return done
        trainer = Trainer(full, plan, machine, dataset)
        last = folder / "checkpoint" / checkpoint.LAST
        resumed = trainer.restore(last) if last.exists() else None
        _write_before(folder, full, machine, dataset)
        info = _wandb_info(full, job_type)
        recorder = Recorder(folder, config=plain(full), wandb=wandb, info=info, resume_step=resumed)
        with Display(console, plan.steps or plan.seconds or 1) as display, recorder:
            _introduce(display, folder, trainer, resumed)
            summary = trainer.run(recorder, display, folder)
            display.line(_closing_lines(summary, folder, recorder.wandb_where()))
    return summary | {"run_dir": str(folder)}


def _outcome(folder: Path) -> dict[str, Any] | None:
    """The summary of a run that has ended."""
    state = read_status(folder).get("state")
    return {"state": state, **read_summary(folder), "run_dir": str(folder)} if state in ENDED else None


def wandb_settings(cfg: DictConfig) -> WandbSettings:
    return WandbSettings(resolve_mode(cfg.wandb.mode), Path(cfg.runs_dir), cfg.wandb.project, cfg.wandb.entity)


def open_dataset(cfg: DictConfig) -> Dataset:
    return load_dataset(
        registry.build("data", cfg.data),
        registry.build("tokenizer", cfg.tokenizer),
        window=cfg.data.window,
        val_fraction=cfg.data.val_fraction,
    )


def with_vocabulary(cfg: DictConfig, dataset: Dataset) -> DictConfig:
    """The config with the vocabulary's size; more than the tokenizer's is padding, less is refused."""
    size = cfg.model.vocab_size or dataset.vocab_size
    if size < dataset.vocab_size:
        raise ConfigError(f"model.vocab_size={size}: tokenizer={cfg.tokenizer.name} has {dataset.vocab_size} tokens")
    return edit(cfg, model__vocab_size=size)


class Trainer:
    """Model, optimizers and batches of one run, and how far it is."""

    def __init__(self, cfg: DictConfig, plan: Plan, machine: Machine, dataset: Dataset):
        self.cfg, self.plan, self.machine, self.dataset = cfg, plan, machine, dataset
        self.model = build_model(cfg).to(machine.device)
        self.optimizers = registry.build("optimizer", cfg.optimizer).build(self.model.parameters())
        self.batches = TrainBatches(dataset.train, cfg.data.window, cfg.train.batch_size, cfg.seed, cfg.data.sampling)
        self.micro = cfg.train.micro_batch_size or cfg.train.batch_size
        self.max_norm = math.inf if cfg.train.grad_clip is None else cfg.train.grad_clip
        if machine.compile:
            self.model.compile()
        self.step = 0  # optimizer steps done
        self.seconds = 0.0  # of training, evaluations and checkpoints not counted
        self.initial_loss: float | None = None
        self.best = math.inf  # lowest val/loss
        self.evaluation: dict[str, float] = {}  # the last one
        self.losses = torch.zeros((), device=machine.device)  # summed since the last log
        self.n_losses = 0
        self.first_bad = torch.full((), math.inf, device=machine.device)  # step of the first loss that was not finite
        self.grad_norm = torch.zeros((), device=machine.device)
        self.speeds: list[float] = []  # tokens/s between logs
        self.logged_at = (0, 0.0)  # step, seconds

    def training_step(self) -> None:
        """One optimizer step, on the batch that (seed, step) names."""
        lr = self.plan.lr(self.step, self.seconds)
        x, y = self.batches.batch(self.step)
        n_micro = len(x) // self.micro
        for i, (inputs, targets) in enumerate(zip(x.split(self.micro), y.split(self.micro), strict=True)):
            torch.manual_seed(seed_number(self.cfg.seed, f"step {self.step}.{i}"))  # dropout: a stream of its own
            loss, extra = self.loss(inputs.to(self.machine.device), targets.to(self.machine.device))
            ((loss if extra is None else loss + extra) / n_micro).backward()
            self.losses += loss.detach() / n_micro
            self.first_bad = torch.where(
                loss.detach().isfinite(), self.first_bad, self.first_bad.clamp(max=self.step + 1)
            )
        self.grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.n_losses += 1

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Mean cross-entropy in nats per token, and what components add to it in training."""
        with self.machine.autocast():
            logits = self.model(inputs)  # (B, T, V)
            extra = self.model.auxiliary_loss(logits)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()), extra

    def run(self, recorder: Recorder, display: Display, folder: Path) -> dict[str, Any]:
        """Steps until the budget is spent; logs, evaluates and saves between them. Returns the summary."""
        self.model.train()
        cfg = self.cfg
        save_every = cfg.train.checkpoint_every or cfg.eval.every
        try:
            while not self.plan.done(self.step, self.seconds):
                started = time.perf_counter()
                self.training_step()
                self.seconds += time.perf_counter() - started
                done = self.plan.done(self.step, self.seconds)
                if self.step == 1 or self.step % cfg.train.log_every == 0 or done:
                    self._log(recorder, display)
                if self.step % cfg.eval.every == 0 or done:
                    self.evaluation = self._evaluate(recorder, display, folder)
                if self.step % save_every == 0 or done or _stop_asked.is_set():
                    self._save(folder)
                if _stop_asked.is_set() and not done:
                    sys.exit(128 + signal.SIGTERM)
        except Diverged as e:
            summary = self._summary({"diverged_step": e.step})
            recorder.finish("diverged", summary, reason=str(e))
            return {"state": "diverged", **summary}
        summary = self._summary(self.evaluation)
        recorder.finish("finished", summary)
        return {"state": "finished", **summary}

    def restore(self, path: Path) -> int:
        """Go on from a checkpoint; returns its step."""
        progress = checkpoint.load_training(path, self.model, self.optimizers)
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.initial_loss = progress["initial_loss"]
        self.best = math.inf if progress["best"] is None else progress["best"]
        self.evaluation = progress["evaluation"]
        self.losses += progress["losses"]
        self.n_losses, self.logged_at = progress["n_losses"], tuple(progress["logged_at"])
        return self.step

    def _save(self, folder: Path) -> None:
        self._refuse_divergence()
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "initial_loss": self.initial_loss,
            "best": self.best if math.isfinite(self.best) else None,
            "evaluation": self.evaluation,
            "losses": float(self.losses),
            "n_losses": self.n_losses,
            "logged_at": self.logged_at,
        }
        checkpoint.save_training(folder / "checkpoint" / checkpoint.LAST, self.model, self.optimizers, progress)

    def _log(self, recorder: Recorder, display: Display) -> None:
        self._refuse_divergence()
        loss = float(self.losses) / self.n_losses
        step, seconds = self.logged_at
        metrics = self._where() | {
            "train/loss": loss,
            "train/grad_norm": float(self.grad_norm),
            "train/lr": self.optimizers[0].param_groups[0]["lr"],
        }
        if self.step == 1:
            self.initial_loss = loss
            display.line(_initial_loss_line(loss, self.cfg.model.vocab_size))
        elif self.seconds > seconds:
            speed = (self.step - step) * self.plan.tokens_per_step / (self.seconds - seconds)
            self.speeds.append(speed)
            metrics["speed/tokens_per_s"] = speed
        self.logged_at = (self.step, self.seconds)
        self.losses.zero_()
        self.n_losses = 0
        recorder.log(metrics)
        display.logged(self.step if self.plan.steps else self.seconds, metrics)

    def _evaluate(self, recorder: Recorder, display: Display, folder: Path) -> dict[str, float]:
        self._refuse_divergence()
        result = evaluate(
            self.model,
            self.dataset,
            window=self.cfg.data.window,
            batch_size=self.cfg.eval.batch_size or self.cfg.train.batch_size,
            n_tokens=self.cfg.eval.tokens,
            device=self.machine.device,
            autocast=self.machine.autocast(),
        )
        if not math.isfinite(result["val/loss"]):
            raise Diverged(self.step)
        metrics = self._where() | result
        recorder.log(metrics)
        display.evaluated(metrics)
        if result["val/loss"] < self.best:
            self.best = result["val/loss"]
            checkpoint.save_weights(folder / "checkpoint" / checkpoint.BEST, self.model)
        return result

    def _refuse_divergence(self) -> None:
        first_bad = float(self.first_bad)  # the host waits for the device here, and not at every step
        if math.isfinite(first_bad):
            raise Diverged(int(first_bad))

    def _where(self) -> dict[str, float]:
        tokens = self.step * self.plan.tokens_per_step
        flops = tokens * self.plan.cost["flops_per_token"]
        return {"step": self.step, "tokens": tokens, "seconds": round(self.seconds, 4), "cost/flops": flops}

    def _summary(self, outcome: dict[str, float]) -> dict[str, Any]:
        mean_speed = self.step * self.plan.tokens_per_step / self.seconds if self.seconds else None
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.machine.device.type == "cuda" else None
        return {
            "val/loss": None,
            "val/bpb": None,
            **outcome,
            "val/loss_min": self.best if math.isfinite(self.best) else None,
            **self._where(),
            **self.plan.cost,
            "speed/tokens_per_s": statistics.median(self.speeds) if self.speeds else mean_speed,
            "memory/peak_gib": peak,
            "train/loss_initial": self.initial_loss,
            "ln_vocab": math.log(self.cfg.model.vocab_size),
            "device": str(self.machine.device),
            "precision": self.machine.precision,
            "compiled": self.machine.compile,
        }


def _introduce(display: Display, folder: Path, trainer: Trainer, resumed: int | None) -> None:
    cfg, cost, data = trainer.cfg, trainer.plan.cost, trainer.dataset
    display.line(f"run      {folder}")
    display.line(
        f"model    {cost['parameters']:,.0f} parameters, {cost['parameters_non_embedding']:,.0f} without embeddings;"
        f" {cost['flops_per_token'] / 1e6:,.2f} MFLOPs per token"
    )
    display.line(
        f"data     {cfg.data.name}, {cfg.tokenizer.name} tokens: {data.n_train:,} to train on, {data.n_val:,} to"
        f" validate; vocabulary {data.vocab_size:,}"
    )
    display.line(f"budget   {trainer.plan.describe()}")
    display.line(f"machine  {trainer.machine.describe()}")
    if resumed is not None:
        display.line(f"resumed  after step {resumed:,}")


def _initial_loss_line(loss: float, vocab_size: int) -> str:
    uniform = math.log(vocab_size)
    line = f"initial loss {loss:.4f}, ln V = {uniform:.4f}"
    if abs(loss - uniform) > FAR_OFF * uniform:
        return f"warning: {line}: a model that knows nothing yet should start near ln V; see init and head"
    return line


def _closing_lines(summary: dict[str, Any], folder: Path, wandb_where: str | None) -> str:
    if summary["state"] == "diverged":
        outcome = f"diverged at step {summary['diverged_step']:,}"
    else:
        outcome = f"val/loss {summary['val/loss']:.4f}  val/bpb {summary['val/bpb']:.4f}"
    speed = f"{summary['speed/tokens_per_s']:,.0f} tokens/s" if summary["speed/tokens_per_s"] else ""
    lines = [f"{outcome}  {speed}", f"{folder}"]
    return "\n".join(lines + ([f"W&B: {wandb_where}"] if wandb_where else []))


def _write_before(folder: Path, cfg: DictConfig, machine: Machine, dataset: Dataset) -> None:
    overrides = [f"{k}={v}" for k, v in differences(cfg).items()]
    env = environment(dataset.hash) | {"device": str(machine.device), "precision": machine.precision}
    write_run_files(folder, OmegaConf.to_yaml(cfg, resolve=True), overrides, env, use_files(cfg))
    write_json(folder / "tokenizer.json", dataset.tokenizer.to_json())


def _wandb_info(cfg: DictConfig, job_type: str) -> RunInfo:
    flat = flatten(plain(cfg))
    different = " ".join(f"{k}={v}" for k, v in differences(cfg).items() if k not in ("seed", "use"))
    return RunInfo(
        name=f"{cfg.variant or different or 'baseline'} seed={cfg.seed}",
        group=cfg.name,
        job_type=job_type,
        tags=[f"{slot}={flat[slot]}" for slot in SLOTS],
    )


_stop_asked = threading.Event()


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """SIGTERM, as SLURM sends it, ends the run after the step it is in, with a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: _stop_asked.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _stop_asked.clear()
