"""PrometheusExporter scraped over HTTP in real, tiny trainings, and read by Prometheus's own parser."""

from __future__ import annotations

import copy
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import fake_nvml as fakes
import pytest
import torch
from scraped_runs import Scraped, Scraper, exporter_of, scrape, serving, trainer_with
from torch import Tensor

from leyden import Callback, MisconfigurationException, Trainer
from leyden.loggers import CSVLogger
from leyden.testing.models import BoringModule
from leyden_monitoring import PrometheusExporter


class Clock:
    """Seconds that pass only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("prometheus_exporter", "prometheus_metrics"):
        monkeypatch.setattr(f"leyden_monitoring.{module}.monotonic", clock)
    return clock


def test_progress_of_a_fit_with_validation_and_accumulation() -> None:
    exporter = exporter_of()
    scraper = Scraper(
        exporter,
        "leyden_epoch",
        "leyden_optimizer_steps_total",
        "leyden_pass_batches_done",
        "leyden_pass_batches",
        'leyden_batches_total{stage="train"}',
        'leyden_batches_total{stage="validate"}',
        "leyden_train_samples_total",
    )
    trainer = trainer_with(exporter, scraper, max_epochs=2, accumulate_grad_batches=2, num_sanity_val_steps=1)
    trainer.fit(BoringModule(batches={"train": 3, "val": 1}))
    assert scraper.rows == [
        ("fit_start", "train", 0, 0, 0, 0, 0, 0, 0),
        ("validation_batch", "sanity_check", 0, 0, 1, 1, 0, 1, 0),
        ("train_batch", "train", 0, 0, 1, 3, 1, 1, 2),
        ("train_batch", "train", 0, 1, 2, 3, 2, 1, 4),
        ("train_batch", "train", 0, 2, 3, 3, 3, 1, 6),
        ("validation_batch", "validate", 0, 2, 1, 1, 3, 2, 6),
        ("epoch_end", "train", 0, 2, 3, 3, 3, 2, 6),
        ("train_batch", "train", 1, 2, 1, 3, 4, 2, 8),
        ("train_batch", "train", 1, 3, 2, 3, 5, 2, 10),
        ("train_batch", "train", 1, 4, 3, 3, 6, 2, 12),
        ("validation_batch", "validate", 1, 4, 1, 1, 6, 3, 12),
        ("epoch_end", "train", 1, 4, 3, 3, 6, 3, 12),
    ]
    assert serving() == []


def test_metrics_and_learning_rates_are_those_of_the_last_report(tmp_path: Path) -> None:
    class Numbers(BoringModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.log("batch_idx", float(batch_idx))
            return self.loss(batch)

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            self.log("val/score", 0.25)

        def on_train_epoch_end(self) -> None:
            self.log("said_at_the_end", 7.0)

        def configure_optimizers(self) -> Any:
            groups: list[dict[str, Any]] = [
                {"params": [self.layer.weight], "name": "body"},
                {"params": [self.layer.bias], "lr": 0.5},
            ]
            optimizer = torch.optim.SGD(groups, lr=0.1)
            return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1), "interval": "step"}]

    exporter = exporter_of()
    names = [f'leyden_metric_value{{metric="{name}"}}' for name in ("batch_idx", "val/score", "said_at_the_end")]
    rate = 'leyden_learning_rate{group="%s",optimizer="SGD"}'
    scraper = Scraper(exporter, *names, rate % "body", rate % "1")
    trainer = trainer_with(exporter, scraper, num_sanity_val_steps=0, logger=CSVLogger(tmp_path))
    trainer.fit(Numbers(batches={"train": 5}))
    rows = [row[:1] + tuple(None if value is None else round(value, 9) for value in row[2:]) for row in scraper.rows]
    assert rows == [
        ("fit_start", None, None, None, None, None),
        ("train_batch", None, None, None, None, None),
        ("train_batch", 1, None, None, 1e-3, 5e-3),
        ("train_batch", 1, None, None, 1e-3, 5e-3),
        ("train_batch", 3, None, None, 1e-5, 5e-5),
        ("train_batch", 3, None, None, 1e-5, 5e-5),
        ("validation_batch", 3, None, None, 1e-5, 5e-5),
        ("epoch_end", 4, 0.25, 7, 1e-6, 5e-6),
    ]


def test_names_of_optimizers_of_one_class() -> None:
    class Two(BoringModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            return None

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam([self.layer.weight], 0.1), torch.optim.Adam([self.layer.bias], 0.2)]

    exporter = exporter_of()
    names = [f'leyden_learning_rate{{group="0",optimizer="{name}"}}' for name in ("Adam", "Adam-1")]
    scraper = Scraper(exporter, *names)
    trainer_with(exporter, scraper).fit(Two())
    assert scraper.rows[-1] == ("epoch_end", "train", 0.1, 0.2)


def test_the_time_since_the_last_batch_is_of_the_moment_of_the_scrape(clock: Clock) -> None:
    """A step that hangs is seen from outside, while it hangs; so is a run that never gets to its first batch."""
    ages = []

    class Stuck(BoringModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            for _ in range(2):
                clock.now += 300
                ages.append(scrape(exporter)["leyden_last_batch_age_seconds"])
            return super().training_step(batch, batch_idx)

    exporter = exporter_of()
    scraper = Scraper(exporter, "leyden_last_batch_age_seconds")
    trainer_with(exporter, scraper, limit_val_batches=0).fit(Stuck())
    assert ages == [300, 600] * 2
    assert [age for *_, age in scraper.rows] == [0, 0, 0, 0]


def test_rates_are_those_between_two_reports_without_validation(clock: Clock) -> None:
    class Timed(BoringModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            clock.now += 0.5 if batch_idx < 2 else 0.25
            return super().training_step(batch, batch_idx)

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            clock.now += 1000

    exporter = exporter_of()
    scraper = Scraper(exporter, "leyden_train_batches_per_second", "leyden_train_samples_per_second")
    trainer_with(exporter, scraper, val_check_interval=2, num_sanity_val_steps=0).fit(Timed(batches={"train": 4}))
    rates = [row[2:] for row in scraper.rows if row[0] == "train_batch"]
    assert rates == [(None, None), (2, 4), (2, 4), (4, 8)]


def test_what_is_on_a_device_is_not_waited_for() -> None:
    """A value on "meta" raises when it is read, as one on a GPU would make the host wait."""

    class OnDevice(BoringModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            self.log("far", torch.zeros((), device="meta"), on_step=True, on_epoch=False)
            self.log("near", 5.0)
            return self.loss(batch)

    class End(Callback):
        position = "checkpoint"

        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            scraped = scrape(exporter)
            seen.append([name for name in scraped if name.startswith("leyden_metric_value")])
            if trainer.global_step == 2:
                raise KeyboardInterrupt

    seen: list[list[str]] = []
    exporter = exporter_of()
    with pytest.raises(KeyboardInterrupt):
        trainer_with(exporter, End(), limit_val_batches=0).fit(OnDevice(batches={"train": 4}))
    assert seen == [[], ['leyden_metric_value{metric="near"}']]
    assert serving() == []


@pytest.mark.parametrize(
    ("entry_point", "hook", "stage"),
    [
        ("validate", "validation_batch", "validate"),
        ("test", "test_batch", "test"),
        ("predict", "predict_batch", "predict"),
    ],
)
def test_the_other_entry_points_with_two_dataloaders(entry_point: str, hook: str, stage: str) -> None:
    class Three(BoringModule):
        def validation_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> None:
            self.log("score", 0.5)

        test_step = validation_step

        def predict_step(self, batch: Tensor, batch_idx: int, dataloader_idx: int = 0) -> Any:
            return batch

    exporter = exporter_of()
    count = f'leyden_batches_total{{stage="{stage}"}}'
    score = 'leyden_metric_value{metric="score/dataloader_idx_1"}'
    scraper = Scraper(exporter, "leyden_pass_batches_done", "leyden_pass_batches", count, score)
    module = Three(batches={"test": 2})
    loaders = [module.test_dataloader(), module.test_dataloader()]
    getattr(trainer_with(exporter, scraper), entry_point)(module, loaders)
    counted = 0 if stage == "predict" else 1  # a prediction is counted after its last hook
    assert scraper.rows[:4] == [(hook, stage, done, 4, done - 1 + counted, None) for done in (1, 2, 3, 4)]
    assert scraper.rows[4:] == ([("test_end", "test", 4, 4, 4, 0.5)] if stage == "test" else [])


def test_a_dataloader_of_unknown_length() -> None:
    exporter = exporter_of()
    scraper = Scraper(exporter, "leyden_pass_batches_done", "leyden_pass_batches")
    trainer_with(exporter, scraper, limit_val_batches=0).fit(BoringModule(), (torch.ones(2, 4) for _ in range(2)))
    assert scraper.rows[1:3] == [("train_batch", "train", 1, None), ("train_batch", "train", 2, None)]


class Anything(BoringModule):
    """Takes batches of any kind."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss(torch.ones(1, 4))


