"""The set-up of a comparison's runs in words: the data, the model, the training and the machine.

It reads the runs' configs, what they recorded of their machine and code, and their final numbers. Where runs differ,
the words say in what. What an older version did not record is left out.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from gptlab.compare.formatting import si
from gptlab.compare.read.runs import Run
from gptlab.config.warmup import WARMUP_SHARE, warmup_steps
from gptlab.runs.states import RunState

SHOWN = 16  # hex digits of a hash
MOST_VALUES = 4  # different values that are listed; of more numbers only the range is given, of more words the count
NAMED_ELSEWHERE = {"data": {"window"}, "schedule": {"warmup"}}  # settings of a slot that have a line of their own
PACKAGES = ("torch", "gptlab", "numpy")


@dataclass(frozen=True)
class Fact:
    """A line of the table, which describes all runs."""

    name: str
    text: str
    differs: bool = False  # whether the runs differ in it


def setup(runs: Sequence[Run]) -> list[Fact]:
    """Return what was trained in `runs`, those that a comparison counts; [] if nothing is known."""
    facts: dict[str, Fact] = {}
    for name, fact in (
        ("data", _component(runs, "data", _each(runs, _sha("data_hash")))),
        ("tokenizer", _component(runs, "tokenizer", _each(runs, _vocabulary), _each(runs, _sha("tokenizer_hash")))),
        ("model", _model(runs)),
        ("initial weights", _component(runs, "init")),
        ("window", _each(runs, _window)),
        ("batch", _each(runs, _batch)),
        ("length of a run", _length(runs)),
        ("optimizer", _component(runs, "optimizer", _each(runs, _regularisation))),
        ("schedule", _component(runs, "schedule", _warmup(runs))),
        ("seeds", (_seeds(runs), False)),
        ("precision", _each(runs, _precision)),
        ("machine", _each(runs, _machine)),
        ("threads", _each(runs, lambda run: _counted(run.env.get("torch_threads"), "thread"))),
        ("versions", _each(runs, _versions)),
        ("git commit", _each(runs, _commit)),
    ):
        if fact[0]:
            facts[name] = Fact(name, *fact)
    return list(facts.values())


def _each(runs: Sequence[Run], said: Callable[[Run], str]) -> tuple[str, bool]:
    """Return the different descriptions of the runs, each with its number of runs, the most frequent first."""
    counts = Counter(text for run in runs if (text := said(run)))
    if len(counts) < 2:
        return next(iter(counts), ""), False
    listed = [f"{text} ({n} {'run' if n == 1 else 'runs'})" for text, n in counts.most_common(MOST_VALUES)]
    rest = f"; {len(counts) - MOST_VALUES} more" if len(counts) > MOST_VALUES else ""
    return "; ".join(listed) + rest, True


def _component(runs: Sequence[Run], slot: str, *more: tuple[str, bool]) -> tuple[str, bool]:
    """Return the component of a slot with its settings: `adamw (lr 0.001, 0.003; weight_decay 0.1)`."""
    parts = [part for run in runs if isinstance(part := run.config.get(slot), Mapping)]
    if not parts:
        return "", False
    left_out = {"name"} | NAMED_ELSEWHERE.get(slot, set())
    keys = sorted({key for part in parts for key in part if key not in left_out})
    # A setting that only some of the components have says nothing about the others
    common = [key for key in keys if all(key in part for part in parts)]
    values = {key: list(dict.fromkeys(_text(part[key]) for part in parts)) for key in common}
    settings = [f"{key} {_values(of)}" for key, of in values.items() if of != [""]]
    names = list(dict.fromkeys(_text(part.get("name")) for part in parts))
    text = _values(names) + (f" ({'; '.join(settings)})" if settings else "")
    differs = len(names) > 1 or any(len(of) > 1 for of in values.values()) or any(one[1] for one in more)
    return ", ".join([text, *(one[0] for one in more if one[0])]), differs


def _values(texts: Sequence[str]) -> str:
    """Return the different values of a setting, numbers in their order, or a range or number of them if many."""
    try:
        texts = sorted(texts, key=float)
    except ValueError:
        numeric = False
    else:
        numeric = True
    if len(texts) <= MOST_VALUES:
        return " or ".join(text or "null" for text in texts)
    return f"{texts[0]} to {texts[-1]}" if numeric else f"{len(texts)} different values"


def _text(value: Any) -> str:
    """Return a value as it is written in an override; "" for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sha(key: str) -> Callable[[Run], str]:
    return lambda run: f"sha256 {run.env[key][:SHOWN]}" if run.env.get(key) else ""


def _vocabulary(run: Run) -> str:
    size = (run.config.get("model") or {}).get("vocab_size")
    return f"vocabulary of {size:,}" if size else ""


def _model(runs: Sequence[Run]) -> tuple[str, bool]:
    """Return the size: `2 blocks, 2 heads, width 16; 10.5K to 11.7K parameters, 6.37K to 6.59K without embeddings`."""
    sizes = [run.config.get("size") or {} for run in runs]
    shape = [
        _spread([size[key] for size in sizes if key in size], str, form)
        for key, form in (("n_layer", "{} blocks"), ("n_head", "{} heads"), ("dim", "width {}"))
    ]
    counts = [
        _spread([run.number(key) for run in runs], si, form)
        for key, form in (("parameters", "{} parameters"), ("parameters_non_embedding", "{} without embeddings"))
    ]
    return _joined([shape, counts])


