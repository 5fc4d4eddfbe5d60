"""Precisions against plain PyTorch loops, bit for bit: weights, inputs, arithmetic, the gradient scaler."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.runtime.precision import choose_precision

HALF: dict[str, torch.dtype] = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1))


def batches_of(number: int) -> list[Tensor]:
    return list(torch.randn(number, 4, 3, generator=torch.Generator().manual_seed(1)))


def optimizer_of(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)


class Net(LightningModule):
    """Notes the dtypes that a step meets."""

    def __init__(self, factors: dict[int, float] | None = None) -> None:
        super().__init__()
        self.net = network()
        self.factors = factors or {}
        self.seen: list[torch.dtype] = []

    def loss(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.net(batch).float().square().mean()
        return loss

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen = [next(self.net.parameters()).dtype, batch.dtype, self.net(batch).dtype, torch.ones(1).dtype]
        return self.loss(batch) * self.factors.get(batch_idx, 1.0)

    def validation_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.net(batch)  # type: ignore[no-any-return]

    predict_step = validation_step

    def configure_optimizers(self) -> Any:
        return optimizer_of(self.net)


def fit(
    module: LightningModule, batches: Any, precision: Any, callback: Callback | None = None, **more: Any
) -> Trainer:
    more = {"max_epochs": 2, "callbacks": callback, **more}
    trainer = Trainer(accelerator="cpu", precision=precision, logger=False, discover_callbacks=False, **more)
    trainer.fit(module, batches)
    return trainer


def assert_same(module: nn.Module, reference: nn.Module) -> None:
    for (name, ours), theirs in zip(module.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


# -- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (None, "32-true"),
        *[(given, "32-true") for given in (32, "32", "full", "32-true")],
        *[(given, "64-true") for given in (64, "64", "double", "64-true")],
        *[(given, "16-mixed") for given in (16, "16", "16-mixed")],
        *[(given, "bf16-mixed") for given in ("bf16", "bf16-mixed")],
        *[(given, "16-true") for given in ("half", "16-true")],
        ("bf16-true", "bf16-true"),
    ],
)
def test_every_name_of_a_precision(given: Any, name: str) -> None:
    precision = choose_precision(given, "cpu")
    assert precision.name == name
    assert precision.dtype == HALF.get(name)
    assert (precision.scaler is not None) is (name == "16-mixed")
    assert Trainer(accelerator="cpu", precision=given, logger=False, discover_callbacks=False).precision == name


@pytest.mark.parametrize("given", [8, "bf16-mixd", True, 32.0, "fp8"])
def test_any_other_is_an_error(given: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"expected one of 64-true, 32-true, .* or a short form"):
        Trainer(accelerator="cpu", precision=given)
    with pytest.raises(MisconfigurationException, match=r"Did you mean 'bf16-mixed'\?"):
        Trainer(accelerator="cpu", precision="bf16-mixd")


@pytest.mark.parametrize(
    ("given", "meant"), [("fp16", "16-mixed"), ("float32", "32-true"), ("BF16", "bf16"), ("bfloat16", "bf16-mixed")]
)
def test_the_names_of_other_libraries_are_understood_in_the_error(given: str, meant: str) -> None:
    with pytest.raises(MisconfigurationException, match=rf"Did you mean '{meant}'\?$"):
        choose_precision(given, "cpu")


@pytest.mark.parametrize("given", [3, "bf16", [], [choose_precision("32", "cpu")] * 2])
def test_plugins_that_are_none_are_an_error_that_names_them(given: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"Trainer\(plugins=.*expected one .*; choose .* precision="):
        Trainer(accelerator="cpu", plugins=given)


def test_mps_has_no_64_bits() -> None:
    with pytest.raises(MisconfigurationException, match="mps has no 64-bit floats"):
        choose_precision("64-true", "mps")


# -- arithmetic ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [None, "32-true", "64-true", "16-true", "bf16-true", "bf16-mixed"])
def test_weights_equal_those_of_a_loop_by_hand(precision: str | None) -> None:
    batches, module = batches_of(4), Net()
    fit(module, batches, precision)

    net, dtype = network(), HALF.get(str(precision), torch.float32)
    net.to(dtype)
    optimizer = optimizer_of(net)
    mixed: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    if precision == "bf16-mixed":
        mixed = lambda: torch.autocast("cpu", dtype=torch.bfloat16)  # noqa: E731
    for batch in batches * 2:
        with mixed():
            net(batch.to(dtype))  # the step looks at the outputs' dtype, which moves the statistics of the batch norm
            loss = net(batch.to(dtype)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert_same(module.net, net)


@pytest.mark.parametrize(
    ("precision", "weights", "inputs", "outputs", "created"),
    [
        ("32-true", torch.float32, torch.float32, torch.float32, torch.float32),
        ("64-true", torch.float64, torch.float64, torch.float64, torch.float64),
        ("16-true", torch.float16, torch.float16, torch.float16, torch.float16),
        ("bf16-true", torch.bfloat16, torch.bfloat16, torch.bfloat16, torch.bfloat16),
        ("bf16-mixed", torch.float32, torch.float32, torch.bfloat16, torch.float32),
        ("16-mixed", torch.float32, torch.float32, torch.float16, torch.float32),
    ],
)
def test_what_a_step_meets(
    precision: str, weights: torch.dtype, inputs: torch.dtype, outputs: torch.dtype, created: torch.dtype
) -> None:
    module = Net()
    trainer = fit(module, batches_of(1), precision)
    assert module.seen == [weights, inputs, outputs, created]
    assert torch.get_default_dtype() is torch.float32
    predictions: Any = trainer.predict(module, batches_of(1))
    assert [prediction.dtype for prediction in predictions] == [outputs]


def test_the_default_dtype_comes_back_when_a_step_fails() -> None:
    class Fails(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            raise KeyError(torch.get_default_dtype())

    with pytest.raises(KeyError, match=r"torch\.float64"):
        fit(Fails(), batches_of(1), "64-true")
    assert torch.get_default_dtype() is torch.float32


Point = collections.namedtuple("Point", ["x", "index"])


@dataclasses.dataclass
class Record:
    x: Tensor
    index: Tensor
    name: str


def test_every_float_of_a_batch_is_cast_and_nothing_else() -> None:
    x, index = torch.ones(2), torch.arange(2)
    batch = {"list": [x, index], "point": Point(x, index), "record": Record(x, index, "a"), "bool": x > 0, "n": 1.5}
    convert = choose_precision("bf16-true", "cpu").convert_input
    assert convert is not None
    cast = convert(batch)
    assert cast["list"][0].dtype is cast["point"].x.dtype is cast["record"].x.dtype is torch.bfloat16
    assert cast["list"][1].dtype is cast["point"].index.dtype is cast["record"].index.dtype is torch.int64
    assert (cast["bool"].dtype, cast["n"], cast["record"].name) == (torch.bool, 1.5, "a")
    assert x.dtype is torch.float32
    assert choose_precision("bf16-mixed", "cpu").convert_input is None


def test_complex_and_whole_numbered_tensors_stay_what_they_are() -> None:
    module = nn.Module()
    module.register_buffer("phase", torch.tensor([1 + 2j]))
    module.register_buffer("count", torch.tensor(3))
    module.weight = nn.Parameter(torch.ones(1))
    converted = choose_precision("64-true", "cpu").convert_module(module)
    assert converted is module
    assert module.weight.dtype is torch.float64
    assert module.phase == torch.tensor([1 + 2j])
    assert module.count.dtype is torch.int64


# -- the gradient scaler ------------------------------------------------------------------------------------------


def scaled_by_hand(
    batches: list[Tensor], factors: dict[int, float], clip: float | None = None
) -> tuple[nn.Module, torch.amp.GradScaler, int]:
    """The loop that torch's documentation gives; returns the network, the scaler and the number of steps taken."""
    net, steps = network(), 0
    optimizer, scaler = optimizer_of(net), torch.amp.GradScaler("cpu")
    for _ in range(2):
        for index, batch in enumerate(batches):
            with torch.autocast("cpu", dtype=torch.float16):
                net(batch)
                loss = net(batch).float().square().mean() * factors.get(index, 1.0)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            scale = scaler.get_scale()
            scaler.step(optimizer)
            scaler.update()
            steps += scaler.get_scale() >= scale
    return net, scaler, steps


