"""The file system: which of two files is newer, and removal of files and links."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leyden_checkpoint import files


def test_files_and_links_are_removed_and_a_links_target_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    for name in ("file", "link", "gone already"):
        files.remove(str(tmp_path / name))
    assert os.listdir(tmp_path) == ["target"]


def test_a_folder_of_that_name_is_nothing_that_a_run_wrote(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").mkdir()
    (tmp_path / "a.ckpt" / "part").write_text("x")
    files.write_text("memory://files/a.ckpt/part", "x")
    for path in (str(tmp_path / "a.ckpt"), "memory://files/a.ckpt"):
        with pytest.raises(OSError, match=r"a\.ckpt"):
            files.remove(path)
        assert files.exists(files.join(path, "part"))


def test_the_newer_of_two_files(tmp_path: Path) -> None:
    older, newer, link = (str(tmp_path / name) for name in ("older", "newer", "link"))
    for at, path in enumerate((older, newer)):
        Path(path).touch()
        os.utime(path, (at, at))
    os.symlink("older", link)
    assert files.is_newer(newer, older)
    assert not files.is_newer(older, newer)
    assert not files.is_newer("nowhere", older)
    assert files.is_newer(older, older)
    assert files.is_newer(f"file://{older}", link)  # what it leads to is the same
    os.unlink(older)
    assert files.is_newer(link, newer)  # by its own time
    for name in ("1", "2"):
        files.write_text(f"memory://times/{name}", "x")
    assert files.is_newer("memory://times/2", "memory://times/1")
    assert not files.is_newer("memory://times/1", "memory://times/2")
    assert not files.is_newer("memory://times/none", "memory://times/2")


def test_a_link_that_leads_nowhere_still_takes_its_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert files.exists(str(tmp_path / "link"))


def test_folders_are_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert files.absolute("~/runs") == "/home/someone/runs"
    assert files.absolute(Path("here")) == os.path.join(os.getcwd(), "here")
    assert files.absolute("file:///runs/1") == "/runs/1"
    assert files.absolute("memory://runs/1/") == "memory://runs/1"


def test_at_a_url_names_are_joined_and_taken_apart_by_slashes() -> None:
    assert files.join("memory://runs", "a.ckpt") == "memory://runs/a.ckpt"
    assert files.name_in("memory://runs/a.ckpt") == "a.ckpt"
    assert (files.join("runs", "a.ckpt"), files.name_in("runs/a.ckpt")) == (os.path.join("runs", "a.ckpt"), "a.ckpt")


def test_at_a_url_files_are_written_found_and_removed() -> None:
    files.write_text("memory://files/deep/a.yaml", "a: 1")
    assert files.exists("memory://files/deep/a.yaml")
    files.remove("memory://files/deep/a.yaml")
    files.remove("memory://files/gone already")
    assert not files.exists("memory://files/deep/a.yaml")


def test_a_store_that_refuses_to_remove_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

    def refuse(*args: object, **named: object) -> None:
        raise RuntimeError("access denied")

    files.write_text("memory://refused/a", "a")
    monkeypatch.setattr(MemoryFileSystem, "rm", refuse)
    with pytest.raises(OSError, match=r"'memory://refused/a' cannot be removed \(RuntimeError: access denied\)"):
        files.remove("memory://refused/a")
