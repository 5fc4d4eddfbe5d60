"""A run in TensorBoard: scalars, hyperparameters, the graph, and through `experiment` whatever its writer can write."""

from __future__ import annotations

import contextlib
import os
import weakref
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from torch import nn

from leyden.loggers.choose import DummyLogger
from leyden.loggers.folder import FolderLogger
from leyden.loggers.logger import as_dict
from leyden.rank_zero import rank_zero_only, rank_zero_warn
from leyden_monitoring.tensorboard_arguments import as_number, check_logger
from leyden_monitoring.tensorboard_files import event_file_sizes, set_superseded_aside
from leyden_monitoring.tensorboard_hparams import HParamsPage, scalars_summary

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger(FolderLogger):
    """Writes what TensorBoard shows to ``save_dir/name/version_N/sub_dir``; look at it with ``tensorboard --logdir``.

    Values are written by a thread of the writer's own and are on the disk at the latest at the end of the epoch or
    validation. A resumed run goes on in the folder of the interrupted one, without points of the steps that are
    trained again.

    Args:
        save_dir: folder for all experiments, on this machine.
        name: of the experiment; "" or None for none.
        version: number or name of this run's folder; the next free number when it is not given.
        log_graph: whether to record the graph of a module that has an `example_input_array`, when its training starts.
        default_hp_metric: whether hyperparameters without metrics get the metric ``hp_metric``, -1, so that TensorBoard
            lists the run with one. Switch it off to give metrics of your own later than in `on_train_start`.
        prefix: goes before each metric's name, with a dash.
        sub_dir: folder in that of the version.
        kwargs: of ``torch.utils.tensorboard.SummaryWriter``: max_queue, flush_secs, filename_suffix, purge_step.

    Raises:
        MisconfigurationException: an argument is out of range.
        ModuleNotFoundError: tensorboard is not installed.

    Example:
        >>> logger = TensorBoardLogger(getfixture("tmp_path"), name="digits")
        >>> logger.log_hyperparams({"lr": 0.1}, {"accuracy": 0.9})
        >>> logger.log_metrics({"loss": 0.5}, step=1)
        >>> logger.experiment.add_text("note", "the first try", 1)
        >>> logger.finalize("success")
        >>> sorted(name.split(".")[0] for name in os.listdir(logger.log_dir))
        ['events', 'hparams']
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "leyden_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_logger(save_dir, name, version, prefix, sub_dir, kwargs)
        if find_spec("tensorboard") is None:
            raise ModuleNotFoundError(
                "TensorBoardLogger needs tensorboard: pip install tensorboard", name="tensorboard"
            )
        super().__init__(save_dir, name, version, prefix)
        self._sub_dir = None if sub_dir is None else os.path.expanduser(os.fspath(sub_dir))
        self._log_graph = log_graph
        self._default_hp_metric = default_hp_metric
        self._writer_options = kwargs
        self._writer: SummaryWriter | None = None
        self._close_at_exit: weakref.finalize[..., Any] | None = None
        self._last_step = -1
        self._last_epoch: list[Any] = []  # the latest value and step of the metric "epoch"
        self._wrote_graph = False
        self._page = HParamsPage()

    @property
    def sub_dir(self) -> str | None:
        """Folder in that of the version."""
        return self._sub_dir

    @property
    def log_dir(self) -> str:
        """Folder of this run, `sub_dir` included."""
        of_version = super().log_dir
        return of_version if self._sub_dir is None else os.path.join(of_version, self._sub_dir)

    @property
    def experiment(self) -> Any:
        """The ``SummaryWriter``, for histograms, images, text; in other processes than the first, a stand-in."""
        if rank_zero_only.rank:
            return DummyLogger().experiment
        if self._writer is None or self._writer.file_writer is None:  # closed by the user
            self._writer = self._open()
        return self._writer

    def _open(self) -> SummaryWriter:
        from torch.utils.tensorboard import SummaryWriter

        self._detach()
        with self._told_where():
            writer = SummaryWriter(str(self.make_folder()), **self._writer_options)
        self._writer_options.pop("purge_step", None)  # that is for the first of them
        self._close_at_exit = weakref.finalize(self, _close_quietly, writer)
        return writer

    # -- scalars ----------------------------------------------------------------------------------------------------

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Write numbers at `step`, by default the one after the last; a dict of numbers is drawn in one chart.

        Raises:
            TypeError: a value is no number.
        """
        if rank_zero_only.rank:
            return
        self._write_placeholder()
        self._last_step = step = self._last_step + 1 if step is None else int(step)
        if "epoch" in metrics:  # comes with every group of metrics, of which an epoch's last step has several
            epoch, self._last_epoch = self._last_epoch, [metrics["epoch"], step]
            if epoch == self._last_epoch:
                metrics = {name: value for name, value in metrics.items() if name != "epoch"}
        values: dict[str, float] = {}
        for name, value in self.with_prefix(metrics).items():
            if isinstance(value, Mapping):
                with self._told_where():
                    self.experiment.add_scalars(name, dict(value), step)
            else:
                values[name] = as_number(name, value)
        if values:
            # One event for all of them: half of what `add_scalar` for each takes.
            self._write([(scalars_summary(values), step)])

    def _write(self, summaries: Iterable[tuple[Any, int]]) -> None:
        with self._told_where():
            for summary, step in summaries:
                self.experiment.file_writer.add_summary(summary, step)

    # -- hyperparameters --------------------------------------------------------------------------------------------

    def log_hyperparams(
        self,
        params: Mapping[str, Any] | Namespace,
        metrics: Mapping[str, Any] | float | None = None,
        step: int | None = None,
    ) -> None:
        """Add to the run's hyperparameters, with the metrics that TensorBoard lists beside them.

        TensorBoard reads the hyperparameters of a run and the names of its metrics once: those that come first. The
        metrics of a later call are drawn as scalars.

        Args:
            params: nested ones are listed as ``outer/inner``, what is no number, bool or string as it prints.
            metrics: initial values by name, updated by ``self.log`` under the same name; a number is ``hp_metric``.
            step: at which `metrics` are drawn; the latest one by default, 0 before the training.
        """
        self.hparams.update(as_dict(params))
        if rank_zero_only.rank:
            return
        self._hparams_changed = True
        if metrics is None:
            self._write(self._page.begin(self.hparams, self._default_hp_metric))
        else:
            named = metrics if isinstance(metrics, Mapping) else {"hp_metric": metrics}
            points = {name: as_number(name, value) for name, value in self.with_prefix(named).items()}
            self._write(self._page.list_metrics(self.hparams, points, step, max(self._last_step, 0)))
        self.save()

    def _write_placeholder(self) -> None:
        if self._page.placeholder_due:
            self._write(self._page.list_metrics(self.hparams, self.with_prefix({"hp_metric": -1.0}), 0, 0))

    # -- graph ------------------------------------------------------------------------------------------------------

    def log_graph(self, model: nn.Module, input_array: Any = None) -> None:
        """Record the graph of `model` on an input, by default its `example_input_array`, once a run if `log_graph`."""
        if rank_zero_only.rank or not self._log_graph or self._wrote_graph:
            return
        from leyden_monitoring.tensorboard_graph import add_graph

        with self._told_where():
            self._wrote_graph = add_graph(self.experiment, model, input_array)

    # -- writing ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write out what is held back, ``hparams.yaml`` included."""
        if rank_zero_only.rank:
            return
        with self._told_where():
            self.save_hparams()
            if self._writer is not None:
                self._writer.flush()

    def finalize(self, status: str) -> None:
        """Write everything with how the run ended, and close the file; a later value opens another one."""
        if rank_zero_only.rank:
            return
        self._write_placeholder()
        self._write(self._page.end(status))
        self.save()
        self._close()

    def _close(self) -> None:
        writer, self._writer = self._writer, None
        self._detach()
        if writer is not None:
            with self._told_where():
                writer.close()

    def _detach(self) -> None:
        if self._close_at_exit is not None:
            self._close_at_exit.detach()

    @contextlib.contextmanager
    def _told_where(self) -> Iterator[None]:
        """Say of an error of the file system, which may come from the writer's thread, what could not be written."""
        try:
            yield
        except OSError as error:
            folder = self.root_dir if self._version is None else self.log_dir
            raise OSError(
                error.errno,
                f"TensorBoardLogger cannot write to {folder}: {error.strerror or error}. Make room or give it "
                "the right to write there, or use another save_dir",
            ) from error

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return where this run's event files are and how long they are by now; they are written first."""
        if rank_zero_only.rank:
            return {}
        try:
            self.save()
        except OSError as error:  # a checkpoint is worth more than the points
            rank_zero_warn(f"The checkpoint is saved without the latest points of the TensorBoardLogger: {error}")
        return {**self.place(), "sub_dir": self._sub_dir, **self.mark()}

    def mark(self) -> dict[str, Any]:
        """Return how long the event files are and what else changes with what is logged.

        Waits for the writer's thread if it is at work; without new points there is nothing to wait for.
        """
        if rank_zero_only.rank:
            return {}
        if self._writer is not None:
            with contextlib.suppress(OSError):  # told of when the points are due
                self._writer.flush()
        return {
            "event_files": event_file_sizes(self.log_dir),
            "step": self._last_step,
            "epoch": list(self._last_epoch),
            "hparams_page": self._page.state_dict(),
            "has_graph": self._wrote_graph,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the folder of the interrupted run, after the points it had when the checkpoint was made.

        What it wrote later is moved to ``superseded-N.…`` beside its file, which TensorBoard does not read: it will be
        written again. A logger that was given another folder, version or sub_dir starts a run of its own, as does one
        that takes the place of a logger of another kind.
        """
        is_of_another = "event_files" not in state_dict or state_dict["sub_dir"] != self._sub_dir
        if rank_zero_only.rank or is_of_another or not self.take_place(state_dict):
            return
        self._close()
        set_superseded_aside(self.log_dir, state_dict["event_files"])
        self._last_step, self._last_epoch = state_dict["step"], list(state_dict["epoch"])
        self._page.load_state_dict(state_dict["hparams_page"])
        self._wrote_graph = state_dict["has_graph"]

    def __getstate__(self) -> dict[str, Any]:
        """A copy writes to the same folder, by a writer of its own."""
        return self.__dict__ | {"_writer": None, "_close_at_exit": None}


def _close_quietly(writer: SummaryWriter) -> None:
    """At the end of a program that never came to `finalize`, and may not have its folder any more."""
    with contextlib.suppress(OSError):
        writer.close()
