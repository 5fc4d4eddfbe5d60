"""A small generative model of digits: flow matching, https://arxiv.org/abs/2210.02747."""

from __future__ import annotations

import torch
from digits_data import Batch
from torch import Tensor, nn
from torch.nn import functional

import leyden


class Flow(leyden.LightningModule):
    """Learns which way to move a mixture of noise and image, so as to come from noise to the image of a label.

    Images have values from 0 to 1, which are -1 to 1 inside.
    """

    def __init__(self, classes: int = 10, width: int = 256, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.of_label = nn.Embedding(classes, 32)
        layers = (nn.Linear(64 + 1 + 32, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 64))
        self.network = nn.Sequential(*layers)

    def forward(self, mixtures: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        """Return velocities (N, 64) at mixtures (N, 64) and times (N, 1), which go from 0, noise, to 1, image."""
        velocities: Tensor = self.network(torch.cat([mixtures, times, self.of_label(labels)], dim=1))
        return velocities

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        images = 2 * images.flatten(1) - 1
        noise, times = torch.randn_like(images), torch.rand(len(images), 1, device=images.device)
        velocities = self(torch.lerp(noise, images, times), times, labels)
        loss = functional.mse_loss(velocities, images - noise)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def sample(self, noise: Tensor, labels: Tensor, steps: int = 20) -> Tensor:
        """Return an image (N, 1, 8, 8) for each noise of that shape, moved in straight steps."""
        moving = noise.flatten(1)
        for step in range(steps):
            times = moving.new_full((len(moving), 1), step / steps)
            moving = moving + self(moving, times, labels) / steps
        return ((moving + 1) / 2).clamp(0, 1).view_as(noise)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.learning_rate)
