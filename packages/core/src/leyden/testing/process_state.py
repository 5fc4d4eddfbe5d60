"""What of a process one part can leave changed for the others: settings, lists of hooks and handlers, functions."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.nn.modules.module as modules
import torch.optim.optimizer as optimizers
from torch import nn

from leyden.module import LightningModule
from leyden.trainer import Trainer

__all__ = ["SETTINGS", "Functions", "child_processes", "global_hooks", "log_handlers"]


def _set_deterministic(value: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(value[0], warn_only=value[1])


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "gradients": (torch.is_grad_enabled, torch.set_grad_enabled),
    "default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "number of threads": (torch.get_num_threads, torch.set_num_threads),
    "detection of anomalies": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "deterministic algorithms": (
        lambda: (torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()),
        _set_deterministic,
    ),
    "cudnn.benchmark": (
        lambda: torch.backends.cudnn.benchmark,
        lambda value: setattr(torch.backends.cudnn, "benchmark", value),
    ),
    "matmul precision": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
}
"""How each of torch's settings is read and set."""


def global_hooks() -> dict[str, tuple[dict[Any, Any], Any]]:
    """Return the hooks of all modules and of all optimizers: the dict that holds one and its key there, by name."""
    found = {}
    for place in (modules, optimizers):
        for kind, hooks in vars(place).items():
            if kind.startswith("_global_") and kind.endswith("_hooks") and isinstance(hooks, dict):
                for key, hook in hooks.items():
                    name = getattr(hook, "__qualname__", type(hook).__qualname__)
                    found[f"{name} ({kind.strip('_')} {key})"] = (hooks, key)
    return found


def log_handlers() -> dict[str, tuple[logging.Logger, logging.Handler]]:
    """Return the handlers of all loggers, by name."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    return {
        f"{type(handler).__qualname__} of {one.name!r} ({id(handler):#x})": (one, handler)
        for one in loggers
        if isinstance(one, logging.Logger)
        for handler in one.handlers
    }


def child_processes() -> dict[str, str]:
    """Return the names of the processes that this one started and that run, by their ids; none where that is unknown.

    Those that the standard library keeps for the whole of a program are left out.
    """
    kept = {
        getattr(getattr(sys.modules.get(f"multiprocessing.{name}"), f"_{name}", None), attribute, None)
        for name, attribute in (("resource_tracker", "_pid"), ("forkserver", "_forkserver_pid"))
    }
    found = {}
    for entry in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            for number in entry.read_text().split():
                stat = Path("/proc", number, "stat").read_text()
                name, state = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2]
                if state != "Z" and int(number) not in kept:
                    found[number] = name
    return found


class Functions:
    """The functions of classes and modules that are patched now and then, as they are when this is made."""

    def __init__(self, *more: type) -> None:
        own = (Trainer, LightningModule, nn.Module, torch.optim.Optimizer, torch.Tensor)
        self._had = [(where, dict(vars(where))) for where in (*more, *own, nn.functional, torch)]

    def replaced(self) -> str:
        """Name the first that is another now, "" for none."""
        return next((f"{where.__name__}.{name}" for where, name, _ in self._differing()), "")

    def put_back(self) -> None:
        for where, name, before in list(self._differing()):
            if before is None:
                delattr(where, name)
            else:
                setattr(where, name, before)

    def _differing(self) -> Iterator[tuple[Any, str, Any]]:
        for where, had in self._had:
            for name, value in list(vars(where).items()):
                # A module may get a function when it is first asked for.
                if callable(value) and had.get(name) is not value and (name in had or isinstance(where, type)):
                    yield where, name, had.get(name)
