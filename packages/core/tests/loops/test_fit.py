"""How far a fit goes and when it validates: limits, intervals, minima and stops, with complete lists of events."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from leyden import Callback, LightningModule, MisconfigurationException, Trainer, seed_everything


class Events(LightningModule):
    """Writes down every step as ``t<epoch>.<batch>``, ``v<epoch>.<batch>`` or, before training, ``s.<batch>``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.events: list[str] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.events.append(f"t{self.current_epoch}.{batch_idx}")
        loss: Tensor = self.layer(batch).sum()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        stage = "s" if self.trainer.sanity_checking else f"v{self.current_epoch}"
        self.events.append(f"{stage}.{batch_idx}" + (f"@{dataloader_idx}" if dataloader_idx else ""))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Stream:
    """Batches without a length."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __iter__(self) -> Iterator[Tensor]:
        return iter(batches(self.number))


class StopAt(Callback):
    """Asks to stop once a hook is called the `n`-th time."""

    def __init__(self, hook: str, n: int) -> None:
        self.left = n
        setattr(self, hook, self.count)

    def count(self, trainer: Trainer, *args: Any) -> None:
        self.left -= 1
        if self.left == 0:
            trainer.should_stop = True


def batches(number: int) -> list[Tensor]:
    return [torch.ones(1, 1)] * number


def fit(train: Any, val: Any = None, module: Events | None = None, **arguments: Any) -> tuple[list[str], Trainer]:
    """Fit; numbers stand for that many batches. Returns the events, in order."""
    arguments = {"max_epochs": 2, "num_sanity_val_steps": 0, **arguments}
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments)
    module = module or Events()
    trainer.fit(module, batches(train) if type(train) is int else train, batches(val) if type(val) is int else val)
    return module.events, trainer


def words(text: str) -> list[str]:
    return text.split()


# -- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected", "steps"),
    [
        ({}, "t0.0 t0.1 t0.2 v0.0 v0.1 t1.0 t1.1 t1.2 v1.0 v1.1", 6),
        ({"limit_train_batches": 2}, "t0.0 t0.1 v0.0 v0.1 t1.0 t1.1 v1.0 v1.1", 4),
        ({"limit_train_batches": 0.5}, "t0.0 v0.0 v0.1 t1.0 v1.0 v1.1", 2),
        ({"limit_train_batches": 9}, "t0.0 t0.1 t0.2 v0.0 v0.1 t1.0 t1.1 t1.2 v1.0 v1.1", 6),
        ({"limit_train_batches": 0}, "", 0),
        ({"limit_train_batches": 0.0}, "", 0),
        ({"limit_val_batches": 1}, "t0.0 t0.1 t0.2 v0.0 t1.0 t1.1 t1.2 v1.0", 6),
        ({"limit_val_batches": 0.5}, "t0.0 t0.1 t0.2 v0.0 t1.0 t1.1 t1.2 v1.0", 6),
        ({"limit_val_batches": 0}, "t0.0 t0.1 t0.2 t1.0 t1.1 t1.2", 6),
        ({"limit_val_batches": 0.0, "num_sanity_val_steps": 2}, "t0.0 t0.1 t0.2 t1.0 t1.1 t1.2", 6),
        ({"max_epochs": 1}, "t0.0 t0.1 t0.2 v0.0 v0.1", 3),
        ({"max_epochs": 0}, "", 0),
        ({"max_epochs": 0, "num_sanity_val_steps": 1}, "s.0", 0),
        ({"max_steps": 0}, "", 0),
        ({"max_steps": 2}, "t0.0 t0.1", 2),
        ({"max_steps": 3}, "t0.0 t0.1 t0.2 v0.0 v0.1", 3),
        ({"max_steps": 4}, "t0.0 t0.1 t0.2 v0.0 v0.1 t1.0", 4),
        ({"max_steps": 4, "max_epochs": None}, "t0.0 t0.1 t0.2 v0.0 v0.1 t1.0", 4),
        ({"max_steps": 2, "accumulate_grad_batches": 2}, "t0.0 t0.1 t0.2 v0.0 v0.1", 2),
        ({"max_steps": 1, "accumulate_grad_batches": 2}, "t0.0 t0.1", 1),
        ({"fast_dev_run": True}, "t0.0 v0.0", 1),
        ({"fast_dev_run": 2}, "t0.0 t0.1 v0.0 v0.1", 2),
        ({"overfit_batches": 1}, "t0.0 v0.0 t1.0 v1.0", 2),
        ({"num_sanity_val_steps": 1, "max_epochs": 1}, "s.0 t0.0 t0.1 t0.2 v0.0 v0.1", 3),
        ({"num_sanity_val_steps": -1, "max_epochs": 1}, "s.0 s.1 t0.0 t0.1 t0.2 v0.0 v0.1", 3),
        ({"num_sanity_val_steps": 9, "max_epochs": 1}, "s.0 s.1 t0.0 t0.1 t0.2 v0.0 v0.1", 3),
        ({"num_sanity_val_steps": 9, "limit_val_batches": 1, "max_epochs": 1}, "s.0 t0.0 t0.1 t0.2 v0.0", 3),
    ],
)
def test_limits(arguments: dict[str, Any], expected: str, steps: int) -> None:
    events, trainer = fit(3, 2, **arguments)
    assert events == words(expected)
    assert trainer.global_step == steps


@pytest.mark.parametrize("limit", [None, 2, 3, 9])
def test_a_stream_is_limited_as_a_list_is_and_validates_where_it_ends(limit: int | None) -> None:
    events, trainer = fit(Stream(3), Stream(1), limit_train_batches=limit)
    assert events == fit(3, 1, limit_train_batches=limit)[0]
    assert trainer.num_training_batches == (math.inf if limit is None else limit)


def test_a_fraction_of_a_stream_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match=r"limit_train_batches=0\.5\) asks for a fraction"):
        fit(Stream(3), limit_train_batches=0.5)


def test_a_stream_of_nothing_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match="`train_dataloader` gave a Stream without a single batch"):
        fit(Stream(0))


def test_a_loader_that_ends_before_its_length_is_warned_of() -> None:
    class Short(Stream):
        def __len__(self) -> int:
            return self.number + 2

    with pytest.warns(UserWarning, match="has the length 5 but ended after 3 batches; correct its __len__"):
        events, _ = fit(Short(3), max_epochs=1)
    assert events == words("t0.0 t0.1 t0.2")


def test_every_fit_has_its_sanity_check() -> None:
    """But for one that goes on from a checkpoint, which `tests/state` looks at."""
    module = Events()
    trainer = Trainer(
        accelerator="cpu", logger=False, discover_callbacks=False, max_epochs=1, limit_val_batches=2,
        num_sanity_val_steps=1,
    )  # fmt: skip
    for _ in range(2):
        trainer.fit(module, batches(1), batches(2))
        trainer.max_epochs += 1
    assert " ".join(module.events) == "s.0 t0.0 v0.0 v0.1 s.0 t1.0 v1.0 v1.1"


def test_training_draws_the_same_random_numbers_with_a_sanity_check_and_without() -> None:
    """Shuffled batches, dropout and validation, whose loaders and steps draw too."""

    class Draws(Events):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.events.append(f"{batch.flatten().tolist()} {torch.rand(1).item()}")
            loss: Tensor = self.layer(batch).sum()
            return loss

        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
            torch.rand(5), random.random()

    def run(steps: int) -> list[Any]:
        seed_everything(1, verbose=False)
        rows = TensorDataset(torch.arange(6.0).unsqueeze(1))
        train, val = (DataLoader(rows, 2, shuffle=shuffle, collate_fn=_stack) for shuffle in (True, False))
        events, trainer = fit(train, val, module=Draws(), num_sanity_val_steps=steps)
        return [*events, random.random(), torch.rand(1).item(), *trainer.lightning_module.state_dict().values()]

    assert run(0) == run(2) == run(-1)


def _stack(rows: list[tuple[Tensor]]) -> Tensor:
    return torch.stack([row for (row,) in rows])


def test_the_sanity_check_of_minus_one_sees_every_validation_batch() -> None:
    events, trainer = fit(1, [batches(2), Stream(3)], max_epochs=1, num_sanity_val_steps=-1)
    whole = "0 {0}.1 {0}.0@1 {0}.1@1 {0}.2@1"
    assert " ".join(events) == f"s.{whole.format('s')} t0.0 v0.{whole.format('v0')}"
    assert trainer.num_sanity_val_batches == [2, math.inf]


def test_an_interval_that_counts_across_epochs() -> None:
    """Every 3 batches in epochs of 2: after the 3rd and the 6th; the 2nd fit goes on counting."""
    module = Events()
    events, trainer = fit(
        2, 1, module=module, max_epochs=3, val_check_interval=3, check_val_every_n_epoch=None, limit_val_batches=1
    )
    assert " ".join(events) == "t0.0 t0.1 t1.0 v1.0 t1.1 t2.0 t2.1 v2.0"
    trainer.max_epochs = 5
    trainer.fit(module, batches(2), batches(1))
    assert " ".join(module.events[8:]) == "t3.0 t3.1 t4.0 v4.0 t4.1"


@pytest.mark.parametrize("limit", [0, 0.0])
def test_without_training_batches_a_fit_does_nothing(limit: float, caplog: pytest.LogCaptureFixture) -> None:
    events, trainer = fit(3, 3, limit_train_batches=limit, num_sanity_val_steps=2)
    assert (events, trainer.global_step, trainer.current_epoch) == ([], 0, 0)
    assert "no training batches were asked for" in caplog.text


def test_limits_of_the_fit_loop_are_those_of_the_trainer() -> None:
    _, trainer = fit(2, max_epochs=1)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(Events(), batches(2))
    assert (trainer.max_epochs, trainer.current_epoch, trainer.global_step) == (3, 3, 6)
    trainer.max_steps = 7
    assert trainer.fit_loop.max_steps == 7
    trainer.fit_loop.max_epochs = 9
    trainer.fit(Events(), batches(2))
    assert trainer.global_step == 7
    with pytest.raises(MisconfigurationException, match=r"max_epochs='3'\): expected an int >= -1 or None"):
        trainer.fit_loop.max_epochs = "3"  # type: ignore[assignment]
    trainer.fit_loop.min_epochs, trainer.fit_loop.min_steps = 2, 5
    assert (trainer.min_epochs, trainer.min_steps, trainer.max_epochs) == (2, 5, 9)


def test_several_validation_loaders_come_one_after_the_other() -> None:
    events, trainer = fit(1, [batches(2), Stream(1)], max_epochs=1, num_sanity_val_steps=1)
    assert events == words("s.0 s.0@1 t0.0 v0.0 v0.1 v0.0@1")
    assert (trainer.num_val_batches, trainer.num_sanity_val_batches) == ([2, math.inf], [1, 1])


@pytest.mark.parametrize("streamed", [False, True])
def test_the_last_batch_is_known_while_it_runs(streamed: bool) -> None:
    class Last(Events):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.events.append(str(self.trainer.is_last_batch))
            loss: Tensor = self.layer(batch).sum()
            return loss

    events, _ = fit(Stream(3) if streamed else 3, module=Last(), max_epochs=1)
    assert events == ["False", "False", "True"]


# -- intervals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"val_check_interval": 1}, "t0.0 v0.0 t0.1 v0.0 t0.2 v0.0 t1.0 v1.0 t1.1 v1.0 t1.2 v1.0"),
        ({"val_check_interval": 2}, "t0.0 t0.1 v0.0 t0.2 t1.0 t1.1 v1.0 t1.2"),
        ({"val_check_interval": 1 / 3}, "t0.0 v0.0 t0.1 v0.0 t0.2 v0.0 t1.0 v1.0 t1.1 v1.0 t1.2 v1.0"),
        ({"val_check_interval": 1.0}, "t0.0 t0.1 t0.2 v0.0 t1.0 t1.1 t1.2 v1.0"),
        ({"check_val_every_n_epoch": 2}, "t0.0 t0.1 t0.2 t1.0 t1.1 t1.2 v1.0"),
        ({"check_val_every_n_epoch": 2, "val_check_interval": 2}, "t0.0 t0.1 t0.2 t1.0 t1.1 v1.0 t1.2"),
        ({"check_val_every_n_epoch": None, "val_check_interval": 2}, "t0.0 t0.1 v0.0 t0.2 t1.0 v1.0 t1.1 t1.2 v1.0"),
        ({"check_val_every_n_epoch": None, "val_check_interval": 4}, "t0.0 t0.1 t0.2 t1.0 v1.0 t1.1 t1.2"),
        ({"check_val_every_n_epoch": 3}, "t0.0 t0.1 t0.2 t1.0 t1.1 t1.2"),
    ],
)
def test_intervals(arguments: dict[str, Any], expected: str) -> None:
    assert fit(3, 1, **arguments)[0] == words(expected)


def test_intervals_hold_for_streams_too() -> None:
    assert fit(Stream(3), 1, val_check_interval=2)[0] == words("t0.0 t0.1 v0.0 t0.2 t1.0 t1.1 v1.0 t1.2")


def test_an_interval_beyond_an_epoch_of_unknown_length_is_warned_of_once() -> None:
    with pytest.warns(UserWarning, match=r"validation did not run: .*val_check_interval=5\) .* 3 .* epoch 0") as caught:
        events, _ = fit(Stream(3), 1, val_check_interval=5)
    assert len(caught) == 1
    assert " ".join(events) == "t0.0 t0.1 t0.2 t1.0 t1.1 t1.2"
    events, _ = fit(Stream(3), 1, val_check_interval=5, check_val_every_n_epoch=None)
    assert " ".join(events) == "t0.0 t0.1 t0.2 t1.0 t1.1 v1.0 t1.2"


def test_an_interval_beyond_the_epoch_is_an_error_before_the_first_step() -> None:
    with pytest.raises(MisconfigurationException, match=r"val_check_interval=4\): the epoch has only 3"):
        fit(3, 1, val_check_interval=4)


# -- stops and minima ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "hook", "count", "expected"),
    [
        ({}, "on_train_batch_end", 1, "t0.0 v0.0"),
        ({}, "on_train_batch_end", 2, "t0.0 t0.1 v0.0"),
        ({}, "on_train_epoch_end", 1, "t0.0 t0.1 v0.0"),
        ({}, "on_train_start", 1, ""),
        ({}, "on_validation_end", 1, "t0.0 t0.1 v0.0"),
        ({"check_val_every_n_epoch": 2}, "on_train_batch_end", 1, "t0.0"),
        ({"min_epochs": 2}, "on_train_batch_end", 1, "t0.0 t0.1 v0.0 t1.0 t1.1 v1.0"),
        ({"min_steps": 3}, "on_train_batch_end", 1, "t0.0 t0.1 v0.0 t1.0 v1.0"),
        ({"min_steps": 1}, "on_train_batch_end", 1, "t0.0 t0.1 v0.0"),
        ({"min_epochs": 1, "min_steps": 3}, "on_train_epoch_end", 1, "t0.0 t0.1 v0.0 t1.0 v1.0"),
        ({"min_epochs": 1}, "on_validation_end", 1, "t0.0 t0.1 v0.0"),
    ],
)
def test_should_stop_ends_at_the_batch_unless_a_minimum_is_not_reached(
    arguments: dict[str, Any], hook: str, count: int, expected: str
) -> None:
    events, trainer = fit(2, 1, max_epochs=5, callbacks=StopAt(hook, count), **arguments)
    assert events == words(expected)
    assert trainer.state.finished


def test_that_a_minimum_is_waited_for_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="leyden"):
        fit(3, max_epochs=3, min_epochs=2, callbacks=StopAt("on_train_batch_end", 1))
    [message] = [record.getMessage() for record in caplog.records if "asked to stop" in record.getMessage()]
    assert "min_epochs=2 or min_steps=0 is not reached" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_steps": 2}, "`max_steps=2` reached"),
        ({"max_epochs": 1}, "`max_epochs=1` reached"),
        ({"max_epochs": 0}, "no training batches were asked for"),
    ],
)
def test_why_it_ended_is_logged(arguments: dict[str, Any], message: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="leyden"):
        fit(3, **arguments)
    assert [message in record.getMessage() for record in caplog.records] == [True]


def test_max_time_stops_by_the_timer_of_the_optim_family() -> None:
    pytest.importorskip("leyden_optim", reason="max_time is kept by the Timer of leyden-callbacks-optim")
    events, trainer = fit(3, max_epochs=-1, max_time=timedelta(0))
    assert events == []
    assert [type(callback).__name__ for callback in trainer.callbacks] == ["Timer"]
    assert fit(3, max_time="00:01:00:00")[0] == words("t0.0 t0.1 t0.2 t1.0 t1.1 t1.2")


def test_minus_one_from_on_train_batch_start_skips_the_rest_of_the_epoch() -> None:
    class Skips(Events):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> int | None:
            self.events.append(f"start{batch_idx}")
            return -1 if (self.current_epoch, batch_idx) in ((0, 1), (1, 0)) else None

        def on_train_epoch_end(self) -> None:
            self.events.append("end")

    events, trainer = fit(3, 1, module=Skips(), max_epochs=3)
    assert events == words("start0 t0.0 start1 end start0 end start0 t2.0 start1 t2.1 start2 t2.2 v2.0 end")
    assert (trainer.global_step, trainer.current_epoch) == (4, 3)


def test_minus_one_from_a_callback_means_nothing() -> None:
    class Skips(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> Any:
            return -1

    assert fit(2, callbacks=Skips(), max_epochs=1)[0] == words("t0.0 t0.1")
