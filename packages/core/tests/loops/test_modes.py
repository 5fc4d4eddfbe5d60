"""Training and evaluation mode: kept as the user set them, through every entry point."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import LightningModule, Trainer
from leyden.loops.modes import modes_of, restore_modes, warn_of_eval_mode


class Parts(LightningModule):
    """A frozen backbone that is in evaluation mode, and a head; writes down the modes each step runs in."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout()).eval().requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(2, 1), nn.Dropout())
        self.seen: list[str] = []

    def note(self, event: str) -> None:
        modes = "".join("t" if part.training else "e" for part in (self, self.backbone, self.backbone[1], self.head))
        self.seen.append(f"{event} {modes}")

    def forward(self, batch: Tensor) -> Tensor:
        output: Tensor = self.head(self.backbone(batch))
        return output

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.note("train")
        return self(batch).sum()  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.note("validate")
        if self.trainer.validating and batch_idx == 1:
            raise KeyError("broken")

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.note("test")

    def predict_step(self, batch: Tensor, batch_idx: int) -> None:
        self.note("predict")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.head.parameters(), lr=0.1)


def batches(number: int = 1) -> list[Tensor]:
    return [torch.ones(3, 2)] * number


def make_trainer(**arguments: Any) -> Trainer:
    arguments = {"max_epochs": 1, **arguments}
    return Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments)


def test_a_frozen_part_stays_in_evaluation_mode_through_everything() -> None:
    module = Parts()
    statistics = module.backbone[1].running_mean.clone()  # type: ignore[operator]
    trainer = make_trainer(max_epochs=2)
    trainer.fit(module, batches(), batches())
    trainer.test(module, batches(), verbose=False)
    trainer.predict(module, batches())
    module.note("after")
    epoch = ["train teet", "validate eeee"]
    assert module.seen == ["validate eeee", *epoch, *epoch, "test eeee", "predict eeee", "after teet"]
    assert torch.equal(module.backbone[1].running_mean, statistics)  # type: ignore[arg-type]


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start", "on_train_epoch_start", "on_train_batch_start"])
def test_a_mode_set_in_a_hook_outlives_validation(hook: str) -> None:
    module = Parts()
    module.backbone.train()
    setattr(module, hook, lambda *args: module.backbone.eval() and None)
    make_trainer(max_epochs=2, num_sanity_val_steps=0).fit(module, batches(), batches())
    assert module.seen == ["train teet", "validate eeee"] * 2


def test_modes_come_back_when_an_evaluation_is_cut_short() -> None:
    module = Parts()
    trainer = make_trainer(num_sanity_val_steps=0)
    with pytest.raises(KeyError):
        trainer.fit(module, batches(), batches(2))
    module.note("after fit")
    with pytest.raises(KeyError):
        trainer.validate(module, batches(2))
    module.note("after validate")
    assert module.seen[-1] == "after validate teet"
    assert "after fit teet" in module.seen


def test_modes_of_a_module_in_evaluation_mode_stay_too() -> None:
    module = Parts().eval()
    module.head[1].train()
    make_trainer().test(module, batches(), verbose=False)
    assert [part.training for part in (module, module.backbone, module.head, module.head[1])] == [False] * 3 + [True]


@pytest.mark.parametrize("stage", ["validation", "test", "predict"])
def test_own_mode_hooks_replace_the_defaults(stage: str) -> None:
    module = Parts()

    def to_eval() -> None:
        module.note("eval")
        module.head.eval()

    def to_train() -> None:
        module.note("train")
        module.head.train()
        module.backbone.train()

    setattr(module, f"on_{stage}_model_eval", to_eval)
    setattr(module, f"on_{stage}_model_train", to_train)
    trainer = make_trainer()
    if stage == "predict":
        trainer.predict(module, batches())
    else:
        getattr(trainer, {"validation": "validate"}.get(stage, stage))(module, batches(), verbose=False)
    step = {"validation": "validate"}.get(stage, stage)
    module.note("after")
    assert module.seen == ["eval teet", f"{step} teee", "train teee", "after tttt"]


def test_parts_that_are_trained_in_evaluation_mode_are_warned_of() -> None:
    module = Parts()
    module.head.eval()
    with pytest.warns(UserWarning, match=r"^Parts\.head: in evaluation mode at the start of training"):
        make_trainer().fit(module, batches())
    assert module.seen == ["train teee"]
    with pytest.warns(UserWarning, match=r"^the whole Parts: in evaluation mode"):
        warn_of_eval_mode(module.eval())


def test_many_such_parts_are_named_in_part() -> None:
    module = nn.ModuleList([nn.Linear(1, 1).eval() for _ in range(6)])
    with pytest.warns(UserWarning, match=r"^ModuleList\.0, .*ModuleList\.4, …: in evaluation mode"):
        warn_of_eval_mode(module)


def test_restoring_changes_what_differs_and_nothing_else() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout().eval()))
    modes = modes_of(module)
    module.eval()
    restore_modes(modes)
    assert [part.training for part in module.modules()] == [True, True, True, False]
