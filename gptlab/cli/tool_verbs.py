"""The verbs around the lab: bench, convert, completion."""

from argparse import ArgumentParser, Namespace

from gptlab.cli.verb import Result, Verb, add_overrides, result_console, user_path, wants_document
from gptlab.config import ConfigError


def _bench_arguments(parser: ArgumentParser) -> None:
    add_overrides(parser)
    parser.add_argument(
        "--against",
        action="append",
        metavar="PEER",
        help="time this too: nanogpt=PATH of a checkout, hf, x-transformers",
    )
    parser.add_argument(
        "--blocks",
        type=int,
        metavar="N",
        help="blocks of steps, interleaved (default: 7); with --sweep, rounds (default: 1)",
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="steps in a block (default: the number that takes 1.5 seconds)"
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="torch's threads in each process (default: torch's own)"
    )
    parser.add_argument(
        "--peer-precision",
        choices=("float32", "bf16"),
        help="precision of the peers (default: float32 on a CPU, else gptlab's)",
    )
    parser.add_argument("--sweep", action="store_true", help="time a sweep of small cells against loops instead")
    parser.add_argument(
        "--cells", type=int, metavar="N", help="cells of that sweep, which differ in the seed (default: 16)"
    )
    parser.add_argument(
        "--loop-cells",
        type=int,
        metavar="N",
        help="run only N of them in the loop, and scale up the time (default: all)",
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const=True,
        type=user_path,
        metavar="FILE",
        help="write all figures, with machine and versions, to FILE.json; without a name, to stdout",
    )


def _bench(args: Namespace) -> Result:
    from gptlab.bench.command import bench

    console, file = result_console(args), None if wants_document(args) else args.json
    if file is not None and file.suffix != ".json":
        raise ConfigError(f"--json {file}: the name must end in .json; to print the figures, put --json last")
    args.json = file
    return Result(bench(args, console))


BENCH = Verb(
    "the speed of a training step, or of a sweep, on this machine, compared with other people's code",
    """  gptlab bench preset=nanogpt-cpu
  gptlab bench preset=nanogpt-cpu --against nanogpt=../nanoGPT --against hf --json bench.json
  gptlab bench size=small ffn=swiglu position=rope --threads 1
  gptlab bench --sweep preset=nanogpt-cpu budget.steps=200 --cells 16 --loop-cells 4""",
    _bench_arguments,
    _bench,
)


def _convert_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="source",
        type=user_path,
        required=True,
        metavar="FOLDER",
        help="a folder of transformers, or a run's folder",
    )
    parser.add_argument(
        "--to", dest="target", type=user_path, required=True, metavar="FOLDER", help="a new folder, of the other kind"
    )
    parser.add_argument(
        "--model-type",
        help="the model_type of transformers (default: that of the original model, else the first that fits)",
    )


def _convert(args: Namespace) -> Result:
    from gptlab.convert.folders import convert

    convert(args.source, args.target, model_type=args.model_type)
    return Result()


CONVERT = Verb(
    "a folder of transformers into a run's folder, or a run into a folder of transformers",
    """  gptlab convert --from pythia-70m --to runs/pythia-70m      prints how to train it further
  gptlab convert --from runs/demo/RUN --to exported
  gptlab convert --from runs/demo/RUN --to exported-as-llama --model-type llama""",
    _convert_arguments,
    _convert,
)


def _completion_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    parser.add_argument("line", nargs="?", help="the line typed so far; prints the words that can end it")


def _completion(args: Namespace) -> Result:
    from gptlab.cli.commands import VERBS
    from gptlab.cli.completion import SCRIPTS, complete, known_names

    names = known_names()  # also for the script, so that the first TAB finds them cached
    print(SCRIPTS[args.shell] if args.line is None else "\n".join(complete(args.line, names, VERBS)))
    return Result()


COMPLETION = Verb(
    "a script for the shell that completes verbs, slots, options and settings",
    """  eval "$(gptlab completion bash)"      in ~/.bashrc
  eval "$(gptlab completion zsh)"       in ~/.zshrc, after compinit
  gptlab completion fish | source       in ~/.config/fish/config.fish""",
    _completion_arguments,
    _completion,
)
