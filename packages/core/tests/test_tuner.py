"""The Tuner: a search before a run, by the callbacks, with Lightning's names, and the trainer as it was."""

from __future__ import annotations

import inspect
import logging
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from leyden import LightningDataModule, Trainer
from leyden.callbacks import BatchSizeFinder, EarlyStopping, LearningRateFinder, ModelCheckpoint
from leyden.errors import MisconfigurationException
from leyden.state.rng import collect_rng
from leyden.testing import BoringModule, RandomDataset
from leyden.tuner import Tuner


class Net(BoringModule):
    def __init__(self) -> None:
        super().__init__(batches={"train": 20})
        self.lr, self.batch_size = 0.02, 2
        self.set_up: list[str] = []

    def setup(self, stage: str) -> None:
        self.set_up.append(stage)
        self.made = torch.nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        if len(batch) > 20:
            raise torch.OutOfMemoryError("no room")
        return super().training_step(batch, batch_idx)

    def test_step(self, batch: Tensor, batch_idx: int) -> Any:
        if len(batch) > 10:
            raise RuntimeError("out of memory")

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def _loader(self, stage: str) -> DataLoader[Tensor]:
        return DataLoader(RandomDataset(4, 40), batch_size=self.batch_size, shuffle=stage == "train")


class Data(LightningDataModule):
    batch_size = 2

    def train_dataloader(self) -> Any:
        return DataLoader(RandomDataset(4, 40), batch_size=self.batch_size)


def make(*callbacks: Any, **arguments: Any) -> Trainer:
    arguments = {"max_epochs": 1, "logger": False} | arguments
    return Trainer(accelerator="cpu", callbacks=callbacks, discover_callbacks=False, **arguments)


def test_names_and_defaults_are_lightnings() -> None:
    of_rates = defaults_of(Tuner.lr_find)
    assert of_rates == {
        "method": "fit", "min_lr": 1e-8, "max_lr": 1, "num_training": 100, "mode": "exponential",
        "early_stop_threshold": 4.0, "update_attr": True, "attr_name": "",
    }  # fmt: skip
    assert defaults_of(Tuner.scale_batch_size) == {
        "method": "fit", "mode": "power", "steps_per_trial": 3, "init_val": 2, "max_trials": 25,
        "batch_arg_name": "batch_size", "margin": 0.05, "max_val": 8192,
    }  # fmt: skip


def defaults_of(search: Any) -> dict[str, Any]:
    """Return the defaults of what says how to search; before it come the model and the data, None where left out."""
    parameters = inspect.signature(search).parameters
    data = ["self", "model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"]
    assert list(parameters)[:6] == data
    assert [parameters[name].default for name in data[2:]] == [None] * 4
    return {name: one.default for name, one in parameters.items() if name not in data}


def test_lr_find_is_the_callbacks_search() -> None:
    torch.manual_seed(1)
    module = Net()
    state = repr(module.state_dict())
    trainer = make(EarlyStopping("val_loss"), ModelCheckpoint())
    vars_before, rng = dict(vars(trainer)), repr(collect_rng())
    found = Tuner(trainer).lr_find(module, min_lr=1e-5, num_training=30)
    assert found is not None
    assert (module.lr, module.set_up, hasattr(module, "made")) == (found.suggestion(), [], False)
    assert repr(module.state_dict()) == state
    assert repr(collect_rng()) == rng
    assert vars(trainer) == vars_before
    assert (trainer.state.fn, trainer.lightning_module_or_none, module._trainer) == (None, None, None)

    finder = LearningRateFinder(1e-5, num_training_steps=30)
    torch.manual_seed(1)
    within = Net()
    make(finder).fit(within)
    assert finder.optimal_lr is not None
    assert finder.optimal_lr.results == found.results
    trainer.fit(module)
    assert (trainer.global_step, trainer.optimizers[0].param_groups[0]["lr"]) == (20, found.suggestion())


