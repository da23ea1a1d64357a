"""Conversion of models and configs, by the tables of the families."""

import contextlib
import copy
import inspect
import re
import sys
from typing import Any

import torch
from omegaconf import OmegaConf

from gptlab.config import Settings, flatten, plain
from gptlab.config.compose import load_config
from gptlab.config.overrides import typed
from gptlab.convert.canonical import conflicts, resolved
from gptlab.convert.config_fields import Flags, FlatConfig, Unsupported, flags_of, refuse
from gptlab.convert.families import FAMILIES, Family
from gptlab.convert.weight_map import TensorMap, map_tensors
from gptlab.model.build import build_model
from gptlab.model.gpt import LanguageModel

# Flags of every class that do not change what it computes in evaluation.
HARMLESS = {
    *("architectures", "_name_or_path", "transformers_version", "model_type", "dtype", "torch_dtype"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "id2label", "label2id", "problem_type"),
    *("initializer_range", "init_std", "use_cache", "output_attentions", "output_hidden_states", "return_dict"),
}
TRAINING_ONLY = ("dropout", "pdrop", "layerdrop")  # parts of a flag's name; in gptlab it is train.dropout


def from_hf(theirs: Any) -> LanguageModel:
    """Return a model of transformers as one of gptlab, with the same weights, dtype and device.

    Its `.cfg` is its config, in which dropout is 0, since that is a setting of training.

    Args:
        theirs: A language model of a class among the families.

    Raises:
        Unsupported: gptlab has no component for the class or for a flag, which the message names.
    """
    config = theirs.config
    family = _family_of(theirs)
    cfg = read_config(config, source=source_of(type(theirs)))
    _refuse_untied(theirs, cfg)
    first, *others = theirs.parameters()
    if other_dtypes := {p.dtype for p in others} - {first.dtype}:
        raise refuse("dtype", other_dtypes.pop(), f"other weights are {first.dtype}; choose one for all")
    model = build_model(cfg).to(first.device, first.dtype)
    state, ours = theirs.state_dict(), model.state_dict()
    shapes = {name: p.shape for name, p in ours.items()}
    weights: dict[str, torch.Tensor] = {}
    for name, tensor_map in _tensor_maps(family, cfg, list(state), shapes).items():
        weights |= tensor_map.to_ours(state[name], shapes)
    model.load_state_dict(weights)
    model.hf_config = copy.deepcopy(config)
    return model.train(theirs.training)


def to_hf(model: LanguageModel, *, model_type: str | None = None) -> Any:
    """Return a model of gptlab as one of transformers, with the same weights, dtype and device.

    Args:
        model: A model that `build_model` or `from_hf` made.
        model_type: The class of transformers; None for the one that the model came from, or the first that fits.

    Raises:
        Unsupported: No class, or not this one, has the components that the message names.
    """
    from transformers import AutoModelForCausalLM

    cfg, first = model.cfg, next(model.parameters())
    config = write_config(cfg, model_type=model_type, origin=model.hf_config)
    family = FAMILIES[config.model_type]
    theirs = AutoModelForCausalLM.from_config(config, dtype=first.dtype)
    ours = model.state_dict()
    shapes = {name: p.shape for name, p in ours.items()}
    maps = _tensor_maps(family, cfg, list(theirs.state_dict()), shapes)
    state = {name: tensor_map.to_theirs(ours) for name, tensor_map in maps.items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= _tied_names(family, cfg), (missing, unexpected)
    theirs.tie_weights()
    return theirs.to(first.device).train(model.training)


def read_config(config: Any, *, source: str = "") -> Settings:
    """Return the config of gptlab for a config of transformers.

    Args:
        config: A config of a class among the families.
        source: The code of the class, which tells whether it reads a flag that the family's table does not know.

    Raises:
        Unsupported: gptlab has no component for the class or for a flag.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise Unsupported(f"model_type={config.model_type}: not among {', '.join(FAMILIES)}")
    flags = config.to_dict()
    _refuse_unknown(config, flags, family, source)
    settings: FlatConfig = dict(override.split("=", 1) for override in family.base.split())
    for field in family.fields:
        settings |= {k: typed(v) for k, v in field.read(flags).items()}
    settings["tokenizer"] = "byte"  # replaced by that of a run
    return load_config(f"{k}={v}" for k, v in _with_bias_switch(settings).items())


def write_config(cfg: Any, *, model_type: str | None = None, origin: Any = None) -> Any:
    """Return the config of transformers for a config of gptlab, checked by reading it back.

    Args:
        cfg: A config of gptlab.
        model_type: The class of transformers; None for that of `origin`, or the first that fits.
        origin: The config that the model came from, which is returned if it still describes the model.

    Raises:
        Unsupported: No class, or not this one, has the components that the message names.
    """
    if model_type is not None and model_type not in FAMILIES:
        raise Unsupported(f"model_type={model_type}: not among {', '.join(FAMILIES)}")
    wanted = resolved(cfg)
    same_class = origin is not None and model_type in (None, origin.model_type)
    if same_class and not conflicts(wanted, resolved(read_config(origin))):
        return copy.deepcopy(origin)
    attempts: list[tuple[list[str], str]] = []
    for name in _nearest(wanted, [model_type] if model_type else list(FAMILIES)):
        config, obstacles = _express(wanted, FAMILIES[name])
        if not obstacles:
            return config
        attempts.append((obstacles, name))
    obstacles, name = min(attempts, key=lambda attempt: len(attempt[0]))
    components = " ".join(f"{k}={typed(wanted[k])}" for k in obstacles if k in wanted)
    raise Unsupported(f"{components}: no class of transformers has this; the nearest is {name}")


def _nearest(wanted: FlatConfig, names: list[str]) -> list[str]:
    """Return the families whose base fits; if there is none, the three that come nearest."""
    misfits = {name: len(_misfits(wanted, FAMILIES[name])) for name in names}
    return [name for name in names if not misfits[name]] or sorted(names, key=misfits.__getitem__)[:3]


def _misfits(wanted: FlatConfig, family: Family) -> list[str]:
    """Return the settings of the family's base that differ. One that `wanted` lacks is of another component."""
    base = [flatten(plain(OmegaConf.from_dotlist([override]))) for override in family.base.split()]
    return [k for settings in base for k, v in settings.items() if k in wanted and wanted[k] != v]


def _express(wanted: FlatConfig, family: Family) -> tuple[Any, list[str]]:
    """Return the nearest config of the family, and the settings in which it differs."""
    from transformers import AutoConfig

    flags: Flags = {}
    for field in family.fields:
        with contextlib.suppress(KeyError):  # if the model lacks the component, reading the config back shows it
            flags |= field.write(wanted)
    try:
        config = AutoConfig.for_model(family.model_type, **flags)
        return config, conflicts(wanted, resolved(read_config(config)))
    except Exception:  # noqa: BLE001 - a class of transformers may refuse what it is given in any way
        return None, _misfits(wanted, family) or ["size.dim", "size.n_head"]


def _family_of(theirs: Any) -> Family:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, model_type = type(theirs).__name__, getattr(theirs.config, "model_type", None)
    if model_type not in FAMILIES:
        raise Unsupported(f"model_type={model_type}: not among {', '.join(FAMILIES)}")
    if kind != MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]:
        raise Unsupported(f"{kind}: no language model; give a {MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]}")
    return FAMILIES[model_type]


