"""The random number generators of a process, as plain data that a checkpoint may hold."""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Mapping
from typing import Any

import torch

__all__ = ["collect_rng", "restore_rng"]


def collect_rng() -> dict[str, Any]:
    """Return the states of Python's, NumPy's (if imported), torch's and each device's generator.

    CUDA's are there when CUDA has been used in this process, MPS's when the machine has it. Tensors are uint8 on the
    CPU; everything can be read with ``torch.load(weights_only=True)``.

    Example:
        >>> state = collect_rng()
        >>> first = torch.rand(2)
        >>> restore_rng(state)
        >>> torch.equal(first, torch.rand(2))
        True
    """
    version, words, gauss = random.getstate()
    # One tensor: a pickle of 625 numbers takes as long as that of a whole small model.
    python = (version, torch.frombuffer(array("q", words), dtype=torch.int64), gauss)
    state: dict[str, Any] = {"python": python, "torch": torch.get_rng_state()}
    if "numpy" in sys.modules:
        import numpy as np

        drawn = np.random.get_state(legacy=False)
        # uint32 words as int64: torch had no uint32 arithmetic for long, and int64 is readable everywhere.
        state["numpy"] = {
            "bit_generator": str(drawn["bit_generator"]),
            "key": torch.from_numpy(np.asarray(drawn["state"]["key"]).astype(np.int64)),
            "pos": int(drawn["state"]["pos"]),
            "has_gauss": int(drawn["has_gauss"]),
            "gauss": float(drawn["gauss"]),
        }
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put back what `collect_rng` returned.

    Generators of devices that this machine lacks are left out: a checkpoint from two GPUs restores the first one's on
    a machine with one. A key that is absent leaves its generator alone.
    """
    if "python" in state:
        version, words, gauss = state["python"]
        words = words.tolist() if isinstance(words, torch.Tensor) else words  # tuples in files of before
        random.setstate((version, tuple(words), gauss))
    if "torch" in state:
        torch.set_rng_state(state["torch"].cpu())
    if "numpy" in state:
        _restore_numpy(state["numpy"])
    if "cuda" in state and torch.cuda.is_available():
        for index, device_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(device_state.cpu(), index)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())


def _restore_numpy(drawn: Mapping[str, Any]) -> None:
    try:
        import numpy as np
    except ImportError:  # the run that is resumed had NumPy; without it there is no generator to put back
        return
    np.random.set_state(
        {
            "bit_generator": drawn["bit_generator"],
            "state": {"key": drawn["key"].cpu().numpy().astype(np.uint32), "pos": drawn["pos"]},
            "has_gauss": drawn["has_gauss"],
            "gauss": drawn["gauss"],
        }
    )
