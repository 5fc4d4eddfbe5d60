"""What a Trainer does with what is discovered for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from leyden.callback import Callback
from leyden.discovery.discovering import discover
from leyden.discovery.found import Discovered

if TYPE_CHECKING:
    from leyden.hooks.attached import AttachedCallbacks
    from leyden.trainer import Trainer

__all__ = ["attach_discovered"]

_FAMILIES = {"checkpointing": "checkpoint", "progress_bar": "monitoring", "model_summary": "monitoring"}
"""The family that brings what ``Trainer(enable_...=True)`` asks for."""


def attach_discovered(trainer: Trainer, attached: AttachedCallbacks, given: Sequence[Callback]) -> Discovered:
    """Find what the environment brings beside the user's callbacks and attach it; the result says what is not and why.

    Raises:
        MisconfigurationException: as `discover`, and where a configured callback cannot work beside the others.
    """
    settings = trainer.settings
    if settings.barebones:
        return Discovered(off_because="Trainer(barebones=True)")
    if not settings.discover_callbacks:
        return Discovered(off_because="Trainer(discover_callbacks=False)")
    found = discover(
        trainer,
        given,
        enable_checkpointing=settings.enable_checkpointing,
        enable_progress_bar=settings.enable_progress_bar,
        enable_model_summary=settings.enable_model_summary,
    )
    for placed, error in attached.take_discovered(found.placed):
        found.cannot_work(placed, error)
    if not found.off_because:
        wanted = {one: family for one, family in _FAMILIES.items() if getattr(settings, f"enable_{one}")}
        found.warn_of_missing(wanted, attached.list)
    return found
