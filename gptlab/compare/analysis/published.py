"""Published findings about the arms, beside what the runs found.

An experiment file says it as the difference from the baseline, whose sign is a word in the direction of the metric, or
as the word itself; 0 is "equivalent". The two agree if the runs have shown the same word:

published          agrees                              disagrees                            not shown
better or worse    the same word                       the opposite word, or equivalent     any other word
equivalent         equivalent, or better or worse by   better or worse by more than that    any other word
                   less than the margin

An arm without a verdict shows nothing, whatever was published. Where numbers are given for MIN_ORDERED arms or more,
their order is compared too: every two of them, the baseline included with 0, by paired t tests over the common seeds
with Holm's correction over these pairs. The sizes of the differences are not compared, since they depend on the model,
the text and the number of tokens.
"""

import itertools
from collections.abc import Mapping

from gptlab.compare.analysis.arms import Arm
from gptlab.compare.analysis.comparison import Effect, Published, PublishedLine, PublishedOrder
from gptlab.compare.analysis.judgement import Judgement, judge_pairs
from gptlab.compare.analysis.statistics import LEVEL
from gptlab.compare.analysis.verdict import BETTER, EQUIVALENT, JUDGED, NOT_SHOWN, WORSE
from gptlab.runs.metrics import metric_named

WORDS = (BETTER, WORSE, EQUIVALENT)  # what an experiment file may say in place of a number
AGREES, DISAGREES = "agrees", "disagrees"
NO_RUN = "no run here"
MIN_ORDERED = 3  # arms with a number, from which on their order is compared


def beside_published(
    published: Mapping[str, str], arms: Mapping[str, Arm], judged: Judgement, refused: Mapping[str, str]
) -> Published | None:
    """Return what was published beside what the runs found; None if nothing was published.

    Args:
        published: for an arm its difference from the baseline, or one of WORDS.
        arms: by label, the baseline first.
        judged: the verdicts on them, each against the baseline.
        refused: for an arm that must not be judged, the reason.
    """
    if not published:
        return None
    higher = metric_named(judged.rules.metric).higher_is_better
    lines = [_line(arm, text, judged.effects.get(arm), higher=higher) for arm, text in published.items()]
    numbers = {arm: float(text) for arm, text in published.items() if text not in WORDS and arm in arms}
    order = None
    if len(numbers) >= MIN_ORDERED:
        order = _order({next(iter(arms)): 0.0, **numbers}, arms, judged, refused, higher=higher)
    return Published(lines, order)


def expected_word(text: str, *, higher: bool) -> str:
    """Return the word that was published, or that a published difference stands for.

    `higher` says whether a higher metric is better.
    """
    if text in WORDS:
        return text
    difference = float(text)
    if not difference:
        return EQUIVALENT
    return BETTER if (difference > 0) == higher else WORSE


def agreement(expected: str, effect: Effect | None) -> str:
    """Return whether an effect agrees with a published word, disagrees, or shows neither."""
    word = effect.word if effect else NOT_SHOWN
    if word not in WORDS:
        return NOT_SHOWN
    if expected == EQUIVALENT:
        small = effect is not None and effect.p_equivalent < LEVEL
        return AGREES if word == EQUIVALENT or small else DISAGREES
    return AGREES if word == expected else DISAGREES


def _line(arm: str, text: str, effect: Effect | None, *, higher: bool) -> PublishedLine:
    expected = expected_word(text, higher=higher)
    reason = NO_RUN if effect is None else ""
    if effect and effect.word not in JUDGED:
        reason = f"{effect.word}: {effect.note}" if effect.note else effect.word
    return PublishedLine(arm, text, expected, effect.verdict if effect else "", agreement(expected, effect), reason)


def _order(
    numbers: Mapping[str, float],
    arms: Mapping[str, Arm],
    judged: Judgement,
    refused: Mapping[str, str],
    *,
    higher: bool,
) -> PublishedOrder:
    """Judge every two arms in the order of their published numbers; two with the same number have none."""
    ranked = sorted(numbers, key=lambda arm: -numbers[arm] if higher else numbers[arm])
    pairs = [(a, b) for a, b in itertools.combinations(ranked, 2) if numbers[a] != numbers[b]]
    words = [effect.word for effect in judge_pairs(arms, pairs, judged, refused)]
    of_word = {
        word: [pair for pair, found in zip(pairs, words, strict=True) if found == word] for word in (BETTER, WORSE)
    }
    return PublishedOrder(ranked, len(pairs), of_word[BETTER], [(b, a) for a, b in of_word[WORSE]])
