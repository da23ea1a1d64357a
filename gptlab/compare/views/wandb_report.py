"""The HTML report of a comparison in W&B: an artifact and a panel, in a run of its own beside those compared."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptlab.compare.analysis.comparison import Comparison
from gptlab.compare.views.wandb_summary import place_of
from gptlab.config import ConfigError
from gptlab.runs.wandb_api import blaming_wandb
from gptlab.runs.wandb_tracker import FINISH_TIMEOUT, INIT_TIMEOUT, import_wandb

SOURCE = "compare --wandb-report"  # what an error names
JOB_TYPE = "compare"  # by which dashboards leave the run out


def send_report(api: Any, comparisons: Sequence[Comparison], page: Path, name: str) -> str:
    """Send a page to the project in W&B that has the compared runs; return the address of the run that holds it.

    Raises ConfigError if W&B has none of these runs, or rejects the page.
    """
    wandb = import_wandb()
    with blaming_wandb(SOURCE, "check the network and the key, then repeat the command"):
        runs = (run for one in comparisons for result in one.results for run in result.arm.runs)
        place = next(filter(None, (place_of(run, api) for run in runs)), None)
        if place is None:
            raise ConfigError(f"{SOURCE}: none of these runs was recorded for W&B; leave it out")
        artifact = wandb.Artifact(f"report-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}"[:128], "report")
        artifact.add_file(page, name="report.html")
        with tempfile.TemporaryDirectory() as folder:
            settings = wandb.Settings(
                console="off", init_timeout=INIT_TIMEOUT, finish_timeout=FINISH_TIMEOUT, finish_timeout_raises=True
            )
            run = wandb.init(
                mode="online",
                dir=folder,
                entity=place.entity,
                project=place.project,
                group=name[:128],
                job_type=JOB_TYPE,
                name=f"report of {name}"[:128],
                reinit="create_new",  # does not touch a run that a notebook has open
                settings=settings,
            )
            run.log_artifact(artifact)
            run.log({"report": wandb.Html(str(page), inject=False)})
            run.finish()
        return str(run.url)
