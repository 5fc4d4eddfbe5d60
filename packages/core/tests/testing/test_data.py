"""The data of the testing kit: the same each time, apart for each loader, and with a length only where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from leyden import Trainer
from leyden.errors import MisconfigurationException
from leyden.testing import ManualModule, RandomData, RandomDataset, RandomStream, SeveralLoadersModule


def test_data_is_the_same_for_one_seed_and_leaves_the_generator_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = RandomDataset(4, 6), RandomDataset(4, 6), RandomDataset(4, 6, seed=1)
    assert torch.equal(one.data, same.data)
    assert not torch.equal(one.data, other.data)
    assert torch.equal(torch.get_rng_state(), state)
    assert (len(one), one[2].shape) == (6, (4,))


def test_a_stream_has_the_rows_of_a_data_set_once_also_with_workers() -> None:
    rows = RandomDataset(4, 5, seed=3).data
    assert torch.equal(torch.stack(list(RandomStream(4, 5, seed=3))), rows)
    loader: DataLoader[Any] = DataLoader(RandomStream(4, 5, seed=3), batch_size=None, num_workers=2)
    by_first = sorted(loader, key=lambda row: float(row[0]))
    assert torch.equal(torch.stack(by_first), rows[rows[:, 0].argsort()])


def test_each_loader_has_data_of_its_own_and_its_number_of_batches() -> None:
    data = RandomData(3, batches={"train": 5, "val": 1}, batch_size=4, loaders={"val": 2, "test": 1})
    val = data.val_dataloader()
    assert [len(loader) for loader in (data.train_dataloader(), *val, data.predict_dataloader())] == [5, 1, 1, 2]
    assert len(data.test_dataloader()) == 1  # a list of one loader
    batches = [next(iter(loader)) for loader in (*val, data.predict_dataloader())]
    assert [batch.shape for batch in batches] == [(4, 3)] * 3
    assert len({float(batch[0, 0]) for batch in batches}) == 3
    torch.manual_seed(1)
    drawn = torch.cat(list(data.train_dataloader()))
    assert not torch.equal(drawn, data.train_dataloader().dataset.data)


@pytest.mark.parametrize("stream", [False, True])
def test_every_stage_runs_on_it_with_a_length_and_without(stream: bool) -> None:
    data = RandomData(batches={"train": 3}, loaders={"val": 2, "test": 2}, stream=stream)
    trainer = Trainer(max_epochs=2, logger=False, discover_callbacks=False, accelerator="cpu")
    trainer.fit(SeveralLoadersModule(), datamodule=data)
    assert trainer.global_step == 6
    assert len(trainer.test(SeveralLoadersModule(), datamodule=data, verbose=False)) == 2
    predictions = trainer.predict(ManualModule(), datamodule=data)
    assert predictions is not None
    assert len(predictions) == 2


@pytest.mark.parametrize("argument", ["batches", "loaders"])
def test_a_stage_that_there_is_not_is_an_error(argument: str) -> None:
    with pytest.raises(MisconfigurationException, match="there is no stage 'validation'; the stages are train, val"):
        RandomData(**{argument: {"validation": 2}})  # type: ignore[arg-type]
