"""SIGTERM, sent to a process that trains: it stops at the next batch, and everyone is told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from leyden.runtime.signals import SigtermListener

PROGRAM = """
import gc, os, signal, sys
import torch
import leyden
from leyden.testing import BoringModule

quiet = {"accelerator": "cpu", "logger": False, "discover_callbacks": False}
leyden.Trainer(max_epochs=1, **quiet).fit(BoringModule())  # imports what a first run imports
gc.freeze()  # which no fork's garbage collection, as at its exit, has to go through
for where in sys.argv[1:]:  # each in a fork, which goes on below
    child = os.fork()
    if child == 0:
        for number, name in enumerate(["out", "err"], 1):
            os.dup2(os.open(f"{where}.{name}", os.O_WRONLY | os.O_CREAT), number)
        break
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(where, status, sep=":", flush=True)
else:
    sys.exit()


class Told(leyden.Callback):
    def on_exception(self, trainer, pl_module, exception):
        print("on_exception", type(exception).__name__, trainer.received_sigterm, flush=True)

    def teardown(self, trainer, pl_module, stage):
        print("teardown", stage, flush=True)
        if where == "teardown":
            os.kill(os.getpid(), signal.SIGTERM)

    def on_fit_end(self, trainer, pl_module):
        print("on_fit_end", flush=True)


class Module(leyden.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def step(self, name, batch_idx):
        print(name, batch_idx, flush=True)
        if where == f"{name} {batch_idx}":
            os.kill(os.getpid(), signal.SIGTERM)

    def training_step(self, batch, batch_idx):
        self.step("train", batch_idx)
        return self.layer(batch).sum()

    def validation_step(self, batch, batch_idx):
        self.step("sanity" if self.trainer.sanity_checking else "validate", batch_idx)

    def predict_step(self, batch, batch_idx):
        self.step("predict", batch_idx)

    def on_train_epoch_end(self):
        self.step("epoch_end", 0)

    def on_train_end(self):
        self.step("train_end", 0)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


trainer = leyden.Trainer(max_epochs=2, callbacks=Told(), num_sanity_val_steps=1, **quiet)
batches = [torch.ones(1, 1)] * 2
try:
    if where.startswith("predict"):
        trainer.predict(Module(), batches)
    else:
        trainer.fit(Module(), batches, batches)
finally:
    print(trainer.state.status, flush=True)
print("went on", flush=True)
"""

SANITY = ["sanity 0"]
EPOCH = ["train 0", "train 1", "validate 0", "validate 1", "epoch_end 0"]
TOLD = ["on_exception SIGTERMException True", "teardown fit", "interrupted"]


EXPECTED = {
    "sanity 0": [*SANITY, *TOLD],
    "train 0": [*SANITY, "train 0", *TOLD],
    "train 1": [*SANITY, *EPOCH[:2], "validate 0", *TOLD],
    "validate 0": [*SANITY, *EPOCH[:3], *TOLD],
    "epoch_end 0": [*SANITY, *EPOCH, *TOLD],
    "train_end 0": [*SANITY, *EPOCH, *EPOCH, "train_end 0", *TOLD],
    "teardown": [*SANITY, *EPOCH, *EPOCH, "train_end 0", "on_fit_end", "teardown fit", "interrupted"],
    "predict 0": ["predict 0", TOLD[0], "teardown predict", "interrupted"],
    "predict 1": ["predict 0", "predict 1", TOLD[0], "teardown predict", "interrupted"],
    "nowhere": [*SANITY, *EPOCH, *EPOCH, "train_end 0", "on_fit_end", "teardown fit", "finished", "went on"],
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], int, str]]:
    """What every run printed, the exit status of its process, and what it wrote to its standard error."""
    folder = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-c", PROGRAM, *EXPECTED]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=True)
    statuses = dict(line.split(":") for line in done.stdout.splitlines())
    return {
        where: ((folder / f"{where}.out").read_text().splitlines(), int(status), (folder / f"{where}.err").read_text())
        for where, status in statuses.items()
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks, and a SIGTERM that a process can hear")
@pytest.mark.parametrize("where", EXPECTED)
def test_a_terminated_run_ends_at_the_next_batch_and_tells_everyone(
    where: str, runs: dict[str, tuple[list[str], int, str]]
) -> None:
    printed, status, errors = runs[where]
    assert printed == EXPECTED[where]
    assert status == (0 if where == "nowhere" else 143), errors


# -- the listener by itself ---------------------------------------------------------------------------------------


def test_who_listened_before_hears_it_too_and_gets_the_signal_back() -> None:
    heard: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append("before"))
    try:
        listener = SigtermListener(lambda: heard.append("leyden"))
        listener.start()
        signal.raise_signal(signal.SIGTERM)
        assert heard == ["leyden", "before"]
        listener.stop()
        signal.raise_signal(signal.SIGTERM)
        assert heard == ["leyden", "before", "before"]
        listener.stop()
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_the_way_it_was_handled_comes_back(handler: signal.Handlers) -> None:
    before = signal.signal(signal.SIGTERM, handler)
    try:
        listener = SigtermListener(lambda: None)
        listener.start()
        signal.raise_signal(signal.SIGTERM)
        listener.stop()
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_listened_to() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen: list[object] = []

    def elsewhere() -> None:
        listener = SigtermListener(lambda: None)
        listener.start()
        seen.append(signal.getsignal(signal.SIGTERM))
        listener.stop()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]
