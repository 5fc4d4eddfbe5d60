"""The seam to several processes: everything the loops ask of a strategy, by one that writes it down."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import Callback, LightningModule, Trainer
from leyden.runtime.strategy import SingleDeviceStrategy, Strategy

CPU = torch.device("cpu")


class Recording(Strategy):
    """The base case, with every call written down."""

    def __init__(self) -> None:
        super().__init__(CPU)
        self.calls: list[str] = []
        self.no_grad_sync = self.hold_back

    @contextlib.contextmanager
    def hold_back(self) -> Iterator[None]:
        self.calls.append("hold back")
        yield
        self.calls.append("let go")

    def setup_module(self, module: nn.Module) -> None:
        self.calls.append("setup_module")
        super().setup_module(module)

    def prepare_loader(self, loader: Any, stage: str) -> Any:
        self.calls.append(f"prepare_loader {stage}")
        return super().prepare_loader(loader, stage)

    def step_of(self, module: nn.Module, name: str) -> Callable[..., Any]:
        self.calls.append(f"step_of {name}")
        step = super().step_of(module, name)

        def run(batch: Any, batch_idx: int) -> Any:
            self.calls.append(f"{name} {batch_idx}")
            return step(batch, batch_idx)

        return run

    def clip_grad_norm(self, parameters: list[nn.Parameter], max_norm: float) -> Tensor:
        self.calls.append(f"clip {len(parameters)} {max_norm}")
        return super().clip_grad_norm(parameters, max_norm)

    def barrier(self, name: str | None = None) -> None:
        self.calls.append(f"barrier {name}")

    def teardown(self) -> None:
        self.calls.append("teardown")


class Module(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.layer(batch).sum()  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", batch.sum())

    def test_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return batch

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(strategy: Any, **arguments: Any) -> Trainer:
    arguments = {"max_epochs": 1, "num_sanity_val_steps": 0, **arguments}
    return Trainer(accelerator="cpu", strategy=strategy, logger=False, discover_callbacks=False, **arguments)


def batches(number: int) -> list[Tensor]:
    return [torch.ones(1, 1)] * number


def test_a_fit_asks_the_strategy_for_everything(tmp_path: Any) -> None:
    strategy = Recording()
    trainer = make_trainer(strategy, accumulate_grad_batches=2, gradient_clip_val=0.5)
    assert trainer.strategy is strategy
    trainer.fit(Module(), batches(3), batches(1))
    assert strategy.calls == [
        *("barrier prepare_data", "setup_module", "prepare_loader train", "prepare_loader validate"),
        *("step_of training_step", "hold back", "training_step 0", "let go"),
        *("training_step 1", "clip 2 0.5", "training_step 2", "clip 2 0.5"),
        *("step_of validation_step", "validation_step 0", "teardown"),
    ]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert strategy.calls[-1] == "teardown"  # one process asks nobody before it writes


@pytest.mark.parametrize(
    ("fn", "step"), [("validate", "validation_step"), ("test", "test_step"), ("predict", "predict_step")]
)
def test_evaluation_asks_it_too(fn: str, step: str) -> None:
    strategy = Recording()
    getattr(make_trainer(strategy), fn)(Module(), batches(1))
    assert strategy.calls == [
        *("barrier prepare_data", "setup_module", f"prepare_loader {fn}", f"step_of {step}", f"{step} 0", "teardown"),
    ]


def test_it_is_torn_down_when_a_run_fails() -> None:
    class Fails(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            raise KeyError("failed")

    strategy = Recording()
    with pytest.raises(KeyError):
        make_trainer(strategy, callbacks=Fails()).fit(Module(), batches(1))
    assert strategy.calls[-1] == "teardown"


def test_manual_backwards_hold_back_where_the_module_says_so() -> None:
    class Manual(Module):
        automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            optimizer = self.optimizers()
            with optimizer.toggle_model(sync_grad=batch_idx == 1):
                self.manual_backward(super().training_step(batch, batch_idx))
                optimizer.step()

    strategy = Recording()
    make_trainer(strategy).fit(Manual(), batches(2))
    held = [call for call in strategy.calls if call in ("hold back", "let go") or call.startswith("training")]
    assert held == ["training_step 0", "hold back", "let go", "training_step 1"]


def test_only_the_first_process_writes_and_prepares(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Second(Strategy):
        global_rank = local_rank = 1
        world_size = 2

    class Prepares(Module):
        def prepare_data(self) -> None:
            raise AssertionError("only the first process prepares data")

    trainer = make_trainer(Second(CPU))
    trainer.fit(Prepares(), batches(1))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    trainer.print("nothing")
    trainer.test(Module(), batches(1))
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""
    assert (trainer.global_rank, trainer.local_rank, trainer.world_size, trainer.is_global_zero) == (1, 1, 2, False)


def test_one_process_is_its_own_answer() -> None:
    strategy = SingleDeviceStrategy(CPU)
    tensor = torch.ones(2)
    assert strategy.reduce(tensor) is tensor
    assert strategy.broadcast(tensor) is tensor
    assert strategy.all_gather(tensor) is tensor
    assert strategy.prepare_loader(tensor, "train") is tensor
    assert strategy.reduce_boolean_decision(True) is True
    assert strategy.reduce_boolean_decision(False, all=False) is False
    assert strategy.no_grad_sync is None
    assert (strategy.is_global_zero, strategy.world_size, strategy.node_rank) == (True, 1, 0)
