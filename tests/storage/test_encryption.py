"""Record format 2: golden bytes, what an attacker with the disk in his hands may try, and salts after a torn tail."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidTag

from engine.errors import CorruptRecord, KeyMissing, StorageError
from engine.storage import hints
from engine.storage.encryption import Encryptor, PayloadCipher, cipher_of, opened, opened_heads, spans
from engine.storage.files import Files
from engine.storage.inspection import Inspection
from engine.storage.keyring import KEYRING, DataKey
from engine.storage.reader import LogReader
from engine.storage.record import BLOCK_BYTES, TAG_BYTES, Position, crc32c, decode_head, stored_length
from engine.storage.recovery import recover_segment
from engine.storage.segment import FIRST_RECORD, Damage, Walk, list_segments, read_segment_header, segment_path
from engine.storage.segment_bytes import FileBytes
from engine.storage.segment_log import SegmentLog
from engine.storage.segment_store import LocalSegments

ARCHIVE_ID = b"archive-id-16-by"
KEY = b"1.2.840.113619.2.55.3"
NAME = b"DOE^PLANTED"


@pytest.fixture
def key() -> Iterator[DataKey]:
    made = DataKey(random.randbytes(8), bytes(range(32)), ARCHIVE_ID)
    KEYRING.add([made])
    yield made
    KEYRING.drop([made.key_id])


@pytest.fixture
def directory(tmp_path: Path) -> str:
    return str(tmp_path)


def open_log(directory: str, key: DataKey | None) -> SegmentLog:
    data_key = None if key is None else lambda: key
    return SegmentLog(directory, Files(), ARCHIVE_ID, writer="w", segment_bytes=4 << 20, data_key=data_key)


def append(log: SegmentLog, payload: bytes, number: int = 0, meta: bytes = NAME) -> Position:
    return log.append(1, 2, 1000 + number, KEY + b".%d" % number, meta, [payload], len(payload), crc32c(payload))


def stored(directory: str, lengths: list[int], key: DataKey | None) -> list[tuple[Position, bytes]]:
    """One sealed segment with payloads of these lengths."""
    log = open_log(directory, key)
    records = []
    for number, length in enumerate(lengths):
        payload = random.Random(number).randbytes(length)
        records.append((append(log, payload, number), payload))
    log.close()
    return records


def walk(directory: str, segment_id: int, *, opens: bool = True) -> tuple[list[Position], list[Damage], str]:
    files = Files()
    fd = files.open(segment_path(directory, segment_id), 0)
    try:
        data = FileBytes(files, fd)
        walking = Walk(data, read_segment_header(data, segment_id), verify_payload=True, opens=opens)
        items = list(walking)
    finally:
        files.close(fd)
    damage = [item for item in items if isinstance(item, Damage)]
    return [item.position for item in items if not isinstance(item, Damage)], damage, walking.torn


def change(directory: str, segment_id: int, offset: int, data: bytes) -> None:
    path = Path(segment_path(directory, segment_id))
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)


def reader_of(directory: str) -> LogReader:
    return LogReader(LocalSegments(directory, Files()))


def test_a_record_is_exactly_these_bytes() -> None:
    fixed = DataKey(b"key-id-8", bytes(range(32)), ARCHIVE_ID)
    encryptor = Encryptor(fixed, bytes(range(16)))
    target = memoryview(bytearray(stored_length(5)))
    payload = encryptor.all_at_once([b"pixel"], 5, target)
    head = encryptor.head(0x12345678, 3, 4096, 1, 2, 0x11, 7, 2048, b"1.2", b"meta", 5, crc32c(b"pixel"))
    assert head[:16].hex() == "46526563020102000300000030000000"
    assert bytes(payload).hex() == "75943468d380e7fdffa54b06af47bbb2beddafa023"
    assert bytes(head[91:]).hex() == "a3b5b69cfa6b4e293a584d5dee5ef31080c4758525d57303"
    assert head[67:91] == b"key-id-8" + bytes(range(16))
    record = decode_head(bytes(head), 0x12345678, 3, 4096)
    assert record.position.payload_crc == crc32c(payload)
    KEYRING.add([fixed])
    try:
        plain = opened(record, bytes(head))
        assert (plain.meta, plain.position.payload_crc, plain.key) == (b"meta", crc32c(b"pixel"), b"1.2")
        out = memoryview(bytearray(5))
        cipher_of(bytes(head), record.position).decrypt(0, True, payload, out)
        assert bytes(out) == b"pixel"
    finally:
        KEYRING.drop([fixed.key_id])


LENGTHS = [0, 1, 7, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 20 * BLOCK_BYTES + 5]


def test_payloads_of_every_length_come_back_whole_and_in_parts(directory: str, key: DataKey) -> None:
    reader = reader_of(directory)
    rng = random.Random(7)
    for position, payload in stored(directory, LENGTHS, key):
        assert reader.read(position) == payload
        assert reader.verify(position).meta == NAME
        for _ in range(20):
            start = rng.randint(0, len(payload))
            cuts = [rng.randint(0, max((len(payload) - start) // 3, 0)) for _ in range(3)]
            targets = [memoryview(bytearray(count)) for count in cuts]
            assert reader.read_scattered(position, targets, start, cached_only=rng.random() < 0.5)
            assert b"".join(targets) == payload[start : start + sum(cuts)]


def test_a_streamed_payload_is_the_same_whatever_pieces_it_comes_in(directory: str, key: DataKey) -> None:
    rng = random.Random(3)
    log = open_log(directory, key)
    for length in LENGTHS:
        payload = rng.randbytes(length)
        stream = log.begin_stream(1, 0, 1, KEY, 200)
        at = 0
        while at < length:
            count = rng.choice((1, 100, BLOCK_BYTES, BLOCK_BYTES + 3, 5 * BLOCK_BYTES))
            pieces = [payload[at : at + count // 2], payload[at + count // 2 : at + count]]
            stream.write(pieces, len(payload[at : at + count]))
            at += count
        position = stream.finish(NAME, crc32c(payload), stamp=9)
        assert reader_of(directory).read(position) == payload
        record = reader_of(directory).verify(position)
        assert (record.meta, record.stamp) == (NAME, 9)
        assert walk(directory, position.segment_id) == ([position], [], "")
    log.close()


def test_neither_meta_nor_payload_is_readable_on_the_disk(directory: str, key: DataKey) -> None:
    log = open_log(directory, key)
    position = append(log, NAME * 1000)
    stream = log.begin_stream(1, 0, 1, KEY, 200)
    stream.write([NAME * 100_000], len(NAME) * 100_000)
    stream.finish(NAME, crc32c(NAME * 100_000))
    log.close()
    files = list(Path(directory).iterdir())
    assert len(files) == 2
    assert all(NAME not in path.read_bytes() for path in files)
    assert all(KEY in path.read_bytes() for path in files)
    assert reader_of(directory).read(position) == NAME * 1000


def test_both_formats_lie_in_one_archive_and_in_one_footer(directory: str, key: DataKey) -> None:
    plain = stored(directory, [10, 70_000], None)
    encrypted = stored(directory, [10, 70_000], key)
    reader = reader_of(directory)
    for position, payload in plain + encrypted:
        assert reader.read(position) == payload
    for records in (plain, encrypted):
        segment_id = records[0][0].segment_id
        data = LocalSegments(directory, Files()).open(segment_id)
        found = hints.read_hints(data, segment_id)
        assert found is not None
        assert [record.position for record in found] == [position for position, _ in records]
        assert {record.meta for record in found} == {NAME}


def test_without_the_key_nothing_is_read_and_nothing_is_called_damage(directory: str, key: DataKey) -> None:
    records = stored(directory, [10, 70_000], key)
    segment_id = records[0][0].segment_id
    KEYRING.drop([key.key_id])
    with pytest.raises(KeyMissing):
        reader_of(directory).read(records[0][0])
    with pytest.raises(KeyMissing):
        walk(directory, segment_id)
    with pytest.raises(KeyMissing):
        hints.read_summary(LocalSegments(directory, Files()).open(segment_id), segment_id)
    positions, damage, torn = walk(directory, segment_id, opens=False)
    assert (len(positions), damage, torn) == (2, [], "")


def test_a_recovery_without_the_key_cuts_and_removes_nothing(directory: str, key: DataKey) -> None:
    log = open_log(directory, key)
    append(log, b"x" * 70_000)
    log.sync()
    path = Path(segment_path(directory, 0))
    log.files.close(log._active.fd)  # type: ignore[union-attr]
    KEYRING.drop([key.key_id])
    before = path.read_bytes()
    with pytest.raises(StorageError):
        recover_segment(Files(), directory, 0, 0)
    assert path.read_bytes() == before
    KEYRING.add([key])
    recovery = recover_segment(Files(), directory, 0, 0)
    assert [record.meta for record in recovery.records] == [NAME]


def test_a_scrub_of_checksums_needs_no_key_but_sees_every_flipped_byte(directory: str, key: DataKey) -> None:
    records = stored(directory, [10, 70_000], key)
    segment_id, position = records[0][0].segment_id, records[1][0]

    def faults() -> list[str]:
        data = LocalSegments(directory, Files()).open(segment_id)
        steps = Inspection(data, segment_id, start_offset=0, mark_bytes=position.end, is_sealed=True).steps()
        return [fault.what for step in steps for fault in step.faults]

    assert faults() == []
    content = Path(segment_path(directory, segment_id)).read_bytes()
    change(
        directory, segment_id, position.payload_offset + 66_000, bytes([content[position.payload_offset + 66_000] ^ 1])
    )
    assert ["payload" in what for what in faults()] == [True]


def test_heads_that_are_cut_or_changed_anywhere_are_refused_and_never_read_past_their_end(
    directory: str, key: DataKey
) -> None:
    (position, _), *_ = stored(directory, [10, 20], key)
    data = LocalSegments(directory, Files()).open(position.segment_id)
    heads = hints.read_heads(data, position.segment_id, opens=False)
    assert heads is not None
    content = heads.data[heads.start :]
    assert opened_heads(content, 0, 2, position.segment_id) != content
    for end in range(len(content)):
        try:
            result = opened_heads(content[:end], 0, 2, position.segment_id)
        except CorruptRecord:
            continue
        assert end < 64, f"{end} of {len(content)} bytes were accepted"
        assert result == content[:end]
    rng = random.Random(5)
    for _ in range(2000):
        changed = bytearray(content)
        at = rng.randrange(position.head_bytes)
        changed[at] ^= 1 << rng.randrange(8)
        try:
            result = opened_heads(bytes(changed), 0, 2, position.segment_id)
        except (CorruptRecord, KeyMissing):
            continue
        assert at in (4, 60, 61, 62, 63), f"a changed byte {at} was accepted"
        assert len(result) == len(content)


# -- an attacker who can write the disk, and compute every checksum -----------------------------


def repaired(directory: str, segment_id: int, positions: list[Position]) -> None:
    """Makes the checksums of moved bytes right again, as an attacker would."""
    path = Path(segment_path(directory, segment_id))
    content = bytearray(path.read_bytes())
    data = LocalSegments(directory, Files()).open(segment_id)
    seed = read_segment_header(data, segment_id).seed
    for position in positions:
        payload = content[position.payload_offset : position.payload_offset + position.stored_length]
        content[position.offset + 56 : position.offset + 60] = crc32c(payload).to_bytes(4, "little")
        content[position.offset + 60 : position.offset + 64] = bytes(4)
        head = content[position.offset : position.offset + position.head_bytes]
        content[position.offset + 60 : position.offset + 64] = crc32c(head, seed).to_bytes(4, "little")
    path.write_bytes(content)


def assert_refused(directory: str, position: Position) -> None:
    with pytest.raises(CorruptRecord):
        reader_of(directory).read(position)
    with pytest.raises(CorruptRecord):
        reader_of(directory).verify(position)


def test_a_block_is_readable_at_its_own_place_only(key: DataKey) -> None:
    """The checksum of the plain payload, which is in the meta, would find an exchange as well."""
    cipher, stored_block, plain = PayloadCipher(key, bytes(16)), bytearray(100 + TAG_BYTES), bytearray(100)
    cipher.encrypt(1, False, memoryview(bytes(range(100))), memoryview(stored_block))
    cipher.decrypt(1, False, memoryview(stored_block), memoryview(plain))
    assert plain == bytes(range(100))
    for number, is_last in ((0, False), (2, False), (1, True)):
        with pytest.raises(InvalidTag):
            cipher.decrypt(number, is_last, memoryview(stored_block), memoryview(plain))


def test_blocks_that_change_places_are_damage_even_with_right_checksums(directory: str, key: DataKey) -> None:
    (position, _), *_ = stored(directory, [3 * BLOCK_BYTES], key)
    content = Path(segment_path(directory, position.segment_id)).read_bytes()
    length, at = BLOCK_BYTES + TAG_BYTES, position.payload_offset
    swapped = content[at + length : at + 2 * length] + content[at : at + length]
    change(directory, position.segment_id, at, swapped)
    repaired(directory, position.segment_id, [position])
    assert_refused(directory, position)


def test_records_that_change_places_are_damage_even_with_right_checksums(directory: str, key: DataKey) -> None:
    (first, _), (second, _) = stored(directory, [1000, 1000], key)
    content = Path(segment_path(directory, first.segment_id)).read_bytes()
    change(directory, first.segment_id, first.offset, content[second.offset : second.end])
    change(directory, first.segment_id, first.offset + 40, first.offset.to_bytes(8, "little"))
    repaired(directory, first.segment_id, [first])
    assert_refused(directory, first)
    assert walk(directory, first.segment_id)[0] == [second]


def test_a_record_of_another_segment_is_damage_even_with_right_checksums(directory: str, key: DataKey) -> None:
    (first, _), *_ = stored(directory, [1000], key)
    (other, _), *_ = stored(directory, [1000], key)
    content = Path(segment_path(directory, other.segment_id)).read_bytes()
    change(directory, first.segment_id, first.offset, content[other.offset : other.end])
    repaired(directory, first.segment_id, [first])
    assert_refused(directory, first)


def test_a_payload_that_is_cut_is_damage_even_with_right_lengths_and_checksums(directory: str, key: DataKey) -> None:
    (position, _), *_ = stored(directory, [3 * BLOCK_BYTES], key)
    change(directory, position.segment_id, position.offset + 16, (2 * BLOCK_BYTES).to_bytes(8, "little"))
    shorter = position._replace(payload_length=2 * BLOCK_BYTES)
    repaired(directory, position.segment_id, [shorter])
    assert_refused(directory, shorter)
    plain = next(iter(spans(0, 10, 2 * BLOCK_BYTES)))
    assert plain == (0, False, 0, 10)


@pytest.mark.parametrize("field", [5, 6, 24, 32, 48, 64])
def test_a_changed_field_of_the_head_is_damage_even_with_a_right_checksum(
    directory: str, key: DataKey, field: int
) -> None:
    (position, _), *_ = stored(directory, [1000], key)
    content = Path(segment_path(directory, position.segment_id)).read_bytes()
    change(directory, position.segment_id, position.offset + field, bytes([content[position.offset + field] ^ 1]))
    repaired(directory, position.segment_id, [position])
    assert_refused(directory, position)


def test_a_footer_that_names_other_meta_is_damage_even_with_a_right_checksum(directory: str, key: DataKey) -> None:
    (position, _), *_ = stored(directory, [1000], key)
    store = LocalSegments(directory, Files())
    trailer = hints.read_trailer(store.open(position.segment_id), position.segment_id)
    assert trailer is not None
    path = Path(segment_path(directory, position.segment_id))
    content = bytearray(path.read_bytes())
    content[trailer.tail + 16 + position.head_bytes - 1] ^= 1
    crc = crc32c(bytes(content[trailer.tail : trailer.hint_end]))
    content[trailer.hint_end + 84 : trailer.hint_end + 88] = crc.to_bytes(4, "little")
    content[-4:] = crc32c(bytes(content[trailer.hint_end : -4])).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(CorruptRecord, match="was not written here"):
        hints.read_summary(store.open(position.segment_id), position.segment_id)


def test_the_same_record_written_again_after_a_torn_tail_has_another_salt(directory: str, key: DataKey) -> None:
    heads = []
    for _ in range(2):
        log = open_log(directory, key)
        position = append(log, b"x" * 1000)
        path = Path(segment_path(directory, position.segment_id))
        heads.append(path.read_bytes()[position.offset : position.end])
        log.files.close(log._active.fd)  # type: ignore[union-attr]
        path.write_bytes(path.read_bytes()[: position.end - 20])  # the power went
        recovery = recover_segment(Files(), directory, position.segment_id, 0)
        assert (recovery.records, bool(recovery.torn)) == ([], True)
        assert list_segments(directory, Files()) == []
    salts = [head[64 + len(KEY) + 2 + 8 :][:16] for head in heads]
    assert heads[0][:24] == heads[1][:24]
    assert salts[0] != salts[1]
    assert position.offset == FIRST_RECORD
