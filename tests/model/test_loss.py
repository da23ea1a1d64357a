import pytest
import torch

from gptlab.model.loss import NextTokenLoss
from tiny import VOCAB, component, tiny_model, tokens

HEADS = ["", "head.tied=false", "head.softcap=3", "head.z_loss=0.1", "head.bias=true head.scale=0.5 head.tied=false"]
HEADS += ["embedding.width=8 head.width=8", "head.tied=false head.z_loss=0.01 head.softcap=5"]


def whole(model, inputs, targets):
    """The definition."""
    logits = model(inputs)
    extra = model.auxiliary_loss(logits)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    return loss if extra is None else loss + extra, loss


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
@pytest.mark.parametrize("words", HEADS)
def test_a_loss_in_chunks_is_the_whole_one_with_its_gradients(words, chunk):
    model, inputs = tiny_model(words).double(), tokens()
    targets = inputs.roll(-1, 1)
    expected = whole(model, inputs, targets)
    (expected[0] * 0.5).backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    model.zero_grad()
    got = NextTokenLoss(model, chunk)(inputs, targets)
    (got[0] * 0.5).backward()
    # a float64 model's cross-entropy is taken in float32
    torch.testing.assert_close([x.double() for x in got], list(expected), atol=1e-6, rtol=1e-6)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], atol=1e-6, rtol=1e-5)


def test_no_logits_are_larger_than_a_chunk(monkeypatch):
    model, sizes = tiny_model(), []
    head = model.head.forward
    monkeypatch.setattr(model.head, "forward", lambda x, table: sizes.append(len(x)) or head(x, table))
    loss, n = NextTokenLoss(model, 5), tokens().numel()
    loss(tokens(), tokens())[0].backward()
    loss.eval()(tokens(), tokens())
    assert max(sizes) <= 5 and sum(sizes) == 2 * n and max(sizes) - min(sizes) <= 5


def test_the_default_chunk_goes_by_the_vocabulary():
    assert NextTokenLoss(tiny_model(), None).chunk == 2**28 // (4 * VOCAB)
    assert NextTokenLoss(tiny_model("model.vocab_size=50257"), None).chunk == 1335


@pytest.mark.parametrize("chunk", [None, 3])
def test_in_evaluation_each_token_has_what_a_loop_over_tokens_gives(chunk):
    model = tiny_model("head.z_loss=0.3")
    logits = model(tokens()).detach()
    single = [-row.log_softmax(-1)[t] for row, t in zip(logits.flatten(0, 1), tokens().flatten(), strict=True)]
    nats, hits = NextTokenLoss(model, chunk).eval()(tokens(), tokens())
    torch.testing.assert_close(nats.flatten(), torch.stack(single))
    assert torch.equal(hits, logits.argmax(-1) == tokens())


def test_an_auxiliary_loss_outside_the_head_gets_all_logits():
    model, seen = tiny_model(), []
    model.norm.auxiliary_loss = lambda logits: seen.append(logits.shape) or logits.square().mean()
    total, loss = NextTokenLoss(model, 3)(tokens(), tokens())
    assert seen == [(tokens().numel(), VOCAB)] and total > loss
    assert component("head", "linear", dim=4, vocab_size=5).auxiliary_loss(torch.zeros(1, 5)) is None
