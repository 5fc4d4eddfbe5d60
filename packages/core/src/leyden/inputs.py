"""What an entry point is given: a module, its data, and which checkpoint is meant where none is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from leyden.datamodule import LightningDataModule
from leyden.errors import MisconfigurationException, with_article
from leyden.module import LightningModule
from leyden.rank_zero import rank_zero_info

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["take_inputs"]


def take_inputs(trainer: Trainer, fn: str, model: Any, datamodule: Any, ckpt_path: Any = None, **loaders: Any) -> Any:
    """Check what `fn` was given and let the trainer have it; return the checkpoint that is meant.

    `loaders` are by the name of their hook ("train_dataloader", …), None where none was given.

    Raises:
        MisconfigurationException: the trainer is running already, or something is not what it should be or is there
            twice.
    """
    _check_idle(trainer, fn)
    for name, given in loaders.items():
        if isinstance(given, LightningDataModule):
            if datamodule is not None:
                raise MisconfigurationException(
                    f"Trainer.{fn}: a datamodule was given twice, once as {name}; give it once, as datamodule=."
                )
            datamodule, loaders[name] = given, None
    for name, given in loaders.items():
        if datamodule is not None and given is not None:
            raise MisconfigurationException(
                f"Trainer.{fn}: both a {name} and a datamodule were given; the batches can come from one of them only. "
                "Leave one out."
            )
    if fn != "fit":
        _check_not_empty(trainer, fn, loaders)
    _check_datamodule(datamodule, fn)
    if model is None and fn != "fit":
        model, ckpt_path = _of_last_run(trainer, fn, ckpt_path)
    _check_model(model, fn)
    trainer.lightning_module_or_none = model
    if datamodule is not None or any(given is not None for given in loaders.values()):
        trainer.datamodule = datamodule  # loaders that are given replace an earlier call's datamodule
    trainer.given_loaders = loaders
    return ckpt_path


def _check_idle(trainer: Trainer, fn: str) -> None:
    if trainer.running:
        raise MisconfigurationException(
            f"Trainer.{fn} was called while Trainer.{trainer.state.fn} of the same trainer is running, in "
            f"{trainer.journal.hook or 'its setup'}. Call it when that has returned, or give the module to another "
            f"trainer: Trainer(...).{fn}(module, ...); validation within fit is steered by val_check_interval and "
            "check_val_every_n_epoch."
        )


def _check_not_empty(trainer: Trainer, fn: str, loaders: dict[str, Any]) -> None:
    """Refuse an empty list of dataloaders or batches; within a fit it means that there is no validation."""
    for name, given in loaders.items():
        wanted = getattr(trainer.settings, f"limit_{name.removesuffix('_dataloader')}_batches") != 0
        if isinstance(given, list | tuple) and not given and wanted:
            raise MisconfigurationException(
                f"Trainer.{fn}(dataloaders={given!r}): there is nothing in it. Pass a DataLoader, or leave it out "
                "where the module or a datamodule has one."
            )


def _check_datamodule(datamodule: Any, fn: str) -> None:
    if datamodule is None or isinstance(datamodule, LightningDataModule):
        return
    hint = "pass loaders as dataloaders."
    if isinstance(datamodule, type) and issubclass(datamodule, LightningDataModule):
        hint = f"it is the class, give an instance: {datamodule.__name__}(...)."
    raise MisconfigurationException(
        f"Trainer.{fn}(datamodule={datamodule!r:.80}): expected a LightningDataModule; {hint}"
    )


def _of_last_run(trainer: Trainer, fn: str, ckpt_path: Any) -> tuple[LightningModule, Any]:
    module = trainer.lightning_module_or_none
    if module is None:
        raise MisconfigurationException(
            f"Trainer.{fn}() was given no model and has none from an earlier call; pass model=..."
        )
    if ckpt_path is None and any(getattr(callback, "best_model_path", "") for callback in trainer.checkpoint_callbacks):
        rank_zero_info(
            f"Trainer.{fn}() without a model uses the best checkpoint of the last fit; pass the model to use its "
            "weights as they are."
        )
        ckpt_path = "best"
    return module, ckpt_path


def _check_model(model: Any, fn: str) -> None:
    if isinstance(getattr(model, "_orig_mod", None), LightningModule):
        raise MisconfigurationException(
            f"Trainer.{fn}: the model is a compiled LightningModule; compile the network inside it instead: "
            "self.net = torch.compile(self.net)."
        )
    if not isinstance(model, LightningModule):
        hint = ""
        if isinstance(model, type) and issubclass(model, LightningModule):
            hint = f" It is the class; give an instance: {model.__name__}(...)."
        elif isinstance(model, nn.Module):
            hint = " Wrap it: put it into a LightningModule's __init__ and write training_step."
        elif isinstance(model, LightningDataModule):
            hint = " The model comes first, the data after it."
        raise MisconfigurationException(
            f"Trainer.{fn}(model={model!r:.80}): expected a LightningModule, got "
            f"{with_article(type(model).__name__)}.{hint}"
        )
    if not isinstance(vars(model).get("_parameters"), dict):
        raise MisconfigurationException(
            f"{type(model).__name__}.__init__ did not call super().__init__(); call it first in __init__."
        )
