"""Numbers and verdicts as the HTML report writes them: those of compare.formatting with typographic signs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gptlab.compare import formatting
from gptlab.compare.analysis.verdict import BETTER, EQUIVALENT, NOT_SHOWN, UNSTABLE, WORSE
from gptlab.runs.metrics import metric_named

DASH, MINUS = "–", "−"


@dataclass(frozen=True)
class Sign:
    """The sign of a verdict. Its symbol alone must identify the verdict, since not everybody sees colours."""

    symbol: str
    tone: str  # a colour of the theme


_SIGNS = {
    BETTER: Sign("✓", "good"),
    WORSE: Sign("✗", "bad"),
    EQUIVALENT: Sign("≈", "same"),
    NOT_SHOWN: Sign("?", "unsure"),
    UNSTABLE: Sign("!", "bad"),
}
_NO_VERDICT = Sign(DASH, "muted")


def sign_of(verdict: str) -> Sign:
    """Return the sign of a verdict; a mark such as `(exploratory)` takes its colour."""
    word, _, mark = verdict.partition(" (")
    sign = _SIGNS.get(word, _NO_VERDICT)
    return replace(sign, tone="unsure") if mark else sign


def metric_label(metric: str) -> str:
    """Return the label of a metric with its unit: `validation loss (nats per token)`."""
    return metric_named(metric).title


def typeset(text: str) -> str:
    """Replace hyphens by minus signs, and an unknown number by a dash."""
    return DASH if text == formatting.UNKNOWN else text.replace("-", MINUS)


def _typeset_by(function: Callable[..., str]) -> Callable[..., str]:
    """Return a function of compare.formatting with typographic signs in its result."""
    return lambda *arguments: typeset(function(*arguments))


number = _typeset_by(formatting.number)
p_value = _typeset_by(formatting.p_value)
si = _typeset_by(formatting.si)


def signed(value: float) -> str:
    """Format a number with its sign: `+0.0130`."""
    return number(value, "+")


def seed_range(fewest: float, most: float) -> str:
    """Format a range of numbers of seeds."""
    return formatting.seed_range(fewest, most).replace("more than", ">").replace(formatting.UNKNOWN, DASH)


def percent(value: float, reference: float) -> str:
    """Format how much a value exceeds the reference."""
    return "equal" if value == reference else typeset(formatting.percent(value, reference))


def listing(counts: Mapping[str, int]) -> str:
    """Format counts of states: `3 finished, 1 diverged`."""
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "no run"
