"""Python calls a step: an exact figure where time is a noisy one.

What is counted is ``sys.setprofile``'s ``call`` event: a Python function entered, or a generator resumed. The
hand-written step in a function of its own (zero_grad, a training_step with one Linear, backward, SGD's step) makes 80
of them with torch 2.13; with the calls of C functions added (``c_call``) it would be 148. Two runs of n and 2n steps
are counted and subtracted, so that nothing of a run's start and end is in the figure.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from torch import Tensor

from benchmarks.handwritten import Net, ReadyBatches

__all__ = ["calls_per_step", "handwritten_steps", "total"]

_STEPS = 100  # a multiple of the 50 steps between two log writes, so that both runs have their share of them

Run = Callable[[Iterable[Tensor]], object]


def handwritten_steps(batches: Iterable[Tensor]) -> None:
    """The hand-written training step in a function of its own, once for each batch."""
    module = Net()
    optimizer = module.configure_optimizers()

    def step(batch: Tensor, batch_idx: int) -> None:
        optimizer.zero_grad()
        loss = module.training_step(batch, batch_idx)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    for batch_idx, batch in enumerate(batches):
        step(batch, batch_idx)


def calls_per_step(run: Run, steps: int = _STEPS) -> dict[tuple[str, str], float]:
    """Calls in one step by ``(kind, function)``, kind being "call" for Python and "c_call" for C functions.

    ``run`` is given batches and makes one pass over them, in a run of its own each time.
    """
    run(ReadyBatches(steps))  # whatever is cached or imported at a first run is so now
    once, twice = _counted(run, steps), _counted(run, 2 * steps)
    differences = {key: (twice[key] - once[key]) / steps for key in twice}
    return {key: value for key, value in differences.items() if value}


def total(calls: dict[tuple[str, str], float], kind: str = "call") -> float:
    """Calls a step of one kind, all functions together."""
    return sum(number for (event, _), number in calls.items() if event == kind)


def _counted(run: Run, steps: int) -> Counter[tuple[str, str]]:
    batches = ReadyBatches(steps)
    counts: Counter[tuple[str, str]] = Counter()

    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            place = "/".join(Path(code.co_filename).parts[-2:])
            counts[event, f"{code.co_qualname}  ({place}:{code.co_firstlineno})"] += 1
        elif event == "c_call":
            counts[event, f"{getattr(argument, '__qualname__', argument)}  (C)"] += 1

    gc.collect()
    gc.disable()  # a collection calls finalisers, at no step in particular
    sys.setprofile(note)
    try:
        run(batches)
    finally:
        sys.setprofile(None)
        gc.enable()
    return counts
