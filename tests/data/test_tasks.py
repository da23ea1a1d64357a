"""Synthetic tasks: each is solved here by a rule that reads a row from left to right."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gptlab import load_config, train
from gptlab.cli.main import main
from gptlab.config import ConfigError, registry
from gptlab.data import Examples, Grammar, Recall, Task, open_task
from gptlab.data.batches import stream
from gptlab.data.task import UNCOUNTED, VALIDATION, TaskBatches
from gptlab.model.loss import NextTokenLoss
from gptlab.runs.load import open_run
from gptlab.training.evaluate import evaluate
from tiny import VOCAB, generator, tiny_model, tokens

TASKS = sorted(e.name for e in registry.entries("data") if issubclass(e.cls, Task))
SURE = 60.0  # logit of the answer, beside zeros


def opened(name, *words):
    cfg = load_config([f"data={name}", "data.window=32", *words])
    return open_task(registry.build("data", cfg.data), cfg)


# --- a solver of each task: what it says after each token of a row, from that token and those before it alone


def recalled(row):
    """The value that stood after the same key; keys and values are told apart by their numbers."""
    value_of, said = {}, []
    for last, token in zip([None, *row], row, strict=False):
        if last is not None and 1 <= last <= 32 < token:
            value_of.setdefault(last, token)
        said.append(value_of.get(token))
    return said


def induced(row):
    """Return the token that followed the last occurrence of the same token."""
    next_of, said = {}, []
    for last, token in zip([None, *row], row, strict=False):
        next_of[last] = token
        said.append(next_of.get(token))
    return said


def copied(row):
    """From the separator on, the letters before it."""
    middle = row.index(1)
    letters = row[:middle]
    return [None] * middle + [letters[t - middle] if t - middle < middle else None for t in range(middle, len(row))]


SOLVERS = {"recall": recalled, "induction": induced, "copy": copied}


class Oracle(nn.Module):
    """Stands for a model: `say` makes of a row's tokens what it would give as logits, (T, V)."""

    def __init__(self, say, vocab_size):
        super().__init__()
        self.say, self.embedding = say, nn.Embedding(vocab_size, 1)

    def has_auxiliary_loss_outside_head(self):
        return False

    def stream(self, inputs):
        return torch.stack([self.say(row) for row in inputs.tolist()])

    def logits(self, x):
        return x


def solver(name, vocab_size):
    def say(row):
        logits = torch.zeros(len(row), vocab_size)
        for t, answer in enumerate(SOLVERS[name](row)):
            if answer is not None:
                logits[t, answer] = SURE
        return logits

    return Oracle(say, vocab_size)


def measured(dataset, model, window=32, by_position=False):
    evaluation = evaluate(
        NextTokenLoss(model, None),
        dataset,
        window=window,
        batch_size=5,
        n_tokens=1000,
        device=torch.device("cpu"),
        autocast=torch.autocast("cpu", enabled=False),
    )
    return evaluation.metrics() | (evaluation.by_position() if by_position else {})


def columns(batch):
    """Return what a batch of a task has: no bytes."""
    assert batch.n_bytes is None
    return [column for column in batch if column is not None]


def test_every_task_has_a_solver_here():
    assert [*TASKS] == sorted([*SOLVERS, "grammar"])


@pytest.mark.parametrize("window", [32, 64])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_rule_answers_every_question_and_a_model_that_knows_it_has_loss_0(name, window):
    dataset = opened(name)
    got = measured(dataset, solver(name, dataset.vocab_size), window)
    assert got["val/loss"] == pytest.approx(0, abs=1e-5)
    accuracies = {key: value for key, value in got.items() if "accuracy" in key}
    assert len(accuracies) == 4 and set(accuracies.values()) == {1.0}


