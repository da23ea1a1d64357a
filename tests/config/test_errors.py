"""A user's mistake gives one line, `place=value: rule; mend`, and exit code 2; nothing is written."""

import shlex
import sys

import pytest
import torch

from gptlab import build_model, load_config
from gptlab.cli.main import main

RUN = "train data=text data.path=text.txt size=tiny"
TINY = f"{RUN} budget.steps=1"
FILES = {
    "text.txt": "the cat sat on the mat. " * 100,
    "short.txt": "the cat sat on the mat. " * 10,
    "no_import.py": "import no_such_library\n",
    "no_syntax.py": "def norm(:\n",
    "json.py": "",
    "my-norm.py": "",
    "two_of_a_name.py": "from gptlab import register\n@register('norm', 'rmsnorm')\nclass Mine: ...\n",
}

# command -> how the line begins (place=value: ), and what it must say after that
REFUSED = {
    # what does not exist
    f"{TINY} nrom=rmsnorm": ("nrom=rmsnorm: ", "did you mean norm?"),
    f"{TINY} lr=1e-3": ("lr=1e-3: ", "no such setting (in gptlab: optimizer.lr=1e-3)"),
    f"{TINY} colour=red": ("colour=red: ", "`gptlab list`"),
    f"{TINY} norm=rmsnrom": (
        "norm=rmsnrom: ",
        "did you mean rmsnorm?); choose from batchnorm, dyt, layernorm",
    ),
    f"{TINY} norm=": ("norm=: ", "choose from batchnorm, dyt, layernorm"),
    f"{TINY} norm=null": ("norm=null: ", "(in gptlab: norm=none)"),
    f"{TINY} norm.epz=1": ("norm.epz=1: ", "did you mean norm.eps?); it has eps, learnable"),
    f"{TINY} norm.alpha=1": ("norm.alpha=1: norm=layernorm has no setting", "it is one of norm=dyt"),
    f"{TINY} position.theta=8": ("position.theta=8: position=learned has no setting", "it is one of position=rope"),
    f"{TINY} position=none position.max_len=8": ("position.max_len=8: position=none has no setting", "it has none"),
    f"{TINY} train.stepz=5": ("train.stepz=5: ", "did you mean budget.steps?"),
    f"{TINY} +train.stepz=5": ("+train.stepz=5: train has no setting", "did you mean budget.steps?"),
    f"{TINY} +norm.epz=1": ("+norm.epz=1: norm=layernorm has no setting", "did you mean norm.eps?"),
    f"{TINY} ++train.batch_size=5": ("++train.batch_size=5: ", "write train.batch_size=5"),
    f"{TINY} +norm=rmsnorm": ("+norm=rmsnorm: ", "write norm=rmsnorm"),
    f"{TINY} ~norm": ("~norm: ", "switch a component off with none"),
    f"{TINY} train.dropout.rate=0.1": ("train.dropout.rate=0.1: ", "write train.dropout=VALUE"),
    f"{TINY} norm.name=rmsnorm": ("norm.name=rmsnorm: ", "write norm=rmsnorm"),
    f"{TINY} preset=gtp2": ("preset=gtp2: ", "did you mean gpt2?); choose from "),
    f"{TINY} size=64": ("size=64: ", "choose from "),
    # what cannot be read
    f"{TINY} norm": ("norm: ", "write key=value"),
    f"{TINY} my_norm.py": ("my_norm.py: ", "write use=my_norm.py"),
    f"{TINY} =rmsnorm": ("=rmsnorm: ", "write key=value"),
    f"{TINY} norm@placement=rmsnorm": ("norm@placement=rmsnorm: ", "write key=value"),
    f"{TINY} 'data.path=a(1).txt'": ("data.path=a(1).txt: not readable", "\"data.path='a(1).txt'\""),
    f"{TINY} use=[a.py": ("use=[a.py: not readable", "quote the value twice"),
    f"{TINY} 'data.path=${{HOME}}'": ("data.path=${HOME}: ", "write the value itself"),
    # types
    f"{TINY} train.batch_size=abc": ("train.batch_size=abc: ", "must be an int"),
    f"{TINY} train.batch_size=1.5": ("train.batch_size=1.5: ", "must be an int"),
    f"{TINY} train.batch_size=true": ("train.batch_size=true: ", "must be an int"),
    f"{TINY} train.batch_size=[12]": ("train.batch_size=[12]: ", "must be an int"),
    f"{TINY} train.batch_size=null": ("train.batch_size=null: ", "must be an int"),
    f"{TINY} ffn.hidden=wide": ("ffn.hidden=wide: ", "must be an int or null"),
    f"{TINY} norm.eps=small": ("norm.eps=small: ", "must be a number"),
    f"{TINY} bias=maybe": ("bias=maybe: ", "must be true or false"),
    f"{TINY} runs_dir=null": ("runs_dir=null: ", "must be text"),
    f"{TINY} use=3": ("use=3: no such file", "relative to the current folder"),
    f"{TINY} use=[3]": ("use=[3]: ", "such as use=[a.py,b.py]"),
    f"{TINY} norm=[rmsnorm,dyt]": ("norm=[rmsnorm,dyt]: ", "choose from"),
    f"{TINY} norm=rmsnorm,dyt": ("norm=rmsnorm,dyt: ", "`gptlab sweep`"),
    f"{TINY} seed=0,1": ("seed=0,1: ", "`gptlab sweep`"),
    f"{TINY} train=12": ("train=12: ", "set one of train.batch_size"),
    # ranges and choices
    f"{TINY} train.batch_size=0": ("train.batch_size=0: ", "must be at least 1"),
    f"{TINY} train.dropout=1": ("train.dropout=1.0: ", "must be below 1"),
    f"{TINY} data.val_fraction=0": ("data.val_fraction=0.0: ", "must be above 0"),
    f"{TINY} optimizer.lr=nan": ("optimizer.lr=nan: ", "must be finite"),
    f"{TINY} optimizer.lr=inf": ("optimizer.lr=inf: ", "must be finite"),
    f"{TINY} optimizer.lr=-1": ("optimizer.lr=-1.0: ", "must be above 0"),
    f"{TINY} norm.eps=-1": ("norm.eps=-1.0: ", "must not be negative"),
    f"{TINY} schedule.min_lr=1": ("schedule.min_lr=1: ", "must not exceed optimizer.lr=0.007"),
    f"{TINY} precision=fp16": ("precision=fp16: ", "choose from auto, float32, bf16, bf16_weights"),
    f"{TINY} position=rope position.pairing=thirds": ("position.pairing=thirds: ", "choose from half, interleaved"),
    f"{TINY} device=tpu": ("device=tpu: ", "choose from auto, cpu, cuda"),
    f"{TINY} device=meta": ("device=meta: ", "choose from auto, cpu, cuda"),
    f"{TINY} name=../elsewhere": ("name=../elsewhere: ", "the name of a folder"),
    # what does not fit together
    f"{TINY} size.n_head=3": ("size.n_head=3: ", "must divide size.dim=64"),
    f"{TINY} attention.n_kv_head=3": ("attention.n_kv_head=3: ", "must divide size.n_head=2"),
    f"{TINY} position=rope size.dim=6": ("position=rope: ", "even"),
    f"{TINY} position=rope attention.head_dim=5": ("position=rope: ", "even"),
    f"{TINY} attention.pattern=LG": ("attention.pattern=LG: ", "attention.window"),
    f"{TINY} bias=false head.bias=true": ("head.bias=true: bias=false", "change one of them"),
    f"{TINY} train.micro_batch_size=5": ("train.micro_batch_size=5: ", "must divide train.batch_size=12"),
    f"{TINY} model.vocab_size=10": ("model.vocab_size=10: ", "tokenizer=byte has 256 tokens"),
    f"{TINY} data.window=5000": ("data.window=5000: ", "set a smaller window"),
    f"{TINY} data.path=short.txt": ("data.window=64: the val split has ", "give a longer text"),
    f"{TINY} wandb.mode=online": ("wandb.mode=online: ", "`wandb login`"),
    # budgets
    f"{RUN} budget.steps=1 budget.tokens=100": ("budget.steps=1 budget.tokens=100: ", "leave out all but one"),
    f"{RUN} budget.steps=null": ("budget=null: ", "give one of budget.steps, budget.tokens"),
    f"{RUN} budget.seconds=1 schedule.warmup=5": ("schedule.warmup=5: ", "a fraction below 1"),
    # files
    f"{TINY} data.path=nowhere.txt": ("data.path=nowhere.txt: no such file", "give one that exists"),
    "train data=text": ("data.path=null: ", "give a file, a folder or a glob"),
    f"{TINY} runs_dir=text.txt": ("runs_dir=text.txt: cannot be written", "give another"),
    f"{TINY} use=nowhere.py": ("use=nowhere.py: no such file", "relative to the current folder"),
    f"{TINY} use=[nowhere.py]": ("use=nowhere.py: no such file", "relative to the current folder"),
    f"{TINY} use=no_import.py": ("use=no_import.py: cannot be imported", "No module named 'no_such_library'"),
    f"{TINY} use=no_syntax.py": ("use=no_syntax.py: cannot be imported", "line 1"),
    f"{TINY} use=json.py": ("use=json.py: another 'json' is imported", "rename it"),
    f"{TINY} use=my-norm.py": ("use=my-norm.py: ", "letters, digits and _"),
    f"{TINY} use=two_of_a_name.py": ("norm=rmsnorm: defined twice", "two_of_a_name.py:2; rename one"),
    # the other verbs
    "trian": ("trian: no such verb", "did you mean train?"),
    "norm=rmsnorm": ("norm=rmsnorm: no such verb", "choose from train, plan, sweep"),
    "train --steps 5": ("train: unrecognized arguments: --steps", "see `gptlab train --help`"),
    "sample": ("sample: the following arguments are required: RUN", "see `gptlab sample --help`"),
    "sample nowhere": ("nowhere: not a run's folder", "config.yaml"),
    "sample nowhere --n 0": ("--n=0: ", "must be at least 1"),
    "sample nowhere --temperature=-1": ("--temperature=-1.0: ", "must be at least 0"),
    "sample nowhere --top-k=0": ("--top-k=0: ", "must be at least 1"),
    "compare nowhere": ("compare nowhere: no runs here", "name a run's folder"),
    "show norm=layrnorm": ("norm=layrnorm: ", "did you mean layernorm?"),
    "show tokenizer=char": ("model.vocab_size=null: ", "add model.vocab_size=65"),
    "list nrom": ("nrom: no such slot", "did you mean norm?"),
    "list norm use=nowhere.py": ("use=nowhere.py: no such file", "relative to the current folder"),
    "list norm size=tiny": ("size=tiny: ", "give slots"),
    "sweep nowhere.yaml": ("nowhere.yaml: ", "no such experiment file"),
    f"{TINY.replace('train', 'sweep', 1)} norm=layernorm,rmsnrom": ("norm=rmsnrom: ", "did you mean rmsnorm?"),
    f"{TINY} -m norm=layernorm,rmsnrom": ("norm=rmsnrom: ", "did you mean rmsnorm?"),
    "completion tcsh": ("completion: argument shell: invalid choice: 'tcsh'", "see `gptlab completion --help`"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("errors")
    for name, content in FILES.items():
        (folder / name).write_text(content)
    return folder


@pytest.fixture(autouse=True)
def in_folder(folder, monkeypatch):
    """In a folder with FILES, on a machine without a key for W&B."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": folder, "NETRC": folder / "none", "GPTLAB_CACHE": folder / "cache"}.items():
        monkeypatch.setenv(name, str(value))


def refusal(command, capsys):
    with pytest.raises(SystemExit) as exit:
        main(shlex.split(command))
    out, err = capsys.readouterr()
    assert exit.value.code == 2, err
    assert out == ""
    return err


@pytest.mark.parametrize("command", REFUSED)
def test_it_is_one_line_and_nothing_is_written(command, folder, capsys):
    place, mend = REFUSED[command]
    before = {p: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    err = refusal(command, capsys)
    assert err.startswith(f"gptlab: {place}")
    assert mend in err
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert {p: p.read_bytes() for p in folder.iterdir() if p.name not in ("cache", "__pycache__")} == before


def test_a_sweep_tells_all_that_is_wrong_with_its_cells_before_it_writes(folder, capsys):
    err = refusal(f"{TINY} -m norm=layernorm,rmsnrom seed=0,-1", capsys)
    assert [line.split("   ")[0].split(":")[1].strip() for line in err.splitlines()] == [
        "norm=rmsnrom",
        "seed=-1",
    ]
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("words", ["budget.tokens=5e3", "preset=nanogpt-cpu budget.tokens=5e3"])
def test_a_budget_given_replaces_that_of_a_preset_or_the_baseline(words):
    budget = load_config(words.split()).budget
    assert {k: v for k, v in budget.items() if v is not None} == {"tokens": 5000}


def test_a_whole_number_may_be_written_as_a_float():
    cfg = load_config(["train.batch_size=1e1", "attention.window=2e1"])
    assert (cfg.train.batch_size, cfg.attention.window) == (10, 20)
    assert type(cfg.train.batch_size) is type(cfg.attention.window) is int


def test_more_tokens_than_the_window_are_refused_by_learned_positions():
    """Their table is as long as the window, so no setting makes it shorter."""
    model = build_model(load_config(["size=tiny", "data.window=8"]))
    assert model.position.table.shape[0] == 8
    with pytest.raises(ValueError, match=r"^9 tokens: the model was built for at most 8$"):
        model(torch.zeros(1, 9, dtype=torch.long))
