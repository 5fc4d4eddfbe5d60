"""OnExceptionCheckpoint: what a run has reached when something cuts it short is not lost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from leyden.arguments import refuse
from leyden.callback import Checkpoint
from leyden.state import storage
from leyden.state.together import can_be_saved, collect, note_what_is_lost, write_together
from leyden_checkpoint import files

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["OnExceptionCheckpoint"]


class OnExceptionCheckpoint(Checkpoint):
    """Saves the run when an exception ends its training, Ctrl-C and SIGTERM among them.

    ``trainer.fit(..., ckpt_path=callback.ckpt_path)`` goes on from there; the batch that failed is repeated. The file
    of an earlier exception is replaced, once the new one is whole, and nothing is ever deleted. Before the first
    training batch there is nothing to save: an exception in ``setup`` or in the sanity check leaves the file alone.

    With several processes all save together at SIGTERM, which ends them at one place. After another exception the first
    one saves, without the others' part and only where it has all of the weights; else the error names the newest
    checkpoint.

    Arguments that types don't explain:
        dirpath: folder, or a URL that fsspec knows; made when there is something to save.
        filename: name of the file, without extension.

    Raises:
        MisconfigurationException: at once, a folder or name that cannot be one.

    Example:
        >>> OnExceptionCheckpoint("/runs/7").ckpt_path
        '/runs/7/on_exception.ckpt'
    """

    FILE_EXTENSION = ".ckpt"

    saves_on_exception = True

    def __init__(self, dirpath: str | os.PathLike[str], filename: str = "on_exception") -> None:
        super().__init__()
        _check(type(self).__name__, dirpath, filename)
        self.dirpath = files.absolute(dirpath)
        self.filename = filename
        self._is_training = False

    @property
    def ckpt_path(self) -> str:
        """Where the checkpoint goes."""
        return files.join(self.dirpath, self.filename + self.FILE_EXTENSION)

    def common_settings(self, trainer: Trainer) -> Mapping[str, Any]:
        """Return nothing to compare: after SIGTERM all processes save together, to where the first says."""
        return {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save nothing before training begins."""
        self._is_training = False
        if stage != "fit":
            return
        files.check_shared(self, trainer)
        if trainer.is_global_zero and not trainer.fast_dev_run:
            storage.tidy(self.dirpath)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on there is something to lose."""
        self._is_training = not trainer.fast_dev_run

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the run as it stood before the batch that was cut."""
        if not (self._is_training and trainer.fit_loop.underway):
            return
        if can_be_saved(trainer):
            write_together(trainer, collect(trainer), self.ckpt_path)
        else:
            note_what_is_lost(trainer, exception)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save nothing after training."""
        self._is_training = False


def _check(owner: str, dirpath: Any, filename: Any) -> None:
    problems = []
    if not isinstance(dirpath, str | os.PathLike) or not os.fspath(dirpath):
        problems.append(f"dirpath={dirpath!r}: expected the path of a folder")
    elif why := files.url_problem(os.fspath(dirpath)):
        problems.append(f"dirpath={os.fspath(dirpath)!r}: fsspec knows no such place ({why})")
    if not isinstance(filename, str) or filename in ("", ".", "..") or files.without_slashes(filename) != filename:
        problems.append(
            f"filename={filename!r}: expected a file name without its extension; give the folder as dirpath"
        )
    refuse(owner, problems)
