"""Which batch sizes are tried, in which order, and which is taken."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden_optim.batch_size_search import is_out_of_memory, largest


@pytest.mark.parametrize(
    ("mode", "room", "given", "tried", "found"),
    [
        ("power", 50, {}, [2, 4, 8, 16, 32, 64], 32),
        ("power", 64, {"limit": 64}, [2, 4, 8, 16, 32, 64], 64),
        ("power", 99, {"limit": 70}, [2, 4, 8, 16, 32, 64, 70], 70),
        ("power", 50, {"first": 512}, [512, 256, 128, 64, 32], 32),
        ("power", 99, {"trials": 3}, [2, 4, 8], 8),
        ("power", 0, {"first": 4}, [4, 2, 1], None),
        ("power", 99, {"first": 20, "limit": 10}, [10], 10),
        ("power", 3, {"first": 20, "trials": 2}, [20, 10], None),
        ("binsearch", 50, {}, [2, 4, 8, 16, 32, 64, 48, 56, 52, 50, 51], 50),
        ("binsearch", 50, {"margin": 0.05}, [2, 4, 8, 16, 32, 64, 48, 56, 52, 50, 51], 47),
        ("binsearch", 99, {"margin": 0.05, "limit": 20}, [2, 4, 8, 16, 20], 20),
        ("binsearch", 3, {"first": 16}, [16, 8, 4, 2, 3], 3),
        ("binsearch", 50, {"trials": 7}, [2, 4, 8, 16, 32, 64, 48], 48),
        ("binsearch", 1, {"margin": 0.9}, [2, 1], 1),
        ("binsearch", 0, {}, [2, 1], None),
    ],
)
def test_which_sizes_are_tried(
    mode: Any, room: int, given: dict[str, Any], tried: list[int], found: int | None
) -> None:
    seen: list[int] = []

    def fits(size: int) -> bool:
        seen.append(size)
        return size <= room

    given = {"first": 2, "trials": 25, "margin": 0.0, "limit": 8192} | given
    limit = given.pop("limit")
    assert largest(fits, mode, limit=lambda: limit, **given) == found
    assert seen == tried


def test_the_limit_may_be_learnt_in_the_first_trial() -> None:
    limit = [8192]

    def fits(size: int) -> bool:
        limit[0] = 12
        return True

    assert largest(fits, "power", first=16, trials=9, limit=lambda: limit[0], margin=0.0) == 12


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if the input is large"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
