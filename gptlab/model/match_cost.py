"""Fair arms: an arm's FFN is made as wide as it takes to cost what the baseline costs.

The figure of `match=` is an affine function of `ffn.hidden`, so two widths give the one that meets the baseline's. An
arm that is within `match.tolerance` as it stands is left alone; of the others the nearest multiple of
`ffn.multiple_of` is taken, and one that cannot be met is refused with the nearest that there is.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from gptlab.config import ConfigError, Settings, plain, registry
from gptlab.config.compose import C, edit, load_settings
from gptlab.config.registry import register
from gptlab.model.build import slots_used
from gptlab.model.cost import figure

WIDTH = "ffn.hidden"


class Match:
    """The cost that `match=` makes equal."""

    figure: ClassVar[str] = ""  # of measure.cost; empty: none
    words: ClassVar[str] = ""

    def __init__(self, *, tolerance: float = 0.01, reference: float | None = None):
        if tolerance <= 0:
            raise ValueError(f"tolerance={tolerance}: must be above 0, such as 0.01")
        if reference is not None and reference <= 0:
            raise ValueError(f"reference={reference}: must be above 0; null for the baseline's")
        self.tolerance, self.reference = tolerance, reference


@register("match", "none")
class NoMatch:
    """Every arm keeps the width that it asks for."""

    figure: ClassVar[str] = ""


@register("match", "params", source="arXiv:2002.05202, section 2")
class Parameters(Match):
    """As many parameters, those of embeddings and of an output matrix aside."""

    figure = "parameters_non_embedding"
    words = "parameters without embeddings"


@register("match", "flops", source="arXiv:2001.08361, section 2")
class Flops(Match):
    """As many FLOPs per training token."""

    figure = "flops_per_token"
    words = "FLOPs per token"


@dataclass(frozen=True)
class Matched:
    """What matching made of an arm, for the record."""

    to: str  # params or flops
    reference: float  # the baseline's figure
    before: float  # the arm's own, and its FFN's width
    width_before: int
    reached: float  # afterwards
    width: int

    @property
    def off(self) -> float:
        """The share by which the arm still differs from the baseline."""
        return self.reached / self.reference - 1

    def record(self) -> dict[str, Any]:
        return asdict(self) | {"off": self.off}

    def describe(self) -> str:
        """One line for the user."""
        what = f"{WIDTH} {self.width_before} -> {self.width}" if self.width != self.width_before else "as it is"
        return f"{self.to}: {what}; {self.reached:,.0f} for the baseline's {self.reference:,.0f} ({self.off:+.2%})"


def matched(cfg: C) -> tuple[C, Matched | None]:
    """The config with the width that `match=` asks for, and what was done; None where it asks for nothing.

    Needs the vocabulary's size. Raises ConfigError if no width is near enough.
    """
    if cfg.match.name == "none":
        return cfg, None
    match = registry.build("match", cfg.match)
    arm = Settings.of(plain(cfg))
    if "ffn" not in slots_used(arm):
        raise ConfigError(f"match={cfg.match.name}: model={cfg.model.name} has no ffn to make wider; leave it out")
    reference = match.reference or figure(_usual(arm), match.figure)
    before, width_before, slope = _line(arm, match.figure)
    done = Matched(cfg.match.name, reference, before, width_before, before, width_before)
    if abs(done.off) > match.tolerance:
        width = _nearest(width_before + (reference - before) / slope, arm.ffn.get("multiple_of", 1))
        reached = figure(_with_width(arm, width), match.figure)
        done = Matched(cfg.match.name, reference, before, width_before, reached, width)
        if abs(done.off) > match.tolerance:
            raise ConfigError(_refusal(done, match))
        cfg = _with_width(cfg, width)
    return cfg, done


def _usual(cfg: Settings) -> Settings:
    """conf/config.yaml's architecture at the size, and for the data, of `cfg`."""
    same = {section: cfg[section] for section in ("size", "data", "tokenizer")}
    return edit(load_settings(), **same, model__vocab_size=cfg.model.vocab_size)


def _line(cfg: Settings, name: str) -> tuple[float, int, float]:
    """The figure as it stands, the FFN's width, whatever that is computed from, and what a unit of it adds."""
    if "hidden" not in cfg.ffn:
        raise ConfigError(f"match={cfg.match.name}: ffn={cfg.ffn.name} has no setting 'hidden' to solve for; leave it")
    own, narrow, wide = (figure(c, name) for c in (cfg, _with_width(cfg, 64), _with_width(cfg, 128)))
    slope = (wide - narrow) / 64
    if slope <= 0:
        raise ConfigError(f"match={cfg.match.name}: ffn={cfg.ffn.name} costs the same at any ffn.hidden; leave it out")
    return own, 64 + round((own - narrow) / slope), slope


def _nearest(width: float, multiple: int) -> int:
    return max(1, round(width / multiple)) * multiple


def _with_width(cfg: C, width: int) -> C:
    return edit(cfg, ffn__hidden=width)


def _refusal(done: Matched, match: Any) -> str:
    side = "above" if done.off > 0 else "below"
    enough = math.ceil(abs(done.off) * 1000 + 0.5) / 1000
    return (
        f"match={done.to}: {WIDTH}={done.width} is the nearest, {abs(done.off):.2%} {side} the baseline's"
        f" {done.reference:,.0f} {match.words}; set match.tolerance={enough:g} or a smaller ffn.multiple_of"
    )
