"""Other people's models at the same sizes, trained as their own code trains them. The user provides that code."""

import contextlib
import importlib.util
import io
import subprocess
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gptlab.config import ARCHITECTURE, ConfigError, Settings, did_you_mean, drawing_seed, plain
from gptlab.config.compose import edit, load_config
from gptlab.config.overrides import typed
from gptlab.training.prepare import PreparedRun

# These values do not change the speed of a step.
LR, WEIGHT_DECAY, BETAS = 1e-3, 0.1, (0.9, 0.99)
MAX_NORM = 1.0
SLOTS_OF_MODEL = ("model", *(slot for slot in ARCHITECTURE if slot != "init"))
SAME = "the same architecture"
OTHER = "its own architecture with the same width, depth, heads, window and vocabulary"


class Peer:
    """Somebody else's model, trained by the training step of its own code.

    A subclass builds the model, fetches its batches, and names the preset of gptlab with the same architecture.
    """

    name: ClassVar[str]
    how: ClassVar[str]  # a description of its step
    package: ClassVar[str]  # on PyPI
    install: ClassVar[str]  # the argument of `pip install`

    def __init__(self, path: str = ""):
        if path:
            raise ConfigError(f"--against {self.name}={path}: is a package and takes no path; write {self.name}")
        try:
            importlib.import_module(self.package.replace("-", "_"))
        except ImportError as e:
            raise ConfigError(f"--against {self.name}: needs {self.package} ({e}); pip install {self.install}") from e

    def check(self, cfg: Settings) -> None:
        """Raise ConfigError for sizes that this model cannot have."""
        if cfg.size.dim % cfg.size.n_head:
            raise ConfigError(f"size.n_head={cfg.size.n_head}: must divide size.dim={cfg.size.dim} for {self.name}")

    def open(self, subject: PreparedRun, precision: str | None = None) -> None:
        """Build model and optimizer on the device of the run, compiled if gptlab's model is."""
        self.subject, cfg, machine = subject, subject.cfg, subject.device
        fast = machine.precision.startswith("bf16") and machine.device.type != "cpu"
        self.bf16 = precision == "bf16" if precision else fast
        drawn_by = cfg.data.window, subject.micro_batch_size, drawing_seed(cfg), cfg.data.sampling
        self.batches = subject.dataset.train_batches(*drawn_by, machine.device)
        self.drawn = 0
        with contextlib.redirect_stdout(io.StringIO()):  # their constructors print
            self.model: Any = self.build_model(cfg).to(machine.device).train()
            self.optimizer = self.build_optimizer()
        if machine.compile:
            self.model.compile()
        self.next = self.batch()

    def training_step(self) -> None:
        """Do one optimizer step; fetch the next batch while the device is busy with the forward pass."""
        n_micro = self.subject.n_micro_batches
        for _ in range(n_micro):
            inputs, targets = self.next
            with self.autocast():
                loss = self.loss(inputs, targets) / n_micro
            self.next = self.batch()
            torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass."""
        device = self.subject.device.device.type
        return torch.autocast(device, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def build_model(self, cfg: Settings) -> torch.nn.Module:
        """Build the model at the sizes of `cfg`."""
        raise NotImplementedError

    def build_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return inputs and targets, each (B, T), as gptlab draws them."""
        self.drawn += 1
        return self.batches.batch(self.drawn)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss in nats per token; inputs and targets are (B, T)."""
        return F.cross_entropy(self.logits(inputs).float().flatten(0, 1), targets.flatten())

    def logits(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs)
        return logits

    def equivalent(self, cfg: Settings) -> list[str] | None:
        """Return overrides that build this architecture in gptlab, apart from its sizes; None if there are none."""
        return None

    def matches(self, cfg: Settings) -> bool:
        """Return whether `cfg` describes the same architecture."""
        overrides = self.equivalent(cfg)
        if overrides is None:
            return False
        theirs = plain(edit(load_config(overrides), model__vocab_size=cfg.model.vocab_size))
        ours = plain(cfg)
        return all(theirs[slot] == ours[slot] for slot in SLOTS_OF_MODEL)

    @property
    def version(self) -> str:
        """The version of the package."""
        return version(self.package)

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(p.numel() for p in self.model.parameters())


class NanoGPT(Peer):
    """The model of a checkout of github.com/karpathy/nanoGPT."""

    name = "nanogpt"
    how = "optimizer (fused on CUDA only), batches, clipping and precision as in its train.py"

    def __init__(self, path: str = ""):
        self.folder = Path(path).expanduser()
        if not path:
            raise ConfigError("--against nanogpt: needs the folder of a checkout; write nanogpt=PATH")
        if not (self.folder / "model.py").is_file():
            raise ConfigError(f"--against nanogpt={path}: has no model.py; give a checkout of nanoGPT")
        try:
            self.code: Any = _import_file(self.folder / "model.py", "gptlab_bench_nanogpt")
            self.code.GPT, self.code.GPTConfig  # noqa: B018
        except Exception as e:
            reason = f"its model.py cannot be used ({type(e).__name__}: {e})"
            raise ConfigError(f"--against nanogpt={path}: {reason}; give a checkout of nanoGPT") from e

    def build_model(self, cfg: Settings) -> torch.nn.Module:
        sizes = {"n_layer": cfg.size.n_layer, "n_head": cfg.size.n_head, "n_embd": cfg.size.dim}
        text = {"block_size": cfg.data.window, "vocab_size": cfg.model.vocab_size}
        model: torch.nn.Module = self.code.GPT(
            self.code.GPTConfig(**text, **sizes, dropout=cfg.train.dropout, bias=cfg.bias)
        )
        return model

    def build_optimizer(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self.model.configure_optimizers(
            WEIGHT_DECAY, LR, BETAS, self.subject.device.device.type
        )
        return optimizer

    def batch(self) -> tuple[Tensor, Tensor]:
        """Return windows that torch draws, cut one by one from a memory map that is opened for every batch."""
        dataset: Any = self.subject.dataset
        train = dataset.train
        tokens = np.memmap(train.filename, dtype=train.dtype, mode="r")
        window, device = self.subject.cfg.data.window, self.subject.device.device
        starts = torch.randint(len(tokens) - window, (self.subject.micro_batch_size,))
        x, y = (
            torch.stack([torch.from_numpy(tokens[i + shift : i + shift + window].astype(np.int64)) for i in starts])
            for shift in (0, 1)
        )
        if device.type == "cuda":
            return x.pin_memory().to(device, non_blocking=True), y.pin_memory().to(device, non_blocking=True)
        return x.to(device), y.to(device)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = self.model(inputs, targets)[1]
        return loss

    def equivalent(self, cfg: Settings) -> list[str]:
        return ["preset=nanogpt-cpu", f"bias={typed(cfg.bias)}"]

    @property
    def version(self) -> str:
        """The commit of the checkout."""
        git = subprocess.run(["git", "-C", str(self.folder), "rev-parse", "HEAD"], capture_output=True, text=True)
        return git.stdout.strip()[:10] or "unknown"


class TransformersGPT2(Peer):
    """GPT2LMHeadModel of transformers."""

    name = "hf"
    package = "transformers"
    install = "'gptlab[hf]'"
    how = "GPT2LMHeadModel; fused AdamW; clipping and batches as in gptlab"

    def build_model(self, cfg: Settings) -> torch.nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        sizes = {"n_layer": cfg.size.n_layer, "n_head": cfg.size.n_head, "n_embd": cfg.size.dim}
        text = {
            "vocab_size": cfg.model.vocab_size,
            "n_positions": cfg.data.window,
            "bos_token_id": 0,
            "eos_token_id": 0,
        }
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), cfg.train.dropout)
        return GPT2LMHeadModel(GPT2Config(**sizes, **text, **dropout, use_cache=False))

    def logits(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(inputs).logits
        return logits

    def equivalent(self, cfg: Settings) -> list[str]:
        return ["preset=gpt2"]


class XTransformers(Peer):
    """A decoder of github.com/lucidrains/x-transformers with its defaults."""

    name = "x-transformers"
    package = "x-transformers"
    install = "x-transformers"
    how = "TransformerWrapper of a Decoder with flash attention; fused AdamW; clipping and batches as in gptlab"

    def build_model(self, cfg: Settings) -> torch.nn.Module:
        from x_transformers import Decoder, TransformerWrapper

        dropout = cfg.train.dropout
        layers = Decoder(
            dim=cfg.size.dim,
            depth=cfg.size.n_layer,
            heads=cfg.size.n_head,
            attn_dim_head=cfg.size.dim // cfg.size.n_head,
            attn_flash=True,
            attn_dropout=dropout,
            ff_dropout=dropout,
        )
        model: torch.nn.Module = TransformerWrapper(
            num_tokens=cfg.model.vocab_size, max_seq_len=cfg.data.window, attn_layers=layers, emb_dropout=dropout
        )
        return model


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (NanoGPT, TransformersGPT2, XTransformers)}


def find_peers(against: Sequence[str]) -> list[Peer]:
    """Return the peers of `nanogpt=PATH`, `hf` and `x-transformers`; raise ConfigError for one that is missing."""
    requests = [word.partition("=")[::2] for word in against]
    names = [name for name, _ in requests]
    for name in names:
        if name not in PEERS:
            hint = did_you_mean(name, PEERS)
            raise ConfigError(f"--against {name}: no such peer{hint}; choose from nanogpt=PATH, hf, x-transformers")
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"--against {min(twice)}: is given twice; leave one out")
    return [PEERS[name](path) for name, path in requests]


def _import_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module
