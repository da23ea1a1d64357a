"""A user's component that lacks something, or fails, gives one line with its place and the mend, never a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gptlab.cli.main import main
from gptlab.config import ConfigError, registry
from gptlab.config.registry import check_protocol, register

HEADER = """
import torch
from torch import nn
from gptlab import register
from gptlab.data.task import Task
from gptlab.data.tokenizers import Byte
from gptlab.model.position import Position
from gptlab.model.roles import Linear
"""
MODULE = """
@register("{kind}", "own")
class Own(nn.Module):
    def __init__(self, {wants}):
        super().__init__()
        {body}
"""
OPTIMIZER = """
@register("optimizer", "own")
class Own:
    def __init__(self, *, {lr}: float = 1e-3):
        self.lr = {lr}
    def build(self, parameters{more}):
        return {built}
    {slots}
"""
SLOTS = "def slots(self, p):\n        return 0"
SGD = "[torch.optim.SGD(parameters, lr=1e-3)]"


def optimizer(lr="lr", more="", built=SGD, slots=SLOTS):
    return OPTIMIZER.format(lr=lr, more=more, built=built, slots=slots)


def module(kind, body="pass", *, wants="dim: int", methods=""):
    made = MODULE.format(kind=kind, wants=wants, body=body)
    return made + "".join(f"    {line}\n" for line in methods.splitlines())


BLOCK = {"wants": "attention, ffn", "body": "self.attention, self.ffn = attention(), ffn()"}
BLOCK_FORWARD = "def forward(self, x, position, cache=None):\n    return "
TEXT = "@register('data', 'own')\nclass Own:\n    {}\n"
TOKENIZER = "@register('tokenizer', 'own')\nclass Own({}):\n    {}\n"
TASK = "@register('data', 'own')\nclass Own(Task):\n    {}\n"

# what is wrong -> its slot, its source, and the line that says so
WRONG = {
    "an optimizer without slots": ("optimizer", optimizer(slots=""), "Own has no slots(p), which returns how many"),
    "one without lr": ("optimizer", optimizer(lr="rate"), "Own has no setting 'lr'; write it after * in __init__"),
    "one that is not a list": ("optimizer", optimizer(built=SGD[1:-1]), "build() returned SGD; return a list of torch"),
    "one that is None": ("optimizer", optimizer(built="None"), "build() returned NoneType; return a list"),
    "an empty list": ("optimizer", optimizer(built="[]"), "build() returned an empty list; return a list"),
    "a list of others": ("optimizer", optimizer(built="[1]"), "build() returned int, which has no param_groups"),
    "one that leaves out parameters": (
        "optimizer",
        optimizer(built="[torch.optim.SGD(list(parameters)[1:], lr=1e-3)]"),
        "build() must put each parameter that it is given into exactly one group",
    ),
    "a build with too many arguments": ("optimizer", optimizer(more=", lr"), "Own.build must take build(parameters) ("),
    "a build that fails": ("optimizer", optimizer(built="parameters.nothing"), "'nothing' (own_part.py:15); correct"),
    "slots that are no number": ("optimizer", optimizer(slots=SLOTS.replace("0", "None")), "slots(p) returned None"),
    "a schedule without factor": ("schedule", "@register('schedule', 'own')\nclass Own: ...\n", "no factor(t, peak)"),
    "a schedule that gives none": (
        "schedule",
        "@register('schedule', 'own')\nclass Own:\n    def factor(self, t, peak): ...\n",
        "factor(0, peak) returned None; return a share of the peak",
    ),
    "an init without draw": ("init", "@register('init', 'own')\nclass Own: ...\n", "no draw(p, role, gain, generator)"),
    "a match without a figure": (
        "match",
        "@register('match', 'own')\nclass Own: ...\n",
        "needs an attribute figure",
    ),
    "data without text": ("data", TEXT.format("pass"), "Own has no text(), which returns the whole text; add it"),
    "a text that is none": ("data", TEXT.format("def text(self): ..."), "Own.text() returned NoneType; return a str"),
    "a text that fails": (
        "data",
        TEXT.format("def text(self): return {}['x']"),
        "KeyError: 'x' (own_part.py:11)",
    ),
    "a task without slices": (
        "data",
        TASK.format("vocab_size = 3"),
        "Own has no slices(window), which",
    ),
    "a task of its own kind": ("data", TEXT.format("makes_tokens = True"), "derive it from gptlab.data.task.Task"),
    "a task without a vocabulary": (
        "data",
        TASK.format("slices = training = validation = lambda *a: ..."),
        "Own needs an attribute vocab_size, int; it has none: set it",
    ),
    "a tokenizer without from_json": (
        "tokenizer",
        TOKENIZER.format("", "def fit(self, a, b): ..."),
        "no from_json(",
    ),
    "one without a cache key": (
        "tokenizer",
        TOKENIZER.format(
            "",
            "fixed_vocab_size = None\n    def fit(self, a, b): ...\n    @classmethod\n    def from_json(cls, s): ...",
        ),
        "Own needs an attribute cache_key, str; it has none: set it",
    ),
    "a fit that returns nothing": (
        "tokenizer",
        TOKENIZER.format("Byte", "cache_key = 'own'\n    def fit(self, a, b): ..."),
        "tokenizer: Own.fit() returned NoneType; return one that is derived from gptlab.data.tokenizers.Tokenizer",
    ),
    "ids that are a list": (
        "tokenizer",
        TOKENIZER.format("Byte", "cache_key = 'own2'\n    def encode(self, text, place=''): return [1] * len(text)"),
        "Own.encode() returned list; return a numpy array of type self.dtype",
    ),
    "an FFN that is no module": (
        "ffn",
        "@register('ffn', 'own')\nclass Own:\n    def forward(self, x): ...\n",
        "Own is no torch module; derive it from nn.Module",
    ),
    "an FFN without forward": (
        "ffn",
        module("ffn"),
        "Own has no forward(x), which takes and returns (B, T, C)",
    ),
    "an attention without a cache": (
        "attention",
        module("attention", methods="def forward(self, x, position): return x"),
        "Own.forward must take forward(x, position, cache)",
    ),
    "a position of its own kind": (
        "position",
        module("position", methods="def forward(self, x): return x"),
        "Own has no embed(x, start), which returns the changed embeddings; add it, or derive it from gptlab.model.pos",
    ),
    "a block that returns nothing": (
        "block",
        module("block", **BLOCK, methods=BLOCK_FORWARD.replace("return ", "x = x + self.ffn(x)")),
        "block=own: forward returned None, not one of shape (2, 8, 64); return the shape that came in",
    ),
    "a block that averages over positions": (
        "block",
        module("block", **BLOCK, methods=BLOCK_FORWARD + "x.mean(1, keepdim=True)"),
        "block=own: forward returned a tensor of shape (2, 1, 64), not one of shape (2, 8, 64)",
    ),
    "a norm of the wrong shape": (
        "norm",
        module("norm", methods="def forward(self, x): return x.mean(-1, keepdim=True)"),
        "norm=own: forward returned a tensor of shape (2, 8, 1)",
    ),
    "a forward that fails": (
        "ffn",
        module("ffn", "self.down = nn.Linear(dim, dim)", methods="def forward(self, x): return self.down(x[..., :3])"),
        "ffn=own: RuntimeError: mat1 and mat2 shapes cannot be multiplied",
    ),
    "a constructor that fails": (
        "ffn",
        module("ffn", "dims", methods="def forward(self, x): ..."),
        "'dims' is not defined",
    ),
}


@pytest.fixture
def words(tmp_path, monkeypatch, own_registry):
    """Write a component file into an empty folder, and give the words that train with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    Path("text.txt").write_text("to be, or not to be: that is the question. " * 40)

    def write(slot, source):
        Path("own_part.py").write_text(HEADER + source)
        text = [] if slot == "data" else ["data=text", "data.path=text.txt"]
        own = ["match=own"] if slot == "match" else [f"{slot}=own"]
        run = ["size=tiny", "data.window=16", "budget.steps=2", "eval.tokens=64", "wandb.mode=disabled", "device=cpu"]
        return ["use=own_part.py", *own, *text, *run]

    return write


