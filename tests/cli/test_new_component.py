"""`gptlab new`: every template works as it is, and no file is overwritten."""

import shlex

import pytest

from gptlab import load_config, train
from gptlab.cli.main import main
from gptlab.cli.new_component import COUNTERPARTS, TEMPLATES
from gptlab.config import KINDS
from gptlab.sweeps.grid import plan_sweep


@pytest.fixture
def new(tmp_path, monkeypatch, own_registry, capsys):
    """Run `gptlab new KIND my_KIND.py` in an empty folder; give the commands that it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(40)))

    def run(kind):
        with pytest.raises(SystemExit) as exit:
            main(["new", kind, f"my_{kind}.py"])
        assert exit.value.code == 0
        return [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("    gptlab ")]

    return run


def test_there_is_a_template_for_every_kind_but_match():
    kinds = set(COUNTERPARTS)
    assert kinds == {*KINDS, "task"} - {"match"}
    assert {path.stem for path in TEMPLATES.glob("*.py")} == kinds


@pytest.mark.parametrize("kind", COUNTERPARTS)
def test_a_template_trains_as_it_is(kind, new):
    check, train_it, sweep = (shlex.split(command)[1:] for command in new(kind))
    text = [] if "data=" in " ".join(train_it) else ["data=text", "data.path=text.txt"]
    small = ["data.window=16", "train.batch_size=4", "budget.steps=3", "eval.tokens=64", "eval.final_tokens=64"]
    here = ["wandb.mode=disabled", "device=cpu", "precision=float32"]
    assert train(load_config([*train_it[1:], *text, *small, *here]), quiet=True)["state"] == "finished"
    assert check == ["check", f"use=my_{kind}.py"]
    cells = plan_sweep(sweep[1:]).cells
    assert len(cells) == 6
    for cell in cells:
        load_config(cell.overrides)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("norm my_norm.py", "gptlab: new norm my_norm.py: exists already; give another name"),
        ("nrom my_norms.py", "gptlab: new nrom: no such kind (did you mean norm?); choose from model, block,"),
        ("norm my-norms.py", "gptlab: new norm my-norms.py: must be a Python module; name it like my_norm.py"),
        ("norm my_norms", "gptlab: new norm my_norms: must be a Python module"),
        ("norm json.py", "gptlab: new norm json.py: there is another module named 'json'; give another name"),
        ("norm", "gptlab: new: the following arguments are required: FILE.py"),
    ],
)
def test_a_bad_name_is_refused_in_one_line(words, line, new, tmp_path, capsys):
    new("norm")
    before = {path: path.read_bytes() for path in tmp_path.glob("*.py")}
    with pytest.raises(SystemExit) as exit:
        main(["new", *words.split()])
    out, err = capsys.readouterr()
    assert (exit.value.code, out) == (2, "")
    assert err.startswith(line) and err.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.glob("*.py")} == before
