"""What killed runs leave is removed; what is another's, or still being written, never is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from leyden.state import temporaries
from leyden.state.storage import save, tidy
from leyden.state.temporaries import make_temporary, make_temporary_folder, temporary_name


def test_what_is_being_written_stays_until_its_writer_is_gone() -> None:
    os.mkdir("folder")
    descriptor, path = make_temporary(Path("folder/b.ckpt"))
    save({}, "folder/a.ckpt")
    assert path.exists()
    os.close(descriptor)  # as the end of its process does
    save({}, "folder/a.ckpt")
    assert os.listdir("folder") == ["a.ckpt"]


def test_so_does_a_folder_that_several_processes_write() -> None:
    os.mkdir("folder")
    descriptor, path = make_temporary_folder(Path("folder/b.ckpt"))
    (path / "part").touch()
    save({}, "folder/a.ckpt")
    assert os.listdir(path) == ["part"]
    os.close(descriptor)
    save({}, "folder/a.ckpt")
    assert os.listdir("folder") == ["a.ckpt"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
def test_a_living_process_keeps_its_file_and_a_killed_one_does_not() -> None:
    program = Path(__file__).with_name("faulty_saves.py")
    done = subprocess.run([sys.executable, str(program), "living"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [2, 1]


def test_names_that_are_not_ours_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir("folder")
    own = temporary_name("a.ckpt")
    with monkeypatch.context() as patch:
        patch.setattr(temporaries, "_host", lambda: "0badcafe")
        of_another_host = temporary_name("a.ckpt")
    others = [of_another_host, own[1:], own + "x", ".a.ckpt.abcdefgh.tmp", "a.tmp", "notes.txt"]
    for name in others:
        Path("folder", name).touch()
    before = os.listdir("folder")
    Path("folder", own).touch()
    Path("folder", temporary_name("link")).symlink_to("notes.txt")
    save({}, "folder/a.ckpt")
    assert sorted(os.listdir("folder")) == sorted([*before, "a.ckpt"])


@pytest.mark.parametrize("name", ["m" * 255, "é" * 127, "模" * 85, ".", "a\nb"])
def test_a_name_fits_whatever_the_target_is_called(name: str) -> None:
    made = temporary_name(name)
    assert len(os.fsencode(made)) < 200
    assert temporaries._OWN.fullmatch(made)
    assert made != temporary_name(name)
    save({}, f"folder/{name}x"[:-1] if name != "." else "folder/a")
    assert len(os.listdir("folder")) == 1


def test_a_file_taken_for_abandoned_before_it_was_locked_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    really, made = os.open, []

    def open_and_lose_the_first(path: Path, flags: int, mode: int) -> int:
        descriptor = really(path, flags, mode)
        made.append(path)
        if len(made) == 1:
            os.unlink(path)
        return descriptor

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", open_and_lose_the_first)
        descriptor, path = make_temporary(Path("a.ckpt"))
    os.close(descriptor)
    assert made == [made[0], path]
    assert path.exists()


def test_without_locks_nothing_is_removed_and_saves_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir("folder")
    left = Path("folder", temporary_name("a.ckpt"))
    left.touch()
    monkeypatch.setattr(temporaries, "fcntl", None)
    save({}, "folder/a.ckpt")
    assert sorted(os.listdir("folder")) == sorted([left.name, "a.ckpt"])


def test_a_folder_is_tidied_before_anything_is_saved_there() -> None:
    os.mkdir("folder")
    Path("folder", temporary_name("a.ckpt")).touch()
    Path("folder", temporary_name("last.ckpt")).symlink_to("a.ckpt")
    Path("folder", "a.ckpt").touch()
    tidy("folder")
    assert os.listdir("folder") == ["a.ckpt"]
    tidy("nowhere")
    assert not os.path.exists("nowhere")
