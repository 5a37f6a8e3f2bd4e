"""Record format 2: AES-256-GCM over the meta area and the payload of a record. `record` draws the header.

Pure but for the keys, which come from the process's `keyring`. The meta area, ENCRYPTED_META_MORE bytes longer than the
meta:

    offset  bytes  field
    0       8      key_id      of the data key
    8       16     salt        random, of this record only
    24      L + 4  ciphertext  of the meta (L bytes) and of the crc32c of the plaintext payload
    28 + L  16     tag
    44 + L         unused      as in format 1

    head       key HKDF(data key, "filmroom head", archive), nonce the first 12 bytes of the salt; authenticated with
               it: segment number, header (head_crc zero), key, key_id, salt
    payload    key HKDF(data key, "filmroom record", archive, salt): one a record; blocks of 64 KiB, each followed by
               its tag, the last one shorter; nonce: 1 in the last block else 0, three zeros, number of the block (u64)

The salt makes both nonces unique. A nonce from a position or a counter would not: recovery cuts a torn tail, and the
same place is written again. 2^32 heads under one data key collide with a probability of 2^-33 (SP 800-38D 8.3); a data
key is replaced long before.

The tag of the head binds a record to its segment and place, its key to its meta, and by the salt its payload to both.
So blocks, records or segments that change places are damage, and so is a payload that is cut: its last block says so.
A payload without bytes has no block; its length is in the head. A record that moves is encrypted anew.

UIDs and lengths stay readable, else there were no recovery, scrub or backup without the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine._ext.encrypted_heads import has_encrypted, open_heads
from engine.errors import CorruptRecord, KeyDestroyed, KeyMissing
from engine.storage.keyring import KEY_ID_BYTES, KEYRING, DataKey
from engine.storage.record import (
    BLOCK_BYTES,
    ENCRYPTED_META_MORE,
    HEADER_BYTES,
    SHREDDED,
    TAG_BYTES,
    Position,
    Record,
    add_checksum,
    crc32c,
    encrypted_header,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

SALT_BYTES = 16
_HEAD_NONCE_BYTES = 12
_PREFIX_BYTES = KEY_ID_BYTES + SALT_BYTES
_CRC_BYTES = 4
_STORED_BLOCK_BYTES = BLOCK_BYTES + TAG_BYTES
_NO_CRC = bytes(4)
_PURPOSE = b"filmroom record"


class PayloadCipher:
    """Encrypts and decrypts the blocks of one record's payload."""

    __slots__ = ("_aes",)

    def __init__(self, key: DataKey, salt: bytes) -> None:
        self._aes = AESGCM(key.derive(_PURPOSE, salt))

    def encrypt(self, number: int, is_last: bool, block: memoryview, target: memoryview) -> None:
        """Encrypts a block into `target`, which has room for the tag too."""
        self._aes.encrypt_into(_nonce(number, is_last), block, None, target)

    def decrypt(self, number: int, is_last: bool, stored: memoryview, target: memoryview) -> None:
        """Decrypts a block. Raises InvalidTag."""
        self._aes.decrypt_into(_nonce(number, is_last), stored, None, target)


def _nonce(number: int, is_last: bool) -> bytes:
    return (b"\1\0\0\0" if is_last else b"\0\0\0\0") + number.to_bytes(8, "big")


