"""Which loggers a Trainer gets for its `logger` argument."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from leyden.errors import MisconfigurationException, with_article
from leyden.loggers.csv_logs import CSVLogger
from leyden.loggers.logger import Logger

__all__ = ["DummyLogger", "choose_loggers"]


class _Nothing:
    """Takes any call and any attribute and does nothing."""

    def __getattr__(self, name: str) -> _Nothing:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        return self


class DummyLogger(Logger):
    """Stands in for the loggers under `fast_dev_run`: ``self.logger.experiment`` takes anything, nothing is written.

    Example:
        >>> DummyLogger().experiment.add_scalar("loss", 0.1) is None
        False
    """

    @property
    def name(self) -> str:
        return "dummy"

    @property
    def version(self) -> str:
        return "dummy"

    @property
    def experiment(self) -> Any:
        """Takes whatever is called on it."""
        return _Nothing()

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Drop them."""

    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Drop them."""


def choose_loggers(logger: Any, root_dir: str, *, off: bool, dummy: bool) -> list[Logger]:
    """Return the loggers that the Trainer's `logger` asks for: a `CSVLogger` for None and True, none for False.

    The default does not depend on what is installed: a run writes the same files wherever it runs, and whoever reads
    them finds them. TensorBoard's files are asked for by ``logger=TensorBoardLogger(...)``.

    Args:
        off: no loggers at all, whatever is the default (barebones).
        dummy: stand-ins instead of what would write (fast_dev_run).
    """
    if off:
        if logger:
            raise MisconfigurationException(
                f"Trainer(barebones=True, logger={logger!r}): barebones logs nothing; leave the logger out."
            )
        return []
    if logger is False:
        return []
    if logger is None or logger is True:
        return [DummyLogger()] if dummy else [CSVLogger(root_dir)]
    given = list(logger) if isinstance(logger, Iterable) and not isinstance(logger, str | bytes) else [logger]
    for one in given:
        if not isinstance(one, Logger):
            raise MisconfigurationException(
                f"Trainer(logger={logger!r:.80}): expected a Logger, a list of them, True, False or None, but "
                f"{one!r:.80} is {with_article(type(one).__name__)}."
            )
    return [DummyLogger() for _ in given] if dummy else given
