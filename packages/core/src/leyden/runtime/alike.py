"""What all processes of a run must have alike, since it says when they wait for each other; compared at the start."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from leyden.discovery.found import SwitchedOff, report
from leyden.errors import MisconfigurationException
from leyden.loggers import Logger
from leyden.logging.exchange import exchange, gather_bytes, header_of
from leyden.overrides import is_overridden

if TYPE_CHECKING:
    from leyden.callback import Callback
    from leyden.trainer import Trainer

__all__ = ["require_alike"]

_SETTINGS = (
    "fast_dev_run", "max_epochs", "min_epochs", "max_steps", "min_steps", "val_check_interval",
    "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps", "accumulate_grad_batches",
    "gradient_clip_val", "gradient_clip_algorithm",
)  # fmt: skip
"""Of the Trainer; numbers of batches are compared where epochs and evaluations begin."""

_PLAIN = (bool, int, float, str, datetime.timedelta, type(None))

Part = dict[str, Any]
"""A callback, say: its key, its settings as text, and whether the environment brought it."""


def require_alike(trainer: Trainer) -> None:
    """Compare settings and callbacks of all processes, which all call this at one place; one message where all is well.

    Raises:
        MisconfigurationException: they differ, so that one would wait for what others never do; names the difference.
            A callback of the environment that not all have alike is switched off instead, with a warning.
    """
    own = list(_parts(trainer))
    if exchange(trainer.strategy, None, [], header_of(own)) is not None:
        return
    said = [json.loads(one) for one in gather_bytes(trainer.strategy, None, json.dumps(own).encode())]
    given, brought = _differences(said)
    if not given:
        for key, difference in brought.items():
            _leave_out(trainer, key, difference)
        given = _other_order([[part["key"] for part in parts[1:] if part["key"] not in brought] for parts in said])
    if given:
        raise MisconfigurationException(
            f"The {len(said)} processes of this run are not alike: {'; '.join(given)}. What decides, saves or "
            "changes the training does so in all of them together, or they would wait for each other for ever: give "
            "Trainer(...) the same in every process, in the same order."
        )


def _parts(trainer: Trainer) -> Iterator[Part]:
    settings = {name: getattr(trainer.settings, name) for name in _SETTINGS}
    yield _part("Trainer", settings)
    for place, logger in enumerate(trainer.loggers):
        if is_overridden("agree", logger, Logger):
            yield _part(f"the logger {type(logger).__name__} (number {place + 1})", {})
    for callback in list(trainer.callbacks):
        common = trainer.guarded(callback, "common_settings", partial(callback.common_settings, trainer))()
        if common is not None:
            is_brought = trainer.is_of_environment(callback) and not trainer.discovered.strict
            yield _part(callback.state_key, common, is_brought)


def _part(key: str, settings: Mapping[str, Any], is_brought: bool = False) -> Part:
    return {"key": key, "settings": {name: _told(value) for name, value in settings.items()}, "is_brought": is_brought}


def _told(value: Any) -> str:
    """Return a value as text that is the same in all processes: of a function and the like only what it is."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{_told(key)}: {_told(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_told, value))}]"
    return repr(value) if isinstance(value, _PLAIN) else type(value).__name__


def _differences(said: Sequence[Sequence[Part]]) -> tuple[list[str], dict[str, str]]:
    """Return in words what differs, and by key what of that the environment alone has brought."""
    by_rank = [{part["key"]: part for part in parts} for parts in said]
    given, brought = [], {}
    for key in dict.fromkeys(part["key"] for parts in said for part in parts):
        having = {rank: parts[key] for rank, parts in enumerate(by_rank) if key in parts}
        lines = [] if len(having) == len(said) else [f"{key} is in {_processes(list(having))} only"]
        for name in dict.fromkeys(name for part in having.values() for name in part["settings"]):
            values = {rank: part["settings"].get(name, "missing") for rank, part in having.items()}
            if len(set(values.values())) > 1:
                others = ", ".join(f"{value} in {_processes(_with(values, value))}" for value in _once(values))
                lines.append(f"{key} has {name}={others}")
        if lines and all(part["is_brought"] for part in having.values()):
            brought[key] = ", ".join(lines)
        else:
            given += lines
    return given, brought


def _other_order(keys: Sequence[Sequence[str]]) -> list[str]:
    orders = {rank: ", ".join(there) for rank, there in enumerate(keys)}
    if len(set(orders.values())) == 1:
        return []
    return [
        "their order is " + ", ".join(f"[{order}] in {_processes(_with(orders, order))}" for order in _once(orders))
    ]


def _once(values: Mapping[int, str]) -> list[str]:
    return list(dict.fromkeys(values.values()))


def _with(values: Mapping[int, str], value: str) -> list[int]:
    return [rank for rank, one in values.items() if one == value]


def _processes(ranks: Sequence[int]) -> str:
    several = "processes" if len(ranks) > 1 else "process"
    return f"{several} {', '.join(map(str, ranks[:8]))}{' and more' if len(ranks) > 8 else ''}"


def _leave_out(trainer: Trainer, key: str, difference: str) -> None:
    """Switch a callback of the environment off where it is; all know of it, and the first process warns."""
    report(
        f"A callback that the environment attaches is switched off, since not all processes have it alike: "
        f"{difference}. Configure it in the same way for every process."
    )
    for callback in [one for one in trainer.callbacks if one.state_key == key]:
        trainer.switch_off(callback, _event(callback, difference))


def _event(callback: Callback, difference: str) -> SwitchedOff:
    return SwitchedOff(type(callback).__name__, "", "setup", difference, callback.state_key)
