"""CRC-32C bit by bit, as RFC 3720 appendix B.4 defines it: slow, obvious, the judge of _ext.crc32c."""

from __future__ import annotations

POLYNOMIAL = 0x82F63B78


def crc32c(data: bytes, value: int = 0) -> int:
    """The same contract as engine.storage.record.crc32c."""
    crc = value ^ 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
