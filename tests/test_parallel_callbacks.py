"""Every callback and logger that comes with Leyden, in two processes: both agree, and the first alone writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.parallel_callbacks import CASES, EPOCHS, alone, outcomes
from tests.parallel_runs import PROCESSES
from tests.together import together

from leyden import callbacks, loggers

Pair = list[dict[str, Any]]
STRATEGIES = ("ddp", "fsdp")
_BASES = {"Callback", "Checkpoint", "Logger", "FolderLogger", "DummyLogger"}  # which do or write nothing


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Pair]:
    """What a case has come to in each process; they are started once and run all cases, one after the other."""
    folder = str(tmp_path_factory.mktemp("together"))
    ended = together(outcomes, folder, *CASES, processes=PROCESSES, timeout_s=300)

    def of(name: str, strategy: str) -> Pair:
        assert not any(one.error for one in ended), [one.error for one in ended]
        return [one.value[name, strategy] for one in ended]

    return of


def test_no_callback_and_no_logger_is_without_a_case() -> None:
    """A new one gets a case, and below a claim of what has to hold in all processes."""
    without = sorted({*callbacks.__all__, *loggers.__all__} - {*CASES} - _BASES)
    assert not without, f"{', '.join(without)}: give each a case in parallel_callbacks.py and a claim here"
    assert {*CLAIMS} == {*CASES}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", CASES)
def test_processes_agree(pairs: Callable[[str, str], Pair], tmp_path: Path, name: str, strategy: str) -> None:
    case, runs = CASES[name], pairs(name, strategy)
    if case.refused and strategy == "fsdp":
        for run in runs:
            assert f"MisconfigurationException: {name} cannot work with FSDPStrategy: {case.refused}" in run["error"]
        return
    assert [run["error"] for run in runs] == [""] * PROCESSES
    first, *others = runs
    for run in others:
        assert run["printed"] == ""
        assert (run["steps"], bool(run["raised"])) == (first["steps"], bool(first["raised"]))
        _assert_same_weights(run, first, rtol=0, atol=0)
    if case.is_alone:
        single = alone(name, tmp_path)
        assert (single["error"], single["steps"]) == ("", first["steps"])
        _assert_same_weights(first, single, rtol=1e-5, atol=1e-6)
        assert (first["files"], len(first["rows"])) == (single["files"], len(single["rows"]))
    CLAIMS[name](runs)


def _assert_same_weights(run: dict[str, Any], other: dict[str, Any], rtol: float, atol: float) -> None:
    assert run["weights"].keys() == other["weights"].keys()
    for key, weight in run["weights"].items():
        torch.testing.assert_close(weight, other["weights"][key], rtol=rtol, atol=atol)


# -- what has to hold beside that ---------------------------------------------------------------------------------


def _the_same(runs: Pair) -> None:
    """All have seen the same."""
    assert all(run["seen"] == runs[0]["seen"] for run in runs)


def _each_row_once(runs: Pair) -> None:
    """Each predicted row is written by one process, after its batch and after the epoch."""
    for kind in (0, 1):
        rows = [row for run in runs for row in run["seen"][kind]]
        assert sorted(rows) == list(range(11))
    assert all(run["seen"][0] == run["seen"][1] for run in runs)


def _as_narrow_as_the_narrowest(runs: Pair) -> None:
    assert [run["seen"] for run in runs] == [(2, 2)] * PROCESSES


def _stopped_by_the_first(runs: Pair) -> None:
    """The metric, another in each process, does not improve in the first: two epochs of patience after one."""
    assert [run["seen"] for run in runs] == [(2, 0.0, 2)] * PROCESSES


def _both_cards(runs: Pair) -> None:
    seen = {(name[:12], value) for row in runs[0]["rows"] for name, value in row.items() if "temperature.gpu" in name}
    assert {("device_id: 0", "50.0"), ("device_id: 1", "60.0")} <= seen


def _windows(runs: Pair) -> None:
    assert runs[0]["steps"] == 6 + 3 + 2


def _written_by_the_first(runs: Pair) -> None:
    assert [run["seen"] for run in runs] == [rank == 0 for rank in range(PROCESSES)]


def _mean_of_ranks(runs: Pair) -> None:
    assert [run["seen"] for run in runs] == [(PROCESSES - 1) / 2] * PROCESSES


def _kept_by_the_first(runs: Pair) -> None:
    """Scores differ, those of the first count, and all know the same paths; both files are whole."""
    _the_same(runs)
    best, last, kept, score = runs[0]["seen"]
    assert (len(kept), score, best in kept) == (2, 0.0, True)
    written = {Path(path).name for path in (*kept, last)}
    assert written == {"epoch=0-own=0.0.ckpt", "epoch=1-own=0.0.ckpt", "last.ckpt"}
    assert {Path(name).name for name in runs[0]["files"] if name.endswith(".ckpt")} == written


def _pruned_alike(runs: Pair) -> None:
    """Random choices are the first's."""
    _the_same(runs)
    assert sum(runs[0]["seen"]) == 42


