"""Which strategy a run has: what `strategy=` names, for the processes and devices that there are."""

from __future__ import annotations

from collections.abc import Callable

from leyden.errors import MisconfigurationException, did_you_mean
from leyden.runtime.forking import FORKED
from leyden.runtime.strategy import SingleDeviceStrategy, Strategy

__all__ = ["check_size", "choose_strategy"]


def _ddp(**options: bool) -> Callable[[], Strategy]:
    def make() -> Strategy:
        from leyden.runtime.ddp import DDPStrategy  # torch.distributed's parts are imported where they are used

        return DDPStrategy(**options)  # type: ignore[arg-type]

    return make


def _fsdp(**options: bool) -> Callable[[], Strategy]:
    def make() -> Strategy:
        from leyden.runtime.fsdp import FSDPStrategy

        return FSDPStrategy(**options)  # type: ignore[arg-type]

    return make


_NAMES: dict[str, Callable[[], Strategy]] = {
    "single_device": SingleDeviceStrategy,
    "ddp": _ddp(),
    "ddp_find_unused_parameters_true": _ddp(find_unused_parameters=True),
    "ddp_find_unused_parameters_false": _ddp(),
    **{name: _ddp() for name in FORKED},
    **{f"{name}_find_unused_parameters_true": _ddp(find_unused_parameters=True) for name in FORKED},
    **{f"{name}_find_unused_parameters_false": _ddp() for name in FORKED},
    "fsdp": _fsdp(),
    "fsdp_cpu_offload": _fsdp(cpu_offload=True),
}

_INSTEAD = {
    "deepspeed": "its stages 1 to 3 are 'fsdp', which shards optimizer states, gradients and weights",
    "xla": "TPUs are not supported", "single_xla": "TPUs are not supported", "tpu": "TPUs are not supported",
    "single_tpu": "TPUs are not supported", "hpu": "HPUs are not supported", "single_hpu": "HPUs are not supported",
    "dp": "write 'ddp', with a process for each device", "ddp2": "write 'ddp', with a process for each device",
    "ddp_sharded": "write 'fsdp'", "fsdp_native": "write 'fsdp'", "model_parallel": "write 'fsdp'",
    "horovod": "write 'ddp', and start it by torchrun", "bagua": "write 'ddp'", "hivemind": "write 'ddp'",
    "colossalai": "write 'fsdp'",
}  # fmt: skip
"""Beginnings of names that Lightning had or has."""


def choose_strategy(strategy: object, processes: int) -> Strategy:
    """Return the strategy the Trainer's `strategy` names; an instance is taken as it is.

    "auto" is "ddp" where there are several processes.
    """
    if isinstance(strategy, Strategy):
        chosen = strategy
        if not hasattr(strategy, "root_device"):
            name = type(strategy).__name__
            raise MisconfigurationException(
                f"Trainer(strategy={name}(...)): {name}.__init__ has not called super().__init__(), which makes what "
                "a strategy has; call it first."
            )
    elif strategy == "auto":
        chosen = _NAMES["ddp" if processes > 1 else "single_device"]()
    elif isinstance(strategy, str) and strategy in _NAMES:
        chosen = _NAMES[strategy]()
    else:
        hint = _hint(strategy) if isinstance(strategy, str) else _hint_of_class(strategy)
        names = ", ".join(repr(name) for name in _NAMES if "_find_" not in name)
        raise MisconfigurationException(
            f"Trainer(strategy={strategy!r}): expected 'auto', {names}, one of 'ddp' with "
            f"'_find_unused_parameters_true' behind it, or an instance of leyden.strategies.Strategy.{hint}"
        )
    if processes > 1 and isinstance(chosen, SingleDeviceStrategy):
        raise MisconfigurationException(
            f"Trainer(strategy={strategy!r}) is for one process, and there are {processes}; leave strategy out, or "
            "write 'ddp'."
        )
    return chosen


def check_size(strategy: Strategy, processes: int) -> None:
    """Refuse a strategy of one's own for one process where there are several: each would train for itself."""
    if strategy.world_size == 1 < processes:
        name = type(strategy).__name__
        raise MisconfigurationException(
            f"Trainer(strategy={name}(...)) takes itself for 1 process, and there are {processes}. "
            f"Let {name} be a subclass of leyden.strategies.DistributedStrategy, or write 'ddp'."
        )


def _hint(name: str) -> str:
    for known in sorted(_INSTEAD, key=len, reverse=True):
        if name == known or name.startswith(f"{known}_"):
            return f" Instead of {name!r}: {_INSTEAD[known]}."
    return did_you_mean(name.lower(), _NAMES)


def _hint_of_class(strategy: object) -> str:
    if isinstance(strategy, type) and issubclass(strategy, Strategy):
        return f" It is the class: write {strategy.__name__}()."
    return ""
