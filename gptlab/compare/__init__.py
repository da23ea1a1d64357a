"""Compare runs: which arms differ from the baseline, paired by seed, and how sure that is.

read/       runs from their folders                  archive     runs from a file that --keep wrote
analysis/   arms, effects, statistics, verdicts      build       everything put together as a Comparison, plain data
columns     the cost columns of every view           views/      terminal, Markdown, CSV, JSON, picture, HTML page
"""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from gptlab import files
from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.build import CollectedRuns, build, build_comparison, collect_runs
from gptlab.compare.views.dataframe import tabulate
from gptlab.compare.views.terminal import print_comparison
from gptlab.config import ConfigError

SUFFIXES = {"png": (".png", ".pdf", ".svg"), "keep": (".json",)}  # an option's file must end in one of them

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
    """Print the comparison of the runs in `paths`, write the requested files, and return a row per arm.

    `options` are those of build.build: metric, baseline, against, margin, defaults.
    """
    outputs = {"csv": csv, "png": png, "markdown": markdown, "html": html, "keep": keep}
    return tabulate(compare_runs(paths, outputs=outputs, console=console, **options))


def compare_runs(
    paths: Iterable[str | Path],
    *,
    outputs: Mapping[str, str | Path | None],
    console: Console | None = None,
    **options: Any,
) -> Comparison:
    """Print the comparison, write `outputs` (paths by the names of `compare`'s arguments), and return it as data."""
    csv, png, markdown, html, keep = (outputs.get(key) for key in ("csv", "png", "markdown", "html", "keep"))
    for option, path in (("png", png), ("keep", keep)):
        if path is not None and Path(path).suffix not in SUFFIXES[option]:
            raise ConfigError(f"{option}={path}: the name must end in {' or '.join(SUFFIXES[option])}")
    named = {option: Path(path).absolute() for option, path in outputs.items() if path is not None}
    for option, file in named.items():
        files.require_writable(file, f"--{option}={outputs[option]}")
        if list(named.values()).count(file) > 1:
            raise ConfigError(f"--{option}={outputs[option]}: is the file of two options; give each its own")
    console = console or Console()
    collected = collect_runs(paths)
    comparison = build(collected, **options)
    writers: dict[str, tuple[str | Path | None, Callable[[Path], bytes]]] = {
        "table": (csv, lambda path: tabulate(comparison).to_csv(index=False).encode()),
        "picture": (png, lambda path: _picture(comparison, path)),
        "markdown": (markdown, lambda path: _markdown(comparison, path, png)),
        "report": (html, lambda path: _report(comparison)),
        "kept": (keep, lambda path: _archive(comparison, collected)),
    }
    written = []
    for kind, (name, content) in writers.items():  # before printing, which may be into a `head` that closes early
        if name is not None:
            files.write_bytes(Path(name), content(Path(name)))
            written.append(f"{kind}: {Path(name)}")
    print_comparison(comparison, console)
    for line in written:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return comparison


# These views are imported when they are needed, since some of them import slow libraries.


def _picture(comparison: Comparison, path: Path) -> bytes:
    from gptlab.compare.views.charts.picture import draw

    return draw(comparison, path.suffix[1:])


def _markdown(comparison: Comparison, path: Path, png: str | Path | None) -> bytes:
    from gptlab.compare.views.markdown import render_markdown

    picture = None if png is None else Path(os.path.relpath(png, path.parent)).as_posix()
    return render_markdown(comparison, picture).encode()


def _report(comparison: Comparison) -> bytes:
    from gptlab.compare.views.report import render_report

    return render_report(comparison).encode()


def _archive(comparison: Comparison, collected: CollectedRuns) -> bytes:
    from gptlab.compare.archive import archive_text

    return archive_text(collected.runs, collected.sweep, comparison).encode()
