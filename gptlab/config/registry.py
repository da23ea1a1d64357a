"""Names -> components. A component's settings and their defaults are written in its signature and nowhere else.

Parameters before `*` are supplied by the model builder, by name (CONTEXT); keyword-only ones are settings.
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

from gptlab.config import COMMON, KINDS, SLOTS, ConfigError, protocols, user_files
from gptlab.config.foreign_names import setting_for

# What gptlab.model.build supplies. Sizes: dim, head_dim, n_head, n_layer, layer_idx, max_len (tokens), vocab_size.
# Factories of the components in other slots: embedding(), position(), block(layer_idx), norm(dim), qk_norm(dim),
# attention(), ffn(), placement(), head(dim); dim defaults to the width of the residual stream.
CONTEXT = (
    *("dim", "head_dim", "n_head", "n_layer", "layer_idx", "max_len", "vocab_size", "bias", "dropout"),
    *("embedding", "position", "block", "norm", "qk_norm", "attention", "ffn", "placement", "head"),
)
# kind -> the modules that define gptlab's own components of that kind.
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
WITHOUT_CONTEXT = ("optimizer", "schedule", "data", "tokenizer", "match")  # kinds that no model builder makes
T = TypeVar("T", bound=type)


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """A registered component."""

    kind: str
    name: str
    cls: type
    source: str  # paper or repository
    wants: tuple[str, ...]  # names from CONTEXT
    choices: dict[str, tuple[Any, ...]]  # setting -> allowed values, from Literal[...]
    schema: type  # the dataclass that Hydra composes: name, the slot's common settings, the component's own

    @property
    def settings(self) -> list[dataclasses.Field[Any]]:
        """The component's own settings, without those that its slot always has."""
        common = {f.name for f in dataclasses.fields(COMMON[self.kind])} if self.kind in COMMON else set()
        return [f for f in dataclasses.fields(self.schema) if f.name != "name" and f.name not in common]

    @property
    def summary(self) -> str:
        """The first line of the docstring."""
        doc = inspect.getdoc(self.cls) if self.cls.__doc__ else ""
        return (doc or "").split("\n", 1)[0].strip()


_entries: dict[tuple[str, str], Entry] = {}


def register(kind: str, name: str, *, source: str = "") -> Callable[[T], T]:
    """Make the decorated class available as `slot=name` in every slot of `kind`.

    Args:
        kind: a kind of component, such as "norm".
        name: lower case, as the literature calls it.
        source: the paper (arXiv:...) or repository.

    Raises:
        ConfigError: for an unknown kind, a name that is taken, or a signature that leaves a setting untyped.
    """
    if kind not in KINDS:
        raise ConfigError(f"register({kind!r}, {name!r}): no such kind; choose from {', '.join(KINDS)}")

    def wrap(cls: T) -> T:
        old = _entries.get((kind, name))
        if old and _where(old.cls) != _where(cls):
            raise ConfigError(f"{kind}={name}: defined twice, at {_where(old.cls)} and {_where(cls)}; rename one")
        wants, settings, choices = _read_signature(cls, kind)
        schema = dataclasses.make_dataclass(
            f"{kind}={name}",  # shown in Hydra's messages
            [("name", str, name), *settings],
            bases=(COMMON[kind],) if kind in COMMON else (),
            namespace={"__module__": cls.__module__},
        )
        user_files.components[f"{kind}={name}"] = cls
        _entries[kind, name] = Entry(kind, name, cls, source, wants, choices, schema)
        for slot_name, slot_kind in SLOTS.items():
            if slot_kind == kind:
                ConfigStore.instance().store(group=slot_name, name=name, node=schema, provider="registry")
        return cls

    return wrap


def _where(cls: type) -> str:
    try:
        return f"{inspect.getsourcefile(cls)}:{inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):  # defined in an interactive session
        return f"{cls.__module__}.{cls.__qualname__}"


