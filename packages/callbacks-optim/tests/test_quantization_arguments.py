"""What QuantizationAwareTraining refuses at its constructor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.ao.quantization

from leyden import MisconfigurationException
from leyden_optim import QuantizationAwareTraining
from leyden_optim.quantization_arguments import groups_of

ao: Any = torch.ao.quantization

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"qconfig": "fbgem"}, r"qconfig='fbgem': expected a torch QConfig or one of fbgemm, .*Did you mean 'fbgemm'\?"),
    ({"qconfig": 3}, "qconfig=3: expected a torch QConfig or one of"),
    ({"qconfig": ao.default_qconfig}, "its activation is MinMaxObserver, which quantises nothing in training"),
    (
        {"qconfig": ao.QConfig(activation=ao.default_fake_quant, weight=ao.default_weight_observer)},
        "its weight is MinMaxObserver, which quantises nothing in training; expected a FakeQuantize",
    ),
    ({"qconfig": ao.default_weight_only_qconfig}, "its activation is Identity, which quantises nothing in training"),
    (
        {"qconfig": ao.QConfig(activation=ao.default_fake_quant, weight=ao.default_fake_quant)},
        "its weight is a FakeQuantize of torch.quint8, of which torch makes no int8 layer; expected torch.qint8",
    ),
    ({"observer_type": "histogramm"}, r"observer_type='histogramm': .*Did you mean 'histogram'\?"),
    (
        {"observer_type": "histogram", "qconfig": ao.default_qat_qconfig},
        "observer_type='histogram' with a QConfig, which has observers of its own",
    ),
    ({"collect_quantization": 0}, "collect_quantization=0: expected None, an int >= 1, or a function of the trainer"),
    ({"collect_quantization": True}, "collect_quantization=True: expected None"),
    ({"collect_quantization": 1.5}, "collect_quantization=1.5: expected None"),
    ({"collect_quantization": lambda: True}, "a function of the trainer that returns whether to collect"),
    ({"modules_to_fuse": "conv"}, "modules_to_fuse='conv': expected lists of two or more names"),
    ({"modules_to_fuse": ["conv"]}, r"modules_to_fuse=\['conv'\]: expected lists of two or more names"),
    ({"modules_to_fuse": [["conv", 1]]}, "modules_to_fuse=.*expected lists"),
    ({"modules_to_fuse": [["conv"]]}, "modules_to_fuse=.*expected lists"),
    ({"modules_to_fuse": 3}, "modules_to_fuse=3: expected lists"),
    ({"input_compatible": 1}, "input_compatible=1: expected True or False"),
    ({"quantize_on_fit_end": None}, "quantize_on_fit_end=None: expected True or False"),
    ({"observer_enabled_stages": "train"}, "observer_enabled_stages='train': expected a list of some of train, val"),
    ({"observer_enabled_stages": ("fit",)}, r"observer_enabled_stages=\('fit',\): expected a list of some of"),
    ({"observer_enabled_stages": ()}, r"observer_enabled_stages=\(\): expected a list of some of"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_wrong_argument_is_an_error_that_says_what_is_right(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        QuantizationAwareTraining(**arguments)


def test_all_wrong_arguments_are_named_at_once() -> None:
    with pytest.raises(MisconfigurationException) as caught:
        QuantizationAwareTraining("int8", collect_quantization=-1, input_compatible="no")  # type: ignore[arg-type]
    assert [line.partition("=")[0].strip(" -") for line in str(caught.value).splitlines()[1:]] == [
        "qconfig", "collect_quantization", "input_compatible",
    ]  # fmt: skip


def test_an_engine_that_this_torch_lacks_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class OfAnArm:
        supported_engines = ("none", "qnnpack")

    monkeypatch.setattr(torch.backends, "quantized", OfAnArm)
    with pytest.raises(MisconfigurationException, match="this torch has no such engine; it has qnnpack"):
        QuantizationAwareTraining("fbgemm")
    QuantizationAwareTraining("qnnpack")


def test_one_group_may_stand_for_itself() -> None:
    assert groups_of(["conv", "bn"]) == groups_of([("conv", "bn")]) == [["conv", "bn"]]
    assert QuantizationAwareTraining(modules_to_fuse=["conv", "bn"]).modules_to_fuse == [["conv", "bn"]]


def test_qint8_activations_are_taken_as_qnnpack_has_them() -> None:
    given = torch.ao.quantization.qconfig.default_symmetric_qnnpack_qat_qconfig
    assert QuantizationAwareTraining(given).qconfig is given
