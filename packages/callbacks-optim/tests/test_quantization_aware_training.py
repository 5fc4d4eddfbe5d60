"""QuantizationAwareTraining against torch's own recipe in a plain loop, and in every entry point of a Trainer."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization
from quantized_runs import FUSE, IMAGES, Net, make, net, weights_of
from torch import Tensor, nn

from leyden import Callback, LightningModule, MisconfigurationException
from leyden_optim import LearningRateFinder, ModelPruning, QuantizationAwareTraining, SpikeDetection

ao: Any = torch.ao.quantization  # much of which has no types


class Stubbed(Net):
    """The same as torch's documentation writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.quant: nn.Module = ao.QuantStub()
        self.dequant: nn.Module = ao.DeQuantStub()

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.dequant(super().forward(self.quant(images)))
        return scores


def by_hand(qconfig: Any, epochs: int) -> Stubbed:
    """Train as torch's documentation says, with the observers off in validation."""
    module = Stubbed()
    module.load_state_dict(net().state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ao.fuse_modules_qat(module, FUSE, inplace=True)
        module.qconfig = qconfig
        ao.prepare_qat(module, inplace=True)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        module.apply(ao.enable_observer)
        for batch in module.train_dataloader():
            optimizer.zero_grad()
            (module(batch) - 1).square().mean().backward()
            optimizer.step()
        module.eval().apply(ao.disable_observer)
        with torch.no_grad():
            for batch in module.val_dataloader():
                module(batch)
        module.train()
    return module


def same(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def converted(module: nn.Module, engine: str) -> nn.Module:
    outer, torch.backends.quantized.engine = torch.backends.quantized.engine, engine
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            int8: nn.Module = ao.convert(copy.deepcopy(module).eval())
            return int8
    finally:
        torch.backends.quantized.engine = outer


@pytest.mark.parametrize("engine", ["fbgemm", "x86", "qnnpack", "onednn"])
def test_it_is_torchs_own_recipe(engine: str) -> None:
    if engine not in torch.backends.quantized.supported_engines:
        pytest.skip(f"this torch has no {engine}")
    reference = by_hand(ao.get_default_qat_qconfig(engine), 2)
    module = net()
    quantize = QuantizationAwareTraining(engine, modules_to_fuse=FUSE, quantize_on_fit_end=False)
    make(quantize).fit(module)
    assert same(module, reference)

    int8, expected = quantize.convert(module), converted(reference, engine)
    assert torch.equal(int8(IMAGES), expected(IMAGES))
    assert type(int8.conv).__name__ == type(expected.conv).__name__ == "ConvReLU2d"
    assert weights_of(int8.fc) is torch.qint8
    assert same(module, reference)  # the module is as it was,
    make(quantize, max_epochs=1).fit(module)  # and trains on


def test_at_the_end_of_fit_the_module_is_int8_itself() -> None:
    apart, module = net(), net()
    keep = QuantizationAwareTraining(modules_to_fuse=FUSE, quantize_on_fit_end=False)
    make(keep).fit(apart)
    parameters = list(module.parameters())
    make(QuantizationAwareTraining(modules_to_fuse=FUSE)).fit(module)
    assert list(module.parameters()) == []
    assert not module.training
    assert torch.equal(module(IMAGES), keep.convert(apart)(IMAGES))
    assert all(torch.equal(one, other) for one, other in zip(parameters, apart.parameters(), strict=True))


def test_optimizers_train_the_parameters_that_the_module_came_with() -> None:
    module = net()
    before = [(name, parameter) for name, parameter in module.named_parameters()]
    quantize = QuantizationAwareTraining(modules_to_fuse=FUSE, quantize_on_fit_end=False)
    trainer = make(quantize, max_epochs=1)
    old = [parameter.detach().clone() for _, parameter in before]
    trainer.fit(module)
    trained = [parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]]
    assert {id(parameter) for parameter in trained} == {id(parameter) for _, parameter in before}
    assert {id(parameter) for parameter in module.parameters()} == {id(parameter) for parameter in trained}
    # BatchNorm takes a convolution's bias out again: that has no gradient but noise
    moved = {name: not torch.equal(one, was) for (name, one), was in zip(before, old, strict=True)}
    assert all(moved[name] for name in moved if name != "conv.bias")


class Watch(Callback):
    """Notes, at each batch's end, which observers and fake quantisers are on."""

    runs_after = (QuantizationAwareTraining,)

    def __init__(self) -> None:
        self.seen: list[str] = []

    def _note(self, stage: str, module: Any) -> None:
        parts = {name: part for name, part in module.named_modules() if isinstance(part, ao.FakeQuantizeBase)}
        weights = {int(part.observer_enabled) for name, part in parts.items() if "weight" in name}
        others = {int(part.observer_enabled) for name, part in parts.items() if "weight" not in name}
        fake = {int(part.fake_quant_enabled) for part in parts.values()}
        assert len(weights) == len(others) == len(fake) == 1
        self.seen.append(f"{stage} {'a' * others.pop()}{'w' * weights.pop()}{'q' * fake.pop()}")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._note("train", pl_module)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._note("sanity" if trainer.sanity_checking else "val", pl_module)

    def on_test_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._note("test", pl_module)


COLLECTING: dict[str, tuple[dict[str, Any], list[str]]] = {
    "all": ({}, ["sanity "] * 2 + (["train awq"] * 4 + ["val q"] * 2) * 2 + ["test q"] * 2),
    "count": (
        {"collect_quantization": 3},
        ["sanity "] * 2 + ["train awq"] * 3 + ["train wq"] + ["val q"] * 2 + ["train wq"] * 4 + ["val q"] * 2
        + ["test q"] * 2,
    ),
    "function": (
        {"collect_quantization": lambda trainer: trainer.current_epoch == 1},
        ["sanity "] * 2 + ["train "] * 4 + ["val "] * 2 + ["train awq"] * 4 + ["val q"] * 2 + ["test q"] * 2,
    ),
    "validation too": (
        {"observer_enabled_stages": ["train", "validate"]},
        ["sanity "] * 2 + (["train awq"] * 4 + ["val aq"] * 2) * 2 + ["test q"] * 2,
    ),
    "validation and test alone": (
        {"observer_enabled_stages": ("validate", "test")},
        ["sanity "] * 2 + ["train "] * 4 + ["val awq"] * 2 + ["train wq"] * 4 + ["val aq"] * 2 + ["test aq"] * 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", COLLECTING)
def test_observers_collect_when_they_are_told_to(case: str) -> None:
    arguments, expected = COLLECTING[case]
    watch, module = Watch(), net()
    quantize = QuantizationAwareTraining(modules_to_fuse=FUSE, quantize_on_fit_end=False, **arguments)
    trainer = make(quantize, watch)
    trainer.fit(module)
    assert all(int(part.observer_enabled) == 0 for part in module.modules() if isinstance(part, ao.FakeQuantizeBase))
    trainer.test(module, verbose=False)
    assert watch.seen == expected
    assert torch.isfinite(quantize.convert(module)(IMAGES)).all()


def test_before_ranges_are_known_it_trains_in_floats() -> None:
    plain, module = net(), net()
    make(max_epochs=2).fit(plain)
    quantize = QuantizationAwareTraining(
        collect_quantization=lambda trainer: trainer.current_epoch == 2, quantize_on_fit_end=False
    )
    make(quantize, max_epochs=2).fit(module)
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in plain.state_dict().items())


def test_a_histogram_fake_quantises_too() -> None:
    module = net()
    quantize = QuantizationAwareTraining("x86", "histogram", modules_to_fuse=FUSE, quantize_on_fit_end=False)
    make(quantize).fit(module)
    parts: list[Any] = [part for part in module.modules() if isinstance(part, ao.FakeQuantizeBase)]
    assert {type(part.activation_post_process).__name__ for part in parts} == {
        "HistogramObserver", "MovingAveragePerChannelMinMaxObserver",
    }  # fmt: skip
    assert not torch.equal(module.eval()(IMAGES), module.apply(ao.disable_fake_quant)(IMAGES))
    assert weights_of(quantize.convert(module.apply(ao.enable_fake_quant)).fc) is torch.qint8


def test_a_qconfig_of_ones_own() -> None:
    qconfig = ao.QConfig(
        activation=ao.FakeQuantize.with_args(observer=ao.MinMaxObserver, quant_min=0, quant_max=127),
        weight=ao.default_weight_fake_quant,
    )
    reference, module = by_hand(qconfig, 1), net()
    quantize = QuantizationAwareTraining(qconfig, modules_to_fuse=FUSE, quantize_on_fit_end=False)
    make(quantize, max_epochs=1).fit(module)
    assert same(module, reference)
    expected = converted(reference, torch.backends.quantized.engine)
    assert torch.equal(quantize.convert(module)(IMAGES), expected(IMAGES))


def test_a_module_with_stubs_of_its_own_gets_no_others() -> None:
    reference, module = net(), Stubbed()
    module.load_state_dict(reference.state_dict())
    for one in (reference, module):
        make(QuantizationAwareTraining(modules_to_fuse=FUSE)).fit(one)
    assert "forward" not in module.__dict__
    assert torch.equal(module(IMAGES), reference(IMAGES))


def test_without_input_compatibility_the_int8_module_takes_quantised_tensors() -> None:
    compatible, module = net(), net()
    parts: Any = module
    make(QuantizationAwareTraining(modules_to_fuse=FUSE)).fit(compatible)
    quantize = QuantizationAwareTraining(modules_to_fuse=FUSE, input_compatible=False)
    trainer = make(quantize)
    trainer.fit(module)
    assert "forward" not in module.__dict__
    scores = module(parts.quant(IMAGES))
    assert scores.is_quantized
    assert torch.equal(parts.dequant(scores), compatible(IMAGES))
    apart: Any = quantize.convert(module)
    assert torch.equal(apart(apart.quant(IMAGES)).dequantize(), compatible(IMAGES))
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module)  # in which it takes floats, as before
    assert torch.equal(parts.dequant(module(parts.quant(IMAGES))), module(parts.quant(IMAGES)).dequantize())


def test_another_fit_trains_on_from_what_was_trained() -> None:
    straight, module = net(), net()
    keep = QuantizationAwareTraining(modules_to_fuse=FUSE, quantize_on_fit_end=False)
    for one, quantize in ((straight, keep), (module, QuantizationAwareTraining(modules_to_fuse=FUSE))):
        trainer = make(quantize, num_sanity_val_steps=0)
        trainer.fit(one)
        first = keep.convert(one)(IMAGES)
        trainer.fit_loop.max_epochs = 4
        trainer.fit(one)
    assert not torch.equal(module(IMAGES), first)
    assert torch.equal(module(IMAGES), keep.convert(straight)(IMAGES))


def test_checkpoints_hold_the_fake_quantised_module(tmp_path: Path) -> None:
    quantize = QuantizationAwareTraining(modules_to_fuse=FUSE)
    module = net()
    trainer = make(quantize)
    trainer.fit(module)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    output = module(IMAGES)

    kept = QuantizationAwareTraining(modules_to_fuse=FUSE, quantize_on_fit_end=False)
    trained = net()
    straight = make(kept)
    straight.fit(trained)
    stored = torch.load(tmp_path / "end.ckpt")["state_dict"]
    assert list(stored) == list(trained.state_dict())

    trainer.fit_loop.max_epochs = 3
    trainer.fit(module)
    assert not torch.equal(module(IMAGES), output)
    (score,) = trainer.test(module, ckpt_path=tmp_path / "end.ckpt", verbose=False)
    assert torch.equal(module(IMAGES), output)  # int8 again, with the weights of the checkpoint
    assert score["test"] == pytest.approx(float((output[16:] - 1).square().mean()))

    fresh = Net()  # the fake-quantised weights, in another trainer
    other = make(QuantizationAwareTraining(modules_to_fuse=FUSE))
    other.test(fresh, ckpt_path=tmp_path / "end.ckpt", verbose=False)
    assert same(fresh, trained)
    assert torch.equal(other.callbacks[0].convert(fresh)(IMAGES), output)  # type: ignore[attr-defined]

    bare = Net()
    kept.prepare(bare)
    bare.load_state_dict(stored)
    assert torch.equal(kept.convert(bare)(IMAGES), output)


@pytest.mark.parametrize("engine", ["fbgemm", "qnnpack"])
def test_an_int8_module_is_saved_and_loaded(engine: str, tmp_path: Path) -> None:
    module, quantize = net(), QuantizationAwareTraining(engine, modules_to_fuse=FUSE)
    make(quantize).fit(module)
    torch.save(module.state_dict(), tmp_path / "int8.pt")
    for weights in (tmp_path / "int8.pt", str(tmp_path / "int8.pt"), module.state_dict()):
        loaded = QuantizationAwareTraining(engine, modules_to_fuse=FUSE).load_int8(Net(), weights)
        assert torch.equal(loaded(IMAGES), module(IMAGES))


def test_weights_that_are_not_int8_are_no_int8_module() -> None:
    module, quantize = net(), QuantizationAwareTraining(modules_to_fuse=FUSE, quantize_on_fit_end=False)
    make(quantize).fit(module)
    for weights in (Net().state_dict(), module.state_dict(), {"state_dict": quantize.convert(module).state_dict()}):
        with pytest.raises(MisconfigurationException, match=r"load_int8\(\.\.\.\): none of the weights are int8\."):
            quantize.load_int8(Net(), weights)


def test_nothing_of_it_touches_an_evaluation_of_floats() -> None:
    module, alone = net(), net()
    quantize = QuantizationAwareTraining(modules_to_fuse=FUSE)
    assert make(quantize).validate(module, verbose=False) == make().validate(alone, verbose=False)
    assert same(module, alone)


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate_grad_batches": 2},
        {"precision": "bf16-mixed"},
        {"precision": "16-mixed"},
        {"fast_dev_run": True},
        {"max_steps": 3},
        {"inference_mode": False},
    ],
)
def test_it_ends_as_int8_whatever_the_trainer_does(settings: dict[str, Any]) -> None:
    module = net()
    quantize = QuantizationAwareTraining(
        "x86", "histogram", modules_to_fuse=FUSE, observer_enabled_stages=("train", "validate")
    )
    make(quantize, **settings).fit(module)
    assert weights_of(module.fc) is torch.qint8
    assert torch.isfinite(module(IMAGES)).all()


