"""The example of a notifier: a real server gets its messages, and neither that nor its failure is felt by the run."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import notifier
import pytest
import torch
from notifier import Notifier

from leyden import Callback, Trainer
from leyden.callbacks import ModelCheckpoint
from leyden.testing import BoringModule, callback_tests

test_notifier = callback_tests(lambda: Notifier(len, "val_acc", "max"), only_watches=True)


class Server(ThreadingHTTPServer):
    """A webhook that keeps what it gets; with `silent` it answers when `close` is called, and not before."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hook)
        self.got: list[tuple[str, Any]] = []
        self.silent, self.closing, self.status = False, threading.Event(), 200
        self.url = f"http://127.0.0.1:{self.server_port}/hook"
        self.serving = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self.serving.start()

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.serving.join()
        self.server_close()


class Hook(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["Content-Type"], json.loads(body)))
        if self.server.silent:
            self.server.closing.wait()
            return
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


class Scored(BoringModule):
    """Logs the scores it is given, one by one; fails where one is None."""

    def __init__(self, *scores: float | None) -> None:
        super().__init__()
        self.scores = iter(scores)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        score = next(self.scores)
        if score is None:
            raise RuntimeError("lost")
        self.log("score", score)


def fit(module: Scored, *callbacks: Callback, max_epochs: int = 3, ckpt_path: Path | None = None) -> torch.Tensor:
    """Train from the same weights each time; return where that leads."""
    for weight in module.parameters():
        torch.nn.init.constant_(weight, 0.5)
    trainer = Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        logger=False,
        num_sanity_val_steps=1,
        callbacks=list(callbacks),
        discover_callbacks=False,
    )
    trainer.fit(module, ckpt_path=ckpt_path)
    return module.layer.weight.detach()


def texts(server: Server) -> list[str]:
    assert all(kind == "application/json" and [*body] == ["text"] for kind, body in server.got)
    return [body["text"] for _, body in server.got]


def test_the_example_prints_what_it_tells(capsys: pytest.CaptureFixture[str]) -> None:
    told = notifier.main()
    assert told[0] == "Classifier starts at step 0"
    assert told[-1] == "Classifier ends at step 92"
    assert len(told) > 3
    printed = capsys.readouterr().out
    assert all(f"│ {text:<{max(map(len, told))}} │" in printed for text in told)


def test_a_server_gets_a_message_for_the_start_the_end_and_each_best_score(server: Server) -> None:
    fit(Scored(0.1, 0.9, 0.95, 0.5), Notifier(server.url, "score"))  # the first is the sanity check's
    assert texts(server) == [
        "Scored starts at step 0",
        "Scored has its best score 0.9000 at step 2",
        "Scored has its best score 0.5000 at step 6",
        "Scored ends at step 6",
    ]


def test_a_failure_is_told_and_raised(server: Server) -> None:
    with pytest.raises(RuntimeError, match="lost"):
        fit(Scored(0.1, 0.9, None), Notifier(server.url, "score", "max"))
    assert texts(server)[-1] == "Scored fails with RuntimeError('lost') at step 4"


def test_a_run_that_goes_on_knows_the_best_score(server: Server, tmp_path: Path) -> None:
    fit(Scored(0.1, 0.3), Notifier(server.url, "score"), ModelCheckpoint(tmp_path, save_last=True), max_epochs=1)
    server.got.clear()
    saver = ModelCheckpoint(tmp_path, save_last=True)
    fit(Scored(0.4, 0.2), Notifier(server.url, "score"), saver, ckpt_path=tmp_path / "last.ckpt")
    assert [text for text in texts(server) if "best" in text] == ["Scored has its best score 0.2000 at step 6"]


def refuses(text: str) -> None:
    raise OSError(f"cannot send {text}")


@pytest.mark.parametrize("how", ["a status of 500", "no server", "a function that raises"])
def test_what_cannot_be_sent_is_reported_once_and_changes_nothing(how: str, server: Server) -> None:
    expected = fit(Scored(0.1, 0.9, 0.8, 0.7))
    server.status = 500
    to = refuses if how == "a function that raises" else {"no server": "http://127.0.0.1:1/"}.get(how, server.url)
    with pytest.warns(UserWarning, match="Notifier could not send everything: .*Error") as caught:
        ended = fit(Scored(0.1, 0.9, 0.8, 0.7), Notifier(to, "score"))
    assert len(caught) == 1
    assert torch.equal(ended, expected)


def test_a_server_that_never_answers_is_not_waited_for(server: Server) -> None:
    server.silent = True
    with pytest.warns(UserWarning, match="Notifier could not send everything"):
        fit(Scored(0.1, 0.9, 0.8, 0.7), Notifier(server.url, "score", timeout_s=0.01))
    hangs = threading.Event()
    with pytest.warns(UserWarning, match="it takes too long"):
        fit(Scored(0.1, 0.9, 0.8, 0.7), Notifier(lambda text: hangs.wait(), "score", timeout_s=0.01))
    hangs.set()
