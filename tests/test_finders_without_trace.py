"""A search leaves no trace: with a finder that changes nothing, every byte of a run is what it is without one."""

from __future__ import annotations

import pickle
import random
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    WeightedRandomSampler,
)

from leyden import Callback, LightningModule, Trainer
from leyden.callbacks import (
    BackboneFinetuning,
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    LearningRateFinder,
    LearningRateMonitor,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    QuantizationAwareTraining,
    SpikeDetection,
    StochasticWeightAveraging,
    Timer,
)
from leyden.data.combined import CombinedLoader
from leyden.errors import MisconfigurationException
from leyden.loggers import CSVLogger
from leyden.state.rng import collect_rng


class Rows(Dataset[Tensor]):
    """Rows with noise from generators of its own, and a count of reads."""

    def __init__(self, length: int = 24) -> None:
        self.rows = torch.linspace(-1, 1, length * 4).view(length, 4)
        self.torch = torch.Generator().manual_seed(1)
        self.numpy = np.random.default_rng(2)
        self.python = random.Random(3)
        self.reads = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        self.reads += 1
        noise = torch.rand(4, generator=self.torch) + self.numpy.random() + self.python.random() + random.random()
        row: Tensor = self.rows[index] + 0.1 * (noise + torch.rand(()) + float(np.random.random()))
        return row


class Meter:
    """Counts, as an object of the user's own."""

    def __init__(self) -> None:
        self.total, self.values = 0.0, [1.0]

    def add(self, value: float) -> None:
        self.total += value
        self.values.append(value)


class Net(LightningModule):
    """Has everything that a training step may change."""

    seen: Tensor

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": lr})
        self.lr = lr
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 1))
        self.frozen = nn.Linear(2, 2).requires_grad_(False).eval()
        self.register_buffer("seen", torch.zeros(()), persistent=False)
        self.register_buffer("none_yet", None)
        self.batches: list[list[float]] = []
        self.counts = {"steps": 0, "nested": {"epochs": 0}}
        self.meter = Meter()
        self.loose = torch.zeros(3)
        self.array = np.zeros(2)
        self.generator = torch.Generator().manual_seed(5)

    def loss(self, batch: Tensor) -> Tensor:
        loss: Tensor = self.body(batch).sub(batch.sum(1, keepdim=True)).square().mean()
        return loss

    def on_train_epoch_start(self) -> None:
        self.counts["nested"]["epochs"] += 1  # type: ignore[index]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        assert self.logger is None or self.logger.experiment is not None
        self.batches.append(batch.flatten().tolist())
        self.counts["steps"] += 1  # type: ignore[operator]
        self.seen += len(batch)
        self.loose += torch.rand(3, generator=self.generator)
        self.array += 1
        self.meter.add(float(batch[0, 0]))
        self.late = batch  # an attribute that comes up
        loss = self.loss(batch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("seen", self.seen)
        self.log("count", float(self.counts["steps"]))  # type: ignore[arg-type]
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch) + torch.rand(()))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.body.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2 * self.lr, total_steps=60)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Batches(Callback):
    """Keeps the batches and the random numbers of the run."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append(("train", trainer.current_epoch, batch_idx, batch.tolist(), torch.initial_seed()))

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, *_: Any) -> None:
        self.seen.append(("val", trainer.current_epoch, batch.tolist(), torch.random.get_rng_state().tolist()[-8:]))

    def state_dict(self) -> dict[str, Any]:
        return {"seen": len(self.seen)}


def contents(folder: Path) -> dict[str, Any]:
    """Return every file below `folder`: checkpoints as data, without the finder's own state, the others' bytes."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".ckpt":
            checkpoint = torch.load(path, weights_only=True)
            for key in ("callbacks", "callback_versions"):
                checkpoint[key] = {one: v for one, v in checkpoint[key].items() if "Finder" not in one}
            checkpoint["callbacks"].pop("ThroughputMonitor", None)  # which times
            found |= {f"{name} {key}": plain(value) for key, value in checkpoint.items()}
        elif path.is_file() and "tfevents" not in name:
            found[name] = path.read_bytes()
    return found


