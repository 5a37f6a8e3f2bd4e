"""The format of one record head: golden bytes, every bit flipped, every length cut."""

from __future__ import annotations

import pytest

from engine.errors import CorruptRecord
from engine.storage.record import (
    HEADER_BYTES,
    KEY_BYTES_MAX,
    META_BYTES_MAX,
    Kind,
    Position,
    crc32c,
    decode_head,
    encode_head,
    head_length,
    padded,
    unpack_head,
)

SEED = 0x12345678
KEY = b"1.2.840.113619.2.55.3"
META = b"meta block"
GOLDEN = bytes.fromhex(
    "46526563"  # magic "FRec"
    "01"  # format
    "01"  # kind: INSTANCE
    "0200"  # flags
    "1500"  # key_length 21
    "0000"  # meta_unused
    "0a000000"  # meta_length 10
    "1111000000000000"  # payload_length 4369
    "8877665544332211"  # stamp
    "0700000000000000"  # sequence
    "0010000000000000"  # offset 4096
    "0008000000000000"  # synced_bytes 2048
    "efbeadde"  # payload_crc
)


def head(**changes: int) -> bytearray:
    numbers = {
        "offset": 4096,
        "kind": Kind.INSTANCE,
        "flags": 2,
        "stamp": 0x1122334455667788,
        "sequence": 7,
        "synced_bytes": 2048,
        "payload_length": 4369,
        "payload_crc": 0xDEADBEEF,
        "meta_unused": 0,
    }
    numbers.update(changes)
    return encode_head(SEED, key=KEY, meta=META, **numbers)


def test_a_head_is_exactly_these_bytes() -> None:
    data = bytes(head())
    assert data[:60].hex() == GOLDEN.hex()
    assert data[64:] == KEY + META
    assert data[60:64] == crc32c(GOLDEN + bytes(4) + KEY + META, SEED).to_bytes(4, "little")


def test_a_head_comes_back_as_it_went_in() -> None:
    record = decode_head(bytes(head()), SEED, 3, 4096)
    assert record.position == Position(3, 4096, len(KEY), len(META), 4369, 0xDEADBEEF)
    assert (record.kind, record.flags, record.stamp) == (Kind.INSTANCE, 2, 0x1122334455667788)
    assert (record.sequence, record.synced_bytes) == (7, 2048)
    assert (record.key, record.meta) == (KEY, META)


def test_bytes_after_the_head_do_not_matter() -> None:
    assert decode_head(bytes(head()) + b"payload", SEED, 3, 4096) == decode_head(bytes(head()), SEED, 3, 4096)


def test_the_unused_end_of_a_meta_area_is_no_meta() -> None:
    record = decode_head(bytes(head(meta_unused=4)), SEED, 3, 4096)
    assert record.meta == META[:-4]
    assert record.position.meta_length == len(META)


def test_a_position_knows_where_its_payload_and_its_end_are() -> None:
    position = Position(1, 4096, 21, 10, 4369, 0)
    assert position.payload_offset == 4096 + HEADER_BYTES + 31
    assert position.record_bytes == padded(HEADER_BYTES + 31 + 4369)
    assert position.end == 4096 + position.record_bytes
    assert position.record_bytes % 8 == 0


@pytest.mark.parametrize("length", [*range(HEADER_BYTES + len(KEY) + len(META))])
def test_a_head_that_is_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(CorruptRecord):
        decode_head(bytes(head())[:length], SEED, 3, 4096)


def test_every_flipped_bit_is_found() -> None:
    good = bytes(head())
    for index in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[index] ^= 1 << bit
            with pytest.raises(CorruptRecord) as caught:
                decode_head(bytes(bad), SEED, 3, 4096)
            assert (caught.value.segment_id, caught.value.offset) == (3, 4096)


def test_a_record_of_another_place_or_another_segment_is_refused() -> None:
    with pytest.raises(CorruptRecord):
        decode_head(bytes(head()), SEED, 3, 8192)
    with pytest.raises(CorruptRecord):
        decode_head(bytes(head()), SEED + 1, 3, 4096)


def test_zeros_are_no_record() -> None:
    with pytest.raises(CorruptRecord):
        head_length(bytes(HEADER_BYTES), 3, 4096)


def test_impossible_lengths_are_refused_before_anything_is_fetched() -> None:
    data = bytearray(head())
    data[12:16] = (META_BYTES_MAX + 1).to_bytes(4, "little")
    with pytest.raises(CorruptRecord):
        head_length(bytes(data), 3, 4096)
    with pytest.raises(CorruptRecord):
        head_length(bytes(head(meta_unused=len(META) + 1)), 3, 4096)


def test_the_longest_key_and_an_empty_one_are_kept() -> None:
    for key in (b"", b"k" * KEY_BYTES_MAX):
        data = encode_head(SEED, 4096, 2, 0, 0, 0, 0, key, b"", 0, 0)
        assert decode_head(bytes(data), SEED, 1, 4096).key == key


def test_hints_read_the_same_head_without_checking_it() -> None:
    data = bytes(head())
    assert unpack_head(b"before" + data, 6, 3) == decode_head(data, SEED, 3, 4096)
