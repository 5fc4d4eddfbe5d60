"""Watch what an encoder of digits learns without labels (SimCLR): ``python examples/callbacks/online_probe.py``."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from digits_data import Batch, loaders, print_epochs, read_options, trainer
from simclr import SimCLR
from torch import Tensor, nn
from torch.nn import functional
from watching import evaluating, save_curves

from leyden import Callback, LambdaCallback, LightningModule, Trainer, seed_everything


class OnlineProbe(Callback):
    """A linear classifier that is trained beside the encoder, one step a batch; the encoder never notices.

    `pl_module.encoder` turns images (N, ...) into `features` numbers each. Logs ``<name>_acc`` in validation.
    """

    def __init__(self, features: int, classes: int = 10, lr: float = 0.1, name: str = "probe") -> None:
        self.name = name  # of its state too, so that there may be several
        self.head = nn.Linear(features, classes, device="meta").to_empty(device="cpu")  # draws no random numbers
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)  # where a linear classifier may well begin
        self.optimizer = torch.optim.Adam(self.head.parameters(), lr)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.head.to(trainer.strategy.root_device)

    def classify(self, pl_module: Any, images: Tensor) -> Any:
        with evaluating(pl_module.encoder), torch.no_grad():  # detached: no gradient reaches the encoder
            features = pl_module.encoder(images).float()
        return self.head(features)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        loss = functional.cross_entropy(self.classify(pl_module, batch[0]), batch[1])
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: Any) -> None:
        hits = self.classify(pl_module, batch[0]).argmax(dim=1) == batch[1]
        self.log(f"{self.name}_acc", hits.float().mean(), batch_size=len(hits))

    def state_dict(self) -> dict[str, Any]:
        return {"head": self.head.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.head.load_state_dict(state_dict["head"])
        self.optimizer.load_state_dict(deepcopy(state_dict["optimizer"]))  # it would go on in the tensors it is given


def train(learning_rate: float, max_epochs: int, folder: Path) -> list[float]:
    """Return the accuracy of the probe after each epoch; at a learning rate of 0 the encoder stays what it was."""
    seed_everything(7)
    curve: list[float] = []
    note = LambdaCallback(on_train_epoch_end=lambda run, _: curve.append(float(run.callback_metrics["probe_acc"])))
    callbacks = OnlineProbe(features=8), note
    trainer(max_epochs, folder, "online_probe", *callbacks).fit(SimCLR(8, learning_rate), *loaders(128))
    return curve


def main(arguments: Sequence[str] | None = None) -> dict[str, list[float]]:
    """Watch an encoder that learns and one that does not, print and draw both."""
    max_epochs, folder = read_options(arguments, __doc__, max_epochs=30)
    curves = {"trained encoder": train(2e-3, max_epochs, folder), "untrained": train(0.0, max_epochs, folder)}
    print_epochs(curves)
    save_curves(curves, "accuracy of the probe", folder / "online_probe.png")
    return curves


if __name__ == "__main__":
    main()
