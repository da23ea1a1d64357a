"""Diagnostics measure what the training step does, and change nothing."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from gptlab import register
from gptlab.diagnostics.activations import effective_rank, histogram, probe_activations
from gptlab.diagnostics.watch import PAST_LOSSES, Watch
from gptlab.model.attention_kernels import attend, attend_explicitly, scores
from gptlab.model.roles import tag
from gptlab.runs.record import read_metrics, read_snapshots
from gptlab.runs.trackers import to_tracker
from tiny import ATTENTIONS, LAYERS, WIRINGS, telling_model, tiny_model, tokens

N_SNAPSHOTS = {"none": 0, "basic": 3, "full": 3}


def batch():
    x = tokens(length=13)
    return x[:, :-1], x[:, 1:]


def inside(model, full=True):
    return probe_activations(model, *batch(), torch.autocast("cpu", enabled=False), full=full)


def rms(x):
    return float(x.detach().square().mean().sqrt())


def training_step(model):
    """By hand: what hooks see of a training step, and the gradients that it leaves."""
    stream, branches = [], {"attention": [], "ffn": []}
    handles = [model.blocks[0].register_forward_pre_hook(lambda m, a: stream.append(a[0]))]
    handles += [b.register_forward_hook(lambda m, a, x: stream.append(x)) for b in model.blocks]
    for name, seen in branches.items():
        handles += [
            getattr(b, name).register_forward_hook(lambda m, a, x, seen=seen: seen.append(x)) for b in model.blocks
        ]
    x, y = batch()
    logits = model.train()(x)
    for t in stream:
        t.retain_grad()
    F.cross_entropy(logits.flatten(0, 1).float(), y.flatten()).backward()
    for handle in handles:
        handle.remove()
    return stream, branches, logits


@pytest.mark.parametrize("wiring", WIRINGS)
def test_the_numbers_are_those_of_hooks_on_the_training_step(wiring):
    model = tiny_model(wiring)
    snapshot = inside(model)
    stream, branches, logits = training_step(model)
    assert snapshot["stream_rms"] == pytest.approx([rms(x) for x in stream], rel=1e-5)
    assert snapshot["stream_grad_rms"] == pytest.approx([rms(x.grad) for x in stream], rel=1e-4)
    for name, seen in branches.items():
        assert snapshot[f"{name}_rms"] == pytest.approx([rms(x) for x in seen], rel=1e-5)
    norms = [math.sqrt(sum(p.grad.square().sum() for p in b.parameters())) for b in model.blocks]
    assert snapshot["probe/grad_norm"] == pytest.approx(norms, rel=1e-4)
    writers = [[b.attention.out.weight, b.ffn.down.weight] for b in model.blocks]
    norms = [math.sqrt(sum(p.grad.square().sum() for p in ps)) for ps in writers]
    assert snapshot["probe/residual_grad_norm"] == pytest.approx(norms, rel=1e-4)
    p = logits.detach().softmax(-1)
    assert snapshot["logits/max"] == pytest.approx(float(logits.detach().max()), rel=1e-5)
    assert snapshot["logits/entropy"] == pytest.approx(float(-(p * p.log()).sum(-1).mean()), rel=1e-5)


def test_full_contains_basic():
    model = tiny_model("placement=double block=parallel ffn=swiglu")
    full, basic = inside(model), inside(model, full=False)
    assert basic.keys() < full.keys()
    assert all(basic[k] == pytest.approx(full[k]) for k in basic)


@pytest.mark.parametrize("full", [False, True])
def test_a_snapshot_leaves_weights_gradients_modes_and_random_streams_alone(full):
    model = tiny_model("train.dropout=0.5 norm=dyt head.z_loss=0.1").train()
    model.blocks[1].eval()
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = torch.get_rng_state()
    inside(model, full)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("choice", [*ATTENTIONS, "position=alibi", "position=rope attention.window=3"])
def test_attention_entropy_and_logits_are_those_of_the_equation(choice, monkeypatch):
    """Against the weights that attend_explicitly gives with one-hot values, for any of `attend`'s ways."""
    calls = []

    def explicit(q, k, v, rule, *, dropout):
        eye = torch.eye(k.shape[-2], dtype=k.dtype).expand(*k.shape[:2], -1, -1)
        calls.append((attend_explicitly(q, k, eye, rule), scores(q, k, rule)))
        return attend(q, k, v, rule, dropout=dropout)

    model = telling_model(choice)
    snapshot = inside(model)
    monkeypatch.setattr("gptlab.model.attention.attend", explicit)
    model(batch()[0])
    for layer, (p, s) in enumerate(calls):
        entropy = torch.special.entr(p).sum(-1).mean((0, 2))
        assert snapshot["attention_entropy"][layer] == pytest.approx(entropy.tolist(), rel=1e-4)
        assert snapshot["attention_logit_max"][layer] == pytest.approx(s.amax((0, 2, 3)).tolist(), rel=1e-4)
    assert len(calls) == LAYERS


