"""The meta block of a record: round trip, cut, mutated."""

from __future__ import annotations

import random

import pytest

from engine.errors import IndexError_
from engine.index.entry import Entry, Tombstone, unpack_record
from engine.storage.record import Position, Record
from tests.index.made import Tail, entry


def _record(of: Entry, kind: int = 1, meta: bytes | None = None) -> Record:
    return Record(
        of.position, kind, of.flags, of.stamp, 0, 0, of.sop_instance_uid, of.pack_meta() if meta is None else meta
    )


def test_an_entry_comes_back_from_its_record() -> None:
    made = entry(Tail(), flags=2, character_set=b"ISO_IR 100", patient={0x00100010: b"M\xfcller"})
    assert Entry.unpack(_record(made)) == made


def test_empty_parts_come_back_empty() -> None:
    made = Entry(Position(1, 4096, 3, 44, 0, 0), 0, 5, b"", b"1.2", b"", b"", 0, -1, b"", b"", b"", b"", b"")
    assert Entry.unpack(_record(made)) == made


def test_a_meta_block_of_another_version_is_refused() -> None:
    made = entry(Tail())
    with pytest.raises(IndexError_, match="version 9"):
        Entry.unpack(_record(made, meta=b"\x09" + made.pack_meta()[1:]))


def test_every_cut_meta_block_is_refused() -> None:
    made = entry(Tail())
    meta = made.pack_meta()
    for length in range(len(meta)):
        with pytest.raises(IndexError_):
            Entry.unpack(_record(made, meta=meta[:length]))


def test_mutated_meta_blocks_parse_or_are_refused() -> None:
    made = entry(Tail())
    meta = bytearray(made.pack_meta())
    rng = random.Random(7)
    for _ in range(500):
        mutated = bytearray(meta)
        mutated[rng.randrange(44)] = rng.randrange(256)
        try:
            Entry.unpack(_record(made, meta=bytes(mutated)))
        except IndexError_:
            pass


def test_a_record_is_read_by_its_kind() -> None:
    made = entry(Tail())
    assert unpack_record(_record(made)) == made
    assert unpack_record(_record(made, kind=2, meta=b"")) == Tombstone(made.position, made.stamp, made.sop_instance_uid)
    with pytest.raises(IndexError_, match="kind 3"):
        unpack_record(_record(made, kind=3))
