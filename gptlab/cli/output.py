"""Output on terminals and in files whose encoding lacks some of the characters that gptlab prints."""

import codecs
import io
import sys

SPELLED = {
    "±": "+-",
    "×": "x",
    "·": ".",
    "→": "->",
    "←": "<-",
    "−": "-",
    "–": "-",
    "—": "-",
    "…": "...",
    "≤": "<=",
    "≥": ">=",
}


def write_whatever_the_encoding() -> None:
    """Let stdout and stderr write a character that their encoding lacks in another way, instead of failing."""
    codecs.register_error("gptlab", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # in a notebook or a test it may be another object
            stream.reconfigure(errors="gptlab")


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Return ASCII for the characters that cannot be encoded: +- for ± and an escape for any other."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    text = "".join(SPELLED.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters)
    return text, error.end