@pytest.mark.parametrize("name", SOLVERS)
def test_without_the_past_accuracy_is_chance(name):
    """No mask lets an answer show: of its own token alone, a question says nothing about it."""
    dataset = opened(name, "eval.tokens=1000")
    blind = Oracle(lambda row: torch.zeros(len(row), dataset.vocab_size), dataset.vocab_size)
    assert measured(dataset, blind)["val/loss"] == pytest.approx(math.log(dataset.vocab_size), abs=1e-5)
    examples = dataset.task.training(stream(0, 0), 400, 32)
    x, y = examples.tokens[:, :-1][examples.counts], examples.tokens[:, 1:][examples.counts]
    table = np.zeros((dataset.vocab_size, dataset.vocab_size))
    np.add.at(table, (x, y), 1)
    if name != "copy":  # each token is followed by any; with 400 rows none by one in more than a fourth of the cases
        assert (table.max(1) <= np.maximum(6, table.sum(1) / 4)).all()
    assert np.bincount(y).max() < len(y) / 8


# --- streams


@pytest.mark.parametrize("name", TASKS)
def test_examples_depend_on_seed_and_step_only(name):
    task = opened(name).task
    batches = TaskBatches(task, 32, 6, seed=1)
    expected = [batches.batch(step) for step in range(4)]
    again = TaskBatches(opened(name).task, 32, 6, seed=1)
    np.random.seed(3)
    for step in (2, 0, 3, 2):
        for got, want in zip(again.batch(step), expected[step], strict=True):
            assert torch.equal(got, want) and got.dtype == torch.int64 and got.shape == (6, 32)
            assert got.is_contiguous()
    assert not torch.equal(expected[0][0], expected[1][0])
    assert not torch.equal(expected[0][0], TaskBatches(task, 32, 6, seed=2).batch(0)[0])


@pytest.mark.parametrize("name", TASKS)
def test_validation_is_always_the_same_and_never_in_training(name):
    dataset = opened(name)
    in_fours, in_nines = (opened(name).validation_batches(32, n, 1000) for n in (4, 9))
    first, second = (
        [torch.cat(c) for c in zip(*map(columns, batches), strict=True)] for batches in (in_fours, in_nines)
    )
    assert all(map(torch.equal, first, second))
    rows = {tuple(row) for row in first[0].tolist()}
    training = [dataset.train_batches(32, 8, seed, "random").batch(step)[0] for seed in (0, 1) for step in range(20)]
    seen = {tuple(row) for row in torch.cat(training).tolist()}
    assert len(rows) > 25 and not rows & seen
    with pytest.raises(OverflowError):
        stream(VALIDATION + 1, 0)


@pytest.mark.parametrize("name", TASKS)
def test_every_row_of_a_step_asks_equally_often(name):
    task = opened(name).task
    for step in range(20):
        examples = task.training(stream(0, step), 6, 32)
        per_row = examples.counts.sum(1)
        assert per_row[0] >= 1 and set(per_row) == {per_row[0]}
        assert examples.tokens.min() >= 0 and examples.tokens.max() < task.vocab_size
        assert examples.tokens.shape == (6, 33) and examples.counts.shape == examples.floor.shape == (6, 32)


@pytest.mark.parametrize(
    ("name", "knob", "levels"),
    [("recall", "pairs", "2,5"), ("induction", "distances", "3,9"), ("copy", "lengths", "4,7")],
)
def test_validation_is_sliced_by_the_levels_that_training_covers(name, knob, levels):
    dataset = opened(name, f"data.{knob}=[{levels}]")
    low, high = map(int, levels.split(","))
    unit = {"distances": "distance", "lengths": "length"}.get(knob, knob)
    got = measured(dataset, solver(name, dataset.vocab_size))
    assert {key for key in got if "_" in key} == {f"val/accuracy_{unit}-{n}" for n in (low, high)}
    asked = {int(dataset.task.training(stream(0, step), 1, 32).counts.sum()) for step in range(200)}
    per_level = {"recall": {low, high}, "induction": set(range(32 - high, 33 - low)), "copy": set(range(low, high + 1))}
    assert asked == per_level[name]


