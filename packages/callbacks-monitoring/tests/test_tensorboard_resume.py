"""A run that is resumed goes on in its folder: in TensorBoard it is the run that was never interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.loggers import CSVLogger
from leyden_monitoring import TensorBoardLogger
from leyden_monitoring.tensorboard_files import event_file_sizes, set_superseded_aside


class Cut(Exception):
    """Ends a run as a crash would."""


class Net(LightningModule):
    """Writes by every way: log, experiment, log_metrics with a dict, hyperparameters with metrics."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.example_input_array = torch.ones(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y

    def on_train_start(self) -> None:
        self.logger.log_hyperparams(self.hparams, {"hp/loss": 0.0})  # type: ignore[union-attr]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self(batch).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        writer = self.logger.experiment  # type: ignore[union-attr]
        writer.add_histogram("batch", batch, self.trainer.fit_loop.batches_that_stepped)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self(batch).mean(), on_step=True, on_epoch=True)

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log("hp/loss", self.trainer.callback_metrics["val"])
            lines: Any = {"a": 1.0, "b": 2.0}
            self.logger.log_metrics({"both": lines}, self.global_step)  # type: ignore[union-attr]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class SaveThenCut(Callback):
    """Saves at one training batch and crashes at a later one, in the middle of what would be logged."""

    def __init__(self, path: Path, save_at: int, cut_at: int) -> None:
        self.path, self.save_at, self.cut_at, self.seen = path, save_at, cut_at, 0

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.seen += 1
        if self.seen == self.save_at:
            trainer.save_checkpoint(self.path)
        if self.seen == self.cut_at:
            raise Cut


class SaveWhereCut(Callback):
    """Raises in the `at`-th call of a hook and saves after that: the cut batch or validation is done again."""

    saves_on_exception = True

    def __init__(self, path: Path, hook: str, at: int) -> None:
        self.path, self.left = path, at
        setattr(self, hook, self._maybe)

    def _maybe(self, trainer: Trainer, *_: Any) -> None:
        self.left -= not trainer.sanity_checking
        if self.left == 0:
            raise Cut

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        trainer.save_checkpoint(self.path)


def run(logger: Any, callbacks: Any = (), ckpt_path: Any = None, seed: int = 1, **settings: Any) -> bool:
    torch.manual_seed(seed)
    data = torch.linspace(-1, 1, 40).view(10, 4)
    train: DataLoader[Any] = DataLoader(data, batch_size=2, shuffle=True)  # type: ignore[arg-type]
    val: DataLoader[Any] = DataLoader(data, batch_size=5)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        log_every_n_steps=1,
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        discover_callbacks=False,
        **settings,
    )
    try:
        trainer.fit(Net(), train, val, ckpt_path=ckpt_path)
    except Cut:
        return False
    return True


def everything(folder: str | Path) -> dict[str, Any]:
    """Every point of a run and of those below it, as TensorBoard's reader has them.

    By steps, since files begun within one second, as only tests do, are read in the order of their other numbers.
    """
    found: dict[str, Any] = {}
    for place in sorted({path.parent for path in Path(folder).rglob("*tfevents*")}):
        reader = EventAccumulator(str(place), size_guidance={"scalars": 0, "histograms": 0}).Reload()
        of_run = found[str(place.relative_to(folder))] = {"graph": reader.Tags()["graph"]}
        for tag in reader.Tags()["scalars"]:
            of_run[tag] = sorted((event.step, event.value) for event in reader.Scalars(tag))
        for tag in reader.Tags()["histograms"]:
            of_run[tag] = sorted((event.step, event.histogram_value.sum) for event in reader.Histograms(tag))
        for tag in reader.Tags()["tensors"]:
            of_run[tag] = reader.SummaryMetadata(tag).plugin_data.content
    return found


