"""Values of all processes from each one's share, in as few messages as can be: one, and one more for extremes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

__all__ = ["FIRST_MESSAGE_VALUES", "Share", "exchange", "gather", "gather_bytes", "header_of"]

FIRST_MESSAGE_VALUES = 128
"""Numbers in the first message, 8 bytes each: always as many, so that it arrives whatever the processes disagree on."""

_HEADER = 7


class Channel(Protocol):
    """What is needed of a strategy."""

    root_device: torch.device

    def reduce(self, tensor: Any, group: Any = None, reduce_op: str | None = "mean") -> Any: ...

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor: ...


class Share(NamedTuple):
    """What one process adds to a value of all.

    Attributes:
        op: "mean", "sum", "max" or "min".
        value: for a mean the weighted sum.
        weight: by which the sum of a mean is divided.
        present: whether there is a value here at all.
    """

    op: str
    value: float | Tensor
    weight: float
    present: bool


def exchange(
    channel: Channel, group: Any, shares: Sequence[Share], header: Sequence[float]
) -> list[float | None] | None:
    """Return the values of all processes, None for one that no process has; None where their headers differ.

    `header` is `header_of` what `shares` are. All processes must call this.
    """
    sums: list[float | Tensor] = []
    extremes: list[float | Tensor] = []
    for share in shares:
        _put(share, sums, extremes)
    room = FIRST_MESSAGE_VALUES - _HEADER
    first = [*header, *sums[:room]]
    told = _sent(channel, group, [*first, *[0.0] * (FIRST_MESSAGE_VALUES - len(first))], "sum")
    if not _alike(told[:_HEADER]):
        return None
    summed = told[_HEADER:]
    if len(sums) > room:
        summed += _sent(channel, group, sums[room:], "sum")
    largest = iter(_sent(channel, group, extremes, "max") if extremes else [])
    return [_taken(share.op, summed[3 * at : 3 * at + 3], largest) for at, share in enumerate(shares)]


def _put(share: Share, sums: list[float | Tensor], extremes: list[float | Tensor]) -> None:
    """Add three numbers to `sums` and, for a minimum or maximum, one to `extremes`."""
    value = share.value
    if share.op in ("mean", "sum"):
        sums += [value if share.present else 0.0, share.weight if share.present else 0.0, float(share.present)]
        return
    # A maximum over processes need not see a nan: that there is one is told apart from it.
    is_nan = value.isnan() if isinstance(value, Tensor) else math.isnan(value)
    sums += [is_nan if share.present else 0.0, 0.0, float(share.present)]
    signed = value if share.op == "max" else -value
    if isinstance(signed, Tensor):
        signed = torch.where(signed.isnan(), -math.inf, signed)
    elif math.isnan(signed):
        signed = -math.inf
    extremes.append(signed if share.present else -math.inf)


def _taken(op: str, sums: list[float], largest: Any) -> float | None:
    value, weight, present = sums
    extreme = 0.0 if op in ("mean", "sum") else next(largest)
    if not present:
        return None
    if op == "mean":
        return value / weight if weight else math.nan
    if op == "sum":
        return value
    if value:
        return math.nan
    return extreme if op == "max" else -extreme


def header_of(layout: object) -> list[float]:
    """48 bits of what is sent, in three numbers and their squares, which stay whole in sums over 65,536 processes."""
    digest = hashlib.blake2b(repr(layout).encode(), digest_size=6).digest()
    parts = [int.from_bytes(digest[at : at + 2]) for at in (0, 2, 4)]
    return [1.0, *map(float, parts), *(float(part * part) for part in parts)]


def _alike(header: list[float]) -> bool:
    """Whether all processes sent the same parts: only then the sum's square is the number times the sum of squares."""
    count, *rest = map(int, header)
    return all(total * total == count * squares for total, squares in zip(rest[:3], rest[3:], strict=True))


def _sent(channel: Channel, group: Any, numbers: list[float | Tensor], op: str) -> list[float]:
    return channel.reduce(_flat(numbers, channel.root_device), group, op).tolist()  # type: ignore[no-any-return]


def _flat(numbers: list[float | Tensor], device: torch.device) -> Tensor:
    if not any(isinstance(number, Tensor) for number in numbers):
        return torch.tensor(numbers, dtype=torch.float64).to(device)
    flat = torch.tensor([0.0 if isinstance(n, Tensor) else n for n in numbers], dtype=torch.float64).to(device)
    places = [place for place, number in enumerate(numbers) if isinstance(number, Tensor)]
    there = [number.detach().to(device, torch.float64).reshape(()) for number in numbers if isinstance(number, Tensor)]
    flat[torch.tensor(places, device=device)] = torch.stack(there)
    return flat


def gather(channel: Channel, group: Any, column: Tensor) -> list[Tensor]:
    """Return each process's `column`, of one dimension and a length of its own, in the order of the ranks."""
    column = column.to(channel.root_device)
    lengths = channel.all_gather(torch.tensor(len(column), device=channel.root_device), group).tolist()
    padded = torch.zeros(max(lengths), dtype=column.dtype, device=column.device)
    padded[: len(column)] = column
    if not len(padded):
        return [column for _ in lengths]
    return [row[:length] for row, length in zip(channel.all_gather(padded, group), lengths, strict=True)]


def gather_bytes(channel: Channel, group: Any, said: bytes) -> list[bytes]:
    """Return what each process said, in the order of the ranks."""
    column = torch.tensor(list(said), dtype=torch.uint8)
    return [bytes(each.tolist()) for each in gather(channel, group, column)]