@pytest.mark.parametrize(
    ("batch", "samples"),
    [
        (torch.ones(3, 4), 3),
        ((torch.ones(3, 4), torch.ones(3)), 3),
        ([torch.ones(()), torch.ones(2)], 2),
        ({"x": torch.ones(5, 4)}, 5),
        (["a", "b"], 2),
        (torch.ones(()), 1),
        (object(), None),
    ],
    ids=["tensor", "pair", "number first", "dict", "texts", "number", "no size"],
)
def test_samples_of_a_batch(batch: Any, samples: int | None) -> None:
    exporter = exporter_of()
    scraper = Scraper(exporter, "leyden_train_samples_total", "leyden_train_samples_per_second")
    trainer_with(exporter, scraper, limit_val_batches=0).fit(Anything(), [batch, batch])
    assert scraper.rows[-1][2] == (None if samples is None else 2 * samples)
    assert (scraper.rows[-1][3] is None) is (samples is None)


def test_the_machine_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fakes.FakeNvml(fakes.Card("a", lacks={"temperature"})).install(monkeypatch)
    seen: list[Scraped] = []

    class Look(Callback):
        position = "checkpoint"

        def on_train_batch_end(self, *_: Any) -> None:
            seen.append(scrape(exporter))

    exporter = exporter_of(device_stats=True)
    fakes.on_gpu(trainer_with(exporter, Look(), limit_val_batches=0)).fit(BoringModule())
    of_gpu = {name: value for name, value in seen[1].items() if 'gpu="0"' in name}
    assert of_gpu == {
        'leyden_gpu_utilization_ratio{gpu="0"}': 0.7,
        'leyden_gpu_memory_used_bytes{gpu="0"}': 3 * 2**30,
        'leyden_gpu_memory_total_bytes{gpu="0"}': 8 * 2**30,
        'leyden_gpu_power_watts{gpu="0"}': 250.5,
        'leyden_cuda_allocated_bytes{gpu="0"}': 1024,
        'leyden_cuda_allocated_peak_bytes{gpu="0"}': 4096,
        'leyden_cuda_reserved_bytes{gpu="0"}': 2048,
    }
    assert 0 < seen[1]["leyden_memory_utilization_ratio"] < 1
    assert nvml.threads == {"leyden samples GPU 0 (Fake H100)"}  # neither a hook nor a scrape asks the driver
    assert (nvml.opened, fakes.sampling_threads(), serving()) == (0, [], [])


