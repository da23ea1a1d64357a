"""Overrides -> config: what wins over what, what a run is called, and that every file of conf/ holds."""

import re
from pathlib import Path

import pytest
import torch

from gptlab import build_model, load_config
from gptlab.config import CONF, GROUPS, SLOTS, ConfigError, flatten, plain, registry, to_yaml
from gptlab.config.compose import edit, files_in
from gptlab.config.diff import diff_from_baseline, short_diff
from gptlab.config.overrides import typed
from gptlab.config.presets import preset_of
from gptlab.runs.folder import SLUG_LENGTH, digest, open_config, run_dir, slug


def test_the_baseline_is_gpt2s_architecture():
    flat = flatten(plain(load_config()))
    chosen = {slot: flat[slot] for slot in ("placement", "block", "norm", "qk_norm", "ffn", "position", "init")}
    assert list(chosen.values()) == ["pre", "serial", "layernorm", "none", "gelu", "learned", "gpt2"]
    assert (flat["head.tied"], flat["bias"], flat["data"]) == (True, True, "pystdlib")
    assert diff_from_baseline(load_config()) == {}


@pytest.mark.parametrize(
    ("words", "place", "value"),
    [
        ("", "optimizer.lr", 2.5e-3),
        ("preset=llama", "optimizer.lr", 3e-4),
        ("preset=llama optimizer.lr=1e-2", "optimizer.lr", 1e-2),
        ("optimizer.lr=1e-2 preset=llama", "optimizer.lr", 1e-2),
        ("preset=llama norm=layernorm", "norm", "layernorm"),
        ("norm=layernorm preset=llama", "norm", "layernorm"),
        ("norm=dyt norm=rmsnorm", "norm", "rmsnorm"),
        ("norm.alpha=2 norm=dyt", "norm.alpha", 2),
        ("norm.eps=1 norm.eps=2", "norm.eps", 2),
        ("preset=gpt2 preset=llama", "norm", "rmsnorm"),
        ("preset=llama preset=null", "norm", "layernorm"),
        ("preset=gpt2 size=tiny", "size.dim", 64),
        ("size.dim=32 size=tiny", "size.dim", 32),
    ],
)
def test_the_command_line_wins_over_the_preset_and_that_over_the_baseline(words, place, value):
    assert flatten(plain(load_config(words.split())))[place] == value


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("preset=llama norm=dyt", {"norm": "dyt", "norm.alpha": 0.5}),
        ("preset=llama norm=layernorm", {"norm": "layernorm", "norm.eps": 1e-5}),
        ("preset=llama norm=rmsnorm", {"norm": "rmsnorm", "norm.eps": 1e-6}),
        ("preset=llama optimizer=sgd", {"optimizer.lr": 0.1, "optimizer.momentum": 0.9}),
        ("preset=karpathy-10m schedule=linear", {"schedule.warmup": 100, "schedule.min_lr": None}),
        ("preset=gpt2 tokenizer=byte data=tinyshakespeare", {"data.window": 1024, "data.path": None}),
    ],
)
def test_a_component_chosen_over_a_presets_has_its_own_defaults(words, expected):
    flat = flatten(plain(load_config(words.split())))
    assert {k: flat[k] for k in expected} == expected


def test_the_vocabulary_is_known_where_the_tokenizer_alone_fixes_it():
    assert load_config(["tokenizer=byte"]).model.vocab_size == 256
    assert load_config(["tokenizer=char"]).model.vocab_size is None
    assert load_config(["tokenizer=char", "model.vocab_size=65"]).model.vocab_size == 65
    with pytest.raises(ConfigError, match="^model.vocab_size=null: tokenizer=char learns it from the text"):
        build_model(load_config(["tokenizer=char"]))


@pytest.mark.parametrize("size", [n for n in files_in("size") if preset_of(CONF / "size" / f"{n}.yaml") is None])
def test_every_plain_size_builds(size):
    """Those of published models: test_presets.py."""
    with torch.device("meta"):
        model = build_model(load_config([f"size={size}"]))
    assert all(p.is_meta for p in model.parameters())


