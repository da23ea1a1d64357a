"""Compare runs: which arms differ from the baseline, paired by seed, and how sure that is.

read/       runs from their folders                  archive     runs from a file that --keep wrote
analysis/   arms, effects, statistics, verdicts      build       everything put together as a Comparison, plain data
columns     the cost columns of every view           views/      terminal, Markdown, CSV, JSON, picture, HTML page
build_rungs and views/rungs_*: the same for an experiment with rungs, which is a comparison at each of them
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from rich.console import Console

from gptlab import files
from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.analysis.over_rungs import RungsComparison
from gptlab.compare.archive import rungs_text
from gptlab.compare.build import build, build_comparison
from gptlab.compare.build_rungs import CollectedRungs, build_rungs, collect_rungs
from gptlab.compare.collect import CollectedRuns, collect_runs
from gptlab.compare.views.dataframe import tabulate, tabulate_rungs
from gptlab.compare.views.rungs_terminal import print_rungs
from gptlab.compare.views.terminal import print_comparison
from gptlab.config import ConfigError

KINDS = {
    "csv": "table",
    "png": "picture",
    "markdown": "markdown",
    "html": "report",
    "latex": "tables",
    "figures": "figures",
    "keep": "kept",
}
# An option's file must end in one of them
SUFFIXES = {"png": (".png", ".pdf", ".svg"), "keep": (".json",), "latex": (".tex",)}
FOLDERS = ("figures",)  # options that name a folder

Writers = dict[str, Callable[[Path], "bytes | Mapping[str, bytes]"]]  # option -> the content of its file or folder

__all__ = ["build_comparison", "compare", "compare_runs"]


def compare(
    paths: Iterable[str | Path],
    *,
    csv: str | Path | None = None,
    png: str | Path | None = None,
    markdown: str | Path | None = None,
    html: str | Path | None = None,
    keep: str | Path | None = None,
    latex: str | Path | None = None,
    figures: str | Path | None = None,
    console: Console | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Print the comparison of the runs in `paths`, write the requested files, and return a row per arm.

    `figures` is a folder; the others are files.

    `options` are those of build.build: metric, baseline, against, margin, defaults.
    """
    outputs = {
        "csv": csv,
        "png": png,
        "markdown": markdown,
        "html": html,
        "keep": keep,
        "latex": latex,
        "figures": figures,
    }
    comparison = compare_runs(paths, outputs=outputs, console=console, **options)
    return tabulate(comparison) if isinstance(comparison, Comparison) else tabulate_rungs(comparison)


def compare_runs(
    paths: Iterable[str | Path],
    *,
    outputs: Mapping[str, str | Path | None],
    console: Console | None = None,
    **options: Any,
) -> Comparison | RungsComparison:
    """Print the comparison, write `outputs` (paths by the names of `compare`'s arguments), and return it as data."""
    _check_outputs(outputs)
    paths, console = list(paths), console or Console()
    if rungs := collect_rungs(paths):
        return _compare_rungs(rungs, paths, outputs, console, **options)
    collected = collect_runs(paths)
    comparison = build(collected, **options)
    writers: Writers = {
        "csv": lambda path: tabulate(comparison).to_csv(index=False).encode(),
        "png": lambda path: _picture(comparison, path),
        "markdown": lambda path: _markdown(comparison, path, outputs.get("png")),
        "html": lambda path: _report(comparison),
        "keep": lambda path: _archive(comparison, collected).encode(),
        "latex": lambda path: _latex(comparison),
        "figures": lambda path: _figures(comparison),
    }
    written = _write(writers, outputs)  # before printing, which may be into a `head` that closes early
    print_comparison(comparison, console)
    _say(written, console)
    return comparison


def _compare_rungs(
    collected: CollectedRungs,
    paths: Sequence[str | Path],
    outputs: Mapping[str, str | Path | None],
    console: Console,
    **options: Any,
) -> RungsComparison:
    """Do as compare_runs does, for an experiment with rungs. The report of each rung is written beside that of all."""
    comparison = build_rungs(collected, **options)
    kept = {rung.name: _archive(rung.comparison, collected.rungs[rung.name]) for rung in comparison.rungs}
    writers: Writers = {
        "csv": lambda path: tabulate_rungs(comparison).to_csv(index=False).encode(),
        "png": lambda path: _rungs_picture(comparison, path),
        "markdown": lambda path: _rungs_markdown(comparison, path, outputs.get("png")),
        "html": lambda path: _rungs_report(comparison, path),
        "keep": lambda path: rungs_text(collected.file, kept).encode(),
        "latex": lambda path: _rungs_latex(comparison),
        "figures": lambda path: _rungs_figures(comparison),
    }
    written = _write(writers, outputs)
    folder = Path(paths[0])
    print_rungs(comparison, str(folder) if folder.is_dir() else "", console)
    _say(written, console)
    return comparison


