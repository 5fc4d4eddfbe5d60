"""Recording an ordinary trainer: the same events as those of recording subclasses, and nothing left behind."""

from __future__ import annotations

import gc
import re
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden.testing import (
    BoringModule,
    HookRecorder,
    ManualModule,
    RandomData,
    SeveralLoadersModule,
    record_hooks,
)

if TYPE_CHECKING:
    from packages.core.tests.conftest import Site


def trainer_with(*callbacks: Callback, **settings: Any) -> Trainer:
    usual: dict[str, Any] = {"max_epochs": 1, "logger": False, "accelerator": "cpu", "discover_callbacks": False}
    return Trainer(callbacks=list(callbacks), **(usual | settings))


class Counter(Callback):
    """Counts batches and keeps the count."""

    def __init__(self) -> None:
        self.batches = 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.batches += 1

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def state_dict(self) -> dict[str, Any]:
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.batches = state_dict["batches"]


def test_an_ordinary_callback_and_module_are_recorded_as_they_are() -> None:
    class Module(BoringModule):
        def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None: ...

    counter, module = Counter(), Module()
    trainer = trainer_with(counter)
    with record_hooks(trainer) as recorder:
        trainer.fit(module)
    assert recorder.events == [
        "module.on_train_batch_start(T,0) @0/0",
        "Counter.on_train_batch_end({loss},T,0) @0/1",
        "module.on_train_batch_start(T,1) @0/1",
        "Counter.on_train_batch_end({loss},T,1) @0/2",
        "Counter.on_train_epoch_end() @0/2",
    ]
    assert (counter.batches, type(counter), type(module)) == (2, Counter, Module)


class Failing(BoringModule):
    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            raise KeyError("x")


class Skipping(BoringModule):
    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> int | None:
        return -1 if batch_idx == 1 else None


class Longer(BoringModule):
    def __init__(self) -> None:
        super().__init__(batches={"train": 7, "val": 2})


RUNS: list[tuple[str, str, type[LightningModule], dict[str, Any]]] = [
    ("two_epochs", "fit", BoringModule, {"max_epochs": 2}),
    ("validate", "validate", BoringModule, {}),
    ("test", "test", BoringModule, {}),
    ("predict", "predict", BoringModule, {}),
    ("accumulation", "fit", Longer, {"accumulate_grad_batches": 3}),
    ("clipping", "fit", BoringModule, {"gradient_clip_val": 0.1}),
    ("several_loaders", "fit", SeveralLoadersModule, {}),
    ("several_loaders_predict", "predict", SeveralLoadersModule, {}),
    ("manual", "fit", ManualModule, {}),
    ("fast_dev_run", "fit", BoringModule, {"fast_dev_run": True}),
    ("validation_within", "fit", Longer, {"val_check_interval": 2}),
    ("profiled", "fit", BoringModule, {"profiler": "simple"}),
    ("raises", "fit", Failing, {}),
    ("skips", "fit", Skipping, {}),
]


@pytest.mark.parametrize(("entry_point", "kind", "settings"), [run[1:] for run in RUNS], ids=[run[0] for run in RUNS])
def test_it_records_what_recording_subclasses_do(entry_point: str, kind: Any, settings: dict[str, Any]) -> None:
    subclassing = HookRecorder()
    trainer = trainer_with(subclassing.callback("cb"), subclassing.callback("b", Counter), **settings)
    module = subclassing.module(kind)
    with record_hooks(trainer) as recorder:
        recorder.ended(trainer, lambda: getattr(trainer, entry_point)(module))
    assert recorder.events[:-2] == subclassing.events
    assert len(subclassing.events) > 10
    assert recorder.events[-2] == ("raised KeyError" if kind is Failing else "returned")


