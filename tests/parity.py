"""Compare gptlab with tiny models of every family of transformers: logits, gradients, weights, generation.

`make parity` prints a table, and test_parity.py holds every row of it to the limits below.
"""

import copy
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging

import parity_configs
import parity_more
from gptlab.convert import from_hf, to_hf
from gptlab.model.generate import generate
from gptlab.model.gpt import LanguageModel
from parity_configs import WINDOW

VOCAB, PROMPT = 37, 8
LENGTHS = (1, 7, WINDOW)
LOGITS, GRADIENTS = 2e-5, 1e-4  # limits, as shares of the logits' spread and of a weight's largest gradient
SILENT = 1e-6  # a gradient below this share of the model's largest is rounding error

CONFIGS = parity_configs.CONFIGS | parity_more.CONFIGS
CASES = [(kind, i) for kind, configs in CONFIGS.items() for i in range(len(configs))]


@dataclass(frozen=True)
class Parity:
    """The differences between a model of transformers and gptlab's; gradients are shares."""

    kind: str
    logits: float
    spread: float  # standard deviation of their logits
    gradients: float
    silent: float
    round_trip: list[str]  # what differs after from_hf and to_hf
    written: float  # difference of the logits if to_hf does not know their config
    generations: list[list[int]]

    @property
    def good(self) -> bool:
        near = worst([self.logits, self.written]) < LOGITS * self.spread and self.gradients < GRADIENTS
        return near and self.silent < SILENT and not self.round_trip and self.same_tokens

    @property
    def same_tokens(self) -> bool:
        return all(tokens == self.generations[0] for tokens in self.generations)


def redrawn(model_type: str, flags: dict, seed: int = 0) -> Any:
    """Return a model of transformers whose parameters are all random, so that each of them has an effect."""
    torch.manual_seed(seed)
    logging.set_verbosity_error()  # it warns that token 50256 is not in a vocabulary of 37
    config = AutoConfig.for_model(model_type, **({"vocab_size": VOCAB} | flags))
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False):
                start = p.mean() if "Norm" in type(module).__name__ and name == "weight" else 0.0  # 1, or 0 if centred
                p.normal_(0, 0.25).add_(start)
    return model.eval()


