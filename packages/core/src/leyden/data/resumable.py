"""Dataloaders that can go on where a checkpoint was made, without reading again what was read before."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

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
    numbers in its workers (augmentation) repeats exactly only as a ``StatefulDataLoader``.

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

    __slots__ = ("_batches", "_indices", "_read", "_resumed", "loader")

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._batches = 0
        self._resumed: Mapping[str, Any] | None = None
        self._indices: _Indices | None = None
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
        self._batches = 0
        if state is None or not state["batches"]:
            return iter(self._read)
        self._batches = int(state["batches"])
        now, generators = collect_rng(), generator_states(self.loader)
        try:
            return self._go_on(state)
        finally:
            restore_rng(now)
            set_generator_states(self.loader, generators)

    def _go_on(self, state: Mapping[str, Any]) -> Iterator[Any]:
        if state["own"] is not None and _has_state(self.loader):
            self.loader.load_state_dict(state["own"])
            return iter(self.loader)
        if self._indices is not None and state["drawn"] is not None:
            self._indices.resume(state["drawn"], self._batches)
            return iter(self._read)
        return _read_on(self.loader, self._batches)

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Return the place after `batches` batches, or after those that were iterated, as plain data."""
        return {
            "batches": self._batches if batches is None else batches,
            "own": self.loader.state_dict() if _has_state(self.loader) else None,
            "drawn": None if self._indices is None else self._indices.drawn_at,
            "generators": generator_states(self.loader),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next iteration begin at the place of `state`."""
        set_generator_states(self.loader, state["generators"])
        self._resumed = state


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

    def __iter__(self) -> Iterator[Any]:
        # A generator, since samplers are: nothing is drawn before the first index is asked for.
        resumed_at, self._resumed_at = self._resumed_at, None
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
        f"resuming reads the first {count} batches of {with_article(type(loader).__name__)} again to find its place, since it "
        "cannot say where it stands. Give it state_dict() and load_state_dict(), or use torchdata's StatefulDataLoader."
    )
    batches: Iterator[Any] = iter(loader)
    for _ in islice(batches, count):
        pass
    return batches


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators of their own that a loader and its samplers draw from, each once."""
    samplers = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    samplers += [getattr(sampler, "sampler", None) for sampler in samplers]
    found = {id(g): g for owner in (loader, *samplers) if (g := getattr(owner, "generator", None)) is not None}
    return [generator for generator in found.values() if isinstance(generator, torch.Generator)]


def generator_states(loader: Any) -> list[torch.Tensor]:
    """Return the states of the generators that a loader and its samplers have of their own."""
    return [generator.get_state() for generator in _generators(loader)]


def set_generator_states(loader: Any, states: list[torch.Tensor]) -> None:
    """Put back what `generator_states` returned."""
    for generator, state in zip(_generators(loader), states, strict=False):
        generator.set_state(state)
