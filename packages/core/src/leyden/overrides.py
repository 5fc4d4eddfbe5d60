"""Whether a class or an instance has a hook of its own."""

from __future__ import annotations

from leyden.callback import Callback
from leyden.datamodule import LightningDataModule
from leyden.errors import with_article
from leyden.module import LightningModule

__all__ = ["is_overridden"]


def is_overridden(method_name: str, instance: object, parent: type | None = None) -> bool:
    """Return whether `instance` has a `method_name` other than the one `parent` gives.

    Args:
        method_name: name of the method.
        instance: a module, datamodule or callback, or any object when `parent` is given; None has nothing overridden.
        parent: class to compare with; by default ``LightningModule``, ``LightningDataModule`` or ``Callback``.

    Raises:
        ValueError: `parent` is needed, or has no such method.

    Example:
        >>> class Quiet(Callback):
        ...     def on_fit_start(self, trainer, pl_module): ...
        >>> is_overridden("on_fit_start", Quiet()), is_overridden("on_fit_end", Quiet())
        (True, False)
    """
    if instance is None:
        return False
    if parent is None:
        parent = next(
            (base for base in (LightningModule, LightningDataModule, Callback) if isinstance(instance, base)), None
        )
        if parent is None:
            raise ValueError(
                f"is_overridden({method_name!r}) of {with_article(type(instance).__name__)} needs `parent`, the class "
                "to compare with."
            )
    inherited = getattr(parent, method_name, None)
    if inherited is None:
        raise ValueError(f"is_overridden: {parent.__name__} has no {method_name!r}.")
    if method_name in getattr(instance, "__dict__", {}):
        return True
    own = getattr(type(instance), method_name, None)
    return own is not None and own is not inherited
