"""A run is found again by what it reads and computes, wherever the files of that lie."""

import json
import os
import sys
from pathlib import Path

import pytest

from gptlab import load_config
from gptlab.config import ConfigError, registry, user_files
from gptlab.data import corpora, identity
from gptlab.runs.folder import components_of, digest, run_dir
from gptlab.runs.record import read_status
from gptlab.sweeps.run_sweep import sweep
from gptlab.training.train import train

TINY = ["size=tiny", "data.window=16", "wandb.mode=disabled", "device=cpu", "precision=float32", "diagnostics=none"]
SHORT = [*TINY, "budget.steps=4", "train.batch_size=2", "eval.tokens=64"]
TWO = {"one": "to be, or not to be: that is the question. ", "other": "whether 'tis nobler in the mind to suffer. "}
NORM = """
import torch
from torch import nn
from gptlab import register
{imports}
@register("norm", "{name}")
class Norm(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))
    def forward(self, x):
        return x * self.gain * {factor}
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of its own, also for the cache."""
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(identity, "_known", {})
    monkeypatch.chdir(tmp_path)


def write(path, text, *, old=True):
    """Write a file; an `old` one was written long ago, so that its hash may be kept."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)
    if old:
        os.utime(path, (1e9, 1e9))
    return path


def text_digest(path, *more):
    return digest(load_config([*TINY, "data=text", f"data.path={path}", *more]))


# The text


def test_the_text_counts_and_not_its_path():
    for path, words in (("a.txt", TWO["one"]), ("deep/b.md", TWO["one"]), ("c.txt", TWO["other"])):
        write(path, words * 20)
    assert text_digest("a.txt") == text_digest("deep/b.md") == text_digest("d*p/*") == text_digest("deep")
    assert text_digest("a.txt") != text_digest("c.txt")
    names = {run_dir(load_config([*TINY, "data=text", f"data.path={path}"])).name for path in ("a.txt", "deep/b.md")}
    assert len(names) == 1


@pytest.mark.parametrize("path", ["a.txt", "folder", "folder/*.txt"])
def test_a_changed_text_is_another_run_even_at_its_old_size_and_time(path):
    for file in ("a.txt", "folder/a.txt"):
        write(file, TWO["one"] * 20)
    before = text_digest(path)
    assert text_digest(path) == before
    for file in ("a.txt", "folder/a.txt"):
        write(file, TWO["one"].replace("question", "riddle, ") * 20)  # of the same size and time
    changed = text_digest(path)
    assert changed != before
    if path != "a.txt":
        write("folder/b.txt", "more")
        assert text_digest(path) not in (before, changed)


def test_the_field_of_a_record_counts_by_its_text():
    rows = [{"one": f"line {i}", "same": f"line {i}", "other": f"row {i}"} for i in range(40)]
    write("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    one, same, other = (text_digest("a.jsonl", f"data.field={field}") for field in ("one", "same", "other"))
    assert one == same != other


@pytest.mark.parametrize("words", ["data.window=17", "data.val_fraction=0.2", "data.sampling=epoch", "tokenizer=char"])
def test_the_other_settings_of_the_data_count_too(words):
    write("a.txt", TWO["one"] * 20)
    assert text_digest("a.txt") != text_digest("a.txt", words)


def test_another_library_is_another_text(monkeypatch):
    for name in ("old", "new"):
        write(f"{name}/a.py", f"x = '{name}'\n")
    digests = []
    for name in ("old", "new"):
        monkeypatch.setattr(corpora.sysconfig, "get_path", lambda _, name=name: name)
        digests.append(digest(load_config([*TINY, "data=pystdlib"])))
    assert digests[0] != digests[1]


def test_a_text_is_read_once_however_many_processes_ask(monkeypatch):
    write("a.txt", TWO["one"] * 20)
    monkeypatch.setattr(identity, "SETTLED_AFTER", -60)  # as a minute later
    reads = []
    text = corpora.Text.text
    monkeypatch.setattr(corpora.Text, "text", lambda self: reads.append(1) or text(self))
    digests = []
    for _ in range(3):
        monkeypatch.setattr(identity, "_known", {})  # as in another process
        digests.append(text_digest("a.txt"))
    assert len(set(digests)) == 1 and len(reads) == 1


def test_the_hash_of_a_text_that_was_just_written_is_not_kept(monkeypatch):
    """It may be written again within the precision of its times."""
    write("a.txt", TWO["one"] * 20)
    before = text_digest("a.txt")
    assert not list(Path("cache").rglob("*.json"))
    monkeypatch.setattr(identity, "SETTLED_AFTER", -60)
    monkeypatch.setattr(identity, "_known", {})
    assert text_digest("a.txt") == before
    (kept,) = Path("cache").rglob("*.json")
    kept.write_text("{")  # damaged
    monkeypatch.setattr(identity, "_known", {})
    assert text_digest("a.txt") == before


def test_a_cache_that_cannot_be_written_only_costs_time(monkeypatch, tmp_path):
    write("a.txt", TWO["one"] * 20)
    write("cache", "a file, not a folder")
    monkeypatch.setattr(identity, "SETTLED_AFTER", -60)
    assert text_digest("a.txt") == text_digest("a.txt")


def test_a_task_is_known_by_its_settings():
    a, b = (digest(load_config([*TINY, "data=recall", f"data.pairs=[{n}]"])) for n in (2, 3))
    assert a != b


def test_a_run_on_a_replaced_text_is_new_and_the_old_one_stays(train_tiny, tmp_path):
    first = train_tiny("budget.steps=2")
    assert train_tiny("budget.steps=2")["run_dir"] == first["run_dir"]
    path = tmp_path / "changed.txt"
    path.write_text(TWO["other"] * 40)
    second = train_tiny("budget.steps=2", f"data.path={path}")
    assert second["run_dir"] != first["run_dir"] and second["val/loss"] != first["val/loss"]


def test_a_run_that_began_with_another_text_or_tokenizer_does_not_go_on(train_tiny):
    """Its folder is another one then; this holds for folders that were copied or renamed."""
    folder = Path(train_tiny()["run_dir"])
    (folder / "status.json").write_text(json.dumps(read_status(folder) | {"state": "interrupted"}))
    tokenizer = folder / "tokenizer.json"
    kept = tokenizer.read_text()
    tokenizer.write_text(json.dumps({"name": "char", "characters": "ab"}))
    with pytest.raises(ConfigError, match="began with another tokenizer; restore its file, or delete the folder"):
        train_tiny()
    tokenizer.write_text(kept)
    env = json.loads((folder / "env.json").read_text())
    (folder / "env.json").write_text(json.dumps(env | {"data_hash": "0"}))
    with pytest.raises(ConfigError, match="began with another text"):
        train_tiny()


def vocabulary(file, order):
    """Write a tokenizer.json of the tokenizers library in which the letters have ids in this order."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({c: i for i, c in enumerate(order)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text(tokenizer.to_str())
    os.utime(file, (1e9, 1e9))


