"""The word that a difference between two arms gets, and what each word means.

One function, `word`, decides; the table, the files and the report only repeat it. In this order:

unstable      a seed of the arm, or of the arm that it is compared with, diverged: a mean of what is left says little.
no verdict    the two arms share no finished seed, or only one: there is no spread to judge the difference by.
better,       the two-sided t test on the differences, paired by seed, has p < 0.05 after Holm's correction over the
worse         arms of the experiment (Holm 1979, Scand. J. Statist. 6: 65-70).
equivalent    otherwise, and two one-sided t tests at 5 % put the difference within ±margin (Schuirmann 1987,
              J. Pharmacokin. Biopharm. 15: 657-680). Not corrected for the number of arms.
not shown     neither: these seeds show no difference, nor that there is none worth speaking of.

With identical arms better or worse comes up in at most 5 % of experiments, however many arms they have; a difference
that is real and yet within the margin is better or worse, with a note. Nothing here makes a ranking: arms are compared
with their reference alone.
"""

BETTER, WORSE, EQUIVALENT, NOT_SHOWN, UNSTABLE = "better", "worse", "equivalent", "not shown", "unstable"
ONE_SEED, NO_SEED = "one seed: no verdict", "no common seed: no verdict"
LEVEL = 0.05  # of every test
WITHIN_MARGIN = "within the margin"

DEFINITIONS = {
    BETTER: "the difference is in the arm's favour: paired t test, p < 0.05 after Holm's correction over the arms",
    WORSE: "the same to its disadvantage",
    EQUIVALENT: "neither, and the difference lies within the margin: two one-sided t tests at 5 %",
    NOT_SHOWN: "none of these: the seeds show no difference, and do not show that there is none",
    UNSTABLE: "a seed of the arm, or of the arm that it is compared with, diverged",
    "no verdict": "the two arms have fewer than two finished seeds in common",
}

HIGHER_IS_BETTER = ("accuracy", "per_s", "mfu")


def higher_is_better(metric: str) -> bool:
    """Whether more of it is good: of accuracies and speeds. Of all else, losses and costs, less is."""
    return any(part in metric for part in HIGHER_IS_BETTER)


def word(*, pairs: int, mean: float, p_holm: float, p_equivalent: float, diverged: bool, higher: bool) -> str:
    """The verdict on an arm that is `mean` above its reference, over so many `pairs` of seeds.

    `diverged`: whether a seed of either did; `higher`: whether more of the metric is better.
    """
    if diverged:
        return UNSTABLE
    if pairs < 2:
        return ONE_SEED if pairs else NO_SEED
    if p_holm < LEVEL:
        return BETTER if (mean > 0) == higher else WORSE
    return EQUIVALENT if p_equivalent < LEVEL else NOT_SHOWN
