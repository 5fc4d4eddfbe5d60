"""Each bad callback of the gallery breaks its property, and no other; the good ones hold them all."""

from __future__ import annotations

import importlib
from collections import deque
from typing import Any

import pytest
import torch

from leyden import Callback
from leyden.callback import LambdaCallback
from leyden.testing import check_callback
from leyden.testing.properties import PROPERTIES

BAD: dict[str, list[type[Callback]]] = importlib.import_module("bad_callbacks").BAD


def test_every_property_has_a_bad_callback() -> None:
    assert list(BAD) == list(PROPERTIES)


@pytest.mark.parametrize(
    ("name", "bad"),
    [(name, bad) for name, several in BAD.items() for bad in several],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
def test_a_bad_callback_breaks_its_property_and_no_other(name: str, bad: type[Callback]) -> None:
    report = check_callback(bad, **({"only_watches": True} if name == "only_watches" else {}))
    assert report.broken == [name], str(report)
    assert report[name].reason


class MeanLoss(Callback):
    """Adds up on the device, and reads where it reports."""

    def __init__(self) -> None:
        self.total = torch.zeros(())
        self.means: deque[float] = deque(maxlen=3)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.total = self.total + outputs["loss"]
        if (batch_idx + 1) % trainer.log_every_n_steps == 0:
            self.means.append(self.total.item() / trainer.log_every_n_steps)
            self.total = torch.zeros(())
            self.log("mean_loss", self.means[-1])

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total.clone(), "means": list(self.means)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.total = state_dict["total"].clone()
        self.means = deque(state_dict["means"], maxlen=3)


class OfOldDays(Callback):
    """Hooks, arguments and state of three generations."""

    def __init__(self) -> None:
        self.epochs = 0

    def on_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.validating and not trainer.testing:
            self.epochs += 1

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None: ...

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> Any:
        return {"epochs": self.epochs}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, callback_state: Any) -> None:
        self.epochs = callback_state["epochs"]


def test_one_that_reads_where_it_reports_holds_everything() -> None:
    report = check_callback(MeanLoss, only_watches=True)
    assert {result.outcome for result in report.values()} == {"holds"}, str(report)


def test_reporting_more_often_has_to_be_said() -> None:
    report = check_callback(MeanLoss, trainer={"log_every_n_steps": 2}, reports_every_n_steps=7)
    assert report.broken == ["synchronisation"]
    assert "Tensor.item (test_bad_callbacks.py:" in report["synchronisation"].reason
    assert check_callback(MeanLoss, trainer={"log_every_n_steps": 3})


def test_older_generations_are_told_and_broken_where_that_is_claimed() -> None:
    report = check_callback(OfOldDays)
    assert {result.outcome for result in report.values()} == {"holds"}, str(report)
    assert "on_epoch_end is a hook of 1.7 and before" in report["hooks"].reason
    assert "signature of 1.0-1.6" in report["hooks"].reason
    assert check_callback(OfOldDays, older_generations=False).broken == ["hooks"]


def test_functions_make_a_good_callback() -> None:
    def log(trainer: Any, pl_module: Any) -> None:
        pl_module.log("step", float(trainer.global_step))

    report = check_callback(lambda: LambdaCallback(on_train_epoch_end=log), only_watches=True)
    assert report
    assert report.callback == "LambdaCallback"