def test_the_content_of_a_tokenizers_file_counts_and_not_its_path():
    write("a.txt", "abc?" * 200)
    digests = []
    for path, order in (("a/tokenizer.json", "abc?"), ("b/tokenizer.json", "abc?"), ("a/tokenizer.json", "bac?")):
        vocabulary(path, order)
        digests.append(text_digest("a.txt", "tokenizer=huggingface", f"tokenizer.path={path}"))
    assert digests[0] == digests[1] != digests[2]


# Components


@pytest.fixture
def again(own_registry):
    """Forget the user's modules, as a new process would."""

    def forget():
        for name in user_files.contents:
            sys.modules.pop(name, None)
        user_files.contents.clear()
        user_files.imports.clear()
        for key in [k for k, e in registry._entries.items() if not e.cls.__module__.startswith("gptlab.")]:
            del registry._entries[key]

    return forget


def component_digest(again, *words):
    again()
    return digest(load_config([*TINY, "data=recall", *words]))


def test_only_the_source_of_components_that_are_used_counts(again):
    write("norm_a.py", NORM.format(name="a", imports="", factor=1))
    write("norm_b.py", NORM.format(name="b", imports="", factor=1))
    use = "use=[norm_a.py,norm_b.py]"
    words = [
        [use, "norm=layernorm"],
        [use, "norm=a"],
        [use, "norm=b"],
        [use, "qk_norm=a"],
        [use, "norm=a", "qk_norm=b"],
    ]
    before = [component_digest(again, *w) for w in words]
    assert len(set(before)) == 5
    assert component_digest(again, "norm=layernorm") == before[0]  # a file that is not used changes nothing
    write("norm_a.py", NORM.format(name="a", imports="", factor=2))
    after = [component_digest(again, *w) for w in words]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, False, False]