@pytest.mark.parametrize("settings", [{}, {"val_check_interval": 2, "accumulate_grad_batches": 2}])
@pytest.mark.parametrize(("save_at", "cut_at"), [(2, 3), (2, 13), (5, 7), (7, 7), (9, 14)])
def test_a_resumed_run_is_the_uninterrupted_one(
    tmp_path: Path, save_at: int, cut_at: int, settings: dict[str, Any]
) -> None:
    path = tmp_path / "a.ckpt"
    straight = TensorBoardLogger(tmp_path, "straight", log_graph=True)
    assert run(straight, **settings)
    cut = TensorBoardLogger(tmp_path, "cut", log_graph=True)
    assert not run(cut, [SaveThenCut(path, save_at, cut_at)], **settings)
    resumed = TensorBoardLogger(tmp_path, "cut", log_graph=True)
    assert run(resumed, ckpt_path=path, seed=99, **settings)
    assert (resumed.log_dir, resumed.version) == (cut.log_dir, 0)
    expected, found = everything(straight.log_dir), everything(resumed.log_dir)
    assert found == expected
    assert {"loss_step", "loss_epoch", "val_step", "val_epoch", "hp/loss", "batch", "epoch"} <= set(expected["."])
    assert expected["both_a"]["both"][-1] == (8 if settings else 15, 1.0)
    for tag in ("loss_step", "loss_epoch", "batch", "val_step", "epoch"):
        points = found["."][tag]
        assert len({step for step, _ in points}) == len(points) or settings, tag  # no step twice
    assert list(Path(resumed.log_dir).glob("superseded-0.*")) != [], "what was written twice is kept"


@pytest.mark.parametrize(
    ("hook", "at"),
    [
        ("on_before_backward", 1),
        ("on_after_backward", 8),
        ("on_train_batch_end", 5),
        ("on_validation_batch_start", 4),
        ("on_validation_batch_end", 3),
        ("on_validation_epoch_end", 2),
        ("on_train_epoch_end", 1),
    ],
)
def test_a_run_cut_by_an_exception_goes_on_from_before_it(tmp_path: Path, hook: str, at: int) -> None:
    """What the cut batch had written, by the module's own writer too, is written once."""
    path = tmp_path / "a.ckpt"
    straight = TensorBoardLogger(tmp_path, "straight", log_graph=True)
    assert run(straight)
    assert not run(TensorBoardLogger(tmp_path, "cut", log_graph=True), [SaveWhereCut(path, hook, at)])
    resumed = TensorBoardLogger(tmp_path, "cut", log_graph=True)
    assert run(resumed, ckpt_path=path, seed=99)
    assert everything(resumed.log_dir) == everything(straight.log_dir)


KILLED = """
import os, runpy, signal, sys
from pathlib import Path
here = runpy.run_path(sys.argv[1])

class SaveThenKill(here["SaveThenCut"]):
    def on_before_backward(self, *_):
        if self.seen == 8:  # the step has written its histogram, and nothing of it is flushed
            os.kill(os.getpid(), signal.SIGKILL)

logger = here["TensorBoardLogger"](sys.argv[2], "cut", log_graph=True)
here["run"](logger, [SaveThenKill(Path(sys.argv[2], "a.ckpt"), 6, 0)])
"""


def test_a_killed_process_is_gone_on_from(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, __file__, tmp_path], check=False)
    assert killed.returncode == -signal.SIGKILL
    straight = TensorBoardLogger(tmp_path, "straight", log_graph=True)
    assert run(straight)
    resumed = TensorBoardLogger(tmp_path, "cut", log_graph=True)
    assert run(resumed, ckpt_path=tmp_path / "a.ckpt", seed=99)
    assert everything(resumed.log_dir) == everything(straight.log_dir)


def test_a_resumed_run_is_resumed_again(tmp_path: Path) -> None:
    first, second = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    assert run(straight := TensorBoardLogger(tmp_path, "straight"))
    assert not run(TensorBoardLogger(tmp_path, "cut"), [SaveThenCut(first, 2, 6)])
    assert not run(TensorBoardLogger(tmp_path, "cut"), [SaveThenCut(second, 4, 8)], first)
    assert run(resumed := TensorBoardLogger(tmp_path, "cut"), ckpt_path=second)
    assert everything(resumed.log_dir) == everything(straight.log_dir)


