"""The journal of the feed: events in order, in files of some megabytes that only grow.

    DATA/feed/<first sequence, 16 hex digits>.events

One block holds the events of one pass; files consist of blocks and nothing else. Little endian:

    offset  bytes  field
    0       8      magic          "FILMFEED"; "FILMFEEC" if the lines are encrypted (`archive.sealing`)
    8       4      epoch          see `cursor`
    12      4      count          events
    16      8      first          sequence of the first event
    24      4      marks_length   bytes
    28      4      lines_length   bytes
    32      4      crc32c         of the 32 bytes before, of marks and lines
    36      4      0
    40      …      marks          (segment id u64, salt u64, offset u64) each: the progress in the log after these
                                  events; see `progress`
    …       …      lines          one event each, JSON, ended by a line feed

Each block is written with one pwritev and not synced: call `sync` before `state` refers to a block. After a power cut
the files end before the first incomplete block; later events are made again from the log (`cursor` describes the effect
on subscribers). A reader treats an incomplete block as the end, too.
"""

from __future__ import annotations

import os
import re
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.archive.sealing import PLAIN, Sealing, Unsealable, unseal
from engine.errors import FeedDamaged, StorageError
from engine.storage.files import Files, raise_write_error
from engine.storage.record import crc32c

MAGIC = b"FILMFEED"
ENCRYPTED_MAGIC = b"FILMFEEC"
_PURPOSE = b"feed"
_HEAD = struct.Struct("<8sIIQIIII")
_MARK = struct.Struct("<QQQ")
_NAME = re.compile(r"([0-9a-f]{16})\.events")
FILE_BYTES = 16 << 20
"""A file ends after this length: some 40 000 events, which are removed together when they are old."""
BLOCK_BYTES_MAX = 8 << 20
WINDOW_BYTES = 1 << 20
"""Bytes that a reader reads at a time."""

Marks = Mapping[int, tuple[int, int]]
"""Segment id → salt and offset."""


@dataclass(frozen=True, slots=True)
class Block:
    """The events of one pass."""

    epoch: int
    first: int
    count: int
    marks: bytes
    lines: bytes
    end: int
    """Its end in its file."""

    @property
    def last(self) -> int:
        """The sequence of its last event."""
        return self.first + self.count - 1

    def unpacked_marks(self) -> dict[int, tuple[int, int]]:
        """The progress in the log after it, for the segments that it has read from."""
        return {segment_id: (salt, offset) for segment_id, salt, offset in _MARK.iter_unpack(self.marks)}


def path_of(directory: str, first: int) -> str:
    """The file that begins with this sequence."""
    return f"{directory}/{first:016x}.events"


def list_files(directory: str, files: Files) -> list[int]:
    """The first sequence of each file, ascending."""
    try:
        names = files.list_directory(directory)
    except FileNotFoundError:
        return []
    return sorted(int(match[1], 16) for match in map(_NAME.fullmatch, names) if match)


def read_blocks(files: Files, fd: int, start: int) -> Iterator[Block]:
    """The blocks from an offset on, up to the first incomplete one. Raises StorageError."""
    window = b""
    base = at = start
    while True:
        if at + _HEAD.size > base + len(window):
            window, base = _pread(files, fd, WINDOW_BYTES, at), at
        head = window[at - base : at - base + _HEAD.size]
        if len(head) < _HEAD.size:
            return
        magic, epoch, count, first, marks_length, lines_length, crc, _ = _HEAD.unpack(head)
        length = _HEAD.size + marks_length + lines_length
        if magic not in (MAGIC, ENCRYPTED_MAGIC) or length > BLOCK_BYTES_MAX:
            return
        if at + length > base + len(window):
            window, base = _pread(files, fd, max(WINDOW_BYTES, length), at), at
        body = window[at - base + _HEAD.size : at - base + length]
        if len(body) < length - _HEAD.size or crc32c(body, crc32c(head[:32])) != crc:
            return
        lines = body[marks_length:]
        if magic == ENCRYPTED_MAGIC:
            try:
                lines = unseal(_PURPOSE, lines, _bound(epoch, first))
            except Unsealable:
                return
        at += length
        yield Block(epoch, first, count, body[:marks_length], lines, at)


def _bound(epoch: int, first: int) -> bytes:
    return struct.pack("<IQ", epoch, first)


