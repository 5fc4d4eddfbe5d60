"""States of finetuning callbacks in checkpoints of Lightning; `tests/test_lightning_checkpoints.py` has real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils.data import DataLoader

from leyden import LightningModule, Trainer
from leyden.testing import RandomDataset
from leyden_finetune import BackboneFinetuning
from leyden_finetune.lightning_state import from_lightning


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone, self.head = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), nn.Linear(3, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.head(self.backbone(batch)).square().mean()

    def configure_optimizers(self) -> Any:
        return SGD([one for one in self.parameters() if one.requires_grad], lr=0.5, momentum=0.9)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(RandomDataset(4, 8), batch_size=4)


def fit(epochs: int, train_bn: bool, path: Path | None = None) -> Trainer:
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, discover_callbacks=False,
        callbacks=BackboneFinetuning(2, train_bn=train_bn),
    )  # fmt: skip
    trainer.fit(Model(), ckpt_path=path)
    return trainer


def as_lightning_has_it(state: dict[str, Any]) -> dict[str, Any]:
    rates = state["level_lrs"]
    return {
        "internal_optimizer_metadata": dict(enumerate(state["groups"])),
        "previous_backbone_lr": rates[-1] if rates else None,
    }


@pytest.mark.parametrize("train_bn", [True, False])
@pytest.mark.parametrize("epochs", [1, 2, 3, 4])
def test_a_run_goes_on_from_the_groups_alone(epochs: int, train_bn: bool, tmp_path: Path) -> None:
    whole = fit(5, train_bn)
    fit(epochs, train_bn).save_checkpoint(tmp_path / "ours.ckpt")
    checkpoint = torch.load(tmp_path / "ours.ckpt", weights_only=True)
    states = checkpoint["callbacks"]
    states["BackboneFinetuning"] = as_lightning_has_it(states["BackboneFinetuning"])
    torch.save(checkpoint, tmp_path / "theirs.ckpt")

    resumed = fit(5, train_bn, tmp_path / "theirs.ckpt")
    ends = [trainer.lightning_module for trainer in (whole, resumed)]
    assert [[one.requires_grad for one in end.parameters()] for end in ends[1:]] == [
        [one.requires_grad for one in ends[0].parameters()]
    ]
    assert all(map(torch.equal, *(end.state_dict().values() for end in ends)))
    rates = [[group["lr"] for group in trainer.optimizers[0].param_groups] for trainer in (whole, resumed)]
    assert rates[0] == rates[1]
    states = [callback.state_dict() for trainer in (whole, resumed) for callback in trainer.callbacks]
    assert states[0] == states[1]


def test_a_run_that_had_not_begun() -> None:
    assert from_lightning({"internal_optimizer_metadata": {}, "previous_backbone_lr": None}) == {}
