"""Budgets, learning rates and the machine, as worked out before a run."""

import math

import pytest

from gptlab.config import ConfigError
from gptlab.config.compose import load_config
from gptlab.model.build import build_model
from gptlab.model.cost import cost, flops_per_token, meta_model
from gptlab.training.budget import make_budget
from gptlab.training.device import choose_device
from gptlab.training.lr_schedule import make_learning_rate

SMALL = ["size=tiny", "data.window=32", "train.batch_size=4"]  # 128 tokens a step


def budget_of(*overrides: str):
    return make_budget(load_config([*SMALL, *overrides]))


def rates_of(*overrides: str):
    cfg = load_config([*SMALL, *overrides])
    return make_learning_rate(cfg, make_budget(cfg).steps)


def test_every_budget_comes_to_steps():
    costs = cost(load_config(SMALL))
    assert budget_of("budget.steps=7").steps == 7
    assert budget_of("budget.tokens=1280").steps == 10
    assert budget_of("budget.tokens=1281").steps == 11
    assert budget_of(f"budget.flops={costs['flops_per_token'] * 128 * 9}").steps == 9
    assert budget_of("budget.tokens_per_param=20").steps == math.ceil(20 * costs["parameters"] / 128)
    seconds = budget_of("budget.seconds=2")
    assert seconds.steps is None and not seconds.done(10**6, 1.9) and seconds.done(1, 2.0)


def test_the_budget_is_told_in_every_unit():
    text = budget_of("budget.steps=1000").describe()
    assert "1,000 steps = 128,000 tokens" in text and "FLOPs" in text and "tokens per parameter" in text


@pytest.mark.parametrize("warmup", ["10", "0.1"])
def test_warm_up_then_cosine_is_nanogpts_curve(warmup):
    rates = rates_of("budget.steps=100", f"schedule.warmup={warmup}", "optimizer.lr=1e-3", "schedule.min_lr=1e-4")

    def nanogpt(it: int) -> float:  # get_lr of its train.py
        if it < 10:
            return 1e-3 * (it + 1) / 11
        return 1e-4 + 0.5 * (1 + math.cos(math.pi * (it - 10) / 90)) * (1e-3 - 1e-4)

    assert [rates.at(step, 0.0) for step in range(100)] == pytest.approx([nanogpt(step) for step in range(100)])


def test_a_budget_in_seconds_warms_up_and_decays_by_the_clock():
    rates = rates_of(
        "budget.seconds=10", "schedule.warmup=0.1", "schedule.min_lr=0", "schedule=linear", "optimizer.lr=1e-3"
    )
    assert rates.at(0, 0.0) < rates.at(3, 0.05) < rates.at(9, 0.1) == pytest.approx(1e-3)
    assert rates.at(50, 0.55) == pytest.approx(0.5e-3) and rates.at(99, 1.0) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ConfigError, match="schedule.warmup=100"):
        rates_of("budget.seconds=10", "schedule.warmup=100")


def test_the_last_rate_must_not_exceed_the_peak():
    with pytest.raises(ConfigError, match="schedule.min_lr=0.01: .*optimizer.lr=0.001"):
        rates_of("schedule.min_lr=0.01", "optimizer.lr=1e-3")


def test_flops_are_six_per_matrix_weight_and_token_and_twelve_per_score():
    """arXiv:2204.02311, appendix B: 6 N + 12 L H Q T."""
    cfg = load_config(["size=tiny", "data.window=32", "ffn.expansion=4"])
    matrices = 2 * (4 * 64 * 64 + 2 * 64 * 256) + 256 * 64  # L (attention, FFN), head
    assert flops_per_token(meta_model(cfg), 32) == 6 * matrices + 12 * 2 * 64 * 32
    mixed = load_config(["size=tiny", "data.window=32", "attention.window=4", "attention.pattern=LG", "ffn=swiglu"])
    gated = 2 * (4 * 64 * 64 + 3 * 64 * 168) + 256 * 64
    assert flops_per_token(meta_model(mixed), 32) == 6 * gated + 12 * 2 * 64 * 32


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd", "lion"])
def test_bytes_of_state_are_those_of_a_real_optimizer(optimizer):
    from gptlab.config import registry
    from gptlab.model.cost import state_bytes

    cfg = load_config(["size=tiny", "data.window=8", f"optimizer={optimizer}"])
    model = build_model(cfg)
    option = registry.build("optimizer", cfg.optimizer)
    optimizers = option.build(model.parameters())
    for p in model.parameters():
        p.grad = p.detach().clone()
    for o in optimizers:
        o.step()
    tensors = [t for o in optimizers for state in o.state.values() for t in state.values()]
    held = sum(4 * t.numel() for t in tensors if t.ndim or t.numel() > 1)
    scalars = sum(p.numel() for p in model.parameters() if p.ndim == 0)
    assert state_bytes(model, option)["optimizer"] == held + 4 * 2 * scalars


def test_a_device_is_one_of_this_machine():
    machine = choose_device(load_config(["device=cpu"]))
    assert (machine.device.type, machine.compile) == ("cpu", False)
    assert choose_device(load_config(["device=cpu", "precision=bf16"])).precision == "bf16 autocast"
    with pytest.raises(ConfigError, match="device=abacus"):
        choose_device(load_config(["device=abacus"]))


@pytest.mark.parametrize(
    ("flags", "world", "precision"),
    [
        ({"avx512_bf16"}, 1, "bf16 weights"),
        ({"amx_bf16", "avx2"}, 1, "bf16 weights"),
        ({"avx2", "avx512f"}, 1, "float32"),
        ({"avx512_bf16"}, 2, "float32"),
    ],
)
def test_precision_auto_goes_by_the_flags_of_a_cpu(flags, world, precision, monkeypatch):
    monkeypatch.setattr("gptlab.training.device.cpu_flags", lambda: frozenset(flags))
    monkeypatch.setenv("WORLD_SIZE", str(world))
    assert choose_device(load_config(["device=cpu"])).precision == precision
