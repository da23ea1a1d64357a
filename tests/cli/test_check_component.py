"""`gptlab check`: what is sound passes, and each fault is found by the check for it, with its mend."""

import json
import textwrap

import pytest
from rich.console import Console

from gptlab.cli.check_component import check_components
from gptlab.cli.main import main
from gptlab.cli.new_component import COUNTERPARTS, TEMPLATES
from gptlab.config import registry
from gptlab.model.checks import MODEL_CHECKS

HEADER = """
import numpy as np, torch
import torch.nn.functional as F
from torch import nn
from gptlab import register
from gptlab.model.roles import Linear, table, tag
from gptlab.data.tokenizers import Byte, Tokenizer
"""

NORM = """
@register("norm", "broken")
class Broken(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(dim))
    def forward(self, x):
        return {}
"""
FFN = """
@register("ffn", "broken")
class Broken(nn.Module):
    def __init__(self, dim: int{}):
        super().__init__()
        self.up, self.down = {}
    def forward(self, x):
        return self.down(F.relu(self.up(x)))
"""
GOOD_FFN = "Linear(dim, dim, True), Linear(dim, dim, False, role='residual')"
ATTENTION = """
@register("attention", "broken")
class Broken(nn.Module):
    def __init__(self, dim: int, layer_idx: int):
        super().__init__()
        self.layer_idx, self.out = layer_idx, Linear(dim, dim, bias=False, role="residual")
    def forward(self, x, position, cache=None):
        return self.out({})
"""
HEAD = """
@register("head", "broken")
class Broken(nn.Module):
    def __init__(self, dim: int, vocab_size: int):
        super().__init__()
        self.weight = {}
    def forward(self, x, embedding):
        return F.linear(x, self.weight)
"""
SCHEDULE = """
@register("schedule", "broken")
class Broken:
    def factor(self, t, peak):
        return {}
"""
OPTIMIZER = """
@register("optimizer", "broken")
class Broken:
    def __init__(self, *, lr: float = 1e-3):
        self.lr = lr
    def build(self, parameters):
        return [torch.optim.SGD({}, lr=self.lr, momentum=0.9)]
    def slots(self, p):
        return {}
"""
TEXT = """
@register("data", "broken")
class Broken:
    def text(self):
        return {}
"""
TOKENIZER = """
@register("tokenizer", "broken")
class Broken(Byte):
    def encode(self, text, place="text"):
        return super().encode({})
    def to_json(self):
        return {}
"""

