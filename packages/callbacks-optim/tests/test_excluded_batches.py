"""The file of batches that are left out: read, added to, never half written."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from leyden.errors import MisconfigurationException
from leyden_optim.excluded_batches import add_batches, batches_of_epoch, read_batches


def test_no_file_names_no_batches(tmp_path: Path) -> None:
    assert read_batches(tmp_path / "none.json") == []


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "run" / "skip.json"
    add_batches(path, [{"epoch": 0, "batch": 3, "loss": 9.5}])
    add_batches(path, [{"epoch": 1, "batch": 4, "loss": "nan"}, {"epoch": 1, "batch": 5}])
    assert read_batches(path) == json.loads(path.read_text())
    assert [sorted(batches_of_epoch(read_batches(path), epoch)) for epoch in range(3)] == [[3], [4, 5], []]
    assert os.listdir(path.parent) == ["skip.json"]


def test_the_list_of_lightning_names_batches_of_each_epoch(tmp_path: Path) -> None:
    path = tmp_path / "skip_batches.json"
    path.write_text("[\n    7,\n    8\n]")
    add_batches(path, [{"epoch": 1, "batch": 3}])
    assert [sorted(batches_of_epoch(read_batches(path), epoch)) for epoch in (0, 1)] == [[7, 8], [3, 7, 8]]


@pytest.mark.parametrize("text", ["", "{", "3", "{}", "[-1]", "[true]", '["3"]', '[{"epoch": 1}]', '[{"batch": 1.5}]',
                                  '[{"batch": 1, "epoch": "all"}]', "\xff"])  # fmt: skip
def test_another_kind_of_file_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "skip.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(MisconfigurationException, match=r"skip.json' is no list of batches \(.*mend or remove this"):
        read_batches(path)
    with pytest.raises(MisconfigurationException):
        add_batches(path, [])
    assert path.read_text(encoding="latin-1") == text


def test_a_disk_that_is_full_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "skip.json"
    add_batches(path, [{"epoch": 0, "batch": 3}])
    before = path.read_bytes()

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        add_batches(path, [{"epoch": 0, "batch": 4}])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["skip.json"]


def test_the_file_and_then_its_name_are_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, fsync, replace = [], os.fsync, os.replace

    def noticed_fsync(descriptor: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noticed_replace(source: Path, target: Path) -> None:
        seen.append("rename")
        replace(source, target)

    add_batches(tmp_path / "skip.json", [3])
    monkeypatch.setattr(os, "fsync", noticed_fsync)
    monkeypatch.setattr(os, "replace", noticed_replace)
    add_batches(tmp_path / "skip.json", [4])
    assert (seen, read_batches(tmp_path / "skip.json")) == (["file", "rename", "folder"], [3, 4])
