"""Errors of DistributedDataParallel in other words; `tests/test_parallel_strategies` has those that it raises."""

from __future__ import annotations

import pytest

from leyden.runtime.ddp_errors import in_other_words

UNUSED = "Expected to have finished reduction in the prior iteration. Parameter indices which did not receive grad for "


@pytest.mark.parametrize(
    ("indices", "named"),
    [
        ("rank 0: 1\n", "p1."),
        ("rank 3: 0 2 \n In addition", "p0, p2."),
        (f"rank 0: {' '.join(map(str, range(12)))}", "p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 and 2 more."),
        ("rank 0: 99", "some (TORCH_DISTRIBUTED_DEBUG=INFO names them)."),
        ("nobody", "some (TORCH_DISTRIBUTED_DEBUG=INFO names them)."),
    ],
)
def test_parameters_without_gradient_are_named(indices: str, named: str) -> None:
    said = str(in_other_words(RuntimeError(UNUSED + indices), [f"p{index}" for index in range(12)]))
    assert said.startswith(f"Parameters that no loss has used in the last step: {named}")


def test_others_are_left_as_they_are() -> None:
    assert in_other_words(RuntimeError("out of memory"), ["p"]) is None