# what is wrong -> source, the check that fails, a part of the mend
BROKEN = {
    "a norm that averages over positions": (
        NORM.format("x / x.abs().mean((1, -1), keepdim=True).add(1e-5) * self.gain"),
        "causality",
        "changes the logits at position 0; mask what comes after each position",
    ),
    "a norm that averages over the batch": (
        NORM.format("x / x.abs().mean((0, -1), keepdim=True).add(1e-5) * self.gain"),
        "causality",
        "compute each row on its own",
    ),
    "a norm that leaks in training only": (
        NORM.format("(x - x.mean((0, 1), keepdim=True) if self.training else x) * self.gain"),
        "causality",
        "in training a change of token",
    ),
    "an attention that sees the future": (
        ATTENTION.format("x.mean(1, keepdim=True).expand_as(x)"),
        "causality",
        "mask what comes after each position",
    ),
    "an attention that forgets its cache": (
        ATTENTION.format("x.cumsum(1)"),
        "cache",
        "(a token read alone) differ by",
    ),
    "a parameter that is not used": (NORM.format("x"), "gradients", "norm.gain has no gradient; use it in forward"),
    "a parameter without effect": (NORM.format("x + 0 * self.gain"), "gradients", "norm.gain has a gradient of zero"),
    "a norm that overflows in float16": (
        NORM.format("x * (1e5 * x.half()).square().mean(-1, keepdim=True).to(x.dtype) * self.gain"),
        "bf16",
        "compute sensitive parts in float32",
    ),
    "a norm that divides by a variance that bf16 rounds to 0": (
        NORM.format("x / (((x + 300).bfloat16() - 300).var(-1, keepdim=True).to(x.dtype)) * self.gain"),
        "bf16",
        "compute sensitive parts in float32",
    ),
    "a norm that loses its digits in bf16": (
        NORM.format("(torch.cat([x, x + 100], -1) - 100)[..., x.shape[-1] :] * self.gain * 100"),
        "bf16",
        "off with bf16 weights; compute sensitive parts in float32",
    ),
    "a norm whose product has no formula": (
        NORM.format("torch.fft.irfft(torch.fft.rfft(x, dim=-1), n=x.shape[-1], dim=-1) * self.gain"),
        "cost",
        "is not in the FLOP count",
    ),
    "a bias that bias=false cannot remove": (
        NORM.format("x * self.gain + self.my_bias").replace(
            "self.gain =", "self.my_bias = nn.Parameter(torch.zeros(dim)); self.gain ="
        ),
        "bias=false",
        "norm.my_bias of norm=broken is a bias; make it depend on a setting `bias: bool = True`",
    ),
    "a matrix that is in no known layer": (
        FFN.format("", "nn.Conv1d(dim, dim, 1), nn.Linear(dim, dim)"),
        "builds",
        "ffn.up.weight is a matrix whose role is not said",
    ),
    "a matrix that may be the last before the stream": (
        FFN.format("", "nn.Linear(dim, dim), nn.Linear(dim, dim)").replace("return self.down(", "return F.gelu("),
        "builds",
        "whether what blocks.0.ffn.up.weight gives is added to the residual stream cannot be told",
    ),
    "a head whose weights are the same for every seed": (
        HEAD.format("table(vocab_size, dim, 'head')")
        + "    def init_weights(self, generator):\n"
        + "        self.weight.data.normal_(generator=torch.Generator().manual_seed(0))\n",
        "initial weights",
        "head.weight is the same for every seed",
    ),
    "a head whose weights numpy draws": (
        HEAD.format("table(vocab_size, dim, 'head')")
        + "    def init_weights(self, generator):\n"
        + "        self.weight.data = torch.tensor(np.random.default_rng().normal(size=self.weight.shape)).float()\n",
        "initial weights",
        "head.weight is different when the same model is built again",
    ),
    "a norm of the wrong shape": (NORM.format("x.mean(-1)"), "builds", "Error"),
    "a norm that fails with an error": (NORM.format("x / 0 + nothing"), "builds", "name 'nothing' is not defined"),
    "a schedule above its peak": (SCHEDULE.format("2.0"), "factor", "factor(0, peak) is 2"),
    "an optimizer that leaves out a parameter": (
        OPTIMIZER.format("list(parameters)[1:]", 1),
        "updates",
        "never changes; put every parameter",
    ),
    "an optimizer that keeps more than it says": (OPTIMIZER.format("parameters", 0), "cost", "return 1"),
    "a text of its own each time": (
        TEXT.format("'to be or not to be ' * 200 + str(np.random.default_rng().random())"),
        "same text",
        "draw from a generator with a fixed seed",
    ),
    "a tokenizer that loses case": (
        TOKENIZER.format("text.lower()", "{'name': 'broken'}"),
        "lossless",
        "keep every character",
    ),
    "a tokenizer saved under another name": (TOKENIZER.format("text", "{'name': 'byte'}"), "lossless", "'broken'"),
}


