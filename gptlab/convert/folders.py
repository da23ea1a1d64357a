"""`gptlab convert`: a folder of transformers as a run's folder, and the way back.

A run's folder that comes from transformers has config.yaml, overrides.txt, env.json, tokenizer.json and
checkpoint/best.safetensors as after training. It has no status.json, which is what makes a folder a run for `compare`:
nothing was trained. In its subfolder transformers/ is what stood beside the weights, config.json and the tokenizer's
files, for the way back and for tokenizer.path.
"""

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from safetensors import safe_open

from gptlab.config import ConfigError, to_yaml
from gptlab.config import Settings as DictConfig
from gptlab.config.compose import edit, load_config, typed
from gptlab.config.diff import diff_from_baseline
from gptlab.convert.models import from_hf, read_config, to_hf
from gptlab.convert.tokenizer import to_hf_tokenizer
from gptlab.data import Tokenizer
from gptlab.data.hf_tokenizer import HuggingFaceVocabulary
from gptlab.files import write_json
from gptlab.model.build import build_model
from gptlab.model.cost import non_embedding
from gptlab.model.gpt import LanguageModel
from gptlab.runs import checkpoint
from gptlab.runs.environment import environment
from gptlab.runs.folder import open_config
from gptlab.runs.load import open_tokenizer
from gptlab.runs.record import write_run_files
from gptlab.runs.weights import best_weights, folder_kind, weights_files, weights_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

