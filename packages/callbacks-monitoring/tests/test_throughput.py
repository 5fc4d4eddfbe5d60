"""Throughput by itself: totals, windows, devices, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest

from leyden import MisconfigurationException
from leyden_monitoring import Throughput


def test_nothing_is_known_before_the_first_update_and_no_rate_before_the_second() -> None:
    throughput = Throughput()
    assert throughput.compute() == {}
    throughput.update(time=1.0, batches=1, samples=4)
    assert throughput.compute() == {"time": 1.0, "batches": 1, "samples": 4}
    throughput.update(time=1.0, batches=2, samples=8)  # a coarse clock
    assert throughput.compute() == {"time": 1.0, "batches": 2, "samples": 8}


def test_all_series_of_one_device() -> None:
    throughput = Throughput(available_flops=1000.0)
    for step in range(3):
        throughput.update(time=2.0 * step, batches=step, samples=8 * step, lengths=80 * step, flops=500.0)
    assert throughput.compute() == {
        "time": 4.0,
        "batches": 2,
        "samples": 16,
        "lengths": 160,
        "device/batches_per_sec": 0.5,
        "device/samples_per_sec": 4.0,
        "device/items_per_sec": 40.0,
        "device/flops_per_sec": 250.0,
        "device/mfu": 0.25,
    }


def test_several_devices_have_the_sum_too_under_the_separator_asked_for() -> None:
    throughput = Throughput(available_flops=10.0, world_size=4, separator="|")
    throughput.update(time=0.0, batches=0)
    throughput.update(time=2.0, batches=4, flops=10.0)
    assert throughput.compute() == {
        "time": 2.0,
        "batches": 4,
        "device|batches_per_sec": 2.0,
        "batches_per_sec": 8.0,
        "device|flops_per_sec": 5.0,
        "flops_per_sec": 20.0,
        "device|mfu": 0.5,
    }


@pytest.mark.parametrize(
    ("window_size", "every", "expected"),
    [
        (1, 1, [1, 1, 2, 2, 4, 4]),  # the last batch
        (2, 1, [1, 1, 1.5, 2, 3, 4]),
        (100, 1, [1, 1, 4 / 3, 1.5, 2, 14 / 6]),  # all there are
        (1, 2, [1, 2, 4]),  # no finer than the updates
        (3, 2, [1, 1.5, 3]),  # the least that holds the window
    ],
)
def test_the_window_counts_batches(window_size: int, every: int, expected: list[float]) -> None:
    throughput = Throughput(window_size=window_size)
    samples, rates = 0, []
    throughput.update(time=0.0, batches=0, samples=0)
    for batches, size in enumerate([1, 1, 2, 2, 4, 4], start=1):
        samples += size
        if batches % every == 0:
            throughput.update(time=float(batches), batches=batches, samples=samples)
            rates.append(throughput.compute()["device/samples_per_sec"])
    assert rates == expected


def test_reset_begins_anew() -> None:
    throughput = Throughput()
    throughput.update(time=5.0, batches=5, samples=5)
    throughput.reset()
    throughput.update(time=0.0, batches=1, samples=1)
    assert throughput.compute() == {"time": 0.0, "batches": 1, "samples": 1}


@pytest.mark.parametrize("less", [{"time": 0.5}, {"batches": 1}, {"samples": 3}, {"lengths": 7}])
def test_a_total_cannot_become_less(less: dict[str, Any]) -> None:
    throughput = Throughput()
    throughput.update(time=1.0, batches=2, samples=4, lengths=8)
    ((name, value),) = less.items()
    with pytest.raises(ValueError, match=rf"update\({name}={value}\): it was .* call reset"):
        throughput.update(**({"time": 2.0, "batches": 3, "samples": 6, "lengths": 9} | less))
    assert throughput.compute()["batches"] == 2


def test_arguments_are_checked_together() -> None:
    with pytest.raises(MisconfigurationException) as caught:
        Throughput(available_flops=-1, window_size=0, separator="")
    assert str(caught.value).splitlines() == [
        "Throughput(available_flops=-1): expected operations per second of one device, or None.",
        "Throughput(window_size=0): expected an int >= 1.",
        "Throughput(separator=''): expected a string that is not empty.",
    ]
    with pytest.raises(MisconfigurationException, match=r"world_size=0\): expected an int >= 1"):
        Throughput(world_size=0)
