"""ThroughputMonitor in real, tiny trainings whose steps take whole seconds of a clock that they move themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, MisconfigurationException, Trainer
from leyden.callbacks import ModelCheckpoint, ThroughputMonitor
from leyden.loggers import Logger
from leyden.runtime.strategy import SingleDeviceStrategy
from leyden.testing.models import BoringModule

Rows = list[tuple[int, dict[str, float]]]


class Notes(Logger):
    """Keeps what it is given of throughput."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Rows = []

    @property
    def name(self) -> str:
        return "notes"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(name.endswith("time") for name in metrics):
            assert step is not None
            self.rows.append((step, {name: round(value, 6) for name, value in metrics.items()}))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Not looked at here."""


class World:
    """The clock of a run."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now


class Monitor(ThroughputMonitor):
    """Reads that clock."""

    world = World()

    def clock(self) -> float:  # type: ignore[override]  # not static: each run has a world of its own
        return self.world.now


class Timed(BoringModule):
    """Its steps take 1 s in training, 10 in validation, 2 in test and 4 in predict; setting up takes 100."""

    def __init__(self, world: World, **batches: int) -> None:
        super().__init__(batches={"train": 4, "val": 2} | batches)
        self.world = world

    def setup(self, stage: str) -> None:
        self.world.now += 100

    def training_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.world.now += 1
        return self.loss(batch)

    def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
        self.world.now += 10

    def test_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.world.now += 2

    def predict_step(self, batch: Tensor, batch_idx: int) -> Any:
        self.world.now += 4


class Unwatched(Timed):
    """Without validation."""

    val_dataloader = LightningModule.val_dataloader
    validation_step = LightningModule.validation_step


def trainer_for(world: World, *callbacks: Callback, arguments: Any = None, **settings: Any) -> tuple[Trainer, Notes]:
    monitor, notes = Monitor(**(arguments or {})), Notes()
    monitor.world = world
    given: dict[str, Any] = {"max_epochs": 1, "log_every_n_steps": 2, "logger": notes} | settings
    trainer = Trainer(
        accelerator="cpu",
        callbacks=[monitor, *callbacks],
        discover_callbacks=False,
        **given,
    )
    return trainer, notes


def fit(module: Timed, *callbacks: Callback, arguments: Any = None, data: Any = None, **settings: Any) -> Rows:
    trainer, notes = trainer_for(module.world, *callbacks, arguments=arguments, **settings)
    trainer.fit(module, data)
    return notes.rows


def only(rows: Rows, *names: str) -> list[tuple[int, tuple[float | None, ...]]]:
    """Return some columns; None where a row has not the name."""
    return [(step, tuple(values.get(name) for name in names)) for step, values in rows]


def of_size(*sizes: int) -> list[Tensor]:
    return [torch.ones(size, 4) for size in sizes]


class Batches:
    """Ready-made batches as one loader."""

    def __init__(self, *sizes: int) -> None:
        self.batches = of_size(*sizes)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Any:
        return iter(self.batches)


# -- training -----------------------------------------------------------------------------------------------------


def test_every_series_of_a_training_at_the_steps_of_logging() -> None:
    rows = fit(Unwatched(World()), arguments={"batch_size_fn": len, "length_fn": Tensor.numel})
    rates = {"train/device/batches_per_sec": 1, "train/device/samples_per_sec": 2, "train/device/items_per_sec": 8}
    assert rows == [
        (1, {"train/time": 2, "train/batches": 2, "train/samples": 4, "train/lengths": 16} | rates),
        (3, {"train/time": 4, "train/batches": 4, "train/samples": 8, "train/lengths": 32} | rates),
    ]


def test_names_have_the_separator_asked_for() -> None:
    (row, _) = fit(Unwatched(World()), arguments={"separator": "|"})
    assert list(row[1]) == [
        "train|time", "train|batches", "train|samples", "train|device|batches_per_sec", "train|device|samples_per_sec"
    ]  # fmt: skip


