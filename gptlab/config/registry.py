"""Names -> components. A component's signature is the only place where its knobs and their defaults are written.

Parameters left of `*` are asked for by name from the model builder (CONTEXT); keyword-only ones become settings.
"""

import dataclasses
import functools
import importlib
import importlib.util
import inspect
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore

from gptlab.config import COMMON, KINDS, SLOTS, ConfigError

# What model.py hands out. Sizes: dim, head_dim, n_head, n_layer, layer_idx, max_len (tokens), vocab_size.
# Factories of other slots' components: embedding(), position(), block(layer_idx), norm(dim), qk_norm(dim), attention(),
# ffn(), placement(), head(dim); a dim that is left out is the stream's.
CONTEXT = (
    *("dim", "head_dim", "n_head", "n_layer", "layer_idx", "max_len", "vocab_size", "bias", "dropout"),
    *("embedding", "position", "block", "norm", "qk_norm", "attention", "ffn", "placement", "head"),
)
# Where gptlab's own components of each kind are defined.
MODULES: dict[str, tuple[str, ...]] = {
    "model": ("model.gpt", "model.baselines"),
    "block": ("model.block",),
    "placement": ("model.placement",),
    "norm": ("model.norm",),
    "attention": ("model.attention",),
    "position": ("model.position",),
    "ffn": ("model.ffn",),
    "embedding": ("model.embedding",),
    "head": ("model.head",),
    "init": ("model.init",),
    "match": ("model.match_cost",),
    "optimizer": ("training.optimizer",),
    "schedule": ("training.lr_schedule",),
    "data": ("data.corpora", "data.recall", "data.grammar"),
    "tokenizer": ("data.tokenizers", "data.bpe", "data.hf_tokenizer"),
}
T = TypeVar("T", bound=type)


@dataclasses.dataclass(frozen=True)
class Entry:
    kind: str
    name: str
    cls: type
    source: str  # paper or repository
    wants: tuple[str, ...]  # what it asks the builder for
    choices: dict[str, tuple]  # knob -> allowed values, from Literal[...]
    schema: type  # the dataclass that Hydra composes: name, common settings, knobs

    @property
    def knobs(self) -> list[dataclasses.Field]:
        common = {f.name for f in dataclasses.fields(COMMON[self.kind])} if self.kind in COMMON else set()
        return [f for f in dataclasses.fields(self.schema) if f.name != "name" and f.name not in common]

    @property
    def summary(self) -> str:
        """The first sentence of the docstring."""
        doc = inspect.getdoc(self.cls) if self.cls.__doc__ else ""
        return (doc or "").split("\n", 1)[0].strip()


_entries: dict[tuple[str, str], Entry] = {}
_contents: dict[str, bytes] = {}  # of the user's files, by module name, as they were when imported


def register(kind: str, name: str, *, source: str = "") -> Callable[[T], T]:
    """Make the decorated class selectable as `slot=name` in every slot of `kind`."""
    if kind not in KINDS:
        raise ConfigError(f"register({kind!r}, {name!r}): no such kind; choose from {', '.join(KINDS)}")

    def wrap(cls: T) -> T:
        old = _entries.get((kind, name))
        if old and _where(old.cls) != _where(cls):
            raise ConfigError(f"{kind}={name}: defined twice, at {_where(old.cls)} and {_where(cls)}; rename one")
        wants, knobs, choices = _read_signature(cls)
        schema = dataclasses.make_dataclass(
            f"{kind}={name}",  # Hydra's messages show it
            [("name", str, name), *knobs],
            bases=(COMMON[kind],) if kind in COMMON else (),
            namespace={"__module__": cls.__module__},
        )
        _entries[kind, name] = Entry(kind, name, cls, source, wants, choices, schema)
        for slot_name, slot_kind in SLOTS.items():
            if slot_kind == kind:
                ConfigStore.instance().store(group=slot_name, name=name, node=schema, provider="registry")
        return cls

    return wrap


def _where(cls: type) -> str:
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):  # typed into an interpreter
        return f"{cls.__module__}.{cls.__qualname__}"


