"""Recovery: repairs and seals a segment whose writer died before it sealed it.

It does not know the index: the caller passes the offset of the first record that is new to the index. The archive's
keeper runs it, on one segment at a time. A second run gives the same result.

    its writer is alive (it holds the file's lock)      left alone, StorageError
    sealed                                              left as it is; its records come from the hints
    was sealed, as the caller knows (`Sealed`)          whole records are kept, the rest is reported; sealed where its
                                                        records ended: nothing is cut, nothing removed
    its writer has sealed a later one, and the list     the same, up to the end of the file
    of sealed segments is not whole
    its header has another segment's number             `restore_names` renames it; else set aside, reported
    no record and no damage                             the file is removed: a spare, or a stream that was cut off
    the disk cannot read a part of it                   left as it is, reported; the readable records are returned
    no valid header, but data                           set aside as <name>.damaged, reported
    anything else                                       cut after the last whole record, sealed

Payloads are verified from `start_offset` on: earlier ones were synced before the index had them. They are read from the
disk: after a failed sync the page cache may show pages that the disk lacks (Rebello et al., ATC'20). Never cut before
`start_offset`, nor before a whole record: bad bytes there are damage. The `synced_bytes` of later records tell a hole
that a power cut left in unsynced writes from the loss of bytes that were safe.

The caller passes the sealed segments that it knows from elsewhere (`SealedSegments`). If that list is not whole, a file
without a whole record may have been sealed: it is set aside, not removed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from engine.errors import CorruptRecord, StorageError, StorageFull
from engine.storage import hints
from engine.storage.files import Files, raise_write_error
from engine.storage.record import MAGIC, Record, padded
from engine.storage.segment import (
    FIRST_RECORD,
    LAYOUT_LOG,
    Damage,
    SegmentHeader,
    Walk,
    own_id,
    read_segment_header,
    segment_path,
)
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_ids import slot_of


class Sealed(NamedTuple):
    """Facts about a sealed segment from a source other than its own file."""

    segment_id: int
    archive_id: bytes
    salt: int
    """-1: not known."""
    tail: int
    """The end of its records."""
    records: int
    """-1: not known."""
    layout: int

    def header(self) -> SegmentHeader | None:
        """The segment's header with the fields that are known here; None without the salt."""
        if self.salt < 0:
            return None
        return SegmentHeader(self.segment_id, self.archive_id, self.salt, 0, "", self.layout)

    def loss(self, found_count: int) -> str:
        """Names the number of lost records if so many were found; empty if none is lost."""
        if self.records < 0 or found_count >= self.records:
            return ""
        return f"{self.records - found_count} of its {self.records} records are lost"


class SealedSegments(NamedTuple):
    """Facts about all sealed segments."""

    by_id: Mapping[int, Sealed]
    is_whole: bool
    """False: others may have been sealed too."""


NONE_SEALED = SealedSegments({}, is_whole=True)
"""For a log whose sealed segments all have their footers."""


class Recovery(NamedTuple):
    """The result of recovering one segment."""

    records: list[Record]
    """The whole records from `start_offset` on."""
    written_bytes: int
    """The end of the records; 0 if the file was removed, set aside or left as it is."""
    damage: tuple[Damage, ...] = ()
    """Everything in the segment that is neither a record nor the torn tail."""
    torn: str = ""
    """The fault of the tail that was cut; empty if it ended cleanly."""
    sealed: bool = True
    """False: not requested, or no room for the footer."""
    is_final: bool = True
    """False: the disk could not read a part, and may be able to later."""


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
    """Raises FileNotFoundError; StorageFull if this process lacks descriptors or memory, else StorageError."""
    try:
        return files.open(segment_path(directory, segment_id), os.O_RDWR)
    except FileNotFoundError:
        raise
    except OSError as error:
        doing = f"segment {segment_id:016x} cannot be opened"
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise_write_error(error, doing)
        raise StorageError(f"{doing}: {error.strerror}") from error