def test_scores_of_queries_in_parts_equal_those_at_once(monkeypatch):
    model = telling_model("attention.window=3 position=alibi")
    whole = inside(model)
    monkeypatch.setattr("gptlab.diagnostics.activations.QUERIES", 5)
    parts = inside(model)
    for key in ("attention_entropy", "attention_logit_max"):
        assert [x for row in parts[key] for x in row] == pytest.approx([x for row in whole[key] for x in row])


def test_dead_and_silent_units_and_saturated_tanhs():
    model = tiny_model("ffn=relu norm=dyt head.softcap=5")
    with torch.no_grad():
        up = model.blocks[0].ffn.up
        up.bias[:16] = -100.0  # of 64: ReLU never lets them pass
        model.blocks[1].ffn_placement.norm.alpha.fill_(1e6)  # one of the block's two norms
    snapshot = inside(model)
    assert snapshot["ffn_dead"][0] == pytest.approx(16 / 64, abs=1e-6)
    hidden = []
    model.blocks[0].ffn.down.register_forward_pre_hook(lambda m, a: hidden.append(a[0]))
    model(batch()[0])
    assert snapshot["ffn_silent"][0] == pytest.approx(
        float((hidden[0] <= 0.01 * hidden[0].square().mean().sqrt()).float().mean()), abs=1e-6
    )
    assert snapshot["tanh_saturated"] == pytest.approx([0, 0.5], abs=0.02)
    assert all(map(math.isnan, inside(tiny_model())["tanh_saturated"]))


def test_the_effective_rank_counts_directions():
    q, _ = torch.linalg.qr(torch.randn(40, 16))
    assert effective_rank(q[None]) == pytest.approx(16, rel=1e-4)
    assert effective_rank(q[None] * (torch.arange(16) < 3)) == pytest.approx(3, rel=1e-4)
    assert effective_rank(torch.ones(2, 5, 8)) == pytest.approx(1, rel=1e-4)
    assert math.isnan(effective_rank(torch.full((1, 4, 4), math.nan)))


def test_a_histogram_counts_every_finite_value():
    x = torch.tensor([-1.0, 1.0, 1.0, 100.0, math.nan, math.inf])
    h = histogram(x)
    assert sum(h["counts"]) == 4 and h["high"] == -h["low"] == pytest.approx(4 * 10003**0.5 / 2)
    assert sum(histogram(torch.zeros(3))["counts"]) == 3 and sum(histogram(torch.tensor([math.nan]))["counts"]) == 0


def test_a_users_own_component_is_measured_as_far_as_it_has_the_parts(own_registry):
    @register("ffn", "test_odd")
    class Odd(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.a = nn.Linear(dim, dim)
            tag(self.a.weight, "input")

        def forward(self, x):
            return torch.tanh(100 * self.a(x))

    @register("attention", "test_mean")
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()

        def forward(self, x, position, cache=None):
            return x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]

    snapshot = inside(tiny_model("ffn=test_odd attention=test_mean"))
    assert snapshot["attention_entropy"] == [[], []] and all(map(math.isnan, snapshot["ffn_dead"]))
    assert min(snapshot["tanh_saturated"]) > 0.5 and min(snapshot["ffn_rms"]) > 0.5
    assert "attention_entropy/00" not in to_tracker({"step": 1, **snapshot})


# In a run


@pytest.fixture
def run_with(train_tiny, tmp_path):
    def run(level, *more):
        runs = tmp_path / level
        summary = train_tiny(f"diagnostics={level}", "diagnostics_every=3", f"runs_dir={runs}", *more)
        [folder] = runs.glob("*/*/")
        return summary, folder

    return run


