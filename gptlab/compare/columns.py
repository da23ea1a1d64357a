"""The cost columns of a comparison. A new line in COLUMNS adds a column to every table, file and page."""

from collections.abc import Callable
from dataclasses import dataclass

from gptlab.compare.formatting import si


@dataclass(frozen=True)
class Column:
    """One cost of an arm: the median over its runs of a number in summary.json.

    A column without a `title` is in CSV and JSON files and in the DataFrame only.
    """

    key: str  # its key in Result.costs, the DataFrame, CSV and JSON
    summary_key: str  # its key in summary.json
    title: str = ""  # above the column in a terminal or in Markdown; "\n" where the title may be broken
    page_title: str = ""  # above the column in the HTML report
    format: Callable[[float], str] = si
    finished_runs_only: bool = False  # otherwise the median is over all runs that have the number


COLUMNS = (
    Column("parameters", "parameters"),
    Column(
        "parameters_non_embedding",
        "parameters_non_embedding",
        "params\nnon-emb.",
        "parameters without embeddings",
    ),
    Column("flops_per_token", "flops_per_token", "FLOPs\n/token", "FLOPs per token"),
    Column("state_bytes", "state_bytes", "state\nbytes", "bytes of weights, gradients and optimizer state"),
    Column("tokens_per_s", "speed/tokens_per_s", "tokens\n/s", "tokens per second"),
    Column("seconds", "seconds", finished_runs_only=True),
    Column("tokens", "tokens", finished_runs_only=True),
    Column("steps", "step", finished_runs_only=True),
)
SHOWN_COLUMNS = tuple(column for column in COLUMNS if column.title)