def test_accumulation_counts_the_samples_of_all_micro_batches_and_reports_at_steps() -> None:
    rows = fit(Unwatched(World(), train=10), accumulate_grad_batches=3)  # windows of 3, 3, 3 and 1 batches
    assert only(rows, "train/batches", "train/samples", "train/device/batches_per_sec") == [
        (1, (6, 12, 1)),
        (3, (10, 20, 1)),
    ]


def test_batches_of_varying_size_count_as_they_are() -> None:
    rows = fit(Unwatched(World()), data=Batches(1, 5, 2, 8), arguments={"window_size": 2})
    assert only(rows, "train/samples", "train/device/samples_per_sec") == [(1, (6, 3)), (3, (16, 5))]


def test_the_batch_size_is_found_as_self_log_finds_it() -> None:
    class Pairs(Unwatched):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch["x"], batch_idx)

    data: Any = DataLoader([{"name": "a", "x": torch.ones(4)}] * 6, batch_size=3)  # type: ignore[arg-type]
    assert only(fit(Pairs(World()), data=data), "train/samples") == [(1, (6,))]


def test_a_batch_without_a_size_is_said_once_and_samples_are_left_out() -> None:
    class Opaque(Unwatched):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(torch.ones(2, 4), batch_idx)

    class Things(Batches):
        def __iter__(self) -> Any:
            return iter([object()] * len(self))

    with pytest.warns(
        UserWarning, match=r"cannot tell how many samples a batch of type object has.*batch_size_fn="
    ) as w:
        rows = fit(Opaque(World()), data=Things(1, 1, 1, 1))
    assert len(w) == 1
    assert [sorted(values) for _, values in rows] == [
        ["train/batches", "train/device/batches_per_sec", "train/time"]
    ] * 2


def test_validation_and_the_sanity_check_take_no_time_of_training() -> None:
    rows = fit(Timed(World()), max_epochs=2, val_check_interval=2, log_every_n_steps=1, limit_train_batches=4)
    train = [(step, values) for step, values in rows if "train/time" in values]
    assert only(train, "train/time", "train/device/batches_per_sec") == [(step, (step + 1, 1)) for step in range(8)]
    validate = [(step, values) for step, values in rows if "validate/time" in values]
    # Batches of the sanity check are none of the run's, and the time between validations none of theirs.
    assert only(validate, "validate/time", "validate/batches", "validate/device/samples_per_sec") == [
        (number, (10 * number, number, 0.2)) for number in range(1, 9)
    ]


def test_validation_over_several_dataloaders_is_one_stage() -> None:
    module = Timed(World())
    trainer, notes = trainer_for(module.world, log_every_n_steps=3)
    trainer.fit(module, Batches(1, 1), [Batches(1, 2), Batches(3, 4)])
    assert only(notes.rows, "validate/batches", "validate/samples") == [(3, (3, 6)), (4, (4, 10))]


def test_steps_that_return_none_have_been_made_and_an_epoch_given_up_has_not() -> None:
    class Skipping(Unwatched):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return None if batch_idx % 2 else loss

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
            return -1 if batch_idx == 3 else None

    rows = fit(Skipping(World(), train=6), max_epochs=2, log_every_n_steps=1)
    assert only(rows, "train/batches", "train/samples") == [(step, (step + 1, 2 * step + 2)) for step in range(6)]


def test_manual_optimisation() -> None:
    class Manual(Unwatched):
        def __init__(self, world: World) -> None:
            super().__init__(world)
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.world.now += 1
            optimizer: Any = self.optimizers()
            for _ in range(2):  # two optimizer steps are one batch
                optimizer.zero_grad()
                self.manual_backward(self.loss(batch))
                optimizer.step()

    rows = fit(Manual(World()))
    assert only(rows, "train/batches", "train/device/batches_per_sec") == [(1, (2, 1)), (3, (4, 1))]


