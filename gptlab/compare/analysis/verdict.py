"""The verdict on the difference between two arms, and the meaning of each verdict.

One function, `decide_verdict`, decides; tables, files and the report only repeat it. It checks in this order:

unstable      A seed of the arm, or of the arm that it is compared with, diverged. The mean of the remaining seeds
              would be misleading.
no verdict    The two arms have fewer than two finished seeds in common, so the spread of the difference is unknown.
better,       The two-sided t test on the differences, paired by seed, has p < 0.05 after Holm's correction over the
worse         arms of the experiment (Holm 1979, Scand. J. Statist. 6: 65-70).
equivalent    Otherwise, two one-sided t tests at 5 % put the difference within ±margin (Schuirmann 1987,
              J. Pharmacokin. Biopharm. 15: 657-680). They are not corrected for the number of arms.
not shown     None of these. The seeds show no difference, and they do not show that it is negligible.

With identical arms, at most 5 % of experiments have an arm that is better or worse, however many arms they have. A real
difference that is smaller than the margin is called better or worse, with a note. The verdicts are no ranking: each arm
is compared with its reference alone.
"""

BETTER, WORSE, EQUIVALENT, NOT_SHOWN, UNSTABLE = "better", "worse", "equivalent", "not shown", "unstable"
ONE_SEED, NO_SEED = "one seed: no verdict", "no common seed: no verdict"
LEVEL = 0.05  # significance level of every test
WITHIN_MARGIN = "within the margin"

DEFINITIONS = {
    BETTER: "the arm beats its reference, which is the baseline or the previous arm"
    " (paired t test, p < 0.05 after Holm's correction over the arms)",
    WORSE: "the arm loses to its reference, by the same test",
    EQUIVALENT: "neither better nor worse, and the difference lies within the margin (two one-sided t tests at 5 %)",
    NOT_SHOWN: "the seeds show neither that there is a difference nor that there is none",
    UNSTABLE: "a seed of the arm, or of its reference, diverged",
    "no verdict": "the arm and its reference have fewer than two finished seeds in common",
}


def decide_verdict(*, pairs: int, mean: float, p_holm: float, p_equivalent: float, diverged: bool, higher: bool) -> str:
    """Return the verdict on an arm whose metric is `mean` above that of its reference.

    Args:
        pairs: number of seeds that both arms finished.
        mean: mean difference over those seeds.
        p_holm: p of the paired t test, after Holm's correction.
        p_equivalent: p of the two one-sided tests against the margin.
        diverged: whether a seed of either arm diverged.
        higher: whether a higher metric is better.
    """
    if diverged:
        return UNSTABLE
    if pairs < 2:
        return ONE_SEED if pairs else NO_SEED
    if p_holm < LEVEL:
        return BETTER if (mean > 0) == higher else WORSE
    return EQUIVALENT if p_equivalent < LEVEL else NOT_SHOWN
