"""Runs of several processes that keep checkpoints, for `test_parallel_saves`; some of them are stopped as they save."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from tests.parallel_runs import FailAt, SignalAt
from tests.parallel_state import Drawing, state_of

from leyden import Trainer, seed_everything
from leyden.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from leyden.errors import MisconfigurationException
from leyden.runtime.fsdp import FSDPStrategy
from leyden.state import placing, shard_files, storage

__all__ = [
    "cut",
    "cut_and_resume",
    "go_on",
    "keep",
    "keep_in_turns",
    "killed_in_turn",
    "resume",
    "save_unless",
    "save_where_it_is_refused",
    "unmade",
]

SETTINGS: dict[str, Any] = {
    "accelerator": "cpu", "logger": False, "discover_callbacks": False, "num_sanity_val_steps": 0, "max_epochs": 3,
}  # fmt: skip


def _trainer(kind: str, *callbacks: Any, **settings: Any) -> Trainer:
    strategy: Any = FSDPStrategy(state_dict_type="sharded") if kind == "sharded" else kind
    seed_everything(3, verbose=False)
    return Trainer(strategy=strategy, callbacks=list(callbacks), **{**SETTINGS, **settings})


def keep(kind: str, folder: str, **options: Any) -> dict[str, Any]:
    """Keep the best two, and the newest."""
    checkpoint = ModelCheckpoint(
        folder, "{epoch}", monitor="val_loss", save_top_k=2, enable_version_counter=False, **options
    )
    trainer = _trainer(kind, checkpoint)
    trainer.fit(Drawing())
    return {
        **state_of(trainer),
        "best": os.path.basename(checkpoint.best_model_path),
        "last": os.path.basename(checkpoint.last_model_path),
        "kept": sorted(map(os.path.basename, checkpoint.best_k_models)),
    }


def keep_in_turns(folder: str) -> list[dict[str, Any]]:
    """Keep checkpoints in each way there is, one after the other."""
    return [
        keep("sharded", str(Path(folder, "waiting")), save_last=True),
        keep("sharded", str(Path(folder, "asynchronous")), save_last="link", asynchronous=True),
        keep("ddp", str(Path(folder, "file")), save_last=True),
    ]


def go_on(runs: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Go on from a checkpoint of a folder, to the end of a fourth epoch."""
    ends = []
    for kind, folder, name in runs:
        trainer = _trainer(kind, ModelCheckpoint(folder, save_last=True), max_epochs=4)
        trainer.fit(Drawing(), ckpt_path=name)
        ends.append({**state_of(trainer), "from": str(trainer.ckpt_path)})
    return ends


