"""torch.ao.quantization, which torch has deprecated: all that is asked of it, and the one place that hears its warning.

Nothing here imports it when the module is imported: torch may drop it, and the family has other callbacks.
"""

from __future__ import annotations

import copy
import importlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from leyden_optim.pruning_target import make_permanent
from leyden_optim.quantized_parts import fake_quants, has_range, named_fake_quants, values_of_graphs
from leyden_optim.replaced_layers import all_in_training, under_all_names

if TYPE_CHECKING:
    from torch.ao.quantization import QConfig

__all__ = [
    "ENGINES",
    "has_ranges_by_channel",
    "int8_children",
    "made_qconfig",
    "packing_for",
    "prepare",
    "problem_with_qconfig",
    "read_int8",
    "require_quantization",
]

ENGINES = ("fbgemm", "x86", "qnnpack", "onednn")
"""Backends that torch has a configuration for; ``torch.backends.quantized.supported_engines`` are those of a build."""


def require_quantization(owner: str) -> None:
    """Raise an ImportError that says what to install where torch no longer has the module that `owner` works with."""
    try:
        importlib.import_module("torch.ao.quantization.fake_quantize")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{owner} works with torch.ao.quantization, which torch {torch.__version__} does not have: torch moved "
            "quantisation to torchao. Install a torch that has it (torch 2.10 to 2.13 do), or quantise with torchao "
            "(pip install torchao): quantize_(self, QATConfig(...)) in configure_model; see Leyden's documentation, "
            "'Quantisation'.",
            name=error.name,
        ) from None


def _ao() -> Any:
    """Return the module, much of which has no types."""
    import torch.ao.quantization

    return torch.ao.quantization


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back torch's deprecation: who uses a callback can do nothing about what it is made with."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"torch\.ao\.quantization is deprecated", DeprecationWarning)
        # torch's own configurations have a reduce_range, of which torch's observers say that it will go
        warnings.filterwarnings("ignore", r"Please use quant_min and quant_max.*\s+reduce_range will be", UserWarning)
        # said once a process, wherever the first quantised tensor is made
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor, .* are deprecated", UserWarning)
        # what no observer has seen is told of by the callback, with names
        warnings.filterwarnings("ignore", "must run observer before calling calculate_qparams", UserWarning)
        yield


# -- configuration ----------------------------------------------------------------------------------------------------


def made_qconfig(qconfig: str | QConfig, observer_type: str) -> QConfig:
    """Return the configuration that trains for an engine; one of the user's own stays as it is.

    "average" is torch's default for the engine. "histogram" observes activations by `HistogramObserver`, which torch's
    own defaults for training leave out as too slow, and keeps the weights' part.
    """
    ao = _ao()
    if not isinstance(qconfig, str):
        return qconfig
    made: QConfig = ao.get_default_qat_qconfig(qconfig)
    if observer_type == "average":
        return made
    with _quiet():
        reduced = made.activation().activation_post_process.reduce_range
    made = ao.QConfig(
        activation=ao.FakeQuantize.with_args(
            observer=ao.HistogramObserver, quant_min=0, quant_max=255, dtype=torch.quint8, reduce_range=reduced
        ),
        weight=made.weight,
    )
    return made


