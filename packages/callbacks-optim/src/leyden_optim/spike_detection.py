"""SpikeDetection: ends a training at a loss that leaps, and keeps a restarted one from that batch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from leyden.arguments import is_count, is_number, refuse
from leyden.callback import Callback
from leyden.errors import MisconfigurationException, did_you_mean
from leyden.rank_zero import rank_zero_info
from leyden.state.remote import is_url
from leyden_optim.excluded_batches import Entry, add_batches, batches_of_epoch, is_same_each_epoch, read_batches
from leyden_optim.spikes import Spikes

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["SpikeDetection", "TrainingSpikeException"]

_FILE = "skip_batches.json"


class TrainingSpikeException(RuntimeError):
    """The loss of a training batch was much worse than those before it.

    Attributes:
        batch_idx: the batch, within its epoch, from 0.
        epoch: the epoch, from 0.
        loss: the loss of that batch.
        mean: the mean of those before it, NaN where there were none.
    """

    def __init__(
        self, batch_idx: int, message: str = "", epoch: int = 0, loss: float = math.nan, mean: float = math.nan
    ) -> None:
        super().__init__(message or f"The training loss spiked at batch {batch_idx}.")
        self.batch_idx, self.epoch, self.loss, self.mean = batch_idx, epoch, loss, mean

    def __reduce__(self) -> Any:
        return type(self), (self.batch_idx, str(self), self.epoch, self.loss, self.mean)


class SpikeDetection(Callback):
    """Raises `TrainingSpikeException` for a training loss far above the mean of those before, and names its batch.

    A run that is restarted with ``fit(ckpt_path=...)`` leaves out the batches that were named.

    Args:
        mode: ``"min"`` for a loss that falls, ``"max"`` where one is maximised.
        window: the mean is that of the last so many batches; at least 1.
        warmup: the first so many batches of the run are judged by `finite_only` alone; at least 0.
        atol: a loss is a spike only when it is worse than the mean by more than this, in the unit of the loss; None
            leaves it to `rtol`.
        rtol: a loss is a spike only when it is worse than the mean by more than this many times the mean: with 2.0 when
            it is above three times the mean. None leaves it to `atol`; where both are given, both have to be exceeded.
        exclude_batches_path: the file that names batches, or, where it does not end in ``.json``, the folder of a
            ``skip_batches.json``; None is the folder of the run (``trainer.log_dir``).
        finite_only: a loss that is NaN or infinite is a spike, from the first batch on; else it is passed over.

    Raises:
        MisconfigurationException: at once, with every argument that cannot work; as fit begins, where the file holds
            something else.

    Example:
        >>> import torch
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> data = [torch.full((2, 4), size) for size in (1.0, 1.0, 1.0, 100.0, 1.0)]
        >>> spikes = SpikeDetection(exclude_batches_path=getfixture("tmp_path") / "skip_batches.json")
        >>> trainer = Trainer(max_epochs=1, logger=False, callbacks=[spikes], discover_callbacks=False)
        >>> try:
        ...     trainer.fit(BoringModule(), data)
        ... except TrainingSpikeException as spike:
        ...     spike.batch_idx
        3
    """

    def __init__(
        self,
        mode: Literal["min", "max"] = "min",
        window: int = 10,
        warmup: int = 1,
        atol: float | None = None,
        rtol: float | None = 2.0,
        exclude_batches_path: str | os.PathLike[str] | None = None,
        finite_only: bool = True,
    ) -> None:
        super().__init__()
        _check(type(self).__name__, mode, window, warmup, atol, rtol, exclude_batches_path, finite_only)
        self._spikes = Spikes(mode, window, warmup, atol, rtol, finite_only)
        # A training may change its working folder.
        self.exclude_batches_path = None if exclude_batches_path is None else _file_at(exclude_batches_path)
        self._path = Path(_FILE)
        self._left_out: list[Entry] = []
        self._looked_at = -1
        self._several = False

    # -- what is left out -----------------------------------------------------------------------------------------

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return nothing to compare: a spike is one of all processes, whatever each takes for one."""
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Read which batches an earlier run named; a run that is resumed gets its window after this."""
        if stage != "fit":
            return
        self._spikes.restore((), 0)
        self._looked_at, self._several = -1, trainer.world_size > 1
        folder = trainer.log_dir or trainer.default_root_dir
        if self.exclude_batches_path is None and is_url(folder):
            raise MisconfigurationException(
                f"{type(self).__name__}(exclude_batches_path=None): the folder of the run is {folder!r}, but the file "
                "that names batches cannot be at a URL; name a file of this machine."
            )
        path = self.exclude_batches_path or Path(os.path.abspath(folder), _FILE)
        entries = read_batches(path) if trainer.is_global_zero else []
        self._path, self._left_out = trainer.strategy.broadcast((path, entries))
        if self._left_out:
            rank_zero_info(f"{type(self).__name__} leaves out the {len(self._left_out)} batches that {path} names.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave batches out of an epoch that was begun before."""
        if trainer.fit_loop.epoch_started:
            self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave batches out of this epoch."""
        if self._left_out:
            trainer.fit_loop.left_out |= batches_of_epoch(self._left_out, trainer.current_epoch)

    # -- what is looked at ----------------------------------------------------------------------------------------

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the first loss of each batch."""
        batch = trainer.fit_loop.batches_seen
        if batch == self._looked_at:
            return
        self._looked_at = batch
        value = _as_returned(trainer, loss)
        is_spike = self._spikes.is_spike(value)
        if self._several:
            is_spike = trainer.strategy.reduce_boolean_decision(is_spike, all=False)
        if is_spike:
            raise self._spike(trainer, value)
        self._spikes.add(value)

    def _of_first(self, trainer: Trainer, loss: float) -> tuple[float, float, str]:
        """Return the loss that spiked, the mean before it and where; of processes what the first saw that did."""
        mean = self._spikes.mean
        if not self._several:
            return loss, mean, ""
        seen = trainer.strategy.broadcast(trainer.strategy.gather((self._spikes.is_spike(loss), loss, mean)))
        rank = next(rank for rank, (is_spike, _, _) in enumerate(seen) if is_spike)
        return seen[rank][1], seen[rank][2], f" in process {rank} of {trainer.world_size}"

    def _spike(self, trainer: Trainer, loss: float) -> TrainingSpikeException:
        """Add the batch to the file, and return what to raise."""
        loss, mean, where = self._of_first(trainer, loss)
        spikes, epoch, batch = self._spikes, trainer.current_epoch, trainer.fit_loop.batch_idx
        batches = [batch - 1, batch] if batch else [batch]
        each = not trainer.reload_dataloaders_every_n_epochs and is_same_each_epoch(trainer.train_dataloader)
        of = "each epoch" if each else f"epoch {epoch}"
        named = f"batch{'es' if batch else ''} {' and '.join(map(str, batches))} of {of}"
        before = f"a mean of {mean:.5g} over {len(spikes.window)} before" if spikes.window else "none before"
        message = (
            f"The training loss spiked at batch {batch} of epoch {epoch}{where}: {loss:.5g}, against {before} "
            f"(mode={spikes.mode!r}, atol={spikes.atol}, rtol={spikes.rtol}, finite_only={spikes.finite_only}). "
        )
        cause: OSError | None = None
        if trainer.is_global_zero:
            why = {"loss": _as_json(loss), "mean": _as_json(mean)}
            try:
                add_batches(self._path, [{"epoch": None if each else epoch, "batch": one, **why} for one in batches])
            except OSError as error:
                cause = error
        if cause is None:
            message += (
                f"A run that goes on from a checkpoint, by fit(ckpt_path=...), leaves out {named}, which "
                f"{str(self._path)!r} names now."
            )
        else:
            message += f"{str(self._path)!r} cannot be written ({cause.strerror or cause}), and does not name {named}."
        spike = TrainingSpikeException(batch, message, epoch, loss, mean)
        spike.__cause__ = cause
        return spike

    # -- state ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the losses that the mean is over, and how many there were."""
        return {"window": list(self._spikes.window), "seen": self._spikes.seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the mean of then."""
        self._spikes.restore(state_dict["window"], state_dict["seen"])


def _file_at(path: str | os.PathLike[str]) -> Path:
    absolute = Path(os.path.abspath(path))
    return absolute if absolute.suffix == ".json" else absolute / _FILE


def _as_returned(trainer: Trainer, loss: Tensor) -> float:
    """Return the loss as ``training_step`` gave it: neither scaled nor divided by the batches of its window."""
    value = float((loss.detach() if loss.numel() == 1 else loss.detach().mean()).item())
    scaler = trainer.precision_plugin.scaler
    if scaler is not None:
        value /= scaler.get_scale()
    return value * trainer.accumulate_grad_batches


def _as_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _check(
    owner: str,
    mode: object,
    window: object,
    warmup: object,
    atol: object,
    rtol: object,
    exclude_batches_path: object,
    finite_only: object,
) -> None:
    problems = []
    if mode not in ("min", "max"):
        problems.append(f"mode={mode!r}: expected 'min' or 'max'.{did_you_mean(str(mode), ('min', 'max'))}")
    if not is_count(window, least=1):
        problems.append(f"window={window!r}: expected a number of batches (int >= 1)")
    if not is_count(warmup):
        problems.append(f"warmup={warmup!r}: expected a number of batches (int >= 0)")
    for name, value in (("atol", atol), ("rtol", rtol)):
        if value is not None and not (is_number(value) and 0 <= value < math.inf):
            problems.append(f"{name}={value!r}: expected a number >= 0 or None")
    if atol is None and rtol is None:
        problems.append("atol=None and rtol=None make a spike of every loss above the mean; give one of them")
    if exclude_batches_path is not None and not (
        isinstance(exclude_batches_path, str | os.PathLike) and os.fspath(exclude_batches_path)
    ):
        problems.append(f"exclude_batches_path={exclude_batches_path!r}: expected the path of a file or None")
    elif exclude_batches_path is not None and is_url(os.fspath(exclude_batches_path)):
        problems.append(f"exclude_batches_path={exclude_batches_path!r}: a URL cannot be; name a file of this machine")
    if not isinstance(finite_only, bool):
        problems.append(f"finite_only={finite_only!r}: expected True or False")
    refuse(owner, problems)