def test_a_gpu_without_a_driver_to_ask(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    fakes.FakeNvml().install(monkeypatch)
    exporter = exporter_of(device_stats=True)
    scraper = Scraper(exporter, 'leyden_cuda_allocated_bytes{gpu="0"}', 'leyden_gpu_power_watts{gpu="0"}')
    with caplog.at_level("INFO", "leyden"):
        trainer = fakes.on_gpu(trainer_with(exporter, scraper, limit_val_batches=0))
        trainer.fit(BoringModule())
        trainer.test(BoringModule(), verbose=False)
    assert scraper.rows[2] == ("train_batch", "train", 1024, None)
    assert caplog.text.count("PrometheusExporter has no utilisation, temperature and power: NVML of the") == 1


def test_resumed_it_goes_on_counting_steps(tmp_path: Path) -> None:
    class Save(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "run.ckpt")

    trainer_with(exporter_of(), Save()).fit(BoringModule(batches={"train": 4}))
    exporter = exporter_of()
    scraper = Scraper(
        exporter, "leyden_optimizer_steps_total", "leyden_pass_batches_done", "leyden_train_samples_total"
    )
    trainer = trainer_with(exporter, scraper, limit_val_batches=0)
    trainer.fit(BoringModule(batches={"train": 4}), ckpt_path=tmp_path / "run.ckpt")
    assert scraper.rows[1:] == [("train_batch", "train", 4, 4, 2), ("epoch_end", "train", 4, 4, 2)]


def test_without_prometheus_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(ImportError, match=re.escape("pip install leyden-callbacks-monitoring[prometheus]")):
        PrometheusExporter()


def test_a_step_that_reports_nothing_costs_one_python_call() -> None:
    def calls(*callbacks: Callback) -> int:
        trainer = trainer_with(*callbacks, log_every_n_steps=1000, limit_val_batches=0)
        return count_calls(lambda: trainer.fit(BoringModule(batches={"train": 60})))

    class Idle(Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            """Called, and no more."""

    calls(exporter_of())  # imports
    assert abs(calls(exporter_of()) - calls(Idle())) < 30  # 60 would be one more per step


def count_calls(run: Callable[[], object]) -> int:
    """Count the Python functions entered in the steps of a run."""
    calls, inside = 0, False

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls, inside
        if frame.f_code.co_name == "_run_batches":
            inside = event != "return"
        calls += inside and event == "call"

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return calls


def test_copies_in_the_middle_of_a_run() -> None:
    class Copy(Callback):
        def on_train_start(self, *_: Any) -> None:
            for copied in (copy.deepcopy(exporter), pickle.loads(pickle.dumps(exporter))):
                assert (copied.address, copied.port, copied.labels) == ("127.0.0.1", 0, {"a": "b"})

    exporter = exporter_of(labels={"a": "b"})
    trainer_with(exporter, Copy()).fit(BoringModule())


def test_wrong_arguments_are_all_named() -> None:
    with pytest.raises(MisconfigurationException) as caught:
        exporter_of(address="", port=70000, device_stats=1, all_ranks=None, labels={"stage": "x"})
    owner = "PrometheusExporter"
    assert [line.split(": expected ")[0] for line in str(caught.value).splitlines()] == [
        f"{owner}(address='')",
        f"{owner}(port=70000)",
        f"{owner}(device_stats=1)",
        f"{owner}(all_ranks=None)",
        f"{owner}(labels={{'stage': 'x'}})",
    ]
