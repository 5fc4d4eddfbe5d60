"""What the hooks of a step cost, counted in Python calls, which no noise of a machine moves."""

from __future__ import annotations

import gc
import statistics
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any

from leyden.hooks.binding import Call
from leyden.hooks.contract import HOOKS

if TYPE_CHECKING:
    from leyden.callback import Callback
    from leyden.testing.runs import Exam, Watch

__all__ = ["EVERY_BATCH", "Costs"]

EVERY_BATCH = frozenset(
    name
    for name, hook in HOOKS.items()
    if hook.callbacks
    and ("_batch_" in name or hook.arguments in (("optimizer",), ("loss",)) or name == "on_after_backward")
)
"""The hooks that are called for each batch."""


class Costs:
    """Counts ``sys.setprofile``'s ``call`` events in the hooks of a callback, off the steps at which it reports.

    Attributes:
        calls: how many each call of a hook made, by the hook's name.
    """

    def __init__(self, exam: Exam) -> None:
        self._exam = exam
        self.calls: dict[str, list[int]] = {}

    def watch(self, callback: Callback) -> Watch:
        """Return what wraps the hooks of `callback`."""

        def wrap(owner: object, hook: str, call: Call) -> Call:
            return self._counted(hook, call, callback) if owner is callback and hook in EVERY_BATCH else call

        return wrap

    def of_stages(self) -> dict[str, dict[str, int]]:
        """Return what is typical of the hooks of a training step, and of those of a validation step."""
        found: dict[str, dict[str, int]] = {"training": {}, "validation": {}}
        for hook, calls in self.typical().items():
            found["validation" if "validation" in hook else "training"][hook] = calls
        return found

    def typical(self) -> dict[str, int]:
        """Return how many calls each hook makes: a median, so that what comes now and then is left out."""
        return {hook: int(statistics.median(found)) for hook, found in self.calls.items()}

    def _counted(self, hook: str, call: Call, callback: Callback) -> Call:
        def counted(*args: Any) -> Any:
            made = 0

            def count(frame: FrameType, event: str, argument: Any) -> None:
                nonlocal made
                made += event == "call"

            outer, collects = sys.getprofile(), gc.isenabled()
            gc.disable()  # a collection calls finalisers, at no step in particular
            sys.setprofile(count)
            try:
                return call(*args)
            finally:
                sys.setprofile(outer)
                if collects:
                    gc.enable()
                reference = callback._trainer_ref
                trainer = None if reference is None else reference()
                always = self._exam.every_n_steps == 1  # then that is what each step costs
                if trainer is not None and (always or not self._exam.is_reporting(trainer)):
                    self.calls.setdefault(hook, []).append(made)

        return counted
