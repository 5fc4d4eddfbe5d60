"""The states of callbacks in a checkpoint: whose is whose, of which version, and what nobody takes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_warn
from leyden.state.lightning_format import is_of_lightning
from leyden.state.plain import check_plain

if TYPE_CHECKING:
    from leyden.trainer import Trainer

__all__ = ["change_weights", "restore_callbacks", "save_callbacks"]


def save_callbacks(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Put every callback's state, and the version it is of, into `checkpoint`.

    Callbacks of older generations return their state from `on_save_checkpoint`.

    Raises:
        MisconfigurationException: a state holds what a safe load could not read back.
    """
    states: dict[str, Any] = {}
    versions: dict[str, int] = {}
    checkpoint["callbacks"], checkpoint["callback_versions"] = states, versions
    for entry in trainer.plan.entries("state_dict"):
        state = entry.call()
        if state:
            states[_callback(entry.owner).state_key] = state
    for entry in trainer.plan.entries("on_save_checkpoint"):
        if isinstance(entry.owner, Callback):
            returned = entry.call(checkpoint)
            if isinstance(returned, Mapping) and returned:
                states.setdefault(entry.owner.state_key, dict(returned))
    for key, state in states.items():
        check_plain(state, f"the state of the callback {key}: state_dict()")
    of = {callback.state_key: callback.state_version for callback in trainer.callbacks}
    versions.update({key: of[key] for key in states if key in of})


def change_weights(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Let callbacks that say which weights a checkpoint holds change one that holds nothing else."""
    for entry in trainer.plan.entries("on_save_checkpoint"):
        if isinstance(entry.owner, Callback) and entry.owner.changes_saved_weights:
            entry.call(checkpoint)


def restore_callbacks(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Hand callbacks the checkpoint, then each its own state; for a fit, say what was moved and what is left over.

    Raises:
        MisconfigurationException: a state is of a newer version than its callback.
    """
    for entry in trainer.plan.entries("on_load_checkpoint"):
        if isinstance(entry.owner, Callback):
            entry.call(checkpoint)
    states = checkpoint.get("callbacks") or {}
    fits = trainer.state.fn == "fit"
    takers = [*trainer.plan.entries("on_load_state"), *trainer.plan.entries("load_state_dict")]
    keys = _keys(trainer, [_callback(entry.owner) for entry in takers], states, moved=fits)
    for entry in takers:
        callback = _callback(entry.owner)
        key = keys.get(id(callback))
        if key is None:
            continue
        try:
            version = (checkpoint.get("callback_versions") or {}).get(key, 1)
            state = trainer.guarded(callback, "migrate_state", partial(_migrated, callback, states[key], version))()
            entry.call(state)  # which does nothing where that switched the callback off
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if not is_of_lightning(checkpoint):
                error.add_note(f"It was reading its state from ckpt_path={trainer.ckpt_path!r}: {callback.state_key}.")
                raise
            rank_zero_warn(
                f"{callback.state_key} starts afresh, since it cannot read its state in the checkpoint of Lightning "
                f"({type(error).__name__}: {error})."
            )


def _keys(trainer: Trainer, takers: list[Callback], states: Mapping[str, Any], *, moved: bool) -> dict[int, str]:
    """Return the key of each callback's state, by the callback's id; with `moved` also of those that moved.

    A state moved when its `state_key` changed, as with an argument that is part of it. It is taken where one state of
    the class is left over, and one callback of it without a state. An evaluation needs no more than the weights: who
    has other callbacks there, or none, misses nothing and is told nothing.
    """
    keys = {id(callback): callback.state_key for callback in takers if callback.state_key in states}
    if not moved:
        return keys
    known = {callback.state_key for callback in trainer.callbacks}
    known |= {one.state_key for one in trainer.discovered.switched_off}  # of which the user was told
    left = [key for key in states if key not in known]
    without = list({id(callback): callback for callback in takers if id(callback) not in keys}.values())
    for callback in list(without):
        of_class = [key for key in left if _class_name(key) == type(callback).__qualname__]
        if len(of_class) == 1 and sum(type(other) is type(callback) for other in without) == 1:
            key = of_class[0]
            keys[id(callback)] = key
            left.remove(key)
            without.remove(callback)
            rank_zero_warn(
                f"{callback.state_key} goes on from the state of {key}, the one of its class that is left over in the "
                "checkpoint: an argument changed."
            )
    if left:
        _warn_of_left_over(left, without)
    return keys


def _warn_of_left_over(left: list[str], without: list[Callback]) -> None:
    afresh = ", ".join(sorted(callback.state_key for callback in without))
    rank_zero_warn(
        "the checkpoint holds states of callbacks that this Trainer does not have: "
        f"{', '.join(sorted(map(str, left)))}. Add them to Trainer(callbacks=[...]) to go on exactly as before."
        + (f" Without a state in it, and starting afresh: {afresh}." if afresh else "")
    )


def _migrated(callback: Callback, state: Any, version: int) -> Any:
    if version > callback.state_version:
        raise MisconfigurationException(
            f"the checkpoint's state of {callback.state_key} is of version {version}, but "
            f"{type(callback).__qualname__} knows versions up to {callback.state_version}: a newer version of it wrote "
            "the checkpoint. Update the package it comes from, or resume without this callback."
        )
    return state if version == callback.state_version else callback.migrate_state(state, version)


def _class_name(key: object) -> str:
    return str(key).partition("{")[0]


def _callback(owner: object) -> Callback:
    assert isinstance(owner, Callback)
    return owner
