"""A run's preparation: everything that follows from its config, before a file is written in its folder."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptlab.config import ConfigError, Settings, as_settings, flatten, registry
from gptlab.config.compose import edit
from gptlab.config.user_files import blaming
from gptlab.data import AnyDataset, Dataset, Task, load_dataset, open_task
from gptlab.data.identity import content_of
from gptlab.distributed import ProcessGroup, find_processes
from gptlab.model.cost import architecture
from gptlab.model.match_cost import CostMatch, apply_cost_match
from gptlab.runs.folder import run_dir
from gptlab.runs.trackio_tracker import TrackioSettings
from gptlab.runs.wandb_tracker import WandbSettings, resolve_mode, resolve_project
from gptlab.training.budget import Budget, make_budget
from gptlab.training.device import Device, choose_device
from gptlab.training.init_from import Start, plan_start
from gptlab.training.lr_schedule import LearningRate, make_learning_rate
from gptlab.training.memory import refuse_without_memory
from gptlab.training.try_recipe import try_recipe

NOT_A_SIZE = ("seed", "budget", "eval", "train")


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start; nothing has been written yet."""

    cfg: Settings  # complete: the vocabulary's size is known and `match=` has set the FFN's width
    folder: Path
    dataset: AnyDataset
    budget: Budget
    learning_rate: LearningRate
    local_device: Device | None  # None if the run is prepared for another machine
    start: Start | None  # the weights of train.init_from; None if the run starts from `init`
    match: CostMatch | None  # None if `match=none`
    tracker: WandbSettings | TrackioSettings
    processes: ProcessGroup

    @property
    def device(self) -> Device:
        """The device of this machine that the run is prepared for."""
        assert self.local_device is not None, "prepared for another machine"
        return self.local_device

    @property
    def micro_batch_size(self) -> int:
        """Windows per forward pass, over all processes."""
        return self.cfg.train.micro_batch_size or self.cfg.train.batch_size

    @property
    def n_micro_batches(self) -> int:
        """Forward passes per optimizer step."""
        return self.cfg.train.batch_size // self.micro_batch_size

    @property
    def evaluated_tokens(self) -> int:
        """Tokens that all evaluations of the run read; of a budget in seconds those of the last one alone."""
        asked, dataset, steps = self.cfg.eval, self.dataset, self.budget.steps
        final = dataset.final_tokens(asked.tokens, asked.final_tokens)
        wanted = [asked.tokens] * (1 if steps is None else math.ceil(steps / asked.every))
        wanted += [final] * (final != asked.tokens) + [final for length in asked.lengths if length != 1]
        whole = dataset.n_val if isinstance(dataset, Dataset) else math.inf
        return sum(int(whole if n is None else min(n, whole)) for n in wanted)


class Memo:
    """A cache of results, shared by all configs that agree in the settings that a function reads.

    The cells of a sweep differ mostly by seed, so one text is opened once for thousands of them. A ConfigError
    counts as a result: it is raised for every config that would cause it.
    """

    def __init__(self) -> None:
        self._results: dict[tuple[str, str], Any] = {}

    def call(self, function: Callable[..., Any], *arguments: Any, reads: Sequence[Any]) -> Any:
        """Return `function(*arguments)`, where `reads` holds every setting that the result depends on."""
        key = function.__name__, repr(reads)
        if key not in self._results:
            try:
                self._results[key] = function(*arguments)
            except ConfigError as error:
                self._results[key] = error
        if isinstance(self._results[key], ConfigError):
            raise ConfigError(str(self._results[key]))
        return self._results[key]


def prepare(cfg: Settings, *, device_is_here: bool = True, memo: Memo | None = None) -> PreparedRun:
    """Prepare the run that `cfg` describes: open its data, choose its device, work out its budget.

    Args:
        cfg: a config as load_config returns it.
        device_is_here: False if the run is for another machine, such as a cluster's node; no device is chosen then.
        memo: the results of earlier calls; to prepare many configs, pass the same one to every call.

    Raises:
        ConfigError: if anything in the config cannot be satisfied.
    """
    memo = memo or Memo()
    return prepare_matched(*match_to_baseline(as_settings(cfg), memo), device_is_here=device_is_here, memo=memo)


def match_to_baseline(cfg: Settings, memo: Memo) -> tuple[Settings, CostMatch | None]:
    """Return the config with the FFN width that `match=` asks for, and a record of the match.

    The run's folder is named after this config.
    """
    if cfg.match.name == "none":
        return cfg, None
    _, match = apply_cost_match(with_vocabulary(cfg, _dataset(cfg, memo)))
    return match.apply(cfg) if match else cfg, match


