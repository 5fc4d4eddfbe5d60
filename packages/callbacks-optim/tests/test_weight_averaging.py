"""Averages of weights against torch's AveragedModel in a loop by hand; validation, checkpoints, the end of training."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import swa_utils
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.callbacks import EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from leyden.loggers import CSVLogger

DATA = torch.linspace(-2, 2, 40).view(10, 4).sin()
State = dict[str, Tensor]


class Net(LightningModule):
    """Batch norm, two layers that share a weight, a scheduler by step, and what validation saw."""

    def __init__(self, *, late: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.late = late
        if not late:
            self.build()
        self.validated_on: list[State] = []

    def build(self) -> None:
        first = nn.Linear(4, 4)
        self.net = nn.Sequential(first, nn.BatchNorm1d(4), nn.Tanh(), first, nn.Linear(4, 1))

    def configure_model(self) -> None:
        if self.late and not hasattr(self, "net"):
            self.build()

    def loss(self, batch: Tensor) -> Tensor:
        loss: Tensor = (self.net(batch) - batch.sum(dim=1, keepdim=True)).pow(2).mean()
        return loss

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated_on.append(state_of(self))
        self.log("val", self.loss(batch))

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test", self.loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def ema_of(decay: float) -> Any:
    return swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]


def loader() -> DataLoader[Tensor]:
    return DataLoader(DATA, batch_size=2)  # type: ignore[arg-type]  # a tensor is a dataset


def state_of(module: nn.Module) -> State:
    return {name: value.clone() for name, value in module.state_dict().items()}


def net(**arguments: Any) -> Net:
    torch.manual_seed(3)
    return Net(**arguments)


def assert_same(one: State, other: State) -> None:
    assert list(one) == list(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


def assert_others(one: State, other: State) -> None:
    assert list(one) == list(other)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def fit(module: LightningModule, *callbacks: Callback, ckpt_path: Any = None, **arguments: Any) -> Trainer:
    settings: dict[str, Any] = {
        "max_epochs": 3,
        "logger": False,
        "num_sanity_val_steps": 0,
        "accelerator": "cpu",
    } | arguments
    trainer = Trainer(callbacks=list(callbacks), discover_callbacks=False, **settings)
    trainer.fit(module, loader(), loader(), ckpt_path=ckpt_path)
    return trainer


def by_hand(
    averaged_by: dict[str, Any], due: Any, *, accumulate: int = 1, epochs: int = 3, bf16: bool = False
) -> tuple[State, State]:
    """Train with torch alone; return the averaged and the trained weights."""
    module = net()
    average = AveragedModel(module.net, **averaged_by)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    steps = 0
    for epoch in range(epochs):
        for batch_idx, batch in enumerate(loader()):
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = module.loss(batch)
            torch.autograd.backward(loss / accumulate)
            if (batch_idx + 1) % accumulate == 0 or batch_idx == 4:
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                if due(steps, epoch):
                    average.update_parameters(module.net)
                steps += 1
        if due(None, epoch):
            average.update_parameters(module.net)
    return ({f"net.{name}": value for name, value in state_of(average.module).items()}, state_of(module))


# -- equal to torch ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_buffers", [True, False])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("bf16", [False, True])
def test_ema_is_that_of_torch(use_buffers: bool, accumulate: int, bf16: bool) -> None:
    module = net()
    ema = EMAWeightAveraging(decay=0.8, use_buffers=use_buffers)
    fit(module, ema, accumulate_grad_batches=accumulate, precision="bf16-mixed" if bf16 else None)
    averaging = {"multi_avg_fn": ema_of(0.8), "use_buffers": use_buffers}
    averaged, _ = by_hand(averaging, lambda step, epoch: step is not None, accumulate=accumulate, bf16=bf16)
    assert_same(state_of(module), averaged)
    assert ema.updates == (15 if accumulate == 1 else 9)


@pytest.mark.parametrize(
    ("arguments", "updates"),
    [
        ({"update_every_n_steps": 4}, 4),
        ({"update_starting_at_step": 6}, 9),
        ({"update_every_n_steps": 2, "update_starting_at_step": 7}, 4),
        ({"update_starting_at_epoch": 2}, 5),
        ({"update_starting_at_epoch": 1, "update_every_n_steps": 3}, 3),
    ],
)
def test_when_ema_updates(arguments: dict[str, int], updates: int) -> None:
    every, first = arguments.get("update_every_n_steps", 1), arguments.get("update_starting_at_step", 0)
    first_epoch = arguments.get("update_starting_at_epoch", 0)
    module = net()
    ema = EMAWeightAveraging(decay=0.7, **arguments)  # type: ignore[arg-type]
    fit(module, ema)
    averaged, _ = by_hand(
        {"multi_avg_fn": ema_of(0.7), "use_buffers": True},
        lambda step, epoch: step is not None and step % every == 0 and step >= first and epoch >= first_epoch,
    )
    assert_same(state_of(module), averaged)
    assert ema.updates == updates


def halfway(averaged: Tensor, current: Tensor, n_averaged: Tensor | int) -> Tensor:
    return (averaged + current) / 2 if current.is_floating_point() else current


@pytest.mark.parametrize("averaging", [{}, {"avg_fn": halfway}, {"multi_avg_fn": ema_of(0.5)}])
@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_other_averages_are_those_of_torch(averaging: dict[str, Any], device: Any) -> None:
    module = net()
    fit(module, WeightAveraging(device=device, use_buffers=False, **averaging))
    assert_same(state_of(module), by_hand(averaging, lambda step, epoch: step is not None)[0])


def test_a_subclass_averages_epochs() -> None:
    class FromSecond(WeightAveraging):
        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            return epoch_idx is not None and epoch_idx >= 1

    module = net()
    fit(module, FromSecond())
    due = lambda step, epoch: step is None and epoch >= 1  # noqa: E731
    assert_same(state_of(module), by_hand({"use_buffers": True}, due)[0])


def test_should_update_is_asked_once_a_step_and_an_epoch() -> None:
    asked: list[tuple[int | None, int | None]] = []

    class Asked(WeightAveraging):
        def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
            asked.append((step_idx, epoch_idx))
            return False

    with pytest.warns(UserWarning, match=r"Asked averaged nothing: training ended after 6 optimizer step\(s\)"):
        fit(net(), Asked(), max_epochs=2, accumulate_grad_batches=2)
    assert asked == [(0, None), (1, None), (2, None), (None, 0), (3, None), (4, None), (5, None), (None, 1)]


def test_manual_optimisation_with_two_optimizers() -> None:
    """Two steps a batch; an average of every fourth step is not missed, since none of the two is."""

    class Two(Net):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.other = nn.Linear(4, 1)

        def training_step(self, batch: Tensor, batch_idx: int) -> None:  # type: ignore[override]
            for optimizer, loss in zip(self.optimizers(), (self.loss(batch), self.other(batch).mean()), strict=True):
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [torch.optim.SGD(part.parameters(), lr=0.05) for part in (self.net, self.other)]

    torch.manual_seed(0)
    module = Two()
    torch.manual_seed(0)
    reference = Two()
    ema = EMAWeightAveraging(decay=0.5, update_every_n_steps=4)
    fit(module, ema)
    average = AveragedModel(reference, multi_avg_fn=ema_of(0.5), use_buffers=True)
    optimizers = reference.configure_optimizers()
    for number, batch in enumerate([*loader()] * 3):
        for which, optimizer in enumerate(optimizers):
            optimizer.zero_grad()
            (reference.loss(batch) if not which else reference.other(batch).mean()).backward()
            optimizer.step()
        if number % 2 == 0:
            average.update_parameters(reference)
    assert ema.updates == 8
    assert_same(state_of(module), state_of(average.module))


def test_buffers_and_modules_that_are_replaced() -> None:
    class Replaces(Net):
        center: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("center", torch.zeros(1))

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.center = self.center + 1
            return self.loss(batch)

        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.net[4] = nn.Linear(4, 1)

    module = Replaces()
    ema = EMAWeightAveraging(decay=0.5)
    fit(module, ema, max_epochs=2)
    count = torch.ones(1)
    for step in range(2, 11):
        count.lerp_(torch.tensor([float(step)]), 0.5)
    assert torch.equal(module.center, count)

    class Grows(Net):
        def on_train_epoch_start(self) -> None:
            if self.current_epoch == 1:
                self.net.append(nn.Linear(1, 1))

    with pytest.raises(
        MisconfigurationException, match=r"Grows cannot be averaged any more: net\.5\.bias, net\.5\.wei"
    ):
        fit(Grows(), EMAWeightAveraging(), max_epochs=3)


def test_a_module_that_no_deep_copy_can_be_made_of() -> None:
    class Keeps(Net):
        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            self.last_loss = super().training_step(batch, batch_idx)  # with its graph
            self.generator = (number for number in range(3))
            return self.last_loss

    module, other = Keeps(), net()
    module.load_state_dict(other.state_dict())
    for one in (module, other):
        fit(one, EMAWeightAveraging(update_starting_at_step=3))
    assert_same(state_of(module), state_of(other))


def test_configure_model_and_true_precision() -> None:
    module = net(late=True)
    fit(module, EMAWeightAveraging(decay=0.5), precision="64-true")
    assert all(value.dtype in (torch.float64, torch.int64) for value in module.state_dict().values())
    assert module.validated_on


def test_callbacks_are_pickled_without_a_trainer() -> None:
    ema = pickle.loads(pickle.dumps(EMAWeightAveraging(decay=0.8, update_starting_at_epoch=2)))
    module, other = net(), net()
    fit(module, ema)
    fit(other, EMAWeightAveraging(decay=0.8, update_starting_at_epoch=2))
    assert_same(state_of(module), state_of(other))


def test_several_validation_loaders() -> None:
    class Several(Net):
        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
            super().validation_step(batch, batch_idx)

    torch.manual_seed(3)
    module, trained = Several(), Trained()
    ema = EMAWeightAveraging(decay=0.8)
    trainer = Trainer(
        max_epochs=1,
        logger=False,
        num_sanity_val_steps=0,
        accelerator="cpu",
        callbacks=[trained, ema],
        discover_callbacks=False,
    )
    trainer.fit(module, loader(), [loader(), loader()])
    assert len(module.validated_on) == 10
    for seen in module.validated_on:
        assert_same(seen, state_of(module))
    assert_others(state_of(module), trained.states[-1])


# -- validation --------------------------------------------------------------------------------------------------------


class Trained(Callback):
    """Keeps the module's weights after each batch, before other callbacks, and whether they are in it elsewhere."""

    def __init__(self) -> None:
        self.states: list[State] = []
        self.events: list[tuple[str, bool]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.states.append(state_of(pl_module))

    def look(self, hook: str, module: LightningModule) -> None:
        same = not self.states or all(
            torch.equal(value, self.states[-1][name]) for name, value in module.state_dict().items()
        )
        self.events.append((hook, same))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look("validation_start", pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look("validation_epoch_end", pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look("validation_end", pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look("train_epoch_end", pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.look("fit_end", pl_module)


def test_validation_is_on_averaged_weights_after_the_first_update() -> None:
    module, trained = net(), Trained()
    trained.runs_after = (EMAWeightAveraging,)
    ema = EMAWeightAveraging(decay=0.8, update_starting_at_step=6)
    fit(module, ema, trained, max_epochs=2, num_sanity_val_steps=1)
    hooks = ["validation_start", "validation_epoch_end", "validation_end"]
    assert trained.events == [
        *[(hook, True) for hook in hooks],  # the sanity check
        *[(hook, True) for hook in [*hooks, "train_epoch_end"]],  # no update yet
        ("validation_start", False),
        ("validation_epoch_end", False),
        ("validation_end", True),
        ("train_epoch_end", True),
        ("fit_end", False),
    ]
    averaged, last = by_hand(
        {"multi_avg_fn": ema_of(0.8), "use_buffers": True},
        lambda step, epoch: step is not None and step >= 6,
        epochs=2,
    )
    assert_same(trained.states[-1], last)
    assert_same(module.validated_on[-1], averaged)
    assert_same(state_of(module), averaged)


def test_without_an_update_everything_is_as_without_the_callback() -> None:
    module, other = net(), net()
    with pytest.warns(UserWarning, match="EMAWeightAveraging averaged nothing"):
        fit(module, EMAWeightAveraging(update_starting_at_epoch=9))
    fit(other)
    assert_same(state_of(module), state_of(other))


def test_an_exception_within_validation_leaves_the_trained_weights() -> None:
    class Fails(Net):
        def on_validation_epoch_end(self) -> None:
            raise KeyboardInterrupt

    module, trained = Fails(), Trained()
    with pytest.raises(KeyboardInterrupt):
        fit(module, EMAWeightAveraging(decay=0.5), trained)
    assert_same(state_of(module), trained.states[-1])


def test_another_fit_begins_anew_and_evaluations_leave_the_weights_alone() -> None:
    module, ema = net(), EMAWeightAveraging(decay=0.5)
    trainer = fit(module, ema, max_epochs=1)
    averaged = state_of(module)
    trainer.validate(module, loader(), verbose=False)
    trainer.test(module, loader(), verbose=False)
    assert_same(state_of(module), averaged)
    assert_same(module.validated_on[-1], averaged)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader())
    assert ema.updates == 5
    fit(net(), EMAWeightAveraging(), fast_dev_run=True)
    fit(net(), EMAWeightAveraging(update_starting_at_epoch=9), fast_dev_run=True)


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_what_a_checkpoint_holds(tmp_path: Path) -> None:
    module, trained = net(), Trained()
    ema = EMAWeightAveraging(decay=0.8)
    each = {"save_top_k": -1, "every_n_train_steps": 4}
    whole = ModelCheckpoint(tmp_path, "{step}", **each)  # type: ignore[arg-type]
    bare = ModelCheckpoint(tmp_path / "bare", "{step}", save_weights_only=True, **each)  # type: ignore[arg-type]
    bare.name = "bare"
    fit(module, ema, trained, whole, bare)
    averaged, _ = by_hand(
        {"multi_avg_fn": ema_of(0.8), "use_buffers": True},
        lambda step, epoch: step is not None and step < 8,
    )
    checkpoint = torch.load(tmp_path / "step=8.ckpt")
    assert_same(dict(checkpoint["state_dict"]), averaged)
    assert_same(dict(checkpoint["current_model_state"]), trained.states[7])
    assert checkpoint["averaging_state"] == {"n_averaged": torch.tensor(8)}
    only = torch.load(tmp_path / "bare" / "step=8.ckpt")
    assert_same(dict(only["state_dict"]), averaged)
    assert not [name for name in only if name.startswith(("current", "averaging"))]
    for path in (tmp_path / "step=8.ckpt", tmp_path / "bare" / "step=8.ckpt"):
        assert_same(state_of(Net.load_from_checkpoint(path)), averaged)

    for callbacks in ([], [EMAWeightAveraging()]):
        other = Net()
        trainer = Trainer(logger=False, callbacks=callbacks, discover_callbacks=False, accelerator="cpu")
        trainer.test(other, loader(), ckpt_path=tmp_path / "step=8.ckpt", verbose=False)
        assert_same(state_of(other), averaged)


def test_a_checkpoint_within_validation(tmp_path: Path) -> None:
    """The averaged weights are in the module then; which is which stands in the checkpoint as ever."""
    trained = Trained()

    class Saves(Callback):
        def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "in.ckpt")

        def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
            trainer.save_checkpoint(tmp_path / "behind.ckpt")

    fit(net(), trained, EMAWeightAveraging(decay=0.8), Saves(), max_epochs=1)
    within, behind = torch.load(tmp_path / "in.ckpt"), torch.load(tmp_path / "behind.ckpt")
    for name in ("state_dict", "current_model_state"):
        assert_same(dict(within[name]), dict(behind[name]))
    assert_same(dict(within["current_model_state"]), trained.states[-1])
    assert within["callbacks"]["EMAWeightAveraging"] == {"is_validating": True}


def test_a_finished_run_goes_on_with_more_epochs(tmp_path: Path) -> None:
    """What `trainer.save_checkpoint` writes after a fit holds the trained weights too."""
    straight = net()
    fit(straight, EMAWeightAveraging(decay=0.8))
    module = net()
    fit(module, EMAWeightAveraging(decay=0.8), max_epochs=2).save_checkpoint(tmp_path / "end.ckpt")
    assert_same(dict(torch.load(tmp_path / "end.ckpt")["state_dict"]), state_of(module))
    resumed = Net()
    fit(resumed, EMAWeightAveraging(decay=0.8), ckpt_path=tmp_path / "end.ckpt")
    assert_same(state_of(resumed), state_of(straight))
    nothing_left = Net()
    fit(nothing_left, EMAWeightAveraging(decay=0.8), max_epochs=2, ckpt_path=tmp_path / "end.ckpt")
    assert_same(state_of(nothing_left), state_of(module))


def test_checkpoints_of_others(tmp_path: Path) -> None:
    """One without an average starts one; one of Lightning's, which has no count of steps, goes on."""
    fit(net(), max_epochs=2).save_checkpoint(tmp_path / "plain.ckpt")
    ema = EMAWeightAveraging(decay=0.8)
    fit(Net(), ema, ckpt_path=tmp_path / "plain.ckpt")
    assert ema.updates == 5

    fit(net(), EMAWeightAveraging(decay=0.8), max_epochs=2).save_checkpoint(tmp_path / "ours.ckpt")
    theirs = torch.load(tmp_path / "ours.ckpt")
    del theirs["averaging_progress"]
    theirs["callbacks"]["EMAWeightAveraging"] = {"latest_update_step": 10}
    torch.save(theirs, tmp_path / "theirs.ckpt")
    resumed, straight = Net(), net()
    fit(resumed, EMAWeightAveraging(decay=0.8), ckpt_path=tmp_path / "theirs.ckpt")
    fit(straight, EMAWeightAveraging(decay=0.8))
    assert_same(state_of(resumed), state_of(straight))


def test_going_on_without_the_callback_is_told_of(tmp_path: Path) -> None:
    fit(net(), EMAWeightAveraging(), max_epochs=1).save_checkpoint(tmp_path / "a.ckpt")
    with pytest.warns(UserWarning, match="callbacks that this Trainer does not have: EMAWeightAveraging"):
        fit(net(), ckpt_path=tmp_path / "a.ckpt")


class Epochs(WeightAveraging):
    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None


@pytest.mark.parametrize("averaging", [lambda: EMAWeightAveraging(decay=0.5), Epochs])
@pytest.mark.parametrize("saved", [{}, {"every_n_train_steps": 2}, {"save_on_train_epoch_end": False}])
def test_the_score_of_a_checkpoint_is_that_of_its_weights(tmp_path: Path, averaging: Any, saved: Any) -> None:
    saving = ModelCheckpoint(tmp_path, monitor="val", save_top_k=1, **saved)
    fit(net(), averaging(), saving, logger=CSVLogger(tmp_path))
    best = Net.load_from_checkpoint(saving.best_model_path)
    trainer = Trainer(logger=False, discover_callbacks=False, accelerator="cpu")
    score = trainer.validate(best, loader(), verbose=False)[0]["val"]
    assert score == float(saving.best_model_score)  # type: ignore[arg-type]


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_arguments_that_cannot_work() -> None:
    with pytest.raises(MisconfigurationException) as told:
        WeightAveraging(device="gpu", use_buffers=1, avg_fn=3, decay=0.9)  # type: ignore[arg-type]
    assert str(told.value).splitlines() == [
        "WeightAveraging(...) cannot work:",
        "  - device='gpu': expected a device of torch, such as 'cpu' or 'cuda:1', or None",
        "  - use_buffers=1: expected True or False",
        "  - avg_fn=3: expected a function of three arguments (the averaged weights, the current ones, the number of "
        "updates so far) or None",
        "  - decay=0.9: that is an argument of EMAWeightAveraging; use this one",
    ]
    with pytest.raises(MisconfigurationException, match="avg_fn and multi_avg_fn: give one of the two"):
        WeightAveraging(avg_fn=halfway, multi_avg_fn=halfway)
    for name in ("avg_fn", "multi_avg_fn"):
        with pytest.raises(MisconfigurationException, match=rf"{name}=.*: expected a function of three arguments"):
            WeightAveraging(**{name: lambda averaged, current: averaged})  # type: ignore[arg-type]
    with pytest.raises(MisconfigurationException, match=r"\(device=0.99\): .* a decay is given as decay=0.99"):
        EMAWeightAveraging(0.99)  # type: ignore[arg-type]
    with pytest.raises(MisconfigurationException, match="other='x': there is no such argument; AveragedModel has"):
        WeightAveraging(other="x")
    with pytest.raises(MisconfigurationException) as told:
        EMAWeightAveraging(decay=1.5, update_every_n_steps=0, update_starting_at_step=-1)
    assert str(told.value).splitlines() == [
        "EMAWeightAveraging(decay=1.5): expected a number from 0 to 1.",
        "EMAWeightAveraging(update_every_n_steps=0): expected an int >= 1.",
        "EMAWeightAveraging(update_starting_at_step=-1): expected an int >= 0 or None.",
    ]


def test_a_device_that_is_not_there_shows_before_training() -> None:
    module = net()
    before = state_of(module)
    with pytest.raises(MisconfigurationException, match=r"\(device='cuda:99'\): torch cannot keep the average there"):
        fit(module, EMAWeightAveraging(device="cuda:99", update_starting_at_epoch=2))
    assert_same(state_of(module), before)


def test_two_averages_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="a checkpoint has one place for it"):
        Trainer(callbacks=[WeightAveraging(), EMAWeightAveraging()], logger=False, discover_callbacks=False)
