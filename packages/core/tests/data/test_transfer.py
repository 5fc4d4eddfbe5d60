"""Batches of every shape on their way to a device."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from leyden.data import compile_transfer, move_to_device
from leyden.data.transfer import map_tensors
from leyden.datamodule import LightningDataModule
from leyden.errors import MisconfigurationException
from leyden.module import LightningModule

META = torch.device("meta")
CPU = torch.device("cpu")


def ones() -> Tensor:
    return torch.ones(2)


class Pair(NamedTuple):
    left: Tensor
    right: object


Untyped = namedtuple("Untyped", ["x"])


@dataclass
class Sample:
    x: Tensor
    name: str = "a"
    later: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.later = ones()


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Tensor
    inner: list[Tensor]


class Remembers(list[Any]):
    source = "nowhere"


class Movable:
    def __init__(self) -> None:
        self.device = CPU

    def to(self, device: torch.device) -> Movable:
        moved = Movable()
        moved.device = device
        return moved


class MovesInPlace(Movable):
    def to(self, device: torch.device) -> Movable:
        self.device = device
        return cast(Movable, None)


class Encoding(UserDict[str, Tensor]):
    def to(self, device: torch.device) -> Encoding:
        return Encoding({key: value.to(device) for key, value in self.items()})


class Fixed(Mapping[str, Tensor]):
    """Neither mutable nor made from its items."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.items_ = {"x": x, "y": y}

    def __getitem__(self, key: str) -> Tensor:
        return self.items_[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_)

    def __len__(self) -> int:
        return 2


def test_containers_keep_their_type() -> None:
    batch = {
        "list": [ones(), "text", 3, None, 2.5, b"bytes"],
        "tuple": (ones(), (ones(),)),
        "ordered": OrderedDict(b=ones(), a=ones()),
        "default": defaultdict(ones, x=ones()),
        "pair": Pair(ones(), {"y": ones()}),
        "untyped": Untyped(ones()),
        "user": UserDict(x=ones()),
        "view": MappingProxyType({"x": ones()}),
    }
    moved = move_to_device(batch, META)
    assert moved["list"][0].device == moved["tuple"][1][0].device == META
    assert moved["list"][1:] == ["text", 3, None, 2.5, b"bytes"]
    assert list(moved["ordered"]) == ["b", "a"]
    assert {key: type(value) for key, value in moved.items()} == {key: type(value) for key, value in batch.items()}
    assert moved["default"].default_factory is ones
    assert moved["pair"].right["y"].device == moved["untyped"].x.device == META
    assert moved["user"]["x"].device == moved["view"]["x"].device == moved["ordered"]["a"].device == META
    assert batch["list"][0].device == CPU, "the original stays where it was"  # type: ignore[index]
    assert batch["user"]["x"].device == CPU  # type: ignore[index]


def test_a_list_subclass_keeps_its_attributes() -> None:
    batch = Remembers([ones()])
    batch.source = "here"
    moved = move_to_device(batch, META)
    assert (type(moved), moved.source, moved[0].device) == (Remembers, "here", META)
    assert batch[0].device == CPU


def test_dataclasses_move_without_running_their_constructor() -> None:
    sample = Sample(ones())
    sample.later = torch.zeros(3)
    moved = move_to_device(sample, META)
    assert (type(moved), moved.name, moved.x.device, moved.later.device) == (Sample, "a", META, META)
    assert moved.later.shape == (3,)
    frozen = move_to_device(Frozen(ones(), [ones()]), META)
    assert (frozen.x.device, frozen.inner[0].device) == (META, META)
    unset = Sample.__new__(Sample)
    unset.x = ones()
    assert move_to_device(unset, META).x.device == META


def test_objects_move_by_themselves() -> None:
    moved = move_to_device([Movable(), MovesInPlace(), Encoding(x=ones())], META)
    assert moved[0].device == moved[1].device == moved[2]["x"].device == META
    assert isinstance(moved[1], MovesInPlace)
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    on_cpu = move_to_device(packed, CPU)
    assert isinstance(on_cpu, PackedSequence)
    assert on_cpu.data.device == CPU


def test_what_holds_no_tensor_is_left() -> None:
    thing = object()
    assert move_to_device(thing, "meta") is thing
    assert move_to_device(Movable, "meta") is Movable, "a class is not a batch"
    assert move_to_device(Sample, "meta") is Sample


