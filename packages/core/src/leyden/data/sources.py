"""What a run reads: the loaders of a stage, checked, limited and ready to iterate."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from leyden.data.combined import CombinedLoader, Mode
from leyden.data.loaders import (
    check_loader,
    flatten_loaders,
    is_collection,
    limit_batches,
    loader_length,
    map_loaders,
    seed_workers,
    set_epoch,
)
from leyden.data.resumable import ResumableLoader
from leyden.data.samplers import as_first_process, overfit_loader
from leyden.errors import MisconfigurationException, with_article

__all__ = ["EvalSource", "TrainSource"]

_SHORT_STAGE = {"train": "train", "sanity": "val", "validate": "val", "test": "test", "predict": "predict"}


class TrainSource:
    """What training reads in one epoch: ``iter(source)`` gives plain batches, at most `num_batches`.

    `loaders` is one loader, a collection (read as ``CombinedLoader(…, "max_size_cycle")``) or a `CombinedLoader`.
    `limit` is a number of batches or a fraction, see `limit_batches`; `overfit` the Trainer's `overfit_batches`, which
    turns shuffling off and limits where `limit` does not. `prepare` gets each single loader and returns the one to
    read instead; a strategy puts its sampler in there.

    Attributes:
        loaders: as given, with the loaders that were prepared.
        num_batches: batches of an epoch at most, ``math.inf`` when unknown.
        length_known: whether the loaders say how many they have; else there may be fewer than `num_batches`.

    Raises:
        MisconfigurationException: no loader, one that cannot be read or says it is empty, or a limit that cannot work.

    Example:
        >>> source = TrainSource([range(4), range(2)], limit=3)
        >>> source.num_batches, list(source)
        (3, [[0, 0], [1, 1], [2, 0]])
    """

    __slots__ = ("_all_of_it", "_single", "_start", "_whole", "length_known", "loaders", "name", "num_batches")

    def __init__(
        self,
        loaders: object,
        *,
        limit: int | float | None = None,
        overfit: int | float = 0,
        prepare: Callable[[Any], Any] | None = None,
        name: str = "train_dataloader",
    ) -> None:
        self.name = name
        check_loader(loaders, name)
        self.loaders = _prepared(loaders, name, overfit, prepare)
        whole: Any = CombinedLoader(self.loaders, "max_size_cycle") if is_collection(self.loaders) else self.loaders
        length = loader_length(whole)
        argument = _limit_argument(limit, overfit, "limit_train_batches")
        self.length_known = length is not None and length != math.inf
        self.num_batches = limit_batches(_effective(limit, overfit), length, argument)
        if self.num_batches == 0 and length == 0 and limit != 0:
            raise _nothing_in(whole, name)
        self._whole = _resumable(self.loaders, "max_size_cycle")
        self._start = _starter(self._whole)
        self._single = _single_loaders(self.loaders)  # found once: a long list of batches is slow to look through
        # A list gives exactly what it says; any other loader may give more than its length.
        exact = type(whole) in (list, tuple) or _has_own_state(self._whole)
        self._all_of_it = self.num_batches == math.inf or (exact and self.num_batches == length)

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch to samplers and datasets that want to know it."""
        for loader in self._single:
            set_epoch(loader, epoch)

    def __iter__(self) -> Iterator[Any]:
        if self._all_of_it:
            return self._start()
        return islice(self._start(), int(self.num_batches)) if self.num_batches else iter(())

    def draws(self) -> list[dict[str, Any]]:
        """Return, per loader, what of its own decides its draws and outlives an epoch: generators, workers."""
        return [reader.draws() for reader in _single_loaders(self._whole)]

    def set_draws(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Put back what `draws` returned."""
        for reader, state in zip(_single_loaders(self._whole), states, strict=False):
            reader.set_draws(state)

    def resume(self, state: Mapping[str, Any]) -> Iterator[Any]:
        """Return the rest of the epoch in which `state` was made; what was read before is not read again.

        Where the place is None, as in a checkpoint of Lightning, the order is drawn anew, and as many are read and
        left out.
        """
        if not state["batches"]:
            return iter(self)
        left = self.num_batches - int(state["batches"])
        if not left and not self._all_of_it:  # a state that nobody goes on from would be taken by the next epoch
            return iter(())
        if state["place"] is not None:
            self._whole.load_state_dict(state["place"])
        rest = self._start()
        if state["place"] is None:
            rest = islice(rest, int(state["batches"]), None)
        return rest if self._all_of_it else islice(rest, int(left))

    def state_dict(self, batches: int) -> dict[str, Any]:
        """Return the place in the epoch after `batches` batches, as plain data."""
        place = self._whole.state_dict() if self.counts_itself else self._whole.state_dict(batches)
        return {"batches": batches, "place": place}

    def come_to_its_end(self, state: Mapping[str, Any]) -> None:
        """Let a loader that knows its place see its end, where `state` was made when it had given its last batch."""
        if self.length_known and self._all_of_it and _has_own_state(self._whole):
            for _ in self.resume(state):
                pass

    @property
    def counts_itself(self) -> bool:
        """Whether the place is where the loaders stand, which is one batch on where the next was read ahead."""
        return isinstance(self._whole, CombinedLoader) or self._whole.has_own_state

    def nothing_read_error(self) -> MisconfigurationException:
        """Return the error for an epoch that should have had batches and gave none; for loaders of unknown length."""
        return _nothing_in(self.loaders, self.name)


class EvalSource:
    """What validation, test or prediction reads: several loaders, one after the other.

    ``iter(source)`` gives ``(dataloader_idx, iterator of batches)`` per loader. `loaders` is one loader, a collection
    (nested ones are flattened) or a `CombinedLoader`; one of another mode than "sequential" is a single loader of
    combined batches. The other arguments are as for `TrainSource`; `limit` holds for each loader.

    Attributes:
        loaders: the loaders, in order, with those that were prepared.
        num_batches: batches of each, ``math.inf`` where unknown.
        several: whether there is more than one, so that steps and hooks get a `dataloader_idx`.

    Example:
        >>> source = EvalSource([range(3), range(5)], limit=2, stage="validate")
        >>> [(index, list(batches)) for index, batches in source]
        [(0, [0, 1]), (1, [0, 1])]
    """

    __slots__ = ("_single", "_whole", "loaders", "num_batches", "several")

    def __init__(
        self,
        loaders: object,
        *,
        limit: int | float | None = None,
        stage: str,
        overfit: int | float = 0,
        prepare: Callable[[Any], Any] | None = None,
    ) -> None:
        short = _SHORT_STAGE[stage]
        name = f"{short}_dataloader"
        found, own_limits = self._members(loaders, name)
        self.loaders = [_prepared(loader, name, overfit, prepare) for loader in found]
        self._whole = [_resumable(loader, "min_size") for loader in self.loaders]
        self._single = [single for loader in self.loaders for single in _single_loaders(loader)]
        self.several = len(self.loaders) > 1
        argument = _limit_argument(limit, overfit, f"limit_{short}_batches")
        self.num_batches: list[int | float] = []
        for index, loader in enumerate(self.loaders):
            length = loader_length(loader)
            with as_first_process(_single_loaders(loader)):
                most = loader_length(loader)
            batches = limit_batches(_effective(limit, overfit), most, argument)
            if most == 0 and limit != 0:
                raise _nothing_in(loader, f"{name}[{index}]" if self.several else name)
            own_limit = own_limits[index] if own_limits is not None else None
            batches = batches if own_limit is None else min(batches, own_limit)
            self.num_batches.append(batches if length is None else min(batches, length))

    def _members(self, loaders: object, name: str) -> tuple[list[Any], list[int | float | None] | None]:
        if isinstance(loaders, (list, tuple)) and not loaders:
            return [], None  # what a hook returns that has nothing to evaluate on
        check_loader(loaders, name)
        if isinstance(loaders, CombinedLoader) and loaders.mode == "sequential":
            return loaders.flattened, loaders.limits
        return flatten_loaders(loaders)[0] if is_collection(loaders) else [loaders], None

    def first(self, n_batches: int | float) -> EvalSource:
        """Return a source that reads at most `n_batches` of each of these loaders; for the sanity check."""
        shorter = copy.copy(self)
        shorter.num_batches = [min(batches, n_batches) for batches in self.num_batches]
        return shorter

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch to samplers and datasets that want to know it."""
        for loader in self._single:
            set_epoch(loader, epoch)

    def draws(self) -> list[dict[str, Any]]:
        """Return, per loader, what of its own decides its draws and outlives a pass: generators, workers."""
        return [reader.draws() for reader in self._readers()]

    def set_draws(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Put back what `draws` returned."""
        for reader, state in zip(self._readers(), states, strict=False):
            reader.set_draws(state)

    def _readers(self) -> list[Any]:
        return [single for loader in self._whole for single in _single_loaders(loader)]

    def __iter__(self) -> Iterator[tuple[int, Iterator[Any]]]:
        return self.resume(None)

    def resume(self, state: Mapping[str, Any] | None) -> Iterator[tuple[int, Iterator[Any]]]:
        """Iterate over what is left since `state` was made: the rest of its loader, then the loaders after it."""
        first, done = (0, 0) if state is None else (int(state["dataloader_idx"]), int(state["batches"]))
        for index, (loader, batches) in enumerate(zip(self._whole, self.num_batches, strict=True)):
            if index < first:
                continue
            if state is not None and index == first:
                batches -= done
            # A loader that knows its place comes to its end by itself, and is to see it.
            ends = _has_own_state(loader) and self.num_batches[index] == loader_length(loader.loader)
            if state is not None and index == first and (batches > 0 or ends):
                loader.load_state_dict(state["place"])  # one that nobody goes on from would be taken by the next pass
            if batches <= 0 and not ends:
                yield index, iter(())
            elif ends or batches == math.inf:
                yield index, _starter(loader)()
            else:
                yield index, islice(_starter(loader)(), int(batches))

    def state_dict(self, dataloader_idx: int, batches: int) -> dict[str, Any]:
        """Return the place after `batches` batches of one of the loaders, as plain data."""
        loader = self._whole[dataloader_idx]
        place = loader.state_dict() if isinstance(loader, CombinedLoader) else loader.state_dict(batches)
        return {"dataloader_idx": dataloader_idx, "batches": batches, "place": place}


def _prepared(loaders: object, name: str, overfit: int | float, prepare: Callable[[Any], Any] | None) -> Any:
    def one(loader: Any) -> Any:
        if isinstance(loader, CombinedLoader):
            return loader.with_members([one(member) for member in loader.flattened])
        if overfit:
            loader = overfit_loader(loader, name)
        if prepare is not None:
            loader = prepare(loader)
        seed_workers(loader)
        return loader

    return map_loaders(one, loaders)


def _resumable(loaders: object, mode: Mode) -> Any:
    """Wrap each single loader so that it can say where it stands; combine those of a collection."""

    def one(loader: Any) -> Any:
        if isinstance(loader, CombinedLoader):
            return loader.with_members([one(member) for member in loader.flattened])
        return ResumableLoader(loader)

    return CombinedLoader(map_loaders(one, loaders), mode) if is_collection(loaders) else one(loaders)


def _has_own_state(loader: Any) -> bool:
    return isinstance(loader, ResumableLoader) and loader.has_own_state


def _starter(loader: Any) -> Callable[[], Iterator[Any]]:
    begin: Callable[[], Iterator[Any]] = loader.batches if isinstance(loader, CombinedLoader) else loader.begin
    return begin


def _single_loaders(loaders: object) -> list[Any]:
    if isinstance(loaders, CombinedLoader):
        return [single for member in loaders.flattened for single in _single_loaders(member)]
    if is_collection(loaders):
        return [single for member in flatten_loaders(loaders)[0] for single in _single_loaders(member)]
    return [loaders]


def _effective(limit: int | float | None, overfit: int | float) -> int | float | None:
    return overfit if limit is None and overfit else limit


def _limit_argument(limit: int | float | None, overfit: int | float, name: str) -> str:
    return "overfit_batches" if overfit and (limit is None or limit == overfit) else name


def _nothing_in(loader: object, name: str) -> MisconfigurationException:
    return MisconfigurationException(
        f"`{name}` gave {with_article(type(loader).__name__)} without a single batch. Its dataset may be empty or "
        "smaller than a batch with drop_last=True, or it is an iterator that was read to its end. Give it data and "
        "make it iterable anew, or switch this stage off with its `limit_…_batches=0`."
    )
