"""Data sets, a stream and a datamodule that are small, random and the same each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from leyden.datamodule import LightningDataModule
from leyden.errors import MisconfigurationException

__all__ = ["RandomData", "RandomDataset", "RandomStream"]

_STAGES = ("train", "val", "test", "predict")


class RandomDataset(Dataset[Tensor]):
    """`length` rows of `size` standard normal numbers, the same ones each time for one `seed`.

    Example:
        >>> len(RandomDataset(4, 6)), RandomDataset(4, 6)[0].shape
        (6, torch.Size([4]))
    """

    def __init__(self, size: int, length: int, seed: int = 0) -> None:
        self.data = torch.randn(length, size, generator=torch.Generator().manual_seed(seed))

    def __getitem__(self, index: int) -> Tensor:
        row: Tensor = self.data[index]
        return row

    def __len__(self) -> int:
        return len(self.data)


class RandomStream(IterableDataset[Tensor]):
    """The rows of a `RandomDataset` one after the other, and no length: a loader of it has none either.

    Workers of a loader share the rows.

    Example:
        >>> len(list(RandomStream(4, 6)))
        6
        >>> hasattr(RandomStream(4, 6), "__len__")
        False
    """

    def __init__(self, size: int, length: int, seed: int = 0) -> None:
        self.data = RandomDataset(size, length, seed).data

    def __iter__(self) -> Iterator[Tensor]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        yield from self.data[first::step]


class RandomData(LightningDataModule):
    """Rows of standard normal numbers for every stage, as `leyden.testing.BoringModule` and its kind take them.

    Every loader has data of its own. Training batches are drawn in a random order.

    Args:
        size: numbers in a row.
        batches: of each dataloader, by stage: ``train``, ``val``, ``test``, ``predict``; the others have 2.
        batch_size: rows of a batch.
        loaders: how many dataloaders a stage has, for steps that take a ``dataloader_idx``; the others have one.
        stream: True takes `RandomStream`, so that no dataloader has a length.

    Raises:
        MisconfigurationException: a stage that there is not.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import SeveralLoadersModule
        >>> trainer = Trainer(max_epochs=1, logger=False, discover_callbacks=False)
        >>> trainer.fit(SeveralLoadersModule(), datamodule=RandomData(batches={"train": 5}, loaders={"val": 2}))
        >>> trainer.global_step, sorted(trainer.callback_metrics)
        (5, ['train_loss', 'val_loss/dataloader_idx_0', 'val_loss/dataloader_idx_1'])
    """

    def __init__(
        self,
        size: int = 4,
        batches: Mapping[str, int] | None = None,
        *,
        batch_size: int = 2,
        loaders: Mapping[str, int] | None = None,
        stream: bool = False,
    ) -> None:
        super().__init__()
        for argument, given in (("batches", batches), ("loaders", loaders)):
            for stage in given or ():
                if stage not in _STAGES:
                    raise MisconfigurationException(
                        f"RandomData({argument}={dict(given or {})!r}): there is no stage {stage!r}; "
                        f"the stages are {', '.join(_STAGES)}."
                    )
        self.size, self.batch_size, self.stream = size, batch_size, stream
        self.batches = dict.fromkeys(_STAGES, 2) | dict(batches or {})
        self.loaders = dict(loaders or {})

    def train_dataloader(self) -> Any:
        return self._loaders("train")

    def val_dataloader(self) -> Any:
        return self._loaders("val")

    def test_dataloader(self) -> Any:
        return self._loaders("test")

    def predict_dataloader(self) -> Any:
        return self._loaders("predict")

    def _loaders(self, stage: str) -> Any:
        """One loader as it is, several in a list."""
        kind = RandomStream if self.stream else RandomDataset
        shuffle = stage == "train" and not self.stream
        first_seed, rows = 1000 * _STAGES.index(stage), self.batches[stage] * self.batch_size
        made: list[DataLoader[Tensor]] = [
            DataLoader(kind(self.size, rows, first_seed + index), self.batch_size, shuffle=shuffle)
            for index in range(self.loaders.get(stage, 1))
        ]
        return made[0] if stage not in self.loaders else made