def test_what_cannot_be_rebuilt_says_so() -> None:
    with pytest.raises(TypeError, match=r"holds a Fixed, which cannot be rebuilt .* `to\(device\)` method"):
        move_to_device(Fixed(ones(), ones()), META)


def test_mapping_tensors_leaves_other_objects() -> None:
    movable = Movable()
    result = map_tensors({"x": [ones()], "other": movable, "sample": Sample(ones())}, torch.Tensor.double)
    assert result["x"][0].dtype == result["sample"].x.dtype == torch.float64
    assert result["other"] is movable


# -- the hooks around it -------------------------------------------------------------------------------------------


class Recording:
    """Hooks that write down their calls; mixed into a module or a datamodule."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[object, ...]] = []

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.calls.append(("before", batch, dataloader_idx))
        return [*batch, "before"]

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        self.calls.append(("transfer", batch, device, dataloader_idx))
        return [*batch, "transfer"]

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.calls.append(("after", batch, dataloader_idx))
        return [*batch, "after"]


class RecordingModule(Recording, LightningModule):
    pass


class RecordingData(Recording, LightningDataModule):
    pass


class AfterOnly(LightningModule):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return (batch, dataloader_idx)


def test_nothing_to_do_is_none() -> None:
    assert compile_transfer(LightningModule(), LightningDataModule(), CPU, None) is None
    assert compile_transfer(LightningModule(), None, CPU) is None


def test_another_device_moves() -> None:
    transfer = compile_transfer(LightningModule(), None, META)
    assert transfer is not None
    assert transfer([ones()], 0)[0].device == META


@pytest.mark.parametrize("owner", [RecordingModule, RecordingData])
def test_the_order_of_conversion_and_hooks(owner: type[RecordingModule] | type[RecordingData]) -> None:
    recording = owner()
    module = recording if isinstance(recording, LightningModule) else LightningModule()
    datamodule = recording if isinstance(recording, LightningDataModule) else None
    transfer = compile_transfer(module, datamodule, META, lambda batch: [*batch, "converted"])
    assert transfer is not None
    assert transfer(["batch"], 2) == ["batch", "converted", "before", "transfer", "after"]
    assert recording.calls == [
        ("before", ["batch", "converted"], 2),
        ("transfer", ["batch", "converted", "before"], META, 2),
        ("after", ["batch", "converted", "before", "transfer"], 2),
    ]


def test_one_hook_alone_is_called_directly() -> None:
    transfer = compile_transfer(AfterOnly(), None, CPU)
    assert transfer is not None
    assert transfer("batch", 3) == ("batch", 3)
    convert = compile_transfer(LightningModule(), None, CPU, str.upper)
    assert convert is not None
    assert convert("batch", 0) == "BATCH"


def test_hooks_are_told_of_where_somebody_wants_to_know() -> None:
    journal = SimpleNamespace(hook="training_step")
    seen: list[str] = []

    class Watched(LightningModule):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            seen.append(journal.hook)
            return batch

        def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
            return self.on_before_batch_transfer(batch, dataloader_idx)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return self.on_before_batch_transfer(batch, dataloader_idx)

    transfer = compile_transfer(Watched(), None, CPU, None, journal)
    assert transfer is not None
    assert transfer("batch", 0) == "batch"
    assert seen == ["on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"]
    assert journal.hook == "training_step"
    assert compile_transfer(LightningModule(), None, CPU, None, journal) is None


def test_a_hook_set_on_the_instance_counts() -> None:
    module = LightningModule()
    module.on_after_batch_transfer = lambda batch, dataloader_idx: "changed"  # type: ignore[method-assign]
    transfer = compile_transfer(module, None, CPU)
    assert transfer is not None
    assert transfer("batch", 0) == "changed"


def test_module_and_datamodule_may_share_the_hooks_but_not_one() -> None:
    class BeforeOnly(LightningDataModule):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch * 2

    transfer = compile_transfer(AfterOnly(), BeforeOnly(), CPU)
    assert transfer is not None
    assert transfer("ab", 0) == ("abab", 0)
    with pytest.raises(MisconfigurationException, match=r"Both RecordingModule .* and RecordingData .* override"):
        compile_transfer(RecordingModule(), RecordingData(), CPU)
