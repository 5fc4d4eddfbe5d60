"""A stage's totals and clock."""

from __future__ import annotations

from leyden_monitoring.stage_meter import StageMeter
from leyden_monitoring.throughput import Throughput


def test_the_clock_stands_still_between_the_runs_of_a_stage() -> None:
    meter = StageMeter(Throughput(), counts_lengths=False)
    assert meter.elapsed(5.0) == 0.0
    meter.start(10.0)
    meter.start(11.0)  # it runs already
    assert meter.elapsed(12.0) == 2.0
    meter.stop(13.0)
    meter.stop(14.0)
    assert meter.elapsed(99.0) == 3.0
    meter.start(100.0)
    assert meter.elapsed(101.0) == 4.0


def test_a_loaded_meter_has_the_totals_and_rates_of_its_own() -> None:
    meter = StageMeter(Throughput(), counts_lengths=True)
    meter.load_state_dict({"time": 100.0, "batches": 10, "samples": 20, "lengths": 30})
    meter.start(1.0)
    meter.batches, meter.samples, meter.lengths = 11, 24, 33
    meter.update(3.0)
    assert meter.throughput.compute() == {
        "time": 102.0,
        "batches": 11,
        "samples": 24,
        "lengths": 33,
        "device/batches_per_sec": 0.5,
        "device/samples_per_sec": 2.0,
        "device/items_per_sec": 1.5,
    }
    assert meter.state_dict(4.0) == {"time": 103.0, "batches": 11, "samples": 24, "lengths": 33}


def test_samples_that_cannot_be_counted_stay_out_after_a_resume() -> None:
    meter = StageMeter(Throughput(), counts_lengths=False)
    meter.has_sizes = False
    other = StageMeter(Throughput(), counts_lengths=False)
    other.load_state_dict(meter.state_dict(0.0))
    other.start(0.0)
    assert "samples" not in other.throughput.compute()