def recover_segment(
    files: Files,
    directory: str,
    segment_id: int,
    start_offset: int,
    *,
    seal: bool = True,
    sealed_segments: SealedSegments = NONE_SEALED,
    has_sealed_later: Callable[[], bool] = lambda: False,
) -> Recovery:
    """Recovers one segment; see the module's table. `has_sealed_later`: whether its writer has sealed a later one.

    Raises StorageError if a living writer holds it or the disk cannot read it, StorageFull or StorageFailed.
    """
    path = segment_path(directory, segment_id)
    sealed = sealed_segments.by_id.get(segment_id)
    try:
        fd = _open(files, directory, segment_id)
    except FileNotFoundError:
        lost = start_offset > FIRST_RECORD or sealed is not None
        reason = _with_loss("the segment file is missing", sealed, 0)
        damage = (Damage(segment_id, 0, start_offset, reason),) if lost else ()
        return Recovery([], 0, damage, sealed=False)
    try:
        if not files.lock(fd):
            raise StorageError(f"segment {segment_id:016x} has a living writer")
        # After a failed sync the page cache shows clean pages that the disk lacks: read from the disk.
        files.drop_cache(fd)
        try:
            summary = hints.read_summary(FileBytes(files, fd), segment_id)
        except CorruptRecord as error:
            _raise_unreadable(error)
            return _reseal(files, fd, segment_id, start_offset)
        if summary is not None:
            records = [record for record in summary.records if record.position.offset >= start_offset]
            return Recovery(records, summary.trailer.tail, (*summary.damage, *_other_file(summary, sealed)))
        try:
            header = read_segment_header(FileBytes(files, fd), segment_id)
        except CorruptRecord as error:
            _raise_unreadable(error)
            number = own_id(FileBytes(files, fd)) if sealed is not None else None
            known_header = sealed.header() if sealed is not None and number in (None, segment_id) else None
            if known_header is None:
                may_go = sealed_segments.is_whole and sealed is None
                return _without_header(files, fd, directory, path, error, start_offset, may_go=may_go)
            files.pwritev(fd, [known_header.encode()], 0)
            header = known_header
        if sealed is not None and sealed.salt not in (-1, header.salt):
            # Another file of the same number: keep all of it.
            sealed_segments, is_last = sealed_segments._replace(by_id={}), False
        else:
            is_last = sealed is None and (sealed_segments.is_whole or not has_sealed_later())
        return _recover(
            files,
            fd,
            directory,
            path,
            header,
            start_offset,
            seal=seal,
            sealed_segments=sealed_segments,
            is_last=is_last,
        )
    finally:
        files.close(fd)


def _other_file(summary: hints.Summary, sealed: Sealed | None) -> list[Damage]:
    """The damage of a whole sealed segment that is not the one that was sealed under this number."""
    trailer = summary.trailer
    if sealed is None or (sealed.salt in (-1, trailer.salt) and sealed.tail == trailer.tail):
        return []
    reason = _with_loss("not the segment that was sealed under this number", sealed, trailer.record_count)
    return [Damage(trailer.segment_id, 0, 0, reason)]


def _with_loss(reason: str, sealed: Sealed | None, found_count: int) -> str:
    loss = sealed.loss(found_count) if sealed is not None else ""
    return f"{reason}; {loss}" if loss else reason


def has_sealed_later(files: Files, directory: str, segment_id: int, present: Iterable[int]) -> bool:
    """Whether the writer of a segment has sealed a later one, which it does only after it has sealed this one.

    A recovery may have skipped this one and sealed the other, so this is no proof, but reason enough not to cut.
    """
    writer = _writer_of(files, directory, segment_id, must_be_sealed=False)
    return bool(writer) and any(
        later > segment_id
        and slot_of(later) == slot_of(segment_id)
        and _writer_of(files, directory, later, must_be_sealed=True) == writer
        for later in present
    )


def _writer_of(files: Files, directory: str, segment_id: int, *, must_be_sealed: bool) -> str:
    """The label in a segment's header; empty if it cannot be read, and for a streamed object."""
    try:
        fd = files.open(segment_path(directory, segment_id), os.O_RDONLY)
    except OSError:
        return ""
    try:
        if must_be_sealed and hints.read_trailer(FileBytes(files, fd), segment_id) is None:
            return ""
        header = read_segment_header(FileBytes(files, fd), segment_id)
    except (CorruptRecord, OSError):
        return ""
    finally:
        files.close(fd)
    return header.writer if header.layout == LAYOUT_LOG else ""


def restore_names(files: Files, directory: str, segment_ids: Iterable[int]) -> list[tuple[int, int]]:
    """Renames files whose headers have another segment's number to that segment's name, if the name is free.

    Returns pairs of old and new number. Works in two steps, so that two files may change places, and finishes what a
    crash has left between the steps. Raises StorageFailed or StorageFull.
    """
    renamed: list[tuple[int, int]] = []
    for segment_id in segment_ids:
        path = segment_path(directory, segment_id)
        try:
            fd = files.open(path, os.O_RDWR)
        except OSError:
            continue
        try:
            own = own_id(FileBytes(files, fd)) if files.lock(fd) else None
        except StorageError:
            continue
        finally:
            files.close(fd)
        if own is not None and own != segment_id:
            files.rename(path, f"{segment_path(directory, own)}.moved")
            renamed.append((segment_id, own))
    try:
        temporary_names = [name for name in files.list_directory(directory) if name.endswith(".seg.moved")]
    except OSError as error:
        raise_write_error(error, f"list {directory}")
    for name in temporary_names:
        target = f"{directory}/{name.removesuffix('.moved')}"
        files.rename(f"{directory}/{name}", f"{target}.damaged" if files.exists(target) else target)
    if renamed or temporary_names:
        files.sync_directory(directory)
    return renamed


