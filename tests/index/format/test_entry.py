"""The meta block of a record: round trip, cut, mutated."""

from __future__ import annotations

import random

import pytest

from engine.dicom import tags
from engine.errors import IndexError_
from engine.index.format.entry import NO_UID, Correction, Entry, Hold, Operation, Quarantined, Tombstone, unpack_record
from engine.index.format.trash_record import TrashOperation, TrashRecord
from engine.storage.record import Kind, Position, Record
from tests.index.entries import Tail, blob, entry


def _record(of: Entry, kind: int = 1, meta: bytes | None = None) -> Record:
    return Record(
        of.position, kind, of.flags, of.stamp, 0, 0, of.sop_instance_uid, of.pack_meta() if meta is None else meta
    )


def test_an_entry_comes_back_from_its_record() -> None:
    instance = entry(Tail(), flags=2, character_set=b"ISO_IR 100", patient={0x00100010: b"M\xfcller"})
    assert Entry.unpack(_record(instance)) == instance


def test_empty_parts_come_back_empty() -> None:
    instance = Entry(Position(1, 4096, 3, 44, 0, 0), 0, 5, b"", b"1.2", b"", b"", 0, -1, b"", b"", b"", b"", b"")
    assert Entry.unpack(_record(instance)) == instance


def test_a_meta_block_of_another_version_is_refused() -> None:
    instance = entry(Tail())
    with pytest.raises(IndexError_, match="version 9"):
        Entry.unpack(_record(instance, meta=b"\x09" + instance.pack_meta()[1:]))


def test_every_cut_meta_block_is_refused() -> None:
    instance = entry(Tail())
    meta = instance.pack_meta()
    for length in range(len(meta)):
        with pytest.raises(IndexError_):
            Entry.unpack(_record(instance, meta=meta[:length]))


def test_mutated_meta_blocks_parse_or_are_refused() -> None:
    instance = entry(Tail())
    meta = bytearray(instance.pack_meta())
    rng = random.Random(7)
    for _ in range(500):
        mutated = bytearray(meta)
        mutated[rng.randrange(44)] = rng.randrange(256)
        try:
            Entry.unpack(_record(instance, meta=bytes(mutated)))
        except IndexError_:
            pass


TOMBSTONES = [
    Tombstone(Position(1, 4096, 3, 99, 0, 0), 7, 1, b"1.2", (b"1.2.3", b"1.2.34"), 0, 99, b"me", "für mich".encode()),
    Tombstone(Position(1, 4096, 3, 99, 0, 0), 7, 3, b"1.2", (b"1.2",), 1 << 63, 99),
    Tombstone(Position(1, 4096, 3, 99, 0, 0), 7, 0, b"", ()),
]
HOLDS = [Hold(Position(1, 4096, 3, 99, 0, 0), 7, b"1.2", is_set, 99, b"me", b"court") for is_set in (True, False)]
QUARANTINED = [
    Quarantined(Position(1, 4096, 3, 99, 10, 5), 7, NO_UID, b"1.3", b"1.4", b"AE", 99, b"why"),
    Quarantined(Position(1, 4096, 3, 99, 10, 5), 7, b"1.2", b"", b"", b"", 0, b""),
]
CORRECTIONS = [
    Correction(
        Position(1, 4096, 3, 99, 0, 0),
        7,
        Operation.MERGE,
        0,
        (b"4711", b"WEST"),
        blob({tags.PatientID: b"0815", tags.PatientSex: b""}),
        0,
        99,
        b"me",
        b"one person",
    ),
    Correction(Position(1, 4096, 3, 99, 0, 0), 8, Operation.MOVE, 1, (b"1.2", b"1.3", b"1.4"), b"", 0, 99),
    Correction(Position(1, 4096, 3, 99, 0, 0), 9, Operation.UNDO, 1, (), b"", 8, 99, b"me", b"why"),
]


