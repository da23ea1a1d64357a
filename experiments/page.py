"""README.md of this folder: all questions with their verdicts, and the picture of what the arms are worth.

A row of a table is a dict with the keys of ROW; results.py makes it of each experiment's kept numbers.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from typing import Any

from gptlab.compare.analysis.comparison import Comparison, Result
from gptlab.compare.analysis.over_rungs import RungsComparison
from gptlab.compare.analysis.verdict import BETTER, DEFINITIONS, WORSE
from gptlab.compare.views.charts.questions import Question, WorthRow, draw_questions, worth_text
from gptlab.compare.views.published_tables import order_summary, summary

CHECKS = ("calibration", "same_arm", "warmup", "warmup_short", "rate_*", "final_rate", "longer_run", "controls", "mup")
CHECKS += ("head_init",)  # what the lab asked about itself: its verdicts, its rates and warm-ups, its initial weights
SHORT_WARMUP = 50  # steps; fewer leave runs at a high rate far above the others (warmup)
ROW: dict[str, Any] = {
    "question": "",
    "baseline": "",
    "verdicts": "",
    "worth": [],  # of WorthRow, at the largest size
    "sizes": [],  # parameters of the baseline at each rung
    "runs": 0,
    "seconds": 0.0,
    "published": {},  # rung -> Published; the rung is "" without rungs
    "short": False,  # whether the warm-up is short
}
HEAD = """# Questions and answers

What does a change to the architecture bring, how sure is that, and does it agree with what was published? Each folder
here holds one question: the experiment's file, the numbers of its runs, and RESULTS.md with all tables. The models are
small and were trained for minutes on two CPU cores, on one text or one synthetic task. The results hold for such models
and show what gptlab reports; they are not evidence about large models.
"""
PICTURE = """![What the arms of each question are worth in compute, with intervals](forest.png)

A worth of 1.15 says that the baseline needs 15 % more compute (FLOPs) for the arm's loss. Lines are the intervals that
belong to the verdicts; an arrow or a bound such as >2 says that the value lies beyond the budgets of the baseline.
"""
COLUMNS = """
The verdicts compare each arm with the baseline, those of a ladder with the arm before. Where a question was asked at
several sizes, there is a word for each, from the smallest on, and the worth is that at the largest. Numbers after an
arm are differences in nats per token.
"""
OLD = f"† The warm-up had fewer than {SHORT_WARMUP} steps, which spreads the seeds widely: see the end of this page."
REPLICATION = """
A finding is what was published about an arm, as the experiment's file said before the runs. The runs agree if they show
the published word, and disagree if they show another one.
"""
HOW = """## Do it again

    gptlab sweep experiments/ffn/ffn.yaml                        # run the experiment, or continue it
    gptlab compare runs/ffn --html report.html                   # the report
    gptlab compare experiments/scale/kept.json                   # the tables again, from the numbers kept here
    make results                                                 # this page and every RESULTS.md
