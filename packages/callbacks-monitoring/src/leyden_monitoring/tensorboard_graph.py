"""The graph of a module for TensorBoard, recorded without leaving a trace in the training."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leyden.data.transfer import map_tensors, move_to_device
from leyden.module import LightningModule
from leyden.rank_zero import rank_zero_warn
from leyden.runtime.shards import is_shard
from leyden_monitoring.untouched import is_undecided, leave_untouched

__all__ = ["add_graph"]


def add_graph(writer: Any, model: nn.Module, example: Any = None) -> bool:
    """Record the graph of a forward of `example`, by default the model's `example_input_array`, and return True.

    A tuple holds positional arguments and a dict keywords. The model runs in evaluation mode; modes, random state,
    gradients, buffers and attributes are left alone. A model that cannot be traced costs a warning, not the training;
    so does one with lazy parameters, whose sizes the example would decide.
    """
    example = getattr(model, "example_input_array", None) if example is None else example
    name = type(model).__name__
    if example is None:
        rank_zero_warn(f"TensorBoardLogger(log_graph=True): give {name} an example_input_array to run it with.")
        return False
    if is_undecided(model):
        rank_zero_warn(f"TensorBoardLogger(log_graph=True): {name} has lazy parameters; run it once on a batch before.")
        return False
    if any(map(is_shard, model.parameters())):  # a forward needs the parts of all processes, and this is one
        rank_zero_warn(f"TensorBoardLogger(log_graph=True): {name} has its weights in shards, and is not traced.")
        return False
    try:
        with warnings.catch_warnings(), leave_untouched(model):
            _expect_warnings()
            traced, tensors = _trace(model, example)
            writer.add_graph(traced, tensors, use_strict_trace=False)
    except OSError:
        raise
    except Exception as error:
        rank_zero_warn(
            f"The graph of {name} is not in TensorBoard: tracing its forward on example_input_array failed with "
            f"{type(error).__name__}: {str(error).strip()[:300]} Mend example_input_array, or leave log_graph out."
        )
        return False
    return True


def _trace(model: nn.Module, example: Any) -> tuple[torch.jit.ScriptModule, tuple[Any, ...]]:
    """Trace here and not in `add_graph`, which knows no keywords and puts frozen layers into training mode."""
    like = next(model.parameters(), None)
    if like is not None:
        example = map_tensors(move_to_device(example, like.device), lambda tensor: _cast(tensor, like.dtype))
    options: dict[str, Any] = {
        "strict": False,
        "check_trace": False,
    }  # outputs may be dicts; checking runs the model twice more
    if isinstance(model, LightningModule):
        return model.to_torchscript(method="trace", example_inputs=example, **options), ()
    named = {"example_kwarg_inputs": dict(example)} if isinstance(example, Mapping) else {"example_inputs": example}
    return torch.jit.trace(model, **named, **options), ()  # type: ignore[no-untyped-call]


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() and dtype.is_floating_point else tensor


def _expect_warnings() -> None:
    """Switch off what torch says of tracing; what the model itself warns of is not its matter."""
    warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
    warnings.filterwarnings("ignore", "The input to trace is already a ScriptModule")
    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]
