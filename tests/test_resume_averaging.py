"""Averages of weights in a run that is cut anywhere: whoever goes on ends bit for bit where the whole run ends."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.test_resume_exceptions import Events, Lbfgs, Manual, Net, OnPlateau, StepsItself, fit, x_of

from leyden import Callback, Trainer
from leyden.callbacks import EMAWeightAveraging, OnExceptionCheckpoint, StochasticWeightAveraging, WeightAveraging

Differences = Callable[[Any, Any], Iterable[str]]


class Both(WeightAveraging):
    """Averages every other step, and the ends of epochs."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None or (step_idx or 0) % 2 == 1


class ManualWithoutSchedulers(Manual):
    """Averaged epochs have schedulers of their own."""

    def forward(self, batch: Any) -> Any:
        self.events.happen("forward")
        return self.net(x_of(batch)) - self.critic(x_of(batch))

    def lr_schedulers(self) -> Any:
        return self

    def step(self) -> None:
        self.events.happen("no scheduler")

    def configure_optimizers(self) -> Any:
        return super().configure_optimizers()[0]


KINDS: dict[str, Callable[[], Callback]] = {
    "ema": lambda: EMAWeightAveraging(decay=0.7),
    "ema later": lambda: EMAWeightAveraging(decay=0.7, update_every_n_steps=2, update_starting_at_step=3),
    "ema next epoch": lambda: EMAWeightAveraging(decay=0.7, use_buffers=False, update_starting_at_epoch=1),
    "steps and epochs": Both,
    "swa": lambda: StochasticWeightAveraging(0.002, 1, annealing_epochs=3),
    "swa next epoch": lambda: StochasticWeightAveraging(0.002, 2, annealing_epochs=0, annealing_strategy="linear"),
}


def between(kind: str) -> Callback:
    """Return a callback whose hooks are called after those of one that may raise, and before those of another."""
    callback = KINDS[kind]()
    callback.runs_after, callback.runs_before = ("a",), ("b",)
    return callback


class SaveAndCut(Callback):
    """Saves as a callback does now and then, at the event after which the process is gone."""

    position = "checkpoint"

    def __init__(self, path: Path, events: Events, at: int) -> None:
        self.path, self.events, self.at = path, events, at

    def _maybe(self, trainer: Trainer) -> None:
        if len(self.events.names) > self.at and not self.path.exists() and not trainer.sanity_checking:

            def save() -> None:
                trainer.save_checkpoint(self.path)
                self.events.cut_at = len(self.events.names)

            trainer.plan.when_done(save)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._maybe(trainer)


pytestmark = pytest.mark.filterwarnings(
    "ignore:.* is a hook of 1\\.",  # which the events of these runs come from, too
    "ignore:resuming reads the first",
    "ignore:'set_vital' is deprecated",
    "ignore:.* averaged nothing",  # where a limit comes before its epoch
)

FOLDERS = itertools.count()
RUNS: dict[Any, tuple[list[str], dict[str, Any]]] = {}  # those that were not cut, by what they are


def whole_run(folder: Path, kind: str, net: type[Net], **arguments: Any) -> tuple[list[str], dict[str, Any]]:
    key = (kind, net, *arguments.items())
    if key not in RUNS:
        events = Events()
        whole = fit(folder / "whole", 1, net, events, between(kind), **arguments)
        assert whole is not None
        RUNS[key] = events.names, whole
    return RUNS[key]


