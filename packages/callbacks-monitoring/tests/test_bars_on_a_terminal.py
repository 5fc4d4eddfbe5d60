"""Both progress bars as seen on the screen of a real pseudo-terminal."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import re
import struct
import sys
import termios
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pseudo_terminal import Clock, Look, Model, Terminal, always_due_fixture, make_trainer, terminal_fixture
from torch import Tensor
from torch.utils.data import DataLoader

from leyden import Callback, Trainer
from leyden.testing import RandomDataset, RandomStream
from leyden_monitoring import RichProgressBar, TQDMProgressBar, live_progress

__all__ = ["always_due_fixture", "terminal_fixture"]

BARS = [TQDMProgressBar, RichProgressBar]
SHOWN = re.compile(r"(?P<text>.+?)(?:: +\d*%?\|.*\|| [━╸╺ ]*|: ) ?(?P<count>\d+/[\d?]+) ")

Shown = tuple[str, str, dict[str, str]]


@pytest.fixture(params=BARS)
def bar_class(request: pytest.FixtureRequest) -> Any:
    """Each of the bars in turn."""
    return request.param


def read(line: str) -> Shown:
    """Return text, count and metrics of a line, whichever bar it is of."""
    found = SHOWN.match(line)
    assert found is not None, line
    return found["text"], found["count"], dict(re.findall(r"(\w+)=([^\s,\]]+)", line))


def read_all(lines: list[str]) -> list[Shown]:
    return [read(line) for line in lines]


def test_one_line_is_left_of_a_fit(terminal: Terminal, bar_class: Any) -> None:
    make_trainer(terminal, bar_class(), max_epochs=2).fit(Model())
    assert read_all(terminal.lines) == [("Epoch 1", "4/4", {"a": "3.000", "b": "0.250"})]
    assert terminal.cursor == (1, 0)
    assert sys.stdout is terminal.stdout
    assert not terminal.cursor_hidden


@pytest.mark.usefixtures("always_due")
def test_validation_has_a_bar_below_that_is_gone_afterwards(terminal: Terminal, bar_class: Any) -> None:
    look = Look(terminal, "on_train_batch_start", "on_validation_batch_end", "on_validation_end")
    make_trainer(terminal, bar_class(), look, val_check_interval=2).fit(Model())
    seen = [(hook, read_all(lines)) for hook, lines in look.seen]
    first, second = {"a": "0.000"}, {"a": "1.000"}
    third, fourth = {"a": "2.000", "b": "0.250"}, {"a": "3.000", "b": "0.250"}
    assert seen == [
        ("on_train_batch_start", [("Epoch 0", "0/4", {})]),
        ("on_train_batch_start", [("Epoch 0", "1/4", first)]),
        ("on_validation_batch_end", [("Epoch 0", "2/4", second), ("Validation", "1/2", {})]),
        ("on_validation_batch_end", [("Epoch 0", "2/4", second), ("Validation", "2/2", {})]),
        ("on_validation_end", [("Epoch 0", "2/4", second | {"b": "0.250"})]),
        ("on_train_batch_start", [("Epoch 0", "2/4", second | {"b": "0.250"})]),
        ("on_train_batch_start", [("Epoch 0", "3/4", third)]),
        ("on_validation_batch_end", [("Epoch 0", "4/4", fourth), ("Validation", "1/2", {})]),
        ("on_validation_batch_end", [("Epoch 0", "4/4", fourth), ("Validation", "2/2", {})]),
        ("on_validation_end", [("Epoch 0", "4/4", fourth)]),
    ]


@pytest.mark.usefixtures("always_due")
def test_several_validation_loaders(terminal: Terminal, bar_class: Any) -> None:
    class Several(Model):
        def val_dataloader(self) -> Any:
            return [DataLoader(RandomDataset(4, length), batch_size=2) for length in (2, 6)]

    look = Look(terminal, "on_validation_batch_end")
    make_trainer(terminal, bar_class(), look).fit(Several())
    assert [read(lines[1])[:2] for _, lines in look.seen] == [
        ("Validation DataLoader 0", "1/1"),
        ("Validation DataLoader 1", "1/3"),
        ("Validation DataLoader 1", "2/3"),
        ("Validation DataLoader 1", "3/3"),
    ]


@pytest.mark.usefixtures("always_due")
def test_sanity_check(terminal: Terminal, bar_class: Any) -> None:
    look = Look(terminal, "on_validation_batch_end", "on_sanity_check_end")
    make_trainer(terminal, bar_class(), look, num_sanity_val_steps=1, max_steps=0).fit(Model())
    (_, during), (_, after) = look.seen
    assert read_all(during) == [("Sanity Checking", "1/1", {})]
    assert after == []


@pytest.mark.usefixtures("always_due")
def test_loader_without_length(terminal: Terminal, bar_class: Any) -> None:
    look = Look(terminal, "on_train_batch_start", "on_train_epoch_end")
    stream = DataLoader(RandomStream(4, 6), batch_size=2)
    make_trainer(terminal, bar_class(), look, limit_val_batches=0).fit(Model(), stream)
    assert [read(lines[0])[1] for _, lines in look.seen] == ["0/?", "1/?", "2/?", "3/?"]
    assert not any("<" in lines[0] for _, lines in look.seen)  # no time left that nobody knows


def test_what_is_printed_logged_and_warned_stands_above_the_bar(terminal: Terminal, bar_class: Any) -> None:
    class Talks(Model):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            if batch_idx == 1:
                self.trainer.print("from the", "trainer", sep="-")
                self.print("from the module")
                print("from ", end="")
                print("Python")
                print("from standard error", file=sys.stderr)
                sys.stdout.writelines(["two\n", "lines\n"])
                logging.getLogger("of.the.user").warning("logged")
                # As `warnings.warn` does, whose own writing pytest replaces.
                sys.stderr.write(warnings.formatwarning("warned", UserWarning, "train.py", 3, ""))
                thread = threading.Thread(target=print, args=("from a thread",))
                thread.start()
                thread.join()
                print("begun", end="")
            return super().training_step(batch, batch_idx)

    look = Look(terminal, "on_train_batch_end")
    trainer = make_trainer(terminal, bar_class(), look, limit_val_batches=0)
    handler = logging.StreamHandler()  # holds standard error as it is now
    logging.getLogger("of").addHandler(handler)
    try:
        trainer.fit(Talks())
    finally:
        logging.getLogger("of").removeHandler(handler)
    assert handler.stream is terminal.stderr
    said = ["from the-trainer", "from the module", "from Python", "from standard error", "two", "lines", "logged"]
    said += ["train.py:3: UserWarning: warned", "from a thread"]
    assert look.seen[1][1][:-1] == said
    assert read(look.seen[1][1][-1])[0] == "Epoch 0"
    assert terminal.lines[:9] == said
    assert terminal.lines[-1] == "begun"


def test_output_that_somebody_kept_still_writes_when_the_bars_are_gone(terminal: Terminal, bar_class: Any) -> None:
    kept: list[Any] = []

    class Keeps(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            kept.append(sys.stderr)

    make_trainer(terminal, bar_class(), Keeps(), limit_val_batches=0).fit(Model())
    kept[0].write("afterwards\n")
    assert terminal.lines[-1] == "afterwards"


def test_text_of_a_thread_that_waited_while_the_bars_were_closed(terminal: Terminal, bar_class: Any) -> None:
    bar, displays = bar_class(), []

    class Keeps(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            displays.append(bar._display)

    make_trainer(terminal, bar, Keeps(), limit_val_batches=0).fit(Model())
    displays[0].write("afterwards\n", terminal.stdout)
    assert terminal.lines[-1] == "afterwards"
    assert len(terminal.lines) == 2


def test_worker_that_is_forked_while_a_thread_prints(terminal: Terminal, bar_class: Any) -> None:
    bar, exit_codes = bar_class(), []

    class Forks(Model):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            if batch_idx == 1:
                printing, forked = threading.Event(), threading.Event()
                thread = threading.Thread(target=self.be_printing, args=(printing, forked))
                thread.start()
                assert printing.wait(timeout=30)
                worker = multiprocessing.get_context("fork").Process(target=print, args=("from a worker",))
                with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of threads, when forking
                    worker.start()
                worker.join(timeout=30)
                exit_codes.append(worker.exitcode)
                worker.kill()
                forked.set()
                thread.join()
            return super().training_step(batch, batch_idx)

        def be_printing(self, printing: threading.Event, forked: threading.Event) -> None:
            with bar._display._hidden():
                printing.set()
                forked.wait()

    make_trainer(terminal, bar, limit_val_batches=0).fit(Forks())
    assert exit_codes == [0]
    assert terminal.lines[-2] == "from a worker"
    assert read(terminal.lines[-1])[:2] == ("Epoch 0", "4/4")


def test_every_epoch_may_leave_its_bar(terminal: Terminal, bar_class: Any) -> None:
    make_trainer(terminal, bar_class(leave=True), max_epochs=3, limit_val_batches=0).fit(Model())
    shown = [(f"Epoch {epoch}", "4/4", {"a": "3.000"}) for epoch in range(3)]
    assert read_all(terminal.lines) == shown


def test_other_entry_points_leave_their_bars(terminal: Terminal, bar_class: Any) -> None:
    trainer, model = make_trainer(terminal, bar_class()), Model()
    trainer.validate(model, verbose=False)
    trainer.test(model, [DataLoader(RandomDataset(4, 2))] * 2, verbose=False)
    trainer.predict(model)
    assert [read(line)[:2] for line in terminal.lines] == [
        ("Validation", "2/2"),
        ("Testing DataLoader 0", "2/2"),
        ("Testing DataLoader 1", "2/2"),
        ("Predicting", "3/3"),
    ]


# -- how often ---------------------------------------------------------------------------------------------------------


def counting(bar_class: Any) -> Any:
    class Counting(bar_class):  # type: ignore[misc]
        asked = 0

        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            self.asked += 1
            return super().get_metrics(trainer, pl_module)

    return Counting()


class Tick(Callback):
    """Each batch takes some seconds by the clock."""

    def __init__(self, clock: Clock, seconds: Callable[[int], float]) -> None:
        self.clock, self.seconds = clock, seconds

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Tensor) -> None:
        self.clock.now += self.seconds(trainer.fit_loop.batch_idx)


@pytest.mark.parametrize("step_s", [0.0001, 0.01, 0.2])
def test_at_most_ten_drawings_a_second(
    terminal: Terminal, bar_class: Any, monkeypatch: pytest.MonkeyPatch, step_s: float
) -> None:
    clock = Clock(0.0)
    monkeypatch.setattr(live_progress, "monotonic", clock)
    monkeypatch.setattr(live_progress, "perf_counter", lambda: 0.0)
    bar = counting(bar_class)
    steps = 1000 if step_s < 0.1 else 50
    make_trainer(terminal, bar, Tick(clock, lambda batch: step_s), limit_val_batches=0).fit(Model(train=steps))
    assert clock.now == pytest.approx(steps * step_s)
    most = min(steps, 10 * clock.now)
    assert 0.8 * most <= bar.asked <= most + 1  # that of the end
    assert terminal.lines is not None
    assert terminal.raw.count("Epoch 0") <= bar.asked + 5


def test_steps_that_become_slow_are_drawn_within_a_few(
    terminal: Terminal, bar_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(0.0)
    monkeypatch.setattr(live_progress, "monotonic", clock)
    monkeypatch.setattr(live_progress, "perf_counter", lambda: 0.0)
    look = Look(terminal, "on_train_batch_start")
    tick = Tick(clock, lambda batch: 1e-6 if batch < 500 else 10.0)
    make_trainer(terminal, bar_class(), tick, look, limit_val_batches=0).fit(Model(train=530))
    behind = [batch - int(read(lines[0])[1].split("/")[0]) for batch, (_, lines) in enumerate(look.seen)]
    assert max(behind[517:]) == 0
    assert max(behind[500:]) >= 1


def test_short_epochs_and_validations_are_not_drawn_more_often(
    terminal: Terminal, bar_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_progress, "monotonic", lambda: 1.0)  # all of it within a moment
    make_trainer(terminal, bar_class(), max_epochs=50).fit(Model())
    assert read_all(terminal.lines) == [("Epoch 49", "4/4", {"a": "3.000", "b": "0.250"})]
    assert terminal.raw.count("Epoch") <= 6
    assert "Validation" not in terminal.raw


def test_drawing_takes_at_most_a_fiftieth_of_the_time(
    terminal: Terminal, bar_class: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(0.0)
    monkeypatch.setattr(live_progress, "monotonic", clock)
    monkeypatch.setattr(live_progress, "perf_counter", Clock(0.04))  # what a drawing over a slow line takes
    bar = counting(bar_class)
    make_trainer(terminal, bar, Tick(clock, lambda batch: 0.01), limit_val_batches=0).fit(Model(train=1000))
    assert bar.asked == 6  # in ten seconds every two, and at the end


@pytest.mark.usefixtures("always_due")
def test_refresh_rate_counts_batches(terminal: Terminal, bar_class: Any) -> None:
    look = Look(terminal, "on_train_batch_start")
    make_trainer(terminal, bar_class(refresh_rate=3), look, limit_val_batches=0).fit(Model(train=8))
    assert [read(lines[0])[1] for _, lines in look.seen] == ["0/8"] + ["1/8"] * 3 + ["4/8"] * 3 + ["7/8"]
    assert read(terminal.lines[0])[1] == "8/8"


@pytest.mark.parametrize("way", ["refresh_rate", "disable", "rank"])
def test_bar_that_is_off_writes_nothing(
    terminal: Terminal, bar_class: Any, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar = bar_class(refresh_rate=0 if way == "refresh_rate" else 1)
    trainer = make_trainer(terminal, bar)
    if way == "disable":
        bar.disable()
    elif way == "rank":
        monkeypatch.setattr(type(trainer.strategy), "is_global_zero", False)
    trainer.fit(Model())
    assert bar.is_disabled
    assert not any("4/4" in line for line in terminal.lines)
    assert sys.stdout is terminal.stdout


@pytest.mark.usefixtures("always_due")
def test_switched_off_and_on_within_a_run(terminal: Terminal, bar_class: Any) -> None:
    bar = bar_class()

    class Switch(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
            bar.enable() if trainer.current_epoch == 2 else bar.disable()

    make_trainer(terminal, bar, Switch(), max_epochs=3, limit_val_batches=0).fit(Model())
    assert [read(line)[:2] for line in terminal.lines if "Epoch" in line][-1] == ("Epoch 2", "4/4")
    assert "Epoch 1" not in terminal.raw


# -- going on from a checkpoint ----------------------------------------------------------------------------------------


class SaveAt(Callback):
    """Saves in the hook named, when `count` batches of the epoch (or of a validation) are done."""

    position = "checkpoint"

    def __init__(self, path: Path, hook: str, count: int = 0) -> None:
        def save(trainer: Trainer, *args: Any) -> None:
            if not count or args[3] + 1 == count:
                trainer.save_checkpoint(path)

        setattr(self, hook, save)


@pytest.mark.usefixtures("always_due")
def test_resumed_within_an_epoch_the_rate_is_that_of_this_process(
    terminal: Terminal, bar_class: Any, tmp_path: Path
) -> None:
    path = tmp_path / "two.ckpt"
    make_trainer(terminal, SaveAt(path, "on_train_batch_end", 2)).fit(Model(train=1000))
    look = Look(terminal, "on_train_start", "on_train_epoch_end")
    steps = {"limit_val_batches": 0, "max_steps": 3}
    make_trainer(terminal, bar_class(), look, **steps).fit(Model(train=1000), ckpt_path=path)
    (_, before), (_, after) = look.seen
    assert read(before[0]) == ("Epoch 0", "2/1000", {})  # where it stands, before its first batch
    assert read(after[0])[1] == "3/1000"
    rate = re.search(r"([\d.]+) ?(it/s|s/it)", after[0])
    assert rate is not None
    # One batch since then: the clock says how long it took. All three would be three times as many.
    elapsed_s = time_of(after[0])
    assert float(rate[1]) * elapsed_s <= 1.05 if rate[2] == "it/s" and elapsed_s >= 1 else rate[2] in ("it/s", "s/it")


def time_of(line: str) -> float:
    found = re.search(r"(\d+):(\d\d)[ <,]", line)
    assert found is not None, line
    return 60.0 * int(found[1]) + int(found[2])


@pytest.mark.usefixtures("always_due")
def test_resumed_within_a_validation(terminal: Terminal, bar_class: Any, tmp_path: Path) -> None:
    path = tmp_path / "validation.ckpt"
    settings = {"val_check_interval": 2}
    make_trainer(terminal, SaveAt(path, "on_validation_batch_end", 1), **settings).fit(Model(val=3))
    look = Look(terminal, "on_validation_batch_start", "on_train_epoch_start")
    make_trainer(terminal, bar_class(), look, max_epochs=2, **settings).fit(Model(val=3), ckpt_path=path)
    first, second, third = (read_all(lines) for _, lines in look.seen[:3])
    assert [line[:2] for line in first] == [("Epoch 0", "4/4"), ("Validation", "1/3")]
    assert [line[:2] for line in second] == [("Epoch 0", "4/4"), ("Validation", "2/3")]
    assert [line[:2] for line in third] == [("Epoch 1", "0/4")]


def test_resumed_after_an_epoch_the_next_one_is_shown(terminal: Terminal, bar_class: Any, tmp_path: Path) -> None:
    path = tmp_path / "end.ckpt"
    make_trainer(terminal, SaveAt(path, "on_train_epoch_end")).fit(Model())
    make_trainer(terminal, bar_class(leave=True), max_epochs=3).fit(Model(), ckpt_path=path)
    assert [read(line)[:2] for line in terminal.lines] == [("Epoch 1", "4/4"), ("Epoch 2", "4/4")]


# -- what goes wrong ---------------------------------------------------------------------------------------------------


class AtSecondBatch(Callback):
    """Calls a function before the second batch."""

    def __init__(self, act: Any) -> None:
        self.act = act

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1:
            self.act()


@pytest.mark.usefixtures("always_due")
def test_output_that_is_closed_switches_the_bar_off_and_training_goes_on(terminal: Terminal, bar_class: Any) -> None:
    bar, stdout = bar_class(), terminal.stdout
    trainer = make_trainer(terminal, bar, AtSecondBatch(lambda: stdout.close()), max_epochs=2)
    said = f"{bar_class.__name__} is switched off, the run goes on: drawing failed with"
    with pytest.warns(UserWarning, match=said) as caught:
        trainer.fit(Model())
    assert len(caught) == 1
    assert trainer.global_step == 8
    assert bar.is_disabled
    assert sys.stdout is stdout


@pytest.mark.usefixtures("always_due")
def test_output_that_fails_switches_the_bar_off_and_training_goes_on(terminal: Terminal, bar_class: Any) -> None:
    def point_to_a_full_disk() -> None:
        with open("/dev/full", "w") as full:
            os.dup2(full.fileno(), terminal.stdout.fileno())

    bar = bar_class()
    trainer = make_trainer(terminal, bar, AtSecondBatch(point_to_a_full_disk), max_epochs=2)
    with pytest.warns(UserWarning, match=r"is switched off, the run goes on: .* OSError: .*No space left") as caught:
        trainer.fit(Model())
    assert len(caught) == 1
    assert trainer.global_step == 8
    assert bar.is_disabled
    assert sys.stdout is terminal.stdout
    terminal.forget_stdout()


def test_pipe_whose_reader_has_gone(bar_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read_end, write_end = os.pipe()
    pipe = os.fdopen(write_end, "w")
    monkeypatch.setattr(sys, "stdout", pipe)
    os.close(read_end)
    bar = bar_class()
    trainer = Trainer(
        accelerator="cpu", callbacks=[bar], max_epochs=2, logger=False, discover_callbacks=False, limit_val_batches=0
    )
    with pytest.warns(UserWarning, match=r"is switched off, the run goes on: .* BrokenPipeError") as caught:
        trainer.fit(Model())
    assert len(caught) == 1
    assert trainer.global_step == 8
    with pytest.raises(BrokenPipeError):
        pipe.close()


@pytest.mark.parametrize("terminal", [{"encoding": "ascii"}], indirect=True)
def test_terminal_that_knows_ascii_only(terminal: Terminal, bar_class: Any) -> None:
    class Accents(Model):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.log("µ", 1.0, prog_bar=True)
            return super().training_step(batch, batch_idx)

    bar = bar_class()
    make_trainer(terminal, bar, limit_val_batches=0).fit(Accents())
    assert bar.is_enabled
    (line,) = terminal.lines
    assert line.isascii()
    assert "?=1.000" in line
    assert "4/4" in line


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("columns", [40, 20, 8, 2])
def test_narrow_terminal_and_one_that_is_resized(terminal: Terminal, bar_class: Any, columns: int) -> None:
    def resize() -> None:
        fcntl.ioctl(terminal.stdout.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", 12, columns, 0, 0))

    bar = bar_class()
    make_trainer(terminal, bar, AtSecondBatch(resize), max_epochs=2).fit(Model())
    assert bar.is_enabled
    assert columns == 2 or terminal.lines
    assert all(len(line) < columns for line in terminal.lines)


@pytest.mark.parametrize("terminal", [{"size": (0, 0), "columns": 80}, {"size": (0, 100)}], indirect=True)
def test_terminal_that_tells_no_size(terminal: Terminal, bar_class: Any) -> None:
    make_trainer(terminal, bar_class(), limit_val_batches=0).fit(Model())
    assert read_all(terminal.lines) == [("Epoch 0", "4/4", {"a": "3.000"})]


def test_dumb_terminal_gets_plain_lines(terminal: Terminal, bar_class: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    make_trainer(terminal, bar_class(), limit_val_batches=0).fit(Model())
    (line,) = terminal.lines
    assert line.startswith("Epoch 0: 4/4 batches in ")


@pytest.mark.usefixtures("always_due")
@pytest.mark.parametrize("error", [RuntimeError("no more"), KeyboardInterrupt(), SystemExit(3)])
def test_exception_gives_the_terminal_back(terminal: Terminal, bar_class: Any, error: BaseException) -> None:
    class Fails(Model):
        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
            if batch_idx == 1:
                raise error

    with pytest.raises(type(error)):
        make_trainer(terminal, bar_class(), val_check_interval=2).fit(Fails())
    assert sys.stdout is terminal.stdout
    assert sys.stderr is terminal.stderr
    assert [read(line)[:2] for line in terminal.lines] in (
        [("Epoch 0", "2/4"), ("Validation", "1/2")],
        [("Epoch 0", "2/4")],
    )
    assert terminal.cursor == (len(terminal.lines), 0)
    assert not terminal.cursor_hidden


def test_no_thread_is_left_behind_and_none_begun(terminal: Terminal, bar_class: Any) -> None:
    threads = threading.active_count()
    counts: list[int] = []
    watch = Look(terminal)
    watch.on_train_batch_end = lambda *args: counts.append(threading.active_count())  # type: ignore[method-assign]
    make_trainer(terminal, bar_class(), watch).fit(Model())
    assert counts == [threads] * 4
