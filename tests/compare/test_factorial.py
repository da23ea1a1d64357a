"""Grids over several settings: main effects and interactions."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from scipy.stats import ttest_1samp
from statsmodels.stats.multitest import multipletests

from gptlab.compare import build_comparison
from gptlab.compare.analysis.arms import Arm
from gptlab.compare.analysis.comparison import Result
from gptlab.compare.analysis.effects import Evidence, Rules
from gptlab.compare.analysis.factorial import factorial
from run_folders import shown, write_run, write_sweep

LEVELS = {"norm": ["layer", "rms"], "ffn": ["gelu", "swiglu", "reglu"], "placement": ["pre", "post"]}
EFFECTS = {"rms": -0.02, "swiglu": -0.06, "reglu": -0.03, "post": 0.1}
TOGETHER = {("rms", "post"): -0.05, ("swiglu", "post"): 0.03}  # on top


def truth(arm: dict[str, str]) -> float:
    pairs = itertools.combinations(arm.values(), 2)
    return 2 + sum(EFFECTS.get(level, 0) for level in arm.values()) + sum(TOGETHER.get(pair, 0) for pair in pairs)


def results(arms, *, seeds=4, noise=0.0, lost=(), stuck=()):
    """Return the arms' results; `lost` has (arm, seed) of runs that diverged, `stuck` of runs that ended far above."""
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.3, seeds)
    found = []
    for settings in arms:
        kept = [seed for seed in range(seeds) if (len(found), seed) not in lost]
        own = [seed for arm, seed in stuck if arm == len(found)]
        values = [truth(settings) + shared[seed] + rng.normal(0, noise) + 0.3 * (seed in own) for seed in kept]
        scores = pd.Series(values, index=kept, dtype=float)
        name = " ".join(settings.values())
        states = {"finished": len(kept), "diverged": seeds - len(kept), "failed": 0, "unfinished": 0}
        arm = Arm(name, settings, [])
        found.append(Result(arm, name, None, "", scores, scores.mean(), scores.std(), states, {}, None, own))
    return found


def grid(**levels):
    return [dict(zip(levels, chosen, strict=True)) for chosen in itertools.product(*levels.values())]


def analyse(arms, **options):
    return factorial(arms, Rules("val/loss", 0.01), Evidence(), **options)


def by_levels(found):
    return found.effects.set_index(["slots", "levels"])


def test_a_full_grid_gives_every_effect_averaged_over_the_others():
    found = analyse(results(grid(**LEVELS), noise=1e-6))
    effects = by_levels(found)["effect"]
    assert len(effects) == (1 + 2 + 1) + (2 + 1 + 2)
    rms, post = (effects[key] for key in (("norm", "rms instead of layer"), ("placement", "post instead of pre")))
    assert rms == pytest.approx(-0.02 - 0.05 / 2, abs=1e-5)
    assert post == pytest.approx(0.1 - 0.05 / 2 + 0.03 / 3, abs=1e-5)
    assert effects["ffn", "swiglu instead of gelu"] == pytest.approx(-0.06 + 0.03 / 2, abs=1e-5)
    assert effects["norm x placement", "rms, post"] == pytest.approx(-0.05, abs=1e-5)
    assert effects["ffn x placement", "swiglu, post"] == pytest.approx(0.03, abs=1e-5)
    assert effects["norm x ffn", "rms, reglu"] == pytest.approx(0, abs=1e-5)
    assert found.note == (
        "Each effect is computed seed by seed in the full grid of 2 x 3 x 2 and tested by a paired t test, with Holm's"
        " correction over these 9 effects, which are a family of their own."
    )


def test_in_a_full_grid_each_effect_is_a_paired_t_test_over_the_seeds():
    arms = results(grid(norm=LEVELS["norm"], placement=LEVELS["placement"]), noise=0.05, seeds=5)
    found = by_levels(analyse(arms))
    scores = {tuple(r.arm.settings.values()): r.scores for r in arms}
    main = (scores["rms", "pre"] + scores["rms", "post"] - scores["layer", "pre"] - scores["layer", "post"]) / 2
    both = scores["rms", "post"] - scores["rms", "pre"] - scores["layer", "post"] + scores["layer", "pre"]
    for key, values in ((("norm", "rms instead of layer"), main), (("norm x placement", "rms, post"), both)):
        expected = ttest_1samp(values, 0)
        assert found.loc[key, "effect"] == pytest.approx(values.mean())
        assert found.loc[key, "p"] == pytest.approx(expected.pvalue)
    assert list(found["p_holm"]) == pytest.approx(multipletests(found["p"], method="holm")[1])
    assert set(found["verdict"]) <= {"better", "worse", "equivalent", "not shown"}
    shown_ = (found["low"] > 0) | (found["high"] < 0)
    assert list(shown_) == list(found["verdict"].isin(["better", "worse"]))


