"""TQDMProgressBar as seen on the screen of a real pseudo-terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyte
import pytest
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from leyden import Callback, MisconfigurationException, Trainer
from leyden.testing.models import BoringModule, RandomDataset
from leyden_monitoring import TQDMProgressBar, live_progress


class Terminal:
    """A pseudo-terminal in the place of standard output and error; what is written to it is read by a thread."""

    def __init__(self, rows: int = 12, columns: int = 100, size: tuple[int, int] | None = None) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *(size or (rows, columns)), 0, 0))
        self.stdout, self.stderr = os.fdopen(os.dup(slave), "w"), os.fdopen(slave, "w", buffering=1)
        self.raw = ""
        self.put: Callable[[str, Any], None] = partial(setattr, sys)
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._master, self._marks, self._seen = master, 0, threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def place(self) -> None:
        """Take the place of the outputs; from within a test, for pytest puts its own there when one begins."""
        self.put("stdout", self.stdout)
        self.put("stderr", self.stderr)

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the last writer has closed it
                return
            with self._seen:
                self._stream.feed(data)
                self.raw += data.decode(errors="replace")
                self._seen.notify()

    @property
    def lines(self) -> list[str]:
        """The screen's lines that are not empty, once all that was written has arrived."""
        self._marks += 1
        mark = f"\x1b]2;{self._marks}\x07"  # sets the window's title: not seen on the screen
        os.write(self.stderr.fileno(), mark.encode())
        with self._seen:
            assert self._seen.wait_for(lambda: mark in self.raw, timeout=30)
            return [line.rstrip() for line in self._screen.display if line.strip()]

    @property
    def cursor(self) -> tuple[int, int]:
        """Row and column of the cursor."""
        assert self.lines is not None
        return self._screen.cursor.y, self._screen.cursor.x

    @property
    def display(self) -> list[str]:
        """All lines, as of the last look at `lines`."""
        return list(self._screen.display)

    def close(self) -> None:
        for stream in (self.stdout, self.stderr):
            if not stream.closed:
                stream.close()
        self._reader.join()
        os.close(self._master)


@pytest.fixture
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    made = Terminal(**getattr(request, "param", {}))
    made.put = partial(monkeypatch.setattr, sys)
    yield made
    monkeypatch.undo()
    made.close()


class Clock:
    """A clock that goes on by `step_s` each time it is looked at."""

    def __init__(self, step_s: float) -> None:
        self.now, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now += self.step_s
        return self.now


class Model(BoringModule):
    """Logs its losses for the bar."""

    def __init__(self, train: int = 4, val: int = 2) -> None:
        super().__init__(batches={"train": train, "val": val, "test": 3, "predict": 3})

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.log("a", float(batch_idx), prog_bar=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("b", 0.25, prog_bar=True)

    def test_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.loss(batch)


class Look(Callback):
    """Looks at the screen when a hook is called."""

    runs_after = (TQDMProgressBar,)
    position = "monitor"

    def __init__(self, terminal: Terminal, *hooks: str) -> None:
        self.seen: list[tuple[str, list[str]]] = []
        for hook in hooks:
            setattr(self, hook, lambda *args, hook=hook: self.seen.append((hook, terminal.lines)))


def make_trainer(terminal: Terminal, *callbacks: Callback, **settings: Any) -> Trainer:
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "logger": False, "discover_callbacks": False} | settings
    terminal.place()
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **options)


