"""Stored instances as ranges: what is read is what was stored, wherever it lies by now; what is damaged is noted."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.archive import retrieve
from engine.archive.archive import Archive
from engine.archive.ingest.request import ReceivedInstance
from engine.archive.interchange.importer import import_paths
from engine.archive.lifecycle.compaction import Compactor
from engine.config import Compaction
from engine.dicom.frames import frame_table
from engine.dicom.sources import Inflated, Whole
from engine.errors import CorruptRecord, FramesUnreadable, StorageError
from engine.index.format.types import Instance, Level, Outcome
from engine.storage.record import crc32c
from tests import samples
from tests.actors import actor
from tests.archive import kept
from tests.corpus import corpus_files, needs_corpus

pytestmark = pytest.mark.disk

COUNT = 4
PIXELS = 4096
OPTIONS = Compaction(bytes_per_s=0)


@pytest.fixture
def payloads(tmp_path: Path) -> dict[str, bytes]:
    return kept.filled(tmp_path, COUNT, pixels=PIXELS, segment_bytes=16 << 10)


@pytest.fixture
def archive(tmp_path: Path, payloads: dict[str, bytes]) -> Iterator[Archive]:
    with kept.opened(tmp_path, segment_bytes=16 << 10) as opened:
        yield opened


def damage(archive: Archive, instance: Instance, at: int) -> None:
    position = instance.position
    kept.turn_byte(archive.parts.layout.data, position.segment_id, position.payload_offset + at)


def noted(archive: Archive) -> list[bytes]:
    return [row.sop_instance_uid for row in archive.parts.index.damage()]


def test_every_way_of_reading_gives_the_stored_bytes(archive: Archive, payloads: dict[str, bytes]) -> None:
    for uid, payload in payloads.items():
        stored = archive.retrieval.open(kept.current(archive, uid))
        assert stored.length == len(payload)
        assert stored.whole() == payload
        assert b"".join(map(bytes, stored.pieces())) == payload
        assert bytes(stored.read(10, 100)) == payload[10:110]
        assert bytes(stored.read(len(payload) - 3, 100)) == payload[-3:]
        assert bytes(stored.read(len(payload) + 3, 100)) == b""
        stored.finish()
        stored.verify()
        stored.verify_record(past_the_cache=True)
        first, second = bytearray(7), bytearray(50)
        stored.fill([memoryview(first), memoryview(second)], 3)
        assert bytes(first + second) == payload[3:60]
    assert noted(archive) == []


def test_what_is_in_the_page_cache_needs_no_thread(archive: Archive, payloads: dict[str, bytes]) -> None:
    uid, payload = next(iter(payloads.items()))
    stored = archive.retrieval.open(kept.current(archive, uid))
    stored.whole()
    target = bytearray(64)
    assert stored.fill_cached([memoryview(target)], 32)
    assert bytes(target) == payload[32:96]


def test_a_range_beyond_the_data_set_is_an_error(archive: Archive, payloads: dict[str, bytes]) -> None:
    stored = archive.retrieval.open(kept.current(archive, next(iter(payloads))))
    for offset in (-1, stored.length - 63):
        with pytest.raises(StorageError):
            stored.fill([memoryview(bytearray(64))], offset)


def test_pieces_are_checked_before_the_last_is_given_out(
    archive: Archive, payloads: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieve, "PIECE_BYTES", 1000)
    uid, payload = next(iter(payloads.items()))
    stored = archive.retrieval.open(kept.current(archive, uid))
    assert b"".join(map(bytes, stored.pieces())) == payload
    damage(archive, stored.instance, 5)
    given = bytearray()
    with pytest.raises(CorruptRecord):
        for piece in stored.pieces():
            given += piece
    assert len(given) == (len(payload) - 1) // 1000 * 1000
    assert noted(archive) == [uid.encode()]


@pytest.mark.parametrize("way", ["whole", "pieces", "verify", "verify_record", "verify_damaged", "finish"])
def test_damage_is_raised_and_noted_once(archive: Archive, payloads: dict[str, bytes], way: str) -> None:
    uid = next(iter(payloads))
    stored = archive.retrieval.open(kept.current(archive, uid))
    damage(archive, stored.instance, 100)
    if way == "verify_damaged":
        stored.verify_damaged()  # nobody has noted it yet: it reads nothing
        with pytest.raises(CorruptRecord):
            stored.verify()
    for _ in range(2):
        with pytest.raises(CorruptRecord):
            list(getattr(stored, way)() or ())
    assert noted(archive) == [uid.encode()]


def test_a_reader_that_skips_parts_still_learns_of_damage_in_the_end(
    archive: Archive, payloads: dict[str, bytes]
) -> None:
    stored = archive.retrieval.open(kept.current(archive, next(iter(payloads))))
    damage(archive, stored.instance, 2000)
    for offset in (0, 3000, 50, 3000):
        stored.read(offset, 100)
    with pytest.raises(CorruptRecord):
        stored.finish()


def test_an_instance_that_a_compaction_moved_is_read_where_it_lies_now(
    archive: Archive, payloads: dict[str, bytes]
) -> None:
    opened = {uid: archive.retrieval.open(kept.current(archive, uid)) for uid in payloads}
    before = {uid: stored.instance.position for uid, stored in opened.items()}
    archive.delete_instances(
        [opened.pop(kept.uid_of(0)).instance],
        level=Level.IMAGE,
        actor=actor(),
        reason="leaves a segment half dead",
    )
    Compactor(archive, OPTIONS, segment_bytes=16 << 10, everything=True).run()
    moved = [uid for uid, stored in opened.items() if kept.current(archive, uid).position[:2] != before[uid][:2]]
    assert moved
    target = bytearray(16)
    for uid in moved:
        assert not opened[uid].fill_cached([memoryview(target)], 0), "the event loop must not look it up itself"
        opened[uid].fill([memoryview(target)], 0)
        assert bytes(target) == payloads[uid][:16]
        assert opened[uid].whole() == payloads[uid]
        assert opened[uid].instance.position == kept.current(archive, uid).position
    assert noted(archive) == []


# Head and frames ---------------------------------------------------------------------------------


def framed(number: int, *, count: int, tables: str = "", tail: bytes = b"") -> tuple[bytes, list[bytes]]:
    """A JPEG instance of `count` frames, its Basic Offset Table right, wrong or empty; and its frames."""
    codestreams = [b"\xff\xd8\xff\xe0" + bytes([number, at]) * 200 + b"\xff\xd9" for at in range(count)]
    offsets = [(8 + len(codestreams[0])) * at for at in range(count)]
    if tables == "wrong":
        offsets[-1] += 2
    ds = samples.instance(9, 1, number, pixels=b"")
    del ds.PixelData
    ds.NumberOfFrames, ds.BitsAllocated, ds.Columns = count, 8, 16
    table = struct.pack(f"<{count}I", *offsets) if tables else b""
    items = b"".join(b"\xfe\xff\x00\xe0" + struct.pack("<I", len(each)) + each for each in (table, *codestreams))
    head = samples.encoded(ds) + b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff"
    return head + items + b"\xfe\xff\xdd\xe0\0\0\0\0" + tail, codestreams


JPEG = "1.2.840.10008.1.2.4.50"
TRAILING_PADDING = b"\xfc\xff\xfc\xffOB\0\0\2\0\0\0\0\0"


def stored(archive: Archive, payload: bytes, number: int, syntax_uid: str = JPEG) -> retrieve.StoredInstance:
    item = ReceivedInstance([payload], len(payload), crc32c(payload), syntax_uid, "MODALITY")
    assert archive.ingest_batch([item]) == [Outcome.STORED]
    return archive.retrieval.open(kept.current(archive, f"{samples.ROOT}.9.1.{number}"))


@pytest.mark.parametrize("tables", ["", "right", "wrong"])
@pytest.mark.parametrize("count", [1, 5])
def test_frames_are_the_same_from_the_cache_and_from_the_disk(archive: Archive, tables: str, count: int) -> None:
    payload, codestreams = framed(1, count=count, tables=tables)
    one = stored(archive, payload, 1)
    found = [bytes(one.frame(number)) for number in range(1, count + 1)]
    assert found == codestreams
    cached = [one.frame_cached(number) for number in range(1, count + 1)]
    assert [bytes(each or b"") for each in cached] == codestreams
    places = [one.frame_place(number) for number in range(1, count + 1)]
    assert [place and payload[place[0] : sum(place)] for place in places] == codestreams
    for number in (0, count + 1):
        assert one.frame_cached(number) is None
        with pytest.raises(FramesUnreadable, match=f"no frame {number}"):
            one.frame(number)


def test_the_only_frame_is_read_without_a_table_and_at_once(archive: Archive) -> None:
    payload, (codestream,) = framed(1, count=1)
    one = stored(archive, payload, 1)
    assert bytes(one.frame_cached(1) or b"") == codestream
    native = archive.retrieval.open(kept.current(archive, kept.uid_of(0)))
    assert bytes(native.frame_cached(1) or b"") == bytes(native.frame(1)) == random.Random(0).randbytes(PIXELS)


@pytest.mark.parametrize(("photometric", "samples_per_pixel"), [("MONOCHROME2", 3), ("RGB", 1), ("CMYK", 4)])
def test_pixels_that_are_not_as_the_index_leads_to_expect_are_read_by_the_data_set(
    archive: Archive, photometric: str, samples_per_pixel: int
) -> None:
    """The index has no Samples per Pixel: it follows from Photometric Interpretation, which may be wrong."""
    pixels = random.Random(5).randbytes(8 * 8 * samples_per_pixel)
    ds = samples.instance(9, 1, 1, pixels=pixels, Rows=8, BitsAllocated=8, SamplesPerPixel=samples_per_pixel)
    ds.Columns, ds.PhotometricInterpretation = 8, photometric
    one = stored(archive, samples.encoded(ds), 1, "1.2.840.10008.1.2.1")
    assert one.frame_cached(1) is None
    assert bytes(one.frame(1)) == pixels
    assert bytes(one.frame_cached(1) or b"") == pixels, "by the table that was made"


def test_a_table_is_kept_and_outlives_a_compaction(archive: Archive) -> None:
    payload, _ = framed(1, count=5, tables="right")
    one = stored(archive, payload, 1)
    table = one.frames()
    again = archive.retrieval.open(kept.current(archive, one.instance.sop_instance_uid))
    again.instance.position = again.instance.position._replace(segment_id=77)
    assert again.frames() is table


def test_tables_take_bounded_memory(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieve, "TABLES_BYTES_MAX", 700)
    opened = []
    for number in range(1, 6):
        payload, codestreams = framed(number, count=5)
        opened.append(stored(archive, payload, number))
        assert bytes(opened[-1].frame(5)) == codestreams[4]
    kept_tables = [archive.retrieval.tables.get(each.instance) is not None for each in opened]
    assert kept_tables == [False, False, False, True, True]
    assert bytes(opened[0].frame(2))  # made anew


def test_head_and_tail_leave_pixel_data_out(archive: Archive) -> None:
    payload, _ = framed(1, count=3, tail=TRAILING_PADDING)
    one = stored(archive, payload, 1)
    assert bytes(one.head()) == payload[: one.instance.pixel_data_offset + 12]
    assert bytes(one.tail()) == TRAILING_PADDING
    native = archive.retrieval.open(kept.current(archive, kept.uid_of(0)))
    assert native.length - len(native.head()) == PIXELS
    assert bytes(native.tail()) == b""


@needs_corpus()
def test_every_frame_of_the_stored_corpus_is_that_of_its_file(tmp_path: Path) -> None:
    """`tests/dicom/test_frames` compares the latter with pydicom."""
    ways: Counter[str] = Counter()
    with Archive.open(tmp_path, create=True) as archive:
        import_paths(archive, corpus_files())
        for instance in archive.parts.index.current_instances():
            one = archive.retrieval.open(instance)
            payload = archive.read(instance)
            try:
                source = Inflated(Whole(payload)) if one.syntax.deflated else Whole(payload)
                table = frame_table(source, one.syntax, instance.pixel_data_offset)
            except FramesUnreadable as error:
                with pytest.raises(FramesUnreadable) as caught:
                    one.frame(1)
                assert str(caught.value) == str(error)
                ways["refused"] += 1
                continue
            for number in range(1, table.count + 1):
                expected = bytes(table.read(source, number))
                cached = one.frame_cached(number)
                ways["cached" if cached is not None else "waited for"] += 1
                assert cached is None or bytes(cached) == expected
                assert bytes(one.frame(number)) == expected
                again = one.frame_cached(number)  # now by a table
                assert again is None or bytes(again) == expected
            if not one.syntax.deflated and instance.pixel_data_offset >= 0:
                tail = bytes(one.tail())
                assert payload.endswith(tail)
                ways["tail"] += bool(tail)
    assert ways["cached"] > 800, ways
    assert ways["refused"] > 40, ways
    assert ways["tail"] > 0, ways


def test_what_was_looked_up_before_a_commit_is_looked_up_again_after_it(
    archive: Archive, payloads: dict[str, bytes]
) -> None:
    first, second = sorted(payloads)[:2]
    found = archive.instance(first)
    assert found is not None
    assert archive.instance(first) is found, "nothing was committed meanwhile"
    archive.delete_instances([found], level=Level.IMAGE, actor=actor(), reason="")
    assert archive.instance(first) is None
    other = archive.instance(second)
    assert other is not None
    assert archive.retrieval.open(other).whole() == payloads[second]
