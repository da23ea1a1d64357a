"""Sequential sweeps: the plan of the seeds, the looks, and the seeds that follow from them."""

import json
import shutil

import pytest

from gptlab.compare import build_comparison
from gptlab.config import ConfigError
from gptlab.sweeps.experiment import read_experiment
from gptlab.sweeps.grid import plan_sweep
from gptlab.sweeps.look import ArmLook, with_next_seeds
from gptlab.sweeps.plan import plan_document
from gptlab.sweeps.run_sweep import sweep
from gptlab.sweeps.seed_plan import SeedPlan
from gptlab.sweeps.status import status_document
from gptlab.sweeps.tuning import stages
from tiny import TINY_RUN

ARMS = "ffn=gelu,swiglu,geglu"
REFUSED = {
    "2..7": "the looks must begin at 3 seeds or more, and end at 50 or fewer",
    "7..3": "the looks must begin at 3 seeds or more, and end at 50 or fewer",
    "3..51": "the looks must begin at 3 seeds or more, and end at 50 or fewer",
    "3-7": "must be two whole numbers, such as 3..12",
    "3..": "must be two whole numbers, such as 3..12",
    "": "must be two whole numbers, such as 3..12",
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match=f"^--seeds {text}: {REFUSED[text]}"):
        SeedPlan.parse(text)


def test_the_seeds_are_planned_in_the_file_or_on_the_command_line(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("variants: {a: [], b: [norm=rmsnorm]}\nseeds: {first: 3, last: 5}\n")
    assert read_experiment(file).seeds == SeedPlan((0, 1, 2, 3, 4), 3)
    plan = plan_sweep([str(file)])
    assert (plan.seeds, plan.first_look, len(plan.cells)) == (list("01234"), 3, 10)
    assert plan_sweep([str(file)], seeds="4..6").first_look == 4
    fixed = plan_sweep([str(file), "seed=0,1"])
    assert (fixed.seeds, fixed.first_look) == (["0", "1"], None)
    with pytest.raises(ConfigError, match=r"^--seeds 3..5: seed=0,1 fixes the seeds; leave one out$"):
        plan_sweep([ARMS, "seed=0,1"], seeds="3..5")


@pytest.mark.parametrize("seeds", ["{first: 3}", "{first: 3, last: x}", "{first: 3, last: 5, step: 1}", "3..5", "3"])
def test_a_plan_of_the_seeds_that_cannot_be_read_is_refused(tmp_path, seeds):
    file = tmp_path / "x.yaml"
    file.write_text(f"variants: {{a: []}}\nseeds: {seeds}\n")
    with pytest.raises(ConfigError, match=r"seeds=.*: must be a list"):
        read_experiment(file)


def looks(**states):
    return [ArmLook(arm.replace("_", "="), "ffn=gelu", n, "", state, None) for arm, (state, n) in states.items()]


def test_open_arms_and_the_baseline_get_another_seed():
    plan = plan_sweep([ARMS], seeds="3..5").until_first_look()
    assert [cell.label for cell in plan.cells][:4] == [f"ffn={ffn} seed=0" for ffn in ("gelu", "swiglu", "geglu")] + [
        "ffn=gelu seed=1"
    ]
    assert len(plan.cells) == 9
    further = with_next_seeds(plan, looks(ffn_swiglu=("settled", 3), ffn_geglu=("open", 3)))
    assert {cell.label for cell in further.cells} - {cell.label for cell in plan.cells} == {
        "ffn=gelu seed=3",
        "ffn=geglu seed=3",
    }
    closed = looks(ffn_swiglu=("settled", 3), ffn_geglu=("given up", 4))
    assert with_next_seeds(further, closed) is further
    resumed = with_next_seeds(plan, looks(ffn_swiglu=("settled", 3), ffn_geglu=("open", 4)))
    assert max(int(cell.seed) for cell in resumed.cells) == 4  # five seeds, since the runs that ended before count


def test_a_tuned_sweep_looks_once_its_values_are_settled():
    plan = plan_sweep(["norm=layernorm,rmsnorm", "optimizer.lr=1e-3"], tune=["optimizer.lr=auto"], seeds="3..4")
    seen, asked = [], []

    def after_look(plan):
        asked.append(plan.seeds_so_far(plan.arms[0]))
        return plan if asked[-1] == 4 else plan.with_seeds({arm.name: 4 for arm in plan.arms})

    for stage in stages(plan.until_first_look(), after_look):
        best = "0.001" if stage.searches else "0.002"  # the seeds of the comparison prefer another value
        stage.cells = [Ended(spec, abs(float(spec.tuned["optimizer.lr"]) - float(best))) for spec in stage.specs]
        seen.append((stage.searches, len(stage.specs)))
    assert seen == [(True, 12), (False, 18), (False, 18), (False, 24)] and asked == [3, 4]


class Ended:
    """The part of a Cell that the tuning reads."""

    state = "finished"

    def __init__(self, spec, loss):
        self.spec, self.loss = spec, loss


@pytest.fixture
def run(tmp_path):
    (tmp_path / "text.txt").write_text("to be, or not to be: that is the question. " * 40)
    fixed = [*TINY_RUN, "data=text", f"data.path={tmp_path / 'text.txt'}", f"runs_dir={tmp_path}", "name=q"]

    def start(seeds="3..5"):
        sweep([*fixed, "norm=layernorm,rmsnorm", "optimizer.lr=1e-3", "budget.steps=2", "eval.every=1"], seeds=seeds)
        return tmp_path / "q"

    return start


def test_a_sequential_sweep_that_is_stopped_and_continued_gives_the_same_words(run, capsys):
    folder = run()
    said = json.loads((folder / "sweep.yaml").read_text())
    assert said["planned"]["seeds"] == [0, 1, 2, 3, 4] and said["planned"]["first_look"] == 3
    (look,) = said["looks"]
    assert look["state"] in ("settled", "given up") and look["arm"] == "norm=rmsnorm"
    assert f"norm=rmsnorm {look['word']}" in capsys.readouterr().out
    assert status_document(folder)["looks"] == said["looks"]
    effect = build_comparison([folder]).results[1].effect
    assert (effect.word, effect.progress.seeds) == (look["word"], look["seeds"]) and not effect.standing
    last = max(folder.glob(f"*seed-{look['seeds'] - 1}-*"))
    shutil.rmtree(last)
    before = build_comparison([folder]).results[1].effect
    assert before.progress.state == "open" and before.standing == "interim"
    run()
    again = build_comparison([folder]).results[1].effect
    assert (again.word, again.mean, again.p_holm) == (effect.word, effect.mean, effect.p_holm)
    with pytest.raises(ConfigError, match=r"^seeds=3..8: .*q was planned with looks from 3 to 5 seeds; give another"):
        run("3..8")


def test_the_plan_says_the_most_that_can_be_run():
    document = plan_document([ARMS, *TINY_RUN], seeds="3..4")
    assert (document["first_look"], document["n_cells"]) == (3, 12)
