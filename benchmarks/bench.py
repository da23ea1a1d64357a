"""Run the benchmarks, each into a JSON file of this folder, and write README.md with their tables.

`python benchmarks/bench.py [PATH of a nanoGPT checkout]` (`make bench NANOGPT=PATH`). With --render it only writes
README.md, from the JSON files that exist.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from gptlab.bench.display import markdown

HERE = Path(__file__).parent
NANOGPT = "--against nanogpt={nanogpt}"  # left out without a checkout
BENCHMARKS = {
    "step-1-nanogpt": ("A training step at 0.8M parameters", f"preset=nanogpt-cpu {NANOGPT}"),
    "step-2-nanogpt-1-thread": ("The same step on one thread", f"preset=nanogpt-cpu --threads 1 {NANOGPT}"),
    "step-3-gpt2": (
        "GPT-2's architecture at 0.8M parameters",
        "preset=gpt2 size=small tokenizer=char data.window=64 --against hf",
    ),
    "step-4-10m": ("At 10.7M parameters", f"preset=karpathy-10m --against hf {NANOGPT}"),
    "sweep": ("A sweep of small cells", f"--sweep preset=nanogpt-cpu budget.steps=200 --loop-cells 4 {NANOGPT}"),
}
HEAD = """# Speed

This page shows how long a training step takes, compared with plain matrix products on the same machine and with other
people's code at the same sizes, and how much time a sweep saves over loops of single runs. Commands:

    make bench NANOGPT=../nanoGPT       # makes this page; NANOGPT is optional, a checkout of karpathy/nanoGPT
    gptlab bench preset=nanogpt-cpu --against nanogpt=../nanoGPT --against hf --json figures.json      # one measurement

How it is measured:

- A step includes the batch, forward, backward, clipping and the optimizer. gptlab's is `Trainer.training_step`, as
  `gptlab train` calls it, without logging, evaluation, checkpoints and diagnostics (diagnostics=none). A peer's step
  uses its own optimizer and batches if it has them; nanoGPT's is that of its train.py, prefetch included.
  All are timed in one process, so that threads, torch.compile (on CUDA only) and, on a CPU, an allocator that keeps
  freed memory, which gptlab sets, are the same for all. The tables name the precisions.
- Blocks of steps of all implementations alternate in one process, every other round in reverse order. A ratio compares
  two blocks that were timed next to each other. The tables show the median of the blocks, the lowest and the highest.
- FLOPs are those of all matrix products of forward and backward, with attention over the full window. They are compared
  with products timed between the same blocks in the precision of the run: one of the model's typical shape (all tokens
  of a forward pass times the largest matrix of a block) and a large square. The share is relative to the faster one.
  On a known GPU they are also compared with its datasheet (dense bf16, or fp16 where there is no bf16).
- Memory and start-up are measured in three new processes that do the first three steps and nothing else. The text has
  been tokenised before, and the second and third find what torch.compile cached.
- A sweep is timed from the start of `gptlab sweep` to its end, and so are the loops. Every cell trains the same number
  of steps. nanoGPT's train.py evaluates one batch of each split before its first and before its last step, and gptlab
  the same number of tokens after its last; both write a checkpoint then. Neither reports to a tracker
  (wandb.mode=disabled). gptlab takes a snapshot for its diagnostics every 50 steps, as it does by default.
- `load` is the machine's load average over the minute before. The benchmarks of this page run one after the other, so
  each but the first counts the benchmark before it. Otherwise a load above about 0.3 means that something else was
  running and that the figures are less certain.
- The tables name their day. Code that has changed since may be faster or slower; `make bench` measures again.
"""


def run(nanogpt: str | None) -> None:
    """Run every benchmark."""
    for name, (_, words) in BENCHMARKS.items():
        arguments = words if nanogpt else words.replace(NANOGPT, "")
        command = [sys.executable, "-m", "gptlab", "bench", *arguments.format(nanogpt=nanogpt).split()]
        print(f"{name}: gptlab {' '.join(command[3:])}", flush=True)
        subprocess.run([*command, "--json", str(HERE / f"{name}.json")], check=True)


def page() -> str:
    """Return the text of README.md."""
    return "\n".join([HEAD, *_sections()])


def _sections() -> Iterator[str]:
    for name, (title, _) in BENCHMARKS.items():
        if (file := HERE / f"{name}.json").exists():
            yield f"## {title}\n\n{markdown(json.loads(file.read_text(encoding='utf-8')))}"


if __name__ == "__main__":
    if "--render" not in sys.argv:
        run(next(iter(sys.argv[1:]), None))
    (HERE / "README.md").write_text(page(), encoding="utf-8")
