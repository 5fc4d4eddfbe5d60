"""Callbacks that watch a run of leyden: progress bars, model summary, learning rates, throughput.

Importing this package imports no callback: each name brings its module when it is asked for, so that the factory that
every `Trainer` calls costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leyden.lazy_names import lazy_names

if TYPE_CHECKING:
    from leyden_monitoring.device_stats_monitor import DeviceStatsMonitor
    from leyden_monitoring.gpu_stats_monitor import GPUStatsMonitor
    from leyden_monitoring.heartbeat import Heartbeat
    from leyden_monitoring.learning_rate_monitor import LearningRateMonitor
    from leyden_monitoring.model_summary import ModelSummary
    from leyden_monitoring.progress_base import ProgressBar, ProgressBarBase
    from leyden_monitoring.prometheus_exporter import PrometheusExporter
    from leyden_monitoring.rich_progress import RichProgressBar, RichProgressBarTheme
    from leyden_monitoring.rich_summary import RichModelSummary
    from leyden_monitoring.tensorboard_logger import TensorBoardLogger
    from leyden_monitoring.throughput import Throughput
    from leyden_monitoring.throughput_monitor import ThroughputMonitor
    from leyden_monitoring.tqdm_progress import TQDMProgressBar

__all__ = [
    "DeviceStatsMonitor",
    "GPUStatsMonitor",
    "Heartbeat",
    "LearningRateMonitor",
    "ModelSummary",
    "ProgressBar",
    "ProgressBarBase",
    "PrometheusExporter",
    "RichModelSummary",
    "RichProgressBar",
    "RichProgressBarTheme",
    "TQDMProgressBar",
    "TensorBoardLogger",
    "Throughput",
    "ThroughputMonitor",
]

_MODULE = {
    "DeviceStatsMonitor": "device_stats_monitor",
    "GPUStatsMonitor": "gpu_stats_monitor",
    "Heartbeat": "heartbeat",
    "LearningRateMonitor": "learning_rate_monitor",
    "ModelSummary": "model_summary",
    "ProgressBar": "progress_base",
    "ProgressBarBase": "progress_base",
    "PrometheusExporter": "prometheus_exporter",
    "RichModelSummary": "rich_summary",
    "RichProgressBar": "rich_progress",
    "RichProgressBarTheme": "rich_progress",
    "TQDMProgressBar": "tqdm_progress",
    "TensorBoardLogger": "tensorboard_logger",
    "Throughput": "throughput",
    "ThroughputMonitor": "throughput_monitor",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE)