def _read_signature(cls: Any) -> tuple[tuple[str, ...], list[tuple], dict[str, tuple]]:
    """What `cls` asks the builder for, its knobs as dataclass fields, and the choices of those that have some."""
    wants: list[str] = []
    knobs: list[tuple] = []
    choices: dict[str, tuple] = {}
    if cls.__init__.__qualname__ in ("Module.__init__", "object.__init__"):  # none of its own: nothing to ask or set
        return (), [], {}
    hints = typing.get_type_hints(cls.__init__)
    for p in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ConfigError(f"{_where(cls)}: write out *{p.name}; its parts are what users can set")
        if p.kind is not p.KEYWORD_ONLY:
            if p.name not in CONTEXT:
                raise ConfigError(
                    f"{_where(cls)}: nothing provides {p.name!r} (there are {', '.join(CONTEXT)}); "
                    f"put it after * to make it a knob"
                )
            wants.append(p.name)
            continue
        if p.name not in hints or p.default is p.empty:
            raise ConfigError(f"{_where(cls)}: knob {p.name!r} needs a type and a default")
        kind = hints[p.name]
        if typing.get_origin(kind) is typing.Literal:  # OmegaConf has no Literal: keep the base type, check it here
            choices[p.name] = typing.get_args(kind)
            kind = type(p.default)
        default = p.default
        if isinstance(default, list | tuple):
            default = dataclasses.field(default_factory=functools.partial(list, default))
        knobs.append((p.name, kind, default))
    return tuple(wants), knobs, choices


def entries(kind: str | None = None) -> list[Entry]:
    """The registered components in the order of their names, of one kind or of all."""
    return [e for _, e in sorted(_entries.items()) if kind is None or e.kind == kind]


def names(kind: str) -> list[str]:
    return [e.name for e in entries(kind)]


def has(slot_name: str, name: object) -> bool:
    return isinstance(name, str) and (SLOTS[slot_name], name) in _entries


def entry(slot_name: str, name: str) -> Entry:
    kind = SLOTS[slot_name]
    if (kind, name) not in _entries:
        raise ConfigError(f"{slot_name}={name}: no such option; choose from {', '.join(names(kind))}")
    return _entries[kind, name]


def build(slot_name: str, chosen: Mapping[str, Any], context: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """The component chosen for a slot. `context` and `more` may hold more than it asks for."""
    found = entry(slot_name, chosen["name"])
    provided = {**(context or {}), **more}
    knobs = {f.name: chosen[f.name] for f in found.knobs}
    try:
        return found.cls(**{k: provided[k] for k in found.wants}, **knobs)
    except ConfigError:
        raise
    except ValueError as e:
        at_knob = str(e).split("=", 1)[0] in knobs  # "eps=-1: ..." is about a knob: say whose
        raise ConfigError(f"{slot_name}.{e}" if at_knob else f"{slot_name}={found.name}: {e}") from e


def load(use: str | Path | Iterable[str | Path] | None = None) -> None:
    """Import gptlab's own components, then the user's files."""
    _load_own()
    for path in [use] if isinstance(use, str | Path) else use or ():
        _load_file(Path(path))


@functools.cache
def _load_own() -> None:
    for modules in MODULES.values():
        for module in modules:
            importlib.import_module(f"gptlab.{module}")


def _load_file(given: Path) -> None:
    """Import a user's file under its own stem, so that what it defines can be pickled and imported by a worker."""
    path, stem = given.resolve(), given.stem
    if not path.is_file():
        raise ConfigError(f"use={given}: no such file; a path starts from the current folder")
    if not stem.isidentifier():
        raise ConfigError(f"use={given}: no module can be named {stem!r}; rename it to letters, digits and _")
    if stem in sys.modules:
        if _contents.get(stem, _content(sys.modules[stem].__file__)) != path.read_bytes():
            raise ConfigError(f"use={given}: another {stem!r} is imported already; rename it, or start Python anew")
        return  # a copy in a run's folder counts as the file it was copied from
    found = importlib.util.find_spec(stem)
    if found is not None and _content(found.origin) != path.read_bytes():
        raise ConfigError(f"use={given}: there is another module named {stem!r}; rename the file")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    importlib.invalidate_caches()
    try:
        importlib.import_module(stem)
    except Exception as e:
        sys.modules.pop(stem, None)
        if isinstance(e, ConfigError):
            raise
        raise ConfigError(
            f"use={given}: does not import ({type(e).__name__}: {' '.join(str(e).split())}); mend it"
        ) from e
    _contents[stem] = path.read_bytes()


def _content(file: str | None) -> bytes | None:
    """Of a module's file; built-in ones have none."""
    return Path(file).read_bytes() if file and Path(file).is_file() else None
