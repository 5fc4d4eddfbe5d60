"""What TensorBoardLogger writes, read by TensorBoard's own reader of event files."""

from __future__ import annotations

import copy
import csv
import math
import os
import pickle
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata
from torch import Tensor, nn
from torch.utils.data import DataLoader

import leyden.loggers
from leyden import LightningModule, MisconfigurationException, Trainer
from leyden.loggers import CSVLogger
from leyden.rank_zero import rank_zero_only
from leyden.testing import BoringModule
from leyden_monitoring import TensorBoardLogger

Points = list[tuple[int, float]]


def read(folder: str | Path) -> EventAccumulator:
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0, "images": 0})
    return reader.Reload()


def scalars(folder: str | Path) -> dict[str, Points]:
    """Every point of a run by its tag, with the bits that a point keeps."""
    reader = read(folder)
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def hparams(folder: str | Path) -> tuple[dict[str, Any], list[str], list[str], int | None]:
    """The values of a run, the names and the metrics that have a column, and how it ended."""
    reader = read(folder)
    found = {tag: reader.SummaryMetadata(tag).plugin_data.content for tag in reader.Tags()["tensors"]}
    start = metadata.parse_session_start_info_plugin_data(found[metadata.SESSION_START_INFO_TAG]).hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    end = found.get(metadata.SESSION_END_INFO_TAG)
    status = None if end is None else metadata.parse_session_end_info_plugin_data(end).status
    if metadata.EXPERIMENT_TAG not in found:
        return values, [], [], status
    experiment = metadata.parse_experiment_plugin_data(found[metadata.EXPERIMENT_TAG])
    columns = [info.name for info in experiment.hparam_infos]
    return values, columns, [info.name.tag for info in experiment.metric_infos], status


SUCCESS, FAILURE = 1, 2


class Net(LightningModule):
    """Logs by step and by epoch, in training and validation."""

    def __init__(self, lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self(batch).pow(2).mean()
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("val", self(batch).mean())

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        self.log("test", self(batch).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr)


def loader() -> DataLoader[Any]:
    return DataLoader(torch.linspace(-1, 1, 32).view(8, 4), batch_size=2)  # type: ignore[arg-type]


def fit(logger: Any, module: LightningModule | None = None, **settings: Any) -> Trainer:
    torch.manual_seed(1)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=settings.pop("max_epochs", 2),
        log_every_n_steps=1,
        logger=logger,
        enable_checkpointing=False,
        discover_callbacks=False,
        **settings,
    )
    trainer.fit(module or Net(), loader(), loader())
    return trainer


# -- where ----------------------------------------------------------------------------------------------------------