def source_of(cls: type) -> str:
    """Return the code that may read a class's flags: its module, and the one that makes the masks of all classes."""
    from transformers import masking_utils

    return inspect.getsource(sys.modules[cls.__module__]) + inspect.getsource(masking_utils)


def _refuse_unknown(config: Any, flags: Flags, family: Family, source: str) -> None:
    """Reject a flag that no Field reads, unless it has its default or the code of the class never names it."""
    known = flags_of(family.fields) | set(family.harmless) | HARMLESS
    defaults = type(config)().to_dict()
    for flag, value in flags.items():
        training_only = any(word in flag for word in TRAINING_ONLY)
        if flag in known or training_only or (flag in defaults and defaults[flag] == value):
            continue
        if flag in defaults or (value is not None and re.search(rf"config\.{flag}\b|['\"]{flag}['\"]", source)):
            raise refuse(flag, value, f"no component of gptlab has the effect that it has in {config.model_type}")


def _refuse_untied(theirs: Any, cfg: Settings) -> None:
    """Reject a model whose head is tied although its config says otherwise, or the reverse."""
    table, head = theirs.get_input_embeddings().weight, theirs.get_output_embeddings().weight
    if (table is head) != cfg.head.tied:
        raise refuse("tie_word_embeddings", cfg.head.tied, "the model's own head and token table contradict it")


def _with_bias_switch(settings: FlatConfig) -> FlatConfig:
    """Return the settings with `bias=false` in place of all biases, if the model has none."""
    norms = [
        k for k in ("norm", "qk_norm") if settings.get(k, "none" if k == "qk_norm" else "layernorm") == "layernorm"
    ]
    switches = {"attention.qkv_bias", "attention.out_bias", "ffn.bias", *(f"{norm}.bias" for norm in norms)}
    if settings.get("head.bias") == "true" or any(settings.get(k) != "false" for k in switches):
        return settings
    return {k: v for k, v in settings.items() if not k.endswith("bias")} | {"bias": "false"}


def _tensor_maps(family: Family, cfg: Any, theirs: list[str], ours: dict[str, Any]) -> dict[str, TensorMap]:
    tied = _tied_names(family, cfg)
    try:
        return map_tensors(family.weights, [n for n in theirs if n not in tied], ours, resolved(cfg))
    except KeyError as e:
        raise Unsupported(
            f"{e.args[0]}: has no counterpart, so the model is not the {family.model_type} of its config"
        ) from e


def _tied_names(family: Family, cfg: Any) -> set[str]:
    """Return the names of the head's matrix if it is the token table."""
    return {f"{k}.weight" for k, v in family.weights.items() if v == "head" and cfg["head"]["tied"]}
