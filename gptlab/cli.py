"""The command line: one program with verbs. What a verb needs is imported when it is called."""

import argparse
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gptlab.config import ConfigError, did_you_mean


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


def main(argv: Sequence[str] | None = None) -> None:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints and exits where it should raise
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except ConfigError as e:
        for line in str(e).splitlines():
            print(f"gptlab: {line}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("gptlab: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `gptlab list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"gptlab {version('gptlab')}")
        return 0
    if words[0] not in VERBS:
        raise ConfigError(f"{words[0]}: no such verb{did_you_mean(words[0], VERBS)}; choose from {', '.join(VERBS)}")
    if words[0] == "train" and any(w in ("-m", "--multirun") for w in words):
        words = ["sweep", *(w for w in words[1:] if w not in ("-m", "--multirun"))]
    verb = VERBS[words[0]]
    return verb.run(verb.parser(words[0]).parse_intermixed_args(words[1:]))


def _usage() -> str:
    verbs = "\n".join(f"  {name:<11}{verb.summary}" for name, verb in VERBS.items())
    return f"usage: gptlab VERB [key=value ...]\n\n{verbs}\n\n`gptlab VERB --help` has examples."


def _overrides(parser: ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="what differs from the baseline; `gptlab list`"
    )


def _train(args: Namespace) -> int:
    from gptlab.compose import load_config
    from gptlab.run_folder import Busy

    cfg = load_config(args.overrides)
    from gptlab.run import train

    try:
        train(cfg)
    except Busy as e:
        raise ConfigError(f"{e}; wait for it, or give another seed or runs_dir") from e
    return 0


def _sweep_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="experiment.yaml | key=value[,value...]", help="the cells")
    parser.add_argument("--retry", action="store_true", help="run failed cells again")


def _sweep(args: Namespace) -> int:
    from gptlab.sweep import sweep

    counts = sweep(args.words, retry=args.retry)
    return 1 if counts.get("failed") else 0


def _compare_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="FOLDER", help="run folders, or folders above them")
    parser.add_argument("--metric", default="val/loss", help="a number of summary.json (val/loss)")
    parser.add_argument("--baseline", metavar="ARM", help="the arm that the others are compared with")
    parser.add_argument("--csv", metavar="FILE", help="write the table")
    parser.add_argument("--plot", metavar="FILE", help="write a picture of the curves")


def _compare(args: Namespace) -> int:
    from gptlab.compare import compare
    from gptlab.compose import load_config, plain

    defaults = plain(load_config())
    compare(args.paths, metric=args.metric, baseline=args.baseline, csv=args.csv, plot=args.plot, defaults=defaults)
    return 0


def _show(args: Namespace) -> int:
    from rich.console import Console

    from gptlab.show import show

    show(args.overrides, Console())
    return 0


def _list_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("words", nargs="*", metavar="SLOT | use=FILE", help="slots or sections (all); a file of yours")


def _list(args: Namespace) -> int:
    from rich.console import Console

    from gptlab import registry
    from gptlab.compose import find_use, parse
    from gptlab.listing import list_settings

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
    from gptlab.sample import generate, open_run

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
    from gptlab.completion import SCRIPTS, complete, known_names

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
  gptlab sweep ffn=gelu,swiglu hydra.launcher.n_jobs=1
  gptlab sweep ffn=gelu,swiglu hydra/launcher=submitit_slurm hydra.launcher.timeout_min=60""",
        _sweep_arguments,
        _sweep,
    ),
    "compare": Verb(
        "the arms of a sweep in one table: differences from the baseline, paired by seed",
        """  gptlab compare runs/demo
  gptlab compare runs/demo --metric val/bpb --csv table.csv --plot curves.png""",
        _compare_arguments,
        _compare,
    ),
    "show": Verb(
        "a config without training it: what differs, the block, parameters, FLOPs, bytes",
        """  gptlab show preset=gpt2 norm=rmsnorm
  gptlab show preset=llama block=parallel
  gptlab show preset=gpt2 size=175b data.window=2048""",
        _overrides,
        _show,
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


if __name__ == "__main__":
    main()