def test_recall_is_multi_query_recall():
    tokens, counts = Recall(n_keys=8).rows(stream(0, 0), 4, 200, 32)
    keys, values = tokens[:, 0:8:2], tokens[:, 1:8:2]
    assert ((keys >= 1) & (keys <= 8)).all() and ((values > 8) & (values <= 16)).all()
    for row, asked in zip(tokens, counts, strict=True):
        assert len(set(row[0:8:2])) == len(set(row[1:8:2])) == 4
        assert sorted(row[:-1][asked]) == sorted(row[0:8:2])  # each key once
        others = np.ones(33, dtype=bool)
        others[:8] = others[:-1][asked] = others[1:][asked] = False
        assert (row[others] == 0).all()
    gaps = (np.argwhere(counts)[:, 1] - 8) // 2
    assert np.bincount(gaps)[0] > 3 * np.bincount(gaps)[8]  # short ones are likelier


# --- grammar


def rules(grammar):
    """kind -> token -> (probability, kinds that follow), as the docstring of Grammar has them."""
    p, k = grammar.probabilities(), grammar.n_kinds
    table = {}
    for kind in range(k + 1):
        table[kind] = {kind: (p[kind, kind], ())}
        table[kind] |= {k + j: (p[kind, k + j], (j, kind)) for j in range(1, k + 1)}
        table[kind] |= {w: (p[kind, w], (kind,)) for w in range(1 + 2 * k, grammar.vocab_size)}
    return table


def test_the_entropy_is_that_of_all_sentences_per_token():
    """Entropy of a sentence over its expected length, summed over every derivation that is not too unlikely."""
    grammar = Grammar(n_kinds=2, n_words=2, p_open=0.02, p_close=0.85)
    table, total, entropy, length = rules(grammar), 0.0, 0.0, 0.0
    todo = [(1.0, 0, (0,))]  # probability, tokens, what is still to derive
    while todo:
        p, n, left = todo.pop()
        if not left:
            total, entropy, length = total + p, entropy - p * math.log(p), length + p * n
            continue
        for q, kinds in table[left[0]].values():
            if p * q > 1e-9:
                todo.append((p * q, n + 1, kinds + left[1:]))
    assert total == pytest.approx(1, abs=1e-4)
    assert entropy / length == pytest.approx(grammar.entropy, rel=1e-3)


def test_every_state_of_the_grammar_has_probabilities_and_the_same_entropy():
    grammar = Grammar()
    for kind, options in rules(grammar).items():
        p = np.array([q for q, _ in options.values()])
        assert p.sum() == pytest.approx(1) == grammar.probabilities()[kind].sum()
        assert -(p * np.log(p)).sum() == pytest.approx(grammar.entropy)
    words = grammar.probabilities()[:, 9:]
    assert len({tuple(row) for row in words}) == 5  # what is open tells which words are likely


def parsed(row, grammar):
    """The probability of each token after the first, and how many brackets are open before it, by the rules."""
    table, left = rules(grammar), [0]
    for token in row[1:]:
        kind = left.pop()
        p, kinds = table[kind][token]
        yield p, len(left)
        left += reversed(kinds)
        if not left:
            left = [0]


def test_rows_are_in_the_language_with_their_own_surprisals_and_depths():
    grammar = Grammar()
    examples = grammar.validation(stream(0, 0), 60, 128)
    assert examples.counts.all() and (examples.tokens[:, 0] == 0).all()
    for row, floor, depths in zip(examples.tokens.tolist(), examples.floor, examples.slices, strict=True):
        p, depth = map(np.array, zip(*parsed(row, grammar), strict=True))
        assert floor == pytest.approx(-np.log(p))
        assert (depths == depth.clip(max=3)).all()
    assert set(np.unique(examples.slices)) == {0, 1, 2, 3}