class Manual(Net):
    """Two optimizers, by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        body = [*self.conv.parameters(), *self.bn.parameters()]
        return [torch.optim.SGD(part, lr=0.05, momentum=0.9) for part in (body, self.fc.parameters())]


def test_manual_optimisation_with_two_optimizers_is_the_same() -> None:
    module, automatic = net(Manual), net()
    for one in (module, automatic):
        make(QuantizationAwareTraining(modules_to_fuse=FUSE)).fit(one)
    assert torch.equal(module(IMAGES), automatic(IMAGES))


class Late(Net):
    """Has its layers from configure_model."""

    def __init__(self) -> None:
        LightningModule.__init__(self)

    def configure_model(self) -> None:
        if not hasattr(self, "conv"):
            torch.manual_seed(5)
            Net.__init__(self)


def test_layers_of_configure_model_are_quantised() -> None:
    module, early = Late(), net()
    for one in (module, early):
        make(QuantizationAwareTraining(modules_to_fuse=FUSE)).fit(one)
    assert torch.equal(module(IMAGES), early(IMAGES))


class Fails(Callback):
    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        raise ZeroDivisionError


def test_a_fit_that_failed_leaves_a_module_that_trains_and_collects_no_more() -> None:
    module, quantize = net(), QuantizationAwareTraining(modules_to_fuse=FUSE)
    with pytest.raises(ZeroDivisionError):
        make(quantize, Fails()).fit(module)
    before = copy.deepcopy(module.state_dict())
    module.eval()(IMAGES * 100)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    module.train()
    make(quantize).fit(module)
    assert weights_of(module.fc) is torch.qint8


class Converts(Callback):
    """Looks at the int8 model after every batch, in the middle of what training and pruning have going on."""

    def __init__(self, quantize: QuantizationAwareTraining) -> None:
        self.quantize = quantize
        self.outputs: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module.kept = pl_module(IMAGES).sum()  # a tensor with a graph, which cannot be copied as it is
        self.outputs.append(self.quantize.convert(pl_module)(IMAGES))
        del pl_module.kept


class Looks(Callback):
    """Calls the model as `Converts` does, and no more."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        pl_module(IMAGES)


