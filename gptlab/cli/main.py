"""The command line: one program with verbs, an error in one line, exit codes."""

import os
import signal
import sys
import time
from collections.abc import Sequence

from gptlab.cli.commands import VERBS
from gptlab.config import ConfigError, did_you_mean

SECONDS_FOR_THE_FIRST = 10.0


def main(argv: Sequence[str] | None = None) -> None:
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # else Hydra prints and exits where it should raise
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
    except ConfigError as e:
        _let_the_first_speak(2)
        for line in str(e).splitlines():
            print(f"gptlab: {line}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        _let_the_first_speak(130)
        print("gptlab: interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # `gptlab list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def _let_the_first_speak(code: int) -> None:
    """Of torchrun's processes all make the same mistake: the first tells it, and with its end the others are ended."""
    if int(os.environ.get("RANK", 0)) > 0:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(code))
        time.sleep(SECONDS_FOR_THE_FIRST)  # who is still there then is alone with it


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
    if words[0] != "train" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(f"{words[0]}: one process does this; start it without torchrun, which is for `gptlab train`")
    if words[0] == "train" and any(w in ("-m", "--multirun") for w in words):
        words = ["sweep", *(w for w in words[1:] if w not in ("-m", "--multirun"))]
    verb = VERBS[words[0]]
    return verb.run(verb.parser(words[0]).parse_intermixed_args(words[1:]))


def _usage() -> str:
    verbs = "\n".join(f"  {name:<11}{verb.summary}" for name, verb in VERBS.items())
    return f"usage: gptlab VERB [key=value ...]\n\n{verbs}\n\n`gptlab VERB --help` has examples."
