"""Grids over several settings: main effects and interactions."""

import itertools

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf
from statsmodels.stats.multitest import multipletests

from gptlab.compare import build_comparison
from gptlab.compare.analysis.arms import Arm
from gptlab.compare.analysis.comparison import Result
from gptlab.compare.analysis.factorial import factorial
from run_folders import shown, write_run, write_sweep

LEVELS = {"norm": ["layer", "rms"], "ffn": ["gelu", "swiglu", "reglu"], "placement": ["pre", "post"]}
EFFECTS = {"rms": -0.02, "swiglu": -0.06, "reglu": -0.03, "post": 0.1}
TOGETHER = {("rms", "post"): -0.05, ("swiglu", "post"): 0.03}  # on top


def truth(arm: dict[str, str]) -> float:
    pairs = itertools.combinations(arm.values(), 2)
    return 2 + sum(EFFECTS.get(level, 0) for level in arm.values()) + sum(TOGETHER.get(pair, 0) for pair in pairs)


def results(arms, *, seeds=4, noise=0.0, lost=()):
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.3, seeds)
    found = []
    for settings in arms:
        kept = [seed for seed in range(seeds) if (len(found), seed) not in lost]
        values = [truth(settings) + shared[seed] + rng.normal(0, noise) for seed in kept]
        scores = pd.Series(values, index=kept, dtype=float)
        name = " ".join(settings.values())
        states = {"finished": len(kept), "diverged": 0, "failed": 0, "unfinished": 0}
        found.append(
            Result(Arm(name, settings, []), name, None, "", scores, scores.mean(), scores.std(), states, {}, None)
        )
    return found


def grid(**levels):
    return [dict(zip(levels, chosen, strict=True)) for chosen in itertools.product(*levels.values())]


def by_levels(found):
    return found.effects.set_index(["slots", "levels"])


def test_a_full_grid_gives_every_effect_averaged_over_the_others():
    found = factorial(results(grid(**LEVELS), noise=1e-6))
    effects = by_levels(found)["effect"]
    assert len(effects) == (1 + 2 + 1) + (2 + 1 + 2)
    rms, post = (effects[key] for key in (("norm", "rms instead of layer"), ("placement", "post instead of pre")))
    assert rms == pytest.approx(-0.02 - 0.05 / 2, abs=1e-5)
    assert post == pytest.approx(0.1 - 0.05 / 2 + 0.03 / 3, abs=1e-5)
    assert effects["ffn", "swiglu instead of gelu"] == pytest.approx(-0.06 + 0.03 / 2, abs=1e-5)
    assert effects["norm x placement", "rms, post"] == pytest.approx(-0.05, abs=1e-5)
    assert effects["ffn x placement", "swiglu, post"] == pytest.approx(0.03, abs=1e-5)
    assert effects["norm x ffn", "rms, reglu"] == pytest.approx(0, abs=1e-5)
    assert found.note == "Linear model with a block for each seed, 48 runs of the full grid of 2 x 3 x 2."


def test_effects_and_intervals_are_those_of_statsmodels_with_sum_contrasts():
    arms = results(grid(norm=LEVELS["norm"], placement=LEVELS["placement"]), noise=0.02, lost={(1, 2), (3, 0)})
    found = by_levels(factorial(arms))
    runs = pd.DataFrame([{**r.arm.settings, "seed": seed, "score": s} for r in arms for seed, s in r.scores.items()])
    fit = smf.ols("score ~ C(seed) + C(norm, Sum) * C(placement, Sum)", runs).fit()
    names = {
        ("norm", "rms instead of layer"): ("C(norm, Sum)[S.layer]", -2),
        ("placement", "post instead of pre"): ("C(placement, Sum)[S.post]", 2),  # its levels are sorted
        ("norm x placement", "rms, post"): ("C(norm, Sum)[S.layer]:C(placement, Sum)[S.post]", -4),
    }
    for key, (name, factor) in names.items():
        low, high = sorted(fit.conf_int().loc[name] * factor)
        row = found.loc[key]
        assert row["effect"] == pytest.approx(fit.params[name] * factor)
        assert (row["low"], row["high"]) == pytest.approx((low, high))
        assert row["p"] == pytest.approx(fit.pvalues[name])
    assert list(found["p_holm"]) == pytest.approx(multipletests(found["p"], method="holm")[1])


def test_the_means_for_each_pair_of_settings():
    found = factorial(results(grid(**LEVELS)))
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
    found = factorial(results(half("abc", "abc"), noise=0.01))
    assert list(found.effects["kind"]) == ["main"] * 3
    assert "16 runs of 4 of the 8 arms of a grid of 2 x 2 x 2." in found.note
    assert "The main effects are estimated as if no two settings interacted." in found.note
    assert found.note.endswith("These runs cannot determine a x b, a x c, b x c.")


def test_a_half_grid_of_four_keeps_main_effects_clear_of_interactions():
    found = factorial(results(half("abcd", "abcd"), noise=0.01))
    assert list(found.effects["kind"]) == ["main"] * 4
    assert "as if" not in found.note and "cannot determine a x b, a x c, a x d, b x c, b x d, c x d." in found.note


def test_a_half_grid_of_five_gives_all():
    found = factorial(results(half("abcde", "abcde"), noise=0.01))
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
    assert factorial(results(arms)) is None


def test_with_as_many_effects_as_runs_there_are_no_intervals():
    found = factorial(results(grid(norm=["layer", "rms"], placement=["pre", "post"]), seeds=1))
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
