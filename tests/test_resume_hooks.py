"""An exception in any hook, saved at: whoever goes on calls those hooks again, as if for the first time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import OnExceptionCheckpoint
from leyden.loggers import CSVLogger
from leyden.state.checkpoint import dump

HOOKS = (
    "on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_epoch_end", "on_validation_start", "on_validation_epoch_start",
    "on_validation_batch_start", "on_validation_epoch_end", "on_validation_end",
)  # fmt: skip


class Cut(Exception):
    """Ends a run as a crash would."""


class InEveryHook(Callback):
    """Counts, draws random numbers and writes a row of its own in each hook; its state holds what it drew."""

    def __init__(self) -> None:
        self.drawn: list[float] = []

    def meet(self, trainer: Trainer, hook: str) -> None:
        if not trainer.sanity_checking:
            self.drawn.append(float(torch.rand(())))
            for logger in trainer.loggers:
                logger.log_metrics({hook: self.drawn[-1]}, step=len(self.drawn))

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": list(self.drawn)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.drawn = list(state_dict["drawn"])


class CutIn(Callback):
    """Raises in the `at`-th call of a hook, which all others have had."""

    def __init__(self, hook: str, at: int) -> None:
        self.hook, self.left = hook, at

    def meet(self, trainer: Trainer, hook: str) -> None:
        self.left -= hook == self.hook and not trainer.sanity_checking
        if hook == self.hook and not self.left:
            raise Cut


def _hook(name: str) -> Callable[..., None]:
    def hook(self: Any, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.meet(trainer, name)

    return hook


for one, name in itertools.product((InEveryHook, CutIn), HOOKS):
    setattr(one, name, _hook(name))


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.net(batch).pow(2).mean() + torch.rand(()))

    def on_train_epoch_start(self) -> None:
        self.log("at_epoch_start", torch.rand(()))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


def fit(folder: Path, seed: int, *callbacks: Callback, ckpt_path: str | None = None) -> dict[str, Any] | None:
    torch.manual_seed(seed)
    data: Any = torch.linspace(-1, 1, 32).view(8, 4)
    trainer = Trainer(
        accelerator="cpu", max_epochs=3, accumulate_grad_batches=2, val_check_interval=2, log_every_n_steps=1,
        logger=CSVLogger(folder), callbacks=[InEveryHook(), *callbacks], discover_callbacks=False,
    )  # fmt: skip
    loaders = (DataLoader(data, batch_size=2, shuffle=True), DataLoader(data, batch_size=4, shuffle=True))
    try:
        trainer.fit(Net(), *loaders, ckpt_path=ckpt_path)
    except Cut:
        return None
    end = dump(trainer)
    del end["loggers"]
    return {"end": end, "rows": Path(trainer.log_dir or "", "metrics.csv").read_text().splitlines()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("straight")
    whole = fit(folder, 1)
    assert whole is not None
    return whole


@pytest.mark.parametrize("at", [1, 2, 4])
@pytest.mark.parametrize("hook", HOOKS)
def test_an_exception_in_a_hook_changes_nothing(
    tmp_path: Path, straight: dict[str, Any], named_differences: Callable[[Any, Any], Iterable[str]], hook: str, at: int
) -> None:
    saver = OnExceptionCheckpoint(tmp_path)
    at = min(at, 3) if "train_epoch" in hook else at
    assert fit(tmp_path, 1, saver, CutIn(hook, at)) is None
    resumed = fit(tmp_path, 9, ckpt_path=saver.ckpt_path)
    assert not list(named_differences(resumed, straight))
