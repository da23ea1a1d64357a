"""Snapshots of a run as pictures, and arms probed before any training."""

import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from gptlab.cli.main import main
from gptlab.runs.record import read_snapshots

TINY = ["data=text", "data.path=text.txt", "tokenizer=char", "data.window=16", "size.dim=16", "size.n_head=2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(40)))
    return tmp_path


@pytest.fixture
def train(folder):
    def run(*words):
        gptlab("train", *TINY, *["train.batch_size=4", "budget.steps=4", "diagnostics_every=2"], *words)
        return max(folder.glob("runs/default/*/"), key=lambda p: p.stat().st_mtime_ns)

    return lambda *words: run("wandb.mode=disabled", "size.n_layer=2", *words)


@pytest.fixture
def figures(monkeypatch):
    """Every figure that is saved."""
    saved = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (saved.append(self), save(self, *a, **k))[1])
    return saved


def gptlab(*words, code=0):
    with pytest.raises(SystemExit) as caught:
        main(list(map(str, words)))
    assert caught.value.code == code


def panel(figure, title):
    return next(a for a in figure.axes if a.get_title(loc="left").startswith(title))


def test_a_run_is_drawn_as_it_was_recorded(train, figures, capsys):
    run = train("placement=post", "diagnostics=full")
    gptlab("inspect", run)
    assert (run / "diagnostics.png").read_bytes()[:4] == b"\x89PNG"
    out = capsys.readouterr().out
    assert "placement=post" in out and f"picture: {run / 'diagnostics.png'}" in out
    [figure], snapshots = figures, read_snapshots(run)
    [rule, *_] = [a for a in panel(figure, "Update:weight").lines if len(set(a.get_ydata())) == 1]
    assert set(rule.get_ydata()) == {-3}
    drawn = [list(line.get_ydata()) for line in panel(figure, "Update:weight").lines if line is not rule]
    assert drawn == [[snapshot["update_ratio"][layer] for snapshot in snapshots] for layer in range(2)]
    stream = panel(figure, "Forward activations").lines[1]
    assert list(stream.get_xdata()) == [0, 1, 2] and list(stream.get_ydata()) == snapshots[-1]["stream_rms"]
    entropy = panel(figure, "Attention entropy").lines
    assert list(entropy[0].get_ydata()) == snapshots[-1]["attention_entropy"][0]
    [density, *_] = panel(figure, "Activations, step 4").lines
    assert np.trapezoid(density.get_ydata(), density.get_xdata()) == pytest.approx(1, abs=0.03)
    assert f"{snapshots[-1]['grad_norm'][1]:.3g}" in out


def test_two_runs_share_their_axes_and_what_only_one_has_is_left_out(train, figures):
    full, basic = train("diagnostics=full"), train("norm=rmsnorm", "ffn=swiglu")
    gptlab("inspect", full, basic, "--png", "two.svg")
    [figure] = figures
    axes = [a for a in figure.axes if a.get_title(loc="left").startswith("Forward")]
    assert len(axes) == 2 and axes[0].get_ylim() == axes[1].get_ylim()
    assert not any("entropy" in a.get_title(loc="left") for a in figure.axes)