def test_main_effects_get_words():
    found = by_levels(analyse(results(grid(**LEVELS), noise=1e-4)))["verdict"]
    assert found["norm", "rms instead of layer"] == "better" and found["placement", "post instead of pre"] == "worse"
    assert found["norm x ffn", "rms, reglu"] == "equivalent"


def test_an_effect_that_a_diverged_cell_enters_gets_no_verdict():
    """rms post diverged in 2 of 5 seeds: its others are survivors."""
    lost = {(4, 1), (4, 3)}
    found = analyse(results(grid(norm=LEVELS["norm"], ffn=LEVELS["ffn"]), noise=1e-4, seeds=5, lost=lost))
    effects = by_levels(found)
    touched = [("norm", "rms instead of layer"), ("ffn", "swiglu instead of gelu"), ("norm x ffn", "rms, swiglu")]
    for key in touched:
        assert effects.loc[key, "verdict"] == "no verdict"
        assert effects.loc[key, "note"] == "rms swiglu diverged in 2 of 5 seeds"
    assert effects.loc[("ffn", "reglu instead of gelu"), "verdict"] == "better"
    assert found.note.endswith("rms swiglu diverged in 2 of 5 seeds: the effects that this enters get no verdict.")


def test_an_effect_that_a_stuck_cell_enters_is_marked():
    found = analyse(results(grid(norm=LEVELS["norm"], ffn=LEVELS["ffn"]), noise=1e-4, seeds=5, stuck={(4, 2)}))
    effects = by_levels(found)
    assert effects.loc[("norm", "rms instead of layer"), "note"] == "seed 2 of rms swiglu stuck"
    assert effects.loc[("ffn", "reglu instead of gelu"), "note"] == ""
    assert found.note.endswith("Stuck, and counted: seed 2 of rms swiglu.")


def test_a_fraction_is_a_linear_model_with_one_pooled_error_and_no_words():
    arms = results(half("abcde", "abcde"), noise=0.02, lost={(1, 2), (3, 0)})
    effects = analyse(arms)
    found = by_levels(effects)
    runs = pd.DataFrame([{**r.arm.settings, "seed": seed, "score": s} for r in arms for seed, s in r.scores.items()])
    terms = " + ".join(f"C({key}, Sum)" for key in "abcde")
    fit = smf.ols(f"score ~ C(seed) + ({terms})**2", runs).fit()
    for key in "abcde":
        row = found.loc[(key, f"{key}1 instead of {key}0")]
        name = f"C({key}, Sum)[S.{key}0]"
        assert row["effect"] == pytest.approx(-2 * fit.params[name])
        assert row["p"] == pytest.approx(fit.pvalues[name])
    both = found.loc[("a x b", "a1, b1")]
    name = "C(a, Sum)[S.a0]:C(b, Sum)[S.b0]"
    assert both["effect"] == pytest.approx(4 * fit.params[name]) and both["p"] == pytest.approx(fit.pvalues[name])
    assert list(found["p_holm"]) == pytest.approx(multipletests(found["p"], method="holm")[1])
    inside = (found["low"] <= 0) & (found["high"] >= 0)
    assert list(inside) == list(found["p_holm"] >= 0.05) and set(found["verdict"]) == {""}
    assert "a fraction, fitted by a linear model with a block for each seed and one pooled error." in effects.note


def test_the_means_for_each_pair_of_settings():
    found = analyse(results(grid(**LEVELS)))
    assert list(found.means) == [("norm", "ffn"), ("norm", "placement"), ("ffn", "placement")]
    means = found.means["ffn", "placement"]
    assert list(means.index) == LEVELS["ffn"] and list(means.columns) == LEVELS["placement"]
    arms = [truth({"norm": norm, "ffn": "swiglu", "placement": "post"}) for norm in LEVELS["norm"]]
    others = [truth({"norm": norm, "ffn": "gelu", "placement": "pre"}) for norm in LEVELS["norm"]]
    assert means.loc["swiglu", "post"] - means.loc["gelu", "pre"] == pytest.approx(np.mean(arms) - np.mean(others))


def half(letters, keep):
    """Return the arms of a two-level grid with an even number of second levels among the settings `keep`."""
    levels = {letter: [f"{letter}0", f"{letter}1"] for letter in letters}
    return [arm for arm in grid(**levels) if sum(arm[k].endswith("1") for k in keep) % 2 == 0]


