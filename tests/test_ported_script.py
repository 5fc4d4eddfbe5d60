"""A script for Lightning runs when the name of the package is another, and gives the numbers that it gave.

With Lightning installed it runs with that too: ``hatch run bench:lightning``, ``hatch run lightning1:lightning``.
"""

from __future__ import annotations

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import torch
import PACKAGE as pl
from PACKAGE.callbacks import EarlyStopping, ModelCheckpoint
from PACKAGE.callbacks.lr_monitor import LearningRateMonitor
from PACKAGE.core.module import LightningModule
from PACKAGE.loggers import CSVLogger
from PACKAGE.trainer.states import RunningStage, TrainerFn
from PACKAGE.utilities import grad_norm, rank_zero_only
from PACKAGE.utilities.exceptions import MisconfigurationException
from PACKAGE.utilities.model_helpers import is_overridden
from PACKAGE.utilities.rank_zero import rank_zero_info
from PACKAGE.utilities.types import STEP_OUTPUT
from torch.utils.data import DataLoader, TensorDataset


class Line(LightningModule):
    def __init__(self, width: int = 3, lr: float = 0.1):
        super().__init__()
        self.save_hyperparameters()
        layers = torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(width, 1)
        self.layer = torch.nn.Sequential(*layers)

    def loss(self, batch):
        x, y = batch
        return torch.nn.functional.mse_loss(self.layer(x), y)

    def training_step(self, batch, batch_idx) -> STEP_OUTPUT:
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True, prog_bar=True)
        return {"loss": loss}

    def on_before_optimizer_step(self, optimizer, *_):
        self.log_dict(grad_norm(self, norm_type=2))

    def validation_step(self, batch, batch_idx):
        self.log_dict({"val_loss": self.loss(batch)})

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=self.hparams.lr, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}


class Notes(pl.Callback):
    def __init__(self):
        self.notes = []

    @rank_zero_only
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.notes.append((trainer.global_step, batch_idx, round(float(outputs["loss"]), 5)))

    def on_validation_epoch_end(self, trainer, pl_module):
        if trainer.state.fn == TrainerFn.FITTING:
            names = sorted(name for name in trainer.callback_metrics if name != "lr-SGD")
            self.notes.append((trainer.state.stage == RunningStage.SANITY_CHECKING, names))


pl.seed_everything(7, workers=True)
x = torch.linspace(-1, 1, 40).view(20, 2)
rows = TensorDataset(x, x.sum(1, keepdim=True).sin())
data, shuffled = DataLoader(rows, batch_size=4), DataLoader(rows, batch_size=4, shuffle=True)
notes = Notes()
checkpoint = ModelCheckpoint(FOLDER, "{epoch}-{val_loss:.3f}", monitor="val_loss", save_last=True)
trainer = pl.Trainer(
    max_epochs=4,
    accelerator="cpu",
    devices=1,
    accumulate_grad_batches=2,
    gradient_clip_val=0.5,
    log_every_n_steps=1,
    logger=CSVLogger(FOLDER),
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[notes, checkpoint, EarlyStopping("val_loss", patience=2), LearningRateMonitor("epoch")],
)
trainer.fit(Line(), shuffled, data)
metrics = {name: round(float(value), 5) for name, value in trainer.callback_metrics.items()}
rate = metrics.pop("lr-SGD", None)
rank_zero_info("trained")
tested = trainer.validate(ckpt_path="best", dataloaders=data, verbose=False)
loaded = Line.load_from_checkpoint(checkpoint.best_model_path)
try:
    pl.Trainer(max_epochs=-2)
except MisconfigurationException:
    notes.notes.append("refused")
found = {
    "notes": notes.notes,
    "progress": (trainer.global_step, trainer.current_epoch),
    "metrics": metrics,
    "rate": rate,
    "tested": [{name: round(value, 5) for name, value in one.items()} for one in tested],
    "weights": [round(value, 5) for value in torch.nn.utils.parameters_to_vector(loaded.parameters()).tolist()],
    "best": checkpoint.best_model_path.rpartition("/")[2],
    "hparams": dict(loaded.hparams),
    "overridden": is_overridden("validation_step", loaded, pl.LightningModule),
}
"""


def run(package: str, folder: Path) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "ported"}
    text = SCRIPT.replace("PACKAGE", package).replace("FOLDER", repr(str(folder)))
    exec(compile(text, package, "exec"), names)
    found: dict[str, Any] = names["found"]
    return found


def test_a_script_runs_with_the_name_of_the_package_changed(tmp_path: Path) -> None:
    found = run("leyden", tmp_path)
    assert found["progress"] == (12, 4)
    assert found["notes"][0] == (True, ["val_loss"])
    assert found["metrics"].keys() >= {"loss", "loss_step", "loss_epoch", "val_loss", "grad_2.0_norm_total"}
    assert found["hparams"] == {"width": 3, "lr": 0.1}
    assert found["best"].startswith("epoch=")
    assert found["overridden"]


@pytest.mark.filterwarnings("ignore")
def test_it_gives_the_numbers_that_lightning_gives(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        name = "lightning.pytorch" if find_spec("lightning") is not None else "pytorch_lightning"
        pytest.importorskip(name, exc_type=ImportError)
        theirs, ours = run(name, tmp_path / "theirs"), run("leyden", tmp_path / "ours")
    if find_spec("lightning") is None:
        del theirs["rate"]  # 1.x gives it to loggers alone
    theirs["metrics"] = pytest.approx(theirs["metrics"], abs=1e-4)  # 1.x rounds norms to four digits
    for what, value in theirs.items():
        assert ours[what] == value, what
