"""The journal by itself: the hooks are named by hand, as loops and the plan do it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from leyden import Trainer
from leyden.errors import MisconfigurationException
from leyden.loggers import Logger
from leyden.logging import Journal
from leyden.run_state import TrainerFn
from leyden.runtime.strategy import Strategy
from leyden.state import storage

Log = Callable[..., None]
BOTH = {"on_step": True, "on_epoch": True}


class Rows(Logger):
    """Keeps what it is given."""

    name, version = "rows", 0

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def journal(rows: Rows) -> Journal:
    trainer = Trainer(accelerator="cpu", logger=rows, discover_callbacks=False, default_root_dir=".")
    trainer.journal.start("train")
    trainer.journal.hook = "training_step"
    return trainer.journal


@pytest.fixture
def log(journal: Journal) -> Log:
    return logs_to(journal)


def logs_to(journal: Journal) -> Log:
    def log(name: str, value: Any, **given: Any) -> None:
        options: dict[str, Any] = {
            "prog_bar": False, "logger": None, "on_step": None, "on_epoch": None, "reduce_fx": "mean",
            "enable_graph": False, "sync_dist": False, "sync_dist_group": None, "add_dataloader_idx": True,
            "batch_size": None, "metric_attribute": None, "rank_zero_only": False,
        }  # fmt: skip
        journal.log(name, value, **options | given)

    return log


def numbers(metrics: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in metrics.items()}


# -- names and levels ---------------------------------------------------------------------------------------------


def test_a_value_for_steps_has_its_own_name(journal: Journal, log: Log) -> None:
    log("loss", 0.5)
    assert numbers(journal.callback_metrics) == {"loss": 0.5}
    assert numbers(journal.logged_metrics) == {"loss": 0.5}
    assert numbers(journal.progress_bar_metrics) == {}


def test_both_levels_fork_the_name(journal: Journal, log: Log) -> None:
    for value in (1.0, 3.0):
        log("loss", value, prog_bar=True, **BOTH)
    assert numbers(journal.callback_metrics) == {"loss": 3, "loss_step": 3}
    journal.hook = "on_train_epoch_end"
    assert numbers(journal.callback_metrics) == {"loss": 2, "loss_step": 3, "loss_epoch": 2}
    assert numbers(journal.logged_metrics) == {"loss_step": 3, "loss_epoch": 2}
    assert numbers(journal.progress_bar_metrics) == {"loss_step": 3, "loss_epoch": 2}


def test_without_logger_callbacks_still_see_it(journal: Journal, log: Log, rows: Rows) -> None:
    log("loss", 1.0, logger=False, **BOTH)
    journal.train_batch_end()
    journal.train_epoch_end()
    assert numbers(journal.callback_metrics) == {"loss": 1, "loss_step": 1, "loss_epoch": 1}
    assert (journal.logged_metrics, rows.rows) == ({}, [])


def test_one_name_in_two_hooks_is_two_records(journal: Journal, log: Log) -> None:
    log("loss", 1.0)
    journal.hook = "on_train_batch_end"
    log("loss", 2.0, prog_bar=True)
    assert numbers(journal.callback_metrics) == {"loss": 2}


def test_epoch_values_appear_at_the_epoch_s_end_only(journal: Journal, log: Log) -> None:
    log("acc", 1.0, on_step=False, on_epoch=True)
    assert journal.callback_metrics == {}
    journal.hook = "on_train_epoch_end"
    assert numbers(journal.callback_metrics) == {"acc": 1}


def test_every_metric_knows_its_step(journal: Journal, log: Log) -> None:
    engine = journal._trainer.engine
    log("early", 1.0)
    engine.steps = 7
    log("late", 1.0, **BOTH)
    engine.steps = 9
    journal.train_epoch_end()
    metrics = journal.callback_metrics
    assert {name: metrics.step_of(name) for name in metrics} == {"early": 0, "late": 9, "late_step": 7, "late_epoch": 9}


# -- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (2, torch.float64),
        (2.0, torch.float32),
        (torch.tensor(2), torch.float64),
        (torch.tensor([2.0]), torch.float32),
        (nn.Parameter(torch.tensor(2.0)), torch.float32),
        (torch.tensor(2.0).bfloat16(), torch.float32),
        (torch.tensor(2.0).half(), torch.float32),
    ],
)
def test_numbers_and_tensors_of_one_element(journal: Journal, log: Log, value: Any, dtype: torch.dtype) -> None:
    log("x", value, **BOTH)
    journal.train_epoch_end()
    metrics = journal.callback_metrics
    assert numbers(metrics) == {"x": 2, "x_step": 2, "x_epoch": 2}
    assert {(tensor.dtype, tensor.shape, tensor.requires_grad) for tensor in metrics.values()} == {
        (dtype, torch.Size([]), False)
    }


@pytest.mark.parametrize("number", [2**24 + 1, -(2**53), 2**53])
@pytest.mark.parametrize("kind", [int, torch.tensor, np.int64])
@pytest.mark.parametrize("reduce_fx", ["mean", "sum", "max", torch.mean])
def test_whole_numbers_are_not_rounded(journal: Journal, log: Log, number: int, kind: Any, reduce_fx: Any) -> None:
    log("n", kind(number), reduce_fx=reduce_fx, **BOTH)
    journal.train_epoch_end()
    assert {name: int(value) for name, value in journal.callback_metrics.items()} == {
        "n": number, "n_step": number, "n_epoch": number,
    }  # fmt: skip


def test_ints_beyond_what_torch_takes_are_numbers_too(journal: Journal, log: Log) -> None:
    log("n", 2**70, **BOTH)
    journal.train_epoch_end()
    assert journal.callback_metrics["n"].item() == 2.0**70


@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16])
def test_under_a_half_default_dtype_metrics_stay_whole(journal: Journal, log: Log, default: torch.dtype) -> None:
    """As ``bf16-true`` and ``16-true`` set it for the time of a step."""
    torch.set_default_dtype(default)
    try:
        log("python", 1.001, **BOTH)
        log("tensor", torch.tensor(1.001, dtype=torch.float32), **BOTH)
    finally:
        torch.set_default_dtype(torch.float32)
    journal.train_epoch_end()
    for name, value in journal.callback_metrics.items():
        assert (value.dtype, value.item()) == (torch.float32, torch.tensor(1.001).item()), name


def test_double_stays_double(journal: Journal, log: Log) -> None:
    log("x", torch.tensor(0.1, dtype=torch.float64), **BOTH)
    journal.train_epoch_end()
    assert journal.callback_metrics["x_epoch"].dtype == torch.float64
    assert journal.callback_metrics["x_epoch"].item() == 0.1


def test_a_value_changed_in_place_later_was_copied(journal: Journal, log: Log) -> None:
    loss = torch.tensor(1.0)
    log("loss", loss, **BOTH)
    loss += 41
    assert journal.callback_metrics["loss"].item() == 1


def test_a_bool_counts_as_a_number(journal: Journal, log: Log) -> None:
    for value in (True, torch.tensor(False), False, torch.tensor(True)):
        log("hit", value, on_step=False, on_epoch=True)
    journal.train_epoch_end()
    assert journal.callback_metrics["hit"].item() == 0.5


def test_enable_graph_keeps_it(journal: Journal, log: Log) -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    log("x", weight * 3, enable_graph=True, **BOTH)
    torch.autograd.backward(journal.callback_metrics["x_step"])
    assert weight.grad is not None
    assert weight.grad.item() == 3
    log("y", 1, enable_graph=True, **BOTH)
    assert journal.callback_metrics["y"].item() == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.ones(2), r"tensor of shape \(2,\)"),
        (nn.Parameter(torch.ones(2)), r"tensor of shape \(2,\)"),
        (None, "NoneType"),
        ({"a": 1}, "log_dict"),
        (torch.tensor(1j), "complex"),
        pytest.param(10**400, "beyond the range of a float", id="400 digits"),
    ],
)
def test_other_values_are_errors_naming_key_and_type(log: Log, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"'x'.*{message}"):
        log("x", value)


# -- weights ------------------------------------------------------------------------------------------------------


def test_the_mean_is_weighted_by_the_batch_at_hand(journal: Journal, log: Log) -> None:
    for value, rows_in_batch in [(1.0, 3), (5.0, 1)]:
        journal.batch = {"x": torch.zeros(rows_in_batch, 2)}
        log("a", value, **BOTH)
        log("b", value, **BOTH)
    journal.train_epoch_end()
    assert numbers(journal.callback_metrics)["a_epoch"] == 2.0
    assert numbers(journal.callback_metrics)["b_epoch"] == 2.0


def test_a_given_batch_size_comes_first_and_may_change(journal: Journal, log: Log) -> None:
    journal.batch = object()  # can't be measured, and need not be
    for value, size in [(1.0, 3), (5.0, 1)]:
        log("a", value, batch_size=size, **BOTH)
    journal.train_epoch_end()
    assert numbers(journal.callback_metrics)["a_epoch"] == 2.0


def test_a_batch_is_measured_only_where_its_size_matters(journal: Journal, log: Log) -> None:
    journal.batch = object()
    log("step", 1.0)
    log("sum", 1.0, reduce_fx="sum", **BOTH)
    with pytest.raises(MisconfigurationException, match="batch of type object"):
        log("mean", 1.0, **BOTH)


def test_values_of_an_epoch_s_hook_weigh_the_same(journal: Journal, log: Log) -> None:
    journal.batch = torch.zeros(9)
    journal.hook = "on_train_epoch_end"
    log("x", 1.0)
    journal.batch = torch.zeros(1)
    log("x", 3.0)
    assert numbers(journal.callback_metrics) == {"x": 2}


def test_an_ambiguous_batch_warns_once(journal: Journal, log: Log) -> None:
    journal.batch = (torch.zeros(3), torch.zeros(4))
    with pytest.warns(UserWarning, match=r"first dimensions \(3, 4\). 3 is taken") as caught:
        log("x", 1.0, **BOTH)
    journal.batch = (torch.zeros(3), torch.zeros(4))
    log("x", 1.0, **BOTH)
    assert len(caught) == 1


def test_the_journal_lets_go_of_the_batch(journal: Journal, log: Log) -> None:
    journal.batch = torch.zeros(3)
    log("x", 1.0, **BOTH)
    assert journal.batch == 3


# -- what may not be ----------------------------------------------------------------------------------------------


def test_the_same_name_twice_with_other_arguments(log: Log) -> None:
    log("x", 1.0)
    log("x", 2.0)
    with pytest.raises(
        MisconfigurationException, match=r"'x'.*twice in `training_step`.*prog_bar=False, then prog_bar"
    ):
        log("x", 3.0, prog_bar=True)


def test_another_epoch_may_log_in_another_way(journal: Journal, log: Log) -> None:
    log("x", 1.0)
    journal.train_epoch_end()
    log("x", 2.0, prog_bar=True)
    assert numbers(journal.progress_bar_metrics) == {"x": 2}


def test_a_hook_that_can_t_log(journal: Journal, log: Log) -> None:
    journal.hook = "on_fit_end"
    with pytest.raises(MisconfigurationException, match=r"'x'.*`on_fit_end`"):
        log("x", 1.0)


def test_levels_a_hook_has_not(journal: Journal, log: Log) -> None:
    journal.hook = "on_train_start"
    with pytest.raises(MisconfigurationException, match=r"on_step=True.*`on_train_start`"):
        log("x", 1.0, on_step=True)


def test_logger_true_without_a_logger_warns_once() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False)
    trainer.journal.start("train")
    trainer.journal.hook = "training_step"
    log = logs_to(trainer.journal)
    with pytest.warns(UserWarning, match="'x'.*has no logger") as caught:
        log("x", 1.0, logger=True)
    log("x", 1.0, logger=True)
    assert len(caught) == 1


# -- writing ------------------------------------------------------------------------------------------------------


def test_a_step_s_values_are_written_once(journal: Journal, log: Log, rows: Rows) -> None:
    log("x", 1.0)
    log("rare", 5.0)
    journal.train_batch_end()
    journal._trainer.fit_loop.batches_that_stepped = 4
    log("x", 2.0)
    journal.train_batch_end()
    journal.train_batch_end()
    assert rows.rows == [(0, {"x": 1, "rare": 5, "epoch": 0}), (4, {"x": 2, "epoch": 0})]


def test_a_value_logged_between_two_writes_is_not_lost(journal: Journal, log: Log, rows: Rows) -> None:
    log("rare", 5.0)
    log("x", 1.0)
    log("x", 2.0)
    journal.train_batch_end()
    assert rows.rows == [(0, {"rare": 5, "x": 2, "epoch": 0})]


def test_an_epoch_s_values_are_written_at_its_last_step(journal: Journal, log: Log, rows: Rows) -> None:
    for value in (1.0, 2.0):
        log("x", value, reduce_fx=max, **BOTH)
    journal._trainer.fit_loop.batches_that_stepped = 2
    journal.train_epoch_end()
    assert rows.rows == [(1, {"x_epoch": 2, "epoch": 0})]


def test_a_metric_named_step_is_the_x_axis(journal: Journal, log: Log, rows: Rows) -> None:
    log("step", 40)
    log("x", 1.0)
    journal.train_batch_end()
    assert rows.rows == [(40, {"x": 1, "epoch": 0})]


def test_a_metric_named_epoch_takes_the_epoch_s_place(journal: Journal, log: Log, rows: Rows) -> None:
    log("epoch", 2.5)
    journal.train_batch_end()
    assert rows.rows == [(0, {"epoch": 2.5})]


def test_every_logger_gets_a_dict_of_its_own(journal: Journal, log: Log, rows: Rows) -> None:
    other = Rows()
    journal._trainer.loggers.append(other)
    log("x", 1.0)
    journal.train_batch_end()
    assert rows.rows == other.rows
    assert rows.rows[0][1] is not other.rows[0][1]


# -- evaluation ---------------------------------------------------------------------------------------------------


def evaluate(journal: Journal, stage: Any, hook: str, body: Callable[[int | None], None], loaders: int = 1) -> Any:
    journal.start(stage)
    for index in range(loaders):
        for size in (3, 1):
            journal.dataloader_idx = index if loaders > 1 else None
            journal.batch = torch.zeros(size)
            journal.hook = hook
            body(journal.dataloader_idx)
            if journal.has_step_values:
                journal.eval_batch_end()
    journal.dataloader_idx = None
    journal.hook = "on_validation_epoch_end" if hook == "validation_step" else "on_test_epoch_end"
    return journal.eval_epoch_end()


def test_results_are_per_dataloader(journal: Journal, log: Log, rows: Rows) -> None:
    def body(index: int | None) -> None:
        assert index is not None
        log("loss", float(index))
        log(f"own_{index}", 1.0, add_dataloader_idx=False)
        log("hidden", 1.0, logger=False)

    results = evaluate(journal, "test", "test_step", body, loaders=2)
    assert results == [
        {"loss/dataloader_idx_0": 0.0, "own_0": 1.0},
        {"loss/dataloader_idx_1": 1.0, "own_1": 1.0},
    ]
    assert rows.rows == [(0, {**results[0], **results[1], "epoch": 0})]


def test_what_is_logged_once_belongs_to_all_dataloaders(journal: Journal, log: Log) -> None:
    journal.start("validate")
    for index in (0, 1):
        journal.dataloader_idx = index
        journal.hook = "validation_step"
        log("loss", float(index))
    journal.hook = "on_validation_epoch_end"
    log("gap", 1.0)
    log("gap", 1.0)
    assert journal.eval_epoch_end() == [
        {"loss/dataloader_idx_0": 0.0, "gap": 1.0},
        {"loss/dataloader_idx_1": 1.0, "gap": 1.0},
    ]


def test_nothing_logged_is_one_empty_result(journal: Journal) -> None:
    assert evaluate(journal, "validate", "validation_step", lambda index: None) == [{}]


def test_steps_of_an_evaluation_are_counted_per_dataloader(journal: Journal, log: Log, rows: Rows) -> None:
    evaluate(journal, "test", "test_step", lambda index: log("x", 1.0, on_step=True), loaders=2)
    step_rows = [(step, *row) for step, row in rows.rows[:-1]]
    assert step_rows == [
        (0, "x_step/dataloader_idx_0"),
        (1, "x_step/dataloader_idx_0"),
        (0, "x_step/dataloader_idx_1"),
        (1, "x_step/dataloader_idx_1"),
    ]


def test_the_sanity_check_is_neither_written_nor_remembered(journal: Journal, log: Log, rows: Rows) -> None:
    def body(index: int | None) -> None:
        log("loss", 2.0, on_step=True, on_epoch=True)

    assert evaluate(journal, "sanity", "validation_step", body) == [{"loss_epoch": 2.0}]
    assert numbers(journal.callback_metrics)["loss_epoch"] == 2
    journal.start("train")
    assert (rows.rows, journal.callback_metrics) == ([], {})


def test_validation_within_a_fit_leaves_training_s_values(journal: Journal, log: Log) -> None:
    journal._trainer.state.fn = TrainerFn.FITTING
    log("loss", 1.0, **BOTH)
    evaluate(journal, "validate", "validation_step", lambda index: log("val", 5.0))
    journal.resume("train")
    journal.hook = "training_step"
    log("loss", 3.0, **BOTH)
    journal.train_epoch_end()
    assert numbers(journal.callback_metrics) == {
        "loss": 2, "loss_step": 3, "loss_epoch": 2, "val": 5,
    }  # fmt: skip


def test_another_entry_point_starts_from_nothing(journal: Journal, log: Log) -> None:
    log("loss", 1.0)
    results = evaluate(journal, "test", "test_step", lambda index: log("loss", 2.0, prog_bar=True))
    assert results == [{"loss": 2.0}]
    assert numbers(journal.callback_metrics) == {"loss": 2}


def test_an_evaluation_begins_anew_each_time(journal: Journal, log: Log) -> None:
    journal._trainer.state.fn = TrainerFn.FITTING
    for value in (1.0, 5.0):
        assert evaluate(journal, "validate", "validation_step", partial(log_for_any, log, value)) == [{"x": value}]


def log_for_any(log: Log, value: float, dataloader_idx: int | None) -> None:
    log("x", value)


# -- state --------------------------------------------------------------------------------------------------------


def interrupted(journal: Journal, path: Path) -> tuple[Journal, Log]:
    """The journal of another process that goes on where this one stands; what is on disk must load safely."""
    storage.save(journal.state_dict(), path)
    trainer = Trainer(accelerator="cpu", logger=Rows(), discover_callbacks=False)
    trainer.journal.load_state_dict(storage.load(path, weights_only=True))
    trainer.journal.start("train")
    trainer.journal.hook = journal.hook
    return trainer.journal, logs_to(trainer.journal)


@pytest.mark.parametrize("reduce_fx", ["mean", "sum", "max", "min", torch.median])
@pytest.mark.parametrize("cut", [0, 1, 70, 149])
def test_an_epoch_cut_in_two_ends_bit_equal(
    journal: Journal, log: Log, tmp_path: Path, reduce_fx: Any, cut: int
) -> None:
    values = torch.randn(150, generator=torch.Generator().manual_seed(1))
    here, log_here = interrupted(journal, tmp_path / "start.ckpt")
    for i, value in enumerate(values):
        for target, write in [(journal, log), (here, log_here)]:
            target.batch = torch.zeros(1 + i % 3)
            write("x", value, reduce_fx=reduce_fx, **BOTH)
        if i == cut:
            here, log_here = interrupted(here, tmp_path / "cut.ckpt")
    if cut == 149 and reduce_fx is torch.median:
        with pytest.warns(UserWarning, match="'x' has values from a checkpoint"):
            here.train_epoch_end()
        assert "x_epoch" not in here.callback_metrics
        return
    journal.train_epoch_end()
    here.train_epoch_end()
    assert here.callback_metrics["x_epoch"].equal(journal.callback_metrics["x_epoch"])
    assert numbers(here.callback_metrics) == numbers(journal.callback_metrics)


def test_metrics_and_their_steps_are_kept(journal: Journal, log: Log, tmp_path: Path) -> None:
    journal._trainer.engine.steps = 5
    log("x", 1.0, prog_bar=True, logger=False, **BOTH)
    journal.train_epoch_end()
    there, _ = interrupted(journal, tmp_path / "a.ckpt")
    assert numbers(there.callback_metrics) == {"x": 1, "x_step": 1, "x_epoch": 1}
    assert numbers(there.progress_bar_metrics) == {"x_step": 1, "x_epoch": 1}
    assert there.logged_metrics == {}
    assert there.callback_metrics.step_of("x_epoch") == 5


def test_what_was_not_written_yet_is_written_after_the_resume(journal: Journal, log: Log, tmp_path: Path) -> None:
    log("x", 3.0)
    there, _ = interrupted(journal, tmp_path / "a.ckpt")
    there.train_batch_end()
    logger = there._trainer.loggers[0]
    assert isinstance(logger, Rows)
    assert logger.rows == [(0, {"x": 3, "epoch": 0})]


def test_code_that_logs_differently_after_a_resume_starts_afresh(journal: Journal, log: Log, tmp_path: Path) -> None:
    log("x", 100.0, reduce_fx="sum", **BOTH)
    there, log_there = interrupted(journal, tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="'x' in `training_step` is logged in another way"):
        log_there("x", 1.0, **BOTH)
    there.train_epoch_end()
    assert numbers(there.callback_metrics)["x_epoch"] == 1


def test_a_second_fit_does_not_go_on(journal: Journal, log: Log, tmp_path: Path) -> None:
    log("x", 1.0, **BOTH)
    there, _ = interrupted(journal, tmp_path / "a.ckpt")
    there.start("train")
    assert there.callback_metrics == {}


# -- several processes ---------------------------------------------------------------------------------------


class SecondOfTwo(Strategy):
    """Stands for the collectives of a process that has a twin: the edge of the process is all that is not real."""

    world_size, global_rank = 2, 1

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any:
        return tensor * 2 if reduce_op == "sum" else tensor


@pytest.fixture
def second() -> Journal:
    strategy: Any = SecondOfTwo(torch.device("cpu"))
    trainer = Trainer(accelerator="cpu", strategy=strategy, logger=Rows(), discover_callbacks=False)
    trainer.journal.start("train")
    trainer.journal.hook = "training_step"
    return trainer.journal


def test_sync_dist_reduces_over_processes(second: Journal) -> None:
    log = logs_to(second)
    for value in (1.0, 3.0):
        log("mean", value, sync_dist=True, batch_size=2, **BOTH)
        log("sum", value, sync_dist=True, reduce_fx="sum", **BOTH)
        warned = pytest.warns(UserWarning, match="'alone', ...\\) is called in 2 processes without sync_dist=True")
        with warned if value == 1 else nullcontext():
            log("alone", value, **BOTH)
    second.train_epoch_end()
    assert numbers(second.callback_metrics) == {
        "mean": 2, "mean_step": 3, "mean_epoch": 2, "sum": 8, "sum_step": 6, "sum_epoch": 8, "alone": 2,
        "alone_step": 3, "alone_epoch": 2,
    }  # fmt: skip


def test_rank_zero_only_is_for_the_first_process_alone(second: Journal, journal: Journal) -> None:
    for each in (second, journal):
        logs_to(each)("x", 1.0, rank_zero_only=True, sync_dist=True, **BOTH)
        each.train_epoch_end()
    assert second.callback_metrics == {}
    assert numbers(journal.callback_metrics) == {"x": 1, "x_step": 1, "x_epoch": 1}


# -- a GPU --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_logging_never_waits_for_the_gpu(journal: Journal, log: Log) -> None:
    values = torch.arange(200.0, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i, value in enumerate(values.unbind()):
            log("even", value, batch_size=2, **BOTH)
            log("uneven", value, batch_size=1 + i % 2, **BOTH)
            log("largest", value, reduce_fx="max", **BOTH)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    journal.train_epoch_end()
    metrics = journal.callback_metrics
    assert {metrics[name].device.type for name in metrics} == {"cuda"}
    assert metrics["even_epoch"].item() == 99.5
    assert metrics["uneven_epoch"].item() == pytest.approx(299 / 3)
    assert metrics["largest_epoch"].item() == 199
