"""A slow, obvious encoder of lossless JPEG (ITU-T T.81 Annex H), to test the decoder with."""

from __future__ import annotations

import struct

CATEGORIES = 17


def encode(
    samples: list[int],
    rows: int,
    columns: int,
    components: int = 1,
    *,
    precision: int = 16,
    predictor: int = 1,
    point_transform: int = 0,
    restart_rows: int = 0,
    interleaved: bool = True,
) -> bytes:
    """Samples of a pixel stand together. Every category has a code of 5 bits, or one of 12 (`CATEGORIES` 8 and up)."""
    frame = struct.pack(">BHHB", precision, rows, columns, components)
    frame += b"".join(bytes((number + 1, 0x11, 0)) for number in range(components))
    out = b"\xff\xd8" + _segment(0xC4, b"\x00" + _lengths() + bytes(range(CATEGORIES))) + _segment(0xC3, frame)
    if restart_rows:
        out += _segment(0xDD, struct.pack(">H", restart_rows * columns))
    groups = [list(range(components))] if interleaved else [[number] for number in range(components)]
    for group in groups:
        scan = bytes((len(group),)) + b"".join(bytes((number + 1, 0)) for number in group)
        out += _segment(0xDA, scan + bytes((predictor, 0, point_transform)))
        out += _scan(samples, rows, columns, components, group, precision, predictor, point_transform, restart_rows)
    return out + b"\xff\xd9"


def _segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def _lengths() -> bytes:
    counts = bytearray(16)
    counts[4] = 8
    counts[11] = CATEGORIES - 8
    return bytes(counts)


def _code(category: int) -> str:
    if category < 8:
        return f"{category:05b}"
    return f"{(8 << 7) + category - 8:012b}"


def _scan(
    samples: list[int],
    rows: int,
    columns: int,
    components: int,
    group: list[int],
    precision: int,
    predictor: int,
    point_transform: int,
    restart_rows: int,
) -> bytes:
    def at(y: int, x: int, k: int) -> int:
        return samples[(y * columns + x) * components + k] >> point_transform

    out, bits = b"", ""
    is_first = True
    for y in range(rows):
        if restart_rows and y and y % restart_rows == 0:
            out += _stuffed(bits) + bytes((0xFF, 0xD0 + (y // restart_rows - 1) % 8))
            bits, is_first = "", True
        for x in range(columns):
            for k in group:
                if x == 0:
                    guess = 1 << (precision - point_transform - 1) if is_first else at(y - 1, 0, k)
                elif is_first:
                    guess = at(y, x - 1, k)
                else:
                    left, above, corner = at(y, x - 1, k), at(y - 1, x, k), at(y - 1, x - 1, k)
                    guess = (
                        left,
                        above,
                        corner,
                        left + above - corner,
                        left + (above - corner) // 2,
                        above + (left - corner) // 2,
                        (left + above) // 2,
                    )[predictor - 1]
                bits += _difference((at(y, x, k) - guess + 0x8000) % 0x10000 - 0x8000)
        is_first = False
    return out + _stuffed(bits)


def _difference(difference: int) -> str:
    if difference == -0x8000:
        return _code(16)
    category = abs(difference).bit_length()
    if category == 0:
        return _code(0)
    value = difference if difference > 0 else difference + (1 << category) - 1
    return _code(category) + f"{value:0{category}b}"


def _stuffed(bits: str) -> bytes:
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    return data.replace(b"\xff", b"\xff\x00")