def run(capsys, *argv):
    with pytest.raises(SystemExit) as exit:
        main(argv)
    return exit.value.code, *capsys.readouterr()


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_one_line_before_anything_is_written(fault, words, capsys):
    slot, source, line = WRONG[fault]
    given = words(slot, source)
    for verb in ("train", "sweep"):
        code, _, err = run(capsys, verb, *given)
        assert (code, err.count("\n")) == (2, 1), err
        assert err.startswith(f"gptlab: {slot}") and line in err, err
    assert not Path("runs").exists()


def test_every_component_of_gptlab_has_what_its_kind_needs():
    for entry in registry.entries():
        check_protocol(entry)


LATE = module(
    "ffn",
    "self.down, self.n = nn.Linear(dim, dim), 0",
    methods="def forward(self, x):\n    self.n += self.training\n    if self.n > 12:\n        raise KeyError('late')\n"
    "    return self.down(x)",
)


@pytest.mark.parametrize("verb", ["train", "sweep"])
def test_a_component_that_fails_while_training_is_named_with_its_line(words, capsys, verb):
    given = [*words("ffn", LATE), "budget.steps=30", *(["hydra/launcher=basic", "seed=0,1"] if verb == "sweep" else [])]
    code, out, err = run(capsys, verb, *given)
    assert code == 1
    (folder, *_) = sorted(path.parent for path in Path("runs").glob("*/*/status.json"))
    line = "ffn=own: KeyError: 'late' (own_part.py:18)"
    reason = json.loads((folder / "status.json").read_text())["reason"]
    assert reason == f"ComponentError: {line}"
    log = (folder / "log.txt").read_text()
    assert "Traceback" in log and 'own_part.py", line 18' in log and "raise KeyError('late')" in log
    if verb == "train":
        assert err.splitlines()[-1] == f"gptlab: {line}; the traceback is in {folder}/log.txt"
        assert "Traceback" not in err + out
    else:
        assert line in out


