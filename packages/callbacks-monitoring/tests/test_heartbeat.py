"""Heartbeat in real runs: when it beats and what it says, read from the file as a probe would."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]

from leyden import Callback, MisconfigurationException, Trainer
from leyden.runtime.strategy import SingleDeviceStrategy
from leyden.testing.models import BoringModule
from leyden_monitoring import Heartbeat

PAGE = Path(__file__).parents[3] / "docs" / "production.md"


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("leyden_monitoring.heartbeat.monotonic", clock)
    return clock


class Reader(Callback):
    """Lets seconds pass in each batch, and notes each new beat as a probe beside the training finds it."""

    def __init__(self, path: Path, clock: Clock, seconds_per_batch: float) -> None:
        self.path, self.clock, self.seconds_per_batch = path, clock, seconds_per_batch
        self.beats: list[tuple[Any, ...]] = []
        self.seen = ""

    def look(self, hook: str) -> None:
        text = self.path.read_text(encoding="utf-8")
        if text != self.seen:
            self.seen, beat = text, json.loads(text)
            self.beats.append((hook, *(beat[name] for name in NAMES)))

    def on_fit_start(self, *_: Any) -> None:
        self.look("fit_start")

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.now += self.seconds_per_batch

    def on_validation_batch_start(self, *_: Any) -> None:
        self.clock.now += self.seconds_per_batch

    def on_test_batch_start(self, *_: Any) -> None:
        self.clock.now += self.seconds_per_batch

    def on_predict_batch_start(self, *_: Any) -> None:
        self.clock.now += self.seconds_per_batch

    def on_train_batch_end(self, *_: Any) -> None:
        self.look("train")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.look("validation")

    def on_test_batch_end(self, *_: Any) -> None:
        self.look("test")

    def on_predict_batch_end(self, *_: Any) -> None:
        self.look("predict")


NAMES = ("status", "stage", "epoch", "step", "batches_done", "batches")


def trainer_with(*callbacks: Callback, **settings: Any) -> Trainer:
    return Trainer(
        **{"accelerator": "cpu", "max_epochs": 2, "logger": False, "discover_callbacks": False, **settings},
        callbacks=list(callbacks),
    )


def read(path: Path) -> dict[str, Any]:
    beat: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return beat


def test_it_beats_by_time_in_all_stages_of_a_fit(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "beat.json"
    reader = Reader(path, clock, 2.0)
    trainer = trainer_with(Heartbeat(path, every_n_seconds=4), reader, num_sanity_val_steps=1)
    trainer.fit(BoringModule(batches={"train": 4, "val": 2}))
    assert reader.beats == [
        ("fit_start", "running", "train", 0, 0, 0, 0),
        ("train", "running", "train", 0, 1, 1, 4),
        ("train", "running", "train", 0, 3, 3, 4),
        ("validation", "running", "validate", 0, 4, 1, 2),
        ("train", "running", "train", 1, 5, 1, 4),
        ("train", "running", "train", 1, 7, 3, 4),
        ("validation", "running", "validate", 1, 8, 1, 2),
    ]
    assert [read(path)[name] for name in NAMES] == ["finished", "train", 2, 8, 0, 4]
    assert read(path)["pid"] == os.getpid()


def test_a_step_that_does_not_end_has_no_beat(tmp_path: Path, clock: Clock) -> None:
    """Nothing but the end of a batch writes: while a step hangs, however long, the file stays as it is."""
    path = tmp_path / "beat.json"
    looks = []

    class Hanging(BoringModule):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
            before = path.stat().st_mtime_ns, path.read_bytes()
            clock.now += 10_000
            looks.append((path.stat().st_mtime_ns, path.read_bytes()) == before)
            return super().training_step(batch, batch_idx)

    trainer_with(Heartbeat(path, every_n_seconds=0.001)).fit(Hanging())
    assert looks == [True] * 4


@pytest.mark.parametrize(
    ("entry_point", "batches", "stage"),
    [("validate", {"val": 3}, "validate"), ("test", {"test": 3}, "test"), ("predict", {"predict": 3}, "predict")],
)
def test_the_other_entry_points_with_two_dataloaders(
    tmp_path: Path, clock: Clock, entry_point: str, batches: dict[str, int], stage: str
) -> None:
    path = tmp_path / "beat.json"
    module = BoringModule(batches=batches)
    loaders = [module._loader(next(iter(batches))) for _ in range(2)]
    module.predict_step = module.validation_step = module.test_step = lambda *_: None  # type: ignore[method-assign]
    reader = Reader(path, clock, 2.0)
    getattr(trainer_with(Heartbeat(path, every_n_seconds=4), reader), entry_point)(module, loaders)
    hook = "validation" if stage == "validate" else stage
    assert reader.beats == [
        (hook, "running", stage, 0, 0, 0, 0),
        (hook, "running", stage, 0, 0, 2, 6),
        (hook, "running", stage, 0, 0, 4, 6),
        (hook, "running", stage, 0, 0, 6, 6),
    ]
    assert read(path)["status"] == "finished"


def test_dataloader_of_unknown_length(tmp_path: Path, clock: Clock) -> None:
    reader = Reader(tmp_path / "beat.json", clock, 5.0)
    trainer = trainer_with(Heartbeat(tmp_path / "beat.json", 4), reader, max_epochs=1, limit_val_batches=0)
    trainer.fit(BoringModule(), (torch.ones(2, 4) for _ in range(2)))
    assert reader.beats[1:] == [
        ("train", "running", "train", 0, 1, 1, None),
        ("train", "running", "train", 0, 2, 2, None),
    ]


@pytest.mark.parametrize("error", [RuntimeError("no more"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_what_cuts_the_run_short_is_the_last_thing_told(tmp_path: Path, error: BaseException) -> None:
    class Failing(BoringModule):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
            if batch_idx == 1:
                raise error
            return super().training_step(batch, batch_idx)

    path = tmp_path / "beat.json"
    heartbeat = Heartbeat(path)
    trainer = trainer_with(heartbeat)
    with pytest.raises(type(error)):
        trainer.fit(Failing())
    assert [read(path)[name] for name in NAMES] == ["failed", "train", 0, 1, 1, 2]
    trainer.test(BoringModule(), verbose=False)
    assert [read(path)[name] for name in NAMES] == ["finished", "test", 0, 1, 2, 2]


def test_the_file_is_whole_readable_and_alone(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    mask = os.umask(0o022)
    try:
        trainer_with(Heartbeat(folder / "beat", every_n_seconds=1e-9)).fit(BoringModule())
    finally:
        os.umask(mask)
    assert os.listdir(folder) == ["beat"]
    assert stat.S_IMODE((folder / "beat").stat().st_mode) == 0o644


def test_a_path_is_that_of_the_folder_it_was_named_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat = Heartbeat("beat.json")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    trainer_with(heartbeat).fit(BoringModule())
    assert read(tmp_path / "beat.json")["status"] == "finished"


@pytest.mark.parametrize("blocked", ["file as a folder", "folder as the file"])
def test_a_file_that_cannot_be_written_is_an_error_before_the_training(tmp_path: Path, blocked: str) -> None:
    (tmp_path / "taken").mkdir() if blocked == "folder as the file" else (tmp_path / "taken").write_text("")
    path = tmp_path / "taken" if blocked == "folder as the file" else tmp_path / "taken" / "beat"
    trainer = trainer_with(Heartbeat(path))
    with pytest.raises(MisconfigurationException, match=r"Heartbeat\(path='.*taken.*'\) cannot be written: .* Name a"):
        trainer.fit(BoringModule())
    assert trainer.global_step == 0
    assert os.listdir(tmp_path) == ["taken"]


def test_a_beat_that_fails_later_is_told_once_and_stops_nothing(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "beat"

    class Remove(Callback):
        def on_train_start(self, *_: Any) -> None:
            path.unlink()
            path.parent.rmdir()

    trainer = trainer_with(Heartbeat(path, 1e-9), Remove(), num_sanity_val_steps=0)
    with pytest.warns(UserWarning, match=r"Heartbeat cannot write '.*beat' \(No such file") as told:
        trainer.fit(BoringModule())
    assert len(told) == 1
    assert trainer.global_step == 4


def test_a_beat_that_a_full_disk_cut_replaces_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "beat"

    class FillDisk(Callback):
        def on_train_start(self, *_: Any) -> None:
            write = os.write
            monkeypatch.setattr(os, "write", lambda file, text: write(file, text[:10]))

    trainer = trainer_with(Heartbeat(path, 1e-9), FillDisk(), num_sanity_val_steps=0)
    with pytest.warns(UserWarning, match=r"Heartbeat cannot write '.*beat' \(No space left on device\)"):
        trainer.fit(BoringModule())
    assert os.listdir(tmp_path) == ["beat"]
    assert [read(path)[name] for name in NAMES] == ["running", "train", 0, 0, 0, 0]


def test_the_first_process_of_each_machine_writes(tmp_path: Path) -> None:
    class Second(SingleDeviceStrategy):
        global_rank = local_rank = 1

    class OnTheSecondMachine(SingleDeviceStrategy):
        global_rank, local_rank = 8, 0

    for strategy, writes in ((Second, False), (OnTheSecondMachine, True)):
        path = tmp_path / strategy.__name__
        trainer_with(Heartbeat(path, 1e-9), strategy=strategy(torch.device("cpu"))).fit(BoringModule())
        assert path.exists() is writes


def test_copies_and_two_of_them(tmp_path: Path) -> None:
    first, second = Heartbeat(tmp_path / "first"), Heartbeat(tmp_path / "second", 5)
    trainer_with(first, second).fit(BoringModule())
    for copied in (copy.deepcopy(second), pickle.loads(pickle.dumps(second))):
        assert (copied.path, copied.every_n_seconds) == (tmp_path / "second", 5)
    assert read(tmp_path / "first")["status"] == read(tmp_path / "second")["status"] == "finished"


def test_wrong_arguments_are_all_named() -> None:
    arguments: dict[str, Any] = {"path": "", "every_n_seconds": 0}
    with pytest.raises(MisconfigurationException) as caught:
        Heartbeat(**arguments)
    assert str(caught.value).splitlines() == [
        "Heartbeat(path=''): expected the path of a file.",
        "Heartbeat(every_n_seconds=0): expected a number of seconds above 0.",
    ]


def test_the_probe_of_the_documentation(tmp_path: Path) -> None:
    """Its very command, as the kubelet runs it: while the training beats, when it is stuck, and when it is done."""
    (block,) = re.findall(r"```yaml\n(livenessProbe:.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    probes = yaml.safe_load(block)
    path = tmp_path / "heartbeat.json"

    def probe(kind: str = "livenessProbe", *, age_s: float = 0.0) -> int:
        if age_s:
            past = path.stat().st_mtime - age_s
            os.utime(path, (past, past))
        command = [part.replace("/run/leyden", str(tmp_path)) for part in probes[kind]["exec"]["command"]]
        return subprocess.run(command, check=False, capture_output=True).returncode

    during = []

    class Probed(Callback):
        def on_train_start(self, *_: Any) -> None:
            during.extend([probe("startupProbe"), probe(), probe(age_s=500)])

    assert probe("startupProbe") == 1
    trainer_with(Heartbeat(path), Probed()).fit(BoringModule())
    assert during == [0, 0, 1]
    assert probe(age_s=500) == 0
