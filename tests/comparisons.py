"""Synthetic comparisons, made from a seed, with everything that build_comparison can return."""

import dataclasses
import itertools

import numpy as np
import pandas as pd

from gptlab.compare.analysis.arms import Arm
from gptlab.compare.analysis.comparison import Comparison, EqualBudgetComparison, Factorial, Reading, Result, Tuning
from gptlab.compare.analysis.effects import Evidence, Rules, compare_scores
from gptlab.compare.analysis.outcomes import Rate

MARGIN, NOISE = 0.01, 0.004  # nats per token
BATCH = 4096  # tokens per step
STEPS = 2000
ARMS = {  # name -> what it changes, and by how much its final loss differs from the baseline's
    "layernorm": ({"norm": "layernorm", "ffn": "gelu"}, 0.0),
    "rmsnorm": ({"norm": "rmsnorm", "ffn": "gelu"}, 0.0007),
    "swiglu": ({"norm": "layernorm", "ffn": "swiglu", "ffn.hidden": "344"}, -0.043),
    "rmsnorm + swiglu": ({"norm": "rmsnorm", "ffn": "swiglu", "ffn.hidden": "344"}, -0.038),
    "no norm": ({"norm": "none", "ffn": "gelu"}, 0.081),
    "<b>dyt</b> & \"quoted\" 'name'": ({"norm": "dyt", "ffn": "gelu"}, 0.013),
    "a very long name of an arm: alibi, grouped queries, partial rope and a sliding window in every other layer": (
        {"position": "alibi", "attention.n_kv_head": "2", "attention.pattern": '["L", "G"]'},
        -0.009,
    ),
}


def make_comparison(*, arms=None, seeds=5, diverged=(), metric="val/loss", tuned=True, grid=True, **changes):
    """Return a comparison of the arms in ARMS, or of `arms` arms; those in `diverged` have no finished run."""
    chosen = dict(itertools.islice(_more_arms(), arms or len(ARMS)))
    rng = np.random.default_rng(0)
    shared = rng.normal(0, NOISE, seeds)
    base = 2.1 if metric == "val/loss" else 0.72
    scores, results, curves, runs = {}, [], {}, []
    for name, (_, effect) in chosen.items():
        finished = 0 if name in diverged else seeds
        own = base + effect + shared + rng.normal(0, NOISE / 2, seeds)
        scores[name] = pd.Series(own[:finished], index=range(finished), dtype=float)
    effects = _effects(scores, list(chosen), diverged, metric)
    for name, (settings, _) in chosen.items():
        results.append(_result(name, settings, scores[name], effects.get(name), len(results), seeds))
        curves[name] = _curves(scores[name], seeds, results[-1].costs["tokens_per_s"], metric, rng)
        runs += [_run(name, len(results), seed, scores[name].get(seed), metric) for seed in range(seeds)]
    given = {
        "metric": metric,
        "question": "Does RMSNorm do as well as LayerNorm, with a plain and with a gated feed-forward?",
        "literature": "Narang et al. (2021, arXiv:2102.11972, table 1): RMSNorm 2.167 against 2.182 for LayerNorm\n"
        "Shazeer (2020, arXiv:2002.05202, table 1): SwiGLU 1.636 against 1.677 for ReLU <after 524K steps>",
        "command": "gptlab sweep experiments/norms/norms.yaml wandb.mode=offline match=parameters optimizer.lr=1e-3",
        "margin": MARGIN,
        "margin_text": f"{MARGIN} nats per token",
        "noise": scores[results[0].name].std(),
        "results": results,
        "equal_budgets": _equal_budgets(scores, diverged, metric),
        "tuning": [_tuning(list(chosen), rng)] if tuned else [],
        "factorial": _factorial(rng) if grid else None,
        "curves": curves,
        "curve_metric": metric,
        "hardware": ["1 x NVIDIA H100, torch 2.13.0, CUDA 13.0, Python 3.11", "2 CPU cores, torch 2.13.0, Python 3.11"],
        "runs": pd.DataFrame(runs),
        "matched": [
            {
                "arm": name,
                "to": "params",
                "changed": {"ffn.hidden": [384, 344]},
                "reference": 10_646_784,
                "before": 11_433_216,
                "reached": 10_654_976,
            }
            for name in list(chosen)[2:3]
        ],
        "family": len(results) - 1,
        "planned": True,
        "repeats": 2,
    }
    return Comparison(**{**given, **changes})


def _more_arms():
    yield from ARMS.items()
    for i in itertools.count(len(ARMS)):
        yield f"variant {i}", ({"size.n_layer": str(i)}, 0.02 * np.sin(i))


def _run(name, place, seed, score, metric):
    return {
        "arm": name,
        "seed": seed,
        "phase": "",
        "state": "diverged" if score is None else "finished",
        metric: np.nan if score is None else score,
        "tokens": BATCH * (800 if score is None else STEPS),
        "seconds": 21.7 if score is None else 54.2,
        "folder": f"runs/norms/arm{place}-seed{seed}",
        "path": f"runs/norms/arm{place}-seed{seed}",
        "where": "https://wandb.ai/lab/norms/runs/x1" if seed % 2 else "wandb sync runs/wandb/offline-run-x1",
    }


