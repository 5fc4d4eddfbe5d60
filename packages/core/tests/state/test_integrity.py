"""Every damage to an archive is found, whichever bit it is in; so is what torch.save would not have written."""

from __future__ import annotations

import os
import pickle
import struct
import time
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from leyden import MisconfigurationException
from leyden.state.storage import load, save, verify

SAVED = {"state_dict": {"w": torch.arange(6.0), "b": torch.ones(3, dtype=torch.int8)}, "epoch": 3, "name": "abc"}


@cache
def whole() -> bytes:
    save(SAVED, "whole.ckpt")
    return Path("whole.ckpt").read_bytes()


def write(data: bytes) -> str:
    Path("damaged.ckpt").write_bytes(data)
    return "damaged.ckpt"


def refused_or_the_same(data: bytes) -> bool:
    """Whether the bytes are refused, by an error of one line; if they are not, they are what was saved."""
    try:
        loaded = load(write(data))
    except MisconfigurationException as error:
        text = str(error)
        assert text.startswith("'damaged.ckpt' ")
        assert "\n" not in text
        return True
    assert repr(loaded) == repr(SAVED)
    verify("damaged.ckpt")
    return False


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_found_or_changes_nothing(data: st.DataObject) -> None:
    changed = bytearray(whole())
    for place in data.draw(st.lists(st.integers(0, len(changed) * 8 - 1), min_size=1, max_size=3)):
        changed[place // 8] ^= 1 << place % 8
    refused_or_the_same(bytes(changed))


def test_a_flipped_bit_in_the_weights_is_found_by_both_load_and_verify() -> None:
    place = whole().index(struct.pack("<f", 5.0))
    data = bytearray(whole())
    data[place] ^= 1
    torch.load(write(bytes(data)), weights_only=True)  # torch itself does not see it
    for read in (load, verify):
        with pytest.raises(MisconfigurationException, match=r"^'damaged\.ckpt' is no whole checkpoint \(.*CRC"):
            read("damaged.ckpt")


def test_a_tensor_marked_as_a_folder_is_not_read_as_whatever_was_in_memory() -> None:
    with zipfile.ZipFile("whole.zip", "w") as made, zipfile.ZipFile(save_to("a.ckpt")) as source:
        for record in source.infolist():
            record.external_attr = 0x10 if record.filename.endswith("data/0") else 0
            made.writestr(record, source.read(record.filename))
    with pytest.raises(MisconfigurationException, match="'archive/data/0' is marked as a folder"):
        load("whole.zip")


def save_to(path: str) -> str:
    save(SAVED, path)
    return path


def test_a_cut_at_every_byte_is_found() -> None:
    assert all(refused_or_the_same(whole()[:length]) for length in range(len(whole())))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), junk=st.binary(min_size=1, max_size=2000))
def test_junk_within_before_and_after_is_found_or_changes_nothing(data: st.DataObject, junk: bytes) -> None:
    place = data.draw(st.integers(0, len(whole())))
    refused_or_the_same(whole()[:place] + junk + whole()[place:])
    refused_or_the_same(whole()[:place] + junk + whole()[place + len(junk) :])


def test_a_compressed_record_is_refused_before_it_grows() -> None:
    with zipfile.ZipFile("bomb.ckpt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", bytes(50_000_000))
    with pytest.raises(
        MisconfigurationException, match=r"'bomb/data\.pkl' is compressed, which torch\.save never does"
    ):
        load("bomb.ckpt")


def test_records_that_claim_more_than_the_file_has_are_refused() -> None:
    """A thousand names for the same bytes: each would be read, and the time grow with the square of the file."""
    content, name = bytes(5000), b"x/data.pkl"
    crc = zlib.crc32(content)
    common = struct.pack("<HHHHHLLLHH", 20, 0, 0, 0, 33, crc, len(content), len(content), len(name), 0)
    data = b"PK\3\4" + common + name + content
    start = len(data)
    for number in range(1000):
        entry = b"x/%03d.pkl" % number if number else name
        entry = entry.ljust(len(name), b"x")
        data += b"PK\1\2" + struct.pack("<H", 20) + common + struct.pack("<HHHLL", 0, 0, 0, 0, 0) + entry
    data += b"PK\5\6" + struct.pack("<HHHHLLH", 0, 0, 1000, 1000, len(data) - start, start, 0)
    with pytest.raises(MisconfigurationException, match="its records claim 5000000 bytes, the file has"):
        load(write(data))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_records_of_one_name_are_refused() -> None:
    with zipfile.ZipFile("twice.ckpt", "w") as archive:
        archive.writestr("x/data.pkl", b"1")
        archive.writestr("x/data.pkl", b"2")
    with pytest.raises(MisconfigurationException, match="two records have one name"):
        load("twice.ckpt")


def test_a_pipe_is_not_waited_for() -> None:
    os.mkfifo("pipe.ckpt")
    for read in (load, verify):
        with pytest.raises(MisconfigurationException, match=r"'pipe\.ckpt' is a pipe or a device"):
            read("pipe.ckpt")
    with pytest.raises(MisconfigurationException, match="is a pipe or a device"):
        load("/dev/zero")


class Huge:
    """Is pickled as ``bytes(10**13)``."""

    def __reduce__(self) -> Any:
        return bytes, (10**13,)


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_few_bytes_cannot_ask_for_terabytes(as_zip: bool) -> None:
    torch.save({"b": Huge()}, "huge.ckpt", _use_new_zipfile_serialization=as_zip)
    with pytest.raises(MisconfigurationException, match=r"'huge\.ckpt' is no whole checkpoint"):
        load("huge.ckpt")


def test_empty_bytes_are_still_read() -> None:
    save({"nothing": b"", "something": b"a"}, "a.ckpt")
    assert load("a.ckpt") == {"nothing": b"", "something": b"a"}


def test_files_of_old_torch_are_read_safely() -> None:
    torch.save(SAVED, "old.ckpt", _use_new_zipfile_serialization=False)
    verify("old.ckpt")
    assert repr(load("old.ckpt")) == repr(SAVED)
    data = Path("old.ckpt").read_bytes()
    for length in range(0, len(data), 7):
        with pytest.raises(MisconfigurationException, match=r"^'damaged\.ckpt' (is no whole|holds)"):
            load(write(data[:length]))
    Path("code.ckpt").write_bytes(pickle.dumps({"x": time.sleep}, 2))
    with pytest.raises(MisconfigurationException, match=r"'code\.ckpt' "):
        verify("code.ckpt")


def test_checksums_are_written_though_the_process_has_them_switched_off() -> None:
    torch.serialization.set_crc32_options(False)
    try:
        save(SAVED, "a.ckpt")
        assert torch.serialization.get_crc32_options() is False
    finally:
        torch.serialization.set_crc32_options(True)
    verify("a.ckpt")


def test_verify_says_whether_there_is_a_file_at_all() -> None:
    with pytest.raises(FileNotFoundError, match=r"'none\.ckpt': there is no such file"):
        verify("none.ckpt")
    with pytest.raises(MisconfigurationException, match=r"'\.' is a folder"):
        verify(".")


def test_verify_needs_no_classes_and_runs_nothing() -> None:
    torch.save({"callback": Huge()}, "foreign.ckpt")
    verify("foreign.ckpt")
