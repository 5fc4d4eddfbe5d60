"""What progress bars share: counters, totals, texts, metrics, both generations of the name, and plain lines."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.utils.data import DataLoader

from leyden import Callback, Trainer
from leyden.loggers import CSVLogger
from leyden.testing import BoringModule, RandomDataset, RandomStream
from leyden_monitoring import ProgressBar, ProgressBarBase, TQDMProgressBar, display, live_progress


class Model(BoringModule):
    def __init__(self, train: int = 4, val: int = 2) -> None:
        super().__init__(batches={"train": train, "val": val, "test": 3, "predict": 3})

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("a", float(batch_idx), prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("b", 0.25, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        self.log("c", 7.0, prog_bar=True)


def make_trainer(*callbacks: Callback, **settings: Any) -> Trainer:
    options = {"max_epochs": 1, "num_sanity_val_steps": 1, "logger": False, "discover_callbacks": False} | settings
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **options)


class Counting(ProgressBar):
    """A bar of today's generation that forgets ``super().__init__()`` and notes its counters."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, int, int | float]] = []

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        self.notes.append(("train", self.train_batch_idx, self.total_train_batches))

    def on_validation_batch_end(self, *args: Any) -> None:
        super().on_validation_batch_end(*args)
        assert self.total_val_batches == self.total_val_batches_current_dataloader
        self.notes.append(("val", self.val_batch_idx, self.total_val_batches))

    def on_test_batch_end(self, *args: Any) -> None:
        super().on_test_batch_end(*args)
        self.notes.append(("test", self.test_batch_idx, self.total_test_batches_current_dataloader))

    def on_predict_batch_end(self, *args: Any) -> None:
        super().on_predict_batch_end(*args)
        self.notes.append(("predict", self.predict_batch_idx, self.total_predict_batches_current_dataloader))


def test_counters_and_totals() -> None:
    bar = Counting()
    trainer, model = make_trainer(bar), Model(train=2)
    trainer.fit(model)
    trainer.test(model, verbose=False)
    trainer.predict(model)
    assert bar.notes == [
        ("val", 1, 1),  # of the sanity check
        ("train", 1, 2),
        ("train", 2, 2),
        ("val", 1, 2),
        ("val", 2, 2),
        *[("test", done, 3) for done in (1, 2, 3)],
        *[("predict", done, 3) for done in (1, 2, 3)],
    ]
    assert (bar.total_test_batches, bar.total_predict_batches) == (3, 3)
    assert bar.total_val_batches_current_dataloader == 0  # the last run was none


def test_trainer_before_a_run() -> None:
    with pytest.raises(TypeError, match=r"Counting.trainer is not set yet"):
        _ = Counting().trainer


def test_has_dataloader_changed() -> None:
    bar = Counting()
    assert [bar.has_dataloader_changed(index) for index in (0, 0, 1, 1, 0)] == [True, False, True, False, True]
    bar.reset_dataloader_idx_tracker()
    assert bar.has_dataloader_changed(0)


def test_switches_texts_and_print(capsys: pytest.CaptureFixture[str]) -> None:
    bar = Counting()
    bar.disable()
    assert (bar.is_enabled, bar.is_disabled) == (False, True)
    bar.enable()
    assert bar.is_enabled
    bar.print("one", 2, sep="-", end="!")
    assert capsys.readouterr().out == "one-2!"
    texts = [getattr(bar, f"{name}_description") for name in ("sanity_check", "train", "validation", "test", "predict")]
    assert texts == ["Sanity Checking", "Training", "Validation", "Testing", "Predicting"]
    assert bar.role == "progress_bar"
    assert ProgressBarBase is ProgressBar


