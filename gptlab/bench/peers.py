"""Other people's models of the same sizes, stepped as their own training does. Their code is the user's to provide."""

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

from gptlab.config import ARCHITECTURE, ConfigError, Settings, did_you_mean
from gptlab.config.compose import edit, load_settings, typed
from gptlab.training.prepare import PreparedRun

# No step is faster or slower for these.
LR, WEIGHT_DECAY, BETAS = 1e-3, 0.1, (0.9, 0.99)
MAX_NORM = 1.0
SLOTS_OF_MODEL = ("model", *(slot for slot in ARCHITECTURE if slot != "init"))
SAME = "the same architecture"
OTHER = "its own architecture of the same width, depth, heads, window and vocabulary"


class Peer:
    """A subclass says what the model is, how it gets batches, and which preset of gptlab is the same architecture."""

    name: ClassVar[str]
    how: ClassVar[str]  # it is stepped
    package: ClassVar[str]  # as pip names it
    install: ClassVar[str]

    def __init__(self, place: str = ""):
        if place:
            raise ConfigError(f"--against {self.name}={place}: is a package and has no place; write {self.name}")
        try:
            importlib.import_module(self.package.replace("-", "_"))
        except ImportError as e:
            raise ConfigError(f"--against {self.name}: needs {self.package} ({e}); pip install {self.install}") from e

    def check(self, cfg: Settings) -> None:
        """Raises ConfigError for sizes that it cannot have."""
        if cfg.size.dim % cfg.size.n_head:
            raise ConfigError(f"size.n_head={cfg.size.n_head}: must divide size.dim={cfg.size.dim} for {self.name}")

    def open(self, subject: PreparedRun, precision: str | None = None) -> None:
        """Build model and optimizer on the subject's device, compiled if gptlab's own is."""
        self.subject, cfg, machine = subject, subject.cfg, subject.device
        fast = machine.precision.startswith("bf16") and machine.device.type != "cpu"
        self.bf16 = precision == "bf16" if precision else fast
        drawn_by = cfg.data.window, subject.micro_batch_size, cfg.seed, cfg.data.sampling
        self.batches = subject.dataset.train_batches(*drawn_by, machine.device)
        self.drawn = 0
        with contextlib.redirect_stdout(io.StringIO()):  # what they say of themselves
            self.model: Any = self.build_model(cfg).to(machine.device).train()
            self.optimizer = self.build_optimizer()
        if machine.compile:
            self.model.compile()
        self.next = self.batch()

    def training_step(self) -> None:
        """The next batch is fetched between forward and backward, as the device works on the former."""
        n_micro = self.subject.n_micro_batches
        for _ in range(n_micro):
            inputs, targets = self.next
            with self.autocast():
                loss = self.loss(inputs, targets) / n_micro
            self.next = self.batch()
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def autocast(self) -> AbstractContextManager:
        device = self.subject.device.device.type
        return torch.autocast(device, dtype=torch.bfloat16) if self.bf16 else nullcontext()

    def build_model(self, cfg: Settings) -> torch.nn.Module:
        raise NotImplementedError

    def build_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.model.parameters(), lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)

    def batch(self) -> tuple[Tensor, Tensor]:
        """(B, T), (B, T): gptlab's own batches."""
        self.drawn += 1
        return self.batches.batch(self.drawn)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """(B, T), (B, T) -> nats per token"""
        return F.cross_entropy(self.logits(inputs).float().flatten(0, 1), targets.flatten())

    def logits(self, inputs: Tensor) -> Tensor:
        return self.model(inputs)

    def like(self, cfg: Settings) -> list[str] | None:
        """The overrides that make this architecture in gptlab, but for the sizes; None: there are none."""
        return None

    def is_like(self, cfg: Settings) -> bool:
        """Whether `cfg` describes this very architecture."""
        words = self.like(cfg)
        if words is None:
            return False
        theirs = edit(load_settings(words), model__vocab_size=cfg.model.vocab_size)
        return all(theirs[slot] == cfg[slot] for slot in SLOTS_OF_MODEL)

    @property
    def version(self) -> str:
        return version(self.package)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


