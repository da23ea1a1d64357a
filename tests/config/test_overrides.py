"""Overrides as text: a text setting keeps what was typed, for `train` and `sweep` alike."""

from pathlib import Path

import pytest
import yaml

from gptlab.config import ConfigError, to_yaml
from gptlab.config.compose import load_config
from gptlab.config.overrides import parse, quoted, split_at_commas, typed, values_as_typed
from gptlab.config.settings import read_yaml
from gptlab.runs.folder import slug
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.launcher import decode, encode

TEXTS = (  # Hydra would read some as numbers, booleans or null, and refuse others without quotes
    *("2024_01_15", "1e3", "010", "0x10", "1.50", "+5", "-1", "true", "TRUE", "off", "on", "nan", "inf", "None"),
    *("2024-01-15", "12:30:45", "é", "文字", "🙂", "a b", "a=b", "a:b", "#x", "$HOME", "%", "a&b;c", "<a>", "!", "@"),
    *("a\\b", "a\\", "~x"),
)
NEED_QUOTES = ("a'b", 'a"b', "a,b", "[x]", "(x)", "{x}", "a\\'b", "null", " a ", "\\\\'")
TEXT_SETTINGS = ("name", "variant", "wandb.project", "wandb.entity", "data.field")


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_setting_keeps_its_text_as_typed_in_train_and_sweep(text):
    assert load_config([f"name={text}", f"variant={text}"]).name == text
    plan = plan_sweep([f"name={text}", "seed=0,1"])
    assert plan.name == text and load_config(plan.cells[1].overrides).name == text


@pytest.mark.parametrize("text", [*TEXTS, *NEED_QUOTES])
def test_a_quoted_text_is_that_text_and_reaches_a_worker_unchanged(text):
    for key in TEXT_SETTINGS:
        overrides = ["data=text", "data.path=x.txt", f"{key}={quoted(text)}", f"device={typed(text)}"]
        cfg = load_config(decode(encode([overrides]))[0])
        *path, last = key.split(".")
        assert (cfg[path[0]] if path else cfg)[last] == text and cfg.device == text


@pytest.mark.parametrize("text", [*TEXTS, *NEED_QUOTES])
def test_a_text_comes_back_from_a_runs_config(text, tmp_path):
    """The files are read by OmegaConf, and by compare with PyYAML."""
    (tmp_path / "config.yaml").write_text(to_yaml(load_config([f"variant={quoted(text)}"])), encoding="utf-8")
    assert read_yaml(tmp_path / "config.yaml").variant == text
    assert yaml.load((tmp_path / "config.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)["variant"] == text


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("data.path=2024_01,010,1e3", ["2024_01", "010", "1e3"]),
        ("optimizer.lr=1e-3,3e-4", ["1e-3", "3e-4"]),
        ("norm=\"rmsnorm\",'layernorm'", ["rmsnorm", "layernorm"]),
        ("name='a,b',c", ["'a,b'", "c"]),
        ("data.path=é.txt,a b.txt", ["'é.txt'", "'a b.txt'"]),
        ("eval.lengths=[1,2],[1]", ["[1,2]", "[1]"]),
        ("norm=choice(rmsnorm, dyt)", ["rmsnorm", "dyt"]),
        ("norm=sort(rmsnorm,dyt)", ["dyt", "rmsnorm"]),
        ("seed=range(2)", ["0", "1"]),
        ("name=x", ["x"]),
    ],
)
def test_the_values_of_a_list_are_as_typed(override, values):
    assert values_as_typed(parse([override])[0]) == values


def test_commas_in_quotes_and_brackets_do_not_split():
    assert split_at_commas(r"""a, 'b,\',c' ,[d,(e,f)], "g,h",i\,j""") == [
        *("a", r"""'b,\',c'""", "[d,(e,f)]", '"g,h"', r"i\,j")
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("name=a\nb", r"'name=a\\nb': has the character '\\n'"),
        ("name=a\udcff", r"'name=a\\udcff': has the character"),
        ("name=", "name=: must not be empty"),
        ("runs_dir=''", "runs_dir='': must not be empty"),
        ("train.init_from=", "train.init_from=: must not be empty"),
        ("name=${x}", r"name=\$\{x\}: stands for another value"),
        ("name=null", "name=null: must be text"),
        ("name=[x]", r"name=\[x\]: must be text"),
        ("name=wandb", "name=wandb: is the folder of the tracker's own files"),
        ("name=Trackio", "name=Trackio: is the folder of the tracker's own files"),
        (f"name={'é' * 128}", "name=é{40}...: must have at most 255 bytes"),
        ("runs_dir=~nobody-of-this-name/x", "~nobody-of-this-name/x: ~nobody-of-this-name has no home folder"),
        ("seed=99999999999999999999", "seed=9{20}: must be at most 9.223e"),
        ("attention.head_dim=1e30", "attention.head_dim=1e30: must be at most"),
        ("eval.lengths=[99999999999999999999]", "eval.lengths=.*: must be at most"),
        (f"budget.tokens={'9' * 400}", "budget.tokens=9+: must be at most 1.798e"),
        ("budget.tokens=1e400", "budget.tokens=inf: must be finite"),
        ("size.n_layer=10000000000", "size.n_layer=10000000000: must be at most 100,000"),
        ("train.batch_size=9223372036854775807", "train.batch_size=9223372036854775807: .* tokens in a step"),
    ],
)
def test_a_value_that_no_setting_can_hold_is_refused(words, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        load_config([words])


def test_the_mend_of_an_unreadable_value_works():
    with pytest.raises(ConfigError, match="quote the value twice: \"name='a\\(1\\)'\"$"):
        load_config(["name=a(1)"])
    assert load_config(["name='a(1)'"]).name == "a(1)"


@pytest.mark.parametrize("key", ["runs_dir", "train.init_from", "data.path", "tokenizer.path"])
def test_the_home_folder_is_expanded_in_paths(key, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    words = ["data=text", "tokenizer=huggingface"] if key == "tokenizer.path" else ["data=text"]
    monkeypatch.setattr("gptlab.config.compose.fixed_vocab_size", lambda cfg: None)
    section, _, last = key.rpartition(".")
    for value in ("~/x", "'~/x'", "~/é x"):
        cfg = load_config([*words, f"{key}={value}"])
        assert (cfg[section] if section else cfg)[last] == value.strip("'").replace("~", "/home/me")
    assert load_config(["name=~"]).name == "~"  # is no path


def test_a_users_file_may_be_in_the_home_folder(tmp_path, monkeypatch, own_registry):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "home_norm.py").write_text("")
    assert load_config(["use=~/home_norm.py"]).use == str(tmp_path / "home_norm.py")
    assert [Path(file).name for file in load_config(["use=[~/home_norm.py]"]).use] == ["home_norm.py"]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("budget.tokens=2e6", "budget.tokens-2e6"),
        ("optimizer.lr=1e-05", "optimizer.lr-1e-05"),
        ("budget.flops=1e18", "budget.flops-1e18"),
        ("optimizer.lr=0.01", "optimizer.lr-0.01"),
    ],
)
def test_a_folders_name_shows_numbers_as_they_are(words, part):
    assert part in slug(load_config([words]))
