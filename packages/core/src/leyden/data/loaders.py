"""What counts as a loader, how long it is, how many of its batches are read, and when its sampler learns the epoch."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils import _pytree
from torch.utils.data import DataLoader, Dataset

from leyden.errors import MisconfigurationException, with_article
from leyden.rank_zero import rank_zero_only
from leyden.seed import WORKERS_VARIABLE, worker_init_fn

__all__ = [
    "check_loader",
    "flatten_loaders",
    "is_collection",
    "limit_batches",
    "loader_length",
    "map_loaders",
    "seed_workers",
    "set_epoch",
]


def is_collection(value: object) -> bool:
    """Whether `value` is a container of loaders and not a loader itself.

    A dict is one. A list or tuple is one when a loader is in it, at any depth; a list of ready batches (tensors, pairs
    or dicts of them, …) is a loader.
    """
    return _is_container(value) and (isinstance(value, dict) or _holds_a_loader(value))


def _holds_a_loader(container: Any) -> bool:
    return any(_holds_a_loader(child) if _is_container(child) else _is_loader(child) for child in _children(container))


def _is_container(value: object) -> bool:
    kind = type(value)
    if kind in (list, tuple, dict):
        return True
    return not issubclass(kind, Tensor) and not _pytree.tree_is_leaf(value)


def _children(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, Mapping) else container


def _is_loader(value: object) -> bool:
    """Whether a member of a list says that the list holds loaders: it can be read and does not look like a batch."""
    kind = type(value)
    return not hasattr(kind, "to") and _why_unreadable(value) is None


def _why_unreadable(value: object) -> str | None:
    """What keeps `value` from being read as a loader, None when nothing does. Looks only; starts no iterator."""
    kind = type(value)
    if isinstance(value, DataLoader):
        return None
    if isinstance(value, type):
        return f"It is the class: give an instance, {value.__name__}(...)."
    if value is None or isinstance(value, (str, bytes, Tensor, Mapping)) or hasattr(kind, "__array__"):
        return "Pass a DataLoader, or any iterable whose items are batches."
    if hasattr(kind, "__iter__"):
        return None
    if isinstance(value, Dataset):
        return "A dataset gives samples, not batches: wrap it, `DataLoader(dataset, batch_size=…)`."
    if hasattr(kind, "__getitem__") and hasattr(kind, "__len__"):
        return None
    if callable(value):
        return "It is a function: call it, and pass what it returns."
    return "Pass a DataLoader, or any iterable whose items are batches."


def check_loader(loader: Any, name: str) -> Any:
    """Return `loader`, which the hook or argument `name` gave, when it and each loader in it can be read.

    Raises:
        MisconfigurationException: it is None, an empty collection, or something that gives no batches.
    """
    if loader is None:
        raise MisconfigurationException(
            f"`{name}` gave None instead of a loader. Return a DataLoader (or another iterable of batches) from it, "
            "or pass one to the Trainer's method."
        )
    if not is_collection(loader):
        members = [("", loader)]
    else:
        found, _ = _pytree.tree_flatten_with_path(loader, is_leaf=lambda node: not is_collection(node))
        members = [(_pytree.keystr(path), member) for path, member in found]
        if not members:
            raise MisconfigurationException(f"`{name}` gave {loader!r}, which holds no loader. Put one in.")
    for path, member in members:
        why = _why_unreadable(member)
        if why is not None:
            raise MisconfigurationException(
                f"`{name}{path}` is {_shown(member)}, which cannot be read as batches. {why}"
            )
    return loader


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a Tensor of shape {tuple(value.shape)}"
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def flatten_loaders(loaders: object) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Return the loaders in a nested collection, in order, and the function that puts as many values in their places.

    Example:
        >>> members, rebuild = flatten_loaders({"a": range(2), "b": [range(3), range(4)]})
        >>> rebuild([1, 2, 3])
        {'a': 1, 'b': [2, 3]}
    """
    members, spec = _pytree.tree_flatten(loaders, is_leaf=lambda node: node is not loaders and not is_collection(node))
    return members, lambda values: _pytree.tree_unflatten(values, spec)


