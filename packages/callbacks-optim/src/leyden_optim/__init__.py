"""Steer optimisation: stop early (`EarlyStopping`) or on time (`Timer`), average weights, prune (`ModelPruning`).

Importing this package imports no callback: each name brings its module when it is asked for, so that the factory that
every `Trainer` calls costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from leyden.lazy_names import lazy_names

if TYPE_CHECKING:
    from leyden_optim.accumulation import GradientAccumulationScheduler
    from leyden_optim.batch_size_finder import BatchSizeFinder
    from leyden_optim.early_stopping import EarlyStopping, EarlyStoppingReason
    from leyden_optim.ema_weight_averaging import EMAWeightAveraging
    from leyden_optim.learning_rate_finder import LearningRateFinder
    from leyden_optim.learning_rate_search import LearningRateSearch
    from leyden_optim.pruning import ModelPruning
    from leyden_optim.quantization_aware_training import QuantizationAwareTraining
    from leyden_optim.sparsity import Sparsity
    from leyden_optim.spike_detection import SpikeDetection, TrainingSpikeException
    from leyden_optim.stochastic_weight_averaging import StochasticWeightAveraging
    from leyden_optim.timer import Timer
    from leyden_optim.weight_averaging import WeightAveraging

__all__ = [
    "BatchSizeFinder",
    "EMAWeightAveraging",
    "EarlyStopping",
    "EarlyStoppingReason",
    "GradientAccumulationScheduler",
    "LearningRateFinder",
    "LearningRateSearch",
    "ModelPruning",
    "QuantizationAwareTraining",
    "Sparsity",
    "SpikeDetection",
    "StochasticWeightAveraging",
    "Timer",
    "TrainingSpikeException",
    "WeightAveraging",
]

_MODULE = {
    "BatchSizeFinder": "batch_size_finder",
    "EMAWeightAveraging": "ema_weight_averaging",
    "EarlyStopping": "early_stopping",
    "EarlyStoppingReason": "early_stopping",
    "GradientAccumulationScheduler": "accumulation",
    "LearningRateFinder": "learning_rate_finder",
    "LearningRateSearch": "learning_rate_search",
    "ModelPruning": "pruning",
    "QuantizationAwareTraining": "quantization_aware_training",
    "Sparsity": "sparsity",
    "SpikeDetection": "spike_detection",
    "StochasticWeightAveraging": "stochastic_weight_averaging",
    "Timer": "timer",
    "TrainingSpikeException": "spike_detection",
    "WeightAveraging": "weight_averaging",
}

__getattr__, __dir__ = lazy_names(__name__, _MODULE)
