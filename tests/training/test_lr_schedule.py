import math

import pytest

from gptlab.config import ConfigError
from gptlab.runs.record import read_metrics
from gptlab.training.lr_schedule import MIN_SHARE, WARMUP_STEPS, LearningRate, make_learning_rate, warmup_steps
from tiny import component, tiny_config


def rates(schedule, warmup=0.0, steps=None, lr=1e-3, **settings):
    return LearningRate(peak=lr, warmup=warmup, schedule=component("schedule", schedule, **settings), steps=steps)


def nanogpt(it, learning_rate, warmup_iters, lr_decay_iters, min_lr):
    """get_lr of https://github.com/karpathy/nanoGPT/blob/master/train.py"""
    if it < warmup_iters:
        return learning_rate * (it + 1) / (warmup_iters + 1)
    if it > lr_decay_iters:
        return min_lr
    decay_ratio = (it - warmup_iters) / (lr_decay_iters - warmup_iters)
    assert 0 <= decay_ratio <= 1
    coeff = 0.5 * (1.0 + math.cos(math.pi * decay_ratio))
    return min_lr + coeff * (learning_rate - min_lr)


def test_cosine_with_warmup_is_nanogpts():
    ours = rates("cosine", warmup=100, steps=2000, min_lr=1e-4)
    for step in range(2000):
        assert ours.at(step, 0.0) == pytest.approx(nanogpt(step, 1e-3, 100, 2000, 1e-4), rel=1e-12)


FACTORS = {  # at t = 0, 1/4, 1/2, 3/4, 1, down to a fifth
    "constant": [1, 1, 1, 1, 1],
    "linear": [1, 0.8, 0.6, 0.4, 0.2],
    "cosine": [1, 0.6 + 0.4 * math.sqrt(0.5), 0.6, 0.6 - 0.4 * math.sqrt(0.5), 0.2],
    "wsd": [1, 1, 1, 0.6, 0.2],
}


@pytest.mark.parametrize("name", FACTORS)
def test_the_factor_is_the_formula(name):
    settings = {"constant": {}, "wsd": {"min_lr": 0.2, "decay": 0.5}}.get(name, {"min_lr": 0.2})
    schedule = component("schedule", name, **settings)
    assert [schedule.factor(t / 4, 1.0) for t in range(5)] == pytest.approx(FACTORS[name])


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd"])
def test_the_end_is_a_share_of_the_peak_unless_a_rate_is_set(name):
    assert component("schedule", name).factor(1.0, 3e-4) == pytest.approx(MIN_SHARE, abs=1e-12)
    assert component("schedule", name, min_share=0.02).factor(1.0, 3e-4) == pytest.approx(0.02)
    assert component("schedule", name, min_share=0.02, min_lr=3e-5).factor(1.0, 3e-4) == pytest.approx(0.1)
    assert component("schedule", name, min_lr=0.0).factor(1.0, 3e-4) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("warmup", [10, 0.1])
def test_warmup_is_steps_or_a_share_of_the_run(warmup):
    found = [rates("constant", warmup=warmup, steps=100).at(step, 0.0) for step in range(12)]
    assert found == pytest.approx([1e-3 * (i + 1) / 11 for i in range(10)] + [1e-3, 1e-3])


def test_without_warmup_the_first_step_has_the_peak():
    assert rates("linear", steps=10).at(0, 0.0) == 1e-3


def test_a_budget_in_seconds_is_followed_by_the_clock():
    ours = rates("linear", warmup=0.5, min_lr=0.0)
    assert ours.at(7, 0.0) > 0
    assert [ours.at(7, progress) for progress in (0.25, 0.5, 0.75, 1.0)] == pytest.approx([0.5e-3, 1e-3, 0.5e-3, 0])


