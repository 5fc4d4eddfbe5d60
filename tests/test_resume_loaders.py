"""Exact resume with every kind of dataloader: workers, loaders with state, iterables, combinations."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, IterableDataset

from leyden import CombinedLoader, LightningModule

Resumes = Callable[..., int]


class Items(Dataset[Tensor]):
    """Items that depend on their index alone."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Tensor:
        return torch.linspace(0, 1, 4) * (index + 1) / self.length


class Stream(IterableDataset[Tensor]):
    """The same as a stream without a length."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __iter__(self) -> Iterator[Tensor]:
        for index in range(self.length):
            yield Items(self.length)[index]


class StreamWithState:
    """Batches that it shuffles itself, anew each epoch, and a place that it knows."""

    def __init__(self, batches: int) -> None:
        self.batches = batches
        self.epoch, self.place, self.resumed = 0, 0, False

    def __iter__(self) -> Iterator[Tensor]:
        if not self.resumed:
            self.place = 0
        self.resumed = False
        order = torch.randperm(self.batches, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.place < self.batches:
            self.place += 1
            yield Items(self.batches)[order[self.place - 1]].unsqueeze(0)
        self.epoch, self.place = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "place": self.place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.place, self.resumed = state["epoch"], state["place"], True


class StreamWithStateAndLength(StreamWithState):
    def __len__(self) -> int:
        return self.batches


class Net(LightningModule):
    """Dropout in training and random numbers in validation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3), nn.Linear(3, 1))
        self.seen: list[list[float]] = []

    def loss(self, batch: Any) -> Tensor:
        parts = [part for part in tree_leaves(batch) if part is not None]
        self.seen.append([float(part.sum()) for part in parts])
        return torch.stack([cast(Tensor, self.net(part)).pow(2).mean() for part in parts]).sum()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val", self.loss(batch) + torch.rand(()), on_step=True, on_epoch=True, batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def shuffled(length: int = 10, **arguments: Any) -> DataLoader[Tensor]:
    return DataLoader(Items(length), batch_size=2, shuffle=True, **arguments)


def stateful(dataset: Any, workers: int, shuffle: bool = True) -> Any:
    module = pytest.importorskip("torchdata.stateful_dataloader")
    with warnings.catch_warnings(action="ignore"):  # it calls what torch has deprecated
        return module.StatefulDataLoader(dataset, batch_size=2, shuffle=shuffle, num_workers=workers)


def fit_of(train: Callable[[], Any], val: Callable[[], Any] | None = None) -> Callable[[], dict[str, Any]]:
    return lambda: {"module": Net(), "train": train(), "val": val and val()}


@pytest.mark.parametrize("persistent", [False, True])
def test_workers(resumes_exactly: Resumes, persistent: bool) -> None:
    def loader(length: int) -> DataLoader[Tensor]:
        return shuffled(length, num_workers=2, persistent_workers=persistent)

    build = fit_of(lambda: loader(6), lambda: [loader(4)])
    assert resumes_exactly(build, slice(1, None, 6), max_epochs=2)


def test_a_stateful_dataloader(resumes_exactly: Resumes) -> None:
    build = fit_of(lambda: stateful(Items(10), 0), lambda: stateful(Items(4), 0))
    assert resumes_exactly(build, slice(0, None, 3), max_epochs=3, val_check_interval=2) > 10


def test_a_stateful_dataloader_with_workers(resumes_exactly: Resumes) -> None:
    build = fit_of(lambda: stateful(Items(6), 2), lambda: stateful(Items(4), 2))
    assert resumes_exactly(build, slice(1, None, 6), max_epochs=2)


def test_a_stateful_dataloader_of_unknown_length(resumes_exactly: Resumes) -> None:
    build = fit_of(lambda: stateful(Stream(10), 0, shuffle=False), lambda: stateful(Stream(4), 0, shuffle=False))
    assert resumes_exactly(build, slice(0, None, 3), max_epochs=3, val_check_interval=2) > 10


def test_stateful_dataloaders_together(resumes_exactly: Resumes) -> None:
    build = fit_of(lambda: {"long": stateful(Items(10), 0), "short": stateful(Items(6), 0)}, lambda: [shuffled(4)])
    assert resumes_exactly(build, slice(0, None, 3), max_epochs=3)


