"""Callbacks in the style of each older generation, run by a real Trainer.

Each is called once where its hook stood then, with the arguments it got then, and `Trainer(...)` says what replaces it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden import Trainer
from leyden.callback import Callback
from leyden.testing import BoringModule, HookRecorder


class Run:
    """One trainer with a callback in an older style, and a recorder that is the second callback."""

    def __init__(self, older: Any, replacement: str, *, module: BoringModule | None = None, **arguments: Any) -> None:
        self.recorder = HookRecorder()
        self.events = self.recorder.events
        self.module = module if module is not None else self.recorder.module(BoringModule)
        older.events = self.events
        with pytest.warns(DeprecationWarning, match=f"use .*{replacement}") as caught:
            self.trainer = trainer_with([older, self.recorder.callback("cb")], **arguments)
        assert {warning.filename for warning in caught} == {__file__}

    def of(self, *words: str) -> list[str]:
        """The events in whose hook one of the words stands, without their time."""
        return [event.split(" @")[0] for event in self.events if any(word in event for word in words)]


def trainer_with(callbacks: Sequence[Callback], **arguments: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
    } | arguments
    return Trainer(callbacks=list(callbacks), discover_callbacks=False, enable_progress_bar=False, **settings)


AnyCallback: Any = Callback  # the older signatures contradict today's, which is the point


class Older(AnyCallback):  # type: ignore[misc]
    events: list[str]

    def wrote(self, name: str, *facts: object) -> None:
        self.events.append(f"old.{name}({','.join(map(str, facts))})")


def is_run(trainer: object, pl_module: object) -> bool:
    return isinstance(trainer, Trainer) and isinstance(pl_module, BoringModule)


# -- whole hooks of 1.9 and before -----------------------------------------------------------------------------------


class InitHooks(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[str, bool, bool]] = []

    def on_init_start(self, trainer: Trainer) -> None:
        self.seen.append(("start", isinstance(trainer, Trainer), hasattr(trainer, "_attached")))

    def on_init_end(self, trainer: Trainer) -> None:
        self.seen.append(("end", isinstance(trainer, Trainer), trainer.callbacks == [self]))


def test_on_init_start_and_end() -> None:
    callback = InitHooks()
    with pytest.warns(DeprecationWarning, match=r"InitHooks\.on_init_\w+ is a hook of 1\.9 and before; use setup"):
        trainer = trainer_with([callback])
    trainer.fit(BoringModule())
    assert callback.seen == [("start", True, False), ("end", True, True)]


class SetupHooks(Older):
    def on_before_accelerator_backend_setup(self, trainer: Any, pl_module: Any) -> None:
        self.wrote("on_before_accelerator_backend_setup", is_run(trainer, pl_module))

    def on_configure_sharded_model(self, trainer: Any, pl_module: Any) -> None:
        self.wrote("on_configure_sharded_model", is_run(trainer, pl_module))

    def on_pretrain_routine_start(self, trainer: Any, pl_module: Any) -> None:
        self.wrote("on_pretrain_routine_start", is_run(trainer, pl_module))

    def on_pretrain_routine_end(self, trainer: Any, pl_module: Any) -> None:
        self.wrote("on_pretrain_routine_end", is_run(trainer, pl_module))


def test_hooks_around_setup() -> None:
    run = Run(SetupHooks(), "(setup|on_fit_start) instead")
    run.trainer.fit(run.module)
    assert [event.split(" @")[0] for event in run.events[:11]] == [
        "old.on_before_accelerator_backend_setup(True)",
        "cb.setup('fit')",
        "module.setup('fit')",
        "old.on_configure_sharded_model(True)",
        "cb.on_fit_start()",
        "module.on_fit_start()",
        "old.on_pretrain_routine_start(True)",
        "old.on_pretrain_routine_end(True)",
        "cb.on_sanity_check_start()",
        "cb.on_validation_start()",
        "module.on_validation_start()",
    ]
    assert len(run.of("old.")) == 4


@pytest.mark.parametrize("entry_point", ["validate", "test", "predict"])
def test_hooks_around_setup_outside_fit(entry_point: str) -> None:
    run = Run(SetupHooks(), "(setup|on_fit_start) instead")
    getattr(run.trainer, entry_point)(run.module)
    assert run.of("old.", "setup") == [
        "old.on_before_accelerator_backend_setup(True)",
        f"cb.setup('{entry_point}')",
        f"module.setup('{entry_point}')",
        "old.on_configure_sharded_model(True)",
    ]


def test_weights_are_restored_before_on_configure_sharded_model(tmp_path: Path) -> None:
    source = BoringModule()
    with torch.no_grad():
        source.layer.bias.fill_(7.0)
    saver = trainer_with([])
    saver.fit(source)
    saver.save_checkpoint(tmp_path / "a.ckpt")
    biases: list[bool] = []

    class Sees(Callback):
        def on_configure_sharded_model(self, trainer: Any, pl_module: Any) -> None:
            biases.append(torch.equal(pl_module.layer.bias, source.layer.bias))

    with pytest.warns(DeprecationWarning, match="use setup instead"):
        trainer = trainer_with([Sees()], max_epochs=2)
    trainer.fit(BoringModule(), ckpt_path=tmp_path / "a.ckpt")
    assert biases == [True]


class EpochHooks(Older):
    def on_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.wrote("on_epoch_start", is_run(trainer, pl_module))

    def on_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.wrote("on_epoch_end", is_run(trainer, pl_module))


def around(stage: str, between: Sequence[str] = ()) -> list[str]:
    return [
        "old.on_epoch_start(True)",
        f"cb.on_{stage}_epoch_start()",
        f"module.on_{stage}_epoch_start()",
        *between,
        f"cb.on_{stage}_epoch_end()",
        f"module.on_{stage}_epoch_end()",
        "old.on_epoch_end(True)",
    ]


def test_on_epoch_start_and_end_in_fit() -> None:
    run = Run(EpochHooks(), r"on_train_epoch_\w+, on_validation_epoch_\w+ or on_test_epoch_\w+ instead")
    run.trainer.fit(run.module)
    assert run.of("epoch") == [*around("validation"), *around("train", around("validation"))]


@pytest.mark.parametrize(("entry_point", "stage"), [("validate", "validation"), ("test", "test")])
def test_on_epoch_start_and_end_in_evaluation(entry_point: str, stage: str) -> None:
    run = Run(EpochHooks(), "on_test_epoch_")
    getattr(run.trainer, entry_point)(run.module)
    assert run.of("epoch") == around(stage)


def test_on_epoch_start_and_end_are_not_called_in_prediction() -> None:
    run = Run(EpochHooks(), "on_test_epoch_")
    run.trainer.predict(run.module)
    assert run.of("old.") == []


def test_on_epoch_start_and_end_of_the_module() -> None:
    events: list[str] = []

    class Net(BoringModule):
        def on_epoch_start(self) -> None:
            events.append(f"epoch {self.current_epoch} starts")
            self.log("from_start", 1.0)

        def on_train_epoch_start(self) -> None:
            events.append("train epoch starts")

        def on_train_epoch_end(self) -> None:
            events.append("train epoch ends")

        def on_epoch_end(self) -> None:
            events.append("epoch ends")
            self.log("from_end", 2.0)

    trainer = trainer_with([], num_sanity_val_steps=0, limit_val_batches=0)
    with pytest.warns(DeprecationWarning, match=r"Net\.on_epoch_\w+ is a hook of 1\.7 and before; use on_train_epoch"):
        trainer.fit(Net())
    assert events == ["epoch 0 starts", "train epoch starts", "train epoch ends", "epoch ends"]
    assert {name: trainer.callback_metrics[name].item() for name in ("from_start", "from_end")} == {
        "from_start": 1.0,
        "from_end": 2.0,
    }


class BatchHooks(Older):
    def on_batch_start(self, trainer: Any, pl_module: Any) -> None:
        self.wrote("on_batch_start", is_run(trainer, pl_module))

    def on_batch_end(self, trainer: Any, pl_module: Any) -> None:
        self.wrote("on_batch_end", is_run(trainer, pl_module))


def test_on_batch_start_and_end() -> None:
    run = Run(BatchHooks(), r"on_train_batch_\w+ instead", limit_train_batches=1, limit_val_batches=0)
    run.trainer.fit(run.module)
    assert run.of("batch") == [
        "old.on_batch_start(True)",
        "cb.on_train_batch_start(T,0)",
        "module.on_train_batch_start(T,0)",
        "cb.on_train_batch_end({loss},T,0)",
        "module.on_train_batch_end({loss},T,0)",
        "old.on_batch_end(True)",
    ]


def test_on_batch_start_and_end_are_for_training_batches_alone() -> None:
    run = Run(BatchHooks(), r"on_train_batch_\w+ instead")
    run.trainer.validate(run.module)
    assert run.of("old.") == []


class Interrupted(Older):
    def on_keyboard_interrupt(self, trainer: Any, pl_module: Any) -> None:
        self.wrote("on_keyboard_interrupt", is_run(trainer, pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any) -> None:
        raise KeyboardInterrupt


def test_on_keyboard_interrupt() -> None:
    run = Run(Interrupted(), "on_exception instead")
    with pytest.raises(KeyboardInterrupt):
        run.trainer.fit(run.module)
    assert [event.split(" @")[0] for event in run.events[-4:]] == [
        "old.on_keyboard_interrupt(True)",
        "cb.on_exception(KeyboardInterrupt)",
        "cb.teardown('fit')",
        "module.teardown('fit')",
    ]


def test_on_keyboard_interrupt_is_for_nothing_else() -> None:
    class Stops(Interrupted):
        def on_train_batch_end(self, trainer: Any, pl_module: Any) -> None:
            raise ValueError("not the keyboard")

    run = Run(Stops(), "on_exception instead")
    with pytest.raises(ValueError, match="not the keyboard"):
        run.trainer.fit(run.module)
    assert run.of("old.") == []


# -- older signatures ------------------------------------------------------------------------------------------------


class LoaderIndex(Older):
    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        shape = tuple(batch.shape)
        self.wrote("on_train_batch_start", is_run(trainer, pl_module), shape, batch_idx, dataloader_idx)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, unused: int
    ) -> None:
        self.wrote("on_train_batch_end", is_run(trainer, pl_module), *outputs, tuple(batch.shape), batch_idx, unused)


def test_train_batch_hooks_with_the_index_of_the_loader() -> None:
    run = Run(LoaderIndex(), r"on_train_batch_\w+ without dataloader_idx", limit_val_batches=0)
    run.trainer.fit(run.module)
    assert run.of("train_batch") == [
        event
        for i in (0, 1)
        for event in (
            f"old.on_train_batch_start(True,(2, 4),{i},0)",
            f"cb.on_train_batch_start(T,{i})",
            f"module.on_train_batch_start(T,{i})",
            f"old.on_train_batch_end(True,loss,(2, 4),{i},0)",
            f"cb.on_train_batch_end({{loss}},T,{i})",
            f"module.on_train_batch_end({{loss}},T,{i})",
        )
    ]


class EpochOutputs(Older):
    def on_train_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
        losses = [[round(step["loss"].item(), 6) for step in optimizer] for optimizer in outputs]
        self.wrote("on_train_epoch_end", is_run(trainer, pl_module), losses)

    def on_train_batch_end(self, outputs: Any) -> None:
        self.events.append(f"loss {round(outputs['loss'].item(), 6)}")


def test_on_train_epoch_end_with_outputs_of_each_epoch() -> None:
    run = Run(EpochOutputs(), "on_train_epoch_end without outputs", max_epochs=2, limit_val_batches=0)
    run.trainer.fit(run.module)
    seen = run.of("loss ", "train_epoch_end")
    losses = [float(event.split()[1]) for event in seen if event.startswith("loss")]
    assert len(set(losses)) == 4
    epochs = [losses[:2], losses[2:]]
    assert [event for event in seen if not event.startswith("loss")] == [
        event
        for epoch in epochs
        for event in (
            f"old.on_train_epoch_end(True,{[epoch]})",
            "cb.on_train_epoch_end()",
            "module.on_train_epoch_end()",
        )
    ]


class PredictOutputs(Older):
    def on_predict_epoch_end(self, trainer: Any, pl_module: Any, outputs: Any) -> None:
        self.wrote(
            "on_predict_epoch_end", is_run(trainer, pl_module), [[tuple(p.shape) for p in one] for one in outputs]
        )


@pytest.mark.parametrize("return_predictions", [True, False])
def test_on_predict_epoch_end_with_the_predictions_of_each_loader(return_predictions: bool) -> None:
    run = Run(PredictOutputs(), "on_predict_epoch_end without outputs")
    predicted = run.trainer.predict(run.module, return_predictions=return_predictions)
    assert (predicted is not None) == return_predictions
    assert run.of("predict_epoch_end") == [
        "old.on_predict_epoch_end(True,[[(2, 2), (2, 2)]])",
        "cb.on_predict_epoch_end()",
        "module.on_predict_epoch_end()",
    ]


class OptimizerIndex(Older):
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any, opt_idx: int) -> None:
        is_it = optimizer is trainer.optimizers[opt_idx]
        self.wrote("on_before_optimizer_step", is_run(trainer, pl_module), is_it, opt_idx)


class TwoOptimizers(BoringModule):
    def __init__(self) -> None:
        super().__init__(batches={"train": 1})
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD([parameter], lr=0.1) for parameter in self.parameters()]


def test_on_before_optimizer_step_with_the_index_of_the_optimizer() -> None:
    run = Run(OptimizerIndex(), "on_before_optimizer_step without opt_idx", limit_val_batches=0)
    run.trainer.fit(run.module)
    expected = ["old.on_before_optimizer_step(True,True,0)", "cb.on_before_optimizer_step(opt)"]
    assert run.of("before_optimizer_step") == [*expected, "module.on_before_optimizer_step(opt)"] * 2


def test_the_index_of_each_of_several_optimizers() -> None:
    run = Run(OptimizerIndex(), "on_before_optimizer_step", module=TwoOptimizers(), limit_val_batches=0)
    run.trainer.fit(run.module)
    assert run.of("old.") == [
        "old.on_before_optimizer_step(True,True,0)",
        "old.on_before_optimizer_step(True,True,1)",
    ]


class StateOf10(Older):
    def on_save_checkpoint(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        self.wrote("on_save_checkpoint", is_run(trainer, pl_module))
        return {"best": 3}

    def on_load_checkpoint(self, checkpointed_state: Any) -> None:
        self.wrote("on_load_checkpoint", checkpointed_state)


class StateOf12(Older):
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> Any:
        self.wrote("on_save_checkpoint", is_run(trainer, pl_module), "optimizer_states" in checkpoint)
        return {"best": 3}

    def on_load_checkpoint(self, checkpointed_state: Any) -> None:
        self.wrote("on_load_checkpoint", checkpointed_state)


class StateOf13(Older):
    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> Any:
        self.wrote("on_save_checkpoint", is_run(trainer, pl_module), "optimizer_states" in checkpoint)
        return {"best": 3}

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, callback_state: Any) -> None:
        self.wrote("on_load_checkpoint", is_run(trainer, pl_module), callback_state)


@pytest.mark.parametrize(
    ("make", "saved", "loaded"),
    [
        (StateOf10, "old.on_save_checkpoint(True)", "old.on_load_checkpoint({'best': 3})"),
        (StateOf12, "old.on_save_checkpoint(True,True)", "old.on_load_checkpoint({'best': 3})"),
        (StateOf13, "old.on_save_checkpoint(True,True)", "old.on_load_checkpoint(True,{'best': 3})"),
    ],
)
def test_state_through_the_checkpoint_hooks(tmp_path: Path, make: Callable[[], Older], saved: str, loaded: str) -> None:
    path = tmp_path / "a.ckpt"
    first = Run(make(), "(state_dict|load_state_dict) instead")
    first.trainer.fit(first.module)
    first.trainer.save_checkpoint(path)
    assert first.of("save_checkpoint") == [
        saved,
        "cb.on_save_checkpoint({" + ",".join(torch.load(path, weights_only=True)) + "})",
        first.of("module.on_save_checkpoint")[0],
    ]
    assert torch.load(path, weights_only=True)["callbacks"] == {type(make()).__qualname__: {"best": 3}}
    second = Run(make(), "(state_dict|load_state_dict) instead", max_epochs=2)
    second.trainer.fit(second.module, ckpt_path=path)
    assert second.of("old.") == [loaded]
    assert second.of("setup", "old.", "on_fit_start")[2:4] == [loaded, "cb.on_fit_start()"]


def test_older_state_hooks_are_not_called_without_a_state(tmp_path: Path) -> None:
    saver = trainer_with([])
    saver.fit(BoringModule())
    saver.save_checkpoint(tmp_path / "a.ckpt")
    run = Run(StateOf13(), "load_state_dict instead", max_epochs=2)
    run.trainer.fit(run.module, ckpt_path=tmp_path / "a.ckpt")
    assert run.of("old.") == []


class StageByKeyword(Older):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str | None = None) -> None:
        self.seen.append(("setup", stage))

    def teardown(self, trainer: Any, pl_module: Any, *, stage: str | None = None) -> None:
        self.seen.append(("teardown", stage))


@pytest.mark.parametrize("entry_point", ["fit", "validate", "test", "predict"])
def test_the_stage_may_be_a_keyword_and_is_no_reason_to_warn(entry_point: str) -> None:
    callback = StageByKeyword()
    getattr(trainer_with([callback]), entry_point)(BoringModule())
    assert callback.seen == [("setup", entry_point), ("teardown", entry_point)]
