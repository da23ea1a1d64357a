"""match=: arms cost what the baseline costs, by the width of the FFN alone, or are refused."""

import json
from pathlib import Path

import pytest

from gptlab import load_config
from gptlab.config import ConfigError
from gptlab.model.cost import cost
from gptlab.model.match_cost import apply_cost_match
from gptlab.runs.folder import digest
from gptlab.sweeps.cell import check_sweep
from gptlab.sweeps.grid import plan_sweep
from tiny import configure

FIGURES = {"params": "parameters_non_embedding", "flops": "flops_per_token"}
BIG = "size.dim=96 size.n_head=4 size.n_layer=2 data.window=16 tokenizer=char model.vocab_size=65"
# Each costs otherwise than the baseline, more or less.
ARMS = ["ffn=swiglu ffn.expansion=6", "attention.n_kv_head=1", "attention.head_dim=48", "ffn=relu ffn.expansion=2"]


@pytest.fixture(scope="module")
def baseline():
    return load_config(BIG.split())


@pytest.mark.parametrize("to", FIGURES)
@pytest.mark.parametrize("arm", ARMS)
def test_a_matched_arm_costs_what_the_baseline_costs(to, arm, baseline):
    """By measure.cost, which the matching itself does not call, of the model that is trained."""
    wanted = cost(baseline)[FIGURES[to]]
    arm_before = configure(baseline, arm, f"match={to} match.reference={wanted} ffn.multiple_of=1")
    assert abs(cost(arm_before)[FIGURES[to]] / wanted - 1) > 0.01
    cfg, done = apply_cost_match(arm_before)
    reached = cost(cfg)[FIGURES[to]]
    assert abs(reached / wanted - 1) < 0.01 and done.reached == reached
    for side in (cfg.ffn.hidden - 1, cfg.ffn.hidden + 1):  # no neighbour is nearer
        other = configure(cfg, f"ffn.hidden={side}")
        assert abs(cost(other)[FIGURES[to]] - wanted) >= abs(reached - wanted)
    changed = {k for k in cfg if cfg[k] != arm_before[k]} | {
        f"ffn.{k}" for k in cfg.ffn if cfg.ffn[k] != arm_before.ffn[k]
    }
    assert changed == {"ffn", "ffn.hidden"}


def test_the_width_is_a_multiple_of_what_the_ffn_asks_for(baseline):
    cfg, done = apply_cost_match(configure(baseline, "match=params attention.head_dim=48 ffn.multiple_of=8"))
    assert cfg.ffn.hidden == done.width and done.width % 8 == 0 and done.width_before == 384


def test_an_arm_within_the_tolerance_stays_as_it_is(baseline):
    arm = configure(baseline, "match=params norm=rmsnorm bias=false")
    cfg, done = apply_cost_match(arm)
    assert cfg == arm and done.width == done.width_before and 0 < abs(done.off) < 0.01


def test_match_none_changes_nothing(baseline):
    cfg, done = apply_cost_match(baseline)
    assert cfg is baseline and done is None


def test_the_default_reference_is_the_baseline_architecture_at_this_size(baseline):
    _, done = apply_cost_match(configure(baseline, "match=flops ffn=swiglu position=rope"))
    assert done.reference == cost(baseline)["flops_per_token"]


def test_an_arm_that_cannot_be_matched_is_refused_with_the_nearest_width(baseline):
    arm = configure(baseline, "match=params ffn=swiglu ffn.multiple_of=96 attention.n_kv_head=1")
    with pytest.raises(ConfigError) as e:
        apply_cost_match(arm)
    line = str(e.value)
    assert line.startswith("match=params: ffn.hidden=288 is the nearest, ") and "\n" not in line
    assert "the baseline's" in line and "set match.tolerance=" in line
    tolerance = line.split("match.tolerance=")[1].split()[0]
    assert apply_cost_match(configure(arm, f"match.tolerance={tolerance}"))[1].width == 288  # the mend works


