"""The verbs of the command line. A verb imports what it needs when it is called."""

from gptlab.cli import component_verbs, model_verbs, result_verbs, run_verbs, tool_verbs
from gptlab.cli.verb import Verb

VERBS: dict[str, Verb] = {
    "train": run_verbs.TRAIN,
    "plan": run_verbs.PLAN,
    "sweep": run_verbs.SWEEP,
    "status": run_verbs.STATUS,
    "compare": result_verbs.COMPARE,
    "show": model_verbs.SHOW,
    "list": model_verbs.LIST,
    "new": component_verbs.NEW,
    "check": component_verbs.CHECK,
    "sample": result_verbs.SAMPLE,
    "inspect": result_verbs.INSPECT,
    "probe": model_verbs.PROBE,
    "dashboard": result_verbs.DASHBOARD,
    "convert": tool_verbs.CONVERT,
    "bench": tool_verbs.BENCH,
    "completion": tool_verbs.COMPLETION,
}
