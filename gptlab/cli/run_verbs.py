"""The verbs that run something and follow it: train, sweep, status."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptlab.cli.verb import Result, Verb, add_overrides, result_console, user_path, wants_document
from gptlab.config import ConfigError

if TYPE_CHECKING:
    from gptlab.config import Settings

# The settings that people change most, with their meaning. A slot's default is the baseline's.
COMMON_SETTINGS = {
    "preset": "a published architecture: gpt2, llama, gemma2, ...",
    "size": "tiny, small, 10m, or with a preset a published one, such as gpt2-124m",
    "data": "the text or task; data=text data.path=FILE reads your own text",
    "data.window": "tokens in a training example",
    "tokenizer": "byte, char, bpe, gpt2, ...",
    "budget.steps": "optimizer steps; or set budget.tokens, budget.flops, budget.seconds",
    "train.batch_size": "training examples in an optimizer step",
    "optimizer.lr": "the learning rate after the warm-up, its peak",
    "seed": "the seed of weights, batches and dropout",
    "name": "the run's folder is runs/NAME/...",
}
CHOSEN_BY_NAME = {"preset": None, "size": "small"}  # their defaults, which no composed config names


def _common_settings() -> str:
    """Return a table of COMMON_SETTINGS with their defaults."""
    from gptlab.config import flatten, plain
    from gptlab.config.compose import load_config
    from gptlab.config.overrides import typed

    defaults = {**CHOSEN_BY_NAME, **flatten(plain(load_config()))}
    lines = [f"  {key:<17}{typed(defaults[key]):<11}{meaning}" for key, meaning in COMMON_SETTINGS.items()]
    return "\n".join(["the ten settings that people change most, with their defaults:", *lines])


def _train(args: Namespace) -> Result:
    from gptlab.config.compose import load_config
    from gptlab.config.user_files import ComponentError
    from gptlab.runs.lock import Busy

    cfg = load_config(args.overrides)
    from gptlab.training.train import train

    try:
        summary = train(cfg)
    except ComponentError as e:
        raise ComponentError(f"{e}; {_kept_traceback(cfg, e)}") from e
    except Busy as e:
        raise ConfigError(f"{e}; wait for it, or give another seed or runs_dir") from e
    return Result(summary)


def _kept_traceback(cfg: "Settings", error: Exception) -> str:
    """Add the traceback of an error to the log of its run; return where it is."""
    import traceback

    from gptlab.training.prepare import Memo, folder_of, match_to_baseline

    memo = Memo()
    log = folder_of(match_to_baseline(cfg, memo)[0], memo) / "log.txt"
    with log.open("a", encoding="utf-8") as file:
        traceback.print_exception(error, file=file)
    return f"the traceback is in {log}"


TRAIN = Verb(
    "train one model, or continue a run that was stopped",
    """  gptlab train
  gptlab train norm=rmsnorm placement=post ffn=swiglu position=rope bias=false block=parallel seed=1
  gptlab train preset=llama size=tiny data=text data.path=README.md budget.steps=20
  gptlab train size=tiny budget.steps=20 --json        the summary as JSON
  gptlab train -m norm=layernorm,rmsnorm seed=0,1      the same as gptlab sweep""",
    add_overrides,
    _train,
    json=True,
    notes=_common_settings,
)


def _sweep_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--retry", action="store_true", help="run failed cells again")
    parser.add_argument("--dry-run", action="store_true", help="print what `gptlab plan` prints, and start nothing")
    _plan_arguments(parser)


def _plan_arguments(parser: ArgumentParser) -> None:
    _arm_arguments(parser)
    parser.add_argument(
        "--noise",
        type=float,
        metavar="SD",
        help="of a plan: the standard deviation of a paired difference, in the metric's unit",
    )
    parser.add_argument(
        "--no-timing", action="store_true", help="of a plan: time no training steps, where no run has measured a speed"
    )
    parser.add_argument(
        "--flops-per-s", type=float, metavar="RATE", help="of a plan: say the time at this rate too, such as 4e14"
    )


def _arm_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "arguments", nargs="*", metavar="experiment.yaml | key=value[,value...]", help="the arms and seeds of the sweep"
    )
    between = parser.add_mutually_exclusive_group()
    between.add_argument(
        "--ladder", action="store_true", help="arms from the first config to the second, one component at a time"
    )
    between.add_argument(
        "--knock-out", action="store_true", help="the second config without each of its components in turn"
    )
    parser.add_argument(
        "--fraction",
        type=float,
        metavar="F",
        help="keep this share of a grid's arms, chosen to keep the effects estimable",
    )
    parser.add_argument(
        "--tune",
        action="append",
        default=[],
        metavar="KEY=auto|V,V,V",
        help="judge each arm around its own best value, which is searched on other seeds",
    )

    parser.add_argument(
        "--multiplier",
        action="store_true",
        help="run the baseline at half and twice its budget too, to say how much compute each arm is worth",
    )
    parser.add_argument(
        "--seeds",
        metavar="FIRST..LAST",
        help="give arms seeds, at least FIRST and at most LAST, until they are settled or hopeless",
    )


def arm_flags(args: Namespace) -> dict[str, Any]:
    """Return the flags that choose the arms and seeds, as the planning of a sweep takes them."""
    return {name: getattr(args, name) for name in ("ladder", "knock_out", "fraction", "tune", "seeds", "multiplier")}


def _sweep(args: Namespace) -> Result:
    if args.dry_run:
        return _plan(args)
    for flag in ("noise", "no_timing", "flops_per_s"):
        if getattr(args, flag) not in (None, False):
            raise ConfigError(f"--{flag.replace('_', '-')}: is for a plan; add --dry-run, or leave it out")
    from gptlab.config.compose import load_config
    from gptlab.sweeps.grid import plan_sweep, split_arguments
    from gptlab.sweeps.run_sweep import sweep
    from gptlab.sweeps.rungs_status import document

    code = 1 if sweep(args.arguments, retry=args.retry, **arm_flags(args)).get("failed") else 0
    if not wants_document(args):
        return Result(code=code)
    plan = plan_sweep(split_arguments(args.arguments).cells, **arm_flags(args))
    cfg = load_config(plan.cells[0].overrides)
    return Result(document(Path(cfg.runs_dir, plan.name)), code)


SWEEP = Verb(
    "train every combination of the values given; the same command continues it",
    """  gptlab sweep norm=layernorm,rmsnorm placement=pre,post,double seed=0,1,2
  gptlab sweep experiments/demo/demo.yaml
  gptlab sweep experiments/demo/demo.yaml --dry-run          what it would cost and show; starts nothing
  gptlab sweep experiments/demo/demo.yaml seed=0,1,2,3 budget.steps=500
  gptlab sweep ffn=gelu,swiglu,geglu --seeds 3..12           more seeds for arms that are not settled
  gptlab sweep ffn=gelu,swiglu match=params seed=0,1,2,3,4 --tune optimizer.lr=auto
  gptlab sweep --ladder preset=gpt2 preset=llama size=small data.window=64 tokenizer=byte seed=0,1,2
  gptlab sweep --knock-out preset=gpt2 preset=llama size=small data.window=64 tokenizer=byte seed=0,1,2
  gptlab sweep norm=layernorm,rmsnorm ffn=gelu,swiglu placement=pre,post,double seed=0,1 --fraction 0.5
  gptlab sweep ffn=gelu,swiglu hydra.launcher.n_jobs=1
  gptlab sweep ffn=gelu,swiglu seed=0,1 sweep.per_gpu=2      two cells at a time on each GPU
  gptlab sweep ffn=gelu,swiglu hydra/launcher=submitit_slurm hydra.launcher.timeout_min=60""",
    _sweep_arguments,
    _sweep,
    json=True,
)


def _plan(args: Namespace) -> Result:
    from gptlab.cli.plan import print_plan
    from gptlab.sweeps.plan import Forecast, plan_document

    forecast = Forecast(not args.no_timing, args.noise, args.flops_per_s)
    plan = plan_document(args.arguments, forecast, **arm_flags(args))
    print_plan(plan, result_console(args))
    return Result({"verb": "plan", **plan})


PLAN = Verb(
    "what a sweep would run, cost and show: arms, cells, FLOPs, time, the smallest effect; starts nothing",
    """  gptlab plan experiments/demo/demo.yaml
  gptlab plan norm=layernorm,rmsnorm placement=pre,post seed=0,1,2 size=tiny --json
  gptlab plan ffn=gelu,swiglu match=params seed=0,1,2,3,4 --tune optimizer.lr=auto
  gptlab plan experiments/demo/demo.yaml --noise 0.02        if its runs differ by 0.02 from seed to seed
  gptlab plan preset=llama,gpt2 seed=0,1,2 --no-timing --flops-per-s 4e14    for a machine that is not here""",
    _plan_arguments,
    _plan,
    json=True,
)


def _status_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=user_path, metavar="FOLDER", help="a sweep's folder, such as runs/demo")
    parser.add_argument("--watch", action="store_true", help="repeat every few seconds until all cells have ended")


def _status(args: Namespace) -> Result:
    from rich.console import Console

    from gptlab.sweeps.rungs_status import document, show

    if args.watch or not wants_document(args):
        show(args.folder, Console(), watch=args.watch)
    return Result(document(args.folder) if wants_document(args) else None)


STATUS = Verb(
    "the cells of a sweep: finished, running, waiting, failed, and the time left",
    """  gptlab status runs/demo
  gptlab status runs/demo --watch
  gptlab status runs/demo --json""",
    _status_arguments,
    _status,
    json=True,
)
