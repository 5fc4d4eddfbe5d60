"""Run as a program: a training whose process is killed at each operation on files in turn, and what is then there.

``killed_runs.py HOW`` prints what became of each run that was killed. Runs are forks of this process, which has
imported all they need. Where a kill leaves the files that an earlier one left, no run goes on from them again.
"""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1] / "packages/core/tests/state"))

import torch
from file_operations import Operations, lost_in_a_power_cut  # type: ignore[import-not-found]  # is put on the path above
from torch import Tensor

from leyden import Trainer
from leyden.callbacks import ModelCheckpoint
from leyden.state import storage
from leyden.testing import BoringModule

SCORES = [3.0, 4.0, 2.0]


class Scored(BoringModule):
    """Two batches an epoch; the second epoch is not among the best."""

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", SCORES[self.current_epoch])


def best(**how: Any) -> ModelCheckpoint:
    return ModelCheckpoint("kept/best", "{epoch}", "val_loss", **how)


HOW: dict[str, Callable[[], list[ModelCheckpoint]]] = {
    "file": lambda: [best(save_last=True)],
    "link": lambda: [best(save_last="link")],
    "newest": lambda: [ModelCheckpoint("kept/newest", "newest")],  # one name, written over and over
    "asynchronous": lambda: [best(save_last=True, asynchronous=True)],
    "two": lambda: [best(), ModelCheckpoint("kept/newest", "{epoch}-{step}", save_last=True, every_n_epochs=1)],
    "only last": lambda: [
        ModelCheckpoint(f"kept/{monitor}", None, monitor, save_top_k=0, save_last=True)
        for monitor in (None, "val_loss")
    ],
}


def fit(callbacks: list[ModelCheckpoint], max_epochs: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(1)
    module = Scored()
    trainer = Trainer(
        max_epochs=max_epochs, logger=False, callbacks=list(callbacks), num_sanity_val_steps=0,
        discover_callbacks=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, ckpt_path="auto")
    return module.state_dict()


def there() -> dict[str, int]:
    """The optimizer step of each checkpoint, which is compared with its checksums; -1 of one that is not whole."""
    found = {}
    for path in sorted(Path("kept").rglob("*.ckpt")):
        try:
            found[str(path.relative_to("kept"))] = storage.load(path)["global_step"]
        except Exception:
            found[str(path.relative_to("kept"))] = -1
    return found


def left_over() -> list[str]:
    return [str(path) for path in Path("kept").rglob("*") if path.suffix != ".ckpt" and not path.is_dir()]


def in_fork(action: Callable[[int], object]) -> tuple[int, str]:
    """Return the exit status of a fork that did this, and what it wrote to the descriptor it was given."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action(writes)
            status = 0
        finally:
            os._exit(status)
    os.close(writes)
    with os.fdopen(reads) as output:
        said = output.read()
    return os.waitpid(child, 0)[1], said


def killed(how: str, at: int, known: dict[str, Any]) -> dict[str, Any]:
    """Kill a run at this operation and let another go on, unless it is `known` what comes of what is left."""
    shutil.rmtree("kept", ignore_errors=True)

    def run(log: int) -> None:
        Operations(at, False, log)
        fit(HOW[how]())

    def go_on(log: int) -> None:
        os.write(log, json.dumps([weight.tolist() for weight in fit(HOW[how]()).values()]).encode())

    status, operation = in_fork(run)
    found = there()
    left = str([found, [re.sub("leyden-.*", "", name) for name in left_over()]])
    if left not in known:
        failed, weights = in_fork(go_on)
        known[left] = {"failed": failed, "weights": json.loads(weights or "0"), "end": there(), "left": left_over()}
    return {"survived": os.WIFEXITED(status), "operation": operation, "there": found, **known[left]}


def main(how: str) -> dict[str, Any]:
    def whole(log: int) -> None:
        operations = Operations()
        end = [weight.tolist() for weight in fit(HOW[how]()).values()]
        seen = {"weights": end, "lost": lost_in_a_power_cut(operations.told), "others": operations.others}
        os.write(log, json.dumps(seen | {"there": there()}).encode())

    fit(HOW[how]())  # so that the forks have all imported
    shutil.rmtree("kept")
    gc.freeze()  # no garbage collection of a fork goes through what is imported
    result: dict[str, Any] = {"whole": json.loads(in_fork(whole)[1]), "killed": []}
    known: dict[str, Any] = {}
    while not (result["killed"] and result["killed"][-1]["survived"]):
        result["killed"].append(killed(how, len(result["killed"]) + 1, known))
    return result


if __name__ == "__main__":
    torch.set_num_threads(1)
    os.environ["LEYDEN_CALLBACKS"] = "off"
    print(json.dumps(main(sys.argv[1])))
