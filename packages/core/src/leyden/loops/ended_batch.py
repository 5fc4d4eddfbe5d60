"""A training batch whose step is made, kept for the hooks of its end: they may have to be called again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.data.transfer import map_tensors, move_to_device
from leyden.errors import MisconfigurationException
from leyden.loops.lookahead import LookAhead, open_batches
from leyden.rank_zero import rank_zero_warn
from leyden.state.plain import check_plain
from leyden.state.rng import collect_rng, restore_rng

if TYPE_CHECKING:
    from leyden.data.sources import TrainSource
    from leyden.trainer import Trainer

__all__ = ["EndedBatch"]

_LARGEST_BATCH_BYTES = 2**26
"""A larger batch would be most of a checkpoint that is written when there may be little time or room for it."""


@dataclass(slots=True)
class EndedBatch:
    """What the hooks of a batch's end are called with. Tensors are not copied.

    Attributes:
        outputs: what the step returned, None where a checkpoint could not hold that.
        batch: as it is on its device; None where a checkpoint could not hold it and it is to be read again.
        before: what it takes to read it again, where a checkpoint does not hold it or it is large: the place of the
            loader, its draws and the random numbers.
        steps: optimizer steps taken before the batch.
        window_open: whether the gradients are those of an unfinished accumulation window.
    """

    outputs: Any
    batch: Any
    before: Mapping[str, Any] | None
    steps: int
    window_open: bool
    _versions: list[tuple[Tensor, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outputs, self.batch = _own_containers(self.outputs), _own_containers(self.batch)
        self._versions = [(one, one._version) for one in _tensors((self.outputs, self.batch))]

    def watch(self, gradients: Mapping[str, Tensor]) -> None:
        """Notice changes of these, too."""
        self._versions += [(one, one._version) for one in gradients.values()]

    @property
    def is_changed(self) -> bool:
        """Whether a tensor was changed in place since."""
        return any(tensor._version != version for tensor, version in self._versions)

    def take_up(self, trainer: Trainer, source: TrainSource) -> tuple[Any, Iterator[Any] | None, LookAhead | None]:
        """Return the batch, on its device, and, where it was read again, the batches after it and who looks ahead.

        It is read with the random numbers of then.
        """
        if self.batch is not None or self.before is None:
            return move_to_device(self.batch, trainer.strategy.root_device), None, None
        now = collect_rng()
        source.set_draws(self.before["draws"])
        restore_rng(self.before["rng"])
        batches, ahead = open_batches(source, self.before["train"], trainer.profiler, trainer.fit_loop.await_last_batch)
        batch = next(batches)
        if trainer.batch_transfer is not None:
            batch = trainer.batch_transfer(batch, 0)
        restore_rng(now)
        return batch, batches, ahead

    def as_dict(self) -> dict[str, Any]:
        """This as plain data that a checkpoint may hold."""
        state: dict[str, Any] = {"steps": self.steps, "window_open": self.window_open}
        problem = _problem(self.outputs, "what training_step returned")
        state["outputs"] = None if problem else map_tensors(self.outputs, _alone)
        if problem:
            rank_zero_warn(
                "a run that goes on from this checkpoint is not exact: it leaves the hooks of on_train_batch_end out "
                f"in which this one was cut, since {problem}"
            )
        held = self.batch is not None and not _problem(self.batch, "the batch")  # None is one to be read again
        if held and self.before is not None:
            held = sum(tensor.nbytes for tensor in _tensors(self.batch)) <= _LARGEST_BATCH_BYTES
        state["batch"] = map_tensors(self.batch, _alone) if held else None
        state["before"] = None if held else self.before
        return state


def _own_containers(value: Any) -> Any:
    """Return `value` in dicts, lists and tuples of its own: a hook may put something else into those it gets."""
    kind = type(value)
    if kind is dict:
        return {key: _own_containers(item) for key, item in value.items()}
    return kind(_own_containers(item) for item in value) if kind in (list, tuple) else value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if not value.is_inference():  # these count no versions
            yield value
    elif type(value) in (dict, list, tuple):
        for item in value.values() if type(value) is dict else value:
            yield from _tensors(item)


def _problem(value: Any, name: str) -> str:
    """Say why a checkpoint cannot hold `value`, nothing where it can."""
    try:
        check_plain(value, name)
    except MisconfigurationException as error:
        return str(error)
    return ""


def _alone(tensor: Tensor) -> Tensor:
    """Return `tensor` without the rest of a larger one that it is a part of: a file would hold that too."""
    tensor = tensor.detach()
    is_part = tensor.layout is torch.strided and tensor.untyped_storage().nbytes() > tensor.nbytes
    return tensor.clone() if is_part else tensor
