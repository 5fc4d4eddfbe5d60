"""The module's own methods: steps, logging, printing, gathering, freezing."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from leyden import LightningModule, MisconfigurationException, Trainer
from leyden.testing.models import BoringModule


class Bare(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)


@pytest.mark.parametrize(
    ("step", "entry_point"), [("training_step", "fit"), ("validation_step", "validate"), ("test_step", "test")]
)
def test_a_missing_step_is_named_with_who_needs_it(step: str, entry_point: str) -> None:
    with pytest.raises(MisconfigurationException, match=rf"Bare has no {step}, which trainer.{entry_point} needs"):
        getattr(Bare(), step)(None, 0)


def test_predict_step_calls_the_module() -> None:
    module, batch = BoringModule(), torch.randn(2, 4)
    assert torch.equal(module.predict_step(batch, 0), module(batch))
    assert torch.equal(module.predict_step(batch=batch, batch_idx=0), module(batch))


class RecordingJournal:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def log(self, *args: Any) -> None:
        self.calls.append(args)


@pytest.fixture
def recorded() -> tuple[LightningModule, RecordingJournal]:
    module, trainer = Bare(), Trainer(logger=False, discover_callbacks=False)
    journal = RecordingJournal()
    trainer.journal = journal  # type: ignore[assignment]
    module.trainer = trainer
    return module, journal


def test_log_hands_every_argument_on(recorded: tuple[LightningModule, RecordingJournal]) -> None:
    module, journal = recorded
    module.log("a", 1)
    module.log(
        "b", 2, prog_bar=True, logger=False, on_step=True, on_epoch=False, reduce_fx="max", enable_graph=True,
        sync_dist=True, sync_dist_group="group", add_dataloader_idx=False, batch_size=3, metric_attribute="metric",
        rank_zero_only=True,
    )  # fmt: skip
    assert journal.calls == [
        ("a", 1, False, None, None, None, "mean", False, False, None, True, None, None, False),
        ("b", 2, True, False, True, False, "max", True, True, "group", False, 3, "metric", True),
    ]


def test_log_dict_logs_each_value_with_the_same_arguments(recorded: tuple[LightningModule, RecordingJournal]) -> None:
    module, journal = recorded
    module.log_dict({"a": 1, "b": 2}, prog_bar=True, on_epoch=True, batch_size=4, rank_zero_only=True)
    assert [call[:2] for call in journal.calls] == [("a", 1), ("b", 2)]
    assert {call[2:] for call in journal.calls} == {
        (True, None, None, True, "mean", False, False, None, True, 4, None, True)
    }


def test_log_dict_takes_a_metric_collection(recorded: tuple[LightningModule, RecordingJournal]) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    module, journal = recorded
    collection = torchmetrics.MetricCollection(
        {"mean": torchmetrics.MeanMetric(), "max": torchmetrics.MaxMetric()}, prefix="val_"
    )
    module.log_dict(collection)
    logged = {call[0]: call[1] for call in journal.calls}
    assert sorted(logged) == ["val_max", "val_mean"]
    assert logged["val_mean"] is collection["mean"]
    assert logged["val_max"] is collection["max"]


def test_log_dict_of_something_else_is_refused(recorded: tuple[LightningModule, RecordingJournal]) -> None:
    with pytest.raises(MisconfigurationException, match=r"log_dict got 3 \(int\).*use self.log\(name, value\)"):
        recorded[0].log_dict(3)  # type: ignore[arg-type]


def test_logging_without_a_trainer_warns_once() -> None:
    module = Bare()
    with pytest.warns(UserWarning, match="Bare logs while it is not attached to a Trainer"):
        module.log("a", 1)
    module.log("a", 1)  # a second warning would be an error here
    module.log_dict({"b": 1})


def test_printing_goes_to_the_first_process_only(capsys: pytest.CaptureFixture[str]) -> None:
    module = Bare()
    module.print("alone", 1, sep="-")
    module.trainer = Trainer(logger=False, discover_callbacks=False)
    module.print("attached")
    module.trainer.strategy.global_rank = 1
    module.print("not here")
    assert capsys.readouterr().out == "alone-1\nattached\n"


def test_all_gather_reaches_tensors_and_numbers_in_any_nesting() -> None:
    module = Bare()
    module.trainer = trainer = Trainer(logger=False, discover_callbacks=False)
    tensor = torch.ones(2)
    assert module.all_gather(tensor) is tensor
    gathered_with: list[Any] = []

    def gather(value: torch.Tensor, group: Any = None, sync_grads: bool = False) -> torch.Tensor:
        gathered_with.append((group, sync_grads))
        return torch.stack([value, value])

    trainer.strategy.all_gather = gather  # type: ignore[method-assign, assignment]
    gathered = module.all_gather({"a": [tensor, 2.0], "b": ("text", 3)}, group="group", sync_grads=True)
    assert gathered["a"][0].shape == (2, 2)
    assert torch.equal(gathered["a"][1], torch.tensor([2.0, 2.0]))
    assert gathered["b"][0] == "text"
    assert gathered["b"][1].tolist() == [3, 3]
    assert set(gathered_with) == {("group", True)}


def test_all_gather_needs_a_trainer() -> None:
    with pytest.raises(RuntimeError, match="not attached"):
        Bare().all_gather(torch.ones(1))


def test_freeze_and_unfreeze() -> None:
    module = Bare()
    assert module.freeze() is module
    assert not module.training
    assert [p.requires_grad for p in module.parameters()] == [False, False]
    assert module.unfreeze() is module
    assert module.training
    assert [p.requires_grad for p in module.parameters()] == [True, True]


def test_the_class_has_no_annotations_of_its_own() -> None:
    # TorchScript reads them for every attribute set on an instance and cannot read these.
    own = [base for base in LightningModule.__mro__ if base.__module__.startswith("leyden")]
    assert [base.__name__ for base in own if inspect.get_annotations(base)] == []


def test_logged_values_arrive_at_the_trainer() -> None:
    trainer = Trainer(max_epochs=1, limit_val_batches=0, discover_callbacks=False)
    trainer.fit(BoringModule())
    assert "train_loss" in trainer.callback_metrics
