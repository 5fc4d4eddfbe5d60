"""Options of DistributedDataParallel, checked where they are given: it finds out in the first step, or never."""

from __future__ import annotations

import inspect
from typing import Any

from torch.nn.parallel import DistributedDataParallel

from leyden.arguments import is_int, is_positive
from leyden.errors import UnknownArgumentError, did_you_mean

__all__ = ["check_names", "checks_of"]

_INSTEAD = {
    "accelerator": "write Trainer(accelerator=...)",
    "cluster_environment": "torchrun and SLURM are recognised by their variables",
    "checkpoint_io": "leave it out",
    "device_ids": "each process has one device: write Trainer(devices=...)",
    "mixed_precision": "write Trainer(precision=...)",
    "module": "it is that of trainer.fit(module)",
    "model_averaging_period": "averages of weights are a callback's: WeightAveraging",
    "output_device": "each process has one device: leave it out",
    "parallel_devices": "write Trainer(devices=...)",
    "precision_plugin": "write Trainer(precision=...)",
    "start_method": "write Trainer(strategy='ddp_spawn') or 'ddp_fork'",
}
"""Arguments of Lightning's strategy, and those of DistributedDataParallel that are given by the Trainer."""

_FLAGS = {
    "batched_grad_copy", "broadcast_buffers", "check_reduction", "forward_sync_buffers", "gradient_as_bucket_view",
    "init_sync", "skip_all_reduce_unused_params",
}  # fmt: skip
"""Options of DistributedDataParallel that are switches; others of its options it checks itself, in a process group."""


def check_names(options: dict[str, Any]) -> None:
    """Refuse options that there are not."""
    known = [*inspect.signature(DistributedDataParallel).parameters][1:]
    for name, value in options.items():
        if name in _INSTEAD or name not in known:
            instead = f" Instead: {_INSTEAD[name]}." if name in _INSTEAD else did_you_mean(name, known)
            raise UnknownArgumentError(f"DDPStrategy({name}={value!r:.80}): there is no such option.{instead}")


def checks_of(options: dict[str, Any]) -> list[tuple[str, Any, bool, str]]:
    """Whether options have the types that DistributedDataParallel finds out about in the first step, or never."""
    found = []
    for name in sorted(_FLAGS & options.keys()):
        value = options[name]
        may_be_none = inspect.signature(DistributedDataParallel).parameters[name].default is None
        right = isinstance(value, bool) or (value is None and may_be_none)
        found.append((name, value, right, "True or False"))
    if "dim" in options:
        found.append(("dim", options["dim"], is_int(options["dim"]), "an int"))
    if "bucket_cap_mb" in options:
        size = options["bucket_cap_mb"]
        found.append(("bucket_cap_mb", size, size is None or is_positive(size), "a number of MiB above 0, or None"))
    return found