def everything(trainer: Trainer, module: Any, data: Any = None) -> dict[str, bytes]:
    """Return all that a run is made of, each part as bytes."""
    skipped = ("_trainer", "_hparams", "_hparams_initial", "meter", "forward")  # objects that are told by their place
    names = {k: v for k, v in vars(module).items() if k not in skipped}
    parts = {
        "module": {k: v for k, v in names.items() if k not in ("generator", "_parameters", "_buffers", "_modules")},
        "weights": {k: (v, v.grad, v.requires_grad) for k, v in module.named_parameters()},
        "buffers": dict(module.named_buffers()),
        "modes": [one.training for one in module.modules()],
        "generator": module.generator.get_state(),
        "meter": vars(module.meter),
        "hparams": dict(module.hparams),
        "optimizers": [one.state_dict() for one in trainer.optimizers],
        "optimizer attributes": [sorted(vars(one)) for one in trainer.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "scaler": trainer.precision_plugin.state_dict(),
        "callbacks": [(type(one), one.state_dict()) for one in trainer.callbacks if "Finder" not in one.state_key],
        "loggers": [logger.state_dict() for logger in trainer.loggers],
        "progress": trainer.fit_loop.live_state_dict(),
        "steps": trainer.global_step,
        "metrics": dict(trainer.callback_metrics),
        "rng": collect_rng(),
        "data": None if data is None else state_of(data),
        "settings": trainer.settings,
        "plan": [type(one) for one in trainer.plan.owners() if not type(one).__name__.endswith("Finder")],
        "trainer": module.trainer is trainer,
    }
    return {name: plain(part) for name, part in parts.items()}


def plain(value: Any) -> bytes:
    """Pickle with tensors as numbers, so that equal values are equal bytes, whatever their storages."""

    def walk(one: Any) -> Any:
        if isinstance(one, Tensor):
            return str(one.dtype), tuple(one.shape), one.detach().cpu().contiguous().view(-1).tolist().__repr__()
        if isinstance(one, dict):
            return [(walk(key), walk(item)) for key, item in one.items()]
        if isinstance(one, list | tuple):
            return [walk(item) for item in one]
        return re.sub(r"tfevents\.[\w.-]+", "tfevents", repr(one))  # the name of a file, which has the time in it

    return pickle.dumps(walk(value))


def state_of(dataset: Any) -> Any:
    if not hasattr(dataset, "reads"):
        return None
    return (
        dataset.reads, dataset.torch.get_state(), dataset.numpy.bit_generator.state, dataset.python.getstate(),
    )  # fmt: skip


def seeded(seed: int = 7) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def tensorboard(folder: Path) -> Any:
    pytest.importorskip("tensorboard")
    from leyden_monitoring import TensorBoardLogger

    return TensorBoardLogger(folder, name="board", version=0)


def scalars(folder: Path) -> Any:
    """Return what TensorBoard's files hold, without times."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / "board" / "version_0"))
    read.Reload()
    return {tag: [(one.step, one.value) for one in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulating": {"accumulate_grad_batches": 3},
    "bf16": {"precision": "bf16-mixed", "gradient_clip_val": 0.5},
    "scaled": {"precision": "16-mixed"},
    "short epochs": {"limit_train_batches": 2, "val_check_interval": 1},
    "by fraction": {"limit_train_batches": 0.9, "limit_val_batches": 1, "reload_dataloaders_every_n_epochs": 1},
    "workers": {"num_workers": 2},
    "own generator": {"generator": True},
    "persistent workers": {"num_workers": 1, "persistent_workers": True},
}


def fit(folder: Path, finders: list[Callback], num_workers: int = 0, generator: bool = False, persistent_workers:
        bool = False, **arguments: Any) -> dict[str, Any]:  # fmt: skip
    seeded()
    module, batches = Net(), Batches()
    own = torch.Generator().manual_seed(11) if generator else None
    data: Any = Rows()
    train: Any = DataLoader(
        data, batch_size=4, shuffle=True, num_workers=num_workers, generator=own, persistent_workers=persistent_workers
    )
    val: Any = DataLoader(Rows(8), batch_size=4, num_workers=num_workers)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        logger=[CSVLogger(folder, name="csv", version=0), tensorboard(folder)],
        callbacks=[
            batches,
            *finders,
            EMAWeightAveraging(decay=0.9),
            EarlyStopping("val_loss", patience=20),
            LearningRateMonitor(),
            ModelCheckpoint(folder / "checkpoints", monitor="val_loss", save_top_k=2, save_last=True),
            OnExceptionCheckpoint(folder / "cut"),
        ],
        discover_callbacks=False,
        log_every_n_steps=1,
        enable_progress_bar=False,
        default_root_dir=folder,
        **arguments,
    )
    trainer.fit(module, train, val)
    return {
        **everything(trainer, module, data),
        "batches seen": batches.seen,
        "files": contents(folder),
        "board": scalars(folder),
        "module saw": module.batches,
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_with_a_finder_that_changes_nothing_is_the_run_without_it(tmp_path: Path, variant: str) -> None:
    folder = tmp_path / "run"  # the same for both: states hold paths
    without = fit(folder, [], **VARIANTS[variant])
    shutil.rmtree(folder)
    finder = LearningRateFinder(1e-5, 1.0, 20, early_stop_threshold=None, update_attr=False)
    with_it = fit(folder, [finder], **VARIANTS[variant])
    assert finder.optimal_lr is not None
    assert len(finder.optimal_lr.results["lr"]) > 10
    assert list(with_it["files"]) == list(without["files"])
    for name, content in without.pop("files").items():
        assert with_it["files"][name] == content, name
    for part, expected in without.items():
        assert with_it[part] == expected, part


class Stops(Net):
    """Ends its third training step with an error."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error
        self.raises = True

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self.raises and self.counts["steps"] == 3:
            raise self.error("in the search")
        return loss


class Looks(Callback):
    """Keeps what everything is before the search, and after it was cut short."""

    position = "first"
    runs_before = ("LearningRateFinder",)

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.late = 1
        pl_module.body[0].weight.grad = torch.ones(6, 4)  # as an earlier training may have left it
        self.before = everything(trainer, pl_module, self.data)
        self.objects = [id(one) for one in (*pl_module.parameters(), *pl_module.buffers(), pl_module.batches)]

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        self.after = everything(trainer, pl_module, self.data)
        now = [id(one) for one in (*pl_module.parameters(), *pl_module.buffers(), pl_module.batches)]
        assert now == self.objects

    data: Any = None


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_a_search_that_is_cut_short_leaves_no_trace(tmp_path: Path, error: type[BaseException], precision: str) -> None:
    seeded()
    module, looks, finder = Stops(error), Looks(), LearningRateFinder()
    looks.data = data = Rows()
    train: Any = DataLoader(data, batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(2))
    before = train.generator.get_state()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        precision=precision,
        logger=[CSVLogger(tmp_path, name="csv"), tensorboard(tmp_path)],
        callbacks=[looks, finder, EarlyStopping("loss"), Batches(), EMAWeightAveraging(decay=0.9)],
        discover_callbacks=False,
    )
    with pytest.raises(error, match="in the search"):
        trainer.fit(module, train)
    assert looks.after == looks.before
    assert torch.equal(train.generator.get_state(), before)
    assert finder.optimal_lr is None
    assert not (tmp_path / "csv" / "version_0" / "metrics.csv").exists()