def _a_bar_for_each_epoch(runs: Pair) -> None:
    for epoch in range(EPOCHS):
        assert runs[0]["printed"].count(f"Epoch {epoch}: 6/6") == 1


def _a_table(runs: Pair) -> None:
    """Of the whole module, with sizes."""
    [row] = [line for line in runs[0]["printed"].splitlines() if "backbone" in line]
    assert (" 42 " in row, "[2, 6]" in row) == (True, True)


def _counted(runs: Pair) -> None:
    counted = [line for line in runs[0]["printed"].splitlines() if line.startswith("batch")]
    assert counted == [f"batch {number + 1}" for number in range(6)] * EPOCHS


def _spiked_together(runs: Pair) -> None:
    """A spike in the last process is one in all, and the file names it once."""
    assert len({run["raised"] for run in runs}) == 1
    assert f"spiked at batch 4 of epoch 0 in process {PROCESSES - 1} of {PROCESSES}: " in runs[0]["raised"]
    assert "skip_batches.json" in runs[0]["files"]


def _throughput_of_all(runs: Pair) -> None:
    """Totals are of a process, rates without ``device/`` of all."""
    for run in runs:
        seen = run["seen"]
        assert (seen["train/batches"], seen["train/samples"]) == (18, 18 * 4 // PROCESSES)
        if PROCESSES > 1:
            assert seen["train/samples_per_sec"] == pytest.approx(seen["train/device/samples_per_sec"] * PROCESSES)


def _by_the_first_clock(runs: Pair) -> None:
    """Time is up for the first after three batches, and another is under way by then; others' clocks stand still."""
    steps = 3 if PROCESSES == 1 else 4
    assert [run["seen"] for run in runs] == [(steps, steps), *[(steps, 0)] * (PROCESSES - 1)]


def _nothing_more(runs: Pair) -> None:
    """That the run is that of one process, and what is written and printed with it, is all there is to say."""


CLAIMS: dict[str, Callable[[Pair], None]] = {
    "BackboneFinetuning": _nothing_more,
    "BaseFinetuning": _nothing_more,
    "BasePredictionWriter": _each_row_once,
    "BatchSizeFinder": _as_narrow_as_the_narrowest,
    "CSVLogger": _the_same,
    "DeviceStatsMonitor": _nothing_more,
    "EMAWeightAveraging": _nothing_more,
    "EarlyStopping": _stopped_by_the_first,
    "GPUStatsMonitor": _both_cards,
    "GradientAccumulationScheduler": _windows,
    "Heartbeat": _written_by_the_first,
    "LambdaCallback": _mean_of_ranks,
    "LearningRateFinder": _the_same,
    "LearningRateMonitor": _the_same,
    "ModelCheckpoint": _kept_by_the_first,
    "ModelPruning": _pruned_alike,
    "ModelSummary": _a_table,
    "OnExceptionCheckpoint": _nothing_more,
    "ProgressBar": _a_bar_for_each_epoch,
    "ProgressBarBase": _counted,
    "PrometheusExporter": _nothing_more,
    "QuantizationAwareTraining": _nothing_more,
    "RichModelSummary": _a_table,
    "RichProgressBar": _a_bar_for_each_epoch,
    "SpikeDetection": _spiked_together,
    "StochasticWeightAveraging": _nothing_more,
    "TQDMProgressBar": _a_bar_for_each_epoch,
    "TensorBoardLogger": _the_same,
    "ThroughputMonitor": _throughput_of_all,
    "Timer": _by_the_first_clock,
    "WeightAveraging": _nothing_more,
}
