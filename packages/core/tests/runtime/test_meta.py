"""Layers made on the meta device: filled, by a checkpoint too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from leyden import LightningModule, MisconfigurationException, Trainer
from leyden.runtime.meta import fill_meta

CPU = torch.device("cpu")


def test_meta_layers_are_filled_as_constructors_do() -> None:
    with torch.device("meta"):
        layers: Any = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.MultiheadAttention(2, 1), nn.Linear(2, 2))
    layers[3].weight = layers[0].weight
    fill_meta(layers, CPU)
    assert {tensor.device.type for tensor in (*layers.parameters(), *layers.buffers())} == {"cpu"}
    assert layers[3].weight is layers[0].weight
    assert layers[2].out_proj.bias.tolist() == [0.0, 0.0]  # by the attention, after the layer in it
    variance: Any = layers[1].running_var
    assert variance.tolist() == [1.0, 1.0]
    assert 0 < float(layers[0].weight.detach().abs().max()) < 1


def test_a_meta_layer_that_nobody_can_fill() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2, device="meta"))

    with pytest.raises(MisconfigurationException, match=r"Scale was made on the meta device, and has no method reset_"):
        fill_meta(nn.Sequential(Scale()), CPU)


class Late(LightningModule):
    def configure_model(self) -> None:
        with torch.device("meta"):
            self.net = nn.Linear(2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_fit_start(self) -> None:
        self.begun = self.net.weight.detach().clone()


def test_a_run_fills_them_and_reads_a_checkpoint_into_them(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "discover_callbacks": False}
    first, trainer = Late(), Trainer(max_epochs=1, **settings)
    trainer.fit(first, [torch.ones(2, 2)])
    assert not torch.equal(first.begun, first.net.weight)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    second = Late()
    Trainer(max_epochs=2, **settings).fit(second, [torch.ones(2, 2)], ckpt_path=tmp_path / "a.ckpt")
    torch.testing.assert_close(second.begun, first.net.weight.detach(), rtol=0, atol=0)
