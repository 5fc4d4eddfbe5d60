"""Hyperparameters as TensorBoard's HParams page reads them."""

from __future__ import annotations

import contextlib
import math
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from leyden.rank_zero import rank_zero_warn

__all__ = ["HParamsPage", "flatten", "scalars_summary"]

Plain = bool | float | str


class HParamsPage:
    """What TensorBoard's page of hyperparameters was told of a run; the methods give what to write now, with its step.

    TensorBoard keeps the first hyperparameters of a run and the first list of its metrics, and no later ones.
    """

    def __init__(self) -> None:
        self.metrics: dict[str, list[float]] = {}  # the latest value and step of each that is listed
        self.placeholder_due = False
        self.began = False
        self.ended = False

    def begin(self, params: Mapping[str, Any], default_metric: bool) -> Iterator[tuple[Any, int]]:
        """Hyperparameters alone. The metric that stands for none is due later: `on_train_start` may bring others."""
        self.placeholder_due = default_metric and bool(params) and not self.metrics
        if params and not default_metric and not self.began:
            self.began = True
            yield _session_summary(params), 0

    def list_metrics(
        self, params: Mapping[str, Any], metrics: Mapping[str, float], step: int | None, latest_step: int
    ) -> Iterator[tuple[Any, int]]:
        """Hyperparameters with the metrics that are listed beside them, and points of these at `step`.

        That is the latest one where none is given: a point at step 0 would take away a metric's earlier curve, since
        TensorBoard takes a step back for a restart. A value that stands already is no new point then, so that the
        initial values that a resumed run gives again are none.
        """
        self.placeholder_due = False
        if not self.metrics:
            yield _experiment_summary(params, list(metrics)), 0
            if not self.began:
                self.began = True
                yield _session_summary(params), 0
        elif new := [name for name in metrics if name not in self.metrics]:
            rank_zero_warn(
                f"TensorBoard lists this run's hyperparameters with {', '.join(self.metrics)} by now, so that "
                f"{', '.join(new)} will be among the scalars only. Give all metrics in the first "
                "log_hyperparams(params, metrics) of a run, or use TensorBoardLogger(default_hp_metric=False)."
            )
        fresh = {}
        for name, value in metrics.items():
            point = self.metrics.get(name)
            if point is None or point[0] != value or step not in (None, point[1]):
                fresh[name] = value
                self.metrics[name] = [value, latest_step if step is None else step]
        if fresh:
            yield scalars_summary(fresh), latest_step if step is None else step

    def end(self, status: str) -> Iterator[tuple[Any, int]]:
        """How the run ended, where there is a beginning."""
        if self.began and not self.ended:
            self.ended = True
            yield _end_summary(status), 0

    def state_dict(self) -> dict[str, Any]:
        """Return all of it, as plain data."""
        metrics = {name: list(point) for name, point in self.metrics.items()}
        return {"metrics": metrics, "began": self.began, "ended": self.ended}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.metrics = {name: list(point) for name, point in state_dict["metrics"].items()}
        self.began, self.ended = state_dict["began"], state_dict["ended"]


def scalars_summary(metrics: Mapping[str, float]) -> Any:
    """Return one summary with a point of each metric."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=name, simple_value=value) for name, value in metrics.items()])


def flatten(params: Mapping[str, Any]) -> dict[str, Plain]:
    """Return nested hyperparameters as ``outer/inner``, with values that TensorBoard can list.

    Lists, None and objects are listed as they print, and so are numbers that are not finite: TensorBoard leaves their
    places empty.

    Example:
        >>> flatten({"lr": 0.1, "net": {"sizes": [8, 2], "bias": True}, "decay": None, "clip": float("inf")})
        {'lr': 0.1, 'net/sizes': '[8, 2]', 'net/bias': True, 'decay': 'None', 'clip': 'inf'}
    """
    flat: dict[str, Plain] = {}
    for key, value in params.items():
        if isinstance(value, Namespace):
            value = vars(value)
        if isinstance(value, Mapping) and value:
            flat.update({f"{_text(key)}/{inner}": part for inner, part in flatten(value).items()})
        else:
            flat[_text(key)] = _plain(value)
    return flat


def _plain(value: Any) -> Plain:
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a tensor or a scalar of numpy
        value = value.item()
    if isinstance(value, bool):
        return value
    with contextlib.suppress(OverflowError):  # an int beyond what a float can hold
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return _text(value)


def _text(value: Any) -> str:
    """As it prints, and in UTF-8: a path may have bytes that are not."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _experiment_summary(params: Mapping[str, Any], metrics: Sequence[str]) -> Any:
    """Which hyperparameters and metrics have a column."""
    from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2
    from tensorboard.plugins.hparams.metadata import EXPERIMENT_TAG

    kinds = {bool: api_pb2.DATA_TYPE_BOOL, float: api_pb2.DATA_TYPE_FLOAT64, str: api_pb2.DATA_TYPE_STRING}
    experiment = api_pb2.Experiment(
        hparam_infos=[api_pb2.HParamInfo(name=k, type=kinds[type(v)]) for k, v in flatten(params).items()],
        metric_infos=[api_pb2.MetricInfo(name=api_pb2.MetricName(tag=name)) for name in metrics],
    )
    return _summary(EXPERIMENT_TAG, plugin_data_pb2.HParamsPluginData(experiment=experiment))


def _session_summary(params: Mapping[str, Any]) -> Any:
    """The values of this run."""
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionStartInfo

    start = SessionStartInfo()
    for name, value in flatten(params).items():
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, str):
            start.hparams[name].string_value = value
        else:
            start.hparams[name].number_value = value
    return _summary(SESSION_START_INFO_TAG, HParamsPluginData(session_start_info=start))


def _end_summary(status: str) -> Any:
    """How this run ended: "success", or anything else."""
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams.metadata import SESSION_END_INFO_TAG
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo

    end = SessionEndInfo(status=api_pb2.STATUS_SUCCESS if status == "success" else api_pb2.STATUS_FAILURE)
    return _summary(SESSION_END_INFO_TAG, HParamsPluginData(session_end_info=end))


def _summary(tag: str, data: Any) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.hparams.metadata import NULL_TENSOR, create_summary_metadata

    return Summary(value=[Summary.Value(tag=tag, tensor=NULL_TENSOR, metadata=create_summary_metadata(data))])
