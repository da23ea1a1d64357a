"""Rotary positions: `rope_parameters` of transformers, and layers without rotation, as settings of position=rope."""

import math
from collections.abc import Callable
from typing import Any

from gptlab.convert.canonical import SCALING_SETTINGS
from gptlab.convert.config_fields import Field, Flags, FlatConfig, refuse, shortest_unit
from gptlab.model.position import yarn_attention_factor

YARN = {"beta_slow": 1.0, "beta_fast": 32.0}
SLIDING, FULL = "sliding_attention", "full_attention"


def rope(*, partial: bool = False, pairing: str = "half") -> Field:
    """Return a field for `rope_parameters`: base, rotary share of a head, and scaling for longer windows.

    Args:
        partial: Whether the class rotates a share of each head.
        pairing: half or interleaved, as in position.pairing.
    """

    def read(c: Flags) -> FlatConfig:
        p = dict(c["rope_parameters"])
        settings: FlatConfig = {"position": "rope", "position.pairing": pairing, "position.theta": p.pop("rope_theta")}
        fraction = p.pop("partial_rotary_factor", 1.0)
        if partial:
            settings["position.fraction"] = rotary_share(c, fraction)
        elif fraction != 1.0:
            raise refuse("rope_parameters.partial_rotary_factor", fraction, "this class rotates whole heads")
        settings |= rope_scaling(p, c.get("max_position_embeddings"))
        return settings

    def write(s: FlatConfig) -> Flags:
        p = parameters(s)
        if partial:
            p["partial_rotary_factor"] = s["position.fraction"]
        return {"rope_parameters": p}

    return Field(("rope_parameters",), read, write)


def rope_scaling(p: Flags, window: int | None) -> FlatConfig:
    """Return the settings for the entries of `rope_parameters` other than base and share.

    Args:
        p: `rope_parameters`, from which the entries that are understood are removed.
        window: max_position_embeddings.

    Raises:
        Unsupported: The type is unknown, or an entry is left that is not null.
    """
    kind = p.pop("rope_type", p.pop("type", "default")) or "default"
    settings: FlatConfig = {"position.scaling": "none"}
    if kind not in ("default", "linear", "dynamic", "llama3", "yarn"):
        raise refuse("rope_parameters.rope_type", kind, "not among default, linear, dynamic, llama3, yarn")
    if kind == "dynamic":  # the same as default up to max_position_embeddings, which is gptlab's window
        p.pop("factor")
    elif kind != "default":
        factor = p.pop("factor")
        if kind != "linear":  # transformers takes the window if it is left out
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
    """Return YaRN's factor: as given, or from the two `mscale`s, or by the paper."""
    given, scale, scale_all_dim = (p.pop(k, None) for k in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is None and scale and scale_all_dim and factor > 1:
        return float((0.1 * scale * math.log(factor) + 1) / (0.1 * scale_all_dim * math.log(factor) + 1))
    return float(given or yarn_attention_factor(factor))


def parameters(s: FlatConfig) -> Flags:
    """Return `rope_parameters` for these settings, without a rotary share."""
    kind = s["position.scaling"]
    p: Flags = {"rope_theta": s["position.theta"], "rope_type": "default" if kind == "none" else kind}
    for name in sorted(SCALING_SETTINGS[kind]):
        p["original_max_position_embeddings" if name == "original_window" else name] = s[f"position.{name}"]
    return p


def rotary_share(c: Flags, fraction: float) -> float:
    """Return the rotary share of a head; transformers rounds the number of channels down."""
    width = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    return float(int(width * fraction) / width)


def rope_by_layer_type() -> Field:
    """Return a field for `rope_parameters` by `layer_types`.

    Sliding layers have their own base and no scaling, or the same parameters as the others.
    """

    def read(c: Flags) -> FlatConfig:
        given = {k: dict(v) for k, v in c["rope_parameters"].items() if k in (SLIDING, FULL)}
        if left := set(c["rope_parameters"]) - set(given):
            raise refuse(f"rope_parameters.{left.pop()}", "...", f"must be within {SLIDING} or {FULL}")
        for layer_type, p in given.items():
            if p.get("truncate") is False:
                raise refuse(f"rope_parameters.{layer_type}.truncate", False, "this class does not read it")
        window = c["max_position_embeddings"]
        kinds = {k: {"position.theta": p.pop("rope_theta"), **rope_scaling(p, window)} for k, p in given.items()}
        settings: FlatConfig = {"position": "rope"}
        sliding, full = kinds[SLIDING], kinds[FULL]
        if SLIDING not in c["layer_types"] or sliding == full:
            return settings | full
        if FULL not in c["layer_types"]:
            return settings | sliding
        if sliding["position.scaling"] != "none":
            raise refuse(f"rope_parameters.{SLIDING}.rope_type", sliding["position.scaling"], "must be default")
        pattern = shortest_unit(["L" if t == SLIDING else "R" for t in c["layer_types"]])
        return {**settings, **full, "position.pattern": pattern, "position.local_theta": sliding["position.theta"]}

    def write(s: FlatConfig) -> Flags:
        p = parameters(s)
        local = {"rope_theta": s["position.local_theta"], "rope_type": "default"}
        return {"rope_parameters": {FULL: p, SLIDING: local if s["position.local_theta"] else p}}

    return Field(("rope_parameters", "layer_types"), read, write)


def rotated(
    flags: tuple[str, ...], where: Callable[[Flags], list[bool]], write: Callable[[list[bool]], Flags] | None = None
) -> Field:
    """Return a field that says which layers are rotated.

    Args:
        flags: The flags that decide it.
        where: Computes from the flags whether each layer is rotated.
        write: Computes the flags from whether each layer is rotated; None if other fields write them.
    """

    def read(c: Flags) -> FlatConfig:
        return {"position.pattern": shortest_unit(["R" if is_rotated else "N" for is_rotated in where(c)])}

    return Field(flags, read, lambda s: write([k != "N" for k in s["position.layers"]]) if write else {})


def sliding_only(c: Flags) -> list[bool]:
    """Return whether each layer is rotated, for classes that rotate only the layers with a window (Command R7B)."""
    return [t == SLIDING for t in c["layer_types"]]
