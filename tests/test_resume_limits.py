"""A run that a limit ended in mid-epoch: gone on with, be it with more steps, from any of its last checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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


class Counted:
    """Batches in another order each epoch, which knows where it is, and not how many there are."""

    def __init__(self, data: Tensor) -> None:
        self.data, self.epoch, self.done = data, 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.randperm(5, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.done < 5:
            self.done += 1
            yield self.data[2 * order[self.done - 1] :][:2]
        self.epoch, self.done = self.epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.done = state["epoch"], state["done"]


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


def fit(
    folder: Path, seed: int, max_steps: int, *callbacks: Callback, ckpt_path: Path | None = None, counted: bool = False
) -> Any:
    torch.manual_seed(seed)
    data: Any = torch.linspace(-1, 1, 40).view(10, 4)
    trainer = Trainer(
        accelerator="cpu", max_epochs=4, max_steps=max_steps, val_check_interval=2, log_every_n_steps=2,
        logger=CSVLogger(folder), callbacks=[CountsEnds(), *callbacks], discover_callbacks=False,
    )  # fmt: skip
    train: Any = Counted(data) if counted else DataLoader(data, batch_size=2, shuffle=True)
    trainer.fit(Net(), train, DataLoader(data, batch_size=5, shuffle=True), ckpt_path=ckpt_path)
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


@pytest.mark.parametrize("saved_in", ["batch", "epoch", "train"])
def test_what_was_read_ahead_is_read_again(
    tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]], saved_in: str
) -> None:
    """A loader of unknown length is one batch ahead where the limit is reached."""
    straight = fit(tmp_path / "straight", 1, 13, counted=True)
    fit(tmp_path / "run", 1, 8, SavesLate(tmp_path), counted=True)
    resumed = fit(tmp_path / "run", 9, 13, ckpt_path=tmp_path / f"{saved_in}.ckpt", counted=True)
    assert not list(named_differences(resumed, straight))


@pytest.mark.parametrize("batch_size", [4, 5])
def test_an_epoch_that_has_become_shorter_than_what_is_done_of_it_ends(tmp_path: Path, batch_size: int) -> None:
    data: Any = torch.linspace(-1, 1, 40).view(10, 4)

    ends = CountsEnds()
    settings: Any = {"accelerator": "cpu", "logger": False, "discover_callbacks": False}
    before = Trainer(max_steps=3, callbacks=[CountsEnds()], **settings)
    before.fit(Net(), DataLoader(data, batch_size=2, shuffle=True), DataLoader(data, batch_size=5))
    before.save_checkpoint(tmp_path / "a.ckpt")
    after = Trainer(max_epochs=2, callbacks=[ends], **settings)
    with pytest.warns(UserWarning, match="after batch 3 of epoch 0, of which there are only"):
        after.fit(
            Net(),
            DataLoader(data, batch_size=batch_size, shuffle=True),
            DataLoader(data, batch_size=5),
            ckpt_path=tmp_path / "a.ckpt",
        )
    scheduler = after.lr_scheduler_configs[0].scheduler
    assert (after.current_epoch, ends.ends, scheduler.last_epoch) == (2, 2, 2)
    assert after.global_step == 3 + len(range(0, 10, batch_size))
    assert after.fit_loop.validated_at == after.fit_loop.batches_seen
