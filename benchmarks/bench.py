"""Runs the benchmarks, each into a JSON of this folder, and makes README.md, the page of their tables, from those.

`python benchmarks/bench.py [PATH of a nanoGPT checkout]` (`make bench NANOGPT=PATH`); with --render the page alone.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from gptlab.bench.display import markdown

HERE = Path(__file__).parent
NANOGPT = "--against nanogpt={nanogpt}"  # left out where there is no checkout
BENCHMARKS = {
    "step-1-nanogpt": ("A training step at 0.8M parameters", f"preset=nanogpt-cpu {NANOGPT}"),
    "step-2-nanogpt-1-thread": ("The same on one thread", f"preset=nanogpt-cpu --threads 1 {NANOGPT}"),
    "step-3-gpt2": (
        "As GPT-2, at 0.8M parameters",
        "preset=gpt2 size=small tokenizer=char data.window=64 --against hf",
    ),
    "step-4-10m": ("At 10.7M parameters", f"preset=karpathy-10m --against hf {NANOGPT}"),
    "sweep": ("A sweep of small cells", f"--sweep preset=nanogpt-cpu budget.steps=200 --loop-cells 4 {NANOGPT}"),
}
HEAD = """# Speed

What a training step costs, against how fast the machine multiplies matrices and against other people's code at the same
sizes; and what a sweep saves over loops of single runs. Made by

    make bench NANOGPT=../nanoGPT       # a checkout of github.com/karpathy/nanoGPT; without it nanoGPT is left out
    gptlab bench preset=nanogpt-cpu --against nanogpt=../nanoGPT --against hf --json figures.json        # your own

How it is measured:

- A step is all of it: batch, forward, backward, clipping, optimizer. Of gptlab it is `Trainer.training_step`, as
  `gptlab train` calls it; logging, evaluation, checkpoints and looks inside (diagnostics=none) are not in it. A peer's
  is its model with its own optimizer and batches where it has them; of nanoGPT as its train.py does it, prefetch
  included. Of one process, and so the same for all: threads, torch.compile (on CUDA only), and on a CPU an allocator
  that keeps what is freed, which gptlab sets. Precisions are said.
- Blocks of steps are interleaved in one process, every other round backwards. A ratio is one of two blocks that were
  timed next to each other; shown are the median of the blocks, the lowest and the highest.
- FLOPs are those of all matrix products of forward and backward, attention as the full window. They are compared with
  products timed between the same blocks, in the run's precision: one of the model's typical shape (all tokens of a
  forward pass times a block's largest matrix) and a large square; the share is of the faster. On a GPU that is known,
  also with its datasheet (dense bf16, or fp16 where there is no bf16).
- Memory and start are those of fresh processes that do the first three steps and nothing else, three times; only
  the text's tokens are there before, and from the second time on what torch.compile keeps.
- A sweep is timed from the start of `gptlab sweep` to its end, loops likewise. Every cell trains as many steps.
  nanoGPT's train.py evaluates one batch of each split before its first and before its last step, and gptlab as many
  tokens after its last one; both write a checkpoint then. Neither records anything elsewhere (wandb.mode=disabled);
  gptlab looks inside its models every 50 steps, as it does by default.
- `load` is the machine's average over the minute before: above about 0.3 something else was running, and the figures
  say as much of that.
"""


def run(nanogpt: str | None) -> None:
    for name, (_, words) in BENCHMARKS.items():
        kept = words if nanogpt else words.replace(NANOGPT, "")
        command = [sys.executable, "-m", "gptlab", "bench", *kept.format(nanogpt=nanogpt).split()]
        print(f"{name}: gptlab {' '.join(command[3:])}", flush=True)
        subprocess.run([*command, "--json", str(HERE / f"{name}.json")], check=True)


def page() -> str:
    return "\n".join([HEAD, *_sections()])


def _sections() -> Iterator[str]:
    for name, (title, _) in BENCHMARKS.items():
        if (file := HERE / f"{name}.json").exists():
            yield f"## {title}\n\n{markdown(json.loads(file.read_text(encoding='utf-8')))}"


if __name__ == "__main__":
    if "--render" not in sys.argv:
        run(next(iter(sys.argv[1:]), None))
    (HERE / "README.md").write_text(page(), encoding="utf-8")
