"""The file system: links that replace what was there, removal of files, links and folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leyden_checkpoint import files


def test_a_link_is_relative_and_replaces_file_link_and_folder(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_text("a")
    (tmp_path / "b.ckpt").write_text("b")
    last = tmp_path / "last.ckpt"
    for target in ("a", "b", "a"):
        files.link(str(tmp_path / f"{target}.ckpt"), str(last))
        assert (os.readlink(last), last.read_text()) == (f"{target}.ckpt", target)
    last.unlink()
    last.write_text("a file")
    files.link(str(tmp_path / "b.ckpt"), str(last))
    assert os.readlink(last) == "b.ckpt"
    last.unlink()
    last.mkdir()
    files.link(str(tmp_path / "b.ckpt"), str(last))
    assert os.readlink(last) == "b.ckpt"
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "b.ckpt", "last.ckpt"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_where_there_are_no_links_a_copy_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_folder: bool
) -> None:
    def refuse(*args: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "symlink", refuse)
    target = tmp_path / "a.ckpt"
    content = target / "part" if is_folder else target
    if is_folder:
        target.mkdir()
    content.write_text("a")
    files.link(str(target), str(tmp_path / "last.ckpt"))
    copied = tmp_path / "last.ckpt" / "part" if is_folder else tmp_path / "last.ckpt"
    assert not os.path.islink(tmp_path / "last.ckpt")
    assert copied.read_text() == "a"


def test_files_links_and_folders_are_removed_and_a_links_target_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "part").write_text("x")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    for name in ("file", "folder", "link", "gone already"):
        files.remove(str(tmp_path / name))
    assert os.listdir(tmp_path) == ["target"]


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


def test_at_a_url_files_and_folders_are_written_found_and_removed() -> None:
    files.write_text("memory://files/deep/a.yaml", "a: 1")
    assert files.exists("memory://files/deep/a.yaml")
    files.remove("memory://files/deep/a.yaml")
    files.remove("memory://files/gone already")
    assert not files.exists("memory://files/deep/a.yaml")
    files.write_text("memory://files/folder/part", "x")
    files.remove("memory://files/folder")
    assert not files.exists("memory://files/folder/part")


def test_a_store_that_refuses_to_remove_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]

    def refuse(*args: object, **named: object) -> None:
        raise RuntimeError("access denied")

    files.write_text("memory://refused/a", "a")
    monkeypatch.setattr(MemoryFileSystem, "rm", refuse)
    with pytest.raises(OSError, match=r"'memory://refused/a' cannot be removed \(RuntimeError: access denied\)"):
        files.remove("memory://refused/a")
