"""When a progress bar draws: driven by hooks, held to ten times a second, never able to stop a training."""

from __future__ import annotations

import builtins
import contextlib
import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from leyden.arguments import check_arguments, is_count
from leyden.rank_zero import rank_zero_warn
from leyden.seed import isolate_rng
from leyden_monitoring.display import (
    Display,
    PlainLines,
    Stage,
    Stretch,
    encodable,
    format_metric,
    output_is_terminal,
)
from leyden_monitoring.progress_base import ProgressBar

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["LiveProgressBar"]

# The time between two drawings is at least this many times what the last one took, so that drawing never takes more
# than a fiftieth of a run: a bar of rich takes 2 ms to draw, a terminal at the end of a slow line any time.
_PAUSE_PER_DRAWING = 50

# A look at the clock takes some 3 µs between the steps of a training, whose code has the caches for itself. Fast steps
# look every so many batches, which is how late a drawing may be where steps become slow all at once; a line a minute
# may be later.
_BATCHES_PER_LOOK = 16
_BATCHES_PER_LOOK_FOR_LINES = 64


class _Pace:
    """The bar of the stage at hand, and at which batch it is looked at again; without a stage, never."""

    __slots__ = ("last_batch", "last_look", "look_at", "most_batches", "stage", "waiting")

    def __init__(
        self,
        stage: Stage | None = None,
        done: float = math.inf,
        waiting: Stretch | None = None,
        *,
        most_batches: int = _BATCHES_PER_LOOK,
    ) -> None:
        self.stage = stage
        self.most_batches = most_batches  # from one look to the next
        self.waiting = waiting  # to begin when something is next drawn
        self.look_at, self.last_batch, self.last_look = done + 1, done, math.inf if stage is None else monotonic()

    def look(self, done: int, due: float) -> bool:
        """Whether it is due; if not, say from its pace when to look again: before half of the time is over."""
        now = monotonic()
        if now >= due:
            return True
        per_batch = (now - self.last_look) / (done - self.last_batch) if done > self.last_batch else math.inf
        batches = min(self.most_batches, (due - now) / 2 / per_batch) if per_batch > 0 else self.most_batches
        self.look_at, self.last_batch, self.last_look = done + max(1, int(batches)), done, now
        return False

    def drawn(self, done: int, refresh_rate: int) -> float:
        """Note that it was drawn, `refresh_rate` batches before the next time; return the time."""
        self.look_at, self.last_batch, self.last_look = done + refresh_rate, done, monotonic()
        return self.last_look


