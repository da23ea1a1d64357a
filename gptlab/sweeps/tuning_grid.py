"""The values that an arm tries while it is tuned, and those that its seeds are judged at."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

AUTO = "auto"  # typed in place of values: the grid starts around the arm's own value and is extended as needed
STEP = 2.0  # the factor between neighbouring values of an automatic grid
MOST_VALUES = 12  # of an automatic grid; its ends are then a factor of 2,048 apart


@dataclass(frozen=True)
class TuningGrid:
    """The values of each tuned setting that one arm tries, as typed; numbers stand in ascending order."""

    values: Mapping[str, tuple[str, ...]]
    auto: frozenset[str] = frozenset()  # the settings whose grid is extended

    @classmethod
    def of(cls, values: Mapping[str, list[str]], own: Mapping[str, float]) -> "TuningGrid":
        """Return the first grid of an arm; `own` has the arm's own value of each setting that is to be AUTO."""
        around = {key: tuple(_typed(value * factor) for factor in (1 / STEP, 1, STEP)) for key, value in own.items()}
        given = {key: tuple(_ascending(texts)) for key, texts in values.items() if key not in own}
        return cls({key: around.get(key) or given[key] for key in values}, frozenset(own))

    @property
    def combinations(self) -> list[dict[str, str]]:
        """Every combination of the values; a single empty one if nothing is tuned."""
        return [dict(zip(self.values, texts, strict=True)) for texts in itertools.product(*self.values.values())]

    def star(self, centre: Mapping[str, str]) -> list[dict[str, str]]:
        """Return the combinations at which every seed is judged: `centre`, then each neighbour of each of its values.

        The neighbours of a number are the two values beside it, or the nearest two where it is the lowest or the
        highest; the neighbours of a name are all other names.
        """
        points = [dict(centre)]
        for key, texts in self.neighbours(centre).items():
            points += [{**centre, key: text} for text in texts if text != centre[key]]
        return points

    def neighbours(self, centre: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
        """Return for each setting the values of the star, that of the centre included."""
        return dict(self._windows(centre))

    def _windows(self, centre: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
        for key, texts in self.values.items():
            if not _are_numbers(texts):
                yield key, texts
                continue
            start = min(max(texts.index(centre[key]) - 1, 0), max(len(texts) - 3, 0))
            yield key, texts[start : start + 3]

    def beyond(self, best: Mapping[str, str]) -> "TuningGrid":
        """Return the grid with another value wherever `best` is the lowest or the highest of an automatic grid."""
        wider = dict(self.values)
        for key in self.auto:
            texts = wider[key]
            if len(texts) >= MOST_VALUES:
                continue
            if best[key] == texts[0]:
                wider[key] = (_typed(float(texts[0]) / STEP), *texts)
            elif best[key] == texts[-1]:
                wider[key] = (*texts, _typed(float(texts[-1]) * STEP))
        return self if wider == self.values else replace(self, values=wider)


def _typed(value: float) -> str:
    return f"{value:.4g}"


def _are_numbers(texts: tuple[str, ...] | list[str]) -> bool:
    return all(_number(text) is not None for text in texts)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _ascending(texts: list[str]) -> list[str]:
    return sorted(texts, key=float) if _are_numbers(texts) else texts
