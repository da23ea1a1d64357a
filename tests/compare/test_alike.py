"""What is averaged into one arm, or paired, is equal in all but the arm; what is not is told apart or refused."""

import json

import pytest

from gptlab.compare import build_comparison
from run_folders import CONFIG, ENV, RMS, rows, shown, write_run, write_sweep

ONE, OTHER = "a" * 64, "b" * 64
TEXT = {"name": "text", "path": "a.txt", "window": 64, "val_fraction": 0.1}
EVAL = {"tokens": 1000}


def write(top, name, losses, *, env=None, seeds=None, **changes):
    """Write a run for each loss, with an env.json as runs have it."""
    made = {"data_hash": ONE, "components": {}, "tokenizer_hash": "c" * 64} | (env or {})
    for seed, loss in zip(seeds or range(len(losses)), losses, strict=True):
        folder = write_run(top / f"{name}-{seed}", loss, seed=seed, **{"data": TEXT, "eval": EVAL} | changes)
        (folder / "env.json").write_text(json.dumps(ENV | made))


def kept_and_read(top):
    """Compare the folders, then the file that --keep wrote of them: both give the same."""
    frame, text = shown([top], keep=top / "kept.json")
    again, same_text = shown([top / "kept.json"])
    assert again.equals(frame) and same_text.splitlines() == text.replace(f"kept: {top}/kept.json\n", "").splitlines()
    return frame


# Arms


def test_the_same_text_at_another_path_is_the_same_arm(tmp_path):
    write(tmp_path, "a", [2.0, 2.1])
    write(tmp_path, "b", [2.2], seeds=[2], data=TEXT | {"path": "/home/jane/b.txt"})
    write(tmp_path, "c", [2.3], seeds=[3], data={"name": "other", "path": "c.txt", "window": 64, "val_fraction": 0.1})
    frame = kept_and_read(tmp_path)
    assert list(frame["arm"]) == ["all runs"] and frame["seeds"][0] == 4


@pytest.mark.parametrize("path", ["a.txt", "b.txt"])
def test_runs_on_different_texts_are_different_arms_whatever_their_paths(tmp_path, path):
    write(tmp_path, "a", [2.0, 2.1])
    write(tmp_path, "b", [1.0, 1.1], data=TEXT | {"path": path}, env={"data_hash": OTHER})
    frame = kept_and_read(tmp_path)
    key = "data.sha256" if path == "a.txt" else "data.path"
    values = ("aaaaaaaa", "bbbbbbbb") if path == "a.txt" else ("a.txt", "b.txt")
    assert list(frame["arm"]) == [f"{key}={value}" for value in values]
    assert frame["verdict"][1] == "no verdict" and frame["note"][1] == "seeds 0, 1 left out: other text"
    assert frame["pairs"][1] == 0 and frame["p_holm"].isna()[1]


def test_the_window_of_a_text_still_makes_an_arm(tmp_path):
    write(tmp_path, "a", [2.0, 2.1])
    write(tmp_path, "b", [1.0, 1.1], data=TEXT | {"window": 128})
    assert list(kept_and_read(tmp_path)["arm"]) == ["data.window=64", "data.window=128"]


@pytest.mark.parametrize("path", ["x/tokenizer.json", "y/tokenizer.json"])
def test_a_tokenizer_counts_by_its_content(tmp_path, path):
    def tokenizer(at):
        return {"name": "huggingface", "path": at}

    write(tmp_path, "a", [2.0], tokenizer=tokenizer("x/tokenizer.json"))
    write(tmp_path, "b", [2.1], seeds=[1], tokenizer=tokenizer("/y/tokenizer.json"))
    write(tmp_path, "c", [2.2], tokenizer=tokenizer(path), env={"tokenizer_hash": "d" * 64})
    frame = kept_and_read(tmp_path)
    key = "tokenizer.sha256" if path.startswith("x") else "tokenizer.path"
    assert [arm.partition("=")[0] for arm in frame["arm"]] == [key, key] and list(frame["seeds"]) == [2, 1]


def test_the_sources_of_a_component_are_different_arms_and_its_path_is_not(tmp_path):
    own = {"norm": {"name": "own"}, "use": ["own.py"]}
    write(tmp_path, "a", [2.0, 2.1], use=["own.py"])
    write(tmp_path, "b", [2.2, 2.3], env={"components": {"norm.own": ONE}}, **own)
    write(tmp_path, "c", [2.4], seeds=[2], env={"components": {"norm.own": ONE}}, **own | {"use": "elsewhere/own.py"})
    write(tmp_path, "d", [1.9], seeds=[0], env={"components": {"norm.own": OTHER}}, **own)
    write(tmp_path, "e", [2.0], seeds=[3])  # the baseline, without the file
    frame = kept_and_read(tmp_path)
    assert list(frame["seeds"]) == [3, 3, 1]
    assert list(frame["arm"]) == ["norm=layernorm", *(f"norm=own norm.sha256={c * 8}" for c in "ab")]


