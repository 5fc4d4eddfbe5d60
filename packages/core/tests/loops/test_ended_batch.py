"""A batch whose last hooks an exception cut, in a checkpoint and taken up again."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import OnExceptionCheckpoint
from leyden.loops.ended_batch import EndedBatch


class Cut(Exception):
    """Ends a run as a crash would."""


class Net(LightningModule):
    def __init__(self, extra: Any = None, fails: bool = False) -> None:
        super().__init__()
        self.layer, self.extra, self.fails = nn.Linear(4, 1), extra, fails
        self.ended: list[int] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> dict[str, Any]:
        return {"loss": self.layer(batch).pow(2).mean(), "extra": self.extra}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ended.append(batch_idx)
        if self.fails and batch_idx == 1:
            raise Cut

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_with(*callbacks: Callback) -> Trainer:
    return Trainer(accelerator="cpu", max_epochs=1, logger=False, callbacks=list(callbacks), discover_callbacks=False)


BATCHES = [torch.full((2, 4), float(number + 1)) for number in range(3)]


def test_outputs_that_no_checkpoint_can_hold_leave_the_hooks_out_with_a_warning(tmp_path: Any) -> None:
    saver = OnExceptionCheckpoint(tmp_path)
    whole, cut, resumed = Net(object()), Net(object(), fails=True), Net(object())
    torch.manual_seed(1)
    cut.load_state_dict(whole.state_dict())
    trainer_with().fit(whole, BATCHES)
    expected = r"leaves the hooks of on_train_batch_end out .* what training_step returned\['extra'\] is an object"
    with pytest.warns(UserWarning, match=expected), pytest.raises(Cut):
        trainer_with(saver).fit(cut, BATCHES)
    trainer_with().fit(resumed, BATCHES, ckpt_path=saver.ckpt_path)
    assert (cut.ended, resumed.ended) == ([0, 1], [2])
    assert torch.equal(resumed.layer.weight, whole.layer.weight)


def test_a_batch_that_a_hook_changes_in_place_is_told_of(tmp_path: Any) -> None:
    class Changing(Callback):
        def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
            args[1].add_(1)

    batches = [batch.clone() for batch in BATCHES]
    expected = "outputs, batch or gradients had been changed in place by now"
    with pytest.warns(UserWarning, match=expected), pytest.raises(Cut):
        trainer_with(Changing(), OnExceptionCheckpoint(tmp_path)).fit(Net(fails=True), batches)


def test_what_hooks_put_into_their_outputs_is_not_kept() -> None:
    outputs, batch = {"loss": torch.ones(())}, [torch.ones(2), {"x": torch.zeros(2)}]
    ended = EndedBatch(outputs, batch, None, 3, False)
    outputs["more"] = torch.ones(())
    batch.pop()
    state = ended.as_dict()
    assert list(state["outputs"]) == ["loss"]
    assert len(state["batch"]) == 2
    assert (state["steps"], state["window_open"], ended.is_changed) == (3, False, False)


def test_a_large_batch_is_read_again_where_it_can_be() -> None:
    """A checkpoint of a small model is not to have the size of its batches."""
    before: dict[str, Any] = {"train": {}, "draws": [], "rng": {}}
    large, small = torch.empty(2**24 + 1), torch.empty(2**24)  # nothing is written to that memory
    for batch, given, held in ((large, before, False), (small, before, True), (large, None, True)):
        state = EndedBatch(None, {"x": batch}, given, 3, False).as_dict()
        assert (state["batch"] is not None, state["before"] is None) == (held, held)


def test_a_part_of_a_larger_tensor_is_saved_without_the_rest() -> None:
    whole = torch.arange(1_000_000.0)
    file = io.BytesIO()
    torch.save(EndedBatch({}, whole[10:20], None, 0, False).as_dict(), file)
    assert len(file.getvalue()) < 10_000
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True)["batch"], torch.arange(10.0, 20.0))


def test_tensors_of_inference_mode_are_taken_as_they_are() -> None:
    with torch.inference_mode():
        batch = torch.ones(2)
    assert torch.equal(EndedBatch({}, batch, None, 0, False).as_dict()["batch"], torch.ones(2))
