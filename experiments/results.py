"""Make every RESULTS.md and picture of this folder from the kept numbers, and README.md with forest.png (page.py).

If a folder has a script of its own, its `main()` returns the files, and its `row()`, if any, what differs in its row
on the page. notes.md and older.md are prose on the page, written by hand.

`python experiments/results.py [FOLDER]` writes them beside the kept numbers, or into FOLDER (`make results`).
"""

import importlib.util
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from gptlab.compare import build_comparison
from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.analysis.over_rungs import RungsComparison
from gptlab.compare.build import build
from gptlab.compare.build_rungs import build_rungs, collect_rungs
from gptlab.compare.collect import collect_runs
from gptlab.compare.views.charts.picture import draw
from gptlab.compare.views.charts.rungs import draw_rungs
from gptlab.compare.views.markdown import render_markdown
from gptlab.compare.views.rungs_markdown import render_rungs

HERE = Path(__file__).parent
NOTES, OLDER = HERE / "notes.md", HERE / "older.md"  # prose on the page
NO_QUESTION = ("demo",)  # experiments that are shown elsewhere


def _small(png: bytes) -> bytes:
    """Return the picture with 64 colours, which takes a third of the space."""
    if not png:
        return png
    small = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").quantize(64).save(small, "png", optimize=True)
    return small.getvalue()


def main(out: Path) -> None:
    page = _load(HERE / "page.py")
    rows = {}
    for folder in sorted({path.parent for path in HERE.glob("*/*.json")}):
        name, kept, path = folder.name, folder / "kept.json", next(folder.glob("*.py"), None)
        script = _load(path) if path else None
        rungs = collect_rungs([kept]) if kept.is_file() else None
        if rungs:
            over = build_rungs(rungs)
            files, rows[name] = _over_rungs(over), page.row_over_rungs(over)
        else:
            comparison = build_comparison([kept]) if kept.is_file() else None
            files = script.main() if script else _files(comparison, kept)
            row = page.row_of(comparison) if comparison else page.ROW
            rows[name] = row | (script.row() if hasattr(script, "row") else {})
        (out / name).mkdir(parents=True, exist_ok=True)
        for file, content in files.items():
            (out / name / file).write_bytes(content)
    planned = sorted({path.parent.name for path in HERE.glob("*/*.yaml")} - set(rows) - set(NO_QUESTION))
    prose = [path.read_text(encoding="utf-8") for path in (NOTES, OLDER)]
    (out / "README.md").write_text(page.page(rows, planned, *prose), encoding="utf-8")
    (out / "forest.png").write_bytes(_small(page.forest(rows)))


def _files(comparison: Comparison, kept: Path) -> dict[str, bytes]:
    text = render_markdown(comparison, "results.png") + "".join(_longer_windows(kept))
    return {"RESULTS.md": text.encode(), "results.png": _small(draw(comparison, "png"))}


def _over_rungs(comparison: RungsComparison) -> dict[str, bytes]:
    text = render_rungs(comparison, "results.png")
    return {"RESULTS.md": text.encode(), "results.png": _small(draw_rungs(comparison, "png"))}


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _longer_windows(kept: Path) -> Iterator[str]:
    """Yield a table for each of eval.lengths, with the arms that can be evaluated there; the first is the baseline."""
    collected = collect_runs([kept])
    known = {key for run in collected.runs for key in run.summary}
    for metric in sorted(key for key in known if re.fullmatch(r"val/loss_\d+x", key)):
        first = next(arm for arm in collected.arms if all(metric in run.summary for run in arm.runs))
        comparison = build(collected, metric=metric, baseline=first.label)
        yield f"\n## In windows {metric[9:-1]} times as long as in training\n\n"
        yield "| arm | mean ± sd | difference ± 95% | verdict |\n| --- | ---: | ---: | --- |\n"
        for r in comparison.results:
            if len(r.scores):
                difference = f"{r.effect.mean:+.4f} ± {r.effect.high - r.effect.mean:.4f}" if r.effect else "baseline"
                verdict = r.effect.verdict if r.effect else ""
                yield f"| {r.name} | {r.mean:.4f} ± {r.sd:.4f} | {difference} | {verdict} |\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
