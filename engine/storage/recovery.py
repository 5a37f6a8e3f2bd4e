"""What becomes of a segment whose writer died before sealing it.

Does not know the index: the caller says from where on the records are news to it. Run on one segment at a time, by
whoever keeps the archive; run twice it does the same again.

    its writer is alive (it holds the file's lock)      left alone, StorageError
    sealed                                              left as it is; its records come from the hints
    no record and no damage                             the file is removed: a spare, or a stream that was cut off
    the disk does not read a part of it                 left as it is, reported; what could be read is told
    no valid header, and something written              set aside as <name>.damaged, reported
    anything else                                       cut after the last whole record, sealed

Payloads are verified from `start_offset` on: what the index has was synced before. They are read from the disk: after a
sync that failed the page cache shows what the disk has not, as if it had (Rebello et al., ATC'20). Never cut: a place
before `start_offset`, and anything that a whole record follows. Those are damage; whether it is a hole left by a power
cut in writes that were never synced, or the loss of bytes that were safe, the `synced_bytes` of the later records tell.
"""

from __future__ import annotations

import errno
import os
from typing import NamedTuple

from engine.errors import CorruptRecord, StorageError, StorageFull
from engine.storage import hints
from engine.storage.files import Files, raise_write_error
from engine.storage.record import MAGIC, Record, padded
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
    """Where the records end now; 0 when the file was removed, set aside or left as it is."""
    damage: tuple[Damage, ...] = ()
    """Everything in the segment that is neither record nor torn tail."""
    torn: str = ""
    """What was wrong with the tail that was cut; empty if it ended cleanly."""
    sealed: bool = True
    """False: not asked for, or no room for the footer."""


def is_owned(files: Files, directory: str, segment_id: int) -> bool:
    """Whether a living writer holds this segment; False too if it is gone. Raises StorageError, StorageFull."""
    try:
        fd = _open(files, directory, segment_id)
    except FileNotFoundError:
        return False
    try:
        return not files.lock(fd)
    finally:
        files.close(fd)


def _open(files: Files, directory: str, segment_id: int) -> int:
    """Raises FileNotFoundError; StorageFull when it is us who lack something, StorageError for other reasons."""
    try:
        return files.open(segment_path(directory, segment_id), os.O_RDWR)
    except FileNotFoundError:
        raise
    except OSError as error:
        doing = f"segment {segment_id:016x} cannot be opened"
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise_write_error(error, doing)
        raise StorageError(f"{doing}: {error.strerror}") from error


def recover_segment(files: Files, directory: str, segment_id: int, start_offset: int, *, seal: bool = True) -> Recovery:
    """Brings one segment into order; see the module's table.

    Raises StorageError when a living writer holds it or the disk does not read it, StorageFull or StorageFailed.
    """
    path = segment_path(directory, segment_id)
    try:
        fd = _open(files, directory, segment_id)
    except FileNotFoundError:
        lost = start_offset > FIRST_RECORD
        damage = (Damage(segment_id, 0, start_offset, "the segment file is gone"),) if lost else ()
        return Recovery([], 0, damage, sealed=False)
    try:
        if not files.lock(fd):
            raise StorageError(f"segment {segment_id:016x} has a living writer")
        # After a sync that failed the page cache shows clean pages that the disk has not got: the disk is asked.
        files.drop_cache(fd)
        try:
            summary = hints.read_summary(files, fd, segment_id)
        except CorruptRecord as error:
            _raise_unreadable(error)
            return _reseal(files, fd, segment_id, start_offset)
        if summary is not None:
            records = [record for record in summary.records if record.position.offset >= start_offset]
            return Recovery(records, summary.trailer.tail, tuple(summary.damage))
        try:
            header = read_segment_header(files, fd, segment_id)
        except CorruptRecord as error:
            _raise_unreadable(error)
            return _without_header(files, fd, directory, path, error, start_offset)
        return _recover(files, fd, directory, path, header, start_offset, seal=seal)
    finally:
        files.close(fd)


