"""What processes do and train, compared through their store, before anything is sent that needs it alike.

A collective that one process alone calls, or with another shape, waits for ever or ends the process without a word;
the store has neither shapes nor an order.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["facts_of_module", "first_differing", "told_apart", "wait_until"]

_LONGEST_PAUSE_S = 0.05
_REQUESTS_PER_S = 5000
"""How often all processes together may ask the store while they wait."""


def first_differing(
    store: Any,
    name: str,
    rank: int,
    world_size: int,
    facts: Mapping[str, str],
    wait: Callable[[Callable[[], bool]], None],
) -> tuple[int, dict[str, str], dict[str, str]] | None:
    """Return the first process whose `facts` are not those of process 0, with the facts of both; None where all agree.

    Args:
        store: The one that all processes see.
        name: Begins the names of what is kept there for this comparison.
        wait: Returns when what it is given returns True; raises where that will not be.
    """
    told = json.dumps(facts, sort_keys=True)
    store.set(f"{name}/digest/{rank}", hashlib.sha256(told.encode()).hexdigest())
    if rank == 0:
        keys = [f"{name}/digest/{other}" for other in range(world_size)]
        wait(lambda: bool(store.check(keys)))
        own, *others = store.multi_get(keys)
        store.set(f"{name}/odd", str(next((at for at, one in enumerate(others, 1) if one != own), 0)))
    wait(lambda: bool(store.check([f"{name}/odd"])))
    odd = int(store.get(f"{name}/odd"))
    if odd == 0:
        return None
    if rank in (0, odd):
        store.set(f"{name}/facts/{rank}", told)
    keys = [f"{name}/facts/{one}" for one in (0, odd)]
    wait(lambda: bool(store.check(keys)))
    first, other = (json.loads(one) for one in store.multi_get(keys))
    return odd, first, other


def told_apart(odd: int, first: Mapping[str, str], other: Mapping[str, str], at_most: int = 3) -> str:
    """Return in words what process 0 and process `odd` have differently.

    Example:
        >>> told_apart(1, {"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"})
        'b is 2 in process 0 and 3 in process 1; c is 4 in process 1 and not there in process 0'
    """
    names = [name for name in dict.fromkeys((*first, *other)) if first.get(name) != other.get(name)]
    said = []
    for name in names[:at_most]:
        if name in first and name in other:
            said.append(f"{name} is {first[name]} in process 0 and {other[name]} in process {odd}")
        else:
            has, lacks, value = (0, odd, first[name]) if name in first else (odd, 0, other[name])
            said.append(f"{name} is {value} in process {has} and not there in process {lacks}")
    more = len(names) - len(said)
    return "; ".join(said) + (f"; and {more} more" if more else "")


def facts_of_module(module: nn.Module) -> dict[str, str]:
    """Return dtype and shape of each parameter, whether it is trained, and those of each buffer that is saved."""
    facts = {}
    for name, parameter in module.named_parameters():
        trained = "trained" if parameter.requires_grad else "frozen"
        facts[name] = f"a {trained} parameter {_looks(parameter)}"
    for prefix, one in module.named_modules():
        for name, buffer in one._buffers.items():
            if buffer is not None and name not in one._non_persistent_buffers_set:
                facts[f"{prefix}.{name}" if prefix else name] = f"a buffer {_looks(buffer)}"
    return facts


def pause_s(world_size: int, waited_s: float) -> float:
    """Return how long to wait before the store is asked again: longer as time goes on, and where many ask."""
    return min(max(0.001, waited_s / 10), max(_LONGEST_PAUSE_S, world_size / _REQUESTS_PER_S))


def wait_until(is_so: Callable[[], bool], world_size: int, timeout_s: float, give_up: Callable[[bool], None]) -> None:
    """Ask until it is so; `give_up` is called with whether time is up, each time before it is asked again."""
    begun = time.monotonic()
    while not is_so():
        waited_s = time.monotonic() - begun
        give_up(waited_s > timeout_s)
        time.sleep(pause_s(world_size, waited_s))


def _looks(tensor: Tensor) -> str:
    shape = "without a shape yet" if is_lazy(tensor) else f"of shape {list(tensor.shape)}"
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape}"
