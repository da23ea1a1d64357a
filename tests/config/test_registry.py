"""A component's signature is its settings; and a user's file is a module like any other."""

import sys
from typing import Literal

import pytest

from gptlab.config import ConfigError, registry
from gptlab.config.registry import build, entry, load, register

pytestmark = pytest.mark.usefixtures("own_registry")


def user_file(folder, stem, name, body="...", header=""):
    folder.mkdir(exist_ok=True)
    path = folder / f"{stem}.py"
    path.write_text(f"from gptlab import register\n{header}\n@register('norm', '{name}')\nclass Norm:\n    {body}\n")
    return path


def test_what_is_left_of_the_star_is_asked_for_and_what_is_right_of_it_can_be_set():
    @register("norm", "made_up", source="a paper")
    class MadeUp:
        """Does nothing.

        More about that.
        """

        def __init__(self, dim, bias: bool, *, eps: float = 1e-5, mode: Literal["a", "b"] = "b", n: int | None = None):
            self.got = (dim, bias, eps, mode, n)

    found = entry("norm", "made_up")
    assert (found.wants, found.choices) == (("dim", "bias"), {"mode": ("a", "b")})
    assert (found.summary, found.source) == ("Does nothing.", "a paper")
    assert [(f.name, f.type, f.default) for f in found.settings] == [
        ("eps", float, 1e-5),
        ("mode", str, "b"),
        ("n", int | None, None),
    ]
    assert entry("qk_norm", "made_up") is found
    chosen = {"name": "made_up", "eps": 1.0, "mode": "a", "n": 3}
    assert build("norm", chosen, {"dim": 8, "bias": True, "n_head": 2}).got == (8, True, 1.0, "a", 3)
    assert MadeUp(4, False).got == (4, False, 1e-5, "b", None)


def test_settings_common_to_a_kind_do_not_belong_to_its_components():
    @register("schedule", "made_up")
    class MadeUp:
        def __init__(self, *, power: float = 2.0): ...

    assert [f.name for f in entry("schedule", "made_up").settings] == ["power"]
    assert entry("schedule", "made_up").schema().warmup is None


def test_a_list_is_nobody_elses():
    @register("norm", "made_up")
    class MadeUp:
        def __init__(self, *, betas: list[float] = [0.9, 0.99]): ...  # noqa: B006

    schema = entry("norm", "made_up").schema
    schema().betas.append(1.0)
    assert schema().betas == [0.9, 0.99]


@pytest.mark.parametrize(
    ("signature", "reason"),
    [
        ("self, *args", "*args hides settings; write each"),
        ("self, **knobs", "*knobs hides settings; write each"),
        ("self, width", "nothing provides 'width' (provided are dim, "),
        ("self, n_embd", "nothing provides 'n_embd' (in gptlab: dim; provided are dim, "),
        ("self, *, eps=1e-5", "setting 'eps' needs a type and a default"),
        ("self, *, eps: float", "setting 'eps' needs a type and a default"),
    ],
)
def test_a_signature_that_leaves_something_open_is_refused_with_its_place(signature, reason, tmp_path):
    path = user_file(tmp_path, "open_norm", "open", f"def __init__({signature}): ...")
    with pytest.raises(ConfigError) as e:
        load(path)
    assert str(e.value).startswith(f"{path}:3: ")
    assert reason in str(e.value)


def test_a_kind_must_be_one_that_some_slot_takes():
    with pytest.raises(ConfigError, match=r"^register\('nrom', 'mine'\): no such kind; choose from model, block"):
        register("nrom", "mine")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("eps=-1: must be positive"), "norm.eps=-1: must be positive"),
        (ValueError("needs an even width"), "norm=made_up: needs an even width"),
        (ConfigError("data.path=x: no such file"), "data.path=x: no such file"),
    ],
)
def test_building_says_whose_error_it_is(error, line):
    @register("norm", "made_up")
    class MadeUp:
        def __init__(self, *, eps: float = 1e-5):
            raise error

    with pytest.raises(ConfigError) as e:
        build("norm", {"name": "made_up", "eps": -1.0})
    assert str(e.value) == line


def test_an_error_that_is_no_users_is_left_as_it_is():
    @register("norm", "made_up")
    class MadeUp:
        def __init__(self):
            raise KeyError("a bug")

    with pytest.raises(KeyError):
        build("norm", {"name": "made_up"})


def test_a_file_is_imported_once(tmp_path, monkeypatch):
    path = user_file(tmp_path, "norm_of_mine", "mine", header="import builtins; builtins.n_imports += 1")
    monkeypatch.setattr("builtins.n_imports", 0, raising=False)
    load(path)
    load([str(path), path])
    assert sys.modules["builtins"].n_imports == 1
    assert sys.modules["norm_of_mine"].Norm is entry("norm", "mine").cls


def test_the_copy_in_a_runs_folder_is_the_same_file_and_another_version_is_not(tmp_path):
    path = user_file(tmp_path, "norm_of_mine", "mine")
    copy = user_file(tmp_path / "components", "norm_of_mine", "mine")
    load(path)
    load(copy)
    path.write_text(path.read_text() + "# changed\n")
    with pytest.raises(ConfigError, match=r"another 'norm_of_mine' is imported already; .* restart Python"):
        load(path)


@pytest.mark.parametrize("stem", ["json", "torch", "gptlab", "this"])
def test_a_file_may_not_take_the_name_of_a_module(stem, tmp_path):
    path = user_file(tmp_path, stem, "mine")
    with pytest.raises(ConfigError, match=f"^use={path}: .*another .*{stem}.*rename"):
        load(path)


def test_a_file_that_fails_leaves_nothing_and_can_be_mended(tmp_path):
    path = user_file(tmp_path, "norm_of_mine", "mine", header="import no_such_library")
    with pytest.raises(ConfigError, match="cannot be imported"):
        load(path)
    user_file(tmp_path, "norm_of_mine", "mine")
    load(path)
    assert "mine" in registry.names("norm")


def test_one_name_in_two_files_is_refused_with_both_places(tmp_path):
    load(user_file(tmp_path, "norm_a", "mine"))
    with pytest.raises(ConfigError, match=r"^norm=mine: defined twice, at .*norm_a.py:3 and .*norm_b.py:3; rename one"):
        load(user_file(tmp_path, "norm_b", "mine"))
