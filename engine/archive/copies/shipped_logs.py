"""The segments of all logs of an archive in one row of numbers, for replicas and the bucket.

    slot        log
    0 … FFFD    the archive's own: the segment's id as it is
    FFFE        DATA/hospital/state: patients and orders; the counter is the segment's id there
    FFFF        DATA/hospital/journal: messages; likewise

Over the network a replica lists LOGS_TAKEN, which is no segment, among what it holds if it takes the other logs:
version 0.2 does not, and would take these numbers for segments of images. As source it would remove what it does not
know; so a source that ships all logs says so, and for others a replica removes none of these. The salt of LOGS_TAKEN is
AUDIT_TAKEN if the replica takes audit logs too (`shipped_audit`), its length SYNCS_TAKEN if it makes records durable
for those who wait (`replica.Replica.sync`).

What is shipped in the order of these numbers is never without what it needs: what a message did is noted after the
registry has it. So look at them in the opposite order: that way, no note is found whose effect came after the look.
"""

from __future__ import annotations

from pathlib import Path

from engine.archive.copies import extent
from engine.archive.copies.manifest import IMAGES, MESSAGES, STATE
from engine.storage.files import Files
from engine.storage.segment import list_segments, segment_path
from engine.storage.segment_bytes import SegmentFile
from engine.storage.segment_ids import COUNTER_MAX, SLOT_MAX, id_in_log, segment_id_of, slot_of
from engine.storage.segment_store import LocalSegments

_LOGS = {SLOT_MAX + 1: STATE, SLOT_MAX + 2: MESSAGES}
LOGS_TAKEN = segment_id_of(SLOT_MAX + 2, COUNTER_MAX)
AUDIT_TAKEN = 1
SYNCS_TAKEN = 1


def log_of(number: int) -> str:
    """The log of a segment."""
    return _LOGS.get(slot_of(number), IMAGES)


def is_image_log(number: int) -> bool:
    """Whether a segment is of the archive's own log."""
    return slot_of(number) <= SLOT_MAX


def id_of(number: int) -> int:
    """The id that a segment has in its own log."""
    return id_in_log(number)


def path_of(data: Path, number: int) -> str:
    """The file of a segment."""
    return segment_path(str(data / log_of(number)), id_of(number))


def held(data: Path, files: Files) -> list[int]:
    """All segments of a replica, ascending."""
    numbers = list_segments(str(data / IMAGES), files)
    for slot, log in _LOGS.items():
        if files.exists(str(data / log)):
            numbers += [segment_id_of(slot, each) for each in list_segments(str(data / log), files)]
    return numbers


def stable(data: Path, files: Files, *, has_hospital: bool) -> list[int]:
    """All segments of a source, ascending (`extent.stable_segments`); listed in the opposite order."""
    numbers: list[int] = []
    for slot, log in reversed(_LOGS.items()) if has_hospital else ():
        if files.exists(str(data / log)):
            numbers += [segment_id_of(slot, each) for each in extent.stable_segments(str(data / log), files)]
    return sorted(numbers + extent.stable_segments(str(data / IMAGES), files))


class AllLogs:
    """The files of all logs of an archive, by number."""

    def __init__(self, data: Path, files: Files) -> None:
        self._data = data
        self._files = files
        self._stores = {log: LocalSegments(str(data / log), files) for log in (IMAGES, *_LOGS.values())}

    def numbers(self) -> list[int]:
        """All segments, ascending (`stable`)."""
        return stable(self._data, self._files, has_hospital=True)

    def open(self, number: int, *, salt: int | None = None) -> SegmentFile:
        """A segment's bytes. Raises as `LocalSegments.open`."""
        return self._stores[log_of(number)].open(id_of(number), salt=salt)
