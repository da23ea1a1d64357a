"""The verbs for a user's own components: new, check."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from gptlab.cli.new_component import COUNTERPARTS, write_template
from gptlab.cli.verb import Result, Verb, result_console, user_path


def _new_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", help=", ".join(COUNTERPARTS))
    parser.add_argument("file", type=user_path, metavar="FILE.py", help="a new file")


def _new(args: Namespace) -> Result:
    commands = write_template(args.kind, args.file)
    print(f"{args.file}: a component that works as it is; edit it, then try")
    print("\n".join(f"    {command}" for command in commands))
    return Result()


NEW = Verb(
    "write a working component of your own into a new file, to edit",
    """  gptlab new norm my_norms.py
  gptlab new attention my_attention.py""",
    _new_arguments,
    _new,
)


def _check_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="use=FILE | key=value",
        help="your component file, and settings of the tiny model in which its components are tried",
    )


def _check(args: Namespace) -> Result:
    from gptlab.cli.check_component import check_components

    outcomes = check_components(args.overrides, result_console(args))
    failed = sum(not outcome.passed for outcome in outcomes)
    counts = {"passed": len(outcomes) - failed, "failed": failed}
    return Result({**counts, "checks": [asdict(outcome) for outcome in outcomes]}, code=1 if failed else 0)


CHECK = Verb(
    "try your own components: causality, cache, gradients, bias switch, bf16, cost, initial weights",
    """  gptlab check use=my_norms.py
  gptlab check use=my_norms.py norm=my_norm norm.eps=1e-6 placement=post
  gptlab check norm=rmsnorm      one of gptlab's own""",
    _check_arguments,
    _check,
    json=True,
)
