"""A teacher that is an average of its student, as the module asks: ``python examples/callbacks/module_ema.py``."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from digit_classifier import Classifier, loaders
from metrics_tracker import MetricsTracker
from torch import Tensor
from torch.nn.functional import cross_entropy

from leyden import Callback, LightningModule, Trainer, seed_everything
from leyden.tables import render_table


class ModuleEMA(Callback):
    """Makes the submodule `teacher` a moving average of the submodule `student`: after each optimizer step it goes
    ``1 - module.ema_decay(step)`` of the way to it. With `validate` it stands in for the student in validation."""

    changes_weights = True

    def __init__(self, student: str, teacher: str, validate: bool = True) -> None:
        self.student, self.teacher, self.validate, self.step = student, teacher, validate, 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step != self.step:  # else a batch within an accumulation window
            self.step, way = trainer.global_step, 1 - pl_module.ema_decay(trainer.global_step)  # type: ignore[operator]
            teacher, student = (pl_module.get_submodule(name).parameters() for name in (self.teacher, self.student))
            torch._foreach_lerp_(list(teacher), list(student), way)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if self.validate:  # weights stay where they are: a checkpoint is right at any time
            vars(pl_module.get_submodule(self.student))["forward"] = pl_module.get_submodule(self.teacher).forward

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        vars(pl_module.get_submodule(self.student)).pop("forward", None)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.on_validation_batch_end(trainer, pl_module)  # after an exception

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.step = state_dict["step"]


class MeanTeacher(Classifier):
    def __init__(self, lr: float = 0.2) -> None:
        super().__init__(lr)
        self.teacher = deepcopy(self.layer).requires_grad_(False)

    def ema_decay(self, step: int) -> float:
        return min(0.98, 1 - 1 / (step + 1))  # the mean of all steps at first

    def training_step(self, batch: list[Tensor]) -> Tensor:
        logits, targets = self.layer(batch[0]), self.teacher(batch[0]).softmax(dim=1)
        return cross_entropy(logits, batch[1]) + cross_entropy(logits, targets)


def main(arguments: Sequence[str] = ()) -> list[tuple[int, float, float]]:
    trackers = [MetricsTracker(), MetricsTracker()]
    for validate, tracker in enumerate(trackers):  # the runs differ in what validation sees
        seed_everything(7, verbose=False)
        callbacks = [ModuleEMA("layer", "teacher", validate=bool(validate)), tracker]
        trainer = Trainer(max_epochs=6, logger=False, callbacks=callbacks, discover_callbacks=False)
        trainer.fit(MeanTeacher(), *loaders(16))
    student, teacher = ([value for _, _, value in tracker.history["val_acc"]] for tracker in trackers)
    rows = list(zip(range(6), student, teacher, strict=True))
    print(render_table(["epoch", "student's val_acc", "teacher's"], rows))
    return rows


if __name__ == "__main__":
    main()
