"""What is measured of a machine: its processors and memory by psutil, its NVIDIA GPUs by NVML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from leyden_monitoring.sampling import Query, UnsupportedError, Watch, watch

if TYPE_CHECKING:
    from leyden import Trainer

__all__ = ["NvmlUnavailableError", "gpus_of", "has_nvml", "watch_cpu", "watch_gpu"]


class NvmlUnavailableError(Exception):
    """NVML, the library of the NVIDIA driver, cannot be used here; the message says why."""


def gpus_of(trainer: Trainer) -> list[int]:
    """Return the GPUs of a trainer as torch counts them, none where it trains on something else."""
    return list(trainer.device_ids) if trainer.accelerator == "cuda" else []


def watch_cpu(every_n_seconds: float) -> Watch:
    """Watch the machine: ``cpu_percent``, ``memory_percent``, ``swap_percent``, each of all there is."""
    return watch("cpu", _Machine, every_n_seconds)


def watch_gpu(index: int, every_n_seconds: float) -> Watch:
    """Watch the GPU that torch calls ``cuda:index``, whatever ``CUDA_VISIBLE_DEVICES`` made of its number.

    Its series: ``utilization_percent`` (time in which a kernel ran), ``memory_utilization_percent`` (time in which
    memory was read or written), ``memory_used_bytes``, ``memory_free_bytes``, ``memory_total_bytes`` (of all
    processes), ``temperature_celsius``, ``memory_temperature_celsius``, ``power_watts``, ``fan_speed_percent``.

    Raises:
        NvmlUnavailableError: there is no NVIDIA driver, or NVML does not know the GPU.
    """
    return watch(("cuda", index), lambda: _Gpu(index), every_n_seconds)


def has_nvml() -> bool:
    """Whether there is an NVIDIA driver to ask."""
    try:
        _open_nvml().nvmlShutdown()
    except NvmlUnavailableError:
        return False
    return True


class _Machine:
    """Processors and memory of this machine."""

    title = "this machine"

    def __init__(self) -> None:
        import psutil

        self._psutil = psutil
        self._is_first = True
        self.queries: Mapping[str, Query] = {
            "CPU use": self._cpu,
            "memory use": lambda: {"memory_percent": psutil.virtual_memory().percent},
            "swap use": lambda: {"swap_percent": psutil.swap_memory().percent},
        }

    def _cpu(self) -> Mapping[str, float]:
        percent = self._psutil.cpu_percent()  # since this thread last asked; the first time it means nothing
        is_first, self._is_first = self._is_first, False
        return {} if is_first else {"cpu_percent": percent}

    def close(self) -> None:
        """Nothing was taken."""


class _Gpu:
    """One NVIDIA GPU."""

    def __init__(self, index: int) -> None:
        self._nvml = nvml = _open_nvml()
        try:
            handle = _handle(nvml, index)
            self.title = f"GPU {index} ({nvml.nvmlDeviceGetName(handle)})"
        except BaseException:
            nvml.nvmlShutdown()
            raise
        queries: dict[str, Query] = {
            "utilisation": lambda: _utilization(nvml, handle),
            "memory": lambda: _memory(nvml, handle),
            "temperature": lambda: {
                "temperature_celsius": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            },
            "memory temperature": lambda: _memory_temperature(nvml, handle),
            "power": lambda: {"power_watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1000},  # NVML has milliwatts
            "fan speed": lambda: {"fan_speed_percent": nvml.nvmlDeviceGetFanSpeed(handle)},
        }
        self.queries: Mapping[str, Query] = {word: _where_supported(nvml, query) for word, query in queries.items()}

    def close(self) -> None:
        self._nvml.nvmlShutdown()


def _open_nvml() -> Any:
    """Return the module pynvml, initialised; NVML counts, so that each is to be met by one ``nvmlShutdown``."""
    try:
        import pynvml  # type: ignore[import-untyped]
    except ImportError as error:
        raise NvmlUnavailableError(f"{error} (pip install nvidia-ml-py)") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise NvmlUnavailableError(f"NVML of the NVIDIA driver cannot be used ({error})") from error
    return pynvml


def _handle(nvml: Any, index: int) -> Any:
    """Find a device of torch's in NVML, which counts all that are in the machine: by UUID, else by PCI address."""
    import torch

    device: Any = torch.cuda.get_device_properties(index)
    uuid = str(getattr(device, "uuid", ""))
    attempts: list[Callable[[], Any]] = [
        lambda: nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}"),
        lambda: nvml.nvmlDeviceGetHandleByUUID(f"MIG-{uuid}"),
        lambda: nvml.nvmlDeviceGetHandleByPciBusId(
            f"{device.pci_domain_id:08x}:{device.pci_bus_id:02x}:{device.pci_device_id:02x}.0"
        ),
    ]
    for attempt in attempts:
        try:
            return attempt()
        except (nvml.NVMLError, AttributeError):  # what torch was built for may have no PCI address
            continue
    raise NvmlUnavailableError(f"NVML knows no GPU with the UUID {uuid or '(unknown)'} of cuda:{index}")


def _where_supported(nvml: Any, query: Query) -> Query:
    def ask() -> Mapping[str, float]:
        try:
            return query()
        except (nvml.NVMLError_NotSupported, nvml.NVMLError_FunctionNotFound) as error:  # by the card, by the driver
            raise UnsupportedError from error

    return ask


def _utilization(nvml: Any, handle: Any) -> Mapping[str, float]:
    rates = nvml.nvmlDeviceGetUtilizationRates(handle)
    return {"utilization_percent": rates.gpu, "memory_utilization_percent": rates.memory}


def _memory(nvml: Any, handle: Any) -> Mapping[str, float]:
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return {"memory_used_bytes": memory.used, "memory_free_bytes": memory.free, "memory_total_bytes": memory.total}


def _memory_temperature(nvml: Any, handle: Any) -> Mapping[str, float]:
    (field,) = nvml.nvmlDeviceGetFieldValues(handle, [nvml.NVML_FI_DEV_MEMORY_TEMP])
    if field.nvmlReturn != nvml.NVML_SUCCESS:
        raise UnsupportedError
    return {"memory_temperature_celsius": field.value.uiVal}
