"""The real TensorBoard on what real runs wrote: what its server answers, and what its page shows in a browser."""

from __future__ import annotations

import io
import json
import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from leyden import Callback, LightningModule, Trainer
from leyden.loggers import Logger
from leyden_monitoring import TensorBoardLogger

PAGES = runpy.run_path(str(Path(__file__).parents[3] / "docs" / "pictures_tensorboard.py"))
"""What draws the pictures of the documentation starts the server and the browser here too."""

EVERYTHING = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


class Net(LightningModule):
    """Logs scalars by step and by epoch, hyperparameters with a metric, a histogram and an image; can be drawn."""

    def __init__(self, rate: float = 0.1, sizes: tuple[int, ...] = (4, 1), clip: float = float("nan")) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(nn.Linear(4, sizes[0]), nn.Dropout(0.5), nn.Linear(sizes[0], sizes[1]))
        self.example_input_array = torch.ones(2, 4)
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y

    def on_train_start(self) -> None:
        self.logger.log_hyperparams(self.hparams, {"hp/val": 0.0})  # type: ignore[union-attr]

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self(batch).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val/mean", self(batch).mean())

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log("hp/val", self.trainer.callback_metrics["val/mean"] + 1)
            writer = self.logger.experiment  # type: ignore[union-attr]
            writer.add_histogram("weights", torch.arange(100.0), self.global_step)
            writer.add_image("stripes", stripes(self.global_step), self.global_step)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.rate)


def stripes(step: int) -> Tensor:
    """A picture that tells its step."""
    picture = torch.zeros(3, 8, 12)
    picture[0, :, :step] = 1
    return picture


class Listener(Logger):
    """Hears what the run tells its loggers."""

    name, version = "listener", 0

    def __init__(self) -> None:
        self.points: dict[str, list[tuple[int, float]]] = {"hp/val": [(0, 0.0)]}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            point = (int(step or 0), float(np.float32(value)))
            if point not in self.points.setdefault(name, []):
                self.points[name].append(point)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...


class SaveThenCut(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 5:
            trainer.save_checkpoint(self.path)
        if trainer.global_step == 7:
            raise KeyboardInterrupt


def train(loggers: list[Logger], callbacks: list[Callback], ckpt_path: Path | None = None) -> None:
    torch.manual_seed(1)
    data = torch.linspace(-1, 1, 32).view(8, 4)
    train_data: DataLoader[Any] = DataLoader(data, batch_size=2)  # type: ignore[arg-type]
    val_data: DataLoader[Any] = DataLoader(data, batch_size=4)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=3,
        log_every_n_steps=1,
        logger=loggers,
        callbacks=callbacks,
        enable_checkpointing=False,
        discover_callbacks=False,
    )
    trainer.fit(Net(), train_data, val_data, ckpt_path=ckpt_path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Listener]:
    """Two runs that are the same: "straight", and "resumed", which was cut in its second epoch."""
    folder, listener = tmp_path_factory.mktemp("runs"), Listener()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train([TensorBoardLogger(folder, "", "straight", log_graph=True), listener], [])
        path = folder / "cut.ckpt"
        with pytest.raises(KeyboardInterrupt):
            train([TensorBoardLogger(folder, "", "resumed", log_graph=True)], [SaveThenCut(path)])
        train([TensorBoardLogger(folder, "", "resumed", log_graph=True)], [], path)
    return folder, listener


