"""Runs on disk -> which arms differ from the baseline, paired by seed, and how sure that is: table, files, pictures.

runs, kept, places    what was recorded, read from folders or from one file       arms     runs of one config
build                 all of it put together: a Comparison, plain data            comparison
effects, statistics   differences, intervals, power        verdict    the words   readings, tuning, factorial
frame, table, markdown, plot, report                       ways to show it; none computes anything of its own
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.build import CollectedRuns, build, build_comparison, collect_runs
from gptlab.compare.views.dataframe import tabulate
from gptlab.compare.views.terminal import print_comparison
from gptlab.config import ConfigError

ENDINGS = {"png": (".png", ".pdf", ".svg"), "keep": (".json",)}

__all__ = ["build_comparison", "compare", "compare_runs"]


def compare(
    paths: Iterable[str | Path],
    *,
    csv: str | Path | None = None,
    png: str | Path | None = None,
    markdown: str | Path | None = None,
    html: str | Path | None = None,
    keep: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Print the comparison of the runs in `paths`, write the files asked for, and return a row per arm.

    `options` are those of build.build: metric, baseline, against, margin, defaults.
    """
    files = {"csv": csv, "png": png, "markdown": markdown, "html": html, "keep": keep}
    return tabulate(compare_runs(paths, console=console, files=files, **options))


def compare_runs(
    paths: Iterable[str | Path],
    *,
    files: Mapping[str, str | Path | None],
    console: Console | None = None,
    **options: Any,
) -> Comparison:
    """Do what `compare` does, with the files by the name of their argument, and return the whole Comparison."""
    csv, png, markdown, html, keep = (files.get(key) for key in ("csv", "png", "markdown", "html", "keep"))
    for flag, path in (("png", png), ("keep", keep)):
        if path is not None and Path(path).suffix not in ENDINGS[flag]:
            raise ConfigError(f"{flag}={path}: the name must end in {' or '.join(ENDINGS[flag])}")
    console = console or Console()
    collected = collect_runs(paths)
    comparison = build(collected, **options)
    table = tabulate(comparison)
    asked = {"table": csv, "picture": png, "markdown": markdown, "report": html, "kept": keep}
    wanted = {what: Path(path) for what, path in asked.items() if path is not None}
    for what, path in wanted.items():  # before anything is printed, which may be into a `head` that closes early
        _write(path, _content(what, path, comparison, collected, table, png))
    print_comparison(comparison, console)
    for what, path in wanted.items():
        console.print(f"{what}: {path}", markup=False, highlight=False, soft_wrap=True)
    return comparison


def _content(
    what: str, path: Path, comparison: Comparison, collected: CollectedRuns, table: pd.DataFrame, png: str | Path | None
) -> bytes:
    """What takes long to import is imported when it is needed."""
    if what == "table":
        return table.to_csv(index=False).encode()
    if what == "picture":
        from gptlab.compare.views.figure import draw

        return draw(comparison, path.suffix[1:])
    if what == "markdown":
        from gptlab.compare.views.markdown import render_markdown

        picture = None if png is None else Path(os.path.relpath(png, path.parent)).as_posix()
        return render_markdown(comparison, picture).encode()
    if what == "report":
        from gptlab.compare.views.report import render_report

        return render_report(comparison).encode()
    from gptlab.compare.archive import archive_text

    return archive_text(collected.runs, collected.sweep, comparison).encode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, path)
