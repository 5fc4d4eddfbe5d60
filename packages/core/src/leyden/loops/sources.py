"""Where dataloaders come from: what was passed to the entry point, else the datamodule, else the module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from leyden.data.indices import recording
from leyden.data.loaders import check_loader
from leyden.data.sources import EvalSource, TrainSource
from leyden.overrides import is_overridden

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["has_loader", "request_eval_source", "request_loader", "request_train_source"]


def has_loader(trainer: Trainer, name: str) -> bool:
    """Whether somebody gives the dataloader `name` ("train_dataloader", "val_dataloader", …); nothing is called."""
    return trainer.given_loaders.get(name) is not None or _provider(trainer, name) is not None


def request_loader(trainer: Trainer, name: str) -> Any:
    """Return the dataloader `name`, calling the hook of that name where none was passed.

    Raises:
        MisconfigurationException: there is none, or it is nothing that can be iterated.
    """
    given = trainer.given_loaders.get(name)
    if given is None:
        provider = _provider(trainer, name)
        if provider is not None:
            trainer.journal.hook = name
            given = getattr(provider, name)()
    check_loader(given, name)
    return given


def request_train_source(trainer: Trainer) -> TrainSource:
    """Return what training reads, limited as the settings say, with the strategy's samplers in it."""
    settings = trainer.settings
    return TrainSource(
        request_loader(trainer, "train_dataloader"),
        limit=settings.limit_train_batches,
        overfit=settings.overfit_batches,
        prepare=_preparation(trainer, "train"),
    )


def request_eval_source(trainer: Trainer, stage: str, *, record_indices: bool = False) -> EvalSource:
    """Return what "validate", "test" or "predict" reads, as `request_train_source` does for training.

    With `record_indices` each loader has a recorder that `leyden.data.indices.recorder_of` finds, where it can.
    """
    settings, short = trainer.settings, "val" if stage == "validate" else stage
    return EvalSource(
        request_loader(trainer, f"{short}_dataloader"),
        limit=getattr(settings, f"limit_{short}_batches"),
        stage=stage,
        overfit=settings.overfit_batches if stage == "validate" else 0,
        prepare=_preparation(trainer, stage, record_indices=record_indices),
    )


def _preparation(trainer: Trainer, stage: str, *, record_indices: bool = False) -> Any:
    prepare: Callable[[Any], Any] | None = None
    if trainer.settings.use_distributed_sampler:
        prepare = partial(trainer.strategy.prepare_loader, stage=stage)
    if not record_indices:
        return prepare
    return recording if prepare is None else lambda loader: recording(prepare(loader))


def _provider(trainer: Trainer, name: str) -> Any:
    datamodule, module = trainer.datamodule, trainer.lightning_module
    if datamodule is not None and is_overridden(name, datamodule):
        return datamodule
    return module if is_overridden(name, module) else None
