"""Validation and test: what runs without gradients, in which order, and what is returned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from leyden import LightningModule, MisconfigurationException, Trainer


class Evaluated(LightningModule):
    """Writes down what each step sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[Any] = []

    def look(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        output: Tensor = self.layer(batch)
        self.seen.append((batch_idx, dataloader_idx, torch.is_inference_mode_enabled(), output.requires_grad))
        self.log("batch", batch.mean())
        return output

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        assert not torch.is_inference_mode_enabled()
        return self.layer(batch).sum()  # type: ignore[no-any-return]

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.look(batch, batch_idx, dataloader_idx)

    def test_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return self.look(batch, batch_idx, dataloader_idx)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def make_trainer(**arguments: Any) -> Trainer:
    arguments = {"max_epochs": 1, **arguments}
    return Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments)


def batches(*values: float) -> list[Tensor]:
    return [torch.full((2, 1), float(value)) for value in values]


def loader(*values: float) -> Any:
    return DataLoader(batches(*values), batch_size=None)  # type: ignore[arg-type]  # a list is a dataset too


@pytest.mark.parametrize("inference_mode", [True, False])
@pytest.mark.parametrize("fn", ["fit", "validate", "test"])
def test_nothing_needs_gradients_in_either_mode(fn: str, inference_mode: bool) -> None:
    module, trainer = Evaluated(), make_trainer(inference_mode=inference_mode, num_sanity_val_steps=1)
    if fn == "fit":
        trainer.fit(module, batches(1), batches(2))
    else:
        getattr(trainer, fn)(module, batches(2), verbose=False)
    assert module.seen == [(0, 0, inference_mode, False)] * (2 if fn == "fit" else 1)
    assert torch.is_grad_enabled()


def test_without_inference_mode_gradients_may_be_switched_on() -> None:
    class Saliency(Evaluated):
        def test_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
            with torch.enable_grad():
                batch.requires_grad_()
                self.layer(batch).sum().backward()
            self.seen.append(batch.grad is not None)

    module = Saliency()
    make_trainer(inference_mode=False).test(module, batches(1), verbose=False)
    assert module.seen == [True]


@pytest.mark.parametrize("fn", ["validate", "test"])
def test_one_dict_of_metrics_for_each_loader(fn: str) -> None:
    module, trainer = Evaluated(), make_trainer()
    evaluate = getattr(trainer, fn)
    assert evaluate(module, batches(1, 3), verbose=False) == [{"batch": 2.0}]
    several = evaluate(module, [loader(1, 3), loader(5)], verbose=False)
    assert several == [{"batch/dataloader_idx_0": 2.0}, {"batch/dataloader_idx_1": 5.0}]
    assert [seen[:2] for seen in module.seen] == [(0, 0), (1, 0), (0, 0), (1, 0), (0, 1)]


@pytest.mark.parametrize(("fn", "limit"), [("validate", "limit_val_batches"), ("test", "limit_test_batches")])
def test_limits_hold_for_each_loader(fn: str, limit: str) -> None:
    module, trainer = Evaluated(), make_trainer(**{limit: 1})
    getattr(trainer, fn)(module, [loader(1, 2), loader(3, 4)], verbose=False)
    assert [seen[:2] for seen in module.seen] == [(0, 0), (0, 1)]
    module, trainer = Evaluated(), make_trainer(**{limit: 0})
    assert getattr(trainer, fn)(module, batches(1), verbose=False) == []
    assert module.seen == []


def test_the_table_of_results_is_printed_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer()
    trainer.validate(Evaluated(), batches(2), verbose=False)
    assert capsys.readouterr().out == ""
    trainer.test(Evaluated(), batches(2))
    shown = capsys.readouterr().out
    assert "batch" in shown
    assert "2.0" in shown


@pytest.mark.parametrize("output", ["loss", b"loss", True, Tensor])
def test_a_step_that_returns_nonsense_is_named(output: Any) -> None:
    class Wrong(Evaluated):
        def test_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return output

    with pytest.raises(MisconfigurationException, match=r"Wrong\.test_step returned .*; expected a tensor"):
        make_trainer().test(Wrong(), batches(1), verbose=False)


@pytest.mark.parametrize("output", [None, 1, 2.5, {"a": 1}, [1, 2], torch.zeros(2)])
def test_a_step_may_return_anything_else(output: Any) -> None:
    class Right(Evaluated):
        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return output

        def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.seen.append(outputs)

    module = Right()
    make_trainer().validate(module, batches(1), verbose=False)
    assert len(module.seen) == 1
    assert module.seen[0] is output


def test_a_validation_loader_without_a_step_is_warned_of_and_left_out() -> None:
    class Trained(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return self.layer(batch).sum()  # type: ignore[no-any-return]

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trainer = make_trainer()
    with pytest.warns(UserWarning, match="Trained has a val_dataloader but no validation_step") as caught:
        trainer.fit(Trained(), batches(1), batches(1))
    assert (trainer.global_step, len(caught)) == (1, 1)
    trainer.max_epochs = 3
    with pytest.warns(UserWarning, match="no validation_step") as caught:
        trainer.fit(Trained(), batches(1), batches(1))
    assert len(caught) == 1, "each fit tells of it once"


@pytest.mark.parametrize("fn", ["validate", "test", "predict"])
@pytest.mark.parametrize("empty", [[], ()])
def test_an_empty_list_is_an_error_unless_nothing_is_asked_for(fn: str, empty: Any) -> None:
    class Each(Evaluated):
        def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return batch

    with pytest.raises(MisconfigurationException, match=rf"Trainer\.{fn}\(dataloaders=.*there is nothing in it"):
        getattr(make_trainer(), fn)(Each(), empty)
    limit = {f"limit_{'val' if fn == 'validate' else fn}_batches": 0}
    assert getattr(make_trainer(**limit), fn)(Each(), empty) == []


def test_within_a_fit_no_validation_loaders_mean_no_validation() -> None:
    module = Evaluated()
    make_trainer(max_epochs=1).fit(module, batches(1.0), [])
    assert module.training


def test_batches_are_counted_over_runs() -> None:
    trainer = make_trainer()
    module = Evaluated()
    trainer.validate(module, batches(1, 2), verbose=False)
    trainer.validate(module, batches(1), verbose=False)
    assert (trainer.validate_loop.batches_seen, trainer.test_loop.batches_seen) == (3, 0)
    assert trainer.num_val_batches == [1]
