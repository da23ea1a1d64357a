"""The coordinate check of muP: how much a few steps of Adam change the outputs of each part, at widths 64 to 1024.

`python experiments/mup/coordinates.py` measures the numbers and writes them to coordinates.json; `make results` makes
RESULTS.md and its picture from them.
"""

import io
import json
import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from gptlab import load_config
from gptlab.data.batches import validation_batches
from gptlab.model.gpt import GPT
from gptlab.runs.environment import environment
from gptlab.training.prepare import prepare
from gptlab.training.trainer import Trainer

KEPT = Path(__file__).parent / "coordinates.json"
QUESTION = "Does one learning rate change models of all widths by the same amount with muP, and not without?"
WIDTHS = (64, 128, 256, 512, 1024)
INITS = {"gpt2": "init=gpt2", "mup": "init=mup init.base_width=64 init.base_head_dim=16"}
STEPS, SEEDS, LR = 4, 3, 4e-3
BASE = (
    "size.n_layer=2 size.n_head=4 head.tied=false data=pystdlib train.batch_size=4 schedule=constant schedule.warmup=0 "
    f"optimizer.lr={LR} budget.steps={STEPS} device=cpu precision=float32"
)
PARTS = ("attention scores", "attention", "FFN", "stream", "logits")  # of the last block, and of the head


def measure() -> None:
    torch.set_num_threads(1)
    started, rows = time.perf_counter(), []
    for width in WIDTHS:
        for init, overrides in INITS.items():
            for seed in range(SEEDS):
                for step, changes in enumerate(_changes(f"{BASE} {overrides} size.dim={width} seed={seed}"), start=1):
                    rows += [[init, width, seed, step, part, float(f"{changes[part]:.4g}")] for part in PARTS]
                print(*rows[-1], flush=True)
    known = environment(None)
    machine = f"{known['cpu']}, 1 thread, cpu, float32, torch {known['packages']['torch']}"
    lines = ",\n".join(map(json.dumps, rows))
    seconds = round(time.perf_counter() - started)
    KEPT.write_text(f'{{"seconds": {seconds}, "machine": {json.dumps(machine)}, "rows": [\n{lines}\n]}}\n')


def _changes(overrides: str) -> list[dict[str, float]]:
    """Return, for each step, the RMS change of each part's output since the start, over all its coordinates."""
    run = prepare(load_config(overrides.split()))
    cfg, trainer = run.cfg, Trainer(run)
    tokens, _ = next(validation_batches(run.dataset.val, cfg.data.window, cfg.train.batch_size, None))
    start, changes = _outputs(trainer.model, tokens), []
    for _ in range(STEPS):
        trainer.training_step()
        now = _outputs(trainer.model, tokens)
        changes.append({part: (now[part] - start[part]).square().mean().sqrt().item() for part in PARTS})
    return changes


@torch.no_grad()
def _outputs(model: GPT, tokens: Tensor) -> dict[str, Tensor]:
    block = model.blocks[-1]
    attention = block.attention
    outputs: dict[str, Tensor] = {}

    def watch(part: str, module: nn.Module):
        return module.register_forward_hook(lambda _, x, y: outputs.update({part: y}))

    parts = {"q": attention.q, "k": attention.k, "attention": attention, "FFN": block.ffn, "stream": block}
    hooks = [watch(part, module) for part, module in {**parts, "logits": model.head}.items()]
    model(tokens)
    for hook in hooks:
        hook.remove()
    q, k = (outputs[n].unflatten(-1, (attention.n_head, -1)).transpose(1, 2) for n in "qk")  # (B, H, T, D)
    return outputs | {"attention scores": attention.scale * q @ k.mT}


def kept() -> tuple[pd.DataFrame, int, str]:
    """Return the RMS over the seeds by init, part, step and width; the seconds of the measurement; the machine."""
    numbers = json.loads(KEPT.read_text())
    rows = pd.DataFrame(numbers["rows"], columns=["init", "width", "seed", "step", "part", "rms"])
    by = ["init", "part", "step", "width"]
    return (
        rows.groupby(by)["rms"].apply(lambda x: float(np.sqrt(np.mean(x**2)))),
        numbers["seconds"],
        numbers["machine"],
    )


