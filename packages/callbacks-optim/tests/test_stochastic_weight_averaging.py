"""Stochastic weight averaging against a loop by hand with torch's swa_utils, the last pass, states and refusals."""

from __future__ import annotations

import itertools
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils
from torch.optim.swa_utils import SWALR, AveragedModel
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    LambdaCallback,
    LearningRateMonitor,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from leyden.loggers import CSVLogger

DATA = TensorDataset(torch.linspace(-2, 2, 40).view(10, 4).sin())
State = dict[str, Tensor]


class Net(LightningModule):
    """Batch norm and dropout, and a scheduler by step that the averaged epochs do without."""

    def __init__(self, *, scheduler: bool = True) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.backbone = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=0.3), nn.Dropout(0.2))
        self.head = nn.Linear(4, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.backbone(inputs))
        return outputs

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss: Tensor = (self(batch[0]) - batch[0].sum(dim=1, keepdim=True)).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val", self(batch[0]).mean())

    def configure_optimizers(self) -> Any:
        groups: list[dict[str, Any]] = [
            {"params": list(self.backbone.parameters())},
            {"params": list(self.head.parameters()), "lr": 0.02},
        ]
        optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9)
        if not self.scheduler:
            return optimizer
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(DATA, batch_size=2, shuffle=True)


def state_of(module: nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}


def net(kind: type[Net] = Net, **arguments: Any) -> Net:
    torch.manual_seed(3)
    return kind(**arguments)


def assert_same(one: State, other: State) -> None:
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


def fit(
    module: LightningModule, *callbacks: Callback, ckpt_path: Any = None, validate: bool = False, **arguments: Any
) -> Trainer:
    settings: dict[str, Any] = {"max_epochs": 5, "logger": False, "accelerator": "cpu"} | arguments
    trainer = Trainer(callbacks=list(callbacks), discover_callbacks=False, **settings)
    torch.manual_seed(4 if ckpt_path is None else 99)
    trainer.fit(module, loader(), loader() if validate else None, ckpt_path=ckpt_path)
    return trainer


