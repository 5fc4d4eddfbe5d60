"""Metrics as rows of a CSV file, hyperparameters as YAML: no dependency, readable everywhere."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leyden.loggers.logger import Logger, as_dict
from leyden.loggers.yaml_text import to_yaml
from leyden.rank_zero import rank_zero_only

__all__ = ["CSVLogger"]


class CSVLogger(Logger):
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
    HPARAMS_FILE = "hparams.yaml"

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
        self._save_dir = os.fspath(save_dir)
        self._name = name or ""
        self._version = version
        self._prefix = prefix
        self._flush_every_n_steps = flush_logs_every_n_steps
        self._columns: list[str] | None = None  # of the file; None until it was looked at
        self._rows_in_file = 0
        self._rows: list[dict[str, Any]] = []
        self._flushed_at_step = -1
        self.hparams: dict[str, Any] = {}
        self._hparams_changed = False
        self._folder: Path | None = None  # once it was made

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> int | str:
        """Chosen at the first look and the same from then on."""
        if self._version is None:
            self._version = self._next_version()
        return self._version

    @property
    def save_dir(self) -> str:
        return self._save_dir

    @property
    def root_dir(self) -> str:
        return os.path.join(self._save_dir, self._name)

    @property
    def log_dir(self) -> str:
        version = self.version if isinstance(self.version, str) else f"version_{self.version}"
        return os.path.join(self.root_dir, version)

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
        prefix = f"{self._prefix}-" if self._prefix else ""
        self._rows.append({"step": step, **{prefix + name: value for name, value in metrics.items()}})
        if abs(step - self._flushed_at_step) >= self._flush_every_n_steps:
            self.save()
            self._flushed_at_step = step

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Add to the run's hyperparameters and write them."""
        self.hparams.update(as_dict(params))
        self._hparams_changed = True
        self.save()

    def save(self) -> None:
        """Append the rows held back to the file."""
        if rank_zero_only.rank or not (self._rows or self._hparams_changed):
            return
        if self._folder is None:
            self._folder = Path(self.log_dir)
            self._folder.mkdir(parents=True, exist_ok=True)
        if self._hparams_changed:
            _replace(self._folder / self.HPARAMS_FILE, to_yaml(self.hparams))
            self._hparams_changed = False
        if self._rows:
            self._write_rows(self._folder / self.METRICS_FILE)

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
            os.write(file, text.getvalue().encode())
        finally:
            os.close(file)
        self._rows_in_file += len(self._rows)
        self._rows.clear()

    # -- state ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return where this run's rows are and how many there are by now; they are written first."""
        self.save()
        return {"root_dir": os.path.abspath(self.root_dir), "version": self.version, "rows": self._rows_in_file}

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
        A logger that was given another folder or version starts a file of its own.
        """
        version = state_dict["version"]
        same_place = os.path.abspath(self.root_dir) == state_dict["root_dir"]
        if rank_zero_only.rank or not same_place or self._version not in (None, version):
            return
        self._version = version
        path = Path(self.log_dir, self.METRICS_FILE)
        self._columns, self._rows_in_file = _cut(path, int(state_dict["rows"]))

    def _next_version(self) -> int:
        numbers = [-1]
        try:
            entries = os.listdir(self.root_dir)
        except FileNotFoundError:
            entries = []
        for entry in entries:
            number = entry.removeprefix("version_")
            if number != entry and number.isdecimal() and os.path.isdir(os.path.join(self.root_dir, entry)):
                numbers.append(int(number))
        return max(numbers) + 1


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
    _replace(path, text.getvalue())


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


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
