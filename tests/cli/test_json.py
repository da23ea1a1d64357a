"""`--json`: one document on stdout and nothing else, with the fields that docs/json.md names."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.cli.main import VERBS, main
from paths import ROOT

TINY = "size=tiny size.n_layer=2 data.window=16 budget.steps=3 train.batch_size=4 wandb.mode=disabled"
TINY = f"{TINY} eval.tokens=64 eval.final_tokens=64"
HERE = "data=text data.path=text.txt tokenizer=char device=cpu precision=float32"
SWEEP = f"norm=layernorm,rmsnorm seed=0,1 name=norms {TINY} {HERE}"
DOCUMENTED = (ROOT / "docs/json.md").read_text(encoding="utf-8")
WITH_JSON = [name for name, verb in VERBS.items() if "--json" in verb.flags(name)]


def documented_fields(verb: str) -> set[str]:
    """The words in code font in the section of a verb; of tables, those in the first column."""
    [section] = [s for s in re.split(r"^## ", DOCUMENTED, flags=re.M) if verb in s.split("\n", 1)[0].split(", ")]
    section = section.split("\nAn arm:")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.M)
    return set(re.findall(r"`(\w+)`", "\n".join(rows) or section))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a finished sweep in runs/norms."""
    folder = tmp_path_factory.mktemp("json")
    (folder / "text.txt").write_text("def f(x): return x + 1\n" * 200)
    with pytest.MonkeyPatch.context() as m, pytest.raises(SystemExit):
        m.chdir(folder)
        m.setenv("GPTLAB_CACHE", str(folder / "cache"))
        main(["sweep", *SWEEP.split(), "hydra.launcher.n_jobs=1"])
    return folder


