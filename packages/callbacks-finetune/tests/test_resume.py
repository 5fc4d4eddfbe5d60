"""A finetuning run that is resumed, before, at or after the backbone is set free, equals the one never interrupted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from leyden import Callback, LightningModule, Trainer
from leyden_finetune import BackboneFinetuning, BaseFinetuning

UNFREEZE_AT = 2
EPOCHS = 5
BATCHES = 4


def make_scheduler(name: str, optimizer: Optimizer) -> dict[str, Any]:
    if name == "step":
        return {"scheduler": lr_scheduler.StepLR(optimizer, 2, gamma=0.5)}
    if name == "lambda":
        return {"scheduler": lr_scheduler.LambdaLR(optimizer, lambda step: 0.97**step), "interval": "step"}
    if name == "one_cycle":
        cycle = lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=EPOCHS * BATCHES + 1)
        return {"scheduler": cycle, "interval": "step"}
    if name == "cyclic":
        cyclic = lr_scheduler.CyclicLR(optimizer, base_lr=0.01, max_lr=0.05, step_size_up=3)
        return {"scheduler": cyclic, "interval": "step"}
    if name == "sequential":
        parts: list[Any] = [lr_scheduler.ConstantLR(optimizer, 0.5, 2), lr_scheduler.ExponentialLR(optimizer, 0.9)]
        return {"scheduler": lr_scheduler.SequentialLR(optimizer, parts, milestones=[3])}
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=10.0)
    return {"scheduler": plateau, "monitor": "train_loss"}


class Classifier(LightningModule):
    def __init__(self, scheduler: str | None = None, optimizer: type[Optimizer] = torch.optim.SGD) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 2)
        self.scheduler, self.optimizer = scheduler, optimizer

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1])
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.head(self.backbone(batch[0])), batch[1]))

    def configure_optimizers(self) -> Any:
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        options: Any = {"lr": 0.02, "momentum": 0.9} if self.optimizer is torch.optim.SGD else {"lr": 0.02}
        optimizer = self.optimizer(trainable, **options)
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": make_scheduler(self.scheduler, optimizer)}

    def _loader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(0)
        images, labels = torch.randn(8 * BATCHES, 4, generator=generator), torch.arange(8 * BATCHES) % 2
        return DataLoader(TensorDataset(images, labels), batch_size=8)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader()


class SaveAt(Callback):
    """Saves once: after a batch of an epoch, or at the end of it (batch None)."""

    position = "checkpoint"

    def __init__(self, path: Path, epoch: int, batch: int | None) -> None:
        self.path, self.epoch, self.batch = path, epoch, batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (self.epoch, self.batch):
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if self.batch is None and trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)


def fit(model: Classifier, *callbacks: Callback, ckpt_path: Path | None = None, **settings: Any) -> Trainer:
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        logger=False,
        discover_callbacks=False,
        callbacks=list(callbacks),
        **settings,
    )
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer


def everything(trainer: Trainer) -> dict[str, Any]:
    """What a finetuning changes, as plain values that compare bit for bit."""
    module = trainer.lightning_module
    return {
        "weights": {name: value.tolist() for name, value in module.state_dict().items()},
        "trainable": {name: parameter.requires_grad for name, parameter in module.named_parameters()},
        "modes": {name: one.training for name, one in module.named_modules()},
        "frozen_norms": [
            one.state_dict()["frozen_norms"] for one in trainer.callbacks if isinstance(one, BaseFinetuning)
        ],
        "optimizers": [_plain(optimizer.state_dict()) for optimizer in trainer.optimizers],
        "schedulers": [_plain(config.scheduler.state_dict()) for config in trainer.lr_scheduler_configs],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        # The scheduler's own `_schedulers` hold more dicts; functions compare by their names.
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return getattr(value, "__qualname__", value)


MOMENTS = [(0, None), (0, 1), (1, None), (2, 0), (2, None), (3, 2), (3, None)]


@pytest.mark.parametrize(("epoch", "batch"), MOMENTS)
@pytest.mark.parametrize("train_bn", [True, False])
def test_resumed_run_equals_the_uninterrupted_one(
    epoch: int, batch: int | None, train_bn: bool, tmp_path: Path
) -> None:
    path = tmp_path / "run.ckpt"
    callback = BackboneFinetuning(UNFREEZE_AT, train_bn=train_bn)
    whole = fit(Classifier(), callback, SaveAt(path, epoch, batch))

    resumed_callback = BackboneFinetuning(UNFREEZE_AT, train_bn=train_bn)
    resumed = fit(Classifier(), resumed_callback, ckpt_path=path)

    assert everything(resumed) == everything(whole)
    assert resumed_callback.previous_backbone_lr == callback.previous_backbone_lr == 0.02 * 0.1 * 2 * 2
    assert len(resumed.optimizers[0].param_groups) == 2


@pytest.mark.parametrize("scheduler", ["step", "lambda", "one_cycle", "cyclic", "sequential", "plateau"])
@pytest.mark.parametrize(("epoch", "batch"), [(1, None), (2, 1), (3, None)])
def test_schedulers_go_on_with_the_added_group(scheduler: str, epoch: int, batch: int | None, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    whole = fit(Classifier(scheduler), BackboneFinetuning(UNFREEZE_AT), SaveAt(path, epoch, batch))
    resumed = fit(Classifier(scheduler), BackboneFinetuning(UNFREEZE_AT), ckpt_path=path)
    assert everything(resumed) == everything(whole)
    head, backbone = (group["lr"] for group in whole.optimizers[0].param_groups)
    assert 0 < backbone <= head * (1 + 1e-9)


@pytest.mark.parametrize("settings", [{"accumulate_grad_batches": 3}, {"val_check_interval": 2}])
def test_accumulation_and_validation_within_the_epoch(settings: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    model = Classifier("step", torch.optim.Adam)
    whole = fit(model, BackboneFinetuning(UNFREEZE_AT, train_bn=False), SaveAt(path, 2, 2), **settings)
    again = Classifier("step", torch.optim.Adam)
    resumed = fit(again, BackboneFinetuning(UNFREEZE_AT, train_bn=False), ckpt_path=path, **settings)
    assert everything(resumed) == everything(whole)


class LevelByLevel(BaseFinetuning):
    """Forgets ``super().__init__()``, as callbacks in the wild do."""

    def __init__(self) -> None:
        self.unfrozen: list[int] = []

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone, train_bn=False)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        if epoch in (1, 3):
            level = pl_module.backbone[3] if epoch == 1 else pl_module.backbone[:2]
            self.unfreeze_and_add_param_group(level, optimizer, train_bn=epoch == 3)
            self.unfrozen.append(epoch)


@pytest.mark.parametrize(("epoch", "batch"), [(0, 2), (1, 0), (2, None), (3, 1)])
def test_several_levels(epoch: int, batch: int | None, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    whole_callback, resumed_callback = LevelByLevel(), LevelByLevel()
    whole = fit(Classifier("plateau"), whole_callback, SaveAt(path, epoch, batch))
    resumed = fit(Classifier("plateau"), resumed_callback, ckpt_path=path)
    assert everything(resumed) == everything(whole)
    assert whole_callback.unfrozen == [1, 3]
    assert resumed_callback.unfrozen == [level for level in (1, 3) if level > epoch]
    assert resumed_callback.state_dict()["frozen_norms"] == []


class TwoOptimizers(Classifier):
    """Manual optimisation with an optimizer for each part of the head."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.scale = nn.Parameter(torch.ones(2))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
        logits = self.head(self.backbone(batch[0])) * self.scale
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(nn.functional.cross_entropy(logits, batch[1]))
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.head.parameters(), lr=0.1), torch.optim.Adam([self.scale], lr=0.01)]


