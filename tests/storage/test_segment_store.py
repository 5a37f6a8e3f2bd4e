"""Segments that lie nowhere as files are read, inspected and applied through SegmentStore like those that do."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.errors import CorruptRecord, SegmentGone, StorageError, StoreUnreachable
from engine.index.catalog import Catalog
from engine.index.upkeep.rebuild import Report, load_sealed
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.hints import read_header_or_trailer
from engine.storage.inspection import Inspection
from engine.storage.reader import LogReader
from engine.storage.record import Record
from engine.storage.segment import Walk, list_segments
from engine.storage.segment_bytes import Where
from engine.storage.segment_store import LayeredSegments, LocalSegments
from tests.archive import kept
from tests.index.entries import meaning
from tests.memory_segments import MemoryPlace


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    data = tmp_path_factory.mktemp("store") / "data"
    return data, kept.filled(data, 12, segment_bytes=1 << 14)


@pytest.fixture
def place(stored: tuple[Path, dict[str, bytes]]) -> MemoryPlace:
    directory = stored[0] / "segments"
    ids = list_segments(str(directory), Files())
    assert len(ids) > 1
    return MemoryPlace({number: bytearray((directory / f"{number:016x}.seg").read_bytes()) for number in ids})


def rebuilt(folder: Path, place: MemoryPlace) -> tuple[Catalog, Report]:
    index, report = Catalog.open(str(folder), map_bytes=1 << 26), Report()
    for segment_id in place.segment_ids():
        assert load_sealed(index, place, segment_id, 0, report)
    return index, report


def test_an_index_is_made_from_segments_that_lie_nowhere_as_files(
    stored: tuple[Path, dict[str, bytes]], place: MemoryPlace, tmp_path: Path
) -> None:
    index, report = rebuilt(tmp_path / "index", place)
    with Archive.open(stored[0], role="keeper") as archive:
        assert meaning(index) == meaning(archive.parts.index)
    assert (report.records, report.findings) == (len(stored[1]), [])
    index.close()


def test_payloads_are_read_and_checked_by_position(
    stored: tuple[Path, dict[str, bytes]], place: MemoryPlace, tmp_path: Path
) -> None:
    index, _ = rebuilt(tmp_path / "index", place)
    reader = LogReader(place)
    for uid, payload in stored[1].items():
        instance = index.locate(uid.encode())
        assert instance is not None
        position = instance.position
        assert reader.read(position) == payload
        assert reader.verify(position).key == uid.encode()
        target = memoryview(bytearray(100))
        assert reader.read_scattered(position, [target[:30], target[30:]], 7, cached_only=True)
        assert bytes(target) == payload[7:107]
        place.is_slow = True
        assert not reader.read_scattered(position, [target], 7, cached_only=True)
        place.is_slow = False
        with pytest.raises(StorageError, match="is no file on this machine"):
            reader.opened(position)
    index.close()


def test_what_is_removed_is_gone_after_the_next_sweep_and_what_is_pinned_stays(
    stored: tuple[Path, dict[str, bytes]], place: MemoryPlace, tmp_path: Path
) -> None:
    index, _ = rebuilt(tmp_path / "index", place)
    positions = {}
    for uid in stored[1]:
        instance = index.locate(uid.encode())
        assert instance is not None
        positions[instance.position.segment_id] = instance.position
    index.close()
    first, second = [positions[number] for number in sorted(positions)[:2]]
    reader = LogReader(place)
    with reader.pin([first.segment_id]):
        reader.read(second)
        del place.segments[first.segment_id], place.segments[second.segment_id]
        assert set(reader.sweep()) == {first.segment_id, second.segment_id}
        assert reader.read(first)
        with pytest.raises(SegmentGone):
            reader.read(second)


def test_a_place_that_does_not_answer_is_no_damage(
    stored: tuple[Path, dict[str, bytes]], place: MemoryPlace, tmp_path: Path
) -> None:
    index, _ = rebuilt(tmp_path / "index", place)
    instance = index.locate(next(iter(stored[1])).encode())
    assert instance is not None
    position, reader = instance.position, LogReader(place)
    reader.read(position)
    data = place.open(position.segment_id)
    inspection = Inspection(data, position.segment_id, start_offset=0, mark_bytes=data.size(), is_sealed=True)
    place.failure = StoreUnreachable("the place does not answer")
    attempts = {
        "read": lambda: reader.read(position),
        "verify": lambda: reader.verify(position),
        "open": lambda: LogReader(place).read(position),
        "footer": lambda: hints.read_summary(data, position.segment_id),
        "header": lambda: read_header_or_trailer(data, position.segment_id),
        "inspection": lambda: list(inspection.steps()),
        "rebuild": lambda: load_sealed(index, place, position.segment_id, 0, Report()),
    }
    for name, attempt in attempts.items():
        with pytest.raises(StoreUnreachable):
            attempt()
            pytest.fail(name)
    assert not reader.read_scattered(position, [memoryview(bytearray(9))], 0, cached_only=True)
    assert not issubclass(StoreUnreachable, CorruptRecord)
    place.failure = None
    assert reader.read(position) == stored[1][instance.sop_instance_uid]
    assert [fault for step in inspection.steps() for fault in step.faults] == []
    index.close()


def test_damage_elsewhere_is_damage(stored: tuple[Path, dict[str, bytes]], place: MemoryPlace, tmp_path: Path) -> None:
    index, _ = rebuilt(tmp_path / "index", place)
    instance = index.locate(next(iter(stored[1])).encode())
    index.close()
    assert instance is not None
    position = instance.position
    place.segments[position.segment_id][position.payload_offset + 3] ^= 1
    with pytest.raises(CorruptRecord, match="checksum"):
        LogReader(place).read(position)
    data = place.open(position.segment_id)
    inspection = Inspection(data, position.segment_id, start_offset=0, mark_bytes=data.size(), is_sealed=True)
    (fault,) = [fault for step in inspection.steps() for fault in step.faults]
    assert fault.offset == position.offset
    header = read_header_or_trailer(data, position.segment_id)
    summary = hints.read_summary(data, position.segment_id)
    assert summary is not None
    found = list(Walk(data, header, end=summary.trailer.tail, verify_payload=True))
    assert len([item for item in found if isinstance(item, Record)]) == len(summary.records) - 1


def test_files_are_read_by_the_calls_of_files_without_a_layer_between(stored: tuple[Path, dict[str, bytes]]) -> None:
    files = Files()
    store = LocalSegments(str(stored[0] / "segments"), files)
    data = store.open(store.segment_ids()[0])
    assert data.read.func == files.pread and data.read.args == (data.fd,)  # type: ignore[attr-defined]
    with pytest.raises(SegmentGone):
        store.open(1 << 40)
    assert data.where is Where.LOCAL
    ranges = [(0, 8), (100, 0), (data.size() - 3, 9)]
    assert data.read_many(ranges) == [data.read(length, offset) for offset, length in ranges]
    salt = read_header_or_trailer(data, store.segment_ids()[0]).salt
    assert store.open(store.segment_ids()[0], salt=salt).size() == data.size()
    with pytest.raises(SegmentGone, match="another history"):
        store.open(store.segment_ids()[0], salt=salt ^ 1)


def test_what_is_not_on_this_machine_is_opened_elsewhere(
    stored: tuple[Path, dict[str, bytes]], place: MemoryPlace
) -> None:
    local = LocalSegments(str(stored[0] / "segments"), Files())
    first, *others = local.segment_ids()
    further = max(others) + 1
    place.segments = {first: place.segments[first], further: place.segments[first]}
    store = LayeredSegments(local, place)
    assert store.segment_ids() == [first, *others, further]
    assert store.open(first).where is Where.LOCAL
    assert store.open(further).where is Where.OBJECT
    with pytest.raises(SegmentGone):
        store.open(further + 1)
    store.sync_names()
