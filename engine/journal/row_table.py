"""The rows of one segment of the journal: where each message lies, and where what it did. Derived from the log.

    DATA/hospital/journal/<segment>.rows     a header, then one row for each number from `first` on

    header    64 bytes   magic "FILMROWS", format (u32), 0 (u32), segment (u64), its salt (u64), first (u64),
                         boot (16 bytes), crc32c of the bytes before (u32)
    row       56 bytes   message: offset (u64), time (f64), key (u64), flags (u32), crc32c (u32)
                         outcome: segment (u64), offset (u64), flags (u32), crc32c (u32)

Little endian. Zeros are no message, and no outcome yet. Each half of a row has its own checksum, which begins with the
number. A row holds no value of a patient.

The writer changes a table in the page cache only, which survives its death. `boot` names the start of the machine in
which that happened; after another one the table is not believed, since a power cut may have kept any part of it. Zeros
in its place: all was synced, and nothing has changed since.
"""

from __future__ import annotations

import os
import struct
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from engine.boot import boot_id
from engine.errors import CorruptRecord
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.storage.files import Files

FORMAT: Final = 1
HEADER_BYTES: Final = 64
ROW_BYTES: Final = 56
MESSAGE_BYTES: Final = 32
CHUNK_ROWS: Final = 1024

# Flags of a message.
IS_THERE: Final = 1
IS_REFUSED: Final = 2
"""It was refused when it came, and waits for nothing."""
HAS_CONTROL_ID: Final = 4

# Flags of an outcome, beside IS_THERE.
IS_APPLIED: Final = 2
"""The message has been applied in its turn, and not only by a replay."""
HAS_FAULT: Final = 4

WHOLE: Final = bytes(16)
"""In place of a boot: the table is on stable storage as it is."""
UNKNOWN: Final = b"\xff" * 16
"""A boot that is none of ours."""

_MAGIC = b"FILMROWS"
_HEADER = struct.Struct("<8sIIQQQ16s")
_MESSAGE = struct.Struct("<QdQI")
_OUTCOME = struct.Struct("<QQI")
_CRC = struct.Struct("<I")
_ROW = struct.Struct("<QdQIIQQII")
_NO_ROW = bytes(ROW_BYTES)
_NO_OUTCOME = bytes(ROW_BYTES - MESSAGE_BYTES)


class MessageRow(NamedTuple):
    """A row."""

    number: int
    offset: int
    """Of the message in the table's segment."""
    time: float
    key: int
    flags: int
    outcome_segment: int
    outcome_offset: int
    outcome_flags: int
    """0: there is no outcome."""


def table_path(directory: str, segment_id: int) -> str:
    """The path of the table of a segment."""
    return f"{directory}/{segment_id:016x}.rows"


def this_boot() -> bytes:
    """16 bytes that distinguish this start of the machine; UNKNOWN, if the machine does not say."""
    name = boot_id()
    return blake2b(name.encode(), digest_size=16).digest() if name else UNKNOWN


def encode_header(segment_id: int, salt: int, first: int, boot: bytes) -> bytes:
    """A table's header."""
    fields = _HEADER.pack(_MAGIC, FORMAT, 0, segment_id, salt, first, boot)
    return (fields + _CRC.pack(crc32c(fields))).ljust(HEADER_BYTES, b"\0")


def encode_message(number: int, offset: int, time: float, key: int, flags: int) -> bytes:
    """The first half of a row."""
    fields = _MESSAGE.pack(offset, time, key, flags)
    return fields + _CRC.pack(crc32c(fields, number & 0xFFFFFFFF))


def encode_outcome(number: int, segment_id: int, offset: int, flags: int) -> bytes:
    """The second half of a row."""
    fields = _OUTCOME.pack(segment_id, offset, flags)
    return fields + _CRC.pack(crc32c(fields, number & 0xFFFFFFFF))


