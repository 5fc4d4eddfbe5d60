"""Building a module where it will run, instead of moving it there afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from leyden.runtime.precision import Precision

__all__ = ["module_init"]


class _NoInit(TorchFunctionMode):
    """Leaves tensors that ``torch.nn.init`` would fill as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return func(*args, **kwargs)


@contextlib.contextmanager
def module_init(device: torch.device, precision: Precision, empty_init: bool) -> Iterator[None]:
    """Make the tensors created within on `device`, in the precision's dtype; with `empty_init` not filled."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(device)
        if precision.dtype is not None:
            stack.enter_context(precision.default_dtype())
        if empty_init:
            stack.enter_context(_NoInit())
        yield
