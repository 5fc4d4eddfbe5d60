"""The endpoint of a PrometheusExporter: where it listens, and that its port is free again whatever happens."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import fake_nvml as fakes
import pytest
import torch
from scraped_runs import exporter_of, scrape, serving, text_of, trainer_with
from torch import Tensor

from leyden import Callback, MisconfigurationException, Trainer
from leyden.runtime.strategy import SingleDeviceStrategy
from leyden.testing.models import BoringModule
from leyden_monitoring import DeviceStatsMonitor, GPUStatsMonitor, PrometheusExporter


def test_what_fails_behind_the_open_port_closes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = fakes.FakeNvml(fakes.Card("a")).install(monkeypatch)

    def broken(index: int) -> Any:
        raise RuntimeError("CUDA error: unknown error")

    monkeypatch.setattr(torch.cuda, "get_device_properties", broken)
    for callback in (exporter_of(device_stats=True), DeviceStatsMonitor(cpu_stats=True), GPUStatsMonitor()):
        trainer = fakes.on_gpu(trainer_with(callback, logger=None))
        with pytest.raises(RuntimeError, match="CUDA error"):
            trainer.fit(BoringModule())
        assert (nvml.opened, fakes.sampling_threads(), serving()) == (0, [], [])


def test_two_trainings_in_one_process_have_endpoints_of_their_own() -> None:
    class Nested(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            trainer_with(inner, Look(), limit_val_batches=0).fit(BoringModule())

    class Look(Callback):
        position = "checkpoint"

        def on_train_batch_end(self, *_: Any) -> None:
            steps = 'leyden_optimizer_steps_total{run="%s"}'
            seen.append((scrape(outer)[steps % "outer"], scrape(inner)[steps % "inner"], len(serving())))

    seen: list[tuple[float, float, int]] = []
    outer, inner = exporter_of(labels={"run": "outer"}), exporter_of(labels={"run": "inner"})
    trainer_with(outer, Nested(), limit_val_batches=0).fit(BoringModule())
    assert seen == [(0, 1, 2), (0, 2, 2)]
    assert serving() == []


def test_one_exporter_cannot_serve_two_runs_at_once() -> None:
    class Nested(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            with pytest.raises(MisconfigurationException, match=r"serves another run at port [0-9]+ already"):
                trainer_with(exporter).fit(BoringModule())

    exporter = exporter_of()
    trainer_with(exporter, Nested()).fit(BoringModule())


def test_a_port_that_is_taken_is_an_error_before_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        trainer = trainer_with(exporter_of(port=port, device_stats=True))
        with pytest.raises(MisconfigurationException) as caught:
            trainer.fit(BoringModule())
    assert str(caught.value) == (
        f"PrometheusExporter(address='127.0.0.1', port={port}) cannot listen there: Address already in use. Choose "
        "another port, or port=0 for a free one, or end what listens there; the address must be one of this machine."
    )
    assert (trainer.global_step, fakes.sampling_threads(), serving()) == (0, [], [])
    trainer.fit(BoringModule())
    elsewhere = trainer_with(exporter_of(address="192.0.2.1"))
    with pytest.raises(MisconfigurationException, match="cannot listen there: Cannot assign requested address"):
        elsewhere.fit(BoringModule())


def test_for_an_operator_a_port_that_is_taken_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration attaches it: what goes wrong with it must not keep anyone from training."""

    class Look(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            found.extend(one for one in trainer.callbacks if isinstance(one, PrometheusExporter))
            seen.append(scrape(found[0])['leyden_optimizer_steps_total{experiment="digits"}'])

    found: list[PrometheusExporter] = []
    seen: list[float] = []
    monkeypatch.setenv("LEYDEN_CONFIG", str(tmp_path / "leyden.toml"))
    monkeypatch.setenv("LEYDEN_CALLBACKS", "only:PrometheusExporter")
    table = '[callbacks.PrometheusExporter]\nport = {}\nlabels = {{ experiment = "digits" }}\n'
    (tmp_path / "leyden.toml").write_text(table.format(0), encoding="utf-8")
    Trainer(accelerator="cpu", max_epochs=1, logger=False, callbacks=[Look()]).fit(BoringModule())
    assert seen == [0]
    with socket.create_server(("127.0.0.1", 0)) as other:
        (tmp_path / "leyden.toml").write_text(table.format(other.getsockname()[1]), encoding="utf-8")
        trainer = Trainer(accelerator="cpu", max_epochs=1, logger=False)
        with pytest.warns(UserWarning, match="PrometheusExporter of .* cannot listen there: Address already in use"):
            trainer.fit(BoringModule())
    assert trainer.global_step == 2


def test_it_listens_on_this_machine_alone_and_on_more_when_told() -> None:
    class Look(Callback):
        def on_train_start(self, *_: Any) -> None:
            server = exporter._server
            assert server is not None
            found.append(server._server.socket.getsockname()[0])
            assert "leyden_stage" in text_of(exporter)

    found: list[str] = []
    for exporter in (exporter_of(), exporter_of(address="0.0.0.0"), exporter_of(address="localhost")):
        trainer_with(exporter, Look()).fit(BoringModule())
    assert found == ["127.0.0.1", "0.0.0.0", "127.0.0.1"]


@pytest.mark.parametrize("where", ["setup", "training_step"])
def test_the_port_is_free_after_exceptions(where: str) -> None:
    class Failing(BoringModule):
        def setup(self, stage: str) -> None:
            ports.append(exporter.port)
            assert len(serving()) == 1
            if where == "setup":
                raise RuntimeError(where)

        def training_step(self, batch: Tensor, batch_idx: int) -> Any:
            raise RuntimeError(where)

    ports: list[int] = []
    exporter = exporter_of(device_stats=True)
    with pytest.raises(RuntimeError, match=where):
        trainer_with(exporter).fit(Failing())
    assert (fakes.sampling_threads(), serving(), exporter.port) == ([], [], 0)
    again = exporter_of(port=ports[0])
    trainer_with(again).fit(BoringModule())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_the_port_is_free_while_a_process_that_the_run_forked_lives_on() -> None:
    """As a dataloader's worker may."""
    children: list[int] = []
    ports: list[int] = []
    reading, writing = os.pipe()

    class Fork(Callback):
        def on_train_start(self, *_: Any) -> None:
            ports.append(exporter.port)
            child = os.fork()
            if child == 0:
                os.close(writing)
                os.read(reading, 1)  # until the test lets go of the other end
                os._exit(0)
            children.append(child)

    exporter = exporter_of()
    trainer_with(exporter, Fork(), limit_val_batches=0).fit(BoringModule())
    assert os.waitpid(children[0], os.WNOHANG) == (0, 0)
    with socket.create_server(("127.0.0.1", ports[0])):
        pass
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0
    os.close(reading)


def test_ranks() -> None:
    class Second(SingleDeviceStrategy):
        global_rank = local_rank = 1

    class Look(Callback):
        def on_train_start(self, *_: Any) -> None:
            seen.append((len(serving()), exporter.port))

    seen: list[tuple[int, int]] = []
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    exporter = exporter_of(port=port - 1)
    trainer_with(exporter, Look(), strategy=Second(torch.device("cpu"))).fit(BoringModule())
    exporter = exporter_of(port=port - 1, all_ranks=True)
    trainer_with(exporter, Look(), strategy=Second(torch.device("cpu"))).fit(BoringModule())
    assert seen == [(0, port - 1), (1, port)]


def test_a_client_that_hangs_up_or_says_nothing_disturbs_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    class Rude(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            for words in (b"", b"GET /metrics HTTP/1.0\r\n\r\n", b"\x00\xff nonsense\r\n\r\n"):
                with socket.create_connection(("127.0.0.1", exporter.port)) as client:
                    client.sendall(words)
            clients.append(socket.create_connection(("127.0.0.1", exporter.port)))
            assert "leyden_stage" in text_of(exporter)

    clients: list[socket.socket] = []
    exporter = exporter_of()
    trainer_with(exporter, Rude()).fit(BoringModule())
    for client in clients:
        client.close()
    assert serving() == []
    assert "Traceback" not in capfd.readouterr().err
