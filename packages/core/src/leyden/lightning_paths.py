"""The paths of Lightning's package that scripts import from, ``utilities.rank_zero`` and the like.

Together with `leyden.callback_paths` they let a script be ported by the name of the package alone.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from leyden.errors import did_you_mean

__all__ = ["PATHS", "ModulePath", "add_paths"]

_PROFILERS = {"AdvancedProfiler": "profilers", "Profiler": "profilers", "PyTorchProfiler": "profilers"}
_PROFILERS |= {"SimpleProfiler": "profilers"}
_RANK_ZERO = dict.fromkeys(
    ("rank_zero_deprecation", "rank_zero_info", "rank_zero_only", "rank_zero_warn"), "rank_zero"
)  # fmt: skip

PATHS: dict[str, dict[str, str]] = {
    "core": {"LightningDataModule": "datamodule", "LightningModule": "module"},
    "core.datamodule": {"LightningDataModule": "datamodule"},
    "core.lightning": {"LightningModule": "module"},
    "core.module": {"LightningModule": "module"},
    "core.optimizer": {"LightningOptimizer": "runtime.wrapped_optimizer"},
    "loggers.tensorboard": {"TensorBoardLogger": "loggers"},
    "profiler": _PROFILERS,
    "profilers.advanced": {"AdvancedProfiler": "profilers"},
    "profilers.profiler": {"Profiler": "profilers"},
    "profilers.pytorch": {"PyTorchProfiler": "profilers"},
    "profilers.simple": {"SimpleProfiler": "profilers"},
    "strategies.ddp": {"DDPStrategy": "runtime.ddp"},
    "strategies.fsdp": {"FSDPStrategy": "runtime.fsdp"},
    "strategies.single_device": {"SingleDeviceStrategy": "runtime.strategy"},
    "strategies.strategy": {"Strategy": "runtime.strategy"},
    "trainer.states": dict.fromkeys(("RunningStage", "TrainerFn", "TrainerState", "TrainerStatus"), "run_state"),
    "trainer.supporters": {"CombinedLoader": "data.combined"},
    "trainer.trainer": {"Trainer": "trainer"},
    "tuner.tuning": {"Tuner": "tuner"},
    "utilities": {
        **_RANK_ZERO,
        "AttributeDict": "hparams",
        "CombinedLoader": "data.combined",
        "grad_norm": "gradients",
        "measure_flops": "flops",
        "move_data_to_device": "data.transfer",
    },
    "utilities.apply_func": {"move_data_to_device": "data.transfer"},
    "utilities.combined_loader": {"CombinedLoader": "data.combined"},
    "utilities.distributed": {"rank_zero_only": "rank_zero"},
    "utilities.exceptions": {"MisconfigurationException": "errors", "SIGTERMException": "errors"},
    "utilities.grads": {"grad_norm": "gradients"},
    "utilities.model_helpers": {"is_overridden": "overrides"},
    "utilities.parsing": {"AttributeDict": "hparams"},
    "utilities.rank_zero": _RANK_ZERO,
    "utilities.seed": {"isolate_rng": "seed", "seed_everything": "seed"},
    "utilities.types": {
        **dict.fromkeys(("EVALUATE_OUTPUT", "EVAL_DATALOADERS", "STEP_OUTPUT", "TRAIN_DATALOADERS"), "types"),
        "LRSchedulerConfig": "optimizers",
        "OptimizerLRScheduler": "types",
    },
}
"""What each path holds: names, with the modules that have them."""

RENAMED = {"move_data_to_device": "move_to_device"}


class ModulePath(ModuleType):
    """A module of which there is no file, with names that are elsewhere; `find` gets one when it is asked for."""

    def __init__(self, path: str, names: Iterable[str], find: Callable[[str], Any]) -> None:
        self.__all__ = sorted(names)
        super().__init__(path, f"{' and '.join(self.__all__)}, by the path that Lightning has for it.")
        self._find = find
        self.__path__: list[str] = []  # a package, of which there are no files

    def __getattr__(self, name: str) -> Any:
        if name not in self.__all__:
            raise AttributeError(
                f"module {self.__name__!r} has no attribute {name!r}.{did_you_mean(name, self.__all__)}"
            )
        return self._find(name)

    def __dir__(self) -> list[str]:
        return self.__all__

    def add(self) -> None:
        """Let it be imported, and found in the package or module above it."""
        sys.modules[self.__name__] = self
        outer, _, name = self.__name__.rpartition(".")
        setattr(importlib.import_module(outer), name, self)


def add_paths() -> None:
    """Let the names of this package be imported by Lightning's paths too.

    Example:
        >>> from leyden.utilities.rank_zero import rank_zero_only
        >>> import leyden
        >>> rank_zero_only is leyden.rank_zero_only
        True
    """
    for path, names in PATHS.items():

        def find(name: str, names: dict[str, str] = names) -> Any:
            return getattr(importlib.import_module(f"leyden.{names[name]}"), RENAMED.get(name, name))

        ModulePath(f"leyden.{path}", names, find).add()