def test_weights_to_start_from_count_by_their_content(tmp_path):
    for seed, (path, sha) in enumerate([("x", ONE), ("y", ONE), ("y", OTHER)]):
        env = {"init_from": {"path": path, "sha256": sha}}
        write(tmp_path, str(seed), [2.0], seeds=[seed], env=env, train={"init_from": path})
    assert list(kept_and_read(tmp_path)["seeds"]) == [2, 1]


def test_what_an_older_version_recorded_is_not_averaged_with_what_is_known(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"old-{seed}", 2.0 + seed, seed=seed, data=TEXT, eval=EVAL)
    assert list(kept_and_read(tmp_path)["seeds"]) == [2]
    write(tmp_path, "new", [2.2], seeds=[2])
    frame = kept_and_read(tmp_path)
    assert set(frame["arm"]) == {"data.sha256=unknown", "data.sha256=aaaaaaaa"}


# Pairs


@pytest.mark.parametrize(
    ("env", "changes", "note"),
    [
        ({"precision": "bf16"}, {}, "bf16 against float32"),
        ({"device": "cuda:0"}, {}, "cuda against cpu"),
        ({"packages": {"gptlab": "0.1.0", "torch": "2.12.1"}}, {}, "torch 2.12 against torch 2.13"),
        ({"packages": {"gptlab": "0.2.0", "torch": "2.13.0"}}, {}, "gptlab 0.2 against gptlab 0.1"),
        ({"data_hash": OTHER}, {}, "other text"),
        ({}, {"eval": {"tokens": 2000}}, "evaluated on 2,000 tokens against 1,000"),
        ({}, {"eval": {"tokens": 2000, "final_tokens": None}}, "evaluated on all tokens against 1,000"),
        ({}, {"data": TEXT | {"val_fraction": 0.2}}, "val_fraction 0.2 against 0.1"),
        # what differs here is the question, or makes no difference
        ({"precision": "bf16"}, {"precision": "bf16"}, ""),
        ({"device": "cuda"}, {"device": "cuda"}, ""),
        ({"packages": {"gptlab": "0.1.0", "torch": "2.13.1"}}, {}, ""),
        ({"packages": {}, "precision": None, "device": None, "data_hash": None}, {}, ""),
        ({"data_hash": OTHER}, {"data": TEXT | {"path": "b.txt"}}, "other text"),
        ({"cpu": "Another CPU", "torch_threads": 8, "python": "3.12.1"}, {}, ""),
    ],
)
def test_a_pair_that_is_not_alike_is_not_judged_and_says_why(tmp_path, env, changes, note):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write(tmp_path / "a", "x", [2.0, 2.1, 2.2])
    write(tmp_path / "b", "x", [1.0, 1.11, 1.2], env=env, **RMS, **changes)
    (base, arm) = build_comparison([tmp_path / "a", tmp_path / "b"]).results
    assert "norm=layernorm" in base.name
    if note:
        assert (arm.effect.verdict, arm.effect.note) == ("no verdict", f"seeds 0, 1, 2 left out: {note}")
    else:
        assert (arm.effect.verdict, arm.effect.pairs) == ("better", 3)


def test_the_pairs_that_are_alike_are_judged_and_the_others_named(tmp_path):
    write(tmp_path, "a", [2.0, 2.1, 2.2, 2.3])
    write(tmp_path, "b", [1.0, 1.11, 1.2], **RMS)
    write(tmp_path, "c", [9.0], seeds=[3], env={"precision": "bf16"}, **RMS)
    (_, arm) = build_comparison([tmp_path], defaults=CONFIG).results
    assert (arm.effect.verdict, arm.effect.pairs) == ("better", 3)
    assert arm.effect.note == "seed 3 left out: bf16 against float32"


def test_evaluations_are_compared_by_the_text_that_they_read_where_it_is_known(tmp_path):
    """Tokenizers cut one text into different numbers of tokens; the bytes tell whether it was the same text."""
    blocks = {"val/block_bytes": [100.0] * 32}
    write(tmp_path, "a", [2.0, 2.1], summary=blocks)
    write(tmp_path, "b", [1.0, 1.11], summary={"val/block_bytes": [100.0] * 31 + [98.0]}, eval={"tokens": 400}, **RMS)
    write(tmp_path, "c", [1.0, 1.11], summary={"val/block_bytes": [50.0] * 32}, placement={"name": "post"})
    by_name = {r.name: r.effect for r in build_comparison([tmp_path], defaults=CONFIG).results[1:]}
    assert by_name["eval.tokens=400 norm=rmsnorm"].pairs == 2
    why = "evaluated on 1,600 bytes of text against 3,200; set eval.final_tokens=null"
    assert by_name["placement=post"].note == f"seeds 0, 1 left out: {why}"


