"""Numbers and verdicts as the HTML report writes them: those of compare.formatting with typographic signs."""

from collections.abc import Mapping
from dataclasses import dataclass

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
    """Return the sign of a verdict."""
    return _SIGNS.get(verdict, _NO_VERDICT)


def metric_label(metric: str) -> str:
    """Return the label of a metric with its unit: `validation loss (nats per token)`."""
    return metric_named(metric).title


def typeset(text: str) -> str:
    """Replace hyphens by minus signs, and an unknown number by a dash."""
    return DASH if text == formatting.UNKNOWN else text.replace("-", MINUS)


def number(value: float) -> str:
    """Format a number with four decimals."""
    return typeset(formatting.number(value))


def signed(value: float) -> str:
    """Format a number with its sign: `+0.0130`."""
    return typeset(formatting.number(value, "+"))


def p_value(p: float) -> str:
    """Format a p value with three decimals."""
    return typeset(formatting.p_value(p))


def seeds(needed: float) -> str:
    """Format a number of seeds."""
    return typeset(formatting.seeds(needed)).replace("more than", ">")


def si(value: float) -> str:
    """Format a number with an SI prefix."""
    return typeset(formatting.si(value))


def percent(value: float, reference: float) -> str:
    """Format how much a value exceeds the reference."""
    return "equal" if value == reference else typeset(formatting.percent(value, reference))


def listing(counts: Mapping[str, int]) -> str:
    """Format counts of states: `3 finished, 1 diverged`."""
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "no run"
