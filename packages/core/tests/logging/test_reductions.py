from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from leyden.logging.exchange import FIRST_MESSAGE_VALUES, Share, exchange, header_of
from leyden.logging.records import Record, Traits
from leyden.logging.reductions import ExtremeRecord, KeptRecord, MeanRecord, SumRecord

TRAITS = Traits("loss", on_step=True, on_epoch=True)
KEY = ("training_step", "loss", None)
F32 = torch.float32

numbers = st.floats(-1e6, 1e6, width=32)
weighted = st.lists(st.tuples(numbers, st.integers(1, 64)), min_size=1, max_size=200)
makers: dict[str, Any] = {
    "mean": lambda: MeanRecord(KEY, TRAITS, F32),
    "sum": lambda: SumRecord(KEY, TRAITS, F32),
    "max": lambda: ExtremeRecord(KEY, TRAITS, F32, largest=True),
    "min": lambda: ExtremeRecord(KEY, TRAITS, F32, largest=False),
    "kept": lambda: KeptRecord(KEY, TRAITS, F32, reduction=None, function=torch.median),
    "graph": lambda: KeptRecord(KEY, TRAITS, F32, reduction="mean", function=None),
}


def fill(record: Record, values: list[tuple[float, int]], *, as_tensors: bool) -> Record:
    """A tensor stands for what comes from a GPU: the journal hands CPU values over as numbers."""
    for step, (value, size) in enumerate(values):
        record.add(torch.tensor(value) if as_tensors else value, size, step)
    return record


@settings(deadline=None)  # the first call waits for torch to warm up
@given(values=weighted, as_tensors=st.booleans())
def test_mean_is_the_weighted_mean(values: list[tuple[float, int]], as_tensors: bool) -> None:
    record = fill(makers["mean"](), values, as_tensors=as_tensors)
    sizes = torch.tensor([size for _, size in values], dtype=torch.float64)
    direct = (torch.tensor([value for value, _ in values], dtype=torch.float64) * sizes).sum() / sizes.sum()
    torch.testing.assert_close(record.compute(), direct.float(), rtol=1e-6, atol=1e-4)


@settings(deadline=None)
@given(values=weighted, as_tensors=st.booleans())
def test_sum_max_and_min_are_those_of_torch(values: list[tuple[float, int]], as_tensors: bool) -> None:
    column = torch.tensor([value for value, _ in values], dtype=torch.float64)
    total, largest, smallest = (fill(makers[kind](), values, as_tensors=as_tensors) for kind in ("sum", "max", "min"))
    torch.testing.assert_close(total.compute(), column.sum().float(), rtol=1e-6, atol=1e-2)
    assert largest.compute() == column.max().float()
    assert smallest.compute() == column.min().float()


@pytest.mark.parametrize("kind", list(makers))
@settings(deadline=None)
@given(values=weighted, as_tensors=st.booleans(), cut=st.integers(0, 200), looks=st.sets(st.integers(0, 199)))
def test_neither_looking_nor_a_checkpoint_changes_a_bit(
    kind: str, values: list[tuple[float, int]], as_tensors: bool, cut: int, looks: set[int]
) -> None:
    straight = fill(makers[kind](), values, as_tensors=as_tensors)
    record = makers[kind]()
    for step, (value, size) in enumerate(values):
        record.add(torch.tensor(value) if as_tensors else value, size, step)
        if step in looks:
            record.compute()
        if step == cut:
            state, record = record.state_dict(), makers[kind]()
            record.load_state_dict(state)
    assert torch.equal(record.compute(), straight.compute())
    assert torch.equal(record.latest_tensor(), straight.latest_tensor())
    assert (record.step, record.count) == (len(values) - 1, len(values))


@pytest.mark.parametrize("count", [63, 64, 65, 127, 128, 129])
@pytest.mark.parametrize("kind", ["mean", "sum", "max", "min"])
def test_the_buffer_s_boundaries_lose_nothing(kind: str, count: int) -> None:
    values = [(float(i), 1 + i % 3) for i in range(count)]
    on_device = fill(makers[kind](), values, as_tensors=True).compute()
    assert on_device == fill(makers[kind](), values, as_tensors=False).compute()


def test_values_of_both_kinds_count_together() -> None:
    expected = {"mean": 2.5, "sum": 6.0, "max": 4.0, "min": 2.0}
    for kind, value in expected.items():
        record = makers[kind]()
        record.add(2.0, 3, 0)
        record.add(torch.tensor(4.0), 1, 1)
        assert record.compute().item() == value, kind


@pytest.mark.parametrize("kind", ["max", "min"])
@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_stays_the_extreme_as_in_torch(kind: str, as_tensors: bool, place: int) -> None:
    values = [1.0, 2.0, 3.0]
    values[place] = math.nan
    assert fill(makers[kind](), [(value, 1) for value in values], as_tensors=as_tensors).compute().isnan()


def test_mean_of_empty_batches_is_nan() -> None:
    assert fill(makers["mean"](), [(1.0, 0)], as_tensors=False).compute().isnan()


def test_reset_forgets_everything() -> None:
    for kind, make in makers.items():
        record = fill(make(), [(9.0, 4), (8.0, 2)], as_tensors=True)
        record.reset()
        assert (record.latest, record.count, record.fresh) == (None, 0, False)
        record.add(3.0, 1, 5)
        assert record.compute().item() == 3.0, kind


