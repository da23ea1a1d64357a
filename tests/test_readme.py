"""What the README says works as printed."""

import re
import shlex

import pytest

from gptlab.cli.main import VERBS, main
from gptlab.config.compose import load_config
from gptlab.sweeps.grid import plan_sweep, split_arguments
from paths import ROOT

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", TEXT, re.S)
COMMANDS = re.findall(r"^    (gptlab .*(?:\\\n.*)?)$", TEXT.replace("\\\n", " "), re.M)
TINY = ["size=tiny", "budget.steps=2", "data.window=16", "eval.tokens=64", "wandb.mode=disabled", "device=cpu"]


@pytest.fixture
def folder(tmp_path, monkeypatch, own_registry):
    """A user's folder, with the README's own files in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_norms.py").write_text(PYTHON[0])
    experiment = re.search(r"```yaml\n(.*?)```", TEXT, re.S)
    assert experiment
    (tmp_path / "experiments/norms").mkdir(parents=True)
    (tmp_path / "experiments/norms/norms.yaml").write_text(experiment[1])
    return tmp_path


def words_of(command: str) -> list[str]:
    return shlex.split(command, comments=True)[1:]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_gptlab_takes(command, folder, capsys):
    verb, *words = words_of(command)
    assert verb in VERBS
    if verb == "train":
        load_config(words)
    elif verb == "sweep":
        args = VERBS["sweep"].parser("sweep").parse_intermixed_args(words)
        arms = {"ladder": args.ladder, "knock_out": args.knock_out, "fraction": args.fraction, "tune": args.tune}
        planned = plan_sweep(split_arguments(args.words).cells, **arms)
        cells = [*planned.tuning_cells, *planned.cells]
        assert len(cells) > 1
        for cell in cells:
            load_config(cell.overrides)
    elif verb == "bench":
        load_config(VERBS["bench"].parser("bench").parse_intermixed_args(words).overrides)
    elif verb in ("show", "list"):
        with pytest.raises(SystemExit) as caught:
            main([verb, *words])
        assert caught.value.code == 0
    else:  # these need runs: their flags at least
        VERBS[verb].parser(verb).parse_intermixed_args(words)


def test_the_component_in_ten_lines_trains_and_is_listed(folder, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "use=my_norms.py", "norm=l1norm", "norm.eps=1e-6", *TINY])
    assert caught.value.code == 0
    (run,) = folder.glob("runs/default/*/")
    assert (run / "components/my_norms.py").read_text() == PYTHON[0]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["list", "norm", "use=my_norms.py"])
    out = capsys.readouterr().out
    assert "norm=l1norm" in out and "x / mean(|x|) * gain" in out and "norm.eps: float = 1e-05" in out


def test_the_python_example_runs(folder, monkeypatch):
    code = PYTHON[1].replace('"size=tiny"', ", ".join(f'"{w}"' for w in TINY if "budget" not in w))
    code = code.replace("steps=20", "steps=2")
    names: dict = {}
    exec(code, names)
    assert names["summary"]["state"] == "finished" and names["summary"]["step"] == 2


def test_the_mistake_shown_is_the_one_made(capsys):
    command, answer = re.search(r"    \$ (gptlab .*)\n    (gptlab: .*)\n", TEXT).groups()
    with pytest.raises(SystemExit) as caught:
        main(words_of(command))
    assert caught.value.code == 2
    assert capsys.readouterr().err.strip() == answer


def test_the_readme_has_under_240_lines():
    assert len(TEXT.splitlines()) < 240
