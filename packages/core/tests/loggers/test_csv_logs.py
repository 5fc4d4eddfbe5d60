from __future__ import annotations

import errno
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from leyden.loggers import CSVLogger
from leyden.rank_zero import rank_zero_only


def text(logger: CSVLogger, name: str = "metrics.csv") -> str:
    return Path(logger.log_dir, name).read_text()


def test_folders(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    assert (logger.name, logger.version) == ("leyden_logs", 0)
    assert logger.save_dir == str(tmp_path)
    assert logger.root_dir == str(tmp_path / "leyden_logs")
    assert logger.log_dir == str(tmp_path / "leyden_logs" / "version_0")
    assert not list(tmp_path.iterdir()), "nothing is made before something is written"


@pytest.mark.parametrize("name", ["", None])
def test_without_a_name_versions_stand_in_save_dir(tmp_path: Path, name: str | None) -> None:
    assert CSVLogger(tmp_path, name=name, version="mine").log_dir == str(tmp_path / "mine")


def test_the_next_free_version_is_chosen_once(tmp_path: Path) -> None:
    for folder in ("version_3", "version_12", "version_x", "other_99"):
        (tmp_path / "a" / folder).mkdir(parents=True)
    (tmp_path / "a" / "version_40").touch()
    first = CSVLogger(tmp_path, "a")
    assert first.version == 13
    first.log_metrics({"x": 1.0}, 0)
    first.save()
    assert (first.version, CSVLogger(tmp_path, "a").version) == (13, 14)


def test_columns_grow(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"loss": 0.5, "epoch": 0}, step=1)
    logger.save()
    assert text(logger) == "step,epoch,loss\n1,0,0.5\n"
    logger.log_metrics({"acc": 0.25}, step=2)
    logger.log_metrics({"loss": 0.125}, step=3)
    logger.save()
    assert text(logger) == "step,epoch,loss,acc\n1,0,0.5,\n2,,,0.25\n3,,0.125,\n"
    assert {path.name for path in Path(logger.log_dir).iterdir()} == {"metrics.csv"}


def test_names_may_hold_anything(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({'a,b "c"/dataloader_idx_0': 1.0}, step=0)
    logger.save()
    logger.log_metrics({"d\ne": 2.0}, step=1)
    logger.save()
    assert text(logger) == 'step,"a,b ""c""/dataloader_idx_0","d\ne"\n0,1.0,\n1,,2.0\n'


@pytest.mark.parametrize(("every", "written"), [(1, 10), (3, 9), (5, 10), (100, 0)])
def test_rows_are_held_back_for_so_many_steps(tmp_path: Path, every: int, written: int) -> None:
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=every)
    for step in range(10):
        logger.log_metrics({"x": float(step)}, step=step)
    path = Path(logger.log_dir, "metrics.csv")
    assert (len(path.read_text().splitlines()) - 1 if path.exists() else 0) == written
    logger.finalize("success")
    assert len(path.read_text().splitlines()) == 11


def test_memory_is_flat(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=10)
    held = set()
    for step in range(0, 2000, 7):
        logger.log_metrics({"x": 1.0}, step=step)
        held.add(len(logger._rows))
    assert max(held) < 10


def test_a_run_that_goes_on_continues_the_file(tmp_path: Path) -> None:
    for step in range(2):
        logger = CSVLogger(tmp_path, version=0)
        logger.log_metrics({"x": 1.0} if step == 0 else {"y": 2.0}, step=step)
        logger.save()
    assert text(logger) == "step,x,y\n0,1.0,\n1,,2.0\n"


def test_without_a_step_rows_are_numbered(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    for _ in range(2):
        logger.log_metrics({"x": 1.0})
    logger.save()
    assert text(logger) == "step,x\n0,1.0\n1,1.0\n"


def test_a_prefix_goes_before_metrics(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path, prefix="run")
    logger.log_metrics({"x": 1.0}, 0)
    logger.save()
    assert text(logger).startswith("step,run-x\n")


def test_special_values(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"a": float("nan"), "b": float("inf"), "c": 1e-30, "d": 1 / 3}, 0)
    logger.save()
    assert text(logger).splitlines()[1] == "0,nan,inf,1e-30,0.3333333333333333"


@pytest.mark.parametrize("params", [{"lr": 0.1}, Namespace(lr=0.1)])
def test_hyperparameters(tmp_path: Path, params: Any) -> None:
    logger = CSVLogger(tmp_path)
    logger.log_hyperparams(params)
    logger.log_hyperparams({"act": torch.nn.ReLU()})
    assert text(logger, "hparams.yaml") == 'lr: 0.1\nact: "ReLU()"\n'
    assert not Path(logger.log_dir, "metrics.csv").exists()


def test_only_the_first_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    logger.log_metrics({"x": 1.0}, 5)
    logger.log_hyperparams({"lr": 0.1})
    logger.finalize("success")
    assert not list(tmp_path.iterdir())


def test_the_experiment_is_the_logger_itself(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    assert logger.experiment is logger


def test_flushing_needs_a_number(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="flush_logs_every_n_steps=0"):
        CSVLogger(tmp_path, flush_logs_every_n_steps=0)


def test_rows_that_a_full_disk_refuses_are_held_on_and_no_checkpoint_is_lost_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = CSVLogger(tmp_path, name="run", version=0)
    logger.log_metrics({"loss": 1.0}, step=0)
    logger.save()
    path, write, room = Path(logger.log_dir, "metrics.csv"), os.write, [3]
    before = path.read_bytes()

    def write_what_there_is_room_for(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = write(file, data[: room[0]])
        room[0] -= done
        return done

    monkeypatch.setattr(os, "write", write_what_there_is_room_for)
    logger.log_metrics({"loss": 0.5}, step=1)
    with pytest.raises(OSError, match=r"CSVLogger cannot write to .*version_0: No space left on device\. Make room"):
        logger.save()
    room[0] = 3
    with pytest.warns(UserWarning, match=r"saved without the 1 latest row\(s\) of metrics: .*No space left"):
        assert logger.state_dict()["rows"] == 1
    assert path.read_bytes() == before  # no part of a row
    room[0] = 1000
    assert logger.state_dict()["rows"] == 2
    assert path.read_text() == "step,loss\n0,1.0\n1,0.5\n"
