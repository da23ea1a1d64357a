"""Equal costs: widen or narrow an arm's FFN until the arm costs what the baseline costs.

The cost is an affine function of `ffn.hidden`, so the costs at two widths give the width that matches. An arm within
`match.tolerance` stays as it is. Other arms get the nearest multiple of `ffn.multiple_of`. If that is not near enough,
as happens in small models, and `ffn.multiple_of` is at its default, it is halved until one is. Arms without a width
that is near enough are rejected.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from gptlab.config import ConfigError, Settings, registry
from gptlab.config.compose import edit, load_config
from gptlab.config.registry import register
from gptlab.model.build import slots_used
from gptlab.model.cost import figure

WIDTH, MULTIPLE = "ffn.hidden", "ffn.multiple_of"


class Match:
    """Base of the costs that `match=` can make equal.

    tolerance   largest relative difference from the baseline's cost.
    reference   the cost to match; null: the baseline's.
    """

    figure: ClassVar[str] = ""  # one of cost.FIGURES
    label: ClassVar[str] = ""

    def __init__(self, *, tolerance: float = 0.01, reference: float | None = None):
        if tolerance <= 0:
            raise ValueError(f"tolerance={tolerance}: must be above 0, such as 0.01")
        if reference is not None and reference <= 0:
            raise ValueError(f"reference={reference}: must be above 0; null for the baseline's")
        self.tolerance, self.reference = tolerance, reference


@register("match", "none")
class NoMatch:
    """Every arm keeps its own width."""

    figure: ClassVar[str] = ""


@register("match", "params", source="arXiv:2002.05202, section 2")
class Parameters(Match):
    """Match the number of parameters, without embeddings and an untied output matrix."""

    figure = "parameters_non_embedding"
    label = "parameters without embeddings"


@register("match", "flops", source="arXiv:2001.08361, section 2")
class Flops(Match):
    """Match the FLOPs per training token."""

    figure = "flops_per_token"
    label = "FLOPs per token"


@dataclass(frozen=True)
class CostMatch:
    """The result of matching an arm, for the record."""

    to: str  # params or flops
    reference: float  # the baseline's cost
    before: float  # the arm's cost and the width of its FFN before matching
    width_before: int
    reached: float  # the same after matching
    width: int
    multiple_before: int  # ffn.multiple_of before and after; 1 for an FFN without it
    multiple: int

    @property
    def off(self) -> float:
        """The relative difference from the baseline's cost that is left."""
        return self.reached / self.reference - 1

    @property
    def changed(self) -> dict[str, list[int]]:
        """The settings that matching has changed: key -> values before and after."""
        pairs = {WIDTH: [self.width_before, self.width], MULTIPLE: [self.multiple_before, self.multiple]}
        return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

    def apply(self, cfg: Settings) -> Settings:
        """Return the config with the changed settings."""
        return edit(cfg, **{key.replace(".", "__"): after for key, (_, after) in self.changed.items()})

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"off": self.off}

    def describe(self) -> str:
        """Return one line for the user."""
        change = ", ".join(f"{key} {before} -> {after}" for key, (before, after) in self.changed.items()) or "as it is"
        return f"{self.to}: {change}; {self.reached:,.0f} for the baseline's {self.reference:,.0f} ({self.off:+.2%})"


def apply_cost_match(cfg: Settings) -> tuple[Settings, CostMatch | None]:
    """Return the config with the FFN width that `match=` asks for, and the result; None for match=none.

    The config must have its vocabulary size. Raises ConfigError if no width is near enough.
    """
    if cfg.match.name == "none":
        return cfg, None
    match = registry.build("match", cfg.match)
    if "ffn" not in slots_used(cfg):
        raise ConfigError(f"match={cfg.match.name}: model={cfg.model.name} has no ffn to make wider; leave match out")
    reference = match.reference or figure(_baseline_like(cfg), match.figure)
    before, width_before, slope = _line(cfg, match.figure)
    multiple = cfg.ffn.get("multiple_of", 1)
    result = CostMatch(cfg.match.name, reference, before, width_before, before, width_before, multiple, multiple)
    if abs(result.off) <= match.tolerance:
        return cfg, result
    wanted = width_before + (reference - before) / slope
    for finer in _multiples(cfg):
        width = _nearest(wanted, finer)
        result = replace(result, reached=figure(_with_width(cfg, width), match.figure), width=width, multiple=finer)
        if abs(result.off) <= match.tolerance:
            return result.apply(cfg), result
    raise ConfigError(_refusal(result, match))


def _multiples(cfg: Settings) -> list[int]:
    """Return the multiples of which the width may be one: ffn.multiple_of, and if it is the default its halves."""
    multiple = cfg.ffn.get("multiple_of", 1)
    if multiple != getattr(registry.entry("ffn", cfg.ffn.name).schema(), "multiple_of", None):
        return [multiple]
    return [multiple >> i for i in range(multiple.bit_length()) if multiple % 2**i == 0]


def _baseline_like(cfg: Settings) -> Settings:
    """Return the architecture of conf/config.yaml at the size and for the data of `cfg`."""
    same = {section: cfg[section] for section in ("size", "data", "tokenizer")}
    return edit(load_config(), **same, model__vocab_size=cfg.model.vocab_size)


def _line(cfg: Settings, name: str) -> tuple[float, int, float]:
    """Return the arm's cost, the width of its FFN, and the cost of one unit of width."""
    if "hidden" not in cfg.ffn:
        raise ConfigError(
            f"match={cfg.match.name}: ffn={cfg.ffn.name} has no setting 'hidden'; give it one, or leave match out"
        )
    current, narrow, wide = (figure(c, name) for c in (cfg, _with_width(cfg, 64), _with_width(cfg, 128)))
    slope = (wide - narrow) / 64
    if slope <= 0:
        raise ConfigError(
            f"match={cfg.match.name}: ffn={cfg.ffn.name} costs the same at any ffn.hidden; leave match out"
        )
    return current, 64 + round((current - narrow) / slope), slope


def _nearest(width: float, multiple: int) -> int:
    return max(1, round(width / multiple)) * multiple


def _with_width(cfg: Settings, width: int) -> Settings:
    return edit(cfg, ffn__hidden=width)


def _refusal(result: CostMatch, match: Any) -> str:
    side = "above" if result.off > 0 else "below"
    enough = math.ceil(abs(result.off) * 1000 + 0.5) / 1000
    return (
        f"match={result.to}: {WIDTH}={result.width} is the nearest, {abs(result.off):.2%} {side} the baseline's"
        f" {result.reference:,.0f} {match.label}; set match.tolerance={enough:g} or a smaller ffn.multiple_of"
    )
