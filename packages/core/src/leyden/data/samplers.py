"""A loader with another sampler: to overfit on the same batches, or to share a dataset among processes."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from leyden.errors import MisconfigurationException, with_article
from leyden.rank_zero import rank_zero_warn
from leyden.seed import SEED_VARIABLE, isolate_rng, seed_generators

__all__ = ["as_first_process", "distributed_loader", "overfit_loader", "replace_sampler"]


def replace_sampler(loader: DataLoader[Any], sampler: Any) -> DataLoader[Any]:
    """Return a `DataLoader` like `loader` that draws from `sampler`; `loader` itself stays as it is.

    A copy, not a new instance: classes with a constructor of their own keep all they set up, and need not say how they
    are made. A batch sampler is copied with `sampler` in it. References elsewhere in the loader to the parts that
    were replaced are replaced too.

    Raises:
        MisconfigurationException: the loader has a batch sampler without a `sampler` that could be replaced.
    """
    replacements = {id(loader.sampler): sampler}
    if loader.batch_sampler is not None:
        batch_sampler: Any = loader.batch_sampler
        inner = getattr(batch_sampler, "sampler", None)
        if inner is None:
            raise MisconfigurationException(
                f"The batch sampler {type(batch_sampler).__name__} of {with_article(type(loader).__name__)} has no "
                "attribute `sampler`, so another sampler cannot be put into it. Draw indices from `self.sampler` in "
                "it, or make the batch sampler distributed yourself and set Trainer(use_distributed_sampler=False)."
            )
        replacements[id(batch_sampler)] = _copy_with(batch_sampler, {id(inner): sampler})
    return _loader_copy(loader, replacements)


def _loader_copy(loader: DataLoader[Any], replacements: dict[int, Any]) -> DataLoader[Any]:
    other: DataLoader[Any] = _copy_with(loader, replacements)
    other._iterator = None  # a running iterator with workers belongs to the original
    return other


def _copy_with(original: Any, replacements: dict[int, Any]) -> Any:
    other = copy.copy(original)
    for name, value in vars(original).items():
        if id(value) in replacements:
            vars(other)[name] = replacements[id(value)]  # DataLoader.__setattr__ refuses to change a sampler
    return other


class FrozenSampler(Sampler[Any]):
    """Gives in every epoch what `sampler` gave in the first; draws on only as far as it is read."""

    def __init__(self, sampler: Iterable[Any]) -> None:
        self.sampler = sampler
        self._drawn: list[Any] = []
        self._source: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        position = 0
        while True:
            if position == len(self._drawn):
                if self._source is None:
                    self._source = iter(self.sampler)
                try:
                    self._drawn.append(next(self._source))
                except StopIteration:
                    return
            yield self._drawn[position]
            position += 1

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]


def overfit_loader(loader: Any, name: str = "train_dataloader") -> Any:
    """Return `loader` with the same batches in every epoch, for `overfit_batches`; warns where it shuffled.

    ``shuffle=True`` becomes the dataset's order. Any other sampler, and a batch sampler of one's own, gives again what
    it gives first, so that a split made by a sampler stays that split. Loaders that have no sampler are left alone.
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    batch_sampler: Any = loader.batch_sampler
    own_batches = batch_sampler is not None and type(batch_sampler) is not torch.utils.data.BatchSampler
    sampler: Any = getattr(batch_sampler, "sampler", None) if batch_sampler is not None else loader.sampler
    if isinstance(sampler, SequentialSampler) and not own_batches:
        return loader
    if own_batches:
        if isinstance(batch_sampler, FrozenSampler):
            return loader
        replaced = _loader_copy(loader, {id(batch_sampler): FrozenSampler(batch_sampler)})
    elif isinstance(sampler, FrozenSampler):
        return loader
    elif type(sampler) is RandomSampler:
        replaced = replace_sampler(loader, SequentialSampler(loader.dataset))  # type: ignore[arg-type]
    else:
        replaced = replace_sampler(loader, FrozenSampler(sampler))
    rank_zero_warn(
        f"Trainer(overfit_batches=…) needs the same batches in every epoch: `{name}` is read without shuffling anew. "
        "Pass shuffle=False to silence this."
    )
    return replaced


