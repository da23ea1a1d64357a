"""The colours of the report in its light and dark themes.

Figures and page refer to a colour by name; the page looks it up in the theme in use.
"""

from dataclasses import dataclass
from typing import Any

BASELINE = "ink"
_NEUTRAL = {
    "light": {
        "page": "#ffffff",
        "panel": "#f5f6f8",
        "ink": "#16181d",
        "muted": "#5c636e",
        "line": "#dfe2e7",
        "accent": "#2456c4",
        "low": "#3b74d9",  # the two ends of a heat map
        "high": "#f1f4fa",
    },
    "dark": {
        "page": "#14161a",
        "panel": "#1e2127",
        "ink": "#f2f3f5",
        "muted": "#a2a9b4",
        "line": "#343941",
        "accent": "#8ab4ff",
        "low": "#3d78df",
        "high": "#20242c",
    },
}
_TONES = {
    "light": {"good": "#0a7a52", "bad": "#b3261e", "same": "#2456c4", "unsure": "#8a5a00"},
    "dark": {"good": "#4cd3a0", "bad": "#ff8a80", "same": "#8ab4ff", "unsure": "#e5b454"},
}
# Ten colours that differ in hue and lightness; an arm has a similar colour in both themes.
_ARMS = {
    "light": [
        "#1f77d0",
        "#d9541e",
        "#0f9d74",
        "#a24ec2",
        "#b58900",
        "#0aa5c2",
        "#d6336c",
        "#6b8e23",
        "#7a5c45",
        "#5b5bd6",
    ],
    "dark": [
        "#5aa9ff",
        "#ff8a5c",
        "#3ecf9f",
        "#cf8bf0",
        "#e0b53c",
        "#4fd3ea",
        "#ff7aa8",
        "#a9cf57",
        "#c9a285",
        "#9a9aff",
    ],
}
THEMES: dict[str, dict[str, str]] = {
    mode: {**_NEUTRAL[mode], **_TONES[mode], **{f"arm-{i}": colour for i, colour in enumerate(_ARMS[mode])}}
    for mode in ("light", "dark")
}
_DASHES = {"solid": "none", "dash": "7 3", "dot": "2 3", "dashdot": "7 2 2 2"}  # plotly's name -> SVG's lengths
_SYMBOLS = {  # plotly's name -> an SVG path around (13, 6)
    "circle": "M13 3a3 3 0 1 0 .01 0z",
    "diamond": "M13 2l4 4l-4 4l-4-4z",
    "square": "M10 3h6v6h-6z",
    "triangle-up": "M13 2l4 7h-8z",
}


@dataclass(frozen=True)
class Style:
    """The colour, dash and symbol of an arm in every figure."""

    colour: str  # a key of a theme
    dash: str
    symbol: str

    @property
    def dasharray(self) -> str:
        """The dash as SVG writes it."""
        return _DASHES[self.dash]

    @property
    def path(self) -> str:
        """The symbol as an SVG path."""
        return _SYMBOLS[self.symbol]

    def line(self, **more: Any) -> dict[str, Any]:
        """Return the line of a plotly trace."""
        return {"color": named(self.colour), "dash": self.dash, **more}

    def marker(self, **more: Any) -> dict[str, Any]:
        """Return the marker of a plotly trace."""
        return {"color": named(self.colour), "symbol": self.symbol, **more}


def named(colour: str, opacity: float | None = None) -> str:
    """Return the name of a colour for a figure; page.js replaces it by the colour in the current theme."""
    return f"theme:{colour}" + ("" if opacity is None else f"/{opacity:g}")


def style(index: int) -> Style:
    """Return the style of the arm at `index` in the comparison. The baseline, 0, has the colour of the text.

    After ten other arms the colours repeat, with another dash and symbol.
    """
    if index == 0:
        return Style(BASELINE, "solid", "circle")
    round_number, colour = divmod(index - 1, len(_ARMS["light"]))
    return Style(
        f"arm-{colour}", list(_DASHES)[round_number % len(_DASHES)], list(_SYMBOLS)[round_number % len(_SYMBOLS)]
    )
