"""A component of plain torch layers is as fair as one of gptlab's, or is refused with the mend."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gptlab import register
from gptlab.config import ConfigError, registry
from gptlab.model.dropout import Dropout
from gptlab.model.roles import role_of, tag
from gptlab.runs.record import read_metrics
from tiny import tiny_model, tokens

pytestmark = pytest.mark.usefixtures("own_registry")


def plain_gelu(bias_setting=True):
    """A word-for-word copy of ffn=gelu with torch's own layers, with a setting for the bias or without."""
    if bias_setting:

        @register("ffn", "copy")
        class Copy(nn.Module):
            def __init__(self, dim: int, dropout: float, *, expansion: float = 4.0, bias: bool = True):
                super().__init__()
                self.up = nn.Linear(dim, int(expansion * dim), bias=bias)
                self.down = nn.Linear(int(expansion * dim), dim, bias=bias)
                self.dropout = nn.Dropout(dropout)

            def forward(self, x):
                return self.dropout(self.down(F.gelu(self.up(x))))
    else:

        @register("ffn", "copy")
        class Copied(nn.Module):
            def __init__(self, dim: int, dropout: float):
                super().__init__()
                self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
                self.dropout = nn.Dropout(dropout)

            def forward(self, x):
                return self.dropout(self.down(F.gelu(self.up(x))))


def plain_swiglu():
    @register("ffn", "copy")
    class Copy(nn.Module):
        def __init__(self, dim: int, *, bias: bool = True):
            super().__init__()
            width = round(8 / 3 * dim / 8) * 8
            self.gate, self.up = nn.Linear(dim, width, bias=bias), nn.Linear(dim, width, bias=bias)
            self.down = nn.Linear(width, dim, bias=bias)

        def forward(self, x):
            return self.down(F.silu(self.gate(x)) * self.up(x))


def plain_layernorm():
    @register("norm", "copy")
    class Copy(nn.LayerNorm):
        def __init__(self, dim: int, *, eps: float = 1e-5, bias: bool = True):
            super().__init__(dim, eps=eps, bias=bias)


def plain_softmax():
    @register("attention", "copy")
    class Copy(nn.Module):
        def __init__(self, dim: int, n_head: int):
            super().__init__()
            self.n_head = n_head
            self.q, self.k, self.v, self.out = (nn.Linear(dim, dim) for _ in range(4))

        def forward(self, x, position, cache=None):
            B, T, C = x.shape
            q, k, v = (f(x).view(B, T, self.n_head, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).reshape(B, T, C))


def plain_table():
    @register("embedding", "copy")
    class Copy(nn.Module):
        def __init__(self, dim: int, vocab_size: int):
            super().__init__()
            self.table = nn.Embedding(vocab_size, dim)

        @property
        def weight(self):
            return self.table.weight

        def forward(self, tokens):
            return self.table(tokens)


def plain_head():
    @register("head", "copy")
    class Copy(nn.Module):
        def __init__(self, dim: int, vocab_size: int, *, scale: float = 1.0):
            super().__init__()
            self.out = nn.Linear(dim, vocab_size, bias=False)

        def forward(self, x, embedding=None):
            return 30 * torch.tanh(self.out(x) / 30)


COPIES = {
    "ffn=gelu": plain_gelu,
    "ffn=swiglu": plain_swiglu,
    "norm=layernorm": plain_layernorm,
    "attention=softmax": plain_softmax,
}
INITS = [name for name in registry.names("init") if name != "kaiming"]


def same(copy, original):
    """Compare names, roles and start values of the parameters of two models."""
    own, other = dict(copy.named_parameters()), dict(original.named_parameters())
    own = {name.replace(".weight", ".gain") if "norm" in name else name: p for name, p in own.items()}
    assert own.keys() == other.keys()
    without_gate = {"gate": "input"}  # no init and no optimizer tells them apart
    assert {k: role_of(p) for k, p in own.items()} == {
        k: without_gate.get(role_of(p), role_of(p)) for k, p in other.items()
    }
    assert not [name for name, p in own.items() if not torch.equal(p, other[name])]


