"""Which of two callbacks stays where one makes the other superfluous."""

from __future__ import annotations

from leyden.callback import Callback, Checkpoint

__all__ = ["collides", "replaces", "supersedes"]

_SLOTS = ("progress_bar", "model_summary")
"""Roles of which a trainer has room for one."""


def replaces(other: Callback, callback: Callback) -> bool:
    """Whether `other`, which is attached already, makes `callback`, which a factory offers, superfluous.

    A default makes way for anything that does its work: any `Checkpoint` for a checkpoint, any callback of its role.
    """
    if isinstance(callback, Checkpoint):
        return isinstance(other, Checkpoint)
    if callback.role is not None and other.role == callback.role:
        return True
    return collides(other, callback)


def supersedes(other: Callback, callback: Callback) -> bool:
    """Whether `other` makes superfluous what an operator asked for by name, or is in the one place that there is.

    What was asked for does not make way for something else that also saves, or also stops, a training.
    """
    return (callback.role in _SLOTS and other.role == callback.role) or collides(other, callback)


def collides(other: Callback, callback: Callback) -> bool:
    """Whether `other` is the same callback: of its type or a subclass, and with its state key.

    Two of a kind with keys of their own watch different things.
    """
    if type(other) is type(callback):
        return other.state_key == callback.state_key
    return isinstance(other, type(callback))
