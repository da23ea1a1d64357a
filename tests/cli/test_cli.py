"""The verbs as typed: their output, and every example in their help, which works as printed."""

import re
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gptlab import build_model, load_config
from gptlab.cli.main import VERBS, main
from gptlab.cli.run_verbs import CHOSEN_BY_NAME, COMMON_SETTINGS
from gptlab.config import COMMON, SLOTS, Config, flatten, registry
from gptlab.config.overrides import typed
from gptlab.sweeps.grid import plan_sweep, split_arguments
from gptlab.sweeps.job import run_cells
from gptlab.sweeps.launcher import prepare_launcher
from paths import ROOT


def gptlab(*words):
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == 0


def examples(verb):
    """The examples of a verb as lists of words. Text after three spaces is a remark."""
    lines = (re.split(r"\s{3,}", line.strip())[0] for line in VERBS[verb].examples.splitlines())
    return [shlex.split(line)[1:] for line in lines]


def every_example(*verbs):
    return [pytest.param(words, id=" ".join(words)) for verb in verbs for words in examples(verb)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with runs/demo/RUN in it, trained for five steps."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text("def f(x): return x + 1\n" * 200)
    with pytest.MonkeyPatch.context() as m, pytest.raises(SystemExit):
        m.chdir(folder)
        m.setenv("GPTLAB_CACHE", str(folder / "cache"))
        words = "data=text data.path=text.txt tokenizer=char size=tiny budget.steps=5 name=demo wandb.mode=disabled"
        main(["train", *words.split(), "device=cpu"])
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """The path of the run, relative to the current folder."""
    monkeypatch.chdir(folder)
    [path] = Path("runs/demo").iterdir()
    return path


def sample(run, capsys, *words):
    gptlab("sample", str(run), *words)
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [[], ["--help"], ["help"]])
def test_help_names_all_verbs(words, capsys):
    gptlab(*words)
    out = capsys.readouterr().out
    assert all(re.search(rf"^  {name} +{re.escape(verb.summary)}$", out, re.M) for name, verb in VERBS.items())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_examples(verb, capsys):
    gptlab(verb, "--help")
    out = capsys.readouterr().out
    assert f"usage: gptlab {verb}" in out
    assert out.count("\n  gptlab ") + out.count("$(gptlab") >= 1


def test_version(capsys):
    gptlab("--version")
    assert re.fullmatch(r"gptlab \d+\.\d+\.\d+\n", capsys.readouterr().out)


@pytest.mark.parametrize("verb", [v for v in VERBS if v != "completion"])
def test_no_example_needs_quotes_that_it_does_not_have(verb):
    for line in VERBS[verb].examples.splitlines():
        bare = re.sub(r"\"[^\"]*\"|'[^']*'", "", re.split(r"\s{3,}", line.strip())[0])
        assert not set(bare) & set("()[]{}*?<>|&;$!#~\\\"'"), line


