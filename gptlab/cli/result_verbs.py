"""The verbs that read what runs left: compare, inspect, sample, dashboard."""

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from gptlab.cli.verb import Result, Verb, result_console, user_path, wants_document
from gptlab.config import ConfigError

if TYPE_CHECKING:  # a TAB must not import them
    from gptlab.compare.analysis.comparison import Comparison
    from gptlab.compare.analysis.over_rungs import RungsComparison
    from gptlab.compare.views.wandb_summary import Sent

LOWEST_TEMPERATURE = 1e-6  # logits divided by less are infinite


def _compare_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        type=user_path,
        metavar="FOLDER",
        help="run folders, folders above them, or a file that --keep wrote",
    )
    parser.add_argument("--metric", help="a number in summary.json (default: the planned one, or val/loss)")
    parser.add_argument("--baseline", metavar="ARM", help="the arm that the others are compared with")
    parser.add_argument(
        "--against",
        choices=("baseline", "previous"),
        help="compare each arm with the baseline or with the arm before it (default: the choice in sweep.yaml)",
    )
    parser.add_argument(
        "--margin",
        metavar="X",
        help="smaller differences do not matter: a number in the metric's unit, or a share of compute such as 5%%"
        " (default: the planned one, or 0.01 bits per byte)",
    )
    for flag, name, content in (
        ("--csv", "FILE", "the table as CSV"),
        ("--png", "FILE", "a picture of effects and curves; .pdf and .svg work too"),
        ("--markdown", "FILE", "everything as text for an experiment's folder"),
        ("--html", "FILE", "everything as one interactive page"),
        ("--latex", "FILE.tex", "the tables of verdicts and of worth in compute for a paper"),
        ("--figures", "DIR", "each figure of the report as a PDF file, as wide as a column of a paper"),
        ("--keep", "FILE.json", "the raw numbers, which `gptlab compare` reads"),
    ):
        parser.add_argument(flag, type=user_path, metavar=name, help=f"write {content}")
    parser.add_argument(
        "--wandb", action="store_true", help="write each arm's verdict into the summary of its W&B runs"
    )
    parser.add_argument(
        "--wandb-report", action="store_true", help="send the page of --html to W&B, as an artifact and a panel"
    )


def _compare(args: Namespace) -> Result:
    from gptlab.compare import compare_runs
    from gptlab.config import plain
    from gptlab.config.compose import load_config

    files = {key: getattr(args, key) for key in ("csv", "png", "markdown", "html", "latex", "figures", "keep")}
    options = {key: getattr(args, key) for key in ("metric", "baseline", "against", "margin")}
    defaults = plain(load_config())
    if args.wandb_report and args.html is None:
        raise ConfigError("--wandb-report: sends the page that --html writes; add --html FILE")
    api = _wandb_api("compare --wandb" if args.wandb else "compare --wandb-report") if _sends(args) else None
    comparison = compare_runs(args.paths, outputs=files, console=result_console(args), defaults=defaults, **options)
    sent = _send_verdicts(api, comparison) if args.wandb else None
    if args.wandb_report:
        _send_report(api, comparison, args)
    if not wants_document(args):
        return Result()
    from gptlab.compare.analysis.over_rungs import RungsComparison
    from gptlab.compare.views.json_document import comparison_document
    from gptlab.compare.views.rungs_document import rungs_document

    if isinstance(comparison, RungsComparison):
        return Result(rungs_document(comparison, sent))
    return Result(comparison_document(comparison, sent))


def _sends(args: Namespace) -> bool:
    return bool(args.wandb or args.wandb_report)


def _wandb_api(source: str) -> Any:
    """Connect to W&B before anything is written."""
    from gptlab.runs.wandb_api import connect

    return connect(source)


def _send_verdicts(api: Any, comparison: "Comparison | RungsComparison") -> "Sent":
    from gptlab.compare.views.wandb_summary import send_verdicts

    sent = send_verdicts(api, _single(comparison))
    print(sent)
    return sent


def _send_report(api: Any, comparison: "Comparison | RungsComparison", args: Namespace) -> None:
    from gptlab.compare.views.wandb_report import send_report

    print(f"report: {send_report(api, _single(comparison), args.html, args.paths[0].resolve().name)}")


def _single(comparison: "Comparison | RungsComparison") -> "list[Comparison]":
    """Return the comparison at every rung, or the only one."""
    from gptlab.compare.analysis.over_rungs import RungsComparison

    return [r.comparison for r in comparison.rungs] if isinstance(comparison, RungsComparison) else [comparison]


