"""Runs on disk -> which arms differ from the baseline, paired by seed, and how sure that is: table, files, pictures.

runs, kept, places    what was recorded, read from folders or from one file       arms     runs of one config
build                 all of it put together: a Comparison, plain data            comparison
effects, statistics   differences, intervals, power        verdict    the words   readings, tuning, factorial
frame, table, markdown, plot, report                       ways to show it; none computes anything of its own
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.build import Material, build, build_comparison, gather
from gptlab.compare.views.dataframe import tabulate
from gptlab.compare.views.terminal import print_comparison
from gptlab.config import ConfigError

ENDINGS = {"png": (".png", ".pdf", ".svg"), "keep": (".json",)}

__all__ = ["build_comparison", "compare"]


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
    for flag, path in (("png", png), ("keep", keep)):
        if path is not None and Path(path).suffix not in ENDINGS[flag]:
            raise ConfigError(f"{flag}={path}: the name must end in {' or '.join(ENDINGS[flag])}")
    console = console or Console()
    material = gather(paths)
    comparison = build(material, **options)
    table = tabulate(comparison)
    asked = {"table": csv, "picture": png, "markdown": markdown, "report": html, "kept": keep}
    files = {what: Path(path) for what, path in asked.items() if path is not None}
    for what, path in files.items():  # before anything is printed, which may be into a `head` that closes early
        _write(path, _content(what, path, comparison, material, table, png))
    print_comparison(comparison, console)
    for what, path in files.items():
        console.print(f"{what}: {path}", markup=False, highlight=False, soft_wrap=True)
    return table


def _content(
    what: str, path: Path, comparison: Comparison, material: Material, table: pd.DataFrame, png: str | Path | None
) -> bytes:
    """What takes long to import is imported when it is needed."""
    if what == "table":
        return table.to_csv(index=False).encode()
    if what == "picture":
        from gptlab.compare.views.charts.picture import draw

        return draw(comparison, path.suffix[1:])
    if what == "markdown":
        from gptlab.compare.views.markdown import render_markdown

        picture = None if png is None else Path(os.path.relpath(png, path.parent)).as_posix()
        return render_markdown(comparison, picture).encode()
    if what == "report":
        from gptlab.compare.views.report import render_report

        return render_report(comparison).encode()
    from gptlab.compare.archive import kept_text

    return kept_text(material.runs, material.sweep, comparison).encode()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, path)
