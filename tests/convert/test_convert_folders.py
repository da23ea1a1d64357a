"""`gptlab convert`: folders of transformers become folders of runs and back, without losses or partial results."""

import json
import shlex
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gptlab import build_model, load_config
from gptlab.cli.main import main
from gptlab.compare.read.runs import load_runs
from gptlab.config import ConfigError, flatten, plain, to_yaml
from gptlab.convert.canonical import resolved
from gptlab.convert.folders import ORIGIN, convert
from gptlab.files import FileError, read_json, write_json
from gptlab.model.generate import generate
from gptlab.runs import checkpoint
from gptlab.runs.folder import open_config
from gptlab.runs.load import open_model, open_run
from tiny import configure

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 24,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 24}
MODELS = {
    "gpt_neox": (SIZES | {"rotary_pct": 0.5, "eos_token_id": 0, "bos_token_id": 0}, torch.float16),
    "gpt2": (GPT2 | {"eos_token_id": 3, "bos_token_id": None}, torch.float32),
    "llama": (SIZES | {"num_key_value_heads": 2, "eos_token_id": [1, 2]}, torch.bfloat16),
    "opt": (SIZES | {"ffn_dim": 24, "word_embed_proj_dim": 8, "do_layer_norm_before": False}, torch.float64),
}
END = "<|endoftext|>"
TEXT = "take one down, pass it around: 98 green bottles\n"


def their_model(model_type):
    flags, dtype = MODELS[model_type]
    config = transformers.AutoConfig.for_model(model_type, vocab_size=259, **flags)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.3 * torch.randn(p.shape))
    return model


