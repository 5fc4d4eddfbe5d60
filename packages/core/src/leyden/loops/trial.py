"""A trial: a part of a run, made beside it, that leaves no trace. Finders of learning rates and batch sizes use it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from leyden.callback import Callback
from leyden.data.combined import CombinedLoader
from leyden.data.loaders import map_loaders
from leyden.data.transfer import compile_transfer
from leyden.errors import MisconfigurationException, with_article
from leyden.loops.sources import has_loader, request_loader
from leyden.runtime.strategy import SingleDeviceStrategy, Strategy
from leyden.state.remembered import Remembered

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["EndOfTrial", "trial"]


class EndOfTrial(Exception):
    """Raised in a hook of a trial, by the one who watches it, to end it."""


@contextmanager
def trial(
    trainer: Trainer, watcher: Callback, loaders: Sequence[str], *, alone: bool = False, **settings: Any
) -> Iterator[Trainer]:
    """Yield a trainer for a trial in a hook of `trainer`, or between its loops; all is as before when it is over.

    It is ``trainer.aside([watcher])``, with the module, datamodule and optimizers of the run, whose contents are put
    back (see `Remembered`), also after an exception or Ctrl-C. It reads copies of the loaders. The module's hooks are
    called, no other callback's; what is logged goes nowhere. It has no limit of epochs or steps, does not validate, and
    steps no scheduler. `EndOfTrial` ends it.

    Args:
        watcher: the one callback of the trial.
        loaders: the hooks of the dataloaders that it reads, such as "train_dataloader".
        alone: of several processes each makes the trial for itself, and waits for no other.
        settings: of the Trainer's, for the trial.

    Raises:
        MisconfigurationException: a loader that can be read once only.
    """
    module, datamodule = trainer.lightning_module, trainer.datamodule
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    with trainer.fit_loop.marks.unwatched():
        before = Remembered(module, datamodule, trainer.precision_plugin.scaler, *trainer.optimizers, *schedulers)
        try:
            aside = trainer.aside([watcher], _of_one(trainer.strategy) if alone else None)
            module.trainer = aside
            if datamodule is not None:
                datamodule.trainer = aside
            _settle(aside, trainer, settings)
            for name in loaders:
                if has_loader(aside, name):
                    copied = partial(_copied, before)
                    aside.given_loaders[name] = map_loaders(copied, request_loader(aside, name))
            yield aside
        except EndOfTrial:
            pass
        finally:
            module.trainer = trainer
            if datamodule is not None:
                datamodule.trainer = trainer
            before.put_back()


def _of_one(strategy: Strategy) -> Strategy:
    """Return a strategy of this process alone, on its device and under its number."""
    own = SingleDeviceStrategy(strategy.root_device)
    own.precision = strategy.precision
    own.global_rank, own.local_rank, own.node_rank = strategy.global_rank, strategy.local_rank, strategy.node_rank
    return own


def _settle(aside: Trainer, trainer: Trainer, settings: dict[str, Any]) -> None:
    """Let the trial's trainer stand where the run stands."""
    module = trainer.lightning_module
    unlimited: dict[str, Any] = {
        "max_epochs": -1,
        "max_steps": -1,
        "min_epochs": None,
        "min_steps": None,
        "limit_val_batches": 0,
        "num_sanity_val_steps": 0,
        "val_check_interval": None,
        "check_val_every_n_epoch": 1,
        "log_every_n_steps": 0,
        "reload_dataloaders_every_n_epochs": 0,
    }
    for name, value in (unlimited | settings).items():
        setattr(aside.settings, name, value)
    aside.given_loaders = dict(trainer.given_loaders)
    aside.batch_transfer = compile_transfer(
        module,
        trainer.datamodule,
        trainer.strategy.root_device,
        trainer.precision_plugin.convert_input,
        aside.journal,
    )
    aside.fit_loop.epoch, aside.engine.steps = trainer.fit_loop.epoch, trainer.engine.steps
    if trainer.state.fn == "fit":
        # Only a module that steps its schedulers itself asks for them; they are remembered like the optimizers.
        by_hand = [] if module.automatic_optimization else list(trainer.lr_scheduler_configs)
        aside.optimizers, aside.lr_scheduler_configs = list(trainer.optimizers), by_hand
        aside.engine.prepare(module, aside.optimizers, aside.module_overrides)
    if trainer.journal.hook == "on_fit_start" and aside.plan.on_fit_start is not None:
        aside.plan.on_fit_start()  # the module has yet to get it: callbacks do so first


def _copied(before: Remembered, loader: Any) -> Any:
    """Return a loader of the same batches that shares neither workers, samplers nor generators with `loader`.

    What it cannot but share, such as the dataset, is remembered.
    """
    if isinstance(loader, CombinedLoader):
        return loader.with_members([_copied(before, member) for member in loader.flattened])
    before.add_data(loader)
    if callable(getattr(type(loader), "__next__", None)):
        raise MisconfigurationException(
            f"a trial cannot read {with_article(type(loader).__name__)}: it can be read once, and the training would "
            "lack what the trial has read. Give a DataLoader, a list or anything that begins anew with each iter()."
        )
    if not isinstance(loader, DataLoader):
        return loader
    copied = copy.copy(loader)
    shared: dict[int, Any] = {id(dataset): dataset for dataset in _datasets(loader.dataset)}
    for part in (loader, *_samplers(loader)):
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            own = torch.Generator(generator.device)
            own.set_state(generator.get_state())
            shared[id(generator)] = own
    own_parts = {"_iterator": None} if "_iterator" in vars(loader) else {}
    with suppress(Exception):  # a sampler that cannot be copied is shared; what it holds is remembered
        own_parts |= {name: copy.deepcopy(getattr(loader, name), shared) for name in _DRAWING}
    copied.__dict__.update(own_parts)  # DataLoader refuses to have its samplers replaced by assignment
    return copied


_DRAWING = ("generator", "sampler", "batch_sampler")


def _samplers(loader: Any) -> list[Any]:
    samplers = [loader.sampler, loader.batch_sampler]
    return [*samplers, *(getattr(sampler, "sampler", None) for sampler in samplers)]


def _datasets(dataset: Any) -> Iterator[Any]:
    """Yield a dataset and those that it is made of."""
    yield dataset
    for inner in (getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or ())):
        if inner is not None:
            yield from _datasets(inner)