def test_values_are_reduced_wide_and_given_in_the_record_s_dtype() -> None:
    record = MeanRecord(KEY, TRAITS, F32)
    for step in range(1000):
        record.add(16777217.0 if step % 2 else 1.0, 1, step)  # 2**24 + 1 is no float32
    assert record.compute().dtype == F32
    assert record.compute().item() == pytest.approx((16777217 + 1) / 2)


def test_kept_values_keep_their_graph() -> None:
    weight = torch.tensor(2.0, requires_grad=True)
    record: Record = makers["graph"]()
    record.add(weight * 3, 1, 0)
    record.add(weight * 5, 3, 1)
    torch.autograd.backward(record.compute())
    assert weight.grad is not None
    assert weight.grad.item() == (3 + 3 * 5) / 4


@pytest.mark.parametrize("reduction", ["sum", "max", "min"])
def test_kept_values_reduce_by_name(reduction: Any) -> None:
    record = fill(KeptRecord(KEY, TRAITS, F32, reduction=reduction, function=None), [(1, 1), (4, 1)], as_tensors=True)
    assert record.compute().item() == {"sum": 5, "max": 4, "min": 1}[reduction]


class Twins:
    """The channel of a process that has a twin: the edge of the process is all that is not real."""

    def __init__(self, device: str = "cpu") -> None:
        self.root_device = torch.device(device)
        self.sent: list[tuple[str | None, int]] = []

    def reduce(self, tensor: Tensor, group: Any = None, reduce_op: str | None = "mean") -> Tensor:
        assert tensor.device.type == self.root_device.type
        self.sent.append((reduce_op, len(tensor)))
        return tensor * 2 if reduce_op == "sum" else tensor

    def all_gather(self, tensor: Tensor, group: Any = None, sync_grads: bool = False) -> Tensor:
        return torch.stack([tensor, tensor])


@pytest.mark.parametrize("as_tensors", [False, True])
def test_shares_of_several_records_are_one_message_and_another_for_extremes(as_tensors: bool) -> None:
    records = [fill(make(), [(1.0, 3), (5.0, 1)], as_tensors=as_tensors) for make in makers.values()]
    twins = Twins()
    of_epoch = exchange(twins, None, [one.epoch_share() for one in records], header_of("epoch"))
    of_step = exchange(twins, None, [one.latest_share() for one in records], header_of("steps"))
    assert of_epoch == [2.0, 12.0, 5.0, 1.0, 0.0, 2.0]  # a function of the user's own is told of alone
    assert of_step == [5.0, 10.0, 5.0, 5.0, 5.0, 5.0]
    assert twins.sent == [("sum", FIRST_MESSAGE_VALUES), ("max", 2)] * 2


@pytest.mark.parametrize("as_tensors", [False, True])
@pytest.mark.parametrize("kind", ["max", "min"])
def test_an_extreme_of_several_processes_is_nan_where_one_is(kind: str, as_tensors: bool) -> None:
    record = fill(makers[kind](), [(math.nan, 1)], as_tensors=as_tensors)
    (value,) = exchange(Twins(), None, [record.epoch_share()], header_of("")) or [None]
    assert value is not None
    assert math.isnan(value)


def test_what_does_not_fit_the_first_message_is_in_a_second() -> None:
    twins = Twins()
    values = exchange(twins, None, [Share("sum", float(at), 1.0, True) for at in range(100)], header_of(""))
    assert values == [2.0 * at for at in range(100)]
    assert twins.sent == [("sum", FIRST_MESSAGE_VALUES), ("sum", 7 + 300 - FIRST_MESSAGE_VALUES)]
    assert exchange(Twins(), None, [Share("mean", 0.0, 1.0, False)], header_of("")) == [None]


@pytest.mark.parametrize("processes", [2, 3, 65_536])
def test_processes_that_send_something_else_are_found_out(processes: int) -> None:
    class Others(Twins):
        """All others send what `there` says."""

        there = header_of("a")

        def reduce(self, tensor: Tensor, group: Any = None, reduce_op: str | None = "mean") -> Tensor:
            others = tensor.new_zeros(len(tensor))
            others[: len(self.there)] = torch.tensor(self.there, dtype=torch.float64)
            return tensor + (processes - 1) * others

    assert exchange(Others(), None, [], header_of("b")) is None
    assert exchange(Others(), None, [], header_of("a")) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_values_of_a_gpu_are_sent_from_there_with_one_wait_a_message() -> None:
    def filled(record: Record) -> Record:
        for step, (value, size) in enumerate([(1.0, 3), (5.0, 1)]):
            record.add(torch.tensor(value, device="cuda"), size, step)
        return record

    records = [filled(make()) for make in makers.values()]
    twins = Twins("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        shares = [one.epoch_share() for one in records] + [one.latest_share() for one in records]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    of_epoch = exchange(twins, None, shares, header_of("both"))
    assert of_epoch == [2.0, 12.0, 5.0, 1.0, 0.0, 2.0, 5.0, 10.0, 5.0, 5.0, 5.0, 5.0]
    assert twins.sent == [("sum", FIRST_MESSAGE_VALUES), ("max", 4)]
