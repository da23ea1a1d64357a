"""What each verb takes, does and shows as examples. What it needs is imported when it is called."""

import argparse
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gptlab.config import ConfigError


@dataclass(frozen=True)
class Verb:
    summary: str
    examples: str
    arguments: Callable[[ArgumentParser], object]
    run: Callable[[Namespace], int]

    def parser(self, name: str) -> ArgumentParser:
        parser = _Parser(
            f"gptlab {name}",
            description=self.summary,
            epilog=f"examples:\n{self.examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.arguments(parser)
        return parser


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog.removeprefix('gptlab ')}: {message}; see `{self.prog} --help`")


def _overrides(parser: ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="what differs from the baseline; `gptlab list`"
    )


def _train(args: Namespace) -> int:
    from gptlab.config.compose import load_config
    from gptlab.runs.lock import Busy

    cfg = load_config(args.overrides)
    from gptlab.training.train import train

    try:
        train(cfg)
    except Busy as e:
        raise ConfigError(f"{e}; wait for it, or give another seed or runs_dir") from e
    return 0


def _sweep_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="experiment.yaml | key=value[,value...]", help="the cells")
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    between = parser.add_mutually_exclusive_group()
    between.add_argument("--ladder", action="store_true", help="from the first config to the second, part by part")
    between.add_argument("--knock-out", action="store_true", help="the second config without each part of it in turn")
    parser.add_argument("--fraction", type=float, metavar="F", help="of a grid's arms keep so many, well chosen")
    parser.add_argument(
        "--tune", action="append", default=[], metavar="KEY=V,V", help="each arm gets its best value, on other seeds"
    )


def _sweep(args: Namespace) -> int:
    from gptlab.sweeps.run_sweep import sweep

    arms = {"ladder": args.ladder, "knock_out": args.knock_out, "fraction": args.fraction, "tune": args.tune}
    counts = sweep(args.words, retry=args.retry, **arms)
    return 1 if counts.get("failed") else 0


def _status_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of a sweep, such as runs/demo")
    parser.add_argument("--watch", action="store_true", help="look again every few seconds until all has ended")


def _status(args: Namespace) -> int:
    from rich.console import Console

    from gptlab.sweeps.status import show_status

    show_status(args.folder, Console(), watch=args.watch)
    return 0


def _compare_arguments(parser: ArgumentParser) -> None:
    what = "run folders, folders above them, or a file that --keep wrote"
    parser.add_argument("paths", nargs="+", metavar="FOLDER", help=what)
    parser.add_argument("--metric", default="val/loss", help="a number of summary.json (val/loss)")
    parser.add_argument("--baseline", metavar="ARM", help="the arm that the others are compared with")
    parser.add_argument(
        "--against", choices=("baseline", "previous"), help="what an arm is compared with (as sweep.yaml says)"
    )
    parser.add_argument(
        "--margin", type=float, metavar="X", help="smaller differences do not matter (0.5%% of the baseline's mean)"
    )
    parser.add_argument("--csv", metavar="FILE", help="write the table")
    parser.add_argument("--png", metavar="FILE", help="write a picture of effects and curves; also .pdf, .svg")
    parser.add_argument("--markdown", metavar="FILE", help="write all of it as text for an experiment's folder")
    parser.add_argument("--html", metavar="FILE", help="write all of it as one page to look around in")
    parser.add_argument("--keep", metavar="FILE.json", help="write the raw numbers, from which all of it can be made")


def _compare(args: Namespace) -> int:
    from gptlab.compare import compare
    from gptlab.config.compose import load_config, plain

    options = {k: v for k, v in vars(args).items() if k != "paths"}
    compare(args.paths, defaults=plain(load_config()), **options)
    return 0


def _bench_arguments(parser: ArgumentParser) -> None:
    _overrides(parser)
    parser.add_argument(
        "--against", action="append", metavar="PEER", help="beside it: nanogpt=PATH of a checkout, hf, x-transformers"
    )
    parser.add_argument("--blocks", type=int, metavar="N", help="of steps, interleaved (7); with --sweep, rounds (1)")
    parser.add_argument("--steps", type=int, metavar="N", help="in a block (as many as take 1.5 seconds)")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch, in each process (its own default)")
    parser.add_argument("--peer-precision", choices=("float32", "bf16"), help="(float32 on a CPU, else as gptlab's)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, with machine and versions")
    parser.add_argument("--sweep", action="store_true", help="time a sweep of small cells against loops instead")
    parser.add_argument("--cells", type=int, metavar="N", help="of the sweep (16), which differ in the seed")
    parser.add_argument("--loop-cells", type=int, metavar="N", help="run so many of them in a loop, and scale (all)")


def _bench(args: Namespace) -> int:
    from rich.console import Console

    from gptlab.bench.command import bench

    bench(args, Console())
    return 0


