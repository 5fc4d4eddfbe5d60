"""A small encoder that learns from digits without labels: SimCLR, https://arxiv.org/abs/2002.05709."""

from __future__ import annotations

import torch
from digits_data import Batch
from torch import Tensor, nn
from torch.nn import functional

import leyden


def distort(images: Tensor) -> Tensor:
    """Turn each image by up to 17 degrees, resize and shift it a little, and add noise."""
    count = len(images)
    angle, size = 0.6 * (torch.rand(count) - 0.5), 1 + 0.3 * (torch.rand(count) - 0.5)
    shift = 0.4 * (torch.rand(count, 2, 1) - 0.5)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(count, 2, 2)
    where = torch.cat([size.view(count, 1, 1) * turn, shift], dim=2).to(images)
    places = functional.affine_grid(where, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, places, align_corners=False)
    return moved + 0.1 * torch.randn_like(moved)


class SimCLR(leyden.LightningModule):
    """Two distorted copies of an image are to be more alike than copies of different images.

    `encoder` gives the features, of which there are few, so that what they hold is the encoder's merit: a linear
    classifier of 64 raw pixels, or of many random features, would do well too.
    """

    def __init__(self, features: int = 8, learning_rate: float = 2e-3, temperature: float = 0.2) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate, self.temperature = learning_rate, temperature
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, features))
        self.projector = nn.Sequential(nn.ReLU(), nn.Linear(features, 64))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, _ = batch
        views = torch.cat([distort(images), distort(images)])
        points = functional.normalize(self.projector(self.encoder(views)))
        likeness = (points @ points.T / self.temperature).fill_diagonal_(-1e9)  # no copy is its own partner
        partners = torch.arange(len(views), device=self.device).roll(len(images))
        loss = functional.cross_entropy(likeness, partners)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing of its own; callbacks look at the encoder."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.learning_rate)