@pytest.mark.parametrize("clip", [None, 0.01])
@pytest.mark.parametrize("factors", [{}, {1: float("inf")}, {0: 1e30, 2: float("nan")}])
def test_16_mixed_equals_a_loop_with_a_scaler_also_where_steps_are_skipped(
    factors: dict[int, float], clip: float | None
) -> None:
    batches, module = batches_of(4), Net(factors)
    trainer = fit(module, batches, "16-mixed", gradient_clip_val=clip)
    net, scaler, steps = scaled_by_hand(batches, factors, clip)
    assert_same(module.net, net)
    assert trainer.precision_plugin.state_dict() == scaler.state_dict()
    assert trainer.global_step == steps  # what the scaler leaves out is no step
    assert not factors or steps < 8
    assert all(torch.isfinite(value).all() for value in module.net.parameters())


def test_hooks_meet_scaled_losses_and_unscaled_gradients() -> None:
    class Look(Callback):
        def __init__(self) -> None:
            self.loss = self.gradient = self.before = 0.0

        def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
            self.loss = loss.item()

        def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.before = self.norm(pl_module)

        def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            self.gradient = self.norm(pl_module)

        def norm(self, module: nn.Module) -> float:
            return float(torch.nn.utils.get_total_norm([p.grad for p in module.parameters() if p.grad is not None]))

    scaled, plain = Look(), Look()
    fit(Net(), batches_of(1), "16-mixed", scaled, max_epochs=1)
    fit(Net(), batches_of(1), None, plain, max_epochs=1)
    assert scaled.loss == pytest.approx(plain.loss * 65536, rel=1e-2)
    assert scaled.before == pytest.approx(plain.gradient * 65536, rel=1e-2)
    assert scaled.gradient == pytest.approx(plain.gradient, rel=1e-2)