THEIRS = "transformers"
BESIDE_THE_WEIGHTS = (".json", ".jinja", ".model", ".txt")  # endings of the tokenizer's files and of configs
CONFIGS = ("config.json", "generation_config.json")
HERE: Any = {"local_files_only": True, "trust_remote_code": False}  # no network, no code of the folder's, no question
TYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def convert(source: Path, target: Path, *, model_type: str | None = None, console: Console | None = None) -> None:
    """Write `source`, of either kind, as `target`, of the other, which must not exist or be empty; tell about it.

    Raises ConfigError, one line, before anything is written at `target`; a kill leaves nothing there.
    """
    console = console or Console()
    source, target = source.expanduser(), target.expanduser()
    _require_transformers()
    to_run = folder_kind(source, "--from") == "transformers"
    if to_run and model_type:
        raise ConfigError(f"--model-type={model_type}: is for the way to transformers; {source} comes from there")
    with _new_folder(target) as folder:
        lines = _to_run(source, target, folder) if to_run else _to_transformers(source, target, folder, model_type)
    for line in [f"from       {source}", f"to         {target}", *lines]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _require_transformers() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError as e:
        raise ConfigError("convert: needs transformers; pip install 'gptlab[hf]'") from e


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target`, moved to its place once it is whole."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--to={target}: is there already; give another, or delete it")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, target)
    except OSError as e:
        raise ConfigError(f"--to={target}: cannot be written ({e}); give another") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# ---------------------------------------------------------------- from transformers


def _to_run(source: Path, target: Path, folder: Path) -> list[str]:
    model = open_transformers(source, "--from")
    for file in _beside_the_weights(source):
        (folder / THEIRS).mkdir(exist_ok=True)
        shutil.copyfile(file, folder / THEIRS / file.name)
    tokenizer = HuggingFaceVocabulary(path=str(source)).fit("", "") if (source / "tokenizer.json").is_file() else None
    cfg, overrides = _config(model, source if tokenizer else None, target)
    told = {"converted_from": str(source), "weights_sha256": weights_hash(source, "--from")}
    write_run_files(folder, to_yaml(cfg), overrides, environment(None) | told, [])
    if tokenizer:
        write_json(folder / "tokenizer.json", tokenizer.to_json())
    checkpoint.save_weights(folder / "checkpoint" / checkpoint.BEST, model)
    if tokenizer is None:
        said = f"none: no tokenizer.json in {source}; AutoTokenizer's save_pretrained writes it for an older folder"
    else:
        said = f"huggingface, {tokenizer.vocab_size:,} tokens; the model has {cfg.model.vocab_size:,}"
    words = ["gptlab", "train", *overrides, f"train.init_from={typed(str(target))}"]
    return [
        f"model      {_about(model)}",
        f"tokenizer  {said}",
        f"differs    {' '.join(overrides)}",
        f"go on      {' '.join(map(_for_shell, words))}",
    ]


def _for_shell(word: str) -> str:
    """Quoted where a shell needs it; Hydra's own quotes stay readable."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _config(model: LanguageModel, tokenizer: Path | None, target: Path) -> tuple[DictConfig, list[str]]:
    """The model's config with its own tokenizer, and the overrides that give it again."""
    words = {k: v for k, v in diff_from_baseline(model.cfg).items() if not k.startswith("tokenizer")}
    words["model.vocab_size"] = model.cfg.model.vocab_size
    if tokenizer:
        words |= {"tokenizer": "huggingface", "tokenizer.path": str(tokenizer)}
    cfg = load_config(f"{k}={typed(v)}" for k, v in words.items())
    words = diff_from_baseline(cfg)  # asks the tokenizer for its size: so far the path is one that exists
    if tokenizer:
        words["tokenizer.path"] = str(target / THEIRS)
        cfg = edit(cfg, tokenizer__path=words["tokenizer.path"])
    return cfg, [f"{k}={typed(v)}" for k, v in words.items()]


def read_transformers(folder: Path, place: str) -> DictConfig:
    """The config in a folder of transformers as one of gptlab; its weights are not looked at."""
    _require_transformers()
    from transformers import AutoConfig

    with _one_line(place, folder):
        if "quantization_config" in json.loads((folder / "config.json").read_bytes()):
            raise ConfigError("its weights are quantised; give those that they were made from")
        return read_config(AutoConfig.from_pretrained(folder, **HERE))


def open_transformers(folder: Path, place: str) -> LanguageModel:
    """The model in a folder of transformers, its weights in the type that they are saved in.

    Nothing is downloaded, no code of the folder's is run, and a weight that the class lacks or the folder is an error.
    """
    files = weights_files(folder, place)[1:]
    read_transformers(folder, place)  # what cannot be converted says so before gigabytes are read
    from transformers import AutoModelForCausalLM

    read: Any = AutoModelForCausalLM.from_pretrained
    with _one_line(place, folder), _quiet():
        model, info = read(folder, use_safetensors=True, dtype=_type(files), output_loading_info=True, **HERE)
    wrong = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "mismatched_keys", "unexpected_keys")}
    for kind, names in wrong.items():
        if names:
            said = f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
            raise ConfigError(
                f"{place}={folder}: {kind.replace('_', ' ')} for {type(model).__name__}: {said}; "
                f"mend the folder with save_pretrained"
            )
    with _one_line(place, folder):
        return from_hf(model.eval())


def _type(files: list[Path]) -> torch.dtype:
    """Of all weights, where they have one; else the type that holds them all."""
    found = set()
    for path in files:
        with safe_open(path, "pt") as file:
            found |= {file.get_slice(k).get_dtype() for k in file.keys()} & set(TYPES)  # noqa: SIM118
    return TYPES[found.pop()] if len(found) == 1 else TYPES["F64" if "F64" in found else "F32"]


@contextmanager
def _one_line(place: str, folder: Path) -> Iterator[None]:
    """transformers fails in many ways and on many lines."""
    try:
        yield
    except ConfigError as e:
        raise ConfigError(f"{place}={folder}: {e}") from e
    except Exception as e:
        reason = " ".join(str(e).split())[:200]
        raise ConfigError(f"{place}={folder}: transformers cannot read it ({type(e).__name__}: {reason})") from e


@contextmanager
def _quiet() -> Iterator[None]:
    """Without progress bars, and without the report of what is refused here anyway."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _beside_the_weights(folder: Path) -> list[Path]:
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix in BESIDE_THE_WEIGHTS and not file.name.endswith(".index.json")
    ]


# ---------------------------------------------------------------- to transformers


def _to_transformers(source: Path, target: Path, folder: Path, model_type: str | None) -> list[str]:
    """The model in the type of its checkpoint, with the tokenizer and the ids that begin and end a text."""
    from transformers import AutoConfig, GenerationConfig

    cfg, weights, tokenizer = open_config(source), checkpoint.read_weights(best_weights(source)), open_tokenizer(source)
    model = build_model(cfg).to(next(iter(weights.values())).dtype).eval()
    model.load_state_dict(weights)
    origin = source / THEIRS
    if origin.is_dir():
        model.hf_config = AutoConfig.from_pretrained(origin, **HERE)
    with _quiet():  # its configs dislike the usual ids of classes with a larger vocabulary; ours are set below
        theirs = to_hf(model, model_type=model_type)
    their_tokenizer = to_hf_tokenizer(tokenizer) if tokenizer else None
    ids = _special_ids(model.hf_config or their_tokenizer)
    for name, number in ids.items():  # a class has numbers of its own, which mean nothing here
        setattr(theirs.config, name, number)
    theirs.generation_config = GenerationConfig(**ids)
    if (origin / CONFIGS[1]).is_file():
        theirs.generation_config = GenerationConfig.from_pretrained(origin)
    with _quiet():
        theirs.save_pretrained(folder)
    if (origin / "tokenizer.json").is_file():  # as it came, with what gptlab has no use for
        for file in _beside_the_weights(origin):
            if file.name not in CONFIGS:
                shutil.copyfile(file, folder / file.name)
    elif their_tokenizer:
        their_tokenizer.save_pretrained(folder)
    return [
        f"model      {type(theirs).__name__}, {_about(model)}",
        f"tokenizer  {_about_tokenizer(their_tokenizer)}",
        f'read it    AutoModelForCausalLM.from_pretrained("{target}")',
        f"test it    lm_eval --model hf --model_args pretrained={target}{_prefix(tokenizer, ids)} --tasks TASK",
    ]


def _special_ids(origin: Any) -> dict[str, Any]:
    """Which tokens begin and end a text: those of the config that the model came from, or else of its tokenizer."""
    return {name: getattr(origin, name, None) for name in ("bos_token_id", "eos_token_id")}


def _about(model: LanguageModel) -> str:
    kind = str(next(model.parameters()).dtype).removeprefix("torch.")
    n = sum(p.numel() for p in model.parameters())
    return f"{kind}, {n:,} parameters, {non_embedding(model):,} without embeddings"


def _about_tokenizer(theirs: "PreTrainedTokenizerFast | None") -> str:
    return f"{len(theirs):,} tokens, end of text: {theirs.eos_token or 'none'}" if theirs else "none"


def _prefix(tokenizer: Tokenizer | None, ids: dict[str, Any]) -> str:
    """lm-evaluation-harness begins texts with a token; where there is none for that, a line break is honest."""
    if tokenizer is None or any(number is not None for number in ids.values()):
        return ""
    try:
        tokens = tokenizer.encode("\n").tolist()
    except ConfigError:  # it has none
        tokens = []
    return f",prefix_token_id={tokens[0]}" if len(tokens) == 1 else ""
