"""Numbers as text, the same in a terminal, a file and a picture."""

from math import isinf, isnan

UNKNOWN = "-"


def si(value: float) -> str:
    """Format with three digits and an SI prefix: 809_536 -> 810K."""
    if isnan(value):
        return UNKNOWN
    for unit in ("", "K", "M", "G", "T", "P"):
        if abs(value) < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}E"


def number(value: float, sign: str = "") -> str:
    """Format with four decimals, or with none from 1,000 on. `sign` "+" shows the sign of positive numbers too."""
    if isnan(value):
        return UNKNOWN
    return f"{value:{sign}.4f}" if abs(value) < 1000 else f"{value:{sign},.0f}"


def plus_minus(value: float, half: float, sign: str = "") -> str:
    """Format a value with half the width of its interval, `2.1033 ± 0.0950`; without a width the value alone."""
    if isnan(value) or isnan(half):
        return number(value, sign)
    return f"{number(value, sign)} ± {half:{'.4f' if abs(value) < 1000 else ',.0f'}}"


def p_value(p: float) -> str:
    """Format with three decimals; below 0.001 as `<0.001`."""
    return UNKNOWN if isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"


def percent(value: float, reference: float) -> str:
    """Format how much a value exceeds the reference: `+1.2 %`."""
    if isnan(value) or isnan(reference) or not reference:
        return UNKNOWN
    more = round(value / reference - 1, 3) + 0.0  # no -0.0
    return f"{more:+.1%}".replace("%", " %")


def seed_range(fewest: float, most: float) -> str:
    """Format a range of numbers of seeds, `8 to 78`; infinite ones as `more than 1,000`."""
    if isnan(fewest) or isnan(most):
        return UNKNOWN
    low, high = ("more than 1,000" if isinf(n) else f"{n:,.0f}" for n in (fewest, most))
    return low if low == high else f"{low} to {high}"
