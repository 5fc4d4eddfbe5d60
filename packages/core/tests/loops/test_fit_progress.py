"""From epoch to epoch and from fit to fit: what is counted, kept, asked for anew and estimated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningModule, Trainer


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


# -- from fit to fit ----------------------------------------------------------------------------------------------


def test_a_second_fit_goes_on_counting() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, max_epochs=1, num_sanity_val_steps=0)
    module = Events()
    trainer.fit(module, batches(2))
    trainer.fit(module, batches(2))
    assert module.events == words("t0.0 t0.1")
    trainer.max_epochs = 3
    trainer.fit(module, batches(1))
    assert module.events == words("t0.0 t0.1 t1.0 t2.0")
    assert (trainer.current_epoch, trainer.global_step) == (3, 4)


def test_a_fit_after_one_that_was_cut_short_begins_its_epoch_anew() -> None:
    class Fails(Events):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            if len(self.events) == 1:
                self.events.append("fails")
                raise KeyError("once")
            return super().training_step(batch, batch_idx)

    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, max_epochs=1)
    module = Fails()
    with pytest.raises(KeyError):
        trainer.fit(module, batches(2))
    trainer.fit(module, batches(2))
    assert module.events == words("t0.0 fails t0.0 t0.1")


# -- data anew ----------------------------------------------------------------------------------------------------


class Reloading(Events):
    """Asks its own hooks for dataloaders, of which the training one grows."""

    def train_dataloader(self) -> Any:
        self.events.append("train_dataloader")
        return batches(self.current_epoch + 1)

    def val_dataloader(self) -> Any:
        self.events.append("val_dataloader")
        return batches(1)


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (0, "train_dataloader val_dataloader t0.0 v0.0 t1.0 v1.0 t2.0 v2.0"),
        (
            1,
            "train_dataloader val_dataloader t0.0 v0.0 train_dataloader t1.0 t1.1 val_dataloader v1.0 "
            "train_dataloader t2.0 t2.1 t2.2 val_dataloader v2.0",
        ),
        (2, "train_dataloader val_dataloader t0.0 v0.0 t1.0 v1.0 train_dataloader t2.0 t2.1 t2.2 val_dataloader v2.0"),
    ],
)
def test_loaders_are_asked_for_anew_every_n_epochs(every: int, expected: str) -> None:
    events, _ = fit(None, module=Reloading(), max_epochs=3, reload_dataloaders_every_n_epochs=every)
    assert events == words(expected)


def test_the_validation_loader_of_the_sanity_check_is_kept_for_the_epoch() -> None:
    events, _ = fit(None, module=Reloading(), max_epochs=1, num_sanity_val_steps=1)
    assert events == words("val_dataloader s.0 train_dataloader t0.0 v0.0")


class StopAfterThreeEpochs(Callback):
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = trainer.current_epoch == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"max_epochs": 3}, 9),
        ({"max_epochs": 3, "accumulate_grad_batches": 2}, 6),
        ({"max_epochs": 3, "max_steps": 5}, 5),
        ({"max_epochs": -1}, math.inf),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 3, "limit_train_batches": 2}, 6),
    ],
)
def test_estimated_stepping_batches_are_known_to_configure_optimizers(
    arguments: dict[str, Any], expected: int | float
) -> None:
    class Estimates(Events):
        estimated: int | float = -1

        def train_dataloader(self) -> Any:
            self.events.append("train_dataloader")
            return batches(3)

        def configure_optimizers(self) -> Any:
            self.estimated = self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    module = Estimates()
    events, trainer = fit(None, module=module, **arguments, callbacks=StopAfterThreeEpochs())
    assert module.estimated == expected
    assert events.count("train_dataloader") == 1
    assert trainer.global_step == min(expected, 9)


def test_an_estimate_for_a_stream_is_without_end() -> None:
    class Estimates(Events):
        estimated: int | float = -1

        def configure_optimizers(self) -> Any:
            self.estimated = self.trainer.estimated_stepping_batches
            return super().configure_optimizers()

    module = Estimates()
    fit(Stream(2), module=module)
    assert module.estimated == math.inf


# -- progress -----------------------------------------------------------------------------------------------------


def test_counters_as_users_read_them() -> None:
    class Counters(Events):
        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            loop = self.trainer.fit_loop
            self.events.append(
                f"{loop.epoch_progress.current.started}/{loop.epoch_progress.current.completed} "
                f"{loop.batch_progress.total.completed}/{loop.batch_progress.current.completed}"
            )

    events, trainer = fit(2, module=Counters())
    assert [event for event in events if " " in event] == ["1/0 1/1", "1/0 2/2", "2/1 3/1", "2/1 4/2"]
    assert trainer.fit_loop.epoch_progress.current.completed == 2


def test_what_is_running_is_started_and_not_completed() -> None:
    seen: list[tuple[int, ...]] = []

    class Counters(Events):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            batches, epochs = self.trainer.fit_loop.batch_progress, self.trainer.fit_loop.epoch_progress.total
            counts = (batches.total, batches.current, epochs)
            seen.append(tuple(number for count in counts for number in (count.started, count.completed)))
            return super().training_step(batch, batch_idx)

    _, trainer = fit(2, module=Counters(), max_epochs=2)
    assert seen == [(1, 0, 1, 0, 1, 0), (2, 1, 2, 1, 1, 0), (3, 2, 1, 0, 2, 1), (4, 3, 2, 1, 2, 1)]
    after = trainer.fit_loop
    assert (after.epoch_progress.total.started, after.epoch_progress.total.completed) == (2, 2)
    assert (after.batch_progress.total.started, after.batch_progress.total.completed) == (4, 4)


def test_stages_change_around_validation() -> None:
    class Stages(Events):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.events.append(str(self.trainer.state.stage))
            loss: Tensor = self.layer(batch).sum()
            return loss

        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.events.append(str(self.trainer.state.stage))

    events, trainer = fit(1, 1, module=Stages(), num_sanity_val_steps=1, max_epochs=1)
    assert events == ["sanity_check", "train", "validate"]
    assert trainer.state.stage is None


class Looks(Callback):
    """Has the loop call after some batches of each epoch, from `on_train_epoch_start` and from a call itself."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Events)
        events = pl_module.events

        def look(done: int) -> None:
            events.append(f"looked@{done}")
            if done < 4:
                trainer.fit_loop.call_after(done + 2, look)

        trainer.fit_loop.call_after(2, look)
        trainer.fit_loop.call_after(9, look)


