"""A value that a user keeps on a module or datamodule, by its name: found there, read and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from leyden.errors import MisconfigurationException

__all__ = ["Hyperparameter"]

_NOTHING = object()


class Hyperparameter:
    """A value under one name, wherever it is kept: as an attribute of `owners`, in their ``hparams``, or in both.

    A name with dots goes into what is there: ``"optim.lr"`` is the attribute or item `lr` of `optim`. Owners that are
    None are left out.

    Example:
        >>> from types import SimpleNamespace
        >>> module = SimpleNamespace(optim={"lr": 0.1}, hparams={})
        >>> rate = Hyperparameter("optim.lr", module)
        >>> rate.write(0.5)
        >>> rate.read(), module.optim
        (0.5, {'lr': 0.5})
    """

    def __init__(self, name: str, *owners: Any) -> None:
        self.name = name
        self._places = [place for owner in owners if owner is not None for place in _places(name, owner)]

    @property
    def found(self) -> bool:
        """Whether it is kept anywhere."""
        return bool(self._places)

    def read(self) -> Any:
        """Return the value at the first of its places."""
        return _get(*self._places[0])

    def write(self, value: Any) -> None:
        """Set it at all of its places.

        Raises:
            MisconfigurationException: a place that cannot be written to.
        """
        for holder, name in self._places:
            try:
                if isinstance(holder, Mapping):
                    holder[name] = value  # type: ignore[index]  # one that is read only says so
                else:
                    setattr(holder, name, value)
            except (AttributeError, TypeError) as error:
                raise MisconfigurationException(
                    f"{self.name!r} of {type(holder).__name__} cannot be set to {value!r}: {error}. Make it a plain "
                    "attribute, or give the name of one that is."
                ) from error


def _places(name: str, owner: Any) -> list[tuple[Any, str]]:
    """Return the holders of a value, each with the name it has there."""
    hparams = getattr(owner, "hparams", None)
    found: list[tuple[Any, str]] = []
    for start in (owner, hparams):
        place = _place(start, name)
        if place is not None and not any(place[0] is other[0] for other in found):
            found.append(place)
    return found


def _place(holder: Any, name: str) -> tuple[Any, str] | None:
    if holder is None:
        return None
    if _get(holder, name) is not _NOTHING and not _is_read_only(holder, name):
        return holder, name
    first, _, rest = name.partition(".")
    inner = _get(holder, first) if rest else _NOTHING
    return None if inner is _NOTHING else _place(inner, rest)


def _get(holder: Any, name: str) -> Any:
    if isinstance(holder, Mapping):
        return holder.get(name, _NOTHING)
    get: Callable[..., Any] = getattr
    return get(holder, name, _NOTHING)


def _is_read_only(holder: Any, name: str) -> bool:
    """Whether it is a property without a setter, such as one that gives what ``hparams`` has."""
    found = getattr(type(holder), name, None)
    return isinstance(found, property) and found.fset is None
