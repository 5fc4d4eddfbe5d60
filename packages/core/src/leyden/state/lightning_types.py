"""Classes that checkpoints of Lightning name: a safe load reads the names, and none of them is imported."""

from __future__ import annotations

__all__ = ["lightning_types"]

_CALLBACKS = {
    "base": "Callback",
    "early_stopping": "EarlyStopping",
    "finetuning": "BaseFinetuning BackboneFinetuning",
    "gpu_stats_monitor": "GPUStatsMonitor",
    "gradient_accumulation_scheduler": "GradientAccumulationScheduler",
    "lambda_function": "LambdaCallback",
    "lr_monitor": "LearningRateMonitor",
    "model_checkpoint": "ModelCheckpoint",
    "progress": "ProgressBar",
    "pruning": "ModelPruning",
    "quantization": "QuantizationAwareTraining",
    "stochastic_weight_avg": "StochasticWeightAveraging",
    "swa": "StochasticWeightAveraging",
    "timer": "Timer",
    "xla_stats_monitor": "XLAStatsMonitor",
}
_DICTS = ("pytorch_lightning.utilities.parsing", "lightning.fabric.utilities.data", "lightning_fabric.utilities.data")


class _Entries(dict[str, object]):
    """Stands for Lightning's `AttributeDict`, in which hyperparameters were kept."""


def lightning_types() -> list[tuple[type, str]]:
    """Return stand-ins for the classes in files of Lightning 1.x, whose callback states were kept under the class.

    A stand-in has the class's name and nothing else, so that the file runs nothing.
    """
    return [*_OF_CALLBACKS, *((_Entries, f"{module}.AttributeDict") for module in _DICTS)]


_OF_CALLBACKS = [
    (
        type(name, (), {"__module__": f"pytorch_lightning.callbacks.{module}"}),
        f"pytorch_lightning.callbacks.{module}.{name}",
    )
    for module, names in _CALLBACKS.items()
    for name in names.split()
]