def their_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Tokenizer(models.BPE({END: 0} | {c: i for i, c in enumerate(alphabet, start=1)}, []))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=library, eos_token=END)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that makes a folder of transformers with a tiny model and its tokenizer, once."""

    def make(model_type):
        folder = tmp_path_factory.getbasetemp() / "saved" / model_type
        if not folder.exists():
            their_model(model_type).save_pretrained(folder)
            their_tokenizer().save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def neox(saved, tmp_path):
    """Return a copy of the gpt_neox folder that a test may spoil."""
    return shutil.copytree(saved("gpt_neox"), tmp_path / "neox")


def read(folder, dtype=None):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=dtype).eval()


def refusal(source, target, **more):
    """Return the one line of a conversion's error, which leaves no file behind."""
    before = sorted(target.parent.iterdir())
    with pytest.raises((ConfigError, FileError)) as error:
        convert(source, target, **more)
    assert sorted(target.parent.iterdir()) == before
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("model_type", MODELS)
def test_a_round_trip_gives_the_same_model_bit_by_bit(model_type, saved, tmp_path):
    source, run, back = saved(model_type), tmp_path / "run", tmp_path / "back"
    convert(source, run)
    ids = torch.arange(20)[None] * 7
    with torch.no_grad():
        ours, theirs = open_model(run)(ids), read(source, torch.float32)(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    convert(run, back)
    a, b = read(source), read(back)
    assert type(a) is type(b) and a.config.to_dict() | {"_name_or_path": ""} == b.config.to_dict() | {
        "_name_or_path": ""
    }
    assert a.dtype == b.dtype == MODELS[model_type][1]
    assert a.generation_config.to_dict() == b.generation_config.to_dict()
    for (name, p), (name_2, p_2) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert name == name_2 and torch.equal(p, p_2), name
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (source / name).read_bytes() == (back / name).read_bytes()


def test_a_converted_folder_opens_like_a_run(saved, tmp_path):
    run = tmp_path / "runs/neox"
    convert(saved("gpt_neox"), run)
    model, tokenizer = open_run(run)
    assert tokenizer.encode(TEXT).tolist() == their_tokenizer()(TEXT)["input_ids"]
    assert tokenizer.decode(generate(model, tokenizer.encode("98").tolist(), 5)).startswith("98")
    cfg = open_config(run)
    overrides = (run / "overrides.txt").read_text().splitlines()
    again = load_config(overrides)
    assert flatten(plain(again)) == flatten(plain(cfg)) and cfg.tokenizer.path == str(run / ORIGIN)
    assert again.model.vocab_size == 259 and again.data.window == 24
    env = read_json(run / "env.json")
    assert env["converted_from"] == str(saved("gpt_neox")) and len(env["weights_sha256"]) == 64
    assert load_file(run / "checkpoint" / checkpoint.BEST)["embedding.weight"].dtype == torch.float16


def test_compare_ignores_a_converted_folder(saved, tmp_path, train_tiny):
    convert(saved("gpt2"), tmp_path / "runs/default/gpt2")
    trained = train_tiny()
    assert [str(run.folder) for run in load_runs([tmp_path / "runs"])] == [trained["run_dir"]]
    with pytest.raises(ConfigError, match="no runs here"):
        load_runs([tmp_path / "runs/default/gpt2"])


def test_shards_are_read_like_one_file(neox, tmp_path):
    convert(neox, tmp_path / "whole")
    (neox / "model.safetensors").unlink()
    read_back = their_model("gpt_neox")
    read_back.save_pretrained(neox, max_shard_size="10KB")
    assert len(list(neox.glob("model-*.safetensors"))) > 1
    convert(neox, tmp_path / "shards")
    a, b = (load_file(tmp_path / run / "checkpoint" / checkpoint.BEST) for run in ("whole", "shards"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_a_folder_without_a_tokenizer_is_converted(neox, tmp_path, capsys):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (neox / name).unlink()
    convert(neox, tmp_path / "run")
    assert "tokenizer  none: no tokenizer.json in" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="has no tokenizer.json, so it reads no text"):
        open_run(tmp_path / "run")
    convert(tmp_path / "run", tmp_path / "back")
    assert "tokenizer  none" in capsys.readouterr().out
    assert read(tmp_path / "back").dtype == torch.float16


def test_convert_prints_what_it_did_and_how_to_train_on(saved, tmp_path, capsys):
    convert(saved("gpt_neox"), tmp_path / "run")
    out = capsys.readouterr().out
    n = sum(p.numel() for p in their_model("gpt_neox").parameters())
    assert f"model      float16, {n:,} parameters" in out and "huggingface, 257 tokens; the model has 259" in out
    assert "differs    block=parallel block.shared_norm=false position=rope position.fraction=0.5" in out
    command = shlex.split(out.partition("train on   gptlab train ")[2])
    assert command[:-1] == (tmp_path / "run/overrides.txt").read_text().splitlines()
    assert load_config(command).train.init_from == str(tmp_path / "run")


TRAINED = {
    "byte": "tokenizer=byte position=rope norm=rmsnorm ffn=swiglu bias=false head.tied=false",
    "char": "tokenizer=char",
    "bpe": "tokenizer=bpe tokenizer.vocab_size=270 position=rope block=parallel",
}


@pytest.mark.parametrize("tokenizer", TRAINED)
def test_a_trained_run_works_in_transformers_without_gptlab(tokenizer, train_tiny, tmp_path, capsys):
    run = train_tiny(TRAINED[tokenizer])["run_dir"]
    convert(tmp_path / run, tmp_path / "theirs")
    model, ours = open_run(tmp_path / run)
    theirs, reader = read(tmp_path / "theirs"), transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    text = "17 green bottles"
    ids = reader(text, return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == ours.encode(text).tolist() and reader.decode(ids[0]) == text
    ids = ids[:, :10]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, model(ids), atol=1e-5, rtol=1e-5)
    assert theirs.config.eos_token_id is theirs.generation_config.eos_token_id is reader.eos_token is None
    prefix = reader("\n")["input_ids"][0]
    assert f"pretrained={tmp_path / 'theirs'},prefix_token_id={prefix} --tasks" in capsys.readouterr().out
    generated = theirs.generate(ids, max_new_tokens=6, do_sample=False)[0]
    assert generated.tolist() == generate(model, ids[0].tolist(), 6, temperature=0)


def test_a_run_with_the_tokenizer_of_a_folder_keeps_its_end_token(saved, train_tiny, tmp_path, capsys):
    trained = train_tiny(f"tokenizer=huggingface tokenizer.path={saved('gpt_neox')}")["run_dir"]
    convert(tmp_path / trained, tmp_path / "theirs")
    theirs = read(tmp_path / "theirs")
    assert f"pretrained={tmp_path / 'theirs'} --tasks" in capsys.readouterr().out
    assert theirs.config.eos_token_id == theirs.generation_config.eos_token_id == 0
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs").eos_token == END


def test_a_composition_can_become_one_of_several_classes(train_tiny, tmp_path):
    run = tmp_path / train_tiny("position=rope head.tied=false")["run_dir"]
    convert(run, tmp_path / "first")
    convert(run, tmp_path / "chosen", model_type="starcoder2")
    a, b = read(tmp_path / "first"), read(tmp_path / "chosen")
    assert type(a) is not type(b) and type(b).__name__ == "Starcoder2ForCausalLM"
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(a(ids).logits, b(ids).logits, atol=1e-5, rtol=1e-5)
    assert "llama" in refusal(run, tmp_path / "no", model_type="llama")
    assert refusal(run, tmp_path / "no", model_type="t5").startswith("model_type=t5: not among gpt2, ")


def test_a_composition_without_a_class_is_refused_by_component(train_tiny, tmp_path):
    run = tmp_path / train_tiny("norm=dyt")["run_dir"]
    line = refusal(run, tmp_path / "no")
    assert "norm=dyt" in line and "no class of transformers has this" in line


def edit_json(file, **values):
    write_json(file, json.loads(file.read_text()) | values)


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


SPOILT = {
    "no config": (lambda f: (f / "config.json").unlink(), "has neither config.yaml nor config.json; give a run's"),
    "both": (lambda f: (f / "config.yaml").touch(), "has both config.yaml and config.json; give a run's folder or"),
    "torn": (lambda f: (f / "config.json").write_text("{"), "transformers cannot read it (JSONDecodeError"),
    "class": (lambda f: edit_json(f / "config.json", model_type="t5"), "model_type=t5: not among gpt2, "),
    "no class": (lambda f: edit_json(f / "config.json", model_type="hal"), "hal"),
    "code": (
        lambda f: edit_json(f / "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"}),
        "transformers cannot read it (ValueError: ",
    ),
    "flag": (lambda f: edit_json(f / "config.json", hidden_act="mish"), "hidden_act=mish: not among gelu"),
    "quantised": (lambda f: edit_json(f / "config.json", quantization_config={"bits": 4}), "weights are quantised"),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "has no model.safetensors; save_pretrained of transformers writes it",
    ),
    "missing": (
        lambda f: edit_weights(f, lambda w: w.pop("gpt_neox.final_layer_norm.bias")),
        "missing keys for GPTNeoXForCausalLM: gpt_neox.final_layer_norm.bias;",
    ),
    "unexpected": (
        lambda f: edit_weights(f, lambda w: w.update(a=torch.ones(1), b=torch.ones(1))),
        "unexpected keys for GPTNeoXForCausalLM: a and 1 more;",
    ),
    "shape": (lambda f: edit_json(f / "config.json", vocab_size=300), "transformers cannot read it"),
    "torn weights": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 20), "is not a whole safetensors file"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "is not a file of the tokenizers library"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_an_error_in_a_folder_is_one_line(how, neox, tmp_path):
    spoil, message = SPOILT[how]
    spoil(neox)
    line = refusal(neox, tmp_path / "run")
    assert message in line and str(neox) in line


