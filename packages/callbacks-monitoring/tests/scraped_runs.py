"""Trainings whose PrometheusExporter is scraped over HTTP, and read by Prometheus's own parser."""

from __future__ import annotations

import threading
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

from leyden import Callback, Trainer
from leyden_monitoring import PrometheusExporter

__all__ = ["Scraped", "Scraper", "exporter_of", "scrape", "serving", "stage_of", "text_of", "trainer_with"]

Scraped = dict[str, float]


def text_of(exporter: PrometheusExporter, address: str = "127.0.0.1") -> str:
    with urlopen(f"http://{address}:{exporter.port}/metrics", timeout=60) as answer:
        text: str = answer.read().decode()
        return text


def scrape(exporter: PrometheusExporter) -> Scraped:
    """Return the samples by name and labels, as one writes them in a query."""
    samples = {}
    for family in text_string_to_metric_families(text_of(exporter)):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
            samples[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return samples


def stage_of(scraped: Scraped) -> str:
    (stage,) = (name for name, value in scraped.items() if name.startswith("leyden_stage") and value == 1)
    return stage.removeprefix('leyden_stage{stage="').removesuffix('"}')


class Scraper(Callback):
    """Scrapes in each hook, after the exporter had it."""

    position = "checkpoint"

    def __init__(self, exporter: PrometheusExporter, *names: str) -> None:
        self.exporter, self.names = exporter, names
        self.rows: list[tuple[Any, ...]] = []

    def _look(self, hook: str) -> None:
        scraped = scrape(self.exporter)
        self.rows.append((hook, stage_of(scraped), *(scraped.get(name) for name in self.names)))

    def on_fit_start(self, *_: Any) -> None:
        self._look("fit_start")

    def on_train_batch_end(self, *_: Any) -> None:
        self._look("train_batch")

    def on_validation_batch_end(self, *_: Any) -> None:
        self._look("validation_batch")

    def on_train_epoch_end(self, *_: Any) -> None:
        self._look("epoch_end")

    def on_test_batch_end(self, *_: Any) -> None:
        self._look("test_batch")

    def on_test_end(self, *_: Any) -> None:
        self._look("test_end")

    def on_predict_batch_end(self, *_: Any) -> None:
        self._look("predict_batch")


def exporter_of(**arguments: Any) -> PrometheusExporter:
    return PrometheusExporter(**{"port": 0, "device_stats": False, **arguments})


def trainer_with(*callbacks: Callback, **settings: Any) -> Trainer:
    defaults: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "logger": False, "log_every_n_steps": 2}
    return Trainer(**defaults | settings, callbacks=list(callbacks), discover_callbacks=False)


def serving() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("leyden metrics")]
