"""Whether the archive that ``torch.save`` makes is whole: every record has the checksum it was saved with."""

from __future__ import annotations

import os
import zipfile
from typing import IO

__all__ = ["ARCHIVE_START", "check_archive"]

ARCHIVE_START = b"PK\x03\x04"
"""What every archive of ``torch.save`` begins with; older files without it are plain pickles and have no checksums."""

_BLOCK_BYTES = 1 << 20
_IS_FOLDER = 0x10  # with this bit torch reads nothing, and the tensor is whatever the memory held


def check_archive(file: IO[bytes]) -> None:
    """Read the archive once, a block at a time, and compare each record with its CRC-32.

    ``torch.load`` itself compares none: a flipped bit in a weight is loaded without a word. What no ``torch.save``
    writes is refused before it is read: compressed records, which could grow without bound, records that overlap, and
    two of one name.

    Raises:
        zipfile.BadZipFile: what is wrong, in one line.
    """
    size = file.seek(0, os.SEEK_END)
    try:
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


def _check_table(records: list[zipfile.ZipInfo], size: int) -> None:
    names = {record.filename for record in records}
    if len(names) < len(records):
        raise zipfile.BadZipFile("two records have one name")
    if not any(name.endswith("/data.pkl") for name in names):
        raise zipfile.BadZipFile("an archive without data.pkl is not of torch.save")
    for record in records:
        if record.is_dir() or record.external_attr & _IS_FOLDER:
            raise zipfile.BadZipFile(f"record {record.filename!r} is marked as a folder")
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise zipfile.BadZipFile(f"record {record.filename!r} is compressed, which torch.save never does")
    held = sum(record.file_size for record in records)
    if held > size:
        raise zipfile.BadZipFile(f"its records claim {held} bytes, the file has {size}")