NETS = st.sampled_from([Net, OnPlateau, Lbfgs, StepsItself, ManualWithoutSchedulers])
ARGUMENTS = st.sampled_from(
    [{}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 3}, {"max_steps": 3}, {"val_check_interval": 1.0},
     {"noise": 0.1}, {"loader": "lists"}, {"loader": "stateful"}, {"loader": "stream"}, {"loader": "generator"},
     {"loader": "several"}]
)  # fmt: skip
PLACES = st.floats(0, 1, exclude_max=True)
quick = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def fitting(kind: str, net: type[Net], arguments: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a module refuses, and weights that validation's hooks change while these are the averaged ones."""
    refused = ["accumulate_grad_batches"] if net in (Lbfgs, ManualWithoutSchedulers) else []
    refused += [] if "swa" in kind else ["noise"]
    arguments = {name: value for name, value in arguments.items() if name not in refused}
    return {**arguments, "gradient_clip_val": None} if net is ManualWithoutSchedulers else arguments


@quick
@given(
    kind=st.sampled_from(list(KINDS)),
    net=NETS,
    arguments=ARGUMENTS,
    at=PLACES,
    again=st.lists(st.integers(0, 12), max_size=1),
)
def test_an_exception_anywhere(
    tmp_path: Path,
    named_differences: Differences,
    kind: str,
    net: type[Net],
    arguments: Any,
    at: float,
    again: list[int],
) -> None:
    folder, arguments = tmp_path / str(next(FOLDERS)), fitting(kind, net, arguments)
    names, whole = whole_run(folder, kind, net, **arguments)
    cut_at = int(at * len(names))
    path, resumed = None, None
    for number, cut in enumerate((cut_at, *again, None)):
        saver = OnExceptionCheckpoint(folder, str(number))
        others = [between(kind), *([] if cut is None else [saver])]
        resumed = fit(folder / "cut", 1 + number, net, Events(cut), *others, ckpt_path=path, **arguments)
        if resumed:
            break
        if Path(saver.ckpt_path).exists():  # not of a run that was cut before it trained on
            path = saver.ckpt_path
    assert not list(named_differences(resumed, whole)), f"cut in {names[cut_at]}, the event number {cut_at}"


@quick
@given(kind=st.sampled_from(list(KINDS)), net=NETS, arguments=ARGUMENTS, at=PLACES)
def test_a_checkpoint_anywhere(
    tmp_path: Path, named_differences: Differences, kind: str, net: type[Net], arguments: Any, at: float
) -> None:
    folder, arguments = tmp_path / str(next(FOLDERS)), fitting(kind, net, arguments)
    names, whole = whole_run(folder, kind, net, **arguments)
    cut_at, events, path = int(at * len(names)), Events(), folder / "saved.ckpt"
    saver = SaveAndCut(path, events, cut_at)
    fit(folder / "cut", 1, net, events, between(kind), saver, **arguments)
    if path.exists():
        resumed = fit(folder / "cut", 2, net, Events(), between(kind), ckpt_path=str(path), **arguments)
        assert not list(named_differences(resumed, whole)), f"saved after {names[cut_at]}, the event number {cut_at}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_steps", [2, 5, 7])
@pytest.mark.parametrize("twice", [False, True])
def test_a_larger_limit(tmp_path: Path, named_differences: Differences, kind: str, max_steps: int, twice: bool) -> None:
    """A run that ended within an epoch, whose end the average has taken in, goes on as if it had not."""
    random.seed(1)
    whole = fit(tmp_path / "whole", 1, Net, Events(), between(kind))
    path = tmp_path / "saved.ckpt"

    class SaveAtEnd(Callback):
        position = "checkpoint"

        def on_fit_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(path)

    random.seed(1)
    fit(tmp_path / "cut", 1, Net, Events(), between(kind), SaveAtEnd(), max_steps=max_steps)
    if twice:  # with nothing left to train
        fit(tmp_path / "cut", 3, Net, Events(), between(kind), SaveAtEnd(), ckpt_path=str(path), max_steps=max_steps)
    resumed = fit(tmp_path / "cut", 2, Net, Events(), between(kind), ckpt_path=str(path))
    assert whole is not None
    assert resumed is not None
    assert not list(named_differences(resumed["end"], whole["end"]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_module_is_not_left_with_other_weights(tmp_path: Path, kind: str) -> None:
    """Wherever an exception comes, the module has the weights that were trained last."""
    names, _ = whole_run(tmp_path, kind, Net)
    for cut_at in range(0, len(names), 3):
        saver, last = OnExceptionCheckpoint(tmp_path, str(cut_at)), KeepWeights()
        last.runs_after = (type(between(kind)),)
        assert fit(tmp_path / "cut", 1, Net, Events(cut_at), between(kind), saver, last) is None
        checkpoint = torch.load(saver.ckpt_path)
        trained = checkpoint.get("current_model_state", checkpoint["state_dict"])
        for name, value in last.kept.items():
            assert torch.equal(value, trained[name]), (names[cut_at], name)


class KeepWeights(Callback):
    """Keeps the module's weights when everything is over."""

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        self.kept = {name: value.detach().clone() for name, value in pl_module.named_parameters()}
