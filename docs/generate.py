"""A hook of mkdocs that adds pages when the site is built, so that none of them can be out of date.

reference/commands.md     from `gptlab VERB --help`
reference/components.md   from the registry
reference/settings.md     from `gptlab list`
experiments, benchmarks, conf/preset, CONTRIBUTING.md, CHANGELOG.md, AGENTS.md   from the repository, outside of docs/
"""

import contextlib
import inspect
import io
import os
import re
import typing
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from gptlab.cli.main import VERBS, main
from gptlab.config import SLOTS, Config, registry

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = (
    *("CONTRIBUTING.md", "CHANGELOG.md", "AGENTS.md", "conf/preset/README.md", "benchmarks/README.md"),
    *("benchmarks/gpu/README.md", "experiments/README.md", "experiments/*/RESULTS.md"),
    *("experiments/*.png", "experiments/*/*.png"),
)
TEMPLATES = ROOT / "gptlab" / "cli" / "templates"  # what `gptlab new` writes
TEMPLATE = re.compile(r"^<!-- template: (\w+) -->$", re.MULTILINE)
LINK_OUT = re.compile(r"\]\((?P<up>(?:\.\./)+)(?P<target>(?:experiments|benchmarks|conf)/|[A-Z]+(?:\.md)?[)#])")
LINK_IN = re.compile(r"\]\(((?:\.\./)*)docs/")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages and those that lie outside of docs/."""
    pages = {"commands": commands(), "components": components(), "settings": settings()}
    for name, content in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put templates in their places, and correct links that cross the border of docs/.

    In the site, what lies beside docs/ lies in it.
    """
    if page.file.generated_by:
        return LINK_IN.sub(r"](\1", markdown)
    markdown = TEMPLATE.sub(lambda m: "\n".join(["```python", _template(m[1]), "```"]), markdown)
    return LINK_OUT.sub(lambda m: f"]({m['up'].removeprefix('../')}{m['target']}", markdown)


def commands() -> str:
    """Return the page of verbs: what each prints with --help."""
    lines = ["# Commands", "", "These are the help texts of gptlab and its verbs.", "", *_block(_output("--help"))]
    for verb in VERBS:
        lines += ["", f"## {verb}", "", *_block(_output(verb, "--help"))]
    return "\n".join(lines)


def components() -> str:
    """Return the page of slots and their options: docstring, source, arguments and settings of each."""
    registry.load()
    lines = [
        "# Components",
        "",
        "This page lists every slot and the components that fit it; `*` marks the baseline's. A setting is written"
        " `slot.setting=value`, such as `norm.eps=1e-6`. To add a component, see"
        " [How a component works](../components/index.md).",
    ]
    helps = {f.name: f.metadata["help"] for f in fields(Config)}
    baseline = _baseline()
    for slot, kind in SLOTS.items():
        lines += ["", f"## {slot}", "", f"{helps[slot][:1].upper()}{helps[slot][1:]}."]
        for entry in registry.entries(kind):
            lines += _component(slot, entry, entry.name == baseline[slot])
    return "\n".join(lines)


def settings() -> str:
    """Return the page of settings that belong to no component."""
    names = [f.name for f in fields(Config) if f.name not in SLOTS]
    return "\n".join(
        [
            "# Settings",
            "",
            "These are the settings that belong to no component, as `gptlab list` prints them: type, default, meaning."
            " The settings of components are on the page [Components](components.md).",
            "",
            *_block(_output("list", *names)),
        ]
    )


def _baseline() -> dict[str, str]:
    from gptlab.config.compose import load_config

    cfg = load_config()
    return {slot: cfg[slot].name for slot in SLOTS}


def _component(slot: str, entry: typing.Any, is_baseline: bool) -> Iterator[str]:
    summary, _, more = (inspect.getdoc(entry.cls) or "").partition("\n")
    yield from ("", f"### {slot}={entry.name}{' *' if is_baseline else ''}", "", _text(summary), "")
    if entry.source:
        yield from (f"Source: {_linked(entry.source)}", "")
    if more.strip():
        yield from (*_block(more.strip("\n")), "")
    asked, own = _parameters(entry.cls)
    if asked:
        yield from (f"Asks the builder for: {', '.join(f'`{name}`' for name in asked)}", "")
    if own:
        yield from ("| setting | type | default |", "| --- | --- | --- |")
        yield from (f"| `{slot}.{name}` | `{kind}` | `{default}` |" for name, kind, default in own)


def _parameters(cls: type) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Return what a component asks for, and its settings with type and default, from its constructor."""
    if cls.__init__.__qualname__ in ("Module.__init__", "object.__init__"):
        return [], []
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    asked = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    own = [(p.name, _type(p.annotation), _default(p.default)) for p in parameters if p.kind is p.KEYWORD_ONLY]
    return asked, own


def _type(annotation: typing.Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(map(str, typing.get_args(annotation)))
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("typing.", "").replace("None", "null").replace(" | ", " or ")


def _default(value: typing.Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value) or str(value) if _plain(value) else str(value)


def _plain(value: typing.Any) -> bool:
    return value is None or isinstance(value, bool)


def _text(line: str) -> str:
    """Return a line whose `*` and `_` Markdown leaves alone."""
    return re.sub(r"([*_<])", r"\\\1", line)


def _linked(source: str) -> str:
    source = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", source)
    source = re.sub(r"(?<![(/\w])github\.com/[\w./-]+", lambda m: f"[{m[0]}](https://{m[0]})", source)
    return re.sub(r"(?<![(\w])https://[\w./-]+", lambda m: f"<{m[0]}>", source)


def _output(*argv: str) -> str:
    """Return what `gptlab argv` prints, 100 columns wide."""
    printed = io.StringIO()
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100"
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
            main(argv)
    finally:
        os.environ.pop("COLUMNS")
        os.environ.update({"COLUMNS": before} if before else {})
    return printed.getvalue().rstrip()


def _template(kind: str) -> str:
    return (TEMPLATES / f"{kind}.py").read_text(encoding="utf-8").rstrip()


def _block(text: str) -> list[str]:
    return ["```text", *text.splitlines(), "```"]