def test_a_preset_is_what_differs():
    assert short_diff(load_config(["preset=llama"])) == {
        "size": "llama-7b",
        "norm": "rmsnorm",
        "norm.eps": 1e-6,
        "position": "rope",
        "ffn": "swiglu",
        "head.tied": False,
        "bias": False,
        "optimizer.beta2": 0.95,
    }


def test_no_file_of_conf_overrides_a_component():
    """Hydra would take conf/norm/rmsnorm.yaml instead of the class's own defaults."""
    folders = {p.name for p in CONF.iterdir() if p.is_dir()}
    assert folders.isdisjoint(SLOTS)
    assert folders <= set(GROUPS)


def test_an_unknown_key_in_a_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gptlab.config.compose.CONF", tmp_path)
    for file in CONF.rglob("*.yaml"):
        target = tmp_path / file.relative_to(CONF)
        target.parent.mkdir(exist_ok=True)
        target.write_text(file.read_text())
    (tmp_path / "preset" / "mine.yaml").write_text("# @package _global_\ntrain: {stepz: 5}\n")
    with pytest.raises(ConfigError, match="stepz") as e:
        load_config(["preset=mine"])
    assert "\n" not in str(e.value)


def composed(overrides):
    """Return the config to the last type and order, or what is wrong with it."""
    try:
        return repr(load_config(overrides))
    except ConfigError as e:
        return f"ConfigError: {e}"


def all_components():
    """Yield every component in every slot that takes it: by name, and with its defaults written out."""
    for slot in SLOTS:
        for entry in registry.entries(SLOTS[slot]):
            knobs = [
                f"{slot}.{f.name}={typed(v)}" for f in entry.settings if (v := getattr(entry.schema(), f.name)) != []
            ]
            yield from ([f"{slot}={entry.name}"], [f"{slot}={entry.name}", *knobs])


@pytest.mark.parametrize(
    "all_words",
    [
        list(all_components()),
        [[f"preset={name}", f"seed={i}"] for i, name in enumerate(files_in("preset"))],
        [[f"size={name}", "norm=rmsnorm", "optimizer.lr=1e-4"] for name in files_in("size")[::4]],
        [[f"optimizer.lr={lr}", f"seed={seed}"] for lr in ("1e-3", "1", "null", "x") for seed in ("0", "1e1", "-1")],
        [[f"eval.lengths={v}"] for v in ("[1,2]", "[4]", "[]", "[a]", "3", "[1,2]")],
        [[f"use={v}"] for v in ("null", "nowhere.py", "[nowhere.py]", "3", "null")],
        [["seed=1", "seed=2"], ["seed=2", "seed=1"], ["norm.eps=1", "norm.eps=2"], ["norm.eps=2"]],
        [["budget.tokens=1e5"], ["preset=nanogpt-cpu", "budget.flops=1e9"], ["budget.steps=1", "budget.tokens=1"], []],
        [["data=huggingface", "data.name=a"], ["data=huggingface", "data.path=b"], ["data=huggingface", "data.name=c"]],
        [["tokenizer=char"], ["tokenizer=char", "model.vocab_size=65"], ["tokenizer=bpe"], ["tokenizer=byte"]],
        [["name=a"], ["name='b c'"], ["name=a/b"], ["variant=x", "phase=tune"], ["variant=null"], ["phase=x"]],
        [[w] for w in ("norm=nrom", "norm.epz=1", "seed=???", "data.path='${x}'", "train=1", "+seed=1", "seed=1,2")],
    ],
    ids=lambda words: " ".join(words[0][:1]),
)
def test_a_config_does_not_depend_on_what_was_composed_before(all_words):
    """Composing shares work between configs, which must not show in the result."""
    in_order = [composed(words) for words in all_words]
    assert [composed(words) for words in reversed(all_words)] == in_order[::-1]


def test_edited_copies_leave_the_original_alone():
    a = load_config(["seed=1"])
    b = edit(a, ffn__hidden=8, seed=2)
    assert (a.seed, a.ffn.hidden, b.seed, b.ffn.hidden) == (1, None, 2, 8)
    assert b == load_config(["seed=2", "ffn.hidden=8"])
    with pytest.raises(AttributeError, match="^seed: a config is read-only"):
        a.seed = 3
    plain(b)["norm"]["eps"] = 1.0
    assert load_config(["seed=1"]) == a