def prepare_matched(
    cfg: Settings, match: CostMatch | None, *, device_is_here: bool = True, memo: Memo | None = None
) -> PreparedRun:
    """Prepare a run whose config `match_to_baseline` has returned."""
    memo = memo or Memo()
    tracker = memo.call(tracker_settings, cfg, reads=[cfg.record, cfg.runs_dir, cfg.wandb])
    processes = find_processes(cfg)
    device = None
    if device_is_here:
        device = memo.call(choose_device, cfg, reads=[cfg.device, cfg.precision, cfg.compile])
    dataset = _dataset(cfg, memo)
    complete = with_vocabulary(cfg, dataset)
    memo.call(try_recipe, complete, reads=[cfg.optimizer, cfg.schedule, architecture(complete)])
    budget = _countable(complete, make_budget)
    if device:
        refuse_without_memory(complete, budget.cost["state_bytes"], device.device, processes)
    learning_rate = make_learning_rate(complete, budget.steps)
    start = None
    if cfg.train.init_from is not None:
        reads = [cfg.train.init_from, cfg.train.init_partial, cfg.data, cfg.tokenizer, architecture(complete)]
        start = memo.call(plan_start, complete, dataset, reads=reads)
    return PreparedRun(
        cfg=complete,
        folder=run_dir(cfg, dataset.content),
        dataset=dataset,
        budget=budget,
        learning_rate=learning_rate,
        local_device=device,
        start=start,
        match=match,
        tracker=tracker,
        processes=processes,
    )


def folder_of(cfg: Settings, memo: Memo) -> Path:
    """Return the folder of a run whose config `match_to_baseline` has returned, without opening an unchanged text."""
    return run_dir(cfg, memo.call(content_of, cfg, reads=[cfg.data, cfg.tokenizer]))


def _dataset(cfg: Settings, memo: Memo) -> AnyDataset:
    return memo.call(open_dataset, cfg, reads=[cfg.data, cfg.tokenizer, cfg.eval.lengths])


def _countable(cfg: Settings, make: Callable[[Settings], Budget]) -> Budget:
    """Return the budget. Raises ConfigError for a model whose sizes torch cannot count."""
    try:
        return make(cfg)
    except (RuntimeError, TypeError, OverflowError) as e:
        if "overflow" not in str(e).lower():
            raise
        sizes = {k: v for k, v in flatten(cfg).items() if type(v) is int and k.split(".")[0] not in NOT_A_SIZE}
        key = max(sizes, key=lambda name: sizes[name])
        raise ConfigError(f"{key}={sizes[key]}: too large a model for numbers of 64 bits; set a smaller one") from e


def tracker_settings(cfg: Settings) -> WandbSettings | TrackioSettings:
    """Return the settings of the tracker that `record` names."""
    folder, project = Path(cfg.runs_dir), resolve_project(cfg.wandb.project)
    if cfg.record == "trackio":
        return TrackioSettings(folder, project)
    send = {key: cfg.wandb[key] for key in ("code", "checkpoint") if key in cfg.wandb}  # old configs have neither
    return WandbSettings(resolve_mode(cfg.wandb.mode), folder, project, cfg.wandb.entity, **send)


def open_dataset(cfg: Settings) -> AnyDataset:
    """Open the text or task that `cfg` names; tokenise a text that is not in the cache yet."""
    data = registry.build("data", cfg.data)
    with blaming():
        if isinstance(data, Task):
            return open_task(data, cfg)
        dataset = load_dataset(
            data,
            registry.build("tokenizer", cfg.tokenizer),
            window=cfg.data.window,
            val_fraction=cfg.data.val_fraction,
            shuffle_tokens=cfg.data.get("shuffle_tokens", False),  # configs of older versions do not have it
        )
    if dataset.n_val <= (longest := cfg.data.window * max(cfg.eval.lengths)):
        raise ConfigError(
            f"eval.lengths={list(cfg.eval.lengths)}: the val split has {dataset.n_val:,} tokens, no more than"
            f" {longest:,}; set shorter ones"
        )
    return dataset


def with_vocabulary(cfg: Settings, dataset: AnyDataset) -> Settings:
    """Return the config with the vocabulary's size.

    A model.vocab_size above the tokenizer's or the task's is padding; one below it raises ConfigError.
    """
    size = cfg.model.vocab_size or dataset.vocab_size
    if size < dataset.vocab_size:
        source = f"tokenizer={cfg.tokenizer.name}" if dataset.tokenizer else f"data={cfg.data.name}"
        raise ConfigError(f"model.vocab_size={size}: {source} has {dataset.vocab_size} tokens; give at least as many")
    return edit(cfg, model__vocab_size=size)