def test_a_run_is_bit_identical_with_any_diagnostics(run_with):
    dropout = "train.dropout=0.2 train.micro_batch_size=2 qk_norm=rmsnorm"
    runs = {level: run_with(level, dropout) for level in N_SNAPSHOTS}
    assert len({folder.name for _, folder in runs.values()}) == 1
    weights = {k: load_file(f / "checkpoint/last.safetensors") for k, (_, f) in runs.items()}
    for level, (summary, folder) in runs.items():
        assert summary["val/loss"] == runs["none"][0]["val/loss"]
        assert all(torch.equal(v, weights["none"][k]) for k, v in weights[level].items())
        losses = [line.get("train/loss") for line in read_metrics(folder)]
        assert losses == [line.get("train/loss") for line in read_metrics(runs["none"][1])]
        assert [snapshot["step"] for snapshot in read_snapshots(folder)] == [1, 3, 6][: N_SNAPSHOTS[level]]
    assert not (runs["none"][1] / "diagnostics.jsonl").exists()


def test_a_snapshot_of_a_run_describes_its_training_step(run_with):
    _, folder = run_with("basic", "train.grad_clip=1.0")
    snapshots = read_snapshots(folder)
    norms = [line["train/grad_norm"] for line in read_metrics(folder) if "train/grad_norm" in line]
    for snapshot, since in zip(snapshots, (0, 1, 3), strict=True):
        step = snapshot["step"]
        of_all = math.sqrt(sum(grad**2 for _, grad, _ in snapshot["parameters"].values()))
        assert of_all == pytest.approx(norms[step - 1], rel=1e-4)  # before clipping
        assert snapshot["train/clipped"] == pytest.approx(sum(n > 1.0 for n in norms[since:step]) / (step - since))
        for layer in range(2):
            own = {k: v for k, v in snapshot["parameters"].items() if k.startswith(f"blocks.{layer}.")}
            norm = math.sqrt(sum(grad**2 for _, grad, _ in own.values()))
            assert snapshot["grad_norm"][layer] == pytest.approx(norm, rel=1e-4)
            matrices = [v for k, v in own.items() if k.endswith("weight")]
            weight, update = (math.sqrt(sum(v[i] ** 2 for v in matrices)) for i in (0, 2))
            assert snapshot["weight_norm"][layer] == pytest.approx(weight, rel=1e-4)
            assert snapshot["update_ratio"][layer] == pytest.approx(math.log10(update / weight), abs=1e-4)
    assert any(n > 1 for n in norms)


def test_the_update_is_the_difference_of_the_weights(run_with):
    """The update of step 6, against a run that ended with step 5."""
    constant = "schedule=constant schedule.warmup=1"
    before, after = (
        load_file(run_with(level, f"{constant} budget.steps={n}")[1] / "checkpoint/last.safetensors")
        for level, n in (("none", 5), ("basic", 6))
    )
    *_, snapshot = read_snapshots(run_with("full", f"{constant} budget.steps=6")[1])
    assert snapshot["step"] == 6
    for name, (weight, _, update) in snapshot["parameters"].items():
        assert weight == pytest.approx(float(before[name].norm()), rel=1e-4)
        assert update == pytest.approx(float((after[name] - before[name]).norm()), rel=1e-3)


def test_a_spike_stands_out_from_noise_also_after_a_resume():
    model = tiny_model()
    watch, again = (Watch("basic", 10, model, model, batch(), None, 1.0) for _ in range(2))
    losses = [3.0 + 0.01 * (i % 5) for i in range(60)]

    def feed(watch, values):
        for loss in values:
            watch.norms.append(torch.tensor(loss))
            watch.losses.append(torch.tensor(loss))

    feed(watch, losses)
    assert watch.largest_spike() < 3
    feed(watch, [3.02, 4.0])
    again.restore(json.loads(json.dumps(watch.state())))
    for w in (watch, again):
        feed(w, [3.02])
    assert watch.largest_spike() == again.largest_spike() > 7
    assert watch.past == again.past and len(watch.past) == 63 <= PAST_LOSSES


def test_post_norm_gradients_grow_toward_the_output_and_pre_norm_ones_do_not():
    """arXiv:2002.04745, figure 3: under Xavier's init, post-norm's grows toward the output, pre-norm's does not."""
    ratio = {}
    for placement in ("placement=pre", "placement=post"):
        model = tiny_model(f"{placement} init=xavier size.n_layer=12 size.dim=32")
        norms = inside(model)["probe/residual_grad_norm"]
        ratio[placement] = norms[-1] / norms[0]
    assert ratio["placement=post"] > 1.2 and ratio["placement=pre"] < 0.5