def test_calls_are_made_after_so_many_batches_and_before_the_validation_due_then() -> None:
    events, _ = fit(5, 1, callbacks=[Looks()], val_check_interval=2)
    assert events == words(
        "t0.0 t0.1 looked@2 v0.0 t0.2 t0.3 looked@4 v0.0 t0.4 t1.0 t1.1 looked@2 v1.0 t1.2 t1.3 looked@4 v1.0 t1.4"
    )


def test_calls_that_were_not_made_are_gone_with_their_epoch() -> None:
    events, trainer = fit(1, callbacks=[Looks()])
    assert events == words("t0.0 t1.0")
    assert trainer.fit_loop.call_behind == math.inf


class LooksAtSteps(Callback):
    """Has the loop call at some steps of the run, again in each epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Events)
        events = pl_module.events
        for step in (2, 3, 5):
            if step > trainer.global_step:
                trainer.fit_loop.call_at_step(step, lambda done: events.append(f"step{trainer.global_step}@{done}"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "t0.0 t0.1 step2@2 t0.2 step3@3 t0.3 t0.4 step5@5 t1.0 t1.1 t1.2 t1.3 t1.4"),
        (
            {"accumulate_grad_batches": 2},  # the last window of an epoch is short
            "t0.0 t0.1 t0.2 t0.3 step2@4 t0.4 step3@5 t1.0 t1.1 t1.2 t1.3 step5@4 t1.4",
        ),
        ({"accumulate_grad_batches": 3}, "t0.0 t0.1 t0.2 t0.3 t0.4 step2@5 t1.0 t1.1 t1.2 step3@3 t1.3 t1.4"),
    ],
)
def test_calls_are_made_behind_the_batch_with_a_step(given: dict[str, Any], told: str) -> None:
    assert fit(5, callbacks=[LooksAtSteps()], **given)[0] == words(told)


class Shrinks(Callback):
    """Has windows of four batches, and of one from the fifth batch on."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.accumulate(4)
        trainer.fit_loop.call_after(4, lambda done: trainer.fit_loop.accumulate(1))


@pytest.mark.parametrize("callbacks", [[LooksAtSteps(), Shrinks()], [Shrinks(), LooksAtSteps()]])
def test_calls_come_with_their_step_where_windows_get_smaller(callbacks: list[Callback]) -> None:
    assert fit(8, callbacks=callbacks, max_epochs=1)[0] == words(
        "t0.0 t0.1 t0.2 t0.3 t0.4 step2@5 t0.5 step3@6 t0.6 t0.7 step5@8"
    )


def test_under_manual_optimisation_a_batch_may_take_any_number_of_steps() -> None:
    class Manual(Events):
        automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            for _ in range(batch_idx):
                self.optimizers().step()
            return super().training_step(batch, batch_idx)

    assert fit(5, module=Manual(), callbacks=[LooksAtSteps()], max_epochs=1)[0] == words(
        "t0.0 t0.1 t0.2 step3@3 step3@3 t0.3 step6@4 t0.4"
    )


class LeavesOut(Callback):
    """Leaves out two batches of the first epoch; `path` is where to save and cut the run after the first two."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.fit_loop.epoch_started:  # which is not started again
            trainer.fit_loop.left_out |= {1, 3}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.fit_loop.left_out |= {1, 3}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any) -> None:  # type: ignore[override]
        assert isinstance(pl_module, Events)
        pl_module.events += [] if outputs else ["-"]
        if self.path is not None and trainer.fit_loop.batches_seen == 2:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


def test_batches_that_are_left_out_are_read_and_not_trained() -> None:
    events, trainer = fit(5, callbacks=[LeavesOut()], accumulate_grad_batches=2)
    assert events == words("t0.0 - t0.2 - t0.4 t1.0 t1.1 t1.2 t1.3 t1.4")
    assert trainer.global_step == 6
    assert trainer.fit_loop.batches_seen == 10


def test_batches_are_left_out_in_an_epoch_that_is_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(5, callbacks=[LeavesOut(tmp_path / "two.ckpt")])
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[LeavesOut()], max_epochs=2)
    module = Events()
    trainer.fit(module, batches(5), ckpt_path=tmp_path / "two.ckpt")
    assert module.events == words("t0.2 - t0.4 t1.0 t1.1 t1.2 t1.3 t1.4")
