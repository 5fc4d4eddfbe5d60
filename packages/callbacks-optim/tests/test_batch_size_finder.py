"""BatchSizeFinder: what fits, in every entry point, what it sets, and what it refuses."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from leyden import Callback, LightningDataModule, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden.runtime.strategy import Strategy
from leyden_optim import BatchSizeFinder

ROWS: Any = torch.linspace(-1, 1, 400).view(100, 4)


class Net(LightningModule):
    """Fits `room` samples a training step, `room_to_evaluate` a step of another kind."""

    def __init__(self, room: int = 50, room_to_evaluate: int = 1000, error: BaseException | None = None) -> None:
        super().__init__()
        self.room, self.room_to_evaluate = room, room_to_evaluate
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        self.batch_size = 2
        self.layer = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))

    def loss(self, batch: Tensor, room: int) -> Tensor:
        loss: Tensor = self.layer(batch).square().mean()
        self.told(f"{len(batch)}")
        if len(batch) > room:
            raise self.error
        return loss

    def told(self, what: str) -> None:
        """Hear of each step."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.loss(batch, self.room)

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.loss(batch, self.room_to_evaluate)

    def test_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.loss(batch, self.room_to_evaluate)

    def predict_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.loss(batch, self.room_to_evaluate)
        return batch

    def train_dataloader(self) -> Any:
        return DataLoader(ROWS, batch_size=self.batch_size)

    def val_dataloader(self) -> Any:
        return DataLoader(ROWS, batch_size=self.batch_size)

    def test_dataloader(self) -> Any:
        return DataLoader(ROWS, batch_size=self.batch_size)

    def predict_dataloader(self) -> Any:
        return DataLoader(ROWS, batch_size=self.batch_size)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Heard(Net):
    """Keeps what it hears, where no search takes it back."""

    def __init__(self, *arguments: Any, **kwargs: Any) -> None:
        super().__init__(*arguments, **kwargs)
        object.__setattr__(self, "told", HEARD.append)


HEARD: list[str] = []


@pytest.fixture(autouse=True)
def _silence() -> None:
    HEARD.clear()