def _read_signature(
    cls: Any, slot_kind: str
) -> tuple[tuple[str, ...], list[tuple[str, Any, Any]], dict[str, tuple[Any, ...]]]:
    """Return the names that `cls` wants from CONTEXT, its settings as dataclass fields, and their choices."""
    wants: list[str] = []
    settings: list[tuple[str, Any, Any]] = []
    choices: dict[str, tuple[Any, ...]] = {}
    owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
    if owner is object or f"{owner.__module__}.{owner.__name__}" == "torch.nn.modules.module.Module":
        return (), [], {}  # it has no constructor of its own
    hints = typing.get_type_hints(cls.__init__)
    for p in list(inspect.signature(cls.__init__).parameters.values())[1:]:
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            raise ConfigError(f"{_where(cls)}: *{p.name} hides settings; write each as a parameter")
        if p.kind is not p.KEYWORD_ONLY:
            if slot_kind in WITHOUT_CONTEXT:
                also = "; build(parameters) gets the parameters" if slot_kind == "optimizer" else ""
                raise ConfigError(f"{_where(cls)}: {p.name!r} must stand after *, as a setting with a default{also}")
            if p.name not in CONTEXT:
                name = (setting_for(p.name, "") or "").rstrip("=").rpartition(".")[2]
                hint = f"in gptlab: {name}; " if name in CONTEXT else ""
                raise ConfigError(
                    f"{_where(cls)}: nothing provides {p.name!r} ({hint}provided are {', '.join(CONTEXT)}); "
                    f"put it after * to make it a setting"
                )
            wants.append(p.name)
            continue
        if p.name not in hints or p.default is p.empty:
            raise ConfigError(f"{_where(cls)}: setting {p.name!r} needs a type and a default")
        kind = hints[p.name]
        if typing.get_origin(kind) is typing.Literal:  # unknown to OmegaConf; validate() checks it
            choices[p.name] = typing.get_args(kind)
            kind = type(p.default)
        default = p.default
        if isinstance(default, list | tuple):
            default = dataclasses.field(default_factory=functools.partial(list, default))
        settings.append((p.name, kind, default))
    return tuple(wants), settings, choices


def entries(kind: str | None = None) -> list[Entry]:
    """Return the registered components sorted by name, of one kind or of all."""
    return [e for _, e in sorted(_entries.items()) if kind is None or e.kind == kind]


def names(kind: str) -> list[str]:
    """Return the names of the components of a kind, sorted."""
    return [e.name for e in entries(kind)]


def entry(slot_name: str, name: str) -> Entry:
    """Return the component `name` of a slot. Raises ConfigError if there is none."""
    kind = SLOTS[slot_name]
    if (kind, name) not in _entries:
        raise ConfigError(f"{slot_name}={name}: no such option; choose from {', '.join(names(kind))}")
    return _entries[kind, name]


def build(slot_name: str, chosen: Mapping[str, Any], context: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """Build the component that is chosen for a slot.

    Args:
        slot_name: the slot.
        chosen: the slot's settings, with the component's `name`.
        context: values for the names of CONTEXT; may hold more than the component wants.
        **more: values that override `context`.

    Raises:
        ConfigError: if the component rejects a setting with a ValueError.
    """
    component = entry(slot_name, chosen["name"])
    provided = {**(context or {}), **more}
    settings = {f.name: chosen[f.name] for f in component.settings}
    with user_files.blaming():
        try:
            made = component.cls(**{k: provided[k] for k in component.wants}, **settings)
        except ConfigError:
            raise
        except ValueError as e:
            names_setting = str(e).split("=", 1)[0] in settings  # "eps=-1: ..."
            raise ConfigError(f"{slot_name}.{e}" if names_setting else f"{slot_name}={component.name}: {e}") from e
    protocols.check_made(component.kind, component.name, made)
    return made


@functools.cache
def check_protocol(component: Entry) -> None:
    """Check that a component has the methods of its kind. Raises ConfigError, one line with the mend."""
    settings = [field.name for field in component.settings]
    protocols.check_class(component.kind, component.name, component.cls, settings)


def load(use: str | Path | Iterable[str | Path] | None = None) -> None:
    """Import gptlab's own components, then the user's files. Raises ConfigError if a file cannot be imported."""
    _load_own()
    for path in [use] if isinstance(use, str | Path) else use or ():
        _load_file(Path(path))


@functools.cache
def _load_own() -> None:
    for modules in MODULES.values():
        for module in modules:
            importlib.import_module(f"gptlab.{module}")


def _load_file(given: Path) -> None:
    """Import a user's file as a module named after the file, so that workers can unpickle its classes."""
    path, stem = given.resolve(), given.stem
    if not path.is_file():
        raise ConfigError(f"use={given}: no such file; paths are relative to the current folder")
    content = path.read_bytes()
    if not stem.isidentifier():
        raise ConfigError(f"use={given}: {stem!r} is not a module name; rename the file with letters, digits and _")
    if stem in sys.modules:
        if (
            user_files.contents.get(stem, user_files.content_of_file(getattr(sys.modules[stem], "__file__", None)))
            != content
        ):
            raise ConfigError(f"use={given}: another {stem!r} is imported already; rename it, or restart Python")
        if stem not in user_files.imports:  # imported by another user's file, or by Python
            user_files.note(stem, content, path.parent)
        return  # the file itself or a run's copy of it
    existing = importlib.util.find_spec(stem)
    if existing is not None and user_files.content_of_file(existing.origin) != content:
        raise ConfigError(f"use={given}: another module is named {stem!r}; rename the file")
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
            f"use={given}: cannot be imported ({type(e).__name__}: {' '.join(str(e).split())}); fix it"
        ) from e
    user_files.note(stem, content, path.parent)
