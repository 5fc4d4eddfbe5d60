"""A stand-in for the module pynvml and for what torch knows of its GPUs: the edge at which tests replace a driver."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from leyden import Trainer


@dataclass
class Card:
    """A GPU with its numbers; what is named in `lacks` it does not support, what is in `broken` fails."""

    uuid: str
    bus: int = 0
    name: str = "Fake H100"
    gpu: int = 70
    memory: int = 30
    used: int = 3 * 2**30
    free: int = 5 * 2**30
    celsius: int = 61
    memory_celsius: int = 75
    milliwatts: int = 250_500
    fan: int = 40
    lacks: set[str] = field(default_factory=set)
    broken: set[str] = field(default_factory=set)


class FakeNvml(ModuleType):
    """`cards` are in the machine in NVML's order; `visible` are those that torch has, in torch's order.

    Attributes:
        opened: how many ``nvmlInit`` are not met by an ``nvmlShutdown`` yet.
        threads: the names of the threads that asked a card for a number.
        asked: called with the name of each query before it is answered.
    """

    NVML_TEMPERATURE_GPU, NVML_FI_DEV_MEMORY_TEMP, NVML_SUCCESS = 0, 82, 0

    def __init__(self, *cards: Card, visible: list[int] | None = None) -> None:
        super().__init__("pynvml")
        self.NVMLError = type("NVMLError", (Exception,), {})
        self.NVMLError_NotSupported = type("NVMLError_NotSupported", (self.NVMLError,), {})
        self.NVMLError_FunctionNotFound = type("NVMLError_FunctionNotFound", (self.NVMLError,), {})
        self.cards = list(cards)
        self.visible = [self.cards[index] for index in (visible or range(len(cards)))]
        self.opened = 0
        self.knows_uuids = True
        self.threads: set[str] = set()
        self.asked: Callable[[str], object] = lambda name: None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
        """Be what `import pynvml` gives, and let torch have the visible cards."""
        monkeypatch.setitem(__import__("sys").modules, "pynvml", self)
        monkeypatch.setattr(torch.cuda, "get_device_properties", self._properties)
        stats = {
            "allocated_bytes": {"all": {"current": 1024, "peak": 4096}},
            "reserved_bytes": {"all": {"current": 2048}},
        }
        monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda device: stats)
        return self

    def _properties(self, index: int) -> Any:
        card = self.visible[index]
        return SimpleNamespace(uuid=card.uuid, pci_domain_id=0, pci_bus_id=card.bus, pci_device_id=0)

    def nvmlInit(self) -> None:
        if not self.cards:
            raise self.NVMLError("Driver Not Loaded")
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Card:
        return self._find(lambda card: self.knows_uuids and f"GPU-{card.uuid}" == uuid)

    def nvmlDeviceGetHandleByPciBusId(self, bus_id: str) -> Card:
        return self._find(lambda card: f"00000000:{card.bus:02x}:00.0" == bus_id)

    def _find(self, is_it: Callable[[Card], bool]) -> Card:
        for card in self.cards:
            if is_it(card):
                return card
        raise self.NVMLError("Not Found")

    def _ask(self, card: Card, name: str) -> None:
        self.threads.add(threading.current_thread().name)
        self.asked(name)
        if name in card.lacks:
            raise self.NVMLError_NotSupported("Not Supported")
        if name in card.broken:
            raise self.NVMLError("GPU is lost")

    def nvmlDeviceGetName(self, card: Card) -> str:
        return card.name

    def nvmlDeviceGetUtilizationRates(self, card: Card) -> Any:
        self._ask(card, "utilization")
        return SimpleNamespace(gpu=card.gpu, memory=card.memory)

    def nvmlDeviceGetMemoryInfo(self, card: Card) -> Any:
        self._ask(card, "memory")
        return SimpleNamespace(used=card.used, free=card.free, total=card.used + card.free)

    def nvmlDeviceGetTemperature(self, card: Card, sensor: int) -> int:
        self._ask(card, "temperature")
        return card.celsius

    def nvmlDeviceGetFieldValues(self, card: Card, fields: list[int]) -> list[Any]:
        self._ask(card, "field")
        lacks = "memory_temperature" in card.lacks
        return [SimpleNamespace(nvmlReturn=3 if lacks else 0, value=SimpleNamespace(uiVal=card.memory_celsius))]

    def nvmlDeviceGetPowerUsage(self, card: Card) -> int:
        self._ask(card, "power")
        return card.milliwatts

    def nvmlDeviceGetFanSpeed(self, card: Card) -> int:
        self._ask(card, "fan")
        return card.fan


def on_gpu(trainer: Trainer, index: int = 0) -> Trainer:
    """Let the callbacks of a trainer that trains on the CPU take it for one on ``cuda:index``."""
    trainer.accelerator, trainer.device_ids = "cuda", [index]
    return trainer


def sampling_threads() -> list[str]:
    """Return the names of the threads that sample now."""
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith("leyden samples"))