def make(*callbacks: Callback, **arguments: Any) -> Trainer:
    arguments = {"max_epochs": 1, "logger": False, "num_sanity_val_steps": 0} | arguments
    return Trainer(accelerator="cpu", callbacks=callbacks, discover_callbacks=False, **arguments)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [({}, 32), ({"mode": "binsearch", "margin": 0.0}, 50), ({"mode": "binsearch"}, 47), ({"max_val": 20}, 20)],
)
@pytest.mark.parametrize(
    "error",
    [None, RuntimeError("CUDA error: out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
    ids=["its own class", "of the driver", "of the CPU"],
)
def test_a_fit_trains_with_the_largest_that_fits(arguments: dict[str, Any], found: int, error: Any) -> None:
    finder, module = BatchSizeFinder(**arguments), Net(error=error)
    trainer = make(finder)
    trainer.fit(module)
    assert finder.optimal_batch_size == module.batch_size == found
    assert trainer.train_dataloader.batch_size == trainer.val_dataloaders.batch_size == found
    assert trainer.num_training_batches == trainer.global_step == -(-100 // found)


def test_each_trial_makes_some_steps_and_some_validation_batches() -> None:
    make(BatchSizeFinder(steps_per_trial=2, max_trials=3), limit_train_batches=1.0, max_epochs=1).fit(Heard())
    assert [*["2"] * 4, *["4"] * 4, *["8"] * 4, *["8"] * 12, "4", *["8"] * 12, "4"] == HEARD


def test_steps_are_those_of_the_optimizer() -> None:
    finder = BatchSizeFinder(steps_per_trial=2, max_trials=1)
    make(finder, accumulate_grad_batches=3, limit_val_batches=0, limit_train_batches=4).fit(Heard())
    # An epoch of four batches has the steps of three and of one; the other four are the run.
    assert HEARD == ["2"] * 8


def test_validation_has_to_fit_too() -> None:
    finder = BatchSizeFinder()
    make(finder).fit(Net(room_to_evaluate=20))
    assert finder.optimal_batch_size == 16
    make(finder, limit_val_batches=0).fit(Net(room_to_evaluate=20))
    assert finder.optimal_batch_size == 32


def test_no_batch_is_larger_than_the_dataset() -> None:
    finder, module = BatchSizeFinder(), Net(room=10_000)
    trainer = make(finder)
    trainer.fit(module)
    assert (module.batch_size, trainer.num_training_batches) == (100, 1)


@pytest.mark.parametrize("fn", ["validate", "test", "predict"])
def test_an_evaluation_reads_the_largest_that_fit(fn: str) -> None:
    finder, module = BatchSizeFinder("binsearch", margin=0.0), Net(room_to_evaluate=30)
    trainer = make(finder)
    result = getattr(trainer, fn)(module)
    assert finder.optimal_batch_size == module.batch_size == 30
    loaders = {"validate": "val_dataloaders", "test": "test_dataloaders", "predict": "predict_dataloaders"}
    assert getattr(trainer, loaders[fn]).batch_size == 30
    if fn == "predict":
        assert [len(batch) for batch in result] == [30, 30, 30, 10]
        assert torch.equal(torch.cat(result), ROWS)


def test_every_dataloader_of_an_evaluation_has_to_fit() -> None:
    class Two(Net):
        def val_dataloader(self) -> Any:
            wide: Any = ROWS.repeat(1, 1)
            return [DataLoader(ROWS, batch_size=self.batch_size), DataLoader(wide, batch_size=self.batch_size)]

        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
            self.loss(batch, 20 if dataloader_idx else 40)

    finder = BatchSizeFinder("binsearch", margin=0.0)
    make(finder).validate(Two())
    assert finder.optimal_batch_size == 20


def test_an_evaluation_is_what_it_is_without_a_search() -> None:
    class Draws(Net):
        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
            self.loss(batch, 30)
            self.log("value", torch.rand(()) + batch.mean())

        def val_dataloader(self) -> Any:
            return DataLoader(ROWS, batch_size=self.batch_size, shuffle=True)

    results = []
    for finders in ([BatchSizeFinder("binsearch", margin=0.0)], []):
        torch.manual_seed(1)
        module = Draws()
        module.batch_size = 2 if finders else 30
        weights = copy.deepcopy(module.state_dict())
        trainer = make(*finders)
        torch.manual_seed(2)
        results.append((trainer.validate(module, verbose=False), torch.get_rng_state().tolist(), module.batch_size))
        assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())
    # The loader's hook and its pass begin, as a fit's does, after the search; the first request is before it.
    assert results[0] == results[1]


def test_a_validation_within_fit_searches_nothing() -> None:
    class Counts(BatchSizeFinder):
        searches = 0

        def search(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.searches += 1
            super().search(trainer, pl_module)

    finder = Counts()
    make(finder, max_epochs=2, num_sanity_val_steps=1).fit(Net())
    assert finder.searches == 1


class Data(LightningDataModule):
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        return DataLoader(ROWS, batch_size=self.hparams.size)


def test_a_datamodule_may_keep_the_size_under_another_name() -> None:
    data, module = Data(), Net()
    make(BatchSizeFinder(batch_arg_name="size"), limit_val_batches=0).fit(module, datamodule=data)
    assert (data.hparams.size, module.batch_size) == (32, 2)
    assert data.trainer is module.trainer


def test_a_size_that_all_processes_can_take() -> None:
    class Two(Strategy):
        def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
            return decision and len(HEARD) < 12  # the other process has less room

    finder = BatchSizeFinder(steps_per_trial=3)
    make(finder, strategy=Two(torch.device("cpu")), limit_val_batches=0).fit(Heard())
    assert finder.optimal_batch_size == 8


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyboardInterrupt()])
def test_another_error_is_raised_and_leaves_no_trace(error: BaseException) -> None:
    finder, module = BatchSizeFinder(), Net(room=10, error=error)
    weights = copy.deepcopy(module.state_dict())
    with pytest.raises(type(error)):
        make(finder).fit(module)
    assert (module.batch_size, finder.optimal_batch_size) == (2, None)
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


def test_where_nothing_fits_the_error_says_so() -> None:
    module = Net(room=0)
    module.layer = nn.Sequential(nn.Linear(4, 1))
    with pytest.raises(MisconfigurationException, match=r"no batch size that was tried fits into memory, from 2 down"):
        make(BatchSizeFinder()).fit(module)
    assert module.batch_size == 2


# -- what is refused ------------------------------------------------------------------------------------------------


def test_loaders_that_are_passed_are_refused() -> None:
    trainer = make(BatchSizeFinder())
    with pytest.raises(MisconfigurationException) as raised:
        trainer.fit(Net(), DataLoader(ROWS, batch_size=4))
    assert str(raised.value) == (
        "BatchSizeFinder: a train_dataloader was passed to Trainer.fit, and its batches have their size. Define "
        "train_dataloader() in the module or a datamodule, with batch_size=self.batch_size."
    )
    with pytest.raises(MisconfigurationException, match=r"a test_dataloader was passed to Trainer.test"):
        trainer.test(Net(), DataLoader(ROWS, batch_size=4))


def test_a_loader_that_does_not_use_the_attribute_is_refused() -> None:
    class Fixed(Net):
        def train_dataloader(self) -> Any:
            return DataLoader(ROWS, batch_size=16)

    with pytest.raises(
        MisconfigurationException, match=r"train_dataloader gave batches of 16 where batch_size is 2. Use"
    ):
        make(BatchSizeFinder()).fit(Fixed())


def test_a_sampler_of_batches_may_use_it_unseen() -> None:
    class Batched(Net):
        def train_dataloader(self) -> Any:
            return DataLoader(ROWS, batch_sampler=BatchSampler(SequentialSampler(ROWS), self.batch_size, False))

    finder = BatchSizeFinder(max_val=64)
    make(finder).fit(Batched())
    assert finder.optimal_batch_size == 32


def test_a_missing_attribute_is_named() -> None:
    module = Net()
    del module.batch_size
    for data, owners in ((None, "Net has"), (Data(), "Net and Data have")):
        with pytest.raises(
            MisconfigurationException, match=rf"^BatchSizeFinder: {owners} no batch_size, neither as an"
        ):
            make(BatchSizeFinder()).fit(module, datamodule=data)


def test_it_is_left_out_under_fast_dev_run(caplog: pytest.LogCaptureFixture) -> None:
    finder, module = BatchSizeFinder(), Net()
    with caplog.at_level(logging.INFO, "leyden"):
        make(finder, fast_dev_run=True).fit(module)
    assert "BatchSizeFinder leaves its search out" in caplog.text
    assert (finder.optimal_batch_size, module.batch_size) == (None, 2)


def test_every_bad_argument_is_named_at_once() -> None:
    with pytest.raises(MisconfigurationException) as raised:
        BatchSizeFinder("half", 0, 1.5, True, "", 1.0, None)  # type: ignore[arg-type]
    assert str(raised.value) == (
        "BatchSizeFinder(...) cannot work:\n"
        "  - mode='half': expected 'power' or 'binsearch'\n"
        "  - steps_per_trial=0: expected an int >= 1\n"
        "  - init_val=1.5: expected an int >= 1\n"
        "  - max_trials=True: expected an int >= 1\n"
        "  - max_val=None: expected an int >= 1\n"
        "  - batch_arg_name='': expected a name\n"
        "  - margin=1.0: expected a number from 0 to below 1"
    )


class ByHand(Net):
    """Steps two optimizers and their schedulers itself."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(self.loss(batch, self.room))
        for optimizer in self.optimizers():
            optimizer.step()
        for scheduler in self.lr_schedulers():
            scheduler.step()

    def configure_optimizers(self) -> Any:
        parts = (self.layer[0], self.layer[2])
        optimizers = [torch.optim.SGD(one.parameters(), lr=0.01, momentum=0.9) for one in parts]
        return optimizers, [torch.optim.lr_scheduler.ExponentialLR(one, 0.9) for one in optimizers]


def test_manual_optimisation_is_searched_and_is_as_with_the_size_given() -> None:
    found = []
    for size, finders in ((2, [BatchSizeFinder()]), (32, [])):
        torch.manual_seed(3)
        module = ByHand()
        module.batch_size = size
        trainer = make(*finders, max_epochs=2)
        trainer.fit(module)
        weights = {name: weight.tolist() for name, weight in module.state_dict().items()}
        states = [repr(optimizer.state_dict()) for optimizer in trainer.optimizers]
        found.append((weights, states, trainer.global_step, module.batch_size))
    assert found[0] == found[1]


def test_a_model_that_is_made_late_and_a_second_fit() -> None:
    class Late(Net):
        def configure_model(self) -> None:
            if not hasattr(self, "late"):
                self.late = nn.Linear(1, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return self.late(self.layer(batch)).square().mean() + 0 * self.loss(batch, self.room)

    found = []
    for size, finders in ((2, [BatchSizeFinder()]), (32, [])):
        torch.manual_seed(3)
        module = Late()
        module.batch_size = size
        trainer = make(*finders, max_epochs=1)
        trainer.fit(module)
        trainer.max_epochs = 2
        trainer.fit(module)
        weights = {name: weight.tolist() for name, weight in module.state_dict().items()}
        found.append((weights, trainer.global_step, torch.get_rng_state().tolist()))
    assert found[0] == found[1]
