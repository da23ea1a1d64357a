"""The verdict on the difference between two arms, and the meaning of each verdict.

One function, `decide_verdict`, decides; tables, files and the report only repeat it. It checks in this order:

no verdict    A reason forbids to judge the arm: its pairs differ in more than the arm, its best tuned value lies at an
              edge, it was read before the end of its schedule, or the machine was shared.
unstable      Seeds of the arm diverged and none of its reference, or more of them than of its reference (Fisher's
              exact test, p < 0.05 after Holm's correction). The mean of the others would be a mean of survivors. If
              only seeds of the reference diverged, or as many, the other pairs are judged, and the note says so.
no verdict    The two arms have fewer than MIN_PAIRS finished seeds in common.
better,       The two-sided t test on the differences, paired by seed, has p < 0.05 after Holm's correction over the
worse         arms that were planned (Holm 1979, Scand. J. Statist. 6: 65-70).
equivalent    Otherwise, two one-sided t tests at 5 % put the difference within ±margin (Schuirmann 1987,
              J. Pharmacokin. Biopharm. 15: 657-680). They are not corrected for the number of arms.
not shown     None of these. The seeds show no difference, and they do not show that it is negligible.

With identical arms, at most 5 % of experiments have an arm that is better or worse, however many arms they have. A real
difference that is smaller than the margin is called better or worse, with a note. The verdicts are no ranking: each arm
is compared with its reference alone.

A word can have a mark, its standing: `better (exploratory)` where the comparison is not the one that was planned, and
`better (interim)` where planned runs have not ended yet. See planned.py.
"""

from gptlab.compare.analysis.statistics import LEVEL

BETTER, WORSE, EQUIVALENT, NOT_SHOWN, UNSTABLE = "better", "worse", "equivalent", "not shown", "unstable"
NO_VERDICT = "no verdict"
EXPLORATORY, INTERIM = "exploratory", "interim"
MIN_PAIRS = 3  # with two, the spread is hardly known and any two that tie look certain
WITHIN_MARGIN = "within the margin"
JUDGED = (BETTER, WORSE, EQUIVALENT, NOT_SHOWN)  # words that follow from the seeds, and can have a mark
_COUNTS = {0: "no common seed", 1: "one seed", 2: "two seeds"}

DEFINITIONS = {
    BETTER: "the arm beats its reference, which is the baseline or the previous arm"
    " (paired t test, p < 0.05 after Holm's correction over the arms)",
    WORSE: "the arm loses to its reference, by the same test",
    EQUIVALENT: "neither better nor worse, and the difference lies within the margin (two one-sided t tests at 5 %)",
    NOT_SHOWN: "the seeds show neither that there is a difference nor that there is none",
    UNSTABLE: "seeds of the arm diverged, and none or significantly fewer of its reference",
    NO_VERDICT: "the arm and its reference have fewer than three finished seeds in common, or a reason that is given",
}


def decide_verdict(
    *, pairs: int, mean: float, p_holm: float, p_equivalent: float, unstable: bool, higher: bool, refused: bool = False
) -> str:
    """Return the verdict on an arm whose metric is `mean` above that of its reference.

    Args:
        pairs: number of seeds that both arms finished.
        mean: mean difference over those seeds.
        p_holm: p of the paired t test, after Holm's correction.
        p_equivalent: p of the two one-sided tests against the margin.
        unstable: whether the arm diverges where its reference does not.
        higher: whether a higher metric is better.
        refused: whether there is a reason not to judge the arm.
    """
    if refused:
        return NO_VERDICT
    if unstable:
        return UNSTABLE
    if pairs < MIN_PAIRS:
        return f"{_COUNTS[pairs]}: {NO_VERDICT}"
    if p_holm < LEVEL:
        return BETTER if (mean > 0) == higher else WORSE
    return EQUIVALENT if p_equivalent < LEVEL else NOT_SHOWN