TRASH = [
    TrashRecord(
        Position(1, 4096, 3, 99, 0, 0),
        7,
        TrashOperation.PUT,
        1,
        b"1.2",
        b"1.2",
        (b"1.2.3", b"1.2.34"),
        series=2,
        data_bytes=1 << 40,
        items=blob({tags.PatientName: "Müller".encode()}),
        made_ns=99,
        by=b"me",
        reason=b"by mistake",
    ),
    TrashRecord(Position(1, 4096, 3, 99, 0, 0), 8, TrashOperation.RESTORE, 3, b"1.2", b"1.2", (b"1.2.3",), 1 << 63),
]


def _other(item: Tombstone | Hold | Quarantined | Correction | TrashRecord, meta: bytes | None = None) -> Record:
    if isinstance(item, Tombstone):
        kind, key = Kind.TOMBSTONE, item.uid
    elif isinstance(item, Hold):
        kind, key = Kind.HOLD, item.study_instance_uid
    elif isinstance(item, Correction):
        kind, key = Kind.CORRECTION, item.key
    elif isinstance(item, TrashRecord):
        kind, key = Kind.TRASH, item.uid
    else:
        kind, key = Kind.QUARANTINED, item.sop_instance_uid
    return Record(item.position, kind, 0, item.stamp, 0, 0, key, item.pack_meta() if meta is None else meta)


@pytest.mark.parametrize(
    "item", [*TOMBSTONES, *HOLDS, *QUARANTINED, *CORRECTIONS, *TRASH], ids=lambda item: type(item).__name__
)
def test_other_kinds_come_back_from_their_records_and_cut_or_newer_ones_are_refused(
    item: Tombstone | Hold | Quarantined | Correction | TrashRecord,
) -> None:
    assert unpack_record(_other(item)) == item
    meta = item.pack_meta()
    for length in range(len(meta)):
        with pytest.raises(IndexError_, match="too short"):
            unpack_record(_other(item, meta[:length]))
    with pytest.raises(IndexError_, match="version 9"):
        unpack_record(_other(item, b"\x09" + meta[1:]))


def test_mutated_meta_blocks_of_other_kinds_parse_or_are_refused() -> None:
    rng = random.Random(7)
    for item in (*TOMBSTONES, *HOLDS, *QUARANTINED, *CORRECTIONS, *TRASH):
        for _ in range(200):
            mutated = bytearray(item.pack_meta())
            mutated[rng.randrange(min(len(mutated), 28))] = rng.randrange(256)
            try:
                unpack_record(_other(item, bytes(mutated)))
            except IndexError_:
                pass


def test_a_tombstone_too_large_for_a_record_is_refused() -> None:
    position = Position(1, 4096, 3, 99, 0, 0)
    uids = tuple(b"1.2.%060d" % number for number in range(16_000))
    assert Tombstone(position, 7, 1, b"1.2", uids[:15_000]).pack_meta()
    with pytest.raises(IndexError_, match="16000 UIDs"):
        Tombstone(position, 7, 1, b"1.2", uids).pack_meta()


def test_long_reasons_are_cut() -> None:
    position = Position(1, 4096, 3, 99, 0, 0)
    hold = Hold(position, 7, b"1.2", True, 99, b"m" * 70_000, b"r" * 70_000)
    assert unpack_record(_other(hold)) == Hold(position, 7, b"1.2", True, 99, b"m" * 4096, b"r" * 4096)


def test_a_correction_too_large_for_a_record_is_refused() -> None:
    uids = tuple(b"1.2.%060d" % number for number in range(16_000))
    correction = Correction(Position(1, 4096, 3, 99, 0, 0), 7, Operation.MOVE, 1, uids)
    with pytest.raises(IndexError_, match="a correction takes 1056032 bytes"):
        correction.pack_meta()


def test_a_record_is_read_by_its_kind() -> None:
    instance = entry(Tail())
    assert unpack_record(_record(instance)) == instance
    with pytest.raises(IndexError_, match="kind 9"):
        unpack_record(_record(instance, kind=9))
