import copy

import pytest
import torch
from torch.nn.functional import cross_entropy

from gptlab.config import ConfigError, registry
from gptlab.model.roles import MATRICES, role_of, tag
from tiny import VOCAB, WINDOW, component, noise, telling_model, tiny_model, tokens

OPTIMIZERS = registry.names("optimizer")


def step(model, optimizers):
    loss = cross_entropy(model(tokens()).flatten(0, 1), tokens().roll(-1, 1).flatten())
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss_of_every_parameter(name):
    model = tiny_model("position=learned head.tied=false")
    start = {n: p.clone() for n, p in model.named_parameters()}
    optimizers = component("optimizer", name, lr=3e-3).build(model.parameters())
    losses = [step(model, optimizers) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.1
    assert not [n for n, p in model.named_parameters() if torch.equal(p, start[n]) and not n.endswith("k.bias")]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_in_one_group(name):
    model = tiny_model()
    groups = [g for o in component("optimizer", name).build(model.parameters()) for g in o.param_groups]
    held = [p for g in groups for p in g["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_has_as_many_tensors_as_slots_says(name):
    model, option = tiny_model(), component("optimizer", name)
    optimizers = option.build(model.parameters())
    step(model, optimizers)
    held = {p: s for o in optimizers for p, s in o.state.items()}
    for p in model.parameters():
        tensors = [t for t in held.get(p, {}).values() if torch.is_tensor(t) and t.shape == p.shape and p.ndim]
        assert len(tensors) == option.slots(p)


@pytest.mark.parametrize("decay", ["matrices", "all"])
def test_adamw_decays_by_role(decay):
    model = tiny_model("head.tied=false")
    (adamw,) = component("optimizer", "adamw", weight_decay=0.3, decay=decay).build(model.parameters())
    for group in adamw.param_groups:
        for p in group["params"]:
            assert group["weight_decay"] == (0.3 if decay == "all" or role_of(p) in MATRICES else 0.0), role_of(p)


@pytest.mark.parametrize(
    ("name", "theirs", "knobs"),
    [
        ("adamw", torch.optim.AdamW, {"lr": 0.02, "weight_decay": 0.3, "eps": 1e-6}),
        ("sgd", torch.optim.SGD, {"lr": 0.5, "weight_decay": 0.3, "momentum": 0.7, "nesterov": True}),
        ("sgd", torch.optim.SGD, {"lr": 0.5, "momentum": 0.0}),
    ],
)
def test_a_fused_optimizer_computes_what_torchs_does(name, theirs, knobs):
    ours_model, theirs_model = tiny_model(), tiny_model()
    ours = component("optimizer", name, decay="all", **knobs).build(ours_model.parameters())
    extra = {"betas": (0.9, 0.99)} if name == "adamw" else {}
    reference = [theirs(theirs_model.parameters(), fused=True, **knobs, **extra)]
    for _ in range(5):
        assert step(ours_model, ours) == pytest.approx(step(theirs_model, reference), abs=1e-6)
    for a, b in zip(ours_model.parameters(), theirs_model.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_adamw_is_the_equation():
    p = torch.nn.Parameter(tag(noise(3, 3).clone(), "input"))
    expected, m, v = p.detach().clone(), 0, 0
    knobs = {"lr": 0.1, "weight_decay": 0.5, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3}
    (adamw,) = component("optimizer", "adamw", **knobs).build([p])
    for t in range(1, 4):
        p.grad = noise(3, 3) * t
        adamw.step()
        m, v = 0.8 * m + 0.2 * p.grad, 0.9 * v + 0.1 * p.grad**2
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-3)
    torch.testing.assert_close(p.data, expected)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_a_torch_optimizer_with_state_and_schedulers(name):
    """Saved after two steps and loaded into another one, it goes on as if it had not been interrupted."""
    models, runs = [tiny_model(), tiny_model()], []
    for model in models:
        optimizers = component("optimizer", name, lr=1e-3).build(model.parameters())
        assert all(isinstance(optimizer, torch.optim.Optimizer) for optimizer in optimizers)
        runs.append((optimizers, [torch.optim.lr_scheduler.StepLR(o, step_size=1, gamma=0.5) for o in optimizers]))
    (ours, schedulers), (others, _) = runs
    for _ in range(2):
        step(models[0], ours)
        for scheduler in schedulers:
            scheduler.step()
    assert {group["lr"] for optimizer in ours for group in optimizer.param_groups} == {1e-3 / 4}
    models[1].load_state_dict(models[0].state_dict())
    for optimizer, other in zip(ours, others, strict=True):
        other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, optimizers in zip(models, (ours, others), strict=True):
        step(model, optimizers)
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True))


def test_lion_is_the_equation():
    p = torch.nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 3.0]]))
    (lion,) = component("optimizer", "lion", lr=0.1, weight_decay=0.5, beta1=0.5, beta2=0.9).build([p])
    p.grad = torch.tensor([[2.0, -1.0], [0.0, 4.0]])
    lion.step()  # the momentum is 0: the sign of the gradient, after a decay by 0.95
    torch.testing.assert_close(p.data, torch.tensor([[0.85, -1.8], [0.475, 2.75]]))
    p.grad = torch.tensor([[-0.1, 0.5], [1.0, -1.0]])
    lion.step()  # the momentum is 0.1 g1: 0.5 m + 0.5 g2 = [[0.05, 0.2], [0.5, -0.3]]
    torch.testing.assert_close(p.data, torch.tensor([[0.7075, -1.81], [0.35125, 2.7125]]))
    torch.testing.assert_close(lion.state[p]["momentum"], torch.tensor([[0.17, -0.04], [0.1, 0.26]]))


