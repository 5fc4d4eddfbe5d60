"""What a module is made of: its parts with their parameters, sizes and operations, and the totals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from leyden.flops import measure_flops
from leyden.tables import render_table
from leyden_monitoring.untouched import is_undecided, leave_untouched

__all__ = ["ModuleTable", "Part", "describe_module", "short_count"]


@dataclass
class Part:
    """A module within the one described. Sizes are those of the first call, as lists; None before one was made."""

    name: str
    type: str
    parameters: int
    is_lazy: bool
    training: bool
    in_sizes: Any = None
    out_sizes: Any = None


@dataclass
class ModuleTable:
    """The parts of a module down to a depth, and the totals over all of it; shared parameters count once.

    `megabytes` is what the parameters take as they are stored, in 10^6 bytes; `flops` the floating point operations of
    one forward of the example input, None without one.
    """

    parts: list[Part] = field(default_factory=list)
    trainable: int = 0
    frozen: int = 0
    megabytes: float = 0.0
    lazy: int = 0
    in_train_mode: int = 0
    in_eval_mode: int = 0
    flops: int | None = None

    @property
    def total(self) -> int:
        """All parameters."""
        return self.trainable + self.frozen

    def headers(self) -> list[str]:
        """The columns of `rows`; those of sizes only where some are known."""
        sizes = ["in", "out"] if any(part.in_sizes is not None for part in self.parts) else []
        return ["", "name", "type", "parameters", "mode", *sizes]

    def rows(self) -> list[list[object]]:
        """A row for each part: number, name, type, parameters, mode, sizes."""
        columns = len(self.headers())
        rows: list[list[object]] = [
            [
                *(number, part.name, part.type, "?" if part.is_lazy else short_count(part.parameters)),
                *("train" if part.training else "eval", _size(part.in_sizes), _size(part.out_sizes)),
            ]
            for number, part in enumerate(self.parts)
        ]
        return [row[:columns] for row in rows]

    def totals(self) -> list[tuple[str, str]]:
        """The totals: a number and what it counts."""
        totals = [
            (short_count(self.trainable), "trainable parameters"),
            (short_count(self.frozen), "frozen parameters"),
            (short_count(self.total), f"parameters in all, {self.megabytes:.3f} MB"),
            (str(self.in_train_mode), f"modules in train mode, {self.in_eval_mode} in eval mode"),
        ]
        if self.flops is not None:
            totals.append((short_count(self.flops), "floating point operations in a forward of the example input"))
        if self.lazy:
            totals.append((str(self.lazy), "lazy parameters, whose size the first batch decides, not counted"))
        return totals

    def __str__(self) -> str:
        table = [render_table(self.headers(), self.rows())] if self.parts else []
        return "\n".join([*table, *(f"{number:>8}  {what}" for number, what in self.totals())])


def describe_module(module: nn.Module, max_depth: int = 1, example_input: Any = None) -> ModuleTable:
    """Return the table of `module` down to `max_depth` levels, -1 for all; with an example input, sizes and operations.

    The example is run once in evaluation mode without gradients, and leaves modes, random state, buffers and attributes
    as they were. It is not run where there are lazy parameters or buffers, since it would decide their sizes.

    Example:
        >>> table = describe_module(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), example_input=torch.zeros(3, 4))
        >>> table.total, table.flops, table.parts[0].out_sizes
        (10, 48, [3, 2])
    """
    table = ModuleTable()
    named = [(name, part) for name, part in module.named_modules() if name]
    shown = {name: part for name, part in named if max_depth == -1 or name.count(".") < max_depth}
    table.parts = [_part(name, part) for name, part in shown.items()]
    for parameter in module.parameters():
        if isinstance(parameter, UninitializedParameter):
            table.lazy += 1
            continue
        table.trainable += parameter.numel() if parameter.requires_grad else 0
        table.frozen += 0 if parameter.requires_grad else parameter.numel()
        table.megabytes += parameter.numel() * parameter.element_size() / 1e6
    table.in_train_mode = sum(part.training for _, part in named)
    table.in_eval_mode = len(named) - table.in_train_mode
    if example_input is not None and not is_undecided(module):
        _run_example(module, table, shown, example_input)
    return table


def _part(name: str, part: nn.Module) -> Part:
    lazy = any(isinstance(one, UninitializedParameter) for one in part.parameters())
    count = sum(one.numel() for one in part.parameters() if not isinstance(one, UninitializedParameter))
    return Part(name, type(part).__name__, count, lazy, part.training)


def _run_example(module: nn.Module, table: ModuleTable, shown: Mapping[str, nn.Module], example_input: Any) -> None:
    rows = {part.name: part for part in table.parts}

    def note(name: str) -> Any:
        def hook(part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if rows[name].in_sizes is None:
                rows[name].in_sizes = _sizes([*args, *kwargs.values()])
                rows[name].out_sizes = _sizes(output)

        return hook

    args, kwargs = _arguments(example_input, next(_devices(module), torch.device("cpu")))
    with leave_untouched(module):
        handles = [part.register_forward_hook(note(name), with_kwargs=True) for name, part in shown.items()]
        try:
            table.flops = measure_flops(module, lambda: module(*args, **kwargs))
        finally:
            for handle in handles:
                handle.remove()


def _arguments(example: Any, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    from leyden.data.transfer import move_to_device

    moved = move_to_device(example, device)
    if isinstance(moved, Mapping):
        return (), dict(moved)
    return (tuple(moved) if isinstance(moved, tuple) else (moved,)), {}


def _devices(module: nn.Module) -> Iterator[torch.device]:
    return (parameter.device for parameter in module.parameters())


def _sizes(value: Any) -> Any:
    """The shapes of tensors in (nested) collections; one alone without its collection."""
    if isinstance(value, Tensor):
        return list(value.shape)
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        sizes = [_sizes(one) for one in value]
        return sizes[0] if len(sizes) == 1 else sizes
    return "?"


def _size(sizes: Any) -> str:
    return "-" if sizes is None else str(sizes)


def short_count(number: int) -> str:
    """Return a number of at most four digits with its unit.

    Example:
        >>> short_count(999), short_count(1234), short_count(56_789_000), short_count(2 * 10**12)
        ('999', '1.2 K', '56.8 M', '2.0 T')
    """
    value = float(number)
    for unit in ("", "K", "M", "B"):
        if value < 999.95:
            return f"{value:.1f} {unit}" if unit else str(number)
        value /= 1000
    return f"{value:.1f} T"
