"""The training loop. Trainer.training_step is one step, top to bottom."""

import math
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from gptlab.config import drawing_seed, registry
from gptlab.diagnostics.watch import Watch, probe_batch
from gptlab.distributed import unshard
from gptlab.model.attention_kernels import kernels_used
from gptlab.model.build import build_model
from gptlab.model.init import seed_number
from gptlab.model.loss import NextTokenLoss
from gptlab.runs import checkpoint
from gptlab.runs.record import Recorder
from gptlab.runs.signals import Stop, Stopped
from gptlab.training.bf16_weights import Bf16Weights
from gptlab.training.compiling import compiled_graphs, prepare_compiler
from gptlab.training.device import keep_freed_memory
from gptlab.training.evaluate import Evaluation, evaluate, metric_at_length
from gptlab.training.prepare import PreparedRun
from gptlab.training.progress import Display, headline, initial_loss_line
from gptlab.training.sample import sample_text

MIN_EVALUATED = 4096  # tokens per forward pass of an evaluation, unless eval.batch_size says otherwise


class Diverged(Exception):
    """The loss of `step` was not finite."""

    def __init__(self, step: int):
        super().__init__(f"the loss was not finite at step {step}")
        self.step = step


class Trainer:
    """The model, optimizers and batches of one run, and its progress."""

    def __init__(self, run: PreparedRun):
        cfg, processes, device = run.cfg, run.processes, run.device.device
        if device.type == "cpu":
            keep_freed_memory()
        self.cfg, self.budget, self.dataset, self.seed = cfg, run.budget, run.dataset, drawing_seed(cfg)
        self.device, self.processes, self.learning_rate = run.device, processes, run.learning_rate
        kernels_used.clear()
        compiles = run.device.compile or device.type == "cuda"  # where flex_attention is compiled in any case
        self.graphs_before = prepare_compiler(cfg, run.device.precision) if compiles else None
        self.model = processes.place(build_model(cfg), device)  # float32; what optimizers and checkpoints know
        self.bf16 = Bf16Weights(self.model) if run.device.precision == "bf16 weights" else None
        trained = self.bf16.model if self.bf16 else self.model
        self.objective = NextTokenLoss(trained, cfg.train.loss_chunk, compile=run.device.compile)
        self.net = processes.wrap(self.objective, device)  # the objective as training calls it
        self.optimizers = registry.build("optimizer", cfg.optimizer).build(self.model.parameters())
        self.batches = run.dataset.train_batches(
            cfg.data.window, cfg.train.batch_size, self.seed, cfg.data.sampling, device
        )
        self.micro = (cfg.train.micro_batch_size or cfg.train.batch_size) // processes.world
        self.max_norm = math.inf if cfg.train.grad_clip is None else cfg.train.grad_clip
        self.watch = self._watch()
        self.step = 0  # completed optimizer steps
        self.seconds = 0.0  # seconds of training, without evaluations and checkpoints
        self.initial_loss: float | None = None
        self.best = math.inf  # lowest val/loss
        self.reported: dict[str, float] = {}  # metrics of components at the last log
        self.evaluation: dict[str, Any] = {}  # the latest; after the last step, what the summary gets
        self.losses = torch.zeros((), device=device)  # sum since the last log
        self.n_losses = 0
        self.first_bad = torch.full((), math.inf, device=device)  # step of the first loss that was not finite
        self.grad_norm = torch.zeros((), device=device)
        self.speeds: list[float] = []  # tokens/s between logs
        self.logged_at = (0, 0.0)  # step, seconds

    def training_step(self) -> None:
        """Do one optimizer step, on the batch that (seed, step) determines."""
        lr = self.learning_rate.at(self.step, self.budget.progress(self.step, self.seconds))
        x, y = map(self.processes.rows, self.batches.batch(self.step))
        n_micro = len(x) // self.micro
        before = self.losses.clone()
        for i, (inputs, targets) in enumerate(zip(x.split(self.micro), y.split(self.micro), strict=True)):
            self.processes.average_gradients(self.net, i == n_micro - 1)
            self._seed_dropout(f"step {self.step}.{i}{self.processes.stream}")
            total, loss = self.loss(inputs, targets)
            (total / n_micro).backward()
            if self.bf16:
                self.bf16.hand_over_gradients()
            self.losses += loss / n_micro
            self.first_bad = torch.where(loss.isfinite(), self.first_bad, self.first_bad.clamp(max=self.step + 1))
        self.grad_norm = unshard(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm))
        self.watch.before_update(self.step + 1, self.grad_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()
        if self.bf16:
            self.bf16.refresh()
        self.step += 1
        self.n_losses += 1
        self.watch.after_update(self.step, self.losses - before)

    def _watch(self) -> Watch:
        cfg, working = self.cfg, self.bf16.model if self.bf16 else self.model
        level = cfg.diagnostics if self.processes.world == 1 else "none"  # several processes may hold shards
        batch = None
        if level != "none":
            inputs, targets = probe_batch(self.dataset, cfg.data.window, cfg.train.batch_size)
            batch = inputs.to(self.device.device), targets.to(self.device.device)
        how = level, cfg.diagnostics_every
        return Watch(*how, self.model, working, batch, self.device.autocast, self.max_norm)

    def _seed_dropout(self, name: str) -> None:
        """Give dropout its own random stream, without torch.manual_seed, which takes half a millisecond."""
        number = seed_number(self.seed, name)
        torch.default_generator.manual_seed(number)
        if self.device.device.type == "cuda":
            torch.cuda.manual_seed(number)
        elif self.device.device.type == "mps":
            torch.mps.manual_seed(number)

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the training loss and the cross-entropy in it: (B, T), (B, T) -> means over the tokens, in nats."""
        with self.device.autocast():
            return self.net(inputs, targets)

    def run(self, recorder: Recorder, display: Display, folder: Path, stop: Stop) -> dict[str, Any]:
        """Train until the budget is spent; log, evaluate and save on the way. Return the summary.

        Raises:
            Stopped or KeyboardInterrupt: if `stop` was set; a checkpoint has been saved.
        """
        self.objective.train()
        if self.bf16:  # a checkpoint may have been restored
            self.bf16.refresh()
        try:
            while not self._done():
                stopping = self._timed_step(stop)
                self._report(recorder, display, folder, stopping)
                if stopping and not self._done():
                    display.line(f"saved    after step {self.step:,}; the same command goes on from there")
                    stop.pass_on()
                    if self.processes.world > 1:  # the signal may have come to another process
                        raise Stopped(signal.SIGTERM, 128 + signal.SIGTERM)
        except Diverged as e:
            summary = self._summary({"diverged_step": e.step})
            recorder.finish("diverged", summary, reason=str(e))
            return {"state": "diverged", **summary}
        summary = self._summary(self.evaluation)  # before the sample, which may use other kernels
        text = sample_text(self.cfg, self.model, self.dataset, self.processes, display.line)
        if text is not None:
            recorder.log_sample(self.step, text)
        recorder.finish("finished", summary)
        return {"state": "finished", **summary}

    def _done(self) -> bool:
        return self.budget.done(self.step, self.seconds)

    def _due(self, every: int) -> bool:
        return self.step % every == 0

    def _timed_step(self, stop: Stop) -> bool:
        """Do one step and add its time; return whether any process has been asked to stop."""
        cfg = self.cfg
        self.watch.before_step(self.step + 1)
        started = time.perf_counter()
        self.training_step()
        stopping = self.processes.any(stop.is_set())
        intervals = cfg.train.log_every, cfg.eval.every, self._save_every()
        if stopping or self.step == 1 or any(map(self._due, intervals)):
            self._wait_and_refuse_divergence()
        self.seconds += self.processes.clock(time.perf_counter() - started)
        return stopping

    def _report(self, recorder: Recorder, display: Display, folder: Path, stopping: bool) -> None:
        """Log, record diagnostics, evaluate and save, each only if it is due at this step."""
        done = self._done()
        if self._due(self.cfg.train.log_every) or done or self.step == 1:
            self._log(recorder, display)
        if self.watch.due(self.step):
            recorder.log_diagnostics(self._where() | self.watch.take())
        if self._due(self.cfg.eval.every) or done:
            self.evaluation = self._evaluate(recorder, display, folder, last=done)
        if self._due(self._save_every()) or done or stopping:
            self._save(folder)

    def _save_every(self) -> int:
        return int(self.cfg.train.checkpoint_every or self.cfg.eval.every)

    def restore(self, path: Path) -> int:
        """Resume from a checkpoint; return its step."""
        progress = checkpoint.load_training(path, self.model, self.optimizers)
        self.step, self.seconds = progress["step"], progress["seconds"]
        self.initial_loss = progress["initial_loss"]
        self.best = math.inf if progress["best"] is None else progress["best"]
        self.evaluation = progress["evaluation"]
        self.reported = progress.get("reported", {})
        self.losses += progress["losses"]
        self.n_losses, self.logged_at = progress["n_losses"], tuple(progress["logged_at"])
        self.watch.restore(progress.get("watch", {}))
        return self.step

    def _save(self, folder: Path) -> None:
        progress = {
            "step": self.step,
            "seconds": self.seconds,
            "initial_loss": self.initial_loss,
            "best": self.best if math.isfinite(self.best) else None,
            "evaluation": self.evaluation,
            "reported": self.reported,
            "losses": float(self.processes.mean(self.losses)),
            "n_losses": self.n_losses,
            "logged_at": self.logged_at,
            "watch": self.watch.state(),
        }
        checkpoint.save_training(folder / "checkpoint" / checkpoint.LAST, self.model, self.optimizers, progress)

    def _log(self, recorder: Recorder, display: Display) -> None:
        self._wait_and_refuse_divergence()
        loss = float(self.processes.mean(self.losses)) / self.n_losses
        step, seconds = self.logged_at
        metrics = self._where() | {
            "train/loss": loss,
            "train/grad_norm": float(self.grad_norm),
            "train/lr": self.optimizers[0].param_groups[0]["lr"],
        }
        if self.step == 1:
            self.initial_loss = loss
            untrained = self.cfg.train.init_from is None
            display.line(initial_loss_line(loss, self.cfg.model.vocab_size, untrained))
        elif self.seconds > seconds:
            speed = (self.step - step) * self.budget.tokens_per_step / (self.seconds - seconds)
            self.speeds.append(speed)
            metrics["speed/tokens_per_s"] = speed
        self.logged_at = (self.step, self.seconds)
        self.losses.zero_()
        self.n_losses = 0
        self.reported = self._component_metrics()
        recorder.log(metrics | self.reported)
        display.logged(self.step if self.budget.steps else self.seconds, metrics, self.reported)

    def _component_metrics(self) -> dict[str, float]:
        """Return what components report, as means over the ranks. This waits for the device."""
        metrics = self.objective.model.metrics()
        if not metrics:
            return {}
        values = self.processes.mean(torch.stack(list(metrics.values())))
        return dict(zip(metrics, values.tolist(), strict=True))

    def _evaluate(self, recorder: Recorder, display: Display, folder: Path, *, last: bool) -> dict[str, Any]:
        """Measure the validation loss on eval.tokens; return the metrics, after the `last` step those for the summary.

        The weights are saved if they are the best so far.
        """
        evaluation = self._evaluate_at(1, self.cfg.eval.tokens)
        result = self._finite(evaluation.metrics())
        metrics = self._where() | result
        display.evaluated(metrics)
        final = self._final_evaluation(evaluation, display) if last else {}
        recorder.log(metrics | {k: v for k, v in final.items() if k not in result and not isinstance(v, list)})
        if result["val/loss"] < self.best:
            self.best = result["val/loss"]
            checkpoint.save_weights(folder / "checkpoint" / checkpoint.BEST, self.model)
        return final or result

    def _final_evaluation(self, evaluation: Evaluation, display: Display) -> dict[str, Any]:
        """Return the metrics on eval.final_tokens, with details, and those at all `eval.lengths`.

        `evaluation` is the one on eval.tokens, which is not repeated if it has read the same.
        """
        n_tokens = self.dataset.final_tokens(self.cfg.eval.tokens, self.cfg.eval.final_tokens)
        if n_tokens != self.cfg.eval.tokens:
            evaluation = self._evaluate_at(1, n_tokens)
            display.line(f"final    {headline(self._finite(evaluation.metrics()))} on {evaluation.n_tokens:,} tokens")
        result = evaluation.metrics() | evaluation.by_position() | evaluation.by_block()
        for length in self.cfg.eval.lengths:
            if length != 1:
                longer = self._evaluate_at(length, n_tokens)
                metrics = longer.metrics() | longer.by_position()
                result |= {metric_at_length(metric, length): value for metric, value in metrics.items()}
        return result

    def _finite(self, metrics: dict[str, float]) -> dict[str, float]:
        """Return the metrics of an evaluation; raise Diverged if its loss is not finite."""
        if not math.isfinite(metrics["val/loss"]):
            raise Diverged(self.step)
        return metrics

    def _evaluate_at(self, length: int, n_tokens: int | None) -> Evaluation:
        """Evaluate in windows `length` times as long as in training, with the same number of tokens per batch."""
        cfg, window = self.cfg, self.cfg.data.window
        in_training = cfg.train.micro_batch_size or cfg.train.batch_size
        batch_size = cfg.eval.batch_size or max(in_training, MIN_EVALUATED // window)
        return evaluate(
            self.objective,
            self.dataset,
            window=length * window,
            batch_size=max(1, batch_size // length),
            n_tokens=n_tokens,
            device=self.device.device,
            autocast=self.device.autocast(),
            processes=self.processes,
        )

    def _wait_and_refuse_divergence(self) -> None:
        """Raise Diverged if a loss was not finite.

        The host waits for the device here, where the time counts as training, and not at every step.
        """
        first_bad = float(self.processes.min(self.first_bad))
        if math.isfinite(first_bad):
            raise Diverged(int(first_bad))

    def _where(self) -> dict[str, float]:
        tokens = self.step * self.budget.tokens_per_step
        flops = tokens * self.budget.cost["flops_per_token"]
        return {"step": self.step, "tokens": tokens, "seconds": round(self.seconds, 4), "cost/flops": flops}

    def _summary(self, outcome: dict[str, Any]) -> dict[str, Any]:
        mean_speed = self.step * self.budget.tokens_per_step / self.seconds if self.seconds else None
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device.device.type == "cuda" else None
        return {
            **dict.fromkeys(self.dataset.metrics),
            **outcome,
            **self.reported,
            "val/loss_min": self.best if math.isfinite(self.best) else None,
            **self._where(),
            **self.budget.cost,
            "speed/tokens_per_s": statistics.median(self.speeds) if self.speeds else mean_speed,
            "memory/peak_gib": peak,
            "train/loss_initial": self.initial_loss,
            "ln_vocab": math.log(self.cfg.model.vocab_size),
            "device": str(self.device.device),
            "precision": self.device.precision,
            "compiled": self.objective.compiled,
            "compiled_graphs": 0 if self.graphs_before is None else compiled_graphs() - self.graphs_before,
            "kernels": " ".join(sorted(kernels_used)),
        }
