"""What TensorBoardLogger writes, read by TensorBoard's own reader of event files."""

from __future__ import annotations

import copy
import csv
import math
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard_runs import Drawn, Net, Points, fit, hparams, loader, read, scalars

import leyden.loggers
from leyden import MisconfigurationException
from leyden.loggers import CSVLogger
from leyden.rank_zero import rank_zero_only
from leyden_monitoring import TensorBoardLogger

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
