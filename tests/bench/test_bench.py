"""The benchmark: what it makes of its times, how it steps peers, and its one-line errors."""

import contextlib
import importlib.util
import io
import json
import re
import shlex
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gptlab import load_config
from gptlab.bench import host, peers, steps, sweeps, timing
from gptlab.bench.display import markdown, print_figures
from gptlab.bench.host import run_process
from gptlab.bench.matmul_peak import DATASHEET, Gemm, datasheet_flops
from gptlab.bench.subject import prepare
from gptlab.cli.main import VERBS, main
from gptlab.config import ConfigError
from gptlab.training import step_timing
from gptlab.training.step_timing import step_of
from gptlab.training.trainer import Trainer
from paths import ROOT

TINY = "data=text data.path=text.txt size.dim=16 size.n_layer=2 size.n_head=2 data.window=16 train.batch_size=4"
CPU = torch.device("cpu")

# The part of nanoGPT's model.py that the benchmark calls.
MODEL = """
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F

@dataclass
class GPTConfig:
    block_size: int; vocab_size: int; n_layer: int; n_head: int; n_embd: int; dropout: float; bias: bool

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        print("a line that has no place in a table")
        self.config, self.calls = config, []
        self.table = nn.Embedding(config.vocab_size, config.n_embd)
    def forward(self, idx, targets=None):
        self.calls.append((idx, targets, torch.is_autocast_enabled("cpu")))
        logits = self.table(idx) @ self.table.weight.T
        return logits, F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    def configure_optimizers(self, weight_decay, learning_rate, betas, device_type):
        assert device_type == "cpu"
        return torch.optim.SGD(self.parameters(), lr=learning_rate)
"""
# Writes its flags, and the files it found, into the checkout.
TRAIN = """
import json, pathlib, pickle, sys
exec(open("configurator.py").read())
flags = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
data = pathlib.Path("data", flags["dataset"])
sizes = {p.name: p.stat().st_size for p in data.iterdir()}
out = pathlib.Path(flags["out_dir"])
out.mkdir(parents=True)
with open(data / "meta.pkl", "rb") as f:
    meta = pickle.load(f)
(pathlib.Path(CHECKOUT) / f"flags-{out.name}.json").write_text(json.dumps([flags, sizes, meta]))
"""


