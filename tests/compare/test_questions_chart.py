"""The picture of what the arms of several questions are worth."""

import re
from dataclasses import replace
from math import inf

import pytest

from gptlab.compare.analysis.multiplier import Multiplier
from gptlab.compare.views.charts.questions import Question, WorthRow, draw_questions, worth_text

FOUND = Multiplier(value=1.15, low=0.95, high=1.72, least=0.5, most=2.0)


def drawn(*found: Multiplier, verdict="not shown") -> str:
    arms = [WorthRow(f"arm {i}", one, verdict) for i, one in enumerate(found)]
    return draw_questions([Question("Does it help?", arms)], "Worth in compute", "svg").decode()


def arrows(svg: str) -> int:
    """The number of triangles: the closed paths of three corners."""
    return len(re.findall(r'd="M[^MLZ"]+L[^MLZ"]+L[^MLZ"]+Z"', svg))


@pytest.mark.parametrize(
    ("changes", "text", "n_arrows"),
    [
        ({}, "1.15 (0.95 to 1.72)", 0),
        ({"high": inf}, "1.15 (0.95 to &gt;2)", 1),
        ({"low": 0.0, "high": inf}, "1.15 (&lt;0.5 to &gt;2)", 2),
        ({"value": inf, "low": 1.6, "high": inf}, "&gt;2 (1.6 to &gt;2)", 1),
        ({"value": inf, "low": inf, "high": inf}, "&gt;2", 1),
        ({"value": 0.0, "low": 0.0, "high": 0.0}, "&lt;0.5", 1),
    ],
)
def test_what_lies_beyond_the_budgets_is_an_arrow_and_a_bound(changes, text, n_arrows):
    svg = drawn(replace(FOUND, **changes))
    assert f">{text}, not shown<" in svg
    assert arrows(svg) - arrows(drawn(FOUND)) == n_arrows


def test_a_value_far_from_the_budgets_of_the_others_is_still_inside():
    assert ">3.5 (3.1 to 3.9), better<" in drawn(replace(FOUND, value=3.5, low=3.1, high=3.9, most=4), verdict="better")
    assert worth_text(replace(FOUND, value=3.5, low=3.5, high=3.5)) == "3.5"


def test_every_question_has_a_heading_above_its_arms():
    two = [
        Question("Does it help?", [WorthRow("a", FOUND, "better")]),
        Question("And this?", [WorthRow("b", FOUND, "worse")]),
    ]
    svg = draw_questions(two, "Worth", "svg").decode()
    places = [svg.index(f">{text}<") for text in (two[0].title, two[1].title)]
    assert places == sorted(places) and ">✓<" in svg and ">✗<" in svg
    assert draw_questions(two, "Worth", "png").startswith(b"\x89PNG")
