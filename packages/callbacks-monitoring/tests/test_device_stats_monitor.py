"""DeviceStatsMonitor in real, tiny trainings: what it logs, at which steps; a fake NVML stands for the driver."""

from __future__ import annotations

import copy
import logging
import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import fake_nvml as fakes
import pytest
import torch
from torch.utils.data import DataLoader

from leyden import Callback, MisconfigurationException, Trainer
from leyden.loggers import CSVLogger, Logger
from leyden.testing import BoringModule, RandomDataset
from leyden_monitoring import DeviceStatsMonitor
from leyden_monitoring.factory import make_callbacks

CPU = {"cpu_percent", "cpu_vm_percent", "cpu_swap_percent"}
ALLOCATOR = {
    "allocated_bytes.all.current": 1024,
    "allocated_bytes.all.peak": 4096,
    "reserved_bytes.all.current": 2048,
}
NVML = {
    "gpu_utilization_percent": 70,
    "gpu_memory_used_bytes": 3 * 2**30,
    "gpu_temperature_celsius": 61,
    "gpu_power_watts": 250.5,
}


class Notes(Logger):
    """Keeps the device statistics it is given: hook, step, numbers by name."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[str, int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "notes"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        hooks = {name.split("/")[0] for name in metrics if name.startswith("DeviceStatsMonitor.")}
        for hook in hooks:
            values = {name.split("/")[1]: value for name, value in metrics.items()}
            self.rows.append((hook.removeprefix("DeviceStatsMonitor."), step, values))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Not looked at here."""

    @property
    def places(self) -> list[tuple[str, int | None]]:
        return [(hook, step) for hook, step, _ in self.rows]


def trainer_with(*callbacks: Callback, **settings: Any) -> tuple[Trainer, Notes]:
    notes = Notes()
    defaults: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "logger": notes, "log_every_n_steps": 2}
    return Trainer(**defaults | settings, callbacks=list(callbacks), discover_callbacks=False), notes


def test_the_cpu_at_the_steps_of_logging() -> None:
    trainer, notes = trainer_with(DeviceStatsMonitor(), max_epochs=2)
    trainer.fit(BoringModule(batches={"train": 5, "val": 3}))
    assert notes.places == [
        ("on_train_batch_end", 1),
        ("on_train_batch_end", 3),
        ("on_validation_batch_end", 0),
        ("on_validation_batch_end", 2),
        ("on_train_batch_end", 5),
        ("on_train_batch_end", 7),
        ("on_train_batch_end", 9),
        ("on_validation_batch_end", 4),
    ]
    assert all(CPU - {"cpu_percent"} <= set(values) <= CPU for _, _, values in notes.rows)
    assert all(0 <= value <= 100 for _, _, values in notes.rows for value in values.values())


