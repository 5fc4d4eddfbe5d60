"""Change images by the classifier's own gradient until it takes them for another digit, and log what that took.

Run it with ``python examples/callbacks/gradient_flip.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from cnn import Classifier
from digits_data import loaders, one_of_each, read_options, trainer
from torch import Tensor
from torch.nn import functional
from watching import evaluating, grid, log_picture, save_picture

import leyden
from leyden.tables import render_table


class GradientFlip(leyden.Callback):
    """After every epoch, moves some images against the model until it classifies them as something else.

    Logs ``flip_distance``, the mean length of the way, and images to TensorBoard. What holds out for `max_steps` keeps
    its class.

    Attributes:
        flipped, classes_before, classes_after, distances: of the last epoch, one for each image.
    """

    def __init__(self, images: Tensor, step: float = 0.1, max_steps: int = 100) -> None:
        self.images, self.step, self.max_steps = images, step, max_steps

    def on_train_epoch_end(self, trainer: leyden.Trainer, pl_module: leyden.LightningModule) -> None:
        with evaluating(pl_module), torch.enable_grad():
            self.flip(pl_module, self.images.to(pl_module.device, pl_module.dtype))
        self.log("flip_distance", self.distances.mean())
        log_picture(trainer, "gradient_flip", self.picture())

    def flip(self, model: torch.nn.Module, images: Tensor) -> None:
        flipped = images.clone()
        before = after = model(images).argmax(dim=1)
        for _ in range(self.max_steps):
            flipped.requires_grad_()
            logits = model(flipped)
            after = logits.argmax(dim=1)
            if (after != before).all():
                break
            # Of the images alone: `backward()` would add to the gradients that the optimizer is to see.
            (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, before, reduction="sum"), flipped)
            way = functional.normalize(gradient.flatten(1)).view_as(images) * (after == before).view(-1, 1, 1, 1)
            flipped = (flipped.detach() + self.step * way).clamp(0, 1)  # uphill: the loss grows; pixels stay pixels
        self.flipped, self.classes_before, self.classes_after = flipped.detach(), before, after
        self.distances = (self.flipped - images).flatten(1).norm(dim=1)

    def picture(self) -> Tensor:
        """Return rows of the images, of their changes around a middle grey, twice as strong, and of the results."""
        flipped = self.flipped.cpu()
        return grid(torch.cat([self.images, 0.5 + flipped - self.images, flipped]), columns=len(self.images))


def main(arguments: Sequence[str] | None = None) -> GradientFlip:
    """Train the classifier, print and draw how each digit is flipped in the end."""
    max_epochs, folder = read_options(arguments, __doc__, max_epochs=10)
    images, _ = one_of_each()
    flips = GradientFlip(images)
    trainer(max_epochs, folder, "gradient_flip", flips).fit(Classifier(), *loaders())
    changes = flips.distances / images.flatten(1).norm(dim=1)
    rows = zip(flips.classes_before.tolist(), flips.classes_after.tolist(), changes.tolist(), strict=True)
    table = [[before, after, f"{change:.0%}"] for before, after, change in rows]
    print(render_table(["taken for", "then for", "changed by"], table))
    save_picture(flips.picture(), folder / "gradient_flip.png")
    return flips


if __name__ == "__main__":
    main()
