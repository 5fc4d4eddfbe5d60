"""What is asked of torch.ao.quantization: its warnings, the random numbers it draws, and where torch has it no more."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
import torch.ao.quantization
from torch import Tensor, nn

from leyden_optim import quantized_parts as parts
from leyden_optim import torch_quantization as quantization

ao: Any = torch.ao.quantization

HIDDEN = """
import importlib, sys, warnings
warnings.simplefilter("error")
import torch

class Hides:
    def find_spec(self, name, path=None, target=None):
        if name == "torch.ao.quantization" or name.startswith("torch.ao.quantization."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in [name for name in sys.modules if name.startswith("torch.ao.quantization")]:
    del sys.modules[name]
del torch.ao.quantization
sys.meta_path.insert(0, Hides())

import leyden_optim
from leyden.callbacks import EarlyStopping, QuantizationAwareTraining
for name in leyden_optim.__all__:
    getattr(leyden_optim, name)
from leyden import Trainer
from leyden.testing import BoringModule
Trainer(max_epochs=1, logger=False, callbacks=[EarlyStopping("train_loss")], accelerator="cpu").fit(BoringModule())
try:
    QuantizationAwareTraining()
except ImportError as error:
    print(error)
"""


def test_where_torch_has_no_quantisation_this_callback_alone_says_what_to_install() -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("QuantizationAwareTraining works with torch.ao.quantization, which torch ")
    assert "pip install torchao" in done.stdout


TRAINS = """
import torch
from leyden import Trainer
from leyden.testing import BoringModule
from leyden_optim import QuantizationAwareTraining
for _ in range(2):
    quantize = QuantizationAwareTraining(observer_type="histogram", quantize_on_fit_end=False)
    module = BoringModule()
    Trainer(max_epochs=1, logger=False, callbacks=[quantize], accelerator="cpu").fit(module)
    saved = quantize.convert(module).state_dict()
    quantize.load_int8(BoringModule(), saved)(torch.ones(1, 4))
"""


def test_torchs_deprecation_reaches_nobody() -> None:
    done = subprocess.run([sys.executable, "-W", "always", "-c", TRAINS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch" not in "".join(line for line in done.stderr.splitlines() if "Warning" in line), done.stderr


class Net(nn.Module):
    """One layer under two names, another that is used twice, and weights that two layers share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.same = self.first
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv1d(1, 1, 1), nn.BatchNorm1d(1)), nn.Linear(4, 4)])
        self.blocks.append(self.blocks[1])
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.first.weight
        self.quant, self.dequant = parts.make_stubs()

    def forward(self, values: Tensor) -> Tensor:
        values = self.same(self.first(self.quant(values)))
        values = self.blocks[2](self.blocks[1](values))
        scores: Tensor = self.dequant(self.tied(values))
        return scores


def prepared(module: nn.Module, *to_fuse: list[str]) -> nn.Module:
    quantization.prepare(module, quantization.made_qconfig("fbgemm", "average"), to_fuse)
    return module


def test_a_layer_with_several_names_is_replaced_under_all_of_them() -> None:
    module: Any = prepared(Net())
    assert module.first is module.same
    assert type(module.first) is torch.ao.nn.qat.Linear
    assert module.blocks[1] is module.blocks[2]
    assert module.tied.weight is module.first.weight
    parts.switch_observers(module, activations=True, weights=True, begins=True)
    values = torch.linspace(-1, 1, 8).view(2, 4)
    expected = module(values)
    parts.switch_observers(module, activations=False, weights=False)
    int8 = Net()
    int8._modules.update(quantization.int8_children(module, "fbgemm"))
    assert int8.first is int8.same
    assert parts.is_int8(int8)
    assert not parts.is_int8(module)
    assert torch.allclose(int8(values), expected, atol=0.1)


def test_preparing_draws_no_random_numbers_and_keeps_the_parts_modes() -> None:
    module = Net()
    module.blocks[0].eval()
    module.first.eval()
    before = torch.get_rng_state()
    prepared(module, ["blocks.0.0", "blocks.0.1"])
    assert torch.equal(torch.get_rng_state(), before)
    block: Any = module.blocks
    assert not module.first.training
    assert not block[0][0].training
    assert not block[0][0].bn.training
    assert module.training
    assert module.tied.training
    assert not hasattr(module, "qconfig")


def test_a_layers_own_qconfig_goes_before() -> None:
    module: Any = Net()
    module.tied.qconfig = None
    prepared(module)
    assert type(module.tied) is nn.Linear


def test_ranges_that_are_missing_are_named() -> None:
    module = prepared(Net())
    assert parts.uncalibrated(module) == ["first", "blocks.0.0", "blocks.1", "tied", "quant"]
    assert not parts.has_begun(module)
    parts.switch_observers(module, activations=True, weights=True, begins=True)
    assert parts.has_begun(module)
    module(torch.ones(1, 4))
    assert parts.uncalibrated(module) == ["blocks.0.0"]


def test_weights_are_packed_for_the_engine_that_is_asked_for_and_no_longer() -> None:
    outer = torch.backends.quantized.engine
    with quantization.packing_for("qnnpack"):
        assert torch.backends.quantized.engine == "qnnpack"
    assert torch.backends.quantized.engine == outer
    with quantization.packing_for(None):
        assert torch.backends.quantized.engine == outer


@pytest.mark.parametrize("engine", quantization.ENGINES)
def test_a_histogram_takes_the_place_of_activations_averages(engine: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        average, histogram = (quantization.made_qconfig(engine, kind) for kind in ("average", "histogram"))
        observers = [made.activation().activation_post_process for made in (average, histogram)]
    assert [type(one).__name__ for one in observers] == ["MovingAverageMinMaxObserver", "HistogramObserver"]
    settings = [(one.reduce_range, one.dtype, one.qscheme, one.quant_min, one.quant_max) for one in observers]
    assert settings[0] == settings[1]
    assert average.weight is histogram.weight
