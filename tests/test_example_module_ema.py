"""The example of a submodule's moving average: what it holds, where validation sees it, that a cut changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import module_ema
import pytest
import torch
from module_ema import ModuleEMA
from tests.cut_runs import Net, Setting, ends
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.testing import TinyClassifier, callback_tests

NOTHING: Any = None


class TaughtClassifier(TinyClassifier):
    """The kit's classifier, whose head has a teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = deepcopy(self.head).requires_grad_(False)

    def ema_decay(self, step: int) -> float:
        return 0.9


test_module_ema = callback_tests(
    lambda: ModuleEMA("head", "teacher"),
    module=TaughtClassifier,
    calls_per_step=100,  # walks the parameters of both at each optimizer step
)


class Taught(Net):
    """A backbone with a teacher, whose decay goes by the step."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = deepcopy(self.backbone).requires_grad_(False)

    def ema_decay(self, step: int) -> float:
        return 1 - 1 / (step + 1)


def test_the_example_shows_a_teacher_that_is_steadier_than_its_student(capsys: pytest.CaptureFixture[str]) -> None:
    rows = module_ema.main()
    _, student, teacher = zip(*rows, strict=True)
    assert all(one > other for one, other in zip(teacher[2:], student[2:], strict=True))
    assert list(teacher) == sorted(teacher), "the student goes up and down"
    assert teacher[-1] > 0.95
    printed = capsys.readouterr().out
    assert all(f"{one:.6g}" in printed for row in rows for one in row)


class Follows(Callback):
    """Averages by hand, in numbers of its own, what the student is after each step."""

    def __init__(self) -> None:
        self.step, self.average = 0, NOTHING

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.average = [weight.detach().clone() for weight in pl_module.backbone.parameters()]  # type: ignore[union-attr]

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step > self.step:
            self.step, count = trainer.global_step, trainer.global_step + 1
            weights = list(pl_module.backbone.parameters())  # type: ignore[union-attr]
            self.average = [mine + (its - mine) / count for mine, its in zip(self.average, weights, strict=True)]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_teacher_is_the_average_of_the_student_over_steps(accumulate: int) -> None:
    module, follows = Taught(), Follows()
    trainer = Trainer(
        max_epochs=3,
        logger=False,
        accumulate_grad_batches=accumulate,
        callbacks=[ModuleEMA("backbone", "teacher"), follows],
        discover_callbacks=False,
    )
    trainer.fit(module)
    assert trainer.global_step == (15 if accumulate == 1 else 9)
    for weight, expected in zip(module.teacher.parameters(), follows.average, strict=True):
        torch.testing.assert_close(weight, expected)


class Fails(Taught):
    """Says in `seen` what its parts answer in training and validation; fails in its third validation batch."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def _look(self, stage: str, batch: Tensor) -> None:
        self.backbone.eval(), self.teacher.eval()
        self.seen.append((stage, torch.equal(self.backbone(batch), self.teacher(batch))))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self._look("train", batch)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self._look("validation", batch)
        if len([stage for stage, _ in self.seen if stage == "validation"]) == 3:
            raise RuntimeError


@pytest.mark.parametrize("validate", [True, False])
def test_validation_sees_the_teacher_and_a_failure_leaves_the_student_there(validate: bool) -> None:
    torch.manual_seed(1)
    module = Fails()
    trainer = Trainer(
        max_epochs=3,
        logger=False,
        num_sanity_val_steps=0,
        limit_train_batches=2,
        callbacks=ModuleEMA("backbone", "teacher", validate),
        discover_callbacks=False,
    )
    with pytest.raises(RuntimeError):
        trainer.fit(module)
    one_epoch = [("train", False)] * 2 + [("validation", validate)] * 2
    assert module.seen == [("train", True), *one_epoch[1:], *one_epoch[:3]]  # both are the same before the first step
    assert not torch.equal(module.backbone(torch.ones(2, 4)), module.teacher(torch.ones(2, 4)))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_that_is_cut_ends_bit_for_bit_as_one_that_is_not(
    accumulate: int, tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]]
) -> None:
    arguments = {"accumulate_grad_batches": accumulate}
    runs = ends(tmp_path, Setting(lambda folder: [ModuleEMA("backbone", "teacher")], arguments, net=Taught))
    _, _, module, whole = next(runs)
    student, teacher = module.backbone.state_dict(), module.get_submodule("teacher").state_dict()
    assert not torch.equal(student["0.weight"], teacher["0.weight"])
    for how, _, _, resumed in runs:
        assert not list(named_differences(resumed, whole)), how
