"""BackboneFinetuning with a strategy: what each level sets free, at which rate, and which strategies are refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.testing import RandomDataset
from leyden_finetune import BackboneFinetuning
from leyden_finetune.levels import Level, share_out


class Model(LightningModule):
    """A backbone of three layers, each with a BatchNorm, and an optimizer of what is trainable by name."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential()
        for name in ("stem", "layer1", "layer2"):
            self.backbone.add_module(name, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()))
        self.head = nn.Linear(4, 1)

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        return self.head(self.backbone(batch)).square().mean()

    def configure_optimizers(self) -> Any:
        named = [(name, one) for name, one in self.named_parameters() if one.requires_grad]
        return AdamW([{"params": named, "name": "head"}], lr=0.5)

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(RandomDataset(4, 8), batch_size=4)


class Watch(Callback):
    """Notes at the end of each epoch the groups by their names: the rate, and the names of their parameters."""

    def __init__(self) -> None:
        self.rates: list[dict[str, float]] = []
        self.names: dict[str, list[str]] = {}
        self.trainable: list[set[str]] = []

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        groups = trainer.optimizers[0].param_groups
        self.rates.append({group["name"]: group["lr"] for group in groups})
        self.names = {group["name"]: group["param_names"] for group in groups}
        self.trainable.append({name for name, one in pl_module.named_parameters() if one.requires_grad})


def fit(model: LightningModule, *callbacks: Callback, epochs: int = 5) -> Watch:
    watch = Watch()
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[*callbacks, watch]
    )
    trainer.fit(model)
    return watch


def test_levels_come_as_named_groups_at_rates_of_their_own() -> None:
    callback = BackboneFinetuning(
        strategy={"4": ["*"], 1: ["layer2"], 3: ["layer1.0.weight", "*.bias"]},  # type: ignore[dict-item]
        level_ratio_lr=0.5,
    )
    watch = fit(Model(), callback)
    assert watch.rates == [
        {"head": 0.5},
        {"head": 0.5, "backbone.layer2": 0.05},
        {"head": 0.5, "backbone.layer2": 0.1},
        {"head": 0.5, "backbone.layer2": 0.2, "backbone.layer1.0.weight+*.bias": 0.025},
        {"head": 0.5, "backbone.layer2": 0.4, "backbone.layer1.0.weight+*.bias": 0.05, "backbone.*": 0.0125},
    ]
    norms = [f"backbone.{layer}.1.{kind}" for layer in ("stem", "layer1", "layer2") for kind in ("weight", "bias")]
    assert watch.names == {
        "head": [*norms, "head.weight", "head.bias"],
        "backbone.layer2": ["backbone.layer2.0.weight", "backbone.layer2.0.bias"],
        "backbone.layer1.0.weight+*.bias": [
            "backbone.stem.0.bias", "backbone.layer1.0.weight", "backbone.layer1.0.bias",
        ],
        "backbone.*": ["backbone.stem.0.weight"],
    }  # fmt: skip
    assert callback.level_lrs == [0.4, 0.05, 0.0125]
    assert callback.previous_backbone_lr == 0.0125


def test_aligned_levels_stay_below_the_rates_of_those_before_them() -> None:
    strategy = {0: ["layer2"], 1: ["layer1"]}
    watch = fit(Model(), BackboneFinetuning(strategy=strategy, backbone_initial_lr=0.4, level_ratio_lr=0.5))
    assert watch.rates[0] == {"head": 0.5, "backbone.layer2": 0.4}
    assert watch.rates[1] == {"head": 0.5, "backbone.layer2": 0.5, "backbone.layer1": 0.2}
    assert watch.rates[4] == {"head": 0.5, "backbone.layer2": 0.5, "backbone.layer1": 0.25}


def test_what_no_level_names_stays_frozen_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with caplog.at_level(logging.INFO, logger="leyden"):
        watch = fit(model, BackboneFinetuning(strategy={1: ["layer2"], 8: ["layer1"]}, train_bn=False), epochs=3)
    assert watch.trainable[-1] == {
        "backbone.layer2.0.weight", "backbone.layer2.0.bias", "head.weight", "head.bias",
    }  # fmt: skip
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert same == {name for name in before if name not in watch.trainable[-1]}  # BatchNorm's statistics among them
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("BackboneFinetuning")]
    assert told == [
        "BackboneFinetuning: 4 parameters of the backbone are in no level and stay frozen: stem.0.weight, "
        "stem.0.bias, stem.1.weight, stem.1.bias",
        "BackboneFinetuning: backbone.layer1 stays frozen, since epoch 8 (counted from 0) does not come with "
        "Trainer(max_epochs=3).",
    ]


def test_verbose_tells_the_rate_of_each_level(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="leyden"):
        fit(Model(), BackboneFinetuning(strategy={0: ["layer2"], 1: ["*"]}, verbose=True, rounding=3), epochs=2)
    assert [record.getMessage() for record in caplog.records if "Epoch" in record.getMessage()] == [
        "Epoch 0: learning rate 0.5, of backbone.layer2 0.05",
        "Epoch 1: learning rate 0.5, of backbone.layer2 0.1",
        "Epoch 1: learning rate 0.5, of backbone.* 0.05",
    ]