class LiveProgressBar(ProgressBar):
    """The base of bars that redraw in place; a subclass says with which `Display`.

    A training step that draws nothing costs nothing, but for a look at the clock every sixteen of them; metrics are
    fetched only when something is drawn, at most ten times a second and for at most a fiftieth of the time. Where the
    output is no terminal there are plain lines instead. A display that fails (a closed output, a full disk behind a
    pipe) is switched off with one warning, and the training goes on.

    Args:
        refresh_rate: Draw at most every this many batches; 0 switches the bar off.
        leave: Leave each epoch's bar on the screen instead of starting over in its place.
    """

    draws: ClassVar[bool] = True

    # Defaults of the class, so that a subclass which forgets `super().__init__()` works.
    _refresh_rate = 1
    _leave = False
    _display: Display | None = None
    _due = 0.0
    """When something may be drawn again, by the clock `monotonic`."""
    _in_fit = False
    _training: _Pace | None = None
    """That of the training epoch while one is running, validations inside it included."""
    _undrawn: tuple[_Pace, int] | None = None
    """An epoch that ended too soon after a drawing, and its number of batches; the run's last one is drawn yet."""

    def __init__(self, refresh_rate: int = 1, leave: bool = False) -> None:
        super().__init__()
        check_arguments(type(self).__name__, *self.checks(refresh_rate, leave))
        self._refresh_rate = refresh_rate
        self._leave = leave
        self._pace = _Pace()

    @staticmethod
    def checks(refresh_rate: object, leave: object) -> tuple[tuple[str, object, bool, str], ...]:
        """Return what `check_arguments` takes, for a subclass that has more to check at once."""
        return (
            ("refresh_rate", refresh_rate, is_count(refresh_rate), "a number of batches >= 0"),
            ("leave", leave, isinstance(leave, bool), "True or False"),
        )

    @abstractmethod
    def make_display(self) -> Display:
        """Return the display to draw on a terminal or in a notebook; called when a run first has something to show."""
        raise NotImplementedError

    def can_redraw(self) -> bool:
        """Whether the output is one that `make_display` can draw on; if not, there are plain lines."""
        return output_is_terminal(sys.stdout)

    def format_metric(self, value: object) -> str:
        """Return the text that stands for a metric's value."""
        return format_metric(value)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = vars(self).copy()
        state.pop("_display", None)  # holds the output
        return state

    @property
    def refresh_rate(self) -> int:
        """Batches between two drawings, at least; 0 is off."""
        return self._refresh_rate

    @property
    def leave(self) -> bool:
        """Whether each epoch leaves its bar on the screen."""
        return self._leave

    @property
    def is_enabled(self) -> bool:
        return self._enabled and self._refresh_rate > 0

    def disable(self) -> None:
        super().disable()
        self._close()

    def print(
        self,
        *args: Any,
        sep: str = " ",
        end: str = "\n",
        file: TextIO | None = None,
        flush: bool = False,
        nolock: bool = False,
        **kwargs: Any,
    ) -> None:
        """Print as the built-in does, above the bars where there are any; `nolock`, of 1.x, has no effect."""
        if self._display is None:
            builtins.print(*args, sep=sep, end=end, file=file, flush=flush, **kwargs)
            return
        stream = sys.stdout if file is None else file
        self._display.write(sep.join(map(str, args)) + end, stream)
        if flush:
            stream.flush()

    # -- drawing ---------------------------------------------------------------------------------------------------

    def _begin(self, stage: Stage, text: str, total: int | float, done: int = 0) -> None:
        """Show a bar, `done` batches of which an earlier process did; or have it wait where one was just drawn."""
        self._pace, self._undrawn = _Pace(), None
        if self.is_disabled:
            return
        if self._display is None:
            with isolate_rng():  # the import of rich draws a random number
                self._display = self.make_display() if self.can_redraw() else PlainLines()
            self._due = 0.0 if self._display.redraws else monotonic() + self._display.interval_s
        nested = self._in_fit and stage != "train"
        stretch = Stretch(stage, encodable(text, sys.stdout), total, done, nested)
        if self._may_wait(stage):
            self._pace = _Pace(stage, done, stretch)
        elif self._draw(lambda display: self._begin_on(display, stretch)):
            rare = not self._display.redraws
            self._pace = _Pace(stage, done, most_batches=_BATCHES_PER_LOOK_FOR_LINES if rare else _BATCHES_PER_LOOK)
            if not nested or self._display.redraws:
                self._due = monotonic() + self._display.interval_s

    def _may_wait(self, stage: Stage) -> bool:
        """Whether nobody misses a drawing: the next one replaces it, and the last one was a moment ago."""
        stays = not self._in_fit or (stage == "train" and self._leave)
        return not stays and self._display is not None and self._display.redraws and monotonic() < self._due

    def _advance(self, done: int) -> None:
        """Draw: called by a batch that found itself due."""
        pace, display, stage = self._pace, self._display, self._pace.stage
        if stage is None or display is None:
            return
        began = perf_counter()
        metrics = self._metrics(stage)
        self._draw(lambda display: self._begun(pace, display).show(stage, done, metrics))
        pause_s = max(display.interval_s, _PAUSE_PER_DRAWING * (perf_counter() - began))
        self._due = pace.drawn(done, self._refresh_rate) + pause_s

    def _begin_on(self, display: Display, stretch: Stretch) -> None:
        training = self._training
        if stretch.nested and training is not None and training.stage is not None and display.redraws:
            # While it is validated, the bar of training shows where that stands.
            self._begun(training, display).show(training.stage, self.train_batch_idx, self._metrics(training.stage))
        display.begin(stretch)

    def _begun(self, pace: _Pace, display: Display) -> Display:
        if pace.waiting is not None:
            stretch, pace.waiting = pace.waiting, None
            self._begin_on(display, stretch)
        return display

    def _end(self, done: int) -> None:
        pace, self._pace = self._pace, _Pace()
        if pace.stage == "train" and self._may_wait("train"):
            self._undrawn = pace, done
        elif pace.waiting is None or not pace.waiting.nested:  # else it was too short to be seen
            self._draw_end(pace, done)

    def _draw_end(self, pace: _Pace, done: int) -> None:
        stage = pace.stage
        if stage is not None and self._display is not None:
            metrics = self._metrics(stage)
            self._draw(lambda display: self._begun(pace, display).end(stage, done, metrics))

    def _close(self) -> None:
        self._draw(lambda display: display.close())
        self._display, self._pace, self._training, self._undrawn = None, _Pace(), None, None

    def _metrics(self, stage: Stage) -> Mapping[str, str]:
        if stage != "train":  # an evaluation's metrics are known when it is over, and then in the training's bar
            return {}
        trainer = self.trainer
        metrics = self.get_metrics(trainer, trainer.lightning_module)
        out = sys.stdout
        return {encodable(name, out): encodable(self.format_metric(value), out) for name, value in metrics.items()}

    def _draw(self, action: Callable[[Display], None]) -> bool:
        """Have the display do something; return whether it is there and could."""
        if self._display is None:
            return False
        try:
            action(self._display)
        except Exception as error:  # whatever goes wrong with an output, the training is worth more
            display, self._display, self._enabled = self._display, None, False
            self._pace = _Pace()
            with contextlib.suppress(Exception):
                display.close()
            rank_zero_warn(
                f"{type(self).__name__} is switched off, the run goes on: drawing failed with "
                f"{type(error).__name__}: {error}"
            )
            return False
        return True

    # -- hooks -----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._in_fit, self._pace, self._training = stage == "fit", _Pace(), None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        fit = trainer.fit_loop
        if fit.epoch_started and fit.pending != "epoch":  # resumed within an epoch, which is not started again
            self._begin_epoch(trainer, fit.batches_done)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._begin_epoch(trainer)

    def _begin_epoch(self, trainer: Trainer, done: int = 0) -> None:
        self._begin("train", f"Epoch {trainer.current_epoch}", self.total_train_batches, done)
        self._training = self._pace
        self._look_after(trainer, self._pace.look_at)

    def _look_after(self, trainer: Trainer, batches: float) -> None:
        # No hook of every batch: with the outputs that the trainer makes for one, it takes 5 % of a small step.
        if self._training is not None and self._training.stage is not None:
            look = trainer.guarded(self, "look", lambda done: self._look(done, trainer.fit_loop.call_after, look))
            trainer.fit_loop.call_after(int(batches), look)

    def _look(self, done: int, call_after: Callable[[int, Any], None], again: Any) -> None:
        pace = self._training
        if pace is None or pace.stage is None:
            return
        if pace.look(done, self._due):
            self._advance(done)
        call_after(int(pace.look_at), again)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._training = None
        self._end(self._train_batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._undrawn is not None:
            self._draw_end(*self._undrawn)
        self._close()

    def _evaluation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx == self._current_dataloader_idx:
            return
        if self._current_dataloader_idx is not None:
            self._end(self._evaluated[self._evaluation])
        self._current_dataloader_idx = dataloader_idx
        stage, text, totals = self._evaluated_now(trainer)
        text = text if len(totals) == 1 else f"{text} DataLoader {dataloader_idx}"
        # An evaluation that a resumed run goes on with begins at a later batch.
        self._begin(stage, text, totals[dataloader_idx], batch_idx)

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _evaluation_batch_start

    def _evaluation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._evaluated[self._evaluation] = done = batch_idx + 1
        if done >= self._pace.look_at and self._pace.look(done, self._due):
            self._advance(done)

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _evaluation_batch_end

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_start(trainer, pl_module)
        if self._training is not None and monotonic() >= self._due:
            self._advance(self.train_batch_idx)  # to the batch that ended before it

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._pace is not self._training:  # as it is where a run goes on behind the last batch of a validation
            self._end(self._evaluated["validate"])
        if self._training is not None:
            self._pace = self._training
            if self._display is not None and self._display.redraws and monotonic() >= self._due:
                self._advance(self.train_batch_idx)  # there are new metrics to show

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(self._evaluated["test"])

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(self._evaluated["predict"])

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()

    def _evaluated_now(self, trainer: Trainer) -> tuple[Stage, str, list[int | float]]:
        """Return stage, text and batches per loader of the evaluation at hand."""
        if trainer.sanity_checking:
            return "sanity", self.sanity_check_description, trainer.num_sanity_val_batches
        if self._evaluation == "validate":
            return "validate", self.validation_description, trainer.num_val_batches
        if self._evaluation == "test":
            return "test", self.test_description, trainer.num_test_batches
        return "predict", self.predict_description, trainer.num_predict_batches