def _dashboard_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--entity", metavar="NAME", help="user or team in W&B (the key's own)")
    parser.add_argument("--project", metavar="NAME", default="gptlab", help="the wandb.project of the runs (gptlab)")
    parser.add_argument("--name", metavar="SWEEP", help="of this sweep only (all, each with its own arms)")


def _dashboard(args: Namespace) -> int:
    from gptlab.runs.wandb_dashboard import save_dashboard

    workspace, report = save_dashboard(args.entity, args.project, args.name)
    print(f"workspace  {workspace}\nreport     {report}")
    return 0


def _show(args: Namespace) -> int:
    from rich.console import Console

    from gptlab.cli.show import show

    show(args.overrides, Console())
    return 0


def _inspect_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("other", type=Path, nargs="?", metavar="RUN2", help="another, drawn beside it")
    parser.add_argument("--png", type=Path, metavar="FILE", help="the picture (RUN/diagnostics.png); also .pdf, .svg")


def _inspect(args: Namespace) -> int:
    from rich.console import Console

    from gptlab.cli.inspect_run import inspect

    inspect([run for run in (args.run, args.other) if run], args.png, Console())
    return 0


def _probe_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="experiment.yaml | key=value[,value...]", help="the arms")
    parser.add_argument("--png", type=Path, metavar="FILE", help="write a picture; also .pdf, .svg")


def _probe(args: Namespace) -> int:
    from rich.console import Console

    from gptlab.cli.probe import probe

    probe(args.words, args.png, Console())
    return 0


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="SLOT | use=FILE", help="slots or sections (all); a file of yours")


def _list(args: Namespace) -> int:
    from rich.console import Console

    from gptlab.cli.list_options import list_settings
    from gptlab.config import registry
    from gptlab.config.compose import find_use, parse

    settings = parse(w for w in args.words if "=" in w)
    for other in (o for o in settings if o.key_or_group != "use"):
        raise ConfigError(
            f"{other.input_line}: does not change the list; give slots and use=FILE, or try `gptlab show`"
        )
    registry.load(find_use(settings))
    list_settings(Console(), [w for w in args.words if "=" not in w])
    return 0


def _sample_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--prompt", default="\n", help="how the text begins (a line break)")
    parser.add_argument("--n", type=int, default=200, help="tokens to add (200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (0.8)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens only")
    parser.add_argument("--seed", type=int, default=0, help="of the draws (0)")
    parser.add_argument("--no-cache", action="store_true", help="read the whole text anew for each token")


def _sample(args: Namespace) -> int:
    for flag, value, lowest in (("--n", args.n, 1), ("--temperature", args.temperature, 0), ("--top-k", args.top_k, 1)):
        if value is not None and not value >= lowest:
            raise ConfigError(f"{flag}={value}: must be at least {lowest}")
    from gptlab.model.generate import generate
    from gptlab.runs.load import open_run

    model, tokenizer = open_run(args.run)
    prompt = tokenizer.encode(args.prompt, "--prompt").tolist()
    if not prompt:
        raise ConfigError("--prompt=: give at least one character to go on from")
    tokens = generate(
        model,
        prompt,
        args.n,
        temperature=args.temperature,
        top_k=args.top_k,
        seed=args.seed,
        n_tokens_known=tokenizer.vocab_size,
        cached=not args.no_cache,
    )
    print(tokenizer.decode(tokens))
    return 0


def _convert_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FOLDER", help="of either kind")
    parser.add_argument("--to", dest="target", type=Path, required=True, metavar="FOLDER", help="new, the other kind")
    parser.add_argument("--model-type", help="of transformers (where it came from, else the first that has it)")


def _convert(args: Namespace) -> int:
    from gptlab.convert.folders import convert

    convert(args.source, args.target, model_type=args.model_type)
    return 0


def _completion_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.add_argument("line", nargs="?", help="as typed so far; prints the words that can come at its end")


def _completion(args: Namespace) -> int:
    from gptlab.cli.completion import SCRIPTS, complete, known_names

    names = known_names()  # also for the script: the first TAB then finds them written down
    print(SCRIPTS[args.shell] if args.line is None else "\n".join(complete(args.line, names, list(VERBS))))
    return 0


