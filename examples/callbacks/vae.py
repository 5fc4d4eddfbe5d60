"""A small variational autoencoder of digits, https://arxiv.org/abs/1312.6114."""

from __future__ import annotations

import torch
from digits_data import Batch
from torch import Tensor, nn
from torch.nn import functional

import leyden


class VAE(leyden.LightningModule):
    """Writes an image (N, 1, 8, 8) as a point among `latents` numbers, and reads images from such points."""

    def __init__(self, latents: int = 8, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 2 * latents))
        self.decoder = nn.Sequential(nn.Linear(latents, 128), nn.ReLU(), nn.Linear(128, 64), nn.Unflatten(1, (1, 8, 8)))

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the middle (N, latents) of where each image may lie, and the logarithm of its variance."""
        middle, log_variance = self.encoder(images).chunk(2, dim=1)
        return middle, log_variance

    def decode(self, points: Tensor) -> Tensor:
        """Return the images (N, 1, 8, 8) of points (N, latents)."""
        images: Tensor = self.decoder(points).sigmoid()
        return images

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, _ = batch
        middle, log_variance = self.encode(images)
        points = middle + torch.randn_like(middle) * (log_variance / 2).exp()
        missed = functional.binary_cross_entropy_with_logits(self.decoder(points), images, reduction="none").sum()
        astray = (log_variance.exp() + middle.square() - 1 - log_variance).sum() / 2  # from a standard normal
        loss = (missed + astray) / len(images)
        self.log("loss", loss, on_step=False, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.learning_rate)
