"""Ladders and knock-outs: each arm is one component away from its neighbour, and the ends are the configs named."""

import pytest

from gptlab.config import ConfigError, plain
from gptlab.config.compose import load_config
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.ladder import ARCHITECTURE, knock_outs, ladder_arms

COMMON = ["size=tiny", "data.window=64", "tokenizer=byte"]
ENDS = [("preset=gpt2", "preset=llama"), ("preset=llama", "preset=olmo2"), ("norm=dyt bias=false", "preset=gemma2")]


def architecture(overrides):
    tree = plain(load_config([*overrides, *COMMON]))
    return {slot: tree[slot] for slot in ARCHITECTURE}


def steps(a, b):
    return [slot for slot in ARCHITECTURE if a[slot] != b[slot]]


@pytest.mark.parametrize("ends", ENDS, ids=" to ".join)
def test_a_rung_adds_one_component_and_the_last_is_the_other_end(ends):
    arms = [architecture(overrides) for overrides in ladder_arms(*ends, COMMON).values()]
    assert arms[0] == architecture(ends[0].split()) and arms[-1] == architecture(ends[1].split())
    taken = [steps(a, b) for a, b in zip(arms, arms[1:], strict=False)]
    assert all(len(changed) == 1 for changed in taken)
    assert sorted(s for changed in taken for s in changed) == sorted(steps(arms[0], arms[-1]))


@pytest.mark.parametrize("ends", ENDS, ids=" to ".join)
def test_a_knock_out_lacks_one_component_of_the_second_config(ends):
    whole, *others = (architecture(overrides) for overrides in knock_outs(*ends, COMMON).values())
    first = architecture(ends[0].split())
    assert whole == architecture(ends[1].split())
    missing = [steps(whole, other) for other in others]
    assert all(len(slots) == 1 for slots in missing)
    assert sorted(s for slots in missing for s in slots) == sorted(steps(first, whole))
    assert all(other[slots[0]] == first[slots[0]] for other, slots in zip(others, missing, strict=True))


def test_rungs_are_named_by_the_component_that_they_add():
    assert list(ladder_arms("preset=gpt2", "preset=llama", COMMON)) == [
        *("preset=gpt2", "+ norm=rmsnorm", "+ position=rope", "+ ffn=swiglu", "+ head.tied=false", "+ bias=false")
    ]


def test_settings_outside_the_architecture_are_the_same_in_all_arms():
    trees = [plain(load_config([*arm, *COMMON])) for arm in ladder_arms("preset=gpt2", "preset=llama", COMMON).values()]
    for key in set(trees[0]) - set(ARCHITECTURE):
        assert all(tree[key] == trees[0][key] for tree in trees), key


def test_without_a_size_all_arms_have_the_first_config_s():
    sizes = {str(load_config(arm).size) for arm in ladder_arms("preset=gpt2", "preset=llama").values()}
    assert sizes == {str(load_config(["preset=gpt2"]).size)}


@pytest.mark.parametrize("flag", ["ladder", "knock_out"])
def test_a_flag_makes_the_arms_from_one_command(flag):
    words = ["preset=gpt2", "preset=llama", *COMMON, "seed=0,1"]
    planned = plan_sweep(words, **{flag: True})
    assert len(planned.arms) == 6 and len(planned.cells) == 12
    assert len({tuple(cell.overrides) for cell in planned.cells}) == 12
    for cell in planned.cells:
        load_config(cell.overrides)


def test_equal_configs_and_a_missing_one_are_refused():
    with pytest.raises(ConfigError, match="have the same architecture"):
        ladder_arms("preset=gpt2", "preset=gpt2 size=tiny", COMMON)
    with pytest.raises(ConfigError, match="^--ladder: takes two configs"):
        plan_sweep(["preset=gpt2"], ladder=True)
