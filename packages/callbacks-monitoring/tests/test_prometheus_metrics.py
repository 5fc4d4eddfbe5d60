"""The names of what a PrometheusExporter exports: by Prometheus's conventions, and as the pages have them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_nvml as fakes
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families
from scraped_runs import exporter_of, text_of, trainer_with

from leyden import Callback
from leyden.testing.models import BoringModule
from leyden_monitoring import PrometheusExporter

DOCS = Path(__file__).parents[3] / "docs"


def all_families(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[str, str]]:
    """Return each metric that there can be with its kind and help."""
    fakes.FakeNvml(fakes.Card("a")).install(monkeypatch)
    families: dict[str, tuple[str, str]] = {}

    class Look(Callback):
        position = "checkpoint"

        def on_train_batch_end(self, *_: Any) -> None:
            watched = exporter._run.cpu if exporter._run is not None else None
            while watched is not None and "cpu_percent" not in watched.latest:
                threading.Event().wait(0.01)
            for family in text_string_to_metric_families(text_of(exporter)):
                for sample in family.samples:
                    families[sample.name] = family.type, family.documentation

    exporter = exporter_of(device_stats=True)
    fakes.on_gpu(trainer_with(exporter, Look(), limit_val_batches=0, log_every_n_steps=1)).fit(BoringModule())
    return families


def test_names_follow_the_conventions_and_the_page_lists_them_all(monkeypatch: pytest.MonkeyPatch) -> None:
    families = all_families(monkeypatch)
    for name, (kind, text) in families.items():
        assert re.fullmatch(r"leyden_[a-z_]+[a-z]", name)
        assert name.endswith("_total") is (kind == "counter")
        assert text.endswith(".")
    listed = re.findall(
        r"^\| `(leyden_[a-z_]+)",
        (DOCS / "callbacks" / "prometheus_exporter.md").read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    assert sorted(listed) == sorted(families)


def test_the_page_s_configuration_and_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    families = all_families(monkeypatch)
    scraping, alerts = [yaml.safe_load(block) for block in yaml_blocks() if not block.startswith("livenessProbe")]
    (job,) = scraping["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{PrometheusExporter().port}"]
    rules = alerts["groups"][0]["rules"]
    for rule in rules:
        assert set(re.findall(r"leyden_[a-z_]+", rule["expr"])) <= set(families)
    assert {"leyden_last_batch_age_seconds > 600"} <= {rule["expr"] for rule in rules}


def yaml_blocks() -> Iterator[str]:
    yield from re.findall(r"```yaml\n(.*?)```", (DOCS / "production.md").read_text(encoding="utf-8"), flags=re.DOTALL)
