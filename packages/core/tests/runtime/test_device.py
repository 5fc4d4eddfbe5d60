"""Which device a run uses: what `accelerator` and `devices` may be, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leyden import LightningModule, MisconfigurationException, Trainer
from leyden.runtime.device import choose_accelerator, choose_devices, root_device

CUDA = torch.cuda.is_available()
MPS = torch.backends.mps.is_available()
needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a CUDA device, and torch finds none here")
needs_mps = pytest.mark.skipif(not MPS, reason="needs an mps device, and torch finds none here")


def test_auto_takes_the_best_there_is() -> None:
    assert choose_accelerator("auto") == ("cuda" if CUDA else "mps" if MPS else "cpu")
    assert choose_accelerator("cpu") == "cpu"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cuad", r"accelerator='cuad'\): expected one of auto, cpu, cuda, gpu, mps\. Did you mean 'cuda'\?"),
        ("tpu", r"accelerator='tpu'\): expected one of"),
        ("ddp", r"accelerator='ddp'\): expected one of.*write strategy='ddp'\."),
        (1, r"accelerator=1\): expected one of"),
        (None, r"accelerator=None\): expected one of"),
    ],
)
def test_an_unknown_accelerator_is_an_error(name: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        Trainer(accelerator=name)


@pytest.mark.skipif(CUDA or MPS, reason="there is such a device here")
@pytest.mark.parametrize("name", ["cuda", "gpu", "mps"])
def test_an_accelerator_that_is_not_there_is_an_error_that_says_what_to_do(name: str) -> None:
    with pytest.raises(MisconfigurationException, match=rf"accelerator='{name}'\): no such device.*accelerator='auto'"):
        Trainer(accelerator=name)


@pytest.mark.parametrize("devices", ["auto", 1, "1", -1, "-1", [0], (0,), "0,", "0, ", range(1)])
def test_every_way_to_say_one_device(devices: Any) -> None:
    assert choose_devices(devices, "cpu") == [0]
    trainer = Trainer(accelerator="cpu", devices=devices, logger=False, discover_callbacks=False)
    assert (trainer.device_ids, trainer.num_devices) == ([0], 1)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (0, "expected 'auto', a number of devices >= 1"),
        ("0", "expected 'auto', a number of devices >= 1"),
        (-2, "expected 'auto', a number of devices >= 1"),
        (True, "expected 'auto', a number of devices >= 1"),
        (1.0, "expected 'auto', a number of devices >= 1"),
        (None, "expected 'auto', a number of devices >= 1"),
        ("two", "expected 'auto', a number of devices >= 1"),
        ("0;1", "expected 'auto', a number of devices >= 1"),
        ([-1], "expected 'auto', a number of devices >= 1"),
        ([True], "expected 'auto', a number of devices >= 1"),
        (["0"], "expected 'auto', a number of devices >= 1"),
        ({0}, "expected 'auto', a number of devices >= 1"),
        ([], "expected at least one device"),
        ("", "expected at least one device"),
        (",", "expected at least one device"),
        ([0, 0], "expected at least one device, each once"),
        (2, "starts the running script once for each process, but this is a test"),
        ("0,1", "starts the running script once for each process, but this is a test"),
        (100_000, r"expected at most \d+ processes on this machine, which has \d+ core.*On a CPU each device is"),
        ("100000", r"expected at most \d+ processes on this machine"),
        ([1], "the CPU is one device, which any number of processes share"),
        ("3,", "the CPU is one device, which any number of processes share"),
    ],
)
def test_everything_else_is_an_error(devices: Any, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message) as caught:
        Trainer(accelerator="cpu", devices=devices)
    assert f"Trainer(devices={devices!r})" in str(caught.value)


def test_several_nodes_are_an_error() -> None:
    with pytest.raises(MisconfigurationException, match=r"Trainer\(num_nodes=2\)"):
        Trainer(num_nodes=2)


def test_root_devices() -> None:
    assert root_device("cpu", 0) == torch.device("cpu")
    assert root_device("cuda", 3) == torch.device("cuda", 3)
    assert root_device("mps", 0) == torch.device("mps")


class Where(LightningModule):
    """Notes the devices of weights and batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[str] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.seen += [self.layer.weight.device.type, batch["x"].device.type, self.device.type]
        return self.layer(batch["x"]).sum()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def devices_of_a_fit(accelerator: str, devices: Any = "auto") -> list[str]:
    trainer = Trainer(accelerator=accelerator, devices=devices, max_epochs=1, logger=False, discover_callbacks=False)
    module = Where()
    trainer.fit(module, [{"x": torch.ones(1, 1)}])
    return module.seen


def test_a_fit_runs_on_the_cpu() -> None:
    assert devices_of_a_fit("cpu") == ["cpu"] * 3


@needs_cuda
@pytest.mark.parametrize("accelerator", ["auto", "cuda", "gpu"])
def test_a_fit_runs_on_a_cuda_device(accelerator: str) -> None:
    assert devices_of_a_fit(accelerator) == ["cuda"] * 3
    assert devices_of_a_fit(accelerator, devices=[torch.cuda.device_count() - 1]) == ["cuda"] * 3


@needs_cuda
def test_a_cuda_device_that_is_not_there_is_an_error() -> None:
    count = torch.cuda.device_count()
    with pytest.raises(MisconfigurationException, match=rf"this machine has {count} cuda device"):
        Trainer(accelerator="cuda", devices=[count])


@needs_mps
def test_a_fit_runs_on_an_mps_device() -> None:
    assert devices_of_a_fit("mps") == ["mps"] * 3
