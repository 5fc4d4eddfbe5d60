"""Processes that differ in what must be alike all end at once, with an error that says in what."""

from __future__ import annotations

import pytest
from tests.parallel_facts import CASES, differing
from tests.together import together

SAID = {
    "entry point": "the entry point is fit in process 0 and validate in process 1; ",
    "strategy": "the strategy is DDPStrategy in process 0 and FSDPStrategy in process 1",
    "loaders": "loaders for is ['train_dataloader', 'val_dataloader'] in process 0 and ['train_dataloader'] in proc",
    "shape": "extra.0.weight is a trained parameter float32 of shape [2, 3] in process 0 and a trained parameter "
    "float32 of shape [2, 4] in process 1. Make it with the same arguments in every process",
    "layers": "extra.1.weight is a trained parameter float32 of shape [2, 3] in process 1 and not there in process 0",
    "layers in shards": "extra.1.weight is a trained parameter float32 of shape [2, 3] in process 1 and not there",
    "frozen": "extra.0.bias is a trained parameter float32 of shape [2] in process 0 and a frozen parameter",
    "buffer": "seen is a buffer float32 of shape [2] in process 1 and not there in process 0",
    "nothing": "done",
}


@pytest.fixture(scope="module")
def said() -> list[dict[str, str]]:
    return [ended.value for ended in together(differing, CASES)]


@pytest.mark.parametrize("case", CASES)
def test_who_differs_is_told_in_what(said: list[dict[str, str]], case: str) -> None:
    first, second = (one[case] for one in said)
    assert first == second
    assert SAID[case] in first
