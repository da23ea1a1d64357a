"""The HTML report: its text, and, in a browser, its figures, controls and width, and that it loads nothing."""

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from comparisons import make_comparison
from gptlab.compare.analysis.comparison import EqualBudgetComparison, Tuning
from gptlab.compare.read.runs import AXES
from gptlab.compare.views.charts.curves import CURVE_POINTS, learning_curves
from gptlab.compare.views.labels import LONGEST, short_names
from gptlab.compare.views.report import render_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
STRANGE = "<b>dyt</b> & \"quoted\" 'name'"  # one of the made-up arms
VARIANTS = {
    "full": lambda: make_comparison(diverged=["no norm"]),
    "one seed": lambda: make_comparison(arms=3, seeds=1, tuned=False, grid=False, metric="val/bpb"),
    "diverged": lambda: make_comparison(arms=3, diverged=["layernorm", "swiglu"], margin=float("nan"), grid=False),
}


def payload(html):
    """The figures, as the page's script reads them."""
    return json.loads(re.search(r'<script id="payload" type="application/json">(.*?)</script>', html, re.S)[1])


def rows(figure, mark):
    """All data that a figure draws by one kind of mark."""
    return [row for layer in figure["layer"] if layer["mark"]["type"] == mark for row in layer["data"]["values"]]


def crosses(figure):
    return [
        row for layer in figure["layer"] if layer["mark"].get("shape") == "cross" for row in layer["data"]["values"]
    ]


def without_scripts(html):
    return re.sub(r"<script.*?</script>", "", html, flags=re.S)


def words(html):
    """Return the page without scripts and pictures, its tags and entities unchanged and its spaces joined."""
    return " ".join(re.sub(r"<(style|svg).*?</\1>", "", without_scripts(html), flags=re.S).split())


# What it says


def test_the_page_has_the_question_the_verdicts_and_their_meaning():
    html = words(render_report(make_comparison(diverged=["no norm"])))
    for said in (
        "<title>Does RMSNorm do as well as LayerNorm",
        "</b> equivalent</span>",
        "</b> better</span>",
        "</b> unstable</span><small>seeds 0, 1, 2, 3, 4 diverged</small>",
        "paired t test, p &lt; 0.05 after Holm&#39;s correction",
        "<dt>margin</dt><dd>0.01 nats per token; smaller differences do not matter here",
        "with simultaneous 95% t intervals; p: the paired t test, with Holm&#39;s correction over 6 comparisons.",
        "<small>diverged: 5 of 5, reference 0 of 5 (p 0.050)</small>",
        "5 diverged",
        "arXiv:2102.11972",
        "<code>ffn.hidden</code> 384 → 344; 11.4M → 10.7M (reference: 10.6M; +0.1 %)",
        "match=parameters optimizer.lr=1e-3</code></pre>",
        "the best value, 0.003, is the lowest or highest that was tried",
        "1 x NVIDIA H100",
        "wandb sync runs/wandb/offline-run-x1",
    ):
        assert said in html, said


def test_the_page_has_words_at_equal_budgets_only_where_runs_end():
    comparison = make_comparison(arms=3)
    html = words(render_report(comparison))
    assert "no word: layernorm read at 98 % of its schedule; train with budget.flops= to judge" in html
    assert "the machine was shared" in html and "<small>at 2K steps</small>" in html
    comparison = make_comparison(arms=20)  # whose later arms are worse at equal FLOPs
    found = words(render_report(comparison))
    assert re.search(r"<strong>What is held equal matters for \d+ arms</strong>", found)
    unread = [EqualBudgetComparison(comparison.equal_budgets[0].axis, {}, "no run has evaluated twice")]
    assert "At equal budgets" not in render_report(make_comparison(arms=3, equal_budgets=unread))


def test_a_comparison_that_was_not_planned_says_so_above_everything():
    reason = "seeds 5, 6 came on top of the 5 that were planned"
    comparison = make_comparison(arms=3, standing="exploratory", reasons=[reason])
    html = words(render_report(comparison))
    assert f'<p class="standing">EXPLORATORY: {reason}.' in html
    assert html.index("EXPLORATORY") < html.index("<h2>Verdicts")


def test_names_and_texts_are_never_markup():
    evil = "</script><script>alert(1)</script>"
    comparison = make_comparison(question=evil, literature=evil, command=evil, hardware=[evil])
    comparison.runs["where"] = "javascript:alert(1)"
    html = render_report(comparison)
    assert "&lt;b&gt;dyt&lt;/b&gt; &amp; &#34;quoted&#34; &#39;name&#39;" in html
    assert "<b>dyt" not in html and "alert(1)</script>" not in html and 'href="javascript' not in html
    assert any(STRANGE in row.values() for row in rows(payload(html)["figures"]["forest"], "point"))


def test_only_links_to_runs_lead_outside():
    comparison = make_comparison(arms=2)
    html = without_scripts(render_report(comparison))
    addresses = re.findall(r"(?:src|href|action)\s*=\s*[\"']?([^\"'> ]+)", html)
    assert set(addresses) == {w for w in comparison.runs["where"] if w.startswith("https:")}
    assert "url(" not in html


