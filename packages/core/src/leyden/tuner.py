"""The Tuner: searches for a learning rate or a batch size before a training, with the callbacks that do it within."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from leyden.errors import MisconfigurationException, did_you_mean
from leyden.inputs import take_inputs
from leyden.lifecycle import run
from leyden.run_state import TrainerFn
from leyden.state.remembered import Remembered
from leyden.trainer import Trainer

if TYPE_CHECKING:
    from leyden.callback import Callback
    from leyden.datamodule import LightningDataModule
    from leyden.module import LightningModule
    from leyden_optim.batch_size_finder import BatchSizeFinder
    from leyden_optim.learning_rate_finder import LearningRateFinder
    from leyden_optim.learning_rate_search import LearningRateSearch

__all__ = ["Tuner"]

_LOADERS = {"validate": "val_dataloader", "test": "test_dataloader", "predict": "predict_dataloader"}


class Tuner:
    """Searches beside a trainer: its settings hold, its callbacks and loggers hear nothing, and it is as before.

    Where callbacks decide what is trained (finetuning, pruning, quantisation), put the finder among them instead:
    ``Trainer(callbacks=[LearningRateFinder(), ...])``.

    Example:
        >>> from leyden.testing import BoringModule
        >>> module = BoringModule()
        >>> module.lr = 0.1
        >>> tuner = Tuner(Trainer(max_epochs=1, logger=False, discover_callbacks=False))
        >>> found = tuner.lr_find(module, min_lr=1e-4, num_training=30)
        >>> module.lr == found.suggestion()
        True
    """

    def __init__(self, trainer: Trainer) -> None:
        if not isinstance(trainer, Trainer):
            raise MisconfigurationException(f"Tuner({trainer!r:.80}): expected a leyden.Trainer.")
        self._trainer = trainer

    def lr_find(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        method: Literal["fit"] = "fit",
        min_lr: float = 1e-8,
        max_lr: float = 1,
        num_training: int = 100,
        mode: Literal["exponential", "linear"] = "exponential",
        early_stop_threshold: float | None = 4.0,
        update_attr: bool = True,
        attr_name: str = "",
    ) -> LearningRateSearch | None:
        """Return the losses at learning rates from `min_lr` to `max_lr`; None with `fast_dev_run`.

        The arguments are those of `LearningRateFinder`, `num_training` being its `num_training_steps`.
        """
        from leyden.callbacks import LearningRateFinder

        if method != "fit":
            raise MisconfigurationException(f"Tuner.lr_find(method={method!r}): expected 'fit', which alone trains.")
        finder = LearningRateFinder(
            min_lr, max_lr, num_training, mode, early_stop_threshold, update_attr=update_attr, attr_name=attr_name
        )
        self._search(finder, "lr_find", model, train_dataloaders, val_dataloaders, dataloaders, datamodule, method)
        return finder.optimal_lr

    def scale_batch_size(
        self,
        model: LightningModule,
        train_dataloaders: Any = None,
        val_dataloaders: Any = None,
        dataloaders: Any = None,
        datamodule: LightningDataModule | None = None,
        method: Literal["fit", "validate", "test", "predict"] = "fit",
        mode: Literal["power", "binsearch"] = "power",
        steps_per_trial: int = 3,
        init_val: int = 2,
        max_trials: int = 25,
        batch_arg_name: str = "batch_size",
        margin: float = 0.05,
        max_val: int = 8192,
    ) -> int | None:
        """Return the largest batch size that fits into memory; None with `fast_dev_run`.

        The arguments are those of `BatchSizeFinder`; `method` says which entry point's batches are to fit.
        """
        from leyden.callbacks import BatchSizeFinder

        finder = BatchSizeFinder(mode, steps_per_trial, init_val, max_trials, batch_arg_name, margin, max_val)
        self._search(
            finder, "scale_batch_size", model, train_dataloaders, val_dataloaders, dataloaders, datamodule, method
        )
        return finder.optimal_batch_size

    def _search(
        self, finder: LearningRateFinder | BatchSizeFinder, search: str, model: Any, train_dataloaders: Any,
        val_dataloaders: Any, dataloaders: Any, datamodule: Any, method: str,
    ) -> None:  # fmt: skip
        """Let `finder` search where the loop of an entry point would be, and do what it found to the module."""
        fn = _function(method, search)
        if fn is TrainerFn.FITTING:
            loaders = {"train_dataloader": train_dataloaders, "val_dataloader": val_dataloaders}
            wrong, right = dataloaders, "train_dataloaders and val_dataloaders"
        else:
            loaders = {_LOADERS[method]: dataloaders}
            wrong, right = (val_dataloaders if train_dataloaders is None else train_dataloaders), "dataloaders"
        if wrong is not None:
            raise MisconfigurationException(f"Tuner.{search}(method={method!r}): give loaders as {right}.")
        self._refuse_second(finder, search)
        aside = self._trainer.aside([])
        take_inputs(aside, method, model, datamodule, **loaders)
        before = Remembered(model, aside.datamodule)
        try:
            run(aside, fn, partial(_search_within, finder, aside, method), None, None)
        finally:
            before.put_back()
        finder.update(model, aside.datamodule)

    def _refuse_second(self, finder: Callback, search: str) -> None:
        if any(isinstance(callback, type(finder)) for callback in self._trainer.callbacks):
            name = type(finder).__name__
            raise MisconfigurationException(
                f"Tuner.{search}: the trainer has a {name} among its callbacks, which searches when it runs; leave one "
                "of the two out."
            )


def _search_within(finder: LearningRateFinder | BatchSizeFinder, trainer: Trainer, method: str) -> None:
    module = trainer.lightning_module
    finder.setup(trainer, module, method)
    finder.search(trainer, module)


def _function(method: str, search: str) -> TrainerFn:
    try:
        return TrainerFn(method)
    except ValueError:
        names = [str(fn) for fn in TrainerFn]
        raise MisconfigurationException(
            f"Tuner.{search}(method={method!r}): expected one of {', '.join(names)}.{did_you_mean(str(method), names)}"
        ) from None