@pytest.fixture
def write(tmp_path, monkeypatch, own_registry):
    """Write a component file into an empty folder, and give `use=FILE`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))

    def write(source, name="broken_component.py"):
        (tmp_path / name).write_text(textwrap.dedent(source))
        return f"use={name}"

    return write


def failures(*overrides):
    return {o.check: o.remark for o in check_components(overrides, Console(quiet=True)) if not o.passed}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_is_found_with_its_mend(fault, write):
    source, check, mend = BROKEN[fault]
    failed = failures(write(HEADER + source))
    assert mend in failed.get(check, ""), failed


@pytest.mark.parametrize("kind", COUNTERPARTS)
def test_a_template_passes(kind, write):
    assert failures(write((TEMPLATES / f"{kind}.py").read_text(), f"my_{kind}.py")) == {}


@pytest.mark.parametrize(
    "choice",
    [
        *("norm=layernorm", "qk_norm=rmsnorm", "placement=double", "block=parallel", "ffn=swiglu", "position=rope"),
        *("attention=softmax", "embedding=table", "head=linear", "model=rnn", "init=mup", "optimizer=muon"),
        *("schedule=wsd", "data=grammar", "tokenizer=char", "match=params"),
    ],
)
def test_a_component_of_gptlab_passes(choice, write):
    assert failures(choice) == {}


@pytest.mark.slow
@pytest.mark.parametrize("entry", [e for e in registry.entries() if e.kind in ("norm", "ffn", "position", "placement")])
def test_every_component_of_gptlab_passes(entry, write):
    leak = ["norm.allow_leak=true"] if getattr(entry.cls, "leaks", False) else []
    assert failures(f"{entry.kind}={entry.name}", *leak) == {}


def run(capsys, *words):
    with pytest.raises(SystemExit) as exit:
        main(["check", *words])
    return exit.value.code, *capsys.readouterr()


def test_plain_layers_of_torch_pass(write):
    assert failures(write(HEADER + FFN.format("", "nn.Linear(dim, dim), nn.Linear(dim, dim)"))) == {}


def test_the_roles_that_a_component_has_are_shown(write, capsys):
    use = write(HEADER + FFN.format("", "nn.Linear(dim, dim), nn.Linear(dim, dim)"))
    assert "input: up.weight; residual: down.weight; bias: up.bias, down.bias" in run(capsys, use)[1]


def test_each_check_is_a_line_and_the_exit_code_says_whether_all_passed(write, capsys):
    code, out, _ = run(capsys, write((TEMPLATES / "norm.py").read_text(), "my_good_norm.py"))
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "norm=my_norm" and lines[-1] == f"{len(MODEL_CHECKS) + 1} checks passed, 0 failed"
    assert [line.split()[0] for line in lines[1:-1]] == ["pass"] * (len(MODEL_CHECKS) + 1)
    code, out, _ = run(capsys, write(HEADER + NORM.format("x")))
    assert code == 1 and "  FAIL  gradients         " in out and out.endswith(" checks passed, 1 failed\n")


def test_the_error_of_a_component_is_told_with_its_line(write):
    [message] = failures(write(HEADER + NORM.format("x + nothing"))).values()
    assert message.startswith("NameError: name 'nothing' is not defined (broken_component.py:")


def test_settings_and_other_components_can_be_chosen(write):
    use = write((TEMPLATES / "norm.py").read_text(), "my_chosen_norm.py")
    assert failures(use, "qk_norm=my_norm", "placement=post", "size.n_layer=1") == {}
    assert "builds" in failures(use, "norm=my_norm", "norm.eps=-1")


def test_only_the_chosen_one_of_a_file_is_checked(write):
    use = write(
        HEADER + NORM.format("x") + NORM.format("x * self.gain").replace("broken", "sound").replace("Brok", "S")
    )
    assert failures(use, "norm=sound") == {}
    assert failures(use) != {}


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "gptlab: check: no component to check; give use=FILE with one, or choose one, such as norm=rmsnorm"),
        (["use=nowhere.py"], "gptlab: use=nowhere.py: no such file"),
        (["norm=rmsnrom"], "gptlab: norm=rmsnrom: no such option"),
        (["size.dim=32"], "gptlab: check: no component to check"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, line, write, capsys):
    code, out, err = run(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(line)


def test_a_file_without_a_component_is_named(write, capsys):
    use = write("x = 1\n")
    code, out, err = run(capsys, use)
    assert (code, out) == (2, "")
    assert err == f"gptlab: check {use}: registers no component; decorate one with @register\n"


def test_the_document_has_every_check(write, capsys):
    code, out, _ = run(capsys, write(HEADER + NORM.format("x")), "--json")
    document = json.loads(out)
    assert code == 1 and document["verb"] == "check"
    assert (document["passed"], document["failed"]) == (len(MODEL_CHECKS), 1)
    assert document["checks"][0].keys() == {"component", "check", "passed", "remark"}
