"""The models before GPT, each against its definition, and all of them as arms of one experiment."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from gptlab.cli.main import main
from gptlab.compare import compare
from gptlab.config import ConfigError, registry
from gptlab.convert.config_fields import Unsupported
from gptlab.convert.models import to_hf
from gptlab.data import tokenizer_from_json
from gptlab.model.build import slots_used
from gptlab.model.cost import flops_per_token, meta_model
from gptlab.model.generate import generate
from gptlab.runs.load import open_model, open_run
from gptlab.runs.run_label import label_of
from gptlab.sweeps.ladder import ladder_arms
from gptlab.training.budget import make_budget
from tiny import MODELS, PARTS, VOCAB, WINDOW, generator, options, telling_model, tiny_config, tiny_model, tokens

BASELINES = [m for m in MODELS if m != "model=gpt"]
CELLS = {"gru": nn.GRU, "lstm": nn.LSTM, "tanh": nn.RNN}
C, L = 16, 2  # tiny_model's width and layers


# Against the definitions.


def test_the_bigram_learns_the_table_of_counts(train_tiny):
    """On its training text it comes to the conditional entropy of the counts, which no bigram can go below."""
    summary = train_tiny(
        "model=bigram tokenizer=char optimizer.lr=0.3 budget.steps=600 train.batch_size=16 eval.every=600"
    )
    run = Path(summary["run_dir"])
    text = (run.parents[2] / "text.txt").read_text()
    pairs = tokenizer_from_json(json.loads((run / "tokenizer.json").read_text())).encode(text[: int(len(text) * 0.9)])
    counts = np.zeros((int(pairs.max()) + 1,) * 2)
    np.add.at(counts, (pairs[:-1], pairs[1:]), 1)
    seen = counts > 0
    of_row = counts / counts.sum(1, keepdims=True).clip(1)
    entropy = -(counts[seen] * np.log(of_row[seen])).sum() / counts.sum()
    logits = open_model(run)(torch.as_tensor(pairs[None, :-1].astype("int64")))[0].detach()
    loss = float(nn.functional.cross_entropy(logits, torch.as_tensor(pairs[1:].astype("int64"))))
    assert entropy <= loss < entropy + 0.01


def test_the_bigram_is_its_table():
    model = telling_model("model=bigram")
    assert [(n, tuple(p.shape)) for n, p in model.named_parameters()] == [("embedding.weight", (VOCAB, VOCAB))]
    assert torch.equal(model(tokens()), model.embedding.weight[tokens()])


@pytest.mark.parametrize("position", ["learned", "sinusoidal"])
def test_bigram_pos_is_linear_in_token_and_position(position):
    """So the logits of (token, position) are a sum of one part for each."""
    model = telling_model(f"model=bigram_pos position={position}")
    logits = model(torch.arange(VOCAB)[:, None].expand(VOCAB, WINDOW))  # (V, T, V): every token in every place
    assert (logits[:, 0] - logits[:, 1]).abs().max() > 1e-3
    torch.testing.assert_close(logits[1:] - logits[:1], (logits[1:, :1] - logits[:1, :1]).expand(-1, WINDOW, -1))


@pytest.mark.parametrize("position", ["none", "rope", "alibi"])
def test_bigram_pos_refuses_positions_that_are_not_added(position):
    with pytest.raises(ConfigError, match="^model=bigram_pos: .*choose position=learned or position=sinusoidal"):
        tiny_model("model=bigram_pos", f"position={position}")


@pytest.mark.parametrize("norm", ["none", "layernorm"])
@pytest.mark.parametrize("context", [1, 3, WINDOW + 2])
def test_the_mlp_is_its_equation(context, norm):
    model = telling_model(f"model=mlp norm={norm} model.context={context} model.hidden=24 head.tied=false")
    table, h, u = (model.get_parameter(f"{part}.weight") for part in ("embedding", "hidden", "head"))
    for t in (0, 1, WINDOW - 1):
        places = range(t - context + 1, t + 1)
        vectors = [table[tokens()[0, i]] if i >= 0 else torch.zeros_like(table[0]) for i in places]
        hidden = torch.tanh(model.norm(h @ torch.cat(vectors) + model.hidden.bias))
        torch.testing.assert_close(model(tokens())[0, t], u @ hidden)


@pytest.mark.parametrize("context", [1, 4])
def test_the_mlp_sees_exactly_its_context(context):
    model, changed = telling_model(f"model=mlp model.context={context}"), tokens()
    changed[:, 5] = (changed[:, 5] + 1) % VOCAB
    difference = (model(tokens()) - model(changed)).abs().amax((0, 2))
    assert [bool(d > 0) for d in difference] == [5 <= t < 5 + context for t in range(WINDOW)]


def gru(x, h, w, u, b, d):
    """Cho et al. 2014 as torch writes it: the reset gate after the product."""
    (xr, xz, xn), (hr, hz, hn) = (w @ x + b).chunk(3), (u @ h + d).chunk(3)
    r, z = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    n = torch.tanh(xn + r * hn)
    return (1 - z) * n + z * h


def lstm(x, state, w, u, b, d):
    h, c = state
    i, f, g, o = (w @ x + b + u @ h + d).chunk(4)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrent_layer_is_its_equation(cell, bias):
    block = telling_model(f"model=rnn norm=none model.cell={cell} bias={bias}").blocks[0]
    x = torch.randn(1, 5, C, generator=generator(cell), dtype=torch.float64)
    w, u = block.input.weight, block.state.weight
    zero = torch.zeros(C, dtype=x.dtype)
    b, d = (block.input.bias, block.state.bias) if bias else (torch.zeros(len(w), dtype=x.dtype),) * 2
    h, c, expected = zero, zero, []
    for x_t in x[0]:
        if cell == "lstm":
            h, c = lstm(x_t, (h, c), w, u, b, d)
        else:
            h = gru(x_t, h, w, u, b, d) if cell == "gru" else torch.tanh(w @ x_t + b + u @ h + d)
        expected.append(h)
    torch.testing.assert_close(block(x)[0], torch.stack(expected))


@pytest.mark.parametrize("cell", CELLS)
def test_the_rnn_is_torchs_with_its_gradients(cell):
    """Without norms between the layers."""
    model = telling_model(f"model=rnn norm=none model.cell={cell}")
    theirs = CELLS[cell](C, C, L, batch_first=True, dtype=torch.float64)
    ours = {
        f"{kind}_{short}_l{i}": model.get_parameter(f"blocks.{i}.{part}.{kind}")
        for i in range(L)
        for short, part in (("ih", "input"), ("hh", "state"))
        for kind in ("weight", "bias")
    }
    theirs.load_state_dict(ours)
    table = model.embedding.weight
    logits = theirs(table[tokens()])[0] @ table.T
    torch.testing.assert_close(model(tokens()), logits)
    names, own = zip(*ours.items(), strict=True)
    expected = torch.autograd.grad(logits.square().sum(), [theirs.get_parameter(n) for n in names])
    torch.testing.assert_close(torch.autograd.grad(model(tokens()).square().sum(), own), expected)


def test_flops_are_those_counted_by_hand():
    """6 per weight that multiplies, but for the product with the zero state, which has no gradient."""

    def flops(words):
        return flops_per_token(meta_model(tiny_config(words)), WINDOW)

    assert flops("model=bigram") == 0
    assert flops("model=bigram_pos") == 6 * VOCAB * C
    assert flops("model=mlp model.context=4") == 6 * (4 * C * C + VOCAB * C)
    for cell, gates in (("gru", 3), ("lstm", 4), ("tanh", 1)):
        state = gates * C * C
        expected = 6 * (2 * L * state + VOCAB * C) - 2 * L * state / WINDOW
        assert flops(f"model=rnn model.cell={cell}") == pytest.approx(expected)


# In the same harness.


@pytest.mark.parametrize("model", MODELS)
def test_windows_of_a_batch_are_independent(model):
    model, other = telling_model(model), tokens()
    other[1] = (other[1] + 1) % VOCAB
    assert torch.equal(model(other)[0], model(tokens())[0])


@pytest.mark.parametrize("model", MODELS)
def test_logits_with_a_cache_are_those_of_the_whole_text(model):
    model = telling_model(model)
    cache, parts = model.new_cache(), tokens().split([4, 1, 1, 6], 1)
    torch.testing.assert_close(torch.cat([model(part, cache) for part in parts], 1), model(tokens()))


@pytest.mark.parametrize("model", MODELS)
def test_generation_past_the_window_is_the_same_with_and_without_a_cache(model):
    model = telling_model(model)
    texts = [generate(model, [3], 2 * WINDOW, seed=1, cached=cached) for cached in (True, False)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1


@pytest.mark.parametrize("model", BASELINES)
def test_a_baseline_s_cache_does_not_grow(model):
    model = telling_model(model)
    cache, sizes = model.new_cache(), []
    for token in tokens().split(1, 1):
        model(token, cache)
        sizes.append(cache.n_bytes())
    assert len(set(sizes)) == 1


SETTINGS = {slot: [o.split()[0] for o in options(slot)] for slot in PARTS}
SETTINGS["embedding"], SETTINGS["head"] = ["embedding.normed=true"], ["head.tied=false"]
SETTINGS["attention"] = ["attention.window=3"]


@pytest.mark.parametrize("name", registry.names("model"))
@pytest.mark.parametrize("slot", PARTS)
def test_setting_a_slot_that_the_model_does_not_have_is_refused_by_name(name, slot):
    """The baseline's own setting is not: it is what every config has."""
    if slot in slots_used(tiny_config(f"model={name}")):
        return
    usual = str(tiny_config()[slot].name)
    for words in SETTINGS[slot]:
        if words == f"{slot}={usual}":
            tiny_model(f"model={name}", words)
            continue
        with pytest.raises(ConfigError, match=rf"^{words}: model={name} has no {slot}; leave it out$"):
            tiny_model(f"model={name}", words)


