"""A pruned run that is cut anywhere and gone on with is bit for bit the run that was not cut."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import BackboneFinetuning, EarlyStopping, ModelCheckpoint, ModelPruning, OnExceptionCheckpoint
from leyden.state.checkpoint import dump
from leyden.state.storage import load

Differences = Callable[[Any, Any], Iterable[str]]


class Cut(Exception):
    """Ends a run as a crash would."""


class Net(LightningModule):
    """Adam over parameters by name, a schedule by steps, BatchNorm, dropout and two layers that share a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []
        self.net: Any = nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 4), nn.Linear(4, 1)
        )
        self.net[3].weight = self.net[0].weight

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append(batch.tolist())
        loss: Tensor = (self.net(batch) - 1).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", (self.net(batch) - 1).pow(2).mean() + torch.rand(()))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.named_parameters(), lr=0.05, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Manual(Net):
    """Two optimizers that a training step drives; gradients are kept from batch to batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        if batch_idx % 2 == 0:
            for optimizer in self.optimizers():
                optimizer.step()
                optimizer.zero_grad()
        return loss

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[index].parameters(), lr=0.05, momentum=0.9) for index in (0, 4)]


def read(shuffle: bool) -> Any:
    return DataLoader(torch.linspace(-1, 1, 32).sin().view(8, 4), batch_size=2, shuffle=shuffle)  # type: ignore[arg-type]


HOW: dict[str, dict[str, Any]] = {
    "lottery ticket": {"pruning_fn": "l1_unstructured", "amount": 0.3},
    "at random, resampled, each": {
        "pruning_fn": "random_unstructured",
        "use_global_unstructured": False,
        "resample_parameters": True,
        "amount": 0.3,
    },
    "structured, after validations": {
        "pruning_fn": "random_structured",
        "use_global_unstructured": False,
        "use_lottery_ticket_hypothesis": False,
        "pruning_dim": 1,
        "amount": 1,
        "apply_pruning": lambda epoch: epoch == 1,
        "prune_on_train_epoch_end": False,
    },
    "not permanent": {
        "pruning_fn": "l1_unstructured",
        "make_pruning_permanent": False,
        "amount": lambda epoch: [0.2, 0, 3][epoch],
        "use_lottery_ticket_hypothesis": lambda epoch: epoch == 2,
    },
    "not permanent at first": {
        "pruning_fn": "l1_unstructured",
        "make_pruning_permanent": lambda epoch: epoch > 0,
        "parameter_names": ["weight"],
        "amount": 0.4,
        "use_lottery_ticket_hypothesis": False,
    },
}


@pytest.mark.parametrize("how", HOW)
def test_from_every_checkpoint(how: str, resumes_exactly: Callable[..., int]) -> None:
    for net, trainer in ((Net, {"accumulate_grad_batches": 3, "val_check_interval": 2}), (Manual, {})):

        def build(net: type[Net] = net) -> dict[str, Any]:
            return {
                "module": net(),
                "train": read(True),
                "val": read(True),
                "callbacks": [ModelPruning(**HOW[how]), EarlyStopping("val", patience=9)],
            }

        assert resumes_exactly(build, slice(1, None, 2), max_epochs=3, **trainer) > 8


class CutAt(Callback):
    """Raises in the `at`-th call of a hook, which comes after that of the callbacks before it."""

    def __init__(self, hook: str, at: int) -> None:
        self.left = at

        def count(trainer: Trainer, *_: Any) -> None:
            if not trainer.sanity_checking:
                self.left -= 1
                if self.left == 0:
                    raise Cut

        setattr(self, hook, count)


CUTS = [
    ("on_train_epoch_start", 1),
    ("on_train_epoch_start", 2),
    ("on_after_backward", 6),
    ("on_train_batch_end", 8),
    ("on_validation_batch_end", 1),
    ("on_validation_batch_end", 6),
    ("on_validation_end", 1),
    ("on_validation_end", 2),
    ("on_validation_end", 3),
    ("on_train_epoch_end", 1),
    ("on_train_epoch_end", 2),
    ("on_train_epoch_end", 3),
    ("on_train_end", 1),
    ("on_fit_end", 1),
]


def end_of(folder: Path, how: str, *callbacks: Callback, seed: int = 1, **fit: Any) -> dict[str, Any]:
    torch.manual_seed(seed)
    module = Net()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=False,
        discover_callbacks=False,
        callbacks=[ModelPruning(**HOW[how]), OnExceptionCheckpoint(folder), *callbacks],
    )
    try:
        trainer.fit(module, read(True), read(True), **fit)
    except Cut:
        if HOW[how].get("make_pruning_permanent", True) is True:
            assert not prune.is_pruned(module)
        raise
    end = dump(trainer)
    del end["loops"]["fit_loop"]["draws"]
    return {**end, "metrics_now": dict(trainer.callback_metrics)}


@pytest.mark.parametrize("how", HOW)
def test_after_an_exception_anywhere(how: str, tmp_path: Path, named_differences: Differences) -> None:
    straight = end_of(tmp_path, how)
    for number, (hook, at) in enumerate(CUTS):
        with pytest.raises(Cut):
            end_of(tmp_path, how, CutAt(hook, at))
        path = tmp_path / "on_exception.ckpt"
        resumed = end_of(tmp_path, how, seed=number + 50, ckpt_path=path)
        assert not list(named_differences(resumed, straight)), (hook, at)
        path.unlink()


@pytest.mark.parametrize("how", HOW)
def test_after_one_exception_after_another(how: str, tmp_path: Path, named_differences: Differences) -> None:
    straight = end_of(tmp_path, how)
    for chain in (
        [("on_train_epoch_end", 1), ("on_train_epoch_end", 1), ("on_train_epoch_end", 2)],
        [("on_train_batch_end", 6), ("on_validation_end", 1), ("on_train_epoch_start", 1), ("on_after_backward", 1)],
    ):
        path: Path | None = None
        for number, (hook, at) in enumerate(chain):
            with pytest.raises(Cut):
                end_of(tmp_path, how, CutAt(hook, at), seed=number + 1, ckpt_path=path)
            path = tmp_path / "on_exception.ckpt"
        resumed = end_of(tmp_path, how, seed=50, ckpt_path=path)
        assert not list(named_differences(resumed, straight)), chain


def test_after_an_exception_in_the_same_module(tmp_path: Path) -> None:
    """What a notebook does: fit again, with the module that was cut."""
    for permanent in (True, False):
        module = Net()

        def trainer(*callbacks: Callback, permanent: bool = permanent) -> Trainer:
            pruning = ModelPruning("l1_unstructured", amount=0.3, make_pruning_permanent=permanent)
            saver = OnExceptionCheckpoint(tmp_path)
            return Trainer(
                max_epochs=3, accelerator="cpu", logger=False, callbacks=[pruning, saver, *callbacks],
                discover_callbacks=False,
            )  # fmt: skip

        torch.manual_seed(3)
        start = copy.deepcopy(module.state_dict())
        trainer().fit(module, read(False))
        straight = copy.deepcopy(module.state_dict())
        if not permanent:
            ModelPruning("identity").make_pruning_permanent(module)
        module.load_state_dict(start)
        torch.manual_seed(3)
        with pytest.raises(Cut):
            trainer(CutAt("on_after_backward", 7)).fit(module, read(False))
        trainer().fit(module, read(False), ckpt_path=tmp_path / "on_exception.ckpt")
        assert all(torch.equal(value, straight[name]) for name, value in module.state_dict().items())


def test_a_larger_limit_goes_on_within_the_epoch_that_the_smaller_one_cut(
    tmp_path: Path, named_differences: Differences
) -> None:
    for permanent in (True, False):

        def run(
            max_steps: int, path: Path | None = None, seed: int = 1, permanent: bool = permanent
        ) -> tuple[Trainer, Any]:
            torch.manual_seed(seed)
            pruning = ModelPruning("l1_unstructured", amount=0.3, make_pruning_permanent=permanent)
            saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1)
            trainer = Trainer(
                max_steps=max_steps, max_epochs=3, accelerator="cpu", logger=False, callbacks=[pruning, saver],
                discover_callbacks=False,
            )  # fmt: skip
            trainer.fit(Net(), read(True), ckpt_path=path)
            return trainer, saver.best_model_path

        for cut in (2, 6):
            straight = dump(run(12)[0])
            _, saved = run(cut)
            resumed = dump(run(12, Path(saved), seed=9)[0])
            assert not list(named_differences(resumed["state_dict"], straight["state_dict"]))
            assert not list(named_differences(resumed["optimizer_states"], straight["optimizer_states"]))
            assert not list(
                named_differences(resumed["callbacks"]["ModelPruning"], straight["callbacks"]["ModelPruning"])
            )
            for path in tmp_path.glob("*.ckpt"):
                path.unlink()


def test_checkpoints_hold_plain_weights(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    light = ModelCheckpoint(tmp_path, "weights-{epoch}", save_top_k=-1, save_weights_only=True)
    light.name = "light"
    module = Net()
    trainer = Trainer(
        max_epochs=3, accelerator="cpu", logger=False, discover_callbacks=False,
        callbacks=[ModelPruning("l1_unstructured", parameter_names=["weight"]), saver, light],
    )  # fmt: skip
    trainer.fit(module, read(False))
    for name in ("epoch", "weights-epoch"):
        for epoch in range(3):
            path = tmp_path / f"{name}={epoch}.ckpt"
            weights = load(path)["state_dict"]
            assert list(weights) == list(Net().state_dict())
            Net().load_state_dict(weights)
            loaded = Net.load_from_checkpoint(path)
            left = sum(int(loaded.net[index].weight.count_nonzero()) for index in (0, 1, 4))
            assert left == [12, 6, 3][epoch]  # of 16 + 4 + 4
            assert "callbacks" not in load(path) or name == "epoch"
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in weights.items())
    tested = Trainer(accelerator="cpu", logger=False, discover_callbacks=False)
    tested.validate(Net(), read(False), ckpt_path=tmp_path / "epoch=1.ckpt", verbose=False)
    torch.manual_seed(0)
    trainer.validate(module, read(False), ckpt_path=tmp_path / "epoch=1.ckpt", verbose=False)


def test_a_fit_that_is_over_is_saved_with_what_it_takes_to_go_on(
    tmp_path: Path, named_differences: Differences
) -> None:
    def trainer(max_epochs: int) -> Trainer:
        pruning = ModelPruning("l1_unstructured", amount=0.3)
        return Trainer(
            max_epochs=max_epochs, accelerator="cpu", logger=False, callbacks=[pruning], discover_callbacks=False
        )

    ends = []
    for stop in (3, 2):
        torch.manual_seed(4)
        run = trainer(stop)
        run.fit(Net(), read(True))
        if stop == 2:
            run.save_checkpoint(tmp_path / "a.ckpt")
            run = trainer(3)
            run.fit(Net(), read(True), ckpt_path=tmp_path / "a.ckpt")
        ends.append(dump(run))
    for part in ("state_dict", "optimizer_states", "callbacks"):
        assert not list(named_differences(ends[1][part], ends[0][part])), part


def test_beside_finetuning(resumes_exactly: Callable[..., int]) -> None:
    class Backbone(Net):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))

        @property
        def backbone(self) -> Any:
            return self.net[0]

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam([one for one in self.parameters() if one.requires_grad], lr=0.05)

    def build() -> dict[str, Any]:
        finetuning = BackboneFinetuning(2, lambda epoch: 1.5)
        return {
            "module": Backbone(),
            "train": read(True),
            "callbacks": [finetuning, ModelPruning("l1_unstructured", amount=0.2)],
        }

    assert resumes_exactly(build, slice(1, None, 2), max_epochs=4) > 4


def test_another_choice_of_parameters_is_told_where_it_would_lose_masks(tmp_path: Path) -> None:
    def trainer(*names: str) -> Trainer:
        pruning = ModelPruning("l1_unstructured", parameter_names=names)
        return Trainer(max_epochs=2, accelerator="cpu", logger=False, callbacks=[pruning], discover_callbacks=False)

    first = trainer("weight")
    first.fit_loop.max_epochs = 1
    first.fit(Net(), read(False))
    first.save_checkpoint(tmp_path / "a.ckpt")
    trainer("weight", "bias").fit(Net(), read(False), ckpt_path=tmp_path / "a.ckpt")
    with pytest.raises(
        Exception, match=r"had pruned 'net.0.weight', of the shape \(4, 4\), which ModelPruning does not"
    ):
        trainer("bias").fit(Net(), read(False), ckpt_path=tmp_path / "a.ckpt")


def test_an_evaluation_takes_masked_weights_and_plain_ones(tmp_path: Path) -> None:
    expected, results = [], []
    for permanent in (True, False):
        torch.manual_seed(5)
        module = Net()
        pruning = ModelPruning("l1_unstructured", make_pruning_permanent=permanent)
        trainer = Trainer(
            max_epochs=2, accelerator="cpu", logger=False, callbacks=[pruning], discover_callbacks=False
        )  # fmt: skip
        trainer.fit(module, read(False))
        path = tmp_path / f"{permanent}.ckpt"
        trainer.save_checkpoint(path)
        expected.append(module.eval().net(torch.ones(1, 4)).item())
        for evaluated in (Net(), module):
            trainer.validate(evaluated, read(False), ckpt_path=path, verbose=False)
            results.append(evaluated.eval().net(torch.ones(1, 4)).item())
    assert results == [expected[0]] * 4
    assert expected[0] == expected[1]