@pytest.mark.parametrize(
    "changes",
    [
        {"arms": 1},
        {"arms": 1, "seeds": 1, "question": None, "literature": None, "command": None, "matched": [], "hardware": []},
        {"arms": 2, "seeds": 2, "curves": {}},
        {"arms": 3, "diverged": ["layernorm", "rmsnorm", "swiglu"], "margin": float("nan")},
        {"arms": 14, "seeds": 2},
        {"arms": 3, "metric": "val/accuracy"},
    ],
    ids=str,
)
def test_the_page_renders_whatever_is_missing(changes):
    comparison = make_comparison(**changes)
    html = render_report(comparison)
    assert len(payload(html)["figures"]) >= 2 and ">nan<" not in html.lower()
    for result in comparison.results[:2]:
        assert f">{result.name}</span>" in html
    assert ("higher is better" in html) == (comparison.metric == "val/accuracy")


def test_a_tuned_setting_can_be_text_and_diverge_everywhere():
    points = pd.DataFrame(
        [("layernorm", value, np.inf, np.nan, np.nan, 2, 2, value == "muon", False) for value in ("adamw", "muon")],
        columns=["arm", "value", "mean", "low", "high", "seeds", "diverged", "chosen", "at_edge"],
    )
    figure = payload(render_report(make_comparison(arms=1, tuning=[Tuning("optimizer", [0, 1], points)])))
    assert [row["x"] for row in crosses(figure["figures"]["tuning-0"])] == ["adamw", "muon"]


def test_the_effects_of_a_grid_with_their_words_come_before_its_arms():
    html = words(render_report(make_comparison()))
    assert "</b> not shown</span>" in html[html.index("<h2>Main effects") : html.index("<h2>Verdicts on the arms")]
    assert "Main effects" not in words(render_report(make_comparison(grid=False)))


def test_arms_of_a_grid_have_short_labels_and_whole_names_as_titles():
    comparison = make_comparison(arms=3)
    grid = [
        replace(result, arm=replace(result.arm, label=None), name=name, differs=name)
        for result, name in zip(comparison.results, ("norm=layernorm ffn=gelu", "norm=rmsnorm", "x"), strict=True)
    ]
    grid[2] = replace(grid[2], name="ffn=swiglu ffn.hidden=344", differs="ffn=swiglu ffn.hidden=344")
    assert short_names(grid) == {
        "norm=layernorm ffn=gelu": "layernorm + gelu",
        "norm=rmsnorm": "rmsnorm",
        "ffn=swiglu ffn.hidden=344": "swiglu + hidden=344",
    }
    long = max((result.name for result in make_comparison().results), key=len)
    page = render_report(make_comparison())
    label = short_names(make_comparison().results)[long]
    assert len(label) <= LONGEST and f">{label}</span>" in page and f">{long}<" not in page


# How it is made


def test_a_curve_is_thinned_and_its_points_are_the_means():
    comparison = make_comparison(arms=2)
    points = rows(learning_curves(comparison).view, "line")
    assert [row["place"] for row in points] == sorted((row["place"] for row in points), reverse=True)  # baseline last
    counts = Counter(row["place"] for row in points)
    assert set(counts) == {0, 1} and all(20 < n <= CURVE_POINTS for n in counts.values())
    baseline = comparison.curves["layernorm"]
    for row in points:
        if row["place"] == 0:
            expected = baseline[baseline["step"] == row["steps"]]
            assert row["tokens"] == expected["tokens"].iloc[0]
            assert row["value"] == pytest.approx(expected["val/loss"].mean())


def test_a_cross_marks_where_a_run_diverged_even_without_an_evaluation_there():
    ends = crosses(learning_curves(make_comparison(arms=2, seeds=2, diverged=["rmsnorm"])).view)
    tokens = 800 * 4096
    assert [{axis: row[axis] for axis in AXES} for row in ends] == 2 * [
        {"steps": 800, "tokens": tokens, "flops": pytest.approx(tokens * 6.4e7), "seconds": 21.7}
    ]


def test_the_best_points_stay_in_the_picture_for_accuracies_too():
    values = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    points = pd.DataFrame({"arm": "layernorm", "value": values, "mean": [0.5, 0.55, 0.54, 0.01, -np.inf]})
    points = points.assign(low=points["mean"], high=points["mean"], seeds=2, diverged=[0, 0, 0, 0, 2], chosen=False)
    tuning = [Tuning("optimizer.lr", [0, 1], points.assign(at_edge=False))]
    figures = payload(render_report(make_comparison(arms=1, metric="val/accuracy", tuning=tuning)))["figures"]
    low, high = figures["tuning-0"]["layer"][0]["encoding"]["y"]["scale"]["domain"]
    assert 0.01 < low < 0.5 and 0.55 < high < 0.6
    (cross,) = crosses(figures["tuning-0"])
    assert low < cross["y"] < 0.5  # at the worst end


