"""One bad callback, or several, for each property: small mistakes of the kind that people make."""

from __future__ import annotations

import io
import logging
import os
import random
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch

from leyden import Callback

__all__ = ["BAD"]


class Counts(Callback):
    """A good one, which the bad ones below spoil."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


# -- constructor ------------------------------------------------------------------------------------------------------


class SharesAList(Callback):
    def __init__(self, epochs: list[int] = []) -> None:  # noqa: B006
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(trainer.current_epoch)


class KeepsOnTheClass(Callback):
    epochs: tuple[int, ...] | list[int] = []  # noqa: RUF012

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        type(self).epochs = [*self.epochs, trainer.current_epoch]


class CountsOnTheClass(Callback):
    batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        type(self).batches += 1


class SeedsWhenMade(Callback):
    def __init__(self) -> None:
        torch.manual_seed(42)


class WritesWhenMade(Callback):
    def __init__(self) -> None:
        Path("notes.txt").write_text("made")


class StartsWhenMade(Callback):
    def __init__(self) -> None:
        self.stop = threading.Event()
        threading.Thread(target=self.stop.wait, args=(1,), daemon=True).start()


class NeedsTrainerForState(Counts):
    def __init__(self) -> None:
        super().__init__()
        self.trainer: Any = None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "max_epochs": self.trainer.max_epochs}


# -- hooks ------------------------------------------------------------------------------------------------------------


class Misspelt(Callback):
    def on_train_batch_ends(self, trainer: Any, pl_module: Any) -> None: ...


class WrongArguments(Callback):
    def on_train_epoch_end(self, trainer: Any, module: Any, metrics: Any, epoch: Any) -> None: ...  # type: ignore[override]


class Coroutine(Callback):
    async def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None: ...  # type: ignore[override]


class PassesOverItsBase(Counts):
    def __init__(self) -> None:
        self.other = 1

    def on_train_batch_end(self, *_: Any) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {}


# -- stages -----------------------------------------------------------------------------------------------------------


class NeedsALogger(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.logger.log_metrics({"epochs": trainer.current_epoch + 1.0}, trainer.global_step)


class NeedsAnOptimizer(Callback):
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.rate = None

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.global_step:
            self.rate = trainer.optimizers[0].param_groups[0]["lr"]


class ForgetsTheSanityCheck(Callback):
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.gap = trainer.callback_metrics["val_loss"] - trainer.callback_metrics["train_loss_step"]


class ForgetsManualOptimisation(Callback):
    """A module that drives its optimizers clears gradients itself."""

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rate = optimizer.param_groups[0]["lr"]

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.last = self.rate


# -- safe_state -------------------------------------------------------------------------------------------------------


class KeepsAnObject(Counts):
    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches, "stream": io.StringIO()}


class KeepsAGraph(Callback):
    def __init__(self) -> None:
        self.loss = torch.zeros(())

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        self.loss = loss

    def state_dict(self) -> dict[str, Any]:
        return {"loss": self.loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.loss = state_dict["loss"]


class SavesAWholeStorage(Callback):
    def __init__(self) -> None:
        self.recent = torch.zeros(10_000)[:2]

    def state_dict(self) -> dict[str, Any]:
        return {"recent": self.recent}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.recent = state_dict["recent"]


# -- state_round_trip -------------------------------------------------------------------------------------------------


class ForgetsToLoad(Counts):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class CountsSaves(Counts):
    """Its state is another each time it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.saves = 0

    def state_dict(self) -> dict[str, Any]:
        self.saves += 1
        return {"batches": self.batches, "saves": self.saves}