def furnish(folder, monkeypatch):
    """Make a folder with a text and a checkout the current one."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GPTLAB_CACHE", str(folder / "cache"))
    (folder / "text.txt").write_text("".join(f"{n} green bottles, hanging on the wall.\n" for n in range(99)))
    checkout = folder / "checkout"
    checkout.mkdir()
    (checkout / "model.py").write_text(MODEL)
    (checkout / "train.py").write_text(TRAIN)
    (checkout / "configurator.py").write_text(f"CHECKOUT = {str(checkout)!r}\n")
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    return furnish(tmp_path, monkeypatch)


def gptlab(words):
    with pytest.raises(SystemExit) as exit:
        main(shlex.split(words))
    return exit.value.code


def opened(word, *overrides, precision=None):
    """Return a peer on the CPU at the sizes of `overrides`."""
    (peer,) = peers.find_peers([word])
    peer.open(prepare([*TINY.split(), "device=cpu", *overrides]), precision)
    return peer


# figures made of times


def test_a_ratio_is_of_two_blocks_timed_next_to_each_other():
    # The machine halves its speed after the first block: ratios of medians over all would say something else.
    own, theirs = [1.0, 2.0, 2.0], [1.5, 3.0, 4.0]
    assert timing.ratios(theirs, own) == [1.5, 1.5, 2.0]
    assert timing.spread(timing.ratios(theirs, own)) == {"median": 1.5, "low": 1.5, "high": 2.0}
    assert timing.rates(6, own) == [6.0, 3.0, 3.0]
    with pytest.raises(ValueError):
        timing.ratios(own, theirs[:2])


def test_blocks_take_turns_and_every_other_round_goes_backwards():
    done = []
    a, b = (timing.Timed(name, lambda name=name: done.append(name), steps=2) for name in "ab")
    timing.interleave([a, b], 3, CPU)
    assert "".join(done) == "aabbbbaaaabb"
    assert len(a.seconds) == len(b.seconds) == 3


def test_times_are_seconds_per_step(monkeypatch):
    clock = iter([0.0, 3.0, 3.0, 5.0])
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: next(clock))
    a = timing.Timed("a", lambda: None, steps=4)
    timing.interleave([a], 2, CPU)
    assert a.seconds == [0.75, 0.5]


def test_a_block_has_as_many_steps_as_fit_in_its_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(step_timing.time, "perf_counter", lambda: now[0])

    def step(seconds):
        now[0] += seconds

    assert timing.steps_per_block(lambda: step(0.03), CPU, seconds=1.5) == 50
    assert timing.steps_per_block(lambda: step(40.0), CPU, seconds=1.5) == 1


# matrix products


def test_a_product_costs_two_flops_for_every_multiplication():
    assert Gemm(3, 5, 7).flops == 2 * 3 * 5 * 7


@pytest.mark.parametrize(
    ("gpu", "teraflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10G", 70),
        ("NVIDIA GeForce RTX 3090 Ti", 80),
        ("NVIDIA GeForce RTX 3090", 71),
        ("Tesla V100-PCIE-32GB", 112),
        ("Tesla V100-SXM2-16GB", 125),
        ("NVIDIA GeForce GTX 1080", None),
        ("", None),
    ],
)
def test_the_datasheet_is_found_by_the_name_in_cuda(gpu, teraflops):
    assert datasheet_flops(gpu) == (teraflops and pytest.approx(teraflops * 1e12))


def test_no_entry_of_the_datasheet_hides_a_later_one():
    for name, peak in DATASHEET.items():
        assert datasheet_flops(f"NVIDIA {name}") == peak


def test_mfu_is_the_share_of_the_datasheet():
    share = steps.datasheet_share("NVIDIA A100-SXM4-80GB", [156e12, 78e12, 234e12])
    assert share == {"flops_per_s": 312e12, "mfu": {"median": 0.5, "low": 0.25, "high": 0.75}}
    assert steps.datasheet_share("", [1e12]) is None


# peers


def test_nanogpt_is_stepped_on_its_own_batches_from_the_text(folder):
    before = sys.path.copy()
    peer = opened("nanogpt=checkout", "train.micro_batch_size=2")
    weight = peer.model.table.weight.detach().clone()
    peer.training_step()
    assert sys.path == before
    assert not torch.equal(weight, peer.model.table.weight)
    assert len(peer.model.calls) == 2  # micro-batches
    text = peer.subject.dataset.train.tolist()
    windows = {tuple(text[i : i + 17]) for i in range(len(text) - 16)}
    for x, y, autocast in peer.model.calls:
        assert x.shape == y.shape == (2, 16)
        assert x.dtype == y.dtype == torch.int64
        assert all((*inputs, targets[-1]) in windows for inputs, targets in zip(x.tolist(), y.tolist(), strict=True))
        assert torch.equal(x[:, 1:], y[:, :-1])
        assert not autocast


def test_nanogpt_gets_the_sizes_of_the_config(folder):
    peer = opened("nanogpt=checkout", "bias=false", "train.dropout=0.1")
    flags = {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
        "block_size": 16,
        "vocab_size": 256,
        "dropout": 0.1,
        "bias": False,
    }
    assert vars(peer.model.config) == flags


def test_a_peer_runs_in_the_requested_precision(folder):
    peer = opened("nanogpt=checkout", precision="bf16")
    peer.training_step()
    assert [autocast for *_, autocast in peer.model.calls] == [True]


@pytest.mark.parametrize("word", ["nanogpt=checkout", "hf"])
def test_the_gradient_of_a_peer_is_that_of_its_whole_batch(word, folder, monkeypatch):
    """Micro-batches are weighted as parts of the mean, so that their sum equals one batch."""
    monkeypatch.setattr(peers, "MAX_NORM", 1e9)  # clipping would hide a factor
    whole, parts = opened(word), opened(word, "train.micro_batch_size=1")
    parts.model.load_state_dict(whole.model.state_dict())
    x, y = whole.next
    singles = iter([*zip(x.split(1), y.split(1), strict=True)][1:] + [(x[:1], y[:1])])
    parts.next, parts.batch = (x[:1], y[:1]), lambda: next(singles)
    for peer in (whole, parts):
        peer.optimizer.zero_grad = lambda **_: None
        peer.training_step()
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_x_transformers_gets_the_sizes_and_is_stepped(folder, monkeypatch):
    flags = {}

    class Wrapper(torch.nn.Embedding):
        def __init__(self, *, num_tokens, **others):
            super().__init__(num_tokens, num_tokens)  # tokens -> logits
            flags.update(others)

    stub = types.SimpleNamespace(Decoder=lambda **sizes: sizes, TransformerWrapper=Wrapper)
    monkeypatch.setitem(sys.modules, "x_transformers", stub)
    peer = opened("x-transformers")
    weight = peer.model.weight.detach().clone()
    peer.training_step()
    assert not torch.equal(weight, peer.model.weight)
    layers = flags["attn_layers"]
    assert (layers["dim"], layers["depth"], layers["heads"], layers["attn_dim_head"]) == (16, 2, 2, 8)
    assert flags["max_seq_len"] == 16
    assert not peer.matches(peer.subject.cfg)


@pytest.mark.parametrize(("words", "alike"), [("preset=gpt2", True), ("preset=gpt2 position=rope", False)])
def test_transformers_gpt2_is_the_architecture_of_its_preset(words, alike, folder):
    peer = opened("hf", *words.split(), *TINY.split(), "tokenizer=byte", "train.dropout=0.1")
    assert peer.matches(peer.subject.cfg) is alike
    assert (peer.parameters == peer.subject.budget.cost["parameters"]) is alike
    peer.training_step()


@pytest.mark.parametrize(
    ("words", "alike"),
    [
        ("preset=nanogpt-cpu", True),
        ("preset=nanogpt-cpu bias=true", True),
        ("preset=nanogpt-cpu optimizer=lion train.dropout=0.1", True),
        ("preset=nanogpt-cpu ffn=swiglu", False),
        ("preset=gpt2", False),  # its GELU is tanh's
    ],
)
def test_nanogpt_is_the_architecture_of_its_preset(words, alike, folder):
    (peer,) = peers.find_peers(["nanogpt=checkout"])
    assert peer.matches(load_config(words.split())) is alike


# a whole benchmark


@pytest.fixture(scope="module")
def benched(tmp_path_factory):
    """Return the folder of a small benchmark, what it printed, and its figures."""
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stdout(io.StringIO()) as out:
        furnish(folder, monkeypatch)
        monkeypatch.setattr(host, "REPEATS", 1)
        flags = "--against nanogpt=checkout --against hf --blocks 5 --steps 2 --json out.json"
        assert gptlab(f"bench {TINY.replace('text.txt', str(folder / 'text.txt'))} device=cpu {flags}") == 0
    return folder, out.getvalue(), json.loads((folder / "out.json").read_text())


def test_the_figures_follow_from_the_times(benched):
    _, _, figures = benched
    assert set(figures) == {
        *("kind", "command", "load_before", "machine", "model", "blocks", "steps_per_block", "tokens_per_s"),
        *("ms_per_step", "flops_per_s", "gemm", "datasheet", "startup", "peers", "seconds_per_step"),
    }
    tokens = figures["model"]["batch_size"] * figures["model"]["window"]
    seconds = figures["seconds_per_step"]
    assert [len(s) for s in seconds.values()] == [5, 5, 5]
    assert figures["tokens_per_s"] == timing.spread([tokens / s for s in seconds["gptlab"]])
    flops = figures["tokens_per_s"]["median"] * figures["model"]["flops_per_token"]
    assert figures["flops_per_s"]["median"] == pytest.approx(flops)
    assert [g["shape"].split(" @ ")[0] for g in figures["gemm"]] == ["(64 x 16)", "(2,048 x 2,048)"]
    for gemm in figures["gemm"]:
        assert 0 < gemm["share"]["low"] <= gemm["share"]["high"] < 2
    for peer in figures["peers"]:
        pairs = zip(seconds[peer["name"]], seconds["gptlab"], strict=True)
        assert peer["ratio"] == timing.spread([its / own for its, own in pairs])
    start = {k: v["median"] for k, v in figures["startup"].items()}
    assert 0 < start["import_torch_s"] < start["import_gptlab_s"] < start["first_step_s"] < 120
    assert 2**26 < start["peak_memory_bytes"] < 2**32
    assert figures["machine"]["torch_threads"] == torch.get_num_threads()


def test_bench_prints_the_figures_that_it_writes(benched, capsys):
    _, out, figures = benched
    print_figures(figures, Console())
    assert capsys.readouterr().out == out
    assert f"{figures['tokens_per_s']['median']:,.0f}" in out
    for peer in figures["peers"]:
        assert f"{peer['ratio']['median']:.2f}" in out
        assert re.search(rf"^{peer['name']} \S+: .*architecture.*; float32; ", out, re.M)
    assert "a line that has no place" not in out


def test_markdown_has_every_line_of_the_terminal(benched):
    _, out, figures = benched
    page = markdown(figures)
    for line in out.splitlines():
        assert set(line) <= {"─", " "} or re.split(r"\s{2,}", line.strip())[0] in page


def test_no_figure_identifies_the_machine_or_its_owner(benched):
    folder, out, figures = benched
    text = json.dumps(figures)
    assert str(folder) not in text and "checkout" not in text and socket.gethostname() not in text
    assert "data.path=text.txt" in text and "nanogpt=PATH" in text
    assert {p.name for p in folder.iterdir()} == {"text.txt", "checkout", "cache", "out.json"}


def test_a_known_gpu_has_a_line_for_mfu(benched, capsys):
    _, _, figures = benched
    mfu = {"median": 0.5, "low": 0.25, "high": 0.75}
    print_figures(figures | {"datasheet": {"flops_per_s": 989e12, "mfu": mfu}}, Console())
    assert re.search(r"^MFU: % of the datasheet's 989 TFLOP/s +50\.0 +25\.0 \.\. 75\.0", capsys.readouterr().out, re.M)


@pytest.mark.gpu
def test_bench_on_a_gpu(folder):
    assert gptlab(f"bench {TINY} device=cuda --against hf --blocks 5 --json out.json") == 0
    figures = json.loads((folder / "out.json").read_text())
    assert figures["machine"]["gpu"] == torch.cuda.get_device_name()
    assert figures["machine"]["compiled"]
    assert 0 < figures["startup"]["peak_memory_bytes"]["median"] < 2**30
    assert figures["tokens_per_s"]["median"] > 0


def test_a_process_gets_the_threads():
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    assert run_process([sys.executable, "-c", code], threads=3).strip() == "3"


def test_peak_memory_leaves_out_the_parent_process():
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from gptlab.bench.host import peak_rss; print(peak_rss())"
    code = f"import mmap; m = mmap.mmap(-1, 1 << 30); m[: 64 << 20] = bytes(64 << 20); {code}"  # an untouched GiB
    parent = f"x = bytearray(400 << 20); x[::4096] = b'1' * len(x[::4096]); import subprocess, sys; {code!r}; " + (
        f"print(subprocess.run([sys.executable, '-c', {code!r}], capture_output=True, text=True).stdout)"
    )
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert 64 * 2**20 < int(done.stdout) < 200 * 2**20


def test_the_trainer_that_is_timed_is_the_one_that_trains(folder):
    trainer = Trainer(prepare([*TINY.split(), "device=cpu"]))
    assert trainer.model.training and trainer.watch.level == "none"
    trainer.training_step()
    assert trainer.step == 1


def test_a_step_takes_the_snapshots_that_are_due(folder):
    trainer = Trainer(prepare([*TINY.split(), "device=cpu", "diagnostics=basic", "diagnostics_every=2"]))
    snapshots, take = [], trainer.watch.take
    trainer.watch.take = lambda: snapshots.append(trainer.step) or take()
    step = step_of(trainer)
    for _ in range(5):
        step()
    assert trainer.step == 5 and snapshots == [1, 2, 4]


@pytest.mark.slow
def test_a_model_without_blocks_is_timed(folder):
    assert gptlab(f"bench {TINY} model=bigram device=cpu --steps 1 --blocks 1 --against hf --json out.json") == 0
    figures = json.loads((folder / "out.json").read_text())
    assert figures["peers"][0]["architecture"] == peers.OTHER


# --sweep


def test_a_sweep_is_timed_against_loops_over_the_same_cells(folder, capsys, monkeypatch):
    ran = []

    def run(command, **options):
        """Replace gptlab's own processes, which take seconds, by their summaries."""
        ran.append(command)
        if "gptlab" not in command:
            return run_process(command, **options)
        settings = dict(w.split("=", 1) for w in command if "=" in w)
        for seed in settings["seed"].split(","):
            run_folder = Path(settings["runs_dir"].strip("'"), settings["name"], seed)
            run_folder.mkdir(parents=True)
            (run_folder / "summary.json").touch()
        return ""

    monkeypatch.setattr(sweeps, "run_process", run)
    words = f"{TINY} device=cpu budget.steps=3 hydra.launcher.n_jobs=1"
    flags = "--cells 3 --loop-cells 2 --against nanogpt=checkout --json out.json"
    assert gptlab(f"bench --sweep {words} {flags}") == 0
    out = capsys.readouterr().out
    figures = json.loads((folder / "out.json").read_text())
    assert [w["cells"] for w in figures["ways"]] == [3, 2, 2]
    [first] = figures["ways"][0]["seconds_per_cell"]
    for way in figures["ways"]:
        [seconds] = way["seconds_per_cell"]
        assert way["cells_per_hour"]["median"] == pytest.approx(3600 / seconds)
        assert way["ratio"]["median"] == pytest.approx(seconds / first)
        assert f"{way['cells_per_hour']['median']:,.0f}" in out
    assert "scaled" in out
    assert [c[3] if "gptlab" in c else "train.py" for c in ran] == ["sweep", "train", "train", "train.py", "train.py"]
    sweep, *loop = (set(command[4:]) for command in ran[:3])
    assert "seed=0,1,2" in sweep and "seed=0" in loop[0] and "seed=1" in loop[1]
    different = ("seed=", "runs_dir=", "hydra.launcher.n_jobs=")
    plain, *others = ({w for w in words if not w.startswith(different)} for words in (sweep, *loop))
    assert plain == others[0] == others[1]
    assert {"eval.tokens=256", "eval.final_tokens=256", "eval.every=3", "wandb.mode=disabled"} <= plain
    assert figures["cell"]["evaluated_tokens"] == 256 and figures["cell"]["trained_tokens"] == 3 * 64
    flags, sizes, meta = json.loads((folder / "checkout/flags-1.json").read_text())
    # Four batches in its run: two before the first of its three steps, two before the last.
    assert (flags["eval_iters"], flags["eval_interval"], flags["max_iters"]) == ("1", "2", "2")
    assert (flags["batch_size"], flags["block_size"], flags["n_embd"]) == ("4", "16", "16")
    assert meta == {"vocab_size": 256}
    assert sizes["train.bin"] + sizes["val.bin"] == 2 * len((folder / "text.txt").read_bytes())


