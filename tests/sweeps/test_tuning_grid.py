"""The values that a tuned arm tries, and those at which its seeds are judged."""

import pytest

from gptlab.sweeps.tuning_grid import AUTO, MOST_VALUES, TuningGrid

RATE = "optimizer.lr"


def grid(*rates, auto=False):
    return TuningGrid({RATE: rates}, frozenset([RATE]) if auto else frozenset())


def test_an_automatic_grid_starts_around_the_arms_own_value():
    found = TuningGrid.of({RATE: [AUTO], "norm": ["a", "b"]}, {RATE: 0.01})
    assert found.values == {RATE: ("0.005", "0.01", "0.02"), "norm": ("a", "b")} and found.auto == {RATE}
    assert len(found.combinations) == 6


def test_given_numbers_are_put_in_order():
    assert TuningGrid.of({RATE: ["1e-2", "3e-4", "1e-3"]}, {}).values == {RATE: ("3e-4", "1e-3", "1e-2")}


@pytest.mark.parametrize(
    ("best", "values"),
    [("0.005", ("0.0025", "0.005", "0.01", "0.02")), ("0.01", None), ("0.02", ("0.005", "0.01", "0.02", "0.04"))],
)
def test_a_grid_is_extended_where_its_best_value_is_at_an_end(best, values):
    before = grid("0.005", "0.01", "0.02", auto=True)
    after = before.beyond({RATE: best})
    assert after is before if values is None else after.values[RATE] == values


def test_a_grid_is_not_extended_without_end_nor_if_it_was_given():
    tried = grid("0.005", "0.01", "0.02", auto=True)
    for _ in range(100):
        tried = tried.beyond({RATE: tried.values[RATE][-1]})
    assert len(tried.values[RATE]) == MOST_VALUES
    given = grid("0.005", "0.01", "0.02")
    assert given.beyond({RATE: "0.02"}) is given


@pytest.mark.parametrize(
    ("centre", "rates"),
    [("1", ["1", "2", "3"]), ("2", ["2", "1", "3"]), ("3", ["3", "2", "4"]), ("4", ["4", "2", "3"])],
)
def test_seeds_are_judged_at_three_numbers_the_chosen_one_first(centre, rates):
    assert [point[RATE] for point in grid("1", "2", "3", "4").star({RATE: centre})] == rates


def test_with_several_settings_the_neighbours_change_one_at_a_time():
    tried = TuningGrid({RATE: ("1", "2", "3", "4"), "schedule": ("cosine", "wsd", "linear")})
    assert tried.star({RATE: "2", "schedule": "wsd"}) == [
        {RATE: "2", "schedule": "wsd"},
        {RATE: "1", "schedule": "wsd"},
        {RATE: "3", "schedule": "wsd"},
        {RATE: "2", "schedule": "cosine"},
        {RATE: "2", "schedule": "linear"},
    ]
