"""Stored instances as ranges: what is read is what was stored, wherever it lies by now; what is damaged is noted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.archive import retrieve
from engine.archive.archive import Archive
from engine.archive.lifecycle.compaction import Compactor
from engine.config import Compaction
from engine.errors import CorruptRecord, StorageError
from engine.index.format.types import Instance, Level
from tests.archive import kept

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
    kept.turn_byte(archive.layout.data, position.segment_id, position.payload_offset + at)


def noted(archive: Archive) -> list[bytes]:
    return [row.sop_instance_uid for row in archive.index.damage()]


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
        [opened.pop(kept.uid_of(0)).instance], level=Level.IMAGE, by="test", reason="leaves a segment half dead"
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
