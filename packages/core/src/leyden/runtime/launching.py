"""More than one process from a plain script: it is started again for each by torch.distributed's launcher."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from leyden.errors import MisconfigurationException
from leyden.runtime.places import LAUNCHED_VARIABLE

__all__ = ["check_can_launch", "launch_script"]

_SHUTDOWN_S = 20
"""How long workers may take to end after one of them has failed, or the launcher was asked to end."""


def check_can_launch(asked: str) -> None:
    """Refuse where there is no script that could be started again.

    Raises:
        MisconfigurationException: this is an interactive session, a test run or ``python -c``; names what to do.
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
    20 seconds, and this ends as the first that failed.
    """
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ[LAUNCHED_VARIABLE] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the worker has said what was wrong
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=processes, run_id=str(os.getpid()), rdzv_backend="c10d",
        rdzv_endpoint="localhost:0", max_restarts=0, shutdown_timeout=_SHUTDOWN_S,
    )  # fmt: skip
    sys.stdout.flush()
    try:
        elastic_launch(config, sys.executable)(*sys.orig_argv[1:])
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        code = first.exitcode if first.exitcode >= 0 else 128 - first.exitcode
        print(f"Process {first.local_rank} of {processes} failed first, with exit code {code}.", file=sys.stderr)
        sys.exit(code)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    sys.exit(0)


def _what_is_no_script() -> str | None:
    if hasattr(sys, "ps1") or sys.flags.interactive or "ipykernel" in sys.modules:
        return "an interactive session"
    if "PYTEST_CURRENT_TEST" in os.environ:
        return "a test"
    if getattr(sys.modules["__main__"], "__file__", None) is None:
        return "no script (python -c, or read from standard input)"
    return None