def map_loaders(fn: Callable[[Any], Any], loaders: object) -> Any:
    """Return `loaders` with `fn(loader)` for each loader in it; the same object where `fn` changed none."""
    if not is_collection(loaders):
        return fn(loaders)
    members, rebuild = flatten_loaders(loaders)
    mapped = [fn(member) for member in members]
    unchanged = all(new is old for new, old in zip(mapped, members, strict=True))
    return loaders if unchanged else rebuild(mapped)


def loader_length(loader: object) -> int | None:
    """Return how many batches `loader` says it has, None when it does not know.

    Unknown are: no ``__len__``, one that raises TypeError or NotImplementedError (as a `DataLoader` over an
    `IterableDataset` without length does), and one too large for an index. Any other error is raised as it is.
    """
    try:
        return len(loader)  # type: ignore[arg-type]
    except (TypeError, NotImplementedError, OverflowError):
        return None
    except Exception as error:
        kind = with_article(type(loader).__name__)
        error.add_note(f"raised by len() of {kind} that Leyden asked for its number of batches")
        raise


def limit_batches(limit: int | float | None, length: int | float | None, name: str) -> int | float:
    """Return how many batches of a loader are read: `length` under `limit`; ``math.inf`` for all of an unknown number.

    An int (or ``math.inf``) is a number of batches, a float from 0.0 to 1.0 a fraction, rounded down; so 1 is one
    batch and 1.0 all of them. `name` is the Trainer argument that an error is about.

    Raises:
        MisconfigurationException: a fraction of an unknown length, a fraction that comes to less than one batch, or a
            limit out of range.

    Example:
        >>> limit_batches(0.25, 10, "limit_val_batches")
        2
    """
    known = math.inf if length is None else length
    if limit is None or (isinstance(limit, float) and (limit == 1.0 or limit == math.inf)):
        return known
    if limit < 0 or (isinstance(limit, float) and not limit <= 1.0):
        raise MisconfigurationException(
            f"Trainer({name}={limit!r}): expected a number of batches (int, 0 or more) or a fraction from 0.0 to 1.0."
        )
    if isinstance(limit, int):
        return min(int(limit), known)
    if limit == 0.0 or known == 0:
        return 0
    if known == math.inf:
        raise MisconfigurationException(
            f"Trainer({name}={limit!r}) asks for a fraction of a loader whose length is unknown. "
            f"Give a number of batches (an int), 1.0 or 0.0, or give the loader a __len__."
        )
    # A product such as 100 * 0.29 = 28.999999999999996 means 29 batches.
    batches = math.floor(known * limit + 1e-9)
    if batches == 0:
        decimals = 10 ** (len(str(known)) + 1)
        raise MisconfigurationException(
            f"Trainer({name}={limit!r}) of a loader with {known} batches comes to less than one batch. "
            f"Use {name}={math.ceil(decimals / known) / decimals} or more, or a number of batches (an int)."
        )
    return batches


def set_epoch(loader: object, epoch: int) -> None:
    """Tell `epoch` to whatever has a `set_epoch` method: the loader, its samplers (nested ones too), its dataset."""
    told: set[int] = set()
    pending: list[Any] = [loader]
    while pending:
        part = pending.pop()
        if part is None or id(part) in told:
            continue
        told.add(id(part))
        method = getattr(part, "set_epoch", None)
        if callable(method):
            method(epoch)
        pending += [getattr(part, name, None) for name in ("dataset", "sampler", "batch_sampler")]


def seed_workers(loader: object, rank: int | None = None) -> None:
    """Give a `DataLoader` with workers and no `worker_init_fn` ours, if ``seed_everything(workers=True)`` asked so."""
    if os.environ.get(WORKERS_VARIABLE) != "1" or not isinstance(loader, DataLoader):
        return
    if loader.num_workers > 0 and loader.worker_init_fn is None:
        # The rank goes along: a spawned worker does not inherit it.
        loader.worker_init_fn = partial(worker_init_fn, rank=rank_zero_only.rank if rank is None else rank)
