"""BackboneFinetuning and BaseFinetuning in real, tiny trainings: what is trained when, how fast, what is refused."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.testing import RandomDataset
from leyden_finetune import BackboneFinetuning, BaseFinetuning
from leyden_finetune.backbone import multiplicative
from leyden_finetune.factory import make_callbacks


class Model(LightningModule):
    def __init__(self, lr: float = 0.5) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
        self.head = nn.Linear(3, 1)
        self.lr = lr

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.head(self.backbone(batch)).square().mean()

    def configure_optimizers(self) -> Any:
        return SGD([parameter for parameter in self.parameters() if parameter.requires_grad], lr=self.lr)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(RandomDataset(4, 8), batch_size=4)


class Watch(Callback):
    """Notes at each epoch's end which layers are trained and the learning rates."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []
        self.trained: list[list[str]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])
        self.trained.append([name for name, one in pl_module.named_parameters() if one.requires_grad])


def fit(model: LightningModule, *callbacks: Callback, epochs: int = 5) -> tuple[Watch, Trainer]:
    watch = Watch()
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        discover_callbacks=False,
        callbacks=[*callbacks, watch],
    )
    trainer.fit(model)
    return watch, trainer


def test_backbone_is_trained_from_its_epoch_at_a_rate_that_grows_to_the_heads() -> None:
    watch, _ = fit(Model(), BackboneFinetuning(unfreeze_backbone_at_epoch=1, backbone_initial_ratio_lr=0.2), epochs=6)
    assert watch.rates == [[0.5], [0.5, 0.1], [0.5, 0.2], [0.5, 0.4], [0.5, 0.5], [0.5, 0.5]]
    head_and_norm = ["backbone.1.weight", "backbone.1.bias", "head.weight", "head.bias"]
    assert watch.trained[0] == head_and_norm
    assert watch.trained[1] == ["backbone.0.weight", "backbone.0.bias", *head_and_norm]


def test_without_alignment_from_a_rate_of_its_own() -> None:
    callback = BackboneFinetuning(1, lambda_func=lambda epoch: epoch, backbone_initial_lr=0.3, should_align=False)
    watch, _ = fit(Model(), callback, epochs=4)
    assert watch.rates == [[0.5], [0.5, 0.3], [0.5, 3 * 0.3], [0.5, 4 * 3 * 0.3]]


def test_frozen_weights_do_not_change_and_unfrozen_do() -> None:
    model = Model()
    weight = model.backbone[0].weight
    before = weight.detach().clone()  # type: ignore[operator]
    fit(model, BackboneFinetuning(unfreeze_backbone_at_epoch=5), epochs=3)
    assert torch.equal(weight, before)  # type: ignore[arg-type]
    fit(Model(), callback := BackboneFinetuning(unfreeze_backbone_at_epoch=1))
    assert callback.previous_backbone_lr is not None


def test_frozen_norm_neither_learns_nor_collects() -> None:
    model = Model()
    norm: Any = model.backbone[1]
    fit(model, BackboneFinetuning(unfreeze_backbone_at_epoch=1, train_bn=False))
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.weight, torch.ones(3))
    assert not torch.equal(model.backbone[0].bias, torch.zeros(3))  # type: ignore[arg-type]


def test_unfreezing_at_the_first_epoch() -> None:
    watch, _ = fit(Model(), BackboneFinetuning(unfreeze_backbone_at_epoch=0), epochs=1)
    assert watch.rates == [[0.5, 0.05]]


def test_optimizer_of_all_parameters_is_left_as_it_is() -> None:
    class All(Model):
        def configure_optimizers(self) -> Any:
            return SGD(self.parameters(), lr=0.5)

    with pytest.warns(UserWarning, match="are in it already"):
        watch, _ = fit(All(), BackboneFinetuning(1), epochs=3)
    assert watch.rates == [[0.5]] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (torch.optim.LBFGS, r"LBFGS has one parameter group, and none can be added.*LBFGS\(self\.parameters\(\)"),
        (
            lambda free: torch.optim.Muon([one for one in free if one.ndim == 2], lr=0.1),
            r"Muon trains matrices only, and 3 of 4 parameters .* shape \(3,\)",
        ),
    ],
)
def test_optimizer_that_cannot_take_a_group_is_told_before_training(make: Any, message: str) -> None:
    class Other(Model):
        def configure_optimizers(self) -> Any:
            return make([one for one in self.parameters() if one.requires_grad])

    callback, model = BackboneFinetuning(3), Other()
    watch = Watch()
    with pytest.raises(MisconfigurationException, match=message):
        fit(model, callback, watch)
    assert watch.rates == []


