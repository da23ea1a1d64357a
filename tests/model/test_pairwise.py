"""Every pair of options of every two slots trains, or is refused for a reason that follows from the mathematics."""

import json
from itertools import combinations, product
from pathlib import Path

import pytest

from gptlab import build_model, load_config, train
from gptlab.config import ConfigError, registry
from tiny import BLOCKS, PLAIN_POSITIONS, configure, options

RATES = {"adamw": 1e-2, "muon": 1e-2, "lion": 3e-3, "sgd": 0.3}  # such that five steps show


FACTORS = {
    **{slot: options(slot) for slot in ("placement", "qk_norm", "ffn", "init", "schedule")},
    "block": [*BLOCKS, "block=serial block.branch_scale=0.5"],
    "norm": [*options("norm"), "norm=rmsnorm norm.zero_centered=true"],
    "position": [
        *PLAIN_POSITIONS,
        "position=rope position.pairing=interleaved position.fraction=0.5 position.pattern=NR",
        "position=rope position.pattern=LR position.local_theta=100 position.scaling=llama3",
    ],
    "embedding": [
        *options("embedding"),
        "embedding.normed=true",
        "embedding.scale_by_width=true embedding.padding_idx=1",
        "embedding.width=8 head.width=8",
    ],
    "optimizer": [f"{o} optimizer.lr={RATES.get(o.split('=')[1], 1e-2)}" for o in options("optimizer")],
    "key/value heads": ["attention.n_kv_head=null", "attention.n_kv_head=2", "attention.n_kv_head=1"],
    "window": ["attention.window=null", "attention.window=3", "attention.window=3 attention.pattern=LG"],
    "attention cap": ["attention.softcap=null", "attention.softcap=5"],
    "attention scale": ["attention.scale=null", "attention.scale=0.3 attention.inverse_layer_scale=true"],
    "clip": ["attention.clip_qkv=null", "attention.clip_qkv=0.1"],
    "qk_norm over": [f"attention.qk_norm_over={over}" for over in ("head", "each_head", "width")],
    "attention biases": ["attention.qkv_bias=true", "attention.qkv_bias=false attention.out_bias=false"],
    "head_dim": ["attention.head_dim=null", "attention.head_dim=8"],
    "bias": ["bias=true", "bias=false"],
    "table": ["head.tied=true", "head.tied=false"],
    "logit cap": ["head.softcap=null", "head.softcap=10"],
    "z_loss": ["head.z_loss=null", "head.z_loss=0.0001"],
    "head bias": ["head.bias=false", "head.bias=true"],
    "warmup": ["schedule.warmup=0", "schedule.warmup=0.2", "schedule.warmup=2"],
    "tokenizer": ["tokenizer=byte", "tokenizer=char", "tokenizer=bpe tokenizer.vocab_size=260"],
    "dropout": ["train.dropout=0", "train.dropout=0.1"],
    "micro-batch": ["train.micro_batch_size=null", "train.micro_batch_size=2"],
    "clipping": ["train.grad_clip=1", "train.grad_clip=null"],
    "sampling": ["data.sampling=random", "data.sampling=epoch"],
    "precision": ["precision=float32", "precision=bf16", "precision=bf16_weights"],
}


def refusal(row):
    """The reason why what is in `row` so far cannot be together; None if it can."""
    if "shared_norm=false" in row.get("block", "") and "placement" in row:
        placement = registry.entry("placement", row["placement"].split("=")[1]).cls
        if not placement.norms_branch:
            return "block.shared_norm=false: this placement has no norm on a branch"
    if row.get("bias") == "bias=false" and row.get("head bias") == "head.bias=true":
        return "head.bias=true: bias=false leaves no bias anywhere"
    if row.get("init") == "init=mup":
        if row.get("optimizer", "").startswith(("optimizer=sgd", "optimizer=muon")):
            return "init=mup: its learning rates do not work with optimizer="
        if "scale_by_width=true" in row.get("embedding", ""):
            return "embedding.scale_by_width=true: must be false with init=mup"
        if "embedding.width=8" in row.get("embedding", ""):
            return "embedding.width=8: init=mup supports only the stream's width"
    over = row.get("qk_norm over", "attention.qk_norm_over=head")
    if row.get("qk_norm") == "qk_norm=none" and over != "attention.qk_norm_over=head":
        return f"{over}: needs a norm; choose a qk_norm"
    return None


def pairs(row):
    return combinations(((factor, row[factor]) for factor in FACTORS if factor in row), 2)


ALL_PAIRS = [
    pair
    for a, b in combinations(FACTORS, 2)
    for pair in product([(a, option) for option in FACTORS[a]], [(b, option) for option in FACTORS[b]])
]
REFUSED = [pair for pair in ALL_PAIRS if refusal(dict(pair))]


def covering_array():
    """Rows that hold every pair that is not refused. Greedy: each starts with the first pair that is still missing, and
    takes for every other factor the option that brings the most missing ones."""
    missing = dict.fromkeys(pair for pair in ALL_PAIRS if not refusal(dict(pair)))
    rows = []
    while missing:
        row = dict(next(iter(missing)))
        for factor in (f for f in FACTORS if f not in row):
            candidates = [row | {factor: option} for option in FACTORS[factor]]
            row = max((c for c in candidates if not refusal(c)), key=lambda c: sum(p in missing for p in pairs(c)))
        for pair in pairs(row):
            missing.pop(pair, None)
        rows.append(row)
    return rows


ROWS = covering_array()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A text of one line again and again, so that every batch is much like the others."""
    folder = tmp_path_factory.mktemp("pairwise")
    (folder / "text.txt").write_text("a green bottle hangs on the wall. " * 40)
    size = "size.dim=16 size.n_layer=2 size.n_head=4 data.window=16 model.vocab_size=null"
    steps = "train.batch_size=4 budget.steps=5 train.log_every=1 eval.tokens=34"
    place = f"data=text data.path={folder / 'text.txt'} runs_dir={folder / 'runs'} wandb.mode=disabled"
    place += " device=cpu precision=float32"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPTLAB_CACHE", str(folder / "cache"))
        yield configure(load_config(), size, steps, place)


def test_every_pair_is_in_a_row_or_refused():
    covered = {pair for row in ROWS for pair in pairs(row)}
    assert covered.isdisjoint(REFUSED)
    assert len(covered) + len(REFUSED) == len(ALL_PAIRS)


@pytest.mark.parametrize("pair", REFUSED, ids=lambda pair: " ".join(option for _, option in pair))
def test_a_contradictory_pair_is_refused_with_the_reason(base, pair):
    with pytest.raises(ConfigError, match=refusal(dict(pair))):
        build_model(configure(base, "model.vocab_size=5", *dict(pair).values()))


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_every_pair_trains(base, row):
    summary = train(configure(base, *row.values()), quiet=True)
    assert summary["state"] == "finished"
    lines = [json.loads(line) for line in Path(summary["run_dir"], "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses) == 5
    assert losses[-1] < losses[0], losses
    averaged = any("batchnorm" in option for option in row.values())  # over more steps than five: evaluation lags
    assert averaged or summary["val/loss"] < losses[0]
