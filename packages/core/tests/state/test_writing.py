"""Wherever a save ends, the old checkpoint or the new one is whole; what refused it is said with path and bytes."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden.state.storage import CheckpointWriteError, link, load, save
from leyden.state.writing import stream

OLD = {"old": torch.arange(300.0)}
NEW = {"new": torch.arange(500.0)}


def run(*arguments: str) -> Any:
    program = Path(__file__).with_name("faulty_saves.py")
    done = subprocess.run(
        [sys.executable, str(program), *arguments], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


STEPS = ["scandir", "open", "flock", "write", "fsync", "replace", "close"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
@pytest.mark.parametrize(
    ("how", "operations"),
    [("old", STEPS), ("nothing", ["mkdir", *STEPS]), ("copy", STEPS), ("link", ["scandir", "symlink", "replace"])],
)
def test_killed_at_any_operation_the_file_is_the_old_or_the_new_one(how: str, operations: list[str]) -> None:
    seen = run("kills", how)
    last = ["", "new", "0->0"]
    assert last in seen
    half = seen.index(last) + 1
    before = "nothing" if how == "nothing" else "old"
    for part in (seen[:half], seen[half:]) if before == "old" else (seen,):
        states = [state for _, state, _ in part]
        changed = states.index("new")
        assert set(states[:changed]) == {before}
        assert set(states[changed:]) == {"new"}
        assert part[changed - 1][0] == "replace"  # killed before the rename, and next after it
        assert {operation for operation, _, _ in part} >= set(operations)
        assert part[-1][0] == ""
    assert how == "link" or [operation for operation, _, _ in seen].count("write") >= 3
    # Each of those killed while writing left a file, which the next save removed.
    assert {left for operation, _, left in seen if operation in ("write", "replace")} <= {"1->0", "0->0"}
    assert all(left.endswith("->0") for _, _, left in seen)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
@pytest.mark.parametrize("how", ["old", "nothing", "copy", "link"])
def test_a_power_cut_takes_nothing_and_no_operation_goes_unwatched(how: str) -> None:
    """The faults above come at the operations that are watched: these are all, and they write all of the file."""
    seen = run("told", how)
    assert seen["lost"] == []
    assert seen["others"] == []
    written = sum(count for name, _, count in seen["operations"] if name == "write")
    assert written == (0 if how == "link" else os.path.getsize("folder/a.ckpt"))
    flushed = [path for name, path, _ in seen["operations"] if name == "fsync"]
    made = [] if how != "nothing" else ["."]  # the folder is new: its name is in the one above
    assert [path for path in flushed if not path.endswith(".tmp")] == [*made, "folder"]
    assert len(flushed) == len(made) + (1 if how == "link" else 2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs forks")
def test_limits_of_the_system_are_said_and_the_old_file_stays() -> None:
    seen = run("limits")
    for count, said in seen["cut"].items():
        start = f"{errno.EFBIG} [Errno {errno.EFBIG}] cannot write 'folder/a.ckpt' (File too large): it needs"
        assert said.startswith(f"{start} {seen['whole']:,} bytes (0.00 GiB), free there: "), count
    assert seen["not cut"] == "new"
    start = f"{errno.EACCES} [Errno {errno.EACCES}] cannot write 'folder/a.ckpt' (Permission denied)"
    assert seen["unwritable"].startswith(start)
    assert f"needs {seen['whole']:,} bytes" in seen["unwritable"]
    assert seen["left"] == ["a.ckpt"]


@settings(max_examples=40, deadline=None)
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_disk_that_is_full_at_any_byte_leaves_the_old_file(part: float) -> None:
    save(NEW, "whole/a.ckpt")
    whole = os.path.getsize("whole/a.ckpt")
    save(OLD, "folder/a.ckpt")
    really_write, room = os.write, [int(whole * part)]

    def write(descriptor: int, data: memoryview) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = really_write(descriptor, data[: room[0]])
        room[0] -= done
        return done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(CheckpointWriteError) as raised:
            save(NEW, "folder/a.ckpt")
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, "folder/a.ckpt")
    numbers = [int(text.replace(",", "")) for text in re.findall(r"([\d,]+) bytes", str(raised.value))]
    assert numbers[0] == whole
    assert numbers[1] > 0
    assert os.listdir("folder") == ["a.ckpt"]
    assert repr(load("folder/a.ckpt")) == repr(OLD)


@pytest.mark.parametrize("operation", ["open", "write", "fsync", "replace", "scandir"])
def test_an_operation_that_fails_leaves_the_old_file(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(OLD, "folder/a.ckpt")

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, fail)
        if operation == "scandir":  # tidying up is no reason to fail
            save(OLD, "folder/a.ckpt")
        else:
            with pytest.raises(CheckpointWriteError, match=r"'folder/a\.ckpt' \(Input/output error\): it needs "):
                save(NEW, "folder/a.ckpt")
    assert os.listdir("folder") == ["a.ckpt"]
    assert repr(load("folder/a.ckpt")) == repr(OLD)


def test_closing_a_file_that_is_flushed_cannot_fail_a_save(monkeypatch: pytest.MonkeyPatch) -> None:
    really_close = os.close

    def close(descriptor: int) -> None:
        really_close(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", close)
        save(NEW, "folder/a.ckpt")
    assert repr(load("folder/a.ckpt")) == repr(NEW)


@pytest.mark.parametrize("operation", ["symlink", "replace"])
def test_a_link_that_cannot_be_made_leaves_the_old_file(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    save(NEW, "folder/new.ckpt")
    save(OLD, "folder/a.ckpt")

    def fail(*args: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(os, operation, fail)
        with pytest.raises(OSError, match="Operation not permitted"):
            link("folder/new.ckpt", "folder/a.ckpt")
    assert sorted(os.listdir("folder")) == ["a.ckpt", "new.ckpt"]
    assert repr(load("folder/a.ckpt")) == repr(OLD)
    for url in ("memory://new.ckpt", "memory://folder/a.ckpt"):
        with pytest.raises(OSError, match="cannot be a link"):
            link("folder/new.ckpt", url)


def test_a_link_is_relative_and_replaces_file_and_link_but_no_folder() -> None:
    for name, content in (("new", NEW), ("old", OLD), ("link", OLD)):
        save(content, f"folder/{name}.ckpt")
    os.mkdir("folder/other.ckpt")
    for name, content in (("new", NEW), ("old", OLD), ("new", NEW)):
        link(f"folder/{name}.ckpt", "folder/link.ckpt")
        assert os.readlink("folder/link.ckpt") == f"{name}.ckpt"
        assert repr(load("folder/link.ckpt")) == repr(content)
    with pytest.raises(OSError, match="other"):
        link("folder/new.ckpt", "folder/other.ckpt")
    assert sorted(os.listdir("folder")) == ["link.ckpt", "new.ckpt", "old.ckpt", "other.ckpt"]


def test_a_link_that_another_save_took_for_abandoned_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    save(NEW, "folder/new.ckpt")
    really_replace, made = os.replace, list[str]()

    def replace(source: Path, target: Path) -> None:
        made.append(str(source))
        if len(made) == 1:
            save(OLD, "folder/a.ckpt")
            assert not os.path.lexists(source)
        really_replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        link("folder/new.ckpt", "folder/link.ckpt")
    assert repr(load("folder/link.ckpt")) == repr(NEW)
    assert sorted(os.listdir("folder")) == ["a.ckpt", "link.ckpt", "new.ckpt"]


def test_a_folder_that_cannot_be_flushed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, really = [0], os.fsync

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise OSError(errno.EINVAL, "Invalid argument")
        really(descriptor)

    os.mkdir("folder")
    monkeypatch.setattr(os, "fsync", fsync)
    save(NEW, "folder/a.ckpt")
    assert calls == [2]
    assert repr(load("folder/a.ckpt")) == repr(NEW)


def test_an_interrupt_leaves_the_old_file_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    save(OLD, "folder/a.ckpt")

    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(NEW, "folder/a.ckpt")
    assert os.listdir("folder") == ["a.ckpt"]
    assert repr(load("folder/a.ckpt")) == repr(OLD)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_within_torchs_writer_comes_out_as_one(kind: type[BaseException]) -> None:
    """The writer, which cannot be closed after it, has an error of its own."""
    tensors = [torch.zeros(2**15) for _ in range(3)]
    pieces: list[int] = []
    stream(tensors, lambda view: pieces.append(view.nbytes))
    for cut in range(len(pieces)):
        left = iter(range(cut))

        def write(view: memoryview, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise kind

        with pytest.raises(kind):
            stream(tensors, write)


def test_a_target_that_is_a_folder_is_refused() -> None:
    os.makedirs("folder/a.ckpt/inside")
    with pytest.raises(CheckpointWriteError, match="it is a folder; name a file") as raised:
        save(NEW, "folder/a.ckpt")
    assert raised.value.errno == errno.EISDIR
    assert os.listdir("folder") == ["a.ckpt"]
    assert os.listdir("folder/a.ckpt") == ["inside"]


def test_a_folder_that_is_a_file_is_refused() -> None:
    Path("file").write_text("text")
    with pytest.raises(CheckpointWriteError, match=r"'file/a\.ckpt'"):
        save(NEW, "file/a.ckpt")
    with pytest.raises(CheckpointWriteError, match=r"'file/b/a\.ckpt'"):
        save(NEW, "file/b/a.ckpt")
    assert Path("file").read_text() == "text"


def test_what_cannot_be_pickled_is_not_what_an_unwritable_folder_is_blamed_for() -> None:
    Path("file").write_text("text")
    with pytest.raises(CheckpointWriteError, match="it needs an unknown number of bytes"):
        save({"cannot": lambda: None}, "file/a.ckpt")


@pytest.mark.parametrize("leads_to", ["b.ckpt", "nowhere", "other"])
def test_a_link_is_replaced_and_what_it_leads_to_stays(leads_to: str) -> None:
    save(OLD, "folder/b.ckpt")
    os.mkdir("folder/other")
    os.symlink(leads_to, "folder/a.ckpt")
    save(NEW, "folder/a.ckpt")
    assert not os.path.islink("folder/a.ckpt")
    assert repr(load("folder/a.ckpt")) == repr(NEW)
    assert repr(load("folder/b.ckpt")) == repr(OLD)
    assert sorted(os.listdir("folder")) == ["a.ckpt", "b.ckpt", "other"]


def test_saves_at_once_to_one_name_leave_one_whole_file() -> None:
    def saves() -> None:
        for _ in range(10):
            save(NEW, "folder/a.ckpt")

    threads = [Thread(target=saves) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.listdir("folder") == ["a.ckpt"]
    assert repr(load("folder/a.ckpt")) == repr(NEW)


def test_the_error_is_an_oserror_that_can_be_pickled_into_another_process() -> None:
    import pickle

    error = CheckpointWriteError(errno.ENOSPC, "why", "a.ckpt")
    copied = pickle.loads(pickle.dumps(error))
    assert isinstance(copied, OSError)
    assert (copied.errno, copied.strerror, copied.filename) == (errno.ENOSPC, "why", "a.ckpt")


def test_a_second_file_of_the_same_is_a_copy_of_the_first() -> None:
    save(NEW, "folder/a.ckpt")
    save(NEW, "folder/last.ckpt", "folder/a.ckpt")
    assert Path("folder/last.ckpt").read_bytes() == Path("folder/a.ckpt").read_bytes()
    assert sorted(os.listdir("folder")) == ["a.ckpt", "last.ckpt"]
    save(OLD, "folder/other.ckpt", "folder/gone.ckpt")  # nothing to copy: it is written
    assert repr(load("folder/other.ckpt")) == repr(OLD)


@pytest.mark.parametrize("room_bytes", [0, 700])
def test_a_disk_that_is_full_while_copying_leaves_the_old_file(
    room_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(NEW, "folder/a.ckpt")
    save(OLD, "folder/last.ckpt")
    whole, really_write = os.path.getsize("folder/a.ckpt"), os.write
    room = [room_bytes]

    def write(descriptor: int, data: memoryview) -> int:
        if room[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = really_write(descriptor, data[: room[0]])
        room[0] -= done
        return done

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(CheckpointWriteError, match=rf"it needs {whole:,} bytes"):
            save(NEW, "folder/last.ckpt", "folder/a.ckpt")
    assert sorted(os.listdir("folder")) == ["a.ckpt", "last.ckpt"]
    assert repr(load("folder/last.ckpt")) == repr(OLD)


def test_headers_and_small_tensors_are_written_together(monkeypatch: pytest.MonkeyPatch) -> None:
    written, really_write = list[int](), os.write

    def write(descriptor: int, data: memoryview) -> int:
        written.append(data.nbytes)
        return really_write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        save({"small": [torch.ones(3) * i for i in range(20)], "large": torch.ones(100_000)}, "folder/a.ckpt")
    assert len(written) == 3  # what comes before the large tensor, the tensor, what comes behind
    assert written[1] == 400_000
    assert sum(written) == os.path.getsize("folder/a.ckpt")
