"""eval.lengths: the validation loss in windows longer than in training, wherever positions mean something there."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from gptlab import build_model
from gptlab.config import SLOTS, ConfigError, registry
from gptlab.data import validation_batches
from gptlab.runs.load import open_model
from gptlab.training.prepare import open_dataset
from tiny import PLAIN_POSITIONS, VOCAB, WINDOW, telling_model, tiny_config, tokens

LONG = [p for p in PLAIN_POSITIONS if getattr(registry.entry("position", p.split("=")[1]).cls, "extrapolates", True)]


def test_which_positions_go_beyond_the_window():
    assert set(PLAIN_POSITIONS) - set(LONG) == {"position=learned"}


@pytest.mark.parametrize("position", LONG)
def test_longer_windows_change_no_weight_and_no_logit_within_the_old_one(position):
    short, long = telling_model(position), telling_model(position, "eval.lengths=[1,4]")
    x = tokens(length=WINDOW)
    assert short.state_dict().keys() == long.state_dict().keys()
    assert torch.equal(short(x), long(x))
    assert long(tokens(length=4 * WINDOW)).shape == (2, 4 * WINDOW, VOCAB)
    with pytest.raises(ValueError, match=f"^{WINDOW + 1} tokens: the model was built for at most {WINDOW}$"):
        short(tokens(length=WINDOW + 1))


@pytest.mark.parametrize("position", LONG)
def test_a_longer_window_still_sees_no_future(position):
    model, x = telling_model(position, "eval.lengths=[1,2]"), tokens(length=2 * WINDOW)
    y = x.clone()
    y[:, -1] = (y[:, -1] + 1) % VOCAB
    assert torch.equal(model(x)[:, :-1], model(y)[:, :-1])


def test_learned_positions_are_refused_beyond_their_table():
    with pytest.raises(ConfigError, match=r"^eval.lengths=\[1, 2\]: position=learned has no positions beyond"):
        build_model(tiny_config("position=learned", "eval.lengths=[1,2]"))


@pytest.mark.parametrize("lengths", ["[]", "[0]"])
def test_lengths_must_be_multiples_of_the_window(lengths):
    with pytest.raises(ConfigError, match="^eval.lengths="):
        tiny_config(f"eval.lengths={lengths}")


def test_a_text_too_short_for_them_is_refused(train_tiny):
    with pytest.raises(ConfigError, match=r"^eval.lengths=\[1, 99\]: the val split has"):
        train_tiny("position=rope", "eval.lengths=[1,99]")


def test_the_loss_at_each_length_is_in_the_record(train_tiny):
    from gptlab.runs.folder import open_config

    summary = train_tiny("position=rope", "eval.lengths=[1,2]", "eval.tokens=65", "eval.final_tokens=65")
    folder = Path(summary["run_dir"])
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    cfg = open_config(folder)
    assert set(SLOTS) <= set(cfg)
    model, dataset = build_model(cfg).eval(), open_dataset(cfg)
    model.load_state_dict(open_model(folder).state_dict())
    for length, key in ((1, "val/loss"), (2, "val/loss_2x")):
        losses = [
            F.cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum")
            for x, y in validation_batches(dataset.val, 16 * length, 1, 65)
        ]
        expected = sum(losses).item() / 64  # four windows, or two
        assert summary[key] == last[key] == pytest.approx(expected, abs=1e-5)
    assert summary["val/loss_2x"] != summary["val/loss"]
    assert open_model(folder).max_len == 16  # sampling reads no longer texts than training did