def test_a_resumed_run(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 1:
                trainer.save_checkpoint(tmp_path / "mid.ckpt")

    trainer = trainer_with(Counter(), Save())
    with record_hooks(trainer, callbacks="Counter") as recorder:
        trainer.fit(BoringModule())
    saved = ["Counter.on_train_batch_end({loss},T,0) @0/1", "Counter.state_dict() @0/1"]
    rest = ["Counter.on_train_batch_end({loss},T,1) @0/2", "Counter.on_train_epoch_end() @0/2"]
    assert recorder.events == saved + rest

    resumed = trainer_with(counter := Counter())
    with record_hooks(resumed) as recorder:
        resumed.fit(BoringModule(), ckpt_path=tmp_path / "mid.ckpt")
    assert recorder.events == ["Counter.load_state_dict({batches}) @0/0", *rest]
    assert counter.batches == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_older_generations(tmp_path: Path) -> None:
    class Older(Callback):
        def on_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

        def on_train_batch_end(  # type: ignore[override]
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, unused: int
        ) -> None: ...

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any) -> None:  # type: ignore[override]
            self.losses = len(outputs[0])

        def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any) -> Any:
            return {"kept": 1}

        def on_load_checkpoint(self, callback_state: Any) -> None:  # type: ignore[override]
            self.restored = callback_state

    trainer, data = trainer_with(older := Older(), limit_val_batches=0), RandomData()
    with record_hooks(trainer) as recorder:
        trainer.fit(BoringModule(), datamodule=data)
        trainer.save_checkpoint(tmp_path / "end.ckpt")
        trainer.fit(BoringModule(), datamodule=data, ckpt_path=tmp_path / "end.ckpt")
    shown = [re.sub("{format_version.*}", "{whole}", event) for event in recorder.events]
    assert shown == [
        "Older.on_epoch_start() @0/0",
        "Older.on_train_batch_end({loss},T,0) @0/1",
        "Older.on_train_batch_end({loss},T,1) @0/2",
        "Older.on_train_epoch_end() @0/2",
        "Older.on_save_checkpoint({whole}) @1/2",
        "Older.on_load_checkpoint({kept}) @1/2",
    ]
    assert (older.losses, older.restored) == (2, {"kept": 1})


class Quiet(Callback):
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None: ...

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...


class Quieter(Quiet):
    pass


class Module(BoringModule):
    def on_fit_start(self) -> None: ...


def test_what_is_recorded_can_be_chosen() -> None:
    one, mine = Quiet(), Quieter()
    mine.name = "mine"
    everything = [
        "Quiet.on_fit_start",
        "mine.on_fit_start",
        "module.on_fit_start",
        "Quiet.on_fit_end",
        "mine.on_fit_end",
    ]
    choices: list[tuple[dict[str, Any], list[str]]] = [
        ({}, everything),
        ({"module": False}, [event for event in everything if "module" not in event]),
        ({"hooks": "on_fit_start"}, everything[:3]),
        ({"hooks": ["on_fit_end", "on_epoch_end"]}, everything[3:]),
        ({"callbacks": one, "module": False}, ["Quiet.on_fit_start", "Quiet.on_fit_end"]),
        ({"callbacks": [Quieter]}, [event for event in everything if "Quiet" not in event]),
        ({"callbacks": Quiet}, everything),
        ({"callbacks": "mine", "hooks": "on_fit_end"}, ["mine.on_fit_end"]),
        ({"callbacks": Quiet, "hooks": "on_train_start"}, []),
        ({"callbacks": []}, ["module.on_fit_start"]),
    ]
    for options, expected in choices:
        trainer = trainer_with(one, mine, fast_dev_run=True)
        with record_hooks(trainer, arguments=False, progress=False, **options) as recorder:
            trainer.fit(Module())
        assert recorder.events == expected, options


def test_arguments_and_progress_are_recorded_each_on_their_own() -> None:
    choices: list[tuple[dict[str, Any], str]] = [
        ({}, "Counter.on_train_batch_end({loss},T,0) @0/1"),
        ({"arguments": False}, "Counter.on_train_batch_end @0/1"),
        ({"progress": False}, "Counter.on_train_batch_end({loss},T,0)"),
        ({"arguments": False, "progress": False}, "Counter.on_train_batch_end"),
    ]
    for options, expected in choices:
        trainer = trainer_with(Counter(), fast_dev_run=True)
        with record_hooks(trainer, hooks="on_train_batch_end", **options) as recorder:
            trainer.fit(BoringModule())
        assert recorder.events == [expected]


def test_callbacks_of_one_class_are_numbered_and_those_that_come_later_are_recorded_too() -> None:
    class Brings(BoringModule):
        def configure_callbacks(self) -> Any:
            return [Quieter()]

    class Adds(Callback):
        def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
            trainer.callbacks.append(Quiet())

    trainer = trainer_with(Quiet(), Quiet(), Adds())
    with record_hooks(trainer, arguments=False, progress=False) as recorder:
        trainer.fit(Brings())
    starts = ["Quiet.on_fit_start", "Quiet-2.on_fit_start", "Quiet-3.on_fit_start", "Quieter.on_fit_start"]
    ends = [start.replace("start", "end") for start in starts]
    assert recorder.events == ["Adds.setup", *starts, *ends]


def test_steps_are_recorded_of_a_module_of_the_recorder_and_nothing_twice() -> None:
    trainer = trainer_with(Quiet(), fast_dev_run=True)
    recorder = record_hooks(trainer, callbacks=Quiet)
    trainer.fit(recorder.module(Module, also=["training_step"]))
    recorder.stop()
    shown = [event for event in recorder.events if "fit" in event or "step" in event]
    assert shown == [
        "module.setup('fit') @0/0",
        "Quiet.on_fit_start() @0/0",
        "module.on_fit_start() @0/0",
        "module.training_step(T,0) @0/0",
        "module.on_before_optimizer_step(opt) @0/0",
        "Quiet.on_fit_end() @1/1",
        "module.on_fit_end() @1/1",
        "module.teardown('fit') @1/1",
    ]


