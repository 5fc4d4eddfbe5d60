"""What a training step may return, what hooks get of it, and how wrong ones are answered."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.loops.training_outputs import check_loss, loss_in, outputs_with


class Net(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(3, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.net(batch).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def batches_of(number: int) -> list[Tensor]:
    return list(torch.randn(number, 2, 3, generator=torch.Generator().manual_seed(1)))


def fit(module: LightningModule, batches: Any, callback: Callback | None = None, **arguments: Any) -> None:
    arguments = {"max_epochs": 1, "callbacks": callback, **arguments}
    Trainer(accelerator="cpu", logger=False, discover_callbacks=False, **arguments).fit(module, batches)


@pytest.mark.parametrize("automatic", [True, False])
def test_values_at_any_depth_keep_no_graph(automatic: bool) -> None:
    class Pair(NamedTuple):
        mean: Tensor
        name: str

    class Nested(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = automatic

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            out = self.net(batch)
            parts = {"list": [out, 1], "tuple": (out, "a"), "pair": Pair(out.mean(), "b"), "deep": {"x": [{"y": out}]}}
            return {"loss": out.square().mean(), "parts": parts, "none": None}

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            parts = outputs["parts"]
            tensors = [parts["list"][0], parts["tuple"][0], parts["pair"].mean, parts["deep"]["x"][0]["y"]]
            assert [tensor.requires_grad for tensor in [outputs["loss"], *tensors]] == [False] * 5
            assert (parts["list"][1], parts["tuple"][1], parts["pair"].name, outputs["none"]) == (1, "a", "b", None)
            assert type(parts["pair"]) is Pair
            self.looked = True

    module = Nested()
    fit(module, batches_of(1))
    assert module.looked


def test_outputs_hold_the_divided_loss_and_the_other_values_detached() -> None:
    class Dict(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            if batch_idx == 1:
                return None
            output = self.net(batch)
            return {"loss": output.sum() * 0 + 4.0, "output": output, "name": "a"}

    class Outputs(Callback):
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            self.seen.append(outputs)

    outputs = Outputs()
    fit(Dict(), batches_of(2), outputs, accumulate_grad_batches=2)
    first, second = outputs.seen
    assert (first["loss"].item(), first["loss"].requires_grad, first["output"].requires_grad) == (2.0, False, False)
    assert first["name"] == "a"
    assert second == {}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("loss", r"returned 'loss' \(str\); expected the loss as a tensor"),
        (1.5, r"returned 1\.5 \(float\)"),
        ({"objective": 1}, r"returned a dict without a loss tensor \(its keys are \['objective'\]\)"),
        ({"loss": 1.5}, r"returned a dict without a loss tensor \(its 'loss' is a float\)"),
        (torch.zeros(2, requires_grad=True) * 2, r"returned a loss of shape \(2,\) at batch 0"),
        (torch.zeros(()), r"returned a loss without a gradient at batch 0"),
    ],
)
def test_what_is_no_loss_is_an_error_that_says_what_it_is(returned: Any, message: str) -> None:
    class Wrong(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return returned

    with pytest.raises(MisconfigurationException, match=rf"Wrong\.training_step {message}"):
        fit(Wrong(), batches_of(1))


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_detect_anomaly_stops_at_a_loss_that_is_not_finite(number: float) -> None:
    class Broken(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            loss: Tensor = self.net(batch).sum()
            return loss * number if batch_idx == 2 else loss

    with pytest.raises(
        MisconfigurationException, match=r"returned the loss -?(nan|inf) at batch 2 \(detect_anomaly=True\)"
    ):
        fit(Broken(), batches_of(4), detect_anomaly=True)
    fit(Broken(), batches_of(4))


def test_detect_anomaly_names_the_function_that_made_a_gradient_nan() -> None:
    class Root(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return (self.net(batch) * 0).sqrt().sum()  # type: ignore[no-any-return]

    with (
        pytest.raises(RuntimeError, match=r"SqrtBackward0|MulBackward0"),
        pytest.warns(UserWarning, match="Error detected in"),
    ):
        fit(Root(), batches_of(1), detect_anomaly=True)


class Tagged(Tensor):
    """A subclass of Tensor is a tensor."""


def test_the_loss_is_found_in_every_form() -> None:
    loss = torch.ones((), requires_grad=True) * 2
    tagged = loss.as_subclass(Tagged)
    assert loss_in(None, object()) is None
    assert loss_in(loss, object()) is loss
    assert loss_in(tagged, object()) is tagged
    assert loss_in({"loss": loss}, object()) is loss


def test_outputs_of_a_tensor_subclass_hold_the_loss_alone() -> None:
    loss = torch.ones((), requires_grad=True) * 2
    assert outputs_with(loss.detach(), loss.as_subclass(Tagged)) == {"loss": loss.detach()}


def test_a_loss_of_one_element_is_one_number() -> None:
    check_loss(torch.ones(1, requires_grad=True) * 2, object(), 0, detect_anomaly=True)
    with pytest.raises(MisconfigurationException, match="reduce it"):
        check_loss(torch.ones(2, requires_grad=True) * 2, object(), 0, detect_anomaly=False)
