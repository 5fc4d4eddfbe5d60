"""Metrics as rows of a CSV file, hyperparameters as YAML: no dependency, readable everywhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leyden.loggers.folder import FolderLogger, replace_text
from leyden.rank_zero import rank_zero_only, rank_zero_warn

__all__ = ["CSVLogger"]


class CSVLogger(FolderLogger):
    """Writes ``metrics.csv`` and ``hparams.yaml`` to ``save_dir/name/version_N``.

    A row per call of `log_metrics`; columns are added when a metric first appears. Rows are held back for
    `flush_logs_every_n_steps` steps, at most to the end of the epoch. A file that is there already, because `version`
    was given or the run was resumed, is continued.

    Args:
        save_dir: folder for all experiments.
        name: of the experiment; "" or None for none.
        version: number or name of this run's folder; the next free number when it is not given.
        prefix: goes before each metric's name, with a dash.
        flush_logs_every_n_steps: how many steps may be held back, at least 1.

    Example:
        >>> logger = CSVLogger(getfixture("tmp_path"), name="digits")
        >>> logger.log_metrics({"loss": 0.5, "epoch": 0}, step=1)
        >>> logger.log_metrics({"acc": 0.9}, step=2)
        >>> logger.save()
        >>> print(Path(logger.log_dir, "metrics.csv").read_text().strip())
        step,epoch,loss,acc
        1,0,0.5,
        2,,,0.9
    """

    METRICS_FILE = "metrics.csv"

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "leyden_logs",
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int = 100,
    ) -> None:
        if flush_logs_every_n_steps < 1:
            raise ValueError(f"flush_logs_every_n_steps={flush_logs_every_n_steps}: at least 1 is needed.")
        super().__init__(save_dir, name, version, prefix)
        self._flush_every_n_steps = flush_logs_every_n_steps
        self._columns: list[str] | None = None  # of the file; None until it was looked at
        self._rows_in_file = 0
        self._rows: list[dict[str, Any]] = []
        self._flushed_at_step = -1

    @property
    def experiment(self) -> CSVLogger:
        """The logger itself: there is no library behind it."""
        return self

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add a row; without `step` it is the number of rows so far."""
        if rank_zero_only.rank:
            return
        if step is None:
            step = self._flushed_at_step + 1 + len(self._rows)
        self._rows.append({"step": step, **self.with_prefix(metrics)})
        if abs(step - self._flushed_at_step) >= self._flush_every_n_steps:
            self.save()
            self._flushed_at_step = step

    def save(self) -> None:
        """Append the rows held back to the file; where it cannot be written they are held on, for another time.

        Raises:
            OSError: the folder or disk refused, with the folder.
        """
        if rank_zero_only.rank or not (self._rows or self._hparams_changed):
            return
        try:
            folder = self.make_folder()
            self.save_hparams()
            if self._rows:
                self._write_rows(folder / self.METRICS_FILE)
        except OSError as error:
            raise OSError(
                error.errno,
                f"CSVLogger cannot write to {self.log_dir}: {error.strerror or error}. Make room or give it the right "
                "to write there, or use another save_dir",
            ) from error

    def _write_rows(self, path: Path) -> None:
        import csv
        import io

        if self._columns is None:
            self._columns, self._rows_in_file = _look_at(path)
        found = dict.fromkeys([*self._columns, *(name for row in self._rows for name in row)])
        # An order that does not depend on which rows happened to be written together.
        names = dict.fromkeys(["step", *(["epoch"] if "epoch" in found else []), *found])
        if list(names) != self._columns:
            _widen(path, list(names))
            self._columns = list(names)
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(self._rows)
        # Three system calls: `open` makes six, and they are what a flush costs where each takes tens of microseconds.
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            _append(file, text.getvalue().encode())
        finally:
            os.close(file)
        self._rows_in_file += len(self._rows)
        self._rows.clear()

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return where this run's rows are and how many there are by now; they are written first."""
        try:
            self.save()
        except OSError as error:  # a checkpoint is worth more than the rows
            rank_zero_warn(f"The checkpoint is saved without the {len(self._rows)} latest row(s) of metrics: {error}")
        return {**self.place(), "rows": self._rows_in_file}

    def mark(self) -> dict[str, Any]:
        """Return how many rows there are by now, those that are held back too."""
        if rank_zero_only.rank:
            return {}
        if self._columns is None:
            self._columns, self._rows_in_file = _look_at(Path(self.log_dir, self.METRICS_FILE))
        return {"rows": self._rows_in_file + len(self._rows)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on in the folder of the interrupted run, after the rows it had when the checkpoint was made.

        Rows that it wrote later are moved to ``metrics-superseded-N.csv`` beside the file: they will be written again.
        A logger that was given another folder or version starts a file of its own, as does one that takes the place of
        a logger of another kind.
        """
        if rank_zero_only.rank or "rows" not in state_dict or not self.take_place(state_dict):
            return
        path = Path(self.log_dir, self.METRICS_FILE)
        self._columns, self._rows_in_file = _cut(path, int(state_dict["rows"]))


def _append(file: int, data: bytes) -> None:
    """Write all of `data` behind what is there, or nothing: a disk that becomes full takes a part first."""
    done = 0
    try:
        while done < len(data):
            done += os.write(file, data[done:])
    except OSError:
        os.ftruncate(file, os.fstat(file).st_size - done)
        raise


def _look_at(path: Path) -> tuple[list[str], int]:
    """Return the columns and the number of rows of a file that may be there already."""
    import csv

    if not path.exists():
        return [], 0
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file)
        return next(reader, []), sum(1 for _ in reader)


def _cut(path: Path, rows: int) -> tuple[list[str], int]:
    """Keep the first `rows` rows of a file and move the others beside it; return the columns and the rows left.

    Columns that the others alone had a value in go with them: they come back where they belong.
    """
    import csv

    columns, found = _look_at(path)
    if found <= rows:
        return columns, found
    with path.open(newline="", encoding="utf-8") as file:
        lines = [line + [""] * (len(columns) - len(line)) for line in csv.reader(file)][1:]  # the last may be torn
    number = sum(1 for _ in path.parent.glob(f"{path.stem}-superseded-*{path.suffix}"))
    _write(path.with_name(f"{path.stem}-superseded-{number}{path.suffix}"), columns, lines[rows:])
    kept = [place for place in range(len(columns)) if any(line[place] for line in lines[:rows])]
    columns = [columns[place] for place in kept]
    _write(path, columns, [[line[place] for place in kept] for line in lines[:rows]])
    return columns, rows


def _write(path: Path, columns: list[str], lines: list[list[str]]) -> None:
    import csv
    import io

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    replace_text(path, text.getvalue())


def _widen(path: Path, columns: list[str]) -> None:
    """Write the file anew with more columns, row by row, so that a long one is never held in memory."""
    import csv

    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as target:
        writer = csv.DictWriter(target, columns, lineterminator="\n")
        writer.writeheader()
        if path.exists():
            with path.open(newline="", encoding="utf-8") as source:
                writer.writerows(csv.DictReader(source))
    os.replace(temporary, path)