def test_lbfgs_of_all_parameters_is_finetuned() -> None:
    class Second(Model):
        def configure_optimizers(self) -> Any:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)

    model = Second()
    before = model.state_dict()["backbone.0.weight"].clone()
    fit(model, BackboneFinetuning(2), epochs=2)
    assert torch.equal(model.state_dict()["backbone.0.weight"], before)
    with pytest.warns(UserWarning, match="2 of 2 parameters to be added to LBFGS are in it already"):
        fit(model, BackboneFinetuning(1), epochs=2)
    assert not torch.equal(model.state_dict()["backbone.0.weight"], before)


def test_second_fit_starts_anew() -> None:
    callback = BackboneFinetuning(1)
    first, _ = fit(Model(), callback, epochs=3)
    second, _ = fit(Model(), callback, epochs=3)
    assert second.rates == first.rates


def test_going_on_with_the_same_trainer_unfreezes_at_once() -> None:
    callback, model = BackboneFinetuning(1), Model()
    watch, trainer = fit(model, callback, epochs=3)
    trainer.max_epochs = 4
    trainer.fit(model)
    assert len(watch.rates[-1]) == 2
    assert len(watch.trained[-1]) == 6


def test_verbose_tells_both_rates(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="leyden"):
        fit(Model(1 / 3), BackboneFinetuning(1, verbose=True, rounding=3), epochs=3)
    told = [record.getMessage() for record in caplog.records if "backbone" in record.getMessage()]
    assert told == [
        "Epoch 1: learning rate 0.333, of the backbone 0.033",
        "Epoch 2: learning rate 0.333, of the backbone 0.067",
    ]


def test_no_backbone_is_known_before_the_optimizers_are_made() -> None:
    class Bare(Model):
        def __init__(self) -> None:
            super().__init__()
            del self.backbone

        def configure_optimizers(self) -> Any:
            raise AssertionError("came too far")

    with pytest.raises(
        MisconfigurationException, match=r"finetunes `Bare.backbone`, a torch.nn.Module, but it has none"
    ):
        fit(Bare(), BackboneFinetuning())


def test_backbone_that_is_no_module() -> None:
    class Odd(Model):
        def __init__(self) -> None:
            super().__init__()
            del self.backbone
            self.backbone = "resnet18"  # type: ignore[assignment]

    with pytest.raises(MisconfigurationException, match="but its backbone is 'resnet18'"):
        fit(Odd(), BackboneFinetuning())


def test_backbone_that_setup_should_have_made() -> None:
    class Forgets(Model):
        def __init__(self) -> None:
            super().__init__()
            del self.backbone

        def setup(self, stage: str) -> None:
            """Makes nothing."""

    with pytest.raises(MisconfigurationException, match=r"Forgets.backbone"):
        fit(Forgets(), BackboneFinetuning())


def test_every_wrong_argument_is_named_at_once() -> None:
    arguments: dict[str, Any] = {
        "unfreeze_backbone_at_epoch": -1,
        "lambda_func": 2.0,
        "backbone_initial_ratio_lr": 0,
        "backbone_initial_lr": "0.1",
        "should_align": None,
        "initial_denom_lr": float("nan"),
        "train_bn": 1,
        "verbose": "yes",
        "rounding": 1.5,
        "strategy": ["layer4"],
        "level_ratio_lr": -1,
    }
    with pytest.raises(MisconfigurationException) as caught:
        BackboneFinetuning(**arguments)
    lines = str(caught.value).splitlines()
    assert [line.split("(")[1].split("=")[0] for line in lines] == list(arguments)
    assert all("expected" in line for line in lines)


