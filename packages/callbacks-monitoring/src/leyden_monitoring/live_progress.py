"""When a progress bar draws: driven by hooks, held to ten times a second, never able to stop a training."""

from __future__ import annotations

import builtins
import contextlib
import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, ClassVar, TextIO

from leyden.arguments import check_arguments, is_count
from leyden.rank_zero import rank_zero_warn
from leyden_monitoring.display import (
    Display,
    PlainLines,
    Stage,
    format_metric,
    output_is_terminal,
    running_in_notebook,
)
from leyden_monitoring.progress_base import ProgressBar

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["LiveProgressBar"]


class _Pace:
    """When the stage at hand is drawn next; without a stage, never."""

    __slots__ = ("began", "due", "is_first", "show_at", "stage")

    def __init__(
        self,
        stage: Stage | None = None,
        *,
        is_first: bool = False,
        due: float = math.inf,
        show_at: int | float = math.inf,
        began: float = 0.0,
    ) -> None:
        self.stage = stage
        self.is_first = is_first  # no batch was seen yet
        self.due = due  # `monotonic()` before which nothing is drawn
        self.show_at = show_at  # number of batches before which nothing is drawn
        self.began = began


class LiveProgressBar(ProgressBar):
    """The base of bars that redraw in place; a subclass says with which `Display`.

    A step that draws nothing costs two comparisons; metrics are fetched only when something is drawn. Where the output
    is no terminal there are plain lines instead. A display that fails (a closed output, a full disk behind a pipe) is
    switched off with one warning, and the training goes on.

    Args:
        refresh_rate: Draw at most every this many batches; 0 switches the bar off.
    """

    draws: ClassVar[bool] = True

    # Defaults of the class, so that a subclass which forgets `super().__init__()` works.
    _refresh_rate = 1
    _display: Display | None = None
    _in_fit = False
    _training: _Pace | None = None
    """That of the training epoch while one is running, validations inside it included."""

    def __init__(self, refresh_rate: int = 1) -> None:
        super().__init__()
        check_arguments(
            type(self).__name__, ("refresh_rate", refresh_rate, is_count(refresh_rate), "a number of batches >= 0")
        )
        self._refresh_rate = refresh_rate
        self._pace = _Pace()

    @abstractmethod
    def make_display(self) -> Display:
        """Return the display to draw on a terminal or in a notebook; called when a run first has something to show."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = vars(self).copy()
        state.pop("_display", None)  # holds the output
        return state

    @property
    def refresh_rate(self) -> int:
        """Batches between two drawings, at least; 0 is off."""
        return self._refresh_rate

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

    def _begin(self, stage: Stage, text: str, total: int | float) -> None:
        self._pace = _Pace()
        if self.is_disabled:
            return
        if self._display is None:
            interactive = output_is_terminal(sys.stdout) or running_in_notebook()
            self._display = self.make_display() if interactive else PlainLines()
        # The first batch is always looked at: it tells where a resumed epoch goes on.
        self._pace = _Pace(stage, is_first=True, due=0.0, show_at=0, began=monotonic())
        nested = self._in_fit and stage != "train"
        self._draw(lambda display: display.begin(stage, text, total, nested=nested))

    def _advance(self, done: int) -> None:
        """Draw: called by a batch that found itself due."""
        if self._pace.stage is None:
            self._begin_epoch(self.trainer)
        pace, display, stage = self._pace, self._display, self._pace.stage
        if stage is None or display is None:
            return
        if pace.is_first:
            pace.is_first, pace.due = False, pace.began + display.interval_s
            if done > 1:
                display.rebase(stage, done - 1)
            if monotonic() < pace.due:
                return
        metrics = self._metrics(stage)
        self._draw(lambda display: display.show(stage, done, metrics))
        pace.show_at, pace.due = done + self._refresh_rate, monotonic() + display.interval_s

    def _end(self, done: int) -> None:
        stage, self._pace = self._pace.stage, _Pace()
        if stage is not None and self._display is not None:
            metrics = self._metrics(stage)
            self._draw(lambda display: display.end(stage, done, metrics))

    def _close(self) -> None:
        self._draw(lambda display: display.close())
        self._display, self._pace, self._training = None, _Pace(), None

    def _metrics(self, stage: Stage) -> Mapping[str, str]:
        if stage != "train":  # an evaluation's metrics are known when it is over, and then in the training's bar
            return {}
        trainer = self.trainer
        metrics = self.get_metrics(trainer, trainer.lightning_module)
        return {name: format_metric(value) for name, value in metrics.items()}

    def _draw(self, action: Callable[[Display], None]) -> None:
        if self._display is None:
            return
        try:
            action(self._display)
        except Exception as error:  # whatever goes wrong with an output, the training is worth more
            display, self._display, self._enabled = self._display, None, False
            with contextlib.suppress(Exception):
                display.close()
            rank_zero_warn(
                f"{type(self).__name__} is switched off, the run goes on: drawing failed with "
                f"{type(error).__name__}: {error}"
            )

    def _next_loader(
        self, stage: Stage, description: str, totals: Sequence[int | float], dataloader_idx: int, done: int
    ) -> None:
        """Go from a loader of which `done` batches were run to the next."""
        if self._current_dataloader_idx is not None:
            self._end(done)
        self._current_dataloader_idx = dataloader_idx
        text = description if len(totals) == 1 else f"{description} DataLoader {dataloader_idx}"
        self._begin(stage, text, totals[dataloader_idx])

    # -- hooks -----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._in_fit, self._pace, self._training = stage == "fit", _Pace(), None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A run that is resumed within an epoch does not start it again: its first batch then opens the bar.
        self._pace = _Pace(due=0.0, show_at=0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_start(trainer, pl_module)
        self._begin_epoch(trainer)

    def _begin_epoch(self, trainer: Trainer) -> None:
        self._begin("train", f"Epoch {trainer.current_epoch}", self.total_train_batches)
        self._training = self._pace

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._train_batch_idx = done = batch_idx + 1
        pace = self._pace
        if done >= pace.show_at and monotonic() >= pace.due:
            self._advance(done)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._training = None
        self._end(self._train_batch_idx)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._close()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx != self._current_dataloader_idx:
            sanity = trainer.sanity_checking
            self._next_loader(
                "sanity" if sanity else "validate",
                self.sanity_check_description if sanity else self.validation_description,
                trainer.num_sanity_val_batches if sanity else trainer.num_val_batches,
                dataloader_idx,
                self._val_batch_idx,
            )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._val_batch_idx = done = batch_idx + 1
        pace = self._pace
        if done >= pace.show_at and monotonic() >= pace.due:
            self._advance(done)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(self._val_batch_idx)
        if self._training is not None:
            self._pace = self._training
            if self._display is not None and self._display.redraws and monotonic() >= self._pace.due:
                self._advance(self._train_batch_idx)  # there are new metrics to show

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx != self._current_dataloader_idx:
            totals = trainer.num_test_batches
            self._next_loader("test", self.test_description, totals, dataloader_idx, self._test_batch_idx)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._test_batch_idx = done = batch_idx + 1
        pace = self._pace
        if done >= pace.show_at and monotonic() >= pace.due:
            self._advance(done)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(self._test_batch_idx)

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if dataloader_idx != self._current_dataloader_idx:
            totals = trainer.num_predict_batches
            self._next_loader("predict", self.predict_description, totals, dataloader_idx, self._predict_batch_idx)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        self._predict_batch_idx = done = batch_idx + 1
        pace = self._pace
        if done >= pace.show_at and monotonic() >= pace.due:
            self._advance(done)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end(self._predict_batch_idx)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()
