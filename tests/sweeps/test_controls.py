"""The two controls of an experiment: a null arm, which differs by noise alone, and a text in random order."""

import json
from pathlib import Path

import numpy as np
import pytest

from gptlab.compare import build_comparison
from gptlab.config import ConfigError
from gptlab.config.compose import load_config
from gptlab.data.batches import stream
from gptlab.data.dataset import SHUFFLE
from gptlab.runs.folder import open_config
from gptlab.sweeps.cell import check_sweep
from gptlab.sweeps.experiment import FIRST_TUNING_SEED
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.manifest import write_manifest
from gptlab.training.prepare import open_dataset
from gptlab.training.train import train
from tiny import TINY_RUN

NULL = "train.seed_offset=1000000"
# Does nothing make a difference, and does a shuffled text make a large one?
FILE = f"variants: {{baseline: [], null: [{NULL}], shuffled: [data.shuffle_tokens=true]}}\nseeds: [0, 1, 2]\n"


@pytest.fixture
def words(tmp_path, monkeypatch):
    """Write FILE and a text, and return the arguments of a sweep of both, without its budget."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    Path("controls.yaml").write_text(FILE)
    Path("text.txt").write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(400)))
    usual = [*TINY_RUN, "size.dim=16", "data=text", "data.path=text.txt", "precision=float32", "diagnostics=none"]
    return ["controls.yaml", *usual, "train.batch_size=8", "eval.tokens=null", "eval.final_tokens=null"]


@pytest.fixture
def compared(words):
    """Train the cells of the sweep for 120 steps and return its comparison."""
    checked = check_sweep(plan_sweep([*words, "budget.steps=120", "schedule.warmup=10"]))
    write_manifest(checked)
    for cell in checked.cells:
        assert train(load_config(cell.spec.overrides), quiet=True)["state"] == "finished"
    return build_comparison(["runs/controls"])


def test_both_controls_are_arms_whose_runs_are_paired_by_seed_and_judged(compared):
    baseline, null, shuffled = compared.results
    assert [result.name for result in compared.results] == ["baseline", "null", "shuffled"]
    for result in compared.results:
        assert list(result.scores.index) == [0, 1, 2]
    for arm in (null, shuffled):
        assert np.allclose(arm.effect.mean, (arm.scores - baseline.scores).mean())
        assert arm.effect.pairs == 3 and not arm.effect.note and arm.effect.verdict != "no verdict"
    read = {(run.summary["val/block_bytes"][0], len(run.summary["val/block_bytes"])) for run in runs_of(compared)}
    assert len(read) == 1 and len({json.dumps(run.summary["val/block_tokens"]) for run in runs_of(compared)}) == 1

    # The null arm's runs are other runs than those of the baseline.
    assert not set(null.scores) & set(baseline.scores)
    assert null.effect.word in ("not shown", "equivalent")

    # A model of tokens in random order can know their frequencies alone.
    dataset = open_dataset(open_config(baseline.arm.runs[0].folder))
    frequencies = np.bincount(dataset.train, minlength=256) / dataset.n_train
    guess = -np.log(frequencies[dataset.val[1:]]).mean()
    assert shuffled.effect.verdict == "worse" and np.allclose(shuffled.scores, guess, atol=0.1)
    assert baseline.mean < guess - 0.5


def runs_of(comparison):
    return [run for result in comparison.results for run in result.arm.runs]


@pytest.mark.parametrize(
    ("arguments", "offset", "pair"),
    [
        (["train.seed_offset=0,1", "seed=0,1"], 1, ("seed_offset=1 with seed=0", "seed_offset=0 with seed=1")),
        (["train.seed_offset=3,5", "seed=0,2"], 5, ("seed_offset=5 with seed=0", "seed_offset=3 with seed=2")),
    ],
)
def test_an_offset_that_gives_two_pairs_the_same_random_numbers_is_refused(words, arguments, offset, pair):
    with pytest.raises(ConfigError) as e:
        check_sweep(plan_sweep([*words[1:], "budget.steps=1", "name=s", *arguments]))
    assert str(e.value).startswith(f"train.seed_offset={offset}: ") and "\n" not in str(e.value)
    assert all(run in str(e.value) for run in pair) and "set a larger offset, such as 1000000" in str(e.value)


def test_the_tuning_seeds_are_as_far_from_a_null_arm_as_those_of_the_comparison(words):
    tuned = {"tune": ["optimizer.lr=1e-3,3e-3"]}
    checked = check_sweep(plan_sweep([*words, "budget.steps=1"], **tuned))
    drawn = {cell.drawing_seed for cell in [*checked.tuning, *checked.cells]}
    assert {cell.seed for cell in checked.tuning} == {FIRST_TUNING_SEED, FIRST_TUNING_SEED + 1}
    assert len(drawn) == 2 * 5  # three seeds of the comparison and two of the tuning, with and without the offset
    Path("near.yaml").write_text(FILE.replace("1000000", str(FIRST_TUNING_SEED)))
    with pytest.raises(ConfigError, match=rf"train\.seed_offset={FIRST_TUNING_SEED}: null with seed=0 would draw"):
        check_sweep(plan_sweep(["near.yaml", *words[1:], "budget.steps=1"], **tuned))


def test_the_order_of_a_shuffled_text_is_the_same_everywhere():
    assert stream(SHUFFLE, 0).permutation(np.arange(50_000, dtype=np.uint16))[:5].tolist() == [
        *(32994, 45193, 28229, 1583, 815)
    ]