@pytest.mark.slow
def test_a_sweep_of_real_processes_leaves_nothing(folder, capsys):
    words = f"{TINY} device=cpu budget.steps=3 hydra.launcher.n_jobs=1"
    assert gptlab(f"bench --sweep {words} --cells 2 --against nanogpt=checkout --blocks 2 --threads 1") == 0
    assert len(re.findall(r"^(?:gptlab sweep|gptlab train|nanoGPT's train.py) +2 ", capsys.readouterr().out, re.M)) == 3
    assert not (folder / "runs").exists()


def test_rounds_of_a_sweep_are_paired(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(sweeps.time, "perf_counter", lambda: now[0])
    order = []

    def method(name, cells, *seconds):
        durations = iter(seconds)

        def run(n, folder):
            assert n == cells
            order.append(name)
            now[0] += next(durations)

        return sweeps.SweepMethod(name, "", cells, run)

    methods = [method("a", 4, 8.0, 16.0), method("b", 2, 12.0, 16.0)]
    sweeps.time_methods(methods, 2, tmp_path, lambda _: None)
    assert order == ["a", "b", "b", "a"]
    figures = sweeps.method_figures(methods[1], methods[0])
    assert figures["seconds_per_cell"] == [6.0, 8.0]
    assert figures["ratio"] == {"median": 2.5, "low": 2.0, "high": 3.0}
    assert figures["cells_per_hour"]["high"] == 600.0


# errors

REFUSED = {
    "bench --against nanogpt": ("--against nanogpt: ", "nanogpt=PATH"),
    "bench --against nanogpt=nowhere": ("--against nanogpt=nowhere: has no model.py", "give a checkout of nanoGPT"),
    "bench --against nanogpt=empty": ("--against nanogpt=empty: ", "has no attribute 'GPT'"),
    "bench --against nanogpt=broken": ("--against nanogpt=broken: ", "SyntaxError"),
    "bench --against nanogtp=checkout": ("--against nanogtp: no such peer (did you mean nanogpt?)", "choose from"),
    "bench --against hf=checkout": ("--against hf=checkout: is a package and takes no path", "write hf"),
    "bench --against hf --against hf": ("--against hf: is given twice", "leave one out"),
    "bench --blocks 0": ("--blocks=0: ", "at least 1"),
    "bench --threads=-1": ("--threads=-1: ", "at least 1"),
    "bench --cells 3": ("--cells=3: ", "without --sweep"),
    "bench --sweep --steps 3": ("--steps=3: ", "with --sweep"),
    "bench --json nowhere/out.json": ("--json nowhere/out.json: there is no folder nowhere", "make it first"),
    "bench norm=rmsnrom": ("norm=rmsnrom: ", "did you mean rmsnorm?"),
    "bench data=text data.path=no.txt": ("data.path=no.txt: ", ""),
    "bench --sweep --against hf": ("--against hf: has no training script", "nanogpt=PATH"),
    "bench --sweep --against nanogpt=half": ("--against nanogpt=half: has no train.py", "give a checkout"),
    "bench --against hf size.n_head=3 attention.head_dim=4": ("size.n_head=3: ", "must divide size.dim=16 for hf"),
    "bench --sweep seed=1": ("seed=1: ", "leave it out"),
    "bench --sweep eval.tokens=100": ("eval.tokens=100: ", "leave it out"),
    "bench --sweep budget.seconds=3 --cells 2": ("budget: ", "give budget.steps"),
    "bench --sweep --cells 2 --loop-cells 3": ("--loop-cells=3: ", "give at most that many"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_mistake_is_one_line(words, folder, capsys):
    for name, model in {"empty": "", "broken": "class GPT(:", "half": MODEL}.items():
        (folder / name).mkdir()
        (folder / name / "model.py").write_text(model)
    before = set(folder.rglob("*"))
    own = "" if "data=" in words else TINY
    assert gptlab(f"bench {own} device=cpu {words.removeprefix('bench')}") == 2
    begins, says = REFUSED[words]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gptlab: {begins}") and says in line
    assert {p for p in set(folder.rglob("*")) - before if not {"cache", "__pycache__"} & set(p.parts)} == set()


@pytest.mark.parametrize(
    ("name", "package", "pip"),
    [("hf", "transformers", "pip install 'gptlab[hf]'"), ("x-transformers", "x_transformers", "pip install x-tr")],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(name, package, pip, folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    assert gptlab(f"bench {TINY} --against {name}") == 2
    assert re.fullmatch(rf"gptlab: --against {name}: needs .*; {re.escape(pip)}.*\n", capsys.readouterr().err)


def test_the_error_of_a_process_ends_with_its_last_line():
    with pytest.raises(ConfigError, match=r"^bench: `.*` ended with code 1: RuntimeError: no luck$"):
        run_process([sys.executable, "-c", "raise RuntimeError('no luck')"])


def test_a_sweep_with_an_unfinished_cell_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sweeps, "run_process", lambda *_, **__: "")
    with pytest.raises(ConfigError, match="^bench: 0 of 2 cells of the sweep finished$"):
        sweeps.Gptlab([], [], None).sweep(2, tmp_path)


# examples and the page


def test_every_example_composes_and_has_valid_flags():
    for line in VERBS["bench"].examples.splitlines():
        args = VERBS["bench"].parser("bench").parse_intermixed_args(shlex.split(line)[2:])
        load_config(args.overrides)


def test_the_page_of_benchmarks_is_made_from_the_json_beside_it():
    spec = importlib.util.spec_from_file_location("bench_page", ROOT / "benchmarks/bench.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "benchmarks/README.md").read_text(encoding="utf-8") == module.page()
    for _, words in module.BENCHMARKS.values():
        args = VERBS["bench"].parser("bench").parse_intermixed_args(words.split())
        load_config(args.overrides)
    assert {p.stem for p in (ROOT / "benchmarks").glob("*.json")} <= set(module.BENCHMARKS)


def test_the_default_number_of_blocks_shows_a_spread():
    assert steps.BLOCKS >= 5