def test_the_slots_of_each_model():
    made = {name: slots_used(tiny_config(f"model={name}")) & set(PARTS) for name in registry.names("model")}
    assert made == {
        "bigram": set(),
        "bigram_pos": {"embedding", "norm", "position"},  # the table may be normed
        "gpt": set(PARTS),
        "mlp": {"embedding", "norm", "head"},
        "rnn": {"embedding", "norm", "head"},
    }


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("model=bigram ffn=swiglu", "ffn=swiglu: model=bigram has no ffn; leave it out"),
        ("model=bigram preset=llama", "norm=rmsnorm: model=bigram has no norm; leave it out"),
        ("model=bigram train.dropout=0.1", "train.dropout=0.1: model=bigram has no dropout; leave it out"),
        ("model=bigram budget.flops=1e9", "budget.flops=1e+09: this model has no matrix products; set another budget"),
        ("model=mlp match=params", "match=params: model=mlp has no ffn to make wider; leave match out"),
        ("model=mlp model.context=0", "model.context=0: must be at least 1"),
        ("model=mlp model.cell=gru", "model.cell=gru: model=mlp has no setting 'cell'; it is one of model=rnn"),
        ("model=rnn model.cell=elman", "model.cell=elman: choose from gru, lstm, tanh"),
    ],
)
def test_a_mistake_gives_one_line_before_anything_is_written(words, line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        main(["train", *words.split(), "wandb.mode=disabled", "device=cpu"])
    assert exit.value.code == 2
    assert capsys.readouterr().err == f"gptlab: {line}\n"
    assert not (tmp_path / "runs").exists()


def test_sizes_that_only_attention_needs_do_not_constrain_other_models():
    assert tiny_model("model=rnn size.dim=15").embedding.weight.shape == (VOCAB, 15)
    assert make_budget(tiny_config("model=mlp eval.lengths=[1,2]")).cost["parameters"] > 0


@pytest.mark.parametrize("model", MODELS)
def test_every_model_trains_and_can_be_sampled(model, train_tiny, capsys):
    rate = {"model=bigram": "0.1"}.get(model, "0.01")
    summary = train_tiny(model, f"optimizer.lr={rate}", "budget.steps=20")
    losses = [json.loads(line) for line in Path(summary["run_dir"], "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss"] for line in losses if "train/loss" in line]
    assert losses[0] == pytest.approx(summary["ln_vocab"], rel=0.1) and losses[-1] < losses[0]
    assert model.split()[0].replace("=", "-") in summary["run_dir"] or model == "model=gpt"
    model, tokenizer = open_run(Path(summary["run_dir"]))
    assert tokenizer.decode(np.array(generate(model, [10], 5, n_tokens_known=tokenizer.vocab_size)))


def test_models_are_arms_of_one_table(train_tiny, tmp_path):
    for seed in (0, 1):
        for model in ("model=gpt", "model=rnn", "model=bigram"):
            train_tiny(model, f"seed={seed}")
    table = compare([tmp_path / "runs"])
    assert dict(zip(table["arm"], table["flops_per_token"] > 0, strict=True)) == {
        "model=gpt": True,
        "model=rnn": True,
        "model=bigram": False,
    }


def test_a_model_cannot_be_a_rung_of_a_ladder():
    with pytest.raises(ConfigError, match="^model=rnn preset=gpt2: model=gpt and model=rnn have no parts to exchange"):
        ladder_arms("model=rnn", "preset=gpt2")


def test_tags_name_only_slots_that_the_model_has():
    slots = {tag.partition("=")[0] for tag in label_of(tiny_config("model=rnn", "head.tied=false")).tags}
    assert {"model", "head.tied"} <= slots
    assert not {"block", "placement", "qk_norm", "attention", "position", "ffn"} & slots


@pytest.mark.parametrize("name", [n for n in registry.names("model") if n != "gpt"])
def test_a_baseline_is_not_taken_for_a_class_of_transformers(name):
    with pytest.raises(Unsupported, match=f"^model={name}.*: no class of transformers has this"):
        to_hf(tiny_model(f"model={name}"))


def test_a_run_without_a_model_name_opens_as_gpt(train_tiny):
    run = Path(train_tiny()["run_dir"])
    cfg = OmegaConf.load(run / "config.yaml")
    assert cfg.model.pop("name") == "gpt"
    expected = open_model(run)(tokens())
    OmegaConf.save(cfg, run / "config.yaml")
    assert torch.equal(open_model(run)(tokens()), expected)
