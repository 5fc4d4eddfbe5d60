"""``LightningDataModule``: the data of a training, with its own preparation and loaders."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from leyden.errors import MisconfigurationException
from leyden.hparams import HyperparametersMixin
from leyden.module_hooks import DataHooks
from leyden.module_loading import build_from_checkpoint, class_only, read_checkpoint
from leyden.older_arguments import OF_CLASSES, mark_gone

if TYPE_CHECKING:
    from typing import Self

    from leyden.trainer import Trainer

__all__ = ["LightningDataModule"]


class LightningDataModule(DataHooks, HyperparametersMixin):
    """Data as one object: what is downloaded, split and loaded, apart from the model.

    A trainer calls `prepare_data` (one process), `setup(stage)` (every process), the loaders it needs, and
    `teardown(stage)`.

    Attributes:
        prepare_data_per_node: whether `prepare_data` runs once on every node or once in all.
        trainer: the trainer that runs, None before.

    Example:
        >>> class Numbers(LightningDataModule):
        ...     def setup(self, stage: str) -> None:
        ...         self.numbers = torch.arange(6.0)
        ...
        ...     def train_dataloader(self):
        ...         return DataLoader(self.numbers, batch_size=4)
        >>> data = Numbers()
        >>> data.setup("fit")
        >>> [len(batch) for batch in data.train_dataloader()]
        [4, 2]
    """

    prepare_data_per_node: bool = True
    allow_zero_length_dataloader_with_multiple_devices: bool = False
    trainer: Trainer | None = None

    _hparams_keys = ("datamodule_hyper_parameters", "datamodule_hparams_name", "datamodule_hparams_type")

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint should hold of this object; an empty dict is not stored."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""

    def on_exception(self, exception: BaseException) -> None:
        """Called when an entry point is cut short, before `teardown`."""

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called with a checkpoint about to be written; change it in place."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Called with a checkpoint that was read, before anything is restored."""

    @classmethod
    def from_datasets(
        cls,
        train_dataset: Any = None,
        val_dataset: Any = None,
        test_dataset: Any = None,
        predict_dataset: Any = None,
        batch_size: int = 1,
        num_workers: int = 0,
        **datamodule_kwargs: Any,
    ) -> Self:
        """Return a datamodule that loads these datasets; each may be one, or a list or dict of them.

        Training data is shuffled unless it is an ``IterableDataset``.

        Args:
            train_dataset: what `train_dataloader` loads.
            val_dataset: what `val_dataloader` loads.
            test_dataset: what `test_dataloader` loads.
            predict_dataset: what `predict_dataloader` loads.
            batch_size: samples per batch, of every loader.
            num_workers: processes that load, of every loader; 0 loads in this one.
            datamodule_kwargs: arguments of the class's own ``__init__``.
        """
        datamodule = cls(**datamodule_kwargs)
        datasets = {"train": train_dataset, "val": val_dataset, "test": test_dataset, "predict": predict_dataset}
        for stage, dataset in datasets.items():
            if dataset is not None:
                make = partial(
                    _loaders, dataset, shuffle=stage == "train", batch_size=batch_size, num_workers=num_workers
                )
                setattr(datamodule, f"{stage}_dataloader", make)
        return datamodule

    @class_only
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: str | os.PathLike[str] | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Self:
        """Build the datamodule from a checkpoint: from its hyperparameters, then with its state.

        Arguments and errors are those of ``LightningModule.load_from_checkpoint``.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location, weights_only)
        datamodule = build_from_checkpoint(cls, checkpoint, hparams_file, kwargs)
        state = checkpoint.get(cls.__qualname__)
        if state:
            datamodule.load_state_dict(state)
        return datamodule

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("trainer", None)
        return state


mark_gone(
    LightningDataModule,
    dict.fromkeys(OF_CLASSES, "write parser.add_argument(...) for what you want to give, and call the class with it"),
)


def _loaders(dataset: Any, *, shuffle: bool, batch_size: int, num_workers: int) -> Any:
    make = partial(_loaders, shuffle=shuffle, batch_size=batch_size, num_workers=num_workers)
    if isinstance(dataset, Mapping):
        return {name: make(member) for name, member in dataset.items()}
    if isinstance(dataset, Sequence) and not isinstance(dataset, str):
        return [make(member) for member in dataset]
    if not hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset):
        raise MisconfigurationException(
            f"from_datasets got {dataset!r} ({type(dataset).__name__}); expected a "
            "torch.utils.data.Dataset, or a list or dict of them."
        )
    shuffled = shuffle and not isinstance(dataset, IterableDataset)
    return DataLoader(
        dataset, batch_size=batch_size, shuffle=shuffled, num_workers=num_workers, pin_memory=torch.cuda.is_available()
    )