# -- other stages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "seconds"), [("validate", 10), ("test", 2), ("predict", 4)])
def test_other_stages_report_every_so_many_batches_and_at_their_end(stage: str, seconds: int) -> None:
    module = Timed(World(), val=5, test=5, predict=5)
    trainer, notes = trainer_for(module.world)
    getattr(trainer, stage)(module, **({} if stage == "predict" else {"verbose": False}))
    names = ("time", "batches", "samples", "device/batches_per_sec", "device/samples_per_sec")
    assert only(notes.rows, *(f"{stage}/{name}" for name in names)) == [
        (done, (done * seconds, done, 2 * done, round(1 / seconds, 6), round(2 / seconds, 6))) for done in (2, 4, 5)
    ]
    getattr(trainer, stage)(module, **({} if stage == "predict" else {"verbose": False}))  # counts afresh
    assert [step for step, _ in notes.rows] == [2, 4, 5, 2, 4, 5]


def test_without_a_logger_the_figures_are_kept() -> None:
    module = Unwatched(World())
    trainer, _ = trainer_for(module.world, logger=False)
    trainer.fit(module)
    monitor: Any = trainer.callbacks[0]
    assert monitor.metrics["train/device/samples_per_sec"] == 2
    assert monitor.applies(trainer) is False


def test_fast_dev_run_and_barebones_work() -> None:
    assert fit(Timed(World()), fast_dev_run=True) == []
    module = Timed(World())
    trainer, notes = trainer_for(module.world, log_every_n_steps=0)
    trainer.fit(module)
    assert notes.rows == []


def test_two_devices_have_rates_of_both() -> None:
    class Two(SingleDeviceStrategy):
        world_size = 2

    module = Unwatched(World())
    rows = fit(module, strategy=Two(torch.device("cpu")))
    assert only(rows[:1], "train/device/samples_per_sec", "train/samples_per_sec", "train/batches_per_sec") == [
        (1, (2, 4, 2))
    ]


# -- floating point operations -------------------------------------------------------------------------------------


def test_operations_of_a_plain_attribute_are_those_of_training() -> None:
    module = Timed(World())
    module.flops_per_batch = 500  # type: ignore[assignment]
    rows = fit(module, arguments={"available_flops": 2000}, accumulate_grad_batches=2, log_every_n_steps=1)
    assert only(rows, "train/device/flops_per_sec", "train/device/mfu", "validate/device/flops_per_sec") == [
        (0, (500, 0.25, None)),
        (1, (500, 0.25, None)),
        (1, (None, None, None)),  # validation
        (2, (None, None, None)),
    ]


def test_a_property_is_asked_for_every_batch_of_every_stage() -> None:
    class Knowing(Timed):
        @property
        def flops_per_batch(self) -> float:
            return 300.0 if self.training else 100.0

    rows = fit(Knowing(World()))
    assert only(rows, "train/device/flops_per_sec", "validate/device/flops_per_sec", "train/device/mfu") == [
        (1, (300, None, None)),  # what a CPU could do is in no table
        (3, (300, None, None)),
        (2, (None, 10, None)),
    ]


def test_measured_operations_and_the_data_sheet_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from leyden.flops import measure_flops
    from leyden_monitoring import throughput_monitor

    monkeypatch.setattr(throughput_monitor, "peak_flops_of", lambda device, precision: 960.0)  # the edge: a driver

    class Measured(Unwatched):
        def setup(self, stage: str) -> None:
            model = torch.nn.Linear(4, 2, device="meta")
            batch = torch.empty(2, 4, device="meta")
            self.flops_per_batch = measure_flops(model, lambda: model(batch), torch.Tensor.sum)

    # forward 2·2·4·2 operations, backward as many for the weights; the inputs need no gradient
    rows = fit(Measured(World()))
    assert only(rows[:1], "train/device/flops_per_sec", "train/device/mfu") == [(1, (64, round(64 / 960, 6)))]


def test_operations_that_are_no_number_are_refused() -> None:
    class Wrong(Unwatched):
        def flops_per_batch(self) -> int:
            return 1

    with pytest.raises(MisconfigurationException, match=r"flops_per_batch of Wrong is <bound .*a number"):
        fit(Wrong(World()))


