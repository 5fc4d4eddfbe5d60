"""The example of a metrics tracker: its history is what was logged, once, and whole after a run that was cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import metrics_tracker
import pytest
from metrics_tracker import MetricsTracker
from tests.cut_runs import Setting, ends

from leyden import Trainer
from leyden.testing import BoringModule, callback_tests

test_metrics_tracker = callback_tests(MetricsTracker, only_watches=True)


def test_the_example_prints_its_history_and_draws_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    tracker = metrics_tracker.main(["--max-epochs", "2", "--plot", str(tmp_path / "curves.svg")])
    assert [point[:2] for point in tracker.history["val_acc"]] == [[0, 11], [0, 22], [1, 34], [1, 45]]
    assert [point[:2] for point in tracker.history["train_loss"]] == [[0, 23], [1, 46]]
    assert tracker.history["val_acc"][-1][2] > 0.8
    printed = capsys.readouterr().out
    for name, points in tracker.history.items():
        for epoch, step, value in points:
            assert f"│ {name:<10} │ {epoch:>5} │ {step:>4} │ {value:>8.6g} │" in printed
    assert "train_loss" in (tmp_path / "curves.svg").read_text(encoding="utf-8")


class Logged(MetricsTracker):
    """Keeps what `callback_metrics` holds when it is read, to compare."""

    reads = 0

    def _collect(self, trainer: Trainer) -> None:
        self.reads += 1
        super()._collect(trainer)


def test_it_reads_at_the_ends_of_epochs_and_validations_alone() -> None:
    tracker = Logged()
    trainer = Trainer(max_epochs=2, logger=False, callbacks=tracker, discover_callbacks=False)
    module = BoringModule()
    trainer.fit(module)
    assert tracker.reads == 4
    before = tracker.state_dict()
    trainer.validate(module, verbose=False)
    assert tracker.state_dict() == before  # only a fit has a history


def test_another_run_has_a_history_of_its_own() -> None:
    tracker = MetricsTracker()
    for max_epochs in (2, 1):
        trainer = Trainer(max_epochs=max_epochs, logger=False, callbacks=tracker, discover_callbacks=False)
        trainer.fit(BoringModule())
    assert [point[:2] for point in tracker.history["val_loss"]] == [[0, 2]]
    trainer.max_epochs = 2
    trainer.fit(trainer.lightning_module)
    assert [point[:2] for point in tracker.history["val_loss"]] == [[0, 2], [1, 4]]  # the same run, longer


def test_a_run_that_is_cut_has_the_history_of_one_that_is_not(
    tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]]
) -> None:
    runs = ends(tmp_path, Setting(lambda folder: [MetricsTracker()]))
    _, trainer, _, whole = next(runs)
    (tracker,) = (one for one in trainer.callbacks if isinstance(one, MetricsTracker))
    assert [point[:2] for point in tracker.history["val"]] == [[n // 2, 2 * n + 2 + n // 2] for n in range(8)]
    assert {"loss_step", "loss_epoch", "loss", "val"} == {*tracker.history}
    for how, _, _, resumed in runs:
        assert not list(named_differences(resumed, whole)), how
