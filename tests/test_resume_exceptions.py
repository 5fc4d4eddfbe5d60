"""An exception anywhere in a run, saved at: whoever goes on ends bit for bit where the run ends that was not cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from leyden.loggers import CSVLogger
from leyden.state.checkpoint import dump

pytestmark = pytest.mark.filterwarnings(r"ignore:Drawing\.on_(batch|epoch)_end is a hook of 1\.7")

HOOKS = (
    "on_train_epoch_start", "on_train_batch_start", "on_before_zero_grad", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_train_batch_end", "on_train_epoch_end", "on_validation_start",
    "on_validation_epoch_start", "on_validation_batch_start", "on_validation_batch_end", "on_validation_epoch_end",
    "on_validation_end",
)  # fmt: skip


class Cut(Exception):
    """Ends a run as a crash would."""


class Item(NamedTuple):
    """A batch that no checkpoint can hold."""

    x: Tensor


def x_of(batch: Any) -> Any:
    return batch.x if isinstance(batch, Item) else batch


class Events:
    """All that happens in a run, in order; what is told of the event number `cut_at` raises."""

    def __init__(self, cut_at: int | None = None) -> None:
        self.names: list[str] = []
        self.cut_at = cut_at

    def happen(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 == self.cut_at:
            raise Cut(name)


class Rows(CSVLogger):
    """Fails after it took a row, as where a disk is full."""

    def __init__(self, folder: Path, events: Events) -> None:
        super().__init__(folder)
        self.events = events

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        if "a_" not in "".join(metrics) and "b_" not in "".join(metrics):  # the loop's own
            self.events.happen("row")


class Drawing(Callback):
    """In each hook it draws a random number into its state, writes a row, changes a learning rate and an event happens.

    Arguments:
        noise: how much of what it draws is added to a weight.
    """

    def __init__(self, events: Events, name: str, noise: float = 0) -> None:
        self.events, self.name, self.noise = events, name, noise
        self.changes_weights = bool(noise)
        self.drawn: list[float] = []

    def meet(self, trainer: Trainer, hook: str) -> None:
        if trainer.sanity_checking:
            return
        self.drawn.append(float(torch.rand(())))
        for logger in trainer.loggers:
            logger.log_metrics({f"{self.name}_{hook}": self.drawn[-1]}, step=len(self.drawn))
        for optimizer in trainer.optimizers:
            optimizer.param_groups[0]["lr"] *= 1 + self.drawn[-1] / 100
        if self.noise:
            with torch.no_grad():
                next(trainer.lightning_module.parameters()).add_(self.noise * self.drawn[-1])
        self.events.happen(f"{self.name}.{hook}")

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        outputs, batch, batch_idx = args
        gradients = [p.grad.sum() for p in pl_module.parameters() if p.grad is not None]
        self.drawn += [float(outputs["loss"]), float(x_of(batch).sum()), float(batch_idx)]
        self.drawn += [float(sum(gradients))]
        self.log(f"{self.name}_noise", torch.rand(()), on_step=True, on_epoch=True)
        self.meet(trainer, "on_train_batch_end")

    def on_batch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in 1.9: called after all others at the batch's end."""
        self.meet(trainer, "on_batch_end")

    def on_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As in 1.9: called at the end of each epoch and validation."""
        self.meet(trainer, "on_epoch_end")

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": list(self.drawn)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.drawn = list(state_dict["drawn"])


def _hook(name: str) -> Callable[..., None]:
    def hook(self: Any, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self.meet(trainer, name)

    return hook


for _name in HOOKS:
    if _name != "on_train_batch_end":
        setattr(Drawing, _name, _hook(_name))


class Net(LightningModule):
    """Events in its steps and hooks, buffers that hooks change, two schedulers, gradients that are clipped."""

    plateau = False

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events
        self.net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
        self.trace: Tensor
        self.register_buffer("trace", torch.zeros(()))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        noise = 0.01 * torch.rand(4)
        if not self.trainer.sanity_checking:
            self.events.happen("transfer")
        if isinstance(batch, dict):
            return Item(batch["a"].x + batch["b"].x[:2] + noise)
        return batch._replace(x=batch.x + noise) if isinstance(batch, Item) else batch + noise

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch = x_of(batch)
        loss: Tensor = self.net(batch).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.events.happen("training_step")
        return {"loss": loss, "size": len(batch)}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.trace += outputs["loss"] + x_of(batch).sum() * outputs["size"]
        self.events.happen("module.on_train_batch_end")

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self.net(batch).pow(2).mean() + torch.rand(()), on_step=True, on_epoch=True)
        if not self.trainer.sanity_checking:
            self.events.happen("validation_step")

    def on_validation_batch_end(self, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.trace += 1
        if not self.trainer.sanity_checking:
            self.events.happen("module.on_validation_batch_end")

    def on_train_epoch_end(self) -> None:
        self.log("trace", self.trace)
        self.events.happen("module.on_train_epoch_end")

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        super().lr_scheduler_step(scheduler, metric)
        self.events.happen("scheduler")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        schedulers: list[Any] = [
            {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9), "interval": interval}
            for interval in ("step", "epoch")
        ]
        for interval in ("step", "epoch") if self.plateau else ():
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
            schedulers.append({"scheduler": plateau, "interval": interval, "monitor": "loss"})
        return [optimizer], schedulers


class OnPlateau(Net):
    plateau = True


class Lbfgs(Net):
    """Calls the training step several times within a step of the optimizer."""

    def configure_optimizers(self) -> Any:
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class StepsItself(Net):
    """Fails after its optimizer's step too, of which it says so."""

    changes_weights = True

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.events.happen("optimizer_step")

    def configure_optimizers(self) -> Any:
        [optimizer], schedulers = super().configure_optimizers()
        optimizer.register_step_post_hook(lambda *_: self.events.happen("stepped"))
        return [optimizer], schedulers


