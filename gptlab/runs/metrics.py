"""The metrics that gptlab knows, each with its label, unit and direction. Add a metric with one line in METRICS."""

import re
from dataclasses import dataclass, replace

# Whole words in the name of a metric that is not in the table: tokens_per_s is a speed, seconds_per_step is not.
HIGHER_IS_BETTER = re.compile(r"(?<![a-z])(accuracy|per_s|per_sec|per_second|mfu)(?![a-z])")


@dataclass(frozen=True)
class Metric:
    """One metric of a run, under the name that it has in metrics.jsonl, summary.json and the trackers."""

    key: str  # "val/loss"
    label: str
    unit: str = ""
    higher_is_better: bool = False
    decimals: int = 4  # decimals in a line of the terminal
    in_terminal: bool = False  # an evaluation prints it
    keep_minimum: bool = False  # trackers keep its minimum and, as final/KEY, its last value
    in_dashboard: bool = False  # the W&B dashboard draws it
    per_token: bool = False  # a mean over tokens, which has no meaning across tokenizers

    @property
    def title(self) -> str:
        """The label with the unit: "validation loss (nats per token)"."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def better(self) -> str:
        """The direction that is better: "higher" or "lower"."""
        return "higher" if self.higher_is_better else "lower"

    def line(self, value: float) -> str:
        """Return name and value for a line of the terminal: "val/loss 2.1033"."""
        return f"{self.key} {value:.{self.decimals}f}"


METRICS = {
    metric.key: metric
    for metric in (
        Metric(
            "val/loss",
            "validation loss",
            "nats per token",
            in_terminal=True,
            keep_minimum=True,
            in_dashboard=True,
            per_token=True,
        ),
        Metric("val/bpb", "validation loss", "bits per byte", in_terminal=True, keep_minimum=True, in_dashboard=True),
        Metric("val/accuracy", "validation accuracy", higher_is_better=True, in_terminal=True, per_token=True),
        Metric("val/excess", "validation loss above the grammar's own", "nats per token", in_terminal=True),
        Metric("train/loss", "training loss", "nats per token", per_token=True),
        Metric("speed/tokens_per_s", "training speed", "tokens per second", higher_is_better=True, decimals=0),
        Metric("speed/mfu", "model FLOPs utilisation", higher_is_better=True),
    )
}


def metric_named(key: str) -> Metric:
    """Return the metric called `key`, with defaults if it is not in the table.

    A variant such as val/loss_2x, or a breakdown such as val/accuracy_pairs-8, has the unit and direction of the metric
    before the underscore. For a metric that a component logs, lower is better unless its name says otherwise.
    """
    if key in METRICS:
        return METRICS[key]
    for known in METRICS.values():
        if key.startswith(f"{known.key}_"):
            return replace(known, key=key, label=key)
    return Metric(key, key, higher_is_better=bool(HIGHER_IS_BETTER.search(key)))