# -- arguments -----------------------------------------------------------------------------------------------------


def test_arguments_are_checked_together() -> None:
    with pytest.raises(MisconfigurationException) as caught:
        ThroughputMonitor(batch_size_fn=3, length_fn="len")  # type: ignore[arg-type]
    assert str(caught.value).splitlines() == [
        "ThroughputMonitor(batch_size_fn=3): expected a function or None.",
        "ThroughputMonitor(length_fn='len'): expected a function or None.",
    ]
    with pytest.raises(MisconfigurationException, match=r"ThroughputMonitor\(window_size=True\)"):
        ThroughputMonitor(len, window_size=True)


@pytest.mark.parametrize("argument", ["batch_size_fn", "length_fn"])
def test_functions_return_ints_and_no_tensors(argument: str) -> None:
    fit(Unwatched(World()), arguments={argument: lambda batch: np.int64(2)})
    for value in (torch.tensor(2), 2.5, None, True):
        with pytest.raises(MisconfigurationException, match=rf"{argument}=\.\.\.\): it returned .*expected an int"):
            fit(Unwatched(World()), arguments={argument: lambda batch, value=value: value})


# -- resume --------------------------------------------------------------------------------------------------------


class Cut(Exception):
    """Ends a run as a crash would."""


class CutAt(Callback):
    """Raises in the `at`-th call of a hook."""

    def __init__(self, hook: str, at: int) -> None:
        self.left = at
        setattr(self, hook, self._count)

    def _count(self, trainer: Trainer, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.left -= 1
            if self.left == 0:
                raise Cut


@pytest.mark.parametrize(
    ("hook", "at", "first"),
    [("on_train_batch_start", 4, 3), ("on_train_batch_start", 6, 5), ("on_validation_batch_start", 2, 4)],
)
def test_totals_go_on_after_a_resume_and_rates_are_of_this_process(
    tmp_path: Path, hook: str, at: int, first: int
) -> None:
    def saved(*callbacks: Callback) -> list[Callback]:
        return [ModelCheckpoint(tmp_path, every_n_train_steps=1, save_top_k=-1, save_on_exception=True), *callbacks]

    straight = fit(Timed(World()), max_epochs=2, log_every_n_steps=1)
    with pytest.raises(Cut):
        fit(Timed(World()), *saved(CutAt(hook, at)), max_epochs=2, log_every_n_steps=1)

    class Slow(Timed):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.world.now += 1  # twice as slow as the process that was cut
            return super().training_step(batch, batch_idx)

    trainer, notes = trainer_for(world := World(5.0), *saved(), max_epochs=2, log_every_n_steps=1)
    trainer.fit(Slow(world), ckpt_path=max(tmp_path.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns))
    totals = ("train/batches", "train/samples", "validate/batches", "validate/samples", "validate/time")
    assert only(notes.rows, *totals) == only(straight, *totals)[-len(notes.rows) :]
    train = [(step, values) for step, values in notes.rows if "train/time" in values]
    assert only(train, "train/time", "train/device/batches_per_sec") == [
        (step, (first + 2 * (step + 1 - first), 0.5)) for step in range(first, 8)
    ]
    validate = [values["validate/device/batches_per_sec"] for _, values in notes.rows if "validate/time" in values]
    assert set(validate) == {0.1}


def test_the_state_is_plain_and_comes_round() -> None:
    module = Timed(World())
    trainer, _ = trainer_for(module.world)
    trainer.fit(module)
    monitor: Any = trainer.callbacks[0]
    state = monitor.state_dict()
    assert state == {
        "train": {"time": 4.0, "batches": 4, "samples": 8, "lengths": 0},
        "validate": {"time": 20.0, "batches": 2, "samples": 4, "lengths": 0},
    }
    other = ThroughputMonitor()
    assert other.state_dict() == {}
    other.load_state_dict(state)
    assert other.state_dict() == state
