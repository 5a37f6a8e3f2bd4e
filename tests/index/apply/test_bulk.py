"""index.apply.bulk: a sealed segment applied by its heads gives the same index as record by record."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine._ext.heads import Counter, Gatherer, HeadGroup, texts_of
from engine.errors import CorruptRecord
from engine.index.apply import bulk
from engine.index.catalog import Catalog
from engine.index.format import keys
from engine.index.format.entry import Item
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.hints import Heads, read_heads
from engine.storage.record import HEADER_BYTES, encode_head
from engine.storage.segment import FIRST_RECORD, segment_path
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_log import SegmentLog
from tests.index.entries import (
    MR,
    ROOT,
    Tail,
    booked,
    entry,
    hold,
    meaning,
    quarantined,
    random_history,
    record_of,
    recount,
    tombstone,
)

UID = f"{ROOT}.1.1.1".encode()


class _Sealed:
    """Invented records in a sealed segment that has only heads."""

    def __init__(self, segment_id: int) -> None:
        self.segment_id = segment_id
        self.items: list[Item] = []
        self._heads: list[bytes] = []
        self._tail = FIRST_RECORD
        self._count = 0

    def add(self, item: Item, **changes: Any) -> Item:
        record = record_of(item)._replace(**changes)
        length, crc = record.position.payload_length, record.position.payload_crc
        head = encode_head(
            0,
            self._tail,
            record.kind,
            record.flags,
            record.stamp,
            self._count,
            0,
            record.key,
            record.meta,
            length,
            crc,
        )
        position = record.position._replace(
            segment_id=self.segment_id, offset=self._tail, key_length=len(record.key), meta_length=len(record.meta)
        )
        self._heads.append(bytes(head))
        self._tail = position.end
        self._count += 1
        placed = replace(item, position=position)
        if not changes:
            self.items.append(placed)
        return placed

    def heads(self) -> Heads:
        data = hints.FOOTER_HEAD + b"".join(self._heads)
        end = self._tail + len(data)
        trailer = hints.Trailer(self.segment_id, bytes(16), 0, 1, self._tail, end, self._count, 0, 0, 0)
        return Heads(trailer, data)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    yield opened
    opened.close()


def _by_records(tmp_path: Path, *segments: _Sealed) -> dict[str, Any]:
    index = Catalog.open(str(tmp_path / "by records"), map_bytes=1 << 30)
    for segment in segments:
        index.apply(segment.items)
    content = meaning(index)
    index.close()
    return content


def _same(index: Catalog, tmp_path: Path, *segments: _Sealed, note: str = "") -> None:
    expected = _by_records(tmp_path, *segments)
    content = meaning(index)
    for part in expected:
        if part != "marks":
            assert content.get(part) == expected[part], f"{note}{part}"
    assert booked(index) == recount(index, [item for segment in segments for item in segment.items]), note


def test_a_segment_of_one_series_is_applied_and_its_mark_is_sealed(index: Catalog, tmp_path: Path) -> None:
    tail, segment = Tail(), _Sealed(4)
    for number in range(50):
        segment.add(entry(tail, instance=number))
    heads = segment.heads()
    loaded = index.load(heads, FIRST_RECORD)
    assert (loaded.records, loaded.findings) == (50, [])
    mark = index.segment_marks()[4]
    assert (mark.sealed, mark.indexed_bytes, mark.live_count) == (True, heads.trailer.tail, 50)
    instance = index.locate(f"{ROOT}.1.1.7".encode())
    assert instance is not None and instance.position == segment.items[7].position
    _same(index, tmp_path, segment)
    content = meaning(index)
    assert index.load(heads, FIRST_RECORD).records == 50
    assert meaning(index) == content


@pytest.mark.parametrize("seed", range(16))
def test_heads_give_the_same_index_as_records(
    index: Catalog, tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(seed)
    monkeypatch.setattr(bulk, "BATCH", rng.choice((1, 3, 10, 1000)))
    segments = [_Sealed(number) for number in range(1, 4)]
    for item in random_history(rng, 150):
        rng.choice(segments).add(item)
    in_order = list(segments)
    rng.shuffle(in_order)
    for segment in in_order:
        loaded = index.load(segment.heads(), FIRST_RECORD)
        assert (loaded.records, loaded.findings) == (len(segment.items), [])
    _same(index, tmp_path, *segments, note=f"seed {seed}: ")


@pytest.mark.parametrize("batch", [2, 1000])
def test_known_uids_follow_the_fold_rule(
    index: Catalog, tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BATCH", batch)
    tail, first, second = Tail(), _Sealed(1), _Sealed(2)
    for number in range(6):
        first.add(entry(tail, instance=number))
    for number in (10, 0, 11, 1, 1, 12, 2, 10):
        second.add(entry(tail, instance=number, crc=7 if number == 2 else None))
    index.load(first.heads(), FIRST_RECORD)
    index.load(second.heads(), FIRST_RECORD)
    _same(index, tmp_path, first, second)
    assert index.stats()["instances"] == 9
    assert index.version_count() == 1


def test_an_earlier_statement_and_a_second_sender_are_handled(index: Catalog, tmp_path: Path) -> None:
    tail, segment = Tail(), _Sealed(1)
    for number, stamp in enumerate((50, 60, 20, 70, 10)):
        segment.add(entry(tail, instance=number, stamp=stamp))
    segment.add(replace(entry(tail, instance=8, stamp=80), calling_ae_title=b"OTHER"))
    segment.add(replace(entry(tail, instance=7, stamp=9), calling_ae_title=b"OTHER"))
    segment.add(replace(entry(tail, instance=6, stamp=9, crc=1), calling_ae_title=b"OTHER"))
    segment.add(replace(entry(tail, instance=5, stamp=9, crc=1), calling_ae_title=b"ANOTHER"))
    segment.add(entry(tail, instance=9, stamp=9, crc=1, study_items={0x00081030: b"Thorax"}, sop_class=MR))
    index.load(segment.heads(), FIRST_RECORD)
    _same(index, tmp_path, segment)


def test_a_segment_may_have_odd_uids_and_other_kinds(index: Catalog, tmp_path: Path) -> None:
    tail, segment = Tail(), _Sealed(1)
    for number, uid in enumerate((b"a\0b", b"x" * 128, b"x" * 129, b"y" * 400, b"z" * 401, UID)):
        segment.add(entry(tail, instance=number, sop_instance_uid=uid))
    segment.add(hold(tail, 1, True))
    segment.add(quarantined(tail, b"-"))
    segment.add(tombstone(tail, UID))
    segment.add(entry(tail, instance=1))
    index.load(segment.heads(), FIRST_RECORD)
    _same(index, tmp_path, segment)
    assert index.stats()["instances"] == 6
    assert index.is_held(f"{ROOT}.1".encode())


def test_an_unreadable_record_is_reported_and_the_others_are_applied(index: Catalog, tmp_path: Path) -> None:
    tail, segment = Tail(), _Sealed(1)
    segment.add(entry(tail, instance=1))
    segment.add(entry(tail, instance=2), meta=b"\x63" + bytes(60))
    segment.add(entry(tail, instance=3), kind=9)
    segment.add(entry(tail, instance=4), meta=b"")
    segment.add(entry(tail, instance=5))
    loaded = index.load(segment.heads(), FIRST_RECORD)
    assert loaded.records == 2
    assert [finding.reason.split()[-1] for finding in loaded.findings] == ["1", "know", "short"]
    _same(index, tmp_path, segment)
    assert index.segment_marks()[1].sealed


def test_a_part_that_has_been_applied_is_skipped(index: Catalog, tmp_path: Path) -> None:
    tail, segment = Tail(), _Sealed(1)
    for number in range(20):
        segment.add(entry(tail, instance=number))
    index.apply(segment.items[:7])
    assert index.load(segment.heads(), segment.items[7].position.offset).records == 13
    _same(index, tmp_path, segment)
    assert index.load(segment.heads(), segment.heads().trailer.tail).records == 0


def test_an_empty_segment_is_sealed(index: Catalog) -> None:
    assert index.load(_Sealed(3).heads(), FIRST_RECORD).records == 0
    assert index.segment_marks()[3].sealed


def test_too_few_heads_raise_an_error_and_do_not_crash(index: Catalog) -> None:
    tail, segment = Tail(), _Sealed(1)
    for number in range(3):
        segment.add(entry(tail, instance=number))
    heads = segment.heads()
    cut = Heads(heads.trailer, heads.data[:-600])
    with pytest.raises(CorruptRecord, match="fewer heads"):
        index.load(cut, FIRST_RECORD)
    assert index.stats()["instances"] == 0


def test_a_full_map_grows_and_nothing_is_counted_twice(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path / "small"), map_bytes=1 << 18)
    tail, segment = Tail(), _Sealed(1)
    for number in range(3000):
        segment.add(entry(tail, series=number // 500, instance=number))
    assert index.load(segment.heads(), FIRST_RECORD).records == 3000
    _same(index, tmp_path, segment)
    index.close()


def test_the_heads_of_a_segment_on_disk_are_read_from_its_footer(tmp_path: Path) -> None:
    log = SegmentLog(str(tmp_path), Files(), bytes(16), writer="w", segment_bytes=1 << 20)
    tail = Tail()
    entries = [entry(tail, instance=number, length=0) for number in range(5)]
    for one in entries:
        log.append(1, 0, one.stamp, one.sop_instance_uid, one.pack_meta(), [], 0, 0)
    ((segment_id, tail_bytes),) = log.close()
    files = Files()
    fd = files.open(segment_path(str(tmp_path), segment_id), os.O_RDONLY)
    heads = read_heads(FileBytes(files, fd), segment_id)
    files.close(fd)
    assert heads is not None
    assert (heads.trailer.tail, heads.trailer.record_count) == (tail_bytes, 5)
    at = heads.start
    for one in entries:
        assert heads.data[at + HEADER_BYTES :].startswith(one.sop_instance_uid)
        at += HEADER_BYTES + len(one.sop_instance_uid) + len(one.pack_meta())


# the compiled part ---------------------------------------------------------------------------------


def _gatherer(meta: bytes) -> tuple[Gatherer, Counter]:
    gatherer, counter = Gatherer(), Counter(7, 1)
    gatherer.groups[texts_of(meta)] = HeadGroup(counter, 0, 0, bytes(24))
    return gatherer, counter


def test_mutated_and_cut_heads_are_gathered_or_refused_and_never_read_beyond_their_end() -> None:
    tail, segment = Tail(), _Sealed(1)
    heads = [segment.add(entry(tail, instance=number)) for number in range(4)]
    data = segment.heads().data[16:]
    meta = record_of(heads[0]).meta
    rng = random.Random(11)
    for _ in range(3000):
        mutated = bytearray(data[: rng.choice((len(data), rng.randrange(len(data))))])
        for _ in range(rng.choice((0, 1, 1, 3))):
            if mutated:
                mutated[rng.randrange(min(len(mutated), 200))] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        gatherer, counter = _gatherer(meta)
        stopped = gatherer.run(bytes(mutated), 0, len(mutated), 1, 100)
        assert 0 <= stopped <= len(mutated)
        assert len(gatherer.rows) == len(gatherer.places) == counter.count == counter.next_id - 1
        assert all(len(where) == 8 and len(row) >= keys.INSTANCE.size for where, row in gatherer.rows)


def test_rows_equal_those_of_the_writer() -> None:
    tail, segment = Tail(), _Sealed(258)
    head = segment.add(entry(tail, instance=1, flags=6, stamp=1 << 60, length=5 << 32, crc=0xFFFFFFFF))
    meta = record_of(head).meta
    gatherer, counter = _gatherer(meta)
    heads = segment.heads()
    assert gatherer.run(heads.data, heads.start, len(heads.data), 258, 9) == len(heads.data)
    ((where, row),) = gatherer.rows
    assert where == keys.PAIR.pack(7, 1)
    position = head.position
    assert keys.INSTANCE.unpack_from(row) == (
        1 << 60, 258, 4096, 5 << 32, 800, 1_700_000_000_000_000_000, 0xFFFFFFFF, len(meta), len(UID), 6,
        0, 0, 0, 0, bytes(8),
    )  # fmt: skip
    assert row[keys.INSTANCE.size :] == head.instance  # type: ignore[union-attr]
    assert (counter.count, counter.payload_bytes, gatherer.record_bytes) == (1, 5 << 32, position.record_bytes)


def test_wrong_arguments_are_refused() -> None:
    gatherer = Gatherer()
    for at, end in ((0, 1), (-1, 0)):
        with pytest.raises(ValueError, match="after"):
            gatherer.run(b"", at, end, 1, 1)
    with pytest.raises(ValueError, match="23 bytes"):
        HeadGroup(Counter(1, 1), 0, 0, bytes(23))
    with pytest.raises(ValueError, match="not the meta block"):
        texts_of(b"\x01" + bytes(42))
