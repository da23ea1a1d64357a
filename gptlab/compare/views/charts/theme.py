"""The colours of charts and page in light and dark, and how each arm looks. Charts name a colour of the theme."""

from dataclasses import dataclass

BASELINE = "ink"
_COLOURS = {  # name: light, dark
    "page": ("#ffffff", "#14161a"),
    "panel": ("#f5f6f8", "#1e2127"),
    "ink": ("#16181d", "#f2f3f5"),
    "muted": ("#5c636e", "#a2a9b4"),
    "line": ("#dfe2e7", "#343941"),
    "accent": ("#2456c4", "#8ab4ff"),
    "low": ("#3b74d9", "#3d78df"),  # the two ends of a heat map
    "high": ("#f1f4fa", "#20242c"),
    "good": ("#0a7a52", "#4cd3a0"),
    "bad": ("#b3261e", "#ff8a80"),
    "same": ("#2456c4", "#8ab4ff"),
    "unsure": ("#8a5a00", "#e5b454"),
}
# Colours of arms, which differ in hue and in lightness; the two themes use similar ones for the same arm.
_ARMS = (
    *(("#1f77d0", "#5aa9ff"), ("#d9541e", "#ff8a5c"), ("#0f9d74", "#3ecf9f"), ("#a24ec2", "#cf8bf0")),
    *(("#b58900", "#e0b53c"), ("#0aa5c2", "#4fd3ea"), ("#d6336c", "#ff7aa8"), ("#6b8e23", "#a9cf57")),
    *(("#7a5c45", "#c9a285"), ("#5b5bd6", "#9a9aff")),
)
_ALL = _COLOURS | {f"arm-{i}": pair for i, pair in enumerate(_ARMS)}
THEMES: dict[str, dict[str, str]] = {
    mode: {name: pair[i] for name, pair in _ALL.items()} for i, mode in enumerate(("light", "dark"))
}
_DASHES: tuple[list[int], ...] = ([], [7, 3], [2, 3], [7, 2, 2, 2])  # pixels of line and gap
_SYMBOLS = {  # Vega's name -> an SVG path around (13, 6)
    "circle": "M13 3a3 3 0 1 0 .01 0z",
    "diamond": "M13 2l4 4l-4 4l-4-4z",
    "square": "M10 3h6v6h-6z",
    "triangle-up": "M13 2l4 7h-8z",
}


@dataclass(frozen=True)
class Style:
    """The looks of an arm in every chart."""

    colour: str  # a key of a theme
    dash: list[int]
    symbol: str

    @property
    def dasharray(self) -> str:
        """The dash as SVG writes it."""
        return " ".join(map(str, self.dash)) or "none"

    @property
    def path(self) -> str:
        """The symbol as an SVG path."""
        return _SYMBOLS[self.symbol]


def named(colour: str) -> str:
    """Return the placeholder of a theme's colour in a chart."""
    return f"theme:{colour}"


def style(place: int) -> Style:
    """Return the style of the arm at `place` among the results.

    The baseline, 0, has the colour of the text. After ten other arms the colours repeat, with a different dash and
    symbol.
    """
    if place == 0:
        return Style(BASELINE, _DASHES[0], "circle")
    cycle, colour = divmod(place - 1, len(_ARMS))
    return Style(f"arm-{colour}", _DASHES[cycle % len(_DASHES)], list(_SYMBOLS)[cycle % len(_SYMBOLS)])
