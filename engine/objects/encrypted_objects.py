"""EncryptedObjects: objects that are encrypted before they leave this machine, and read by range all the same.

    offset  bytes  field
    0       8      magic    "FILMENC1"
    8       16     salt     random, of each write
    24      8      size     of the plaintext, little endian
    32             chunks of 65536 bytes (the last one shorter, at least one), each followed by its tag of 16 bytes

AES-256-GCM. The key of an object is HKDF-SHA256 of the site's key, salted with its salt, with its key in the bucket as
info; the nonce of a chunk is its number; the header is authenticated with each chunk. So no object passes for another
one or for an older length of itself, and a key is used for one write only.

What is wrong raises ObjectWrong. Who has the bucket sees keys (numbers, no names of people), sizes and times.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from threading import Lock
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from engine.errors import ObjectWrong
from engine.objects.client import SMALL_BYTES_MAX, Head, Objects

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAGIC = b"FILMENC1"
CHUNK_BYTES = 64 << 10
TAG_BYTES = 16
_HEADER = struct.Struct("<8s16sQ")
_STORED_CHUNK_BYTES = CHUNK_BYTES + TAG_BYTES
_PIECE_CHUNKS = 16
_KEPT_HEADERS = 4096


class EncryptedObjects:
    """Objects of another store, encrypted with the key of a site."""

    def __init__(self, inner: Objects, key: bytes) -> None:
        """`key`: 32 bytes."""
        self._inner = inner
        self._key = key
        self._lock = Lock()
        self._headers: OrderedDict[str, bytes] = OrderedDict()
        """Headers of objects that are read by range; those do not change."""

    def put(self, key: str, data: Buffer) -> None:
        """Writes an object."""
        self._inner.put(key, self._encrypted(key, data))

    def create(self, key: str, data: Buffer) -> None:
        """Writes an object. Raises ObjectExists if there is one."""
        self._inner.create(key, self._encrypted(key, data))

    def put_pieces(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        """Writes a large object in parts."""
        self._inner.put_pieces(key, self._stream(key, pieces, size), _stored_size(size))

    def get(self, key: str, length_max: int = SMALL_BYTES_MAX) -> bytes:
        """A whole object."""
        content = self._inner.get(key, _stored_size(length_max))
        header = content[: _HEADER.size]
        size = _size_of(key, header)
        if len(content) != _stored_size(size):
            raise ObjectWrong(f"{key} has another length than it says")
        return self._decrypted(key, header, content[_HEADER.size :], 0)

    def get_range(self, key: str, start: int, end: int) -> bytes:
        """Bytes of an object."""
        return self.get_ranges(key, [(start, end)])[0]

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Several ranges, in parallel."""
        header = self._header(key)
        size = _size_of(key, header)
        if any(end > size for _, end in ranges):
            raise ObjectWrong(f"{key} ends at byte {size}")
        chunks = [
            (start // CHUNK_BYTES, max(-(-end // CHUNK_BYTES), start // CHUNK_BYTES + 1)) for start, end in ranges
        ]
        stored = _stored_size(size)
        parts = self._inner.get_ranges(
            key,
            [
                (
                    _HEADER.size + first * _STORED_CHUNK_BYTES,
                    min(_HEADER.size + last * _STORED_CHUNK_BYTES, stored),
                )
                for first, last in chunks
            ],
        )
        found = []
        for (start, end), (first, _), part in zip(ranges, chunks, parts, strict=True):
            plain = self._decrypted(key, header, part, first)
            found.append(plain[start - first * CHUNK_BYTES : end - first * CHUNK_BYTES])
        return found

    def head(self, key: str) -> Head:
        """An object's size and time."""
        head = self._inner.head(key)
        return head._replace(size=_plain_size(head.size))

    def heads(self, prefix: str, after: str = "") -> Iterator[Head]:
        """The objects below a folder."""
        return (head._replace(size=_plain_size(head.size)) for head in self._inner.heads(prefix, after))

    def folders(self) -> list[str]:
        """The folders at the top."""
        return self._inner.folders()

    def delete(self, keys: Sequence[str]) -> None:
        """Removes objects."""
        self._inner.delete(keys)

    def _header(self, key: str) -> bytes:
        with self._lock:
            header = self._headers.get(key)
        if header is None:
            header = self._inner.get_range(key, 0, _HEADER.size)
            with self._lock:
                self._headers[key] = header
                if len(self._headers) > _KEPT_HEADERS:
                    self._headers.popitem(last=False)
        return header

    def _cipher(self, key: str, header: bytes) -> AESGCM:
        derivation = HKDF(SHA256(), 32, salt=header[8:24], info=b"filmroom object\0" + key.encode())
        return AESGCM(derivation.derive(self._key))

    def _encrypted(self, key: str, data: Buffer) -> bytes:
        with memoryview(data) as view, view.cast("B") as plain:
            return b"".join(self._stream(key, [bytes(plain)], plain.nbytes))

    def _stream(self, key: str, pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
        header = _HEADER.pack(MAGIC, os.urandom(16), size)
        cipher = self._cipher(key, header)
        parts = [header]
        count = 0
        for number, chunk in enumerate(_chunks(pieces)):
            count += len(chunk)
            parts.append(cipher.encrypt(_nonce(number), chunk, header))
            if len(parts) >= _PIECE_CHUNKS:
                yield b"".join(parts)
                parts = []
        if count != size:
            raise ObjectWrong(f"{key}: {count} bytes came, and {size} were announced")
        if parts:
            yield b"".join(parts)

    def _decrypted(self, key: str, header: bytes, stored: bytes, first: int) -> bytes:
        cipher = self._cipher(key, header)
        plain = []
        try:
            for number, at in enumerate(range(0, max(len(stored), 1), _STORED_CHUNK_BYTES), first):
                plain.append(cipher.decrypt(_nonce(number), stored[at : at + _STORED_CHUNK_BYTES], header))
        except (InvalidTag, ValueError):
            raise ObjectWrong(f"{key} was changed, or encrypted with another key") from None
        return b"".join(plain)


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces as chunks: all but the last one of CHUNK_BYTES, and at least one."""
    rest = b""
    is_empty = True
    for piece in pieces:
        rest += piece
        whole = len(rest) // CHUNK_BYTES * CHUNK_BYTES
        for at in range(0, whole, CHUNK_BYTES):
            is_empty = False
            yield rest[at : at + CHUNK_BYTES]
        rest = rest[whole:]
    if rest or is_empty:
        yield rest


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "little")


def _size_of(key: str, header: bytes) -> int:
    if len(header) != _HEADER.size or not header.startswith(MAGIC):
        raise ObjectWrong(f"{key} is not encrypted with the key of this site")
    return int(_HEADER.unpack(header)[2])


def _stored_size(size: int) -> int:
    return _HEADER.size + size + TAG_BYTES * max(-(-size // CHUNK_BYTES), 1)


def _plain_size(stored: int) -> int:
    """-1: it is no encrypted object."""
    body = stored - _HEADER.size
    if body < TAG_BYTES:
        return -1
    return body - TAG_BYTES * -(-body // _STORED_CHUNK_BYTES)
