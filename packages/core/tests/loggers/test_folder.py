"""The folder that loggers write to, and how a resumed run finds it again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from leyden.loggers.folder import FolderLogger, replace_text


class Least(FolderLogger):
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None: ...


def test_the_folder_is_made_when_it_is_written_to(tmp_path: Path) -> None:
    logger = Least(tmp_path, "a", 3)
    assert logger.log_dir == str(tmp_path / "a" / "version_3")
    logger.log_hyperparams({"lr": 0.1})
    assert not list(tmp_path.iterdir())
    logger.save_hparams()
    assert Path(logger.log_dir, "hparams.yaml").read_text() == "lr: 0.1\n"
    assert [path.name for path in Path(logger.log_dir).iterdir()] == ["hparams.yaml"]


def test_the_home_folder_may_be_written_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Least("~/runs", "a", 0).log_dir == str(tmp_path / "runs" / "a" / "version_0")


def test_a_file_in_the_way_is_an_error_when_the_folder_is_made(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    logger = Least(tmp_path, "a")
    assert logger.version == 0
    with pytest.raises(NotADirectoryError):
        logger.make_folder()


@pytest.mark.parametrize(
    ("other", "taken"),
    [
        ({}, True),
        ({"version": 1}, True),
        ({"version": 2}, False),
        ({"version": "1"}, False),
        ({"name": "b"}, False),
        ({"save_dir": "elsewhere"}, False),
    ],
)
def test_a_resumed_run_takes_the_folder_it_had(tmp_path: Path, other: dict[str, Any], taken: bool) -> None:
    (tmp_path / "a" / "version_0").mkdir(parents=True)
    place = Least(tmp_path, "a").place()
    assert place == {"root_dir": str(tmp_path / "a"), "version": 1}
    (tmp_path / "a" / "version_1").mkdir()
    logger = Least(**{"save_dir": os.path.relpath(tmp_path), "name": "a"} | other)
    assert logger.take_place(place) is taken
    assert (logger.version == 1) is taken


def test_text_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for text in ("long text", "short"):
        replace_text(tmp_path / "a.txt", text)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "short"}
