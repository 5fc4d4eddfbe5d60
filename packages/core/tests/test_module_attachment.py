"""What a module knows with and without its trainer."""

from __future__ import annotations

import copy
import inspect
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from leyden import LightningModule, MisconfigurationException, Trainer
from leyden.testing.models import BoringModule


class Layers(LightningModule):
    def __init__(self) -> None:
        self.layer = nn.Linear(2, 2)


class Parameters(LightningModule):
    def __init__(self) -> None:
        self.weight = nn.Parameter(torch.zeros(1))


class Buffers(LightningModule):
    def __init__(self) -> None:
        self.register_buffer("mean", torch.zeros(1))


class Later(LightningModule):
    def __init__(self) -> None:
        self.width = 3


@pytest.mark.parametrize("cls", [Layers, Parameters, Buffers, lambda: list(Later().parameters())])
def test_a_forgotten_super_init_is_named(cls: Any) -> None:
    owner = getattr(cls, "__qualname__", "") if inspect.isclass(cls) else "Later"
    with pytest.raises(MisconfigurationException, match=rf"Call super\(\).__init__\(\) first in {owner}.__init__"):
        cls()


def test_plain_attributes_may_come_before_super_init() -> None:
    class Early(LightningModule):
        def __init__(self, width: int) -> None:
            self.width = width
            self.start = torch.zeros(2)
            super().__init__()
            self.layer = nn.Linear(self.width, 1)

    assert Early(3).layer.in_features == 3
    assert list(inspect.signature(Early).parameters) == ["width"]


def test_other_bases_get_their_arguments() -> None:
    class Tagged:
        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            instance = super().__new__(cls)
            instance.__dict__["tag"] = (args, kwargs)
            return instance

    class Model(LightningModule, Tagged):
        def __init__(self, width: int, *, name: str) -> None:
            super().__init__()

    assert Model(3, name="a").__dict__["tag"] == ((3,), {"name": "a"})


def test_without_a_trainer_everything_has_an_answer_but_the_trainer() -> None:
    module = BoringModule()
    assert (module.current_epoch, module.global_step, module.global_rank, module.local_rank) == (0, 0, 0, 0)
    assert (module.logger, module.loggers, module.on_gpu) == (None, [], False)
    with pytest.raises(RuntimeError, match="BoringModule is not attached to a Trainer"):
        _ = module.trainer


def test_with_a_trainer_the_answers_are_its_own() -> None:
    seen: list[Any] = []

    class Curious(BoringModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            seen.append((self.trainer, self.current_epoch, self.global_step, self.global_rank, self.local_rank))
            return super().training_step(batch, batch_idx)

    trainer = Trainer(max_epochs=2, discover_callbacks=False)
    module = Curious()
    trainer.fit(module)
    assert seen == [(trainer, 0, 0, 0, 0), (trainer, 0, 1, 0, 0), (trainer, 1, 2, 0, 0), (trainer, 1, 3, 0, 0)]
    assert module.loggers == trainer.loggers
    assert module.logger is trainer.logger


def test_modules_inside_are_attached_and_detached_with_the_outer_one() -> None:
    outer = BoringModule()
    outer.inner = nn.Sequential(BoringModule())
    trainer = Trainer(logger=False, discover_callbacks=False)
    outer.trainer = trainer
    inner: Any = outer.inner[0]
    assert inner.trainer is trainer
    outer.trainer = None
    assert inner._trainer is None


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module)), copy.copy])
def test_a_copy_has_no_trainer_and_the_original_keeps_its_own(clone: Any) -> None:
    module = BoringModule()
    module.trainer = trainer = Trainer(logger=False, discover_callbacks=False)
    copied = clone(module)
    assert copied._trainer is None
    assert module.trainer is trainer
    batch = torch.randn(3, 4)
    assert torch.equal(copied(batch), module(batch))


def test_a_trained_module_can_be_copied_and_pickled() -> None:
    module = BoringModule()
    Trainer(max_epochs=1, discover_callbacks=False).fit(module)
    for copied in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert copied._trainer is None
        assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), module.parameters(), strict=True))


def test_the_trainer_is_no_part_of_the_model() -> None:
    module = BoringModule()
    names = set(module.state_dict()), len(list(module.modules()))
    module.trainer = Trainer(logger=False, discover_callbacks=False)
    assert (set(module.state_dict()), len(list(module.modules()))) == names


def test_device_and_dtype_are_those_of_the_first_parameter_or_buffer() -> None:
    class Model(LightningModule):
        pass

    empty, buffered, mixed = Model(), Model(), Model()
    buffered.register_buffer("count", torch.zeros(1, dtype=torch.int64, device="meta"))
    mixed.register_buffer("mean", torch.zeros(1, device="meta"))
    mixed.add_module("absent", None)
    mixed.register_parameter("nothing", None)
    mixed.net = nn.Sequential(nn.Identity(), nn.Linear(1, 1, dtype=torch.float64))
    assert (empty.device, empty.dtype) == (torch.device("cpu"), torch.float32)
    assert (buffered.device, buffered.dtype) == (torch.device("meta"), torch.float32)
    assert (mixed.device, mixed.dtype) == (torch.device("cpu"), torch.float64)
    assert mixed.half().dtype == torch.float16


def test_an_empty_module_is_where_its_trainer_is() -> None:
    class Model(LightningModule):
        pass

    module = Model()
    module.trainer = Trainer(logger=False, accelerator="cpu", discover_callbacks=False)
    module.trainer.strategy.root_device = torch.device("meta")
    assert module.device == torch.device("meta")


def test_layers_in_torchscript_have_a_device_too() -> None:
    class Model(LightningModule):
        pass

    module = Model()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch.jit", DeprecationWarning)
        module.net = torch.jit.script(nn.Linear(2, 2, dtype=torch.float64))
    assert (module.device, module.dtype) == (torch.device("cpu"), torch.float64)