def test_two_recorders_and_one_that_is_stopped_twice() -> None:
    trainer = trainer_with(Quiet(), fast_dev_run=True)
    outer = record_hooks(trainer, progress=False)
    with record_hooks(trainer, hooks="on_fit_end") as inner:
        trainer.fit(BoringModule())
        inner.stop()
        trainer.fit(BoringModule())
    outer.stop()
    trainer.fit(BoringModule())
    assert inner.events == ["Quiet.on_fit_end() @1/1"]
    assert outer.events == ["Quiet.on_fit_start()", "Quiet.on_fit_end()"] * 2


def test_it_leaves_nothing_behind() -> None:
    trainer, module = trainer_with(Counter(), Quiet(), fast_dev_run=True), Module()
    trainer.fit(module)

    def plan() -> dict[str, list[Any]]:
        hooks = ("on_fit_start", "on_fit_end", "on_train_batch_end", "on_train_epoch_end", "state_dict")
        calls = {hook: trainer.plan._calls[hook] for hook in hooks}
        return {hook: [getattr(call, "func", call) for _, call in made] for hook, made in calls.items()}

    before, of_trainer, of_module = plan(), set(vars(trainer)), set(vars(module))
    with record_hooks(trainer) as recorder:
        trainer.fit(module)
        assert plan() != before
    assert (plan(), set(vars(trainer)), set(vars(module))) == (before, of_trainer, of_module)
    kept = weakref.ref(recorder)
    del recorder
    gc.collect()
    assert kept() is None


def test_a_block_that_raises_ends_the_recording_too() -> None:
    trainer = trainer_with(Quiet(), fast_dev_run=True)
    with pytest.raises(KeyError), record_hooks(trainer) as recorder:
        trainer.fit(Failing())
    trainer.fit(BoringModule())
    assert len(recorder.events) == 1


def test_what_is_tried_aside_is_not_recorded() -> None:
    trainer = trainer_with(Quiet(), fast_dev_run=True)
    with record_hooks(trainer) as recorder:
        trainer.fit(BoringModule())
        trainer.aside([Quiet()]).fit(BoringModule())
    assert recorder.events == ["Quiet.on_fit_start() @0/0", "Quiet.on_fit_end() @1/1"]


class Breaks(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        raise ValueError("broken")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None: ...


def make_callbacks() -> list[Callback]:
    return [Breaks()]


def test_what_the_environment_attached_stays_guarded(site: Site) -> None:
    site.add("acme", f"from {__name__} import make_callbacks", "acme = acme:make_callbacks", version="1.2")
    trainer = trainer_with(Quiet(), discover_callbacks=True)
    with record_hooks(trainer) as recorder, pytest.warns(UserWarning, match="switched off"):
        trainer.fit(BoringModule())
    assert [(one.callback, one.hook) for one in trainer.discovered.switched_off] == [("Breaks", "on_train_batch_start")]
    assert recorder.events == [
        "Quiet.on_fit_start() @0/0",
        "Breaks.on_train_batch_start(T,0) @0/0",
        "Quiet.on_fit_end() @1/2",
    ]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("Quite", "record_hooks(callbacks=['Quite']): the trainer had no such callback. Did you mean 'Quiet'?"),
        ([Quiet, Counter], "Counter'>]): the trainer had no such callback. It had: Quiet."),
        (Counter(), "the trainer had no such callback. It had: Quiet."),
    ],
)
def test_a_callback_that_the_trainer_never_had_is_an_error_at_the_end(chosen: Any, message: str) -> None:
    trainer = trainer_with(Quiet(), fast_dev_run=True)
    recorder = record_hooks(trainer, callbacks=chosen)
    trainer.fit(BoringModule())
    with pytest.raises(MisconfigurationException) as caught:
        recorder.stop()
    assert message in str(caught.value)
    recorder.stop()
    with pytest.raises(ZeroDivisionError), record_hooks(trainer, callbacks=chosen):
        _ = 1 / 0


def test_what_is_no_callback_is_an_error() -> None:
    with pytest.raises(MisconfigurationException, match=r"callbacks=\[3\]\): expected callbacks, classes of them"):
        record_hooks(trainer_with(), callbacks=3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("hooks", "message"),
    [
        ("on_fit_strat", "is no hook of callbacks. Did you mean 'on_fit_start'"),
        (["training_step"], "Only the module has it: train recorder.module"),
    ],
)
def test_a_name_that_is_no_hook_is_an_error(hooks: Any, message: str) -> None:
    trainer = trainer_with()
    with pytest.raises(MisconfigurationException) as caught:
        record_hooks(trainer, hooks=hooks)
    assert message in str(caught.value)