@pytest.mark.parametrize("words", every_example("train", "sweep"))
def test_an_example_of_training_composes(words, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    args = VERBS["sweep"].parser("sweep").parse_intermixed_args([w for w in words[1:] if w != "-m"])
    arms = {"ladder": args.ladder, "knock_out": args.knock_out, "fraction": args.fraction, "tune": args.tune}
    launcher, _, of_cells = split_arguments(args.arguments)
    planned = plan_sweep(of_cells, **arms)
    cells = [*planned.tuning_cells, *planned.cells]
    assert len(cells) > 1 or words[0] == "train"
    for cell in cells:
        load_config(cell.overrides)
    prepare_launcher(launcher, tmp_path, run_cells, n_cells=len(cells))


@pytest.mark.parametrize("words", every_example("show", "list"))
def test_an_example_that_shows_something_shows_it(words, capsys):
    gptlab(*words)
    assert capsys.readouterr().out.count("\n") > 5


@pytest.mark.parametrize("words", every_example("plan"))
def test_an_example_of_planning_plans(words, monkeypatch, capsys):
    """On a smaller model: what is planned is built, not trained."""
    monkeypatch.chdir(ROOT)
    gptlab(*words, "size=tiny", "tokenizer=byte", "name=planned-by-a-test")
    assert capsys.readouterr().out.count("\n") > 3


@pytest.mark.parametrize("words", every_example("new"))
def test_an_example_of_a_new_component_writes_it_and_it_can_be_checked(words, tmp_path, monkeypatch, own_registry):
    monkeypatch.chdir(tmp_path)
    gptlab(*words)
    gptlab("check", f"use={words[-1]}")


@pytest.mark.parametrize("words", every_example("check"))
def test_an_example_of_checking_passes(words, tmp_path, monkeypatch, own_registry):
    monkeypatch.chdir(tmp_path)
    gptlab("new", "norm", "my_norms.py")
    gptlab(*words)


@pytest.mark.parametrize("words", every_example("status"))
def test_an_example_of_status_shows_a_sweep(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("def f(x): return x + 1\n" * 200)
    small = "data=text data.path=text.txt tokenizer=char size=tiny budget.steps=2 seed=0 wandb.mode=disabled"
    gptlab("sweep", *small.split(), "name=demo", "device=cpu", "hydra.launcher.n_jobs=1")
    gptlab(*words)
    assert "finished" in capsys.readouterr().out


def test_help_of_train_has_the_ten_settings_that_people_change_most(capsys):
    gptlab("train", "--help")
    out = capsys.readouterr().out
    baseline = flatten(load_config())
    lines = {line.split()[0]: line.split()[1] for line in out.split("defaults:\n")[1].splitlines() if line}
    assert list(lines) == list(COMMON_SETTINGS) and len(lines) == 10
    assert all(lines[key] == typed(baseline[key]) for key in lines if key not in CHOSEN_BY_NAME)
    small = load_config([f"size={CHOSEN_BY_NAME['size']}"]).size
    assert small == load_config().size


def test_help_tells_the_exit_codes(capsys):
    gptlab("--help")
    out = capsys.readouterr().out.split("exit codes:\n")[1]
    assert [line.split()[0] for line in out.splitlines()] == ["0", "1", "2", "128+n"]


READING = [p for p in every_example("sample", "compare", "inspect") if "--wandb" not in p.values[0]]  # needs an account


@pytest.mark.parametrize("words", READING)
def test_an_example_that_reads_a_run_reads_it(words, run, capsys):
    gptlab(*(w.replace("RUN", run.name) for w in words))
    assert capsys.readouterr().out.strip()
    for flag in {"--csv", "--png", "--markdown", "--html", "--keep"} & set(words):
        assert Path(words[words.index(flag) + 1]).stat().st_size > 0


@pytest.mark.parametrize("words", every_example("probe"))
def test_an_example_of_probing_probes(words, run, capsys):
    """With a smaller model, and on the text that is here."""
    small = "size=tiny size.n_layer=2 data=text data.path=text.txt tokenizer=char device=cpu"
    gptlab(*words, *small.split())
    assert "placement=post" in capsys.readouterr().out
    if "--png" in words:
        assert Path(words[words.index("--png") + 1]).stat().st_size > 0


def test_list_has_every_slot_option_and_setting_on_a_line_of_its_own(capsys):
    gptlab("list")
    lines = capsys.readouterr().out.splitlines()
    for slot, kind in SLOTS.items():
        for entry in registry.entries(kind):
            [line] = [x for x in lines if re.match(rf" [ *]{slot}={entry.name} ", x)]
            assert f"  {entry.summary}" in line
            assert line.endswith(entry.source)
            for knob in entry.settings:
                assert any(x.strip().startswith(f"{slot}.{knob.name}: ") for x in lines)
    settings = OmegaConf.to_container(OmegaConf.structured(Config))
    common = [
        f"{slot}.{key}" for slot, kind in SLOTS.items() for key in getattr(COMMON.get(kind), "__annotations__", ())
    ]
    for place in [
        *(f"{s}.{k}" for s, v in settings.items() if isinstance(v, dict) for k in v),
        *common,
        "seed",
        "bias",
    ]:
        [line] = [x for x in lines if x.strip().startswith(f"{place}: ")]
        assert re.search(r": \S+ = \S+ +\S", line), line  # type, default, what it is


@pytest.mark.parametrize(
    ("slot", "line"),
    [
        ("norm", "      norm.eps: float = 1e-05"),
        ("position", "      position.pairing: half|interleaved = half"),
        ("attention", "      attention.n_kv_head: int|null = null"),
        ("ffn", "  ffn.expansion: float = 4"),
        ("block", "      block.shared_norm: bool = true"),
        ("preset", "  preset=olmo2           OLMo 2 (OLMo team 2024): arXiv:2501.00656"),
        ("size", "  size=gpt2-124m|gpt2-1558m|gpt2-355m|gpt2-774m  with preset=gpt2"),
    ],
)
def test_list_of_one_slot(slot, line, capsys):
    gptlab("list", slot)
    lines = capsys.readouterr().out.splitlines()
    assert lines.count(line) == (3 if slot == "norm" else 1)
    assert all(re.match(rf"{slot}\b|[ *]+{slot}[=.]", x) for x in lines)


def test_list_shows_a_users_component(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(registry, "_entries", registry._entries.copy())
    path = tmp_path / "norm_to_list.py"
    path.write_text(
        "from gptlab import register\n@register('norm', 'mine', source='my notebook')\n"
        "class Mine:\n    '''x by a half.'''\n    def __init__(self, *, factor: float = 0.5): ...\n"
    )
    gptlab("list", "norm", f"use={path}")
    out = capsys.readouterr().out
    assert re.search(r"^  norm=mine +x by a half\.  my notebook\n      norm\.factor: float = 0\.5$", out, re.M)


def test_show_of_the_baseline(capsys):
    gptlab("show")
    assert capsys.readouterr().out.startswith("the baseline\n\ntokens -> embedding, position=learned\n\n    │\n    ├──")


def test_show_is_differences_and_drawing_and_sizes(capsys):
    gptlab("show", "size=tiny", "norm=rmsnorm", "placement=post", "bias=false", "head.tied=false")
    out = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert "setting       here     baseline\nplacement     post     pre\nnorm          rmsnorm  layernorm\n" in out
    assert "head.tied     false    true\n" in out
    assert "    rmsnorm\n\n    x 2 layers\n\n-> head (untied) -> logits\n" in out


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (
            "embedding.normed=true embedding.scale_by_width=true",
            ["tokens -> embedding x 8 -> layernorm, position=learned"],
        ),
        ("embedding.normed=true norm=none", ["tokens -> embedding, position=learned", "-> head (tied) -> logits"]),
        (
            "embedding.width=32 head.width=32 head.scale=0.0625 head.softcap=30",
            [
                "tokens -> embedding -> 32 to 64, position=learned",
                "-> layernorm -> 64 to 32 -> head (tied) x 0.0625 -> softcap 30 -> logits",
            ],
        ),
        (
            "attention.window=3 attention.pattern=LLG position=rope position.pattern=RN size.n_layer=5",
            ["    x 5 layers; attention.pattern: 4 L 1 G; position.pattern: 3 R 2 N"],
        ),
        ("qk_norm=rmsnorm attention.qk_norm_over=width", ["    x 2 layers; q, k -> rmsnorm over width"]),
        ("position=rope attention.window=3", ["    x 2 layers"]),
    ],
)
def test_show_describes_embedding_head_and_patterns_of_layers(words, lines, capsys):
    gptlab("show", "size=tiny", *words.split())
    assert set(lines) <= set(capsys.readouterr().out.splitlines())


@pytest.mark.parametrize(
    "words",
    [
        "size=tiny",
        "size=tiny embedding.normed=true embedding.width=16 head.width=16 qk_norm=dyt attention.qk_norm_over=each_head",
        "size=tiny head.tied=false position=rope bias=false",
        "size=tiny ffn=swiglu placement=double norm=dyt",
    ],
)
def test_show_counts_the_parameters_of_the_real_model(words, capsys):
    gptlab("show", *words.split())
    shown = dict(re.findall(r"^(.+?) {2,}([\d,.]+)(?: \w+)?$", capsys.readouterr().out, re.M))
    counts = {k.removeprefix("parameters, "): int(v.replace(",", "")) for k, v in shown.items() if "parameters, " in k}
    total = counts.pop("total")
    assert total == sum(p.numel() for p in build_model(load_config(words.split())).parameters())
    assert total == sum(counts.values())
    assert float(shown["bytes of weights"]) == pytest.approx(total * 4 / 1024, rel=1e-3)


def test_sample_continues_the_prompt(run, capsys):
    text = sample(run, capsys, "--prompt", "def ", "--n", "20")
    assert text.startswith("def ")
    assert len(text) == len("def ") + 20 + len("\n")


def test_sample_depends_on_the_seed(run, capsys):
    a, b, other = (sample(run, capsys, "--prompt", "x", "--seed", seed) for seed in "112")
    assert a == b != other


@pytest.mark.parametrize("words", ["--seed=3", "--temperature=0", "--top-k=3"])
def test_sample_is_the_same_without_the_cache(words, run, capsys):
    assert sample(run, capsys, words) == sample(run, capsys, words, "--no-cache")


def test_the_likeliest_token_does_not_depend_on_the_seed(run, capsys):
    greedy, top1 = (sample(run, capsys, w, "--seed=1") for w in ("--temperature=0", "--top-k=1"))
    assert greedy == top1 == sample(run, capsys, "--temperature=0", "--seed=2")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--prompt", "é"], "gptlab: --prompt: character 'é' at 0 is unknown"),
        (["--prompt", ""], "gptlab: --prompt=: give at least one character"),
    ],
)
def test_a_prompt_that_cannot_be_encoded_is_refused(words, line, run, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["sample", str(run), *words])
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith(line)


def test_sample_is_refused_before_the_first_checkpoint(run, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    with pytest.raises(SystemExit):
        main(["sample", str(tmp_path)])
    assert "has no checkpoint yet; one is written at every evaluation" in capsys.readouterr().err
