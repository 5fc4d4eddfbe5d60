"""What `test_parallel_forks` does in processes that have computed nothing yet, as a fresh session would."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.callbacks import ModelCheckpoint
from leyden.loggers import CSVLogger
from leyden.rank_zero import rank_zero_only

ROWS = 24


class Net(LightningModule):
    """Batches are a share of 8 rows."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Linear(4, 2)
        self.batch_size = batch_size

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).square().mean()
        self.log("loss", loss, sync_dist=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.net(batch).square().mean(), sync_dist=True)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return batch[:, 0]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def configure_callbacks(self) -> list[Callback]:
        return [ModelCheckpoint("saved", "{epoch}", monitor="val_loss")]

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(rows(), batch_size=self.batch_size)

    val_dataloader = predict_dataloader = train_dataloader


class Act(Callback):
    """Process 1 does something in the fourth step."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3 and trainer.global_rank == 1:
            if self.what == "interrupt":
                os.kill(os.getppid(), signal.SIGINT)
            elif self.what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.what:
                raise ValueError(self.what)


def rows() -> Any:
    return torch.arange(ROWS * 4, dtype=torch.float32).reshape(ROWS, 4) / 100


def trainer(strategy: str = "ddp_fork", devices: int = 2, act: str = "", max_epochs: int = 2) -> Trainer:
    return Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_epochs=max_epochs, logger=CSVLogger("logs"),
        discover_callbacks=False, callbacks=[Act(act)], enable_progress_bar=False,
    )  # fmt: skip


def fresh() -> None:
    """Let this process be as one of a session: it has no place in a run, and may have children."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name)
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]


def looked_at(run: Trainer, module: Net) -> dict[str, Any]:
    """What a user looks at after a fit."""
    checkpoint: Any = run.checkpoint_callback
    return {
        "weights": {name: value.clone() for name, value in module.state_dict().items()},
        "metrics": {name: (float(value), run.callback_metrics.step_of(name)) for name, value in _metrics(run)},
        "progress": (run.current_epoch, run.global_step, run.fit_loop.batches_seen),
        "state": (run.state.status, run.state.fn, run.interrupted, run.should_stop),
        "best": (os.path.relpath(checkpoint.best_model_path), float(checkpoint.best_model_score)),
        "log_dir": run.log_dir,
    }


def _metrics(run: Trainer) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in run.callback_metrics.items() if name != "epoch"]


def in_forks() -> dict[str, Any]:
    """Train, and look at everything; then evaluate, predict and train again."""
    fresh()
    torch.set_num_threads(2)
    torch.randn(2000, 2000).exp().sum()  # in OpenMP's threads, which forks do not have
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    run, module = trainer("ddp_notebook"), Net(4)
    place = (run.world_size, run.global_rank, rank_zero_only.rank, type(run.strategy).__name__)
    run.fit(module)
    found = looked_at(run, module)
    found["place"] = place
    found["validated"] = run.validate(module, verbose=False)
    found["predicted"] = run.predict(module)
    run.save_checkpoint("weights.ckpt", weights_only=True)
    try:
        run.save_checkpoint("all.ckpt")
    except MisconfigurationException as error:
        found["refused"] = str(error)
    trainer("ddp_spawn", max_epochs=1).fit(module)
    found["handlers"] = handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    found["left"] = [child.pid for child in multiprocessing.active_children()]
    found["files"] = sorted(str(path) for path in Path().rglob("*.c*"))
    return found


def alone() -> dict[str, Any]:
    """The same in one process with the doubled batch."""
    fresh()
    run, module = trainer("auto", 1), Net(8)
    run.fit(module)
    found = looked_at(run, module)
    found["validated"] = run.validate(module, verbose=False)
    return found


def ending(act: str) -> dict[str, Any]:
    """Train until something happens."""
    fresh()
    run, module = trainer(act=act, max_epochs=100_000), Net(4)
    before = module.net.weight.detach().clone()
    try:
        run.fit(module)
    except BaseException as error:
        return {
            "raised": f"{type(error).__name__}: {error}",
            "notes": getattr(error, "__notes__", []),
            "interrupted": run.interrupted,
            "trained": not torch.equal(module.net.weight, before),
            "steps": run.global_step,
        }
    raise AssertionError("nothing happened")