class Wide(Drawing):
    """Its shares are larger than what a file holds back before it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = torch.nn.Linear(4, 5000)


class Stopped(shard_files._Writer):
    """What stops one process within its second save."""

    saves = 0
    victim, how = 0, ""

    def write_data(self, plan: Any, planner: Any) -> Any:
        Stopped.saves += 1
        if Stopped.saves == 2 and int(os.environ["RANK"]) == self.victim:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # the disk refuses what is beyond
            try:
                return super().write_data(plan, planner)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return super().write_data(plan, planner)


def save_unless(how: str, rank: int, folder: str, **options: Any) -> list[str]:
    """Train while process `rank` is killed within its second save, or finds the disk full; return what is told."""
    Stopped.how, Stopped.victim, Stopped.saves = how, rank, 0
    shard_files._Writer = Stopped  # type: ignore[misc]
    checkpoint = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, **options)
    trainer = _trainer("sharded", checkpoint)
    trainer.fit(Wide())
    return sorted(map(os.path.basename, checkpoint.written))


def save_where_it_is_refused(folder: str) -> tuple[list[tuple[list[str], str]], list[str]]:
    """Return what `save_on_a_full_disk` does, and the errors of callbacks that are to save to a URL."""
    ends, errors = save_on_a_full_disk(folder), []
    for callback in (ModelCheckpoint("memory://runs"), OnExceptionCheckpoint("memory://runs")):
        try:
            _trainer("sharded", callback).fit(Drawing())
        except MisconfigurationException as error:
            errors.append(str(error))
    return ends, errors


def save_on_a_full_disk(folder: str) -> list[tuple[list[str], str]]:
    """Go on without the save that failed, then be stopped by one; return what is written and the error."""
    ends = []
    for rank, beside in ((0, False), (1, True)):
        written = save_unless(
            "full", rank, str(Path(folder, f"warn-{rank}")), on_save_error="warn", asynchronous=beside
        )
        try:
            save_unless("full", rank, str(Path(folder, f"raise-{rank}")), asynchronous=beside)
        except OSError as error:
            ends.append((written, str(error)))
    return ends


def cut(kinds: list[str], folder: str, by: str) -> list[dict[str, Any]]:
    """Train without a cut, and until the second process gets SIGTERM, or fails; return what the former come to."""
    ends = []
    for kind in kinds:
        trainer = _trainer(kind)
        trainer.fit(Drawing())
        ends.append(state_of(trainer))
    for kind in kinds:
        stop = SignalAt(1, 8) if by == "SIGTERM" else FailAt(1, 8)
        callbacks: list[Any] = [OnExceptionCheckpoint(str(Path(folder, kind))), stop]
        if kind == "sharded" and by != "SIGTERM":
            callbacks.append(ModelCheckpoint(Path(folder, "kept")))
        trainer = _trainer(kind, *callbacks)
        try:
            trainer.fit(Drawing())
        except SystemExit:
            continue
    return ends


def resume(kinds: list[str], folder: str) -> list[dict[str, Any]]:
    """Go on from what was saved after a cut."""
    ends = []
    for kind in kinds:
        trainer = _trainer(kind, OnExceptionCheckpoint(str(Path(folder, kind))))
        torch.manual_seed(99 + trainer.global_rank)
        trainer.fit(Drawing(), ckpt_path=str(Path(folder, kind, "on_exception.ckpt")))
        ends.append(state_of(trainer))
    return ends


def cut_and_resume(kinds: list[str], folder: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what runs come to without a cut, and with one by SIGTERM."""
    return cut(kinds, folder, "SIGTERM"), resume(kinds, folder)


def killed_in_turn(source: str, folder: str) -> list[tuple[int, str, list[str], list[str]]]:
    """Be killed at each step of replacing a folder where names cannot be exchanged; return what is then found."""
    placing._exchange = lambda one, other: False
    found: list[tuple[int, str, list[str], list[str]]] = []
    ends = False
    while not ends:
        place = Path(folder, str(len(found)))
        for name in ("last.ckpt", ".made"):
            shutil.copytree(source, place / name)
        if (child := os.fork()) == 0:
            sys.addaudithook(_Killing(len(found) + 1))
            placing.put_in_place(place / ".made", place / "last.ckpt")
            os._exit(0)
        ends = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        shutil.rmtree(place / ".made", ignore_errors=True)
        shutil.copytree(place, auto := Path(folder, f"{len(found)}-auto"))
        trainer = _trainer("auto", ModelCheckpoint(auto))
        trainer.validate(Drawing(), ckpt_path="auto", verbose=False)
        step = storage.load(place / "last.ckpt")["global_step"]
        for left in (auto, place):
            storage.tidy(left)
        found.append((step, Path(str(trainer.ckpt_path)).name, os.listdir(auto), os.listdir(place)))
    return found


class _Killing:
    """An audit hook that kills the process before the n-th change of a folder."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)


class Unmade(Drawing):
    """Its layers have no memory until a strategy, or a checkpoint, gives them some."""

    def configure_model(self) -> None:
        with torch.device("meta"):
            self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def unmade(folder: str) -> list[dict[str, Any]]:
    """Train a module that is made by the strategy; return what it comes to, and what a run goes on with from there."""
    path, ends = str(Path(folder, "unmade.ckpt")), []
    for ckpt_path in (None, path):
        trainer = _trainer("sharded", max_epochs=1)
        trainer.fit(Unmade(), ckpt_path=ckpt_path)
        ends.append(state_of(trainer))
        if ckpt_path is None:
            trainer.save_checkpoint(path)
    return ends
