"""Train a variational autoencoder of digits, and walk from image to image through its latent space.

Run it with ``python examples/callbacks/latent_walk.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from digits_data import loaders, one_of_each, read_options, trainer
from torch import Tensor
from vae import VAE
from watching import evaluating, grid, log_picture, save_picture

import leyden


class LatentWalk(leyden.Callback):
    """After every epoch, walks from each image to the next, from the last to the first, and logs what it sees.

    `pl_module` must have `encode`, which returns points first, and `decode`. Nothing random is drawn: the walk goes
    by the middles of where the images may lie.

    Attributes:
        seen: of the last epoch, images (walks, steps, 1, H, W).
    """

    def __init__(self, images: Tensor, steps: int = 10, every_n_epochs: int = 1) -> None:
        self.images, self.steps, self.every_n_epochs = images, steps, every_n_epochs

    def on_train_epoch_end(self, trainer: leyden.Trainer, pl_module: Any) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            with evaluating(pl_module), torch.no_grad():
                self.seen = self.walk(pl_module)
            log_picture(trainer, "latent_walk", self.picture())

    def walk(self, model: Any) -> Tensor:
        start = model.encode(self.images.to(model.device, model.dtype))[0].unsqueeze(1)  # (walks, 1, latents)
        end = start.roll(-1, dims=0)
        share = torch.linspace(0, 1, self.steps, dtype=start.dtype, device=start.device).view(-1, 1)
        points = torch.lerp(start, end, share)
        images: Tensor = model.decode(points.flatten(0, 1))
        return images.view(len(start), self.steps, *images.shape[1:])

    def picture(self) -> Tensor:
        """Return a row for each walk."""
        return grid(self.seen.flatten(0, 1), columns=self.steps)


def main(arguments: Sequence[str] | None = None) -> LatentWalk:
    """Train and draw the last walk, from 0 to 1 to 2 and so on to 9, and back to 0."""
    max_epochs, folder = read_options(arguments, __doc__, max_epochs=40)
    images, _ = one_of_each()
    walk = LatentWalk(images)
    run = trainer(max_epochs, folder, "latent_walk", walk)
    run.fit(VAE(), loaders()[0])
    print(f"Loss: {run.callback_metrics['loss']:.1f} after {max_epochs} epochs")
    save_picture(walk.picture(), folder / "latent_walk.png")
    return walk


if __name__ == "__main__":
    main()
