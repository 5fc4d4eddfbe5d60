"""Logs what the device and the machine are doing: memory, utilisation, temperature, power, CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from leyden.arguments import check_arguments, is_positive
from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.rank_zero import rank_zero_info
from leyden_monitoring.device_sources import NvmlUnavailableError, gpus_of, watch_cpu, watch_gpu
from leyden_monitoring.sampling import Watch

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["DeviceStatsMonitor"]

_OF_ALLOCATOR = {
    "allocated_bytes.all.current": ("allocated_bytes", "current"),
    "allocated_bytes.all.peak": ("allocated_bytes", "peak"),
    "reserved_bytes.all.current": ("reserved_bytes", "current"),
}

_OF_GPU = {
    "gpu_utilization_percent": ("utilization_percent", "utilisation"),
    "gpu_memory_used_bytes": ("memory_used_bytes", "memory"),
    "gpu_temperature_celsius": ("temperature_celsius", "temperature"),
    "gpu_power_watts": ("power_watts", "power"),
}
"""Name in the logger: name in the sample, word of the query."""

_OF_CPU = {"cpu_percent": "cpu_percent", "cpu_vm_percent": "memory_percent", "cpu_swap_percent": "swap_percent"}


class DeviceStatsMonitor(Callback):
    """Logs device statistics to all loggers, every `log_every_n_steps` steps of training, validation and test.

    The names are ``DeviceStatsMonitor.on_train_batch_end/`` (``on_validation_batch_end/``, ``on_test_batch_end/``) and:

    - on a GPU, of this process, by torch's allocator: ``allocated_bytes.all.current``, ``allocated_bytes.all.peak``
      (since the process began or the user reset it), ``reserved_bytes.all.current``;
    - on a GPU, of all processes, by NVML: ``gpu_utilization_percent``, ``gpu_memory_used_bytes``,
      ``gpu_temperature_celsius``, ``gpu_power_watts``;
    - of the machine, by psutil: ``cpu_percent``, ``cpu_vm_percent`` (memory), ``cpu_swap_percent``.

    A thread samples NVML and psutil; a step hands over the last sample, and waits for no device. Training is logged at
    its steps as `self.log` is; validation and test at the number of their batches, counted through the fit.

    Args:
        cpu_stats: Log those of the machine too; None where there is no GPU to watch.
        every_n_seconds: Seconds between two samples; None for 1.

    Raises:
        MisconfigurationException: an argument that cannot work, or, as a run begins, no logger.

    Example:
        >>> DeviceStatsMonitor(cpu_stats=True).every_n_seconds
        1.0
    """

    # Defaults of the class, which copies fall back to.
    _watched_cpu: Watch | None = None
    _watched_gpu: Watch | None = None
    _gpu: int | None = None
    _sanity_checking = False
    _log_every = 0

    def __init__(self, cpu_stats: bool | None = None, every_n_seconds: float | None = None) -> None:
        super().__init__()
        seconds_ok = every_n_seconds is None or is_positive(every_n_seconds)
        check_arguments(
            type(self).__name__,
            ("cpu_stats", cpu_stats, cpu_stats in (None, True, False), "True, False or None"),
            ("every_n_seconds", every_n_seconds, seconds_ok, "a number of seconds above 0, or None"),
        )
        self.cpu_stats = cpu_stats
        self.every_n_seconds = 1.0 if every_n_seconds is None else float(every_n_seconds)
        self._told: set[str] = set()
        self._batches = {"validation": 0, "test": 0}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_watched_")}

    def applies(self, trainer: Trainer) -> bool:
        """Where there is a logger, and a GPU or the machine to watch."""
        return bool(trainer.loggers) and (self.cpu_stats is not False or bool(gpus_of(trainer)))

    def state_dict(self) -> dict[str, Any]:
        return {"batches": dict(self._batches)} if any(self._batches.values()) else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._batches = dict(state_dict["batches"])

    # -- logging ---------------------------------------------------------------------------------------------------

    def _log(self, trainer: Trainer, hook: str, step: int) -> None:
        stats = self._stats()
        for logger in trainer.loggers if stats else ():
            prefix = f"{type(self).__qualname__}.{hook}{logger.group_separator}"
            logger.log_metrics({prefix + name: value for name, value in stats.items()}, step=step)

    def _stats(self) -> dict[str, float]:
        """What is known now; nothing here waits for a device."""
        stats: dict[str, float] = {}
        if self._gpu is not None:
            import torch

            of_allocator = torch.cuda.memory_stats_as_nested_dict(self._gpu)
            for name, (kind, moment) in _OF_ALLOCATOR.items():
                stats[name] = of_allocator.get(kind, {}).get("all", {}).get(moment, 0)
        if self._watched_gpu is not None:
            sample = self._watched_gpu.latest
            stats |= {name: sample[key] for name, (key, _) in _OF_GPU.items() if key in sample}
        if self._watched_cpu is not None:
            sample = self._watched_cpu.latest
            stats |= {name: sample[key] for name, key in _OF_CPU.items() if key in sample}
        return stats

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            rank_zero_info(f"{type(self).__name__} logs no {what}.")

    # -- hooks -----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "predict":
            return
        if not trainer.loggers and not trainer.fast_dev_run:
            raise MisconfigurationException(
                f"{type(self).__name__} has nowhere to log to: the Trainer has no logger. Leave out "
                "Trainer(logger=False) or give a logger, for example Trainer(logger=CSVLogger('logs')), or take this "
                "callback out."
            )
        self._log_every, self._batches = trainer.log_every_n_steps, {"validation": 0, "test": 0}
        gpus = gpus_of(trainer)
        self._gpu = gpus[trainer.local_rank % len(gpus)] if gpus else None
        if not gpus if self.cpu_stats is None else self.cpu_stats:
            self._watched_cpu = watch_cpu(self.every_n_seconds)
        if self._gpu is not None:
            try:
                self._watch_gpu(self._gpu)
            except BaseException:
                self._close()  # nobody tears down whose setup failed
                raise

    def _watch_gpu(self, index: int) -> None:
        try:
            self._watched_gpu = watched = watch_gpu(index, self.every_n_seconds)
        except NvmlUnavailableError as error:
            self._tell(f"utilisation, temperature and power: {error}")
            return
        for _, word in _OF_GPU.values():
            if word in watched.missing:
                self._tell(f"{word}: {watched.title} does not have it")

    def _close(self) -> None:
        for one in (self._watched_cpu, self._watched_gpu):
            if one is not None:
                one.close()
        self._watched_cpu = self._watched_gpu = self._gpu = None

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._sanity_checking = True

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._sanity_checking = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_every = trainer.log_every_n_steps

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_every = trainer.log_every_n_steps

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop, log_every = trainer.fit_loop, self._log_every
        # All batches of an accumulation window belong to one step: the last of them logs, when the step was taken.
        if log_every and loop.window_ends and (loop.batches_that_stepped + 1) % log_every == 0:
            self._log(trainer, "on_train_batch_end", loop.batches_that_stepped)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._sanity_checking:
            return
        done = self._batches["validation"]
        self._batches["validation"] = done + 1
        if self._log_every and done % self._log_every == 0:
            self._log(trainer, "on_validation_batch_end", done)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        done = self._batches["test"]
        self._batches["test"] = done + 1
        if self._log_every and done % self._log_every == 0:
            self._log(trainer, "on_test_batch_end", done)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()
        self._sanity_checking = False