def problem_with_qconfig(qconfig: object) -> str | None:
    """Say what keeps `qconfig` from being one to train with; None where nothing does."""
    from torch.ao.quantization import QConfig
    from torch.ao.quantization.fake_quantize import FakeQuantizeBase

    if isinstance(qconfig, str):
        supported = torch.backends.quantized.supported_engines
        if qconfig in ENGINES and qconfig not in supported:
            return f"this torch has no such engine; it has {', '.join(name for name in supported if name != 'none')}"
        return None if qconfig in ENGINES else f"expected a torch QConfig or one of {', '.join(ENGINES)}"
    if not isinstance(qconfig, QConfig):
        return f"expected a torch QConfig or one of {', '.join(ENGINES)}"
    with _quiet():
        made = {"activation": qconfig.activation(), "weight": qconfig.weight()}
    for name, dtypes in {"activation": (torch.quint8, torch.qint8), "weight": (torch.qint8,)}.items():
        part, kind = made[name], type(made[name]).__name__
        if not isinstance(part, FakeQuantizeBase):
            return (
                f"its {name} is {kind}, which quantises nothing in training; expected a FakeQuantize, "
                "such as FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, ...)"
            )
        if getattr(part, "dtype", dtypes[0]) not in dtypes:
            return f"its {name} is a {kind} of {part.dtype}, of which torch makes no int8 layer; expected {dtypes[0]}"
    return None


def has_ranges_by_channel(qconfig: QConfig) -> bool:
    """Whether weights get a range for each output channel, not one for all."""
    with _quiet():
        return bool(getattr(qconfig.weight(), "is_per_channel", False))


# -- fake-quantised modules -------------------------------------------------------------------------------------------


def prepare(module: nn.Module, qconfig: QConfig, to_fuse: Sequence[Sequence[str]]) -> None:
    """Fuse layers, replace them by such that quantise in training, and observe what comes out; in place.

    Parameters and BatchNorm layers stay the same objects, parts keep their modes, and the layers that torch makes on
    the way, with weights that are thrown away, draw no random numbers from the run's.
    """
    for names in to_fuse:  # all of them before any is fused: an error leaves the module as it was
        _ao().fuser_method_mappings.get_fuser_method(tuple(type(module.get_submodule(name)) for name in names))
    given = hasattr(module, "qconfig")
    with _quiet(), torch.random.fork_rng(devices=[]), all_in_training(module), under_all_names(module):
        if to_fuse:
            _ao().fuse_modules_qat(module, [list(names) for names in to_fuse], inplace=True)
        if not given:
            module.qconfig = qconfig  # type: ignore[assignment]  # where torch looks for it
        _ao().prepare_qat(module, inplace=True)
    if not given:
        del module.qconfig
    for quantiser in fake_quants(module):
        quantiser.disable_observer()
        quantiser.disable_fake_quant()


# -- int8 modules -----------------------------------------------------------------------------------------------------


def int8_children(module: nn.Module, engine: str | None) -> dict[str, nn.Module | None]:
    """Return the children of a prepared `module` as int8 copies on the CPU, in evaluation mode.

    Weights are packed for `engine`; None is the one that torch has set.
    """
    holder = nn.Module()
    holder._modules.update(copy.deepcopy(module._modules, values_of_graphs(module)))
    make_permanent(holder)  # what prunes a layer would be called with the int8 one
    holder.cpu().eval()
    _observe_weights(holder)
    with _quiet(), torch.random.fork_rng(devices=[]), packing_for(engine), under_all_names(holder):
        _ao().convert(holder, inplace=True)
    return dict(holder._modules)


def _observe_weights(module: nn.Module) -> None:
    """Let observers that have seen no weight see it: an int8 layer cannot be made of weights without a range."""
    for name, part in named_fake_quants(module):
        if name.endswith("weight_fake_quant") and not has_range(part):
            observer: Any = part.activation_post_process
            observer.reset_min_max_vals()
            part.enable_observer()
            part(module.get_submodule(name.rpartition(".")[0]).weight)


def read_int8(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the state of an int8 module in a file, without running what is in it."""
    with warnings.catch_warnings():  # of how torch itself makes a quantised tensor of what it reads
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor, .* are deprecated", UserWarning)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state


@contextmanager
def packing_for(engine: str | None) -> Iterator[None]:
    """Pack weights for `engine` meanwhile; None is the one that torch has set."""
    outer = torch.backends.quantized.engine
    if engine is not None:
        torch.backends.quantized.engine = engine
    try:
        yield
    finally:
        torch.backends.quantized.engine = outer
