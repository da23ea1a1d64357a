"""The verbs for a user's own components: new, check."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from gptlab.cli.new_component import COUNTERPARTS, write_template
from gptlab.cli.verb import Result, Verb


def _new_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("kind", metavar="KIND", help=", ".join(COUNTERPARTS))
    parser.add_argument("file", type=Path, metavar="FILE.py", help="a new file")


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
