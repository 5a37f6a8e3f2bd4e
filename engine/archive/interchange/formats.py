"""Recognises other file formats by their first bytes, for the message that refuses a file."""

from __future__ import annotations

from typing import Final

_UNPACK: Final = "unpack it first"

_SIGNS: Final = (
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (0, b"PK\x03\x04", "a zip archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x1f\x8b", "a gzip file that holds no tar archive", _UNPACK),
    (0, b"BZh", "a bzip2 file that holds no tar archive", _UNPACK),
    (0, b"\xfd7zXZ\x00", "an xz file that holds no tar archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (0, b"MSCF", "a cabinet archive", _UNPACK),
    (0x8001, b"CD001", "a disc image", "mount it first"),
)
"""Offset, bytes, name of the format, advice."""


def described(start: bytes) -> str:
    """ "a 7z archive; unpack it first", or "" for an unknown format."""
    for offset, sign, format_name, advice in _SIGNS:
        if start[offset : offset + len(sign)] == sign:
            return f"{format_name}; {advice}"
    return ""
