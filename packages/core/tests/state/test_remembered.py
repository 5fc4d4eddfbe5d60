"""Remembered: whatever an object holds is put back in place, byte for byte."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset

from leyden import LightningDataModule
from leyden.errors import MisconfigurationException
from leyden.state.remembered import Remembered


class Owned:
    def __init__(self) -> None:
        self.total, self.seen = 1, [1]


class Holds(nn.Module):
    special: Tensor
    new: Any

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.layer.weight.grad = torch.ones(2, 2)
        self.tied = self.layer.weight
        self.register_buffer("special", torch.tensor([0.0, -0.0, float("nan"), float("inf")]))
        self.expanded = torch.tensor([float("nan")]).expand(3)
        self.others = [
            torch.zeros(2, dtype=torch.float8_e4m3fn), torch.tensor(1 + 2j).conj(), torch.tensor(True), torch.empty(0),
            torch.quantize_per_tensor(torch.ones(2), 0.5, 0, torch.qint8), torch.ones(2, 3).t(),
        ]  # fmt: skip
        self.short, self.whole = torch.ones(2, dtype=torch.bfloat16), torch.arange(3)
        self.list: list[Any] = [1, [2, {"a": 3}]]
        self.dict: dict[str, Any] = {"a": torch.zeros(2), "b": (torch.zeros(1), [1])}
        self.deque, self.set = deque([1, 2], maxlen=3), {1, 2}
        self.array = np.arange(3.0)
        self.torch, self.python = torch.Generator().manual_seed(1), random.Random(1)
        self.numpy, self.legacy = np.random.default_rng(1), np.random.RandomState(1)
        self.owned = Owned()
        self.itself = self.list
        self.list.append(self.list)  # a circle


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_everything_that_a_module_holds_is_put_back_in_place() -> None:
    module = Holds()
    objects = {name: id(value) for name, value in vars(module).items()}
    weight, special = module.layer.weight, module.special
    before = weight.detach().clone(), weight.grad
    drawn = (module.torch.get_state(), module.python.getstate(), repr(module.numpy.bit_generator.state))
    legacy = repr(module.legacy.get_state())
    remembered = Remembered(module)
    global_draw = torch.rand(()), random.random(), np.random.random()
    with torch.no_grad():
        weight.add_(1)
        weight.grad = None
        weight.requires_grad_(False)
        special.fill_(-0.0)
        module.short.zero_()
        module.whole += 1
        for one in module.others:
            one.copy_(torch.full_like(one.dequantize() if one.is_quantized else one, 0))
        module.dict["a"] += 1
        module.dict["b"][0].add_(1)
        module.dict["b"][1].append(2)
    module.layer = nn.Linear(3, 3)
    module.new = 1
    module.list[1][1]["a"] = 4
    module.list[:] = []
    module.dict = {}
    module.deque.extend([3, 4])
    module.set.add(3)
    module.array += 1
    module.owned.total, module.owned.new = 2, 3  # type: ignore[attr-defined]
    module.owned.seen.append(2)
    _ = torch.rand(2, generator=module.torch), module.python.random(), module.numpy.random(), module.legacy.rand()
    module.eval()
    del module.expanded

    remembered.put_back()

    assert {name: id(value) for name, value in vars(module).items()} == objects
    assert module.layer.weight is module.tied is weight
    assert torch.equal(weight, before[0])
    assert (weight.grad is before[1], weight.requires_grad) == (True, True)
    assert special.tolist().__repr__() == "[0.0, -0.0, nan, inf]"
    assert (module.short.tolist(), module.whole.tolist(), module.array.tolist()) == ([1, 1], [0, 1, 2], [0, 1, 2])
    assert [one.dequantize().tolist() if one.is_quantized else one.tolist() for one in module.others] == [
        [0, 0], 1 - 2j, True, [], [1, 1], [[1, 1], [1, 1], [1, 1]],
    ]  # fmt: skip
    assert module.list[:2] == [1, [2, {"a": 3}]]
    assert repr(module.dict) == "{'a': tensor([0., 0.]), 'b': (tensor([0.]), [1])}"
    assert (list(module.deque), module.set) == ([1, 2], {1, 2})
    assert vars(module.owned) == {"total": 1, "seen": [1]}
    assert torch.equal(module.torch.get_state(), drawn[0])
    assert (module.python.getstate(), repr(module.numpy.bit_generator.state)) == drawn[1:]
    assert repr(module.legacy.get_state()) == legacy
    assert all(one.training for one in module.modules())
    assert (torch.rand(()), random.random(), np.random.random()) == global_draw


def test_an_optimizer_and_its_scheduler_are_as_before_their_first_step() -> None:
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=torch.tensor(0.5), foreach=False)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    before = repr(optimizer.state_dict()), repr(schedule.state_dict()), sorted(vars(optimizer))
    remembered = Remembered(layer, optimizer, schedule)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        schedule.step()
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    remembered.put_back()
    assert (repr(optimizer.state_dict()), repr(schedule.state_dict()), sorted(vars(optimizer))) == before
    assert not optimizer.state
    assert layer.weight.grad is None


class Rows(Dataset[Tensor]):
    def __init__(self) -> None:
        self.rows, self.reads, self.generator = torch.zeros(4), 0, torch.Generator().manual_seed(1)
        self.lists = [[0]]

    def __getitem__(self, index: int) -> Tensor:
        self.reads += 1
        return self.rows[index]


def test_of_data_only_numbers_and_generators_are_remembered() -> None:
    class Data(LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.epoch = Rows(), 0

    data = Data()
    loader = DataLoader(data.rows, generator=torch.Generator().manual_seed(2))
    remembered = Remembered(data)
    remembered.add_data([loader])
    data.rows.reads, data.epoch = 5, 1
    data.rows.lists[0].append(1)
    data.rows.rows += 1
    _ = torch.rand(1, generator=data.rows.generator), torch.rand(1, generator=loader.generator)
    remembered.put_back()
    assert (data.rows.reads, data.epoch, data.rows.lists) == (0, 0, [[0]])
    assert data.rows.rows.tolist() == [1.0] * 4  # which a search does not write to
    for generator, seed in ((data.rows.generator, 1), (loader.generator, 2)):
        assert torch.equal(generator.get_state(), torch.Generator().manual_seed(seed).get_state())


def test_a_long_list_of_samples_is_not_looked_through() -> None:
    class Samples(Dataset[Any]):
        def __init__(self) -> None:
            self.samples = [[index] for index in range(1001)]

    samples = Samples()
    remembered = Remembered(nn.Linear(1, 1))
    remembered.add_data(samples)
    samples.samples[0].append(1)
    remembered.put_back()
    assert samples.samples[0] == [0, 1]


def test_ctrl_c_waits_until_everything_is_put_back() -> None:
    class Interrupts(random.Random):
        left = 1

        def setstate(self, state: Any) -> None:
            if self.left:
                self.left -= 1
                raise KeyboardInterrupt
            super().setstate(state)

    module: Any = nn.Linear(1, 1)
    module.first, module.generator, module.last = [1], Interrupts(3), [1]
    state = module.generator.getstate()
    remembered = Remembered(module)
    module.first.append(2)
    module.last.append(2)
    module.generator.random()
    with pytest.raises(KeyboardInterrupt):
        remembered.put_back()
    assert (module.first, module.last) == ([1], [1])
    assert module.generator.getstate() == state


def test_what_a_pruned_or_parametrized_module_computes_is_left_to_it() -> None:
    layer = nn.Linear(2, 2)
    prune.l1_unstructured(layer, "weight", 0.5)  # type: ignore[no-untyped-call]
    parametrized = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    module = nn.Sequential(layer, parametrized)
    given = torch.ones(1, 2)
    expected = module(given).detach().clone()
    remembered = Remembered(module)
    module(given).sum().backward()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    module(given)
    remembered.put_back()
    assert torch.equal(module(given), expected)
    module(given).sum().backward()


def test_metrics_forget_what_they_were_given_since() -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    metrics: Any = nn.ModuleDict({"mean": torchmetrics.MeanMetric(), "all": torchmetrics.CatMetric()})
    for metric in metrics.values():
        metric.update(torch.tensor([1.0, 3.0]))
    remembered = Remembered(metrics)
    for metric in metrics.values():
        metric.update(torch.tensor([8.0]))
        metric.compute()
    metrics["all"].reset()
    remembered.put_back()
    assert metrics["mean"].compute() == 2
    assert metrics["all"].compute().tolist() == [1.0, 3.0]
    metrics["all"].update(torch.tensor([4.0]))
    assert metrics["all"].compute().tolist() == [1.0, 3.0, 4.0]


def test_parameters_without_a_shape_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match=r"takes its shape from the first batch"):
        Remembered(nn.Sequential(nn.LazyLinear(2)))
