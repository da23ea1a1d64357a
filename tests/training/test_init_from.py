"""train.init_from: a run that starts from the weights of another, or of transformers; what fits, and what is told."""

import shlex
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from gptlab import build_model, load_config
from gptlab import train as train_run
from gptlab.cli.main import main
from gptlab.compare import compare
from gptlab.config import ConfigError
from gptlab.config.compose import edit
from gptlab.files import read_json, write_json
from gptlab.runs.checkpoint import BEST
from gptlab.runs.folder import digest, open_config, run_dir, slug
from gptlab.runs.record import read_status
from gptlab.sweeps.cell import check_cells
from gptlab.sweeps.grid import plan_sweep
from gptlab.training.init_from import Start
from gptlab.training.trainer import Trainer

STILL = "optimizer=sgd optimizer.lr=1e-30"  # the weights at the end are those at the start


@pytest.fixture
def train_chars(train_tiny):
    return lambda *overrides: train_tiny("tokenizer=char", *overrides)


@pytest.fixture
def source(train_chars, tmp_path):
    """A run of the usual components, and the override that starts from it."""
    return f"train.init_from={Path(train_chars('seed=7')['run_dir'])}"


def folder_of(override):
    return Path(override.partition("=")[2])


def weights(folder):
    return load_file(Path(folder) / "checkpoint" / BEST)


def same(a, b, names=None):
    """But for the steps of 1e-30, which show where a bias was 0."""
    return all(
        torch.allclose(a[name], b[name], rtol=0, atol=1e-25) for name in ({**a, **b} if names is None else names)
    )


def test_a_run_starts_from_the_weights_of_another(source, train_chars):
    start = weights(folder_of(source))
    run = train_chars(source, STILL)["run_dir"]
    assert same(start, weights(run))
    assert not same(start, weights(train_chars(STILL)["run_dir"]))
    told = read_json(Path(run) / "env.json")["init_from"]
    assert told["path"] == str(folder_of(source)) and told["taken"] == list(build_of(run).state_dict())
    assert len(told["sha256"]) == 64 and told["same_tokens"] is True and told["new"] == told["left_out"] == []


def build_of(folder):
    return build_model(open_config(Path(folder)))


def test_what_was_learnt_is_there_at_the_first_step_and_no_warning(train_chars, tmp_path, capsys):
    source = train_chars("budget.steps=80 optimizer.lr=0.01")
    assert source["val/loss"] < 0.8 * source["train/loss_initial"]
    words = (Path(source["run_dir"]) / "overrides.txt").read_text().splitlines()
    words += [f"runs_dir={tmp_path}", "wandb.mode=disabled", "train.batch_size=32", "budget.steps=1", "seed=3"]
    summary = train_run(load_config([*words, f"train.init_from={source['run_dir']}"]))
    assert summary["train/loss_initial"] == pytest.approx(source["val/loss"], rel=0.1)
    out = capsys.readouterr().out
    assert "\nwarning" not in out and f"\nstart    36 of 36 weights from {source['run_dir']}\n" in out


@pytest.mark.parametrize(
    ("changed", "new", "left_out"),
    [
        ("norm=rmsnorm", [], ["blocks.0.attention_placement.norm.bias", "norm.bias"]),
        ("qk_norm=rmsnorm", ["blocks.0.attention.q_norm.gain", "blocks.1.attention.k_norm.gain"], []),
        ("position=rope", [], ["position.table"]),
        ("ffn=swiglu", ["blocks.0.ffn.gate.weight", "blocks.0.ffn.up.weight"], ["blocks.0.ffn.up.weight"]),
        ("ffn=gelu_tanh", [], []),
        ("head.tied=false", ["head.weight"], []),
        ("bias=false", [], ["norm.bias", "blocks.1.ffn.down.bias"]),
        ("size.n_layer=1", [], ["blocks.1.ffn.up.weight"]),
        ("size.n_layer=3", ["blocks.2.ffn.up.weight"], []),
        ("block=parallel", ["blocks.0.placement.norm.gain"], ["blocks.0.ffn_placement.norm.gain"]),
    ],
)
def test_a_change_keeps_what_has_the_same_name_and_shape(changed, new, left_out, source, train_chars):
    start = weights(folder_of(source))
    run = train_chars(source, STILL, changed, "train.init_partial=true")["run_dir"]
    told = read_json(Path(run) / "env.json")["init_from"]
    assert set(new) <= set(told["new"]) and bool(new) == bool(told["new"])
    assert set(left_out) <= set(told["left_out"]) and bool(left_out) == bool(told["left_out"])
    got, scratch = weights(run), weights(train_chars(STILL, changed)["run_dir"])
    assert set(told["taken"]) | set(told["new"]) == set(got) and not set(told["taken"]) & set(told["new"])
    assert same(got, start, told["taken"]) and same(got, scratch, told["new"])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("norm=rmsnorm", "5 weights do not fit: blocks.0.attention_placement.norm.bias (not in this model), "),
        ("qk_norm=rmsnorm", "4 weights do not fit: blocks.0.attention.q_norm.gain (missing there), "),
        ("ffn.expansion=2", "6 weights do not fit: blocks.0.ffn.up.weight (64 x 16 there, 32 x 16 here), "),
        (
            "data.window=8",
            "1 weights do not fit: position.table (16 x 16 there, 8 x 16 here); train.init_partial=true",
        ),
        ("tokenizer=byte", "its vocabulary has 27 tokens, this model's 256; set model.vocab_size=27 and tokenizer="),
    ],
)
def test_what_does_not_fit_is_refused_by_name_before_anything_is_written(changed, said, source, train_chars, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError) as error:
        train_chars(source, changed)
    assert str(error.value).startswith(f"{source}: {said}") and "\n" not in str(error.value)
    assert [p for p in sorted(tmp_path.rglob("*")) if p not in before and "cache" not in p.parts] == []


