"""Two generations of the name `ProgressBar`: the tqdm bar until 1.5, the base of all bars since.

A script of the older generation writes ``ProgressBar(refresh_rate=20)``, or derives from `ProgressBar` to change what
`get_metrics` or `init_train_tqdm` return, and expects a bar. A class of the newer one draws in hooks of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden_monitoring.progress_base import ProgressBar

__all__ = ["drawing_class"]


def drawing_class(cls: type[ProgressBar], base: type[ProgressBar]) -> type[ProgressBar]:
    """Return the class to make an instance of: `cls`, or where it expects the older `base`, one that draws by tqdm."""
    if cls.draws or (cls is not base and not _is_of_older_generation(cls, base)):
        return cls
    from leyden_monitoring.tqdm_progress import TQDMProgressBar

    return TQDMProgressBar if cls is base else _joined(cls, TQDMProgressBar)


def _is_of_older_generation(cls: type, base: type) -> bool:
    names = {name for parent in cls.__mro__[: cls.__mro__.index(base)] for name in vars(parent)}
    makes_tqdm_bars = any(name.startswith("init_") and name.endswith("_tqdm") for name in names)
    return makes_tqdm_bars or not any(name.startswith("on_") for name in names)


_made: dict[type, type] = {}


def _joined(cls: type[ProgressBar], drawing: type[ProgressBar]) -> type[ProgressBar]:
    """`cls` with `drawing` behind it: what `cls` overrides wins, and its ``super()`` reaches the drawing."""
    if cls not in _made:
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _made[cls] = type(cls.__name__, (cls, drawing), names | {"__reduce__": _reduce})
    return _made[cls]


def _reduce(bar: ProgressBar) -> tuple[Any, ...]:
    """Pickle by the class that a module holds, not by the joined one, which none does."""
    return _new, (type(bar).__mro__[1],), bar.__getstate__()


def _new(cls: type[ProgressBar]) -> ProgressBar:
    return cls.__new__(cls)
