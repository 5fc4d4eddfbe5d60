"""More than one process from a plain script: it is started again for each by torch.distributed's launcher."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from typing import TYPE_CHECKING, NoReturn

from leyden.errors import MisconfigurationException
from leyden.runtime.places import LAUNCHED_VARIABLE

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

__all__ = ["check_can_launch", "end_with_launcher", "how_it_ended", "launch_script", "tell_of_failure"]

_STARTED_IN = os.path.abspath(os.curdir) if os.path.isdir(os.curdir) else None
"""Where the command was given, as far as that can be known: its paths are relative to that folder."""

_PR_SET_PDEATHSIG = 1


def check_can_launch(asked: str) -> None:
    """Refuse where there is no script that could be started again.

    Raises:
        MisconfigurationException: this is an interactive session, a test, a child process or ``python -c``; names what
            to do.
    """
    where = _what_is_no_script()
    if where is not None:
        raise MisconfigurationException(
            f"{asked} starts the running script once for each process, but this is {where}. Put the training into a "
            "script, or start it by torchrun; strategy='ddp_fork' forks the processes from here where no CUDA device "
            "is in use yet."
        )


def launch_script(processes: int) -> NoReturn:
    """Run the command of this process `processes` times, side by side; end with it, as it ends.

    This process does nothing more than to watch. Ends 0 where all did; where one failed, the others are ended within
    30 seconds, and this ends as the first that failed.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if _STARTED_IN is not None:
        os.chdir(_STARTED_IN)
    os.environ[LAUNCHED_VARIABLE] = str(os.getpid())
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // processes)))
    logging.disable(logging.CRITICAL)  # what is wrong is said below, and by the worker
    sys.stdout.flush()
    with tempfile.TemporaryDirectory(prefix="leyden_launch_") as folder:
        config = LaunchConfig(
            min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=str(os.getpid()), rdzv_backend="c10d",
            rdzv_endpoint="localhost:0", local_addr="localhost", max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )  # fmt: skip
        try:
            elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
            code = 0
        except ChildFailedError as error:
            code = tell_of_failure(error, processes)
        except SignalException as error:
            code = 128 + error.sigval
    sys.exit(code)


def end_with_launcher() -> None:
    """Let the system send SIGTERM to this process when the one that launched it is gone, be it by SIGKILL."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
        if _is_gone(os.environ.get(LAUNCHED_VARIABLE, "")):  # already, while this process was importing: nothing comes
            os.kill(os.getpid(), signal.SIGTERM)


def _is_gone(launcher: str) -> bool:
    """Whether the process of this number, where it is one that has launched this one, is no more."""
    if not launcher.isdigit() or int(launcher) == os.getppid():
        return False
    try:
        os.kill(int(launcher), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def tell_of_failure(error: ChildFailedError, processes: int) -> int:
    """Say which process failed first, and return its exit code.

    That is the one that has written what went wrong into its file, or that was killed: others fail by its absence,
    which may have been noticed in the same moment.
    """
    first = min(error.failures.values(), key=_how_late)
    code = int(first.exitcode)
    if code == -signal.SIGTERM and _said_why(first):
        code = 1  # the launcher has ended it on its way out, since another was faster: nobody asked it to stop
    print(f"Process {first.local_rank} of {processes} {how_it_ended(code)}.", file=sys.stderr)
    return code if code >= 0 else 128 - code


def how_it_ended(exit_code: int) -> str:
    """Return what an exit code of a process says, which is below 0 where a signal ended it.

    Example:
        >>> how_it_ended(3), how_it_ended(-11), how_it_ended(143)
        ('failed, with exit code 3', 'was ended by SIGSEGV', 'ended as SIGTERM asked it to, with exit code 143')
    """
    if exit_code == 128 + signal.SIGTERM:
        return f"ended as SIGTERM asked it to, with exit code {exit_code}"
    if exit_code >= 0:
        return f"failed, with exit code {exit_code}"
    hint = "; where nobody sent it, memory was full" if -exit_code == signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-exit_code).name}{hint}"


def _how_late(failure: ProcessFailure) -> tuple[bool, bool, bool, int]:
    ended = failure.exitcode == -signal.SIGTERM  # by the launcher, since another had failed
    return not _said_why(failure), ended, failure.exitcode >= 0, failure.timestamp


def _said_why(failure: ProcessFailure) -> bool:
    return bool(failure.error_file_data.get("message") != "<NONE>")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _what_is_no_script() -> str | None:
    if hasattr(sys, "ps1") or sys.flags.interactive or "ipykernel" in sys.modules:
        return "an interactive session"
    if "PYTEST_CURRENT_TEST" in os.environ and "pytest" in sys.modules:
        return "a test"
    if multiprocessing.parent_process() is not None:
        return "a process of multiprocessing"
    if threading.current_thread() is not threading.main_thread():
        return "a thread beside the main one"
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script in (None, "<stdin>") or (os.path.exists(script) and not os.path.isfile(script)):  # a pipe is read once
        return "no script (python -c, or read from standard input)"
    return None
