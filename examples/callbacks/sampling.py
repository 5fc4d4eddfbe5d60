"""Train a flow that turns noise into digits, and look at samples of it after every epoch.

Run it with ``python examples/callbacks/sampling.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from digits_data import loaders, print_epochs, read_options, trainer
from flow import Flow
from sklearn.svm import SVC
from torch import Tensor
from watching import evaluating, grid, log_picture, save_picture

import leyden


class SampleImages(leyden.Callback):
    """After every epoch, samples images of each of the `labels`, from the same noise each time.

    The noise is of a generator of its own: torch's, from which training draws, is where it was. The same noise means
    that from picture to picture only the model changes.

    `pl_module.sample(noise, labels)` must return images (N, 1, H, W).

    Attributes:
        samples: of the last epoch.
    """

    def __init__(self, labels: Tensor, size: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.noise, self.labels = torch.randn(len(labels), *size, generator=generator), labels

    def on_train_epoch_end(self, trainer: leyden.Trainer, pl_module: Any) -> None:
        with evaluating(pl_module), torch.no_grad():
            noise = self.noise.to(pl_module.device, pl_module.dtype)
            self.samples = pl_module.sample(noise, self.labels.to(pl_module.device))
        log_picture(trainer, "samples", grid(self.samples, columns=10))


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train, print how many samples a classifier takes for the digit they are to be, and draw one of each digit."""
    max_epochs, folder = read_options(arguments, __doc__, max_epochs=50)
    train, _ = loaders()
    images, labels = train.dataset[:]
    judge = SVC(gamma=0.2).fit(images.flatten(1), labels)
    sampler = SampleImages(torch.arange(10).repeat(20))
    shown, shares = [], []

    def note(run: leyden.Trainer, module: leyden.LightningModule) -> None:
        shown.append(sampler.samples[:10])
        shares.append(judge.score(sampler.samples.flatten(1), sampler.labels))

    run = trainer(max_epochs, folder, "sampling", sampler, leyden.LambdaCallback(on_train_epoch_end=note))
    run.fit(Flow(), train)
    epochs = print_epochs({"recognised": shares})
    save_picture(grid(torch.cat([shown[epoch - 1] for epoch in epochs]), columns=10), folder / "sampling.png")
    return shares


if __name__ == "__main__":
    main()