@pytest.mark.parametrize("factor", [1, 2])
def test_own_optimizer_steps_are_scaled_too(factor: int) -> None:
    class Own(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer.step(closure=optimizer_closure)

    own, default = Own({1: float("inf")}), Net({1: float("inf")})
    for module in (own, default):
        fit(module, batches_of(5), "16-mixed", accumulate_grad_batches=factor)
    assert_same(own.net, default.net)


@pytest.mark.parametrize("overrides", [False, True])
def test_a_batch_without_a_loss_takes_no_scaled_step(overrides: bool) -> None:
    class Skips(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return None if batch_idx == 1 else super().training_step(batch, batch_idx)

    class Own(Skips):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer.step(closure=optimizer_closure)

    batches = batches_of(3)
    module = Own() if overrides else Skips()
    trainer = fit(module, batches, "16-mixed", max_epochs=1)
    reference = Net()
    fit(reference, [batches[0], batches[2]], "16-mixed", max_epochs=1)
    assert_same(module.net, reference.net)
    assert trainer.global_step == 2


def test_manual_optimisation_is_scaled() -> None:
    class Manual(Net):
        automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    manual, automatic = Manual({1: float("inf")}), Net({1: float("inf")})
    first, second = fit(manual, batches_of(3), "16-mixed"), fit(automatic, batches_of(3), "16-mixed")
    assert_same(manual.net, automatic.net)
    assert first.precision_plugin.state_dict() == second.precision_plugin.state_dict()


def test_an_optimizer_that_evaluates_its_closure_often_cannot_be_scaled() -> None:
    class Search(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters())

    with pytest.raises(MisconfigurationException, match=r"LBFGS evaluates its closure .*use precision='bf16-mixed'"):
        fit(Search(), batches_of(1), "16-mixed")


def test_the_scalers_state_goes_with_a_checkpoint(tmp_path: Any) -> None:
    trainer = fit(Net({0: float("inf")}), batches_of(2), "16-mixed")
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    state = trainer.precision_plugin.state_dict()
    assert state["scale"] == 65536.0 / 4
    resumed = Trainer(accelerator="cpu", precision="16-mixed", max_epochs=2, logger=False, discover_callbacks=False)
    resumed.fit(Net(), batches_of(2), ckpt_path=tmp_path / "one.ckpt")
    assert resumed.precision_plugin.state_dict() == state
    other = choose_precision(None, "cpu")
    other.load_state_dict(state)
    assert other.state_dict() == {}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and torch finds none here")
@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"])
def test_every_precision_trains_on_cuda(precision: str) -> None:
    module = Net()
    trainer = Trainer(accelerator="cuda", precision=precision, max_epochs=2, logger=False, discover_callbacks=False)
    trainer.fit(module, batches_of(3))
    assert trainer.global_step == 6
    assert all(torch.isfinite(value).all() for value in module.parameters())


def test_a_step_that_the_module_leaves_out_counts_after_one_that_the_scaler_left_out() -> None:
    class Chooses(Net):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if batch_idx == 0:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

    assert fit(Chooses({0: float("inf")}), batches_of(3), "16-mixed", max_epochs=1).global_step == 2
