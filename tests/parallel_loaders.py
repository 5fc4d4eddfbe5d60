"""Loaders of every kind, read in several processes: which rows each process gets."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from tests.parallel_data import Numbers, in_processes, trainer
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)

from leyden import Callback, LightningModule, Trainer
from leyden.data.combined import CombinedLoader

__all__ = ["TRAINED", "UNEQUAL", "predicted", "read_in_training", "read_in_validation", "read_unequal"]

SIZE = 24


class Reading(LightningModule):
    """Notes which rows it gets, per epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.rows: list[list[int]] = []
        self.validated: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.rows.append([])

    def on_validation_epoch_start(self) -> None:
        self.validated.append([])

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        batches = [one for one in batch.values() if one is not None] if isinstance(batch, dict) else [batch]
        for one in batches:
            self.rows[-1] += one[:, 0].int().tolist()
        return self.layer(batches[0]).mean()  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validated[-1] += batch[:, 0].int().tolist()

    def predict_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> list[int]:
        return batch[:, 0].int().tolist()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Split(IterableDataset[Tensor]):
    """A stream that deals itself out to processes and their workers."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __iter__(self) -> Iterator[Tensor]:
        info = get_worker_info()
        workers, worker = (1, 0) if info is None else (info.num_workers, info.id)
        return islice(iter(Numbers(SIZE).rows), self.rank * workers + worker, None, in_processes() * workers)


def _loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Numbers(SIZE), **{"batch_size": 2, **options})


def _weighted(rank: int) -> Any:
    weights, generator = [1.0 + at % 2 for at in range(SIZE)], torch.Generator().manual_seed(rank)
    return _loader(sampler=WeightedRandomSampler(weights, SIZE, replacement=False, generator=generator))


def _stateful(rank: int) -> Any:
    torchdata = importlib.import_module("torchdata.stateful_dataloader")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'set_vital' is deprecated")
        return torchdata.StatefulDataLoader(Numbers(SIZE), batch_size=2, shuffle=True)


def _distributed(rank: int) -> Any:
    data = Numbers(SIZE)
    return DataLoader(data, batch_size=2, sampler=DistributedSampler(data, in_processes(), rank, shuffle=True, seed=7))


def _persistent(rank: int) -> Any:
    # Workers are children, which daemons may not have; those that run tests are daemons, so that they end with these.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    return _loader(shuffle=True, num_workers=1, persistent_workers=True, multiprocessing_context="fork")


TRAINED: dict[str, tuple[Any, dict[str, Any]]] = {
    "in order": (lambda rank: _loader(), {}),
    "shuffled": (lambda rank: _loader(shuffle=True), {}),
    "uneven": (lambda rank: DataLoader(Numbers(5), batch_size=2), {}),
    "weighted": (_weighted, {}),
    "own batch sampler": (lambda rank: DataLoader(Numbers(SIZE), batch_sampler=_batches()), {}),
    "combined": (lambda rank: {"a": _loader(), "b": _loader(shuffle=True)}, {}),
    "combined by mode": (lambda rank: CombinedLoader([_loader()], "sequential"), {}),
    "distributed already": (_distributed, {}),
    "persistent workers": (_persistent, {}),
    "overfit": (lambda rank: _loader(shuffle=True), {"overfit_batches": 2}),
    "half": (lambda rank: _loader(shuffle=True), {"limit_train_batches": 0.5}),
    "accumulating": (lambda rank: _loader(), {"accumulate_grad_batches": 4}),
    "own split": (lambda rank: DataLoader(Split(rank), batch_size=2), {"use_distributed_sampler": False}),
    "whole": (lambda rank: _loader(), {"use_distributed_sampler": False}),
}
if importlib.util.find_spec("torchdata") is not None:
    TRAINED["stateful"] = (_stateful, {})


def _batches() -> BatchSampler:
    return BatchSampler(RandomSampler(Numbers(SIZE)), 3, drop_last=False)


def read_in_training() -> dict[str, Any]:
    """Train for two epochs on each of `TRAINED`."""
    found = {}
    for name, (make, settings) in TRAINED.items():
        module = Reading()
        run = trainer("auto", max_epochs=2, **settings)
        torch.manual_seed(run.global_rank)  # processes need not be seeded alike
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if name in ("overfit", "persistent workers") else "error")
            run.fit(module, make(run.global_rank))
        found[name] = {
            "rows": module.rows,
            "batches": run.num_training_batches,
            "estimated": run.estimated_stepping_batches,
            "steps": run.global_step,
        }
    return found


def read_in_validation() -> dict[str, Any]:
    """Validate on loaders that cannot be shared equally, with limits."""
    found: dict[str, Any] = {}
    for name, loaders, settings in (
        ("half", DataLoader(Numbers(9), batch_size=1), {"limit_val_batches": 0.5}),
        ("two", DataLoader(Numbers(9), batch_size=1), {"limit_val_batches": 2}),
        ("shuffled", DataLoader(Numbers(9), batch_size=2, shuffle=True), {}),
        ("several", [DataLoader(Numbers(3), batch_size=2), DataLoader(Numbers(4))], {}),
        ("no last batch", DataLoader(Numbers(7), batch_size=2, drop_last=True), {}),
        ("fraction of few", DataLoader(Numbers(3), batch_size=1), {"limit_val_batches": 0.5}),
        ("trained", DataLoader(Numbers(3), batch_size=1), {"overfit_batches": 1}),
    ):
        module = Reading()
        run = trainer("auto", **settings)
        run.validate(module, loaders, verbose=False)
        found[name] = {"rows": module.validated[0], "batches": run.num_val_batches}
    return found


class Indices(Callback):
    """Keeps what is told of the batches it gets."""

    wants_batch_indices = wants_predictions = True

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.epoch: list[Any] = []

    def on_predict_batch_end(self, trainer: Trainer, *args: Any) -> None:
        self.batches.append(list(trainer.predict_loop.current_batch_indices))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch = [list(one) for one in trainer.predict_loop.epoch_batch_indices]


def predicted(size: int) -> dict[str, Any]:
    """Predict on so many rows and on one, with indices."""
    indices, run = Indices(), None
    run = trainer("auto", callbacks=[indices])
    loaders = [DataLoader(Numbers(size), batch_size=2, shuffle=True), DataLoader(Numbers(1))]
    returned = run.predict(Reading(), loaders)
    return {"returned": returned, "batches": indices.batches, "epoch": indices.epoch}


class Unequal(IterableDataset[Tensor]):
    """Gives as many rows as it is told, and does not say so."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __iter__(self) -> Iterator[Tensor]:
        return iter(Numbers(self.size).rows)


class Promising(Unequal):
    """Says that it has more than it gives."""

    def __len__(self) -> int:
        return 10


UNEQUAL: dict[str, tuple[Any, tuple[int, int], dict[str, Any]]] = {
    "the first has more": (Unequal, (10, 6), {}),
    "the second has more, in an open window": (Unequal, (6, 10), {"accumulate_grad_batches": 4}),
    "one has less than it says": (Promising, (6, 10), {}),
}
"""Streams of different lengths: what they are, how many rows each process has, the trainer's arguments."""


def read_unequal(name: str) -> dict[str, Any]:
    """Train on such streams; return what is raised, and after how many batches."""
    kind, sizes, settings = UNEQUAL[name]
    run = trainer("auto", max_epochs=2, use_distributed_sampler=False, **settings)
    try:
        run.fit(Reading(), DataLoader(kind(sizes[run.global_rank]), batch_size=2))
    except Exception as error:
        return {"raised": type(error).__name__, "text": str(error), "batches": run.fit_loop.batches_seen}
    return {"raised": "", "text": "", "batches": run.fit_loop.batches_seen}
