"""GPUStatsMonitor against a fake NVML: the names of 1.x, what a card lacks, and no driver."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import logging
import pickle
import sys
from typing import Any

import fake_nvml as fakes
import pytest

from leyden import Callback, MisconfigurationException, Trainer
from leyden.loggers import Logger
from leyden.overrides import is_overridden
from leyden.testing.models import BoringModule
from leyden_monitoring import DeviceStatsMonitor, GPUStatsMonitor

UTILIZATION = {"device_id: 0/utilization.gpu (%)": 70}
MEMORY = {
    "device_id: 0/memory.used (MB)": 3 * 1024,
    "device_id: 0/memory.free (MB)": 5 * 1024,
    "device_id: 0/utilization.memory (%)": 30,
}
FAN = {"device_id: 0/fan.speed (%)": 40}
TEMPERATURE = {"device_id: 0/temperature.gpu (°C)": 61, "device_id: 0/temperature.memory (°C)": 75}
TIMES = {"batch_time/intra_step (ms)", "batch_time/inter_step (ms)"}


class Notes(Logger):
    """Keeps what it is given, but for what the module logs."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "notes"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        values = {name: value for name, value in metrics.items() if name.startswith(("device_id", "batch_time"))}
        if values:
            self.rows.append((step, values))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Not looked at here."""


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Any:
    return fakes.FakeNvml(fakes.Card("a")).install(monkeypatch)


def trainer_with(*callbacks: Callback, **settings: Any) -> tuple[Trainer, Notes]:
    notes = Notes()
    defaults: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "logger": notes, "log_every_n_steps": 2}
    return Trainer(**defaults | settings, callbacks=list(callbacks), discover_callbacks=False), notes


def run(monitor: GPUStatsMonitor, *callbacks: Callback, **settings: Any) -> list[tuple[int | None, dict[str, float]]]:
    trainer, notes = trainer_with(monitor, *callbacks, **settings)
    fakes.on_gpu(trainer).fit(BoringModule(batches={"train": 4}))
    return notes.rows


def test_the_fake_has_no_name_that_the_real_module_lacks() -> None:
    real = importlib.import_module("pynvml")
    of_nvml = [name for name in [*vars(fakes.FakeNvml), *vars(fakes.FakeNvml())] if name.lower().startswith("nvml")]
    assert len(of_nvml) == 17
    assert [name for name in of_nvml if not hasattr(real, name)] == []
    assert issubclass(real.NVMLError_NotSupported, real.NVMLError)
    assert issubclass(real.NVMLError_FunctionNotFound, real.NVMLError)


def test_memory_and_utilisation_at_the_steps_of_logging(nvml: Any) -> None:
    assert run(GPUStatsMonitor()) == [(1, MEMORY | UTILIZATION), (3, MEMORY | UTILIZATION)]
    assert (nvml.opened, fakes.sampling_threads()) == (0, [])


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({"memory_utilization": False}, UTILIZATION),
        ({"gpu_utilization": False}, MEMORY),
        ({"memory_utilization": False, "gpu_utilization": False, "fan_speed": True}, FAN),
        ({"memory_utilization": False, "gpu_utilization": False, "temperature": True}, TEMPERATURE),
    ],
)
def test_each_argument(nvml: Any, chosen: dict[str, bool], expected: dict[str, float]) -> None:
    assert run(GPUStatsMonitor(**chosen)) == [(1, expected), (3, expected)]


def test_accumulation_logs_once_per_step(nvml: Any) -> None:
    assert [step for step, _ in run(GPUStatsMonitor(), accumulate_grad_batches=2, log_every_n_steps=1)] == [0, 1]
    assert run(GPUStatsMonitor(), log_every_n_steps=0) == []


def test_times_of_a_step_and_between_steps(nvml: Any) -> None:
    monitor = GPUStatsMonitor(False, False, intra_step_time=True, inter_step_time=True)
    rows = run(monitor, max_epochs=2, log_every_n_steps=1, val_check_interval=2)
    # No time between steps at the start of an epoch, and across the validation in the middle of one.
    intra, both = {"batch_time/intra_step (ms)"}, TIMES
    assert [set(values) for _, values in rows] == [intra, both, intra, both] * 2
    assert all(0 < value < 60_000 for _, values in rows for value in values.values())
    (alone,) = {tuple(values) for _, values in run(GPUStatsMonitor(False, False, inter_step_time=True))}
    assert alone == ("batch_time/inter_step (ms)",)


def test_a_step_is_interrupted_at_its_start_for_times_alone() -> None:
    assert not is_overridden("on_train_batch_start", GPUStatsMonitor())
    assert is_overridden("on_train_batch_start", GPUStatsMonitor(inter_step_time=True))


def test_what_a_card_lacks_is_left_out_and_told_once_where_it_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.FakeNvml(fakes.Card("a", lacks={"fan", "memory_temperature", "power"})).install(monkeypatch)
    monitor = GPUStatsMonitor(fan_speed=True, temperature=True)
    with caplog.at_level(logging.INFO, "leyden"):
        rows = run(monitor)
        run(monitor)
        run(GPUStatsMonitor())
    assert rows[0][1] == MEMORY | UTILIZATION | {"device_id: 0/temperature.gpu (°C)": 61}
    assert [record.getMessage() for record in caplog.records if "GPUStats" in record.getMessage()] == [
        "GPUStatsMonitor logs no fan speed: GPU 0 (Fake H100) does not have it.",
        "GPUStatsMonitor logs no memory temperature: GPU 0 (Fake H100) does not have it.",
    ]


def test_it_shares_a_thread_with_device_statistics(nvml: Any) -> None:
    class Look(Callback):
        def on_train_start(self, *_: Any) -> None:
            seen.append((fakes.sampling_threads(), nvml.opened))

    seen: list[tuple[list[str], int]] = []
    run(GPUStatsMonitor(), DeviceStatsMonitor(), Look())
    assert seen == [(["leyden samples GPU 0 (Fake H100)"], 1)]


def test_no_driver_is_an_error_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.FakeNvml().install(monkeypatch)
    trainer, _ = trainer_with(GPUStatsMonitor())
    assert not GPUStatsMonitor().applies(fakes.on_gpu(trainer))
    with pytest.raises(MisconfigurationException) as caught:
        trainer.fit(BoringModule())
    assert str(caught.value) == (
        "GPUStatsMonitor cannot watch cuda:0: NVML of the NVIDIA driver cannot be used (Driver Not Loaded). Install "
        "the NVIDIA driver (in a container: with the driver capability 'utility'), or use DeviceStatsMonitor, which "
        "does without."
    )
    assert trainer.global_step == 0


def test_without_the_module_pynvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    trainer, _ = trainer_with(GPUStatsMonitor())
    with pytest.raises(MisconfigurationException, match=r"pynvml.*pip install nvidia-ml-py"):
        fakes.on_gpu(trainer).fit(BoringModule())


def test_a_gpu_that_nvml_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fakes.FakeNvml(fakes.Card("a")).install(monkeypatch)
    nvml.visible = [fakes.Card("of another driver", bus=9)]
    trainer, _ = trainer_with(GPUStatsMonitor())
    with pytest.raises(MisconfigurationException, match="NVML knows no GPU with the UUID of another driver of cuda:0"):
        fakes.on_gpu(trainer).fit(BoringModule())
    assert (nvml.opened, fakes.sampling_threads()) == (0, [])


def test_a_training_on_the_cpu_is_an_error(nvml: Any) -> None:
    trainer, _ = trainer_with(GPUStatsMonitor())
    assert not GPUStatsMonitor().applies(trainer)
    with pytest.raises(MisconfigurationException, match=r"but Trainer\(accelerator=...\) chose 'cpu'"):
        trainer.fit(BoringModule())
    trainer.test(BoringModule(), verbose=False)


def test_no_logger_is_an_error_and_discovered_it_does_not_apply(nvml: Any) -> None:
    trainer, _ = trainer_with(GPUStatsMonitor(), logger=False)
    assert not GPUStatsMonitor().applies(fakes.on_gpu(trainer))
    with pytest.raises(MisconfigurationException, match="GPUStatsMonitor has nowhere to log to"):
        trainer.fit(BoringModule())
    trainer, _ = trainer_with()
    assert GPUStatsMonitor().applies(fakes.on_gpu(trainer))
    assert nvml.opened == 0


def test_copies_take_times_of_their_own(nvml: Any) -> None:
    class Copy(Callback):
        def on_train_start(self, *_: Any) -> None:
            copies.extend([copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))])

    copies: list[GPUStatsMonitor] = []
    monitor = GPUStatsMonitor(False, False, intra_step_time=True)
    run(monitor, Copy())
    for copied in copies:
        assert [list(values) for _, values in run(copied)] == [["batch_time/intra_step (ms)"]] * 2


def test_wrong_arguments_are_all_named() -> None:
    arguments: dict[str, Any] = {"fan_speed": 1, "temperature": None}
    with pytest.raises(MisconfigurationException) as caught:
        GPUStatsMonitor(**arguments)
    assert str(caught.value).splitlines() == [
        "GPUStatsMonitor(fan_speed=1): expected True or False.",
        "GPUStatsMonitor(temperature=None): expected True or False.",
    ]
