"""A safe load asks nothing of the machine that a saved checkpoint would not: it does not hang, crash or eat memory."""

from __future__ import annotations

import datetime
import io
import pickle
import resource
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest
import torch

from leyden import MisconfigurationException
from leyden.state.pickles import check_pickle
from leyden.state.storage import load, save

EQUAL_HASHES = 2**61 - 1
"""Multiples of it have the same hash."""


def number(value: int) -> bytes:
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def call(path: str, *args: bytes) -> bytes:
    """What calls the function at `path`, as module and name with a space between."""
    return b"c" + path.replace(" ", "\n").encode() + b"\n(" + b"".join(args) + b"tR"


def many(items: Any) -> bytes:
    return b"(" + b"".join(items) + b"t"


def dict_of(*keys: bytes) -> bytes:
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u"


TEN_GB = number(10**10)
DOUBLED = [text("a") + b"\x85q\x01", *[b"h\x01h\x01\x86q\x01"] * 60]
LONG = text("a" * 100_000) + b"q\x01"
ARRAY = call("numpy._core.multiarray _reconstruct", b"cnumpy\nndarray\n", number(0) + b"\x85", text("b"))
OBJECTS = call("numpy dtype", text("O8"), b"\x89", b"\x88")
BODIES = {
    "bytes of a length": (call("builtins bytes", TEN_GB), r"builtins\.bytes\(10000000000\)"),
    "a bytearray of a length": (call("builtins bytearray", TEN_GB), r"builtins\.bytearray\(10000000000\)"),
    "by an older name": (call("exceptions bytearray", TEN_GB), r"exceptions\.bytearray\(10000000000\)"),
    "within another call": (
        call("torch._tensor _rebuild_from_type_v2", b"cbuiltins\nbytearray\n", b"N", TEN_GB + b"\x85", b"}"),
        "bytearray",
    ),
    "a tensor of a size": (call("torch FloatTensor", TEN_GB), r"torch\.FloatTensor\(10000000000\)"),
    "a storage of a size": (call("torch.storage UntypedStorage", TEN_GB), "UntypedStorage"),
    "a copy of an expanded tensor": (call("torch._utils _rebuild_device_tensor_from_cpu_tensor", b"N"), "_device_"),
    "an array of a size": (call("numpy ndarray", TEN_GB + b"\x85", text("O")), r"numpy\.ndarray"),
    "an array rebuilt with a size": (
        call("numpy._core.multiarray _reconstruct", b"cnumpy\nndarray\n", TEN_GB + b"\x85", text("O")), "_reconstruct",
    ),
    "an array of objects it has not": (
        ARRAY + many([number(1), TEN_GB + b"\x85", OBJECTS, b"\x89", b"]"]) + b"b", "another size than its objects",
    ),
    "a scalar without a value": (call("numpy._core.multiarray scalar", b"N"), "scalar"),
    "a text twice as long each time": (
        call("_codecs encode", call("_codecs encode", text("a"), text("hex")), text("hex")), "_codecs.encode",
    ),
    "one text copied often": (
        many([LONG, *[call("_codecs encode", b"h\x01", text("latin1"))] * 1000]), "copy the same data again",
    ),
    "a path of one part many times": (many([LONG, call("pathlib PosixPath", *[b"h\x01"] * 1000)]), "copy the same"),
    "a key as deep as the stack": (dict_of(b")" + b"\x85" * 2_000_000), "a key of more than 1000 parts"),
    "a key hashed for ages": (many([*DOUBLED, dict_of(b"h\x01")]), "a key of more than 1000 parts"),
    "such a key in a set": (many([*DOUBLED, call("builtins set", b"](h\x01e")]), "a key of more than 1000 parts"),
    "such a key in what is made": (
        many([*DOUBLED, dict_of(call("torch Size", b"h\x01"))]), "a key of more than 1000 parts",
    ),
    "equal hashes": (dict_of(*(number(i * EQUAL_HASHES) for i in range(1, 60_000))), "compare with one another"),
    "equal hashes in a set": (
        call("builtins set", b"](" + b"".join(number(i * EQUAL_HASHES) for i in range(1, 60_000)) + b"e"), "compare",
    ),
    "equal hashes counted": (
        call("collections Counter", b"](" + b"".join(number(i * EQUAL_HASHES) for i in range(1, 60_000)) + b"e"),
        "compare",
    ),
    "equal hashes of what is made": (
        dict_of(*(call("builtins complex", number(-1_000_003 * i), number(i)) for i in range(20_000))), "compare",
    ),
    "hashes that are not known": (dict_of(*(call("torch Generator", number(i)) for i in range(20_000))), "compare"),
    "equal hashes beside what is made": (
        dict_of(*(many([call("pathlib PosixPath", text("a")), number(i * EQUAL_HASHES)]) for i in range(1, 2000))),
        "compare",
    ),
    "equal hashes in a dict of another class": (
        b"cmine\nDict\n)\x81(" + b"".join(number(i * EQUAL_HASHES) + b"N" for i in range(1, 2000)) + b"u", "compare",
    ),
    "a call of what is no function": (b"N)R", "no function"),
    "a tuple of more than there is": (b"\x87", "than there is"),
}  # fmt: skip