def test_it_may_only_tell() -> None:
    module = Net()
    found = Tuner(make()).lr_find(module, num_training=30, update_attr=False)
    assert found is not None
    assert (module.lr, found.suggestion() is None) == (0.02, False)


@pytest.mark.parametrize(("method", "size"), [("fit", 16), ("validate", 40), ("test", 8), ("predict", 40)])
def test_scale_batch_size_for_each_entry_point(method: Any, size: int) -> None:
    module, trainer = Net(), make()
    assert Tuner(trainer).scale_batch_size(module, method=method) == module.batch_size == size
    assert (module.set_up, trainer.state.fn, module._trainer) == ([], None, None)


def test_data_may_be_passed_to_both() -> None:
    module, data = Net(), Data()
    assert Tuner(make()).scale_batch_size(module, datamodule=data) == 16
    assert (data.batch_size, module.batch_size, data.trainer) == (16, 16, None)
    loader: Any = [torch.ones(2, 4)] * 30
    found = Tuner(make()).lr_find(module, loader, num_training=30)
    assert found is not None
    assert Tuner(make()).lr_find(module, datamodule=data, num_training=30) is not None


def test_a_failure_leaves_everything_as_it_was() -> None:
    class Fails(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            raise ValueError("in the search")

    module, trainer = Fails(), make()
    state = repr(module.state_dict())
    with pytest.raises(ValueError, match="in the search"):
        Tuner(trainer).lr_find(module)
    assert (repr(module.state_dict()), module.lr, trainer.state.fn) == (state, 0.02, None)


def test_what_is_refused() -> None:
    tuner, module = Tuner(make()), Net()
    with pytest.raises(MisconfigurationException, match=r"^Tuner\(1\): expected a leyden.Trainer"):
        Tuner(1)  # type: ignore[arg-type]
    with pytest.raises(
        MisconfigurationException, match=r"lr_find\(method='test'\): expected 'fit', which alone trains"
    ):
        tuner.lr_find(module, method="test")  # type: ignore[arg-type]
    with pytest.raises(MisconfigurationException, match=r"scale_batch_size\(method='fitt'\).* Did you mean 'fit'\?"):
        tuner.scale_batch_size(module, method="fitt")  # type: ignore[arg-type]
    with pytest.raises(MisconfigurationException, match=r"method='fit'\): give loaders as train_dataloaders"):
        tuner.lr_find(module, dataloaders=[1])
    with pytest.raises(MisconfigurationException, match=r"method='test'\): give loaders as dataloaders"):
        tuner.scale_batch_size(module, val_dataloaders=[1], method="test")
    for callback, call in ((LearningRateFinder(), "lr_find"), (BatchSizeFinder(), "scale_batch_size")):
        with pytest.raises(
            MisconfigurationException, match=rf"{call}: the trainer has a {type(callback).__name__} among"
        ):
            getattr(Tuner(make(callback)), call)(module)
    with pytest.raises(MisconfigurationException, match=r"no lr and no learning_rate"):
        tuner.lr_find(BoringModule())
    with pytest.raises(MisconfigurationException, match=r"^LearningRateFinder\(\.\.\.\) cannot work"):
        tuner.lr_find(module, min_lr=-1)


def test_fast_dev_run_searches_nothing(caplog: pytest.LogCaptureFixture) -> None:
    module = Net()
    with caplog.at_level(logging.INFO, "leyden"):
        assert Tuner(make(fast_dev_run=True)).lr_find(module) is None
        assert Tuner(make(fast_dev_run=True)).scale_batch_size(module) is None
    assert caplog.text.count("leaves its search out") == 2


def test_without_the_family_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import leyden.callbacks

    for name in ("LearningRateFinder", "BatchSizeFinder"):
        monkeypatch.delitem(vars(leyden.callbacks), name, raising=False)
    monkeypatch.setitem(sys.modules, "leyden_optim", None)
    for search in ("lr_find", "scale_batch_size"):
        with pytest.raises(ImportError, match=r"pip install leyden-callbacks-optim$"):
            getattr(Tuner(make()), search)(Net())
