"""Callbacks that fail in one process, and those that the environment attaches, for `test_parallel_failures`."""

from __future__ import annotations

import io
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from tests.parallel_endings import Validated
from tests.parallel_runs import ACCELERATOR
from torch import Tensor

from leyden import Callback, Trainer
from leyden.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    QuantizationAwareTraining,
    SpikeDetection,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from leyden.loggers import CSVLogger
from leyden.strategies import DDPStrategy

__all__ = ["HOOKS", "UNALIKE", "attached", "broken", "failures", "unalike"]

HOOKS = {
    "fit": (
        "setup", "on_fit_start", "on_sanity_check_start", "on_sanity_check_end", "on_train_start",
        "on_train_epoch_start", "on_train_batch_start", "on_before_backward", "on_after_backward",
        "on_before_optimizer_step", "on_before_zero_grad", "on_train_batch_end", "on_validation_start",
        "on_validation_batch_start", "on_validation_batch_end", "on_validation_epoch_end", "on_validation_end",
        "on_train_epoch_end", "state_dict", "on_save_checkpoint", "on_train_end", "on_fit_end", "teardown",
    ),
    "predict": ("on_predict_start", "on_predict_batch_end", "on_predict_end"),
}  # fmt: skip


class Predicting(Validated):
    """With what there is to predict."""

    def predict_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.net(batch)

    def predict_dataloader(self) -> Any:
        return self.train_dataloader()


class Fails(Callback):
    """Fails in a hook, in the last process, at once or when the others have gone on to where they wait for it."""

    def __init__(self, hook: str, after_s: float) -> None:
        def fail(*_: Any) -> None:
            if int(os.environ["RANK"]) == int(os.environ["WORLD_SIZE"]) - 1:
                time.sleep(after_s)
                raise ValueError(f"no {hook} here")

        setattr(self, hook, fail)


def failures(folder: str, after_s: float) -> dict[str, str]:
    """Run once for each hook, and then well; return how each run has ended in this process."""
    ends = {}
    for entry_point, hooks in HOOKS.items():
        for hook in hooks:
            ends[hook] = _ended(entry_point, hook, folder, after_s)
    ends["no hook"] = _ended("fit", "no_hook", folder, 0.0)
    return ends


def _ended(entry_point: str, hook: str, folder: str, after_s: float) -> str:
    saving = ModelCheckpoint(Path(folder, hook))
    trainer = Trainer(
        max_epochs=2, accelerator=ACCELERATOR, logger=False, discover_callbacks=False,
        callbacks=[Fails(hook, after_s), saving],
    )  # fmt: skip
    try:
        getattr(trainer, entry_point)(Predicting(2))
    except Exception as error:
        return "".join(traceback.format_exception(error))
    return "well"


_ALONE: tuple[Callable[[], Callback], ...] = (
    lambda: BackboneFinetuning(1), BatchSizeFinder, lambda: EarlyStopping("val"), EMAWeightAveraging,
    lambda: GradientAccumulationScheduler({0: 2}), LearningRateFinder, ModelCheckpoint,
    lambda: ModelPruning("l1_unstructured"), lambda: OnExceptionCheckpoint("."), QuantizationAwareTraining,
    SpikeDetection, lambda: StochasticWeightAveraging(0.1), lambda: Timer({"hours": 1}), WeightAveraging,
)  # fmt: skip


def _in_order(rank: int) -> dict[str, Any]:
    first, second = EarlyStopping("val"), EarlyStopping("loss")
    return {"callbacks": [second, first] if rank else [first, second]}


UNALIKE: dict[str, tuple[Callable[[int], dict[str, Any]], str]] = {
    "order": (_in_order, "their order is [EarlyStopping{'monitor': 'val', 'mode': 'min'}, EarlyStopping{'monitor': 'l"),
    "setting of a callback": (
        lambda rank: {"callbacks": [EarlyStopping("val", patience=2 + rank)]},
        "EarlyStopping{'monitor': 'val', 'mode': 'min'} has patience=2 in process 0, 3 in process 1",
    ),
    "setting of the Trainer": (
        lambda rank: {"max_epochs": 1 + rank},
        "Trainer has max_epochs=1 in process 0, 2 in process 1",
    ),
    "logger": (
        lambda rank: {"logger": rank == 0 and CSVLogger("logs")},
        "the logger CSVLogger (number 1) is in process 0 only",
    ),
}
"""Arguments of the Trainer that differ by rank, and what is said of them."""