@pytest.mark.parametrize(
    ("name", "settings", "line"),
    [
        ("cosine", {"min_lr": -1.0}, r"^schedule.min_lr=-1: must not be negative$"),
        ("cosine", {"min_share": 1.5}, r"^schedule.min_share=1.5: must be from 0 to 1, the peak$"),
        ("wsd", {"decay": 0.0}, r"^schedule.decay=0.0: must be above 0 and at most 1$"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(name, settings, line):
    with pytest.raises(ConfigError, match=line):
        component("schedule", name, **settings)


def test_what_only_shows_when_the_parts_are_together_is_refused_before_the_run():
    with pytest.raises(ConfigError, match=r"^schedule.min_lr=0.01: must not exceed optimizer.lr=0.0025$"):
        make_learning_rate(tiny_config("schedule.min_lr=0.01"), 10)
    with pytest.raises(ConfigError, match=r"^schedule.warmup=5: with budget.seconds the number of steps is unknown"):
        make_learning_rate(tiny_config("budget.steps=null budget.seconds=3 schedule.warmup=5"), None)


@pytest.mark.parametrize(
    ("steps", "expected"), [(1, 0.5), (100, 50), (300, 150), (1000, 150), (3000, 150), (4000, 200), (100_000, 5000)]
)
def test_the_default_warm_up_is_a_share_with_a_floor_in_steps_and_at_most_half_a_run(steps, expected):
    assert WARMUP_STEPS == 150 and warmup_steps(None, steps) == expected
    found = [rates("constant", warmup=None, steps=steps).at(step, 0.0) for step in range(steps)]
    assert found == [rates("constant", warmup=expected, steps=steps).at(step, 0.0) for step in range(steps)]


@pytest.mark.parametrize(
    ("steps", "warm_at"),
    [(20, 0.5), (200, 0.5), (1000, 0.15), (10_000, 0.05)],  # half of a short run, 150 steps, 5 % of a long one
)
def test_the_default_warm_up_by_the_clock_is_as_long_as_one_in_steps(steps, warm_at):
    ours = rates("constant", warmup=None)
    found = [ours.at(step, step / steps) for step in range(steps)]
    assert found == sorted(found) and 0 < found[0] <= 1e-3 / 50
    assert next(i for i, rate in enumerate(found) if rate == 1e-3) / steps == pytest.approx(warm_at, rel=0.02)


WARMUPS = [None, 0, 1e-9, 1e-5, 1e-3, 0.05, 0.5, 0.999999, 1, 2, 99]


@pytest.mark.parametrize("warmup", WARMUPS)
@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("steps", [None, 1, 2, 3, 100, 5000])
def test_no_rate_is_above_the_peak_or_below_0(name, warmup, steps):
    if warmup is not None and warmup >= (steps or 1):
        return  # refused, below
    for settings in [{}] if name == "constant" else [{}, {"min_lr": 0.0}, {"min_share": 0.0}, {"min_lr": 1e-3}]:
        ours = rates(name, warmup=warmup, steps=steps, **settings)
        for i in range(0, (steps or 400) + 2, 1 if not steps or steps < 1000 else 37):
            for progress in (0.0, 1e-6, i / 400, (i / 400) ** 2, 1.0, 1.3):  # 1.3: the last step was slow
                assert 0 <= ours.at(i, progress) <= 1e-3
        assert ours.at(0, 0.0) > 0


@pytest.mark.parametrize("warmup", ["4", "5", "1000"])
def test_a_warm_up_as_long_as_the_run_is_refused(warmup):
    line = rf"^schedule.warmup={warmup}: must be shorter than the run, which has 4 steps; set a fraction"
    with pytest.raises(ConfigError, match=line):
        make_learning_rate(tiny_config(f"schedule.warmup={warmup}"), 4)
    assert make_learning_rate(tiny_config("schedule.warmup=3", "optimizer.lr=1e-3"), 4).at(3, 0.0) == pytest.approx(
        1e-3
    )


def test_the_first_rates_of_a_run_by_the_clock_are_small(train_tiny):
    """A short fraction once made the first rate 100 times the peak."""
    words = "budget.steps=null budget.seconds=0.3 train.log_every=1 optimizer.lr=1e-3 eval.every=1000000"
    for warmup in ("1e-5", "null"):
        logged = read_metrics(train_tiny(words, f"schedule.warmup={warmup}")["run_dir"])
        assert all(0 < line["train/lr"] <= 1e-3 for line in logged if "train/lr" in line)
    assert logged[0]["train/lr"] == pytest.approx(1e-3 / 151)
