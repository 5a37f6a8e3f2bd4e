"""What becomes of a segment whose writer died before sealing it.

Does not know the index: the caller says from where on the records are news to it. Run on one segment at a time, by
whoever keeps the archive; run twice it does the same again.

    its writer is alive (it holds the file's lock)      left alone, StorageError
    sealed                                              left as it is; its records come from the hints
    no record and no damage                             the file is removed: a spare, or a stream that was cut off
    no readable header, and something written           set aside as <name>.damaged, reported
    anything else                                       cut after the last whole record, sealed

Payloads are verified from `start_offset` on: what the index has was synced before. Never cut: a place before
`start_offset`, and anything that a whole record follows. Those are damage; whether it is a hole left by a power cut in
writes that were never synced, or the loss of bytes that were safe, the `synced_bytes` of the later records tell.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from engine.errors import CorruptRecord, StorageError, StorageFull
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.record import Record, padded
from engine.storage.segment import (
    FIRST_RECORD,
    Damage,
    SegmentHeader,
    Walk,
    read_segment_header,
    segment_path,
)


class Recovery(NamedTuple):
    """What was found in one segment."""

    records: list[Record]
    """The whole records at `start_offset` and after."""
    written_bytes: int
    """Where the records end now; 0 when the file was removed or set aside."""
    damage: tuple[Damage, ...] = ()
    """Everything in the segment that is neither record nor torn tail."""
    torn: str = ""
    """What was wrong with the tail that was cut; empty if it ended cleanly."""
    sealed: bool = True
    """False: not asked for, or no room for the footer."""


def is_owned(files: Files, directory: str, segment_id: int) -> bool:
    """Whether a living writer holds this segment; False too if it is gone."""
    try:
        fd = files.open(segment_path(directory, segment_id), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return not files.lock(fd)
    finally:
        files.close(fd)


def recover_segment(files: Files, directory: str, segment_id: int, start_offset: int, *, seal: bool = True) -> Recovery:
    """Brings one segment into order; see the module's table.

    Raises StorageError when a living writer holds it, StorageFailed when the disk does.
    """
    path = segment_path(directory, segment_id)
    try:
        fd = files.open(path, os.O_RDWR)
    except FileNotFoundError:
        lost = start_offset > FIRST_RECORD
        damage = (Damage(segment_id, 0, start_offset, "the segment file is gone"),) if lost else ()
        return Recovery([], 0, damage, sealed=False)
    except OSError as error:
        raise StorageError(f"segment {segment_id:016x} cannot be opened: {error.strerror}") from error
    try:
        if not files.lock(fd):
            raise StorageError(f"segment {segment_id:016x} has a living writer")
        try:
            summary = hints.read_summary(files, fd, segment_id)
        except CorruptRecord:
            return _reseal(files, fd, segment_id, start_offset)
        if summary is not None:
            records = [record for record in summary.records if record.position.offset >= start_offset]
            return Recovery(records, summary.trailer.tail, tuple(summary.damage))
        try:
            header = read_segment_header(files, fd, segment_id)
        except CorruptRecord as error:
            return _without_header(files, fd, directory, path, error, start_offset)
        return _recover(files, fd, directory, path, header, start_offset, seal=seal)
    finally:
        files.close(fd)


def _recover(
    files: Files, fd: int, directory: str, path: str, header: SegmentHeader, start_offset: int, *, seal: bool
) -> Recovery:
    """An unsealed segment with a good header."""
    found = _survey(files, fd, header, start_offset, files.size(fd))
    if not found.heads and not found.damage:
        files.unlink(path)
        files.sync_directory(directory)
        return Recovery([], 0, torn=found.torn)
    files.fdatasync(fd)
    sealed = seal and _seal(files, fd, header, found)
    if not sealed:
        files.truncate(fd, found.tail)
        files.fdatasync(fd)
    files.sync_directory(directory)
    return Recovery(found.news(start_offset), found.tail, tuple(found.damage), found.torn, sealed)


def _reseal(files: Files, fd: int, segment_id: int, start_offset: int) -> Recovery:
    """A sealed segment whose footer is damaged: its records are all there, its footer is made again."""
    trailer = hints.read_trailer(files, fd, segment_id)
    if trailer is None:
        raise StorageError(f"segment {segment_id:016x} changes while it is recovered")
    try:
        header = read_segment_header(files, fd, segment_id)
    except CorruptRecord:
        header = trailer.header()
    found = _survey(files, fd, header, max(start_offset, trailer.tail), trailer.tail)
    sealed = _seal(files, fd, header, found)
    return Recovery(found.news(start_offset), found.tail, tuple(found.damage), sealed=sealed)


def _seal(files: Files, fd: int, header: SegmentHeader, found: _Survey) -> bool:
    """Writes the footer; False when the disk has no room for it."""
    try:
        hints.seal(files, fd, header, found.tail, found.heads, found.payload_bytes, found.damage)
    except StorageFull:
        return False
    return True


def _without_header(
    files: Files, fd: int, directory: str, path: str, error: CorruptRecord, start_offset: int
) -> Recovery:
    """Without a header there is no seed, and no record can be told from noise."""
    if start_offset <= FIRST_RECORD and not _holds_data(files, fd):
        files.unlink(path)
        files.sync_directory(directory)
        return Recovery([], 0, torn=str(error))
    damage = Damage(error.segment_id, 0, files.size(fd), str(error), start_offset > FIRST_RECORD)
    files.rename(path, f"{path}.damaged")
    files.sync_directory(directory)
    return Recovery([], 0, (damage,), sealed=False)


def _holds_data(files: Files, fd: int) -> bool:
    """Whether anything but zeros lies behind the header block."""
    files.expect_random(fd)
    size = files.size(fd)
    offset = FIRST_RECORD
    while offset < size:
        offset = max(offset, files.next_data(fd, offset))
        length = min(1 << 20, max(files.next_hole(fd, offset) - offset, 1))
        try:
            chunk = files.pread(fd, length, offset)
        except OSError:
            return True
        if chunk.strip(b"\0"):
            return True
        offset += max(len(chunk), 1)
    return False


class _Survey(NamedTuple):
    """What a walk over a whole segment gave."""

    records: list[Record]
    heads: list[bytes]
    damage: list[Damage]
    tail: int
    torn: str
    payload_bytes: int

    def news(self, start_offset: int) -> list[Record]:
        return [record for record in self.records if record.position.offset >= start_offset]


def _survey(files: Files, fd: int, header: SegmentHeader, start_offset: int, end: int) -> _Survey:
    """Walks from the first record, verifies payloads from `start_offset`, and judges what it finds."""
    walk = Walk(files, fd, header, end=end, verify_payload=True, verify_from=start_offset)
    records: list[Record] = []
    heads: list[bytes] = []
    damage: list[Damage] = []
    for item in walk:
        if isinstance(item, Damage):
            damage.append(item)
        else:
            records.append(item)
            heads.append(walk.head)
    tail = walk.tail
    torn = walk.torn
    known = min(padded(start_offset), end)
    if tail < known:
        # The index has records from here: they were whole once, so nothing of this may be cut.
        damage.append(Damage(header.segment_id, tail, known - tail, torn or "zeros where records were"))
        tail = known
        torn = ""
    synced = max((record.synced_bytes for record in records), default=0)
    synced = max(synced, start_offset)
    damage = [
        Damage(found.segment_id, found.offset, found.length_bytes, found.reason, found.offset < synced)
        for found in damage
    ]
    payload_bytes = sum(record.position.payload_length for record in records)
    return _Survey(records, heads, damage, tail, torn, payload_bytes)
