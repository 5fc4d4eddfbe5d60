"""An exception in any hook, saved at: whoever goes on calls those hooks again, as if for the first time."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import LearningRateMonitor, ModelCheckpoint, OnExceptionCheckpoint
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


class Lbfgs(Net):
    """Calls the training step several times within a step of the optimizer."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)


def fit(
    folder: Path, seed: int, *callbacks: Callback, ckpt_path: str | None = None, net: type[Net] = Net, windows: int = 2
) -> dict[str, Any] | None:
    torch.manual_seed(seed)
    data: Any = torch.linspace(-1, 1, 32).view(8, 4)
    trainer = Trainer(
        accelerator="cpu", max_epochs=3, accumulate_grad_batches=windows, val_check_interval=2, log_every_n_steps=1,
        logger=CSVLogger(folder), callbacks=[InEveryHook(), *callbacks], discover_callbacks=False,
    )  # fmt: skip
    loaders = (DataLoader(data, batch_size=2, shuffle=True), DataLoader(data, batch_size=4, shuffle=True))
    try:
        trainer.fit(net(), *loaders, ckpt_path=ckpt_path)
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


@pytest.mark.parametrize("at", [2, 3, 7])
def test_half_a_step_of_lbfgs_is_taken_back(
    tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]], at: int
) -> None:
    whole = fit(tmp_path / "whole", 1, net=Lbfgs, windows=1)
    saver = OnExceptionCheckpoint(tmp_path)
    assert fit(tmp_path / "cut", 1, saver, CutIn("on_after_backward", at), net=Lbfgs, windows=1) is None
    resumed = fit(tmp_path / "cut", 9, ckpt_path=saver.ckpt_path, net=Lbfgs, windows=1)
    assert not list(named_differences(resumed, whole))


@pytest.mark.parametrize("rhythm", [{"every_n_train_steps": 1}, {"every_n_epochs": 1}, {"every_n_train_steps": 3}])
@pytest.mark.parametrize(
    ("hook", "at"), [("on_after_backward", 6), ("on_validation_batch_start", 4), ("on_validation_end", 2)]
)
def test_model_checkpoint_saves_on_an_exception_as_exactly(
    tmp_path: Path,
    named_differences: Callable[[Any, Any], Iterable[str]],
    rhythm: dict[str, Any],
    hook: str,
    at: int,
) -> None:
    """Within a window, or a validation, epoch and step are those of a save before it; the ranking goes on the same."""

    def checkpoint(folder: str) -> ModelCheckpoint:
        path = tmp_path / folder / "kept"
        return ModelCheckpoint(path, "{step}", "val", save_top_k=2, save_on_exception=True, **rhythm)

    def ranking(one: ModelCheckpoint) -> dict[str, Any]:
        state = {name: value for name, value in one.state_dict().items() if name != "dirpath"}
        return {name: re.sub(r"/\w+/kept/|-v\d", "", str(value)) for name, value in state.items()}

    fitted, first, second = checkpoint("whole"), checkpoint("cut"), checkpoint("cut")
    whole = fit(tmp_path / "whole", 1, fitted)
    assert fit(tmp_path / "cut", 1, first, CutIn(hook, at)) is None
    [path] = [file for file in (tmp_path / "cut/kept").iterdir() if str(file) not in ranking_paths(first)]
    resumed = fit(tmp_path / "cut", 9, second, ckpt_path=str(path))
    assert whole is not None
    assert resumed is not None
    assert ranking(second) == ranking(fitted)
    for run in (whole, resumed):
        del run["end"]["callbacks"][fitted.state_key]
    assert not list(named_differences(resumed, whole))


def ranking_paths(checkpoint: ModelCheckpoint) -> set[str]:
    return {*checkpoint.best_k_models, checkpoint.best_model_path, checkpoint.last_model_path}


def test_a_window_logs_its_learning_rate_once(
    tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]]
) -> None:
    """The first batch of a window logs; the run that goes on begins with the second."""
    whole = fit(tmp_path / "whole", 1, LearningRateMonitor("step"))
    saver = OnExceptionCheckpoint(tmp_path)
    assert fit(tmp_path / "cut", 1, LearningRateMonitor("step"), saver, CutIn("on_before_backward", 4)) is None
    resumed = fit(tmp_path / "cut", 9, LearningRateMonitor("step"), ckpt_path=saver.ckpt_path)
    assert not list(named_differences(resumed, whole))