def read_segment(files: Files, directory: str, segment_id: int, start_offset: int) -> Recovery:
    """Reads the whole records of a segment from `start_offset` on; writes and removes nothing.

    Takes no lock. Ignores the bytes after the last whole record, which may still be being written.
    """
    try:
        fd = files.open(segment_path(directory, segment_id), os.O_RDONLY)
    except FileNotFoundError:
        return Recovery([], 0, sealed=False)
    except OSError as error:
        raise StorageError(f"segment {segment_id:016x} cannot be opened: {error.strerror}") from error
    try:
        trailer = hints.read_trailer(FileBytes(files, fd), segment_id)
        if trailer is None:
            return _read_unsealed(files, fd, segment_id, start_offset)
        try:
            summary = hints.read_summary(FileBytes(files, fd), segment_id)
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
            return Recovery([], start_offset, sealed=False)  # nothing new; skip the zeros after it
        header = read_segment_header(FileBytes(files, fd), segment_id)
        return _read_records(files, fd, header, start_offset, files.size(fd))
    except OSError as error:
        raise StorageError(f"segment {segment_id:016x} cannot be read: {error.strerror}") from error


def _read_records(files: Files, fd: int, header: SegmentHeader, start_offset: int, end: int) -> Recovery:
    walk = Walk(FileBytes(files, fd), header, start_offset, end=end, verify_payload=True)
    records: list[Record] = []
    damage: list[Damage] = []
    for item in walk:
        if isinstance(item, Damage):
            damage.append(item)
        else:
            records.append(item)
    return Recovery(records, walk.tail, tuple(damage), sealed=False)


def _recover(
    files: Files,
    fd: int,
    directory: str,
    path: str,
    header: SegmentHeader,
    start_offset: int,
    *,
    seal: bool,
    sealed_segments: SealedSegments,
    is_last: bool,
) -> Recovery:
    """Recovers a segment without a footer and with a good header. `is_last`: it was certainly not sealed."""
    sealed = sealed_segments.by_id.get(header.segment_id)
    survey = _survey(files, fd, header, start_offset, files.size(fd), sealed)
    if survey.unreadable:
        return survey.unfinished(header.segment_id, start_offset)
    if sealed is None and not is_last:
        survey = survey.uncut(header.segment_id, files.size(fd))
    if not survey.heads and not survey.damage:
        if not sealed_segments.is_whole and (survey.torn or _holds_data(files, fd)):
            return _set_aside(files, fd, directory, path, header.segment_id, survey.torn or "no whole record")
        files.unlink(path)
        files.sync_directory(directory)
        return Recovery([], 0, torn=survey.torn)
    _mend_header(files, fd, header)
    files.fdatasync(fd)
    is_sealed = seal and _seal(files, fd, header, survey)
    if not is_sealed and is_last:
        files.truncate(fd, survey.tail)
        files.fdatasync(fd)
    files.sync_directory(directory)
    return Recovery(survey.records_from(start_offset), survey.tail, tuple(survey.damage), survey.torn, is_sealed)


def _mend_header(files: Files, fd: int, header: SegmentHeader) -> None:
    """Rewrites a copy of the header that a power cut has torn, and leaves the other one alone."""
    try:
        block = files.pread(fd, FIRST_RECORD, 0)
    except OSError as error:
        raise StorageError(f"segment {header.segment_id:016x} is left as it is: {error.strerror}") from error
    half = FIRST_RECORD // 2
    good = header.encode()[:half]
    if block[:half] != block[half:] and good in (block[:half], block[half:]):
        files.pwritev(fd, [good], half if block[:half] == good else 0)


