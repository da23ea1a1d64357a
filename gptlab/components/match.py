"""In what an arm is made equal to the baseline, by the width of its FFN; see gptlab/match.py.

tolerance   the share by which the two may still differ.
reference   the baseline's figure; null: that of conf/config.yaml at this size. A sweep sets it.
"""

from typing import ClassVar

from gptlab.registry import register


class Match:
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