def test_differences_leave_out_the_defaults_of_another_component():
    assert diff_from_baseline(load_config(["norm=dyt"])) == {"norm": "dyt"}
    assert diff_from_baseline(load_config(["norm=dyt", "norm.alpha=1"])) == {"norm": "dyt", "norm.alpha": 1}
    assert diff_from_baseline(load_config(["norm=layernorm", "norm.eps=1e-5", "name=x", "wandb.mode=disabled"])) == {}
    assert short_diff(load_config(["size=tiny", "seed=1"])) == {"size": "tiny", "seed": 1}
    assert short_diff(load_config(["size=tiny", "size.dim=32"]))["size.dim"] == 32


@pytest.mark.parametrize(
    "words",
    ["name=other", "runs_dir=elsewhere", "wandb.mode=disabled", "wandb.project=p", "variant=a", "norm=layernorm"],
)
def test_what_does_not_change_the_outcome_does_not_change_the_hash(words):
    assert digest(load_config(words.split())) == digest(load_config())


@pytest.mark.parametrize("words", ["seed=1", "norm.eps=1e-6", "data.window=65", "precision=bf16", "eval.every=7"])
def test_what_changes_the_outcome_changes_the_hash(words):
    assert digest(load_config(words.split())) != digest(load_config())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "baseline_seed-0"),
        ("seed=1", "baseline_seed-1"),
        ("norm=rmsnorm placement=post seed=1", "placement-post_norm-rmsnorm_seed-1"),
        ("bias=false size=tiny", "bias-off_size-tiny_seed-0"),
        ("optimizer.lr=3e-4 train.grad_clip=null", "optimizer.lr-0.0003_train.grad_clip-none_seed-0"),
        ("\"data.path='/a b/é:c.txt'\" data=text", None),
    ],
)
def test_a_slug_says_what_differs(words, expected, tmp_path, monkeypatch):
    if expected is None:
        text = tmp_path / "a b é:c.txt"
        text.write_text("x")
        cfg = load_config(["data=text", f"data.path='{text}'"])
        assert re.fullmatch(r"[\w.-]+", slug(cfg))
    else:
        assert slug(load_config(words.split())) == expected


def test_a_slug_is_bounded_and_ends_with_a_whole_word():
    words = ["norm.eps=0.123", "ffn=swiglu", "ffn.hidden=123456", "position=rope", "head.softcap=30", "seed=12"]
    cfg = load_config([*words, "init.std=0.03"])
    assert slug(cfg) == "norm.eps-0.123_position-rope_ffn-swiglu_ffn.hidden-123456_seed-12"
    assert len(slug(cfg)) <= SLUG_LENGTH
    assert run_dir(cfg) == Path("runs", "default", f"{slug(cfg)}-{digest(cfg)}")
    long = load_config(["data=text", f"data.path={__file__}", "data.field=" + "f" * 200])
    assert len(slug(long)) <= SLUG_LENGTH


def test_one_config_has_one_folder_however_it_is_written():
    a = load_config(["norm=rmsnorm", "optimizer.lr=1e-3", "seed=1"])
    b = load_config(["seed=1", "norm=dyt", "norm=rmsnorm", "optimizer.lr=0.001"])
    assert run_dir(a) == run_dir(b)


def test_a_runs_config_opens_again(tmp_path):
    cfg = load_config(["norm=rmsnorm", "size=tiny", "attention.window=8", "optimizer.lr=3e-4", "schedule=wsd"])
    (tmp_path / "config.yaml").write_text(to_yaml(cfg))
    opened = open_config(tmp_path)
    assert plain(opened) == plain(cfg)
    for a, b in zip(build_model(cfg).parameters(), build_model(opened).parameters(), strict=True):
        assert torch.equal(a, b)


def test_building_a_big_model_by_shapes_takes_no_memory():
    with torch.device("meta"):
        model = build_model(load_config(["preset=gpt2", "size=175b", "data.window=2048"]))
    assert sum(p.numel() for p in model.parameters()) == 174_604_259_328
    assert registry.entry("norm", "layernorm").cls is type(model.norm)
