"""Numbers as they are shown, in a terminal, a file or a picture."""

from math import isinf, isnan

UNKNOWN = "-"
LABELS = {
    "val/loss": "validation loss (nats per token)",
    "val/bpb": "validation loss (bits per byte)",
    "val/accuracy": "validation accuracy",
    "val/excess": "validation loss above the grammar's own (nats per token)",
    "train/loss": "training loss (nats per token)",
}


def si(value: float) -> str:
    """Three digits: 809_536 -> 810K."""
    if isnan(value):
        return UNKNOWN
    for unit in ("", "K", "M", "G", "T", "P"):
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}E"


def number(value: float, sign: str = "") -> str:
    """Four decimals; none from 1,000 on."""
    if isnan(value):
        return UNKNOWN
    return f"{value:{sign}.4f}" if abs(value) < 1000 else f"{value:{sign},.0f}"


def plus_minus(value: float, half: float, sign: str = "") -> str:
    """`2.1033 ± 0.0950`, as many decimals in both; without a spread the value alone."""
    if isnan(value) or isnan(half):
        return number(value, sign)
    return f"{number(value, sign)} ± {half:{'.4f' if abs(value) < 1000 else ',.0f'}}"


def p_value(p: float) -> str:
    """Three decimals, and never 0."""
    return UNKNOWN if isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def percent(value: float, reference: float) -> str:
    """How much more than the reference: +1.2 %."""
    if isnan(value) or isnan(reference) or not reference:
        return UNKNOWN
    more = round(value / reference - 1, 3) + 0.0  # no -0.0
    return f"{more:+.1%}".replace("%", " %")


def seeds(needed: float) -> str:
    """A number of seeds; beyond what is worth counting, that."""
    return UNKNOWN if isnan(needed) else "more than 1,000" if isinf(needed) else f"{needed:,.0f}"
