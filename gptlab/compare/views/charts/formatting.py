"""Numbers and verdicts as the report writes them: formatting.py's, with the signs of a book."""

from collections.abc import Mapping
from dataclasses import dataclass

from gptlab.compare.analysis.verdict import BETTER, EQUIVALENT, NOT_SHOWN, UNSTABLE, WORSE
from gptlab.compare.views import formatting

DASH, MINUS = "–", "−"


@dataclass(frozen=True)
class Sign:
    """Of a verdict: its symbol alone must tell it, since colours are not seen by all."""

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
    return _SIGNS.get(verdict, _NO_VERDICT)


def metric_label(metric: str) -> str:
    """validation loss (nats per token)"""
    return formatting.LABELS.get(metric, metric)


def number(value: float) -> str:
    return _set(formatting.number(value))


def signed(value: float) -> str:
    """+0.0130"""
    return _set(formatting.number(value, "+"))


def p_value(p: float) -> str:
    return _set(formatting.p_value(p))


def seeds(needed: float) -> str:
    return _set(formatting.seeds(needed)).replace("more than", ">")


def si(value: float) -> str:
    return _set(formatting.si(value))


def percent(value: float, reference: float) -> str:
    return "equal" if value == reference else _set(formatting.percent(value, reference))


def _set(text: str) -> str:
    return DASH if text == formatting.UNKNOWN else text.replace("-", MINUS)


def listing(counts: Mapping[str, int]) -> str:
    """3 finished, 1 diverged"""
    return ", ".join(f"{n} {state}" for state, n in counts.items() if n) or "no run"
