"""Dataloaders that can go on where a checkpoint was made, without reading again what was read before."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from leyden.data.loaders import loader_length
from leyden.data.samplers import SharedSampler
from leyden.errors import with_article
from leyden.rank_zero import rank_zero_warn
from leyden.state.rng import collect_rng, restore_rng

__all__ = ["ResumableLoader", "generator_states", "set_generator_states"]


class ResumableLoader:
    """Iterates over a loader and knows what it takes to be there again in another process.

    A loader with ``state_dict`` and ``load_state_dict`` (torchdata's ``StatefulDataLoader``) resumes by its own state.
    A ``DataLoader`` over a map-style dataset draws its indices anew, from the random state in which they were drawn
    first, and leaves those behind that were read before: nothing is read twice. Sequences are cut. Anything else is
    read up to the place, with a warning.

    With ``num_workers > 0`` the workers of a resumed epoch start with fresh generators: a dataset that draws random
    numbers in its workers (augmentation) repeats exactly only where a ``StatefulDataLoader`` asks it for a state of
    its own, with its generator in it.

    Example:
        >>> loader = DataLoader(range(6), batch_size=2, shuffle=True)
        >>> source = ResumableLoader(loader)
        >>> batches = iter(source)
        >>> _ = next(batches)
        >>> state = source.state_dict()
        >>> rest = [batch.tolist() for batch in batches]
        >>> again = ResumableLoader(loader)
        >>> again.load_state_dict(state)
        >>> [batch.tolist() for batch in again] == rest
        True
    """

    __slots__ = ("_batches", "_had_workers", "_indices", "_own", "_read", "_resumed", "_settled", "loader")

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._batches = 0
        self._resumed: Mapping[str, Any] | None = None
        self._indices: _Indices | None = None
        self._had_workers = False
        self._own: _OwnPlace | None = None  # of the iteration begun last, by a loader that knows its place
        self._settled: Mapping[str, Any] | None = None  # how the iteration before the next one was left
        self._read = loader
        if (
            isinstance(loader, DataLoader)
            and not isinstance(loader.dataset, IterableDataset)
            and not _has_state(loader)
        ):
            name = "sampler" if loader.batch_sampler is None else "batch_sampler"
            self._indices = _Indices(getattr(loader, name), loader)
            # A copy that lives as long as this object, so that persistent workers persist; DataLoader refuses to have
            # its samplers replaced by assignment.
            self._read = copy.copy(loader)
            self._read.__dict__[name] = self._indices

    @property
    def has_own_state(self) -> bool:
        """Whether the loader knows itself where it stands."""
        return _has_state(self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return _Counted(self, self.begin())

    def begin(self) -> Iterator[Any]:
        """Return a plain iterator, at the place of the state that was loaded; who uses it counts the batches.

        Going on draws nothing from the run's random numbers: all that an epoch's beginning draws was drawn before.
        """
        state, self._resumed = self._resumed, None
        settled, self._settled = self._settled, None
        self._batches = 0
        if state is not None and state["batches"]:
            self._batches = int(state["batches"])
            rest: Iterator[Any] = self._undrawn(lambda: self._go_on(state))
            return rest
        if settled is not None:
            self._undrawn(lambda: self._settle(settled))
        if self._had_workers and self._indices is not None and not self._has_workers:
            self._indices.draw_from_here()
        self._had_workers = False
        return self._begin_own(0) if self.has_own_state else iter(self._read)

    def _undrawn(self, call: Callable[[], Any]) -> Any:
        """Make the call and put back what it drew."""
        now, generators = collect_rng(), generator_states(self.loader)
        try:
            return call()
        finally:
            restore_rng(now)
            set_generator_states(self.loader, generators)

    def _go_on(self, state: Mapping[str, Any]) -> Iterator[Any]:
        if state["own"] is not None and self.has_own_state:
            self.loader.load_state_dict(state["own"])
            return self._begin_own(self._batches)
        if self._indices is not None and state["drawn"] is not None:
            self._indices.resume(state["drawn"], self._batches)
            return iter(self._read)
        return _read_on(self.loader, self._batches)

    def _begin_own(self, batches: int) -> Iterator[Any]:
        self._own = _OwnPlace(self.loader, batches)
        return self._own

    def _settle(self, left: Mapping[str, Any]) -> None:
        """Bring a loader that knows its place to where it was left when its last iteration was over."""
        self.loader.load_state_dict(left["own"])
        if left["ended"]:
            self.loader.state_dict()  # a StatefulDataLoader takes up its state when it is first asked for it
        else:
            next(iter(self.loader), None)  # begun, so that the next iteration is another one, and not at its end

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Return the place after `batches` batches, or after those that were iterated, as plain data."""
        if batches is None:
            batches = self._batches if self._own is None else self._own.done
        return {
            "batches": batches,
            "own": None if self._own is None else self.loader.state_dict(),
            "drawn": None if self._indices is None else self._indices.drawn_at,
            "generators": generator_states(self.loader),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration begin at the place of `state`."""
        set_generator_states(self.loader, state["generators"])
        self._resumed = state

    @property
    def _has_workers(self) -> bool:
        """Whether workers are waiting for the next epoch; the first epoch draws a seed for them, the others do not."""
        return getattr(self._read, "_iterator", None) is not None

    def draws(self) -> dict[str, Any]:
        """Return, as plain data, what beyond the run's random numbers decides what the next epoch reads."""
        settled = self._settled
        if self._own is not None and settled is None:  # before, asking would begin an iteration
            before = None if self._own.ended else self._own.before_last
            settled = {"own": self.loader.state_dict() if before is None else before, "ended": self._own.ended}
        workers = not self.has_own_state and (self._had_workers or self._has_workers)
        return {
            "generators": generator_states(self.loader),
            "workers": workers,
            "settled": settled,
            "seeds": [sampler.seed for sampler in _seeded(self.loader)],
        }

    def set_draws(self, state: Mapping[str, Any]) -> None:
        """Put back what `draws` returned."""
        set_generator_states(self.loader, state["generators"])
        for sampler, seed in zip(_seeded(self.loader), state.get("seeds", ()), strict=False):
            sampler.seed = seed  # which a run that goes on may have been given another of
        self._had_workers = bool(state["workers"])
        self._settled = state["settled"] if self.has_own_state else None


class _OwnPlace:
    """The batches of a loader that knows its place: no more than it says, and read to the end when they are.

    Attributes:
        done: batches read since its first.
        ended: whether the loader came to its end; else another iteration cuts this one short.
        before_last: the loader's state before the batch that was read last, where that may be its last one. A loader
            that is left there has not come to its end, and would if it were asked for another.
    """

    __slots__ = ("_batches", "_length", "_loader", "before_last", "done", "ended")

    def __init__(self, loader: Any, done: int) -> None:
        length = loader_length(loader)
        self._loader, self._batches = loader, iter(loader)
        self._length = math.inf if length is None else length
        self.done, self.ended = done, False
        self.before_last: Mapping[str, Any] | None = None

    def __iter__(self) -> _OwnPlace:
        return self

    def __next__(self) -> Any:
        if self.done >= self._length:
            next(self._batches, None)
            self.ended = True
            raise StopIteration
        if self.done + 1 == self._length or self._length == math.inf:
            self.before_last = self._loader.state_dict()
        try:
            batch = next(self._batches)
        except StopIteration:
            self.ended = True
            raise
        self.done += 1
        return batch


class _Counted:
    """The batches of a loader, counted for its state."""

    __slots__ = ("_batches", "_source")

    def __init__(self, source: ResumableLoader, batches: Iterator[Any]) -> None:
        self._source, self._batches = source, batches

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> Any:
        batch = next(self._batches)
        self._source._batches += 1
        return batch


class _Indices:
    """A sampler, or batch sampler, that remembers the random state from which it began to draw.

    Attributes:
        drawn_at: the generators' states before the first draw of the iteration that was begun last.
    """

    def __init__(self, sampler: Any, loader: Any) -> None:
        self._sampler, self._loader = sampler, loader
        self._skip = 0
        self._resumed_at: Mapping[str, Any] | None = None
        self._draws_from: Mapping[str, Any] | None = None
        self.drawn_at: Mapping[str, Any] | None = None

    def __len__(self) -> int:
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_sampler":
            raise AttributeError(name)
        return getattr(self._sampler, name)

    def resume(self, drawn_at: Mapping[str, Any], skip: int) -> None:
        """Let the next iteration draw as from `drawn_at`, without the first `skip`."""
        self._resumed_at, self._skip = drawn_at, skip

    def draw_from_here(self) -> None:
        """Let the next iteration draw as if nothing were drawn until it begins."""
        self._draws_from = {"run": collect_rng(), "generators": generator_states(self._loader)}

    def __iter__(self) -> Iterator[Any]:
        # A generator, since samplers are: nothing is drawn before the first index is asked for.
        resumed_at, self._resumed_at = self._resumed_at, None
        if self._draws_from is not None:
            self._restore(self._draws_from)
            self._draws_from = None
        now = {"run": collect_rng(), "generators": generator_states(self._loader)}
        if resumed_at is None:
            self.drawn_at = now
            yield from self._sampler
            return
        self.drawn_at = resumed_at
        self._restore(resumed_at)
        indices = iter(self._sampler)
        for _ in islice(indices, self._skip):
            pass
        self._restore(now)
        yield from indices

    def _restore(self, state: Mapping[str, Any]) -> None:
        restore_rng(state["run"])
        set_generator_states(self._loader, state["generators"])


def _has_state(loader: Any) -> bool:
    return callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))


