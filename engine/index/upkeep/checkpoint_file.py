"""The file `checkpoint`: the state of the index that is whole on the disk, and the meta page that leads to it.

    offset  bytes  field
    0       8      magic "FILMCKPT"
    8       4      format 1
    12      4      kind: 1 OPEN, 2 CLEAN, 3 VOID
    16      8      transaction id
    24      36     boot id (text)
    60      4      length M of the meta page, 0 if VOID
    64      M      meta page
    64+M    4      crc32c of all bytes before

VOID: no state is known to be whole on the disk. `checkpoint` says which process writes it, and when.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from enum import IntEnum

from engine import boot
from engine.index.database.data_file import PAGE_BYTES_MAX, transaction_of
from engine.storage.files import Files, replace_file
from engine.storage.record import crc32c

MAGIC = b"FILMCKPT"
FORMAT = 1

_HEAD = struct.Struct("<8sIIQ36sI")
_CRC = struct.Struct("<I")


class Kind(IntEnum):
    """The kinds of checkpoint."""

    OPEN = 1
    """The state is whole on the disk; more may have been committed since."""
    CLEAN = 2
    """The same, and nothing has been committed since."""
    VOID = 3
    """No state is known to be whole on the disk; only the page cache of this boot is whole."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of the file."""

    kind: Kind
    transaction_id: int
    boot_id: str
    meta_page: bytes

    def encode(self) -> bytes:
        """The content of the file."""
        boot_id = self.boot_id.encode("ascii", "replace")[:36]
        data = _HEAD.pack(MAGIC, FORMAT, self.kind, self.transaction_id, boot_id, len(self.meta_page)) + self.meta_page
        return data + _CRC.pack(crc32c(data))

    @classmethod
    def decode(cls, data: bytes) -> Checkpoint | None:
        """Decodes the content of the file; None if it is damaged."""
        if len(data) < _HEAD.size + _CRC.size or _CRC.unpack(data[-4:])[0] != crc32c(data[:-4]):
            return None
        magic, format_, kind, transaction_id, boot_id, length = _HEAD.unpack_from(data)
        page = data[_HEAD.size : -4]
        if magic != MAGIC or format_ != FORMAT or len(page) != length or kind not in list(Kind):
            return None
        if kind != Kind.VOID and transaction_of(page) != transaction_id:
            return None
        return cls(Kind(kind), transaction_id, boot_id.rstrip(b"\0").decode("ascii", "replace"), page)


def read_file(directory: str, files: Files) -> Checkpoint | None:
    """Reads the checkpoint file; None if it is missing or damaged."""
    try:
        fd = files.open(f"{directory}/checkpoint", os.O_RDONLY)
    except OSError:
        return None
    try:
        return Checkpoint.decode(files.pread(fd, _HEAD.size + PAGE_BYTES_MAX + _CRC.size, 0))
    except OSError:
        return None
    finally:
        files.close(fd)


def write_file(directory: str, files: Files, checkpoint: Checkpoint) -> None:
    """Replaces the checkpoint file, durably. Raises StorageFull or StorageFailed."""
    replace_file(files, f"{directory}/checkpoint", checkpoint.encode())


def write_void(directory: str, files: Files) -> None:
    """Writes a VOID checkpoint."""
    write_file(directory, files, Checkpoint(Kind.VOID, 0, boot.boot_id(), b""))
