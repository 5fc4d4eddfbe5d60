"""Strategies, how a run spreads over processes: to be given options, or subclassed.

Each is imported when it is asked for, since torch's own engines take a while.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leyden.lazy_names import lazy_names

if TYPE_CHECKING:
    from leyden.runtime.ddp import DDPStrategy
    from leyden.runtime.distributed import DistributedStrategy
    from leyden.runtime.fsdp import FSDPStrategy
    from leyden.runtime.strategy import SingleDeviceStrategy, Strategy

__all__ = ["DDPStrategy", "DistributedStrategy", "FSDPStrategy", "SingleDeviceStrategy", "Strategy"]

__getattr__, __dir__ = lazy_names(
    "leyden",
    {
        "DDPStrategy": "runtime.ddp",
        "DistributedStrategy": "runtime.distributed",
        "FSDPStrategy": "runtime.fsdp",
        "SingleDeviceStrategy": "runtime.strategy",
        "Strategy": "runtime.strategy",
    },
)
