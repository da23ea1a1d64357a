import math

import pytest

from gptlab.config import ConfigError
from gptlab.training.lr_schedule import LearningRate, make_learning_rate
from tiny import component


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
def test_the_end_is_a_tenth_of_the_peak_unless_set(name):
    assert component("schedule", name).factor(1.0, 3e-4) == pytest.approx(0.1)
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
        ("wsd", {"decay": 0.0}, r"^schedule.decay=0.0: must be above 0 and at most 1$"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(name, settings, line):
    with pytest.raises(ConfigError, match=line):
        component("schedule", name, **settings)


def test_what_only_shows_when_the_parts_are_together_is_refused_before_the_run():
    from tiny import tiny_config

    with pytest.raises(ConfigError, match=r"^schedule.min_lr=0.01: must not exceed optimizer.lr=0.001$"):
        make_learning_rate(tiny_config("schedule.min_lr=0.01"), 10)
    with pytest.raises(ConfigError, match=r"^schedule.warmup=5: with budget.seconds the number of steps is unknown"):
        make_learning_rate(tiny_config("budget.steps=null budget.seconds=3 schedule.warmup=5"), None)