@pytest.mark.parametrize("kind", [StreamWithState, StreamWithStateAndLength])
def test_an_iterable_with_state(resumes_exactly: Resumes, kind: type[StreamWithState]) -> None:
    build = fit_of(lambda: kind(5), lambda: kind(3))
    assert resumes_exactly(build, slice(0, None, 3), max_epochs=3, val_check_interval=2) > 10
    assert resumes_exactly(build, slice(1, None, 3), max_epochs=3, limit_train_batches=4, limit_val_batches=2) > 5


def test_an_iterable_without_state_is_read_up_to_the_place(resumes_exactly: Resumes) -> None:
    def stream(length: int) -> DataLoader[Tensor]:
        return DataLoader(Stream(length), batch_size=2)

    build = fit_of(lambda: stream(10), lambda: stream(4))
    assert resumes_exactly(build, max_epochs=2, val_check_interval=2, warns="cannot say where it stands") > 10


def test_a_list_of_batches_is_cut_without_a_warning(resumes_exactly: Resumes) -> None:
    batches = [item.unsqueeze(0) for item in [Items(5)[index] for index in range(5)]]
    assert resumes_exactly(fit_of(lambda: batches, lambda: batches[:3]), max_epochs=2) > 10


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle", "sequential"])
def test_combined_loaders(resumes_exactly: Resumes, mode: Any) -> None:
    def combined(stream: bool) -> CombinedLoader:
        other = StreamWithState(3 if mode == "max_size_cycle" else 2) if stream else shuffled(4)
        return CombinedLoader({"a": shuffled(8), "b": [shuffled(6), other]}, mode)

    def fit(stream: bool) -> Callable[[], dict[str, Any]]:
        return fit_of(lambda: combined(stream), lambda: CombinedLoader([shuffled(4), shuffled(6)], mode))

    assert resumes_exactly(fit(False), slice(0, None, 3), max_epochs=2, val_check_interval=2) >= 4
    assert resumes_exactly(fit(True), slice(1, None, 3), max_epochs=3, accumulate_grad_batches=2) >= 5


def test_loaders_that_are_loaded_anew(resumes_exactly: Resumes) -> None:
    class Growing(Net):
        def train_dataloader(self) -> Any:
            return shuffled(4 + 2 * self.trainer.current_epoch)

        def val_dataloader(self) -> Any:
            return shuffled(2 + 2 * self.trainer.current_epoch)

    def build() -> dict[str, Any]:
        return {"module": Growing()}

    assert resumes_exactly(build, slice(1, None, 2), max_epochs=4, reload_dataloaders_every_n_epochs=1) > 8
    assert resumes_exactly(build, slice(0, None, 3), max_epochs=5, reload_dataloaders_every_n_epochs=2) > 5


class EpochsOfItsOwn:
    """Counts its epochs, when one begins or when one ends, and draws its order by them."""

    def __init__(self, batches: int, counts_at: str) -> None:
        self.batches, self.counts_at = batches, counts_at
        self.epoch, self.place, self.over, self.resumed = 0, 0, True, False

    def __iter__(self) -> Iterator[Tensor]:
        if self.over or not self.resumed:
            self.epoch += self.counts_at == "start"
            self.place = 0
        self.over = self.resumed = False
        return self.rest()

    def rest(self) -> Iterator[Tensor]:
        order = torch.randperm(self.batches, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.place < self.batches:
            self.place += 1
            yield Items(self.batches)[order[self.place - 1]].unsqueeze(0)
        self.epoch += self.counts_at == "end"
        self.over = True

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "place": self.place, "over": self.over}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch, self.place, self.over = state["epoch"], state["place"], state["over"]
        self.resumed = True


class EpochsOfItsOwnAndLength(EpochsOfItsOwn):
    def __len__(self) -> int:
        return self.batches


@pytest.mark.parametrize("counts_at", ["start", "end"])
@pytest.mark.parametrize("kind", [EpochsOfItsOwn, EpochsOfItsOwnAndLength])
@pytest.mark.parametrize(
    ("mode", "lengths"),
    [("min_size", (4, 4)), ("max_size", (3, 5)), ("max_size_cycle", (3, 4)), ("sequential", (3, 5))],
)
def test_a_member_that_is_left_at_its_last_batch_is_in_the_same_epoch(
    resumes_exactly: Resumes, kind: type[EpochsOfItsOwn], counts_at: str, mode: Any, lengths: tuple[int, int]
) -> None:
    """A combination need not ask a loader whether there is more: that one has not come to its end."""

    def build() -> dict[str, Any]:
        return {"module": Net(), "train": CombinedLoader([kind(length, counts_at) for length in lengths], mode)}

    assert resumes_exactly(build, slice(1, None, 4), max_epochs=3) >= 3
