"""The report on the ladder of models: two texts, each at a budget of tokens and of seconds, and speeds by window.

`python experiments/ladder_of_models/report.py samples RUNS` generates the samples again, from the runs below RUNS.
"""

import io
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter

from gptlab.compare import build_comparison
from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.build import collect_runs

HERE = Path(__file__).parent
TEXTS = {"shakespeare": "Tiny Shakespeare", "pystdlib": "Python's standard library"}
# By text and budget. The page of all verdicts shows the first one.
KEPT = {
    ("pystdlib", "tokens"): "kept.json",
    ("pystdlib", "seconds"): "kept_pystdlib_seconds.json",
    ("shakespeare", "tokens"): "kept_shakespeare_tokens.json",
    ("shakespeare", "seconds"): "kept_shakespeare_seconds.json",
}
WINDOWS, SAMPLES = HERE / "kept_windows.json", HERE / "samples.json"
PROMPT, LENGTH = {"shakespeare": "ROMEO:\n", "pystdlib": "def "}, 200
METRIC = "val/loss"
SEED = 10  # of the samples shown
CURVE_POINTS = 60  # of a curve


def main() -> dict[str, bytes]:
    """Return the files made from the kept runs, by name."""
    comparisons = {key: build_comparison([HERE / file]) for key, file in KEPT.items()}
    speeds = _speeds()
    return {"RESULTS.md": _text(comparisons, speeds).encode(), "results.png": _picture(comparisons, speeds)}


def row() -> dict[str, object]:
    """Return the line on the page of all experiments."""
    comparisons = [build_comparison([HERE / file]) for file in KEPT.values()]
    first = comparisons[0]
    verdicts = ", ".join(f"{r.name} {r.effect.mean:+.4f} ({r.effect.verdict})" for r in first.results if r.effect)
    return {
        "question": first.question,
        "baseline": first.results[0].name,
        "verdicts": f"pystdlib, at equal tokens: {verdicts}",
        "runs": sum(len(c.runs) for c in comparisons),
        "seconds": sum(c.runs["seconds"].sum() for c in comparisons),
    }


def _speeds() -> pd.DataFrame:
    """Return training tokens per second, arms down, windows across."""
    runs = collect_runs([WINDOWS]).runs
    rows = [(r.config["variant"], r.config["data"]["window"], r.number("speed/tokens_per_s")) for r in runs]
    frame = pd.DataFrame(rows, columns=["arm", "window", "speed"])
    return frame.pivot_table(index="arm", columns="window", values="speed", sort=False)


def _text(comparisons: dict[tuple[str, str], Comparison], speeds: pd.DataFrame) -> str:
    first = next(iter(comparisons.values()))
    parts = [
        f"# {first.question}",
        f"What others found: {first.literature}",
        _answer(comparisons, speeds),
        "![Loss against tokens and seconds, speed against window](results.png)",
        *(_budget(text, budget, comparison) for (text, budget), comparison in comparisons.items()),
        _speed_table(speeds),
        _samples(),
        _how(comparisons),
    ]
    return "\n\n".join(parts) + "\n"


def _answer(comparisons: dict[tuple[str, str], Comparison], speeds: pd.DataFrame) -> str:
    """Return the verdict on the RNN in each setting, and how the window's length changes the speeds."""
    lines = ["## The RNN against the transformer", ""]
    for (text, budget), comparison in comparisons.items():
        rnn, gpt = (next(r for r in comparison.results if r.name == name) for name in ("rnn", "gpt"))
        spent = "the same tokens" if budget == "tokens" else "the same seconds"
        assert rnn.effect
        lines.append(
            f"- {TEXTS[text]}, {spent}: rnn {rnn.mean:.3f}, gpt {gpt.mean:.3f} nats per token, "
            f"a difference of {rnn.effect.mean:+.3f}: {rnn.effect.verdict}; the rnn trains on "
            f"{rnn.costs['tokens_per_s'] / gpt.costs['tokens_per_s']:.2f} times as many tokens per second as the gpt."
        )
    costs = comparisons["pystdlib", "tokens"].baseline.costs
    lines.append(
        "- These are tiny models with windows of 64 tokens, early in training: "
        f"{costs['tokens'] / costs['parameters']:.0f} tokens per parameter of the gpt. "
        "The results show which model learns fastest at first, not which is best in the end."
    )
    short, long = speeds.columns[0], speeds.columns[-1]
    ratio = speeds.loc["rnn"] / speeds.loc["gpt"]
    lines.append(
        f"- With windows of {short} tokens the rnn is {ratio[short]:.2f} times as fast as the gpt, with windows of "
        f"{long} tokens {ratio[long]:.2f} times."
    )
    return "\n".join(lines)


