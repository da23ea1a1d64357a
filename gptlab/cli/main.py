"""The command line: one program with verbs, errors in one line, exit codes."""

import os
import signal
import sys
import time
from collections.abc import Sequence

from gptlab.cli.commands import VERBS
from gptlab.cli.output import write_whatever_the_encoding
from gptlab.config import ConfigError, did_you_mean
from gptlab.config.environment import number_in_environment
from gptlab.config.user_files import ComponentError
from gptlab.files import FileError

SECONDS_FOR_RANK_0 = 10.0
EXIT_CODES = """exit codes:
  0    done; a run that diverged is an outcome, so it is 0 too
  1    a run failed, a check failed, or an unexpected error (with a traceback)
  2    bad input: one line on stderr says what to change, and nothing was written
  128+n    stopped by signal n, such as 130 (Ctrl-C) or 143 (SIGTERM); the same command continues a run or a sweep"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints and exits where it should raise
    write_whatever_the_encoding()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(arguments)
        sys.stdout.flush()
    except (ConfigError, FileError) as e:
        _defer_to_rank_0(2)
        for line in str(e).splitlines():
            print(f"gptlab: {line}", file=sys.stderr)
        code = 2
    except ComponentError as e:
        _defer_to_rank_0(1)
        print(f"gptlab: {e}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        _defer_to_rank_0(130)
        resumes = arguments[:1] in (["train"], ["sweep"])
        print(
            f"gptlab: interrupted{'; the same command goes on, from a checkpoint if there is one' * resumes}",
            file=sys.stderr,
        )
        code = 130
    except BrokenPipeError:  # `gptlab list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _defer_to_rank_0(code: int) -> None:
    """Let only rank 0 report an error that occurs on all ranks. torchrun ends the other ranks when rank 0 has ended."""
    if os.environ.get("RANK", "0") != "0":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(code))
        time.sleep(SECONDS_FOR_RANK_0)  # a rank that is still alive after this is the only one with the error


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    name, *arguments = arguments
    if name == "--version":
        from importlib.metadata import version

        print(f"gptlab {version('gptlab')}")
        return 0
    if name not in VERBS:
        raise ConfigError(f"{name}: no such verb{did_you_mean(name, VERBS)}; choose from {', '.join(VERBS)}")
    if name != "train" and number_in_environment("WORLD_SIZE", 1) > 1:
        raise ConfigError(f"{name}: runs in one process; start it without torchrun, which is for `gptlab train`")
    if name == "train" and {"-m", "--multirun"} & set(arguments):
        name, arguments = "sweep", [argument for argument in arguments if argument not in ("-m", "--multirun")]
    return VERBS[name].execute(name, arguments)


def _usage() -> str:
    verbs = "\n".join(f"  {name:<11}{verb.summary}" for name, verb in VERBS.items())
    return (
        f"usage: gptlab VERB [key=value ...]\n\n{verbs}\n\n`gptlab VERB --help` has examples.\n\n"
        f"--json prints the result of a verb as one JSON document on stdout; messages go to stderr.\n\n{EXIT_CODES}"
    )
