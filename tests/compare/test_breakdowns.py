"""Tables by position and by difficulty, from runs and from an archive."""

import json

import numpy as np
import pytest

from comparisons import make_comparison
from gptlab.compare import build_comparison
from gptlab.compare.analysis.comparison import Breakdown
from gptlab.compare.views.markdown import render_markdown
from gptlab.compare.views.report import render_report
from run_folders import RMS, shown, write_run


@pytest.fixture
def top(tmp_path):
    """Two arms with two seeds each; the second arm was not evaluated in longer windows."""
    for arm, changes in enumerate(({}, {"norm": RMS["norm"]})):
        for seed in (0, 1):
            easy, hard = 0.9 - 0.1 * arm, 0.5 - 0.2 * arm + 0.02 * seed
            own = {"val/accuracy": 0.6, "val/accuracy_pairs-4": easy, "val/accuracy_pairs-16": hard}
            own |= {"val/loss_position-1": 3.0, "val/loss_position-3-4": 2.0 + seed}
            own |= {} if arm else {"val/loss_2x": 2.5, "val/loss_position-3-4_2x": 2.25}
            curve = [{"step": 1, "val/loss": 3.0}, {"step": 2, "val/loss": 2.0, **own}]
            write_run(
                tmp_path / f"{arm}{seed}", seed=seed, summary=own, curve=curve, times=(f"{arm}{seed}", ""), **changes
            )
    return tmp_path


def test_breakdowns_are_means_over_the_seeds(top):
    found = {b.title: b.levels for b in build_comparison([top]).breakdowns}
    assert list(found) == [
        "val/accuracy by pairs",
        "val/loss by position",
        "val/loss by position, in windows 2 times as long as in training",
    ]
    by_pairs, by_position, longer = found.values()
    assert list(by_pairs) == ["4", "16"] and list(by_position) == ["1", "3-4"] and list(longer) == ["3-4"]
    sd = 0.02 / np.sqrt(2)
    assert np.array(by_pairs["16"]) == pytest.approx(np.array([(0.51, sd), (0.31, sd)]))
    assert by_position["3-4"][1] == pytest.approx((2.5, np.sqrt(0.5)))
    assert longer["3-4"][0] == pytest.approx((2.25, 0)) and np.isnan(longer["3-4"][1]).all()


def test_breakdowns_are_made_again_from_an_archive(top):
    kept = top / "kept.json"
    shown([top], keep=kept)
    assert render_markdown(build_comparison([kept])) == render_markdown(build_comparison([top]))
    for run in json.loads(kept.read_text())["runs"]:
        assert not any("position" in key for key in run["points"])  # a column of nulls but for its end


def test_text_and_page_show_breakdowns_if_there_are_any():
    levels = {"4": [(0.91, 0.01), (0.87, float("nan"))], "16": [(0.5, 0.1), (float("nan"), float("nan"))]}
    comparison = make_comparison(arms=2, breakdowns=[Breakdown("val/accuracy", "pairs", 1, levels)])
    text, page = render_markdown(comparison), " ".join(render_report(comparison).split())
    assert "## val/accuracy by pairs\n\n| arm | 4 | 16 |\n| --- | ---: | ---: |\n" in text
    assert "| layernorm | 0.9100 ± 0.0100 | 0.5000 ± 0.1000 |\n| rmsnorm | 0.8700 | - |" in text
    assert "<h3>val/accuracy by pairs</h3>" in page and '0.9100 <span class="sd">± 0.0100</span>' in page
    assert "by pairs" not in render_markdown(make_comparison()) + render_report(make_comparison())
