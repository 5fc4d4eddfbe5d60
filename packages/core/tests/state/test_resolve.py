"""Which file "best", "last", "auto", "hpc" and a path mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden import MisconfigurationException, Trainer
from leyden.callback import Checkpoint
from leyden.state.resolve import read_checkpoint, resolve_checkpoint
from leyden.testing import BoringModule


class Keeps(Checkpoint):
    """A checkpoint callback that saves nothing by itself."""

    def __init__(self, best: str = "", last: str = "", dirpath: str | None = None) -> None:
        self.best_model_path, self.last_model_path, self.dirpath = best, last, dirpath


def make(*callbacks: Checkpoint, max_epochs: int = 2, **settings: Any) -> Trainer:
    trainer = Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        discover_callbacks=False,
        callbacks=callbacks,
        **settings,
    )
    trainer.lightning_module_or_none = BoringModule()
    return trainer


def written(path: str, at_s: int, **how: Any) -> str:
    """Write a checkpoint of a short fit that is `at_s` seconds old in the file system's eyes."""
    trainer = make(max_epochs=1)
    trainer.fit(BoringModule())
    trainer.save_checkpoint(path, **how)
    os.utime(path, (at_s, at_s))
    return path


def resolved(trainer: Trainer, name: Any, **how: Any) -> str | None:
    from leyden.run_state import TrainerFn

    trainer.state.fn = TrainerFn.FITTING
    if name != "auto":
        return resolve_checkpoint(trainer, name)
    found = read_checkpoint(trainer, name, **how)
    return None if found is None else found[0]


def test_nothing_and_paths_are_themselves() -> None:
    assert resolved(make(), None) is None
    assert resolved(make(), "runs/a.ckpt") == resolved(make(), Path("runs/a.ckpt")) == "runs/a.ckpt"


def test_best_is_that_of_the_first_callback_that_has_one() -> None:
    assert resolved(make(Keeps(), Keeps(best="b.ckpt"), Keeps(best="c.ckpt")), "best") == "b.ckpt"


def test_best_says_why_there_is_none() -> None:
    with pytest.raises(MisconfigurationException, match=r"no checkpoint has been saved yet.*Run fit first"):
        resolved(make(Keeps()), "best")
    with pytest.raises(MisconfigurationException, match=r"under fast_dev_run no checkpoint is saved.*without it"):
        resolved(make(Keeps(), fast_dev_run=True), "best")


def test_last_is_the_callbacks_own_or_the_newest_file_of_that_name() -> None:
    assert resolved(make(Keeps(last="x/last.ckpt")), "last") == "x/last.ckpt"
    written("runs/last.ckpt", 100)
    written("runs/last-v1.ckpt", 200)
    written("runs/epoch=1.ckpt", 300)
    assert resolved(make(Keeps(dirpath="runs")), "last") == "runs/last-v1.ckpt"
    with pytest.raises(MisconfigurationException, match=r"no last checkpoint was found in elsewhere.*save_last=True"):
        resolved(make(Keeps(dirpath="elsewhere")), "last")


def test_auto_begins_afresh_where_there_is_nothing() -> None:
    assert resolved(make(), "auto") is None
    trainer = make(max_epochs=1)
    trainer.fit(BoringModule(), ckpt_path="auto")
    assert (trainer.ckpt_path, trainer.global_step) == (None, 2)


def test_auto_takes_the_newest_whole_checkpoint_that_a_fit_can_go_on_from() -> None:
    written("runs/a.ckpt", 100)
    whole = written("runs/b.ckpt", 200)
    written("runs/weights.ckpt", 300, weights_only=True)
    torch.save({"another": 1}, "runs/foreign.ckpt")
    Path("runs/cut.ckpt").write_bytes(Path(whole).read_bytes()[:500])
    trainer = make(default_root_dir="runs")
    with pytest.warns(UserWarning, match="passes over") as passed_over:
        trainer.fit(BoringModule(), ckpt_path="auto")
    assert {Path(str(warning.message).split("over ")[1].split(": ")[0]).name for warning in passed_over} == {
        "cut.ckpt", "foreign.ckpt", "weights.ckpt",
    }  # fmt: skip
    assert (trainer.ckpt_path, trainer.global_step, trainer.current_epoch) == (whole, 4, 2)


def test_auto_reads_the_chosen_file_once(monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("runs/a.ckpt", 100)
    opened: list[str] = []
    really_open = Path.open

    def count(self: Path, *args: Any, **how: Any) -> Any:
        opened.append(str(self))
        return really_open(self, *args, **how)

    monkeypatch.setattr(Path, "open", count)
    make(default_root_dir="runs").fit(BoringModule(), ckpt_path="auto")
    assert opened == [path]


def test_auto_looks_where_the_checkpoint_callbacks_write() -> None:
    written("elsewhere/new.ckpt", 300)
    own = written("mine/old.ckpt", 100)
    assert resolved(make(Keeps(dirpath="mine")), "auto") == own


def test_hpc_is_the_one_with_the_highest_number() -> None:
    for name in ("hpc_ckpt_2", "hpc_ckpt_10", "hpc_ckpt_x", "other"):
        Path(f"{name}.ckpt").touch()
    assert resolved(make(), "hpc") == os.path.abspath("hpc_ckpt_10.ckpt")


def test_auto_passes_over_a_newest_file_with_one_flipped_bit() -> None:
    older, newer = written("a.ckpt", at_s=1000), written("b.ckpt", at_s=2000)
    data = bytearray(Path(newer).read_bytes())
    weight = torch.load(newer, weights_only=True)["state_dict"]["layer.weight"]
    data[data.index(weight.numpy().tobytes())] ^= 1
    Path(newer).write_bytes(data)
    with pytest.warns(UserWarning, match=r"passes over .*b\.ckpt: .*CRC-32"):
        found = resolved(make(Keeps(dirpath=".")), "auto")
    assert found == older


def test_auto_passes_over_a_link_that_leads_nowhere() -> None:
    path = written("a.ckpt", at_s=1000)
    os.symlink("gone", "last.ckpt")
    assert resolved(make(Keeps(dirpath=".")), "auto") == path


def test_auto_looks_at_urls_too() -> None:
    trainer = make(max_epochs=1)
    trainer.fit(BoringModule())
    for name in ("a", "b"):
        trainer.save_checkpoint(f"memory://auto/{name}.ckpt")
    assert resolved(make(Keeps(dirpath="memory://auto")), "auto") == "memory://auto/b.ckpt"
    assert resolved(make(Keeps(dirpath="memory://empty")), "auto") is None
    going_on = make(max_epochs=2)
    going_on.fit(BoringModule(), ckpt_path="memory://auto/b.ckpt")
    assert going_on.current_epoch == 2
