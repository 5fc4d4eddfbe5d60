"""Two ModelCheckpoints that save in one hook: each one's file knows of both saves, whatever ends the run between."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Trainer
from leyden.loggers import Logger
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint


class Cut(BaseException):
    """Ends a run as a kill would: nobody saves."""


class CutsAfter(Logger):
    """Is told of each file that is written, and ends the run after so many."""

    name, version = "cuts", 0

    def __init__(self, saves: int) -> None:
        self.left = saves

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Mapping[str, Any] | Any, *args: Any, **kwargs: Any) -> None:
        pass

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        self.left -= 1
        if not self.left:
            raise Cut


class Scored(BoringModule):
    def __init__(self) -> None:
        super().__init__(batches={"train": 4})

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", [3.0, 1.0, 2.0][self.current_epoch])


def both(folder: str, **how: Any) -> list[ModelCheckpoint]:
    return [
        ModelCheckpoint(f"{folder}/best", "{epoch}", "val_loss", **how),
        ModelCheckpoint(f"{folder}/newest", "{epoch}-{step}", save_last=True, every_n_epochs=1, **how),
    ]


def fit(callbacks: list[ModelCheckpoint], *, cut_after: int = 0, ckpt_path: str | None = None) -> None:
    torch.manual_seed(1)
    trainer = Trainer(
        max_epochs=3, num_sanity_val_steps=0, callbacks=list(callbacks), logger=CutsAfter(cut_after),
        discover_callbacks=False,
    )  # fmt: skip
    trainer.fit(Scored(), ckpt_path=ckpt_path)


def standing(checkpoints: list[ModelCheckpoint]) -> list[dict[str, str]]:
    """What each knows, and how far the files are that it knows of."""
    known = []
    for checkpoint in checkpoints:
        folder = os.path.dirname(str(checkpoint.dirpath))
        state = {name: _named(value, folder) for name, value in checkpoint.state_dict().items()}
        for path in {*checkpoint.best_k_models, checkpoint.best_model_path, checkpoint.last_model_path} - {""}:
            state[_named(path, folder)] = str(torch.load(path, weights_only=True)["global_step"])
        known.append(state)
    return known


def _named(value: Any, folder: str) -> str:
    return str(value).replace(folder, "").replace("-v1", "")  # files of an earlier run stay, and keep their names


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_the_file_of_the_first_knows_of_the_save_of_the_second(asynchronous: bool, order: int) -> None:
    whole, first, resumed = (both(folder, asynchronous=asynchronous) for folder in ("whole", "run", "run"))
    fit(whole[::order])
    fit(first[::order])
    written_first = first[::order][0].best_model_path
    fit(resumed[::order], ckpt_path=written_first)
    assert standing(resumed) == standing(whole)


@pytest.mark.parametrize("saves", [1, 3, 4])
@pytest.mark.parametrize("order", [1, -1])
def test_a_save_that_was_cut_off_is_made_up_for(saves: int, order: int) -> None:
    """The first has written its file, the second has not: the run that goes on from that file writes it."""
    whole, first, resumed = both("whole"), both("run"), both("run")
    fit(whole[::order])
    with pytest.raises(Cut):
        fit(first[::order], cut_after=saves)
    fit(resumed[::order], ckpt_path="auto")
    assert standing(resumed) == standing(whole)


def test_names_that_are_settled_are_taken() -> None:
    """Both decide before one of them has written."""
    one, other = (
        ModelCheckpoint("kept", "{epoch}", name, save_top_k=k, save_last=True)
        for name, k in (("val_loss", 1), (None, -1))
    )
    fit([one, other])
    assert len({one.last_model_path, other.last_model_path}) == 2
    assert sorted(os.listdir("kept")) == [
        "epoch=0-v1.ckpt", "epoch=1-v1.ckpt", "epoch=1.ckpt", "epoch=2.ckpt", "last-v1.ckpt", "last.ckpt",
    ]  # fmt: skip


def test_nothing_is_remembered_that_was_not_written() -> None:
    """The first cannot write, which ends the run: the second's save was settled, and did not come to be."""
    first, second = both("run")
    fit([first], cut_after=0)
    os.makedirs("blocked")
    with open("blocked/best", "w") as file:
        file.write("no folder")
    first, second = both("blocked")
    with pytest.raises(OSError, match="cannot write"):
        fit([first, second])
    assert (second.best_model_path, second.last_model_path, second.saved_at) == ("", "", None)
