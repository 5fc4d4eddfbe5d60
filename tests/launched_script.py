"""Run as a program, which starts itself in two processes: ``launched_script.py HOW FOLDER``.

Each process writes what it found into ``FOLDER/N.json``. What is above the first Trainer runs in the launcher, too.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from torch import Tensor

from leyden import Callback, LightningModule, Trainer, seed_everything
from leyden.runtime import agreement
from leyden.testing import BoringModule

HOW, FOLDER = "", Path()
if __name__ == "__main__":  # and not where tests are collected
    HOW, FOLDER = sys.argv[1], Path(sys.argv[2])
    agreement._PATIENCE_S = 4.0
    seed_everything(3, verbose=False)
    os.chdir(FOLDER)  # as scripts do that are given a folder for their files; the command has paths from where it began


class AtStep(Callback):
    """Process 1 does something, and process 0 waits for it in a hook, for ever."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step != 3:
            return
        if HOW == "error":
            if trainer.global_rank == 0:
                threading.Event().wait()
            raise ValueError("process 1 cannot go on")
        if HOW != "well" and trainer.global_rank == 1:
            os.kill(os.getppid(), getattr(signal, HOW))


class Quiet(BoringModule):
    """Logs nothing, of which several processes would have to agree."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...


def trainer() -> Trainer:
    epochs = 1 if HOW == "well" else 100_000
    return Trainer(
        devices=2, accelerator="cpu", max_epochs=epochs, logger=False, discover_callbacks=False, callbacks=[AtStep()]
    )


def main() -> None:
    run = trainer()
    found: dict[str, Any] = {
        "place": [run.global_rank, run.local_rank, run.world_size, run.num_devices, run.num_nodes],
        "argv": sys.argv[1:2],
        "warnings": sys.warnoptions,
        "cwd": os.getcwd(),
        **{name: os.environ.get(name) for name in ("MASTER_ADDR", "OMP_NUM_THREADS", "LEYDEN_SEED", "MINE")},
    }
    try:
        run.fit(Quiet())
        again = trainer()
        again.validate(Quiet(), verbose=False)
        found["second"] = again.world_size
        sys.stdout.write(f"process {run.global_rank} is done\n")  # in one piece, also where nothing is buffered
    finally:
        found["steps"] = run.global_step
        (FOLDER / f"{run.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