def test_folders(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    assert (logger.name, logger.version, logger.sub_dir) == ("leyden_logs", 0, None)
    assert (logger.save_dir, logger.root_dir) == (str(tmp_path), str(tmp_path / "leyden_logs"))
    assert logger.log_dir == str(tmp_path / "leyden_logs" / "version_0")
    assert not list(tmp_path.iterdir()), "nothing is made before something is written"


def test_a_sub_dir_stands_in_the_folder_of_the_version(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name=None, version="mine", sub_dir="train")
    assert (logger.log_dir, logger.sub_dir) == (str(tmp_path / "mine" / "train"), "train")
    logger.log_metrics({"x": 1.0}, 0)
    logger.save()
    assert scalars(tmp_path / "mine" / "train") == {"x": [(0, 1.0)]}


def test_each_logger_takes_the_next_version(tmp_path: Path) -> None:
    loggers = [TensorBoardLogger(tmp_path, "a") for _ in range(3)]
    for logger in loggers:
        logger.log_metrics({"x": 1.0}, 0)
    assert [logger.version for logger in loggers] == [0, 1, 2]


def test_the_front_of_loggers_has_it() -> None:
    assert leyden.loggers.TensorBoardLogger is TensorBoardLogger


# -- scalars --------------------------------------------------------------------------------------------------------


def test_beside_a_csv_logger_it_writes_the_same(tmp_path: Path) -> None:
    table, board = CSVLogger(tmp_path, "table"), TensorBoardLogger(tmp_path, "board")
    fit([table, board], val_check_interval=2, accumulate_grad_batches=2)
    expected: dict[str, Points] = {"hp_metric": [(0, -1.0)]}
    with Path(table.log_dir, "metrics.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                point = (int(row["step"]), float(np.float32(text or "nan")))
                if name != "step" and text and point not in expected.setdefault(name, []):
                    expected[name].append(point)
    assert scalars(board.log_dir) == expected
    assert set(expected) == {"hp_metric", "epoch", "loss_step", "loss_epoch", "val"}


def test_a_group_of_metrics_is_one_event(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"a": 1, "b": torch.tensor([2.0]), "c": np.float64(3)}, step=7)
    logger.save()
    (file,) = Path(logger.log_dir).iterdir()
    events = [event for event in EventFileLoader(str(file)).Load() if event.HasField("summary")]
    assert [(event.step, [value.tag for value in event.summary.value]) for event in events] == [(7, ["a", "b", "c"])]


def test_the_epoch_is_written_once_a_step(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    for epoch, step in ((0, 0), (0, 1), (0, 1), (1, 1), (1, 2)):
        logger.log_metrics({"epoch": epoch}, step)
    logger.save()
    assert scalars(logger.log_dir) == {"epoch": [(0, 0.0), (1, 0.0), (1, 1.0), (2, 1.0)]}


def test_without_a_step_it_is_the_next_one(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"x": 1.0})
    logger.log_metrics({"x": 2.0}, step=5)
    logger.log_metrics({"x": 3.0})
    logger.save()
    assert scalars(logger.log_dir) == {"x": [(0, 1.0), (5, 2.0), (6, 3.0)]}


def test_a_prefix_goes_before_metrics(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, prefix="run")
    logger.log_hyperparams({"lr": 0.1}, {"acc": 0.5})
    logger.log_metrics({"x": 1.0}, 0)
    logger.save()
    assert scalars(logger.log_dir) == {"run-acc": [(0, 0.5)], "run-x": [(0, 1.0)]}
    assert hparams(logger.log_dir)[:3] == ({"lr": 0.1}, ["lr"], ["run-acc"])


def test_values_that_are_not_finite(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"nan": math.nan, "inf": math.inf, "large": 1e300, "small": -math.inf}, 3)
    logger.save()
    found = scalars(logger.log_dir)
    assert math.isnan(found.pop("nan")[0][1])
    assert found == {"inf": [(3, math.inf)], "large": [(3, math.inf)], "small": [(3, -math.inf)]}


def test_a_tensorboard_beside_the_training_has_the_points_of_finished_epochs(tmp_path: Path) -> None:
    class Watched(Net):
        def on_train_epoch_start(self) -> None:
            folder = self.logger.log_dir  # type: ignore[union-attr]
            watched.append([step for step, _ in scalars(str(folder)).get("loss_epoch", [])])

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 0:
                folder = self.logger.log_dir  # type: ignore[union-attr]
                watched.append([step for step, _ in scalars(str(folder)).get("val", [])])

    watched: list[list[int]] = []
    fit(TensorBoardLogger(tmp_path, flush_secs=1000, max_queue=1000), Watched(), max_epochs=3)
    assert watched == [[], [], [3], [3], [3, 7], [3, 7]]


def test_a_dict_of_numbers_is_a_chart_of_lines(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"loss": {"train": 1.0, "val": 2.0}, "x": 3.0}, 4)
    logger.save()
    assert scalars(logger.log_dir) == {"x": [(4, 3.0)]}
    assert scalars(Path(logger.log_dir, "loss_val")) == {"loss": [(4, 2.0)]}