@pytest.mark.parametrize("pruned", [False, True])
def test_converting_in_the_middle_changes_nothing(pruned: bool) -> None:
    apart, module = net(), net()
    for one, converts in ((apart, False), (module, True)):
        quantize = QuantizationAwareTraining(modules_to_fuse=FUSE, quantize_on_fit_end=False)
        beside: list[Callback] = [Converts(quantize) if converts else Looks()]
        if pruned:
            beside.append(ModelPruning("l1_unstructured", amount=0.5, parameter_names=["weight"]))
        make(quantize, *beside).fit(one)
    assert same(apart, module)
    if isinstance(beside[0], Converts):
        assert len(beside[0].outputs) == 8
        assert not torch.equal(beside[0].outputs[0], beside[0].outputs[-1])


def test_converting_draws_no_random_numbers() -> None:
    module, quantize = net(), QuantizationAwareTraining(modules_to_fuse=FUSE, quantize_on_fit_end=False)
    make(quantize, max_epochs=1).fit(module)
    before = torch.get_rng_state()
    quantize.convert(module)
    assert torch.equal(torch.get_rng_state(), before)


def test_zeros_of_pruning_stay_zeros_in_int8() -> None:
    module = net()
    pruning = ModelPruning(
        "l1_unstructured", parameters_to_prune=[("conv", "weight"), ("fc", "weight")], amount=0.8,
        use_lottery_ticket_hypothesis=False,
    )  # fmt: skip
    make(QuantizationAwareTraining(modules_to_fuse=FUSE), pruning, max_epochs=1).fit(module)
    parts: Any = module
    zeros = sum(int((layer.weight().dequantize() == 0).sum()) for layer in (parts.conv, parts.fc))
    assert zeros >= pruning.sparsity()[0].pruned + pruning.sparsity()[1].pruned == 182


