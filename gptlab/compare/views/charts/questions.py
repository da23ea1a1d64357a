"""A picture of the worth in compute of many arms, one below the other, grouped by question."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from gptlab.compare.analysis.multiplier import Multiplier
from gptlab.compare.views.charts.chart import View, complete, layer, layered, lines, quantitative, rendered, scale
from gptlab.compare.views.charts.formatting import sign_of
from gptlab.compare.views.charts.theme import BASELINE, named

ROW, LINE, GAP = 22, 17, 10  # pixels of an arm, of a line of a question, and above a question
WIDTH, LABELS = 420, 330  # pixels of the axis, and of the names at its left
LETTERS = 46  # of a line of a question
ENDS = (0.5, 2.0)  # that the axis has at least: as far as the budgets of the baseline reach
ROOM = 1.15  # beyond the ends, for the arrows of what lies outside of the budgets
TICKS = (0.25, 0.33, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class WorthRow:
    """An arm of a question."""

    arm: str
    found: Multiplier  # with a value or a bound
    verdict: str


@dataclass(frozen=True)
class Question:
    """A question with the arms whose worth was measured."""

    title: str
    arms: Sequence[WorthRow]


def draw_questions(questions: Sequence[Question], title: str, file_format: str) -> bytes:
    """Return the picture as png, pdf or svg."""
    ends = _ends(questions)
    place, rows = 0.0, []
    for question in questions:
        place += GAP
        for text in lines(question.title, LETTERS, 3):
            rows.append({"kind": "question", "y": place + LINE / 2, "text": text})
            place += LINE
        for arm in question.arms:
            rows += _marks(arm, place + ROW / 2, ends)
            place += ROW
    view = _view(rows, place, ends)
    heading = {"text": lines(title, 110), "anchor": "start", "frame": "bounds", "fontSize": 16, "offset": 12}
    return rendered(complete(view | {"title": heading, "autosize": "pad"}, {}), file_format)


def _ends(questions: Sequence[Question]) -> tuple[float, float]:
    """Return the ends of the axis, which holds all values."""
    values = [row.found.value for question in questions for row in question.arms]
    values = [*ENDS, *(value for value in values if value and isfinite(value))]
    return min(values) / ROOM, max(values) * ROOM


def _marks(row: WorthRow, y: float, ends: tuple[float, float]) -> Iterator[dict[str, Any]]:
    """Yield the marks of an arm: its name, the numbers, the interval, the point, and arrows for what lies beyond."""
    found, sign = row.found, sign_of(row.verdict)
    left, right = ends
    base = {"y": y, "tone": named(sign.tone)}
    yield {"kind": "arm", "y": y, "text": lines(row.arm, LETTERS, 1)[0]}
    yield base | {"kind": "symbol", "text": sign.symbol}
    yield base | {"kind": "note", "text": f"{worth_text(found)}, {row.verdict}"}
    low, high = (min(max(end, left), right) for end in (found.low, found.high))
    yield base | {"kind": "interval", "x": low, "x2": high}
    if found.low < left:
        yield base | {"kind": "arrow", "x": left, "shape": "triangle-left"}
    if found.high > right:
        yield base | {"kind": "arrow", "x": right, "shape": "triangle-right"}
    if left < found.value < right:
        yield base | {"kind": "point", "x": found.value}


def worth_text(found: Multiplier) -> str:
    """Return a multiplier with its interval, or the bound alone where the whole interval lies beyond the budgets."""
    return found.show(found.value) if found.low == found.high else str(found)


def _view(rows: Sequence[dict[str, Any]], height: float, ends: tuple[float, float]) -> View:
    def of(kind: str) -> list[dict[str, Any]]:
        return [{key: value for key, value in row.items() if key != "kind"} for row in rows if row["kind"] == kind]

    left, right = ends
    ticks = [tick for tick in TICKS if left < tick < right]
    title = "times the arm's FLOPs that the baseline needs for the arm's loss (right of 1: the arm is worth more)"
    x = quantitative("x", title, scale([left, right], "log"), 62, values=ticks, format="~g")
    y = {"field": "y", "type": "quantitative", "axis": None, "scale": {"domain": [height, 0], "nice": False}}
    tone = {"color": {"field": "tone", "type": "nominal", "scale": None}}
    shape = {"shape": {"field": "shape", "type": "nominal", "scale": None}}
    text = {"text": {"field": "text"}}

    def label(kind: str, at: int, **looks: Any) -> View:
        return layer(of(kind), "text", {"align": "left", **looks}, x={"value": at}, y=y, **text)

    notes = {"align": "left", "fontSize": 12}
    layers = [
        layer([{"x": 1.0}], "rule", {"color": named(BASELINE)}, x=x),
        label("question", -LABELS, fontSize=13, fontWeight="bold", color=named("ink")),
        label("arm", -LABELS + 14, fontSize=12, color=named("ink")),
        layer(of("symbol"), "text", notes, x={"value": WIDTH + 10}, y=y, **text, **tone),
        layer(of("note"), "text", notes, x={"value": WIDTH + 28}, y=y, **text, **tone),
        layer(of("interval"), "rule", {"strokeWidth": 2.5}, x=x, y=y, x2={"field": "x2"}, **tone),
        layer(of("arrow"), "point", {"filled": True, "size": 80, "opacity": 1}, x=x, y=y, **tone, **shape),
        layer(of("point"), "point", {"filled": True, "size": 80, "opacity": 1}, x=x, y=y, **tone),
    ]
    return layered(layers, int(height)) | {"width": WIDTH}
