"""`gptlab convert`: turn a folder of transformers into a run's folder, or the reverse.

A converted run's folder has config.yaml, overrides.txt, env.json, tokenizer.json and checkpoint/best.safetensors, as
after training. It has no status.json, so `compare` ignores it: nothing was trained. Its subfolder transformers/ has the
files that lay next to the weights (config.json and those of the tokenizer), for tokenizer.path and for the conversion
back.
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

from gptlab.config import ConfigError, Settings, to_yaml
from gptlab.config.compose import edit, load_config
from gptlab.config.diff import diff_from_baseline
from gptlab.config.overrides import typed
from gptlab.convert.models import from_hf, read_config, to_hf
from gptlab.convert.tokenizer import to_hf_tokenizer
from gptlab.data import Tokenizer
from gptlab.data.hf_tokenizer import HuggingFaceVocabulary
from gptlab.files import write_json
from gptlab.model.build import build_model
from gptlab.model.cost import non_embedding
from gptlab.model.gpt import LanguageModel
from gptlab.runs import checkpoint
from gptlab.runs.checkpoint import open_safetensors
from gptlab.runs.environment import environment
from gptlab.runs.folder import open_config
from gptlab.runs.load import open_tokenizer
from gptlab.runs.record import write_run_files
from gptlab.runs.weights import best_weights, folder_kind, weights_files, weights_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

ORIGIN = "transformers"  # subfolder of a run's folder
SMALL_FILES = (".json", ".jinja", ".model", ".txt")  # suffixes of configs and of the tokenizer's files
CONFIGS = ("config.json", "generation_config.json")
LOCAL: Any = {"local_files_only": True, "trust_remote_code": False}  # no network, and no code from the folder
DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def convert(source: Path, target: Path, *, model_type: str | None = None, console: Console | None = None) -> None:
    """Convert a run's folder to one of transformers, or the reverse, and print what was done.

    An error or a kill leaves nothing at `target`.

    Args:
        source: A run's folder, or one of transformers.
        target: The folder to write, which must not exist or be empty.
        model_type: The class of transformers to write; None for the first that fits.
        console: Where to print.

    Raises:
        ConfigError: The source cannot be read or converted, or the target cannot be written.
    """
    console = console or Console()
    source, target = source.expanduser(), target.expanduser()
    _require_transformers()
    to_run = folder_kind(source, "--from") == "transformers"
    if to_run and model_type:
        rule = f"names the class to export to, but {source} is a folder of transformers"
        raise ConfigError(f"--model-type={model_type}: {rule}; leave it out")
    with _new_folder(target) as folder:
        lines = _to_run(source, target, folder) if to_run else _to_transformers(source, target, folder, model_type)
    for line in [f"from       {source}", f"to         {target}", *lines]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _require_transformers() -> None:
    """Raise ConfigError if transformers is not installed."""
    try:
        import transformers  # noqa: F401
    except ImportError as e:
        raise ConfigError("convert: needs transformers; pip install 'gptlab[hf]'") from e


@contextmanager
def _new_folder(target: Path) -> Iterator[Path]:
    """Yield a folder next to `target`, and move it to `target` if the block succeeds."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"--to={target}: exists already; give another folder, or delete it")
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, target)
    except OSError as e:
        raise ConfigError(f"--to={target}: cannot be written ({e}); give another folder") from e
    finally:
        shutil.rmtree(partial, ignore_errors=True)


# ---------------------------------------------------------------- from transformers