def test_the_same_change_of_every_layer_is_counted_and_the_first_are_named(source, train_chars):
    with pytest.raises(ConfigError, match=r"bias \(not in this model\) and 2 more; train.init_partial=true takes"):
        train_chars(source, "norm=rmsnorm")


def test_a_model_that_shares_nothing_is_refused_even_then(source, train_chars):
    with pytest.raises(ConfigError, match="none of its weights fits this model"):
        train_chars(source, "size.dim=8 data.window=8 train.init_partial=true")


def test_other_tokens_under_the_same_number_are_refused(source, train_chars, tmp_path):
    """Another text of as many characters."""
    text = (tmp_path / "text.txt").read_text().replace("g", "G").replace("n", "N")
    (tmp_path / "other.txt").write_text(text)
    other = f"data.path={tmp_path / 'other.txt'}"
    with pytest.raises(ConfigError, match=r"other tokens for the same text; set tokenizer=huggingface .*OUT after"):
        train_chars(source, other)
    run = train_chars(source, other, "train.init_partial=true")["run_dir"]
    assert read_json(Path(run) / "env.json")["init_from"]["same_tokens"] is False


def test_weights_are_known_by_their_content(source, train_chars, tmp_path):
    run, usual = Path(train_chars(source)["run_dir"]), Path(train_chars()["run_dir"])
    moved = shutil.copytree(folder_of(source), tmp_path / "moved")
    cfg = open_config(run)
    elsewhere = edit(cfg, train__init_from=str(moved))
    assert digest(elsewhere) == digest(cfg) != digest(open_config(usual))
    assert slug(load_config([f"train.init_from={moved}"])) == "train.init_from-moved_seed-0"
    (moved / "checkpoint" / BEST).write_bytes((usual / "checkpoint" / BEST).read_bytes())
    assert digest(elsewhere) != digest(cfg)


def test_a_finished_run_is_found_again(source, train_chars, monkeypatch):
    first = train_chars(source)
    monkeypatch.setattr(Start, "apply", lambda *_: pytest.fail("started again"))
    assert train_chars(source)["run_dir"] == first["run_dir"]


def test_a_run_that_goes_on_does_not_start_again(source, train_chars, monkeypatch):
    whole = weights(train_chars(source, "eval.every=2 name=whole")["run_dir"])
    step = Trainer.training_step

    def interrupted(trainer):
        if trainer.step == 3:
            raise KeyboardInterrupt
        step(trainer)

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(Trainer, "training_step", interrupted)
        train_chars(source, "eval.every=2")
    monkeypatch.setattr(Start, "apply", lambda *_: pytest.fail("started again"))
    again = train_chars(source, "eval.every=2")["run_dir"]
    assert same(whole, weights(again)) and read_json(Path(again) / "env.json")["init_from"]["taken"]


def test_a_run_that_is_being_trained_is_waited_for(source, train_chars):
    with FileLock(folder_of(source) / ".lock"), pytest.raises(ConfigError, match="is a run in progress, whose best"):
        train_chars(source)


