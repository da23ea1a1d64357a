"""The comparison over rungs as one JSON document, for scripts.

The fields of the document:

- format: "gptlab rungs, 1".
- question, literature, command: of the experiment, or None.
- metric: the key of the metric.
- baseline: the name of the baseline arm.
- promote: the words with which an arm goes on to the next rung; [] if all arms do.
- tune_at: "each" rung or the "first", None if nothing is tuned. target_flops: the compute of the projections, or None.
- pending: the names of the rungs without a run so far. unreached: of those to which no arm went on. gone: of those that
  were planned when the first run ended and are not in the experiment any more, so that all words are exploratory.
- arms: for each arm but the baseline
  - name.
  - words: {rung: word}; "left out" where it did not go on to a rung, "no run yet" where it will run.
  - word: the verdict that it has at every rung, "left out" if it did not go on to all of them, "not shown" if they
    differ. standing: "exploratory", "interim" or "".
  - passes: whether it is better at every rung. p: its largest p_any_look over the rungs, 1 if it is not judged at all
    of them. p_holm: corrected over all arms that were planned.
  - trend: of its multiplier in FLOPs {word, per_decade, low, high, misfit, reason}; per_decade is the factor for each
    tenfold of compute with its 95 % interval, misfit the scatter about the line over what the errors explain.
  - projection: {value, low, high, beyond, note} at target_flops, or None; beyond: the target over the largest rung.
- power_law: {floor, exponent, worth, words, residuals, reason}, None for isoflop experiments; floor and exponent are
  {mean, error, df}; worth maps an arm to {value, low, high}; residuals map an arm to {rung: nats}.
- profiles: for an isoflop experiment a list of {flops, arm, best, low, high, loss, edge, reason}: the size with the
  lowest loss in parameters, and the loss there.
- rungs: for each rung {name, overrides, isoflop, parameters, tokens, flops, comparison}: `comparison` is the document
  of the rung alone; see comparison_document.
- wandb: with --wandb {updated, absent}, over all rungs.
"""

from dataclasses import asdict
from math import exp
from typing import Any

from gptlab.compare.analysis.over_rungs import ArmOverRungs, RungsComparison
from gptlab.compare.analysis.scaling import PowerLaw
from gptlab.compare.analysis.statistics import Estimate, interval
from gptlab.compare.views.json_document import comparison_document, without_nan
from gptlab.compare.views.wandb_summary import Sent

RUNGS_DOCUMENT_FORMAT = "gptlab rungs, 1"


def rungs_document(comparison: RungsComparison, sent: Sent | None = None) -> dict[str, Any]:
    """Return the document as nested dicts and lists, with None for every number that is not finite."""
    file = comparison.file
    profiles = [
        {"flops": flops, "arm": arm}
        | {key: getattr(found, key) for key in ("best", "low", "high", "loss", "edge", "reason")}
        for flops, arms in comparison.profiles.items()
        for arm, found in arms.items()
    ]
    document = {
        "format": RUNGS_DOCUMENT_FORMAT,
        "question": file.question,
        "literature": file.literature,
        "command": file.command,
        "metric": comparison.metric,
        "baseline": comparison.baseline,
        "promote": list(file.promote),
        "tune_at": file.tune_at,
        "target_flops": file.target_flops,
        **{key: getattr(comparison, key) for key in ("pending", "unreached", "gone")},
        "arms": [_arm(arm) for arm in comparison.arms],
        "power_law": _power_law(comparison.power_law, comparison) if comparison.power_law else None,
        "profiles": profiles,
        "rungs": [
            {
                "name": rung.name,
                "overrides": list(rung.entry.overrides),
                "isoflop": rung.entry.flops,
                **{key: getattr(rung, key) for key in ("parameters", "tokens", "flops")},
                "comparison": comparison_document(rung.comparison),
            }
            for rung in comparison.rungs
        ],
        "wandb": asdict(sent) if sent else None,
    }
    return without_nan(document)


def _arm(arm: ArmOverRungs) -> dict[str, Any]:
    projection = arm.projection
    return {
        **{key: getattr(arm, key) for key in ("name", "words", "word", "standing", "passes", "p", "p_holm")},
        "trend": {
            "word": arm.trend.word,
            **dict(zip(("per_decade", "low", "high"), arm.trend.per_decade, strict=True)),
            "misfit": arm.trend.misfit,
            "reason": arm.trend.reason,
        },
        "projection": projection
        and {key: getattr(projection, key) for key in ("value", "low", "high", "beyond", "note")},
    }


def _power_law(law: PowerLaw, comparison: RungsComparison) -> dict[str, Any]:
    names = {rung.flops: rung.name for rung in comparison.rungs}
    return {
        **{key: _estimate(getattr(law, key)) for key in ("floor", "exponent")},
        "worth": {arm: _factor(found) for arm, found in law.multipliers.items()},
        "words": law.words,
        "residuals": {
            str(arm): {name: float(row[flops]) for flops, name in names.items()}
            for arm, row in law.residuals.T.to_dict().items()
        },
        "reason": law.reason,
    }


def _estimate(found: Estimate) -> dict[str, float]:
    return {key: getattr(found, key) for key in ("mean", "error", "df")}


def _factor(found: Estimate) -> dict[str, float]:
    low, high = interval(found)
    return {"value": exp(found.mean), "low": exp(low), "high": exp(high)}