def unalike() -> dict[str, str]:
    """Fit with what is in one process only, or otherwise in each; return how each ends in this process."""
    rank = int(os.environ["RANK"])
    ends = {}
    for at, make in enumerate(_ALONE):
        callback = make()
        arguments = {"callbacks": [callback] if rank == at % 2 else []}
        ends[f"{type(callback).__name__} in process {at % 2}"] = _told(arguments)
    ends |= {name: _told(make(rank)) for name, (make, _) in UNALIKE.items()}
    measuring = Timer({"hours": 1 + rank}), Timer()
    measuring[1].name = "in one"
    ends["well"] = _told({"callbacks": [*measuring[: 1 + rank], *[Fails("on_nothing", 0.0)] * rank]})
    return ends


def _told(arguments: dict[str, Any]) -> str:
    settings = {"max_epochs": 1, "accelerator": ACCELERATOR, "logger": False, "discover_callbacks": False, **arguments}
    try:
        Trainer(**settings).fit(Validated(2))
    except Exception as error:
        return str(error)
    return "well"


_WATCH = """
from leyden import Callback

class Watch(Callback):
    def __init__(self):
        self.seen = 0

    def on_train_batch_end(self, trainer, *_):
        self.seen += 1
        if trainer.global_rank == trainer.world_size - 1 and self.seen == 2:
            raise OSError("nowhere to send this")

def make():
    return [Watch()]
"""

_CONFIGURATION = """
[callbacks.EarlyStopping]
monitor = "val"
patience = 2
min_delta = 1000.0
check_on_train_epoch_end = true

[callbacks.Heartbeat]
path = "heartbeat.json"
every_n_seconds = 1e-9

[callbacks.ModelSummary]
rank_zero_only = true

[callbacks.Timer]
duration = "00:01:00:00"
rank_zero_only = true
"""


_DECIDING = """
from leyden.callbacks import EarlyStopping

class Deciding(EarlyStopping):
    ranks = ()

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.global_rank in self.ranks:
            raise OSError("cannot decide")
        super().on_train_epoch_end(trainer, pl_module)

def make():
    return [Deciding("val", patience=9)]
"""


class Impatient(DDPStrategy):
    patience_s = 1.0


def _install(name: str, source: str, into: Path) -> None:
    """Let this process find a module as an installed distribution with callbacks."""
    about = into / f"{name}-1.0.dist-info"
    about.mkdir(parents=True)
    (into / f"{name}.py").write_text(source)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[leyden.callbacks_factory]\n{name} = {name}:make\n")
    sys.path.insert(0, str(into))


def broken(folder: str) -> list[str]:
    """Train with a callback of the environment that waits for others, and fails in all processes, and in the last."""
    own = Path(folder, os.environ["RANK"])
    _install("deciding", _DECIDING, own)
    os.environ["LEYDEN_CALLBACKS"] = "only:deciding"
    world, ends = int(os.environ["WORLD_SIZE"]), []
    for ranks in (range(world), [world - 1]):
        trainer = Trainer(strategy=Impatient(), max_epochs=2, accelerator=ACCELERATOR, logger=False)
        [deciding] = trainer.callbacks
        deciding.ranks = ranks  # type: ignore[attr-defined]
        try:
            with redirect_stderr(io.StringIO()):
                trainer.fit(Validated(2))
            ends.append(f"{[one.callback for one in trainer.discovered.switched_off]} after {trainer.global_step}")
        except Exception as error:
            ends.append("".join(traceback.format_exception(error)))
    return ends


def attached(folder: str) -> dict[str, Any]:
    """Train with what an entry point and a configuration attach, where one fails in the last process."""
    own = Path(folder, os.environ["RANK"])
    _install("watching", _WATCH, own)
    (own / "leyden.toml").write_text(_CONFIGURATION)
    os.environ["LEYDEN_CONFIG"] = str(own / "leyden.toml")
    os.environ["LEYDEN_CALLBACKS"] = "only:watching,EarlyStopping,Heartbeat,ModelSummary,Timer"
    printed = io.StringIO()
    with redirect_stderr(printed):
        trainer = Trainer(max_epochs=9, accelerator=ACCELERATOR, logger=False, num_sanity_val_steps=0)
        names = [type(one).__name__ for one in trainer.callbacks]
        watch = trainer.callbacks[names.index("Watch")]
        trainer.fit(Validated(2))
    return {
        "attached": names,
        "steps": trainer.global_step,
        "seen": watch.seen,  # type: ignore[attr-defined]
        "off": [one.callback for one in trainer.discovered.switched_off],
        "printed": printed.getvalue(),
    }