def test_everything_that_is_compared_differs_where_nothing_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tests above see it, when a search leaves a trace."""
    from leyden.state.remembered import Remembered

    monkeypatch.setattr(Remembered, "put_back", lambda self: None)
    seeded()
    module, looks = Stops(RuntimeError), Looks()
    looks.data = Rows()
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, logger=False, callbacks=[looks, LearningRateFinder()], discover_callbacks=False
    )
    with pytest.raises(RuntimeError, match="in the search"):
        trainer.fit(module, DataLoader(looks.data, batch_size=4))
    differs = [name for name in looks.before if looks.after[name] != looks.before[name]]
    of_module = ["module", "weights", "buffers", "generator", "meter"]
    assert differs == [*of_module, "optimizers", "optimizer attributes", "rng", "data"]


class Endless(IterableDataset[Tensor]):
    """A stream that is as long as it says, and knows where it is."""

    def __init__(self) -> None:
        self.begun, self.generator = 0, torch.Generator().manual_seed(4)

    def __iter__(self) -> Any:
        self.begun += 1
        for _ in range(20):
            yield torch.rand(4, generator=self.generator) + torch.rand(())


class OwnLoader:
    """A loader of the user's own, which shuffles by a generator of its own and remembers its place."""

    def __init__(self) -> None:
        self.rows, self.python, self.place, self.order = Rows(), random.Random(1), 0, list(range(6))

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Any:
        self.python.shuffle(self.order)
        for self.place in self.order:  # noqa: B020
            yield torch.stack([self.rows[4 * self.place + row] for row in range(4)])