def write(body: bytes, as_zip: bool) -> None:
    whole = b"\x80\x02" + many([body]) + b"."
    if not as_zip:
        Path("a.ckpt").write_bytes(whole)
        return
    with zipfile.ZipFile("a.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", whole)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("what", BODIES)
def test_what_would_hang_crash_or_eat_memory_is_refused_before_it_is_done(what: str, as_zip: bool) -> None:
    body, message = BODIES[what]
    write(body, as_zip)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MisconfigurationException, match=rf"^'a\.ckpt' is no whole checkpoint \(.*{message}") as raised:
        load("a.ckpt")
    assert "\n" not in str(raised.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_a_hole_of_fifty_gigabytes_is_not_read() -> None:
    """In a process that may not have more than four, so that a failure does no harm."""
    for name, start in (
        ("empty", b""),
        ("text", b"\x80\x02X\xff\xff\xff\xff"),
        ("name", b"\x80\x02c"),
        ("zip", b"PK\3\4"),
    ):
        with open(f"{name}.ckpt", "wb") as file:
            file.write(start)
            file.truncate(50 * 2**30)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 2**32 - 1, 2**32 - 1, 0)
    end_64 = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 49 * 2**30, 0)
    with open("table.ckpt", "wb") as file:  # all of it is called the table of records
        file.write(b"PK\3\4")
        file.seek(49 * 2**30)
        file.write(end_64 + struct.pack("<4sLQL", b"PK\6\7", 0, 49 * 2**30, 1) + end)
    names = ["empty", "text", "name", "zip", "table"]
    script = (
        "import resource, torch\nfrom leyden import MisconfigurationException\nfrom leyden.state.storage import load\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        f"for name in {names}:\n"
        "    try:\n        load(f'{name}.ckpt')\n"
        "    except MisconfigurationException as error:\n"
        "        assert str(error).startswith(f\"'{name}.ckpt' is no whole\") and 'Memory' not in str(error), error\n"
        "        print(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True, timeout=120)
    assert done.stdout.split() == names


def test_torch_reads_the_pickle_that_was_checked() -> None:
    """Python finds the table of records before the end of the file, torch where the end says: each its own."""
    read_by_python, read_by_torch = archive(b"\x80\x02}."), archive(b"\x80\x02].")  # of one length
    end = 22
    data = read_by_torch[:-end] + read_by_python  # whose end says where the table is from its beginning
    Path("two.ckpt").write_bytes(data)
    assert torch.load("two.ckpt", weights_only=True) == []
    with zipfile.ZipFile("two.ckpt") as python:
        assert python.read("a/data.pkl") == b"\x80\x02}."
    with pytest.raises(MisconfigurationException, match="its table of records is not where it should be"):
        load("two.ckpt")


def archive(pickled: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as into:
        for name, content in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            into.writestr(f"a/{name}", content)
    return made.getvalue()


def test_a_second_pickle_under_capital_letters_is_refused() -> None:
    with zipfile.ZipFile("a.ckpt", "w") as made:
        made.writestr("a/DATA.PKL", b"\x80\x02}.")
        made.writestr("a/data.pkl", b"\x80\x02}.")
    with pytest.raises(MisconfigurationException, match="two records have one name"):
        load("a.ckpt")


STATE = {
    "tensors": [torch.ones(2), torch.nn.Parameter(torch.ones(1)), torch.eye(2).to_sparse(), torch.ones(1).to("meta")],
    "arrays": [np.arange(3), np.array([None, 1, "a"]), np.array(["a", "bc"]), np.float32(1), np.ones((2, 0))],
    "bytes": [b"", b"a" * 100_000, bytearray(), bytearray(b"a\xff")],
    "sets": [set(range(100_000)), Counter("aab"), {(1, "a"), (2, "b")}, {complex(1, i) for i in range(100)}],
    "dicts": [
        OrderedDict(a=1), dict.fromkeys(range(100_000)), {(i, str(i)): i for i in range(10_000)},
        {datetime.date.fromordinal(i): i for i in range(1, 20_000)}, {Path(str(i)): i for i in range(20_000)},
    ],
    "made keys": [
        {np.int64(i): i for i in range(10_100)}, {datetime.timedelta(i): i for i in range(10_100)},
        {(np.int32(i % 200), np.float32(i), i / 3): i for i in range(1500)}, {complex(i, -i) for i in range(1500)},
        {torch.Size([i]): i for i in range(1500)}, {np.datetime64(i, "D"): i for i in range(1500)},
    ],
    "copies": [bytes([i]) * 1000 for i in range(200)] + [b"a" * 5] * 2000,
    "deep": torch.Size([1, 2]),
}  # fmt: skip


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize("part", STATE)
def test_large_and_odd_states_are_no_attack(part: str, as_zip: bool) -> None:
    if as_zip:
        save(STATE[part], "a.ckpt")
    else:
        torch.save(STATE[part], "a.ckpt", _use_new_zipfile_serialization=False)
    assert repr(load("a.ckpt")) == repr(STATE[part])


class Attributes(dict[str, Any]):
    pass


class Numbers(list[int]):
    pass


@pytest.mark.parametrize("as_zip", [True, False])
@pytest.mark.parametrize(
    ("foreign", "name"),
    [
        (Attributes(lr=0.1), "test_pickles.Attributes"),
        (Numbers([1, 2]), "test_pickles.Numbers"),
        (defaultdict(list, a=[1]), "collections.defaultdict"),
        (deque([1, 2]), "collections.deque"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (datetime.datetime(2020, 1, 1, tzinfo=ZoneInfo("UTC")), "getattr"),
    ],
)
def test_what_is_of_a_class_that_a_safe_load_refuses_is_told_by_its_name(
    foreign: object, name: str, as_zip: bool
) -> None:
    """It is whole, and who trusts its author can load it."""
    torch.save({"hyper_parameters": foreign}, "a.ckpt", _use_new_zipfile_serialization=as_zip)
    with pytest.raises(
        MisconfigurationException, match=rf"'a\.ckpt' holds \S*{name}, which .* pass weights_only=False"
    ):
        load("a.ckpt")
    assert type(load("a.ckpt", weights_only=False)["hyper_parameters"]) is type(foreign)


def test_a_pickle_of_a_later_protocol_is_what_a_safe_load_does_not_read() -> None:
    with pytest.raises(pickle.UnpicklingError, match="Unsupported operand"):
        check_pickle(pickle.dumps({"a": 1}, 4))
    with pytest.raises(ValueError, match="exhausted"):
        check_pickle(pickle.dumps({"a": 1}, 2)[:-1])
