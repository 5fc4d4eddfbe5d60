"""OnExceptionCheckpoint: whatever ends a training, it goes on from there as if nothing had been."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningModule, Trainer
from leyden.errors import MisconfigurationException
from leyden.state import storage
from leyden.testing import BoringModule
from leyden_checkpoint import ModelCheckpoint, OnExceptionCheckpoint


def exception() -> None:
    raise RuntimeError("in the step")


def interrupt() -> None:
    raise KeyboardInterrupt


def leave() -> None:
    raise SystemExit(3)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class At(Callback):
    """Does something in the training step with this number, counted from one."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step + 1 == self.step:
            self.act()


class Dropping(BoringModule):
    """Four shuffled batches an epoch, dropout, Adam: what is lost or repeated shows in the weights."""

    def __init__(self) -> None:
        super().__init__(batches={"train": 4})

    def loss(self, batch: Tensor) -> Tensor:
        return torch.nn.functional.dropout(self(batch), 0.5, self.training).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.1)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(super().train_dataloader().dataset, batch_size=2, shuffle=True)


def trainer_with(*callbacks: Callback, **given: Any) -> Trainer:
    quiet = {"max_epochs": 3, "logger": False, "num_sanity_val_steps": 0, "discover_callbacks": False}
    return Trainer(callbacks=list(callbacks), **(quiet | given))


def trained(*callbacks: Callback, seed: int, ckpt_path: str | None = None, **given: Any) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    module = Dropping()
    trainer_with(*callbacks, **given).fit(module, ckpt_path=ckpt_path)
    return module.state_dict()


@pytest.mark.parametrize(
    ("act", "raised", "step"),
    [
        (exception, RuntimeError, 6),
        (interrupt, KeyboardInterrupt, 6),
        (leave, SystemExit, 6),
        (terminate, SystemExit, 7),
    ],
)
def test_training_goes_on_from_where_it_was_cut(
    act: Callable[[], None], raised: type[BaseException], step: int
) -> None:
    """The batch that failed is repeated; after SIGTERM the batch that was running is done first."""
    whole = trained(seed=5)
    checkpoint = OnExceptionCheckpoint("kept")
    with pytest.raises(raised) as ended:
        trained(checkpoint, At(6, act), seed=5)
    assert "OnExceptionCheckpoint" not in "".join(getattr(ended.value, "__notes__", []))
    assert os.listdir("kept") == ["on_exception.ckpt"]
    assert storage.load(checkpoint.ckpt_path)["global_step"] == step - 1
    resumed = trained(OnExceptionCheckpoint("kept"), seed=99, ckpt_path=checkpoint.ckpt_path)
    for name in whole:
        assert torch.equal(resumed[name], whole[name])
    assert os.listdir("kept") == ["on_exception.ckpt"]


def test_sigterm_ends_with_its_exit_code() -> None:
    with pytest.raises(SystemExit) as ended:
        trainer_with(OnExceptionCheckpoint("kept"), At(2, terminate)).fit(BoringModule())
    assert ended.value.code == 143
    assert os.path.exists("kept/on_exception.ckpt")


def test_the_file_of_an_earlier_exception_is_replaced() -> None:
    for step in (2, 4):
        with pytest.raises(RuntimeError, match="in the step"):
            trainer_with(OnExceptionCheckpoint("kept", "cut"), At(step, exception)).fit(BoringModule())
    assert os.listdir("kept") == ["cut.ckpt"]
    assert storage.load("kept/cut.ckpt")["global_step"] == 3


def test_a_file_is_not_replaced_by_one_without_training() -> None:
    """A resumed run that fails in its setup has not yet what the file holds."""

    class Unprepared(BoringModule):
        def setup(self, stage: str) -> None:
            raise RuntimeError("no data")

    class Insane(BoringModule):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            raise RuntimeError("in the sanity check")

    Path("kept").mkdir()
    Path("kept/on_exception.ckpt").write_text("as it was")
    for module in (Unprepared(), Insane()):
        with pytest.raises(RuntimeError):
            trainer_with(OnExceptionCheckpoint("kept"), num_sanity_val_steps=1).fit(module)
    assert Path("kept/on_exception.ckpt").read_text() == "as it was"