def _to_run(source: Path, target: Path, folder: Path) -> list[str]:
    """Write a run's folder, and return the lines that describe it."""
    model = open_transformers(source, "--from")
    for file in _small_files(source):
        (folder / ORIGIN).mkdir(exist_ok=True)
        shutil.copyfile(file, folder / ORIGIN / file.name)
    tokenizer = HuggingFaceVocabulary(path=str(source)).fit("", "") if (source / "tokenizer.json").is_file() else None
    cfg, overrides = _config(model, source if tokenizer else None, target)
    origin = {"converted_from": str(source), "weights_sha256": weights_hash(source, "--from")}
    write_run_files(folder, to_yaml(cfg), overrides, environment(None) | origin, {})
    if tokenizer:
        write_json(folder / "tokenizer.json", tokenizer.to_json())
    checkpoint.save_weights(folder / "checkpoint" / checkpoint.BEST, model)
    if tokenizer is None:
        tokenizer_line = f"none: no tokenizer.json in {source}; save_pretrained of AutoTokenizer writes one"
    else:
        tokenizer_line = f"huggingface, {tokenizer.vocab_size:,} tokens; the model has {cfg.model.vocab_size:,}"
    command = ["gptlab", "train", *overrides, f"train.init_from={typed(str(target))}"]
    return [
        f"model      {_about(model)}",
        f"tokenizer  {tokenizer_line}",
        f"differs    {' '.join(overrides)}",
        f"train on   {' '.join(map(_for_shell, command))}",
    ]


def _for_shell(word: str) -> str:
    """Quote a word if a shell needs it, and keep Hydra's own quotes readable."""
    return f'"{word}"' if "'" in word and not set(word) & set('"$`\\!') else shlex.quote(word)


def _config(model: LanguageModel, tokenizer: Path | None, target: Path) -> tuple[Settings, list[str]]:
    """Return the model's config with its own tokenizer, and the overrides that compose it."""
    settings = {k: v for k, v in diff_from_baseline(model.cfg).items() if not k.startswith("tokenizer")}
    settings["model.vocab_size"] = model.cfg.model.vocab_size
    if tokenizer:
        settings |= {"tokenizer": "huggingface", "tokenizer.path": str(tokenizer)}
    cfg = load_config(f"{k}={typed(v)}" for k, v in settings.items())
    settings = diff_from_baseline(cfg)  # reads the tokenizer's size, so its path must still be one that exists
    if tokenizer:
        settings["tokenizer.path"] = str(target / ORIGIN)
        cfg = edit(cfg, tokenizer__path=settings["tokenizer.path"])
    return cfg, [f"{k}={typed(v)}" for k, v in settings.items()]


def read_transformers(folder: Path, key: str) -> Settings:
    """Return the config of a folder of transformers as one of gptlab, without reading its weights.

    Args:
        folder: The folder.
        key: The flag or setting that named it, for the error.

    Raises:
        ConfigError: transformers is missing, or the config cannot be read or converted.
    """
    _require_transformers()
    from transformers import AutoConfig

    with _one_line(key, folder):
        if "quantization_config" in json.loads((folder / "config.json").read_bytes()):
            raise ConfigError("its weights are quantised; give the original ones")
        return read_config(AutoConfig.from_pretrained(folder, **LOCAL))


def open_transformers(folder: Path, key: str) -> LanguageModel:
    """Return the model of a folder of transformers, in the dtype that its weights are saved in.

    Nothing is downloaded, and no code from the folder is run.

    Args:
        folder: The folder.
        key: The flag or setting that named it, for the error.

    Raises:
        ConfigError: The folder cannot be read or converted, or a weight is missing, unexpected or of another shape.
    """
    files = weights_files(folder, key)[1:]
    for file in files:
        with open_safetensors(file):
            pass  # names the file that is cut off, which transformers does not
    read_transformers(folder, key)  # refuses what cannot be converted before gigabytes are read
    from transformers import AutoModelForCausalLM

    read: Any = AutoModelForCausalLM.from_pretrained
    with _one_line(key, folder), _quiet():
        model, info = read(folder, use_safetensors=True, dtype=_dtype(files), output_loading_info=True, **LOCAL)
    wrong = {kind: sorted(map(str, info[kind])) for kind in ("missing_keys", "mismatched_keys", "unexpected_keys")}
    for kind, names in wrong.items():
        if names:
            some = f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''}"
            raise ConfigError(
                f"{key}={folder}: {kind.replace('_', ' ')} for {type(model).__name__}: {some}; "
                f"repair the folder with save_pretrained"
            )
    with _one_line(key, folder):
        return from_hf(model.eval())


def _dtype(files: list[Path]) -> torch.dtype:
    """Return the dtype of the weights; if they have several, the one that holds them all."""
    names = set()
    for path in files:
        with open_safetensors(path) as file:
            names |= {file.get_slice(k).get_dtype() for k in file.keys()} & set(DTYPES)  # noqa: SIM118
    return DTYPES[names.pop()] if len(names) == 1 else DTYPES["F64" if "F64" in names else "F32"]