def _check_outputs(outputs: Mapping[str, str | Path | None]) -> None:
    """Refuse a file that cannot be written, or has the wrong ending, before anything is read."""
    for option, path in outputs.items():
        if path is not None and option in SUFFIXES and Path(path).suffix not in SUFFIXES[option]:
            raise ConfigError(f"{option}={path}: the name must end in {' or '.join(SUFFIXES[option])}")
    named = {option: Path(path).absolute() for option, path in outputs.items() if path is not None}
    for option, file in named.items():
        place = f"--{option}={outputs[option]}"
        if option in FOLDERS and file.exists() and not file.is_dir():
            raise ConfigError(f"{place}: is a file; give a folder")
        files.require_writable(file / "figure.pdf" if option in FOLDERS else file, place)
        if list(named.values()).count(file) > 1:
            raise ConfigError(f"{place}: is the file of two options; give each its own")
        if other := next((key for key in named if key not in FOLDERS and named[key] in file.parents), None):
            raise ConfigError(f"{place}: is below {outputs[other]}, a file of --{other}; give another name")


def _write(writers: Writers, outputs: Mapping[str, str | Path | None]) -> list[str]:
    """Write the files that are wanted, and return a line about each."""
    written = []
    for option, writer in writers.items():
        if (name := outputs.get(option)) is not None:
            path = Path(name)
            content = writer(path)
            parts = {path: content} if isinstance(content, bytes) else {path / n: pdf for n, pdf in content.items()}
            for file, data in parts.items():
                files.write_bytes(file, data)
            written.append(f"{KINDS[option]}: {Path(name)}")
    return written


def _say(written: Sequence[str], console: Console) -> None:
    for line in written:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


# These views are imported when they are needed, since some of them import slow libraries.


def _picture(comparison: Comparison, path: Path) -> bytes:
    from gptlab.compare.views.charts.picture import draw

    return draw(comparison, path.suffix[1:])


def _markdown(comparison: Comparison, path: Path, png: str | Path | None) -> bytes:
    from gptlab.compare.views.markdown import render_markdown

    return render_markdown(comparison, _beside(png, path)).encode()


def _beside(picture: str | Path | None, text: Path) -> str | None:
    """Return the path of a picture relative to the folder of a text."""
    return None if picture is None else Path(os.path.relpath(picture, text.parent)).as_posix()


def _report(comparison: Comparison) -> bytes:
    from gptlab.compare.views.report import render_report

    return render_report(comparison).encode()


def _latex(comparison: Comparison) -> bytes:
    from gptlab.compare.views.latex import render_latex

    return render_latex(comparison).encode()


def _figures(comparison: Comparison) -> Mapping[str, bytes]:
    from gptlab.compare.views.figures import comparison_figures

    return comparison_figures(comparison)


def _archive(comparison: Comparison, collected: CollectedRuns) -> str:
    from gptlab.compare.archive import archive_text

    return archive_text(collected.runs, collected.sweep, comparison)


def _rungs_picture(comparison: RungsComparison, path: Path) -> bytes:
    from gptlab.compare.views.charts.rungs import draw_rungs

    return draw_rungs(comparison, path.suffix[1:])


def _rungs_markdown(comparison: RungsComparison, path: Path, png: str | Path | None) -> bytes:
    from gptlab.compare.views.rungs_markdown import render_rungs

    return render_rungs(comparison, _beside(png, path)).encode()


def _rungs_latex(comparison: RungsComparison) -> bytes:
    from gptlab.compare.views.latex import render_rungs_latex

    return render_rungs_latex(comparison).encode()


def _rungs_figures(comparison: RungsComparison) -> Mapping[str, bytes]:
    from gptlab.compare.views.figures import rungs_figures

    return rungs_figures(comparison)


def _rungs_report(comparison: RungsComparison, path: Path) -> bytes:
    """Write the report of each rung, and return the page that links to them."""
    from gptlab.compare.views.report import render_report
    from gptlab.compare.views.report.rungs import render_rungs_report

    pages = {rung.name: path.with_name(f"{path.stem}-{rung.name}{path.suffix}") for rung in comparison.rungs}
    for rung in comparison.rungs:
        files.write_bytes(pages[rung.name], render_report(rung.comparison).encode())
    return render_rungs_report(comparison, {name: quote(page.name) for name, page in pages.items()}).encode()
