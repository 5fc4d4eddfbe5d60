"""More than one process where there is no script: forks of this one, by torch.distributed's launcher."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from leyden.errors import MisconfigurationException, ProcessFailedError, SIGTERMException
from leyden.runtime.launching import how_it_ended
from leyden.runtime.places import LAUNCHED_VARIABLE

__all__ = ["FORKED", "check_can_fork", "is_forked", "run_forked"]

FORKED = ("ddp_fork", "ddp_notebook", "ddp_spawn")
"""Beginnings of the strategies whose processes are forks of the one that calls an entry point."""

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def is_forked(strategy: object) -> bool:
    """Whether the Trainer's `strategy` is one of forks; asked before what devices there are.

    torch is told to ask NVIDIA's library for that: asking CUDA would keep forks from using it.
    """
    if not (isinstance(strategy, str) and strategy.startswith(FORKED)):
        return False
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    return True


def check_can_fork(asked: str, *, trains: bool) -> None:
    """Refuse where forks of this process could not work.

    Raises:
        MisconfigurationException: names what this process has done that a fork does not survive, and what to do.
    """
    what = _what_forbids(trains)
    if what is not None:
        raise MisconfigurationException(
            f"{asked} forks this process, but {what}. Restart the session and let this be the first that it does of "
            "the kind, or put the training into a script, where strategy='ddp' starts processes of their own."
        )


def run_forked(
    processes: int, work: Callable[[], Any], after_error: Callable[[], Any]
) -> tuple[list[Any], BaseException | None]:
    """Call `work` in that many forks of this process; return what each returned, and what was raised if anything was.

    Results are on the CPU; that of a fork in which `work` raised is what `after_error` returns there. What was raised
    is of the first that failed, with its traceback as a note. Each fork has one thread for operations on the CPU: it
    would hang in OpenMP's threads if this process had used them.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    disabled = logging.root.manager.disable
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryDirectory(prefix="leyden_fork_") as name:
        folder = Path(name)
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=str(os.getpid()), rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0, start_method="fork",
            logs_specs=DefaultLogsSpecs(log_dir=name),
        )  # fmt: skip
        logging.disable(logging.CRITICAL)  # what is wrong is raised below
        raised: BaseException | None = None
        try:
            elastic_launch(config, _in_fork)(work, after_error, folder, disabled)
        except ChildFailedError as error:
            raised = _raised_in(folder, processes, error)
        except SignalException as error:
            raised = KeyboardInterrupt() if error.sigval == signal.SIGINT else SIGTERMException()
        finally:
            logging.disable(disabled)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        files = [folder / f"{rank}.result" for rank in range(processes)]
        return [_read(file) if file.exists() else None for file in files], raised


def _in_fork(work: Callable[[], Any], after_error: Callable[[], Any], folder: Path, disabled: int) -> None:
    rank = int(os.environ["RANK"])
    os.environ[LAUNCHED_VARIABLE] = str(os.getppid())
    os.setpgrp()  # Ctrl-C is for the process that forked, which passes it on
    logging.disable(disabled)
    torch.set_num_threads(1)
    for number in _SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    try:
        torch.save(work(), folder / f"{rank}.result")
    except BaseException as error:
        _write_error(error, folder / f"{rank}.error")
        torch.save(after_error(), folder / f"{rank}.result")
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _write_error(error: BaseException, path: Path) -> None:
    text = "".join(traceback.format_exception(error))
    try:
        torch.save((error, text), path)
        _read(path)
    except Exception:  # an error that cannot be pickled, or not be made again
        torch.save((RuntimeError(f"{type(error).__name__}: {error}"), text), path)


def _raised_in(folder: Path, processes: int, error: Any) -> BaseException:
    """Return what the process raised that failed first, with its traceback; others fail by its absence."""
    found = {rank: _read(folder / f"{rank}.error") for rank in range(processes) if (folder / f"{rank}.error").exists()}
    own = [rank for rank, (raised, _) in found.items() if not isinstance(raised, ProcessFailedError)]
    first = error.get_first_failure()[1]
    for rank in own or (found if first.exitcode >= 0 else ()):
        raised, text = found[rank]
        raised.add_note(f"Raised in process {rank} of {processes}:\n{text}")
        return raised  # type: ignore[no-any-return]
    return ProcessFailedError(f"Process {first.local_rank} of {processes} {how_it_ended(first.exitcode)}.")


def _read(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False)  # it was written by a fork of this process


def _what_forbids(trains: bool) -> str | None:
    if not hasattr(os, "fork"):
        return "this system has no fork"
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return "CUDA is in use in it, which a fork can't go on using (a tensor or module was moved to a GPU)"
    if threading.current_thread() is not threading.main_thread():
        return "this is a thread beside its main one"
    if trains and not _backward_works_in_fork():
        return "it has computed gradients in threads, which a fork does not have (an earlier training, or backward)"
    return None


def _backward_works_in_fork() -> bool:
    """Try it: torch does not tell whether its engine has started threads."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.zeros((), requires_grad=True).backward()  # type: ignore[no-untyped-call]
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0