def test_tuning_runs_of_the_same_seed_draw_no_curve():
    comparison = make_comparison(arms=2, seeds=2)
    tuning = comparison.runs.assign(phase="tune", state="diverged")
    with_tuning = make_comparison(arms=2, seeds=2, runs=pd.concat([comparison.runs, tuning]))
    assert rows(learning_curves(with_tuning).view, "line") == rows(learning_curves(comparison).view, "line")


def test_twenty_arms_stay_small():
    assert len(render_report(make_comparison(arms=20)).encode()) < 3e6


# In a browser


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        missing = f"none of {', '.join(BROWSERS)} is installed"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module", params=VARIANTS)
def opened(request, browser, tmp_path_factory):
    """A report that a browser has loaded from disk, with its errors and requests."""
    comparison = VARIANTS[request.param]()
    html = render_report(comparison)
    file = tmp_path_factory.mktemp("report") / "report.html"
    file.write_text(html, encoding="utf-8")
    page = browser.new_page(viewport={"width": 1400, "height": 900}, color_scheme="light")
    page.set_default_timeout(10_000)  # milliseconds
    seen = SimpleNamespace(comparison=comparison, page=page, file=file, html=html, errors=[], requests=[])
    page.on("console", lambda message: seen.errors.append(message.text))
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("request", lambda asked: seen.requests.append(asked.url))
    page.goto(file.as_uri())
    page.evaluate("drawn")  # until all figures are there
    yield seen
    page.close()


def test_every_figure_is_drawn_without_an_error_or_a_request(opened):
    named = set(payload(opened.html)["figures"])
    drawn = opened.page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll(".figure")].map((box) => [box.id, [
            box.querySelectorAll("svg.marks").length,
            box.querySelectorAll(".mark-symbol path, .mark-line path, .mark-rect path").length]]))"""
    )
    assert set(drawn) == named
    assert all(pictures and traces for pictures, traces in drawn.values()), drawn
    assert opened.errors == []  # Vega warns of whatever it does not understand
    assert {url for url in opened.requests if not url.startswith(("blob:", "data:"))} == {opened.file.as_uri()}


def test_names_are_unchanged_in_the_figures(opened):
    assert STRANGE in [r.name for r in make_comparison().results]
    forest = opened.page.locator("#forest")
    for result in opened.comparison.results[1:] if forest.count() else ():
        assert result.name[:20] in forest.text_content()


CUT_OFF = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).length"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 1000, 700])
def test_no_table_is_cut_off(opened, width, scheme):
    opened.page.emulate_media(color_scheme=scheme)
    opened.page.set_viewport_size({"width": width, "height": 900})
    opened.page.wait_for_function(f"{CUT_OFF} === 0")
    cells = "[...document.querySelectorAll('td, tbody th')].filter((cell) => cell.scrollWidth > cell.clientWidth + 1)"
    assert opened.page.evaluate(f"{cells}.map((cell) => cell.textContent)") == []
    opened.page.emulate_media(color_scheme="light")


@pytest.mark.parametrize("width", [1400, 800])
def test_the_page_is_no_wider_than_the_window(opened, width):
    opened.page.set_viewport_size({"width": width, "height": 900})
    widest = "Math.max(...[...document.querySelectorAll('svg.marks')].map((e) => e.getBoundingClientRect().right))"
    opened.page.wait_for_function(f"{widest} <= {width}")  # the figures follow the window
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_axes_of_the_curves_switch(opened):
    from playwright.sync_api import expect

    page = opened.page
    title = page.locator("#curves .role-axis-title text").first
    expect(title).to_have_text("training tokens")
    for axis, said in (("flops", "training FLOPs"), ("seconds", "seconds"), ("steps", "optimizer steps")):
        page.locator(f"input[name=axis][value={axis}] + span").click()
        expect(title).to_have_text(said)
    assert page.evaluate("views.curves.scale('x').domain()[1]") < 3000  # steps
    page.locator("input[name=xscale][value=log] + span").click()
    page.locator("input[name=yscale][value=log] + span").click()
    page.wait_for_function("['x', 'y'].every((name) => views.curves.scale(name).type === 'log')")
    assert page.locator("input[name=range]:checked").get_attribute("value") == "whole"
    assert opened.errors == []


def test_a_name_in_the_legend_hides_its_arm(opened):
    from playwright.sync_api import expect

    button = opened.page.locator("[data-figure=curves] [data-arm='1']")
    lines = opened.page.locator("#curves .mark-line path")
    before = lines.count()
    button.click()
    opened.page.wait_for_function("(n) => document.querySelectorAll('#curves .mark-line path').length < n", arg=before)
    assert before > 0 and button.get_attribute("aria-pressed") == "false"
    button.click()
    expect(lines).to_have_count(before)


def test_dark_is_dark_in_the_page_and_in_the_figures(opened):
    colours = """(colour) => [getComputedStyle(document.body),
        ...[...document.querySelectorAll(".figure svg.marks")].map((svg) => getComputedStyle(svg))]
        .every((style) => style.backgroundColor.includes(colour))"""
    for scheme, colour in (("light", "255, 255, 255"), ("dark", "20, 22, 26")):
        opened.page.emulate_media(color_scheme=scheme)
        opened.page.wait_for_function(colours, arg=colour)
    opened.page.emulate_media(color_scheme="light")