class NanoGPT(Peer):
    """github.com/karpathy/nanoGPT: the user's checkout."""

    name = "nanogpt"
    how = "optimizer (fused on CUDA only), batches, clipping and precision as its train.py has them"

    def __init__(self, place: str = ""):
        self.folder = Path(place).expanduser()
        if not place:
            raise ConfigError("--against nanogpt: needs the folder of a checkout; write nanogpt=PATH")
        if not (self.folder / "model.py").is_file():
            raise ConfigError(f"--against nanogpt={place}: has no model.py; give a checkout of nanoGPT")
        try:
            self.code: Any = _import_file(self.folder / "model.py", "gptlab_bench_nanogpt")
            self.code.GPT, self.code.GPTConfig  # noqa: B018
        except Exception as e:
            reason = f"its model.py cannot be used ({type(e).__name__}: {e})"
            raise ConfigError(f"--against nanogpt={place}: {reason}; give a checkout of nanoGPT") from e

    def build_model(self, cfg: Settings) -> torch.nn.Module:
        sizes = {"n_layer": cfg.size.n_layer, "n_head": cfg.size.n_head, "n_embd": cfg.size.dim}
        text = {"block_size": cfg.data.window, "vocab_size": cfg.model.vocab_size}
        return self.code.GPT(self.code.GPTConfig(**text, **sizes, dropout=cfg.train.dropout, bias=cfg.bias))

    def build_optimizer(self) -> torch.optim.Optimizer:
        return self.model.configure_optimizers(WEIGHT_DECAY, LR, BETAS, self.subject.device.device.type)

    def batch(self) -> tuple[Tensor, Tensor]:
        """Windows drawn by torch, cut one by one from a map of the file that is opened anew each time."""
        dataset: Any = self.subject.dataset
        kept = dataset.train
        tokens = np.memmap(kept.filename, dtype=kept.dtype, mode="r")
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
        return self.model(inputs, targets)[1]

    def like(self, cfg: Settings) -> list[str]:
        return ["preset=nanogpt-cpu", f"bias={typed(cfg.bias)}"]

    @property
    def version(self) -> str:
        """The checkout's commit."""
        done = subprocess.run(["git", "-C", str(self.folder), "rev-parse", "HEAD"], capture_output=True, text=True)
        return done.stdout.strip()[:10] or "unknown"


class HuggingFace(Peer):
    """transformers' GPT-2."""

    name = "hf"
    package = "transformers"
    install = "'gptlab[hf]'"
    how = "GPT2LMHeadModel; fused AdamW, clipping, and batches as gptlab's"

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
        return self.model(inputs).logits

    def like(self, cfg: Settings) -> list[str]:
        return ["preset=gpt2"]


class XTransformers(Peer):
    """github.com/lucidrains/x-transformers, with its defaults."""

    name = "x-transformers"
    package = "x-transformers"
    install = "x-transformers"
    how = "TransformerWrapper of a Decoder with flash attention; fused AdamW, clipping, and batches as gptlab's"

    def build_model(self, cfg: Settings) -> torch.nn.Module:
        from x_transformers import Decoder, TransformerWrapper

        share = cfg.train.dropout
        layers = Decoder(
            dim=cfg.size.dim,
            depth=cfg.size.n_layer,
            heads=cfg.size.n_head,
            attn_dim_head=cfg.size.dim // cfg.size.n_head,
            attn_flash=True,
            attn_dropout=share,
            ff_dropout=share,
        )
        return TransformerWrapper(
            num_tokens=cfg.model.vocab_size, max_seq_len=cfg.data.window, attn_layers=layers, emb_dropout=share
        )


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (NanoGPT, HuggingFace, XTransformers)}


def find_peers(words: Sequence[str]) -> list[Peer]:
    """`nanogpt=PATH`, `hf`, `x-transformers`. Raises ConfigError for what is not there."""
    named = [word.partition("=") for word in words]
    for name, _, _ in named:
        if name not in PEERS:
            hint = did_you_mean(name, PEERS)
            raise ConfigError(f"--against {name}: no such peer{hint}; choose from nanogpt=PATH, hf, x-transformers")
    if twice := {name for name, _, _ in named if [n for n, _, _ in named].count(name) > 1}:
        raise ConfigError(f"--against {min(twice)}: is given twice; leave one out")
    return [PEERS[name](place) for name, _, place in named]


def _import_file(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module
