"""Finetuning modules of every make: lazy, compiled, tied, made late, with other norms; and what is left of them."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.testing import RandomDataset
from leyden_finetune import BackboneFinetuning, BaseFinetuning
from leyden_finetune.freezing import is_frozen_norm, is_norm


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.make()

    def make(self) -> None:
        self.backbone: nn.Module = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.head(self.backbone(batch)).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.head(self.backbone(batch))

    def configure_optimizers(self) -> Any:
        return SGD([one for one in self.parameters() if one.requires_grad], lr=0.1)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(RandomDataset(4, 8), batch_size=4)

    def val_dataloader(self) -> DataLoader[Tensor]:
        return self.train_dataloader()


class Thaw(BaseFinetuning):
    """Sets the backbone free in the second epoch."""

    def __init__(self, train_bn: bool = False) -> None:
        self.train_bn = train_bn

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone, self.train_bn)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.backbone, optimizer, train_bn=self.train_bn)


class Watch(Callback):
    """Notes of each training batch who is trainable and which norms train, after a `.train()` of everything."""

    def __init__(self) -> None:
        self.trainable: list[int] = []
        self.norms: list[list[bool]] = []
        self.groups: list[list[int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        pl_module.train()
        self.trainable.append(sum(one.requires_grad for one in pl_module.parameters()))
        self.norms.append([one.training for one in pl_module.modules() if is_norm(one)])
        self.groups.append([len(group["params"]) for group in trainer.optimizers[0].param_groups])


def fit(model: LightningModule, *callbacks: Callback, epochs: int = 2, **arguments: Any) -> Watch:
    watch = Watch()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[*callbacks, watch],
        **arguments,
    )  # fmt: skip
    trainer.fit(model)
    return watch


class InSetup(Model):
    def make(self) -> None:
        """Makes nothing yet."""

    def setup(self, stage: str) -> None:
        super().make()


class InConfigureModel(Model):
    def make(self) -> None:
        """Makes nothing yet."""

    def configure_model(self) -> None:
        super().make()


@pytest.mark.parametrize("kind", [Model, InSetup, InConfigureModel])
@pytest.mark.parametrize("callback", [Thaw, lambda: BackboneFinetuning(1, train_bn=False)])
def test_module_made_anywhere_is_frozen_before_there_are_optimizers(kind: type[Model], callback: Any) -> None:
    watch = fit(kind(), callback())
    assert watch.groups == [[2], [2], [2, 2], [2, 2]]
    assert watch.norms == [[False]] * 4


class Lazy(Model):
    def make(self) -> None:
        self.backbone = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
        self.head = nn.Linear(4, 1)


@pytest.mark.parametrize("train_bn", [True, False])
def test_lazy_layers(train_bn: bool) -> None:
    model = Lazy()
    watch = fit(model, Thaw(train_bn), num_sanity_val_steps=0)  # which would make inference tensors of them
    norm: Any = model.backbone[1]  # type: ignore[index]
    assert watch.trainable == ([4, 4, 6, 6] if train_bn else [2, 2, 4, 4])
    assert watch.norms == [[train_bn]] * 4
    assert norm.running_mean.shape == (4,)
    assert norm.num_batches_tracked == (4 if train_bn else 0)
    assert norm.track_running_stats


class Tied(Model):
    """The head's weight is that of the backbone's layer."""

    def make(self) -> None:
        super().make()
        self.head = nn.Linear(4, 4)
        self.head.weight = self.backbone[0].weight  # type: ignore[index]


def test_weight_that_head_and_backbone_share_is_one_parameter_of_the_backbone() -> None:
    model = Tied()
    watch = fit(model, BackboneFinetuning(1))
    assert watch.trainable == [3, 3, 5, 5]
    assert watch.groups == [[3], [3], [3, 2], [3, 2]]
    assert model.head.weight is model.backbone[0].weight  # type: ignore[index]


class Compiled(Model):
    def make(self) -> None:
        super().make()
        self.backbone = torch.compile(self.backbone, backend="eager")  # type: ignore[assignment]


def test_compiled_backbone_is_the_same_as_it_is_without() -> None:
    ends = []
    for kind in (Model, Compiled):
        torch.manual_seed(0)
        model = kind()
        watch = fit(model, BackboneFinetuning(strategy={1: ["0"]}, train_bn=False))
        assert watch.groups == [[2], [2], [2, 2], [2, 2]]
        ends.append([*model.state_dict().values()])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_norms_replaced_after_they_were_frozen_are_held_all_the_same() -> None:
    class Replace(Callback):
        """As what makes SyncBatchNorm of each BatchNorm for several processes."""

        def prepare_module(self, trainer: Trainer, pl_module: Any, checkpoint: Any) -> None:
            pl_module.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(pl_module.backbone)  # type: ignore[no-untyped-call]

    class Reads(Model):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            seen.append(type(self.backbone[1]).__name__)  # type: ignore[index]
            return self.head(batch).square().mean()  # SyncBatchNorm is for GPUs

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            """Validates nothing."""

    seen: list[str] = []
    watch = fit(Reads(), BackboneFinetuning(5, train_bn=False), Replace(), epochs=1)
    assert (seen, watch.norms) == (["SyncBatchNorm"] * 2, [[False]] * 2)


def test_sync_batch_norm_is_frozen_as_any() -> None:
    norm = nn.SyncBatchNorm(2)
    BaseFinetuning.freeze(norm, train_bn=False)
    norm.train()
    rows = torch.randn(4, 2)
    assert torch.allclose(norm(rows), rows / (1 + norm.eps) ** 0.5)
    assert norm.num_batches_tracked == 0
    BaseFinetuning.make_trainable(norm)
    assert (norm.training, norm.track_running_stats) == (True, True)


def test_frozen_batch_norm_has_its_statistics_after_training_between_validations() -> None:
    model = Model()
    norm: Any = model.backbone[1]  # type: ignore[index]
    norm.running_mean.fill_(3.0)
    watch = fit(model, Thaw(), epochs=3, val_check_interval=1)
    assert watch.norms == [[False]] * 6
    assert torch.equal(norm.running_mean, torch.full((4,), 3.0))
    assert norm.num_batches_tracked == 0


@pytest.mark.parametrize("validates", [True, False])
def test_frozen_batch_norm_has_the_mode_of_those_around_it_after_the_fit(validates: bool) -> None:
    class ByHand(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.get_submodule("deep").eval()

    model = Model()
    model.deep = nn.Sequential(nn.BatchNorm1d(4))
    model.backbone.add_module("deep", model.deep)
    trainer = Trainer(
        max_epochs=2, accelerator="cpu", logger=False, discover_callbacks=False, limit_val_batches=int(validates),
        callbacks=[BackboneFinetuning(1, train_bn=False), ByHand()],
    )  # fmt: skip
    trainer.fit(model)
    modes = {name: one.training for name, one in model.named_modules()}
    assert [name for name, training in modes.items() if not training] == ["backbone.deep", "backbone.deep.0"]


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_the_callback_is_left_on_the_module(fails: bool) -> None:
    class Fails(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if fails:
                raise RuntimeError("no more")

    model, untouched, callback = Model(), Model(), BackboneFinetuning(1, train_bn=False)
    attributes = {name: sorted(vars(one)) for name, one in untouched.backbone.named_modules()}
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[callback, Fails()]
    )
    if fails:
        with pytest.raises(RuntimeError, match="no more"):
            trainer.fit(model)
    else:
        trainer.fit(model)
    assert {name: sorted(vars(one)) for name, one in model.backbone.named_modules()} == attributes
    assert [*model.state_dict()] == [*untouched.state_dict()]
    norm: Any = model.backbone.train()[1]  # type: ignore[index]
    assert (norm.training, norm.track_running_stats) == (True, True)
    assert [one.requires_grad for one in norm.parameters()] == [False, False]
    assert callback.state_dict()["frozen_norms"] == ["backbone.1"]  # as it was in the run, for a checkpoint made now

    assert b"leyden" not in pickle.dumps(model.backbone)


def test_checkpoint_made_after_the_fit_holds_what_was_frozen(tmp_path: Path) -> None:
    def trainer(epochs: int) -> Trainer:
        callback = BackboneFinetuning(2, train_bn=False)
        return Trainer(
            max_epochs=epochs, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[callback]
        )

    torch.manual_seed(0)
    whole, first, second = Model(), Model(), Model()
    first.load_state_dict(whole.state_dict())
    trainer(4).fit(whole)
    cut = trainer(1)
    cut.fit(first)
    cut.save_checkpoint(tmp_path / "after.ckpt")
    trainer(4).fit(second, ckpt_path=tmp_path / "after.ckpt")
    ends = zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in ends)


def test_copies_and_exports_of_a_module_within_the_fit() -> None:
    class Copies(Callback):
        def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
            backbone = copy.deepcopy(pl_module.backbone)
            found["copy is held"] = is_frozen_norm(backbone[1])
            found["of the copy"] = vars(backbone[1])["train"].args[0] is backbone[1]
            exported = torch.export.export(backbone.eval(), (torch.ones(2, 4),)).module()
            found["same"] = torch.equal(exported(torch.ones(2, 4)), pl_module.backbone(torch.ones(2, 4)))

    found: dict[str, bool] = {}
    fit(Model(), BackboneFinetuning(1, train_bn=False), Copies())
    assert found == {"copy is held": True, "of the copy": True, "same": True}


class Adversaries(Model):
    """Two optimizers by hand, one of which has the backbone; a teacher that nobody trains."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.critic = nn.Linear(1, 1)
        self.teacher = nn.Linear(4, 1).requires_grad_(False)

    def training_step(self, batch: Tensor, batch_idx: int) -> None:
        self.teacher(batch)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.critic(self.head(self.backbone(batch))).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        backbone = [one for one in self.backbone.parameters() if one.requires_grad]
        return [SGD(self.head.parameters(), lr=0.1), SGD([*self.critic.parameters(), *backbone], lr=0.1)]