"""


def row_of(comparison: Comparison) -> dict[str, Any]:
    """Return the row of an experiment without rungs."""
    return ROW | {
        "question": comparison.question,
        "baseline": comparison.baseline.name,
        "verdicts": "; ".join(_verdicts(comparison)),
        "worth": _worth(comparison),
        "sizes": [comparison.baseline.costs["parameters"]],
        **_spent([comparison]),
        "published": {"": comparison.published} if comparison.published else {},
        "short": _short_warmup(comparison),
    }


def row_over_rungs(comparison: RungsComparison) -> dict[str, Any]:
    """Return the row of an experiment with rungs."""
    arms: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for arm in comparison.arms:
        arms[tuple(arm.words.values())].append(f"{arm.name}{_mark(arm.standing)}")
    verdicts = [f"**{_words(words)}**: {', '.join(names)}" for words, names in arms.items()]
    comparisons = [rung.comparison for rung in comparison.rungs]
    return ROW | {
        "question": comparison.file.question,
        "baseline": comparison.baseline,
        "verdicts": "; ".join(verdicts),
        "worth": _worth(comparisons[-1]),
        "sizes": [rung.parameters for rung in comparison.rungs],
        **_spent(comparisons),
        "published": {rung.name: found for rung in comparison.rungs if (found := rung.comparison.published)},
        "short": any(map(_short_warmup, comparisons)),
    }


def _words(words: tuple[str, ...]) -> str:
    """Return the words over the rungs: `better at all 3`, `better at both`, or `better, not shown`."""
    if len(words) == 1 or len(set(words)) > 1:
        return ", ".join(words)
    return f"{words[0]} at {'both' if len(words) == 2 else f'all {len(words)}'}"


def _mark(standing: str) -> str:
    return f" ({standing})" if standing else ""


def _verdicts(comparison: Comparison) -> Iterator[str]:
    """Yield `**better**: swiglu -0.067` for each verdict, in the order of the definitions."""
    for word in DEFINITIONS:
        found = [(r.name, r.effect) for r in comparison.results if r.effect and r.effect.word.endswith(word)]
        if found:
            arms = [f"{name} {effect.mean:+.3f}{_mark(effect.standing)}" for name, effect in found]
            yield f"**{word}**: {', '.join(arms)}"
    if comparison.factorial:
        effects = comparison.factorial.effects
        shown = effects[effects["verdict"].str.startswith((BETTER, WORSE))]
        significant = [f"{e.slots}: {e.levels} {e.effect:+.3f}" for e in shown.itertuples()]
        if significant:
            yield f"**effects over the grid**: {'; '.join(significant)}"


def _worth(comparison: Comparison) -> list[WorthRow]:
    return [WorthRow(r.name, r.multiplier.flops, r.effect.verdict) for r in comparison.results if _is_measured(r)]


def _is_measured(result: Result) -> bool:
    return bool(result.effect and result.multiplier and not result.multiplier.flops.reason)


def _spent(comparisons: Iterable[Comparison]) -> dict[str, Any]:
    tables = [comparison.runs for comparison in comparisons]
    return {"runs": sum(map(len, tables)), "seconds": sum(table["seconds"].sum() for table in tables)}


def _short_warmup(comparison: Comparison) -> bool:
    """Return whether every arm was trained with a short warm-up; a warm-up below 1 is a share of the run."""
    steps = []
    for result in comparison.results:
        warmup = (result.arm.runs[0].config.get("schedule") or {}).get("warmup")
        steps.append(warmup * result.costs["steps"] if warmup is not None and warmup < 1 else warmup)
    return all(n is not None and n < SHORT_WARMUP for n in steps)


def is_check(name: str) -> bool:
    """Return whether an experiment asks about the lab itself."""
    return any(fnmatch(name, pattern) for pattern in CHECKS)


def forest(rows: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Return the picture of what the arms are worth, the questions about architecture first."""
    ordered = sorted(rows, key=is_check)  # stable: by name within each kind
    questions = [Question(rows[name]["question"], rows[name]["worth"]) for name in ordered if rows[name]["worth"]]
    title = "What the arms are worth in compute, at the largest size of each question"
    return draw_questions(questions, title, "png")


def page(rows: Mapping[str, Mapping[str, Any]], planned: Iterable[str], notes: str, older: str) -> str:
    """Return the page.

    Args:
        rows: by the name of the experiment.
        planned: the names of the experiments that are not run yet.
        notes: prose about the results.
        older: prose about the older experiments.
    """
    ordered = sorted(rows.items(), key=lambda item: item[1]["short"])  # stable: the older experiments last
    asked = {name: row for name, row in ordered if not is_check(name)}
    checks = {name: row for name, row in ordered if is_check(name)}
    listed = ", ".join(planned)
    blocks = [
        *(HEAD, PICTURE, "## Questions about architecture", COLUMNS, _table(asked)),
        *([OLD] if any(row["short"] for row in rows.values()) else []),
        *([f"Planned, not yet run: {listed}."] if listed else []),
        *(notes, "## Replications", *_replications(rows)),
        *("## How the lab was checked", _table(checks)),
        *("## What the verdicts mean", "\n".join(f"- **{word}**: {means}." for word, means in DEFINITIONS.items())),
        *(HOW, older),
    ]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def _table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| question | baseline | verdicts | worth in compute | parameters | cost |"]
    lines += ["| --- | --- | --- | --- | ---: | ---: |"]
    for name, row in rows.items():
        question = f"[{row['question']}]({name}/RESULTS.md){' †' if row['short'] else ''}"
        worth = "<br>".join(f"{arm.arm} {worth_text(arm.found)}" for arm in row["worth"])
        sizes = ", ".join(f"{size / 1e6:.2g}M" if size >= 1e5 else f"{size / 1e6:.3f}M" for size in row["sizes"])
        cost = f"{row['runs']} runs, {row['seconds'] / 60:.0f} min"
        lines.append(f"| {question} | {row['baseline']} | {row['verdicts']} | {worth} | {sizes} | {cost} |")
    return "\n".join(lines)


def _replications(rows: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Yield how many published differences each experiment's runs agree with."""
    lines = []
    for name, row in rows.items():
        for rung, found in row["published"].items():
            order = f"; {order_summary(found)}" if found.order else ""
            lines.append(f"- [{name}]({name}/RESULTS.md){f' at {rung}' if rung else ''}: {summary(found)}{order}.")
    if not lines:
        yield "No experiment with published numbers has been run yet."
        return
    yield REPLICATION.strip()
    yield "\n".join(lines)
