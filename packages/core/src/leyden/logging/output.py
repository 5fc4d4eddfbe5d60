"""What loggers get: rows of steps and of epochs, and the results of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.logging.metrics import to_floats
from leyden.logging.records import Key, Record

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["epoch_row", "fresh_row", "results_of", "save_loggers", "write_row"]


def fresh_row(records: Mapping[Key, Record]) -> dict[str, float | Tensor]:
    """Return values for steps that no logger has seen yet; seen from now on."""
    values: dict[str, float | Tensor] = {}
    for record in records.values():
        if record.fresh and record.traits.on_step:
            record.fresh = False
            if not record.traits.to_logger or record.latest is None:
                continue
            if not record.shares or record.kind == "metric":
                values[record.traits.step_name] = record.latest
            elif record.of_all_latest is not None and record.count == record.shared_count:
                values[record.traits.step_name] = record.of_all_latest[0]
    return values


def epoch_row(records: Mapping[Key, Record], values: Mapping[Key, Tensor]) -> dict[str, Tensor]:
    """Return what loggers get of an epoch's values, under the names they have there."""
    return {records[k].traits.epoch_name: v for k, v in values.items() if records[k].traits.to_logger}


def results_of(records: Mapping[Key, Record], numbers: Mapping[Key, float]) -> list[dict[str, float]]:
    """Return one dict per dataloader; what was logged for none of them is in each."""
    indices = sorted({key[2] for key in numbers if key[2] is not None})
    results: list[dict[str, float]] = [{} for _ in range((indices[-1] + 1) if indices else 1)]
    for key, number in numbers.items():
        record = records[key]
        if record.traits.to_logger:
            for index, result in enumerate(results):
                if key[2] is None or key[2] == index:
                    result[record.traits.epoch_name] = number
    return results


def write_row(trainer: Trainer, values: Mapping[str, Any], step: int, *, epoch: bool) -> None:
    """Give `values` to all loggers, at `step` unless one of them is named so; with `epoch` the epoch is beside them."""
    loggers = trainer.loggers
    if not values or not loggers:
        return
    numbers = to_floats(values)
    step = int(numbers.pop("step", step))  # a metric named "step" chooses the x axis
    if epoch:
        numbers.setdefault("epoch", trainer.current_epoch)
    for logger in loggers:
        logger.log_metrics(dict(numbers), step=step)


def save_loggers(trainer: Trainer) -> None:
    """Have all loggers write what they hold back."""
    for logger in trainer.loggers:
        logger.save()
