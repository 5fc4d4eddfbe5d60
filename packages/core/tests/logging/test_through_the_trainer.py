"""What whole runs log: rows, results and the metrics that callbacks read."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from leyden import Callback, Trainer
from leyden.errors import MisconfigurationException
from leyden.loggers import CSVLogger
from leyden.testing import BoringModule


class Numbers(BoringModule):
    """Logs the number of the batch in every way there is."""

    def __init__(self) -> None:
        super().__init__(batches={"train": 5, "val": 2, "test": 3})

    def on_train_start(self) -> None:
        self.log("begun", 1.0)

    def on_train_epoch_start(self) -> None:
        self.log("epoch_begun", float(self.current_epoch))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("both", float(batch_idx), on_step=True, on_epoch=True, prog_bar=True)
        self.log("at_step", float(batch_idx))
        self.log("hidden", 1.0, on_epoch=True, logger=False)
        return self.loss(batch)

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val", float(batch_idx) + 10 * dataloader_idx)
        self.log("val_both", float(batch_idx), on_step=True)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log_dict({"a": batch_idx, "b": torch.tensor(2.0 * batch_idx)})

    def on_validation_epoch_end(self) -> None:
        self.log("val_end", 9.0)

    def on_train_epoch_end(self) -> None:
        self.log("epoch_end", 5.0)


def make(tmp_path: Path, **kwargs: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": CSVLogger(tmp_path, name="", version="run"),
        "discover_callbacks": False,
        "log_every_n_steps": 2,
        "max_epochs": 1,
    }
    return Trainer(**defaults | kwargs)


def loader(data: Any) -> DataLoader[Tensor]:
    return DataLoader(data, batch_size=2)


def rows_of(tmp_path: Path) -> list[dict[str, float]]:
    with (tmp_path / "run" / "metrics.csv").open() as file:
        return [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]


def numbers(metrics: dict[str, Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in metrics.items()}


def test_the_rows_of_a_fit(tmp_path: Path) -> None:
    make(tmp_path, max_epochs=2).fit(Numbers())
    first = [
        {"step": 1, "epoch": 0, "both_step": 1, "at_step": 1},
        {"step": 3, "epoch": 0, "both_step": 3, "at_step": 3},
        {"step": 0, "val_both_step": 0},
        {"step": 1, "val_both_step": 1},
        {"step": 4, "epoch": 0, "val": 0.5, "val_both_epoch": 0.5, "val_end": 9},
        {"step": 4, "epoch": 0, "begun": 1, "epoch_begun": 0, "both_epoch": 2, "epoch_end": 5},
    ]
    second = [
        {"step": 5, "epoch": 1, "both_step": 0, "at_step": 0},
        {"step": 7, "epoch": 1, "both_step": 2, "at_step": 2},
        {"step": 9, "epoch": 1, "both_step": 4, "at_step": 4},
        {"step": 2, "val_both_step": 0},
        {"step": 3, "val_both_step": 1},
        {"step": 9, "epoch": 1, "val": 0.5, "val_both_epoch": 0.5, "val_end": 9},
        {"step": 9, "epoch": 1, "epoch_begun": 1, "both_epoch": 2, "epoch_end": 5},
    ]
    assert rows_of(tmp_path) == first + second


def test_metrics_after_a_fit(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.fit(Numbers())
    logged = {
        "begun": 1, "epoch_begun": 0, "both_step": 4, "both_epoch": 2, "at_step": 4, "epoch_end": 5,
        "val": 0.5, "val_both_step": 1, "val_both_epoch": 0.5, "val_end": 9,
    }  # fmt: skip
    hidden = {"hidden": 1, "hidden_step": 1, "hidden_epoch": 1}
    assert numbers(trainer.logged_metrics) == logged
    assert numbers(trainer.callback_metrics) == {**logged, **hidden, "both": 2, "val_both": 0.5}
    assert numbers(trainer.progress_bar_metrics) == {"both_step": 4, "both_epoch": 2}
    metrics = trainer.callback_metrics
    assert [metrics.step_of(name) for name in ("both_step", "both_epoch", "val")] == [4, 5, 5]


def test_accumulation_counts_windows_not_batches(tmp_path: Path) -> None:
    make(tmp_path, accumulate_grad_batches=2, log_every_n_steps=1, limit_val_batches=0).fit(Numbers())
    steps = [(row["step"], row["at_step"]) for row in rows_of(tmp_path) if "at_step" in row]
    assert steps == [(0, 1), (1, 3), (2, 4)]


def test_a_sum_over_an_accumulation_window_s_batches(tmp_path: Path) -> None:
    class Module(Numbers):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.log("sum", 1.0, on_step=False, on_epoch=True, reduce_fx="sum")
            return self.loss(batch)

    trainer = make(tmp_path, accumulate_grad_batches=2, limit_val_batches=0)
    trainer.fit(Module())
    assert numbers(trainer.callback_metrics)["sum"] == 5


def test_validation_in_mid_epoch_does_not_disturb_training_s_mean(tmp_path: Path) -> None:
    trainer = make(tmp_path, val_check_interval=2)
    trainer.fit(Numbers())
    assert numbers(trainer.callback_metrics)["both_epoch"] == 2
    assert [(row["step"], row["val"]) for row in rows_of(tmp_path) if "val" in row] == [(1, 0.5), (3, 0.5)]


def test_results_of_validate_and_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make(tmp_path)
    module = Numbers()
    assert trainer.test(module) == [{"a": 1.0, "b": 2.0}]
    assert "│ a           │          1.0 │" in capsys.readouterr().out
    loaders = [loader(torch.zeros(4, 4)), loader(torch.zeros(2, 4))]
    assert trainer.validate(module, loaders, verbose=False) == [
        {"val/dataloader_idx_0": 0.5, "val_both_epoch/dataloader_idx_0": 0.5, "val_end": 9.0},
        {"val/dataloader_idx_1": 10.0, "val_both_epoch/dataloader_idx_1": 0.0, "val_end": 9.0},
    ]
    assert capsys.readouterr().out == ""
    assert "a" not in trainer.callback_metrics


def test_the_mean_of_an_epoch_weighs_a_short_last_batch(tmp_path: Path) -> None:
    class Module(BoringModule):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("val", batch.mean())

    data = torch.arange(5.0).reshape(5, 1)
    results = make(tmp_path).validate(Module(), loader(data), verbose=False)
    assert results == [{"val": 2.0}]


class Watch(Callback):
    """Logs in every hook of training that may, and notes what it sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, float]]] = []

    def note(self, hook: str, trainer: Trainer) -> None:
        self.seen.append((hook, numbers(trainer.callback_metrics)))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.log("start", batch_idx)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.log("lr", optimizer.param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.log_dict({"end": batch_idx, "loss": outputs["loss"] * 0}, on_epoch=True, on_step=False)
        self.note("on_train_batch_end", trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.log("twice", 2.0)
        self.note("on_train_epoch_end", trainer)


def test_callbacks_log_and_see_what_was_logged_before(tmp_path: Path) -> None:
    watch = Watch()

    class Module(BoringModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.log("x", float(batch_idx))
            return self.loss(batch)

    make(tmp_path, callbacks=watch, limit_val_batches=0).fit(Module())
    steps = {"start": 0, "x": 0, "lr": pytest.approx(0.1)}
    epoch = {"end": 0.5, "loss": 0, "twice": 2}
    assert watch.seen == [
        ("on_train_batch_end", steps),
        ("on_train_batch_end", steps | {"start": 1, "x": 1}),
        ("on_train_epoch_end", steps | {"start": 1, "x": 1} | epoch),
    ]
    assert rows_of(tmp_path) == [
        {"step": 1, "epoch": 0, "start": 1, "x": 1, "lr": 0.1},
        {"step": 1, "epoch": 0, **epoch},
    ]


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_end", "on_validation_end", "on_sanity_check_start"])
def test_a_callback_that_logs_where_it_can_t_is_named(tmp_path: Path, hook: str) -> None:
    def log(self: Callback, *args: Any) -> None:
        self.log("x", 1.0)

    trainer = make(tmp_path, callbacks=type("Hasty", (Callback,), {hook: log})())
    with pytest.raises(MisconfigurationException, match=rf"'x'.*`{hook}`") as caught:
        trainer.fit(BoringModule())
    assert any("Hasty" in note and hook in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    "hook",
    [
        *("predict_step", "configure_optimizers", "setup", "train_dataloader"),
        *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
    ],
)
def test_a_module_that_logs_where_it_can_t(tmp_path: Path, hook: str) -> None:
    class Module(BoringModule):
        def _log(self, *args: Any, **kwargs: Any) -> Any:
            self.log("x", 1.0)

    setattr(Module, hook, Module._log)
    trainer = make(tmp_path)
    with pytest.raises(MisconfigurationException, match=rf"'x'.*`{hook}`"):
        trainer.predict(Module()) if hook == "predict_step" else trainer.fit(Module())


def test_manual_optimisation_logs_after_its_backward(tmp_path: Path) -> None:
    class Module(BoringModule):
        automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("x", 1.0)
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
            self.log("y", float(batch_idx))

    make(tmp_path, log_every_n_steps=1, limit_val_batches=0).fit(Module())
    assert rows_of(tmp_path) == [
        {"step": 0, "epoch": 0, "x": 1, "y": 0},
        {"step": 1, "epoch": 0, "x": 1, "y": 1},
    ]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-true", torch.bfloat16), ("16-true", torch.float16)])
def test_metrics_of_a_fit_in_half_precision_are_whole(precision: str, dtype: torch.dtype, tmp_path: Path) -> None:
    losses: list[float] = []

    class Half(BoringModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = self.loss(batch)
            assert loss.dtype == dtype
            losses.append(loss.item())
            self.log_dict({"loss": loss, "python": 1001.0 + batch_idx}, on_step=True, on_epoch=True)
            self.log("made here", torch.tensor(batch_idx + 4097, dtype=torch.float32), on_epoch=True, on_step=False)
            return loss

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("val", 2049.0 + batch_idx)

    trainer = make(tmp_path, precision=precision, num_sanity_val_steps=0)
    trainer.fit(Half(batches={"train": 4, "val": 2}))
    metrics = trainer.callback_metrics
    assert {name: value.dtype for name, value in metrics.items()} == dict.fromkeys(metrics, torch.float32)
    assert metrics["loss_step"].item() == losses[-1]
    assert metrics["loss_epoch"].item() == pytest.approx(sum(losses) / 4, rel=1e-6)
    exact = {"python_step": 1004.0, "python_epoch": 1002.5, "made here": 4098.5, "val": 2049.5}
    assert {name: metrics[name].item() for name in exact} == exact
    assert rows_of(tmp_path)[-1]["python_epoch"] == 1002.5


class HalfTheBatches(BoringModule):
    """Goes another way in every second batch, and logs each batch's number after it."""

    def __init__(self) -> None:
        super().__init__(batches={"train": 5, "val": 1})

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.loss(batch)


class HalfBackward(HalfTheBatches):
    automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        if batch_idx % 2 == 0:
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()
        self.log("number", float(batch_idx), on_step=False, on_epoch=True)


class HalfStepped(HalfTheBatches):
    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        if batch_idx % 2 == 0:
            optimizer.step(closure=optimizer_closure)
        else:
            optimizer_closure()
        self.log("number", float(batch_idx), on_step=False, on_epoch=True)


class HalfLost(HalfStepped):
    """Leaves out the last batch too."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) if batch_idx in (0, 1, 3) else None

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        optimizer.zero_grad()


@pytest.mark.parametrize("module", [HalfBackward, HalfStepped, HalfLost])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_mean_is_that_of_all_batches_whatever_each_did(
    module: type[HalfTheBatches], clip: float | None, tmp_path: Path
) -> None:
    if clip and module is HalfBackward:
        pytest.skip("manual optimisation clips by itself")
    trainer = make(tmp_path, gradient_clip_val=clip, limit_val_batches=0)
    trainer.fit(module())
    assert trainer.callback_metrics["number"] == 2.0
    assert rows_of(tmp_path) == [{"step": trainer.fit_loop.batches_that_stepped - 1, "epoch": 0, "number": 2.0}]


def test_hooks_within_a_step_leave_the_step_its_name(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    class Own(BoringModule):
        def note(self, where: str) -> None:
            seen.append((where, self.trainer.journal.hook))

        def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
            super().backward(loss)
            self.note("backward")

        def on_after_backward(self) -> None:
            self.note("on_after_backward")

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            optimizer.zero_grad()
            self.note("optimizer_zero_grad")

        def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
            self.note("configure_gradient_clipping")

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer_closure()
            self.note("optimizer_step")
            optimizer.step(lambda: None)
            self.note("optimizer_step")

    make(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(Own())
    assert len(seen) == 6
    assert all(where == hook for where, hook in seen), seen


class Cut(Callback):
    """Ends the run as a crash would, after writing a checkpoint at a step."""

    def __init__(self, path: Path, at_step: int) -> None:
        self.path, self.at_step = path, at_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.at_step:
            trainer.save_checkpoint(self.path)
            raise RuntimeError("cut")


@pytest.mark.parametrize("at_step", [1, 2, 3, 5, 7])
def test_a_resumed_run_ends_with_the_same_metrics(tmp_path: Path, at_step: int) -> None:
    class Module(Numbers):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("loss", loss, on_epoch=True)
            return loss

    def fit(module: Module, **kwargs: Any) -> Trainer:
        trainer = make(tmp_path, max_epochs=2, logger=False, callbacks=kwargs.pop("callbacks", None))
        trainer.fit(module, **kwargs)
        return trainer

    torch.manual_seed(0)
    straight = fit(Module())
    path = tmp_path / "cut.ckpt"
    torch.manual_seed(0)
    with pytest.raises(RuntimeError, match="cut"):
        fit(Module(), callbacks=Cut(path, at_step))
    resumed = fit(Module(), ckpt_path=path)
    assert numbers(resumed.callback_metrics) == numbers(straight.callback_metrics)
    steps = [{name: t.callback_metrics.step_of(name) for name in t.callback_metrics} for t in (resumed, straight)]
    for each in steps:
        del each["begun"]  # on_train_start is called again when a run goes on
    assert steps[0] == steps[1]


def test_without_a_logger_nothing_is_written(tmp_path: Path) -> None:
    trainer = make(tmp_path, logger=False)
    trainer.fit(Numbers())
    assert not list(tmp_path.rglob("metrics.csv"))
    assert numbers(trainer.callback_metrics)["both"] == 2


class StopsAtOnce(Numbers):
    def on_train_batch_end(self, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        self.trainer.should_stop = True


@pytest.mark.parametrize(("min_steps", "steps"), [(None, [1]), (7, [2, 4, 6, 7]), (8, [2, 4, 6, 8])])
def test_the_last_batch_has_a_row_and_none_is_added_before_a_minimum(
    tmp_path: Path, min_steps: int | None, steps: list[int]
) -> None:
    make(tmp_path, min_steps=min_steps, limit_val_batches=0, max_epochs=9).fit(StopsAtOnce())
    assert [row["step"] + 1 for row in rows_of(tmp_path) if "at_step" in row] == steps
