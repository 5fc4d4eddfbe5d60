"""What can be known to be wrong with a module before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from leyden.errors import MisconfigurationException
from leyden.hooks.checks import check_datamodule, check_module
from leyden.loops.sources import has_loader

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["missing_for_fit", "verify"]

_FORMS = {
    "train_dataloader": "fit(model, train_dataloaders=loader)",
    "val_dataloader": "validate(model, dataloaders=loader)",
    "test_dataloader": "test(model, dataloaders=loader)",
    "predict_dataloader": "predict(model, dataloaders=loader)",
}


def verify(trainer: Trainer) -> None:
    """Raise a `MisconfigurationException` for a module that cannot do what the entry point asks of it."""
    module, fn = trainer.lightning_module, str(trainer.state.fn)
    check_module(module)
    if trainer.datamodule is not None:
        check_datamodule(trainer.datamodule)
    if fn == "fit":
        _verify_fit(trainer)
        return
    loader = {"validate": "val_dataloader"}.get(fn, f"{fn}_dataloader")
    if fn != "predict":
        _need_step(trainer, {"validate": "validation_step"}.get(fn, f"{fn}_step"), f"`Trainer.{fn}`")
    _need_loader(trainer, loader)
    if fn == "predict":
        _need_predictions(trainer)


def _verify_fit(trainer: Trainer) -> None:
    module, settings = trainer.lightning_module, trainer.settings
    for missing in missing_for_fit(type(module), trainer.module_overrides):
        raise MisconfigurationException(missing)
    _need_loader(trainer, "train_dataloader")
    if module.automatic_optimization:
        return
    for name, value, fix in (
        ("gradient_clip_val", settings.gradient_clip_val, "call self.clip_gradients(optimizer, ...) in training_step"),
        (
            "accumulate_grad_batches",
            settings.accumulate_grad_batches != 1 and settings.accumulate_grad_batches,
            "count batches in training_step",
        ),
    ):
        if value:
            raise MisconfigurationException(
                f"Trainer({name}={value}) steers automatic optimisation, but {type(module).__name__} has "
                f"automatic_optimization = False; {fix} instead, and leave {name} out."
            )


def missing_for_fit(cls: type, has: Callable[[str], bool]) -> Iterator[str]:
    """Yield what `Trainer.fit` would say a module lacks; `has` tells which hooks it overrides."""
    if not has("training_step"):
        yield _missing_step(cls, "training_step", "`Trainer.fit`")
    if not has("configure_optimizers"):
        yield (
            f"{cls.__name__} has no configure_optimizers, so fit has nothing to step. Define it, e.g. "
            "`def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=0.1)`; return None from it "
            "to train without an optimizer."
        )


def _need_step(trainer: Trainer, name: str, where: str) -> None:
    if not trainer.module_overrides(name):
        raise MisconfigurationException(_missing_step(type(trainer.lightning_module), name, where))


def _missing_step(cls: type, name: str, where: str) -> str:
    return (
        f"{cls.__name__} has no {name}, which {where} calls for each batch; define "
        f"`def {name}(self, batch, batch_idx)`."
    )


def _need_predictions(trainer: Trainer) -> None:
    """`predict_step` calls the module itself, which torch refuses where there is no `forward`."""
    module = trainer.lightning_module
    if not (trainer.module_overrides("predict_step") or trainer.module_overrides("forward")):
        raise MisconfigurationException(
            f"{type(module).__name__} has neither predict_step nor forward, of which `Trainer.predict` needs one; "
            "define `def predict_step(self, batch, batch_idx)`, or `def forward(self, batch)`."
        )


def _need_loader(trainer: Trainer, name: str) -> None:
    if not has_loader(trainer, name):
        raise MisconfigurationException(
            f"no {name}: pass one as `trainer.{_FORMS[name]}`, or define {name}() in "
            f"{type(trainer.lightning_module).__name__} or in a LightningDataModule given as datamodule=."
        )