class OwnSampler(Sampler[int]):
    """Begins each epoch where the one before ended."""

    def __init__(self) -> None:
        self.begins_at = 0

    def __len__(self) -> int:
        return 24

    def __iter__(self) -> Any:
        for _ in range(24):
            yield self.begins_at
            self.begins_at = (self.begins_at + 7) % 24


def loader(**arguments: Any) -> Any:
    return DataLoader(Rows(), batch_size=4, **arguments)


def stateful(**arguments: Any) -> Any:
    return pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader(Rows(), batch_size=4, **arguments)


class Locked(OwnSampler):
    """Cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


LOADERS: dict[str, Callable[[], Any]] = {
    "a list": lambda: list(torch.linspace(-1, 1, 96).view(6, 4, 4)),
    "several": lambda: CombinedLoader([loader(shuffle=True), loader()], "max_size_cycle"),
    "a dict of loaders": lambda: {"a": loader(shuffle=True), "b": loader(shuffle=True)},
    "one with state": lambda: stateful(shuffle=True),
    "one with state and workers": lambda: stateful(shuffle=True, num_workers=1),
    "a stream": lambda: DataLoader(Endless(), batch_size=4),
    "a stream with a worker": lambda: DataLoader(Endless(), batch_size=4, num_workers=1),
    "one's own": OwnLoader,
    "own sampler": lambda: loader(sampler=OwnSampler()),
    "a sampler that cannot be copied": lambda: loader(sampler=Locked()),
    "a part of a part": lambda: DataLoader(Subset(ConcatDataset([Rows(), Rows()]), range(6, 30)), 4, shuffle=True),
    "weighted": lambda: loader(sampler=WeightedRandomSampler([1.0] * 24, 24, generator=torch.Generator())),
    "own batches": lambda: DataLoader(Rows(), batch_sampler=BatchSampler(OwnSampler(), 4, drop_last=True)),
}


class Reads(Net):
    """Trains on whatever there is, by its own loaders, which it keeps."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.make, self.asked = make, 0
        self.kept: list[Any] = [None]

    def train_dataloader(self) -> Any:
        self.asked += 1
        self.kept[0] = self.make() if self.kept[0] is None else self.kept[0]
        torch.rand(())
        return self.kept[0]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        parts = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list) else [batch]
        return super().training_step(torch.cat(list(parts)), batch_idx)


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata calls it
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("given", [True, False], ids=["given", "of the module"])
def test_every_kind_of_loader_gives_what_it_gives_without_a_search(tmp_path: Path, kind: str, given: bool) -> None:
    def run(*finders: Callback) -> Any:
        seeded()
        module = Reads(LOADERS[kind])
        trainer = Trainer(
            accelerator="cpu", max_epochs=3, logger=False, callbacks=finders, discover_callbacks=False,
            enable_progress_bar=False,
        )  # fmt: skip
        trainer.fit(module, LOADERS[kind]() if given else None)
        return (
            module.batches,
            module.asked,
            {k: v.tolist() for k, v in module.state_dict().items()},
            plain(collect_rng()),
        )

    finder = LearningRateFinder(1e-5, 1.0, 20, early_stop_threshold=None, update_attr=False)
    without, with_it = run(), run(finder)
    assert finder.optimal_lr is not None
    assert len(finder.optimal_lr.results["lr"]) == 20
    assert with_it == without


