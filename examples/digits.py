"""Train a small CNN on scikit-learn's handwritten digits with callbacks from four distributions.

Run it with ``hatch run demo``; go on from a checkpoint with ``hatch run demo --resume PATH``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, random_split

import leyden
from leyden.callbacks import BackboneFinetuning, EarlyStopping, LearningRateMonitor, ModelCheckpoint, TQDMProgressBar
from leyden.loggers import CSVLogger

Batch = list[Tensor]


class Digits(leyden.LightningDataModule):
    """1,797 images of 8 x 8 pixels with values 0 to 16, split into train, validation and test by a fixed seed."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        digits = load_digits()
        images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
        dataset = TensorDataset(images, torch.tensor(digits.target))
        split = torch.Generator().manual_seed(0)
        self.train, self.val, self.test = random_split(dataset, [0.7, 0.15, 0.15], generator=split)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.val, self.batch_size)

    def test_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.test, self.batch_size)


class Classifier(leyden.LightningModule):
    """A convolutional backbone, frozen during the first epochs by BackboneFinetuning, and a linear head."""

    def __init__(self, learning_rate: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.learning_rate = learning_rate
        self.backbone = nn.Sequential(
            *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Dropout(0.25), nn.Linear(64 * 2 * 2, 10))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        loss = functional.cross_entropy(self(images), labels)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        images, labels = batch
        logits = self(images)
        self.log(f"{stage}_loss", functional.cross_entropy(logits, labels))
        self.log(f"{stage}_acc", (logits.argmax(dim=1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=self.learning_rate)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 8, gamma=0.5)}


def main(arguments: Sequence[str] | None = None) -> float:
    """Train, test on the best weights, say where everything is; return the accuracy on the test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resume", metavar="PATH", help="a checkpoint of an earlier run to go on from")
    parser.add_argument("--max-epochs", type=int, default=30, metavar="N")
    options = parser.parse_args(arguments)

    torch.set_num_threads(1)  # images this small are quicker on one thread, much quicker on a busy machine
    leyden.seed_everything(7)
    checkpoint = ModelCheckpoint(monitor="val_acc", mode="max", save_last=True)
    trainer = leyden.Trainer(
        max_epochs=options.max_epochs,
        accelerator="cpu",
        logger=CSVLogger("."),
        log_every_n_steps=10,
        callbacks=[
            TQDMProgressBar(),
            LearningRateMonitor(logging_interval="epoch"),
            BackboneFinetuning(unfreeze_backbone_at_epoch=3, backbone_initial_ratio_lr=0.5),
            EarlyStopping(monitor="val_acc", mode="max", patience=8),
            checkpoint,
        ],
    )
    trainer.describe_callbacks()
    data = Digits()
    trainer.fit(Classifier(), datamodule=data, ckpt_path=options.resume)
    accuracy = trainer.test(datamodule=data, ckpt_path="best")[0]["test_acc"]

    print(f"Test accuracy:   {accuracy:.2%} after {trainer.current_epoch} epochs")
    print(f"Best checkpoint: {checkpoint.best_model_path} (val_acc {checkpoint.best_model_score:.4f})")
    print(f"Logs:            {trainer.log_dir}")
    return accuracy


if __name__ == "__main__":
    main()
