"""BatchNorm over several processes: statistics of the whole batch, or of a process's share of it."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from leyden.errors import MisconfigurationException
from leyden.runtime.strategy import Strategy

__all__ = ["check_sync_batchnorm", "synchronise_batchnorm"]


def check_sync_batchnorm(asked: bool, strategy: Strategy) -> None:
    """Refuse ``Trainer(sync_batchnorm=True)`` where torch's SyncBatchNorm does not run: on devices that are not CUDA's.

    One process has nothing to synchronise, and may ask for it anywhere.
    """
    if asked and strategy.world_size > 1 and strategy.root_device.type != "cuda":
        raise MisconfigurationException(
            f"Trainer(sync_batchnorm=True) on {strategy.root_device.type!r} with {strategy.world_size} processes: "
            "torch.nn.SyncBatchNorm runs on CUDA devices only. Leave it out: each process then normalises by the "
            "statistics of its own batch, and process 0's are saved. GroupNorm and LayerNorm need no synchronisation."
        )


def synchronise_batchnorm(module: nn.Module) -> None:
    """Put torch's `SyncBatchNorm`, with the same weights and statistics, in the place of every BatchNorm layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        >>> synchronise_batchnorm(net)
        >>> type(net[1]).__name__
        'SyncBatchNorm'
    """
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm):
            nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
            return