def test_a_checkpoint_of_weights_only_holds_the_int8_ones(tmp_path: Path) -> None:
    module, quantize = net(), QuantizationAwareTraining(modules_to_fuse=FUSE)
    trainer = make(quantize)
    trainer.fit(module)
    output = module(IMAGES)
    trainer.save_checkpoint(tmp_path / "int8.ckpt", weights_only=True)
    (score,) = trainer.test(module, verbose=False)
    with warnings.catch_warnings():  # of torch, about how it reads quantised tensors
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        assert trainer.test(module, ckpt_path=tmp_path / "int8.ckpt", verbose=False) == [score]
    assert torch.equal(module(IMAGES), output)


class Several(Net):
    """Has two validation loaders, and predicts."""

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val", (self(batch) - 1).square().mean())

    def val_dataloader(self) -> Any:
        return [super().val_dataloader(), super().val_dataloader()]

    def predict_dataloader(self) -> Any:
        return super().val_dataloader()


def test_several_loaders_and_predictions() -> None:
    module = net(Several)
    quantize = QuantizationAwareTraining(
        modules_to_fuse=FUSE, observer_enabled_stages=["train", "validate"], collect_quantization=11
    )
    trainer = make(quantize)
    trainer.fit(module)
    assert quantize.state_dict() == {"batches": 11}
    predictions: Any = trainer.predict(module)
    assert torch.equal(torch.cat(predictions), module(IMAGES[16:]))


