"""What ``configure_optimizers`` may return, read into optimizers and scheduler settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from leyden.errors import MisconfigurationException, did_you_mean
from leyden.rank_zero import rank_zero_warn

__all__ = ["LRSchedulerConfig", "read_optimizers"]

_FORMS = (
    "an Optimizer; a list of them; a pair of lists (optimizers, schedulers); a dict with the keys 'optimizer' and, if "
    "wanted, "
    "'lr_scheduler' and 'monitor'; a list of such dicts; or None for no optimizer"
)


@dataclass(slots=True)
class LRSchedulerConfig:
    """A learning-rate scheduler and when it steps.

    Attributes:
        scheduler: anything with ``step``, ``state_dict`` and ``load_state_dict``.
        interval: "epoch" or "step" (optimizer steps).
        frequency: steps once every so many intervals, at least 1.
        reduce_on_plateau: steps with the value of `monitor`.
        strict: a missing `monitor` is an error; else a warning and no step.
    """

    scheduler: Any
    name: str | None = None
    interval: str = "epoch"
    frequency: int = 1
    reduce_on_plateau: bool = False
    monitor: str | None = None
    strict: bool = True

    def __post_init__(self) -> None:
        scheduler = self.scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            self.reduce_on_plateau = True
        if not isinstance(scheduler, LRScheduler) and not all(
            callable(getattr(scheduler, method, None)) for method in ("step", "state_dict", "load_state_dict")
        ):
            raise _nonsense(f"the scheduler {_seen(scheduler)} has no step, state_dict and load_state_dict")
        if self.interval not in ("epoch", "step"):
            raise _nonsense(f"the scheduler's interval is {self.interval!r}; expected 'epoch' or 'step'")
        frequency: Any = self.frequency
        if not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1:
            raise _nonsense(f"the scheduler's frequency is {self.frequency!r}; expected an int >= 1")
        if self.reduce_on_plateau and self.monitor is None:
            raise _nonsense(
                "ReduceLROnPlateau needs a metric to look at: return "
                '{"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"}}'
            )


def read_optimizers(returned: Any, owner: str = "") -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    """Return the optimizers and scheduler settings in what ``configure_optimizers`` of a class `owner` returned.

    Raises:
        MisconfigurationException: it is none of the documented forms; the message says what was seen.

    Example:
        >>> import torch
        >>> sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> optimizers, schedulers = read_optimizers(
        ...     {"optimizer": sgd, "lr_scheduler": torch.optim.lr_scheduler.ConstantLR(sgd)}
        ... )
        >>> len(optimizers), schedulers[0].interval
        (1, 'epoch')
    """
    try:
        return _read(returned)
    except MisconfigurationException as error:
        if not owner:
            raise
        raise MisconfigurationException(f"{owner}.{error}") from error.__cause__


def _read(returned: Any) -> tuple[list[Optimizer], list[LRSchedulerConfig]]:
    optimizers, schedulers = _split(returned)
    for optimizer in optimizers:
        if not isinstance(optimizer, Optimizer):
            raise _nonsense(f"{_seen(optimizer)} stands where an optimizer is expected")
    for config in schedulers:
        owner = getattr(config.scheduler, "optimizer", None)
        if owner is not None and not any(owner is optimizer for optimizer in optimizers):
            raise _nonsense(
                f"the scheduler {type(config.scheduler).__name__} belongs to an optimizer that was not returned; "
                "return that optimizer too, or build the scheduler on the returned one"
            )
    return optimizers, schedulers


def _split(returned: Any) -> tuple[list[Any], list[LRSchedulerConfig]]:
    if returned is None:
        return [], []
    if isinstance(returned, Optimizer):
        return [returned], []
    if isinstance(returned, Mapping):
        return _read_dicts([returned])
    if isinstance(returned, list | tuple):
        if len(returned) == 2 and isinstance(returned[0], list | tuple):
            optimizers, schedulers = returned
            schedulers = schedulers if isinstance(schedulers, list | tuple) else [schedulers]
            return list(optimizers), [_read_scheduler(scheduler) for scheduler in schedulers]
        if returned and all(isinstance(item, Mapping) for item in returned):
            return _read_dicts(returned)
        for item in returned:
            if isinstance(item, LRScheduler):
                raise _nonsense(
                    f"the scheduler {type(item).__name__} stands among the optimizers; return ([optimizer], "
                    "[scheduler])"
                )
        return list(returned), []
    if isinstance(returned, LRScheduler):
        raise _nonsense(
            f"it returned the scheduler {type(returned).__name__} without its optimizer; return ([optimizer], "
            "[scheduler])"
        )
    raise _nonsense(f"it returned {_seen(returned)}")


def _read_dicts(dicts: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[LRSchedulerConfig]]:
    optimizers: list[Any] = []
    schedulers: list[LRSchedulerConfig] = []
    for entry in dicts:
        for key in entry:
            if key == "frequency":
                raise _nonsense(
                    "a dict with the key 'frequency' beside 'optimizer': optimizers do not take turns by themselves; "
                    "step them in training_step with automatic_optimization = False. (A scheduler's frequency belongs "
                    "into the dict under 'lr_scheduler')"
                )
            if key not in ("optimizer", "lr_scheduler", "monitor"):
                raise _nonsense(
                    f"the dict has the key {key!r}.{did_you_mean(str(key), ('optimizer', 'lr_scheduler', 'monitor'))}"
                )
        if "optimizer" not in entry:
            raise _nonsense(f"a dict without the key 'optimizer' (it has {sorted(map(str, entry))})")
        optimizers.append(entry["optimizer"])
        if entry.get("lr_scheduler") is not None:
            schedulers.append(_read_scheduler(entry["lr_scheduler"], monitor=entry.get("monitor")))
    return optimizers, schedulers


def _read_scheduler(given: Any, monitor: str | None = None) -> LRSchedulerConfig:
    if not isinstance(given, Mapping):
        return LRSchedulerConfig(given, monitor=monitor)
    known = [field.name for field in fields(LRSchedulerConfig)]
    for key in given:
        if key not in known:
            rank_zero_warn(
                f"configure_optimizers: the scheduler's dict has the key {key!r}, which is left out; known are "
                f"{', '.join(known)}.{did_you_mean(str(key), known)}"
            )
    if "scheduler" not in given:
        raise _nonsense(f"the scheduler's dict lacks the key 'scheduler' (it has {sorted(map(str, given))})")
    settings = {**{key: given[key] for key in known if key in given}, "monitor": given.get("monitor") or monitor}
    return LRSchedulerConfig(**settings)


def _seen(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def _nonsense(what: str) -> MisconfigurationException:
    stop = "" if what.endswith(("?", ".")) else "."
    return MisconfigurationException(f"configure_optimizers: {what}{stop} Expected {_FORMS}.")
