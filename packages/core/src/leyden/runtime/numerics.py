"""PyTorch's global switches, set for the length of a run and put back after it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from leyden.settings import Settings

__all__ = ["numerics"]


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
        if settings.benchmark is not None:
            stack.enter_context(_cudnn_benchmark(settings.benchmark))
        yield


@contextlib.contextmanager
def _deterministic(on: bool, *, warn_only: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if on:
        # cuBLAS reads this once, when it first runs; without it torch refuses deterministic matrix products on CUDA.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(on, warn_only=warn_only)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@contextlib.contextmanager
def _cudnn_benchmark(on: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = on
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before