class ResetsWhenSaved(Callback):
    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.batches += 1
        self.log("since_save", float(self.batches))

    def state_dict(self) -> dict[str, Any]:
        self.batches = 0
        return {"batches": 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


class ChangesTheCheckpoint(Callback):
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append(trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": list(self.epochs)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epochs = state_dict["epochs"]


class KeyOfTheRun(Counts):
    begun = False

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun = True

    @property
    def state_key(self) -> str:
        return self._generate_state_key(begun=self.begun)


# -- resume -----------------------------------------------------------------------------------------------------------


class LogsWhatItDoesNotKeep(Callback):
    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.batches += 1
        self.log("batches", float(self.batches))


class WarmsUpAgain(Callback):
    def __init__(self) -> None:
        self.steps = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.steps += 1
        trainer.optimizers[0].param_groups[0]["lr"] = min(0.1, 0.02 * self.steps)


class FreezesAtEpochStart(Callback):
    """The start of an epoch does not come again where that is gone on with."""

    changes_weights = True

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.backbone.requires_grad_(trainer.current_epoch > 0)


# -- second_instance --------------------------------------------------------------------------------------------------


class OneAtMost(Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if sum(isinstance(callback, OneAtMost) for callback in trainer.callbacks) > 1:
            raise RuntimeError("there can be one only")


class KeyWithoutName(Counts):
    @property
    def state_key(self) -> str:
        return "counts"


class CountsForTheFirst(Counts):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        first = next(callback for callback in trainer.callbacks if isinstance(callback, CountsForTheFirst))
        first.batches += 1


# -- independence -----------------------------------------------------------------------------------------------------


class LogsItsPlace(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.log("place", float(trainer.callbacks.index(self)))


class SumsEverything(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.log("total", sum(trainer.callback_metrics.values()))


class CountsCallbacks(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.log("callbacks", float(len(trainer.callbacks)))


# -- own_hooks_only ---------------------------------------------------------------------------------------------------


class CallsOthers(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        for callback in trainer.callbacks:
            if callback is not self:
                callback.on_train_epoch_start(trainer, pl_module)


class CallsTheModule(Callback):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.on_validation_end()


class CallsThePlan(Callback):
    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.plan.on_validation_epoch_end is not None:
            trainer.journal.hook = "on_validation_epoch_end"
            for callback in [one for one in trainer.callbacks if one is not self]:
                callback.on_fit_end(trainer, pl_module)
            trainer.journal.hook = "on_train_end"


# -- only_watches -----------------------------------------------------------------------------------------------------


class DrawsToSample(Callback):
    def on_train_batch_end(self, *_: Any) -> None:
        self.sampled = random.random() < 0.1


class LeavesEvalMode(Callback):
    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        pl_module.backbone.eval()


class RunsTheModel(Callback):
    """A forward in training mode moves the statistics of BatchNorm, and draws for dropout."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        with torch.no_grad():
            pl_module(torch.ones(4, 4))


class NormalisesGradients(Callback):
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        for parameter in pl_module.parameters():
            parameter.grad.mul_(0.5)


class BlanksValidationData(Callback):
    """The weights do not change, and what the module logs does."""

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
        batch[0].zero_()


class PatchesTheOptimizer(Callback):
    """What is changed is changed outside its hooks."""

    handle: Any = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        [optimizer] = trainer.optimizers
        self.handle = optimizer.register_step_pre_hook(self.scale)

    def scale(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad.mul_(0.5)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self.handle is not None:
            self.handle.remove()


# -- synchronisation --------------------------------------------------------------------------------------------------


class ReadsEachLoss(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.loss = float(outputs["loss"])


class AsksWhetherFinite(Callback):
    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        if not torch.isfinite(loss):
            raise ValueError("the loss is not finite")


class CopiesEachBatch(Callback):
    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self.batch = batch[0].cpu()


class PicksByMask(Callback):
    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        weight = pl_module.head[1].weight
        self.positive = weight.detach()[weight > 0].sum()


class ReadsInAForwardHook(Callback):
    handle: Any = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.handle = pl_module.backbone.register_forward_hook(self.look)

    def look(self, module: Any, args: Any, output: torch.Tensor) -> None:
        self.mean = output.mean().item()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if self.handle is not None:
            self.handle.remove()


class FillsABufferOnTheCpu(Callback):
    def __init__(self) -> None:
        self.losses = torch.zeros(8)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses[batch_idx] = outputs["loss"].detach()


class ReadsWhatItMoved(Callback):
    def __init__(self) -> None:
        self.total = torch.zeros(())

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.total = self.total.to(pl_module.device)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *_: Any) -> None:
        self.total += outputs["loss"].detach()
        self.shown = self.total.item()


# -- cost -------------------------------------------------------------------------------------------------------------


class LooksAtEveryName(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        for part in ("weight", "bias", "running"):
            self.names = [name for name, _ in pl_module.named_parameters() if part in name]


class RecomputesAll(Callback):
    """Each step takes longer than the one before."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self.steps = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.steps.append(len(self.steps))
        self.mean = sum(self.weighted(age) for age in self.steps for _ in range(10))

    def weighted(self, age: int) -> float:
        return 0.5**age


# -- exceptions -------------------------------------------------------------------------------------------------------


class LeavesAHook(Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.handle = pl_module.backbone.register_forward_hook(lambda *_: None)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.handle.remove()


class LeavesAThread(Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.stop.wait, args=(10,), daemon=True, name="left")
        self.thread.start()

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.stop.set()
        self.thread.join()

    def __del__(self) -> None:
        if hasattr(self, "stop"):
            self.stop.set()


class LeavesAPatch(Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        pl_module.forward = pl_module.forward

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        vars(pl_module).pop("forward", None)


class LeavesAGlobalHook(Callback):
    handle: Any = None

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.handle.remove()


class LeavesASetting(Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        torch.autograd.set_detect_anomaly(True)


class LeavesAVariable(Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "no"


class LeavesALogHandler(Callback):
    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        logging.getLogger("run").addHandler(logging.NullHandler())


class LeavesATemporaryFolder(Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.folder = Path(tempfile.mkdtemp())

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        self.folder.rmdir()


class LeavesAPatchOfTorch(Callback):
    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        original = self.original = torch.nn.functional.cross_entropy

        def patched(*args: Any, **options: Any) -> torch.Tensor:
            return original(*args, **options)

        torch.nn.functional.cross_entropy = patched

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        torch.nn.functional.cross_entropy = self.original


class NeedsItsFitStart(Callback):
    """An error in configure_optimizers comes before that, and then teardown."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.stream = io.StringIO()

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.stream.close()


class NeedsItsStart(Callback):
    """Its teardown comes also where its on_train_end did not."""

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.summary = "trained"

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit":
            self.summary = self.summary.upper()


class WorksOnce(Callback):
    used = False

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if stage == "fit" and self.used:
            raise RuntimeError("used up")
        self.used = self.used or stage == "fit"


BAD: dict[str, list[type[Callback]]] = {
    "constructor": [
        SharesAList, KeepsOnTheClass, CountsOnTheClass, SeedsWhenMade, WritesWhenMade, StartsWhenMade,
        NeedsTrainerForState,
    ],
    "hooks": [Misspelt, WrongArguments, Coroutine, PassesOverItsBase],
    "stages": [NeedsALogger, NeedsAnOptimizer, ForgetsTheSanityCheck, ForgetsManualOptimisation],
    "safe_state": [KeepsAnObject, KeepsAGraph, SavesAWholeStorage],
    "state_round_trip": [ForgetsToLoad, CountsSaves, ResetsWhenSaved, ChangesTheCheckpoint, KeyOfTheRun],
    "resume": [LogsWhatItDoesNotKeep, WarmsUpAgain, FreezesAtEpochStart],
    "second_instance": [OneAtMost, KeyWithoutName, CountsForTheFirst],
    "independence": [LogsItsPlace, SumsEverything, CountsCallbacks],
    "own_hooks_only": [CallsOthers, CallsTheModule, CallsThePlan],
    "only_watches": [
        DrawsToSample, LeavesEvalMode, RunsTheModel, NormalisesGradients, BlanksValidationData, PatchesTheOptimizer,
    ],
    "synchronisation": [
        ReadsEachLoss, AsksWhetherFinite, CopiesEachBatch, PicksByMask, FillsABufferOnTheCpu, ReadsWhatItMoved,
        ReadsInAForwardHook,
    ],
    "cost": [LooksAtEveryName, RecomputesAll],
    "exceptions": [
        LeavesAHook, LeavesAThread, LeavesAPatch, LeavesAGlobalHook, LeavesASetting, LeavesAVariable, LeavesALogHandler,
        LeavesATemporaryFolder, LeavesAPatchOfTorch, NeedsItsFitStart, NeedsItsStart, WorksOnce,
    ],
}  # fmt: skip
"""Each breaks the property it stands under, and no other."""