def test_a_long_sample_has_the_entropy_at_every_position():
    grammar = Grammar()
    floor = grammar.validation(stream(1, 0), 5000, 100).floor
    sd = floor.std()
    assert abs(floor.mean() - grammar.entropy) < 4 * sd / math.sqrt(floor.size)
    by_place = floor.mean(0)
    assert np.abs(by_place - grammar.entropy).max() < 4.5 * sd / math.sqrt(5000)


def test_the_grammar_itself_has_no_excess_and_a_uniform_guess_has_one():
    dataset = opened("grammar")
    grammar = dataset.task

    def say(row):
        p, left, rows = grammar.probabilities(), [0], []
        table = rules(grammar)
        for t, token in enumerate(row):
            if t:
                left += reversed(table[left.pop()][token][1])
                left = left or [0]
            rows.append(np.log(p[left[-1]] + 1e-30))
        return torch.tensor(np.array(rows))

    got = measured(dataset, Oracle(say, grammar.vocab_size))
    assert [value for key, value in got.items() if "excess" in key] == pytest.approx([0] * 5, abs=1e-6)
    assert got["val/loss"] == pytest.approx(grammar.entropy, abs=0.1)
    blind = Oracle(lambda row: torch.zeros(len(row), grammar.vocab_size), grammar.vocab_size)
    excess = measured(dataset, blind)["val/excess"]
    assert excess == pytest.approx(math.log(grammar.vocab_size) - got["val/loss"], abs=1e-6)


# --- the loss, where only some positions count


def masked():
    x = tokens()
    y = x.roll(-1, 1)
    y[torch.rand(y.shape, generator=generator("mask")) < 0.7] = UNCOUNTED
    return x, y


@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_loss_and_gradients_are_those_of_the_counted_positions_alone(chunk):
    (x, y), model = masked(), tiny_model().double()
    counted = y >= 0
    assert 0 < counted.sum() < counted.numel() / 2
    expected = nn.functional.cross_entropy(model(x)[counted], y[counted])
    expected.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad()
    total, loss = NextTokenLoss(model, chunk)(x, y)
    total.backward()
    assert total.item() == pytest.approx(expected.item(), abs=1e-6) == loss.item()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], atol=1e-6, rtol=1e-5)


def test_the_stream_gets_no_gradient_where_nothing_is_asked():
    (x, y), model, seen = masked(), tiny_model(), []
    stream_of = model.stream

    def watched(inputs):
        out = stream_of(inputs)
        out.retain_grad()
        seen.append(out)
        return out

    model.stream = watched
    NextTokenLoss(model, None)(x, y)[0].backward()
    assert torch.equal(seen[0].grad.abs().sum(-1) > 0, y >= 0)


@pytest.mark.parametrize("chunk", [None, 3])
def test_in_evaluation_uncounted_positions_have_no_nats_and_no_hit(chunk):
    (x, y), model = masked(), tiny_model()
    nats, hits = NextTokenLoss(model, chunk).eval()(x, y)
    logits = model(x)
    for i in np.ndindex(*y.shape):
        counts = y[i] >= 0
        assert nats[i].item() == pytest.approx(-logits[i].log_softmax(-1)[y[i]].item() if counts else 0, abs=1e-5)
        assert bool(hits[i]) == bool(counts and logits[i].argmax() == y[i])


def test_slices_and_positions_add_up():
    dataset = opened("recall", "data.n_keys=5", "data.pairs=[1,2,4]")
    assert dataset.vocab_size == VOCAB
    model = tiny_model("data.window=32")
    got = measured(dataset, model, by_position=True)
    sums, places = {}, {}
    for x, y, _, _, slices, _ in dataset.validation_batches(32, 1000, 1000):
        logits = model(x).detach()
        for i in np.argwhere(y.numpy() >= 0):
            i = tuple(i)
            nats = -logits[i].log_softmax(-1)[y[i]].item()
            sums.setdefault(int(slices[i]), []).append((nats, float(logits[i].argmax() == y[i])))
            places.setdefault(i[1] + 1, []).append(nats)
    everything = [pair for pairs in sums.values() for pair in pairs]
    assert [got["val/loss"], got["val/accuracy"]] == pytest.approx(np.mean(everything, axis=0).tolist(), abs=1e-5)
    for i, n in enumerate((1, 2, 4)):
        assert got[f"val/accuracy_pairs-{n}"] == pytest.approx(np.mean([hit for _, hit in sums[i]]), abs=1e-6)
    for first, last in ((3, 4), (5, 8), (9, 16), (17, 32)):
        nats = [x for place, own in places.items() if first <= place <= last for x in own]
        assert got[f"val/loss_position-{first}-{last}"] == pytest.approx(np.mean(nats), abs=1e-5)
    assert "val/loss_position-1" not in got  # nothing is asked there