@pytest.mark.parametrize("bias", ["", "bias=false"])
@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("original", COPIES)
def test_a_copy_of_plain_layers_starts_bit_identical(original, init, bias):
    if original == "attention=softmax" and init == "mup":
        pytest.skip("the copy has no setting `scale`")
    COPIES[original]()
    copy = f"{original.partition('=')[0]}=copy"
    more = [word for word in (f"init={init}", bias) if word]
    same(tiny_model(copy, *more), tiny_model(original, *more))
    with torch.device("meta"):
        shapes, known = tiny_model(copy, *more), tiny_model(copy, *more)
    assert [role_of(p) for p in shapes.parameters()] == [role_of(p) for p in known.parameters()]


def test_bias_false_reaches_a_component_without_such_a_setting():
    plain_gelu(bias_setting=False)
    same(tiny_model("ffn=copy", "bias=false"), tiny_model("ffn=gelu", "bias=false"))
    same(tiny_model("ffn=copy"), tiny_model("ffn=gelu"))


def curve(summary):
    return [line for line in read_metrics(summary["run_dir"]) if "train/loss" in line]


@pytest.mark.parametrize("more", ["", "train.dropout=0.2", "bias=false", "optimizer=muon", "block=parallel"])
def test_a_copy_of_gelu_trains_bit_identically(train_tiny, more):
    plain_gelu(bias_setting=False)
    copy, original = (train_tiny(f"ffn={name}", *filter(None, [more])) for name in ("copy", "gelu"))
    for key in ("val/loss", "parameters", "flops_per_token", "state_bytes"):
        assert copy[key] == original[key], key
    steps = [[(m["train/loss"], m["train/grad_norm"]) for m in curve(summary)] for summary in (copy, original)]
    assert steps[0] == steps[1] and len(steps[0]) == 6
    assert isinstance(tiny_model("ffn=copy").blocks[0].ffn.dropout, Dropout)


def test_tables_and_the_matrix_before_the_logits_have_their_roles():
    plain_table()
    plain_head()
    roles = {name: role_of(p) for name, p in tiny_model("embedding=copy", "head=copy").named_parameters()}
    assert roles["embedding.table.weight"] == "embedding" and roles["head.out.weight"] == "head"


# What comes after the matrix -> whether it is the last one before the stream; None if that cannot be told
ENDS = {
    "self.down(h)": "residual",
    "0.5 * self.down(h)": "residual",
    "self.scale * self.down(h)": "residual",
    "x - self.down(h)": "residual",
    "self.down(h).view(1, *x.shape).sum(0)": "residual",
    "self.down(h).unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)": "residual",
    "self.down(h) + self.down(h.flip(-1))": "residual",
    "self.other(self.down(h))": "input",
    "self.other(F.relu(self.down(h)))": "input",
    "torch.tanh(self.down(h))": None,
    "self.norm(self.down(h))": None,
    "self.down(h) * torch.sigmoid(self.other(x))": None,
    "self.down(h).square()": None,
}


@pytest.mark.parametrize("end", ENDS)
def test_the_last_matrix_is_found_by_what_follows_it(end):
    returned = eval(f"lambda self, x, h: {end}")

    @register("ffn", "ends")
    class Ends(nn.Module):
        def __init__(self, dim: int):
            super().__init__()
            self.up, self.down, self.other = (nn.Linear(dim, dim) for _ in range(3))
            self.norm, self.scale = nn.LayerNorm(dim), nn.Parameter(torch.ones(dim))

        def forward(self, x):
            return returned(self, x, F.gelu(self.up(x))) + 0 * self.scale

    if ENDS[end] is None:
        with pytest.raises(ConfigError, match=r"ffn=ends: whether what blocks.0.ffn.(down|other).weight gives"):
            tiny_model("ffn=ends")
        return
    model = tiny_model("ffn=ends")
    ffn = model.blocks[1].ffn
    assert (role_of(ffn.down.weight), role_of(ffn.up.weight)) == (ENDS[end], "input")
    assert model(tokens()).isfinite().all()


