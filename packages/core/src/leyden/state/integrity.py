"""Whether the archive that ``torch.save`` makes is whole: every record has the checksum it was saved with."""

from __future__ import annotations

import os
import struct
import zipfile
from typing import IO

__all__ = ["ARCHIVE_START", "check_archive", "pickle_of"]

ARCHIVE_START = b"PK\x03\x04"
"""What every archive of ``torch.save`` begins with; older files without it are plain pickles and have no checksums."""

_BLOCK_BYTES = 1 << 20
_LONGEST_TABLE_BYTES = 1 << 28  # a sparse file may claim any length; a record takes about a hundred bytes
_END, _END_64, _PLACE_OF_END_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
_IS_FOLDER = 0x10  # with this bit torch reads nothing, and the tensor is whatever the memory held


def check_archive(file: IO[bytes]) -> None:
    """Read the archive once, a block at a time, and compare each record with its CRC-32.

    ``torch.load`` itself compares none: a flipped bit in a weight is loaded without a word. What no ``torch.save``
    writes is refused before it is read: compressed records, which could grow without bound, records that overlap, two
    of one name, and a table of records that torch would look for elsewhere than Python does.

    Raises:
        zipfile.BadZipFile: what is wrong, in one line.
    """
    size = file.seek(0, os.SEEK_END)
    try:
        _check_end(file, size)
        with zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            _check_table(records, size)
            for record in records:
                with archive.open(record) as content:  # the end of the record compares the checksum
                    while content.read(_BLOCK_BYTES):
                        pass
    except zipfile.BadZipFile:
        raise
    except Exception as error:  # a damaged table makes zipfile fail in any way there is
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from error


def pickle_of(file: IO[bytes]) -> bytes:
    """Return the one pickle in an archive that was checked."""
    with zipfile.ZipFile(file) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))


def _check_end(file: IO[bytes], size: int) -> None:
    """The table of records must end where the end of the file says, which must be just before it, and nothing after.

    Otherwise there could be two tables: one whose records Python compares, and one that torch reads.
    """
    end = size - _END.size
    file.seek(max(end, 0))
    mark, *_, table, start, comment = _END.unpack(file.read())
    if mark != b"PK\5\6" or comment:
        raise zipfile.BadZipFile("it does not end as an archive of torch.save")
    file.seek(max(end - _PLACE_OF_END_64.size, 0))
    mark_64, _, place, _ = _PLACE_OF_END_64.unpack(file.read(_PLACE_OF_END_64.size))
    if mark_64 == b"PK\6\7":
        end -= _PLACE_OF_END_64.size + _END_64.size
        file.seek(max(end, 0))
        mark_64, *_, table_64, start_64 = _END_64.unpack(file.read(_END_64.size))
        if (
            mark_64 != b"PK\6\6"
            or place != end
            or table not in (table_64, 2**32 - 1)
            or start not in (start_64, 2**32 - 1)
        ):
            raise zipfile.BadZipFile("its two ends say different things")
        table, start = table_64, start_64
    if start + table != end or table > _LONGEST_TABLE_BYTES:
        raise zipfile.BadZipFile("its table of records is not where it should be")


def _check_table(records: list[zipfile.ZipInfo], size: int) -> None:
    names = {record.filename.lower() for record in records}  # torch does not tell capital letters
    if len(names) < len(records):
        raise zipfile.BadZipFile("two records have one name")
    if [record.filename[-9:] for record in records if record.filename.lower().endswith("/data.pkl")] != ["/data.pkl"]:
        raise zipfile.BadZipFile("an archive without one data.pkl is not of torch.save")
    for record in records:
        if record.is_dir() or record.external_attr & _IS_FOLDER:
            raise zipfile.BadZipFile(f"record {record.filename!r} is marked as a folder")
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise zipfile.BadZipFile(f"record {record.filename!r} is compressed, which torch.save never does")
    held = sum(record.file_size for record in records)
    if held > size:
        raise zipfile.BadZipFile(f"its records claim {held} bytes, the file has {size}")
