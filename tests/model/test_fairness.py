"""The rules that make an ablation fair, on real runs. Each test fails when its rule is broken."""

import contextlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import load_file

import gptlab.data.dataset
from gptlab import load_config, train
from gptlab.compare import compare
from gptlab.config import registry
from gptlab.data import tokenizer_from_json
from gptlab.model.roles import role_of
from gptlab.runs.record import read_metrics
from gptlab.sweeps.cell import check_sweep
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.manifest import write_manifest
from gptlab.training.prepare import prepare
from gptlab.training.trainer import Trainer
from tiny import (
    BLOCKS,
    MODELS,
    OPTIONS,
    OTHER_KNOBS,
    PLACEMENTS,
    POSITIONS,
    VOCAB,
    WINDOW,
    component,
    noise,
    telling_model,
    tiny_model,
    tokens,
)

ARMS = ["", "norm=rmsnorm ffn=swiglu position=rope", "block=parallel size.n_layer=1 train.dropout=0.2 optimizer=lion"]
SWAPS = [o for o in OPTIONS if not o.startswith(("init=", "model="))] + OTHER_KNOBS
SWAPS += ["bias=false", "head.tied=false", "attention.n_kv_head=2"]


# 1. A weight's initial value depends on (seed, name, shape, role), not on what other parts drew.


@pytest.mark.parametrize("init", registry.names("init"))
@pytest.mark.parametrize("swap", ["bias=false", "ffn=swiglu", "norm=rmsnorm", "position=rope"])
def test_1_a_swap_leaves_every_other_weight_bit_identical(swap, init):
    assert_rest_is_bit_identical(swap, f"init={init}")


@pytest.mark.parametrize("swap", SWAPS)
def test_1_any_option_leaves_every_other_weight_bit_identical(swap):
    assert_rest_is_bit_identical(swap, "")


def assert_rest_is_bit_identical(swap, init):
    before, after = (dict(tiny_model(init, s).named_parameters()) for s in ("", swap))
    own = f".{re.split('[.=]', swap)[0]}."  # a part's own may change with it: a bias of torch's init with the fan_in
    rest = [n for n in before if n in after and before[n].shape == after[n].shape and own not in f".{n}"]
    assert {"embedding.weight", "blocks.1.attention_placement.norm.gain"} & set(rest)
    assert [n for n in rest if n.endswith(("q.weight", "up.weight"))]
    assert not [n for n in rest if not torch.equal(before[n], after[n])]


# 2. The order of batches depends on (seed, step); dropout has a stream of its own.


class Stop(Exception):
    pass


@pytest.fixture
def watched(train_tiny, monkeypatch):
    """Trains, and returns the windows of every step, (step, inputs, targets), and the dropout masks of the embeddings.

    With `stop`, the run is stopped before that step and started again.
    """
    loss = Trainer.loss

    def run(*overrides, stop=None):
        windows, masks, stops = [], [], [stop]

        def watching(self, inputs, targets):
            if self.step == stops[-1]:
                stops.append(None)
                raise Stop
            windows.extend((self.step, x, y) for x, y in zip(inputs.tolist(), targets.tolist(), strict=True))
            hook = self.model.dropout.register_forward_hook(
                lambda _, x, y: masks.append((self.step, (y == 0).tolist()))
            )
            result = loss(self, inputs, targets)
            hook.remove()
            return result

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "loss", watching)
            with pytest.raises(Stop) if stop else contextlib.nullcontext():
                train_tiny("train.checkpoint_every=1", *overrides)
            if stop:
                train_tiny("train.checkpoint_every=1", *overrides)
        return windows, masks

    return run


@pytest.mark.parametrize("sampling", ["random", "epoch"])
def test_2_every_arm_sees_the_same_batches_however_often_it_evaluates(watched, sampling):
    seen = [watched(f"data.sampling={sampling}", *arm.split())[0] for arm in ARMS]
    seen.append(watched(f"data.sampling={sampling}", "eval.every=1", "train.micro_batch_size=2")[0])
    assert len({step for step, _, _ in seen[0]}) == 6 and len(seen[0]) == 24
    assert all(windows == seen[0] for windows in seen)
    assert watched(f"data.sampling={sampling}", "seed=1")[0] != seen[0]


def test_2_a_resumed_run_sees_the_batches_of_one_never_stopped(watched):
    whole, resumed = watched("train.dropout=0.5"), watched("train.dropout=0.5", "norm=rmsnorm", stop=3)
    assert resumed == whole  # the masks as well