def row() -> dict[str, object]:
    """Return the line on the page of all experiments."""
    rms, seconds, _ = kept()
    exponents = [f"{init} {min(e):+.2f} to {max(e):+.2f}" for init in INITS for e in [_exponents(rms, init).values()]]
    return {
        "question": QUESTION,
        "baseline": "gpt2",
        "verdicts": f"exponent p in change ~ width^p: {'; '.join(exponents)}",
        "runs": len(WIDTHS) * len(INITS) * SEEDS,
        "seconds": seconds,
    }


def _exponents(rms: pd.Series, init: str) -> dict[str, float]:
    """Return p in change ~ width^p after the last step for each part, by least squares over the logarithms."""
    last = {part: rms[init, part, STEPS] for part in PARTS}
    return {part: float(np.polyfit(np.log(x.index), np.log(x), 1)[0]) for part, x in last.items()}


def main() -> dict[str, bytes]:
    """Return the files made from the kept numbers, by name."""
    rms, seconds, machine = kept()
    return {"RESULTS.md": _text(rms, seconds, machine).encode(), "results.png": _picture(rms)}


def _text(rms: pd.Series, seconds: int, machine: str) -> str:
    rows = "\n".join(
        f"| {part} | {init} | {' | '.join(f'{rms[init, part, STEPS, w]:.3g}' for w in WIDTHS)} | {power:+.2f} |"
        for part in PARTS
        for init in INITS
        for power in [_exponents(rms, init)[part]]
    )
    return f"""# {QUESTION}

What others found: Yang et al. 2022 (arXiv:2203.03466, figure 5 and appendix D.1): in the usual parametrisation the
logits and attention scores of a Transformer blow up with its width after a few steps of Adam; with muP they change by
the same amount at all widths.

The table shows the RMS change in the outputs of the last block's parts and of the head, for the same tokens, after
{STEPS} steps of Adam with a learning rate of {LR:g}, over {SEEDS} seeds. `power` is p in change ~ width^p; it is 0 if
the change does not depend on the width. At a width of 64, the base width of muP here, the two inits are identical.

| part | init | {" | ".join(map(str, WIDTHS))} | power |
| --- | --- |{" ---: |" * (len(WIDTHS) + 1)}
{rows}

![Change by width, after each step](results.png)

## How to reproduce

    python experiments/mup/coordinates.py
    make results

{len(WIDTHS) * len(INITS) * SEEDS} runs, {seconds:,} seconds in all, with these settings:

    {BASE.replace(" schedule=", chr(10) + "    schedule=", 1)}
    {INITS["gpt2"]}
    {INITS["mup"]}

- {machine}
"""


def _picture(rms: pd.Series) -> bytes:
    figure, axes = plt.subplots(
        len(INITS), len(PARTS), figsize=(13, 5.5), dpi=100, layout="constrained", sharex=True, sharey="col"
    )
    for line, init in zip(axes, INITS, strict=True):
        for ax, part in zip(line, PARTS, strict=True):
            for step in range(1, STEPS + 1):
                x = rms[init, part, step]
                ax.loglog(x.index, x, "o-", markersize=3, color=plt.cm.viridis(1 - step / STEPS), label=f"step {step}")
            ax.set_xticks(WIDTHS, map(str, WIDTHS), fontsize=8)
            ax.minorticks_off()
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(alpha=0.25)
        line[0].set_ylabel(f"{init}: RMS of the change")
    for ax, part in zip(axes[0], PARTS, strict=True):
        ax.set_title(part)
    for ax in axes[-1]:
        ax.set_xlabel("width")
    axes[0][0].legend(frameon=False, fontsize=8)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    plt.close(figure)
    return out.getvalue()


if __name__ == "__main__":
    measure()