@pytest.mark.parametrize(("epoch", "batch"), [(1, None), (2, 1), (3, None)])
def test_manual_optimisation_with_two_optimizers(epoch: int, batch: int | None, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    whole = fit(TwoOptimizers(), BackboneFinetuning(UNFREEZE_AT, train_bn=False), SaveAt(path, epoch, batch))
    resumed = fit(TwoOptimizers(), BackboneFinetuning(UNFREEZE_AT, train_bn=False), ckpt_path=path)
    assert everything(resumed) == everything(whole)
    assert [len(optimizer.param_groups) for optimizer in whole.optimizers] == [2, 1]


class LateBackbone(Classifier):
    """Makes its backbone when `configure_model` is called, after the callbacks' `setup`."""

    def __init__(self) -> None:
        super().__init__()
        del self.backbone

    def configure_model(self) -> None:
        if not hasattr(self, "backbone"):
            torch.manual_seed(3)
            self.backbone = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6))


@pytest.mark.parametrize(("epoch", "batch"), [(1, None), (3, 1)])
def test_backbone_of_configure_model(epoch: int, batch: int | None, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    whole = fit(LateBackbone(), BackboneFinetuning(UNFREEZE_AT, train_bn=False), SaveAt(path, epoch, batch))
    resumed = fit(LateBackbone(), BackboneFinetuning(UNFREEZE_AT, train_bn=False), ckpt_path=path)
    assert everything(resumed) == everything(whole)
    head, backbone = whole.optimizers[0].param_groups
    assert [len(head["params"]), len(backbone["params"])] == [2, 4]


def test_checkpoint_loads_without_running_code(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    fit(Classifier("one_cycle", torch.optim.Adam), BackboneFinetuning(1), SaveAt(path, 3, None))
    state = torch.load(path, weights_only=True)["callbacks"]["BackboneFinetuning"]
    assert [group["params"] for group in state["groups"][0]] == [
        ["backbone.1.weight", "backbone.1.bias", "head.weight", "head.bias"],
        ["backbone.0.weight", "backbone.0.bias", "backbone.3.weight", "backbone.3.bias"],
    ]
    assert state["frozen_norms"] == []
    assert state["epoch_done"] == 3


def test_another_model_than_was_trained(tmp_path: Path) -> None:
    from leyden import MisconfigurationException

    path = tmp_path / "run.ckpt"
    fit(Classifier(), BackboneFinetuning(1), SaveAt(path, 2, None))
    state = torch.load(path, weights_only=True)
    state["callbacks"]["BackboneFinetuning"]["groups"][0][1]["params"][0] = "backbone.9.weight"
    torch.save(state, path)
    with pytest.raises(
        MisconfigurationException, match=r"trains the parameter 'backbone.9.weight', which this Classifier"
    ):
        fit(Classifier(), BackboneFinetuning(1), ckpt_path=path)


def test_checkpoint_of_a_run_without_finetuning(tmp_path: Path) -> None:
    from leyden import MisconfigurationException

    path = tmp_path / "pretrained.ckpt"
    fit(Classifier(), SaveAt(path, 1, None))
    with pytest.raises(
        MisconfigurationException, match=r"without BackboneFinetuning.*\[\[8\]\].*\[\[4\]\].*load_from_ch"
    ):
        fit(Classifier(), BackboneFinetuning(3), ckpt_path=path)
    fit(Classifier(), BackboneFinetuning(3, train_bn=True), SaveAt(path, 1, None))
    fit(Classifier(), BackboneFinetuning(3), ckpt_path=path)


class AllParameters(Classifier):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.02)


def test_checkpoint_of_a_run_without_finetuning_whose_optimizer_had_everything(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    fit(AllParameters(), SaveAt(path, 1, None))
    with pytest.warns(UserWarning, match="are in it already"):
        trainer = fit(AllParameters(), BackboneFinetuning(3), ckpt_path=path)
    assert trainer.current_epoch == EPOCHS
