"""Copies of checkpoints: equal, independent of what training does next, and no larger than the original."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden_checkpoint.snapshot import snapshot


def size(content: Any) -> int:
    file = io.BytesIO()
    torch.save(content, file)
    return file.tell()


def test_what_changes_afterwards_is_not_seen() -> None:
    weight, numbers = torch.arange(4.0), [1, {"a": 2}]
    content = {"state_dict": OrderedDict(weight=weight), "callbacks": {"c": {"numbers": numbers, "rng": (3, (1, 2))}}}
    copied = snapshot(content)
    weight.zero_()
    numbers.append(3)
    assert copied["state_dict"]["weight"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert copied["callbacks"]["c"] == {"numbers": [1, {"a": 2}], "rng": (3, (1, 2))}
    assert type(copied["state_dict"]) is OrderedDict


def test_a_module_and_its_optimizer_come_back_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    optimizer = torch.optim.Adam(module.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.randn(5, 3)).sum().backward()
        optimizer.step()
    content = {"state_dict": module.state_dict(), "optimizer_states": [optimizer.state_dict()]}
    file = io.BytesIO()
    torch.save(content, file)
    copied = snapshot(content)
    assert copied["state_dict"]._metadata == content["state_dict"]._metadata  # type: ignore[attr-defined]
    optimizer.step()
    file.seek(0)
    before = torch.load(file, weights_only=True)
    assert_same(copied, before)
    assert size(copied) == size(before)


def assert_same(one: Any, other: Any) -> None:
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
        assert (one.dtype, one.stride(), one.requires_grad) == (other.dtype, other.stride(), other.requires_grad)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other


def test_shared_memory_is_copied_once_and_stays_shared() -> None:
    whole = torch.arange(10_000.0)
    content = {"whole": whole, "tied": whole, "row": whole.view(100, 100)[3], "other": [whole.view(100, 100).t()]}
    copied = snapshot(content)
    assert_same(copied, content)
    assert copied["whole"] is copied["tied"]
    assert copied["row"].untyped_storage().data_ptr() == copied["whole"].untyped_storage().data_ptr()
    assert copied["whole"].untyped_storage().data_ptr() != whole.untyped_storage().data_ptr()
    assert size(copied) == size(content)


@pytest.mark.parametrize(
    "tensor",
    [
        nn.Parameter(torch.ones(2)),
        nn.Parameter(torch.ones(2), requires_grad=False),
        torch.ones(2, requires_grad=True),
        torch.tensor(3),
        torch.empty(0, 4),
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.tensor([True, False]),
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.ones(3).expand(4, 3),
    ],
)
def test_each_kind_of_tensor_keeps_its_kind(tensor: Tensor) -> None:
    copied = snapshot([tensor])[0]
    assert (type(copied), copied.dtype, copied.shape) == (type(tensor), tensor.dtype, tensor.shape)
    assert torch.equal(copied, tensor)
    assert copied.requires_grad == tensor.requires_grad
    assert copied is not tensor


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning")
def test_tensors_that_are_no_plain_memory_are_copied_too() -> None:
    sparse = torch.eye(3).to_sparse()
    quantized = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    meta = torch.empty(5, device="meta")
    result = (torch.ones(2, requires_grad=True) * 2).sum()
    copied = snapshot({"sparse": sparse, "quantized": quantized, "meta": meta, "result": result})
    sparse.mul_(0)
    assert torch.equal(copied["sparse"].to_dense(), torch.eye(3))
    assert torch.equal(copied["quantized"].dequantize(), quantized.dequantize())
    assert copied["meta"].is_meta
    assert (float(copied["result"]), copied["result"].requires_grad) == (4.0, False)


def test_a_dict_that_holds_itself_is_copied_once() -> None:
    content: dict[str, Any] = {"weight": torch.ones(1)}
    content["self"] = content
    copied = snapshot(content)
    assert copied["self"] is copied
    assert copied["weight"] is not content["weight"]
