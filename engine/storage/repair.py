"""Repair: restores a damaged part of a sealed segment from its second copy, for a scrub, on one segment at a time.

    damaged part                       restored from                                not restored if
    one copy of the segment header     the other copy                               the segment is not sealed
    both copies                        the trailer: label and time of creation      the footer is damaged too
                                       are lost
    footer or trailer                  the records, whose heads it repeats          any of them is damaged
    head of a record without payload   the footer's copy                            the footer is damaged too

Writes the original bytes in place, and syncs; after a crash in between the part is still damaged. Never touch a
payload, nor the head of a record that has one: a re-send heals instances (`archive.ingest.writer`). Every function
returns whether the part is whole now. Raises StorageFailed, which is final.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from engine.errors import CorruptRecord, StorageFull
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.hints import read_header_or_trailer
from engine.storage.record import Record, crc32c, unpack_head
from engine.storage.segment import FIRST_RECORD, Damage, Walk, read_segment_header, segment_path
from engine.storage.segment_bytes import FileBytes

_COPY_BYTES = FIRST_RECORD // 2
_CHECKED_BYTES = 124
"""Length of a copy of the segment header, which zeros follow."""


def repair_header(files: Files, directory: str, segment_id: int) -> bool:
    """Writes a damaged copy of the segment header again, from the other one or from the trailer."""

    def work(fd: int) -> bool:
        block = files.pread(fd, FIRST_RECORD, 0)
        copies = {at: block[at : at + _CHECKED_BYTES] for at in (0, _COPY_BYTES)}
        good = next((copy for copy in copies.values() if crc32c(copy[:-4]).to_bytes(4, "little") == copy[-4:]), None)
        if good is None:
            trailer = hints.read_trailer(FileBytes(files, fd), segment_id)
            if trailer is None:
                return False
            good = trailer.header().encode()[:_CHECKED_BYTES]
        whole = good.ljust(_COPY_BYTES, b"\0")
        for at in copies:
            if block[at : at + _COPY_BYTES] != whole:
                files.pwritev(fd, [whole], at)
                files.fdatasync(fd)
        read_segment_header(FileBytes(files, fd), segment_id)
        return files.pread(fd, FIRST_RECORD, 0) == whole + whole

    return _on_segment(files, directory, segment_id, work)


def repair_footer(files: Files, directory: str, segment_id: int, tail: int) -> bool:
    """Writes the footer at `tail` again, if every record before it has a whole head."""

    def work(fd: int) -> bool:
        header = read_header_or_trailer(FileBytes(files, fd), segment_id)
        heads: list[bytes] = []
        payload_bytes = 0
        walk = Walk(FileBytes(files, fd), header, end=tail, opens=False)
        for item in walk:
            if isinstance(item, Damage):
                return False
            heads.append(walk.head)
            payload_bytes += item.position.payload_length
        if walk.tail != tail or not heads:
            return False
        hints.seal(files, fd, header, tail, heads, payload_bytes)
        return hints.read_summary(FileBytes(files, fd), segment_id, opens=False) is not None

    return _on_segment(files, directory, segment_id, work)


def repair_head(files: Files, directory: str, record: Record) -> bool:
    """Writes the head of a record without payload again, from the footer."""
    position = record.position

    def work(fd: int) -> bool:
        head = _head_in_footer(files, fd, record)
        if head is None or position.payload_length:
            return False
        files.pwritev(fd, [head], position.offset)
        files.fdatasync(fd)
        return files.pread(fd, len(head), position.offset) == head

    return _on_segment(files, directory, position.segment_id, work)


def _on_segment(files: Files, directory: str, segment_id: int, work: Callable[[int], bool]) -> bool:
    """Runs `work` on the open segment; False if it cannot be done, or if a writer has the segment."""
    try:
        fd = files.open(segment_path(directory, segment_id), os.O_RDWR)
    except OSError:
        return False
    try:
        return files.lock(fd) and work(fd)
    except (OSError, CorruptRecord, StorageFull):
        return False
    finally:
        files.close(fd)


def _head_in_footer(files: Files, fd: int, record: Record) -> bytes | None:
    """The bytes of a record's head in the footer; None if it is not there. Raises CorruptRecord."""
    position = record.position
    segment_id = position.segment_id
    summary = hints.read_summary(FileBytes(files, fd), segment_id, opens=False)
    if summary is None:
        return None
    trailer = summary.trailer
    footer = files.pread(fd, trailer.hint_end - trailer.tail, trailer.tail)
    at = len(hints.FOOTER_HEAD)
    for _ in range(trailer.record_count):
        head = unpack_head(footer, at, segment_id)
        end = at + head.position.head_bytes
        if (head.position.offset, head.sequence, head.key) == (position.offset, record.sequence, record.key):
            return footer[at:end]
        at = end
    return None