def test_2_dropout_has_a_stream_of_its_own(watched):
    arms = [*ARMS[:2], "block=parallel", "size.n_layer=1 eval.every=1", "position=alibi placement=double"]
    masks = [watched("train.dropout=0.5", *arm.split())[1] for arm in arms]
    assert all(m == masks[0] for m in masks)
    assert len({str(mask) for _, mask in masks[0]}) == 6  # and another mask every step
    assert watched("train.dropout=0.5", "seed=1")[1] != masks[0]


@pytest.mark.parametrize("words", ["train.dropout=0.5", "init=torch", "data.sampling=epoch"])
def test_2_an_offset_of_the_seed_draws_what_that_seed_draws_and_keeps_the_name(train_tiny, words):
    runs = [train_tiny(*words.split(), f"seed={s}", f"train.seed_offset={o}") for s, o in ((7, 0), (3, 4), (3, 0))]
    losses = [[line["train/loss"] for line in read_metrics(run["run_dir"]) if "train/loss" in line] for run in runs]
    weights = [load_file(Path(run["run_dir"], "checkpoint/best.safetensors")) for run in runs]
    assert losses[1] == losses[0] != losses[2] and runs[1]["val/loss"] == runs[0]["val/loss"] != runs[2]["val/loss"]
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    assert Path(runs[1]["run_dir"]).name.split("-")[-2] == "3"


def test_2_an_offset_of_the_seed_draws_the_dropout_and_batches_of_that_seed(watched):
    assert watched("train.dropout=0.5", "seed=3", "train.seed_offset=4") == watched("train.dropout=0.5", "seed=7")


def test_2_an_offset_of_the_seed_draws_the_examples_of_that_seed_in_a_task():
    task = ["data=recall", "data.window=32", "size=tiny", "budget.steps=1", "device=cpu", "wandb.mode=disabled"]
    trainers = [Trainer(prepare(load_config([*task, *s]))) for s in (["seed=7"], ["seed=3", "train.seed_offset=4"])]
    batches = [[*trainer.batches.batch(0), *trainer.batches.batch(1)] for trainer in trainers]
    assert all(map(torch.equal, *batches))


@pytest.mark.parametrize("init", registry.names("init"))
def test_1_an_offset_of_the_seed_draws_the_weights_of_that_seed(init):
    models = [tiny_model(f"init={init}", f"seed={s} train.seed_offset={o}") for s, o in ((7, 0), (3, 4), (3, 0))]
    seven, three_and_four, three = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(seven[name], three_and_four[name]) for name in seven)
    assert not all(torch.equal(seven[name], three[name]) for name in seven)