class Manual(Net):
    """Two optimizers in turn, of which the second gathers gradients over two batches, and a scheduler by hand."""

    def __init__(self, events: Events) -> None:
        super().__init__(events)
        self.automatic_optimization = False
        self.critic = nn.Linear(4, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch = x_of(batch)
        first, second = self.optimizers()
        self.toggle_optimizer(first)
        first.zero_grad()
        loss = (self.net(batch) - self.critic(batch)).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.manual_backward(loss)
        first.step()
        self.events.happen("first")
        self.untoggle_optimizer(first)
        self.lr_schedulers().step()
        self.events.happen("scheduled")
        self.toggle_optimizer(second)
        self.manual_backward((self.net(batch).detach() - self.critic(batch)).pow(2).mean() * torch.rand(()))
        self.events.happen("second")
        if batch_idx % 2:
            second.step()
            second.zero_grad()
        self.untoggle_optimizer(second)
        self.events.happen("both")
        return {"loss": loss, "size": len(batch)}

    def configure_optimizers(self) -> Any:
        first = torch.optim.Adam(self.net.parameters(), lr=0.01)
        second = torch.optim.SGD(self.critic.parameters(), lr=0.1, momentum=0.9)
        return [first, second], [torch.optim.lr_scheduler.StepLR(first, 2, 0.9)]


class Items(Dataset[Tensor]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        return torch.linspace(-1, 1, 32).view(8, 4)[index]


class Stream(IterableDataset[Tensor]):
    """As many without a length, so that the next batch is read ahead; noise is drawn with each."""

    def __iter__(self) -> Iterator[Tensor]:
        for index in range(8):
            yield Items()[index] + 0.01 * torch.rand(4)


def wrapped(items: list[Tensor]) -> Item:
    return Item(torch.stack(items))


def loader_of(kind: str) -> Any:
    """Return a loader; the batches of all but the first two are of a kind that no checkpoint can hold."""
    if kind == "lists":
        return [torch.stack([Items()[n], Items()[n + 1]]) for n in (0, 2, 4, 6)]
    if kind == "shuffled":
        return DataLoader(Items(), batch_size=2, shuffle=True)
    if kind == "stateful":
        stateful = pytest.importorskip("torchdata.stateful_dataloader")
        return stateful.StatefulDataLoader(Items(), batch_size=2, shuffle=True, collate_fn=wrapped)
    if kind == "stream":
        return DataLoader(Stream(), batch_size=2, collate_fn=wrapped)
    if kind == "generator":
        generator = torch.Generator().manual_seed(3)
        return DataLoader(Items(), batch_size=2, shuffle=True, generator=generator, collate_fn=wrapped)
    if kind == "several":
        one, other = (DataLoader(Items(), batch_size=n, shuffle=True, collate_fn=wrapped) for n in (2, 4))
        return {"a": one, "b": other}
    workers = int(kind.removeprefix("workers "))
    return DataLoader(Items(), batch_size=2, shuffle=True, num_workers=workers, collate_fn=wrapped)


def fit(
    folder: Path, seed: int, net: type[Net], events: Events, *others: Callback, ckpt_path: str | None = None,
    noise: float = 0, loader: str = "shuffled", **arguments: Any,
) -> dict[str, Any] | None:  # fmt: skip
    torch.manual_seed(seed)
    module = net(events)
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, log_every_n_steps=1, logger=Rows(folder, events),
        callbacks=[Drawing(events, "a"), Drawing(events, "b", noise), *others], discover_callbacks=False,
        **{"gradient_clip_val": None if net is Manual else 0.5, "val_check_interval": 2, **arguments},
    )  # fmt: skip
    try:
        trainer.fit(module, loader_of(loader), DataLoader(Items(), batch_size=4, shuffle=True), ckpt_path=ckpt_path)
    except Cut:
        return None
    end = dump(trainer)
    del end["loggers"]
    return {"end": end, "rows": Path(trainer.log_dir or "", "metrics.csv").read_text().splitlines()}


FOLDERS = itertools.count()
RUNS: dict[Any, tuple[list[str], dict[str, Any]]] = {}  # those that were not cut, by what they are


def check(
    folder: Path,
    named_differences: Callable[[Any, Any], Iterable[str]],
    at: float,
    net: type[Net],
    *again: int,
    **arguments: Any,
) -> None:
    """Cut a run in the event at that part of it, those that go on in the events of these numbers; compare the end."""
    folder /= str(next(FOLDERS))
    key = (net, *arguments.items())
    if key not in RUNS:
        events = Events()
        whole = fit(folder / "whole", 1, net, events, **arguments)
        assert whole is not None
        RUNS[key] = events.names, whole
    names, whole = RUNS[key]
    cut_at = int(at * len(names))
    path, resumed = None, None
    for number, cut in enumerate((cut_at, *again, None)):
        saver = OnExceptionCheckpoint(folder, str(number))
        others = [] if cut is None else [saver]
        resumed = fit(folder / "cut", 1 + number, net, Events(cut), *others, ckpt_path=path, **arguments)
        path = path if resumed else saver.ckpt_path
        if resumed:
            break
    assert not list(named_differences(resumed, whole)), f"cut in {names[cut_at]}, the event number {cut_at}"


PLACES = st.floats(0, 1, exclude_max=True)


@pytest.mark.filterwarnings("ignore:resuming reads the first", "ignore:'set_vital' is deprecated")
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=PLACES,
    net=st.sampled_from([Net, OnPlateau, Lbfgs, StepsItself, Manual]),
    loader=st.sampled_from(["lists", "shuffled", "stateful", "stream", "generator", "several"]),
)
def test_an_exception_anywhere(
    tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]], at: float, net: type[Net], loader: str
) -> None:
    check(tmp_path, named_differences, at, net, loader=loader)