def _read_on(loader: Any, count: int) -> Iterator[Any]:
    """Return what follows the first `count` batches of a loader that cannot say where it stands."""
    if isinstance(loader, list | tuple | range):
        rest: Iterator[Any] = iter(loader[count:])
        return rest
    rank_zero_warn(
        f"resuming reads the first {count} batches of {with_article(type(loader).__name__)} again to find its place, "
        "since it cannot say where it stands. Give it state_dict() and load_state_dict(), or use torchdata's "
        "StatefulDataLoader."
    )
    batches: Iterator[Any] = iter(loader)
    for _ in islice(batches, count):
        pass
    return batches


def _samplers(loader: Any) -> list[Any]:
    samplers = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    return samplers + [getattr(sampler, "sampler", None) for sampler in samplers]


def _seeded(loader: Any) -> list[Any]:
    """The samplers of a loader that draw alike in all processes, by a seed and the epoch, each once."""
    found = {id(one): one for one in _samplers(loader) if isinstance(one, DistributedSampler | SharedSampler)}
    return list(found.values())


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators of their own that a loader and its samplers draw from, each once."""
    found = {id(g): g for owner in (loader, *_samplers(loader)) if (g := getattr(owner, "generator", None)) is not None}
    return [generator for generator in found.values() if isinstance(generator, torch.Generator)]


def generator_states(loader: Any) -> list[torch.Tensor]:
    """Return the states of the generators that a loader and its samplers have of their own."""
    return [generator.get_state() for generator in _generators(loader)]


def set_generator_states(loader: Any, states: list[torch.Tensor]) -> None:
    """Put back what `generator_states` returned."""
    for generator, state in zip(_generators(loader), states, strict=False):
        generator.set_state(state)