class Server:
    """What the page asks the server."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, body: Any = None, **query: Any) -> bytes:
        request = Request(
            f"{self.address}data/{path}?{urlencode(query)}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def get(self, path: str, body: Any = None, **query: Any) -> Any:
        return json.loads(self.ask(path, body, **query))


OPTIONS = {
    "fast": ["--load_fast", "true"],  # its reader in Rust, which is the default
    "plain": ["--load_fast", "false", "--reload_task", "blocking", "--reload_interval", "0"],  # its reader in Python
}


def last_steps(server: Server) -> dict[str, int]:
    """The last step of `loss_epoch` in each run that has one."""
    runs = [run for run, tags in server.get("plugin/scalars/tags").items() if "loss_epoch" in tags]
    points = {run: server.get("plugin/scalars/scalars", run=run, tag="loss_epoch") for run in runs}
    return {run: points[run][-1][1] for run in runs if points[run]}


@pytest.fixture(scope="module", params=OPTIONS)
def server(request: pytest.FixtureRequest, runs: tuple[Path, Listener]) -> Iterator[Server]:
    with PAGES["serve"](runs[0], *OPTIONS[request.param]) as address:
        server = Server(address)
        # The fast reader goes on while the server answers: it is done when it has what was written last.
        assert any(last_steps(server) == {"straight": 11, "resumed": 11} for _ in range(2000))
        yield server


@pytest.mark.parametrize("run", ["straight", "resumed"])
def test_scalars_have_the_steps_and_values_that_were_logged(
    server: Server, runs: tuple[Path, Listener], run: str
) -> None:
    tags = server.get("plugin/scalars/tags")
    assert set(tags) == {"straight", "resumed"}
    assert set(tags[run]) == {"loss_step", "loss_epoch", "val/mean", "hp/val", "epoch"}
    for tag in tags[run]:
        points = server.get("plugin/scalars/scalars", run=run, tag=tag)
        assert [(step, value) for _, step, value in points] == runs[1].points[tag], tag
    steps = [step for _, step, _ in server.get("plugin/scalars/scalars", run=run, tag="loss_step")]
    assert steps == list(range(12)), "no step is missing, none is there twice"


@pytest.mark.parametrize("run", ["straight", "resumed"])
def test_hyperparameters_are_listed_with_their_metric(server: Server, runs: tuple[Path, Listener], run: str) -> None:
    experiment = server.get("plugin/hparams/experiment", {"experimentName": ""})
    kinds = {info["name"]: info["type"] for info in experiment["hparamInfos"]}
    assert kinds == {"rate": "DATA_TYPE_FLOAT64", "sizes": "DATA_TYPE_STRING", "clip": "DATA_TYPE_STRING"}
    assert [info["name"]["tag"] for info in experiment["metricInfos"]] == ["hp/val"]
    question = {"experimentName": "", "allowedStatuses": EVERYTHING, "startIndex": 0, "sliceSize": 9, "colParams": []}
    groups = server.get("plugin/hparams/session_groups", question)["sessionGroups"]
    (group,) = (group for group in groups if group["name"] == run)
    assert group["hparams"] == {"rate": 0.1, "sizes": "(4, 1)", "clip": "nan"}
    (metric,) = group["metricValues"]
    assert (metric["name"]["tag"], metric["trainingStep"]) == ("hp/val", 11)
    assert metric["value"] == pytest.approx(runs[1].points["hp/val"][-1][1])
    assert [session["status"] for session in group["sessions"]] == ["STATUS_SUCCESS"]


@pytest.mark.parametrize("run", ["straight", "resumed"])
def test_the_histogram_is_the_one_of_each_step(server: Server, run: str) -> None:
    assert list(server.get("plugin/histograms/tags")[run]) == ["weights"]
    points = server.get("plugin/histograms/histograms", run=run, tag="weights")
    assert [step for _, step, _ in points] == [4, 8, 12]
    for _, _, bins in points:
        assert sum(count for _, _, count in bins) == pytest.approx(100)
        assert min(left for left, _, _ in bins) == pytest.approx(0, abs=4)
        assert max(right for _, right, _ in bins) == pytest.approx(99, abs=4)


@pytest.mark.parametrize("run", ["straight", "resumed"])
def test_the_image_is_the_one_of_each_step(server: Server, run: str) -> None:
    from PIL import Image

    assert list(server.get("plugin/images/tags")[run]) == ["stripes"]
    entries = server.get("plugin/images/images", run=run, tag="stripes", sample=0)
    assert [entry["step"] for entry in entries] == [4, 8, 12]
    for entry in entries:
        with urlopen(f"{server.address}data/plugin/images/individualImage?{entry['query']}", timeout=60) as answer:
            picture = np.asarray(Image.open(io.BytesIO(answer.read())))
        expected = (stripes(entry["step"]).permute(1, 2, 0) * 255).byte().numpy()
        assert np.array_equal(picture, expected), entry["step"]


@pytest.mark.parametrize("run", ["straight", "resumed"])
def test_the_graph_is_that_of_the_module(server: Server, run: str) -> None:
    assert server.get("plugin/graphs/info")[run]["run_graph"] is True
    text = server.ask("plugin/graphs/graph", run=run).decode()
    for part in ("Net/Sequential[net]/Linear[0]/", "Net/Sequential[net]/Linear[2]/", "input/x", "output/output.1"):
        assert f'name: "{part}' in text


# -- in a browser ---------------------------------------------------------------------------------------------------

NO_BROWSER = "no Chromium with its driver here: apt-get install chromium chromium-driver"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if PAGES["find_browser"]() is None:
        pytest.skip(NO_BROWSER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        patch.setenv("HOME", os.fspath(tmp_path_factory.mktemp("home")))
        with PAGES["browse"]() as driver:
            yield driver


@pytest.mark.parametrize("server", ["fast"], indirect=True)
def test_the_page_shows_the_runs(server: Server, browser: Any) -> None:
    """Curves, the image, the graph and the table of hyperparameters, each on its dashboard."""

    def shown(page: str, *texts: str) -> list[str]:
        found: list[str] = PAGES["open_page"](browser, server.address, page, set(texts).issubset)
        return found

    shown("timeseries", "loss_step", "loss_epoch", "val", "epoch", "hp", "weights", "stripes", "straight", "resumed")
    assert "TensorBoard" in browser.title
    shown("timeseries?tagFilter=loss_", "loss_step", "loss_epoch", "straight", "resumed", "2 cards")
    PAGES["wait"](browser, PAGES["has_curves"])
    shown("images", "stripes", "straight", "resumed")
    shown("graphs", "Net", "input", "output")
    table = shown("hparams", "rate", "sizes", "clip", "hp/val", "straight", "resumed", "0.10000", "(4, 1)", "nan")
    assert "Number of matching session groups: 2" in table
