"""What a module knows of its trainer, and what it answers without one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from torch import Tensor, nn

from leyden.errors import MisconfigurationException

if TYPE_CHECKING:
    from typing import Self

    from leyden.loggers import Logger
    from leyden.trainer import Trainer

__all__ = ["AttachedModule"]

# Names nn.Module looks up on itself while it registers a layer or a parameter.
_REGISTRIES = frozenset({"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})


class _NotInitialised:
    """Stands in nn.Module's registries until ``nn.Module.__init__`` replaces it, so that a forgotten call is named.

    Plain attributes may be written before ``super().__init__()`` (dataclasses do), hence only what needs the registries
    fails. Watching ``__setattr__`` would say the same at a cost on every write of every step.
    """

    def __init__(self, owner: str) -> None:
        object.__setattr__(self, "_owner", owner)

    def _fail(self, *_: Any) -> NoReturn:
        owner = object.__getattribute__(self, "_owner")
        raise MisconfigurationException(
            f"{owner}.__init__ gives the module layers, parameters or buffers before super().__init__() has run. "
            f"Call super().__init__() first in {owner}.__init__."
        )

    def __contains__(self, name: object) -> bool:
        return self._fail() if name in _REGISTRIES else False

    __setitem__ = __getitem__ = __delitem__ = __iter__ = __len__ = _fail

    def __getattr__(self, name: str) -> NoReturn:
        self._fail()


class AttachedModule(nn.Module):
    """An ``nn.Module`` that a trainer attaches itself to; the reference is neither pickled nor copied.

    Attributes are not annotated in the classes of the module: TorchScript reads class annotations and fails on these.
    """

    _trainer = None  # type: Trainer | None
    _exporting = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        new = super().__new__
        instance = new(cls) if new is object.__new__ else new(cls, *args, **kwargs)
        missing = _NotInitialised(cls.__qualname__)
        instance.__dict__.update(_parameters=missing, _buffers=missing, _modules=missing)
        return instance

    @property
    def trainer(self) -> Trainer:
        """The trainer that runs this module.

        Raises:
            RuntimeError: the module is not attached to one; ask in a hook, or after ``Trainer.fit`` has begun.
        """
        trainer = self._trainer
        if trainer is None:
            if AttachedModule._exporting:
                raise AttributeError  # TorchScript reads every attribute and passes over missing ones only
            raise RuntimeError(
                f"{type(self).__qualname__} is not attached to a Trainer. It is from the moment trainer.fit, validate, "
                "test or predict gets it; use self.trainer in hooks and steps, not in __init__."
            )
        return trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        # Modules inside log and ask as well. Past nn.Module.__setattr__, which costs 1 us and looks for tensors.
        for module in self.modules():
            if isinstance(module, AttachedModule):
                module.__dict__["_trainer"] = trainer

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state.pop("_trainer", None)
        return state

    @property
    def current_epoch(self) -> int:
        """Number of training epochs finished; 0 without a trainer."""
        return 0 if self._trainer is None else self._trainer.current_epoch

    @property
    def global_step(self) -> int:
        """Number of optimizer steps taken, over all epochs; 0 without a trainer."""
        return 0 if self._trainer is None else self._trainer.global_step

    @property
    def global_rank(self) -> int:
        """Index of this process among all; 0 without a trainer."""
        return 0 if self._trainer is None else self._trainer.global_rank

    @property
    def local_rank(self) -> int:
        """Index of this process on its node; 0 without a trainer."""
        return 0 if self._trainer is None else self._trainer.local_rank

    @property
    def logger(self) -> Logger | None:
        """The trainer's first logger; None without one."""
        return None if self._trainer is None else self._trainer.logger

    @property
    def loggers(self) -> list[Logger]:
        """The trainer's loggers; empty without a trainer."""
        return [] if self._trainer is None else self._trainer.loggers

    @property
    def device(self) -> torch.device:
        """Device of the first parameter or buffer; without any, the trainer's, else the CPU."""
        tensor = _first(self, "_parameters")
        if tensor is None:
            tensor = _first(self, "_buffers")
        if tensor is not None:
            return tensor.device
        return torch.device("cpu") if self._trainer is None else self._trainer.strategy.root_device

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the first floating point parameter or buffer; without any, torch's default dtype."""
        tensor = _first(self, "_parameters", floating=True)
        if tensor is None:
            tensor = _first(self, "_buffers", floating=True)
        return torch.get_default_dtype() if tensor is None else tensor.dtype

    @property
    def on_gpu(self) -> bool:
        """Whether the weights are on a CUDA device."""
        return self.device.type == "cuda"


def _first(module: nn.Module, registry: str, floating: bool = False) -> Tensor | None:
    """Return the module's first parameter or buffer.

    Not through ``module.parameters()``: its bookkeeping against duplicates quadruples the cost of asking in a step.
    """
    members = module.__dict__
    for tensor in members[registry].values():
        if tensor is not None and (not floating or tensor.is_floating_point()):
            return cast(Tensor, tensor)
    for child in members["_modules"].values():
        found = None if child is None else _first(child, registry, floating)
        if found is not None:
            return found
    return None
