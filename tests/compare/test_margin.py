"""The margin: bits per byte, a number, a share of compute, or none."""

import math

import pytest

from gptlab.compare import build_comparison
from gptlab.config import ConfigError
from run_folders import RMS, one_line, shown, write_run

BYTES = 3 / math.log(2)  # in a token of the runs that write_run writes, whose val/bpb is val/loss / 3


def write(top, *, half=0.15, budgets=(("base", 400, 0.0, {}), ("other", 400, 0.001, RMS))):
    """Two arms, and the baseline with half the tokens, which loses `half` more."""
    for name, steps, more, changes in (*budgets, *((("half", 200, half, {}),) if half else ())):
        for seed in range(3):
            loss = 2.0 + seed / 10 + more * (1 + 0.01 * seed)
            budget = {"steps": steps}
            write_run(top / f"{name}-{seed}", loss, seed=seed, tokens=steps * 768, budget=budget, **changes)
    return top


def margin(top, **options):
    return build_comparison(
        [top], baseline="norm=layernorm budget.steps=400" if options.pop("half", True) else None, **options
    )


def test_the_default_is_a_hundredth_of_a_bit_per_byte_in_the_unit_of_the_metric(tmp_path):
    top = write(tmp_path, half=0)
    assert build_comparison([top]).margin == pytest.approx(0.01 * math.log(2) * BYTES)
    assert build_comparison([top], metric="val/bpb").margin == 0.01
    assert build_comparison([top], metric="val/bpb").margin_text == "0.01 bits per byte"
    assert "Margin: 0.03 nats per token, which is 0.01 bits per byte." in shown([top])[1]


def test_a_metric_that_is_no_loss_on_text_has_none(tmp_path):
    top = write(tmp_path, half=0)
    comparison = build_comparison([top], metric="speed/tokens_per_s")
    assert math.isnan(comparison.margin) and comparison.results[1].effect.word != "equivalent"
    said = (
        "Margin: none for this metric: no arm is called equivalent; --margin, or margin: in the experiment file, sets"
    )
    assert said in one_line(shown([top], metric="speed/tokens_per_s")[1])
    assert build_comparison([top], metric="speed/tokens_per_s", margin="50").margin == 50


def test_a_task_without_bits_per_byte_has_none(tmp_path):
    for seed in range(3):
        write_run(tmp_path / f"a{seed}", 0.02, seed=seed, summary={"val/bpb": None})
    assert math.isnan(build_comparison([tmp_path]).margin)


def test_a_share_of_compute_is_the_slope_of_the_baseline_between_two_budgets(tmp_path):
    comparison = margin(write(tmp_path), margin="5%")
    slope = sum(0.15 * (1 + 0.01 * seed) for seed in range(3)) / 3 / math.log(2)
    assert comparison.margin == pytest.approx(slope * math.log(1.05))
    assert "which is 5% of compute (0.2186 per e-fold of tokens)" in comparison.margin_text
    twice = margin(tmp_path, margin="10%").margin
    assert twice == pytest.approx(slope * math.log(1.1))


def test_a_share_of_compute_needs_the_baseline_at_another_budget(tmp_path):
    with pytest.raises(ConfigError, match="^margin=5%: needs at least 3 seeds of the baseline at a second budget; "):
        margin(write(tmp_path, half=0), margin="5%", half=False)


def test_a_share_of_compute_needs_a_slope_that_is_shown(tmp_path):
    with pytest.raises(
        ConfigError, match="^margin=5%: the baseline's val/loss does not show that more tokens lower it"
    ):
        margin(write(tmp_path, half=-0.15), margin="5%")
