"""The properties of a good callback, in the order in which they are checked: one table, one function each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from leyden.testing.properties.companions import independence, own_hooks_only, second_instance
from leyden.testing.properties.constructor import constructor
from leyden.testing.properties.endings import exceptions
from leyden.testing.properties.hooks import hooks
from leyden.testing.properties.resume import resume
from leyden.testing.properties.stages import stages
from leyden.testing.properties.state import safe_state, state_round_trip
from leyden.testing.properties.watching import cost, only_watches, synchronisation
from leyden.testing.runs import Exam

__all__ = ["PROPERTIES", "Property"]


_HOOKS = ("hooks",)
_STATE = ("hooks", "safe_state", "state_round_trip")


@dataclass(frozen=True, slots=True)
class Property:
    """Something that is true of a good callback.

    `check` returns what is worth knowing, or "", and raises `Broken` or `NotChecked`. Where one of `needs` is broken,
    this one cannot be told.
    """

    check: Callable[[Exam], str]
    means: str
    needs: tuple[str, ...] = _HOOKS

    @property
    def name(self) -> str:
        return self.check.__name__


_ALL = (
    Property(constructor, "made twice, it is two equal callbacks that share nothing, and it leaves no trace", ()),
    Property(hooks, "each hook has a name and a signature of the contract; super().__init__() was called", ()),
    Property(stages, "fit, validate, test and predict run, however they are set up"),
    Property(safe_state, "the state is plain data, saved and loaded without running code"),
    Property(state_round_trip, "a fresh callback takes the state as it was, and as its own", (*_HOOKS, "safe_state")),
    Property(resume, "a run that is cut and resumed ends as one that nobody cut", _STATE),
    Property(second_instance, "two of a kind work in one trainer, or Trainer(...) says no", ("constructor", *_STATE)),
    Property(independence, "other callbacks and the order among them change nothing"),
    Property(own_hooks_only, "it calls no hook of other callbacks or of the module"),
    Property(only_watches, "random numbers, model, gradients and optimizer stay as they are"),
    Property(synchronisation, "no hook of a batch waits for the device where it does not report"),
    Property(cost, "a step costs few Python calls"),
    Property(exceptions, "an error, Ctrl-C or SIGTERM surfaces, nothing is left behind, and a second fit works"),
)

PROPERTIES: dict[str, Property] = {one.name: one for one in _ALL}
"""Every property by its name."""