def _reseal(files: Files, fd: int, segment_id: int, start_offset: int) -> Recovery:
    """Recovers a sealed segment with a damaged footer: makes the footer again from the records."""
    trailer = hints.read_trailer(FileBytes(files, fd), segment_id)
    if trailer is None:
        raise StorageError(f"segment {segment_id:016x} changes while it is recovered")
    try:
        header = read_segment_header(FileBytes(files, fd), segment_id)
    except CorruptRecord:
        header = trailer.header()
    survey = _survey(files, fd, header, max(start_offset, trailer.tail), trailer.tail)
    if survey.unreadable:
        return survey.unfinished(segment_id, start_offset)
    sealed = _seal(files, fd, header, survey)
    return Recovery(survey.records_from(start_offset), survey.tail, tuple(survey.damage), sealed=sealed)


def _seal(files: Files, fd: int, header: SegmentHeader, survey: _Survey) -> bool:
    """Writes the footer; False if the disk has no room for it."""
    try:
        hints.seal(files, fd, header, survey.tail, survey.heads, survey.payload_bytes, survey.damage)
    except StorageFull:
        return False
    return True


def _raise_unreadable(error: CorruptRecord) -> None:
    """Raises StorageError after a read error: the bytes may be whole, so decide nothing about them."""
    if isinstance(error.__cause__, OSError):
        raise StorageError(f"segment {error.segment_id:016x} is left as it is: {error}") from error


def _without_header(
    files: Files, fd: int, directory: str, path: str, error: CorruptRecord, start_offset: int, *, may_go: bool
) -> Recovery:
    """Removes or sets aside a segment without a header: without the seed, no record can be told from noise."""
    if may_go and start_offset <= FIRST_RECORD and not _holds_data(files, fd):
        files.unlink(path)
        files.sync_directory(directory)
        return Recovery([], 0, torn=str(error))
    was_synced = start_offset > FIRST_RECORD or not may_go
    return _set_aside(files, fd, directory, path, error.segment_id, str(error), was_synced)


def _set_aside(
    files: Files, fd: int, directory: str, path: str, segment_id: int, reason: str, was_synced: bool = True
) -> Recovery:
    damage = Damage(segment_id, 0, files.size(fd), reason, was_synced)
    files.rename(path, f"{path}.damaged")
    files.sync_directory(directory)
    return Recovery([], 0, (damage,), sealed=False)


def _holds_data(files: Files, fd: int) -> bool:
    """Whether anything but zeros follows the header block."""
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
    """The result of a walk over a whole segment."""

    records: list[Record]
    heads: list[bytes]
    damage: list[Damage]
    tail: int
    torn: str
    payload_bytes: int
    unreadable: str

    def records_from(self, start_offset: int) -> list[Record]:
        return [record for record in self.records if record.position.offset >= start_offset]

    def unfinished(self, segment_id: int, start_offset: int) -> Recovery:
        """The readable records; the rest is neither cut nor sealed, and another recovery tries again."""
        damage = (*self.damage, Damage(segment_id, self.tail, 0, self.unreadable))
        return Recovery(self.records_from(start_offset), 0, damage, sealed=False, is_final=False)

    def uncut(self, segment_id: int, file_bytes: int) -> _Survey:
        """The survey of a segment that must have been longer, by an unknown length: nothing is cut."""
        tail = padded(file_bytes) if self.torn else self.tail
        reason = f"{self.torn or 'no footer'}, though its writer has sealed a later segment: what followed is lost"
        damage = [*self.damage, Damage(segment_id, self.tail, tail - self.tail, reason)]
        return self._replace(damage=damage, tail=tail, torn="")


def _survey(
    files: Files, fd: int, header: SegmentHeader, start_offset: int, end: int, sealed: Sealed | None = None
) -> _Survey:
    """Walks from the first record, and verifies payloads from `start_offset` on."""
    walk_end = end if sealed is None else sealed.tail
    walk = Walk(FileBytes(files, fd), header, end=walk_end, verify_payload=True, verify_from=start_offset)
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
    known_end = min(padded(start_offset), end) if sealed is None else sealed.tail
    if tail < known_end:
        # The index has records from here, or they were sealed: they were whole once, so cut nothing.
        reason = "the file ends before its records do" if end <= tail else torn or "zeros where records were"
        damage.append(Damage(header.segment_id, tail, known_end - tail, _with_loss(reason, sealed, len(records))))
        tail = known_end
        torn = ""
    synced = max((record.synced_bytes for record in records), default=0)
    synced = max(synced, start_offset, 0 if sealed is None else sealed.tail)
    damage = [
        Damage(piece.segment_id, piece.offset, piece.length_bytes, piece.reason, piece.offset < synced)
        for piece in damage
    ]
    payload_bytes = sum(record.position.payload_length for record in records)
    return _Survey(records, heads, damage, tail, torn, payload_bytes, walk.unreadable)
