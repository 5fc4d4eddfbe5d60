"""What is wrong with callbacks and modules, said before anything runs."""

from __future__ import annotations

from leyden.callback import Callback
from leyden.hooks.binding import Call
from leyden.hooks.contract import Hook
from leyden.hooks.signatures import takes

__all__ = ["misfit_message", "overrides"]


def overrides(owner: object, name: str) -> bool:
    """Tell whether `owner`, a callback or a module, has its own `name`, by its classes or on the instance."""
    own = getattr(type(owner), name, None)
    if own is None:
        return name in getattr(owner, "__dict__", {})
    return own is not getattr(_base(owner), name, None) or name in vars(owner)


def _base(owner: object) -> type:
    if isinstance(owner, Callback):
        return Callback
    from leyden.module import LightningModule

    return LightningModule


def misfit_message(hook: Hook, owner: object, method: Call, *, module: bool = False) -> str:
    """Return what to say of a method whose signature fits no generation."""
    gets = ", ".join(hook.full_arguments(module=module))
    return (
        f"{type(owner).__qualname__}.{hook.name} takes {takes(method)}, but gets ({gets}). "
        f"Give it these arguments, or fewer of them under these names."
    )
