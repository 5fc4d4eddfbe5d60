"""Checkpoints that Lightning itself wrote resume here, and Lightning reads the weights of ours.

Runs where Lightning is installed: ``hatch run bench:lightning`` for 2.x, ``hatch run lightning1:lightning`` for 1.x.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import leyden
from leyden.callbacks import BackboneFinetuning, EarlyStopping, ModelCheckpoint, Timer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    of_2 = find_spec("lightning") is not None
    pl: Any = pytest.importorskip("lightning.pytorch" if of_2 else "pytorch_lightning", exc_type=ImportError)

pytestmark = pytest.mark.filterwarnings("ignore")
"""Lightning warns of much."""

BATCHES = 6


class Steps:
    """What the module does, whoever trains it."""

    def __init__(self, rate: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()  # type: ignore[attr-defined]
        self.layer = nn.Linear(4, 2)
        self.started: list[tuple[int, int]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.started.append((self.trainer.current_epoch, batch_idx))  # type: ignore[attr-defined]
        loss: Tensor = self.layer(batch).pow(2).mean()
        self.log("loss", loss)  # type: ignore[attr-defined]
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("v", self.layer(batch).pow(2).mean())  # type: ignore[attr-defined]

    def train_dataloader(self) -> Any:
        return DataLoader([torch.ones(4) * number for number in range(BATCHES)], shuffle=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader([torch.ones(4)] * 2)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)  # type: ignore[attr-defined]
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]


class Theirs(Steps, pl.LightningModule):  # type: ignore[misc]
    """Trained by Lightning."""


class Ours(Steps, leyden.LightningModule):
    """Trained by Leyden."""


def written_by_lightning(tmp_path: Path) -> dict[str, Any]:
    """Train two epochs with Lightning, which saves every second step, every epoch and at the end; return paths."""
    c = pl.callbacks
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[
            c.ModelCheckpoint(tmp_path / "steps", "{step}", every_n_train_steps=2, save_top_k=-1),
            c.ModelCheckpoint(tmp_path / "epochs", "{step}", monitor="v", save_top_k=-1),
            c.EarlyStopping("v", patience=9), c.Timer("01:00:00:00"),
        ],
    )  # fmt: skip
    module = Theirs()
    trainer.fit(module)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    return {"module": module, "optimizer": trainer.optimizers[0].state_dict()}


def resume(path: Path, *callbacks: leyden.Callback, max_epochs: int = 3) -> tuple[leyden.Trainer, Ours]:
    trainer = leyden.Trainer(
        max_epochs=max_epochs, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=callbacks
    )
    module = Ours()
    trainer.fit(module, ckpt_path=path)
    return trainer, module


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("steps/step=2.ckpt", (0, 2)),
        ("steps/step=6.ckpt", (1, 0)),
        ("steps/step=8.ckpt", (1, 2)),
        ("epochs/step=6.ckpt", (1, 0)),
        ("epochs/step=12.ckpt", (2, 0)),
        ("end.ckpt", (2, 0)),
    ],
)
def test_a_run_of_lightning_goes_on_where_it_stood(tmp_path: Path, name: str, first: tuple[int, int]) -> None:
    written_by_lightning(tmp_path)
    trainer, module = resume(tmp_path / name)
    everything = [(epoch, batch) for epoch in range(3) for batch in range(BATCHES)]
    assert module.started == everything[everything.index(first) :]
    assert (trainer.current_epoch, trainer.global_step) == (3, 18)
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0.05 * 0.5**3
    assert trainer.fit_loop.batches_that_stepped == 18


def test_weights_optimizer_and_callbacks_are_those_lightning_left(tmp_path: Path) -> None:
    left = written_by_lightning(tmp_path)
    stopping, timer = EarlyStopping("v", patience=9), Timer()
    checkpoint = ModelCheckpoint(tmp_path / "epochs", "{step}", monitor="v", save_top_k=-1)
    trainer, module = resume(tmp_path / "end.ckpt", stopping, timer, checkpoint, max_epochs=2)
    assert torch.equal(module.layer.weight, left["module"].layer.weight)
    ours, theirs = trainer.optimizers[0].state_dict(), left["optimizer"]
    assert ours["param_groups"] == theirs["param_groups"]
    for index, state in theirs["state"].items():
        assert all(torch.equal(state[name], ours["state"][index][name]) for name in state)
    written = torch.load(tmp_path / "end.ckpt", weights_only=False)["callbacks"]
    assert stopping.best_score == written["EarlyStopping{'monitor': 'v', 'mode': 'min'}"]["best_score"]
    assert timer.time_elapsed("train") >= written["Timer"]["time_elapsed"]["train"] > 0
    monitors = [state for key, state in written.items() if key.startswith("ModelCheckpoint{'monitor': 'v'")]
    (best,) = (state["best_model_path"] for state in monitors)
    assert Path(checkpoint.best_model_path) == Path(best)
    assert len(checkpoint.best_k_models) == 2


class Finetuned(Steps):
    """A backbone with BatchNorm, and the same batches in each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.layer = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), nn.Linear(4, 2)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.layer(self.backbone(batch)).pow(2).mean()
        return loss

    def train_dataloader(self) -> Any:
        rows = torch.randn(2 * BATCHES, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(rows, 2)  # type: ignore[arg-type]

    def configure_optimizers(self) -> Any:
        free = [one for one in self.parameters() if one.requires_grad]  # type: ignore[attr-defined]
        return torch.optim.Adam(free, lr=0.05)


class TheirFinetuned(Finetuned, pl.LightningModule):  # type: ignore[misc]
    """Trained by Lightning."""


class OurFinetuned(Finetuned, leyden.LightningModule):
    """Trained by Leyden."""


def test_a_finetuning_of_lightning_goes_on_from_before_and_after_the_unfreeze(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_epochs": 4, "accelerator": "cpu", "logger": False, "limit_val_batches": 0}
    saves = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=4, save_top_k=-1)
    whole = TheirFinetuned()
    trainer = pl.Trainer(
        callbacks=[pl.callbacks.BackboneFinetuning(2), saves], enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip
    trainer.fit(whole)
    paths = sorted(tmp_path.glob("*.ckpt"))
    assert len(paths) == 4 * BATCHES // 4
    for path in paths:
        module = OurFinetuned()
        resumed = leyden.Trainer(callbacks=[BackboneFinetuning(2)], discover_callbacks=False, **settings)
        resumed.fit(module, ckpt_path=path)
        assert [group["lr"] for group in resumed.optimizers[0].param_groups] == pytest.approx([0.05, 0.01]), path.name
        for name, value in whole.state_dict().items():
            assert torch.allclose(module.state_dict()[name], value, atol=1e-6), (path.name, name)


def test_load_from_checkpoint_reads_files_of_lightning(tmp_path: Path) -> None:
    left = written_by_lightning(tmp_path)
    module = Ours.load_from_checkpoint(tmp_path / "end.ckpt")
    assert torch.equal(module.layer.weight, left["module"].layer.weight)
    assert module.hparams == {"rate": 0.05}


@pytest.mark.parametrize("weights_only", [False, True])
def test_lightning_reads_the_weights_of_ours(tmp_path: Path, weights_only: bool) -> None:
    trainer = leyden.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, discover_callbacks=False,
        callbacks=[EarlyStopping("v"), Timer(), ModelCheckpoint(tmp_path / "own")],
    )  # fmt: skip
    module = Ours(rate=0.25)
    trainer.fit(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=weights_only)
    theirs = Theirs.load_from_checkpoint(tmp_path / "a.ckpt")
    assert torch.equal(theirs.layer.weight, module.layer.weight)
    assert theirs.hparams["rate"] == 0.25
    if not weights_only:  # Lightning's own trainer asks for its loops in a file that has ours
        return
    evaluating = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (scores,) = evaluating.validate(Theirs(), ckpt_path=tmp_path / "a.ckpt", verbose=False)
    assert scores["v"] == pytest.approx(float(module.layer(torch.ones(4)).pow(2).mean()))