def _result(name, settings, own, effect, place, seeds):
    return Result(
        arm=Arm(name, settings, []),
        name=name,
        reference="layernorm" if place else None,
        differs=" ".join(f"{k}={v}" for k, v in settings.items()) if place else "",
        scores=own,
        mean=own.mean(),
        sd=own.std(),
        states={"finished": len(own), "diverged": seeds - len(own), "failed": 0, "unfinished": 0},
        costs={
            "parameters": 10.7e6 + 2e5 * place,
            "parameters_non_embedding": 10.6e6 + 2e5 * place,
            "flops_per_token": 6.4e7 + 1e6 * place,
            "state_bytes": 1.7e8 + 3e6 * place,
            "tokens_per_s": 152e3 * (1 - 0.06 * (place % 5)) if len(own) else np.nan,
            "seconds": 54.0,
            "tokens": float(BATCH * STEPS),
            "steps": float(STEPS),
        },
        effect=effect,
        rates={"diverged": Rate(seeds - len(own), seeds, 0, seeds, 0.01, 0.05)} if place else {},
    )


def _effects(scores, names, diverged, metric):
    lost = {name: range(5) if name in diverged else () for name in names}
    return compare_scores(scores, dict.fromkeys(names[1:], names[0]), Rules(metric, MARGIN), Evidence(diverged=lost))


def _curves(scores, seeds, speed, metric, rng):
    steps = np.unique(np.linspace(0, STEPS, 321).astype(int))
    frames = []
    for seed in range(seeds):
        final = scores.get(seed, np.nan)
        fall = np.exp(-steps / 60) * 2.4 + 0.9 * (np.exp(-steps / 700) - np.exp(-STEPS / 700))
        values = (final if final == final else 2.4) + fall + rng.normal(0, 0.002, len(steps)) * (steps < STEPS)
        kept = steps
        if final != final:  # rises, and is stopped at infinity
            kept = steps[:120]
            values = values[:120] + np.exp((kept - 620) / 40)
            values[-1] = np.inf
        tokens = kept * BATCH
        frames.append(
            pd.DataFrame(
                {
                    "seed": seed,
                    "step": kept,
                    "tokens": tokens,
                    "flops": tokens * 6.4e7,
                    "seconds": tokens / (152e3 if speed != speed else speed) * (1 + 0.02 * seed),
                    metric: values,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _equal_budgets(scores, diverged, metric):
    """Return readings at equal budgets; at equal FLOPs and seconds later arms are worse, and read inside a schedule."""
    names = list(scores)
    budgets = {"steps": (STEPS, 0.0), "tokens": (STEPS * BATCH, 0.0), "flops": (5.2e14, 0.002), "seconds": (53.9, 0.01)}
    equal_budgets = []
    for axis, (budget, slower) in budgets.items():
        there = {name: series + slower * place for place, (name, series) in enumerate(scores.items())}
        effects, ends = _effects(there, names, diverged, metric), _effects(scores, names, diverged, metric)
        shared = "tokens/s of the runs of swiglu vary by 25 %, so the machine was shared" if axis == "seconds" else ""
        inside = "layernorm read at 98 % of its schedule; train with budget.flops= to judge" if slower else ""
        why = "; ".join(filter(None, [shared, inside]))
        readings = {
            name: Reading(
                budget=float(budget),
                effect=effect,
                mean=there[name].mean(),
                reference_mean=there[names[0]].mean(),
                why=why,
                reliable=not shared,
                shift=dataclasses.replace(effect, mean=effect.mean - ends[name].mean) if inside else None,
            )
            for name, effect in effects.items()
        }
        equal_budgets.append(EqualBudgetComparison(axis, readings))
    return equal_budgets


def _tuning(names, rng):
    rows = []
    for i, name in enumerate(names):
        best = -3 + 0.2 * (i % 4)
        for lr in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2):
            mean = 2.1 + 0.05 * i + 0.12 * (np.log10(lr) - best) ** 2
            lost = lr >= 1e-2 and i % 2 == 1
            rows.append((name, lr, np.inf if lost else mean, mean - 0.006, mean + 0.006, 2, 2 * lost))
    points = pd.DataFrame(rows, columns=["arm", "value", "mean", "low", "high", "seeds", "diverged"])
    points["chosen"] = points.groupby("arm")["mean"].transform("min") == points["mean"]
    points["at_edge"] = points["chosen"] & (points["arm"] == names[-1])
    return Tuning("optimizer.lr", [0, 1], points)


def _factorial(rng):
    levels = {"norm": ["layernorm", "rmsnorm"], "ffn": ["gelu", "swiglu", "geglu"], "placement": ["pre", "post"]}
    rows = []
    for slot, (first, *others) in levels.items():
        for other in others:
            rows.append(("main", slot, f"{other} instead of {first}", rng.normal(0, 0.02), 0.006))
    for a, b in itertools.combinations(levels, 2):
        rows.append(("interaction", f"{a} x {b}", f"{levels[a][-1]}, {levels[b][-1]}", rng.normal(0, 0.008), 0.009))
    effects = pd.DataFrame(rows, columns=["kind", "slots", "levels", "effect", "half"])
    effects["verdict"], effects["note"] = "not shown", ""
    effects["low"], effects["high"] = effects["effect"] - effects["half"], effects["effect"] + effects.pop("half")
    effects["p"] = np.exp(-4 * ((effects["high"] - effects["low"]) / effects["effect"]) ** -2)
    effects["p_holm"] = (effects["p"] * len(effects)).clip(upper=1)
    means = {
        (a, b): pd.DataFrame(rng.normal(2.1, 0.03, (len(levels[a]), len(levels[b]))), levels[a], levels[b])
        for a, b in itertools.combinations(levels, 2)
    }
    return Factorial(
        effects, means, "Linear model with sum contrasts, 60 runs of a full 2 x 3 x 2 grid, blocked by seed."
    )
