"""Where dataloaders come from: what was passed to the entry point, else the datamodule, else the module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.data.loaders import check_loader
from leyden.overrides import is_overridden

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["has_loader", "request_loader"]


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


def _provider(trainer: Trainer, name: str) -> Any:
    datamodule, module = trainer.datamodule, trainer.lightning_module
    if datamodule is not None and is_overridden(name, datamodule):
        return datamodule
    return module if is_overridden(name, module) else None