class Encryptor:
    """Encrypts a payload that comes in pieces, and takes the checksum of what is written."""

    def __init__(self, key: DataKey, salt: bytes) -> None:
        self.key = key
        self.salt = salt
        self.stored_crc = 0
        """crc32c of the encrypted bytes so far."""
        self._cipher = PayloadCipher(key, salt)
        self._number = 0
        self._open = bytearray(BLOCK_BYTES)
        self._open_bytes = 0
        """Bytes of the block that is not encrypted yet: it may be the last one."""

    def all_at_once(self, buffers: Sequence[Buffer], length: int, target: memoryview) -> memoryview:
        """Encrypts a whole payload of `length` bytes into `target`; returns the part of it that is filled."""
        at = 0
        left = length
        for block in _blocks(buffers):
            left -= len(block)
            at = self._encrypt(block, left == 0, target, at)
        return target[:at]

    def add(self, buffers: Sequence[Buffer]) -> bytearray:
        """Encrypts what more of the payload has come, but for a block that may be the last one."""
        views = [_bytes_of(buffer) for buffer in buffers]
        count = (self._open_bytes + sum(map(len, views)) - 1) // BLOCK_BYTES
        out = bytearray(max(count, 0) * _STORED_BLOCK_BYTES)
        target = memoryview(out)
        at = 0
        for view in views:
            while len(view):
                if self._open_bytes == BLOCK_BYTES:
                    at = self._encrypt(memoryview(self._open), False, target, at)
                    self._open_bytes = 0
                if not self._open_bytes and len(view) > BLOCK_BYTES:
                    at = self._encrypt(view[:BLOCK_BYTES], False, target, at)
                    view = view[BLOCK_BYTES:]
                    continue
                piece = view[: BLOCK_BYTES - self._open_bytes]
                self._open[self._open_bytes : self._open_bytes + len(piece)] = piece
                self._open_bytes += len(piece)
                view = view[len(piece) :]
        return out

    def finish(self) -> bytearray:
        """Encrypts the last block; empty if the payload is."""
        out = bytearray(self._open_bytes + TAG_BYTES if self._open_bytes else 0)
        if out:
            self._encrypt(memoryview(self._open)[: self._open_bytes], True, memoryview(out), 0)
        return out

    def _encrypt(self, block: memoryview, is_last: bool, target: memoryview, at: int) -> int:
        stored = target[at : at + len(block) + TAG_BYTES]
        self._cipher.encrypt(self._number, is_last, block, stored)
        self._number += 1
        self.stored_crc = crc32c(stored, self.stored_crc)
        return at + len(stored)

    def head(
        self,
        seed: int,
        segment_id: int,
        offset: int,
        kind: int,
        flags: int,
        stamp: int,
        sequence: int,
        synced_bytes: int,
        key: bytes,
        meta: bytes,
        payload_length: int,
        payload_crc: int,
        meta_unused: int = 0,
    ) -> bytearray:
        """The head of the record when all of its payload has been encrypted. `meta`: without the unused bytes."""
        area_length = len(meta) + ENCRYPTED_META_MORE + meta_unused
        lengths = len(key), area_length, payload_length, self.stored_crc, meta_unused
        head = encrypted_header(offset, kind, flags, stamp, sequence, synced_bytes, *lengths)
        head += key
        head += self.key.key_id
        head += self.salt
        aad = segment_id.to_bytes(8, "little") + head
        content = meta + payload_crc.to_bytes(_CRC_BYTES, "little")
        head += self.key.heads.encrypt(self.salt[:_HEAD_NONCE_BYTES], content, aad)
        head += bytes(meta_unused)
        add_checksum(head, seed)
        return head


class WriterKey:
    """The data key of a writer's new records."""

    def __init__(self, current: Callable[[], DataKey], random_bytes: Callable[[int], bytes]) -> None:
        """`current` returns the key to use from now on."""
        self._current = current
        self._random_bytes = random_bytes
        self.key = current()

    def renew(self) -> None:
        """Looks for a newer key: call it for each new segment."""
        self.key = self._current()

    def encryptor(self, key: DataKey | None = None) -> Encryptor:
        """For one record, by this or another key."""
        return Encryptor(key or self.key, self._random_bytes(SALT_BYTES))


class StudyKeyring(Protocol):
    """The keys of studies, for a writer: see `engine.keys.study_keys`."""

    has_unsynced: bool
    """Whether a study that was noted with its key may not be on stable storage."""

    @property
    def is_in_use(self) -> bool:
        """Whether new records are encrypted by keys of studies."""

    def of(self, study: bytes) -> DataKey:
        """The key of a study's new records."""

    def fresh(self) -> DataKey:
        """A key for one record whose study is not known yet."""

    def assign(self, key: DataKey, study: bytes) -> None:
        """Notes the study of a fresh key."""

    def is_current(self, study: bytes, key: DataKey) -> bool:
        """Whether a record that was just written by this key counts: False if the key was retired meanwhile."""

    def sync(self) -> None:
        """Makes all that was noted durable."""


def cipher_of(head: bytes, position: Position) -> PayloadCipher:
    """The cipher of a record's payload, of whose head `opened` has taken no exception. Raises KeyMissing."""
    at = HEADER_BYTES + position.key_length
    key = KEYRING.get(head[at : at + KEY_ID_BYTES])
    return PayloadCipher(key, head[at + KEY_ID_BYTES : at + _PREFIX_BYTES])


def key_id_of(record: Record) -> bytes:
    """The id of the key of a record that is not decrypted; empty for format 1."""
    return record.meta[:KEY_ID_BYTES] if record.position.is_encrypted else b""


