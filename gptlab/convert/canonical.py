"""The model part of a config in one canonical form, so that two configs of the same model compare as equal."""

from typing import Any

from gptlab.config import Settings, flatten, plain, registry
from gptlab.model.build import with_switches
from gptlab.model.ffn import Gated, Plain, hidden_width
from gptlab.model.position import yarn_attention_factor

SCALING_SETTINGS: dict[str, set[str]] = {  # settings of rope that each position.scaling uses
    "none": set(),
    "linear": {"factor"},
    "llama3": {"factor", "original_window", "low_freq_factor", "high_freq_factor"},
    "yarn": {"factor", "original_window", "beta_slow", "beta_fast", "attention_factor"},
}
MODEL = ("block", "placement", "norm", "qk_norm", "attention", "position", "ffn", "embedding", "head", "size")


def resolved(cfg: Settings | dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the model by name: {"norm": "rmsnorm", "norm.eps": 1e-6, "ffn.hidden": 3072, ...}.

    Nulls that stand for a number are replaced by it, patterns by the value in each layer, and settings without effect
    are left out.
    """
    tree = with_switches(cfg if isinstance(cfg, dict) else plain(cfg))
    parts = {slot: dict(tree[slot]) for slot in MODEL}
    size, layers = tree["size"], range(tree["size"]["n_layer"])
    for norm in (parts["norm"], parts["qk_norm"]):
        if norm.get("learnable") is False:
            norm.pop("bias", None)
            norm.pop("zero_centered", None)
    if parts["qk_norm"]["name"] == "none":
        parts["attention"].pop("qk_norm_over", None)
    _resolve_attention(parts["attention"], size, layers)
    _resolve_position(parts["position"], parts["attention"], layers)
    cls = registry.entry("ffn", parts["ffn"]["name"]).cls
    if issubclass(cls, (Plain, Gated)):
        wide = [parts["ffn"].pop(k) for k in ("expansion", "multiple_of", "hidden")]
        parts["ffn"]["hidden"] = hidden_width(size["dim"], 1 if issubclass(cls, Plain) else 2 / 3, *wide)
    if parts["embedding"].pop("scale_by_width", False):
        parts["embedding"]["scale"] *= size["dim"] ** 0.5
    for part in (parts["embedding"], parts["head"]):
        part["width"] = part.get("width") or size["dim"]
    parts["head"].pop("z_loss", None)  # belongs to the training
    return flatten({**parts, "model": tree["model"], "data": {"window": tree["data"]["window"]}})


def _resolve_attention(attention: dict[str, Any], size: dict[str, Any], layers: range) -> None:
    if attention["name"] != "softmax":
        return
    attention["head_dim"] = attention["head_dim"] or size["dim"] // size["n_head"]
    attention["n_kv_head"] = attention["n_kv_head"] or size["n_head"]
    attention["scale"] = attention["scale"] or attention["head_dim"] ** -0.5
    window, pattern = attention.pop("window"), attention.pop("pattern")
    attention["windows"] = [window if pattern[i % len(pattern)] == "L" else None for i in layers]


def _resolve_position(position: dict[str, Any], attention: dict[str, Any], layers: range) -> None:
    if position["name"] != "rope":
        return
    pattern = position.pop("pattern")
    position["layers"] = "".join(pattern[i % len(pattern)] for i in layers)
    position["fraction"] = round(position["fraction"] * attention["head_dim"]) / attention["head_dim"]
    if position["scaling"] == "yarn":
        position["attention_factor"] = position["attention_factor"] or yarn_attention_factor(position["factor"])
    used = SCALING_SETTINGS[position["scaling"]]
    for setting in set().union(*SCALING_SETTINGS.values()) - used:
        position.pop(setting)


def conflicts(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the settings in which two resolved configs differ by more than the last digits."""
    return [k for k in {**a, **b} if not _equal(a.get(k), b.get(k))]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) or isinstance(b, float):
        return a is not None and b is not None and abs(a - b) <= 1e-9 * max(abs(a), abs(b))
    return bool(a == b)