def test_an_existing_folder_is_not_overwritten(neox, tmp_path):
    (tmp_path / "full/of").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name in ("full", "file"):
        assert refusal(neox, tmp_path / name).startswith(f"--to={tmp_path / name}: exists already")
    with pytest.raises(ConfigError, match="cannot be written"):
        convert(neox, tmp_path / "file/below")
    convert(neox, tmp_path / "empty")
    convert(neox, tmp_path / "far/below")
    assert open_config(tmp_path / "empty").size.dim == open_config(tmp_path / "far/below").size.dim == 16


def test_an_error_halfway_leaves_nothing(neox, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_weights", full)
    assert "cannot be written ([Errno 28] No space left" in refusal(neox, tmp_path / "run")


def test_without_transformers_the_error_says_what_to_install(neox, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert refusal(neox, tmp_path / "run") == "convert: needs transformers; pip install 'gptlab[hf]'"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--from nowhere --to x", "gptlab: --from=nowhere: no such folder; nothing is downloaded: give one on this"),
        ("--from neox --to neox", "gptlab: --to=neox: exists already; give another folder, or delete it"),
        (
            "--from neox --to x --model-type gpt2",
            "gptlab: --model-type=gpt2: names the class to export to, but neox is",
        ),
        ("--from neox", "gptlab: convert: the following arguments are required: --to; see `gptlab convert --help`"),
        ("--from run --to x", "gptlab: run: has no checkpoint yet; one is written at every evaluation"),
    ],
)
def test_a_mistake_on_the_command_line_exits_2(words, line, neox, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(to_yaml(load_config(["size=tiny"])))
    with pytest.raises(SystemExit) as exit:
        main(["convert", *words.split()])
    assert exit.value.code == 2
    assert capsys.readouterr().err.startswith(line)
    assert not (tmp_path / "x").exists()


def test_the_command_converts(neox, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words in ("--from neox --to run", "--from run --to back"):
        with pytest.raises(SystemExit) as exit:
            main(["convert", *words.split()])
        assert exit.value.code == 0
    out = capsys.readouterr().out
    assert "from       neox\nto         run\n" in out and 'AutoModelForCausalLM.from_pretrained("back")' in out


def test_the_best_weights_are_converted(train_tiny, tmp_path):
    run = tmp_path / train_tiny()["run_dir"]
    best = run / "checkpoint" / checkpoint.BEST
    model = build_model(configure(load_config(), "size.dim=16 size.n_layer=2 size.n_head=2 data.window=16"))
    weights = load_file(best)
    marked = {k: t + 1 for k, t in weights.items()}
    assert set(marked) == set(model.state_dict())
    save_file(marked, best)
    convert(run, tmp_path / "theirs")
    embedding = read(tmp_path / "theirs").get_input_embeddings().weight
    np.testing.assert_array_equal(embedding.detach().numpy(), marked["embedding.weight"].numpy())
    assert resolved(open_config(run))["norm"] == "layernorm"