@pytest.fixture
def document(folder, monkeypatch, capsys):
    """Run a verb with --json; give its document, checked to be all of stdout."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GPTLAB_CACHE", str(folder / "cache"))

    def run(verb, words="", code=0):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main([verb, *words.split(), "--json"])
        assert exit.value.code == code
        document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert document.pop("verb") == verb
        return document

    return run


def test_docs_have_a_section_for_every_verb_with_json():
    headings = re.findall(r"^## (.+)$", DOCUMENTED, re.M)[1:]
    assert sorted(verb for heading in headings for verb in heading.split(", ")) == sorted(WITH_JSON)


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("plan", SWEEP),
        ("sweep", SWEEP),
        ("status", "runs/norms"),
        ("compare", "runs/norms"),
        ("show", "norm=rmsnorm size=tiny"),
        ("check", "norm=rmsnorm"),
    ],
)
def test_the_fields_of_a_document_are_those_documented(verb, words, document):
    fields = documented_fields(verb)
    assert document(verb, words).keys() <= fields, "undocumented"
    if verb not in ("check",):  # it describes nested fields too
        assert fields <= all_keys(document(verb, words)), "not there"


def all_keys(tree):
    if isinstance(tree, list):
        return set().union(*map(all_keys, tree))
    return set(tree).union(*map(all_keys, tree.values())) if isinstance(tree, dict) else set()


def test_a_plan_starts_nothing(document, folder):
    plan = document("plan", SWEEP.replace("name=norms", "name=planned"))
    assert not (folder / "runs/planned").exists()
    assert plan["folder"] == "runs/planned" and plan["seeds"] == [0, 1]
    assert [arm["varying"] for arm in plan["arms"]] == [{"norm": "layernorm"}, {"norm": "rmsnorm"}]
    assert plan["n_cells"] == plan["n_left"] == 4 and plan["tokens"] == 4 * 3 * 4 * 16


def test_a_dry_run_of_a_sweep_is_its_plan_and_starts_nothing(document, folder, capsys):
    words = f"{SWEEP.replace('name=norms', 'name=dry')} --no-timing --noise 0.02 --flops-per-s 1e9"
    plan = document("plan", words)
    printed = []
    for verb in ("sweep --dry-run", "plan"):
        with pytest.raises(SystemExit) as exit:
            main([*verb.split(), *words.split()])
        assert exit.value.code == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] and "0.02, the standard deviation" in printed[0]
    with pytest.raises(SystemExit):
        main(["sweep", "--dry-run", *words.split(), "--json"])
    assert json.loads(capsys.readouterr().out) == {"verb": "plan", **plan}
    assert not (folder / "runs/dry").exists()


@pytest.mark.parametrize("flag", ["--noise 0.01", "--no-timing", "--flops-per-s 1e9"])
def test_a_sweep_that_starts_takes_no_flag_of_a_plan(folder, monkeypatch, capsys, flag):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as exit:
        main(["sweep", *SWEEP.replace("name=norms", "name=dry").split(), *flag.split()])
    assert exit.value.code == 2 and f"{flag.split()[0]}: is for a plan" in capsys.readouterr().err
    assert not (folder / "runs/dry").exists()


def test_a_plan_of_a_finished_sweep_has_nothing_left(document):
    plan = document("plan", SWEEP)
    assert (plan["n_cells"], plan["n_left"]) == (4, 0)
    assert {cell["state"] for cell in plan["cells"]} == {"finished"}


def test_a_sweep_says_what_became_of_its_cells(document):
    sweep = document("sweep", SWEEP)
    assert sweep["counts"]["finished"] == 4 and sweep == document("status", "runs/norms")
    for cell in sweep["cells"]:
        assert Path(cell["folder"], "summary.json").is_file() and cell["metrics"]["val/loss"] > 0


def test_a_failed_cell_is_exit_code_1_with_a_document(document, folder, own_registry):
    (folder / "breaks.py").write_text(
        "from gptlab import register\nfrom torch import nn\n"
        "@register('norm', 'breaks')\nclass Breaks(nn.Module):\n"
        "    def forward(self, x):\n        assert not x.any()  # zeros, as when it is tried\n        return x\n"
    )
    words = f"norm=breaks seed=0 use=breaks.py name=broken {TINY} {HERE} hydra.launcher.n_jobs=1"
    sweep = document("sweep", words, code=1)
    assert sweep["counts"]["failed"] == 1 and "AssertionError" in sweep["cells"][0]["reason"]


def test_a_comparison_has_verdicts_and_writes_files_too(document, folder):
    comparison = document("compare", "runs/norms --csv table.csv")
    assert [arm["verdict"] is None for arm in comparison["arms"]] == [True, False]
    assert comparison["arms"][1]["word"] == "two seeds: no verdict" and "no verdict" in comparison["verdicts"]
    assert (folder / "table.csv").stat().st_size > 0


def test_train_gives_the_summary(document):
    summary = document("train", f"seed=5 {TINY} {HERE}")
    assert summary["state"] == "finished" and summary["step"] == 3 and summary["val/loss"] > 0
    assert Path(summary["run_dir"], "summary.json").is_file()


def test_sample_gives_text_and_tokens(document, folder):
    run = next((folder / "runs/norms").glob("*/summary.json")).parent
    sample = document("sample", f"{run} --prompt def --n 5")
    assert sample["text"].startswith("def") and len(sample["tokens"]) == sample["n_prompt"] + 5
    assert sample.keys() <= documented_fields("sample")


def test_probe_and_inspect_give_snapshots(document, folder):
    probe = document("probe", f"placement=pre,post {TINY} {HERE}")
    assert set(probe["arms"]) == {"placement=pre", "placement=post"}
    assert len(probe["arms"]["placement=pre"]["stream_rms"]) == 3
    run = next((folder / "runs/norms").glob("*/summary.json")).parent
    inspected = document("inspect", str(run))
    assert inspected["runs"][0]["folder"] == str(run) and Path(inspected["picture"]).is_file()


def test_list_describes_slots_sections_and_settings(document):
    listed = document("list", "norm eval seed preset size")
    assert listed["norm"]["baseline"] == "layernorm"
    [rmsnorm] = [option for option in listed["norm"]["options"] if option["name"] == "rmsnorm"]
    assert rmsnorm["settings"][0] == {"key": "norm.eps", "type": "float", "default": 1e-5, "choices": [], "help": ""}
    assert listed["seed"]["key"] == "seed" and listed["seed"]["default"] == 0
    assert {"llama", "gpt2"} <= listed["preset"]["presets"].keys() and listed["size"]["sizes"][0]["preset"] is None
    assert "eval.every" in {setting["key"] for setting in listed["eval"]["settings"]}


def test_bad_input_leaves_stdout_empty(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as exit:
        main(["show", "norm=rmsnrom", "--json"])
    out, err = capsys.readouterr()
    assert (exit.value.code, out) == (2, "") and err.startswith("gptlab: norm=rmsnrom: ")


def test_bench_wants_a_json_file_or_nothing_after_the_flag(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["bench", "--json", "preset=nanogpt-cpu"])
    assert exit.value.code == 2
    assert "must end in .json; to print the figures, put --json last" in capsys.readouterr().err


@pytest.mark.slow
def test_workers_and_progress_print_nothing_on_stdout(folder):
    """In processes of their own, as from a shell."""
    words = [*SWEEP.replace("name=norms", "name=workers").split(), "hydra.launcher.n_jobs=2", "--json"]
    code = "import sys; from gptlab.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", *words], cwd=folder, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["counts"]["finished"] == 4
    assert "4 cells" in done.stderr