@pytest.mark.parametrize(
    ("first", "arm"),
    [
        ("bias=false", "ffn=swiglu bias=false"),
        ("bias=false ffn=swiglu", "ffn=gelu bias=false"),
        ("ffn=gelu", "ffn=geglu norm=rmsnorm"),
    ],
)
def test_a_small_arm_is_matched_with_a_finer_multiple_than_the_default(first, arm):
    """At size=tiny a step of 8 in a gated FFN's width is 2.6 % of the parameters; these arms were refused."""
    tiny = load_config(["size=tiny", "model.vocab_size=256"])
    wanted = cost(configure(tiny, first))["parameters_non_embedding"]
    arm = configure(tiny, arm, f"match=params match.reference={wanted}")
    cfg, done = apply_cost_match(arm)
    assert (cfg.ffn.multiple_of, done.multiple, done.multiple_before) == (4, 4, 8)
    assert abs(cost(cfg)["parameters_non_embedding"] / wanted - 1) <= 0.01
    assert cfg.ffn.hidden == done.width and done.width % 8 == 4
    for coarser in (done.width - 4, done.width + 4):
        assert abs(cost(configure(arm, f"ffn.hidden={coarser}"))["parameters_non_embedding"] / wanted - 1) > 0.01
    assert done.changed == {"ffn.hidden": [done.width_before, done.width], "ffn.multiple_of": [8, 4]}
    assert "ffn.multiple_of 8 -> 4" in done.describe()
    with pytest.raises(ConfigError, match=r"^match=params: ffn.hidden=\d+ is the nearest"):
        apply_cost_match(configure(arm, "ffn.multiple_of=16"))  # what the user asks for stays


@pytest.mark.parametrize("knob", ["tolerance=0", "reference=-1"])
def test_its_settings_have_ranges(baseline, knob):
    with pytest.raises(ConfigError, match=f"^match.{knob.split('=')[0]}="):
        apply_cost_match(configure(baseline, f"match=params match.{knob}"))


def test_matching_does_not_enter_the_folder_s_hash_but_its_width_does(baseline):
    plain, flops = (configure(baseline, f"match={m}") for m in ("none", "flops"))
    assert digest(plain) == digest(flops) != digest(configure(baseline, "ffn.hidden=8"))


def test_the_run_records_what_was_changed(train_tiny):
    summary = train_tiny("match=params ffn=swiglu attention.head_dim=8 ffn.multiple_of=1")
    folder = Path(summary["run_dir"])
    match = json.loads((folder / "env.json").read_text())["match"]
    assert match["to"] == "params" and match["width"] != match["width_before"] and abs(match["off"]) < 0.01
    assert summary["parameters_non_embedding"] == match["reached"]
    assert f"hidden: {match['width']}" in (folder / "config.yaml").read_text()


SMALL = ["size=tiny", "data.window=16", "wandb.mode=disabled", "match=params", "ffn.multiple_of=1"]


def test_a_sweep_s_arms_are_matched_to_its_first(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "t.txt").write_text("to be, or not to be: that is the question. " * 40)
    text = ["data=text", f"data.path={tmp_path / 't.txt'}", f"runs_dir={tmp_path}"]
    cells = check_sweep(plan_sweep(["ffn=swiglu,gelu", "attention.n_kv_head=1,2", "seed=0,1", *SMALL, *text])).cells
    first = cells[0].budget.cost["parameters_non_embedding"]
    assert len(cells) == 8 and len({c.match.reference for c in cells}) == 1 and cells[0].match.reference == first
    assert all(abs(c.budget.cost["parameters_non_embedding"] / first - 1) <= 0.01 for c in cells)
    with pytest.raises(ConfigError, match="^ffn.expansion=2: match=params chooses the width too; leave one out"):
        check_sweep(plan_sweep(["ffn.expansion=2,4", *SMALL, *text]))