@contextmanager
def _one_line(key: str, folder: Path) -> Iterator[None]:
    """Turn any error of transformers into a ConfigError of one line."""
    try:
        yield
    except ConfigError as e:
        raise ConfigError(f"{key}={folder}: {e}") from e
    except Exception as e:
        reason = " ".join(str(e).split())[:200]
        raise ConfigError(f"{key}={folder}: transformers cannot read it ({type(e).__name__}: {reason})") from e


@contextmanager
def _quiet() -> Iterator[None]:
    """Switch off the progress bars and warnings of transformers; what they warn of is refused here."""
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


def _small_files(folder: Path) -> list[Path]:
    """Return the configs and the tokenizer's files, which lie next to the weights."""
    return [
        file
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix in SMALL_FILES and not file.name.endswith(".index.json")
    ]


# ---------------------------------------------------------------- to transformers


def _to_transformers(source: Path, target: Path, folder: Path, model_type: str | None) -> list[str]:
    """Write a folder of transformers, and return the lines that describe it.

    The model has the dtype of its checkpoint. The tokenizer comes with it, and the ids that begin and end a text.
    """
    from transformers import AutoConfig, GenerationConfig

    cfg, weights, tokenizer = open_config(source), checkpoint.read_weights(best_weights(source)), open_tokenizer(source)
    model = build_model(cfg).to(next(iter(weights.values())).dtype).eval()
    model.load_state_dict(weights)
    origin = source / ORIGIN
    if origin.is_dir():
        model.hf_config = AutoConfig.from_pretrained(origin, **LOCAL)
    with _quiet():  # it warns of default ids beyond the vocabulary, which are replaced below
        theirs = to_hf(model, model_type=model_type)
    their_tokenizer = to_hf_tokenizer(tokenizer) if tokenizer else None
    ids = _special_ids(model.hf_config or their_tokenizer)
    for name, number in ids.items():  # the defaults of the class mean nothing for this tokenizer
        setattr(theirs.config, name, number)
    theirs.generation_config = GenerationConfig(**ids)
    if (origin / CONFIGS[1]).is_file():
        theirs.generation_config = GenerationConfig.from_pretrained(origin)
    with _quiet():
        theirs.save_pretrained(folder)
    if (origin / "tokenizer.json").is_file():  # unchanged, with the parts that gptlab does not use
        for file in _small_files(origin):
            if file.name not in CONFIGS:
                shutil.copyfile(file, folder / file.name)
    elif their_tokenizer:
        their_tokenizer.save_pretrained(folder)
    return [
        f"model      {type(theirs).__name__}, {_about(model)}",
        f"tokenizer  {_about_tokenizer(their_tokenizer)}",
        f'load it    AutoModelForCausalLM.from_pretrained("{target}")',
        f"test it    lm_eval --model hf --model_args pretrained={target}{_prefix(tokenizer, ids)} --tasks TASK",
    ]


def _special_ids(origin: Any) -> dict[str, Any]:
    """Return the tokens that begin and end a text, from the config that the model came from or from its tokenizer."""
    return {name: getattr(origin, name, None) for name in ("bos_token_id", "eos_token_id")}


def _about(model: LanguageModel) -> str:
    dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
    n = sum(p.numel() for p in model.parameters())
    return f"{dtype}, {n:,} parameters, {non_embedding(model):,} without embeddings"


def _about_tokenizer(theirs: "PreTrainedTokenizerFast | None") -> str:
    return f"{len(theirs):,} tokens, end of text: {theirs.eos_token or 'none'}" if theirs else "none"


def _prefix(tokenizer: Tokenizer | None, ids: dict[str, Any]) -> str:
    """Return the token with which lm-evaluation-harness begins a text: a line break if there is no special token."""
    if tokenizer is None or any(number is not None for number in ids.values()):
        return ""
    try:
        tokens = tokenizer.encode("\n").tolist()
    except ConfigError:  # it has no line break
        tokens = []
    return f",prefix_token_id={tokens[0]}" if len(tokens) == 1 else ""