def test_the_same_logger_goes_on_in_the_same_process(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    assert run(straight := TensorBoardLogger(tmp_path, "straight"))
    logger = TensorBoardLogger(tmp_path, "cut")
    assert not run(logger, [SaveThenCut(path, 3, 7)])
    assert run(logger, ckpt_path=path)
    assert everything(logger.log_dir) == everything(straight.log_dir)


@pytest.mark.parametrize("other", [{"name": "other"}, {"version": "other"}, {"sub_dir": "other"}, {"version": 7}])
def test_a_logger_with_another_folder_starts_a_run_of_its_own(tmp_path: Path, other: dict[str, Any]) -> None:
    path = tmp_path / "a.ckpt"
    cut = TensorBoardLogger(tmp_path)
    assert not run(cut, [SaveThenCut(path, 3, 7)])
    before = {file: file.read_bytes() for file in Path(cut.log_dir).rglob("*") if file.is_file()}
    assert run(logger := TensorBoardLogger(tmp_path, **other), ckpt_path=path)
    assert {file: file.read_bytes() for file in before} == before
    assert [step for step, _ in everything(logger.log_dir)["."]["loss_step"]] == list(range(2, 15))


@pytest.mark.parametrize(("first", "second"), [(CSVLogger, TensorBoardLogger), (TensorBoardLogger, CSVLogger)])
def test_a_run_may_go_on_with_a_logger_of_another_kind(tmp_path: Path, first: Any, second: Any) -> None:
    """It starts a run of its own, though it has the place of the other in the list and its folder."""
    before = first(tmp_path)
    before.log_hyperparams({"lr": 0.1})
    after = second(tmp_path)
    after.load_state_dict(before.state_dict())
    assert (before.version, after.version) == (0, 1)


def test_each_of_several_loggers_goes_on_in_its_folder(tmp_path: Path) -> None:
    """One of them in a folder within that of the other."""

    def loggers(name: str) -> list[TensorBoardLogger]:
        return [TensorBoardLogger(tmp_path, name, version=0), TensorBoardLogger(tmp_path, name, 0, sub_dir="inner")]

    path = tmp_path / "a.ckpt"
    assert run(straight := loggers("straight"))
    assert not run(loggers("cut"), [SaveThenCut(path, 3, 7)])
    assert run(resumed := loggers("cut"), ckpt_path=path)
    assert everything(resumed[0].log_dir) == everything(straight[0].log_dir)
    assert "loss_step" in everything(resumed[0].log_dir)["inner"]


def test_a_checkpoint_is_saved_though_the_points_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"x": 1.0}, 0)
    logger.save()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logger.experiment.file_writer.event_writer, "flush", full)
    with pytest.warns(UserWarning, match=r"saved without the latest points.*version_0: No space left on device"):
        state = logger.state_dict()
    assert list(state["event_files"].values()) == [path.stat().st_size for path in Path(logger.log_dir).iterdir()]


def test_only_what_came_later_is_set_aside(tmp_path: Path) -> None:
    kept, grown, new = (tmp_path / f"events.out.tfevents.{n}" for n in range(3))
    (tmp_path / "notes.txt").write_text("mine")
    kept.write_bytes(b"kept")
    grown.write_bytes(b"old")
    sizes = event_file_sizes(str(tmp_path))
    for end in (b"1", b"2"):
        grown.write_bytes(b"old" + end)
        new.write_bytes(b"new" + end)
        set_superseded_aside(str(tmp_path), sizes)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "notes.txt": b"mine",
        kept.name: b"kept",
        grown.name: b"old",
        **{"superseded-0.events.out.1": b"1", "superseded-0.events.out.2": b"new1"},
        **{"superseded-1.events.out.1": b"2", "superseded-1.events.out.2": b"new2"},
    }