def random_tokens(model: Any, batch: int, length: int) -> Tensor:
    """Return random tokens, (batch, length), with the padding token in the middle."""
    tokens = torch.randint(model.config.vocab_size, (batch, length))
    if length > 1 and getattr(model.config, "pad_token_id", None) is not None:
        tokens[:, length // 2] = model.config.pad_token_id
    return tokens


def measure(model_type: str, flags: dict) -> Parity:
    """Compare a model with its conversion, and with the conversion back."""
    theirs = redrawn(model_type, flags)
    ours = from_hf(theirs)
    differences, spreads = [], []
    for length in LENGTHS:
        tokens = random_tokens(theirs, 2, length)
        a, b = theirs(tokens).logits, ours(tokens)
        differences.append(furthest(a, b))
        spreads.append(a.std().item())
        weights = torch.randn_like(a)
        for logits in (a, b):
            (logits * weights).sum().backward()
    differences.append(furthest(a, one_by_one(ours, tokens)))
    back, written = to_hf(ours), to_hf(gradients_as_weights(ours), model_type=model_type)
    gradients, silent = compare_gradients(theirs, written)
    written.load_state_dict(theirs.state_dict())
    return Parity(
        type(back).__name__,
        worst(differences),
        min(spreads),
        gradients,
        silent,
        different(theirs, back),
        furthest(a, written(tokens).logits),
        generations(theirs, ours, back),
    )


def furthest(a: Tensor, b: Tensor) -> float:
    """Return the largest difference."""
    return (a - b).abs().max().item()


def worst(values: Iterable[float]) -> float:
    """Return the largest value, or NaN if there is one, which max() could miss and no limit accepts."""
    return torch.tensor([*values], dtype=torch.float64).max().item()


@torch.no_grad()
def one_by_one(ours: LanguageModel, tokens: Tensor) -> Tensor:
    """Return the logits of `tokens`, read one at a time with a cache."""
    cache = ours.new_cache()
    return torch.cat([ours(token, cache) for token in tokens.split(1, 1)], 1)


def gradients_as_weights(model: LanguageModel) -> LanguageModel:
    """Return a copy without a config of theirs, whose weights are the gradients, so that `to_hf` converts those."""
    copied = copy.deepcopy(model)
    copied.hf_config = None
    with torch.no_grad():
        for p, source in zip(copied.parameters(), model.parameters(), strict=True):
            p.copy_(torch.zeros_like(p) if source.grad is None else source.grad)
    return copied


def compare_gradients(theirs: Any, ours: Any) -> tuple[float, float]:
    """Compare gradients with those in the weights of `ours`.

    Returns:
        The largest relative difference among weights with a gradient, and our largest gradient among the others, as a
        share of the model's largest.
    """
    our_gradients = dict(ours.named_parameters())
    pairs = [
        (torch.zeros_like(p) if p.grad is None else p.grad, our_gradients[n].detach())
        for n, p in theirs.named_parameters()
    ]
    sizes = [g.abs().max().item() for g, _ in pairs]
    largest = worst(sizes)
    relative, silent = [0.0], [0.0]
    for size, (g, own) in zip(sizes, pairs, strict=True):
        if size < SILENT * largest:
            silent.append(own.abs().max().item() / largest)
        else:
            relative.append(furthest(g, own) / size)
    return worst(relative), worst(silent)


def different(a: Any, b: Any) -> list[str]:
    """Return what differs between two models of transformers: class, flags, names or bits of weights, tying."""
    one, two, config = a.state_dict(), b.state_dict(), b.config.to_dict()
    differences = [] if type(a) is type(b) else ["class"]
    differences += [k for k, v in a.config.to_dict().items() if k != "dtype" and config.get(k) != v]
    differences += sorted(one.keys() ^ two.keys())
    differences += [k for k in one.keys() & two.keys() if not torch.equal(one[k], two[k])]
    return differences + ["tying"] * (len(list(a.parameters())) != len(list(b.parameters())))


def generations(theirs: Any, ours: LanguageModel, back: Any) -> list[list[int]]:
    """Return greedy generations over the window: of theirs, ours, and ours converted back, with and without a cache."""
    prompts = random_tokens(theirs, 16, PROMPT)
    likeliest = greedy(theirs, prompts, cached=False)
    logits = theirs(likeliest).logits[:, PROMPT - 1 : -1]
    best, second = logits.topk(2).values.unbind(-1)
    clear = (best - second).min(-1).values > 0.01 * logits.std()  # no near ties
    variety = [len(set(tokens[PROMPT:])) if ok else 0 for tokens, ok in zip(likeliest.tolist(), clear, strict=True)]
    assert max(variety), "every prompt leads to a near tie"
    i = variety.index(max(variety))
    prompt = prompts[i : i + 1]
    return [
        likeliest[i].tolist(),
        *(greedy(model, prompt, cached=cached)[0].tolist() for model in (theirs, back) for cached in (False, True)),
        *(generate(ours, prompt[0].tolist(), WINDOW - PROMPT, temperature=0, cached=c) for c in (False, True)),
    ]


@torch.no_grad()
def greedy(model: Any, prompts: Tensor, *, cached: bool) -> Tensor:
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    mask = torch.ones_like(prompts)  # the padding token is a token here
    n = WINDOW - PROMPT
    return model.generate(prompts, attention_mask=mask, max_new_tokens=n, do_sample=False, use_cache=cached)


def by_family(console: Console) -> dict[str, list[Parity]]:
    results: dict[str, list[Parity]] = {}
    for kind, i in track(sorted(CASES), "comparing", console=console, transient=True):
        results.setdefault(kind, []).append(measure(kind, CONFIGS[kind][i]))
    return results


def table(families: dict[str, list[Parity]]) -> Table:
    columns = ("family", "class", "configs", "logits", "of", "gradients", "weights", "generation")
    result = Table(*columns, title=f"gptlab and transformers {transformers.__version__}, float32, random weights")
    for kind, rows in families.items():
        good = sum(r.good for r in rows)
        result.add_row(
            kind,
            rows[0].kind,
            f"{good}/{len(rows)}",
            f"{worst(r.logits for r in rows):.1e}",
            f"{min(r.spread for r in rows):.2f}",
            f"{worst(r.gradients for r in rows):.1e}",
            "changed" if any(r.round_trip for r in rows) else "same",
            "same" if all(r.same_tokens for r in rows) else "differs",
            style=None if good == len(rows) else "red",
        )
    return result


def main() -> int:
    torch.set_num_threads(1)
    console = Console(width=max(110, Console().width))
    families = by_family(console)
    console.print(table(families))
    console.print(
        "configs     tiny configs that agree, of those compared; together they have every value of every flag\n"
        f"logits      largest difference, at {', '.join(map(str, LENGTHS))} tokens and one by one with a cache\n"
        "of          smallest standard deviation of the logits\n"
        "gradients   largest difference, as a share of the weight's largest gradient\n"
        "weights     with names, class and config, after from_hf and to_hf, bit for bit\n"
        "generation  greedy, token by token: theirs, ours, and ours after to_hf, each with and without a cache"
    )
    return 0 if all(r.good for rows in families.values() for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