VERBS = {
    "train": Verb(
        "train one model, or go on with one that was stopped",
        """  gptlab train
  gptlab train norm=rmsnorm placement=post ffn=swiglu position=rope bias=false block=parallel seed=1
  gptlab train preset=llama size=tiny data=text data.path=README.md budget.steps=20
  gptlab train -m norm=layernorm,rmsnorm seed=0,1      the same as gptlab sweep""",
        _overrides,
        _train,
    ),
    "sweep": Verb(
        "train every combination of the values given; again, it goes on where it stopped",
        """  gptlab sweep norm=layernorm,rmsnorm placement=pre,post,double seed=0,1,2
  gptlab sweep experiments/demo/demo.yaml
  gptlab sweep experiments/demo/demo.yaml seed=0,1,2,3 budget.steps=500
  gptlab sweep ffn=gelu,swiglu match=params seed=0,1,2,3,4 --tune optimizer.lr=3e-4,1e-3,3e-3
  gptlab sweep --ladder preset=gpt2 preset=llama size=small data.window=64 tokenizer=byte seed=0,1,2
  gptlab sweep --knock-out preset=gpt2 preset=llama size=small data.window=64 tokenizer=byte seed=0,1,2
  gptlab sweep norm=layernorm,rmsnorm ffn=gelu,swiglu placement=pre,post,double seed=0,1 --fraction 0.5
  gptlab sweep ffn=gelu,swiglu hydra.launcher.n_jobs=1
  gptlab sweep ffn=gelu,swiglu seed=0,1 sweep.per_gpu=2      so many cells at once on each GPU
  gptlab sweep ffn=gelu,swiglu hydra/launcher=submitit_slurm hydra.launcher.timeout_min=60""",
        _sweep_arguments,
        _sweep,
    ),
    "status": Verb(
        "the cells of a sweep: finished, running, waiting, failed, and the time left",
        """  gptlab status runs/demo
  gptlab status runs/demo --watch""",
        _status_arguments,
        _status,
    ),
    "compare": Verb(
        "the arms of a sweep in one table: differences from the baseline, paired by seed",
        """  gptlab compare runs/demo
  gptlab compare runs/demo --metric val/bpb --csv table.csv --png curves.png
  gptlab compare runs/demo --markdown RESULTS.md --html report.html --keep results.json
  gptlab compare runs/demo --margin 0.01 --against previous""",
        _compare_arguments,
        _compare,
    ),
    "dashboard": Verb(
        "a workspace and a report in W&B: runs grouped by arm, mean and band over seeds",
        """  gptlab dashboard --name demo
  gptlab dashboard --entity my-team --project gptlab      every call saves new ones; yours stay as they are""",
        _dashboard_arguments,
        _dashboard,
    ),
    "show": Verb(
        "a config without training it: what differs, the block, parameters, FLOPs, bytes",
        """  gptlab show preset=gpt2 norm=rmsnorm
  gptlab show preset=llama block=parallel
  gptlab show preset=gpt2 size=175b data.window=2048""",
        _overrides,
        _show,
    ),
    "bench": Verb(
        "the speed of a training step, or of a sweep, here and beside other people's code",
        """  gptlab bench preset=nanogpt-cpu
  gptlab bench preset=nanogpt-cpu --against nanogpt=../nanoGPT --against hf --json bench.json
  gptlab bench size=small ffn=swiglu position=rope --threads 1
  gptlab bench --sweep preset=nanogpt-cpu budget.steps=200 --cells 16 --loop-cells 4""",
        _bench_arguments,
        _bench,
    ),
    "inspect": Verb(
        "inside a run, or two: activations, gradients, updates and attention by layer, as a picture",
        """  gptlab inspect runs/demo/RUN
  gptlab inspect runs/demo/RUN --png inside.png""",
        _inspect_arguments,
        _inspect,
    ),
    "probe": Verb(
        "activations and gradients by layer at initialisation, of one arm or a grid, without training",
        """  gptlab probe placement=pre,post,double,output size.n_layer=12
  gptlab probe placement=pre,post init=xavier size.n_layer=12 --png probe.png""",
        _probe_arguments,
        _probe,
    ),
    "list": Verb(
        "slots, their options, and the settings of each",
        """  gptlab list
  gptlab list ffn
  gptlab list train eval""",
        _list_arguments,
        _list,
    ),
    "sample": Verb(
        "text from a trained run",
        """  gptlab sample runs/demo/RUN --prompt "def " --n 200 --temperature 0.8 --top-k 40""",
        _sample_arguments,
        _sample,
    ),
    "convert": Verb(
        "a folder of transformers as a run's folder, or a run as a folder of transformers",
        """  gptlab convert --from pythia-70m --to runs/pythia-70m      says how to train it further
  gptlab convert --from runs/demo/RUN --to exported
  gptlab convert --from runs/demo/RUN --to exported-as-llama --model-type llama""",
        _convert_arguments,
        _convert,
    ),
    "completion": Verb(
        "a script for the shell that completes verbs, slots, options and settings",
        """  eval "$(gptlab completion bash)"      in ~/.bashrc
  eval "$(gptlab completion zsh)"       in ~/.zshrc, after compinit
  gptlab completion fish | source       in ~/.config/fish/config.fish""",
        _completion_arguments,
        _completion,
    ),
}