def _budget(text: str, budget: str, comparison: Comparison) -> str:
    gpt = comparison.baseline
    spent = f"{gpt.costs['tokens']:,.0f} tokens" if budget == "tokens" else f"{gpt.costs['seconds']:.0f} seconds"
    rows = [
        f"## {TEXTS[text]}, {spent}",
        "",
        f"| arm | n | {METRIC} mean ± sd | difference ± 95% | verdict | parameters | tokens/s | tokens |",
        "| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for r in comparison.results:
        effect = f"{r.effect.mean:+.4f} ± {r.effect.high - r.effect.mean:.4f}" if r.effect else "baseline"
        rows.append(
            f"| {r.name} | {len(r.scores)} | {r.mean:.4f} ± {r.sd:.4f} | {effect} "
            f"| {r.effect.verdict if r.effect else ''} | {r.costs['parameters']:,.0f} "
            f"| {r.costs['tokens_per_s']:,.0f} | {r.costs['tokens']:,.0f} |"
        )
    return "\n".join(rows)


def _speed_table(speeds: pd.DataFrame) -> str:
    head = [f"| tokens/s with windows of | {' | '.join(str(w) for w in speeds.columns)} |"]
    rule = [f"| --- | {' | '.join('---:' for _ in speeds.columns)} |"]
    rows = [f"| {arm} | {' | '.join(f'{s:,.0f}' for s in row)} |" for arm, row in speeds.iterrows()]
    return "\n".join(["## Training speed by window length", "", *head, *rule, *rows])


def _samples() -> str:
    parts = [
        "## Samples",
        f"The first {LENGTH} characters at temperature 1, from the runs with seed {SEED} and the budget of tokens.",
    ]
    for text, by_arm in json.loads(SAMPLES.read_text(encoding="utf-8")).items():
        for arm, sample in by_arm.items():
            body = "\n".join(f"    {line}".rstrip() for line in sample.splitlines())
            parts.append(f"{TEXTS[text]}, {arm}:\n\n{body}")
    return "\n\n".join(parts)


def _how(comparisons: dict[tuple[str, str], Comparison]) -> str:
    runs = pd.concat([c.runs for c in comparisons.values()])
    all_commands = [*(c.command for c in comparisons.values()), collect_runs([WINDOWS]).sweep["command"]]
    commands = "\n".join(f"    {command}" for command in all_commands)
    lines = [
        line.rpartition(" (")[0] for c in comparisons.values() for line in c.hardware
    ]  # without the number of runs
    hardware = "\n".join(f"- {line}" for line in dict.fromkeys(lines))
    return (
        f"## How to reproduce\n\n{commands}\n    gptlab compare runs/NAME --keep experiments/ladder_of_models/KEPT.json"
        f"    # for the windows add --baseline 'gpt data.window=16'"
        f"\n    python experiments/ladder_of_models/report.py samples runs\n    make results\n\n"
        f"{len(runs)} runs, {runs['seconds'].sum():,.0f} seconds of training in all, without the runs for the speeds. "
        "Each arm's learning rate is the best of five, tuned with one seed and a third of the tokens on Python's "
        "library. It was chosen before these runs, on a seed that none of them has; only the bigram's rate, 0.1, is at "
        "the edge of the values tried. An earlier round, with other seeds, 200,000 tokens or 12 seconds and an untuned "
        "rate of 3e-3, had shown 2 of 16 differences. For equal tokens, two runs at a time had one core each; for "
        "equal seconds and for the speeds, one run at a time had both cores.\n\n"
        f"{hardware}"
    )


def _picture(comparisons: dict[tuple[str, str], Comparison], speeds: pd.DataFrame) -> bytes:
    figure, axes = plt.subplots(2, 3, figsize=(14, 8), dpi=80, layout="constrained", width_ratios=[1, 1, 0.8])
    for row, text in zip(axes, TEXTS, strict=True):
        for ax, budget in zip(row, ("tokens", "seconds"), strict=False):
            for name, points in comparisons[text, budget].curves.items():
                ax.plot(*_mean_curve(points, budget), label=name)
            ax.set(title=TEXTS[text], xlabel=f"training {budget}", ylabel=f"{METRIC} (nats per token)", xscale="log")
        row[0].legend(frameon=False)
    for arm, row in speeds.iterrows():
        axes[0, 2].plot(row.index, row, "o-", label=arm)
    axes[0, 2].set(title="Training speed", xlabel="tokens in a window", ylabel="tokens/s", xscale="log", yscale="log")
    axes[0, 2].set_xticks(list(speeds.columns), [str(window) for window in speeds.columns])
    axes[1, 2].set_visible(False)
    for ax in axes.flat:
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    plt.close(figure)
    return out.getvalue()


def _mean_curve(points: pd.DataFrame, budget: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean curve over the seeds, interpolated, since each seed was evaluated at its own times."""
    curves = [curve.sort_values(budget)[[budget, METRIC]].to_numpy().T for _, curve in points.groupby("seed")]
    x = np.geomspace(max(c[0, 0] for c in curves), min(c[0, -1] for c in curves), CURVE_POINTS)
    return x, np.mean([np.interp(np.log(x), np.log(c[0]), c[1]) for c in curves], axis=0)


def draw_samples(runs: Path) -> None:
    """Generate samples from one seed of every arm, trained on the budget of tokens."""
    from gptlab.compare.read.runs import load_runs
    from gptlab.model.generate import generate
    from gptlab.runs.load import open_run

    samples: dict[str, dict[str, str]] = {}
    for text in TEXTS:
        for run in load_runs([runs / f"ladder-{text}-tokens"]):
            if run.seed == SEED:
                model, tokenizer = open_run(run.folder)
                sample = generate(model, tokenizer.encode(PROMPT[text]).tolist(), LENGTH, n_tokens_known=256)
                samples.setdefault(text, {})[run.config["variant"]] = tokenizer.decode(pd.Series(sample).to_numpy())
    SAMPLES.write_text(json.dumps(samples, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    draw_samples(Path(sys.argv[2]))
