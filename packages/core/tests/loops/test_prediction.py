"""Prediction: what is returned, for one loader and several, and that nothing is kept that nobody wants."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer


class Predicts(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.events: list[str] = []
        self.given: list[weakref.ref[Tensor]] = []

    def predict_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        self.events.append(f"{batch_idx}@{dataloader_idx}")
        output = batch * 10
        self.given.append(weakref.ref(output))
        return output

    def alive(self) -> int:
        gc.collect()
        return sum(one() is not None for one in self.given)


def batches(*values: float) -> list[Tensor]:
    return [torch.full((1,), float(value)) for value in values]


def loader(*values: float) -> Any:
    return DataLoader(batches(*values), batch_size=None)  # type: ignore[arg-type]  # a list is a dataset too


def predict(module: LightningModule, loaders: Any, return_predictions: bool | None = None, **arguments: Any) -> Any:
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments)
    return trainer.predict(module, loaders, return_predictions=return_predictions)


def test_one_loader_gives_a_list_and_several_a_list_of_lists() -> None:
    module = Predicts()
    assert predict(module, batches(1, 2)) == batches(10, 20)
    assert predict(module, batches(1, 2), return_predictions=True) == batches(10, 20)
    assert predict(module, [loader(1, 2), loader(3)]) == [batches(10, 20), batches(30)]
    assert predict(module, {"a": loader(1), "b": loader(3)}) == [batches(10), batches(30)]
    assert module.events == [*["0@0", "1@0"] * 3, "0@1", "0@0", "0@1"]


@pytest.mark.parametrize("several", [False, True])
def test_predictions_that_are_not_wanted_are_not_kept(several: bool) -> None:
    module = Predicts()
    kept: list[int] = []

    class Count(Callback):
        def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            kept.append(module.alive())

    loaders = [loader(1, 2), loader(3, 4)] if several else batches(1, 2)
    assert predict(module, loaders, return_predictions=False, callbacks=Count()) is None
    assert kept[0] <= 1  # the one that was computed last
    assert module.alive() <= 1


def test_nothing_to_predict_gives_nothing() -> None:
    module = Predicts()
    assert predict(module, batches(1), limit_predict_batches=0) == []
    assert predict(module, batches(1), return_predictions=False, limit_predict_batches=0) is None
    assert module.events == []


def test_limits_hold_for_each_loader() -> None:
    assert predict(Predicts(), [loader(1, 2), loader(3, 4)], limit_predict_batches=1) == [batches(10), batches(30)]
    assert predict(Predicts(), batches(1, 2, 3, 4), limit_predict_batches=0.5) == batches(10, 20)
    assert predict(Predicts(), batches(1, 2), fast_dev_run=True) == batches(10)


def test_the_default_step_is_forward() -> None:
    class Doubles(LightningModule):
        def forward(self, batch: Tensor) -> Tensor:
            return batch * 2

    assert predict(Doubles(), batches(1, 2)) == batches(2, 4)


def test_every_hook_in_order_with_two_loaders() -> None:
    events: list[str] = []

    class Order(Callback):
        def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            events.append(f"start {torch.is_inference_mode_enabled()}")

        def on_predict_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            events.append("epoch_start")

        def on_predict_batch_start(
            self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
        ) -> None:
            events.append(f"batch_start {batch.item():g} {batch_idx}@{dataloader_idx}")

        def on_predict_batch_end(
            self,
            trainer: Trainer,
            pl_module: LightningModule,
            outputs: Any,
            batch: Any,
            batch_idx: int,
            dataloader_idx: int = 0,
        ) -> None:
            events.append(f"batch_end {outputs.item():g} {batch_idx}@{dataloader_idx}")

        def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            events.append("epoch_end")

        def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            events.append("end")

    predict(Predicts(), [loader(1, 2), loader(3)], callbacks=Order())
    assert events == [
        *("start True", "epoch_start"),
        *("batch_start 1 0@0", "batch_end 10 0@0", "batch_start 2 1@0", "batch_end 20 1@0"),
        *("batch_start 3 0@1", "batch_end 30 0@1"),
        *("epoch_end", "end"),
    ]


def test_an_older_callback_gets_the_predictions_even_if_they_are_not_returned() -> None:
    seen: list[Any] = []

    class Older(Callback):
        def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any) -> None:  # type: ignore[override]
            seen.append([list(loader) for loader in outputs])

    with pytest.warns(DeprecationWarning, match="on_predict_epoch_end"):
        assert predict(Predicts(), batches(1, 2), return_predictions=False, callbacks=Older()) is None
    assert seen == [[batches(10, 20)]]
