"""What the examples beside it start from: scikit-learn's digits, 8 x 8 pixels from 0 to 1, options and a trainer."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import leyden
from leyden.loggers import TensorBoardLogger
from leyden.tables import render_table

Batch = list[Tensor]  # images (N, 1, 8, 8) and labels (N,)


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return 1,437 images with their labels to train on, and 360 that are held out."""
    loaded = load_digits()
    images, labels = torch.tensor(loaded.images, dtype=torch.float32).unsqueeze(1) / 16, torch.tensor(loaded.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    train, held_out = order[360:], order[:360]
    return TensorDataset(images[train], labels[train]), TensorDataset(images[held_out], labels[held_out])


def loaders(batch_size: int = 64) -> tuple[DataLoader[tuple[Tensor, ...]], DataLoader[tuple[Tensor, ...]]]:
    """Return the loader of training and that of validation."""
    train, held_out = digits()
    return DataLoader(train, batch_size, shuffle=True), DataLoader(held_out, 360)


def one_of_each() -> Batch:
    """Return a held-out image of each digit, 0 to 9, and their labels."""
    images, labels = digits()[1].tensors
    first = torch.stack([(labels == digit).nonzero()[0, 0] for digit in range(10)])
    return [images[first], labels[first]]


def read_options(arguments: Sequence[str] | None, about: str | None, max_epochs: int) -> tuple[int, Path]:
    """Return for how many epochs to train, and the folder for logs and pictures."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--max-epochs", type=int, default=max_epochs, metavar="N")
    parser.add_argument("--folder", type=Path, default=Path("leyden_logs"), help="of logs and pictures")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)  # images this small are quicker on one thread, much quicker on a busy machine
    logging.getLogger("leyden").setLevel(logging.WARNING)
    leyden.seed_everything(7)
    return options.max_epochs, options.folder


def print_epochs(shares: dict[str, list[float]]) -> list[int]:
    """Print the shares of five epochs, the early ones closer together: there most is learned. Return which, from 1."""
    max_epochs = max(map(len, shares.values()))
    epochs = sorted({round(max_epochs ** (part / 4)) for part in range(5)})
    rows = [[epoch, *(f"{column[epoch - 1]:.1%}" for column in shares.values())] for epoch in epochs]
    print(render_table(["epoch", *shares], rows))
    return epochs


def trainer(max_epochs: int, folder: Path, name: str, *callbacks: leyden.Callback) -> leyden.Trainer:
    """Return a trainer with these callbacks alone, which writes for TensorBoard."""
    return leyden.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(folder, name),
        log_every_n_steps=10,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        discover_callbacks=False,
    )
