"""Presets, options and shipped experiments still give what golden_record.json holds."""

import json

import pytest

from golden_record import FILE, record

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made():
    return json.loads(json.dumps(record()))


@pytest.mark.parametrize("part", RECORDED)
def test_nothing_has_changed(made, part):
    """If a change is meant, run `python tests/golden_record.py` and say in the commit what changed and why."""
    changed = {key for key in {*RECORDED[part], *made[part]} if RECORDED[part].get(key) != made[part].get(key)}
    assert not changed
