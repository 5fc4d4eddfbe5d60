"""How processes of `test_parallel_ends` are ended: by SIGTERM at every kind of moment, and by errors in hooks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import torch.distributed as dist
from tests.parallel_runs import Adversaries, Net
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from leyden import Callback, Trainer
from leyden.errors import ProcessFailedError
from leyden.runtime import agreement

__all__ = ["catch_and_live_on", "end_beside_a_stopped_store", "fail_in", "meet_before_and_after", "stop_at_moments"]


class Evaluated(Net):
    """Evaluates and predicts, too; six batches an epoch in each of two processes."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.net(batch).square().mean(), sync_dist=True)

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test_loss", self.net(batch).square().mean())

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        out: Tensor = self.net(batch)
        return out

    def val_dataloader(self) -> DataLoader[Any]:
        return self.train_dataloader()

    test_dataloader = predict_dataloader = val_dataloader


class In(Callback):
    """Calls something in one hook of some processes, once."""

    def __init__(self, hook: str, ranks: set[int], act: Callable[[], None], at: int = 0) -> None:
        def call(trainer: Trainer, *args: Any) -> None:
            self.calls += 1
            if trainer.global_rank in ranks and self.calls == at + 1:
                act()

        self.calls = 0
        setattr(self, hook, call)

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.told = type(exception).__name__


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def twice() -> None:
    terminate()
    terminate()


MOMENTS: list[tuple[str, str, set[int], Any, int, dict[str, Any], type[Net]]] = [
    ("fit", "on_fit_start", {1}, terminate, 0, {}, Evaluated),
    ("fit", "on_sanity_check_start", {0}, terminate, 0, {}, Evaluated),
    ("fit", "on_train_batch_start", {0, 1}, terminate, 3, {}, Evaluated),
    ("fit", "on_train_batch_end", {1}, twice, 3, {}, Evaluated),
    ("fit", "on_validation_batch_start", {1}, terminate, 4, {}, Evaluated),
    ("fit", "on_train_batch_start", {1}, terminate, 3, {"accumulate_grad_batches": 4}, Net),
    ("fit", "on_train_batch_start", {0}, terminate, 3, {}, Adversaries),
    ("fit", "on_train_epoch_end", {1}, terminate, 0, {}, Net),
    ("fit", "on_train_batch_end", {1}, terminate, 5, {"max_epochs": 1}, Net),
    ("fit", "on_train_end", {0}, terminate, 0, {"max_epochs": 1}, Net),
    ("fit", "teardown", {1}, terminate, 0, {"max_epochs": 1}, Net),
    ("validate", "on_validation_batch_start", {1}, terminate, 1, {}, Evaluated),
    ("test", "on_test_batch_start", {0}, terminate, 1, {}, Evaluated),
    ("test", "on_test_batch_start", {1}, terminate, 5, {}, Evaluated),
    ("predict", "on_predict_batch_end", {0, 1}, terminate, 2, {}, Evaluated),
]
"""Entry point, hook, ranks, what, at which call, the trainer's arguments, module."""


def trainer(callbacks: list[Callback], **given: Any) -> Trainer:
    settings: dict[str, Any] = {"max_epochs": 10_000, "accelerator": "cpu", "logger": False}
    return Trainer(**{**settings, **given}, discover_callbacks=False, callbacks=callbacks, enable_progress_bar=False)


def stop_at_moments() -> list[tuple[Any, ...]]:
    """Return for each moment how the run ended, where, and how many threads were left."""
    found = []
    for entry, hook, ranks, act, at, settings, kind in MOMENTS:
        callback = In(hook, ranks, act, at)
        run = trainer([callback], **settings)
        try:
            getattr(run, entry)(kind(4))
            ended = "well"
        except SystemExit as error:
            ended = f"{type(error).__name__} {error.code}"
        found.append((ended, run.fit_loop.batches_seen, run.position()[0], getattr(callback, "told", "")))
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("leyden")]
    return found


