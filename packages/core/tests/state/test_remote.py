"""URLs: whole or absent there too, read once, checked like files; fsspec is imported for them alone."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import fsspec  # type: ignore[import-untyped]
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem  # type: ignore[import-untyped]
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem  # type: ignore[import-untyped]

from leyden import MisconfigurationException
from leyden.state import remote, storage
from leyden.state.storage import CheckpointWriteError, exists, load, save, tidy, verify
from leyden.state.temporaries import temporary_name

OLD, NEW = {"old": torch.arange(300.0)}, {"new": torch.arange(5_000_000.0)}


class Upload(AbstractBufferedFile):  # type: ignore[misc]
    """An object of a store: it appears when its last part was sent, as those of S3 do."""

    def _initiate_upload(self) -> None:
        self.parts = BytesIO()

    def _upload_chunk(self, final: bool = False) -> bool:
        if self.fs.room is not None and self.parts.tell() + self.buffer.tell() > self.fs.room:
            raise ConnectionError("the store is gone")
        self.parts.write(self.buffer.getvalue())
        if final:
            self.fs.objects[self.path] = (self.parts.getvalue(), datetime.now(UTC))
        return True

    def discard(self) -> None:
        self.fs.discarded.append(self.path)


class ObjectStore(AbstractFileSystem):  # type: ignore[misc]
    """A store without folders or renames."""

    protocol = "oss"
    objects: ClassVar[dict[str, tuple[bytes, datetime]]] = {}
    discarded: ClassVar[list[str]] = []
    room: int | None = None

    def _open(self, path: str, mode: str = "rb", **settings: Any) -> Any:
        if mode == "wb":
            return Upload(self, path, mode, block_size=1 << 20)
        if path not in self.objects:
            raise FileNotFoundError(path)
        return BytesIO(self.objects[path][0])

    def ls(self, path: str, detail: bool = True, **settings: Any) -> list[Any]:
        found = [
            {"name": name, "size": len(data), "type": "file", "LastModified": at}
            for name, (data, at) in self.objects.items()
            if name == path or name.startswith(path.rstrip("/") + "/")
        ]
        if not found:
            raise FileNotFoundError(path)
        return found if detail else [each["name"] for each in found]

    def info(self, path: str, **settings: Any) -> dict[str, Any]:
        found = [each for each in self.ls(path) if each["name"] == path]
        return found[0] if found else {"name": path, "size": 0, "type": "directory"}

    def mv(self, *args: Any, **settings: Any) -> None:
        raise AssertionError("a rename would be a copy")


@pytest.fixture(autouse=True)
def _empty_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    fsspec.register_implementation("oss", ObjectStore, clobber=True)
    for cls, name, value in (
        (MemoryFileSystem, "store", {}),
        (MemoryFileSystem, "pseudo_dirs", [""]),
        (ObjectStore, "objects", {}),
        (ObjectStore, "discarded", []),
        (ObjectStore, "room", None),
    ):
        monkeypatch.setattr(cls, name, value)
    yield
    fsspec.filesystem("oss").clear_instance_cache()


def there() -> list[str]:
    return sorted([*MemoryFileSystem.store, *ObjectStore.objects])


@pytest.mark.parametrize("url", ["memory://runs/1/a.ckpt", "oss://bucket/a.ckpt"])
def test_what_was_saved_is_there_whole_and_alone(url: str) -> None:
    assert not exists(url)
    for content in (OLD, NEW):
        save(content, url)
        assert repr(load(url)) == repr(content)
        verify(url)
    assert exists(url)
    assert len(there()) == 1


def test_an_upload_that_fails_leaves_the_old_object() -> None:
    save(OLD, "oss://bucket/a.ckpt")
    ObjectStore.room = 3 << 20
    needs = r"cannot write 'oss://bucket/a\.ckpt' \(ConnectionError: the store is gone\): it needs 20,00\d,\d{3} bytes"
    with pytest.raises(CheckpointWriteError, match=needs) as raised:
        save(NEW, "oss://bucket/a.ckpt")
    assert (raised.value.errno, raised.value.filename) == (errno.EIO, "oss://bucket/a.ckpt")
    assert ObjectStore.discarded == ["bucket/a.ckpt"]
    ObjectStore.room = None
    assert repr(load("oss://bucket/a.ckpt")) == repr(OLD)


@pytest.mark.parametrize("url", ["memory://runs/a.ckpt", "oss://bucket/a.ckpt"])
def test_what_cannot_be_pickled_is_its_own_error_and_leaves_the_old_object(url: str) -> None:
    save(OLD, url)
    with pytest.raises((AttributeError, TypeError), match="pickle"):
        save({"tensor": NEW, "cannot": lambda: None}, url)
    assert repr(load(url)) == repr(OLD)
    assert len(there()) == 1


def test_a_rename_that_fails_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    save(OLD, "memory://runs/a.ckpt")

    def fail(*args: Any, **settings: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(MemoryFileSystem, "mv", fail)
    with pytest.raises(CheckpointWriteError, match=r"\(Permission denied\): it needs [\d,]+ bytes"):
        save(NEW, "memory://runs/a.ckpt")
    assert there() == ["/runs/a.ckpt"]
    assert repr(load("memory://runs/a.ckpt")) == repr(OLD)


def test_file_urls_are_files(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/folder/a.ckpt"
    save(OLD, url)
    assert os.listdir("folder") == ["a.ckpt"]
    assert exists(url)
    assert repr(load(url)) == repr(load("folder/a.ckpt")) == repr(OLD)
    verify(url)


def test_what_is_read_is_checked() -> None:
    save(OLD, "memory://a.ckpt")
    MemoryFileSystem.store["/b.ckpt"] = MemoryFileSystem.store["/a.ckpt"]
    file = MemoryFileSystem.store["/b.ckpt"]
    file.seek(file.getvalue().index(torch.tensor(299.0).numpy().tobytes()))
    file.write(b"\1")
    for read in (load, verify):
        with pytest.raises(MisconfigurationException, match=r"'memory://b\.ckpt' is no whole checkpoint \(.*CRC-32"):
            read("memory://b.ckpt")


@pytest.mark.parametrize("url", ["memory://runs/none.ckpt", "oss://bucket/none.ckpt"])
def test_what_is_missing_or_a_folder_is_said(url: str) -> None:
    save(OLD, url.replace("none", "a"))
    with pytest.raises(FileNotFoundError, match=f"'{url}': there is no such file"):
        load(url)
    folder = url.rpartition("/")[0]
    with pytest.raises(MisconfigurationException, match=f"'{folder}' is a folder"):
        load(folder)
    with pytest.raises(CheckpointWriteError, match="it is a folder; name a file"):
        save(OLD, folder)


@pytest.mark.parametrize("act", [load, verify, exists, lambda url: save({}, url)])
def test_a_kind_of_url_that_nothing_knows_is_said(act: Any) -> None:
    with pytest.raises((MisconfigurationException, CheckpointWriteError), match=r"nosuch://a\.ckpt.*[Pp]rotocol"):
        act("nosuch://a.ckpt")


def test_checkpoints_come_with_the_time_they_were_written() -> None:
    before = datetime.now(UTC).timestamp()
    for url in ("memory://runs/x/1.ckpt", "memory://runs/2.ckpt", "oss://bucket/3.ckpt"):
        save(OLD, url)
    fsspec.filesystem("memory").pipe("/runs/notes.txt", b"text")
    dated = remote.checkpoints("memory://runs") + remote.checkpoints("oss://bucket")
    found = [url for url, _ in sorted(dated, key=lambda each: each[1])]
    assert found == ["memory://runs/x/1.ckpt", "memory://runs/2.ckpt", "oss://bucket/3.ckpt"]
    assert all(before <= at <= datetime.now(UTC).timestamp() for _, at in dated)
    assert remote.checkpoints("memory://nowhere") == []


def test_temporary_files_that_nobody_wrote_to_for_a_day_are_removed() -> None:
    left, slow, other = f"/runs/{temporary_name('a.ckpt')}", f"/runs/{temporary_name('b.ckpt')}", "/runs/c.tmp"
    memory = fsspec.filesystem("memory")
    for name in (left, slow, other, "/runs/a.ckpt"):
        memory.pipe(name, b"bytes")
        if name != slow:
            memory.store[name].modified -= timedelta(days=2)
            memory.store[name].created -= timedelta(days=2)
    tidy("memory://runs")
    assert there() == sorted([slow, other, "/runs/a.ckpt"])
    tidy("memory://nowhere")
    tidy("nosuch://runs")


def test_a_rename_that_a_kill_prevented_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an object appears while it is written, it appears under another name."""
    save(OLD, "memory://runs/a.ckpt")
    seen = []

    def killed(*args: Any, **settings: Any) -> None:
        seen.append(repr(load("memory://runs/a.ckpt")))
        raise KeyboardInterrupt

    monkeypatch.setattr(MemoryFileSystem, "mv", killed)
    with pytest.raises(KeyboardInterrupt):
        save(NEW, "memory://runs/a.ckpt")
    assert seen == [repr(OLD)]
    assert there() == ["/runs/a.ckpt"]


def test_a_file_imports_no_fsspec() -> None:
    program = "import sys; from leyden.state import storage; storage.save({}, 'a.ckpt'); storage.load('a.ckpt')"
    done = subprocess.run(
        [sys.executable, "-c", program + "; print('fsspec' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
    assert storage.exists("a.ckpt")
