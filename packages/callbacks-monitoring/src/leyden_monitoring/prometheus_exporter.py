"""An endpoint from which Prometheus takes how a run is doing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any

from torch import Tensor

from leyden.arguments import check_arguments, is_count, is_name
from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.logging.batch_size import batch_size_of
from leyden.rank_zero import rank_zero_info
from leyden_monitoring.device_sources import NvmlUnavailableError, gpus_of, watch_cpu, watch_gpu
from leyden_monitoring.metrics_server import MetricsServer
from leyden_monitoring.prometheus_metrics import OWN_LABELS, RunMetrics
from leyden_monitoring.prometheus_report import report

if TYPE_CHECKING:
    from leyden import LightningModule, Trainer

__all__ = ["PrometheusExporter"]

_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class PrometheusExporter(Callback):
    """Serves progress, throughput, learning rates, last metrics and device statistics to Prometheus while a run lasts.

    Progress and the time since the last batch are of the moment of the scrape, so that an alert sees a training that is
    stuck. Metrics and learning rates are those of the last report, which is made by the training every
    `log_every_n_steps` steps and at the end of epochs, validations and tests. A scrape never looks at a tensor. What is
    on a GPU is brought where the loggers wait for it anyhow; without a logger, at those ends only.

    The server listens from the beginning of a run to its end, however that comes about, on this machine alone unless
    `address` says otherwise. It is plain HTTP without a password: anyone who reaches it reads it.

    Args:
        address: Where to listen: ``"127.0.0.1"``, ``"0.0.0.0"`` for all networks of the machine, ``"::"`` …
        port: The port; 0 for a free one. The attribute `port` says which it is while a run lasts.
        device_stats: Serve what GPU and machine do; sampled by a thread that it shares with `DeviceStatsMonitor`.
        all_ranks: Serve from every process, each at `port` plus its rank on the machine; else from the first process.
        labels: Labels for all metrics, such as ``{"experiment": "digits"}``.

    Raises:
        ImportError: prometheus_client is not installed.
        MisconfigurationException: an argument that cannot work, or, as a run begins, a port that is taken.

    Example:
        >>> from urllib.request import urlopen
        >>> import leyden
        >>> from leyden.testing import BoringModule
        >>> class Scrape(leyden.Callback):
        ...     def on_train_end(self, trainer, pl_module):
        ...         text = urlopen(f"http://127.0.0.1:{exporter.port}/metrics").read().decode()
        ...         print(*[line for line in text.splitlines() if line.startswith("leyden_optimizer_steps")])
        >>> exporter = PrometheusExporter(port=0, device_stats=False)
        >>> trainer = leyden.Trainer(
        ...     max_epochs=1, logger=False, callbacks=[exporter, Scrape()], discover_callbacks=False
        ... )
        >>> trainer.fit(BoringModule())
        leyden_optimizer_steps_total 2.0
    """

    # Read metrics after the module's own `on_*_epoch_end` has logged them.
    position = "monitor"

    # Defaults of the class, which copies fall back to.
    _run: RunMetrics | None = None
    _server: MetricsServer | None = None
    _log_every = 0
    _mark: tuple[float, int, int] | None = None
    """Where the rates count from: time, batches, samples."""

    def __init__(
        self,
        address: str = "127.0.0.1",
        port: int = 9400,
        device_stats: bool = True,
        all_ranks: bool = False,
        labels: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        _import_client(type(self).__name__)
        expected_labels = f"names by which Prometheus takes strings, without {', '.join(OWN_LABELS)}, or None"
        check_arguments(
            type(self).__name__,
            ("address", address, is_name(address), "an address of this machine, such as '127.0.0.1' or '0.0.0.0'"),
            ("port", port, is_count(port) and port <= 65535, "a port from 1 to 65535, or 0 for a free one"),
            ("device_stats", device_stats, isinstance(device_stats, bool), "True or False"),
            ("all_ranks", all_ranks, isinstance(all_ranks, bool), "True or False"),
            ("labels", labels, labels is None or _are_labels(labels), expected_labels),
        )
        self.address = address
        self.device_stats, self.all_ranks = device_stats, all_ranks
        self.labels = dict(labels or {})
        self._given_port = port
        self._told = False

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_run", "_server", "_mark")}

    @property
    def state_key(self) -> str:
        return self._generate_state_key(address=self.address, port=self._given_port)

    @property
    def port(self) -> int:
        """Where it listens; between runs the port it was given."""
        return self._given_port if self._server is None else self._server.port

    # -- reports ---------------------------------------------------------------------------------------------------

    def _measure_rates(self, trainer: Trainer, run: RunMetrics) -> None:
        now, batches, samples = run.last_batch_at, trainer.fit_loop.batches_seen, run.samples or 0
        if self._mark is not None and now > self._mark[0]:
            seconds = now - self._mark[0]
            run.batches_per_second = (batches - self._mark[1]) / seconds
            if run.samples is not None:
                run.samples_per_second = (samples - self._mark[2]) / seconds
        self._mark = now, batches, samples

    def _count_unusual(self, run: RunMetrics, batch: Any) -> None:
        """Measure a batch that is neither a tensor nor begins with one."""
        if run.samples is not None:
            try:
                run.samples += batch_size_of(batch)[0]
            except MisconfigurationException:
                run.samples = run.samples_per_second = None

    # -- hooks -----------------------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.global_rank and not self.all_ranks:
            return
        name = type(self).__name__
        if self._run is not None:
            raise MisconfigurationException(
                f"This {name} serves another run at port {self.port} already. Give each Trainer one of its own."
            )
        from prometheus_client import CollectorRegistry

        run = RunMetrics(trainer, self.labels)
        registry = CollectorRegistry()
        registry.register(run)
        port = self._given_port and self._given_port + trainer.local_rank
        try:
            self._server = MetricsServer(registry, self.address, port)
        except OSError as error:
            raise MisconfigurationException(
                f"{name}(address={self.address!r}, port={port}) cannot listen there: {error.strerror or error}. Choose "
                "another port, or port=0 for a free one, or end what listens there; the address must be one of this "
                "machine."
            ) from error
        self._run, self._mark, self._log_every = run, None, trainer.log_every_n_steps
        try:
            if self.device_stats:
                self._watch_devices(trainer, run)
        except BaseException:
            self._close()  # nobody tears down whose setup failed
            raise
        rank_zero_info(f"{name} serves metrics at http://{_in_url(self.address)}:{self.port}/metrics.")

    def _watch_devices(self, trainer: Trainer, run: RunMetrics) -> None:
        run.cpu = watch_cpu(1.0)
        for gpu in gpus_of(trainer):
            try:
                run.gpus = {**run.gpus, gpu: watch_gpu(gpu, 1.0)}
            except NvmlUnavailableError as error:
                if not self._told:
                    self._told = True
                    rank_zero_info(f"{type(self).__name__} has no utilisation, temperature and power: {error}.")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_epoch(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_epoch(trainer)

    def _begin_epoch(self, trainer: Trainer) -> None:
        run, self._log_every = self._run, trainer.log_every_n_steps
        if run is not None:
            self._mark = monotonic(), trainer.fit_loop.batches_seen, run.samples or 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        run = self._run
        if run is None:
            return
        run.last_batch_at = monotonic()
        first = batch[0] if batch.__class__ in (list, tuple) and batch else batch
        if first.__class__ is Tensor and first.ndim and run.samples is not None:  # most batches; nothing is called
            run.samples += first.shape[0]
        else:
            self._count_unusual(run, batch)
        loop, log_every = trainer.fit_loop, self._log_every
        if log_every and loop.window_ends and (loop.batches_that_stepped + 1) % log_every == 0:
            self._measure_rates(trainer, run)
            report(trainer, run, waits=bool(trainer.loggers))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._run is not None:
            self._run.last_batch_at = monotonic()

    on_test_batch_end = on_validation_batch_end
    on_predict_batch_end = on_validation_batch_end

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run is not None:
            report(trainer, self._run, waits=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        run = self._run
        if run is not None and not trainer.sanity_checking:
            report(trainer, run, waits=True)
            self._mark = monotonic(), trainer.fit_loop.batches_seen, run.samples or 0

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._run is not None:
            report(trainer, self._run, waits=True)

    def _close(self) -> None:
        server, run = self._server, self._run
        self._server = self._run = None
        try:
            if server is not None:
                server.close()
        finally:
            if run is not None:
                run.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._close()


def _are_labels(labels: object) -> bool:
    return isinstance(labels, Mapping) and all(
        isinstance(name, str) and _LABEL.fullmatch(name) and name not in OWN_LABELS and isinstance(value, str)
        for name, value in labels.items()
    )


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _import_client(name: str) -> None:
    try:
        import prometheus_client  # noqa: F401
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{name} needs prometheus_client, which is not installed here. To install it: "
            "pip install leyden-callbacks-monitoring[prometheus]",
            name=error.name,
        ) from None
