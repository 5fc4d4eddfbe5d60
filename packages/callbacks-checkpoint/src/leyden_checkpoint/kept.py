"""What a ModelCheckpoint has kept: under which names, in which ranking, and as the state that a checkpoint holds."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from leyden.callback import Checkpoint
from leyden.rank_zero import rank_zero_warn
from leyden_checkpoint import files
from leyden_checkpoint.naming import checkpoint_name
from leyden_checkpoint.ranking import Mode, as_yaml, is_in_top_k
from leyden_checkpoint.scores import ScoreWatch
from leyden_checkpoint.standing import KEPT, adopt

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = ["KeptCheckpoints"]


class KeptCheckpoints(Checkpoint):
    """The checkpoints of a `ModelCheckpoint`, which sets all of this and says when there is another one."""

    dirpath: str | None
    filename: str | None
    monitor: str | None
    mode: Mode
    save_top_k: int
    auto_insert_metric_name: bool
    every_n_train_steps: int
    every_n_epochs: int
    train_time_interval: timedelta | None
    best_k_models: dict[str, Tensor]
    _watch: ScoreWatch | None
    _watched: Mapping[str, Any] | None

    CHECKPOINT_JOIN_CHAR = "-"
    CHECKPOINT_EQUALS_CHAR = "="
    CHECKPOINT_NAME_LAST = "last"
    FILE_EXTENSION = ".ckpt"
    STARTING_VERSION = 1

    @property
    def state_key(self) -> str:
        """Tells several of these apart by what and when they save."""
        return self._generate_state_key(
            monitor=self.monitor,
            mode=self.mode,
            every_n_train_steps=self.every_n_train_steps,
            every_n_epochs=self.every_n_epochs,
            train_time_interval=self.train_time_interval,
        )

    @property
    def worst_score(self) -> Tensor:
        """The score that every number beats."""
        return torch.tensor(math.inf if self.mode == "min" else -math.inf)

    def format_checkpoint_name(
        self, metrics: Mapping[str, Any], filename: str | None = None, ver: int | None = None, prefix: str | None = None
    ) -> str:
        """Return the path of a checkpoint with these metrics, ``epoch`` and ``step`` among them.

        `filename` is a template to use in place of the callback's own, `ver` a version put behind the name.

        Example:
            >>> from leyden_checkpoint import ModelCheckpoint
            >>> ModelCheckpoint().format_checkpoint_name({"epoch": 1, "step": 20}, ver=2)
            'epoch=1-step=20-v2.ckpt'
        """
        name = checkpoint_name(
            filename or self.filename,
            metrics,
            insert_names=self.auto_insert_metric_name,
            join=self.CHECKPOINT_JOIN_CHAR,
            equals=self.CHECKPOINT_EQUALS_CHAR,
            prefix=prefix,
        )
        if ver is not None:
            name = f"{name}{self.CHECKPOINT_JOIN_CHAR}v{ver}"
        name += self.FILE_EXTENSION
        return files.join(self.dirpath, name) if self.dirpath else name

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a checkpoint with the score `current` would be kept; the first process decides."""
        kept = current is not None and is_in_top_k(current, self.best_k_models, self.save_top_k, self.mode)
        return bool(trainer.strategy.broadcast(kept))

    def file_exists(self, filepath: str | os.PathLike[str], trainer: Trainer) -> bool:
        """Whether the first process sees this file."""
        return bool(trainer.strategy.broadcast(files.exists(os.fspath(filepath))))

    def to_yaml(self, filepath: str | os.PathLike[str] | None = None) -> None:
        """Write the ranking as YAML, path to score; without `filepath` to ``best_k_models.yaml`` in `dirpath`."""
        target = files.join(self.dirpath or "", "best_k_models.yaml") if filepath is None else filepath
        files.write_text(os.fspath(target), as_yaml(self.best_k_models))

    def state_dict(self) -> dict[str, Any]:
        """Return the ranking, the newest path and what is pending."""
        watched = None if self._watch is None else self._watch.state_dict()
        state = {"monitor": self.monitor, "mode": self.mode, "dirpath": self.dirpath, "watched": watched}
        return state | {name: getattr(self, name) for name in KEPT}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from an earlier run: its checkpoints count, and its files stay."""
        same_ranking = state_dict.get("monitor") == self.monitor and state_dict.get("mode", self.mode) == self.mode
        if not same_ranking:
            rank_zero_warn(
                f"{type(self).__name__}(monitor={self.monitor!r}, mode={self.mode!r}) starts a ranking of its own: the "
                f"checkpoint's was by monitor={state_dict.get('monitor')!r}, mode={state_dict.get('mode')!r}."
            )
        names = KEPT if same_ranking else ("last_model_path",)
        self._watched = state_dict.get("watched") if same_ranking else None
        if self._watch is not None and self._watched is not None:  # which it keeps where nothing is left to train
            self._watch.load_state_dict(self._watched)
        adopt(self, {name: state_dict[name] for name in names if name in state_dict})

    def __getstate__(self) -> dict[str, Any]:
        """A copy has nothing in flight."""
        return {**self.__dict__, "_in_flight": None, "_settled": None}

    def _metrics(self, trainer: Trainer) -> dict[str, Tensor]:
        """All metrics there are, and the counters, which no metric of the same name replaces in a file's name."""
        counters = {"epoch": torch.tensor(trainer.current_epoch), "step": torch.tensor(trainer.global_step)}
        return {**trainer.callback_metrics, **counters}