@pytest.mark.parametrize("level", ["basic", "full"])
def test_a_run_with_nan_and_infinities_is_drawn(level, train):
    run = train(f"diagnostics={level}", "placement=none", "optimizer=sgd", "optimizer.lr=1e-30")
    snapshots = read_snapshots(run)
    snapshots[-1] |= {"grad_norm": [float("nan")] * 2, "update_ratio": [float("-inf")] * 2}
    (run / "diagnostics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in snapshots[-1:]) + '{"torn": ')
    gptlab("inspect", run, "--png", "x.png")


def test_a_run_that_cannot_be_inspected_is_one_line(train, folder, capsys):
    run = train("diagnostics=none")
    for words, line in (
        ([run], f"{run}: has no snapshots yet; train with diagnostics=basic or diagnostics=full"),
        ([folder], f"{folder}: not a run's folder; there is no config.yaml in it"),
        ([run, run], f"inspect {run}: named twice; give one run, or two that differ"),
        ([run, "--png", "x.gif"], "png=x.gif: the name must end in .png or .pdf or .svg"),
    ):
        capsys.readouterr()
        gptlab("inspect", *words, code=2)
        assert capsys.readouterr().err == f"gptlab: {line}\n"


def test_a_probe_has_the_numbers_of_the_first_snapshot(folder, train, figures, capsys):
    run = train("diagnostics=full", "precision=float32", "placement=post")
    capsys.readouterr()
    words = [*TINY, "size.n_layer=2", "train.batch_size=4", "placement=pre,post", "--png", "probe.png"]
    gptlab("probe", *words)
    out = capsys.readouterr().out
    snapshot = read_snapshots(run)[0]
    [row] = [line.split() for line in out.splitlines() if line.startswith("placement=post")]
    grads = snapshot["probe/residual_grad_norm"]
    assert float(row[1]) == pytest.approx(snapshot["stream_rms"][1], rel=0.01)
    assert [float(x) for x in row[4:7]] == pytest.approx([grads[0], grads[1], grads[1] / grads[0]], rel=0.01)
    assert float(row[7]) == pytest.approx(snapshot["logits/entropy"], abs=0.001)
    [figure] = figures
    stream = panel(figure, "Activations at init").lines[1]
    assert list(stream.get_ydata()) == pytest.approx(snapshot["stream_rms"], rel=1e-5)
    assert panel(figure, "The same").lines[1].get_ydata()[0] == 1
    assert (folder / "probe.png").read_bytes()[:4] == b"\x89PNG" and not (folder / "runs/probe").exists()


def test_a_grid_of_many_arms_and_seeds_has_a_line_for_each(folder, figures):
    arms = ["norm=layernorm,rmsnorm,none", "ffn=relu,swiglu", "block=serial,parallel", "seed=0,1"]
    gptlab("probe", *TINY, "size.n_layer=1", *arms, "--png", "probe.png")
    [figure] = figures
    lines = panel(figure, "Activations").lines
    assert len(lines) == 24 == len({(line.get_color(), line.get_marker()) for line in lines})
    assert "norm=none ffn=swiglu block=parallel seed=1" in {t.get_text() for t in figure.legends[0].texts}


def test_missing_parts_are_left_out_and_a_model_without_blocks_is_refused(folder, train, capsys):
    rnn, bigram = train("model=rnn"), train("model=bigram")
    gptlab("inspect", rnn)
    table = capsys.readouterr().out.split("\nblock")[1].splitlines()
    assert (
        table[0].split() == ["stream", "after", "gradient", "weights", "log10", "update:weight"]
        and "nan" not in table[1]
    )
    gptlab("inspect", rnn, bigram, "--png", "x.png", code=2)
    assert capsys.readouterr().err == (
        f"gptlab: {bigram}: the model has no blocks, so there is nothing to show by layer; leave it out\n"
    )
    gptlab("probe", *TINY, "model=gpt,mlp", "--png", "x.png", code=2)
    assert "gptlab: model=mlp: the model has no blocks" in capsys.readouterr().err
    assert not (folder / "x.png").exists()


def test_probe_writes_nothing_for_a_wrong_picture_name_or_arm(folder, capsys):
    gptlab("probe", *TINY, "--png", "x.jpg", code=2)
    assert "png=x.jpg: the name must end in .png or .pdf or .svg" in capsys.readouterr().err
    gptlab("probe", *TINY, "placement=pre,past", "--png", "x.png", code=2)
    assert "placement=past: no such option (did you mean post?)" in capsys.readouterr().err
    assert not (folder / "x.png").exists()


def test_the_report_shows_the_snapshots_of_the_arms_that_have_them(folder, train, capsys):
    arms = ["placement=pre"], ["placement=post", "diagnostics=full"], ["placement=double", "diagnostics=none"]
    runs = [train(*words) for words in (*arms, ["model=bigram"])]
    pre, post, double, _ = map(read_snapshots, runs)
    gptlab("compare", runs[0].parent, "--html", "report.html")
    page = (folder / "report.html").read_text()
    payload = json.loads(re.search(r'<script id="payload" type="application/json">(.*?)</script>', page, re.S)[1])

    def drawn(name):
        layers = payload["figures"][name]["layer"]
        points = [row for layer in layers if layer["mark"]["type"] == "line" for row in layer["data"]["values"]]
        return [
            [row["y"] for row in points if row["line"] == line] for line in dict.fromkeys(p["line"] for p in points)
        ]

    for name, key in (("activations", "stream_rms"), ("gradients", "residual_grad_norm")):
        expected = [snapshots[i][key] for snapshots in (post, pre) for i in (0, -1)]
        assert sorted(drawn(name)) == [pytest.approx(y, rel=1e-4) for y in sorted(expected)]
    matrices = [norms for name, norms in post[-1]["parameters"].items() if re.fullmatch(r"blocks\.0\..*\.weight", name)]
    weight, gradient, _ = np.linalg.norm(matrices, axis=0)
    assert any(y[0] == pytest.approx(np.log10(gradient / weight), rel=1e-4) for y in drawn("gradient-weight"))
    means = [[np.mean(snapshot["update_ratio"]) for snapshot in snapshots] for snapshots in (post, pre)]
    assert sorted(drawn("updates")) == [pytest.approx(y, rel=1e-4) for y in sorted(means)]
    assert drawn("entropy") == [pytest.approx(np.mean(post[-1]["attention_entropy"], axis=1), rel=1e-4)]
    assert not double and "Inside the models" in page
    gptlab("compare", runs[2], "--html", "without.html")
    assert "Inside the models" not in (folder / "without.html").read_text()