def make_durable(directory: str, files: Files, last: int) -> dict[int, tuple[int, int]]:
    """Syncs the blocks after event `last`, whichever process writes them. Returns the progress in the log after them.

    Raises StorageError.
    """
    marks: dict[int, tuple[int, int]] = {}
    firsts = list_files(directory, files)
    for first in firsts[max(0, bisect_right(firsts, last) - 1) :]:
        try:
            fd = files.open(path_of(directory, first), os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            blocks = [block for block in read_blocks(files, fd, 0) if block.last > last]
            if blocks:
                files.fdatasync(fd)
        finally:
            files.close(fd)
        for block in blocks:
            if block.first != last + 1:
                break
            last = block.last
            marks |= block.unpacked_marks()
    if marks:
        files.sync_directory(directory)
    return marks


def _pread(files: Files, fd: int, length: int, offset: int) -> bytes:
    try:
        return files.pread(fd, length, offset)
    except OSError as error:
        raise StorageError(f"the feed's journal cannot be read: {error.strerror}") from error


class JournalWriter:
    """Appends blocks; a feed has one. After StorageFull or StorageFailed make another one."""

    def __init__(self, directory: str, files: Files, epoch: int, sealing: Sealing = PLAIN) -> None:
        self._sealing = sealing
        self._directory = directory
        self._files = files
        self.epoch = epoch
        self._fd = -1
        self._end = 0
        self.last = 0
        """The sequence of the last event."""

    def recover(self, last: int) -> Iterator[Block]:
        """The blocks after the durable event `last`; cuts an incomplete one. Iterate to the end.

        Raises FeedDamaged if events up to `last` are missing.
        """
        self.last = last
        whole_to = 0
        firsts = list_files(self._directory, self._files)
        for first in firsts[max(0, bisect_right(firsts, last) - 1) :]:
            if first > self.last + 1:
                # It follows a file that a power cut has shortened.
                self._files.unlink(path_of(self._directory, first))
                continue
            self._open(first)
            for block in read_blocks(self._files, self._fd, 0):
                if block.last > self.last:
                    if block.first != self.last + 1:
                        break
                    self.last = block.last
                    yield block
                whole_to = block.last
                self._end = block.end
            self._files.truncate(self._fd, self._end)
        if whole_to < last:
            raise FeedDamaged(f"the feed's journal ends at event {whole_to}, before event {last}")

    def _open(self, first: int) -> None:
        self.close()
        path = path_of(self._directory, first)
        try:
            self._fd = self._files.open(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise_write_error(error, f"open {path}")
        self._end = 0

    def append(self, lines: Sequence[bytes], marks: Marks) -> None:
        """Appends events, with the sequences after the last one."""
        if self._fd < 0 or self._end >= FILE_BYTES:
            if self._fd >= 0:
                self._files.fdatasync(self._fd)
            self._open(self.last + 1)
        body_marks = b"".join([_MARK.pack(segment_id, salt, offset) for segment_id, (salt, offset) in marks.items()])
        body = b"\n".join((*lines, b""))
        magic = MAGIC
        if self._sealing.data_key is not None:
            magic, body = ENCRYPTED_MAGIC, self._sealing.seal(_PURPOSE, body, _bound(self.epoch, self.last + 1))
        head = _HEAD.pack(magic, self.epoch, len(lines), self.last + 1, len(body_marks), len(body), 0, 0)
        crc = crc32c(body, crc32c(body_marks, crc32c(head[:32])))
        head = head[:32] + struct.pack("<II", crc, 0)
        self._files.pwritev(self._fd, [head, body_marks, body], self._end)
        self._end += len(head) + len(body_marks) + len(body)
        self.last += len(lines)

    def sync(self) -> None:
        """Makes everything durable."""
        if self._fd >= 0:
            self._files.fdatasync(self._fd)
            self._files.sync_directory(self._directory)

    def trim(self, before_s: float) -> int:
        """Removes files last written before this time, except the newest. Returns their number."""
        firsts = list_files(self._directory, self._files)
        removed = 0
        for first in firsts[:-1]:
            path = path_of(self._directory, first)
            if os.stat(path).st_mtime >= before_s:
                break
            self._files.unlink(path)
            removed += 1
        return removed

    def close(self) -> None:
        """Closes the file."""
        if self._fd >= 0:
            self._files.close(self._fd)
            self._fd = -1