def test_what_can_be_read_once_only_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[LearningRateFinder()], discover_callbacks=False)
    with pytest.raises(MisconfigurationException, match=r"^a trial cannot read a generator: it can be read once"):
        trainer.fit(Net(), (batch for batch in torch.rand(6, 4, 4)))


BESIDE: dict[str, Callable[[], Callback]] = {
    "EarlyStopping": lambda: EarlyStopping("val_loss", patience=2),
    "StochasticWeightAveraging": lambda: StochasticWeightAveraging(0.01, 1),
    "EMAWeightAveraging": lambda: EMAWeightAveraging(decay=0.9),
    "GradientAccumulationScheduler": lambda: GradientAccumulationScheduler({0: 3, 1: 2}),
    "ModelPruning": lambda: ModelPruning("l1_unstructured", amount=0.3),
    "QuantizationAwareTraining": lambda: QuantizationAwareTraining(observer_type="histogram"),
    "BackboneFinetuning": lambda: BackboneFinetuning(1),
    "ModelCheckpoint": lambda: ModelCheckpoint(monitor="val_loss", save_on_exception=True),
    "SpikeDetection": lambda: SpikeDetection(window=2, warmup=1),
    "Timer": lambda: Timer("01:00:00:00"),
}


class Simple(Net):
    """Without what cannot be quantised, and with a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.body = nn.Sequential(nn.Linear(6, 1))
        del self.frozen

    def forward(self, batch: Tensor) -> Tensor:
        values: Tensor = self.body(self.backbone(batch))
        return values

    def loss(self, batch: Tensor) -> Tensor:
        return self(batch).sub(batch.sum(1, keepdim=True)).square().mean()  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([one for one in self.parameters() if one.requires_grad], lr=self.lr)


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization", "ignore:.*lr_scheduler")
@pytest.mark.parametrize("beside", BESIDE)
def test_a_search_leaves_no_trace_beside_another_callback(tmp_path: Path, beside: str) -> None:
    def run(*finders: Callback) -> Any:
        seeded()
        module, other = Simple(), BESIDE[beside]()
        trainer = Trainer(
            accelerator="cpu", max_epochs=3, logger=CSVLogger(tmp_path, version=0), discover_callbacks=False,
            callbacks=[other, *finders, Batches()], log_every_n_steps=1, enable_progress_bar=False,
            default_root_dir=tmp_path,
        )  # fmt: skip
        data: Any = Rows()
        trainer.fit(module, DataLoader(data, batch_size=4, shuffle=True), DataLoader(Rows(8), batch_size=4))
        parts = everything(trainer, module, data)
        if beside == "Timer":
            del parts["callbacks"]  # which times
        files = contents(tmp_path)
        shutil.rmtree(tmp_path)
        return parts, files, module.batches

    finder = LearningRateFinder(1e-5, 0.1, 20, early_stop_threshold=None, update_attr=False)
    without, with_it = run(), run(finder)
    assert finder.optimal_lr is not None
    for part, expected in without[0].items():
        assert with_it[0][part] == expected, part
    assert with_it[1:] == without[1:]


def test_a_second_fit_and_evaluations_are_those_without_a_search(tmp_path: Path) -> None:
    def run(*finders: Callback) -> Any:
        seeded()
        module = Net()
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, logger=False, callbacks=[*finders, Batches()], discover_callbacks=False
        )
        data: Any = Rows()
        loader = DataLoader(data, batch_size=4, shuffle=True)
        found: list[Any] = [trainer.validate(module, loader, verbose=False)]
        for epochs in (1, 3):
            trainer.max_epochs = epochs
            trainer.fit(module, loader, loader)
            found += [everything(trainer, module, data), trainer.validate(module, loader, verbose=False)]
        return found

    assert run(LearningRateFinder(1e-5, 0.1, 20, early_stop_threshold=None, update_attr=False)) == run()
