"""Unsigned numbers of 64 bits in PostgreSQL, which has signed ones only: a bigint with the same bits."""

from __future__ import annotations

_U64 = (1 << 64) - 1


def signed(value: int) -> int:
    """The bigint that stands for a number from 0 to 2^64 - 1."""
    return value - (1 << 64) if value >= 1 << 63 else value


def unsigned(value: int) -> int:
    """The number that a bigint stands for."""
    return value & _U64