def test_muon_takes_the_matrices_of_the_blocks_and_adamw_the_rest():
    model = tiny_model("head.tied=false ffn=swiglu")
    muon, adamw = component("optimizer", "muon").build(model.parameters())
    assert isinstance(muon, torch.optim.Muon)
    names = {p: n for n, p in model.named_parameters()}
    taken = {names[p] for g in muon.param_groups for p in g["params"]}
    assert taken == {n for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2}


def test_a_step_of_muon_has_the_size_of_adamw_s_and_is_even_along_every_direction():
    p = tag(torch.nn.Parameter(torch.zeros(32, 16)), "input")
    other = tag(torch.nn.Parameter(torch.zeros(3)), "gain")
    muon, _ = component("optimizer", "muon", lr=0.01, weight_decay=0.0).build([p, other])
    u, _, v = torch.linalg.svd(noise(32, 16).float(), full_matrices=False)
    p.grad = u @ torch.diag(torch.logspace(0, -1, 16)) @ v
    muon.step()
    assert p.square().mean().sqrt().item() == pytest.approx(0.2 * 0.01, rel=0.2)  # arXiv:2502.16982, section 2.2
    sizes = torch.linalg.svdvals(p.detach())
    assert sizes[-1] > 0.5 * sizes[0]


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_is_the_equation(nesterov):
    p = torch.nn.Parameter(tag(noise(3, 3).clone(), "input"))
    expected, m = p.detach().clone(), 0
    knobs = {"lr": 0.1, "weight_decay": 0.5, "momentum": 0.8, "nesterov": nesterov}
    (sgd,) = component("optimizer", "sgd", **knobs).build([p])
    for t in range(1, 4):
        p.grad = noise(3, 3) * t
        g = p.grad + 0.5 * expected
        sgd.step()
        m = 0.8 * m + g
        expected = expected - 0.1 * (g + 0.8 * m if nesterov else m)
    torch.testing.assert_close(p.data, expected)


@pytest.mark.parametrize(
    ("name", "knobs", "line"),
    [
        ("adamw", {"lr": 0.0}, r"^optimizer.lr=0.0: must be above 0$"),
        ("lion", {"weight_decay": -1.0}, r"^optimizer.weight_decay=-1.0: must not be negative$"),
        ("muon", {"momentum": 1.0}, r"^optimizer.momentum=1.0: must be at least 0 and below 1$"),
        ("sgd", {"momentum": 0.0, "nesterov": True}, r"^optimizer.nesterov=true: needs a momentum above 0$"),
    ],
)
def test_an_impossible_setting_is_refused(name, knobs, line):
    with pytest.raises(ConfigError, match=line):
        component("optimizer", name, **knobs)


@pytest.mark.parametrize("weight", [1e-3, 0.5])
def test_z_loss_is_the_formula_and_leaves_the_logits_alone(weight):
    model, plain = telling_model(f"head.z_loss={weight}"), telling_model()
    logits = model(tokens())
    assert torch.equal(logits, plain(tokens()))
    z = torch.log(torch.exp(logits).sum(-1))  # (B, T)
    assert logits.shape == (2, WINDOW, VOCAB)
    assert model.auxiliary_loss(logits).item() == pytest.approx(weight * (z**2).mean().item(), rel=1e-5)
    assert plain.auxiliary_loss(logits) is None