@pytest.fixture
def _always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second goes by whenever the bar looks at the clock: each batch draws."""
    monkeypatch.setattr(live_progress, "monotonic", Clock(1.0))


EPOCH = r"Epoch {}: +{}%\|.*\| {}/4 \[\d\d:\d\d<\S+, .*(it/s|s/it){}\]"


def matches(line: str, epoch: int, percent: int, done: int, metrics: str) -> bool:
    return re.fullmatch(EPOCH.format(epoch, percent, done, metrics), line) is not None


def test_one_line_is_left_of_a_fit(terminal: Terminal) -> None:
    bar = TQDMProgressBar()
    make_trainer(terminal, bar, max_epochs=2).fit(Model())
    (line,) = terminal.lines
    assert matches(line, 1, 100, 4, ", a=3.000, b=0.250")
    assert terminal.cursor == (1, 0)
    assert sys.stdout is terminal.stdout
    with pytest.raises(TypeError, match="has no bar of this stage now"):
        assert bar.train_progress_bar


@pytest.mark.usefixtures("_always_due")
def test_validation_has_a_bar_below_that_is_gone_afterwards(terminal: Terminal) -> None:
    look = Look(terminal, "on_train_batch_end", "on_validation_batch_end", "on_validation_end")
    make_trainer(terminal, TQDMProgressBar(), look, val_check_interval=2).fit(Model())
    assert [(hook, len(lines)) for hook, lines in look.seen] == [
        *[("on_train_batch_end", 1)] * 2,
        *[("on_validation_batch_end", 2)] * 2,
        ("on_validation_end", 1),
    ] * 2
    train, validation = look.seen[3][1]
    assert matches(train, 0, 50, 2, ", a=1.000")
    assert re.fullmatch(r"Validation: +100%\|█+\| 2/2 \[.*\]", validation)
    assert matches(look.seen[4][1][0], 0, 50, 2, ", a=1.000, b=0.250")


@pytest.mark.usefixtures("_always_due")
def test_several_validation_loaders(terminal: Terminal) -> None:
    class Several(Model):
        def val_dataloader(self) -> Any:
            return [DataLoader(RandomDataset(4, length), batch_size=2) for length in (2, 6)]

    look = Look(terminal, "on_validation_batch_end")
    make_trainer(terminal, TQDMProgressBar(), look).fit(Several())
    assert [re.sub(r"\|.*\| ", "", lines[1]).split(" [")[0] for _, lines in look.seen] == [
        "Validation DataLoader 0: 100%1/1",
        "Validation DataLoader 1:  33%1/3",
        "Validation DataLoader 1:  67%2/3",
        "Validation DataLoader 1: 100%3/3",
    ]


@pytest.mark.usefixtures("_always_due")
def test_sanity_check(terminal: Terminal) -> None:
    look = Look(terminal, "on_validation_batch_end", "on_sanity_check_end")
    make_trainer(terminal, TQDMProgressBar(), look, num_sanity_val_steps=1, max_steps=0).fit(Model())
    (_, during), (_, after) = look.seen
    assert re.fullmatch(r"Sanity Checking: 100%\|█+\| 1/1 \[.*\]", during[0])
    assert after == []


@pytest.mark.usefixtures("_always_due")
def test_loader_without_length(terminal: Terminal) -> None:
    class Endless(IterableDataset[Tensor]):
        def __iter__(self) -> Iterator[Tensor]:
            return iter(RandomDataset(4, 6).data)

    look = Look(terminal, "on_train_batch_end")
    make_trainer(terminal, TQDMProgressBar(), look, limit_val_batches=0).fit(
        Model(), DataLoader(Endless(), batch_size=2)
    )
    counts = [re.search(r"\| (\d/\S) \[\d\d:\d\d, ", lines[0]) for _, lines in look.seen]
    assert [count and count[1] for count in counts] == ["1/?", "2/?", "3/?"]


def test_what_is_printed_stands_above_the_bar(terminal: Terminal) -> None:
    class Talks(Model):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            if batch_idx == 1:
                self.trainer.print("from the", "trainer", sep="-")
                self.print("from the module")
                print("from ", end="")
                print("Python")
                print("from standard error", file=sys.stderr)
                sys.stdout.writelines(["two\n", "lines\n"])
                print("begun", end="")
            return super().training_step(batch, batch_idx)

    look = Look(terminal, "on_train_batch_end")
    make_trainer(terminal, TQDMProgressBar(), look, limit_val_batches=0).fit(Talks())
    said = ["from the-trainer", "from the module", "from Python", "from standard error", "two", "lines"]
    assert look.seen[1][1][:-1] == said
    assert look.seen[1][1][-1].startswith("Epoch 0:")
    assert terminal.lines[:6] == said
    assert terminal.lines[-1] == "begun"


def test_every_epoch_may_leave_its_bar(terminal: Terminal) -> None:
    make_trainer(terminal, TQDMProgressBar(leave=True), max_epochs=3, limit_val_batches=0).fit(Model())
    assert [line[:13] for line in terminal.lines[:3]] == ["Epoch 0: 100%", "Epoch 1: 100%", "Epoch 2: 100%"]


def test_other_entry_points_leave_their_bars(terminal: Terminal) -> None:
    trainer, model = make_trainer(terminal, TQDMProgressBar()), Model()
    trainer.validate(model, verbose=False)
    trainer.test(model, [DataLoader(RandomDataset(4, 2))] * 2, verbose=False)
    trainer.predict(model)
    assert [re.sub(r"\|.*\| ", " ", line).split(" [")[0] for line in terminal.lines] == [
        "Validation: 100% 2/2",
        "Testing DataLoader 0: 100% 2/2",
        "Testing DataLoader 1: 100% 2/2",
        "Predicting: 100% 3/3",
    ]


def test_at_most_ten_drawings_a_second(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(TQDMProgressBar):
        asked = 0

        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            self.asked += 1
            return super().get_metrics(trainer, pl_module)

    clock = Clock(0.01)  # looked at about once a step: a hundred steps a second
    monkeypatch.setattr(live_progress, "monotonic", clock)
    bar = Asked()
    make_trainer(terminal, bar, limit_val_batches=0).fit(Model(train=1000))
    seconds = clock.now
    assert 5 <= seconds <= 15
    assert 0.7 * 10 * seconds <= bar.asked <= 10 * seconds + 2
    assert terminal.lines is not None
    assert terminal.raw.count("\rEpoch 0:") <= bar.asked + 5


@pytest.mark.usefixtures("_always_due")
def test_refresh_rate_counts_batches(terminal: Terminal) -> None:
    look = Look(terminal, "on_train_batch_end")
    make_trainer(terminal, TQDMProgressBar(refresh_rate=3), look, limit_val_batches=0).fit(Model(train=8))
    counts = [re.search(r"\| (\d)/8", lines[0]) for _, lines in look.seen]
    assert [count and int(count[1]) for count in counts] == [1, 1, 1, 4, 4, 4, 7, 7]
    assert "| 8/8 [" in terminal.lines[0]


@pytest.mark.parametrize("way", ["refresh_rate", "disable", "rank"])
def test_bar_that_is_off_writes_nothing(terminal: Terminal, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bar = TQDMProgressBar(refresh_rate=0 if way == "refresh_rate" else 1)
    trainer = make_trainer(terminal, bar)
    if way == "disable":
        bar.disable()
    elif way == "rank":
        monkeypatch.setattr(type(trainer.strategy), "is_global_zero", False)
    trainer.fit(Model())
    assert bar.is_disabled
    assert not any("%|" in line for line in terminal.lines)


def test_bars_of_several_processes_in_one_terminal(terminal: Terminal) -> None:
    look = Look(terminal, "on_train_epoch_end")
    rows: list[int] = []

    def find(*args: Any) -> None:
        assert len(terminal.lines) == 1
        rows.extend(row for row, line in enumerate(terminal.display) if "Epoch" in line)

    look.on_train_batch_end = find  # type: ignore[method-assign,assignment]
    make_trainer(terminal, TQDMProgressBar(process_position=2), look, limit_val_batches=0).fit(Model())
    assert rows == [4] * 4


def test_resumed_within_an_epoch_the_rate_is_that_of_this_process(terminal: Terminal, tmp_path: Path) -> None:
    class SaveAtTwo(Callback):
        def on_train_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 1:
                trainer.save_checkpoint(tmp_path / "two.ckpt")

    class Initial(Callback):
        seen: Any = None

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self.seen = bar.train_progress_bar.initial, batch_idx + 1

    make_trainer(terminal, SaveAtTwo()).fit(Model())
    bar, initial = TQDMProgressBar(), Initial()
    initial.position = "checkpoint"
    make_trainer(terminal, bar, initial).fit(Model(), ckpt_path=tmp_path / "two.ckpt")
    assert initial.seen == (2, 4)
    assert any("| 4/4 [" in line for line in terminal.lines)


def test_resumed_after_an_epoch_the_next_one_is_shown(terminal: Terminal, tmp_path: Path) -> None:
    class SaveAtEnd(Callback):
        position = "checkpoint"

        def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "end.ckpt")

    make_trainer(terminal, SaveAtEnd()).fit(Model())
    make_trainer(terminal, TQDMProgressBar(leave=True), max_epochs=3).fit(Model(), ckpt_path=tmp_path / "end.ckpt")
    assert [line[:13] for line in terminal.lines] == ["Epoch 1: 100%", "Epoch 2: 100%"]


def test_output_that_fails_switches_the_bar_off_and_training_goes_on(terminal: Terminal) -> None:
    class FillDisk(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                terminal.stdout.write = fail  # type: ignore[method-assign]

    def fail(text: str) -> int:
        raise OSError(28, "No space left on device")

    bar = TQDMProgressBar()
    trainer = make_trainer(terminal, bar, FillDisk(), max_epochs=2)
    with pytest.warns(
        UserWarning, match=r"TQDMProgressBar is switched off, the run goes on: .* OSError: .*No space left"
    ):
        trainer.fit(Model())
    assert trainer.global_step == 8
    assert bar.is_disabled
    assert sys.stdout is terminal.stdout


def test_output_that_is_closed_is_left_alone(terminal: Terminal) -> None:
    class CloseOutput(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 1:
                terminal.stdout.close()

    trainer = make_trainer(terminal, TQDMProgressBar(), CloseOutput(), max_epochs=2, limit_val_batches=0)
    trainer.fit(Model())
    assert trainer.global_step == 8


def test_exception_gives_the_output_back(terminal: Terminal) -> None:
    class Fails(Model):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            if batch_idx == 2:
                raise RuntimeError("no more")
            return super().training_step(batch, batch_idx)

    with pytest.raises(RuntimeError, match="no more"):
        make_trainer(terminal, TQDMProgressBar()).fit(Fails())
    assert sys.stdout is terminal.stdout
    assert sys.stderr is terminal.stderr
    assert terminal.cursor == (1, 0)


@pytest.mark.parametrize("terminal", [{"size": (0, 0), "columns": 80}, {"size": (0, 100)}], indirect=True)
def test_terminal_that_tells_no_size(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    make_trainer(terminal, TQDMProgressBar(), limit_val_batches=0).fit(Model())
    assert terminal.lines[0].startswith("Epoch 0: 100%|█")


def test_no_thread_is_left_behind_and_none_begun(terminal: Terminal) -> None:
    threads = threading.active_count()
    counts: list[int] = []
    watch = Look(terminal)
    watch.on_train_batch_end = lambda *args: counts.append(threading.active_count())  # type: ignore[method-assign]
    make_trainer(terminal, TQDMProgressBar(), watch).fit(Model())
    assert counts == [threads] * 4


@pytest.mark.usefixtures("_always_due")
def test_bars_that_a_subclass_makes(terminal: Terminal) -> None:
    class Own(TQDMProgressBar):
        BAR_FORMAT = "{l_bar}{n_fmt}{postfix}"

        def init_validation_tqdm(self) -> Any:
            made = super().init_validation_tqdm()
            made.set_description("checking")
            return made

        def get_metrics(self, trainer: Any, pl_module: Any) -> Any:
            return {"lr": 0.5, "host": "n1"}

    look = Look(terminal, "on_validation_batch_end")
    bar = Own()
    make_trainer(terminal, bar, look).fit(Model(val=1))
    assert look.seen[0][1] == ["Epoch 0: 100%|4, lr=0.500, host=n1", "checking: 100%|1"]
    assert bar.main_progress_bar if bar._display else True


def test_every_wrong_argument_is_named() -> None:
    arguments: dict[str, Any] = {"process_position": -1, "refresh_rate": 1.5, "leave": 1}
    with pytest.raises(MisconfigurationException) as caught:
        TQDMProgressBar(**arguments)
    assert [line.split("(")[1].split("=")[0] for line in str(caught.value).splitlines()] == list(arguments)
