"""GPUStatsMonitor, the GPU statistics of Lightning 1.x under its names, by NVML."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING, Any

from leyden.arguments import check_arguments
from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_info
from leyden_monitoring.device_sources import NvmlUnavailableError, gpus_of, has_nvml, watch_gpu
from leyden_monitoring.sampling import Watch

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["GPUStatsMonitor"]

_MB = 2**20

_SERIES = {
    "gpu_utilization": {"utilization.gpu (%)": ("utilization_percent", 1)},
    "memory_utilization": {
        "memory.used (MB)": ("memory_used_bytes", _MB),
        "memory.free (MB)": ("memory_free_bytes", _MB),
        "utilization.memory (%)": ("memory_utilization_percent", 1),
    },
    "fan_speed": {"fan.speed (%)": ("fan_speed_percent", 1)},
    "temperature": {
        "temperature.gpu (°C)": ("temperature_celsius", 1),
        "temperature.memory (°C)": ("memory_temperature_celsius", 1),
    },
}
"""Argument: what it logs, each from which value of the sample, divided by what."""

_WORDS = {
    "gpu_utilization": ("utilisation",),
    "memory_utilization": ("memory", "utilisation"),
    "fan_speed": ("fan speed",),
    "temperature": ("temperature", "memory temperature"),
}


class GPUStatsMonitor(Callback):
    """Logs what NVML tells of the GPUs of a training to all loggers, every `log_every_n_steps` steps.

    The names are those of 1.x: ``device_id: 0/`` and ``utilization.gpu (%)``, ``memory.used (MB)``,
    ``memory.free (MB)``, ``utilization.memory (%)``, ``fan.speed (%)``, ``temperature.gpu (°C)``,
    ``temperature.memory (°C)``; ``batch_time/intra_step (ms)`` and ``batch_time/inter_step (ms)``. A MB is 2^20 bytes.
    The number of a device is torch's. What a card does not have is left out, which is said once.

    A thread samples every second, and a step hands over the last sample; `nvidia-smi` is never started.
    `DeviceStatsMonitor` logs more, and needs no GPU.

    Args:
        memory_utilization: Memory used and free, and the percentage of time in which memory was read or written.
        gpu_utilization: Percentage of time in which a kernel ran.
        intra_step_time: Milliseconds of the host from the start of a batch to its end. The device is not waited for.
        inter_step_time: Milliseconds from the end of a batch to the start of the next; not across epochs and
            validations.
        fan_speed: Percentage of the fan's maximum.
        temperature: Of the GPU and of its memory.

    Raises:
        MisconfigurationException: an argument that cannot work, or, as a fit begins, no logger, a training on something
            else than an NVIDIA GPU, or no NVIDIA driver.

    Example:
        >>> GPUStatsMonitor(temperature=True).temperature
        True
    """

    _watches: dict[int, Watch] = {}  # noqa: RUF012  # replaced, never changed
    _log_every = 0
    _started_at: float | None = None
    _ended_at: float | None = None
    _inter_step_s: float | None = None

    def __init__(
        self,
        memory_utilization: bool = True,
        gpu_utilization: bool = True,
        intra_step_time: bool = False,
        inter_step_time: bool = False,
        fan_speed: bool = False,
        temperature: bool = False,
    ) -> None:
        super().__init__()
        given = {
            "memory_utilization": memory_utilization,
            "gpu_utilization": gpu_utilization,
            "intra_step_time": intra_step_time,
            "inter_step_time": inter_step_time,
            "fan_speed": fan_speed,
            "temperature": temperature,
        }
        check_arguments(
            type(self).__name__,
            *((name, value, isinstance(value, bool), "True or False") for name, value in given.items()),
        )
        self.memory_utilization, self.gpu_utilization = memory_utilization, gpu_utilization
        self.intra_step_time, self.inter_step_time = intra_step_time, inter_step_time
        self.fan_speed, self.temperature = fan_speed, temperature
        self._told: set[str] = set()
        if intra_step_time or inter_step_time:  # else no step is interrupted at its start
            self.on_train_batch_start = self._take_time  # type: ignore[method-assign]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_watches"}

    def applies(self, trainer: Trainer) -> bool:
        """Where there is a logger, a training on a GPU and an NVIDIA driver."""
        return bool(trainer.loggers) and bool(gpus_of(trainer)) and has_nvml()

    # -- logging ---------------------------------------------------------------------------------------------------

    def _log(self, trainer: Trainer, step: int, now: float) -> None:
        stats: dict[str, float] = {}
        for index, watched in self._watches.items():
            sample = watched.latest
            for argument, series in _SERIES.items():
                if getattr(self, argument):
                    for name, (key, divisor) in series.items():
                        if key in sample:
                            stats[f"device_id: {index}/{name}"] = sample[key] / divisor
        if self.intra_step_time and self._started_at is not None:
            stats["batch_time/intra_step (ms)"] = (now - self._started_at) * 1000
        if self.inter_step_time and self._inter_step_s is not None:
            stats["batch_time/inter_step (ms)"] = self._inter_step_s * 1000
        for logger in trainer.loggers if stats else ():
            logger.log_metrics(dict(stats), step=step)

    def _tell_of_missing(self, watched: Watch) -> None:
        wanted = [word for argument, words in _WORDS.items() if getattr(self, argument) for word in words]
        for word in dict.fromkeys(wanted):
            if word in watched.missing and word not in self._told:
                self._told.add(word)
                rank_zero_info(f"{type(self).__name__} logs no {word}: {watched.title} does not have it.")

    # -- hooks -----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        name = type(self).__name__
        if not trainer.loggers and not trainer.fast_dev_run:
            raise MisconfigurationException(
                f"{name} has nowhere to log to: the Trainer has no logger. Leave out Trainer(logger=False) or give a "
                "logger, for example Trainer(logger=CSVLogger('logs')), or take this callback out."
            )
        gpus = gpus_of(trainer)
        if not gpus:
            raise MisconfigurationException(
                f"{name} watches NVIDIA GPUs, but Trainer(accelerator=...) chose {trainer.accelerator!r}. Train with "
                "accelerator='cuda', or use DeviceStatsMonitor, which logs what any machine has."
            )
        self._watches = watches = {}
        if trainer.local_rank:
            return  # the first process of the machine watches them for all
        try:
            for index in gpus:
                watches[index] = watch_gpu(index, 1.0)
                self._tell_of_missing(watches[index])
        except NvmlUnavailableError as error:
            self._close()
            raise MisconfigurationException(
                f"{name} cannot watch cuda:{index}: {error}. Install the NVIDIA driver (in a container: with the "
                "driver capability 'utility'), or use DeviceStatsMonitor, which does without."
            ) from error
        except BaseException:
            self._close()
            raise

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_every = trainer.log_every_n_steps
        self._ended_at = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_every = trainer.log_every_n_steps
        self._ended_at = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ended_at = None

    def _take_time(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._started_at = now = perf_counter()
        self._inter_step_s = None if self._ended_at is None else now - self._ended_at

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop, log_every = trainer.fit_loop, self._log_every
        self._ended_at = now = perf_counter()
        if log_every and loop.window_ends and (loop.batches_that_stepped + 1) % log_every == 0:
            self._log(trainer, loop.batches_that_stepped, now)

    def _close(self) -> None:
        for watched in self._watches.values():
            watched.close()
        self._watches = {}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()
