import os
import subprocess
import sys

import pytest
import torch

from gptlab import load_config
from gptlab.config import registry
from gptlab.model import cost
from gptlab.model.cost import (
    cache_bytes,
    flops_per_token,
    meta_model,
    non_embedding,
    parameters_by_part,
    state_bytes,
)
from tiny import TINY_RUN, VOCAB, WINDOW, tiny_config, tiny_model

C, L, F = 16, 2, 64


def flops(*choices):
    return flops_per_token(meta_model(tiny_config(*choices)), WINDOW)


def by_hand(matrices_per_layer, head_width=C):
    """6 FLOPs per weight, and for scores and their use 12 T per channel of the heads: arXiv:2204.02311, appendix B."""
    return 6 * (L * matrices_per_layer + VOCAB * C) + 12 * L * WINDOW * head_width


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ("", by_hand(4 * C * C + 2 * C * F)),
        ("ffn=swiglu", by_hand(4 * C * C + 3 * C * 40)),
        ("attention.n_kv_head=1", by_hand(2 * C * C + 2 * C * 4 + 2 * C * F)),
        ("attention.head_dim=8", by_hand(4 * C * 32 + 2 * C * F, head_width=32)),
        ("embedding.width=8 head.width=8", by_hand(4 * C * C + 2 * C * F) + 6 * (2 * C * 8 - VOCAB * 8)),
        ("bias=false position=rope norm=rmsnorm head.tied=false", by_hand(4 * C * C + 2 * C * F)),
    ],
)
def test_flops_are_those_counted_by_hand(choices, expected):
    assert flops(choices) == pytest.approx(expected)


@pytest.mark.parametrize("choices", ["attention.window=3", "attention.softcap=5", "position=alibi"])
def test_a_mask_saves_no_counted_flops(choices):
    assert flops(choices) == flops()


PARTS = [
    *(f"ffn={name}" for name in registry.names("ffn")),
    *(f"norm={name}" for name in registry.names("norm") if name != "batchnorm"),
    "norm=batchnorm norm.allow_leak=true",
    "model=rnn",
    "model=rnn model.cell=lstm",
    *(f"position={name}" for name in registry.names("position")),
    "attention.n_kv_head=1 attention.softcap=5 qk_norm=rmsnorm head.z_loss=0.1 head.tied=false",
]


@pytest.mark.parametrize("choices", PARTS)
def test_running_and_counting_shapes_give_the_same_flops(choices, monkeypatch):
    done = flops(choices)
    monkeypatch.setattr(cost, "MAX_FLOPS_TO_RUN", 0)
    assert flops(choices) == done


def test_training_does_not_import_the_compiler(text, tmp_path):
    words = ["train", *TINY_RUN, *text, "budget.steps=2", f"runs_dir={tmp_path}", "compile=false"]
    code = f"""
import sys
from gptlab.cli.main import main
try:
    main({words})
except SystemExit as e:
    print(e.code, {{"torch._dynamo", "sympy", "pandas"}} & set(sys.modules))
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 set()", done


def test_counting_does_not_change_the_model():
    model, before = meta_model(tiny_config("train.dropout=0.5")), torch.get_rng_state()
    flops_per_token(model, WINDOW)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(model.blocks) == L and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        (["preset=gpt2"], 124_439_808),
        (["preset=gpt2", "size=gpt2-355m"], 354_823_168),
        (["preset=gpt2", "size=gpt2-1558m"], 1_557_611_200),
        (["preset=karpathy-10m", "model.vocab_size=65"], 10_745_088),  # nanoGPT's 10.65 million leave out positions
        (["preset=nanogpt-cpu", "model.vocab_size=65"], 804_096),
    ],
)
def test_presets_have_the_published_number_of_parameters(preset, parameters):
    assert parameters_by_part(meta_model(load_config(preset)))["total"] == parameters


def test_parts_add_up_and_embeddings_are_left_out():
    model = tiny_model("head.tied=false")
    parts = parameters_by_part(model)
    expected = {
        "embedding": VOCAB * C,
        "position": WINDOW * C,
        "attention": L * (4 * C * C + 4 * C),
        "ffn": L * (2 * C * F + F + C),
        "norms": (2 * L + 1) * 2 * C,
        "head": VOCAB * C,
    }
    total = sum(p.numel() for p in model.parameters())
    assert parts == expected | {"total": total}
    assert non_embedding(model) == total - 2 * VOCAB * C - WINDOW * C


def test_norms_and_projections_of_embedding_and_head_count_as_their_part():
    plain = parameters_by_part(tiny_model())
    parts = parameters_by_part(tiny_model("embedding.normed=true embedding.width=8 head.width=8"))
    expected = {"embedding": VOCAB * 8 + 8 * C, "norms": plain["norms"] + 2 * 8, "head": C * 8}
    assert parts == plain | expected | {"total": sum((plain | expected).values()) - plain["total"]}
    normed = parameters_by_part(tiny_model("qk_norm=rmsnorm attention.qk_norm_over=each_head attention.n_kv_head=2"))
    assert normed["norms"] == plain["norms"] + L * (4 + 2) * 4


def test_bytes_of_state():
    model = tiny_model()
    n = sum(p.numel() for p in model.parameters())
    adamw = registry.build("optimizer", tiny_config().optimizer)
    assert state_bytes(model, adamw) == {"weights": 4 * n, "gradients": 4 * n, "optimizer": 8 * n}


@pytest.mark.parametrize(("choices", "heads"), [("", 4), ("attention.n_kv_head=2", 2), ("attention.n_kv_head=1", 1)])
def test_a_cached_token_takes_the_bytes_of_its_keys_and_values(choices, heads):
    per_token = L * 2 * heads * 4 * 4
    assert cache_bytes(meta_model(tiny_config(choices))) == (0, per_token)
    model = tiny_model(choices).eval()
    cache = model.new_cache()
    model(torch.zeros(1, 5, dtype=torch.long), cache)
    assert cache.n_bytes() == 5 * per_token


def test_a_recurrent_state_takes_the_same_bytes_at_any_length():
    assert cache_bytes(meta_model(tiny_config("model=rnn model.cell=lstm"))) == (L * 2 * C * 4, 0)