# --- runs


@pytest.fixture
def run(tmp_path):
    """Trains a tiny model for six steps, under tmp_path/runs, and returns the summary."""
    sizes = "size.dim=16 size.n_layer=2 size.n_head=2 data.window=16 train.batch_size=4 budget.steps=6 eval.tokens=200"
    place = f"runs_dir={tmp_path / 'runs'} wandb.mode=disabled device=cpu precision=float32"

    def train_it(words):
        return train(load_config(f"{sizes} {place} {words}".split()), quiet=True)

    return train_it


def test_blocks_of_a_task_are_parts_of_its_examples(run):
    words = "data=copy data.lengths=[3] data.window=8"
    summary = run(f"{words} eval.tokens=800 eval.final_tokens=600")
    tokens = summary["val/block_tokens"]
    assert "val/block_bytes" not in summary and len(tokens) == 32
    assert set(tokens) == {6, 9} and sum(tokens) == 75 * 3  # 75 examples with three answers each
    assert sum(summary["val/block_nats"]) / sum(tokens) == pytest.approx(summary["val/loss"], rel=1e-12)
    longer = run(f"{words} eval.tokens=600")  # a task has no whole to read
    assert longer["val/block_nats"] == summary["val/block_nats"]


def test_a_users_own_task_is_a_class_that_makes_examples(run, own_registry):
    @registry.register("data", "last_is_first")
    class LastIsFirst(Task):
        """Random tokens; the last is the first again."""

        vocab_size = 5

        def slices(self, window):
            return ["all"]

        def training(self, rng, n, window):
            tokens = rng.integers(5, size=(n, window + 1))
            tokens[:, -1] = tokens[:, 0]
            counts = np.zeros((n, window), dtype=bool)
            counts[:, -1] = True
            return Examples(tokens, counts, np.zeros((n, window), dtype=int), np.zeros((n, window)))

        validation = training

    summary = run("data=last_is_first")
    assert summary["state"] == "finished"
    assert summary["val/accuracy"] == summary["val/accuracy_all"]
    assert summary["val/loss"] == summary["val/loss_position-9-16"]


@pytest.mark.parametrize("name", TASKS)
def test_a_run_records_the_metrics_of_a_task_and_no_bits_per_byte(name, run):
    summary = run(f"data={name} position=rope eval.lengths=[1,2]")
    folder = Path(summary["run_dir"])
    score = "val/excess" if name == "grammar" else "val/accuracy"
    assert summary["state"] == "finished"
    assert {"val/loss", "val/loss_min", score, f"{score}_2x", "val/loss_2x"} <= summary.keys()
    assert sum(key.startswith(f"{score}_") for key in summary if not key.endswith("x")) >= 2
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert not any("bpb" in key for key in [*summary, *last])
    assert any(key.startswith("val/loss_position-") for key in last)
    assert not (folder / "tokenizer.json").exists()
    with pytest.raises(ConfigError, match="reads no text"):
        open_run(str(folder))


def test_micro_batches_take_the_mean_of_the_whole_batch(run):
    losses = [run(f"data=recall train.log_every=1 {words}") for words in ("", "train.micro_batch_size=1")]
    curves = [
        [json.loads(line).get("train/loss") for line in (Path(s["run_dir"]) / "metrics.jsonl").read_text().splitlines()]
        for s in losses
    ]
    assert [x for x in curves[0] if x] == pytest.approx([x for x in curves[1] if x], abs=1e-5)


