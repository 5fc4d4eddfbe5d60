"""What DistributedDataParallel says when it cannot go on, in words that name the parameters and the fix."""

from __future__ import annotations

import re
from collections.abc import Sequence

from leyden.errors import MisconfigurationException

__all__ = ["in_other_words"]

_WITHOUT_GRADIENT = re.compile(r"did not receive grad for rank \d+: ([\d ]+)")
_SHOWN = 10


def in_other_words(error: RuntimeError, trained: Sequence[str]) -> MisconfigurationException | None:
    """Return what `error` means for a user, or None where nothing is known better.

    Args:
        trained: names of the parameters that required a gradient as the epoch began, in the order of the module.

    Example:
        >>> said = "Expected to have finished reduction ... did not receive grad for rank 0: 1"
        >>> print(in_other_words(RuntimeError(said), ["net.weight", "head.weight"]))
        Parameters that no loss has used in the last step: head.weight. ...
    """
    said = str(error)
    if "training graph has changed in this iteration" in said:
        return MisconfigurationException(
            "DDPStrategy(static_graph=True) promises that every step uses the same parameters, and this one did not. "
            "Leave static_graph out; strategy='ddp_find_unused_parameters_true' lets parameters go unused."
        )
    if "Expected to have finished reduction" in said:
        found = _WITHOUT_GRADIENT.search(said)
        indices = [int(index) for index in found[1].split()] if found else []
        return MisconfigurationException(
            f"Parameters that no loss has used in the last step: {_shown(indices, trained)}. The processes wait for "
            "their gradients. Use them in the loss, freeze them by requires_grad_(False) before the epoch, or train "
            "with Trainer(strategy='ddp_find_unused_parameters_true'), which looks for them in every step."
        )
    if "Expected to mark a variable ready only once" in said:
        return MisconfigurationException(
            "A parameter had its gradient computed twice in one backward pass, as a layer has that is used twice "
            "under torch.utils.checkpoint. Write checkpoint(..., use_reentrant=False), or train with "
            "DDPStrategy(static_graph=True)."
        )
    return None


def _shown(indices: Sequence[int], trained: Sequence[str]) -> str:
    names = [trained[index] for index in indices if index < len(trained)]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "some (TORCH_DISTRIBUTED_DEBUG=INFO names them)"
