"""What tests of exact resume share: a run that saves everywhere, gone on with from each of its checkpoints."""

from __future__ import annotations

import itertools
import os
import random
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock  # which torch requires
from tests.clean_environments import build_wheels

from leyden import Callback, LightningModule, Trainer
from leyden.loggers import CSVLogger
from leyden.state.checkpoint import dump
from leyden.testing.differences import differences


class SaveEverywhere(Callback):
    """Saves at each event, when all have had it, and notes how many batches had been seen by then."""

    position = "checkpoint"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[tuple[Path, int]] = []

    def _save(self, trainer: Trainer, event: str) -> None:
        path = self.folder / f"{len(self.saved):02d}-{event}.ckpt"

        def save() -> None:
            self.saved.append((path, len(vars(trainer.lightning_module)["seen"])))
            trainer.save_checkpoint(path)

        if not trainer.sanity_checking:
            trainer.plan.when_done(save)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "train_batch")

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "validation_batch")

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._save(trainer, "epoch")


def seed(number: int) -> None:
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number)


class Runs:
    """Fits of the same thing in one folder.

    `build` gives the module, which keeps in ``seen`` what it saw of each batch, the dataloaders and the callbacks.
    """

    def __init__(self, folder: Path, build: Callable[[], dict[str, Any]], trainer: dict[str, Any]) -> None:
        self.folder, self.build, self.arguments = folder, build, trainer

    def fit(
        self, number: int, *callbacks: Callback, logs: str = "logs", ckpt_path: Path | None = None, **arguments: Any
    ) -> dict[str, Any]:
        """Run with this seed; return all that a checkpoint at the end holds, the rows and what was seen."""
        seed(number)
        built = self.build()
        module: LightningModule = built["module"]
        trainer = Trainer(
            **{
                "accelerator": "cpu",
                "logger": CSVLogger(self.folder / logs),
                "callbacks": [*built.get("callbacks", []), *callbacks],
                "discover_callbacks": False,
                "log_every_n_steps": 2,
                **self.arguments,
                **arguments,
            }
        )
        trainer.fit(module, built.get("train"), built.get("val"), ckpt_path=ckpt_path)
        end = dump(trainer)
        del end["loggers"]
        del end["loops"]["fit_loop"]["draws"]  # of loaders that will not be read again
        return {
            "end": end,
            "metrics": dict(trainer.callback_metrics),
            "rows": Path(trainer.log_dir or "", "metrics.csv").read_text().splitlines(),
            "seen": list(built["module"].seen),
        }

    def check(self, cuts: slice, expected_warning: str = "") -> int:
        """Compare the straight run with those gone on from checkpoints made everywhere in it; return how many."""
        straight = self.fit(1, logs="straight")
        saver = SaveEverywhere(self.folder / "saved")
        saving = self.fit(1, saver)
        assert not list(differences(saving, straight)), "saving changes the run"
        chosen = saver.saved[cuts]
        for number, (path, seen) in zip(itertools.count(50), chosen, strict=False):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always" if expected_warning else "error")
                resumed = self.fit(number, ckpt_path=path)
            assert all(expected_warning in str(one.message) for one in caught)
            resumed["seen"] = straight["seen"][:seen] + resumed["seen"]
            assert not list(differences(resumed, straight)), f"resumed from {path.name}"
        return len(chosen)


@pytest.fixture
def resumes_exactly(tmp_path: Path) -> Callable[..., int]:
    """Check that a fit goes on bit for bit from any of its checkpoints: ``resumes_exactly(build, cuts, **trainer)``."""
    folders = itertools.count()

    def check(
        build: Callable[[], dict[str, Any]], cuts: slice = slice(None), *, warns: str = "", **trainer: Any
    ) -> int:
        return Runs(tmp_path / f"runs-{next(folders)}", build, trainer).check(cuts, warns)

    return check


@pytest.fixture(scope="session")
def named_differences() -> Callable[[Any, Any], Iterable[str]]:
    """Say where two nested values differ."""
    return differences


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of every distribution in `packages/`, built once, also where several processes test."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wheels"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            build_wheels(folder.with_name("unfinished")).rename(folder)
    return folder
