"""A model of transformers as one of gptlab, and the way back. The families' table says how; here it is carried out."""

import contextlib
import copy
import inspect
import re
import sys
from typing import Any

import torch
from omegaconf import OmegaConf

from gptlab.config import Settings as DictConfig
from gptlab.config import flatten, plain
from gptlab.config.compose import load_config, typed
from gptlab.convert import more_families, more_gpts, more_llamas  # noqa: F401 - they add theirs to FAMILIES
from gptlab.convert.canonical import resolved, unlike
from gptlab.convert.config_fields import Flags, Settings, Unsupported, flags_of, refuse
from gptlab.convert.families import FAMILIES, Family
from gptlab.convert.weight_map import Place, places
from gptlab.model.build import build_model
from gptlab.model.gpt import LanguageModel

# Flags of every class that say nothing about what is computed in evaluation.
HARMLESS = {
    *("architectures", "_name_or_path", "transformers_version", "model_type", "dtype", "torch_dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "id2label", "label2id", "problem_type"),
    *("initializer_range", "init_std", "use_cache", "output_attentions", "output_hidden_states", "return_dict"),
}
TRAINING_ONLY = ("dropout", "pdrop", "layerdrop")  # parts of a flag's name; ours is train.dropout


def from_hf(theirs: Any) -> LanguageModel:
    """The same model, weights, type and device; `.cfg` is its config. Dropout is a matter of training: it is 0.

    Raises Unsupported, one line that names the class or the flag that gptlab has no component for.
    """
    config = theirs.config
    family = _family_of(theirs)
    cfg = read_config(config, source=_code(type(theirs)))
    _refuse_untied(theirs, cfg)
    first, *others = theirs.parameters()
    if odd := {p.dtype for p in others} - {first.dtype}:
        raise refuse("dtype", odd.pop(), f"other weights are {first.dtype}; choose one for all")
    model = build_model(cfg).to(first.device, first.dtype)
    state, ours = theirs.state_dict(), model.state_dict()
    shapes = {name: p.shape for name, p in ours.items()}
    taken: dict[str, torch.Tensor] = {}
    for name, place in _places(family, cfg, list(state), shapes).items():
        taken |= place.to_ours(state[name], shapes)
    model.load_state_dict(taken)
    model.hf_config = copy.deepcopy(config)
    return model.train(theirs.training)


def to_hf(model: LanguageModel, *, model_type: str | None = None) -> Any:
    """The same model as one of transformers: of the class `model_type`, or that it came from, or the first that has it.

    Raises Unsupported, one line that names the components in the way.
    """
    from transformers import AutoModelForCausalLM

    cfg, first = model.cfg, next(model.parameters())
    config = write_config(cfg, model_type=model_type, origin=model.hf_config)
    family = FAMILIES[config.model_type]
    theirs = AutoModelForCausalLM.from_config(config, dtype=first.dtype)
    ours = model.state_dict()
    shapes = {name: p.shape for name, p in ours.items()}
    placed = _places(family, cfg, list(theirs.state_dict()), shapes)
    state = {name: place.to_theirs(ours) for name, place in placed.items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= _tied_names(family, cfg), (missing, unexpected)
    theirs.tie_weights()
    return theirs.to(first.device).train(model.training)


def read_config(config: Any, *, source: str = "") -> DictConfig:
    """The config of gptlab for one of transformers. `source`: its class's code, where unknown flags are looked up."""
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise Unsupported(f"model_type={config.model_type}: not among {', '.join(FAMILIES)}")
    flags = _flags(config)
    _refuse_unknown(config, flags, family, source)
    settings: Settings = dict(word.split("=", 1) for word in family.base.split())
    for field in family.fields:
        settings |= {k: typed(v) for k, v in field.read(flags).items()}
    settings["tokenizer"] = "byte"  # until a run brings its own
    return load_config(f"{k}={v}" for k, v in _with_bias_switch(settings).items())


def write_config(cfg: Any, *, model_type: str | None = None, origin: Any = None) -> Any:
    """The config of transformers for one of gptlab, proved by reading it back.

    `origin`, the config that the model came from, is taken as it is while it still says the same.
    """
    if model_type is not None and model_type not in FAMILIES:
        raise Unsupported(f"model_type={model_type}: not among {', '.join(FAMILIES)}")
    wanted = resolved(cfg)
    same_class = origin is not None and model_type in (None, origin.model_type)
    if same_class and not unlike(wanted, resolved(read_config(origin))):
        return copy.deepcopy(origin)
    tried: list[tuple[list[str], str]] = []
    for name in _by_resemblance(wanted, [model_type] if model_type else list(FAMILIES)):
        config, in_the_way = _express(wanted, FAMILIES[name])
        if not in_the_way:
            return config
        tried.append((in_the_way, name))
    in_the_way, name = min(tried, key=lambda t: len(t[0]))
    said = " ".join(f"{k}={typed(wanted[k])}" for k in in_the_way if k in wanted)
    raise Unsupported(f"{said}: no class of transformers has this; the nearest is {name}")


def _by_resemblance(wanted: Settings, names: list[str]) -> list[str]:
    """Of the families those whose base is what is wanted; if there is none, the few that come nearest."""
    misfits = {name: len(_misfits(wanted, FAMILIES[name])) for name in names}
    return [name for name in names if not misfits[name]] or sorted(names, key=misfits.__getitem__)[:3]


def _misfits(wanted: Settings, family: Family) -> list[str]:
    """What the family's base has otherwise. A knob that `wanted` lacks belongs to another component."""
    words = [flatten(plain(OmegaConf.from_dotlist([word]))) for word in family.base.split()]
    return [k for word in words for k, v in word.items() if k in wanted and wanted[k] != v]


def _express(wanted: Settings, family: Family) -> tuple[Any, list[str]]:
    """The config of the family that comes nearest, and the places where it does not say what is wanted."""
    from transformers import AutoConfig

    flags: Flags = {}
    for field in family.fields:
        with contextlib.suppress(KeyError):  # of a component that is not there: it shows when read back
            flags |= field.write(wanted)
    try:
        config = AutoConfig.for_model(family.model_type, **flags)
        return config, unlike(wanted, resolved(read_config(config)))
    except Exception:  # noqa: BLE001 - a class of transformers may refuse what it is given in any way
        return None, _misfits(wanted, family) or ["size.dim", "size.n_head"]


def _family_of(theirs: Any) -> Family:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, model_type = type(theirs).__name__, getattr(theirs.config, "model_type", None)
    if model_type not in FAMILIES:
        raise Unsupported(f"model_type={model_type}: not among {', '.join(FAMILIES)}")
    if kind != MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]:
        raise Unsupported(
            f"{kind}: only {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]} is a language model of the kind"
        )
    return FAMILIES[model_type]


def _code(cls: type) -> str:
    """What a class's flags are looked up in: its module, and the one that makes the masks of all classes."""
    from transformers import masking_utils

    return inspect.getsource(sys.modules[cls.__module__]) + inspect.getsource(masking_utils)


def _flags(config: Any) -> Flags:
    """A config's flags under its own names."""
    return config.to_dict()


def _refuse_unknown(config: Any, flags: Flags, family: Family, source: str) -> None:
    """A flag that no Field reads must have its class's default, or be one that the class's code never names."""
    known = flags_of(family.fields) | set(family.harmless) | HARMLESS
    usual = type(config)().to_dict()
    for flag, value in flags.items():
        training_only = any(word in flag for word in TRAINING_ONLY)
        if flag in known or training_only or (flag in usual and usual[flag] == value):
            continue
        if flag in usual or (value is not None and re.search(rf"config\.{flag}\b|['\"]{flag}['\"]", source)):
            raise refuse(flag, value, f"no component of gptlab does what it does in {config.model_type}")


def _refuse_untied(theirs: Any, cfg: DictConfig) -> None:
    """A model's head may be tied in its config and have come untied since, or the other way about."""
    table, head = theirs.get_input_embeddings().weight, theirs.get_output_embeddings().weight
    if (table is head) != cfg.head.tied:
        raise refuse("tie_word_embeddings", cfg.head.tied, "the model's head and token table say otherwise")


def _with_bias_switch(settings: Settings) -> Settings:
    """Without a bias in any place, bias=false says so in one word."""
    norms = [
        k for k in ("norm", "qk_norm") if settings.get(k, "none" if k == "qk_norm" else "layernorm") == "layernorm"
    ]
    places = {"attention.qkv_bias", "attention.out_bias", "ffn.bias", *(f"{norm}.bias" for norm in norms)}
    if settings.get("head.bias") == "true" or any(settings.get(k) != "false" for k in places):
        return settings
    return {k: v for k, v in settings.items() if not k.endswith("bias")} | {"bias": "false"}


def _places(family: Family, cfg: Any, theirs: list[str], ours: dict[str, Any]) -> dict[str, Place]:
    tied = _tied_names(family, cfg)
    try:
        return places(family.weights, [n for n in theirs if n not in tied], ours, resolved(cfg))
    except KeyError as e:
        raise Unsupported(f"{e.args[0]}: has no counterpart, so {family.model_type} is not what its config says") from e


def _tied_names(family: Family, cfg: Any) -> set[str]:
    """Of the head's matrix, where that is the token table."""
    return {f"{k}.weight" for k, v in family.weights.items() if v == "head" and cfg["head"]["tied"]}