def opened(record: Record, head: bytes) -> Record:
    """A record with its meta and the checksum of its plaintext; `record` and `head` as they lie on the disk.

    A record of format 1 is returned as it is. Raises KeyMissing, KeyDestroyed, and CorruptRecord if its key did not
    write it here.
    """
    position = record.position
    if not position.is_encrypted:
        return record
    content = _decrypted(head, position.segment_id, position.offset, position.key_length, len(record.meta))
    payload_crc = int.from_bytes(content[-_CRC_BYTES:], "little")
    return record._replace(position=position._replace(payload_crc=payload_crc), meta=content[:-_CRC_BYTES])


def opened_or_shredded(record: Record, head: bytes) -> Record:
    """The same, of a record whose study was shredded with the kind SHREDDED instead."""
    try:
        return opened(record, head)
    except KeyDestroyed:
        return record._replace(kind=SHREDDED, meta=b"")


def is_shredded(record: Record) -> bool:
    """Whether the key of a record, as it lies on the disk, was destroyed."""
    try:
        KEYRING.get(key_id_of(record))
    except KeyDestroyed:
        return True
    except KeyMissing:
        pass
    return False


def _decrypted(head: bytes, segment_id: int, offset: int, key_length: int, meta_length: int) -> bytes:
    """The content of a meta area whose used part has this length."""
    at = HEADER_BYTES + key_length
    end = at + meta_length
    if meta_length < ENCRYPTED_META_MORE:
        raise CorruptRecord("a record head is too short to be encrypted", segment_id, offset)
    key = KEYRING.get(head[at : at + KEY_ID_BYTES])
    aad = b"".join(
        (segment_id.to_bytes(8, "little"), head[: HEADER_BYTES - 4], _NO_CRC, head[HEADER_BYTES : at + _PREFIX_BYTES])
    )
    nonce = head[at + KEY_ID_BYTES : at + KEY_ID_BYTES + _HEAD_NONCE_BYTES]
    try:
        return key.heads.decrypt(nonce, head[at + _PREFIX_BYTES : end], aad)
    except InvalidTag:
        raise CorruptRecord("a record head was not written here with its key", segment_id, offset) from None


def opened_heads(data: bytes, at: int, count: int, segment_id: int) -> bytes:
    """The heads in a footer, decrypted in place: each keeps its length, and the end of its area becomes unused. Those
    whose study was shredded get the kind SHREDDED.

    Returns `data` itself if none is encrypted. Raises CorruptRecord, KeyMissing.
    """
    if not has_encrypted(data, at, count):
        return data
    try:
        heads = open_heads(data, at, count, segment_id, _decrypt_of)
    except ValueError as error:
        raise CorruptRecord(str(error), segment_id, 0) from error
    if isinstance(heads, int):
        raise CorruptRecord("a record head was not written here with its key", segment_id, heads)
    return heads


def _decrypt_of(key_id: bytes) -> Callable[[bytes, bytes, bytes | None], bytes] | None:
    """What decrypts the heads of a key; None if it was destroyed."""
    try:
        return KEYRING.get(key_id).heads.decrypt
    except KeyDestroyed:
        return None


def _bytes_of(buffer: Buffer) -> memoryview:
    view = memoryview(buffer)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def _blocks(buffers: Sequence[Buffer]) -> Iterator[memoryview]:
    """The blocks of a payload; one that lies in one buffer is not copied."""
    whole = bytearray(BLOCK_BYTES)
    filled = 0
    for buffer in buffers:
        view = _bytes_of(buffer)
        at = 0
        while at < len(view):
            if not filled and len(view) - at >= BLOCK_BYTES:
                yield view[at : at + BLOCK_BYTES]
                at += BLOCK_BYTES
                continue
            count = min(BLOCK_BYTES - filled, len(view) - at)
            whole[filled : filled + count] = view[at : at + count]
            filled += count
            at += count
            if filled == BLOCK_BYTES:
                yield memoryview(whole)
                filled = 0
    if filled:
        yield memoryview(whole)[:filled]


def spans(payload_offset: int, length: int, payload_length: int) -> Iterator[tuple[int, bool, int, int]]:
    """The blocks that a part of a payload lies in: number, whether it is the last one, start in it, end in it."""
    last = (payload_length - 1) // BLOCK_BYTES
    end = payload_offset + length
    for number in range(payload_offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)):
        start = number * BLOCK_BYTES
        yield (
            number,
            number == last,
            max(payload_offset - start, 0),
            min(end - start, min(payload_length - start, BLOCK_BYTES)),
        )


def stored_span(number: int, payload_length: int) -> tuple[int, int]:
    """Offset of a block in the stored payload, and its stored length."""
    start = number * BLOCK_BYTES
    return number * _STORED_BLOCK_BYTES, min(BLOCK_BYTES, payload_length - start) + TAG_BYTES