def by_hand(
    first_epoch: int,
    lrs: Any,
    annealing: dict[str, Any],
    averaging: dict[str, Any],
    *,
    accumulate: int = 1,
    bf16: bool = False,
) -> tuple[State, State, list[list[float]]]:
    """Train with torch alone; return averaged and trained weights, and the learning rates of each epoch's end."""
    module, seen = net(), []
    optimizer, batches = module.configure_optimizers()["optimizer"], loader()
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    average: Any = None
    torch.manual_seed(4)
    for epoch in range(5):
        if epoch == first_epoch:
            average = AveragedModel(module, device=torch.device("cpu"), **averaging)
            annealed = SWALR(optimizer, lrs, **annealing)
        for batch_idx, (batch,) in enumerate(batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = (module(batch) - batch.sum(dim=1, keepdim=True)).pow(2).mean()
            torch.autograd.backward(loss / accumulate)
            if (batch_idx + 1) % accumulate == 0 or batch_idx == 4:
                optimizer.step()
                optimizer.zero_grad()
                if average is None:
                    scheduler.step()
        if average is not None:
            average.update_parameters(module)
            annealed.step()
        seen.append([group["lr"] for group in optimizer.param_groups])
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        swa_utils.update_bn(batches, average)
    return state_of(average.module), state_of(module), seen


class Watch(Callback):
    """Keeps weights and learning rates of each epoch's end, and what follows the last."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.lrs: list[list[float]] = []
        self.rng = torch.empty(0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append(state_of(pl_module))
        self.lrs.append([group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups])
        self.rng = torch.get_rng_state()


# -- equal to torch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start", "first_epoch"), [(1, 0), (3, 2), (0.8, 3), (0.0, 0), (1.0, 4)])
@pytest.mark.parametrize(("strategy", "epochs"), [("cos", 2), ("linear", 10), ("cos", 0)])
def test_it_is_that_of_torch(start: float, first_epoch: int, strategy: Any, epochs: int) -> None:
    module, watch = net(), Watch()
    swa = StochasticWeightAveraging([0.01, 0.03], start, epochs, strategy)
    trainer = fit(module, swa, watch)
    assert torch.equal(torch.get_rng_state(), watch.rng)  # the last pass leaves nothing behind
    annealing = {"anneal_epochs": epochs, "anneal_strategy": strategy}
    averaged, trained, lrs = by_hand(first_epoch, [0.01, 0.03], annealing, {})
    assert_same(watch.states[-1], trained)
    assert watch.lrs == lrs
    assert_same(state_of(module), averaged)
    assert swa.updates == 5 - first_epoch
    assert (trainer.max_epochs, trainer.current_epoch, trainer.global_step) == (5, 5, 25)


def fading(averaged: Tensor, current: Tensor, n_averaged: Tensor | int) -> Tensor:
    return averaged * 0.5 + current * 0.5


@pytest.mark.parametrize("device", ["cpu", None, torch.device("cpu")])
@pytest.mark.parametrize("averaging", [{}, {"avg_fn": fading}])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("bf16", [False, True])
def test_with_accumulation_mixed_precision_and_another_average(
    device: Any, averaging: Any, accumulate: int, bf16: bool
) -> None:
    module = net()
    swa = StochasticWeightAveraging(0.01, 3, annealing_epochs=3, device=device, **averaging)
    fit(module, swa, accumulate_grad_batches=accumulate, precision="bf16-mixed" if bf16 else None)
    averaged, _, _ = by_hand(2, 0.01, {"anneal_epochs": 3}, averaging, accumulate=accumulate, bf16=bf16)
    assert_same(state_of(module), averaged)


def test_manual_optimisation_with_two_optimizers() -> None:
    class Manual(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: list[Tensor], batch_idx: int) -> None:  # type: ignore[override]
            loss = (self(batch[0]) - batch[0].sum(dim=1, keepdim=True)).pow(2).mean()
            optimizers = self.optimizers()
            for optimizer in optimizers:
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in optimizers:
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [
                torch.optim.SGD(self.backbone.parameters(), lr=0.05, momentum=0.9),
                torch.optim.SGD(self.head.parameters(), lr=0.02, momentum=0.9),
            ]

    class Automatic(Net):
        def configure_optimizers(self) -> Any:
            return super().configure_optimizers()["optimizer"]

    one, other = net(Manual), net(Automatic)
    for module in (one, other):
        watch = Watch()
        fit(module, StochasticWeightAveraging([0.01, 0.03], 2, 2), watch)
        assert watch.lrs == [[0.05, 0.02], *watch.lrs[1:3], [0.01, 0.03], [0.01, 0.03]]
    assert_same(state_of(one), state_of(other))

    class Scheduled(Manual):
        def configure_optimizers(self) -> Any:
            optimizers = super().configure_optimizers()
            return optimizers, [torch.optim.lr_scheduler.ExponentialLR(optimizers[0], 0.9)]

    with pytest.raises(MisconfigurationException, match="Leave the schedulers out of configure_optimizers"):
        fit(net(Scheduled), StochasticWeightAveraging(0.01))


def test_batches_that_forward_does_not_fit() -> None:
    class Named(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step([batch["inputs"]], batch_idx)

    module, reference = net(Named), net()
    batches = [{"inputs": batch} for batch in torch.split(DATA.tensors[0], 2)]
    for one, given in ((module, batches), (reference, [[batch["inputs"]] for batch in batches])):
        trainer = Trainer(
            max_epochs=3,
            logger=False,
            callbacks=[StochasticWeightAveraging(0.01, 2)],
            discover_callbacks=False,
            accelerator="cpu",
        )
        torch.manual_seed(4)
        trainer.fit(one, given)
    assert_same(state_of(module), state_of(reference))


def test_frozen_batch_norm_keeps_its_statistics_and_other_limits_hold() -> None:
    class Counts(Net):
        def __init__(self) -> None:
            super().__init__()
            self.backbone[1].eval().requires_grad_(False)
            self.more = nn.BatchNorm1d(1, affine=False)
            self.batches = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.batches += 1
            outputs: Tensor = self.more(super().forward(inputs))
            return outputs

    module = net(Counts)
    fit(module, StochasticWeightAveraging(0.01, 1), max_epochs=2, limit_train_batches=3)
    assert isinstance(module, Counts)
    assert module.batches == 9
    assert int(module.backbone[1].num_batches_tracked) == 0  # type: ignore[arg-type]
    assert int(module.more.num_batches_tracked) == 3  # type: ignore[arg-type]
    assert module.more.momentum == 0.1
    assert [part.training for part in module.backbone] == [True, False, True]


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return itertools.repeat(torch.ones(4))


def test_the_pass_over_data_without_an_end_is_as_long_as_an_epoch_was() -> None:
    module, swa = net(), StochasticWeightAveraging(0.01, 1)
    trainer = Trainer(max_steps=7, logger=False, callbacks=[swa], discover_callbacks=False, accelerator="cpu")
    trainer.fit(module, DataLoader(Endless(), batch_size=2, collate_fn=lambda items: [torch.stack(items)]))
    assert int(module.backbone[1].num_batches_tracked) == 7  # type: ignore[arg-type]


def test_several_loaders() -> None:
    class Several(Net):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return super().training_step(batch["a"], batch_idx) + super().training_step(batch["b"], batch_idx)

        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

    module = net(Several)
    trainer = Trainer(
        max_epochs=3,
        logger=False,
        callbacks=[StochasticWeightAveraging(0.01, 2)],
        discover_callbacks=False,
        accelerator="cpu",
    )
    trainer.fit(module, {"a": loader(), "b": loader()}, [loader(), loader()])
    assert int(module.backbone[1].num_batches_tracked) == 10  # type: ignore[arg-type]


def test_metrics_and_rows_are_those_of_training(tmp_path: Path) -> None:
    rows: list[Any] = []
    metrics: list[Any] = []
    for name, swa in (("with", [StochasticWeightAveraging(1e-9, 5, 0)]), ("without", [])):
        trainer = fit(net(), *swa, logger=CSVLogger(tmp_path / name), log_every_n_steps=1, max_epochs=5)
        lines = Path(trainer.log_dir or "", "metrics.csv").read_text().splitlines()
        rows.append((lines[:20], len(lines)))
        steps = {key: trainer.callback_metrics.step_of(key) for key in trainer.callback_metrics}
        metrics.append((list(trainer.logged_metrics), steps))
    assert rows[0] == rows[1]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize(("lrs", "thaws_at"), [(0.01, 2), ([0.01, 0.03], 1)])
def test_finetuning_adds_a_group_in_an_averaged_epoch_and_the_monitor_sees_the_rates(
    tmp_path: Path, lrs: Any, thaws_at: int
) -> None:
    class Frozen(Net):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.head.parameters(), lr=0.02)

    watch = Watch()
    monitor = LearningRateMonitor("epoch")
    finetuning = BackboneFinetuning(thaws_at, train_bn=False, should_align=False, backbone_initial_lr=1e-4)
    trained_at: list[list[float]] = []

    def note(trainer: Trainer, *_: Any) -> None:
        trained_at.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    noting = LambdaCallback(on_train_batch_end=note)
    callbacks = [StochasticWeightAveraging(lrs, 2, 2), finetuning, watch, monitor, noting]
    fit(net(Frozen), *callbacks, logger=CSVLogger(tmp_path))
    assert [len(seen) for seen in watch.lrs] == [1 if epoch < thaws_at else 2 for epoch in range(5)]
    assert trained_at[-2] == [0.01, 0.03 if isinstance(lrs, list) else 0.01]
    assert "lr-SGD" in " ".join(monitor.lrs)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_training_that_stops_early_is_averaged_too() -> None:
    class Stops(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.should_stop = trainer.global_step == 13

    swa, module = StochasticWeightAveraging(0.01, 2), net()
    trainer = fit(module, swa, Stops())
    assert (trainer.global_step, swa.updates) == (13, 2)
    assert int(module.backbone[1].num_batches_tracked) == 5  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"averaged nothing: training ended after 3 epoch\(s\).* epoch 3 \(from 0\)"):
        fit(net(), StochasticWeightAveraging(0.01), Stops())


def test_another_fit_an_evaluation_and_fast_dev_run() -> None:
    module, swa = net(), StochasticWeightAveraging(0.01, 1)
    trainer = fit(module, swa, validate=True, max_epochs=2)
    averaged = state_of(module)
    trainer.validate(module, loader(), verbose=False)
    assert_same(state_of(module), averaged)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert swa.updates == 1
    fast = StochasticWeightAveraging(0.01, 40)
    fit(net(), fast, fast_dev_run=True, validate=True)
    assert fast.updates == 1


def test_a_finished_run_is_saved_with_both_copies_and_goes_on(tmp_path: Path) -> None:
    straight, module, watch = net(), net(), Watch()
    fit(straight, StochasticWeightAveraging(0.01, 2, 3), max_epochs=5)
    fit(module, StochasticWeightAveraging(0.01, 2, 3), watch, max_epochs=3).save_checkpoint(tmp_path / "end.ckpt")
    checkpoint = torch.load(tmp_path / "end.ckpt")
    assert_same(dict(checkpoint["state_dict"]), state_of(module))
    assert_same(dict(checkpoint["current_model_state"]), watch.states[-1])
    assert_same(state_of(Net.load_from_checkpoint(tmp_path / "end.ckpt")), state_of(module))
    resumed, nothing_left = Net(), Net()
    fit(resumed, StochasticWeightAveraging(0.01, 2, 3), ckpt_path=tmp_path / "end.ckpt", max_epochs=5)
    assert_same(state_of(resumed), state_of(straight))
    fit(nothing_left, StochasticWeightAveraging(0.01, 2, 3), ckpt_path=tmp_path / "end.ckpt", max_epochs=3)
    assert_same(state_of(nothing_left), state_of(module))


def test_what_is_saved_before_a_resumed_run_begins_has_the_average(tmp_path: Path) -> None:
    saves: dict[str, Path] = {"on_train_epoch_end": tmp_path / "cut.ckpt", "on_fit_start": tmp_path / "again.ckpt"}
    for hook, path in saves.items():

        def save(trainer: Trainer, module: LightningModule, path: Path = path) -> None:
            if trainer.current_epoch == 3:
                trainer.save_checkpoint(path)

        saver = LambdaCallback(**{hook: save})
        saver.position = "checkpoint" if hook == "on_train_epoch_end" else "first"
        resumed_from = saves["on_train_epoch_end"] if hook == "on_fit_start" else None
        fit(net(), StochasticWeightAveraging(0.01, 2, 3), saver, ckpt_path=resumed_from)
    first, again = (torch.load(path)["callbacks"]["StochasticWeightAveraging"] for path in saves.values())
    assert_same(again["average"], first["average"])


class FailsBeforePass(StochasticWeightAveraging):
    """Is cut where training has ended."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        raise KeyboardInterrupt


class FailsInPass(StochasticWeightAveraging):
    """Is cut in the midst of the last pass."""

    def update_batch_norm(self, trainer: Trainer, pl_module: LightningModule) -> None:
        given = trainer.batch_transfer
        left = [3]

        def transfer(batch: Any, dataloader_idx: int) -> Any:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return batch if given is None else given(batch, dataloader_idx)

        trainer.batch_transfer = transfer
        super().update_batch_norm(trainer, pl_module)


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("own_generator", [False, True])
@pytest.mark.parametrize("fails", [FailsBeforePass, FailsInPass])
def test_a_run_that_is_cut_within_the_last_pass(
    tmp_path: Path, stopped: bool, own_generator: bool, fails: type[StochasticWeightAveraging]
) -> None:
    def run(folder: Path, swa: StochasticWeightAveraging, module: Net, **arguments: Any) -> Trainer:
        stopping = [EarlyStopping("val", patience=1, min_delta=9.0)] if stopped else []
        saving = ModelCheckpoint(folder, save_on_exception=True, every_n_epochs=99)
        trainer = Trainer(
            max_epochs=9 if stopped else 4,
            logger=False,
            callbacks=[swa, watch, *stopping, saving],
            discover_callbacks=False,
            accelerator="cpu",
        )
        generator = torch.Generator().manual_seed(1) if own_generator else None
        data = DataLoader(DATA, batch_size=2, shuffle=True, generator=generator)
        trainer.fit(module, data, DataLoader(DATA, batch_size=5), **arguments)
        return trainer

    watch = Watch()
    straight = net()
    trainer = run(tmp_path / "straight", StochasticWeightAveraging(0.01, 2), straight)
    cut = net()
    fails.__qualname__ = "StochasticWeightAveraging"
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", fails(0.01, 2), cut)
    assert_same(state_of(cut), watch.states[-1])  # not left with half of it
    assert cut.backbone[1].momentum == 0.3
    torch.manual_seed(99)
    random.seed(99)
    resumed = Net()
    (path,) = (tmp_path / "cut").iterdir()
    again = run(tmp_path / "cut", StochasticWeightAveraging(0.01, 2), resumed, ckpt_path=path)
    assert_same(state_of(resumed), state_of(straight))
    assert (again.current_epoch, again.global_step) == (trainer.current_epoch, trainer.global_step)


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_arguments_that_cannot_work() -> None:
    with pytest.raises(MisconfigurationException) as told:
        StochasticWeightAveraging([0.1, -1], 0, -1, "cosine", 3, "gpu")  # type: ignore[arg-type]
    assert str(told.value).splitlines() == [
        "StochasticWeightAveraging(swa_lrs=[0.1, -1]): expected a number above 0, or a list of them, one for each "
        "parameter group.",
        "StochasticWeightAveraging(swa_epoch_start=0): expected an int >= 1, or a float from 0.0 to 1.0.",
        "StochasticWeightAveraging(annealing_epochs=-1): expected an int >= 0.",
        "StochasticWeightAveraging(annealing_strategy='cosine'): expected 'cos' or 'linear'.",
        "StochasticWeightAveraging(avg_fn=3): expected a function of three arguments (the averaged weights, the "
        "current ones, the number of updates so far) or None.",
        "StochasticWeightAveraging(device='gpu'): expected a device of torch, such as 'cpu' or 'cuda:1', or None.",
    ]
    for start in (1.5, -0.1, True, "0.8"):
        with pytest.raises(MisconfigurationException, match="swa_epoch_start"):
            StochasticWeightAveraging(0.1, start)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("swa", "arguments", "said"),
    [
        (StochasticWeightAveraging(0.1, 6), {}, r"begins after the last epoch of Trainer\(max_epochs=5\)"),
        (StochasticWeightAveraging(0.1), {"max_epochs": -1, "max_steps": 9}, "give the number of an epoch, from 1"),
        (StochasticWeightAveraging([0.1]), {}, r"has 1 learning rates and the optimizers have 2 parameter group\(s\)"),
        (StochasticWeightAveraging([0.1] * 3), {}, "has 3 learning rates and the optimizers have 2 parameter"),
    ],
)
def test_what_a_trainer_leaves_no_room_for(swa: Any, arguments: dict[str, Any], said: str) -> None:
    module = net()
    before = state_of(module)
    with pytest.raises(MisconfigurationException, match=said):
        fit(module, swa, **arguments)
    assert_same(state_of(module), before)  # not after epochs of training


def test_a_device_that_is_not_there_shows_before_training() -> None:
    module = net()
    before = state_of(module)
    with pytest.raises(MisconfigurationException, match=r"\(device='cuda:99'\): torch cannot keep the average there"):
        fit(module, StochasticWeightAveraging(0.1, device="cuda:99"))
    assert_same(state_of(module), before)


@pytest.mark.parametrize("averaging", [{}, {"avg_fn": fading}])
def test_it_is_pickled_with_its_average(averaging: Any) -> None:
    swa = StochasticWeightAveraging(0.1, 4, **averaging)
    fit(net(), swa)
    assert pickle.loads(pickle.dumps(swa)).updates == 2


def test_no_other_average_beside_it() -> None:
    for other in (StochasticWeightAveraging(0.1), EMAWeightAveraging()):
        other.name = "other"
        with pytest.raises(MisconfigurationException, match="keep one of them"):
            Trainer(callbacks=[StochasticWeightAveraging(0.1), other], logger=False, discover_callbacks=False)
