"""Runs of several processes that are cut and gone on with, for `test_parallel_state`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer, seed_everything

__all__ = ["SaveAt", "cut_and_resumed", "go_on_each", "save_each", "train"]

ROWS = 48
WORLD_BATCH = 8
WINDOWS: dict[str, Any] = {"accumulate_grad_batches": 4}


class Drawing(LightningModule):
    """A net with a buffer and dropout, which draws random numbers in each process, on the same data in all."""

    def __init__(self, draws: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.25 * draws), nn.Linear(8, 2)
        )
        self.draws = draws
        if not draws:
            self.net[1] = nn.Identity()
        self.losses: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        self.losses.append(loss.item())
        self.log("loss", loss, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.net(batch).square().mean(), sync_dist=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    def _loader(self) -> DataLoader[Any]:
        world = int(os.environ.get("WORLD_SIZE", "1"))
        rows: Any = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))
        return DataLoader(rows, batch_size=WORLD_BATCH // world, shuffle=self.draws)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader()


class ByHand(Drawing):
    """Steps by hand behind every other batch, with the gradients of both."""

    def __init__(self, draws: bool = True) -> None:
        super().__init__(draws)
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        ends = batch_idx % 2 == 1
        with optimizer.toggle_model(sync_grad=ends):
            self.manual_backward(super().training_step(batch, batch_idx) / 2)
        if ends:
            optimizer.step()
            optimizer.zero_grad()


class SaveAt(Callback):
    """Saves the run behind some batches of it."""

    def __init__(self, folder: str, *batches: int) -> None:
        self.folder, self.batches = folder, batches

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.fit_loop.batches_seen
        if done in self.batches:
            trainer.plan.when_done(lambda: trainer.save_checkpoint(Path(self.folder, f"{done}.ckpt")))


class Counting(Callback):
    """Keeps what only this process has seen."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(float(batch.sum()))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.seen = list(state_dict["seen"])


class Starting(Callback):
    """Takes down what a run is as it begins, or goes on."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.state = state_of(trainer)


def train(strategy: Any, trainer: dict[str, Any], ckpt_path: str | None = None, draws: bool = True) -> dict[str, Any]:
    """Train and return all that the run has come to in this process."""
    rank = int(os.environ.get("RANK", "0"))
    seed_everything(7 if ckpt_path is None else 1000, verbose=False)
    module, counting = (ByHand if strategy == "sharded, by hand" else Drawing)(draws), Counting()
    torch.manual_seed(7 + rank if ckpt_path is None else 1000 + rank)
    settings: dict[str, Any] = {
        "max_epochs": 3, "accelerator": "cpu", "logger": False, "discover_callbacks": False,
        "enable_checkpointing": None, "num_sanity_val_steps": 0,
    }  # fmt: skip
    callbacks = [counting, *trainer.get("callbacks", [])]
    run = Trainer(strategy=_strategy(strategy), **{**settings, **trainer, "callbacks": callbacks})
    run.fit(module, ckpt_path=ckpt_path)
    return {**state_of(run), "seen": counting.seen, "losses": module.losses}


def _strategy(name: Any) -> Any:
    if "sharded" not in name:
        return name
    from leyden.runtime.fsdp import FSDPStrategy

    return FSDPStrategy(state_dict_type="sharded")


def save_each(strategies: list[str], folder: str, batches: tuple[int, ...]) -> list[dict[str, Any]]:
    """Train with each strategy without drawing, saving behind some batches; return how each has ended."""
    return [
        train(one, {**WINDOWS, "callbacks": [SaveAt(str(Path(folder, one)), *batches)]}, draws=False)
        for one in strategies
    ]


def go_on_each(runs: list[tuple[str, str]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Go on with each strategy from each path; return the states at the start and the end."""
    ends = []
    for strategy, path in runs:
        starting = Starting()
        ended = train(strategy, {**WINDOWS, "callbacks": [starting]}, path, draws=False)
        ends.append((starting.state, ended))
    return ends


def state_of(trainer: Trainer) -> dict[str, Any]:
    """What a run has come to."""
    module = trainer.lightning_module
    return {
        "weights": {name: _whole(value) for name, value in module.state_dict().items()},
        "optimizer": [
            {name: _whole(value) for name, value in trainer.optimizers[0].state.get(one, {}).items()}
            for one in module.parameters()
        ],
        "lr": trainer.optimizers[0].param_groups[0]["lr"],
        "metrics": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "steps": trainer.global_step,
        "drawn": torch.rand(2).tolist(),
    }


def cut_and_resumed(strategy: Any, trainer: dict[str, Any], folder: str, batches: tuple[int, ...]) -> list[Any]:
    """Train without a cut, saving behind some batches; then go on from each of these. Return what all come to."""
    ends = [train(strategy, {**trainer, "callbacks": [SaveAt(folder, *batches)]})]
    return ends + [train(strategy, trainer, str(Path(folder, f"{done}.ckpt"))) for done in batches]


def _whole(value: Any) -> Any:
    value = value.full_tensor() if isinstance(value, DTensor) else value
    return value.cpu().clone() if isinstance(value, Tensor) else value
