"""ModelPruning in one trainer with callbacks of other families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import ModelCheckpoint, ModelPruning
from leyden.state.storage import load


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.net(batch)
        return output

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self(batch).sub(1).square().mean()
        self.log("loss", loss, on_epoch=True)
        return loss  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self(batch).sub(1).square().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.05, weight_decay=0.01)


def read() -> Any:
    return DataLoader(torch.linspace(-1, 1, 32).sin().view(8, 4), batch_size=4)  # type: ignore[arg-type]


def fit(*callbacks: Callback, max_epochs: int = 2) -> Trainer:
    trainer = Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=False, callbacks=list(callbacks), discover_callbacks=False
    )
    trainer.fit(Net(), read(), read())
    return trainer


def pruning(**arguments: Any) -> ModelPruning:
    return ModelPruning(
        "l1_unstructured", parameter_names=["weight"], amount=4, use_lottery_ticket_hypothesis=False, **arguments
    )  # fmt: skip


@pytest.mark.parametrize(
    ("monitor", "on_epoch_end", "zeros"),
    [
        ("val", None, [0, 4]),
        ("epoch", None, [4, 8]),
        ("loss_epoch", None, [4, 8]),
        (None, None, [4, 8]),
        ("val", True, [4, 8]),
    ],
)
def test_a_score_of_validation_is_saved_with_the_weights_that_were_validated(
    monitor: str | None, on_epoch_end: bool | None, zeros: list[int], tmp_path: Path
) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", monitor=monitor, save_top_k=-1, save_on_train_epoch_end=on_epoch_end)
    fit(pruning(), saver)
    seen = []
    for epoch in range(2):
        checkpoint = load(tmp_path / f"epoch={epoch}.ckpt")
        weights = checkpoint["state_dict"]
        seen.append(sum(int((weights[f"net.{index}.weight"] == 0).sum()) for index in (0, 2)))
        if zeros[0] == 0:
            module = Net()
            module.load_state_dict(weights)
            score = checkpoint["callbacks"][saver.state_key]["current_score"]
            (again,) = Trainer(accelerator="cpu", logger=False, discover_callbacks=False).validate(
                module, read(), verbose=False
            )
            assert again["val"] == float(score)
    assert seen == zeros


def test_pruning_after_validation_says_that_scores_are_of_before(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=r"before ModelCheckpoint\(monitor='val'\) saves"):
        fit(pruning(prune_on_train_epoch_end=False), ModelCheckpoint(tmp_path, monitor="val"))
    fit(pruning(prune_on_train_epoch_end=False), ModelCheckpoint(tmp_path))