class RowTable:
    """One table, for reading while another process writes it."""

    def __init__(self, directory: str, files: Files, segment_id: int, salt: int) -> None:
        """Raises FileNotFoundError, OSError; CorruptRecord if it is damaged, of another segment, or not believed."""
        self.segment_id = segment_id
        self._files = files
        self._fd = files.open(table_path(directory, segment_id), os.O_RDONLY)
        try:
            self.first = self._checked_header(salt)
        except BaseException:
            self.close()
            raise

    def _checked_header(self, salt: int) -> int:
        block = self._files.pread(self._fd, HEADER_BYTES, 0)
        if len(block) < HEADER_BYTES or _CRC.unpack_from(block, _HEADER.size)[0] != crc32c(block[: _HEADER.size]):
            raise self._corrupt("its header is damaged")
        magic, format_, _, segment_id, own_salt, first, boot = _HEADER.unpack_from(block)
        if (magic, format_, segment_id, own_salt) != (_MAGIC, FORMAT, self.segment_id, salt):
            raise self._corrupt("it is of another version or segment")
        if boot == UNKNOWN or boot not in (WHOLE, this_boot()):
            raise self._corrupt("the machine stopped while it changed")
        return int(first)

    @property
    def is_current(self) -> bool:
        """Whether the file still has its name: its writer removes a table that it cannot continue."""
        return self._files.is_linked(self._fd)

    def __len__(self) -> int:
        """The number of rows, also of numbers without a message."""
        return max(0, self._files.size(self._fd) - HEADER_BYTES + len(_NO_OUTCOME)) // ROW_BYTES

    def row(self, number: int) -> MessageRow | None:
        """The row of a number; None if there is no such message here. Raises CorruptRecord."""
        return next(self.rows_below(number + 1, lowest=number), None)

    def rows_below(self, before: int, *, lowest: int = 0) -> Iterator[MessageRow]:
        """The rows of messages below a number, the newest first, down to `lowest`. Raises CorruptRecord."""
        lowest = max(lowest, self.first)
        high = min(before, self.first + len(self))
        while high > lowest:
            low = max(lowest, high - CHUNK_ROWS)
            data = self._read(low, high)
            for number in range(high - 1, low - 1, -1):
                row = self._decode(data, (number - low) * ROW_BYTES, number)
                if row is not None:
                    yield row
            high = low

    def _read(self, low: int, high: int) -> bytes:
        try:
            data = self._files.pread(self._fd, (high - low) * ROW_BYTES, HEADER_BYTES + (low - self.first) * ROW_BYTES)
        except OSError as error:
            raise self._corrupt(f"it cannot be read: {error.strerror}") from error
        missing = (high - low) * ROW_BYTES - len(data)
        if missing > len(_NO_OUTCOME):
            raise self._corrupt("it has become shorter")
        return data + bytes(missing)  # the last row ends with its message

    def _decode(self, data: bytes, at: int, number: int) -> MessageRow | None:
        offset, time, key, flags, crc, outcome_segment, outcome_offset, outcome_flags, outcome_crc = _ROW.unpack_from(
            data, at
        )
        seed = number & 0xFFFFFFFF
        if crc != crc32c(data[at : at + _MESSAGE.size], seed):
            if data[at : at + ROW_BYTES] == _NO_ROW:
                return None
            raise self._corrupt(f"the row of message {number} is damaged")
        middle = at + MESSAGE_BYTES
        if outcome_flags and outcome_crc == crc32c(data[middle : middle + _OUTCOME.size], seed):
            return MessageRow(number, offset, time, key, flags, outcome_segment, outcome_offset, outcome_flags)
        if data[middle : at + ROW_BYTES] == _NO_OUTCOME:
            return MessageRow(number, offset, time, key, flags, 0, 0, 0)
        raise self._corrupt(f"the outcome of message {number} is damaged")

    def _corrupt(self, reason: str) -> CorruptRecord:
        return CorruptRecord(f"the table of rows: {reason}", self.segment_id, 0)

    def close(self) -> None:
        """Closes the file."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._files.close(fd)