def test_a_matrix_in_a_block_and_one_in_a_placement_are_known_by_their_place():
    @register("block", "gated")
    class Gated(nn.Module):
        def __init__(self, dim: int, attention, ffn):
            super().__init__()
            self.attention, self.ffn = attention(), ffn()
            self.mix, self.read = nn.Linear(dim, dim), nn.Linear(dim, dim)

        def forward(self, x, position, cache=None):
            x = x + self.attention(x, position, cache)
            return x + self.ffn(x) + self.mix(torch.tanh(self.read(x)))

    block = tiny_model("block=gated", "placement=none").blocks[0]
    assert (role_of(block.mix.weight), role_of(block.read.weight)) == ("residual", "input")


def test_what_is_tagged_keeps_its_role():
    @register("ffn", "tagged")
    class Tagged(nn.Module):
        def __init__(self, dim: int):
            super().__init__()
            self.w, self.down = nn.Parameter(torch.empty(dim, dim)), nn.Linear(dim, dim)
            tag(self.w, "gate")
            tag(self.down.weight, "input")

        def forward(self, x):
            return torch.tanh(self.down(x @ self.w))

    ffn = tiny_model("ffn=tagged").blocks[0].ffn
    assert [role_of(p) for p in (ffn.w, ffn.down.weight, ffn.down.bias)] == ["gate", "input", "bias"]


def module_of(make):
    class Made(nn.Module):
        def __init__(self, dim: int):
            super().__init__()
            self.part, self.down = make(dim), nn.Linear(dim, dim)

        def forward(self, x):
            return self.down(x)

    return Made


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda dim: nn.ParameterList([torch.zeros(dim, dim)]), "part.0"),
        (lambda dim: nn.Conv1d(dim, dim, 3), "part.weight"),
        (lambda dim: nn.MultiheadAttention(dim, 1), "part.in_proj_weight"),
        (lambda dim: nn.GRU(dim, dim), "part.weight_ih_l0"),
        (lambda dim: nn.Bilinear(dim, dim, dim), "part.weight"),
    ],
)
def test_a_matrix_outside_of_known_layers_must_say_its_role(make, name):
    register("ffn", "other")(module_of(make))
    line = rf"^ffn=other: blocks.0.ffn.{name} is a matrix whose role is not said; tag\(parameter, role\) and Linear\("
    with pytest.raises(ConfigError, match=line):
        tiny_model("ffn=other")


def test_a_bias_that_cannot_be_removed_is_named():
    @register("ffn", "shifted")
    class Shifted(nn.Module):
        def __init__(self, dim: int):
            super().__init__()
            self.down, self.out_bias = nn.Linear(dim, dim), nn.Parameter(torch.ones(dim))

        def forward(self, x):
            return self.down(x) + self.out_bias

    ffn = tiny_model("ffn=shifted").blocks[0].ffn
    assert (
        role_of(ffn.out_bias) == "bias" and ffn.out_bias.mean() == 1
    )  # a component's own vectors start as it made them
    with pytest.raises(
        ConfigError, match=r"^bias=false: blocks.0.ffn.out_bias of ffn=shifted is a bias; make it depend"
    ):
        tiny_model("ffn=shifted", "bias=false")


def test_an_init_that_needs_gains_refuses_matrices_that_do_not_say_theirs():
    plain_gelu()
    line = r"^init=kaiming: scales blocks.0.ffn.up.weight by the gain of the non-linearity before it, which nobody says"
    with pytest.raises(ConfigError, match=line):
        tiny_model("ffn=copy", "init=kaiming")
