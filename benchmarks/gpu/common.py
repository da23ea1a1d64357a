"""Settings of the GPU check, its record, and all that it uses of gptlab's trainer.

Environment variables: OUT (folder of the results), TEXT (a text file to train on), NANOGPT (a checkout of nanoGPT),
GPU_CHECK_DEVICE (cuda), GPU_CHECK_TINY (1: tiny settings), GPU_CHECK_SECONDS (470: of all sections together).
"""

import json
import logging
import os
import statistics
import sysconfig
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

STARTED = float(os.environ.setdefault("GPU_CHECK_STARTED", str(time.time())))
OUT = Path(os.environ.setdefault("OUT", str(Path(tempfile.gettempdir()) / "gptlab-gpu-check"))).resolve()
DEVICE = os.environ.get("GPU_CHECK_DEVICE", "cuda")
TINY = os.environ.get("GPU_CHECK_TINY") == "1"
SECONDS = float(os.environ.get("GPU_CHECK_SECONDS", 470))
TEXT = Path(os.environ["TEXT"]).resolve() if os.environ.get("TEXT") else OUT / "text.txt"
NANOGPT = Path(os.environ["NANOGPT"]).resolve() if os.environ.get("NANOGPT") else None
CHARACTERS = 1_115_394  # of the generated text: as many as tiny Shakespeare has

COMMON = ["data=text", f"data.path={TEXT}", "wandb.mode=disabled", f"device={DEVICE}"]
SMALL = [
    *COMMON,
    *("tokenizer=char", "size.dim=64", "size.n_head=4", "size.n_layer=2", "data.window=64", "train.batch_size=4"),
    *("budget.steps=10", "diagnostics=none", "eval.tokens=700", "eval.final_tokens=700"),  # evaluates a few windows
]


def write_text() -> None:
    """Write a text of ASCII characters, made of the standard library's own code, unless TEXT names one."""
    OUT.mkdir(parents=True, exist_ok=True)
    if not TEXT.exists():
        sources = (f.read_bytes() for f in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")))
        text = b"\n".join(s for s in sources if s.isascii())[:CHARACTERS]
        TEXT.write_bytes(text)


# ---------------------------------------------------------------- the record


def record(section: str, **facts: Any) -> None:
    """Add a line to results.jsonl, and print its beginning."""
    line = json.dumps({"section": section, "at_s": round(time.time() - STARTED, 1), **facts})
    with (OUT / "results.jsonl").open("a") as f:
        f.write(line + "\n")
    print(line[:400], flush=True)


def failure(error: Exception) -> dict[str, str]:
    """Return an error as facts, with the line of gptlab where it was raised."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "gptlab" in f.filename]
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return {"error": f"{type(error).__name__}: {str(error)[:600]}", "where": where}


class RecompileLimits(logging.Handler):
    """Collects Dynamo's warnings that it gave up compiling a function."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []
        logging.getLogger("torch._dynamo").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "recompile_limit" in text or "last reason" in text:
            self.warnings.append(text[:300])

    def take(self) -> list[str]:
        """Return the first two warnings since the last call."""
        taken, self.warnings = self.warnings[:2], []
        return taken


# ---------------------------------------------------------------- gptlab's trainer


def prepare(overrides: list[str]) -> Any:
    """Return a run that `gptlab train` would train, prepared; it has a folder only once it starts."""
    from gptlab.bench.subject import prepare

    return prepare(overrides)


def make_trainer(overrides: list[str]) -> Any:
    """Return the Trainer of a run."""
    from gptlab.training.trainer import Trainer

    return Trainer(prepare(overrides))


def losses_of(trainer: Any, steps: int) -> list[float]:
    """Train for some steps, and return the loss of each."""
    losses = []
    for _ in range(steps):
        trainer.losses.zero_()
        trainer.training_step()
        losses.append(float(trainer.losses))
    return losses


def val_loss(trainer: Any) -> float:
    """Return the validation loss in nats per token, as a run has it at its end."""
    from gptlab.training.evaluate import evaluate

    cfg = trainer.cfg
    return evaluate(
        trainer.objective,
        trainer.dataset,
        window=cfg.data.window,
        batch_size=cfg.eval.batch_size or cfg.train.batch_size,
        n_tokens=cfg.eval.tokens,
        device=trainer.device.device,
        autocast=trainer.device.autocast(),
    ).metrics()["val/loss"]


def wait() -> None:
    """Wait until the GPU has done all that it was given."""
    import torch

    if DEVICE == "cuda":
        torch.cuda.synchronize()


def ms_per_step(trainer: Any, steps: int, repeats: int = 3) -> dict[str, float]:
    """Time blocks of steps, and return the median and the fastest in milliseconds per step."""
    times = []
    for _ in range(repeats):
        wait()
        started = time.perf_counter()
        for _ in range(steps):
            trainer.training_step()
        wait()
        times.append((time.perf_counter() - started) / steps * 1e3)
    return {"ms_median": round(statistics.median(times), 4), "ms_min": round(min(times), 4)}