def test_norms_that_another_optimizer_has_stay_with_it() -> None:
    model = Adversaries()
    watch = fit(model, BackboneFinetuning(1))
    assert watch.groups == [[2], [2], [2, 2], [2, 2]]
    assert [len(group["params"]) for group in model.trainer.optimizers[1].param_groups] == [4]
    assert not any(one.requires_grad for one in model.teacher.parameters())


def test_backbone_in_an_optimizer_of_its_own_is_left_there() -> None:
    class Own(Adversaries):
        def configure_optimizers(self) -> Any:
            rest = [*self.head.parameters(), *self.critic.parameters()]
            return [SGD(rest, lr=0.1), SGD(self.backbone.parameters(), lr=0.01)]

    model = Own()
    weight = model.backbone[0].weight.detach().clone()  # type: ignore[index]
    watch = fit(model, BackboneFinetuning(1), epochs=3)
    assert watch.groups == [[4]] * 6
    assert [group["lr"] for group in model.trainer.optimizers[1].param_groups] == [0.01]
    assert not torch.equal(model.backbone[0].weight, weight)  # type: ignore[index]


def test_what_no_optimizer_has_as_training_starts_is_told() -> None:
    class Forgets(Model):
        """Its neck and the backbone's BatchNorm are trainable."""

        def make(self) -> None:
            super().make()
            self.neck = nn.Linear(4, 4, bias=False)

        def configure_optimizers(self) -> Any:
            return SGD(self.head.parameters(), lr=0.1)

    expected = (
        "3 trainable parameters are in no optimizer as training starts, and rest until finetune_function adds them: "
        r"backbone.1.weight, backbone.1.bias, neck.weight\. If they are to be trained .* in "
        r"Forgets\.configure_optimizers of all"
    )
    with pytest.warns(UserWarning, match=expected):
        watch = fit(Forgets(), BackboneFinetuning(1))
    assert watch.groups[-1] == [2, 4]  # BatchNorm joins with the backbone


def test_clipping_and_half_precision_take_in_what_is_added() -> None:
    model = Model()
    callback = BackboneFinetuning(strategy={1: ["*"]}, backbone_initial_lr=0.1)

    class Norms(Callback):
        def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
            grads = [one.grad for one in pl_module.parameters() if one.grad is not None]
            if grads:
                norms.append(float(torch.stack([one.norm() for one in grads]).norm()))

    norms: list[float] = []
    watch = fit(model, callback, Norms(), epochs=3, gradient_clip_val=1e-3, precision="bf16-mixed")
    assert watch.groups[-1] == [4, 2]
    assert norms
    assert all(norm <= 1.01e-3 for norm in norms)
