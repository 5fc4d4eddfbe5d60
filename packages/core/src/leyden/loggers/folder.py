"""What loggers share that write to ``save_dir/name/version_N``: the folder, hyperparameters, going on with a run."""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from leyden.loggers.logger import Logger, as_dict
from leyden.loggers.yaml_text import to_yaml

__all__ = ["FolderLogger", "replace_text"]


class FolderLogger(Logger):
    """Base of loggers with a folder for each run.

    Args:
        save_dir: folder for all experiments; ``~`` is the home folder.
        name: of the experiment; "" or None for none.
        version: number or name of this run's folder; the next free number when it is not given.
        prefix: goes before each metric's name, with a dash.

    Example:
        >>> class Notes(FolderLogger):
        ...     def log_metrics(self, metrics, step=None):
        ...         (self.make_folder() / "notes.txt").write_text(f"{step}: {self.with_prefix(metrics)}")
        >>> notes = Notes(getfixture("tmp_path"), name="digits", prefix="try")
        >>> notes.log_metrics({"loss": 0.5}, step=3)
        >>> Path(notes.log_dir).name, Path(notes.log_dir, "notes.txt").read_text()
        ('version_0', "3: {'try-loss': 0.5}")
    """

    HPARAMS_FILE = "hparams.yaml"

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        name: str | None = "leyden_logs",
        version: int | str | None = None,
        prefix: str = "",
    ) -> None:
        self._save_dir = os.path.expanduser(os.fspath(save_dir))
        self._name = name or ""
        self._version = version
        self._prefix = prefix
        self._folder: Path | None = None  # once it was made
        self.hparams: dict[str, Any] = {}
        self._hparams_changed = False

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

    def with_prefix(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return `metrics` under the names they are written with."""
        prefix = f"{self._prefix}-" if self._prefix else ""
        return {prefix + name: value for name, value in metrics.items()}

    def make_folder(self) -> Path:
        """Return `log_dir`, made when something is first written there."""
        if self._folder is None:
            folder = Path(self.log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            self._folder = folder
        return self._folder

    def log_hyperparams(self, params: Mapping[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Add to the run's hyperparameters and write them."""
        self.hparams.update(as_dict(params))
        self._hparams_changed = True
        self.save()

    def save_hparams(self) -> None:
        """Write the hyperparameters if there are new ones."""
        if self._hparams_changed:
            replace_text(self.make_folder() / self.HPARAMS_FILE, to_yaml(self.hparams))
            self._hparams_changed = False

    def agree(self, broadcast: Callable[[Any], Any]) -> None:
        """Take the first process's folder: another may look for the next number when that is there already."""
        self._version = broadcast(self.version)

    def place(self) -> dict[str, Any]:
        """Return which folder this is, for the state of a run."""
        return {"root_dir": os.path.abspath(self.root_dir), "version": self.version}

    def take_place(self, state: Mapping[str, Any]) -> bool:
        """Take the folder that `place` told of, and return True; False where this logger was given another one."""
        version = state["version"]
        if os.path.abspath(self.root_dir) != state["root_dir"] or self._version not in (None, version):
            return False
        self._version = version
        return True

    def _next_version(self) -> int:
        numbers = [-1]
        try:
            entries = os.listdir(self.root_dir)
        except (FileNotFoundError, NotADirectoryError):  # the latter is told of when the folder is to be made
            entries = []
        for entry in entries:
            number = entry.removeprefix("version_")
            if number != entry and number.isdecimal() and os.path.isdir(os.path.join(self.root_dir, entry)):
                numbers.append(int(number))
        return max(numbers) + 1


def replace_text(path: Path, text: str) -> None:
    """Write a file so that whoever reads it sees the old text or the new, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
