"""Finetuning in two processes: what is set free joins the gradients that are averaged, in all of them alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.parallel_runs import Net, fit
from tests.together import together
from torch import Tensor, nn

from leyden.callbacks import BackboneFinetuning


class Finetuned(Net):
    """Two layers that are set free one after the other, between BatchNorm layers that stay frozen."""

    def __init__(self, batch_size: int) -> None:
        super().__init__(batch_size)
        self.backbone = nn.Sequential()
        for name in ("layer0", "layer1"):
            self.backbone.add_module(name, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Tanh()))

    def configure_callbacks(self) -> Any:
        return [BackboneFinetuning(strategy={1: ["layer1"], 2: ["*"]}, backbone_initial_lr=0.1, train_bn=False)]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return super().training_step(self.backbone(batch), batch_idx)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD([one for one in self.parameters() if one.requires_grad], lr=0.1, momentum=0.9)
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_are_one_with_the_doubled_batch(strategy: str) -> None:
    alone = fit("auto", {"max_epochs": 4}, Finetuned)
    for ended in together(fit, strategy, {"max_epochs": 4}, Finetuned):
        assert ended.value["steps"] == alone["steps"], ended.error
        torch.testing.assert_close(ended.value["weights"], alone["weights"], rtol=1e-5, atol=1e-7)
