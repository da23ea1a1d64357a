"""The words that a TAB offers, without importing anything that takes seconds."""

import shutil
import subprocess
import sys

import pytest

from gptlab import load_config
from gptlab.cli import completion
from gptlab.cli.completion import complete, known_names
from gptlab.cli.main import VERBS, main
from gptlab.config import flatten, plain


@pytest.fixture(scope="module")
def names():
    return completion._collect()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in ("experiments/demo/demo.yaml", "experiments/notes.txt", "norms.py", "text.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("gptlab ", " ".join(VERBS)),
        ("gptlab s", "sweep status show sample"),
        ("gptlab p", "plan probe"),
        ("gptlab train no", "norm. norm="),
        ("gptlab train see", "seed="),
        ("gptlab train pre", "precision= preset="),
        ("gptlab train norm=", "norm=batchnorm norm=dyt norm=layernorm norm=none norm=rmsnorm"),
        ("gptlab train  bias=false norm=r", "norm=rmsnorm"),
        ("gptlab train qk_norm=r", "qk_norm=rmsnorm"),
        ("gptlab sweep norm=dyt,r", "norm=dyt,rmsnorm"),
        ("gptlab train preset=lla", "preset=llama"),
        ("gptlab show size=t", "size=tiny"),
        ("gptlab train bias=", "bias=true bias=false"),
        ("gptlab train compile=", "compile=true compile=false"),
        ("gptlab train wandb.mode=o", "wandb.mode=online wandb.mode=offline"),
        ("gptlab train data.sam", "data.sampling="),
        (
            "gptlab train norm.",
            "norm.allow_leak= norm.alpha= norm.bias= norm.eps= norm.learnable= norm.momentum= norm.zero_centered=",
        ),
        ("gptlab train norm=dyt norm.", "norm.alpha= norm.bias="),
        ("gptlab train position=rope position.pairing=", "position.pairing=half position.pairing=interleaved"),
        (
            "gptlab train eval.",
            "eval.batch_size= eval.every= eval.final_tokens= eval.lengths= eval.sample_tokens= eval.tokens=",
        ),
        ("gptlab train seed=", ""),
        ("gptlab train nothing.", ""),
        ("gptlab sweep e", "embedding. embedding= eval. experiments/"),
        ("gptlab sweep experiments/demo/", "experiments/demo/demo.yaml"),
        ("gptlab train experiments/demo/", ""),
        ("gptlab train use=", "use=experiments/ use=norms.py"),
        ("gptlab train data.path=t", "data.path=text.txt"),
        ("gptlab train train.init", "train.init_from= train.init_partial="),
        ("gptlab train train.init_from=", "train.init_from=experiments/"),
        ("gptlab convert --from e", "experiments/"),
        ("gptlab list po", "position"),
        ("gptlab plan e", "embedding. embedding= eval. experiments/"),
        (
            "gptlab plan --",
            "--flops-per-s --fraction --help --json --knock-out --ladder --multiplier --no-timing --noise --seeds"
            " --tune",
        ),
        ("gptlab compare runs --m", "--margin --markdown --metric"),
        ("gptlab nonsense --", ""),
        ("gptlab new no", "norm"),
        ("gptlab new norm e", "experiments/"),
        ("gptlab check use=", "use=experiments/ use=norms.py"),
        ("gptlab status ", "experiments/"),
        ("gptlab compare ", "experiments/"),
        ("gptlab sample experiments/", "experiments/demo/"),
    ],
)
def test_what_is_offered(line, words, names):
    assert complete(line, names, VERBS) == words.split()


def test_every_setting_is_offered(names):
    for key in flatten(plain(load_config())):
        assert f"{key}=" in complete(f"gptlab train {key}", names, VERBS)


def test_names_are_collected_once_and_again_after_a_change(folder, names, monkeypatch):
    conf = folder / "conf"
    shutil.copytree(completion.CONF, conf)
    monkeypatch.setattr(completion, "CONF", conf)
    collected = []
    monkeypatch.setattr(completion, "_collect", lambda: collected.append(1) or names)
    assert known_names() == known_names() == names
    assert len(collected) == 1
    (conf / "preset" / "mine.yaml").touch()
    known_names()
    assert len(collected) == 2
    (folder / "cache" / "completion.json").write_text("{")
    assert known_names() == names
    assert len(collected) == 3


def test_bash_completes_without_torch_or_hydra(folder):
    """In bash itself, with its habit of ending words at `=`."""
    known_names()
    script = f"""
        gptlab() {{ {sys.executable} -X importtime -m gptlab "$@" 2>>imports; }}
        eval "$(gptlab completion bash)"
        complete -p gptlab
        for line in "gptlab train placement=po" "gptlab train norm=dyt,r" "gptlab tr"; do
            COMP_LINE="$line" COMP_POINT=${{#line}}
            _gptlab
            echo "${{COMPREPLY[@]}}"
        done"""
    bash = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert bash.stdout.splitlines() == ["complete -F _gptlab gptlab", "post", "dyt,rmsnorm", "train"]
    imports = (folder / "imports").read_text()
    assert "gptlab.cli.completion" in imports
    assert not {"torch", "hydra", "numpy"} & {line.split("|")[-1].strip() for line in imports.splitlines()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_that_is_here_reads_its_script(shell, capsys):
    with pytest.raises(SystemExit):
        main(["completion", shell])
    script = capsys.readouterr().out
    assert f"gptlab completion {shell}" in script
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    subprocess.run([shell, "-n", "-c", script], check=True)
