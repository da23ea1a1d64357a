"""Rotary positions: transformers' `rope_parameters` and its ways to leave layers out, as settings of position=rope."""

import math
from collections.abc import Callable
from typing import Any

from gptlab.convert.canonical import SCALING_KNOBS
from gptlab.convert.config_fields import Field, Flags, Settings, refuse, shortest_unit
from gptlab.model.position import yarn_attention_factor

YARN = {"beta_slow": 1.0, "beta_fast": 32.0}
SLIDING, FULL = "sliding_attention", "full_attention"


def rope(*, partial: bool = False, pairing: str = "half") -> Field:
    """`rope_parameters`: base, rotary share of a head, and scaling for longer windows."""

    def read(c: Flags) -> Settings:
        p = dict(c["rope_parameters"])
        settings: Settings = {"position": "rope", "position.pairing": pairing, "position.theta": p.pop("rope_theta")}
        fraction = p.pop("partial_rotary_factor", 1.0)
        if partial:
            settings["position.fraction"] = rotary_share(c, fraction)
        elif fraction != 1.0:
            raise refuse("rope_parameters.partial_rotary_factor", fraction, "this class rotates whole heads")
        settings |= rope_scaling(p, c.get("max_position_embeddings"))
        return settings

    def write(s: Settings) -> Flags:
        p = parameters(s)
        if partial:
            p["partial_rotary_factor"] = s["position.fraction"]
        return {"rope_parameters": p}

    return Field(("rope_parameters",), read, write)


def rope_scaling(p: Flags, window: int | None) -> Settings:
    """The settings of what `rope_parameters` has beside base and share; emptied of what is understood."""
    kind = p.pop("rope_type", p.pop("type", "default")) or "default"
    settings: Settings = {"position.scaling": "none"}
    if kind not in ("default", "linear", "dynamic", "llama3", "yarn"):
        raise refuse("rope_parameters.rope_type", kind, "not among default, linear, dynamic, llama3, yarn")
    if kind == "dynamic":  # it is the default up to max_position_embeddings, which is our window
        p.pop("factor")
    elif kind != "default":
        factor = p.pop("factor")
        if kind != "linear":  # where it is left out, transformers takes the window itself
            original: Any = p.pop("original_max_position_embeddings", None) or window
            factor = factor or (window or original) / original
            settings["position.original_window"] = original
        settings |= {"position.scaling": kind, "position.factor": float(factor)}
    if kind == "llama3":
        settings |= {f"position.{k}": float(p.pop(k)) for k in ("low_freq_factor", "high_freq_factor")}
    if kind == "yarn":
        settings |= {f"position.{k}": float(p.pop(k, None) or usual) for k, usual in YARN.items()}
        settings["position.attention_factor"] = _attention_factor(p, settings["position.factor"])
        if p.get("truncate"):
            p.pop("truncate")
    for name, value in p.items():
        if value is not None:
            raise refuse(f"rope_parameters.{name}", value, f"not supported with rope_type={kind}")
    return settings


def _attention_factor(p: Flags, factor: float) -> float:
    """Of YaRN: given, or from the two `mscale`s, or by the paper."""
    given, scale, of_all = (p.pop(k, None) for k in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is None and scale and of_all and factor > 1:
        return (0.1 * scale * math.log(factor) + 1) / (0.1 * of_all * math.log(factor) + 1)
    return given or yarn_attention_factor(factor)


def parameters(s: Settings) -> Flags:
    """`rope_parameters` for these settings, without a share."""
    kind = s["position.scaling"]
    p: Flags = {"rope_theta": s["position.theta"], "rope_type": "default" if kind == "none" else kind}
    for knob in sorted(SCALING_KNOBS[kind]):
        p["original_max_position_embeddings" if knob == "original_window" else knob] = s[f"position.{knob}"]
    return p


def rotary_share(c: Flags, fraction: float) -> float:
    """Of a head's width: transformers takes the whole part of the product."""
    width = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    return int(width * fraction) / width


def rope_by_layer_type() -> Field:
    """`rope_parameters` for each of `layer_types`: the sliding ones have a base of their own and no scaling, or what
    the others have."""

    def read(c: Flags) -> Settings:
        given = {k: dict(v) for k, v in c["rope_parameters"].items() if k in (SLIDING, FULL)}
        if left := set(c["rope_parameters"]) - set(given):
            raise refuse(f"rope_parameters.{left.pop()}", "...", f"must be within {SLIDING} or {FULL}")
        for layer_type, p in given.items():
            if p.get("truncate") is False:
                raise refuse(f"rope_parameters.{layer_type}.truncate", False, "this class does not read it")
        window = c["max_position_embeddings"]
        kinds = {k: {"position.theta": p.pop("rope_theta"), **rope_scaling(p, window)} for k, p in given.items()}
        settings: Settings = {"position": "rope"}
        sliding, full = kinds[SLIDING], kinds[FULL]
        if SLIDING not in c["layer_types"] or sliding == full:
            return settings | full
        if FULL not in c["layer_types"]:
            return settings | sliding
        if sliding["position.scaling"] != "none":
            raise refuse(f"rope_parameters.{SLIDING}.rope_type", sliding["position.scaling"], "must be default")
        pattern = shortest_unit(["L" if t == SLIDING else "R" for t in c["layer_types"]])
        return {**settings, **full, "position.pattern": pattern, "position.local_theta": sliding["position.theta"]}

    def write(s: Settings) -> Flags:
        p = parameters(s)
        local = {"rope_theta": s["position.local_theta"], "rope_type": "default"}
        return {"rope_parameters": {FULL: p, SLIDING: local if s["position.local_theta"] else p}}

    return Field(("rope_parameters", "layer_types"), read, write)


def rotated(
    flags: tuple[str, ...], where: Callable[[Flags], list[bool]], write: Callable[[list[bool]], Flags] | None = None
) -> Field:
    """Which layers are rotated at all. Without `write`, other fields' flags decide it."""

    def read(c: Flags) -> Settings:
        return {"position.pattern": shortest_unit(["R" if turns else "N" for turns in where(c)])}

    return Field(flags, read, lambda s: write([k != "N" for k in s["position.layers"]]) if write else {})


def sliding_only(c: Flags) -> list[bool]:
    """Positions are for the layers with a window; the others find their way without (Command R7B)."""
    return [t == SLIDING for t in c["layer_types"]]