def test_a_half_grid_of_three_gives_main_effects_only_and_says_so():
    found = analyse(results(half("abc", "abc"), noise=0.01))
    assert list(found.effects["kind"]) == ["main"] * 3
    assert "16 runs of 4 of the 8 arms of a grid of 2 x 2 x 2: a fraction" in found.note
    assert "The main effects are estimated as if no two settings interacted." in found.note
    assert found.note.endswith("These runs cannot determine a x b, a x c, b x c.")


def test_a_half_grid_of_four_keeps_main_effects_clear_of_interactions():
    found = analyse(results(half("abcd", "abcd"), noise=0.01))
    assert list(found.effects["kind"]) == ["main"] * 4
    assert "as if" not in found.note and "cannot determine a x b, a x c, a x d, b x c, b x d, c x d." in found.note


def test_a_half_grid_of_five_gives_all():
    found = analyse(results(half("abcde", "abcde"), noise=0.01))
    assert list(found.effects["kind"]) == ["main"] * 5 + ["interaction"] * 10
    assert "cannot" not in found.note


@pytest.mark.parametrize(
    "arms",
    [
        [{"norm": "layer", "ffn": "gelu"}, {"norm": "rms", "ffn": "gelu"}, {"norm": "layer", "ffn": "swiglu"}],
        grid(norm=["layer", "rms"]),
        [{"norm": "layer", "ffn": "gelu"}] * 2 + [{"norm": "rms", "ffn": "swiglu"}] * 2,
        [{"norm": "layer", "norm.eps": e} for e in "12"] + [{"norm": "rms", "ffn": f} for f in ("gelu", "swiglu")],
        [{"a": f"a{i > 0}", "b": f"b{i > 1}", "c": f"c{i > 2}"} for i in range(4)],
    ],
    ids=["one at a time", "one setting", "always together", "nested", "ladder"],
)
def test_arms_that_are_no_grid_have_no_effects(arms):
    assert analyse(results(arms)) is None


def test_one_seed_of_a_full_grid_gives_no_verdict():
    found = analyse(results(grid(norm=["layer", "rms"], placement=["pre", "post"]), seeds=1))
    assert found.effects["effect"].notna().all() and found.effects["p"].isna().all()
    assert set(found.effects["verdict"]) == {"one seed: no verdict"}


def test_a_fraction_with_as_many_effects_as_runs_has_no_intervals():
    found = analyse(results(half("abc", "abc"), seeds=1))
    assert found.effects["effect"].notna().all() and found.effects["p"].isna().all()
    assert found.note.endswith("No intervals: there are no more runs than effects; add seeds.")


def test_the_effects_of_a_grid_are_in_table_markdown_and_picture(tmp_path):
    rng = np.random.default_rng(0)
    for arm in grid(norm=["layer", "rms"], placement=["pre", "post"]):
        for seed in range(3):
            folder = tmp_path / "runs" / f"{arm['norm']}-{arm['placement']}-{seed}"
            # swiglu's width follows from matching, and the learning rate from tuning: neither makes the grid
            own = {slot: {"name": name} for slot, name in arm.items()}
            own |= {"times": (f"{len(list(folder.parent.glob('*'))):02}", ""), "curve": [{"val/loss": 9.0}] * 2}
            own |= {"optimizer": {"lr": 0.1 if arm["norm"] == "rms" else 0.2}, "ffn": {"hidden": len(arm["placement"])}}
            write_run(folder, truth(arm) + rng.normal(0, 0.001), seed=seed, **own)
    tune, matched = {"grid": {"optimizer.lr": ["0.1", "0.2"]}}, [{"arm": "x", "to": "params", "changed": {}}]
    matched[0] |= {"changed": {"ffn.hidden": [3, 4]}, "reference": 10.0, "before": 9.0, "reached": 10.5}
    write_sweep(tmp_path / "runs", tune=tune, matched=matched)
    options = {"markdown": tmp_path / "x.md", "png": tmp_path / "x.svg"}
    _, text = shown([tmp_path / "runs"], **options, width=80)
    assert "norm x placement  rms, post" in text and "the full grid of 2 x 2" in text
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 80
    assert "x, matched in params: ffn.hidden 3 -> 4, which gives 10 (baseline: 10; +5.00%)." in text
    assert "| norm \\\\ placement | " in (tmp_path / "x.md").read_text()
    assert ">placement</text>" in (tmp_path / "x.svg").read_text()
    assert list(build_comparison([tmp_path / "runs"]).factorial.means) == [("norm", "placement")]
