"""When a run ends early: who asked, and the place at which processes that train together all do."""

from __future__ import annotations

import math

from leyden.errors import SIGTERMException
from leyden.run_state import TrainerFn
from leyden.runtime.signals import SigtermListener
from leyden.trainer_properties import TrainerProperties

__all__ = ["TrainerEnding"]


class TrainerEnding(TrainerProperties):
    """The end that somebody asks a `Trainer` for, by `should_stop` or by a signal.

    Attributes:
        received_sigterm: whether this process, or another of the run, was asked to end.
        attention_wanted: whether anybody asked for anything; as long as it is False, a step asks nothing else.
        has_heard_end: whether another process has asked for the end of training.
        is_to_end: whether the processes have agreed to end, where `should_stop` says so too.
    """

    received_sigterm: bool
    attention_wanted: bool
    has_heard_end: bool
    is_to_end: bool
    sigterm: SigtermListener
    _should_stop: bool

    def _ask_for_no_end(self) -> None:
        self.received_sigterm = self.attention_wanted = self._should_stop = False
        self.is_to_end = self.has_heard_end = False
        self.sigterm = SigtermListener(self.hear_sigterm)

    @property
    def should_stop(self) -> bool:
        """Whether training ends after this batch; set it to stop. `min_epochs` and `min_steps` are waited for.

        With several processes one is enough to ask: all end behind the same batch. Taking it back is for all of them.
        """
        return self._should_stop

    @should_stop.setter
    def should_stop(self, value: bool) -> None:
        self._should_stop = bool(value)
        if self.is_to_end and not value:
            self.is_to_end = self.has_heard_end = False
            self.strategy.forget_end()
        self.attention_wanted = self.attention_wanted or bool(value)

    def raise_on_sigterm(self) -> None:
        """Raise `SIGTERMException` when the process was asked to end; called between batches.

        Processes that train together are all asked, and end behind the same batch.
        """
        if self.received_sigterm and self.strategy.stops_behind(self.position()[0]):
            raise SIGTERMException()

    def position(self) -> tuple[float, float]:
        """Return the batches of the entry point that are done, and from where on processes may have others left.

        That is told by all processes in the same way. Validation within a fit does not count.
        """
        if self.state.fn is TrainerFn.FITTING:
            return self.fit_loop.batches_seen, math.inf
        loops = {
            TrainerFn.VALIDATING: self.validate_loop,
            TrainerFn.TESTING: self.test_loop,
            TrainerFn.PREDICTING: self.predict_loop,
        }
        return loops[self.state.fn or TrainerFn.VALIDATING].position()

    def ends_here(self, place: float) -> bool:
        """Whether training is to end at this place, in batches done, as somebody asked for by `should_stop`.

        Processes that train together agree on the place, whoever of them asked.
        """
        asked = self._should_stop or self.has_heard_end
        if asked and not self.is_to_end and self.strategy.ends_behind(place):
            self._should_stop = self.is_to_end = True
        return self.is_to_end and self._should_stop

    def ends_with_epoch(self) -> bool:
        """Whether training is to end now that an epoch has; asked by all processes at one place."""
        if not self.is_to_end and self.strategy.reduce_boolean_decision(self._should_stop, all=False):
            self._should_stop = self.is_to_end = True
        return self.is_to_end and self._should_stop

    def hear_end(self) -> None:
        """Take note that another process has asked for the end of training."""
        self.has_heard_end = self.attention_wanted = True

    def hear_sigterm(self) -> None:
        """Take note that this process, or another of the run, was asked to end."""
        self.received_sigterm = self.attention_wanted = True
        self.strategy.ask_to_stop()
