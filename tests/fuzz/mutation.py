"""Mutations of bytes, from a generator of random numbers alone: what the fuzzers without coverage feedback live on.

Knows of DICOM only where its formats keep lengths and what bytes begin an item, a delimiter or a PDU. The same seed and
index give the same bytes on every machine, so an input is named by two numbers and is kept nowhere.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SIZE_MAX = 16 << 10
"""Bytes of an input; longer ones only cost time."""

_LENGTHS = (0, 1, 2, 4, 6, 8, 10, 12, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_LONG_LENGTHS = (*_LENGTHS, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF7, 0xFFFFFFFE, 0xFFFFFFFF)
_BYTES = (0x00, 0x01, 0x02, 0x03, 0x08, 0x10, 0x20, 0x40, 0x5C, 0x7F, 0x80, 0xFE, 0xFF)

TOKENS = (
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"\xfe\xff\x00\xe0\x00\x00\x00\x00",
    b"\xfe\xff\x0d\xe0\x00\x00\x00\x00",
    b"\xfe\xff\xdd\xe0\x00\x00\x00\x00",
    b"\xff\xfe\xe0\x00\xff\xff\xff\xff",
    b"\xff\xfe\xe0\x0d\x00\x00\x00\x00",
    b"\xff\xfe\xe0\xdd\x00\x00\x00\x00",
    b"\x08\x00\x32\x10SQ\x00\x00\xff\xff\xff\xff",
    b"\x08\x00\x32\x10UN\x00\x00\xff\xff\xff\xff",
    b"\x40\x00\x75\x02\xff\xff\xff\xff",
    b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 192",
    b"\x08\x00\x05\x00CS\x0e\x00\\ISO 2022 IR 87",
    b"\xe0\x7f\x10\x00OW\x00\x00\xff\xff\xff\xff",
    b"\xe0\x7f\x10\x00OB\x00\x00\x00\x00\x00\x00",
    b"\x28\x00\x03\x01US\x02\x00\x01\x00",
    b"\x09\x00\x10\x00LO\x04\x00ABCD",
    b"DICM",
    b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\x00",
    b"1.2.840.10008.1.2.1.99",
    b"\x04\x00\x00\x00\x00\x06\x00\x00\x00\x02\x01\x03",
    b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00",
    b"\x50\x00\x00\x08\x51\x00\x00\x04\x00\x00\x00\x00",
    b"\x20\x00\x00\x04\x01\x00\x00\x00",
    b"\x00\x00\x00\x08\x02\x00\x00\x00\x01\x01",
    b"[limits]\n",
    b"[[peer]]\naet = 'A'\n",
    b" = -1\n",
    b"\xc3\x28",
    b"\x1b$B",
)
"""What formats hinge on; put in where no format is looked for."""


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with a few changes, most often one or two."""
    data = bytearray(rng.choice(seeds))
    count = 1
    while rng.random() < 0.5 and count < 12:
        count += 1
    for _ in range(count):
        _MUTATIONS[rng.randrange(len(_MUTATIONS))](rng, data, seeds)
    return bytes(data[:SIZE_MAX])


def _set_byte(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice(_BYTES) if rng.random() < 0.5 else rng.randrange(256)


def _flip_bit(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _step_byte(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        at = rng.randrange(len(data))
        data[at] = (data[at] + rng.randrange(-4, 5)) & 0xFF


def _set_length(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    size = rng.choice((2, 4))
    value = rng.choice(_LENGTHS if size == 2 else _LONG_LENGTHS)
    if rng.random() < 0.3:
        value = len(data) + rng.randrange(-16, 17) & ((1 << 8 * size) - 1)
    at = rng.randrange(len(data) + 1)
    data[at : at + size] = value.to_bytes(size, rng.choice(("little", "big")))


def _delete(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + rng.choice((1, 2, 4, 8, 12, rng.randrange(1, 200)))]


def _insert(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8, 30)))


def _insert_token(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.choice(TOKENS)


def _overwrite_token(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    token = rng.choice(TOKENS)
    data[at : at + len(token)] = token


def _repeat(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    piece = data[at : at + rng.choice((4, 8, 12, 16, 40, 200))]
    times = rng.choice((1, 2, 3, 10, 100)) if rng.random() < 0.9 else 1000
    data[at:at] = piece * min(times, SIZE_MAX // max(len(piece), 1))


def _splice(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = rng.choice(seeds)
    start = rng.randrange(len(other) + 1)
    piece = other[start : start + rng.choice((8, 20, 100, 400))]
    at = rng.randrange(len(data) + 1)
    data[at : at + (len(piece) if rng.random() < 0.5 else 0)] = piece


def _cut(rng: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if rng.random() < 0.5:
        del data[rng.randrange(len(data) + 1) :]


_MUTATIONS = (
    _set_byte,
    _set_byte,
    _flip_bit,
    _flip_bit,
    _step_byte,
    _set_length,
    _set_length,
    _delete,
    _insert,
    _insert_token,
    _overwrite_token,
    _repeat,
    _splice,
    _cut,
)
