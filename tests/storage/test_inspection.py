"""engine.storage.inspection: reads the disk, leaves the page cache as it was, goes past sectors that cannot be read."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine.storage.files import Files
from engine.storage.inspection import PIECE_BYTES, Fault, Inspection, Part
from engine.storage.record import Kind, Position, crc32c
from engine.storage.segment_log import SegmentLog
from engine.storage.segment_store import LocalSegments
from tests.faulty_files import FaultyFiles


class Watched(Files):
    """Says of what is cached what a test wants, and writes down what is read and dropped."""

    __slots__ = ("cached_below", "calls")

    def __init__(self) -> None:
        self.cached_below = 0
        """Bytes before this offset are in the page cache."""
        self.calls: list[tuple[str, int]] = []

    def preadv_cached(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return super().preadv(fd, buffers, offset) if offset < self.cached_below else 0

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self.calls.append(("read", offset))
        return super().preadv(fd, buffers, offset)

    def drop_cache_range(self, fd: int, offset: int, length: int) -> None:
        self.calls.append(("drop", offset))


def filled(directory: Path, *sizes: int, sealed: bool = True) -> list[Position]:
    """A segment with records of these payload lengths; where they lie."""
    log = SegmentLog(str(directory), Files(), bytes(16), writer="test", segment_bytes=8 << 20)
    places = []
    for number, size in enumerate(sizes):
        payload = bytes([number + 1]) * size
        key = f"1.2.{number}".encode()
        places.append(log.append(Kind.INSTANCE, 0, number, key, b"meta", [payload], size, crc32c(payload)))
    log.sync()
    if sealed:
        log.close()
    return places


def inspected(
    directory: Path, files: Files, place: Position, *, start: int = 0, mark: int = 1 << 40, sealed: bool = True
) -> tuple[list[Fault], int, int]:
    """Faults, bytes read and records counted."""
    inspection = Inspection(
        LocalSegments(str(directory), files).open(place.segment_id),
        place.segment_id,
        start_offset=start,
        mark_bytes=mark,
        is_sealed=sealed,
    )
    steps = list(inspection.steps())
    faults = [fault for step in steps for fault in step.faults]
    return faults, sum(step.read_bytes for step in steps), sum(step.record_count for step in steps)


def test_what_was_not_cached_is_not_cached_afterwards_and_what_was_is_read_from_the_disk_all_the_same(
    tmp_path: Path,
) -> None:
    cold, hot = filled(tmp_path, 1000, 1000)
    files = Watched()
    files.cached_below = cold.end
    # The first record is the one that is cached here.
    cold, hot = hot, cold
    assert inspected(tmp_path, files, cold)[0] == []
    assert [call for call in files.calls if call[1] == cold.offset] == [
        ("drop", cold.offset),
        ("read", cold.offset),
        ("drop", cold.offset),
    ]
    assert [call for call in files.calls if call[1] == hot.offset] == [("drop", hot.offset), ("read", hot.offset)]


def test_a_segment_that_is_written_keeps_its_pages(tmp_path: Path) -> None:
    places = filled(tmp_path, 1000, 1000, sealed=False)
    files = Watched()
    faults, _, records = inspected(tmp_path, files, places[0], mark=places[0].end, sealed=False)
    assert (faults, records) == ([], 1)
    assert not any(what == "drop" for what, _ in files.calls)


@pytest.mark.parametrize("spare", [-9, -8, -1, 0, 1, 7])
def test_records_that_end_where_a_piece_ends_are_whole(tmp_path: Path, spare: int) -> None:
    head = 64 + len("1.2.0") + len("meta")
    places = filled(tmp_path, PIECE_BYTES - head + spare, 10)
    size = next(tmp_path.glob("*.seg")).stat().st_size
    assert inspected(tmp_path, Files(), places[0]) == ([], size, 2)


def test_a_record_that_the_disk_refuses_to_read_is_a_fault_and_the_next_one_is_read(tmp_path: Path) -> None:
    places = filled(tmp_path, 1000, 1000, 1000)
    files = FaultyFiles()
    # The first read is that of the header, then one a record.
    files.fail("preadv", errno.EIO, at=3)
    faults, _, records = inspected(tmp_path, files, places[0])
    assert records == 3
    assert [(fault.part, fault.offset, fault.key) for fault in faults] == [(Part.RECORD, places[1].offset, b"1.2.1")]
    assert os.strerror(errno.EIO) in faults[0].what


def test_an_inspection_begins_where_it_is_told(tmp_path: Path) -> None:
    places = filled(tmp_path, 1000, 1000, 1000)
    faults, _, records = inspected(tmp_path, Files(), places[0], start=places[1].offset)
    assert (faults, records) == ([], 2)


def test_an_inspection_knows_that_its_segment_was_removed(tmp_path: Path) -> None:
    (place,) = filled(tmp_path, 1000)
    inspection = Inspection(
        LocalSegments(str(tmp_path), Files()).open(place.segment_id),
        place.segment_id,
        start_offset=0,
        mark_bytes=place.end,
        is_sealed=True,
    )
    assert not inspection.is_gone()
    next(tmp_path.glob("*.seg")).unlink()
    assert inspection.is_gone()


def test_without_any_header_and_footer_all_of_it_is_a_gap(tmp_path: Path) -> None:
    places = filled(tmp_path, 1000, 1000, sealed=False)
    path = next(tmp_path.glob("*.seg"))
    with path.open("r+b") as file:
        file.write(bytes(4096))
    faults, _, _ = inspected(tmp_path, Files(), places[0], mark=places[1].end, sealed=False)
    assert [fault.part for fault in faults] == [Part.HEADER, Part.GAP]
    assert faults[1].offset == places[0].offset
    assert faults[1].offset + faults[1].length_bytes == places[1].end


def test_a_trailer_that_the_disk_refuses_to_read_is_a_fault_and_the_records_are_read_all_the_same(
    tmp_path: Path,
) -> None:
    places = filled(tmp_path, 1000, 1000)
    files = FaultyFiles()
    files.fail("pread", errno.EIO)
    faults, _, records = inspected(tmp_path, files, places[0], mark=places[1].end)
    assert records == 2
    assert [(fault.part, fault.offset) for fault in faults] == [(Part.FOOTER, places[1].end)]