# The baseline


def arms(top, *labels):
    """Write an arm for each label, started in the reverse of this order."""
    for i, label in enumerate(labels):
        for seed in (0, 1):
            times = (f"{len(labels) - i}", "")
            write_run(top / f"{label}-{seed}", 2 + i / 10 + seed / 100, seed=seed, ffn={"name": label}, times=times)


@pytest.mark.parametrize("first", ["swiglu", "geglu", "gelu"])
def test_the_baseline_is_the_first_arm_as_written_whichever_started_first(tmp_path, first):
    top = tmp_path / "runs" / "s"
    top.mkdir(parents=True)
    names = [first, *(n for n in ("gelu", "geglu", "swiglu") if n != first)]
    arms(top, *names)
    write_sweep(top, baseline=f"ffn={first}", arms=[[f"{name}-0", f"{name}-1"] for name in names])
    frame = kept_and_read(top)
    assert frame["mean"][0] == 2.005 and list(frame["arm"]) == [f"ffn={name}" for name in names]
    assert shown([top], baseline="ffn=gelu")[0]["arm"][0] == "ffn=gelu"
    defaults = CONFIG | {"ffn": {"name": "gelu"}}
    assert shown([top], defaults=defaults)[0]["arm"][0] == f"ffn={first}"  # written counts for more than near


def test_without_a_sweep_the_baseline_is_the_arm_of_the_first_path(tmp_path):
    arms(tmp_path, "swiglu", "geglu", "gelu")
    defaults = CONFIG | {"ffn": {"name": "gelu"}}
    folders = [tmp_path / f"{name}-0" for name in ("geglu", "gelu", "swiglu")]
    assert shown(folders, defaults=defaults)[0]["arm"][0] == "ffn=geglu"
    assert shown(folders[::-1], defaults=defaults)[0]["arm"][0] == "ffn=swiglu"
    assert shown([tmp_path], defaults=defaults)[0]["arm"][0] == "ffn=gelu"
    far = CONFIG | {"ffn": {"name": "relu"}}  # all are as near: the order of their names decides, not the clock
    assert shown([tmp_path], defaults=far)[0]["arm"][0] == "ffn=geglu"


def test_the_first_of_several_kept_files_has_the_baseline(tmp_path):
    for name in ("swiglu", "geglu"):
        (tmp_path / name).mkdir()
        arms(tmp_path / name, name)
        shown([tmp_path / name], keep=tmp_path / f"{name}.json")
    files = [tmp_path / "swiglu.json", tmp_path / "geglu.json"]
    assert [shown(order)[0]["arm"][0] for order in (files, files[::-1])] == ["ffn=swiglu", "ffn=geglu"]


def test_a_labelled_arm_whose_text_was_replaced_does_not_take_the_baseline(tmp_path):
    """As after `gptlab sweep`, another text in the same file, and the same command again with one arm more."""
    write(tmp_path, "old", [1.0, 1.1], variant="base", times=("0", ""))
    write(tmp_path, "new", [2.0, 2.1], env={"data_hash": OTHER}, variant="base", times=("1", ""))
    write(tmp_path, "arm", [2.2, 2.31], env={"data_hash": OTHER}, variant="rms", times=("1", ""), **RMS)
    labels = {"base": [], "rms": []}
    write_sweep(tmp_path, variants=labels, baseline="base", arms=[["new-0", "new-1"], ["arm-0", "arm-1"]])
    found = rows(kept_and_read(tmp_path))
    assert list(found) == ["base norm=layernorm data.sha256=bbbbbbbb", "rms", "base data.sha256=aaaaaaaa"]
    assert found["rms"]["pairs"] == 2 and found["rms"]["verdict"] != "no verdict"
    assert found["base data.sha256=aaaaaaaa"]["note"] == "seeds 0, 1 left out: other text"


def test_of_two_sweeps_the_first_ones_baseline_is_the_baseline_though_the_second_has_its_runs_too(tmp_path):
    for top, names in ((tmp_path / "one", ("swiglu", "geglu")), (tmp_path / "two", ("relu", "swiglu"))):
        for i, name in enumerate(names):
            write_run(top / f"{name}-0", 2.0 + i / 10, seed=0, ffn={"name": name}, times=(f"{len(names)}00", "900"))
        write_sweep(top, baseline=f"ffn={names[0]}", arms=[[f"{name}-0"] for name in names])
    assert shown([tmp_path / "one", tmp_path / "two"])[0]["arm"][0] == "ffn=swiglu"
    assert shown([tmp_path / "two", tmp_path / "one"])[0]["arm"][0] == "ffn=relu"
