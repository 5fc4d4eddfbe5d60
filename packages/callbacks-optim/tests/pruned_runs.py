"""Runs whose module ModelPruning prunes, and the plain loop that does the same, for the tests of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import LambdaCallback

__all__ = ["DATA", "EveryOther", "Net", "Rows", "by_hand", "each", "everything", "fit", "loader", "loss_of", "seeded"]

DATA = torch.linspace(-1, 1, 24 * 4).sin().view(24, 4)


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net: Any = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return loss_of(self.net, batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", loss_of(self.net, batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.05, weight_decay=0.1)


def loss_of(net: nn.Module, batch: Tensor) -> Tensor:
    output: Tensor = net(batch)
    return (output - batch[:, :2].cos()).square().mean()


def loader() -> Any:
    return DataLoader(DATA, batch_size=8)  # type: ignore[arg-type]  # a tensor is a dataset


def fit(
    module: LightningModule, *callbacks: Callback, max_epochs: int = 3, val: bool = False, **trainer: Any
) -> Trainer:
    made = Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": max_epochs,
            "logger": False,
            "discover_callbacks": False,
            "num_sanity_val_steps": 0,
            "callbacks": list(callbacks),
            **trainer,
        }
    )
    made.fit(module, loader(), loader() if val else None)
    return made


def seeded() -> Callback:
    """Random methods draw the same as in the loop by hand."""
    return LambdaCallback(on_train_epoch_end=lambda trainer, pl_module: torch.manual_seed(trainer.current_epoch))


def by_hand(prune_once: Callable[[nn.Module, int], None], epochs: int = 3) -> Any:
    """Train `Net` by a plain loop that prunes with torch's own functions after each epoch."""
    net = Net().net
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=0.1)
    for epoch in range(epochs):
        for batch in loader():
            optimizer.zero_grad()
            loss_of(net, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            net.eval()(DATA)  # torch computes `weight` when a layer is called: it would prune by that of the last batch
            net.train()
        torch.manual_seed(epoch)
        prune_once(net, epoch)
    for one in net:
        for name in ("weight", "bias"):
            if hasattr(one, f"{name}_orig"):
                prune.remove(one, name)  # type: ignore[no-untyped-call]
    return net


def everything(net: Any, whole: bool = False) -> list[tuple[Any, str]]:
    """The weights in the order in which ModelPruning takes them."""
    return [
        (one, name)
        for name in ("weight", "bias")
        for one in net
        if isinstance(getattr(one, name, None), Tensor) and (not whole or getattr(one, name).dim() > 1)
    ]


class EveryOther(prune.BasePruningMethod):
    """Prunes each second weight that is left."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.view(-1)[::2] = 0
        return mask


class Rows(prune.BasePruningMethod):
    """Prunes the first slices of those that are left."""

    PRUNING_TYPE = "structured"

    def __init__(self, amount: float, dim: int = 0) -> None:
        self.amount, self.dim = amount, dim

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask.narrow(self.dim, 0, round(self.amount * t.shape[self.dim])).zero_()
        return mask


def each(function: Any, whole: bool = False, **arguments: Any) -> Callable[[nn.Module, int], None]:
    def prune_once(net: nn.Module, epoch: int) -> None:
        for one, name in everything(net, whole):
            function(one, name, **arguments)

    return prune_once