COMPARE = Verb(
    "the arms of a sweep in one table: differences from the baseline, paired by seed",
    """  gptlab compare runs/demo
  gptlab compare runs/demo --metric val/bpb --csv table.csv --png curves.png
  gptlab compare runs/demo --markdown RESULTS.md --html report.html --keep results.json
  gptlab compare runs/demo --latex table.tex --figures figures
  gptlab compare runs/demo --margin 0.01 --against previous
  gptlab compare runs/demo --wandb
  gptlab compare runs/demo --json""",
    _compare_arguments,
    _compare,
    json=True,
)


def _inspect_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=user_path, metavar="RUN", help="a run's folder")
    parser.add_argument("other", type=user_path, nargs="?", metavar="RUN2", help="another run, drawn next to it")
    parser.add_argument(
        "--png",
        type=user_path,
        metavar="FILE",
        help="the picture (default: RUN/diagnostics.png); .pdf and .svg work too",
    )


def _inspect(args: Namespace) -> Result:
    from gptlab.cli.inspect_run import inspect

    return Result(inspect([run for run in (args.run, args.other) if run], args.png, result_console(args)))


INSPECT = Verb(
    "the inside of one run, or of two: activations, gradients, updates and attention by layer, as a picture",
    """  gptlab inspect runs/demo/RUN
  gptlab inspect runs/demo/RUN --png inside.png""",
    _inspect_arguments,
    _inspect,
    json=True,
)


def _sample_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=user_path, metavar="RUN", help="a run's folder")
    parser.add_argument("--prompt", help="the beginning of the text (default: a line break)")
    parser.add_argument("--n", type=int, default=200, help="tokens to generate (default: 200)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (default: 0.8)")
    parser.add_argument("--top-k", type=int, help="draw from the k likeliest tokens only")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default: 0)")
    parser.add_argument("--no-cache", action="store_true", help="read the whole text again for each token")


def _sample(args: Namespace) -> Result:
    limits = {"--n": (args.n, 1), "--temperature": (args.temperature, 0), "--top-k": (args.top_k, 1)}
    for flag, (value, lowest) in (limits | {"--seed": (args.seed, 0)}).items():
        if value is not None and not value >= lowest:
            raise ConfigError(f"{flag}={value}: must be at least {lowest}")
        if value is not None and not value < 2**63:
            raise ConfigError(f"{flag}={value}: must be below 2^63")
    if 0 < args.temperature < LOWEST_TEMPERATURE:
        raise ConfigError(f"--temperature={args.temperature}: must be 0 or at least {LOWEST_TEMPERATURE}")
    from gptlab.model.generate import PROMPT, generate
    from gptlab.runs.load import open_run

    model, tokenizer = open_run(args.run)
    args.prompt = PROMPT if args.prompt is None else args.prompt
    prompt = tokenizer.encode(args.prompt, "--prompt").tolist()
    if not prompt:
        raise ConfigError("--prompt=: give at least one character to start from")
    tokens = generate(
        model,
        prompt,
        args.n,
        temperature=args.temperature,
        top_k=args.top_k,
        seed=args.seed,
        n_tokens_known=tokenizer.vocab_size,
        cached=not args.no_cache,
    )
    text = tokenizer.decode(tokens)
    if not wants_document(args):
        print(text)
    settings = {key: getattr(args, key) for key in ("prompt", "n", "temperature", "top_k", "seed")}
    return Result({"run": str(args.run), **settings, "text": text, "tokens": tokens, "n_prompt": len(prompt)})


SAMPLE = Verb(
    "text from a trained run",
    """  gptlab sample runs/demo/RUN --prompt "def " --n 200 --temperature 0.8 --top-k 40""",
    _sample_arguments,
    _sample,
    json=True,
)


def _dashboard_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--entity", metavar="NAME", help="user or team in W&B (default: the owner of the API key)")
    parser.add_argument(
        "--project", metavar="NAME", help="the wandb.project of the runs (default: WANDB_PROJECT, otherwise gptlab)"
    )
    parser.add_argument("--name", metavar="SWEEP", help="show this sweep only (default: all, each with its own arms)")


def _dashboard(args: Namespace) -> Result:
    from gptlab.runs.wandb_dashboard import save_dashboard
    from gptlab.runs.wandb_tracker import resolve_project

    workspace, report = save_dashboard(args.entity, resolve_project(args.project), args.name)
    print(f"workspace  {workspace}\nreport     {report}")
    return Result()


DASHBOARD = Verb(
    "a workspace and a report in W&B: runs grouped by arm, mean and band over seeds",
    """  gptlab dashboard --name demo
  gptlab dashboard --entity my-team --project gptlab      each call saves new ones and leaves yours alone""",
    _dashboard_arguments,
    _dashboard,
)
