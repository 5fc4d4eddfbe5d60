"""Seeds, workers' seeds, and generators left as they were."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from leyden.data.loaders import seed_workers
from leyden.rank_zero import rank_zero_only
from leyden.seed import isolate_rng, seed_everything, worker_init_fn


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the variables back that seeding sets, and the generators as they were."""
    monkeypatch.setenv("LEYDEN_SEED", "")
    monkeypatch.setenv("LEYDEN_SEED_WORKERS", "")
    monkeypatch.delenv("LEYDEN_SEED")
    monkeypatch.delenv("LEYDEN_SEED_WORKERS")
    with isolate_rng():
        yield


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), torch.rand(1).item()


def test_one_seed_for_all() -> None:
    assert seed_everything(42, verbose=False) == 42
    first = draw()
    assert len(set(first)) == 3
    seed_everything(42, verbose=False)
    assert draw() == first
    seed_everything(43, verbose=False)
    assert draw() != first
    assert os.environ["LEYDEN_SEED"] == "43"
    assert os.environ["LEYDEN_SEED_WORKERS"] == "0"


def test_the_seed_comes_from_the_environment_else_is_zero(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.warns(UserWarning, match="no seed and LEYDEN_SEED is not set: using seed 0"):
        assert seed_everything(workers=True) == 0
    assert [record.getMessage() for record in caplog.records] == ["Seed set to 0"]
    assert os.environ["LEYDEN_SEED_WORKERS"] == "1"
    monkeypatch.setenv("LEYDEN_SEED", "17")
    assert seed_everything(verbose=False) == 17


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, True, "x"])
def test_a_seed_out_of_range_is_an_error(seed: object) -> None:
    with pytest.raises(ValueError, match="whole number from 0 to 4294967295; got "):
        seed_everything(seed)  # type: ignore[arg-type]


def test_a_wrong_seed_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEYDEN_SEED", "many")
    with pytest.raises(ValueError, match=r"got 'many'.*LEYDEN_SEED"):
        seed_everything()


def test_numpy_numbers_and_the_largest_seed_are_taken() -> None:
    assert seed_everything(int(np.int64(5)), verbose=False) == 5
    assert seed_everything(2**32 - 1, verbose=False) == 2**32 - 1


def test_isolated_drawing_leaves_no_trace() -> None:
    seed_everything(1, verbose=False)
    expected = draw()
    seed_everything(1, verbose=False)

    @isolate_rng()
    def fail() -> None:
        draw()
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert draw() == expected


def test_workers_of_different_ranks_draw_differently() -> None:
    drawn = set()
    for rank in range(3):
        for worker_id in range(2):
            torch.manual_seed(100 + worker_id)  # what torch does in a worker before
            worker_init_fn(worker_id, rank)
            drawn.add(draw())
    assert len(drawn) == 6
    torch.manual_seed(100)
    worker_init_fn(0, 0)
    assert draw() in drawn


def test_the_rank_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def of_rank(rank: int | None) -> tuple[float, float, float]:
        torch.manual_seed(100)
        worker_init_fn(0, rank)
        return draw()

    monkeypatch.setattr(rank_zero_only, "rank", 2)
    assert of_rank(None) == of_rank(2)
    assert of_rank(None) != of_rank(0)


class Drawing(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(draw(), dtype=torch.float64)


def test_a_loader_with_workers_gives_the_same_with_the_same_seed() -> None:
    def batches(rank: int) -> list[list[list[float]]]:
        seed_everything(7, workers=True, verbose=False)
        loader = DataLoader(Drawing(), num_workers=1)
        seed_workers(loader, rank)
        return [batch.tolist() for batch in loader]

    assert batches(0) == batches(0)
    assert batches(0) != batches(1)