def test_the_path_of_a_component_does_not_count(again):
    for path in ("x/norm_a.py", "y/norm_a.py"):
        write(path, NORM.format(name="a", imports="", factor=1))
    assert component_digest(again, "use=x/norm_a.py", "norm=a") == component_digest(again, "use=y/norm_a.py", "norm=a")


@pytest.mark.parametrize(
    ("imports", "file"),
    [
        ("from factors_of_mine import f", "factors_of_mine.py"),
        ("import parts_of_mine.deep as f", "parts_of_mine/deep.py"),
        ("from parts_of_mine import deep as f", "parts_of_mine/deep.py"),
    ],
)
def test_what_a_component_imports_from_next_to_it_counts(again, imports, file):
    write("parts_of_mine/__init__.py", "")
    write("norm_c.py", NORM.format(name="c", imports=imports, factor=1))
    write(file, "f = 1\n")
    before = component_digest(again, "use=norm_c.py", "norm=c")
    assert file in user_files.files_of(["norm_c.py"])
    assert component_digest(again, "use=norm_c.py", "norm=c") == before
    write(file, "f = 2\n")
    assert component_digest(again, "use=norm_c.py", "norm=c") != before


def test_a_run_keeps_the_code_as_it_was_imported(again, tmp_path):
    again()
    write("norm_d.py", NORM.format(name="d", imports="import helper_of_d", factor=1))
    write("helper_of_d.py", "f = 1\n")
    write("a.txt", TWO["one"] * 20)
    cfg = load_config([*SHORT, "data=text", "data.path=a.txt", "use=norm_d.py", "norm=d"])
    write("norm_d.py", "this is not Python\n")  # edited while the sweep runs
    folder = Path(train(cfg, quiet=True)["run_dir"])
    assert "import helper_of_d" in (folder / "components" / "norm_d.py").read_text()
    assert (folder / "components" / "helper_of_d.py").is_file()
    env = json.loads((folder / "env.json").read_text())
    assert env["components"] == components_of(cfg) and env["components"].keys() == {"norm.d"}
    assert len(env["data_hash"]) == len(env["components"]["norm.d"]) == 64


# Sweeps


def test_a_sweep_runs_the_cells_of_a_changed_text_again_and_no_others(again):
    write("a.txt", TWO["one"] * 20)
    write("norm_e.py", NORM.format(name="e", imports="", factor=1))
    words = [*SHORT, "data=text", "data.path=a.txt", "use=norm_e.py", "norm=layernorm,e", "name=s"]
    words += ["hydra/launcher=basic"]
    runs = lambda: {p.parent for p in Path("runs/s").glob("*/summary.json")}  # noqa: E731
    again()
    sweep(words)
    first = runs()
    again()
    sweep(words)
    assert len(first) == 2 and runs() == first
    write("norm_e.py", NORM.format(name="e", imports="", factor=2))
    again()
    sweep(words)
    (new,) = runs() - first
    assert new.name.startswith("norm-e_")  # not the baseline, which does not use it
    write("a.txt", TWO["other"] * 20)
    again()
    sweep(words)
    assert len(runs()) == 5
