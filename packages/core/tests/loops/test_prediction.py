"""Prediction: what is returned, for one loader and several, and that nothing is kept that nobody wants."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, MisconfigurationException, Trainer


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


def test_without_a_step_and_a_forward_there_is_nothing_to_predict_with() -> None:
    class Bare(LightningModule):
        pass

    with pytest.raises(MisconfigurationException, match="Bare has neither predict_step nor forward"):
        predict(Bare(), loader(1.0))


def test_metrics_of_an_earlier_run_are_gone() -> None:
    class Tested(Predicts):
        def test_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("seen", 1.0)

    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False)
    trainer.test(Tested(), loader(1.0), verbose=False)
    assert set(trainer.callback_metrics) == {"seen"}
    trainer.predict(Tested(), loader(1.0))
    assert (trainer.callback_metrics, trainer.logged_metrics) == ({}, {})


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


class Indices(Callback):
    """Looks at what the loop offers, in every hook in which it may."""

    def __init__(self, *, predictions: bool = False, indices: bool = True) -> None:
        self.wants_predictions, self.wants_batch_indices = predictions, indices
        self.batches: list[list[int]] = []
        self.epoch: tuple[list[Any], list[Any]] = ([], [])

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.batches.append(trainer.predict_loop.current_batch_indices)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.predict_loop
        assert loop.current_batch_indices == []
        self.epoch = (list(loop.predictions), list(loop.epoch_batch_indices))


def numbers(count: int, **arguments: Any) -> Any:
    return DataLoader(torch.arange(float(count)), **{"batch_size": 2, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_indices_and_predictions_are_there_for_who_wants_them(workers: int) -> None:
    seen = Indices(predictions=True)
    loaders = [numbers(5, num_workers=workers), numbers(3, shuffle=True, num_workers=workers)]
    assert predict(Predicts(), loaders, return_predictions=False, callbacks=seen) is None
    predictions, indices = seen.epoch
    assert [indices[0], [len(batch) for batch in indices[1]]] == [[[0, 1], [2, 3], [4]], [2, 1]]
    assert seen.batches == [*indices[0], *indices[1]]
    for of_loader, drawn in zip(predictions, indices, strict=True):
        assert [batch.tolist() for batch in of_loader] == [[10.0 * index for index in batch] for batch in drawn]


def test_one_loader_gives_its_predictions_plainly_and_its_indices_in_a_list() -> None:
    seen = Indices(predictions=True)
    returned = predict(Predicts(), numbers(3), callbacks=seen, limit_predict_batches=1)
    assert [batch.tolist() for batch in returned] == [batch.tolist() for batch in seen.epoch[0]] == [[0.0, 10.0]]
    assert seen.epoch[1] == [[[0, 1]]]


def test_nothing_is_kept_of_a_pass_for_who_wants_batches_only() -> None:
    module, seen = Predicts(), Indices()
    assert predict(module, numbers(5), return_predictions=False, callbacks=seen) is None
    assert (seen.batches, seen.epoch) == ([[0, 1], [2, 3], [4]], ([], []))
    assert module.alive() <= 1


def test_nothing_is_recorded_where_nobody_asks() -> None:
    seen, loader = Indices(indices=False), numbers(5)
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, callbacks=seen)
    trainer.predict(Predicts(), loader)
    assert trainer.predict_dataloaders is loader
    assert (seen.batches, seen.epoch[1]) == ([[], [], []], [])
    assert trainer.predict_loop.predictions == []


def test_data_without_indices_are_told_of_once() -> None:
    seen = Indices(predictions=True)
    with pytest.warns(UserWarning, match="which cannot be told of list: batch_indices will be an empty list there"):
        predict(Predicts(), [numbers(2), batches(3)], callbacks=seen)
    assert (seen.batches, seen.epoch[1]) == ([[0, 1], []], [[[0, 1]], []])


def test_an_exception_lets_go_of_what_was_kept() -> None:
    class Break(Callback):
        def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise RuntimeError("at the end")

    seen = Indices(predictions=True)
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[seen, Break()])
    with pytest.raises(RuntimeError, match="at the end"):
        trainer.predict(Predicts(), numbers(3))
    loop = trainer.predict_loop
    assert (loop.predictions, loop.epoch_batch_indices, loop.current_batch_indices) == ([], [], [])
