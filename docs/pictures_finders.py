"""Draws the picture of `finders.md`: a search on scikit-learn's digits. ``python docs/pictures_finders.py``.

It needs matplotlib; the picture is in the repository, so that the site builds without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from leyden import LightningModule, Trainer
from leyden.tuner import Tuner

PICTURE = Path(__file__).parent / "pictures" / "learning_rate.svg"


class Digits(LightningModule):
    """A small network on images of digits."""

    def __init__(self, lr: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.network(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


def main() -> None:
    """Search, and draw what was found."""
    import matplotlib

    matplotlib.rcParams["svg.hashsalt"] = "leyden"  # names in the file that are the same each time
    torch.manual_seed(1)
    digits = load_digits()
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    loader: Any = DataLoader(TensorDataset(images, torch.tensor(digits.target)), batch_size=64, shuffle=True)
    module = Digits()
    search = Tuner(Trainer(accelerator="cpu", logger=False)).lr_find(module, loader, min_lr=1e-5, max_lr=3)
    assert search is not None
    figure: Any = search.plot(suggest=True)
    figure.set_size_inches(7, 3.5)
    figure.savefig(PICTURE, metadata={"Date": None})
    print(f"{PICTURE.name}: {search.suggestion():.3g}")


if __name__ == "__main__":
    main()