def distributed_loader(loader: Any, num_replicas: int, rank: int, stage: str = "train") -> Any:
    """Return `loader` reading only the share of process `rank` among `num_replicas`.

    For "train" the shares are equally long, as processes need that train together: up to ``num_replicas - 1`` samples
    are repeated. A `DistributedSampler` takes the place of the default samplers and shuffles where they did. For
    "validate", "test" and "predict" each sample is in one share, of which the last ones may be shorter, or empty. A
    sampler of one's own is drawn alike in every process and dealt out.

    What already has a `DistributedSampler` is returned as it is; so is, with a warning, what cannot be dealt out: an
    `IterableDataset`, or a loader that is no `DataLoader`.
    """
    if num_replicas == 1:
        return loader
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        _tell_of_whole(loader, stage)
        return loader
    sampler: Any = loader.sampler if loader.batch_sampler is None else getattr(loader.batch_sampler, "sampler", None)
    if isinstance(sampler, (DistributedSampler, SharedSampler)) or isinstance(loader.batch_sampler, DistributedSampler):
        return loader
    seed = int(os.environ.get(SEED_VARIABLE, "0"))
    if stage == "train" and _is_default(sampler):
        shuffle = isinstance(sampler, RandomSampler)
        return replace_sampler(
            loader, DistributedSampler(loader.dataset, num_replicas, rank, shuffle=shuffle, seed=seed)
        )
    return replace_sampler(loader, SharedSampler(sampler, num_replicas, rank, seed=seed, repeat=stage == "train"))


def _is_default(sampler: Any) -> bool:
    """Whether `sampler` is one that a `DataLoader` makes for ``shuffle=True`` or False."""
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler._num_samples is None
    return type(sampler) is SequentialSampler


def _tell_of_whole(loader: Any, stage: str) -> None:
    if isinstance(loader, DataLoader):
        what = f"an IterableDataset ({type(loader.dataset).__name__})"
        how = (
            "in its __iter__ give every n-th sample, counting processes and workers: info = get_worker_info(); "
            "num_workers, worker = (1, 0) if info is None else (info.num_workers, info.id); islice(samples, rank * "
            "num_workers + worker, None, world_size * num_workers), with trainer.global_rank and trainer.world_size"
        )
    else:
        what, how = with_article(type(loader).__name__), "give each process its own batches, by trainer.global_rank"
    doubled = "trains on the same batches" if stage == "train" else "counts each sample again"
    rank_zero_warn(
        f"The {stage} dataloader reads {what}, which cannot be dealt out among processes: each of them reads all of it "
        f"and {doubled}, unless it is split already. To split it, {how}. Then, or where all are to read all of it, "
        "Trainer(use_distributed_sampler=False) silences this."
    )


@contextmanager
def as_first_process(loaders: Iterable[Any]) -> Iterator[None]:
    """Let loaders that are dealt out have the length that they have in process 0, which has the most."""
    holders = [holder for loader in loaders for holder in (loader, getattr(loader, "batch_sampler", None))]
    samplers = [getattr(holder, "sampler", None) for holder in holders]
    found = [sampler for sampler in samplers if isinstance(sampler, SharedSampler)]
    ranks = [sampler.rank for sampler in found]
    try:
        for sampler in found:
            sampler.rank = 0
        yield
    finally:
        for sampler, rank in zip(found, ranks, strict=True):
            sampler.rank = rank


class SharedSampler(Sampler[Any]):
    """Every `num_replicas`-th of what `sampler` draws, beginning with the one at `rank`.

    Each process draws the whole with generators seeded alike by `seed` and the epoch, so that the shares fit together
    whatever `sampler` draws from, its attribute `generator` too; the generators are then left as they were. With
    `repeat` the first drawn come again at the end until all shares are equally long, as processes that train together
    need.
    """

    def __init__(self, sampler: Iterable[Any], num_replicas: int, rank: int, *, seed: int = 0, repeat: bool) -> None:
        self.sampler = sampler
        self.num_replicas = num_replicas
        self.rank = rank
        self.seed = seed
        self.repeat = repeat
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Let the next draw be that of `epoch`."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        if type(self.sampler) is SequentialSampler and not self.repeat:
            return iter(range(self.rank, len(self.sampler), self.num_replicas))  # however large the dataset is
        with isolate_rng(include_cuda=False), _own_generator_at(self.sampler, self.seed + self.epoch):
            seed_generators(self.seed + self.epoch)
            drawn = list(self.sampler)
        if self.repeat and drawn:
            missing = -len(drawn) % self.num_replicas
            drawn += (drawn * math.ceil(missing / len(drawn)))[:missing]
        return iter(drawn[self.rank :: self.num_replicas])

    def __len__(self) -> int:
        drawn = len(self.sampler)  # type: ignore[arg-type]
        return math.ceil(drawn / self.num_replicas) if self.repeat else len(range(self.rank, drawn, self.num_replicas))


@contextmanager
def _own_generator_at(sampler: Any, seed: int) -> Iterator[None]:
    """Seed the generator that a sampler has for itself; that of torchdata's RandomSampler differs in each process."""
    generator = getattr(sampler, "generator", None)
    if not isinstance(generator, torch.Generator):
        yield
        return
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)
