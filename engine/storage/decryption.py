"""Reads encrypted payloads: ciphertext into memory of its own, and from there decrypted into the caller's.

A range of a payload costs the blocks that it lies in. A block that fills a target is decrypted into it; of others, the
wanted part is copied. Used by `reader`; knows no positions but those that it is given.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidTag

from engine.errors import CorruptRecord
from engine.storage.encryption import PayloadCipher, spans, stored_span
from engine.storage.record import BLOCK_BYTES, TAG_BYTES, Position
from engine.storage.segment_bytes import SegmentBytes

BLOCKS_AT_ONCE = 16
"""Blocks that one read fetches: 1 MiB."""

_Scratch = tuple[memoryview, memoryview]


class Decryption:
    """Decrypts ranges of payloads. Thread-safe: each call has memory of its own."""

    def __init__(self) -> None:
        self._free: list[_Scratch] = []

    def fill(
        self,
        data: SegmentBytes,
        cipher: PayloadCipher,
        position: Position,
        targets: Sequence[memoryview],
        payload_offset: int,
        *,
        cached_only: bool = False,
    ) -> bool:
        """Fills consecutive `targets` from `payload_offset` on; False if the file or the page cache has fewer bytes.

        Raises CorruptRecord if a block is not what was written, OSError if it cannot be read.
        """
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = (
                memoryview(bytearray(BLOCKS_AT_ONCE * (BLOCK_BYTES + TAG_BYTES))),
                memoryview(bytearray(BLOCK_BYTES)),
            )
        try:
            return _fill(data, cipher, position, targets, payload_offset, scratch, cached_only)
        finally:
            self._free.append(scratch)


def _fill(
    data: SegmentBytes,
    cipher: PayloadCipher,
    position: Position,
    targets: Sequence[memoryview],
    payload_offset: int,
    scratch: _Scratch,
    cached_only: bool,
) -> bool:
    stored, plain = scratch
    read = data.try_read_into if cached_only else data.read_into
    gaps = _Gaps(targets)
    blocks = list(spans(payload_offset, sum(map(len, targets)), position.payload_length))
    for first in range(0, len(blocks), BLOCKS_AT_ONCE):
        group = blocks[first : first + BLOCKS_AT_ONCE]
        start = stored_span(group[0][0], position.payload_length)[0]
        last_start, last_length = stored_span(group[-1][0], position.payload_length)
        length = last_start + last_length - start
        if read([stored[:length]], position.payload_offset + start) != length:
            return False
        at = 0
        for number, is_last, begin, end in group:
            block_length = stored_span(number, position.payload_length)[1]
            block = stored[at : at + block_length]
            at += block_length
            is_whole = end - begin == block_length - TAG_BYTES
            target = gaps.take(end - begin) if is_whole else None
            into = plain[: block_length - TAG_BYTES] if target is None else target
            try:
                cipher.decrypt(number, is_last, block, into)
            except InvalidTag:
                reason = f"block {number} of an encrypted payload is not what was written"
                raise CorruptRecord(reason, position.segment_id, position.offset) from None
            if target is None:
                gaps.put(plain[begin:end])
    return True


class _Gaps:
    """Consecutive targets, filled from the first one on."""

    def __init__(self, targets: Sequence[memoryview]) -> None:
        self._targets = iter(targets)
        self._rest = memoryview(b"")

    def take(self, length: int) -> memoryview | None:
        """The next `length` bytes to fill if they lie in one target; they count as filled."""
        self._advance()
        if len(self._rest) < length:
            return None
        taken, self._rest = self._rest[:length], self._rest[length:]
        return taken

    def put(self, piece: memoryview) -> None:
        """Copies bytes into the next ones to fill."""
        while len(piece):
            self._advance()
            count = min(len(piece), len(self._rest))
            self._rest[:count] = piece[:count]
            self._rest, piece = self._rest[count:], piece[count:]

    def _advance(self) -> None:
        while not len(self._rest):
            self._rest = next(self._targets)