def test_patterns_that_set_nothing_free_are_named_before_there_are_optimizers() -> None:
    class NotSoFar(Model):
        def configure_optimizers(self) -> Any:
            raise AssertionError("came too far")

    strategy = {
        1: ["layr2", "layer2"],
        2: ["layer2.0"],
        3: ["backbone.layer1"],
        4: ["*.1"],
        5: ["encoder"],
    }
    with pytest.raises(MisconfigurationException) as caught:
        fit(NotSoFar(), BackboneFinetuning(strategy=strategy, train_bn=False))
    assert str(caught.value).splitlines() == [
        "BackboneFinetuning(...) cannot work:",
        "  - strategy={1: ['layr2', ...]}: no module and no parameter of the backbone has a name like this. "
        "Did you mean 'layer2'? It has stem, layer1, layer2.",
        "  - strategy={2: ['layer2.0']}: all it names is set free at epoch 1 already.",
        "  - strategy={3: ['backbone.layer1']}: names are those within the backbone: write 'layer1'.",
        "  - strategy={4: ['*.1']}: all it names is BatchNorm's, which train_bn=False keeps frozen.",
        "  - strategy={5: ['encoder']}: no module and no parameter of the backbone has a name like this. "
        "It has stem, layer1, layer2.",
    ]


@pytest.mark.parametrize(
    "strategy", [{}, {"x": ["a"]}, {1: "a"}, {1: []}, {1: [""]}, {-1: ["a"]}, {True: ["a"]}, {"1": ["a"], 1: ["b"]}, 3]
)
def test_what_is_no_strategy(strategy: Any) -> None:
    with pytest.raises(MisconfigurationException, match=r"strategy=.*: expected a dict of epochs >= 0 with lists"):
        BackboneFinetuning(strategy=strategy)


def test_other_arguments_of_levels() -> None:
    with pytest.raises(MisconfigurationException, match=r"at_epoch=3\): expected to be left out") as caught:
        BackboneFinetuning(3, strategy={1: ["a"]}, level_ratio_lr=0)
    assert "level_ratio_lr=0): expected a number > 0" in str(caught.value)


def test_a_run_that_starts_later_sets_all_levels_free_that_are_due() -> None:
    model, callback = Model(), BackboneFinetuning(strategy={1: ["layer2"], 2: ["layer1"]})
    trainer = Trainer(max_epochs=3, accelerator="cpu", logger=False, discover_callbacks=False, callbacks=[callback])
    trainer.fit(model)
    trainer.max_epochs = 4
    trainer.fit(model)
    assert [group["name"] for group in trainer.optimizers[0].param_groups] == [
        "head",
        "backbone.layer2",
        "backbone.layer1",
    ]
    assert callback.level_lrs == [0.05, 0.05]


def test_names_of_a_compiled_backbone_are_those_within_it() -> None:
    backbone: Any = torch.compile(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), backend="eager")
    (first,), rest = share_out([Level(0, 1, ("1",))], backbone)
    assert [list(first), list(rest)] == [["1.weight", "1.bias"], ["0.weight", "0.bias"]]


def test_backbone_of_a_group_of_the_users_own_has_the_rate_from_its_epoch_on() -> None:
    class Groups(Model):
        def configure_optimizers(self) -> Optimizer:
            of_backbone: dict[str, Any] = {"params": list(self.backbone.named_parameters()), "lr": 9.0, "name": "body"}
            of_head: dict[str, Any] = {"params": list(self.head.named_parameters()), "name": "head"}
            return AdamW([of_head, of_backbone], lr=0.5)

    with pytest.warns(UserWarning, match="6 of 6 parameters to be added to AdamW are in it already"):
        watch = fit(Groups(), BackboneFinetuning(1), epochs=3)
    assert [rates["body"] for rates in watch.rates] == [9.0, 0.05, 0.1]


def test_strategy_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "leyden.toml"
    file.write_text(
        "[callbacks.BackboneFinetuning]\nlevel_ratio_lr = 0.5\n\n"
        '[callbacks.BackboneFinetuning.strategy]\n3 = ["layer2"]\n6 = ["layer1", "*.bias"]\n',
        encoding="utf-8",
    )
    monkeypatch.setenv("LEYDEN_CONFIG", str(file))
    monkeypatch.delenv("LEYDEN_CALLBACKS")
    trainer = Trainer(logger=False, accelerator="cpu")
    (callback,) = [one for one in trainer.callbacks if isinstance(one, BackboneFinetuning)]
    assert callback.strategy == {3: ["layer2"], 6: ["layer1", "*.bias"]}
    assert [(level.epoch, level.name) for level in callback.levels] == [
        (3, "backbone.layer2"),
        (6, "backbone.layer1+*.bias"),
    ]