def test_1_an_offset_of_the_seed_draws_what_a_constructor_draws_with_that_seed(own_registry):
    @registry.register("norm", "noisy")
    class Noisy(torch.nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.register_buffer("noise", torch.randn(dim))

        def forward(self, x):
            return x + self.noise

    models = [tiny_model("norm=noisy", f"seed={s} train.seed_offset={o}") for s, o in ((7, 0), (3, 4), (3, 0))]
    seven, three_and_four, three = (model.blocks[0].attention_placement.norm.noise for model in models)
    assert torch.equal(seven, three_and_four) and not torch.equal(seven, three)


# 3. Initial scale and weight decay follow the role.

ROLE_OF_NAME = {
    "embedding.weight": "embedding",
    "position.table": "position",
    "gate.weight": "gate",
    "out.weight": "residual",
    "down.weight": "residual",
    "head.weight": "head",
    "bias": "bias",
    "gain": "gain",
    "alpha": "gain",
}


def expected_role(name):
    return next((role for end, role in ROLE_OF_NAME.items() if name.endswith(end)), "input")


@pytest.mark.parametrize("option", [*SWAPS, *MODELS, "head.tied=false head.bias=true"])
def test_3_the_initial_scale_follows_the_role(option):
    stds = {"gain": 0, "bias": 0, "residual": 0.02 / math.sqrt(2 * 2)}
    for name, p in tiny_model(option, "size.dim=64").named_parameters():
        assert role_of(p) == expected_role(name), name
        if p.numel() > 1:
            assert p.std().item() == pytest.approx(stds.get(role_of(p), 0.02), rel=0.2), name


@pytest.mark.parametrize("parts", ["init=torch", "ffn=swiglu norm=dyt head.tied=false head.bias=true init=torch"])
@pytest.mark.parametrize("optimizer", registry.names("optimizer"))
def test_3_only_matrices_decay(optimizer, parts):
    """Where all gradients are zero, a step shows nothing but the decay."""
    model = tiny_model(parts)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for one in component("optimizer", optimizer, lr=0.1, weight_decay=0.5).build(model.parameters()):
        one.step()
    for name, p in model.named_parameters():
        decays = expected_role(name) in ("input", "gate", "residual", "head")
        torch.testing.assert_close(p.data, start[name] * (1 - 0.1 * 0.5) if decays else start[name], msg=name)


# 4. A gated FFN has the parameters of the plain one.


@pytest.mark.parametrize("name", registry.names("ffn"))
def test_4_every_ffn_has_the_parameters_of_the_plain_one(name):
    with torch.device("meta"):
        n = sum(p.numel() for p in component("ffn", name, dim=768, bias=False).parameters())
        assert n == 2 * 768 * 4 * 768  # 8/3 of 768 is a multiple of 8
        odd = sum(p.numel() for p in component("ffn", name, dim=100, bias=False).parameters())
        assert abs(odd - 8 * 100 * 100) <= 3 * 100 * 4  # at most half of ffn.multiple_of=8 away, in three matrices


# 5. A switch does what it says: off leaves no trace, on changes the output.

SWITCHES = {  # on -> as good as off, where there is such a value
    "attention.window=3": f"attention.window={WINDOW}",
    "attention.softcap=2": "attention.softcap=1e9",
    "head.softcap=2": "head.softcap=1e9",
    "qk_norm=rmsnorm": None,
    "bias=false": None,
    "head.tied=false": None,
    "head.bias=true": None,
    "attention.n_kv_head=1": "attention.n_kv_head=4",
    "position=rope position.fraction=0.5": "position.fraction=1",
    "position=rope position.pairing=interleaved": "position.pairing=half",
    "block=parallel block.shared_norm=false": "block.shared_norm=true",
    "norm.learnable=false": None,
    "norm.eps=0.1": "norm.eps=1e-5",
    "norm.zero_centered=true": "norm.zero_centered=false",
    "norm.bias=false": "norm.bias=true",
    "qk_norm=layernorm qk_norm.bias=false": "qk_norm.bias=true",
    "ffn.expansion=2": "ffn.expansion=4",
    "ffn.bias=false": "ffn.bias=true",
    "attention.qkv_bias=false": "attention.qkv_bias=true",
    "attention.out_bias=false": "attention.out_bias=true",
    "attention.scale=0.3": "attention.scale=0.5",  # heads are 4 wide
    "attention.inverse_layer_scale=true": "attention.inverse_layer_scale=false",
    "attention.clip_qkv=0.5": "attention.clip_qkv=1e9",
    "qk_norm=rmsnorm attention.qk_norm_over=each_head": "attention.qk_norm_over=head",
    "qk_norm=rmsnorm attention.qk_norm_over=width": "attention.qk_norm_over=head",
    "position.offset=2": "position.offset=0",
    "position=sinusoidal position.layout=halves": "position.layout=interleaved",
    "position=sinusoidal position.inclusive=true": "position.inclusive=false",
    "position=rope position.pattern=NR": "position.pattern=R",
    "position=rope position.pattern=LR position.local_theta=100": "position.pattern=L position.local_theta=10000",
    "position=rope position.scaling=llama3 position.original_window=64": None,
    "position=rope position.scaling=linear": "position.scaling=linear position.factor=1",
    "position=alibi position.scale=0.5": "position.scale=1",
    "embedding.scale=3": "embedding.scale=1",
    "embedding.scale_by_width=true": "embedding.scale_by_width=false",
    "embedding.normed=true": "embedding.normed=false",
    "embedding.width=8 head.width=8": "embedding.width=16 head.width=16",
    "head.scale=0.1": "head.scale=1",
    "block.branch_scale=0.3": "block.branch_scale=1",
}


@pytest.mark.parametrize(("on", "off"), SWITCHES.items())
def test_5_a_switch_changes_the_output_and_off_leaves_no_trace(on, off):
    """Return this of the option that `on` chooses, or else of the baseline."""
    knobs = [word for word in on.split() if "." in word.split("=")[0]]
    option = [word for word in on.split() if word not in knobs] if knobs else []
    plain = telling_model(*option)(tokens())
    assert (telling_model(on)(tokens()) - plain).abs().max() > 1e-4
    if off:
        torch.testing.assert_close(telling_model(*option, off)(tokens()), plain, rtol=0, atol=1e-8)


def test_5_what_is_off_has_no_parameters():
    names = [n for n, _ in tiny_model("position=none norm=none bias=false").named_parameters()]
    matrices = {"q.weight", "k.weight", "v.weight", "out.weight", "up.weight", "down.weight"}
    assert {".".join(n.split(".")[-2:]) for n in names} == matrices | {"embedding.weight"}


@pytest.mark.parametrize("position", POSITIONS)
def test_5_only_absolute_positions_touch_the_stream(position):
    name = position.split()[0].removeprefix("position=")
    scheme, x = component("position", name), noise(1, 5, 16).float()
    assert torch.equal(scheme.embed(x, 0), x) == (name not in ("learned", "sinusoidal"))
    assert bool(list(scheme.parameters())) == (name == "learned")


@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_5_rope_rotates_the_whole_head_by_default(pairing):
    ones = torch.ones(1, 1, WINDOW, 8)
    for fraction, width in [(1.0, 8), (0.5, 4), (0.25, 2)]:
        knobs = {} if fraction == 1 else {"fraction": fraction}
        turned = component("position", "rope", head_dim=8, pairing=pairing, **knobs).rotate(ones, 0, 0)
        changed = (turned != ones).any(2)[0, 0]
        assert changed.tolist() == [True] * width + [False] * (8 - width)


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("attention", ["attention.window=3", "attention.window=3 attention.softcap=2"])
def test_5_a_sliding_window_masks(position, attention):
    model = telling_model(position, attention, "size.n_layer=1")
    changed = tokens()
    changed[:, 2] = (changed[:, 2] + 1) % VOCAB
    difference = (model(tokens()) - model(changed)).abs().amax((0, 2))
    assert [d > 0 for d in difference] == [t in (2, 3, 4) for t in range(WINDOW)]


@pytest.mark.parametrize("wiring", [*BLOCKS[:2], *PLACEMENTS])
def test_5_dropout_acts_in_training_alone_and_off_leaves_no_trace(wiring):
    off, on = tiny_model(wiring), tiny_model(wiring, "train.dropout=0.5")
    assert torch.equal(off(tokens()), off.eval()(tokens()))
    assert not torch.equal(on(tokens()), off(tokens()))
    assert torch.equal(on.eval()(tokens()), off(tokens()))


def test_5_z_loss_is_in_the_training_gradient_and_not_in_the_reported_losses(train_tiny):
    plain, with_z = train_tiny("budget.steps=2"), train_tiny("budget.steps=2", "head.z_loss=1")
    first, second = (metrics(s) for s in (plain, with_z))
    assert first[0]["train/loss"] == second[0]["train/loss"]
    assert first[0]["train/grad_norm"] != second[0]["train/grad_norm"]
    assert plain["val/loss"] != with_z["val/loss"]


def metrics(summary):
    return [json.loads(line) for line in Path(summary["run_dir"], "metrics.jsonl").read_text().splitlines()]


# 6. Validation reads the same tokens every time.


@pytest.fixture
def validated(train_tiny, monkeypatch):
    """Trains, and returns the tokens that each evaluation predicted, in their order, and the summary."""
    batches = gptlab.data.dataset.validation_batches

    def run(*overrides):
        evaluations = []

        def watching(*args):
            evaluations.append([])
            for x, y in batches(*args):
                evaluations[-1].extend(y[y >= 0].tolist())
                yield x, y

        with monkeypatch.context() as patch:
            patch.setattr(gptlab.data.dataset, "validation_batches", watching)
            return evaluations, train_tiny("diagnostics=none", *overrides)

    return run


def test_6_every_evaluation_of_every_arm_reads_the_same_tokens(validated):
    runs = [
        validated("eval.every=2", *words.split())[0]
        for words in (
            *(*ARMS, "seed=5 train.batch_size=3", "data.sampling=epoch data.window=7", "eval.batch_size=1"),
            *("train.seed_offset=1000000", "data.shuffle_tokens=true"),
        )
    ]
    assert [len(evaluations) for evaluations in runs] == [3] * len(runs)
    assert all(tokens == runs[0][0] for evaluations in runs for tokens in evaluations)
    (sample, whole), _ = validated("eval.tokens=50")
    assert whole == runs[0][0] and len(sample) == 48
    assert all(sample[i : i + 16] in [whole[j : j + 16] for j in range(0, 144, 16)] for i in (0, 16, 32))


@pytest.mark.parametrize("tokenizer", ["tokenizer=byte", "tokenizer=char", "tokenizer=bpe tokenizer.vocab_size=270"])
def test_6_bits_per_byte_count_the_bytes_of_the_text_whatever_the_tokenizer(validated, tmp_path, tokenizer):
    (predicted,), summary = validated(*tokenizer.split(), "eval.tokens=null")
    state = json.loads(Path(summary["run_dir"], "tokenizer.json").read_text())
    text = tokenizer_from_json(state).decode(predicted)
    assert (tmp_path / "text.txt").read_text().endswith(text)
    bits = summary["val/loss"] * len(predicted) / math.log(2)
    assert summary["val/bpb"] == pytest.approx(bits / len(text.encode()))


# 7. Runs are paired by seed.


def test_7_differences_are_taken_pair_by_pair(train_tiny, tmp_path):
    arms = ("norm=layernorm", "norm=rmsnorm")
    losses = np.array([[train_tiny(f"seed={seed}", arm)["val/loss"] for seed in range(3)] for arm in arms])
    table = compare([tmp_path / "runs"], baseline="norm=layernorm").set_index("arm")
    row = table.loc["norm=rmsnorm"]
    pairs = losses[1] - losses[0]
    half = scipy.stats.t.ppf(0.975, 2) * pairs.std(ddof=1) / math.sqrt(3)
    assert row["pairs"] == 3
    assert [row["difference"], row["low"], row["high"]] == pytest.approx(
        [pairs.mean(), pairs.mean() - half, pairs.mean() + half], abs=1e-9
    )


def test_7_what_is_paired_is_equal_in_everything_but_the_arm(train_tiny, tmp_path):
    arms = ("norm=layernorm", "norm=rmsnorm")
    runs = [Path(train_tiny(f"seed={seed}", arm)["run_dir"]) for arm in arms for seed in range(2)]
    for key, value in {"data_hash": "0" * 64, "precision": "bf16", "device": "cuda"}.items():
        for folder in runs[2:]:
            env = json.loads((folder / "env.json").read_text())
            (folder / "env.json").write_text(json.dumps(env | {key: value}))
        row = compare([tmp_path / "runs"], baseline="norm=layernorm").iloc[1]
        assert row["verdict"] == "no verdict" and row["pairs"] == 0 and row["note"], key
        for folder in runs[2:]:
            (folder / "env.json").write_text(json.dumps(json.loads((runs[0] / "env.json").read_text())))


# 8. Divergence is an outcome.

EXPLODING = "optimizer=sgd optimizer.lr=1e30 train.grad_clip=null norm=none"


def test_8_divergence_is_recorded_with_its_step_at_any_logging_interval(train_tiny, tmp_path):
    watched = train_tiny(*EXPLODING.split())
    assert watched["state"] == "diverged" and 1 < watched["diverged_step"] <= 6
    assert [line["train/loss"] for line in metrics(watched)][-1] < math.inf
    assert metrics(watched)[-1]["step"] == watched["diverged_step"] - 1
    blind = train_tiny(*EXPLODING.split(), "train.log_every=100")
    assert blind["diverged_step"] == watched["diverged_step"]
    for summary in (watched, blind):
        status, written = (json.loads(Path(summary["run_dir"], f).read_text()) for f in ("status.json", "summary.json"))
        assert status["state"] == "diverged"
        assert status["reason"] == f"the loss was not finite at step {watched['diverged_step']}"
        assert written["diverged_step"] == watched["diverged_step"]


def test_8_a_diverged_run_is_a_row_of_the_table_and_is_not_run_again(train_tiny, tmp_path):
    train_tiny()
    diverged = train_tiny(*EXPLODING.split())
    table = compare([tmp_path / "runs"])
    assert sorted(table["diverged"]) == [0, 1] and len(table) == 2
    assert train_tiny(*EXPLODING.split()) == diverged


# 9. The baseline is what the user wrote first, or named; never what happened to start first.


@pytest.mark.parametrize("first", ["ffn=swiglu,geglu", "ffn=geglu,swiglu", "norm=rmsnorm,layernorm"])
def test_9_the_baseline_is_what_was_written_first(first, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["size=tiny", "data=recall", "data.window=24", "budget.steps=1", "eval.tokens=48", "wandb.mode=disabled"]
    checked = check_sweep(plan_sweep([first, *words, "device=cpu", "precision=float32", "seed=0,1", "name=s"]))
    write_manifest(checked)
    for cell in checked.cells[::-1]:  # the last one starts first
        train(load_config(cell.spec.overrides), quiet=True)
    slot, values = first.split("=")
    baseline, other = (f"{slot}={value}" for value in values.split(","))
    assert list(compare(["runs/s"])["arm"]) == [baseline, other]
    assert list(compare(["runs/s"], baseline=other)["arm"]) == [other, baseline]
