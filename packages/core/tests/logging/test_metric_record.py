"""Metrics of torchmetrics, logged as objects, through a real Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor
from torch.utils.data import DataLoader

from leyden import Callback, Trainer
from leyden.errors import MisconfigurationException
from leyden.testing import BoringModule

BOTH: dict[str, Any] = {"on_step": True, "on_epoch": True}


class Measured(BoringModule):
    """Trains on batches 0, 1, 2 ... of which `measure` logs what it likes."""

    def __init__(self, **metrics: torch.nn.Module) -> None:
        super().__init__(batches={"train": 4, "val": 2})
        self.metrics: Any = torch.nn.ModuleDict(metrics)

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.measure(batch_idx)
        return self.loss(batch)

    def measure(self, batch_idx: int) -> None:
        raise NotImplementedError

    def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...


def fit(module: BoringModule, *, epochs: int = 1, **kwargs: Any) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        discover_callbacks=False,
        enable_progress_bar=False,
        **kwargs,
    )
    trainer.fit(module)
    return trainer


def loader(*values: float) -> DataLoader[float]:
    data: Any = list(values)
    return DataLoader(data)


def numbers(trainer: Trainer) -> dict[str, float]:
    return {name: value.item() for name, value in trainer.callback_metrics.items()}


def test_a_metric_reduces_itself_and_is_reset() -> None:
    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            metric = self.metrics["mean"]
            metric(float(batch_idx), weight=batch_idx)
            self.log("m", metric, **BOTH)

    module = Module(mean=torchmetrics.MeanMetric())
    trainer = fit(module, epochs=2)
    assert numbers(trainer) == {"m": pytest.approx(14 / 6), "m_step": 3, "m_epoch": pytest.approx(14 / 6)}
    assert module.metrics["mean"].update_count == 0


def test_a_metric_that_was_only_updated_has_no_step_value() -> None:
    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            self.metrics["sum"].update(float(batch_idx))
            self.log("m", self.metrics["sum"], **BOTH)

    assert numbers(fit(Module(sum=torchmetrics.SumMetric()))) == {"m": 6, "m_epoch": 6}


def test_an_integer_result_becomes_floating() -> None:
    class Count(torchmetrics.Metric):
        total: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

        def update(self) -> None:
            self.total += 1

        def compute(self) -> Tensor:
            return self.total

    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            self.metrics["n"].update()
            self.log("n", self.metrics["n"], on_step=False, on_epoch=True)

    value = fit(Module(n=Count())).callback_metrics["n"]
    assert (value.item(), value.dtype) == (4, torch.float64)


@pytest.mark.parametrize("by_name", [False, True])
def test_a_collection_logs_each_metric(by_name: bool) -> None:
    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            collection = self.metrics["all"]
            collection(torch.tensor([batch_idx, 1]), torch.tensor([1, 1]))
            if by_name:
                self.log("train", collection, on_step=False, on_epoch=True)
            else:
                self.log_dict(collection, on_step=False, on_epoch=True)

    def metrics() -> torchmetrics.MetricCollection:
        return torchmetrics.MetricCollection(
            {
                "acc": torchmetrics.classification.MulticlassAccuracy(4, average="micro"),
                "f1": torchmetrics.classification.MulticlassF1Score(4, average="micro"),
            }
        )

    module = Module(all=metrics())
    expected = metrics()
    for batch_idx in range(4):
        expected.update(torch.tensor([batch_idx, 1]), torch.tensor([1, 1]))
    trainer = fit(module, epochs=2)
    prefix = "train/" if by_name else ""
    assert numbers(trainer) == {f"{prefix}{name}": value.item() for name, value in expected.compute().items()}


def test_a_callback_s_metric_is_logged_too() -> None:
    class Watch(Callback):
        def __init__(self) -> None:
            self.metric = torchmetrics.MaxMetric()

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.metric(float(batch_idx))
            self.log("largest", self.metric, on_epoch=True, on_step=False)

    assert numbers(fit(BoringModule(batches={"train": 3}), callbacks=Watch()))["largest"] == 2


def test_a_metric_and_a_number_under_one_name() -> None:
    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            self.metrics["m"].update(1.0)
            self.log("x", self.metrics["m"] if batch_idx == 0 else 1.0, **BOTH)

    with pytest.raises(MisconfigurationException, match=r"'x'.*got a float after values of another kind"):
        fit(Module(m=torchmetrics.MeanMetric()))


def test_a_number_and_then_a_metric_under_one_name() -> None:
    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            self.metrics["m"].update(1.0)
            self.log("x", 1.0 if batch_idx == 0 else self.metrics["m"], **BOTH)

    with pytest.raises(MisconfigurationException, match=r"'x'.*got a MeanMetric after values of another kind"):
        fit(Module(m=torchmetrics.MeanMetric()))


def test_two_metrics_under_one_name() -> None:
    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            metric = self.metrics[str(batch_idx % 2)]
            metric.update(1.0)
            self.log("x", metric, **BOTH)

    with pytest.raises(MisconfigurationException, match=r"'x'.*two MeanMetric objects"):
        fit(Module(**{"0": torchmetrics.MeanMetric(), "1": torchmetrics.MeanMetric()}))


def test_a_metric_that_computes_more_than_a_number() -> None:
    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            self.metrics["m"].update(torch.tensor([0, 1]), torch.tensor([1, 1]))
            self.log("matrix", self.metrics["m"], on_step=False, on_epoch=True)

    with pytest.raises(
        MisconfigurationException, match=r"MulticlassConfusionMatrix logged as 'matrix'.*shape \(2, 2\)"
    ):
        fit(Module(m=torchmetrics.classification.MulticlassConfusionMatrix(2)))


def test_one_metric_for_several_dataloaders_warns() -> None:
    class Module(Measured):
        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.metrics["m"].update(float(dataloader_idx))
            self.log("m", self.metrics["m"])

    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False)
    with pytest.warns(UserWarning, match="same MeanMetric object is logged as 'm' for several dataloaders"):
        trainer.validate(Module(m=torchmetrics.MeanMetric()), [loader(1.0), loader(1.0)], verbose=False)


def test_a_metric_per_dataloader() -> None:
    class Module(Measured):
        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
            metric = self.metrics[str(dataloader_idx)]
            metric.update(batch)
            self.log("m", metric)

    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False)
    module = Module(**{"0": torchmetrics.MeanMetric(), "1": torchmetrics.MeanMetric()})
    for _ in range(2):
        results = trainer.validate(module, [loader(1.0, 2.0), loader(5.0)], verbose=False)
        assert results == [{"m/dataloader_idx_0": 1.5}, {"m/dataloader_idx_1": 5.0}]


class Cut(Callback):
    """Writes a checkpoint after a batch."""

    def __init__(self, path: Path, after_batch: int) -> None:
        self.path, self.after_batch = path, after_batch

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == self.after_batch:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("after_batch", [0, 2, 3])
def test_a_metric_cut_in_mid_epoch_goes_on(tmp_path: Path, after_batch: int) -> None:
    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            for name, metric in self.metrics.items():
                metric.update(torch.tensor(float(batch_idx) / 3))
                self.log(name, metric, on_step=False, on_epoch=True)

    class Median(torchmetrics.CatMetric):
        def compute(self) -> Tensor:
            return torch.as_tensor(super().compute()).median()

    def make() -> Module:
        return Module(mean=torchmetrics.MeanMetric(), median=Median())

    path = tmp_path / "cut.ckpt"
    straight = fit(make(), callbacks=Cut(path, after_batch))
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, discover_callbacks=False)
    trainer.fit(make(), ckpt_path=path)
    assert numbers(trainer) == numbers(straight)
    assert numbers(trainer)["mean"] == 0.5


def test_a_metric_the_module_does_not_own_can_t_be_kept(tmp_path: Path) -> None:
    class Module(Measured):
        mine = torchmetrics.MeanMetric()  # on the class: no submodule

        def measure(self, batch_idx: int) -> None:
            self.mine.update(1.0)
            self.log("mine", self.mine, on_step=False, on_epoch=True)

    with pytest.warns(UserWarning, match="metric logged as 'mine' in `training_step` is no attribute of the module"):
        fit(Module(), callbacks=Cut(tmp_path / "cut.ckpt", 1))


def test_a_metric_that_is_gone_when_the_run_resumes(tmp_path: Path) -> None:
    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            if "m" in self.metrics:
                self.metrics["m"].update(1.0)
                self.log("m", self.metrics["m"], on_step=False, on_epoch=True)

    path = tmp_path / "cut.ckpt"
    fit(Module(m=torchmetrics.MeanMetric()), callbacks=Cut(path, 1))
    trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False, discover_callbacks=False)
    with pytest.warns(UserWarning, match=r"values of the metric 'metrics.m', which the module does not have"):
        trainer.fit(Module(), ckpt_path=path)
    assert numbers(trainer) == {}


def test_a_metric_made_anew_for_each_epoch() -> None:
    class Module(Measured):
        def measure(self, batch_idx: int) -> None:
            if batch_idx == 0:
                self.metrics["m"] = torchmetrics.SumMetric()
            self.metrics["m"].update(1.0)
            self.log("m", self.metrics["m"], on_step=False, on_epoch=True)

    assert numbers(fit(Module(), epochs=2)) == {"m": 4}
