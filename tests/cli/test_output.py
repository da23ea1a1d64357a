"""What gptlab prints arrives on every terminal; files that it cannot read or write are one line that names them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from gptlab.cli.main import main
from gptlab.cli.plan import print_plan
from gptlab.files import FileError, decode_utf8, read_json, read_json_lines, require_writable
from gptlab.runs.checkpoint import open_safetensors
from run_folders import write_run


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_a_terminal_of_any_encoding_gets_every_line(encoding):
    code = "from gptlab.cli.output import write_whatever_the_encoding as w; w(); print('± → é 文 \\udcff ─')"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    text = done.stdout.decode(encoding)
    assert "-> " in text and "\\u6587 \\udcff" in text and ("+-" in text or "±" in text)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_run(tmp_path / "runs/a/one", summary={"device": "cpu"})


def refusal(capsys, *words):
    with pytest.raises(SystemExit) as e:
        main(words)
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count("\n") == 1, err
    return err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *((name, content) for name in ("status.json", "summary.json") for content in (b"", b'{"a', b"[]", b"\xff\xfe")),
        ("status.json", b'{"state": "odd"}'),
        ("config.yaml", b""),
        ("config.yaml", b"norm: [\n"),
        ("config.yaml", b"\xff\xfe\x00"),
        ("../sweep.yaml", b'{"cells": ['),
        ("../sweep.yaml", b""),
    ],
)
def test_a_damaged_file_is_named_by_compare(name, content, run, capsys):
    (run / name).write_bytes(content)
    assert Path(name).name in refusal(capsys, "compare", "runs/a")


def test_a_metric_that_is_no_number_is_refused(run, capsys):
    assert "metric=device: is no number in runs/a/" in refusal(capsys, "compare", "runs/a", "--metric", "device")


@pytest.mark.parametrize("flag", ["csv", "markdown", "html"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is(flag, run, capsys):
    Path("file").write_text("")
    for path, rule in (
        ("runs", "is a folder"),
        ("file/x", "is a file, not a folder"),
        ("x" * 300, "cannot be written"),
    ):
        assert (
            f"--{flag}={path}: " in (line := refusal(capsys, "compare", "runs/a", f"--{flag}", path)) and rule in line
        )
    assert "is the file of two options" in refusal(capsys, "compare", "runs/a", "--csv", "t", "--html", "./t")
    assert "is below t, a file of --csv; give another name" in refusal(
        capsys, "compare", "runs/a", "--csv", "t", f"--{'figures' if flag == 'csv' else flag}", "t/x"
    )
    assert sorted(p.name for p in Path().iterdir()) == ["file", "runs"]


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_a_variable_that_is_no_number_is_refused(name, run, capsys, monkeypatch):
    monkeypatch.setenv(name, "abc")
    if name == "WORLD_SIZE":
        assert refusal(capsys, "show", "size=tiny").startswith("gptlab: WORLD_SIZE=abc: must be a whole number")


def test_texts_are_read_without_a_mark_and_errors_say_where():
    assert decode_utf8(b"\xef\xbb\xbfa", "x") == "a"
    with pytest.raises(FileError, match=r"^x: byte 2 is not UTF-8 \(line 2\); convert"):
        decode_utf8(b"a\n\xff", "x")
    with pytest.raises(FileError, match=r"^x: is UTF-16"):
        decode_utf8("a".encode("utf-16"), "x")


def test_files_of_records_name_the_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"a": 1}\n{"a"\n{"cut')
    with pytest.raises(FileError, match=r"metrics.jsonl: line 2 is not JSON"):
        read_json_lines(path)
    path.write_text('{"a": NaN}\n{"cut')
    assert len(read_json_lines(path)) == 1
    assert read_json(tmp_path / "none.json") == {} and read_json(path / "none.json") == {}
    with pytest.raises(FileError, match=r"^here: .*metrics.jsonl is a file, not a folder"):
        require_writable(path / "x", "here")


def test_a_home_folder_in_a_path_of_the_command_line_is_expanded(run, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(run.parents[1]))
    with pytest.raises(SystemExit):
        main(["compare", "~/runs/a".replace("runs/", ""), "--csv=~/table.csv"])
    assert (run.parents[1] / "table.csv").exists() and not Path("~").exists()


@pytest.mark.parametrize("content", [b"", b"x" * 500, b"\x08\x00\x00\x00\x00\x00\x00\x00{}", b"\xff" * 9])
def test_a_damaged_checkpoint_is_named(content, tmp_path):
    path = tmp_path / "best.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"best.safetensors: is not a whole safetensors file"), open_safetensors(path):
        pass


def test_every_label_of_a_plan_is_followed_by_a_space(capsys):
    console = Console(width=200)
    document = dict.fromkeys(("name", "folder", "question", "literature"), "Some text") | {
        "seeds": [0],
        "first_look": None,
        "tuning": {"grid": {"a": ["1", "2"]}, "seeds": [7], "n_cells": 1},
        "n_cells": 1,
        "n_left": 1,
        "tokens": 1,
        "flops": 1.0,
        "estimate": None,
        "at_rate": None,
        "effect": {"comparisons": 0},
        "cells": [],
        "arms": [],
    }
    print_plan(document, console)
    labels = ("sweep", "question", "literature", "seeds", "tuning", "cells", "cost", "time")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ")[0] for line in lines[: len(labels)]] == list(labels)
