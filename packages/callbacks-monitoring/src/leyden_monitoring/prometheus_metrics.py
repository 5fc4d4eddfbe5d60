"""What Prometheus is told of a run: numbers put here by the training, turned into metrics where they are scraped."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from leyden.run_state import RunningStage
from leyden_monitoring.run_progress import progress_of
from leyden_monitoring.sampling import Watch

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from leyden import Trainer

__all__ = ["OWN_LABELS", "RunMetrics"]

OWN_LABELS = ("stage", "metric", "optimizer", "group", "gpu", "version", "module", "pid", "rank")

_STAGES = [str(stage) for stage in RunningStage]

_Rows = Iterable[tuple[tuple[str, ...], float]]

_PERCENT = 100.0

_OF_GPU = {
    "utilization_percent": ("leyden_gpu_utilization_ratio", "Time in which a kernel ran on the GPU, 0 to 1.", _PERCENT),
    "memory_used_bytes": ("leyden_gpu_memory_used_bytes", "Memory of the GPU in use by all processes.", 1),
    "memory_total_bytes": ("leyden_gpu_memory_total_bytes", "Memory of the GPU.", 1),
    "temperature_celsius": ("leyden_gpu_temperature_celsius", "Temperature of the GPU.", 1),
    "power_watts": ("leyden_gpu_power_watts", "Power that the GPU takes.", 1),
}
_OF_CPU = {
    "cpu_percent": ("leyden_cpu_utilization_ratio", "Use of all processors of the machine, 0 to 1.", _PERCENT),
    "memory_percent": ("leyden_memory_utilization_ratio", "The machine's memory in use, 0 to 1.", _PERCENT),
    "swap_percent": ("leyden_swap_utilization_ratio", "The machine's swap in use, 0 to 1.", _PERCENT),
}
_OF_ALLOCATOR = {
    ("allocated_bytes", "current"): ("leyden_cuda_allocated_bytes", "GPU memory of this process's tensors."),
    ("allocated_bytes", "peak"): ("leyden_cuda_allocated_peak_bytes", "The most of these so far."),
    ("reserved_bytes", "current"): ("leyden_cuda_reserved_bytes", "GPU memory that this process's allocator holds."),
}


class RunMetrics:
    """A collector of prometheus_client. The training thread sets the attributes; `collect` runs in a scrape's thread.

    Each attribute is a number, or a mapping that is replaced as a whole and never changed, so that there is no lock for
    a training to wait at. What a scrape reads off the trainer are plain numbers, never a tensor.

    Attributes:
        last_batch_at: ``monotonic()`` at the end of the last batch of any stage, of the run's begin before the first.
        samples: training samples seen by this process; None where the size of a batch cannot be told.
        batches_per_second, samples_per_second: between the last two reports, None before.
        metrics: the last metrics by name.
        learning_rates: by optimizer and group.
        allocator: statistics of torch's CUDA allocator by GPU.
        cpu, gpus: what samples the device statistics.
    """

    def __init__(self, trainer: Trainer, labels: Mapping[str, str]) -> None:
        self._trainer, self._labels = trainer, dict(labels)
        self.last_batch_at = monotonic()
        self.samples: int | None = 0
        self.batches_per_second: float | None = None
        self.samples_per_second: float | None = None
        self.metrics: Mapping[str, float] = {}
        self.learning_rates: Mapping[tuple[str, str], float] = {}
        self.allocator: Mapping[int, Mapping[str, Any]] = {}
        self.cpu: Watch | None = None
        self.gpus: Mapping[int, Watch] = {}

    def collect(self) -> Iterator[Metric]:
        yield from self._progress()
        yield from self._throughput()
        yield self._gauge(
            "leyden_learning_rate",
            "Learning rate of a parameter group, at the last report.",
            self.learning_rates.items(),
            "optimizer",
            "group",
        )
        yield self._gauge(
            "leyden_metric_value",
            "Last value of what was logged by self.log, at the last report.",
            (((name,), value) for name, value in self.metrics.items()),
            "metric",
        )
        yield from self._devices()

    def close(self) -> None:
        """Sample no more."""
        for watched in (self.cpu, *self.gpus.values()):
            if watched is not None:
                watched.close()

    def _progress(self) -> Iterator[Metric]:
        from prometheus_client.metrics_core import InfoMetricFamily

        import leyden

        trainer = self._trainer
        progress, age_s = progress_of(trainer), monotonic() - self.last_batch_at
        info = {
            "version": leyden.__version__,
            "module": type(trainer.lightning_module).__name__,
            "pid": str(os.getpid()),
        }
        about = InfoMetricFamily("leyden_run", "What is run.", labels=list(self._labels))
        about.add_metric(list(self._labels.values()), info | {"rank": str(trainer.global_rank)})
        yield about
        stages = (((stage,), float(stage == progress.stage)) for stage in _STAGES)
        yield self._gauge("leyden_stage", "1 for what is going on, 0 for the other stages.", stages, "stage")
        yield self._one("leyden_epoch", "The epoch now running, from 0.", progress.epoch)
        yield self._one(
            "leyden_pass_batches_done",
            "Batches done in this epoch or in this pass of another stage.",
            progress.batches_done,
        )
        if progress.batches is not None:
            yield self._one(
                "leyden_pass_batches", "Batches of this epoch or this pass; absent where unknown.", progress.batches
            )
        yield self._one(
            "leyden_last_batch_age_seconds", "Time since a batch of any stage was done, or the run began.", age_s
        )
        yield self._one(
            "leyden_last_batch_timestamp_seconds", "When that was, in seconds since 1970.", time.time() - age_s
        )

    def _throughput(self) -> Iterator[Metric]:
        trainer = self._trainer
        steps = [((), float(trainer.global_step))]
        yield self._counter("leyden_optimizer_steps", "Optimizer steps taken, those before a resume included.", steps)
        validation = trainer.fit_loop.val_loop.batches_seen + trainer.validate_loop.batches_seen
        batches = {
            "train": trainer.fit_loop.batches_seen,
            "validate": validation,
            "test": trainer.test_loop.batches_seen,
            "predict": trainer.predict_loop.batches_seen,
        }
        rows = (((stage,), float(count)) for stage, count in batches.items())
        yield self._counter("leyden_batches", "Batches done, by stage.", rows, "stage")
        if self.samples is not None:
            samples = [((), float(self.samples))]
            yield self._counter("leyden_train_samples", "Training samples that this process saw.", samples)
        for name, what, rate in (
            ("leyden_train_batches_per_second", "Training batches", self.batches_per_second),
            ("leyden_train_samples_per_second", "Training samples", self.samples_per_second),
        ):
            if rate is not None:
                yield self._one(name, f"{what} per second between the last two reports.", rate)

    def _devices(self) -> Iterator[Metric]:
        allocators = self.allocator
        for (kind, moment), (name, what) in _OF_ALLOCATOR.items() if allocators else ():
            values = (
                ((str(gpu),), stats.get(kind, {}).get("all", {}).get(moment, 0)) for gpu, stats in allocators.items()
            )
            yield self._gauge(name, what, values, "gpu")
        samples = {gpu: watched.latest for gpu, watched in self.gpus.items()}
        for key, (name, what, divisor) in _OF_GPU.items():
            rows = [((str(gpu),), sample[key] / divisor) for gpu, sample in samples.items() if key in sample]
            if rows:
                yield self._gauge(name, what, rows, "gpu")
        of_machine = {} if self.cpu is None else self.cpu.latest
        for key, (name, what, divisor) in _OF_CPU.items():
            if key in of_machine:
                yield self._one(name, what, of_machine[key] / divisor)

    # -- families --------------------------------------------------------------------------------------------------

    def _one(self, name: str, what: str, value: float) -> Metric:
        return self._gauge(name, what, [((), value)])

    def _gauge(self, name: str, what: str, rows: _Rows, *labels: str) -> Metric:
        from prometheus_client.metrics_core import GaugeMetricFamily

        return self._filled(GaugeMetricFamily(name, what, labels=[*labels, *self._labels]), rows)

    def _counter(self, name: str, what: str, rows: _Rows, *labels: str) -> Metric:
        from prometheus_client.metrics_core import CounterMetricFamily

        return self._filled(CounterMetricFamily(name, what, labels=[*labels, *self._labels]), rows)

    def _filled(self, family: Any, rows: _Rows) -> Metric:
        for values, number in rows:
            family.add_metric([*values, *self._labels.values()], number)
        filled: Metric = family
        return filled