@pytest.mark.parametrize("at", ["nowhere", "empty", "unfinished"])
def test_a_folder_without_weights_is_refused(at, train_chars, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/config.yaml").touch()
    with pytest.raises(ConfigError) as error:
        train_chars(f"train.init_from={tmp_path / at}")
    said = {"nowhere": "no such folder", "empty": "has neither", "unfinished": "has no checkpoint yet"}[at]
    assert str(error.value).startswith(f"train.init_from={tmp_path / at}: {said}")


def test_a_sweep_checks_every_cell_and_takes_one_start_for_all(source, train_chars, tmp_path):
    words = ["data=text", f"data.path={tmp_path / 'text.txt'}", "tokenizer=char", "size.dim=16", "size.n_layer=2"]
    words += ["size.n_head=2", "data.window=16", "wandb.mode=disabled", "device=cpu", source, "budget.steps=2"]
    words += ["norm=layernorm,rmsnorm", "name=swept"]
    with pytest.raises(ConfigError, match=r"5 weights do not fit: .*\[norm=rmsnorm\]$"):
        check_cells(plan_sweep(words).cells)
    words += ["train.init_partial=true", f"runs_dir={tmp_path}"]
    cells = check_cells(plan_sweep(words).cells)
    for cell in cells:
        assert train_run(load_config(cell.spec.overrides), quiet=True)["run_dir"] == str(cell.folder)
    assert set(compare([tmp_path / "swept"])["arm"]) == {"norm=layernorm", "norm=rmsnorm"}


def test_overrides_txt_starts_from_there_again(source, train_chars):
    run = Path(train_chars(source)["run_dir"])
    again = load_config((run / "overrides.txt").read_text().splitlines())
    assert run_dir(again).name == run.name


# ---------------------------------------------------------------- from transformers


@pytest.fixture
def pythia(tmp_path):
    """A tiny GPT-NeoX with its tokenizer, as transformers saves them."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    library = Tokenizer(models.BPE({c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=library).save_pretrained(tmp_path / "pythia")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = transformers.GPTNeoXConfig(vocab_size=260, max_position_embeddings=16, rotary_pct=0.5, **sizes)
    transformers.GPTNeoXForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "pythia")
    return tmp_path / "pythia"


def gptlab(*words, code=0):
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == code


def test_take_pythia_change_one_thing_continue(pythia, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("98 green bottles, hanging on the wall.\n" * 40)
    gptlab("convert", "--from", "pythia", "--to", "runs/pythia")
    command = shlex.split(capsys.readouterr().out.partition("train on   gptlab ")[2])
    ours = ["data=text", "data.path=text.txt", "budget.steps=2", "wandb.mode=disabled", "device=cpu"]
    gptlab(*command, *ours)
    assert "start    36 of 36 weights from runs/pythia" in capsys.readouterr().out
    gptlab(*command, *ours, "norm=rmsnorm", code=2)
    assert "5 weights do not fit: blocks.0.ffn_placement.norm.bias (not in this model)" in capsys.readouterr().err
    gptlab(*command, *ours, "norm=rmsnorm", "train.init_partial=true")
    assert "5 of the folder's skipped: " in capsys.readouterr().out
    assert len(list(tmp_path.glob("runs/default/*/summary.json"))) == 2


PRESET = "preset=gpt_neox size.n_layer=2 size.n_head=2 size.dim=16 ffn.hidden=24 position.fraction=0.5 data.window=16"


def test_weights_of_transformers_are_the_same_with_and_without_converting_them(pythia, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("98 green bottles, hanging on the wall.\n" * 40)
    gptlab("convert", "--from", str(pythia), "--to", str(tmp_path / "converted"))
    words = [*PRESET.split(), "tokenizer=huggingface", f"tokenizer.path={pythia}", "model.vocab_size=260"]
    words += ["data=text", f"data.path={tmp_path / 'text.txt'}", f"runs_dir={tmp_path / 'runs'}", "budget.steps=1"]
    words += [*STILL.split(), "wandb.mode=disabled", "device=cpu"]
    got = [
        weights(train_run(load_config([*words, f"train.init_from={folder}"]), quiet=True)["run_dir"])
        for folder in (pythia, tmp_path / "converted")
    ]
    assert same(*got) and same(got[0], {k: t.float() for k, t in weights(tmp_path / "converted").items()})
    small = [w for w in words if not w.startswith(("tokenizer", "model"))]
    with pytest.raises(ConfigError) as error:
        train_run(load_config([*small, f"train.init_from={pythia}", "model.vocab_size=256"]), quiet=True)
    assert "260 tokens, this model's 256; set model.vocab_size=260 and tokenizer=huggingface" in str(error.value)
    (pythia / "config.json").write_text((pythia / "config.json").read_text().replace("gpt_neox", "t5"))
    with pytest.raises(ConfigError, match="model_type=t5: not among"):
        train_run(load_config([*words, f"train.init_from={pythia}"]), quiet=True)


def test_status_of_the_source_does_not_matter(source, train_chars):
    folder = folder_of(source)
    write_json(folder / "status.json", read_status(folder) | {"state": "running"})  # as a kill leaves it
    assert train_chars(source)["state"] == "finished"
