"""Published models: a preset is the architecture and the recipe, a size of its family the numbers of one checkpoint."""

import pytest
from omegaconf import OmegaConf

from gptlab import load_config, train
from gptlab.config import CONF, ConfigError, flatten, plain
from gptlab.config.compose import files_in
from gptlab.config.presets import choices, values
from gptlab.model.cost import meta_model
from gptlab.runs.folder import slug
from published import FILES, PUBLISHED, sized

PRESETS = files_in("preset")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_short_and_names_its_source(preset):
    lines = (CONF / "preset" / f"{preset}.yaml").read_text().splitlines()
    comment = [line for line in lines[:5] if line.startswith("# ") and "@package" not in line]
    assert len(lines) < 25
    assert any("arXiv:" in line or "https://" in line for line in comment)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_comes_with_a_size_of_its_own_and_builds(preset):
    size = choices(CONF / "preset" / f"{preset}.yaml")["size"]
    if preset in ("karpathy-10m", "nanogpt-cpu"):  # of nanoGPT's README, without a name beside that
        cfg = load_config([f"preset={preset}", "model.vocab_size=65"])
    else:
        assert PUBLISHED[size] == preset
        cfg = sized(size)
    assert len(meta_model(cfg).blocks) == cfg.size.n_layer


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains(preset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("".join(f"{i} and {i + 1} are {2 * i + 1}. " for i in range(400)))
    words = "size=tiny data=text data.path=text.txt data.window=16 train.batch_size=4 eval.tokens=200 tokenizer=byte"
    cfg = load_config(
        [f"preset={preset}", *words.split(), "budget.steps=5", "schedule.warmup=null", "wandb.mode=disabled"]
    )
    assert train(cfg, quiet=True)["state"] == "finished"


@pytest.mark.parametrize("size", ["llama3.2-1b", "opt-350m", "falcon-rw-1b", "command-r-plus-104b", "gpt-neox-20b"])
def test_hydra_composes_a_size_over_its_preset(size):
    cfg = load_config([f"preset={PUBLISHED[size]}", f"size={size}"])
    assert plain(cfg) == plain(sized(size))
    flat = flatten(plain(cfg))
    assert {k: flat[k] for k in values(FILES[size])} == values(FILES[size])


@pytest.mark.slow
@pytest.mark.parametrize("size", PUBLISHED)
def test_hydra_composes_every_size_over_its_preset(size):
    assert plain(load_config([f"preset={PUBLISHED[size]}", f"size={size}"])) == plain(sized(size))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("preset=llama", {"size.dim": 4096, "norm.eps": 1e-6, "data.window": 2048}),
        ("preset=llama size=llama3-8b", {"norm.eps": 1e-5, "position.theta": 5e5, "attention.n_kv_head": 8}),
        ("size=llama3-8b preset=llama", {"norm.eps": 1e-5, "ffn.hidden": 14336, "model.vocab_size": 128256}),
        ("preset=llama size=llama3-8b norm.eps=1 size.n_layer=2", {"norm.eps": 1, "size.n_layer": 2, "size.dim": 4096}),
        ("preset=llama size=llama3-8b position=learned", {"position": "learned", "data.window": 8192}),
        (
            "preset=llama size=tiny",
            {"size.dim": 64, "data.window": 64, "attention.n_kv_head": None, "ffn.hidden": None},
        ),
        ("preset=opt size=opt-350m", {"placement": "post", "ffn": "relu", "position.offset": 2}),
        ("preset=opt size=opt-350m placement=pre", {"placement": "pre", "head.width": 512}),
        ("size=gpt2-124m", {"ffn": "gelu", "model.vocab_size": 50257, "data.window": 1024}),
    ],
)
def test_a_size_wins_over_the_preset_and_the_command_line_over_both(words, expected):
    flat = flatten(plain(load_config(words.split())))
    assert {k: flat[k] for k in expected} == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "size=llama3-8b",
            "size=llama3-8b: sets position.theta, which position=learned does not have; add preset=llama",
        ),
        (
            "preset=gpt2 size=phi-2",
            "size=phi-2: sets position.fraction, which position=learned does not have; add preset=phi",
        ),
    ],
)
def test_a_size_without_its_preset_is_refused_if_it_does_not_fit(words, message):
    with pytest.raises(ConfigError) as e:
        load_config(words.split())
    assert str(e.value) == message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("size=124m", "size-124m_seed-0"),
        ("size=124m norm=rmsnorm", "norm-rmsnorm_size-124m_seed-0"),
        ("size=gpt2-124m norm=rmsnorm", "size-gpt2-124m_norm-rmsnorm_seed-0"),
        ("size=gpt2-124m data.window=64", "size-gpt2-124m_data.window-64_seed-0"),
        (
            "size=gpt2-124m size.dim=96 data.window=64 model.vocab_size=256",
            "size.n_layer-12_size.n_head-12_size.dim-96_optimizer.lr-0.001_seed-0",
        ),
        ("preset=falcon size=falcon-rw-1b", "size-falcon-rw-1b_head.z_loss-0.0001_seed-0"),
        ("preset=falcon size=falcon-rw-1b position=rope", "size-falcon-rw-1b_position-rope_head.z_loss-0.0001_seed-0"),
    ],
)
def test_a_slug_has_a_size_by_its_name(words, expected):
    assert slug(load_config(words.split())) == expected


def test_all_of_a_preset_but_its_size_stays_at_a_plain_size():
    """Numbers that only hold at a published size, such as n_kv_head=8, are not a preset's."""
    for preset in PRESETS:
        tree = OmegaConf.load(CONF / "preset" / f"{preset}.yaml")
        assert "size" not in tree and "model" not in tree


@pytest.mark.parametrize(
    ("words", "rate"),
    [
        ("size=tiny", 0.007),
        ("size=124m", 0.001),  # AdamW's default: nothing was measured at this size
        ("size=tiny optimizer.lr=3e-4", 3e-4),
        ("size=tiny optimizer=lion", 1e-4),  # the rate of a size is AdamW's
        ("size=tiny preset=gpt2", 0.007),
        ("size=tiny preset=nanogpt-cpu", 1e-3),  # its file gives a rate
        ("size=tiny preset=modded-nanogpt", 1e-3),  # its optimizer is muon
        ("preset=llama size=llama3-8b", 3e-4),
    ],
)
def test_a_small_size_has_a_learning_rate_of_its_own_which_gives_way_to_a_preset(words, rate):
    assert load_config(words.split()).optimizer.lr == rate


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("size=tiny", "size-tiny_seed-0"),
        ("size=tiny optimizer.lr=3e-4", "size-tiny_optimizer.lr-0.0003_seed-0"),
        ("size=tiny optimizer=lion", "size-tiny_optimizer-lion_seed-0"),
        ("size=124m optimizer.lr=0.001", "size-124m_seed-0"),
        ("size=124m optimizer.lr=0.005", "size-124m_optimizer.lr-0.005_seed-0"),
    ],
)
def test_the_learning_rate_of_a_size_is_not_in_its_slug(words, name):
    assert slug(load_config(words.split())) == name
