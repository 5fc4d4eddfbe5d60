from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor

from leyden.logging.metrics import MetricsDict, to_floats


def filled() -> MetricsDict:
    metrics = MetricsDict()
    metrics.put("loss", torch.tensor(0.5), 3)
    metrics.put("acc", torch.tensor(0.25), 4)
    return metrics


def test_knows_the_step_of_each_metric() -> None:
    metrics = filled()
    assert metrics == {"loss": torch.tensor(0.5), "acc": torch.tensor(0.25)}
    assert [metrics.step_of(name) for name in metrics] == [3, 4]


def test_a_missing_metric_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(KeyError, match=r"no metric 'los' was logged; there are \['acc', 'loss'\]"):
        filled().step_of("los")


def test_a_metric_set_by_hand_or_deleted_has_no_step() -> None:
    metrics = filled()
    metrics["mine"] = torch.tensor(1.0)
    del metrics["loss"]
    for name in ("mine", "loss"):
        with pytest.raises(KeyError, match=name):
            metrics.step_of(name)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_steps(copied: object) -> None:
    assert callable(copied)
    metrics = copied(filled())
    assert (dict(metrics), metrics.step_of("loss")) == (dict(filled()), 3)


def test_state_round_trip() -> None:
    other = MetricsDict()
    other.put("old", torch.tensor(9.0), 1)
    other.load_state_dict(filled().state_dict())
    assert dict(other) == dict(filled())
    assert [other.step_of(name) for name in other] == [3, 4]


def test_clear_forgets_steps_too() -> None:
    metrics = filled()
    metrics.clear()
    assert not metrics
    with pytest.raises(KeyError):
        metrics.step_of("loss")


def test_to_floats_takes_numbers_and_tensors_of_any_kind_in_order() -> None:
    values: dict[str, float | Tensor] = {
        "a": 1,
        "b": torch.tensor([2]),
        "c": torch.tensor(0.5, requires_grad=True),
        "d": True,
    }
    assert list(to_floats(values).items()) == [("a", 1.0), ("b", 2.0), ("c", 0.5), ("d", 1.0)]
    assert all(type(number) is float for number in to_floats(values).values())
