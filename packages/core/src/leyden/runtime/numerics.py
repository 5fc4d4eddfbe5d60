"""PyTorch's global switches, set for the length of a run and put back after it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from leyden.settings import Settings

__all__ = ["numerics"]

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"


@contextlib.contextmanager
def numerics(settings: Settings) -> Iterator[None]:
    """Apply `deterministic`, `benchmark` and `detect_anomaly`, with gradients enabled."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        if settings.detect_anomaly:
            stack.enter_context(torch.autograd.set_detect_anomaly(True))
        if settings.deterministic is not None:
            stack.enter_context(
                _deterministic(bool(settings.deterministic), warn_only=settings.deterministic == "warn")
            )
        # Benchmarking may choose another algorithm in each process, whose last bits differ.
        benchmark = False if settings.benchmark is None and settings.deterministic else settings.benchmark
        if benchmark is not None:
            stack.enter_context(_cudnn_benchmark(benchmark))
        yield


@contextlib.contextmanager
def _deterministic(on: bool, *, warn_only: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # Without it torch refuses deterministic matrix products on CUDA.
    sets_workspace = on and _CUBLAS not in os.environ
    if sets_workspace:
        os.environ[_CUBLAS] = ":4096:8"
    torch.use_deterministic_algorithms(on, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        if sets_workspace:
            os.environ.pop(_CUBLAS, None)


@contextlib.contextmanager
def _cudnn_benchmark(on: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
