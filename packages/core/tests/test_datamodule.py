"""Data as one object: its hooks in a run, its state, and how it is built."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from leyden import LightningDataModule, LightningModule, MisconfigurationException, Trainer
from leyden.testing import BoringModule, RandomDataset


class Model(LightningModule):
    """A model without data of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.layer(batch)
        return output

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
        return self.layer(batch).square().mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("loss", self.layer(batch).square().mean())

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Data(LightningDataModule):
    def __init__(self, batch_size: int = 2, size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.calls: list[str] = []
        self.state = 0

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        self.calls.append(f"setup {stage}")

    def teardown(self, stage: str) -> None:
        self.calls.append(f"teardown {stage}")

    def on_exception(self, exception: BaseException) -> None:
        self.calls.append(f"on_exception {type(exception).__name__}")

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state} if self.state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.state = state_dict["state"]

    def _loader(self, stage: str) -> DataLoader[torch.Tensor]:
        self.calls.append(f"{stage}_dataloader")
        return DataLoader(RandomDataset(self.hparams.size, 4), batch_size=self.hparams.batch_size)

    def train_dataloader(self) -> Any:
        return self._loader("train")

    def val_dataloader(self) -> Any:
        return self._loader("val")

    def test_dataloader(self) -> Any:
        return self._loader("test")

    def predict_dataloader(self) -> Any:
        return self._loader("predict")


def trainer(**settings: Any) -> Trainer:
    return Trainer(max_epochs=1, logger=False, discover_callbacks=False, **settings)


def test_a_fit_prepares_sets_up_loads_and_tears_down() -> None:
    data, fitting = Data(), trainer()
    fitting.fit(Model(), datamodule=data)
    assert data.calls == ["prepare_data", "setup fit", "val_dataloader", "train_dataloader", "teardown fit"]
    assert data.trainer is fitting


@pytest.mark.parametrize(("entry_point", "loader"), [("validate", "val"), ("test", "test"), ("predict", "predict")])
def test_an_evaluation_loads_only_its_own(entry_point: str, loader: str) -> None:
    data = Data()
    getattr(trainer(), entry_point)(Model(), datamodule=data)
    assert data.calls == ["prepare_data", f"setup {entry_point}", f"{loader}_dataloader", f"teardown {entry_point}"]


def test_hooks_of_data_come_before_those_of_the_module() -> None:
    calls: list[str] = []

    class Recording(Model):
        def prepare_data(self) -> None:
            calls.append("module prepare_data")

        def setup(self, stage: str) -> None:
            calls.append("module setup")

    class RecordingData(Data):
        def prepare_data(self) -> None:
            calls.append("data prepare_data")

        def setup(self, stage: str) -> None:
            calls.append("data setup")

    trainer().fit(Recording(), datamodule=RecordingData())
    assert calls == ["data prepare_data", "module prepare_data", "data setup", "module setup"]


def test_data_is_prepared_in_one_process_only() -> None:
    data, later = Data(), trainer()
    later.strategy.global_rank = 1
    later.predict(Model(), datamodule=data)
    assert data.calls == ["setup predict", "predict_dataloader", "teardown predict"]


def test_an_exception_is_told_before_teardown() -> None:
    class Failing(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            raise ValueError("no")

    data = Data()
    with pytest.raises(ValueError, match="no"):
        trainer(num_sanity_val_steps=0).fit(Failing(), datamodule=data)
    assert data.calls[-2:] == ["on_exception ValueError", "teardown fit"]


def test_transfer_hooks_of_the_data_reach_every_batch() -> None:
    seen: list[float] = []

    class Shifted(Data):
        def on_after_batch_transfer(self, batch: torch.Tensor, dataloader_idx: int) -> torch.Tensor:
            return torch.full_like(batch, 7.0)

    class Looking(Model):
        def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:
            seen.append(batch.mean().item())
            return super().training_step(batch, batch_idx)

    trainer(limit_val_batches=0).fit(Looking(), datamodule=Shifted())
    assert seen == [7.0, 7.0]


def test_hyperparameters_and_state_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    data, fitting = Data(batch_size=1), trainer()
    data.state = 3
    fitting.fit(Model(), datamodule=data)
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    loaded = Data.load_from_checkpoint(tmp_path / "a.ckpt", size=5)
    assert loaded.hparams == {"batch_size": 1, "size": 5}
    assert loaded.state == 3
    with pytest.raises(TypeError, match=r"call it on the class, Data.load_from_checkpoint"):
        data.load_from_checkpoint(tmp_path / "a.ckpt")
    resumed = Data(batch_size=1)
    Trainer(max_epochs=2, logger=False, discover_callbacks=False).fit(
        Model(), datamodule=resumed, ckpt_path=tmp_path / "a.ckpt"
    )
    assert resumed.state == 3


def test_a_checkpoint_without_data_gives_defaults(tmp_path: Path) -> None:
    fitting = trainer()
    fitting.fit(BoringModule())
    fitting.save_checkpoint(tmp_path / "a.ckpt")
    assert Data.load_from_checkpoint(tmp_path / "a.ckpt").hparams == {"batch_size": 2, "size": 4}


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_a_copy_has_no_trainer(clone: Any) -> None:
    data = Data()
    data.trainer = trainer()
    copied = clone(data)
    assert copied.trainer is None
    assert copied.hparams == data.hparams


class Endless(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


def test_datasets_become_loaders() -> None:
    train = RandomDataset(4, 6)
    data = LightningDataModule.from_datasets(
        train, [RandomDataset(4, 2), RandomDataset(4, 3)], predict_dataset=Endless(), batch_size=2
    )
    loader = data.train_dataloader()
    assert (len(loader), loader.dataset, loader.batch_size) == (3, train, 2)
    assert isinstance(loader.sampler, torch.utils.data.RandomSampler)
    assert [len(loader) for loader in data.val_dataloader()] == [1, 2]
    assert isinstance(data.val_dataloader()[0].sampler, torch.utils.data.SequentialSampler)
    assert [batch.tolist() for batch in data.predict_dataloader()] == [[0, 1], [2]]
    with pytest.raises(MisconfigurationException, match="has no test_dataloader"):
        data.test_dataloader()


def test_datasets_by_name_become_loaders_by_name() -> None:
    data = LightningDataModule.from_datasets({"a": RandomDataset(4, 2), "b": Endless()})
    assert {name: type(loader.dataset) for name, loader in data.train_dataloader().items()} == {
        "a": RandomDataset,
        "b": Endless,
    }


def test_datasets_survive_pickling_and_the_class_gets_its_own_arguments() -> None:
    class Own(Data):
        pass

    data = Own.from_datasets(RandomDataset(4, 4), batch_size=2, size=9)
    assert data.hparams == {"batch_size": 2, "size": 9}
    plain = LightningDataModule.from_datasets(RandomDataset(4, 4), RandomDataset(4, 2), batch_size=2)
    fitting = trainer()
    fitting.fit(Model(), datamodule=pickle.loads(pickle.dumps(plain)))
    assert fitting.global_step == 2


def test_what_is_no_dataset_is_refused() -> None:
    data = LightningDataModule.from_datasets(3)
    with pytest.raises(MisconfigurationException, match=r"from_datasets got 3 \(int\)"):
        data.train_dataloader()