@pytest.mark.filterwarnings("ignore:resuming reads the first", "ignore:'set_vital' is deprecated")
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=PLACES,
    again=st.lists(st.integers(0, 12), min_size=1, max_size=2),
    net=st.sampled_from([Net, Manual]),
    loader=st.sampled_from(["shuffled", "stateful", "stream", "several"]),
)
def test_an_exception_and_another_soon_after(
    tmp_path: Path,
    named_differences: Callable[[Any, Any], Iterable[str]],
    at: float,
    again: list[int],
    net: type[Net],
    loader: str,
) -> None:
    """At the same place, too: a run that goes on comes to the event that cut it, or to one before."""
    check(tmp_path, named_differences, at, net, *again, loader=loader)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at=PLACES,
    net=st.sampled_from([Net, Manual]),
    arguments=st.sampled_from(
        [{"noise": 0.1}, {"precision": "16-mixed"}, {"precision": "bf16-mixed"}, {"accumulate_grad_batches": 3},
         {"max_steps": 3}, {"limit_train_batches": 3}, {"val_check_interval": 1.0}]
    ),
)  # fmt: skip
def test_an_exception_anywhere_whatever_the_trainer_does(
    tmp_path: Path,
    named_differences: Callable[[Any, Any], Iterable[str]],
    at: float,
    net: type[Net],
    arguments: dict[str, Any],
) -> None:
    """Noise on weights, in hooks that say so; gradients scaled or gathered; an epoch that is not read to its end."""
    if net is Manual:
        arguments = {**arguments, "accumulate_grad_batches": 1}
    check(tmp_path, named_differences, at, net, **arguments)


def test_an_exception_beside_workers(tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]]) -> None:
    check(tmp_path, named_differences, 0.4, Net, loader="workers 2")


def every_step(folder: Path) -> list[Callback]:
    """Return what saves after each step when all have had the hook; whoever goes on finds the files written before."""
    return [ModelCheckpoint(folder / "kept", "{step}", every_n_train_steps=1, save_top_k=-1)]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=PLACES, net=st.sampled_from([Net, Manual]))
def test_saves_that_waited_for_the_end_of_a_hook_are_made(
    tmp_path: Path, named_differences: Callable[[Any, Any], Iterable[str]], at: float, net: type[Net]
) -> None:
    folder = tmp_path / str(next(FOLDERS))
    whole, cut = fit_names(folder, net, None), fit_names(folder, net, at)
    assert cut == whole


def fit_names(folder: Path, net: type[Net], at: float | None) -> list[str]:
    """Return the names of the files that a run saves, which is cut at that part of it and gone on with."""
    folder /= str(at)
    events = Events()
    fit(folder / "count", 1, net, events)
    saver = OnExceptionCheckpoint(folder)
    first = fit(folder, 1, net, Events(at if at is None else int(at * len(events.names))), *every_step(folder), saver)
    assert (first is None) is (at is not None)
    if at is not None:
        assert fit(folder, 2, net, Events(), *every_step(folder), ckpt_path=saver.ckpt_path) is not None
    return sorted(path.name for path in (folder / "kept").iterdir())
