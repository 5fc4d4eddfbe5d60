"""Files are whole or as they were; what is read runs nothing and says in one error what is wrong with it."""

from __future__ import annotations

import os
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden import MisconfigurationException
from leyden.state.storage import load, save


class FailsToPickle:
    def __reduce__(self) -> Any:
        raise OSError("the disk is full")


class RunsCode:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harm",)


def test_what_was_saved_is_loaded() -> None:
    saved = {"tensor": torch.arange(3.0), "path": Path("a/b"), "array": np.arange(3), "nested": [{"x": (1, None)}]}
    save(saved, "runs/1/a.ckpt")
    loaded = load("runs/1/a.ckpt")
    assert torch.equal(loaded["tensor"], saved["tensor"])  # type: ignore[arg-type]
    assert np.array_equal(loaded["array"], saved["array"])  # type: ignore[arg-type]
    assert (loaded["path"], loaded["nested"]) == (saved["path"], saved["nested"])


@pytest.mark.parametrize("before", [None, {"old": 1}])
def test_a_save_that_fails_leaves_what_was_there_and_no_other_file(before: Any) -> None:
    if before is not None:
        save(before, "folder/a.ckpt")
    with pytest.raises(OSError, match="the disk is full"):
        save({"first": torch.zeros(1000), "then": FailsToPickle()}, "folder/a.ckpt")
    assert os.listdir("folder") == ([] if before is None else ["a.ckpt"])
    assert before is None or load("folder/a.ckpt") == before


def test_a_save_over_an_older_file_replaces_it_at_once() -> None:
    save({"old": 1}, "a.ckpt")
    with open("a.ckpt", "rb") as held:  # a reader that is at it keeps the file it opened
        save({"new": 2}, "a.ckpt")
        assert torch.load(held) == {"old": 1}
    assert load("a.ckpt") == {"new": 2}


def test_a_file_has_the_rights_that_any_new_file_has() -> None:
    Path("plain").touch()
    save({}, "a.ckpt")
    assert stat.S_IMODE(os.stat("a.ckpt").st_mode) == stat.S_IMODE(os.stat("plain").st_mode)


def test_a_name_as_long_as_the_file_system_takes_can_be_written() -> None:
    name = "m" * 250 + ".ckpt"
    save({"a": 1}, name)
    assert load(name) == {"a": 1}


def write_malicious(path: str, as_zip: bool) -> None:
    if as_zip:
        torch.save({"state_dict": RunsCode()}, path)
    else:
        Path(path).write_bytes(pickle.dumps(RunsCode()))


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(as_zip: bool) -> None:
    write_malicious("a.ckpt", as_zip)
    with pytest.raises(MisconfigurationException, match=r"'a\.ckpt' holds (posix\.mkdir|objects)") as raised:
        load("a.ckpt")
    assert not Path("harm").exists()
    assert "\n" not in str(raised.value)


def test_only_the_users_word_lets_a_file_run_code() -> None:
    write_malicious("a.ckpt", as_zip=True)
    with pytest.raises(
        MisconfigurationException,
        match=r"holds posix\.mkdir, which a safe load refuses.* pass weights_only=False\.",
    ):
        load("a.ckpt")
    load("a.ckpt", weights_only=False)
    assert Path("harm").is_dir()


@pytest.mark.parametrize("content", [b"%PDF-1.7\n", b'{"a": 1}', b"hello world\n"])
def test_a_file_of_another_kind_is_not_to_be_trusted_into_loading(content: bytes) -> None:
    Path("a.ckpt").write_bytes(content)
    with pytest.raises(
        MisconfigurationException, match=r"'a\.ckpt' is no whole checkpoint .* of another kind"
    ) as raised:
        load("a.ckpt")
    assert "weights_only=False" not in str(raised.value)


def test_a_class_that_is_gone_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = pickle.dumps(MisconfigurationException("x"), 2).replace(
        b"MisconfigurationException", b"NoSuchNameAsThisOneHere!!"
    )
    torch.save({}, "a.ckpt")
    Path("b.ckpt").write_bytes(payload)
    with pytest.raises(MisconfigurationException, match=r"'b\.ckpt' is no whole checkpoint"):
        load("b.ckpt", weights_only=False)


WHOLE = "whole.ckpt"


def whole() -> bytes:
    save({"state_dict": {"weight": torch.arange(100.0)}, "epoch": 3}, WHOLE)
    return Path(WHOLE).read_bytes()


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_short_is_one_error(part: float) -> None:
    data = whole()
    Path("cut.ckpt").write_bytes(data[: int(len(data) * part)])
    with pytest.raises(
        MisconfigurationException, match=r"'cut\.ckpt' is no whole checkpoint .* use an earlier"
    ) as raised:
        load("cut.ckpt")
    assert "\n" not in str(raised.value)


@settings(max_examples=60, deadline=None)
@given(junk=st.binary(max_size=200))
def test_bytes_that_are_no_checkpoint_are_one_error(junk: bytes) -> None:
    Path("junk.ckpt").write_bytes(junk)
    try:
        loaded = load("junk.ckpt")
    except MisconfigurationException as error:
        assert str(error).startswith("'junk.ckpt' ")  # noqa: PT017  # any other outcome is a value that was whole
    else:
        assert pickle.loads(junk) == loaded


def test_a_foreign_archive_is_one_error() -> None:
    with zipfile.ZipFile("a.ckpt", "w") as archive:
        archive.writestr("readme.txt", "no checkpoint")
    with pytest.raises(MisconfigurationException, match="is no whole checkpoint"):
        load("a.ckpt")


def test_a_missing_file_names_those_that_are_there() -> None:
    save({}, "runs/epoch=1.ckpt")
    with pytest.raises(FileNotFoundError, match=r"ckpt_path='runs/epoch=2\.ckpt': .*In that folder .*epoch=1\.ckpt"):
        load("runs/epoch=2.ckpt")
    with pytest.raises(FileNotFoundError, match=r"there is no such file\.$"):
        load("nowhere/a.ckpt")


def test_a_link_whose_file_is_gone_is_told_as_one() -> None:
    save({}, "runs/epoch=1.ckpt")
    os.symlink("epoch=0.ckpt", "runs/last.ckpt")
    expected = r"it is a link to 'epoch=0\.ckpt', which is gone\. In that folder there are: runs/epoch=1\.ckpt\.$"
    with pytest.raises(FileNotFoundError, match=expected):
        load("runs/last.ckpt")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_the_systems_error() -> None:
    save({}, "a.ckpt")
    os.chmod("a.ckpt", 0)
    with pytest.raises(PermissionError, match=r"a\.ckpt"):
        load("a.ckpt")


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_paths_are_read_whichever_python_wrote_them(module: str) -> None:
    save({"path": Path("a/b")}, "here.ckpt")
    own = f"c{type(Path()).__module__}\nPosixPath".encode()
    with zipfile.ZipFile("here.ckpt") as here, zipfile.ZipFile("there.ckpt", "w") as there:
        for name in here.namelist():
            there.writestr(
                name.replace("here", "there"), here.read(name).replace(own, f"c{module}\nPosixPath".encode())
            )
    assert load("there.ckpt") == {"path": Path("a/b")}


def test_tensors_come_where_they_are_mapped_to() -> None:
    save({"weight": torch.ones(2)}, "a.ckpt")
    assert load("a.ckpt", map_location="meta")["weight"].is_meta