def test_compare_takes_the_metric_of_a_task(run, capsys):
    folders = [run(f"data=copy seed={seed} {w}")["run_dir"] for seed in (0, 1) for w in ("", "norm=rmsnorm")]
    with pytest.raises(SystemExit) as done:
        main(["compare", *folders, "--metric", "val/accuracy_length-4"])
    assert done.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "val/accuracy_length-4" in out and "higher is better" in out
    with pytest.raises(SystemExit) as done:
        main(["compare", *folders, "--metric", "val/bpb"])
    assert done.value.code == 2
    assert "metric=val/bpb: not in" in capsys.readouterr().err


def test_train_on_all_makes_every_token_a_target_in_training_only():
    some, every = opened("recall"), opened("recall", "data.train_on=all")
    (x, y), (same, z) = some.train_batches(32, 4, 0, "").batch(0), every.train_batches(32, 4, 0, "").batch(0)
    assert torch.equal(x, same) and (z >= 0).all() and torch.equal(z[:, :-1], x[:, 1:])
    assert torch.equal(y[y >= 0], z[y >= 0]) and (y < 0).any()
    for a, b in zip(some.validation_batches(32, 4, 100), every.validation_batches(32, 4, 100), strict=True):
        assert all(map(torch.equal, columns(a), columns(b)))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("tokenizer=char", "tokenizer=char: has no effect with data=recall, which makes its own tokens; leave it at "),
        ("preset=gpt2 size=tiny", "tokenizer=gpt2: has no effect with data=recall"),
        ("data.sampling=epoch", "data.sampling=epoch: has no effect"),
        ("data.val_fraction=0.2", "data.val_fraction=0.2: has no effect"),
        ("data.shuffle_tokens=true", "data.shuffle_tokens=true: has no effect with data=recall, which makes its own "),
        ("eval.tokens=null", "eval.tokens=null: data=recall has no end; set the number"),
        ("data.pairs=[4,9]", "data.pairs=[4, 9]: from 1 to 8 fit data.window=32 and the vocabulary; change one"),
        ("data.pairs=[0]", "data.pairs=[0]: from 1 to 8 fit"),
        ("data.pairs=[]", "data.pairs=[]: "),
        ("data.window=3", "data.window=3: too short to ask anything; give at least 4"),
        ("data.n_keys=1", "data.n_keys=1: must be at least 2"),
        ("data=induction data.n_symbols=1", "data.n_symbols=1: must be at least 2"),
        ("data=copy data.n_symbols=1", "data.n_symbols=1: must be at least 2"),
        ("data=grammar data.p_open=0.3", "data.p_open=0.3: must be above 0, below p_close=0.25"),
        ("data=grammar data.n_words=0", "data.n_words=0: must be at least 1"),
        ("model.vocab_size=64", "model.vocab_size=64: data=recall has 65 tokens; give at least as many"),
    ],
)
def test_settings_that_a_task_cannot_use_are_refused_before_anything_is_written(words, line, tmp_path, capsys):
    given = ["data=recall", "data.window=32", "position=rope", f"runs_dir={tmp_path / 'runs'}", "wandb.mode=disabled"]
    with pytest.raises(SystemExit) as done:
        main(["train", *given, *words.split()])
    assert done.value.code == 2
    assert capsys.readouterr().err.startswith(f"gptlab: {line}")
    assert not (tmp_path / "runs").exists()


def test_weights_trained_on_text_are_refused_for_the_tokens_of_a_task(run, train_tiny):
    text = train_tiny("tokenizer=byte")["run_dir"]
    with pytest.raises(ConfigError, match="its tokenizer gives other tokens"):
        run(f"data=induction model.vocab_size=256 train.init_from={text}")
