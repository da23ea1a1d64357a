"""What was planned: words beyond it are exploratory, words before its end are interim."""

import pytest

from gptlab.compare import build_comparison
from gptlab.config import ConfigError
from run_folders import learning, one_line, shown, write_run, write_sweep

NAMES = ("base", "b", "c")
PLAN = {"seeds": [0, 1, 2], "arms": 3, "metric": "val/loss", "margin": None}


def write(top, seeds=range(3), arms=3, plan=PLAN, **said):
    for i, name in enumerate(NAMES[:arms]):
        for seed in seeds:
            loss = 2.0 + seed / 10 - 0.1 * i + 0.001 * i * (seed % 2)
            write_run(
                top / f"{name}-{seed}", loss, seed=seed, variant=name, size={"dim": i}, **learning(loss, seed=seed)
            )
    write_sweep(top, variants=dict.fromkeys(NAMES, []), planned=plan, **said)
    return top


def words(top, **options):
    comparison = build_comparison([top], **options)
    return [r.effect.verdict for r in comparison.results if r.effect], comparison


def test_the_words_of_the_plan_have_no_mark(tmp_path):
    found, comparison = words(write(tmp_path))
    assert found == ["better", "better"] and comparison.planned and not comparison.standing
    assert "no plan" not in shown([tmp_path])[1]


def test_seeds_beyond_the_plan_make_the_words_exploratory(tmp_path):
    top = write(tmp_path, seeds=range(5))
    found, comparison = words(top)
    assert found == ["better (exploratory)"] * 2
    assert comparison.reasons == ["seeds 3, 4 came on top of the 3 that were planned"]
    frame, text = shown([top], markdown=tmp_path / "x.md")
    assert "better (exploratory)" in text and "EXPLORATORY: seeds 3, 4 came on top of the 3" in one_line(text)
    assert "on fresh seeds under another name" in one_line(text)
    assert list(frame["verdict"][1:]) == ["better (exploratory)"] * 2 and set(frame["word"][1:]) == {"better"}
    assert "| better (exploratory) |" in (tmp_path / "x.md").read_text()


def test_half_a_sweep_is_a_look_in_the_interim_with_the_planned_family(tmp_path):
    top = write(tmp_path, arms=2)
    found, comparison = words(top)
    assert found == ["better (interim)"] and comparison.reasons == ["6 of 9 planned runs have ended"]
    effect = comparison.results[1].effect
    assert comparison.family == 2 and effect.p_holm == pytest.approx(2 * effect.p)
    assert "INTERIM: 6 of 9 planned runs have ended. Run the sweep to its end" in one_line(shown([top])[1])


def test_a_failed_run_has_ended(tmp_path):
    top = write(tmp_path, seeds=range(3))
    write_run(top / "again", seed=2, variant="c", size={"dim": 9}, state="failed")
    assert build_comparison([top]).standing != "interim"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"metric": "speed/tokens_per_s"}, "speed/tokens_per_s is not the planned metric, val/loss"),
        ({"baseline": "c"}, "--baseline c was not planned"),
        ({"against": "previous"}, "--against previous was not planned"),
    ],
)
def test_other_choices_than_the_plans_are_exploratory(tmp_path, options, reason):
    found, comparison = words(write(tmp_path), **options)
    assert comparison.reasons == [reason] and all(" (exploratory)" in word for word in found)


def test_a_baseline_that_the_file_has_named_since_is_exploratory(tmp_path):
    top = write(tmp_path, plan={**PLAN, "baseline": "base"})
    assert not build_comparison([top]).standing
    write_sweep(top, variants=dict.fromkeys(NAMES, []), planned={**PLAN, "baseline": "base"}, baseline="c")
    found, comparison = words(top)
    assert comparison.results[0].name == "c" and comparison.reasons == ["the baseline c was not planned"]
    assert all(" (exploratory)" in word for word in found)
    assert not build_comparison([top], baseline="base").reasons[1:]


def test_the_same_choices_as_the_plans_are_not(tmp_path):
    top = write(tmp_path)
    for options in ({"metric": "val/loss"}, {"metric": "val/bpb"}, {"baseline": "base"}, {"against": "baseline"}):
        assert not build_comparison([top], **options).standing


def test_more_arms_than_planned_are_exploratory(tmp_path):
    _, comparison = words(write(tmp_path, plan={**PLAN, "arms": 2}))
    assert comparison.reasons == ["there are 3 arms, where 2 were planned"] and comparison.family == 2


def test_another_margin_than_the_planned_one_decides_only_about_equivalent(tmp_path):
    top = write(tmp_path)
    found, _ = words(top, margin=5)
    assert found == ["better", "better"]
    for seed in range(3):
        write_run(top / f"d-{seed}", 2.0 + seed / 10 + 0.01 * (seed - 1), seed=seed, variant="d", size={"dim": 5})
    write_sweep(top, variants=dict.fromkeys((*NAMES, "d"), []), planned={**PLAN, "arms": 4, "margin": "0.2"})
    assert words(top)[0] == ["better", "better", "equivalent"]
    assert words(top, margin=0.2)[0][-1] == "equivalent"
    assert words(top, margin=0.3)[0] == ["better", "better", "equivalent (exploratory)"]


def test_the_planned_metric_is_judged(tmp_path):
    top = write(tmp_path, plan={**PLAN, "metric": "val/bpb"})
    assert build_comparison([top]).metric == "val/bpb" and not build_comparison([top]).standing


def test_arms_with_different_tokens_are_judged_in_bits_per_byte(tmp_path):
    """A byte model loses 3.4 nats a token of one byte, a BPE model 5.5 nats a token of four: BPE is better."""
    for seed in range(3):
        for name, bits, size in (("byte", 4.9 + 0.01 * seed, 1.0), ("bpe", 2.0 + 0.011 * seed, 4.0)):
            numbers = {"val/loss": bits * size * 0.6931471805599453, "val/bpb": bits}
            write_run(tmp_path / f"{name}-{seed}", seed=seed, tokenizer={"name": name}, summary=numbers)
    (effect,) = (r.effect for r in build_comparison([tmp_path], baseline="tokenizer=byte").results if r.effect)
    assert build_comparison([tmp_path]).metric == "val/bpb"
    assert effect.word == "better" and effect.mean == pytest.approx(-2.899)
    for metric in ("val/loss", "val/loss_min", "val/accuracy"):
        with pytest.raises(ConfigError, match=rf"^metric={metric}: is a mean over tokens, .*; use --metric val/bpb$"):
            build_comparison([tmp_path], metric=metric)


def test_a_ladder_has_a_line_for_its_end_against_its_start(tmp_path):
    """Steps that are equivalent each add up to a difference that is worse."""
    top = tmp_path / "runs"
    for i, name in enumerate(("one", "two", "three", "four", "five")):
        for seed in range(5):
            wiggle = 0.0035 * (-1) ** (seed + i) * (1 + seed / 10)
            write_run(
                top / f"{name}-{seed}", 2.0 + seed / 10 + 0.004 * i + wiggle, seed=seed, variant=name, size={"dim": i}
            )
    write_sweep(top, variants=dict.fromkeys(("one", "two", "three", "four", "five"), []), against="previous")
    comparison = build_comparison([top])
    name, effect = comparison.whole
    assert name == "five against one" and effect.mean == pytest.approx(0.016) and effect.word == "worse"
    assert {r.effect.word for r in comparison.results[1:]} == {"equivalent"} and comparison.family == 5
    assert "The whole ladder: five against one +0.0160 ± 0.0000, p <0.001, worse." in shown([top])[1]
