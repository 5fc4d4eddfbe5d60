"""A file that says the training is alive, for liveness probes."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from leyden.arguments import check_arguments, is_positive
from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_warn
from leyden.state.temporaries import make_temporary, remove_abandoned
from leyden_monitoring.run_progress import progress_of

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["Heartbeat"]

Status = Literal["running", "finished", "failed"]


class Heartbeat(Callback):
    """Writes a small JSON file every few seconds, from the training itself: where training is stuck, it stops.

    There is no thread that would go on writing while nothing is trained. A beat comes after a batch, of whatever stage,
    so that the file may be as old as `every_n_seconds` and the longest batch, checkpoint or wait for data together. The
    first is written before anything else of the run, the last as it ends.

    The file is replaced as a whole, so that a reader never sees half of one, and is not flushed to the disk. It holds
    ``time`` (seconds since 1970), ``pid``, ``status`` ("running", then "finished" or "failed"), ``stage`` ("train",
    "sanity_check", "validate", "test" or "predict"), ``epoch``, ``step`` (optimizer steps taken), ``batches_done`` and
    ``batches`` (of the epoch or the pass; null where unknown). With several processes the first of each machine
    writes. A beat that cannot be written later on is a warning, once, and the training goes on.

    Args:
        path: The file; its folder is made.
        every_n_seconds: Seconds between two beats, at least.

    Raises:
        MisconfigurationException: an argument that cannot work, or, as a run begins, a file that cannot be written.

    Example:
        >>> from leyden import Trainer
        >>> from leyden.testing import BoringModule
        >>> path = getfixture("tmp_path") / "heartbeat.json"
        >>> trainer = Trainer(max_epochs=1, logger=False, callbacks=[Heartbeat(path)], discover_callbacks=False)
        >>> trainer.fit(BoringModule())
        >>> beat = json.loads(path.read_text())
        >>> beat["status"], beat["stage"], beat["step"]
        ('finished', 'train', 2)
    """

    _due = 0.0
    _status: Status = "running"
    _writes = False
    _told = False

    def __init__(self, path: str | os.PathLike[str], every_n_seconds: float = 10.0) -> None:
        super().__init__()
        check_arguments(
            type(self).__name__,
            ("path", path, _is_path(path), "the path of a file"),
            ("every_n_seconds", every_n_seconds, is_positive(every_n_seconds), "a number of seconds above 0"),
        )
        self.path = Path(os.path.abspath(path))  # a training may change its working folder
        self.every_n_seconds = every_n_seconds

    @property
    def state_key(self) -> str:
        return self._generate_state_key(path=str(self.path))

    # -- writing ---------------------------------------------------------------------------------------------------

    def _beat(self, trainer: Trainer) -> None:
        """Write, and say when the next beat is due; an error is told once and no reason to stop a training."""
        self._due = monotonic() + self.every_n_seconds
        if not self._writes:
            return
        try:
            self._write(trainer)
        except OSError as error:
            if not self._told:
                self._told = True
                rank_zero_warn(
                    f"{type(self).__name__} cannot write {str(self.path)!r} ({error.strerror or error}); the training "
                    "goes on, but what watches this file will take it for stuck. Make room or mend the folder: "
                    "writing is tried again at each beat."
                )

    def _write(self, trainer: Trainer) -> None:
        progress = progress_of(trainer)
        beat = {
            "time": round(time.time(), 3),
            "pid": os.getpid(),
            "status": self._status,
            "stage": progress.stage,
            "epoch": progress.epoch,
            "step": progress.step,
            "batches_done": progress.batches_done,
            "batches": progress.batches,
        }
        descriptor, temporary = make_temporary(self.path)
        try:
            try:
                text = json.dumps(beat).encode() + b"\n"
                if os.write(descriptor, text) < len(text):  # a disk that becomes full may take a part first
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
            os.replace(temporary, self.path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    # -- hooks -----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._writes, self._status, self._told = trainer.local_rank == 0, "running", False
        self._due = monotonic() + self.every_n_seconds
        if not self._writes:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.path.parent)
            self._write(trainer)
        except OSError as error:
            raise MisconfigurationException(
                f"{type(self).__name__}(path={str(self.path)!r}) cannot be written: {error.strerror or error}. Name a "
                "file in a folder that this process may write to, or leave this callback out."
            ) from error

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if monotonic() >= self._due:
            self._beat(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if monotonic() >= self._due:
            self._beat(trainer)

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._status = "failed"

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._status == "running":
            self._status = "finished"
        self._beat(trainer)
        self._writes = False


def _is_path(value: object) -> bool:
    return isinstance(value, str | os.PathLike) and bool(os.fspath(value))