def test_cpu_use_is_there_from_the_second_sample_on() -> None:
    class Wait(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            watched = monitor._watched_cpu
            while watched is not None and "cpu_percent" not in watched.latest:
                threading.Event().wait(0.001)

    monitor = DeviceStatsMonitor(every_n_seconds=0.01)
    trainer, notes = trainer_with(monitor, Wait(), log_every_n_steps=1)
    trainer.fit(BoringModule(), val_dataloaders=None)
    assert all(set(values) == CPU for _, _, values in notes.rows)


def test_accumulation_logs_once_per_step_and_several_loaders_count_on() -> None:
    module = BoringModule(batches={"train": 6})
    module.validation_step = lambda *_: None  # type: ignore[method-assign]
    trainer, notes = trainer_with(DeviceStatsMonitor(), accumulate_grad_batches=2, log_every_n_steps=1)
    trainer.fit(module, val_dataloaders=[module.val_dataloader(), module.val_dataloader()])
    steps = [step for hook, step in notes.places if hook == "on_train_batch_end"]
    assert steps == [0, 1, 2]
    assert [step for hook, step in notes.places if hook == "on_validation_batch_end"] == [0, 1]


def test_manual_optimisation_and_no_logging_steps() -> None:
    class Manual(BoringModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
            return None

    trainer, notes = trainer_with(DeviceStatsMonitor())
    trainer.fit(Manual())
    assert [place for place in notes.places if place[0] == "on_train_batch_end"] == [("on_train_batch_end", 1)]
    trainer, notes = trainer_with(DeviceStatsMonitor(), log_every_n_steps=0)
    trainer.fit(BoringModule())
    assert notes.places == []


@pytest.mark.parametrize("entry_point", ["validate", "test"])
def test_the_other_entry_points(entry_point: str) -> None:
    monitor = DeviceStatsMonitor()
    trainer, notes = trainer_with(monitor)
    hook = "on_validation_batch_end" if entry_point == "validate" else "on_test_batch_end"
    for _ in range(2):
        getattr(trainer, entry_point)(BoringModule(batches={"val": 3, "test": 3}), verbose=False)
    assert notes.places == [(hook, 0), (hook, 2)] * 2
    trainer.predict(BoringModule())
    assert len(notes.places) == 4


def test_a_gpu_by_the_allocator_and_by_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fakes.FakeNvml(fakes.Card("a", bus=1, gpu=1), fakes.Card("b", bus=2), visible=[1]).install(monkeypatch)
    trainer, notes = trainer_with(DeviceStatsMonitor())
    fakes.on_gpu(trainer).fit(BoringModule())
    assert notes.rows == [
        ("on_train_batch_end", 1, ALLOCATOR | NVML),
        ("on_validation_batch_end", 0, ALLOCATOR | NVML),
    ]
    assert nvml.threads == {"leyden samples GPU 0 (Fake H100)"}  # no hook asks the driver
    assert (nvml.opened, fakes.sampling_threads()) == (0, [])


def test_a_gpu_is_found_by_its_address_where_nvml_does_not_know_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fakes.FakeNvml(fakes.Card("a", bus=1, gpu=1), fakes.Card("b", bus=2), visible=[1]).install(monkeypatch)
    nvml.knows_uuids = False
    trainer, notes = trainer_with(DeviceStatsMonitor())
    fakes.on_gpu(trainer).fit(BoringModule())
    assert notes.rows[0][2]["gpu_utilization_percent"] == 70


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
def test_a_real_gpu_by_a_real_driver_without_waiting_for_it() -> None:
    class Forbid(Callback):
        position = "first"

        def on_train_batch_end(self, *_: Any) -> None:
            torch.cuda.set_sync_debug_mode("error")

    class Allow(Callback):
        position = "checkpoint"

        def on_train_batch_end(self, *_: Any) -> None:
            torch.cuda.set_sync_debug_mode("default")

    callbacks = (Forbid(), DeviceStatsMonitor(cpu_stats=True), Allow())
    trainer, notes = trainer_with(*callbacks, accelerator="cuda", devices=1, limit_val_batches=0)
    try:
        trainer.fit(BoringModule(batches={"train": 4}))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for _, _, values in notes.rows:
        assert set(values) >= ALLOCATOR.keys() | {"gpu_memory_used_bytes", "cpu_vm_percent"}
        assert 0 < values["allocated_bytes.all.current"] <= values["allocated_bytes.all.peak"]
        assert values["reserved_bytes.all.current"] <= values["gpu_memory_used_bytes"]
    assert notes.places == [("on_train_batch_end", 1), ("on_train_batch_end", 3)]


@pytest.mark.parametrize("cpu_stats", [None, True, False])
def test_cpu_stats_on_a_gpu_and_on_a_cpu(monkeypatch: pytest.MonkeyPatch, cpu_stats: bool | None) -> None:
    fakes.FakeNvml(fakes.Card("a")).install(monkeypatch)
    trainer, notes = trainer_with(DeviceStatsMonitor(cpu_stats))
    fakes.on_gpu(trainer).fit(BoringModule())
    assert ("cpu_vm_percent" in notes.rows[0][2]) is (cpu_stats is True)
    trainer, notes = trainer_with(DeviceStatsMonitor(cpu_stats))
    trainer.fit(BoringModule())
    assert [("cpu_vm_percent" in values) for _, _, values in notes.rows] == ([] if cpu_stats is False else [True] * 2)


def test_what_a_card_lacks_is_left_out_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.FakeNvml(fakes.Card("a", lacks={"temperature", "fan"})).install(monkeypatch)
    trainer, notes = trainer_with(DeviceStatsMonitor())
    with caplog.at_level(logging.INFO, "leyden"):
        fakes.on_gpu(trainer).fit(BoringModule())
        trainer.test(BoringModule(), verbose=False)
    assert set(notes.rows[0][2]) == (ALLOCATOR.keys() | NVML.keys()) - {"gpu_temperature_celsius"}
    told = [record.getMessage() for record in caplog.records if "DeviceStats" in record.getMessage()]
    assert told == ["DeviceStatsMonitor logs no temperature: GPU 0 (Fake H100) does not have it."]


def test_without_a_driver_the_allocator_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.FakeNvml().install(monkeypatch)
    trainer, notes = trainer_with(DeviceStatsMonitor())
    with caplog.at_level(logging.INFO, "leyden"):
        fakes.on_gpu(trainer).fit(BoringModule())
    assert notes.rows[0][2] == ALLOCATOR
    told = [record.getMessage() for record in caplog.records if "DeviceStats" in record.getMessage()]
    assert told == [
        "DeviceStatsMonitor logs no utilisation, temperature and power: NVML of the NVIDIA driver cannot be used "
        "(Driver Not Loaded)."
    ]


def test_a_gpu_that_is_lost_in_the_middle_ends_no_training(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    card = fakes.Card("a")
    nvml = fakes.FakeNvml(card).install(monkeypatch)
    asked = threading.Semaphore(0)

    class Lose(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                card.broken = {"utilization", "memory", "temperature", "field", "power", "fan"}
                nvml.asked = lambda name: asked.release() if name == "fan" else None
                for _ in range(3):  # the third comes after a whole sample of nothing
                    assert asked.acquire(timeout=60)

    trainer, notes = trainer_with(DeviceStatsMonitor(every_n_seconds=1e-3), Lose(), limit_val_batches=0)
    with caplog.at_level(logging.WARNING, "leyden"):
        fakes.on_gpu(trainer).fit(BoringModule(batches={"train": 4}))
    assert [set(values) for _, _, values in notes.rows] == [ALLOCATOR.keys() | NVML.keys(), ALLOCATOR.keys()]
    assert len(caplog.records) == 6
    assert "The power of GPU 0 (Fake H100) cannot be read: NVMLError: GPU is lost" in caplog.text


@pytest.mark.parametrize("where", ["setup", "training_step"])
def test_the_thread_ends_after_exceptions(where: str) -> None:
    class Failing(BoringModule):
        def setup(self, stage: str) -> None:
            assert len(fakes.sampling_threads()) == 1
            if where == "setup":
                raise RuntimeError(where)

        def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
            raise RuntimeError(where)

    trainer, _ = trainer_with(DeviceStatsMonitor())
    with pytest.raises(RuntimeError, match=where):
        trainer.fit(Failing())
    assert fakes.sampling_threads() == []


def test_two_trainers_at_once_share_a_thread_and_workers_have_none() -> None:
    class Nested(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            inner, _ = trainer_with(DeviceStatsMonitor(), Look())
            inner.fit(BoringModule())

    class Look(Callback):
        def on_train_start(self, *_: Any) -> None:
            seen.append(fakes.sampling_threads())

    seen: list[list[str]] = []
    trainer, notes = trainer_with(DeviceStatsMonitor(), Nested(), Look(), limit_val_batches=0)
    loader = DataLoader(RandomDataset(4, 8), batch_size=2, num_workers=1)
    trainer.fit(BoringModule(), loader)
    assert seen == [["leyden samples this machine"]] * 2
    assert notes.places == [("on_train_batch_end", 1), ("on_train_batch_end", 3)]
    assert fakes.sampling_threads() == []


def test_no_logger_is_an_error_for_who_asked() -> None:
    for entry_point in ("fit", "validate", "test"):
        trainer, _ = trainer_with(DeviceStatsMonitor(), logger=False)
        with pytest.raises(MisconfigurationException, match="DeviceStatsMonitor has nowhere to log to: the Trainer"):
            getattr(trainer, entry_point)(BoringModule())
    quick, _ = trainer_with(DeviceStatsMonitor(), logger=False, fast_dev_run=True)
    quick.fit(BoringModule())


def test_it_applies_where_there_is_a_logger_and_something_to_log() -> None:
    (attached,) = (one for one in make_callbacks() if isinstance(one, DeviceStatsMonitor))
    trainer, _ = trainer_with()
    assert DeviceStatsMonitor().applies(trainer)
    assert not attached.applies(trainer)
    assert attached.applies(fakes.on_gpu(trainer))
    trainer, _ = trainer_with(logger=False)
    assert not DeviceStatsMonitor().applies(fakes.on_gpu(trainer))


def test_an_operator_attaches_it_by_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU too, where it does not attach itself."""
    (tmp_path / "leyden.toml").write_text("[callbacks.DeviceStatsMonitor]\nevery_n_seconds = 0.5\n", encoding="utf-8")
    monkeypatch.setenv("LEYDEN_CONFIG", str(tmp_path / "leyden.toml"))
    monkeypatch.setenv("LEYDEN_CALLBACKS", "only:DeviceStatsMonitor")
    notes = Notes()
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=notes, log_every_n_steps=2)
    trainer.fit(BoringModule())
    assert [type(one).__name__ for one in trainer.callbacks] == ["DeviceStatsMonitor"]
    assert notes.places == [("on_train_batch_end", 1), ("on_validation_batch_end", 0)]


def test_resumed_it_goes_on_at_the_same_steps(tmp_path: Path) -> None:
    class SaveInValidation(Callback):
        position = "checkpoint"

        def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
            if trainer.current_epoch == 0 and trainer.fit_loop.val_loop.batches_done == 2:
                trainer.plan.when_done(lambda: trainer.save_checkpoint(tmp_path / "run.ckpt"))

    batches = {"train": 3, "val": 3}
    trainer, straight = trainer_with(DeviceStatsMonitor(), SaveInValidation(), max_epochs=2, num_sanity_val_steps=0)
    trainer.fit(BoringModule(batches=batches))
    saved = torch.load(tmp_path / "run.ckpt")["callbacks"]["DeviceStatsMonitor"]
    assert saved["batches"] == {"validation": 2, "test": 0}
    trainer, resumed = trainer_with(DeviceStatsMonitor(), max_epochs=2)
    trainer.fit(BoringModule(batches=batches), ckpt_path=tmp_path / "run.ckpt")
    assert straight.places[:2] + resumed.places == straight.places


def test_names_in_the_csv_file(tmp_path: Path) -> None:
    trainer, _ = trainer_with(DeviceStatsMonitor(), logger=CSVLogger(tmp_path))
    trainer.fit(BoringModule())
    header = Path(trainer.log_dir or "", "metrics.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"DeviceStatsMonitor.on_train_batch_end/cpu_vm_percent", "train_loss"} <= set(header)


def test_a_step_that_reports_nothing_costs_one_python_call() -> None:
    def calls(*callbacks: Callback) -> int:
        trainer, _ = trainer_with(*callbacks, log_every_n_steps=1000, limit_val_batches=0)
        return count_calls(lambda: trainer.fit(BoringModule(batches={"train": 60})))

    class Idle(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            """Called, and no more."""

    calls(DeviceStatsMonitor())  # imports
    assert abs(calls(DeviceStatsMonitor()) - calls(Idle())) < 30  # its setup and end; 60 would be one more per step


def count_calls(run: Callable[[], object]) -> int:
    """Count the Python functions entered in the steps of a run."""
    calls, inside = 0, False

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls, inside
        if event == "call" and frame.f_code.co_name == "_run_batches":
            inside = True
        elif event == "return" and frame.f_code.co_name == "_run_batches":
            inside = False
        calls += inside and event == "call"

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


def test_copies_in_the_middle_of_a_run() -> None:
    class Copy(Callback):
        def on_train_start(self, *_: Any) -> None:
            for copied in (copy.deepcopy(monitor), pickle.loads(pickle.dumps(monitor))):
                assert (copied.cpu_stats, copied.every_n_seconds, copied._watched_cpu) == (True, 0.5, None)

    monitor = DeviceStatsMonitor(cpu_stats=True, every_n_seconds=0.5)
    trainer, _ = trainer_with(monitor, Copy())
    trainer.fit(BoringModule())


def test_wrong_arguments_are_all_named() -> None:
    arguments: dict[str, Any] = {"cpu_stats": "yes", "every_n_seconds": -1}
    with pytest.raises(MisconfigurationException) as caught:
        DeviceStatsMonitor(**arguments)
    assert str(caught.value).splitlines() == [
        "DeviceStatsMonitor(cpu_stats='yes'): expected True, False or None.",
        "DeviceStatsMonitor(every_n_seconds=-1): expected a number of seconds above 0, or None.",
    ]
