"""A run that a limit ended in mid-epoch: gone on with, be it with more steps, from any of its last checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.loggers import CSVLogger
from leyden.state.checkpoint import dump


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3), nn.Linear(3, 1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.net(batch).pow(2).mean() + torch.rand(()), on_step=True, on_epoch=True)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


class CountsEnds(Callback):
    """Counts the ends of epochs: one that a limit brought about is none where the limit is no more."""

    def __init__(self) -> None:
        self.ends = 0

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.ends += 1

    def state_dict(self) -> dict[str, Any]:
        return {"ends": self.ends}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.ends = state_dict["ends"]


class SavesLate(Callback):
    """Saves in the last hooks of a run, when all have had them."""

    position = "checkpoint"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _save(self, trainer: Trainer, name: str) -> None:
        trainer.plan.when_done(lambda: trainer.save_checkpoint(self.folder / f"{name}.ckpt"))

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "batch")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "epoch")

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "train")

    def on_fit_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "fit")


def fit(folder: Path, seed: int, max_steps: int, *callbacks: Callback, ckpt_path: Path | None = None) -> Any:
    torch.manual_seed(seed)
    data: Any = torch.linspace(-1, 1, 40).view(10, 4)
    trainer = Trainer(
        accelerator="cpu", max_epochs=4, max_steps=max_steps, val_check_interval=2, log_every_n_steps=2,
        logger=CSVLogger(folder), callbacks=[CountsEnds(), *callbacks], discover_callbacks=False,
    )  # fmt: skip
    loaders = (DataLoader(data, batch_size=2, shuffle=True), DataLoader(data, batch_size=5, shuffle=True))
    trainer.fit(Net(), *loaders, ckpt_path=ckpt_path)
    end = dump(trainer)
    del end["loggers"]
    progress = end["loops"]["fit_loop"]
    del progress["draws"]  # of loaders that will not be read again
    rows = Path(trainer.log_dir or "", "metrics.csv").read_text().splitlines()
    return {"end": end, "rows": rows, "metrics": dict(trainer.callback_metrics), "epoch": trainer.current_epoch}


@pytest.mark.parametrize("saved_in", ["batch", "epoch", "train", "fit"])
@pytest.mark.parametrize(("steps", "more"), [(7, 7), (7, 8), (8, 13), (10, 12), (6, 20)])
def test_a_limit_in_mid_epoch_leaves_no_trace(
    tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]], saved_in: str, steps: int, more: int
) -> None:
    straight = fit(tmp_path / "straight", 1, more)
    fit(tmp_path / "run", 1, steps, SavesLate(tmp_path))
    resumed = fit(tmp_path / "run", 9, more, ckpt_path=tmp_path / f"{saved_in}.ckpt")
    assert not list(named_differences(resumed, straight))
