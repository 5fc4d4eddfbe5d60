"""What a callback's state is made of, and whether a fresh callback takes it up as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Literal

from torch import Tensor

from leyden.callback import Callback
from leyden.errors import MisconfigurationException
from leyden.state.checkpoint import dump
from leyden.testing.differences import first_difference
from leyden.testing.report import Broken, NotChecked
from leyden.testing.runs import RAISED, Exam, described
from leyden.testing.saving import CHECKPOINT, Saved, difference, refuse_company, saved_run
from leyden.trainer import Trainer

__all__ = ["safe_state", "state_round_trip"]

_SPARE_BYTES = 4096


def safe_state(exam: Exam) -> str:
    """What it puts into checkpoints is read back without running code, and takes no more room than it says."""
    _, made = saved_run(exam)
    if not made:
        raise NotChecked("the fit ended before anything could be saved")
    for saved in made:
        if saved.error is not None:
            error = saved.error
            text = str(error) if isinstance(error, MisconfigurationException) else f"it raises {described(error)}"
            raise Broken(f"saving {saved.when}: {' '.join(text.split())}")
        try:
            key, state = _state_in(exam, saved)
        except MisconfigurationException as error:
            what = str(error).partition(" holds ")[2].partition(",")[0] or str(error)
            raise Broken(f"what on_save_checkpoint puts into a checkpoint is not plain data: {what}") from error
        for where, tensor in _tensors(state, key):
            if tensor.grad_fn is not None or tensor.requires_grad:
                raise Broken(f"{where} is part of a graph of autograd; store tensor.detach()")
            if tensor.device.type != "cpu":
                raise Broken(f"{where} is on {tensor.device}; store tensor.cpu()")
            room = tensor.untyped_storage().nbytes()
            if room > tensor.nbytes + _SPARE_BYTES:
                raise Broken(f"{where} is a view that saves all {room} bytes it is a part of; store tensor.clone()")
    return "" if _state_in(exam, made[-1])[1] else "it has no state"


def state_round_trip(exam: Exam) -> str:
    """State, loaded into a fresh callback and asked for again, is the same; asking for it changes nothing."""
    outcome, made = saved_run(exam)
    callback = exam.straight.callbacks[0]
    if callback.state_key != exam.claims.fresh().state_key:
        raise Broken(f"state_key changes in a run, to {callback.state_key!r}; a resumed run would not find its state")
    _check_asking(exam, callback)
    if differs := difference(exam, outcome, exam.straight):
        refuse_company(exam)
        raise Broken(f"saving changes the run: {differs}; state_dict and on_save_checkpoint have only to look")
    stateful = [saved for saved in made if _state_in(exam, saved)[1]]
    for saved in stateful[-1:] + stateful[:1]:
        _check_loading(exam, saved)
    return "" if stateful else "it has no state"


def _check_asking(exam: Exam, callback: Callback) -> None:
    state = callback.state_dict()
    if not isinstance(state, dict):
        raise Broken(f"state_dict returns {state!r:.60}; expected a dict")
    before = copy.deepcopy(state)
    if differs := first_difference(exam.without_varying(callback.state_dict()), exam.without_varying(before)):
        raise Broken(f"state_dict, called twice, differs: {differs}; let it only look")


def _check_loading(exam: Exam, saved: Saved) -> None:
    exam.empty_folder()
    callback = exam.claims.fresh()
    loaded, begun = _Loaded(callback, "first"), _Loaded(callback, "checkpoint")
    trainer, _ = exam.trainer([loaded, callback, begun])
    exam.seeded()
    try:
        trainer.fit(exam.module(), ckpt_path=saved.folder / CHECKPOINT)
    except RAISED as error:
        raise Broken(f"loading the state saved {saved.when} raises {described(error)}") from error
    differs = [
        first_difference(exam.without_varying(probe.state), exam.without_varying(begun.before))
        for probe in (loaded, begun)
    ]
    if all(differs):  # one that needs the optimizers takes its state up in on_fit_start
        raise Broken(f"the state saved {saved.when} is another once a fresh callback has loaded it: {differs[0]}")
    if changed := first_difference(begun.given, begun.before):
        raise Broken(
            f"the run that goes on from a state saved {saved.when} changes the checkpoint it was loaded from: "
            f"{changed}; copy in load_state_dict what is changed in place"
        )


class _Loaded(Callback):
    """Looks at the state of another callback in `on_fit_start`, before or after that one has had the hook.

    Attributes:
        given: the state in the checkpoint, as it is handed out; `before` is a copy of then.
        state: what the other returns.
    """

    def __init__(self, other: Callback, position: Literal["first", "checkpoint"]) -> None:
        self._other, self.position = other, position
        self.given: Any = {}
        self.before: Any = {}
        self.state: Any = {}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.given = checkpoint["callbacks"].get(self._other.state_key, {})
        self.before = copy.deepcopy(self.given)

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        # As a checkpoint has it, since an older callback returns its state from on_save_checkpoint.
        self.state = copy.deepcopy(dump(trainer)["callbacks"].get(self._other.state_key, {}))


def _state_in(exam: Exam, saved: Saved) -> tuple[str, Any]:
    key = exam.straight.callbacks[0].state_key
    return key, saved.checkpoint["callbacks"].get(key, {})


def _tensors(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield where, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _tensors(item, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _tensors(item, f"{where}[{index}]")
