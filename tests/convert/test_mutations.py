"""The parity tests notice mistakes: with each one of mutations.py, some tiny config of its families disagrees."""

import pytest

pytest.importorskip("transformers")

from mutations import MUTATIONS
from parity import CONFIGS, measure

CASES = [pytest.param(m, family, id=f"{m.name} ({family})") for m in MUTATIONS for family in m.families]


@pytest.mark.slow
@pytest.mark.parametrize(("mutation", "family"), CASES)
def test_a_mutation_is_noticed(mutation, family, monkeypatch):
    mutation.apply(monkeypatch)
    assert not all(measure(family, flags).good for flags in CONFIGS[family])
