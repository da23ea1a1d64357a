"""preset=X size=Y is the model that its authors published, and their config.json says so to gptlab."""

import pytest

pytest.importorskip("transformers")
from test_sizes import THEIRS
from transformers import AutoConfig, AutoModelForCausalLM

from gptlab.convert.canonical import conflicts, resolved
from gptlab.convert.families import FAMILIES
from gptlab.convert.models import read_config, source_of, write_config
from published import sized
from published_configs import BESIDES, FILES

# The row that the class's table keeps from being trained: a matter of its data. Presets have none.
OF_THE_DATA = {"embedding.padding_idx"}


@pytest.mark.parametrize("size", [size for size, (kind, _) in THEIRS.items() if kind in FAMILIES])
def test_a_published_size_is_what_its_config_says(size):
    kind, flags = THEIRS[size]
    config = AutoConfig.for_model(kind, **flags | BESIDES.get(size, {}))
    assert set(conflicts(resolved(sized(size)), resolved(read_config(config)))) <= OF_THE_DATA


@pytest.mark.parametrize("size", FILES)
def test_a_published_file_is_understood_whole(size):
    """No flag of it that means nothing is refused."""
    file = dict(FILES[size])
    config = AutoConfig.for_model(file.pop("model_type"), **file)
    found = read_config(config, source=source_of(AutoModelForCausalLM._model_mapping[type(config)]))
    assert set(conflicts(resolved(sized(size)), resolved(found))) <= OF_THE_DATA


@pytest.mark.parametrize("size", FILES)
def test_a_published_size_becomes_its_class(size):
    kind, _ = THEIRS[size]
    assert write_config(sized(size), model_type=kind).model_type == kind


def test_what_is_said_besides_is_of_published_sizes():
    assert BESIDES.keys() | FILES.keys() <= THEIRS.keys()