def _joined(groups: Sequence[Sequence[tuple[str, bool]]]) -> tuple[str, bool]:
    """Join descriptions, and return also whether the runs differ in any of them."""
    text = "; ".join(filter(None, (", ".join(filter(None, (said for said, _ in group))) for group in groups)))
    return text, any(differs for group in groups for _, differs in group)


def _spread(numbers: Sequence[float], written: Callable[[Any], str], form: str) -> tuple[str, bool]:
    """Return the different numbers of the runs, or from the lowest to the highest if there are many of them."""
    known = sorted(number for number in numbers if isfinite(number))
    texts = list(dict.fromkeys(map(written, known)))
    if not texts:
        return "", False
    said = " or ".join(texts) if len(texts) <= MOST_VALUES else f"{texts[0]} to {texts[-1]}"
    return form.format(said), len(texts) > 1


def _window(run: Run) -> str:
    return _counted((run.config.get("data") or {}).get("window"), "token")


def _batch(run: Run) -> str:
    size, window = (run.config.get("train") or {}).get("batch_size"), (run.config.get("data") or {}).get("window")
    return f"{size:,} windows, {size * window:,} tokens a step" if size and window else ""


def _length(runs: Sequence[Run]) -> tuple[str, bool]:
    """Return what the finished runs were trained for: steps, tokens and FLOPs, or the seconds of their budget."""
    done = [run for run in runs if run.state == RunState.FINISHED]
    seconds = [_seconds(run) for run in done]
    if any(seconds):  # how many steps these give depends on the machine
        return _spread([n for n in seconds if n], "{:g}".format, "{} seconds")
    columns: tuple[tuple[Callable[[Run], float], Callable[[Any], str], str], ...] = (
        (lambda run: run.number("step"), "{:,.0f}".format, "{} steps"),
        (lambda run: run.number("tokens"), si, "{} tokens"),
        (_flops, "{:.3g}".format, "{} FLOPs"),
    )
    return _joined([[_spread([number(run) for run in done], written, form) for number, written, form in columns]])


def _seconds(run: Run) -> float | None:
    return (run.config.get("budget") or {}).get("seconds")


def _flops(run: Run) -> float:
    known = run.number("cost/flops")
    return known if isfinite(known) else run.number("tokens") * run.number("flops_per_token")


def _regularisation(run: Run) -> str:
    train = run.config.get("train") or {}
    clip, dropout = train.get("grad_clip"), train.get("dropout")
    parts = [f"gradients clipped at {clip:g}" if clip else "", f"dropout {dropout:g}" if dropout else ""]
    return ", ".join(filter(None, parts))


def _warmup(runs: Sequence[Run]) -> tuple[str, bool]:
    """Return the length of the warm-up: in steps, or as a share where a run's steps depend on the machine."""
    sections = [(run, run.config.get("schedule") or {}) for run in runs]
    steps, shares = [], []
    for run, asked in ((run, section["warmup"]) for run, section in sections if "warmup" in section):
        if _seconds(run):
            shares.append(WARMUP_SHARE if asked is None else asked)
        elif isfinite(run.number("step")) and run.state == RunState.FINISHED:
            steps.append(warmup_steps(asked, int(run.number("step"))))
    in_steps = _spread(steps, "{:g}".format, "warm-up of {} steps")
    return _joined([[in_steps, _spread(shares, "{:.3g}".format, "warm-up of {} of the run")]])


def _seeds(runs: Sequence[Run]) -> str:
    """Return the seeds, three or more in a row as a range: `0 to 4, 9`."""
    rows: list[list[int]] = []
    for seed in sorted({run.seed for run in runs}):
        if rows and rows[-1][-1] == seed - 1:
            rows[-1].append(seed)
        else:
            rows.append([seed])
    return ", ".join(f"{row[0]} to {row[-1]}" if len(row) > 2 else ", ".join(map(str, row)) for row in rows)


def _precision(run: Run) -> str:
    device = str(run.env.get("device") or "").partition(":")[0]
    return " on ".join(filter(None, [run.env.get("precision"), device and {"cpu": "the CPU"}.get(device, device)]))


def _machine(run: Run) -> str:
    gpus = Counter(run.env.get("gpus") or []) if run.env.get("device") != "cpu" else Counter()
    named = [f"{n} x {gpu}" for gpu, n in gpus.items()]
    return ", ".join(filter(None, [*named, run.env.get("cpu")]))


def _versions(run: Run) -> str:
    packages, cuda = run.env.get("packages") or {}, run.env.get("cuda")
    python = [f"Python {run.env['python']}"] if run.env.get("python") else []
    named = [f"{name} {packages[name]}" for name in PACKAGES if name in packages]
    return ", ".join([*python, *named, *([f"CUDA {cuda}"] if cuda else [])])


def _commit(run: Run) -> str:
    git = run.env.get("git") or {}
    changed = ", with changes that are not committed" if git.get("dirty") else ""
    return f"{git['commit'][:10]}{changed}" if git.get("commit") else ""


def _counted(number: Any, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}" if number else ""