def test_nothing_is_saved_without_an_exception_nor_outside_of_training() -> None:
    class Break(BoringModule):
        def test_step(self, batch: Tensor, batch_idx: int) -> None:
            raise RuntimeError("in the test")

    trainer = trainer_with(OnExceptionCheckpoint("kept"), max_epochs=1)
    module = Break()
    trainer.fit(module)
    with pytest.raises(RuntimeError, match="in the test"):
        trainer.test(module)
    with pytest.raises(RuntimeError, match="in the step"):
        trainer_with(OnExceptionCheckpoint("kept"), At(1, exception), fast_dev_run=True).fit(module)
    assert not os.path.exists("kept")


def test_an_exception_in_a_validation_is_one_too() -> None:
    class Break(BoringModule):
        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            raise RuntimeError("in the validation")

    with pytest.raises(RuntimeError, match="in the validation"):
        trainer_with(OnExceptionCheckpoint("kept")).fit(Break())
    assert storage.load("kept/on_exception.ckpt")["global_step"] == 2


class Lazy(BoringModule):
    """Its layers, buffers among them, have no shape before the first batch."""

    def __init__(self) -> None:
        super().__init__(batches={"train": 4})
        self.net = torch.nn.Sequential(torch.nn.LazyLinear(3), torch.nn.LazyBatchNorm1d())

    def loss(self, batch: Tensor) -> Tensor:
        outputs: Tensor = self.net(batch)
        return outputs.square().mean()


def test_lazy_layers_train_and_go_on() -> None:
    checkpoint, resumed = OnExceptionCheckpoint("kept"), Lazy()
    torch.manual_seed(5)
    whole = Lazy()
    trainer_with().fit(whole)
    torch.manual_seed(5)
    with pytest.raises(RuntimeError, match="in the step"):
        trainer_with(checkpoint, At(3, exception)).fit(Lazy())
    trainer_with().fit(resumed, ckpt_path=checkpoint.ckpt_path)
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, resumed.state_dict()[name])


def test_a_save_that_fails_is_noted_on_the_exception() -> None:
    Path("kept").write_text("no folder")
    with pytest.raises(RuntimeError, match="in the step") as ended:
        trainer_with(OnExceptionCheckpoint("kept"), At(1, exception)).fit(BoringModule())
    assert "OnExceptionCheckpoint.on_exception raised" in "\n".join(ended.value.__notes__)


def test_beside_a_model_checkpoint_each_keeps_its_own() -> None:
    checkpoint, on_exception = ModelCheckpoint("kept", "{epoch}"), OnExceptionCheckpoint("kept")
    with pytest.raises(KeyboardInterrupt):
        trainer_with(checkpoint, on_exception, At(4, interrupt)).fit(BoringModule())
    assert sorted(os.listdir("kept")) == ["epoch=0.ckpt", "on_exception.ckpt"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("",), "dirpath='': expected the path of a folder"),
        ((3,), "dirpath=3: expected the path of a folder"),
        (("kept", ""), "filename='': expected a file name"),
        (("kept", "a/b"), "filename='a/b': expected a file name"),
        (("kept", ".."), "filename='..': expected a file name"),
    ],
)
def test_an_argument_that_cannot_work_is_an_error_at_once(arguments: tuple[Any, ...], told: str) -> None:
    with pytest.raises(MisconfigurationException) as error:
        OnExceptionCheckpoint(*arguments)
    assert told in str(error.value)


def test_all_wrong_arguments_are_told_at_once() -> None:
    with pytest.raises(MisconfigurationException) as error:
        OnExceptionCheckpoint("nowhere://a", "a/b")
    assert str(error.value).startswith(
        "OnExceptionCheckpoint(...) cannot work:\n  - dirpath='nowhere://a': fsspec knows"
    )
    assert str(error.value).count("\n  - ") == 2


def test_the_path_can_be_asked_for(tmp_path: Path) -> None:
    assert OnExceptionCheckpoint(tmp_path, "cut").ckpt_path == str(tmp_path / "cut.ckpt")
    assert OnExceptionCheckpoint("here").ckpt_path == os.path.abspath("here/on_exception.ckpt")
