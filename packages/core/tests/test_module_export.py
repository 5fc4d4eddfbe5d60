"""Exports leave the module as it was and give what it gives."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import LightningModule, MisconfigurationException, Trainer
from leyden.testing.models import BoringModule


@pytest.fixture(autouse=True)
def _deprecated_by_torch() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch.jit", DeprecationWarning)
        yield


class Net(LightningModule):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.strict_loading = False
        self.example_input_array = torch.ones(1, 2)
        self.net = nn.Sequential(nn.Linear(2, width), nn.Dropout(0.5))
        self.net[1].eval()

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output


class Pair(LightningModule):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a - 2 * b


def modes(module: nn.Module) -> list[bool]:
    return [layer.training for layer in module.modules()]


@pytest.mark.parametrize("method", ["script", "trace"])
def test_torchscript_computes_the_same_and_changes_nothing(method: str, tmp_path: Path) -> None:
    module, batch = Net(), torch.randn(4, 2)
    module.trainer = trainer = Trainer(logger=False, discover_callbacks=False)
    before = modes(module)
    scripted = module.to_torchscript(tmp_path / "net.pt", method=method)
    assert isinstance(scripted, torch.jit.ScriptModule)
    assert not scripted.training
    assert modes(module) == before == [True, True, True, False]
    assert module.trainer is trainer
    expected = module.eval()(batch)
    assert torch.equal(scripted(batch), expected)
    assert torch.equal(torch.jit.load(str(tmp_path / "net.pt"))(batch), expected)  # type: ignore[no-untyped-call]


def test_a_module_without_trainer_is_without_one_afterwards() -> None:
    module = Net()
    module.to_torchscript()
    with pytest.raises(RuntimeError, match="not attached"):
        _ = module.trainer


@pytest.mark.parametrize(
    "example", [(torch.tensor(5.0), torch.tensor(1.0)), {"b": torch.tensor(1.0), "a": torch.tensor(5.0)}]
)
def test_tracing_takes_positional_and_keyword_inputs(example: Any) -> None:
    traced = Pair().to_torchscript(method="trace", example_inputs=example)
    assert traced(torch.tensor(1.0), torch.tensor(2.0)).item() == -3.0


def test_scripting_needs_no_input_and_tracing_does() -> None:
    assert isinstance(BoringModule().to_torchscript(), torch.jit.ScriptModule)
    with pytest.raises(MisconfigurationException, match=r"needs an input.*example_inputs.*example_input_array"):
        BoringModule().to_torchscript(method="trace")


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"method='compile'.*expected 'script' or 'trace'"):
        Net().to_torchscript(method="compile")


def test_a_failing_export_leaves_the_module_as_it_was() -> None:
    class Unscriptable(Net):
        def forward(self, x: Tensor) -> Tensor:
            return eval("x")  # type: ignore[no-any-return]

    module = Unscriptable()
    module.trainer = trainer = Trainer(logger=False, discover_callbacks=False)
    with pytest.raises(RuntimeError):
        module.to_torchscript()
    assert modes(module) == [True, True, True, False]
    assert module.trainer is trainer
    assert not LightningModule._exporting


@pytest.mark.parametrize(
    ("options", "absent", "install"),
    [
        ({}, ["onnx", "onnxscript"], "onnx onnxscript"),
        ({}, ["onnxscript"], "onnxscript"),
        ({"dynamo": False}, ["onnx"], "onnx"),
    ],
)
def test_onnx_without_its_packages_says_what_to_install(
    options: dict[str, Any], absent: list[str], install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leyden.module_export.find_spec", lambda name: None if name in absent else object())
    with pytest.raises(ModuleNotFoundError, match=f"`pip install {install}`"):
        Net().to_onnx("net.onnx", **options)


def test_onnx_needs_an_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leyden.module_export.find_spec", lambda name: object())
    with pytest.raises(MisconfigurationException, match=r"BoringModule.to_onnx needs an input.*Give input_sample"):
        BoringModule().to_onnx("net.onnx")


@pytest.mark.parametrize("sample", [None, torch.ones(1, 2), (torch.ones(1, 2),)])
def test_onnx_export_gets_the_module_and_its_inputs(sample: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def export(model: nn.Module, args: Any, path: Any, *, kwargs: Any, **options: Any) -> str:
        seen.append((modes(model), [tuple(arg.shape) for arg in args], path, kwargs, options))
        return "program"

    monkeypatch.setattr("leyden.module_export.find_spec", lambda name: object())
    monkeypatch.setattr(torch.onnx, "export", export)
    module = Net()
    assert module.to_onnx("net.onnx", sample, opset_version=18) == "program"
    assert seen == [([False] * 4, [(1, 2)], "net.onnx", {}, {"opset_version": 18})]
    assert modes(module) == [True, True, True, False]
