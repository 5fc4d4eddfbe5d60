"""Whatever the rhythm: at every step each file's score is that of its weights, and the newest is the newest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint


class Measured(BoringModule):
    """The score can be computed from the weights alone, so that it can be seen whose it is."""

    def __init__(self, *, manual: bool, loaders: int) -> None:
        super().__init__(batches={"train": 5, "val": 2})
        self.automatic_optimization, self.loaders = not manual, loaders

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def val_dataloader(self) -> Any:
        return [super().val_dataloader()] * self.loaders if self.loaders > 1 else super().val_dataloader()

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val", score_of(self.layer.weight))


def score_of(weight: Tensor) -> Tensor:
    return weight.detach().double().sum()


class Look(Callback):
    """Reads all files at each batch, before each validation and at the end."""

    def __init__(self, checkpoint: ModelCheckpoint) -> None:
        self.checkpoint, self.scores_seen = checkpoint, 0

    def look(self) -> None:
        checkpoint = self.checkpoint
        checkpoint.finish_saving()
        files = {str(path): torch.load(path, weights_only=True) for path in Path("kept").resolve().glob("*.ckpt")}
        ranked = {path: files[path] for path in checkpoint.best_k_models}
        for path, content in ranked.items():
            assert checkpoint.best_k_models[path] == score_of(content["state_dict"]["layer.weight"])
            self.scores_seen += 1
        last = files.pop(checkpoint.last_model_path, None)
        assert set(ranked) == set(files)
        assert checkpoint.save_top_k == -1 or len(ranked) <= checkpoint.save_top_k
        if checkpoint.save_last and files:
            assert last is not None
            assert last["global_step"] >= max(content["global_step"] for content in files.values())

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.look()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look()


RHYTHMS: st.SearchStrategy[dict[str, int]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"every_n_train_steps": st.integers(1, 4)}),
    st.fixed_dictionaries({"every_n_epochs": st.integers(1, 2)}),
)
CHECKPOINT = st.fixed_dictionaries(
    {
        "save_last": st.sampled_from([None, True, "link"]),
        "save_top_k": st.sampled_from([-1, 1, 2]),
        "mode": st.sampled_from(["min", "max"]),
        "save_on_train_epoch_end": st.sampled_from([None, True, False]),
        "asynchronous": st.booleans(),
    }
)
TRAINER = st.fixed_dictionaries(
    {
        "val_check_interval": st.sampled_from([None, 0.5, 2, 3]),
        "check_val_every_n_epoch": st.sampled_from([1, 2]),
        "max_steps": st.sampled_from([-1, 4, 7]),
        "num_sanity_val_steps": st.sampled_from([0, 1]),
    }
)


@pytest.mark.parametrize("how", ["plain", "accumulated", "manual", "several loaders"])
@settings(max_examples=10, deadline=None, derandomize=True)
@given(rhythm=RHYTHMS, arguments=CHECKPOINT, options=TRAINER)
def test_at_every_step_each_file_has_its_own_score(
    how: str, rhythm: dict[str, Any], arguments: dict[str, Any], options: dict[str, Any]
) -> None:
    shutil.rmtree("kept", ignore_errors=True)
    several = how == "several loaders"
    monitor = "val/dataloader_idx_1" if several else "val"
    checkpoint = ModelCheckpoint(Path("kept").resolve(), "{epoch}-{step}", monitor, **rhythm, **arguments)
    look = Look(checkpoint)
    trainer = Trainer(
        max_epochs=3, logger=False, callbacks=[checkpoint, look], discover_callbacks=False,
        accumulate_grad_batches=2 if how == "accumulated" else 1, **options,
    )  # fmt: skip
    trainer.fit(Measured(manual=how == "manual", loaders=2 if several else 1))
    assert (look.scores_seen > 0) == bool(checkpoint.best_k_models)  # each was looked at while it stood