@pytest.mark.parametrize("value", ["high", "1.0", torch.ones(2), None, object(), 10**400])
def test_what_is_no_number_is_an_error_that_names_it(tmp_path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"the metric 'x' is .*expected a number.*experiment\.add_text"):
        TensorBoardLogger(tmp_path).log_metrics({"x": value}, 0)


def test_histograms_images_and_text_by_the_experiment(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.experiment.add_histogram("weights", torch.arange(10.0), 3)
    logger.experiment.add_image("picture", torch.zeros(3, 4, 5), 4)
    logger.experiment.add_text("note", "hello", 5)
    logger.save()
    reader = read(logger.log_dir)
    assert [(event.step, event.histogram_value.num) for event in reader.Histograms("weights")] == [(3, 10.0)]
    assert [(event.step, event.height, event.width) for event in reader.Images("picture")] == [(4, 4, 5)]
    assert [event.step for event in reader.Tensors("note/text_summary")] == [5]


# -- hyperparameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [dict, Namespace])
def test_hyperparameters_of_every_kind(tmp_path: Path, kind: Any) -> None:
    params = {
        "lr": 0.1,
        "layers": [8, 2],
        "net": {"bias": True, "act": nn.ReLU(), "inner": {"deep": "x"}, "empty": {}},
        "seed": None,
        "clip": math.inf,
        "momentum": torch.tensor(0.5),
        "size": np.int64(3),
        "key": 10**400,
        "file\udcff": os.fsdecode(b"\xff.csv"),
    }
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams(kind(**params), {"acc": 0.5, "loss": torch.tensor(2.0)}, step=9)
    logger.finalize("success")
    values = {
        **{"lr": 0.1, "layers": "[8, 2]", "net/bias": True, "net/act": "ReLU()", "net/inner/deep": "x"},
        **{"net/empty": "{}", "seed": "None", "clip": "inf", "momentum": 0.5, "size": 3.0},
        **{"key": str(10**400), "file\\udcff": "\\udcff.csv"},
    }
    assert hparams(logger.log_dir) == (values, list(values), ["acc", "loss"], SUCCESS)
    assert scalars(logger.log_dir) == {"acc": [(9, 0.5)], "loss": [(9, 2.0)]}
    saved = yaml.safe_load(Path(logger.log_dir, "hparams.yaml").read_text())
    assert (saved["layers"], saved["net"]["inner"], saved["clip"]) == ([8, 2], {"deep": "x"}, math.inf)


def test_a_run_lists_its_hyperparameters_with_a_placeholder(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(logger)
    assert hparams(logger.log_dir) == ({"lr": 0.1}, ["lr"], ["hp_metric"], SUCCESS)
    assert scalars(logger.log_dir)["hp_metric"] == [(0, -1.0)]


def test_without_the_placeholder_every_scalar_is_a_metric(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    fit(logger)
    assert hparams(logger.log_dir) == ({"lr": 0.1}, [], [], SUCCESS)
    assert "hp_metric" not in scalars(logger.log_dir)


def test_without_hyperparameters_there_is_no_placeholder(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(logger, BoringModule(), limit_val_batches=0)
    assert set(scalars(logger.log_dir)) == {"train_loss", "epoch"}
    assert Path(logger.log_dir, "hparams.yaml").read_text() == "{}\n"


def test_metrics_given_on_train_start_take_the_place_of_the_placeholder(tmp_path: Path) -> None:
    class Listed(Net):
        def on_train_start(self) -> None:
            self.logger.log_hyperparams(self.hparams, {"hp/val": 0.0})  # type: ignore[union-attr]

        def on_validation_epoch_end(self) -> None:
            self.log("hp/val", 1.0)

    logger = TensorBoardLogger(tmp_path)
    fit(logger, Listed())
    assert hparams(logger.log_dir) == ({"lr": 0.1}, ["lr"], ["hp/val"], SUCCESS)
    assert scalars(logger.log_dir)["hp/val"] == [(0, 0.0), (3, 1.0), (7, 1.0)]


def test_metrics_that_come_too_late_are_scalars_and_it_is_said(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit(logger)
    with pytest.warns(UserWarning, match=r"with hp_metric by now, so that acc will be among the scalars only"):
        logger.log_hyperparams({"lr": 0.1}, {"acc": 0.5})
    logger.save()
    assert scalars(logger.log_dir)["acc"] == [(7, 0.5)]


def test_without_the_placeholder_metrics_may_come_at_the_end(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, default_hp_metric=False)
    trainer = fit(logger)
    (result,) = trainer.validate(trainer.lightning_module, loader(), verbose=False)
    logger.log_hyperparams({}, result)
    logger.save()
    assert hparams(logger.log_dir) == ({"lr": 0.1}, ["lr"], ["val"], SUCCESS)
    steps = [step for step, _ in scalars(logger.log_dir)["val"]]
    assert steps == [3, 7, 8, 8], "a step back would be taken for a restart, and the curve before it left out"


def test_one_number_is_the_metric(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_hyperparams({"lr": 0.1}, 0.75)
    logger.log_hyperparams({"lr": 0.1}, 0.75)
    logger.log_hyperparams({"lr": 0.1}, 0.5, step=3)
    logger.save()
    assert hparams(logger.log_dir) == ({"lr": 0.1}, ["lr"], ["hp_metric"], None)
    assert scalars(logger.log_dir) == {"hp_metric": [(0, 0.75), (3, 0.5)]}


def test_a_run_that_fails_is_listed_as_failed(tmp_path: Path) -> None:
    class Failing(Net):
        def on_train_epoch_end(self) -> None:
            raise RuntimeError("stop")

    logger = TensorBoardLogger(tmp_path)
    with pytest.raises(RuntimeError, match="stop"):
        fit(logger, Failing())
    assert hparams(logger.log_dir)[3] == FAILURE
    assert [step for step, _ in scalars(logger.log_dir)["loss_step"]] == [0, 1, 2, 3]


# -- graph ----------------------------------------------------------------------------------------------------------


def nodes(folder: str) -> set[str]:
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    graph = read(folder).Graph()
    assert isinstance(graph, GraphDef)
    return {node.name for node in graph.node}


class Drawn(Net):
    """With an example, a layer kept in evaluation mode and one that draws random numbers in that mode too."""

    example: Any = torch.ones(3, 4)

    def __init__(self) -> None:
        super().__init__()
        self.example_input_array = self.example
        self.frozen = nn.BatchNorm1d(4).eval().requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(self.frozen(x) + torch.rand(()))
        return y


def test_the_graph_is_recorded_and_the_training_is_what_it_was(tmp_path: Path) -> None:
    plain, logger = TensorBoardLogger(tmp_path, "without"), TensorBoardLogger(tmp_path, "with", log_graph=True)
    torch.manual_seed(2)
    fit(plain, first := Drawn())
    torch.manual_seed(2)
    fit(logger, second := Drawn())
    scopes = {name.rpartition("/")[0] for name in nodes(logger.log_dir)}
    assert {"Drawn/Sequential[net]/Linear[0]/weight", "Drawn/BatchNorm1d[frozen]", "input"} <= scopes
    assert read(plain.log_dir).Tags()["graph"] is False
    assert all(torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
    assert [part.training for part in second.modules()] == [part.training for part in first.modules()]
    assert scalars(logger.log_dir) == scalars(plain.log_dir)


def test_drawing_leaves_no_trace_in_the_module(tmp_path: Path) -> None:
    class Counts(nn.Linear):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x)

    module = Counts(4, 2)
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    logger.log_graph(module, torch.ones(3, 4))
    logger.save()
    assert module.calls == 0
    assert "Counts/weight/weight" in nodes(logger.log_dir)


@pytest.mark.parametrize("example", [(torch.ones(3, 4),), {"x": torch.ones(3, 4)}])
def test_an_example_may_be_a_tuple_or_a_dict(tmp_path: Path, example: Any) -> None:
    module = Drawn()
    module.example_input_array = example
    fit(logger := TensorBoardLogger(tmp_path, log_graph=True), module, max_epochs=1)
    assert "input/x" in nodes(logger.log_dir)


@pytest.mark.parametrize("precision", ["64-true", "bf16-true", "bf16-mixed"])
def test_the_graph_under_other_precisions(tmp_path: Path, precision: str) -> None:
    fit(logger := TensorBoardLogger(tmp_path, log_graph=True), Drawn(), precision=precision, max_epochs=1)
    assert "input/x" in nodes(logger.log_dir)


def test_any_module_may_be_drawn(tmp_path: Path) -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"sum": x + y}

    for number, example in enumerate([(torch.ones(2), torch.ones(2)), {"x": torch.ones(2), "y": torch.ones(2)}]):
        logger = TensorBoardLogger(tmp_path, version=number, log_graph=True)
        logger.log_graph(Pair(), example)
        logger.save()
        assert {"input/x", "input/y"} <= nodes(logger.log_dir)


def test_the_graph_is_recorded_once(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    trainer = fit(logger, Drawn(), max_epochs=1)
    trainer.fit(Drawn(), loader())
    graphs = [event for file in Path(logger.log_dir).glob("*tfevents*") for event in EventFileLoader(str(file)).Load()]
    assert sum(event.HasField("graph_def") for event in graphs) == 1


class Untraceable(Drawn):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not here")

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss: Tensor = self.net(batch).mean()
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Nothing that calls `forward`."""


class Lazy(Drawn):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.more(x))


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (Net, "give Net an example_input_array"),
        (Untraceable, r"graph of Untraceable is not in TensorBoard.*ValueError: not here"),
    ],
)
def test_a_graph_that_cannot_be_had_is_a_warning(tmp_path: Path, kind: Any, match: str) -> None:
    with pytest.warns(UserWarning, match=match):
        fit(logger := TensorBoardLogger(tmp_path, log_graph=True), kind(), max_epochs=1)
    assert read(logger.log_dir).Tags()["graph"] is False


def test_lazy_layers_are_left_to_the_first_batch(tmp_path: Path) -> None:
    module = Lazy()
    with pytest.warns(UserWarning, match="Lazy has lazy parameters"):
        TensorBoardLogger(tmp_path, log_graph=True).log_graph(module)
    assert module.more.has_uninitialized_params()


# -- processes, copies, ends ----------------------------------------------------------------------------------------


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = TensorBoardLogger(tmp_path, log_graph=True)
    fit(logger, Drawn())
    logger.experiment.add_histogram("weights", torch.zeros(3), 0)
    logger.log_hyperparams({"lr": 0.1}, {"acc": 1.0})
    logger.load_state_dict(logger.state_dict())
    assert logger.state_dict() == {}
    assert not list(tmp_path.iterdir())


def test_fast_dev_run_writes_nothing(tmp_path: Path) -> None:
    fit(TensorBoardLogger(tmp_path), fast_dev_run=True)
    assert not list(tmp_path.iterdir())


def test_logging_before_and_after_a_training_and_between_closings(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"before": 1.0}, 0)
    trainer = fit(logger)
    trainer.test(trainer.lightning_module, loader(), verbose=False)
    logger.experiment.close()
    logger.log_metrics({"after": 2.0}, 8)
    logger.finalize("success")
    found = scalars(logger.log_dir)
    assert (found["before"], found["after"], len(found["test"])) == ([(0, 1.0)], [(8, 2.0)], 1)
    assert [step for step, _ in found["loss_step"]] == list(range(8))


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda logger: pickle.loads(pickle.dumps(logger))])
def test_a_copy_writes_to_the_same_folder(tmp_path: Path, make_copy: Any) -> None:
    logger = TensorBoardLogger(tmp_path)
    logger.log_metrics({"x": 1.0}, 0)
    other = make_copy(logger)
    other.log_metrics({"x": 2.0}, 1)
    for one in (logger, other):
        one.finalize("success")
    assert scalars(logger.log_dir) == {"x": [(0, 1.0), (1, 2.0)]}


def test_a_program_that_just_ends_has_written_everything(tmp_path: Path) -> None:
    code = """
import sys
from leyden_monitoring import TensorBoardLogger
logger = TensorBoardLogger(sys.argv[1], flush_secs=1000, max_queue=1000)
for step in range(100):
    logger.log_metrics({"x": float(step)}, step)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code, tmp_path], check=True)
    assert scalars(tmp_path / "leyden_logs" / "version_0") == {"x": [(step, float(step)) for step in range(100)]}


def test_what_is_not_used_is_not_imported(tmp_path: Path) -> None:
    code = """
import sys
import leyden, leyden.loggers, leyden_monitoring
from leyden.loggers import TensorBoardLogger
trainer = leyden.Trainer(logger=TensorBoardLogger(sys.argv[1], log_graph=True), accelerator="cpu")
print(*(name for name in sys.modules if name.split(".")[0] in ("tensorboard", "google") or "tensorboard" in name))
"""
    done = subprocess.run([sys.executable, "-c", code, tmp_path], check=True, capture_output=True, text=True)
    ours = {f"leyden_monitoring.tensorboard_{name}" for name in ("arguments", "logger", "files", "hparams")}
    path_of_lightning = "leyden.loggers.tensorboard"  # a name for what is there anyhow
    assert set(done.stdout.split()) == {*ours, path_of_lightning}


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"save_dir": 3}, "save_dir=3.*expected a folder of this machine"),
        ({"save_dir": "s3://bucket/logs"}, "save_dir='s3://bucket/logs'.*sync it to a store"),
        ({"name": 3}, "name=3.*expected a string, or None"),
        ({"version": -1}, "version=-1.*expected a number from 0"),
        ({"version": True, "prefix": None}, r"(?s)version=True.*prefix=None.*expected a string"),
        ({"sub_dir": 4}, "sub_dir=4.*expected a folder's name"),
        ({"flush_sec": 4}, r"flush_sec=4\): there is no such argument.*Did you mean 'flush_secs'"),
        ({"log_dir": "x"}, r"log_dir='x'\): there is no such argument, here or of SummaryWriter"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(MisconfigurationException, match=match):
        TensorBoardLogger(**{"save_dir": tmp_path, **arguments})


def test_the_writer_gets_its_arguments(tmp_path: Path) -> None:
    writer = TensorBoardLogger(tmp_path, flush_secs=7, max_queue=3, filename_suffix=".mine").experiment
    assert (writer.flush_secs, writer.max_queue, writer.filename_suffix) == (7, 3, ".mine")


def test_without_tensorboard_the_error_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboard"):
        TensorBoardLogger(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"TensorBoardLogger cannot write to .*file/leyden_logs/version_0.*Not a dir"
    ) as e:
        fit(TensorBoardLogger(tmp_path / "file"))
    assert isinstance(e.value, NotADirectoryError)


FULL_DISK = """
import resource, sys, threading
import torch
from leyden import Trainer
from leyden.loggers import TensorBoardLogger
from leyden.testing import BoringModule

threading.excepthook = lambda args: print("thread:", args.exc_type.__name__)
class Module(BoringModule):
    def on_train_epoch_end(self):
        if self.current_epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.RLIM_INFINITY))
        for n in range(20):
            self.logger.log_metrics({"x": n}, n)

trainer = Trainer(accelerator="cpu", max_epochs=9, logger=TensorBoardLogger(sys.argv[1]), discover_callbacks=False)
try:
    trainer.fit(Module())
except OSError as error:
    print("raised:", error)
"""


def test_a_full_disk_stops_the_training_with_the_folder(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], check=True, capture_output=True, text=True)
    assert f"TensorBoardLogger cannot write to {tmp_path}/leyden_logs/version_0" in done.stdout, done.stderr
    assert "File too large. Make room or" in done.stdout
