"""The progress bar made of tqdm's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from leyden.arguments import check_arguments, is_count
from leyden_monitoring.display import Display, Stage, running_in_notebook
from leyden_monitoring.live_progress import LiveProgressBar

if TYPE_CHECKING:
    from tqdm import tqdm

    from leyden_monitoring.tqdm_display import TQDMDisplay

__all__ = ["TQDMProgressBar"]


class TQDMProgressBar(LiveProgressBar):
    """Shows each epoch's batches, rate, remaining time and metrics by tqdm; validations in a bar below.

    It redraws at most ten times a second. Where the output is no terminal (a pipe, a file, a job's log) it writes one
    plain line an epoch. To change a bar, override `init_train_tqdm` and its likes; to change metrics, `get_metrics`.

    Args:
        refresh_rate: Draw at most every this many batches; 0 switches the bar off.
        process_position: How many pairs of lines to leave free above, for bars of other processes in one terminal.
        leave: Leave each epoch's bar on the screen instead of starting over in its place.

    Example:
        >>> TQDMProgressBar(refresh_rate=10).is_enabled
        True
        >>> TQDMProgressBar(refresh_rate=-1, leave="yes")
        Traceback (most recent call last):
        leyden.errors.MisconfigurationException: TQDMProgressBar(refresh_rate=-1): expected a number of batches >= 0.
        TQDMProgressBar(leave='yes'): expected True or False.
    """

    BAR_FORMAT: ClassVar[str] = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"

    _process_position = 0

    def __init__(self, refresh_rate: int = 1, process_position: int = 0, leave: bool = False) -> None:
        check_arguments(
            type(self).__name__,
            ("process_position", process_position, is_count(process_position), "a number of lines >= 0"),
            *self.checks(refresh_rate, leave),
        )
        super().__init__(refresh_rate, leave)
        self._process_position = process_position

    @property
    def process_position(self) -> int:
        """Pairs of lines left free above the bars."""
        return self._process_position

    def can_redraw(self) -> bool:
        return super().can_redraw() or running_in_notebook(with_widgets=True)

    def make_display(self) -> Display:
        from leyden_monitoring.tqdm_display import TQDMDisplay

        return TQDMDisplay(self)

    @property
    def train_progress_bar(self) -> tqdm[Any]:
        """The bar of training; a `TypeError` while there is none."""
        return self._bar("train")

    @property
    def val_progress_bar(self) -> tqdm[Any]:
        """The bar of the validation or sanity check at hand; a `TypeError` while there is none."""
        return self._bar("sanity" if self._pace.stage == "sanity" else "validate")

    @property
    def test_progress_bar(self) -> tqdm[Any]:
        """The bar of the test; a `TypeError` while there is none."""
        return self._bar("test")

    @property
    def predict_progress_bar(self) -> tqdm[Any]:
        """The bar of the prediction; a `TypeError` while there is none."""
        return self._bar("predict")

    @property
    def main_progress_bar(self) -> tqdm[Any]:
        """`train_progress_bar` by its older name."""
        return self.train_progress_bar

    def init_train_tqdm(self) -> tqdm[Any]:
        """Make the bar of training."""
        return self._make_bar(self.train_description, leave=True)

    def init_sanity_tqdm(self) -> tqdm[Any]:
        """Make the bar of the sanity check."""
        return self._make_bar(self.sanity_check_description, leave=False)

    def init_validation_tqdm(self) -> tqdm[Any]:
        """Make the bar of a validation: below that of training, and gone when it is over, where there is one."""
        return self._make_bar(self.validation_description, leave=not self._in_fit, below=self._in_fit)

    def init_test_tqdm(self) -> tqdm[Any]:
        """Make the bar of a test."""
        return self._make_bar(self.test_description, leave=True)

    def init_predict_tqdm(self) -> tqdm[Any]:
        """Make the bar of a prediction."""
        return self._make_bar(self.predict_description, leave=True)

    def _make_bar(self, text: str, *, leave: bool, below: bool = False) -> tqdm[Any]:
        from leyden_monitoring.tqdm_display import new_bar

        position = 2 * self._process_position + below
        return new_bar(text, position=position, leave=leave, disable=self.is_disabled, bar_format=self.BAR_FORMAT)

    def _bar(self, stage: Stage) -> tqdm[Any]:
        display: TQDMDisplay | None = self._display if hasattr(self._display, "bars") else None  # type: ignore[assignment]
        if display is None or stage not in display.bars:
            raise TypeError(
                f"{type(self).__name__} has no bar of this stage now: there is one only while the stage runs, the "
                "bar is "
                "enabled and the output is a terminal or notebook."
            )
        return display.bars[stage]