def read_segment(files: Files, directory: str, segment_id: int, start_offset: int) -> Recovery:
    """What is whole in a segment from `start_offset` on, for who only reads this log: nothing is written or removed.

    Takes no lock. What follows the last whole record may be on its way still, and is not judged.
    """
    try:
        fd = files.open(segment_path(directory, segment_id), os.O_RDONLY)
    except FileNotFoundError:
        return Recovery([], 0, sealed=False)
    except OSError as error:
        raise StorageError(f"segment {segment_id:016x} cannot be opened: {error.strerror}") from error
    try:
        trailer = hints.read_trailer(files, fd, segment_id)
        if trailer is None:
            return _read_unsealed(files, fd, segment_id, start_offset)
        try:
            summary = hints.read_summary(files, fd, segment_id)
        except CorruptRecord:
            summary = None
        if summary is not None:
            records = [record for record in summary.records if record.position.offset >= start_offset]
            return Recovery(records, summary.trailer.tail, tuple(summary.damage))
        return _read_records(files, fd, trailer.header(), start_offset, trailer.tail)._replace(sealed=True)
    finally:
        files.close(fd)


def _read_unsealed(files: Files, fd: int, segment_id: int, start_offset: int) -> Recovery:
    try:
        start = files.pread(fd, len(MAGIC), start_offset)
        if start != MAGIC and not start.strip(b"\0"):
            return Recovery([], start_offset, sealed=False)  # nothing new; not worth a look at the zeros behind
        header = read_segment_header(files, fd, segment_id)
        return _read_records(files, fd, header, start_offset, files.size(fd))
    except OSError as error:
        raise StorageError(f"segment {segment_id:016x} cannot be read: {error.strerror}") from error


def _read_records(files: Files, fd: int, header: SegmentHeader, start_offset: int, end: int) -> Recovery:
    walk = Walk(files, fd, header, start_offset, end=end, verify_payload=True)
    records: list[Record] = []
    damage: list[Damage] = []
    for item in walk:
        if isinstance(item, Damage):
            damage.append(item)
        else:
            records.append(item)
    return Recovery(records, walk.tail, tuple(damage), sealed=False)


def _recover(
    files: Files, fd: int, directory: str, path: str, header: SegmentHeader, start_offset: int, *, seal: bool
) -> Recovery:
    """An unsealed segment with a good header."""
    found = _survey(files, fd, header, start_offset, files.size(fd))
    if found.unreadable:
        return found.left_alone(header.segment_id, start_offset)
    if not found.heads and not found.damage:
        files.unlink(path)
        files.sync_directory(directory)
        return Recovery([], 0, torn=found.torn)
    _mend_header(files, fd, header)
    files.fdatasync(fd)
    sealed = seal and _seal(files, fd, header, found)
    if not sealed:
        files.truncate(fd, found.tail)
        files.fdatasync(fd)
    files.sync_directory(directory)
    return Recovery(found.news(start_offset), found.tail, tuple(found.damage), found.torn, sealed)


def _mend_header(files: Files, fd: int, header: SegmentHeader) -> None:
    """Writes the copy of the header anew that a power cut has torn; the other one is left alone."""
    try:
        found = files.pread(fd, FIRST_RECORD, 0)
    except OSError as error:
        raise StorageError(f"segment {header.segment_id:016x} is left as it is: {error.strerror}") from error
    half = FIRST_RECORD // 2
    good = header.encode()[:half]
    if found[:half] != found[half:] and good in (found[:half], found[half:]):
        files.pwritev(fd, [good], half if found[:half] == good else 0)


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
    if found.unreadable:
        return found.left_alone(segment_id, start_offset)
    sealed = _seal(files, fd, header, found)
    return Recovery(found.news(start_offset), found.tail, tuple(found.damage), sealed=sealed)


def _seal(files: Files, fd: int, header: SegmentHeader, found: _Survey) -> bool:
    """Writes the footer; False when the disk has no room for it."""
    try:
        hints.seal(files, fd, header, found.tail, found.heads, found.payload_bytes, found.damage)
    except StorageFull:
        return False
    return True


def _raise_unreadable(error: CorruptRecord) -> None:
    """What the disk does not read now may be whole: nothing is decided about it."""
    if isinstance(error.__cause__, OSError):
        raise StorageError(f"segment {error.segment_id:016x} is left as it is: {error}") from error


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
    unreadable: str

    def news(self, start_offset: int) -> list[Record]:
        return [record for record in self.records if record.position.offset >= start_offset]

    def left_alone(self, segment_id: int, start_offset: int) -> Recovery:
        """What could be read; the rest is neither cut nor sealed, and tried again another time."""
        damage = (*self.damage, Damage(segment_id, self.tail, 0, self.unreadable))
        return Recovery(self.news(start_offset), 0, damage, sealed=False)


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
    return _Survey(records, heads, damage, tail, torn, payload_bytes, walk.unreadable)
