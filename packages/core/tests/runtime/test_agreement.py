"""What becomes of a process's `Agreement` when another one fails; two real processes are in `tests/test_parallel_*`."""

from __future__ import annotations

import json

import pytest
import torch.distributed as dist

from leyden.errors import ProcessFailedError
from leyden.runtime.agreement import Agreement


def test_who_goes_on_after_another_has_failed_is_told_when_it_looks_next() -> None:
    """Also where it has forgotten by then that training was to end, and would ask for a place of another name."""
    store = dist.HashStore()  # type: ignore[attr-defined]
    agreement = Agreement(store, "1", 0, 2, lambda: (3, 6), lambda: None, lambda: None)
    try:
        store.set("leyden/1/failed", json.dumps([1, "ValueError: not here"]))
        store.set("leyden/1/news", "1")
        assert agreement.failure(within_s=30.0) is not None
        agreement.forget_end()
        for looks in (agreement.ends_behind, agreement.stops_behind):
            with pytest.raises(ProcessFailedError, match=r"Process 1 of 2 failed(.|\n)*ValueError: not here"):
                looks(3)
    finally:
        agreement.close()
