"""SpikeDetection on trainings with a poisoned batch: what is raised, written, and left out by a restarted run."""

from __future__ import annotations

import json
import logging
import math
import pickle
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, Checkpoint, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden.loggers import CSVLogger
from leyden_optim import GradientAccumulationScheduler, SpikeDetection, TrainingSpikeException


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))


def batches_of(number: int, *poisoned: int) -> list[Tensor]:
    """Small numbers; a factor makes the loss of those that are poisoned a thousand times larger."""
    data = torch.rand(number, 4, 3, generator=torch.Generator().manual_seed(1))
    return [torch.cat([one, torch.full((4, 1), 1000.0 if at in poisoned else 1.0)], 1) for at, one in enumerate(data)]


def loss_of(net: nn.Module, batch: Tensor) -> Tensor:
    loss: Tensor = ((net(batch[:, :3]) - 1).square() * batch[:, 3:]).mean()
    return loss


class Net(LightningModule):
    """Writes down the batches that it is trained on."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.trained: list[tuple[int, int]] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.trained.append((self.current_epoch, batch_idx))
        return loss_of(self.net, batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def by_hand(batches: Sequence[Tensor], epochs: int, without: Collection[tuple[int, int]], factor: int = 1) -> nn.Module:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    loss: Any
    for epoch in range(epochs):
        for start in range(0, len(batches), factor):
            used = [at for at in range(start, min(start + factor, len(batches))) if (epoch, at) not in without]
            optimizer.zero_grad()
            for at in used:
                loss = loss_of(net, batches[at])
                (loss if factor == 1 else loss / factor).backward()
            if used:
                optimizer.step()
    return net


def assert_same(module: nn.Module, reference: nn.Module) -> None:
    for (name, ours), theirs in zip(module.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def trainer_with(*callbacks: Callback, **given: Any) -> Trainer:
    quiet = {"logger": False, "max_epochs": 2, "discover_callbacks": False}
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **(quiet | given))


class Saves(Checkpoint):
    """Saves after each batch, when the others had it; and, if asked to, on exceptions."""

    def __init__(self, folder: Path, on_exception: bool = False) -> None:
        self.folder, self.saves_on_exception = folder, on_exception

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.fit_loop.batches_seen}.ckpt")

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        if self.saves_on_exception:
            trainer.save_checkpoint(self.folder / "exception.ckpt")


# -- what is raised and written -----------------------------------------------------------------------------------


def test_the_exception_says_which_batch_and_what_to_do(tmp_path: Path) -> None:
    module, batches = Net(), batches_of(6, 4)
    with pytest.raises(TrainingSpikeException) as error:
        trainer_with(SpikeDetection(window=3), default_root_dir=tmp_path).fit(module, batches)
    spike = error.value
    path = tmp_path / "skip_batches.json"
    assert (spike.batch_idx, spike.epoch, spike.__cause__) == (4, 0, None)
    assert spike.loss > 1000 * 0.5 * spike.mean
    assert str(spike) == (
        f"The training loss spiked at batch 4 of epoch 0: {spike.loss:.5g}, against a mean of {spike.mean:.5g} over 3 "
        "before (mode='min', atol=None, rtol=2.0, finite_only=True). A run that goes on from a checkpoint, by "
        f"fit(ckpt_path=...), leaves out batches 3 and 4 of each epoch, which {str(path)!r} names now."
    )
    entries = json.loads(path.read_text())
    assert entries == [{"epoch": None, "batch": at, "loss": spike.loss, "mean": spike.mean} for at in (3, 4)]
    again = pickle.loads(pickle.dumps(spike))
    assert (str(again), again.batch_idx, again.epoch, again.loss) == (str(spike), 4, 0, spike.loss)
    assert_same(module.net[0], by_hand(batches[:4], 1, ())[0])  # type: ignore[index]  # the batch changed no weight


def test_it_may_be_raised_by_hand() -> None:
    assert str(TrainingSpikeException(7)) == "The training loss spiked at batch 7."


@pytest.mark.parametrize("at", [0, 1])
def test_a_loss_that_is_not_finite_is_a_spike_from_the_first_batch_on(tmp_path: Path, at: int) -> None:
    batches = batches_of(3)
    batches[at] *= math.nan
    with pytest.raises(TrainingSpikeException, match=f"batch {at} of epoch 0: nan, against .* before"):
        trainer_with(SpikeDetection(), default_root_dir=tmp_path).fit(Net(), batches)
    assert json.loads((tmp_path / "skip_batches.json").read_text())[-1]["loss"] == "nan"
    trainer = trainer_with(SpikeDetection(finite_only=False, exclude_batches_path=tmp_path / "other.json"))
    trainer.fit(Net(), batches)
    assert trainer.global_step == 6


def test_the_file_is_in_the_folder_of_the_run_or_where_it_was_said(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path / "logs")
    for path in (None, str(tmp_path / "deep" / "bad.json"), tmp_path / "folder.of" / "run"):
        spikes = SpikeDetection(exclude_batches_path=path)
        with pytest.raises(TrainingSpikeException):
            trainer_with(spikes, logger=logger).fit(Net(), batches_of(3, 2))
    assert (Path(logger.log_dir) / "skip_batches.json").is_file()
    assert (tmp_path / "deep" / "bad.json").is_file()
    assert (tmp_path / "folder.of" / "run" / "skip_batches.json").is_file()


def test_a_file_that_cannot_be_written_does_not_hide_the_spike(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    spikes = SpikeDetection(exclude_batches_path="/dev/null/skip.json")
    with pytest.raises(MisconfigurationException, match="is no list of batches"):
        trainer_with(spikes).fit(Net(), batches_of(3, 2))
    spikes = SpikeDetection(exclude_batches_path="/proc/skip.json")
    with pytest.raises(
        TrainingSpikeException, match=r"cannot be written \(.*\), and does not name batches 1 and 2"
    ) as e:
        trainer_with(spikes).fit(Net(), batches_of(3, 2))
    assert isinstance(e.value.__cause__, OSError)


@pytest.mark.parametrize(
    ("given", "factor"),
    [({"accumulate_grad_batches": 2}, 2), ({"precision": "bf16-mixed"}, 1), ({"precision": "16-mixed"}, 1)],
)
def test_the_loss_is_that_of_the_step(tmp_path: Path, given: dict[str, Any], factor: int) -> None:
    class Constant(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return loss_of(self.net, batch) * 0 + (2.0 if batch_idx < 4 else 20.0)

    with pytest.raises(TrainingSpikeException) as error:
        trainer_with(SpikeDetection(), default_root_dir=tmp_path, **given).fit(Constant(), batches_of(6))
    assert (error.value.batch_idx, error.value.loss, error.value.mean) == (4, 20.0, 2.0)


def test_the_first_loss_of_a_batch_counts(tmp_path: Path) -> None:
    class Alternating(Net):
        """A small loss and a large one in each batch."""

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
            optimizer = self.optimizers()
            for factor in (1, 100):
                optimizer.zero_grad()
                self.manual_backward(loss_of(self.net, batch) * factor)
            if batch_idx == 3:
                optimizer.step()

    spikes = SpikeDetection(exclude_batches_path=tmp_path / "skip.json")
    trainer_with(spikes).fit(Alternating(), batches_of(4))
    assert spikes.state_dict()["seen"] == 8
    with pytest.raises(TrainingSpikeException) as error:
        trainer_with(spikes).fit(Alternating(), batches_of(4, 2))
    assert error.value.batch_idx == 2
    module = Alternating()
    trainer_with(spikes).fit(module, batches_of(4, 2))  # which leaves batches 1 and 2 out
    assert spikes.state_dict()["seen"] == 4


def test_lbfgs_evaluates_a_loss_several_times_a_batch(tmp_path: Path) -> None:
    class SecondOrder(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=4)

    spikes = SpikeDetection(exclude_batches_path=tmp_path / "skip.json")
    module = SecondOrder()
    trainer_with(spikes).fit(module, batches_of(3))
    assert len(module.trained) > 6
    assert spikes.state_dict()["seen"] == 6
    with pytest.raises(TrainingSpikeException):
        trainer_with(spikes).fit(SecondOrder(), batches_of(4, 3))
    module = SecondOrder()
    trainer_with(spikes, max_epochs=1).fit(module, batches_of(4, 3))
    assert {batch for _, batch in module.trained} == {0, 1}


# -- restarted ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("from_exception", [False, True])
def test_a_restarted_run_is_the_run_without_those_batches(tmp_path: Path, factor: int, from_exception: bool) -> None:
    batches = batches_of(6, 4)
    given: dict[str, Any] = {"accumulate_grad_batches": factor, "default_root_dir": tmp_path}
    with pytest.raises(TrainingSpikeException):
        trainer_with(SpikeDetection(), Saves(tmp_path, True), **given).fit(Net(), batches)
    # Of the two batches the one before was trained already where the exception made the checkpoint.
    path, without = ("exception.ckpt", {(0, 4)}) if from_exception else ("2.ckpt", {(0, 3), (0, 4)})
    without |= {(1, 3), (1, 4)}
    module, spikes = Net(), SpikeDetection()
    trainer = trainer_with(spikes, **given)
    trainer.fit(module, batches, ckpt_path=tmp_path / path)
    first = [(0, 5)] if from_exception else [(0, 2), (0, 5)]
    assert module.trained == [*first, (1, 0), (1, 1), (1, 2), (1, 5)]
    assert_same(module.net, by_hand(batches, 2, without, factor))
    assert trainer.fit_loop.batches_seen == 12
    assert spikes.state_dict()["seen"] == 12 - len(without)


def test_of_shuffled_data_it_is_a_batch_of_that_epoch(tmp_path: Path) -> None:
    items = torch.cat(batches_of(6))
    items[9, 3] = 1e5

    def fit(module: Net, seed: int, path: Path | None = None) -> None:
        torch.manual_seed(seed)
        loader: Any = DataLoader(items, batch_size=4, shuffle=True)  # type: ignore[arg-type]  # a tensor is a dataset
        spikes = SpikeDetection(rtol=5.0)
        trainer = trainer_with(spikes, Saves(tmp_path), default_root_dir=tmp_path, max_epochs=1)
        trainer.fit(module, loader, ckpt_path=path)

    with pytest.raises(TrainingSpikeException) as error:
        fit(Net(), 4)
    at = error.value.batch_idx
    assert at > 1
    entries = json.loads((tmp_path / "skip_batches.json").read_text())
    assert [(one["epoch"], one["batch"]) for one in entries] == [(0, at - 1), (0, at)]
    module = Net()
    fit(module, 5, tmp_path / f"{at - 1}.ckpt")
    assert [batch for _, batch in module.trained] == list(range(at + 1, 6))


def test_each_restart_leaves_out_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    batches, path = batches_of(8, 3, 6), tmp_path / "skip.json"
    for seen in (3, 6):
        with pytest.raises(TrainingSpikeException) as error:
            trainer_with(SpikeDetection(exclude_batches_path=path)).fit(Net(), batches)
        assert (error.value.epoch, error.value.batch_idx) == (0, seen)
    module = Net()
    with caplog.at_level(logging.INFO, logger="leyden"):
        trainer_with(SpikeDetection(exclude_batches_path=path), max_epochs=1).fit(module, batches)
    assert [batch for _, batch in module.trained] == [0, 1, 4, 7]
    assert f"SpikeDetection leaves out the 4 batches that {path} names." in caplog.text


def test_a_second_run_with_a_logger_has_a_folder_and_a_file_of_its_own(tmp_path: Path) -> None:
    batches = batches_of(4, 3)
    for _ in range(2):
        with pytest.raises(TrainingSpikeException):
            trainer_with(SpikeDetection(), Saves(tmp_path), logger=CSVLogger(tmp_path)).fit(Net(), batches)
    module = Net()  # which goes on in the folder of the second
    trainer_with(SpikeDetection(), logger=CSVLogger(tmp_path), max_epochs=1).fit(
        module, batches, ckpt_path=tmp_path / "1.ckpt"
    )
    assert [batch for _, batch in module.trained] == [1]


def test_the_list_of_lightning_is_left_out_in_each_epoch(tmp_path: Path) -> None:
    (tmp_path / "skip_batches.json").write_text("[0, 2]")
    module, batches = Net(), batches_of(4)
    growing = GradientAccumulationScheduler({1: 3})
    trainer_with(SpikeDetection(), growing, default_root_dir=tmp_path).fit(module, batches)
    assert module.trained == [(0, 1), (0, 3), (1, 1), (1, 3)]


class Cut(Exception):
    """Ends a run as a crash would."""


@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_before_backward", "on_after_backward"])
@pytest.mark.parametrize("saves_on_exception", [False, True])
def test_the_window_goes_on_exactly_from_anywhere(tmp_path: Path, hook: str, saves_on_exception: bool) -> None:
    class CutAt(Saves):
        def __init__(self, at: int) -> None:
            super().__init__(tmp_path, saves_on_exception)
            self.left = at

        def _count(self, name: str) -> None:
            self.left -= name == hook
            if name == hook and not self.left:
                raise Cut

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            super().on_train_batch_end(trainer)
            self._count("on_train_batch_end")

        def on_before_backward(self, *_: Any) -> None:
            self._count("on_before_backward")

        def on_after_backward(self, *_: Any) -> None:
            self._count("on_after_backward")

    def run(*callbacks: Callback, path: Path | None = None) -> dict[str, Any]:
        spikes = SpikeDetection(window=4, rtol=1e9)
        trainer = trainer_with(spikes, *callbacks, default_root_dir=tmp_path, max_epochs=3)
        trainer.fit(Net(), batches_of(3), ckpt_path=path)
        return spikes.state_dict()

    whole = run()
    assert (whole["seen"], len(whole["window"])) == (9, 4)
    for at in range(2, 9):
        with pytest.raises(Cut):
            run(CutAt(at))
        done = at if hook == "on_train_batch_end" else at - 1
        assert run(path=tmp_path / ("exception.ckpt" if saves_on_exception else f"{done}.ckpt")) == whole, at


# -- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"mode": "mins"}, "mode='mins': expected 'min' or 'max'. Did you mean 'min'?"),
        ({"window": 0}, "window=0: expected a number of batches (int >= 1)"),
        ({"warmup": -1}, "warmup=-1: expected a number of batches (int >= 0)"),
        ({"atol": -1.0}, "atol=-1.0: expected a number >= 0 or None"),
        ({"rtol": math.nan}, "rtol=nan: expected a number >= 0 or None"),
        ({"rtol": None}, "atol=None and rtol=None make a spike of every loss above the mean; give one of them"),
        ({"exclude_batches_path": ""}, "exclude_batches_path='': expected the path of a file or None"),
        ({"exclude_batches_path": 3}, "exclude_batches_path=3: expected the path of a file or None"),
        (
            {"exclude_batches_path": "s3://bucket/skip.json"},
            "exclude_batches_path='s3://bucket/skip.json': a URL cannot be; name a file of this machine",
        ),
        ({"finite_only": 1}, "finite_only=1: expected True or False"),
    ],
)
def test_an_argument_that_cannot_work_is_an_error_at_once(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(MisconfigurationException) as error:
        SpikeDetection(**arguments)
    assert str(error.value) == f"SpikeDetection(...) cannot work:\n  - {told}"


def test_a_file_of_another_kind_is_an_error_as_fit_begins(tmp_path: Path) -> None:
    path = tmp_path / "skip.json"
    path.write_text("{}")
    module = Net()
    with pytest.raises(MisconfigurationException, match=r"is no list of batches \(it holds {}\); expected"):
        trainer_with(SpikeDetection(exclude_batches_path=path)).fit(module, batches_of(2))
    assert module.trained == []


def test_the_folder_of_the_run_has_to_be_on_this_machine() -> None:
    with pytest.raises(MisconfigurationException, match="the folder of the run is 'memory://run', but the file"):
        trainer_with(SpikeDetection(), default_root_dir="memory://run").fit(Net(), batches_of(2))
