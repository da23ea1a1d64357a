"""Tables and figures for a paper: LaTeX that compiles, and PDF files as wide as a column with letters as text."""

import re

import pytest

from comparisons import make_comparison
from gptlab.compare import build_comparison
from gptlab.compare.build_rungs import build_rungs, collect_rungs
from gptlab.compare.views.figures import COLUMN, comparison_figures, rungs_figures
from gptlab.compare.views.latex import escaped, render_latex, render_rungs_latex
from gptlab.config import ConfigError
from paths import ROOT
from run_folders import learning, shown, write_run

SCALE = ROOT / "experiments" / "scale" / "kept.json"


def check(text):
    """Fail if environments or braces are not closed, or a row has another number of cells than its table."""
    open_environments = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if kind == "begin":
            open_environments.append(name)
        else:
            assert open_environments.pop() == name
    assert not open_environments
    bare = re.sub(r"\\[&%$#_{}]", "", re.sub(r"(?m)^% .*$", "", text))
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    assert not re.search(r"[%#_^~±<>|]", re.sub(r"\$[^$]*\$", "", bare))
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", bare, re.S):
        rows = [line for line in body.split("\n") if line.endswith(r"\\")]
        assert rows and {row.count("&") for row in rows} == {len(columns) - 1}


def test_all_that_latex_would_interpret_is_escaped():
    assert escaped("a_b & 5% #1 $x {y} ~z ^w \\n") == (
        r"a\_b \& 5\% \#1 \$x \{y\} \textasciitilde{}z \textasciicircum{}w \textbackslash{}n"
    )
    assert escaped('"a" ≥ b') == "''a'' $\\geq$ b"  # what LaTeX's default fonts have
    assert escaped("-0.5 ± 0.1 p<0.001 rms-norm 1e-3") == r"$-$0.5 $\pm$ 0.1 p$<$0.001 rms-norm 1e-3"


def test_the_table_of_verdicts_is_well_formed_whatever_the_arms_are_called():
    comparison = make_comparison(question="50% of A_1 & {B} #2?", diverged=["no norm"])
    text = render_latex(comparison)
    check(text)
    assert r"50\% of A\_1 \& \{B\} \#2?" in text and r"$<$b$>$dyt" in text
    assert re.search(r"(?m)^swiglu & 5 & .* & better \\\\$", text)
    assert text.index("Main effects") < text.index("baseline")  # of a grid


def test_the_tables_over_rungs_have_the_gate_the_worth_and_every_rung():
    comparison = build_rungs(collect_rungs([SCALE]))
    text = render_rungs_latex(comparison)
    check(text)
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert labels[:3] == ["tab:rungs", "tab:gates", "tab:worth"] and "tab:dim-56-worth" in labels
    assert len(set(labels)) == len(labels)


def pages(figures):
    return {name: re.findall(rb"/MediaBox ?\[0 0 ([\d.]+)", pdf) for name, pdf in figures.items()}


def test_a_figure_is_as_wide_as_a_column_and_its_letters_are_text():
    figures = comparison_figures(make_comparison(arms=3, diverged=["rmsnorm"]))
    assert {"effects.pdf", "grid-effects.pdf", "curves.pdf", "speed.pdf", "tuning-0.pdf", "means-0.pdf"} == {
        name for name in figures if not name.startswith("means-") or name == "means-0.pdf"
    }
    for name, pdf in figures.items():
        assert pdf.startswith(b"%PDF") and b"/FontFile2" in pdf and b"/ToUnicode" in pdf, name
    widths = {name: float(found[0]) for name, found in pages(figures).items()}
    assert all(COLUMN - 4 <= width <= COLUMN + 1 for width in widths.values()), widths


def test_an_experiment_with_rungs_has_figures_over_them_and_at_each():
    comparison = build_rungs(collect_rungs([SCALE]))
    comparison.rungs[1:] = []
    assert {"loss.pdf", "worth.pdf", "dim-32-effects.pdf", "dim-32-curves.pdf"} <= set(rungs_figures(comparison))


def test_the_options_write_into_a_file_and_a_folder_and_refuse_others_before_anything_is_written(tmp_path):
    for seed in range(3):
        for arm, loss in (("a", 2.0), ("b", 2.1)):
            write_run(tmp_path / "runs" / f"{arm}{seed}", seed=seed, variant=arm, norm={"name": arm}, **learning(loss))
    runs, table, folder = tmp_path / "runs", tmp_path / "table.tex", tmp_path / "new" / "figures"
    _, printed = shown([runs], latex=table, figures=folder)
    assert f"figures: {folder}" in printed and (folder / "effects.pdf").is_file()
    assert table.read_text() == render_latex(build_comparison([runs]))
    with pytest.raises(ConfigError, match=r"--figures=.*table.tex: is a file; give a folder"):
        shown([runs], figures=table, csv=tmp_path / "x.csv")
    with pytest.raises(ConfigError, match=r"latex=.*: the name must end in .tex"):
        shown([runs], latex=tmp_path / "table.txt")
    assert not (tmp_path / "x.csv").exists()