class Broken(Dataset[Tensor]):
    """Cannot be read in one process."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Tensor:
        if int(os.environ["RANK"]) == self.rank:
            raise ValueError(f"process {self.rank} cannot go on")
        return Tensor([0.0] * 4)


class FailsIn(Evaluated):
    """One process fails in a method of the module."""

    def __init__(self, method: str, rank: int) -> None:
        super().__init__(4)
        self.rank = rank
        if method == "worker":
            multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]  # has workers
            self.train_dataloader = lambda: DataLoader(Broken(rank), 4, num_workers=1)  # type: ignore[method-assign]
        elif method:
            own = getattr(self, method)

            def fail(*args: Any) -> Any:
                if int(os.environ["RANK"]) == rank:
                    raise ValueError(f"process {rank} cannot go on")
                return own(*args)

            setattr(self, method, fail)


def fail_in(where: str, rank: int) -> dict[str, Any]:
    """Fail in one process, or with rank 2 in both; return what is raised and what callbacks are told."""

    def fail() -> None:
        raise (KeyboardInterrupt if where == "interrupt" else ValueError)(f"process {os.environ['RANK']} cannot go on")

    of_module = where in ("prepare_data", "configure_optimizers", "worker", "configure_model")
    module = FailsIn(where if of_module else "", rank)
    hook = {"interrupt": "on_train_batch_end", "on_exception": "on_train_batch_start"}.get(where, where)
    ranks = set() if of_module else {0, 1} if rank == 2 else {rank}
    callback = In("on_fit_end" if of_module else hook, ranks, fail)
    callbacks: list[Callback] = [callback, In("on_exception", {rank}, fail)] if where == "on_exception" else [callback]
    try:
        trainer(callbacks, max_epochs=2 if where in ("teardown", "on_fit_end") else 10_000).fit(module)
    except BaseException as error:
        notes = "\n".join(getattr(error, "__notes__", []))
        return {
            "raised": type(error).__name__,
            "text": str(error),
            "notes": notes,
            "told": getattr(callback, "told", ""),
        }
    return {"raised": "", "text": "", "notes": "", "told": ""}


def catch_and_live_on(rank: int) -> str:
    """One process catches its error and waits for ever; the other is ended though nothing wakes it."""
    agreement._PATIENCE_S = 1.0

    def fail() -> None:
        raise ValueError(f"process {rank} cannot go on")

    try:
        trainer([In("on_train_batch_start", {rank}, fail, 3)]).fit(Net(4))
    except ProcessFailedError:
        raise
    except ValueError:
        threading.Event().wait(6.0)  # the other has long been ended by then
    return "lives on"


def meet_before_and_after() -> tuple[int, str]:
    """All meet before their first run; behind the last one, process 0 saves by itself, when the other has ended."""
    run = trainer([], max_epochs=1)
    run.strategy.barrier()
    first = run.strategy.broadcast(run.global_rank)
    run.fit(Net(4))
    if run.global_rank == 1:
        return first, ""
    try:
        run.save_checkpoint("last.ckpt")
    except ProcessFailedError as error:
        return first, str(error)
    return first, "saved"


def end_beside_a_stopped_store() -> str:
    """Process 0 holds the store, and is stopped when process 1 fails, with whom it is woken again."""
    rank, agreement._TAKING_NOTE_S = int(os.environ["RANK"]), 0.1
    store: Any = dist.TCPStore(  # type: ignore[attr-defined]
        "127.0.0.1", int(os.environ["MASTER_PORT"]), 2, is_master=rank == 0, wait_for_workers=False
    )
    if rank == 0:
        store.set("holder", str(os.getpid()))
        store.wait(["over"])
        return "held"
    holder = int(store.get("holder"))
    agrees = agreement.Agreement(store.clone(), "1", 1, 2, lambda: (0, 0), lambda: None, lambda: None)
    os.kill(holder, signal.SIGSTOP)
    agrees.fail("ValueError: process 1 cannot go on")
    agrees.await_traceback()
    agrees.close()
    os.kill(holder, signal.SIGCONT)
    store.set("over", "1")
    return "ended"