class Levels(BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 1:
            self.make_trainable(pl_module.backbone)


def test_trainable_parameter_in_no_group() -> None:
    with pytest.raises(
        MisconfigurationException,
        match=r"Levels.finetune_function made 'backbone.0.weight' trainable, but no optimizer",
    ):
        fit(Model(), Levels())


def test_trainable_parameter_in_two_groups() -> None:
    class Twice(Levels):
        def freeze_before_training(self, pl_module: Any) -> None:
            self.freeze(pl_module.backbone, train_bn=False)

        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer)

    class Two(Model):
        automatic_optimization = False

        def configure_optimizers(self) -> Any:
            return SGD([self.head.weight], lr=0.1), SGD([self.head.bias], lr=0.1)

    with pytest.raises(
        MisconfigurationException, match=r"'backbone.0.weight' trainable, and 2 parameter groups have it"
    ):
        fit(Two(), Twice())


def test_function_of_the_older_generation_gets_the_optimizers_index() -> None:
    class Older(Levels):
        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer, opt_idx: int) -> None:  # type: ignore[override]
            calls.append((epoch, type(optimizer).__name__, opt_idx))

    calls: list[tuple[int, str, int]] = []
    fit(Model(), Older(), epochs=2)
    assert calls == [(0, "SGD", 0), (1, "SGD", 0)]


def test_index_is_given_where_it_has_a_default_and_nothing_else_is() -> None:
    class Older(Levels):
        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer, opt_idx: int = -1) -> None:
            seen.append(opt_idx)

    class Own(Levels):
        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer, factor: int = 7) -> None:
            seen.append(factor)

    class Collects(Levels):
        def finetune_function(self, *args: Any) -> None:
            seen.append(len(args))

    seen: list[int] = []
    for one in (Older(), Own(), Collects()):
        fit(Model(), one, epochs=1)
    assert seen == [0, 7, 3]


def test_function_that_fits_no_generation() -> None:
    class Odd(Levels):
        def finetune_function(self, pl_module: Any) -> None:  # type: ignore[override]
            """Takes too little."""

    with pytest.raises(
        MisconfigurationException, match=r"Odd.finetune_function\(pl_module.*\) .*cannot be called with"
    ):
        fit(Model(), Odd())


@pytest.mark.parametrize("name", ["freeze_before_training", "finetune_function"])
def test_what_a_subclass_must_define(name: str) -> None:
    class Half(BaseFinetuning):
        def freeze_before_training(self, pl_module: Any) -> None:
            """Freezes nothing."""

    class Nothing(BaseFinetuning):
        """Defines nothing."""

    callback = Half() if name == "finetune_function" else Nothing()
    with pytest.raises(MisconfigurationException, match=f"does not define {name}"):
        fit(Model(), callback)


def test_a_subclass_may_set_the_rate_it_set_last() -> None:
    class Own(BackboneFinetuning):
        def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
            if epoch == 1:
                self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, lr=0.3)
                self.previous_backbone_lr = 0.3
            elif self.previous_backbone_lr is not None:
                self.previous_backbone_lr /= 2
                optimizer.param_groups[-1]["lr"] = self.previous_backbone_lr

    watch, _ = fit(Model(), callback := Own(), epochs=4)
    assert [rates[1:] for rates in watch.rates] == [[], [0.3], [0.15], [0.075]]
    assert callback.state_dict()["level_lrs"] == [0.075]
    callback.previous_backbone_lr = None
    assert callback.level_lrs == []


def test_evaluation_freezes_nothing() -> None:
    class Evaluated(Model):
        def test_step(self, batch: Tensor, batch_idx: int) -> None:
            self.head(self.backbone(batch))

        def test_dataloader(self) -> DataLoader[Tensor]:
            return self.train_dataloader()

    model = Evaluated()
    trainer = Trainer(accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[BackboneFinetuning()])
    trainer.test(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_state_without_a_fit_is_empty() -> None:
    assert BackboneFinetuning().state_dict() == {}
    assert Levels().state_dict() == {}


def test_installing_the_family_attaches_nothing() -> None:
    assert make_callbacks() == []
    assert multiplicative(3) == 2.0
