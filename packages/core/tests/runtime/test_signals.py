"""SIGTERM, sent to a process that trains: it stops at the next batch, and everyone is told."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from leyden.runtime.signals import SigtermListener

PROGRAM = """
import os, signal, sys
import torch
import leyden

where = sys.argv[1]


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


trainer = leyden.Trainer(
    accelerator="cpu", max_epochs=2, logger=False, callbacks=Told(), num_sanity_val_steps=1, discover_callbacks=False
)
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
def runs() -> dict[str, subprocess.CompletedProcess[str]]:
    """Every program, run to its end; a few at a time, since each of them imports torch."""

    def run(where: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", PROGRAM, where]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)

    with ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(EXPECTED, pool.map(run, EXPECTED), strict=True))


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process could hear")
@pytest.mark.parametrize("where", EXPECTED)
def test_a_terminated_run_ends_at_the_next_batch_and_tells_everyone(
    where: str, runs: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    assert runs[where].stdout.splitlines() == EXPECTED[where]
    assert runs[where].returncode == (0 if where == "nowhere" else 143), runs[where].stderr


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
