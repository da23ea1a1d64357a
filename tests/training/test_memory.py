"""A run that can never fit in the machine's memory is refused before anything is written; one that may fit is not."""

import pytest

from gptlab.cli.main import main
from gptlab.config import ConfigError, environment
from gptlab.config.compose import load_config
from gptlab.distributed import ProcessGroup
from gptlab.model.cost import cost
from gptlab.training import memory
from gptlab.training.prepare import prepare
from tiny import configure

HUGE = "size.dim=200000 size.n_layer=100 size.n_head=100"
FIXED = ["size=tiny", "data.window=16", "tokenizer=byte", "budget.steps=1", "device=cpu", "wandb.mode=disabled"]


@pytest.fixture
def here(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GPTLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(memory, "machine_memory", lambda: 2**35)
    return [*FIXED, *text]


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as e:
        main(arguments)
    assert e.value.code == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("overrides", "place"),
    [
        (HUGE, "size.dim=200000: training takes 715,260.4 GiB for weights, gradients and optimizer state"),
        ("ffn.hidden=90000000000", "ffn.hidden=90000000000: training takes "),
        ("model.vocab_size=3000000000", "model.vocab_size=3000000000: training takes "),
        ("model=bigram model.vocab_size=300000", "model.vocab_size=300000: training takes "),
        ("train.batch_size=200000000 train.micro_batch_size=2", "train.batch_size=200000000: a batch takes 71.5 GiB"),
    ],
)
def test_train_refuses_what_cannot_fit_in_one_line(here, tmp_path, capsys, overrides, place):
    (line,) = refused(capsys, "train", *here, *overrides.split())
    assert line.startswith(f"gptlab: {place}") and "and this machine has 32.0 GiB; set " in line
    assert not (tmp_path / "runs").exists()


def test_a_sweep_checks_all_its_cells_before_the_first(here, tmp_path, capsys):
    lines = refused(capsys, "sweep", *here, "size.dim=64,200000", "seed=0,1", "name=s")
    assert len(lines) == 1 and "[size.dim=200000 seed=0]" in lines[0]
    assert not (tmp_path / "runs").exists()


def test_show_needs_no_memory(here, capsys):
    with pytest.raises(SystemExit) as e:
        main(["show", *here, *HUGE.split()])
    assert e.value.code == 0 and "174.6 TiB" in capsys.readouterr().out


def test_what_fits_exactly_is_not_refused(here, monkeypatch):
    cfg = configure(load_config(here))
    needed = cost(cfg)["state_bytes"]
    monkeypatch.setattr(memory, "machine_memory", lambda: needed)
    assert prepare(cfg).device.device.type == "cpu"
    monkeypatch.setattr(memory, "machine_memory", lambda: needed - 1)
    with pytest.raises(ConfigError, match="training takes 0.0 GiB"):
        prepare(cfg)
    monkeypatch.setattr(memory, "machine_memory", lambda: None)  # not known: nothing is refused
    assert prepare(cfg)


def test_a_share_of_the_state_is_enough_for_each_process_of_fsdp(here, monkeypatch):
    cfg = configure(load_config(here))
    device, needed = prepare(cfg).device.device, cost(cfg)["state_bytes"]
    monkeypatch.setattr(memory, "machine_memory", lambda: needed // 2)
    memory.refuse_without_memory(cfg, needed, device, ProcessGroup(0, 2, "fsdp"))
    with pytest.raises(ConfigError):
        memory.refuse_without_memory(cfg, needed, device, ProcessGroup(0, 2, "ddp"))


def test_memory_is_that_of_the_machine_and_its_swap(tmp_path, monkeypatch):
    for content, n_bytes in {
        "MemTotal:       100 kB\nMemFree:  3 kB\nSwapTotal:        28 kB\nHugePages_Total:       0\n": 128 * 1024,
        "MemTotal:       100 kB\n": None,
        "": None,
    }.items():
        (tmp_path / "meminfo").write_text(content)
        monkeypatch.setattr(environment, "MEMINFO", tmp_path / "meminfo")
        assert environment.machine_memory.__wrapped__() == n_bytes
    monkeypatch.setattr(environment, "MEMINFO", tmp_path / "none")
    assert environment.machine_memory.__wrapped__() is None