class FailsAtTheEnd(Callback):
    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        raise ZeroDivisionError


def test_an_error_of_another_at_the_end_leaves_the_module_trainable() -> None:
    module, quantize = net(), QuantizationAwareTraining(modules_to_fuse=FUSE)
    with pytest.raises(ZeroDivisionError):
        make(quantize, FailsAtTheEnd()).fit(module)
    assert len(list(module.parameters())) == 6
    assert torch.equal(quantize.convert(module)(IMAGES), quantize.convert(module)(IMAGES))


@pytest.mark.parametrize("beside", [LearningRateFinder(min_lr=1e-4, update_attr=False), SpikeDetection()])
def test_a_search_beside_the_run_leaves_its_ranges_alone(beside: Callback) -> None:
    class Rated(Net):
        lr = 0.05

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    alone, module = net(Rated), net(Rated)
    make(QuantizationAwareTraining(modules_to_fuse=FUSE)).fit(alone)
    make(QuantizationAwareTraining(modules_to_fuse=FUSE), beside).fit(module)
    assert torch.equal(module(IMAGES), alone(IMAGES))


def test_an_int8_module_of_quantised_inputs_can_be_scripted() -> None:
    module = net()
    make(QuantizationAwareTraining(modules_to_fuse=FUSE, input_compatible=False)).fit(module)
    parts: Any = module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about TorchScript
        scripted = module.to_torchscript()
    assert torch.equal(scripted(parts.quant(IMAGES)).dequantize(), module(parts.quant(IMAGES)).dequantize())