@pytest.mark.parametrize(("version", "shown"), [(None, 0), ("long-run-id-7f3a", "7f3a"), (12, 12)])
def test_metrics(version: Any, shown: Any, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Metrics(Counting):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append(self.get_metrics(self.trainer, self.trainer.lightning_module))

    trainer = make_trainer(Metrics(), logger=CSVLogger(tmp_path, version=version), limit_train_batches=1)
    trainer.fit(Model())
    assert seen == [{"v_num": shown, "a": 0.0}]


def test_metric_of_the_name_that_the_version_has(tmp_path: Path) -> None:
    class Clash(Model):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.log("v_num", 5.0, prog_bar=True)
            return super().training_step(batch, batch_idx)

    trainer = make_trainer(bar := TQDMProgressBar(), logger=CSVLogger(tmp_path))
    with pytest.warns(UserWarning, match="'v_num' was logged with prog_bar=True"):
        trainer.fit(Clash())
    with pytest.warns(UserWarning, match="'v_num'"):
        assert bar.get_metrics(trainer, trainer.lightning_module)["v_num"] == 5.0


# -- the older generation, in which ProgressBar was the tqdm bar -------------------------------------------------------


class OlderMetrics(ProgressBar):
    def __init__(self, note: str = "") -> None:
        super().__init__(refresh_rate=3, process_position=1)  # type: ignore[call-arg]
        self.note = note

    def get_metrics(self, trainer: Trainer, pl_module: Any) -> Any:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("a", None)
        return metrics


class OlderBars(ProgressBar):
    def init_train_tqdm(self) -> Any:
        bar = super().init_train_tqdm()  # type: ignore[misc]
        bar.set_description("own")
        return bar

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Overrides a hook, too."""


def test_progress_bar_is_the_tqdm_bar_of_old(capsys: pytest.CaptureFixture[str]) -> None:
    bar: Any = ProgressBar(refresh_rate=2, process_position=1)
    assert type(bar) is TQDMProgressBar
    assert (bar.refresh_rate, bar.process_position) == (2, 1)

    older = OlderMetrics("x")
    assert isinstance(older, TQDMProgressBar)
    assert older.refresh_rate == 3
    make_trainer(older).fit(Model())
    line = capsys.readouterr().out
    assert re.match(r"Epoch 0: 4/4 batches in .* b=0.250, c=7.000\n$", line)
    assert "a=" not in line
    assert isinstance(OlderBars(), TQDMProgressBar)
    assert not isinstance(Counting(), TQDMProgressBar)


@pytest.mark.parametrize("make", [OlderMetrics, OlderBars, Counting, TQDMProgressBar])
def test_bars_are_copied_and_pickled(make: type[ProgressBar]) -> None:
    bar = make()
    make_trainer(bar).fit(Model())
    for twin in (copy.deepcopy(bar), pickle.loads(pickle.dumps(bar))):
        assert type(twin) is type(bar)
        assert twin.train_batch_idx == 4
        assert twin.state_key == bar.state_key == make.__name__
    if isinstance(bar, OlderMetrics):
        assert pickle.loads(pickle.dumps(bar)).note == ""


# -- plain lines, where the output is no terminal ----------------------------------------------------------------------


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out = capsys.readouterr().out
    return [re.sub(r"\d+\.\d s, \S+ (it/s|s/it)", "TIME", line) for line in out.splitlines()]


def test_a_line_an_epoch_with_what_the_module_logged_last(capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(TQDMProgressBar(), max_epochs=2, val_check_interval=2).fit(Model())
    assert lines_of(capsys) == [
        "Epoch 0: 4/4 batches in TIME, a=3.000, b=0.250, c=7.000",
        "Epoch 1: 4/4 batches in TIME, a=3.000, b=0.250, c=7.000",
    ]


def test_lines_of_other_entry_points(capsys: pytest.CaptureFixture[str]) -> None:
    trainer, model = make_trainer(TQDMProgressBar()), Model()
    trainer.validate(model, [DataLoader(RandomDataset(4, 4), batch_size=2)] * 2, verbose=False)
    trainer.test(model, verbose=False)
    trainer.predict(model)
    assert lines_of(capsys) == [
        "Validation DataLoader 0: 2/2 batches in TIME",
        "Validation DataLoader 1: 2/2 batches in TIME",
        "Testing: 3/3 batches in TIME",
        "Predicting: 3/3 batches in TIME",
    ]


def test_loader_without_length(capsys: pytest.CaptureFixture[str]) -> None:
    make_trainer(TQDMProgressBar(), limit_val_batches=0).fit(Model(), DataLoader(RandomStream(4, 6), batch_size=2))
    assert lines_of(capsys) == ["Epoch 0: 3 batches in TIME, a=2.000, c=7.000"]


def test_long_epochs_and_validations_write_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(live_progress, "monotonic", lambda: now[0])
    monkeypatch.setattr(display, "monotonic", lambda: now[0])

    class Slow(Model):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            now[0] += 25.0
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
            now[0] += 40.0

    make_trainer(TQDMProgressBar(), num_sanity_val_steps=0).fit(Slow(train=6, val=3))
    assert capsys.readouterr().out.splitlines() == [
        "Epoch 0: 3/6 batches in 75.0 s, 25.00 s/it, a=2.000",
        "Epoch 0: 6/6 batches in 150.0 s, 25.00 s/it, a=5.000",
        "Validation: 2/3 batches in 80.0 s, 40.00 s/it",
        "Epoch 0: 6/6 batches in 270.0 s, 45.00 s/it, a=5.000, c=7.000",
    ]


def test_rate_of_this_process_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(display, "monotonic", lambda: now[0])
    lines = display.PlainLines()
    lines.begin(display.Stretch("train", "Epoch 3", 10, initial=6))
    now[0] = 2.0
    lines.end("train", 10, {})
    assert capsys.readouterr().out == "Epoch 3: 10/10 batches in 2.0 s, 2.00 it/s\n"


def test_output_that_is_missing() -> None:
    assert not display.output_is_terminal(None)
    assert not display.running_in_notebook()


def test_print_of_a_bar_that_writes_lines(capsys: pytest.CaptureFixture[str]) -> None:
    class Talks(Model):
        def on_train_start(self) -> None:
            self.trainer.print("said")

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            self.trainer.progress_bar_callback.print("batch", batch_idx, flush=True)

    make_trainer(TQDMProgressBar(), limit_train_batches=1, limit_val_batches=0).fit(Talks())
    assert lines_of(capsys) == ["said", "batch 0", "Epoch 0: 1/1 batches in TIME, a=0.000, c=7.000"]