VALUE_RESIDUAL = """
@register("attention", "own")
class Own(nn.Module):
    shared = {}
    def __init__(self, dim: int, layer_idx: int):
        super().__init__()
        self.layer_idx, self.v, self.out = layer_idx, nn.Linear(dim, dim), nn.Linear(dim, dim)
    def forward(self, x, position, cache=None):
        v = self.v(x)
        if self.layer_idx == 0:
            self.shared["v"] = v
        else:
            v = v + self.shared["v"]
        return self.out(v.cumsum(1))
"""


def test_values_that_one_layer_leaves_to_the_next_are_counted_and_trained(words, capsys):
    """Blocks cannot be counted one by one then, so the whole model is."""
    given = words("attention", VALUE_RESIDUAL)
    code, _, err = run(capsys, "train", *given, "--json")
    assert code == 0, err
    (summary,) = Path("runs").glob("*/*/summary.json")
    numbers = json.loads(summary.read_text())
    weights = 2 * (2 * 64 * 64 + 2 * 4 * 64 * 64) + 256 * 64  # of two blocks, and the tied head
    assert numbers["flops_per_token"] == 6 * weights


@pytest.mark.slow
def test_a_notebook_gets_the_error_itself(tmp_path):
    """Only files of `use` are blamed in one line; whoever defines a class in Python sees the whole traceback."""
    code = (
        "from gptlab import build_model, load_config, register\nfrom torch import nn\n"
        "@register('ffn', 'mine')\nclass Mine(nn.Module):\n    def __init__(self, dim: int):\n        nothing\n"
        "    def forward(self, x): ...\n"
        "build_model(load_config(['ffn=mine', 'size=tiny', 'model.vocab_size=8', 'tokenizer=char']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "NameError: name 'nothing' is not defined" in done.stderr and "Traceback" in done.stderr


def test_an_optimizer_that_takes_its_parameters_at_once_is_told_where_they_come(own_registry):
    """The signature of torch's own optimizers."""
    with pytest.raises(
        ConfigError, match=r"'params' must stand after \*, .*; build\(parameters\) gets the parameters$"
    ):

        @register("optimizer", "test_as_torch")
        class AsTorch:
            def __init__(self, params, *, lr: float = 1e-3):
                self.lr = lr
