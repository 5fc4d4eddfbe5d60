"""The production run's yardstick: an MLP on scikit-learn's digits, its data, and the loop one would write by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

__all__ = ["EPOCHS", "DigitsMLP", "DigitsSteps", "loaders", "train_by_hand"]

EPOCHS = 5
_BATCH = 32

Loader = DataLoader[tuple[Tensor, ...]]


class DigitsMLP(nn.Module):
    """64 pixels, hidden layers of 256 and 128, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Linear(64, 256), nn.ReLU()), *(nn.Linear(256, 128), nn.ReLU()), nn.Linear(128, 10)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.net(pixels)
        return logits

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class DigitsSteps(DigitsMLP):
    """The steps of a module of Leyden or Lightning, with which it is mixed: three metrics are logged."""

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        pixels, labels = batch
        loss = functional.cross_entropy(self(pixels), labels)
        self.log("train_loss", loss, prog_bar=True)  # type: ignore[operator]  # the framework's
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        pixels, labels = batch
        logits = self(pixels)
        self.log("val_loss", functional.cross_entropy(logits, labels), prog_bar=True)  # type: ignore[operator]
        self.log("val_acc", (logits.argmax(1) == labels).float().mean(), prog_bar=True)  # type: ignore[operator]


def loaders() -> tuple[Loader, Loader]:
    """1,437 images to train on, shuffled, and 360 to validate on, in batches of 32."""
    digits = load_digits()
    data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
    train, val = random_split(data, [0.8, 0.2], generator=torch.Generator().manual_seed(0))
    return DataLoader(train, _BATCH, shuffle=True), DataLoader(val, _BATCH)


def train_by_hand(folder: Path, train: Loader, val: Loader) -> None:
    """Train, validate after each epoch, and save the newest and, where it is better, the best."""
    model = DigitsMLP()
    optimizer = model.configure_optimizers()
    best = float("inf")
    for epoch in range(EPOCHS):
        model.train()
        for pixels, labels in train:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(pixels), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        val_loss, val_acc = _validate(model, val)
        state: dict[str, Any] = {
            "epoch": epoch,
            "val_loss": val_loss,
            "val_acc": val_acc,
            "state_dict": model.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        torch.save(state, folder / "last.pt")
        if val_loss < best:
            best = val_loss
            torch.save(state, folder / "best.pt")


def _validate(model: DigitsMLP, val: Loader) -> tuple[float, float]:
    model.eval()
    loss, right, samples = 0.0, 0.0, 0
    with torch.inference_mode():
        for pixels, labels in val:
            logits = model(pixels)
            loss += functional.cross_entropy(logits, labels).item() * len(labels)
            right += (logits.argmax(1) == labels).sum().item()
            samples += len(labels)
    return loss / samples, right / samples
