"""The deflate stream of a data set in memory (PS3.5 A.5, RFC 1951). For longer ones use `sources.Inflated`."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from engine.errors import DataSetError

if TYPE_CHECKING:
    from typing_extensions import Buffer


def inflate(data: Buffer, bytes_max: int, what: str = "data set", *, may_be_longer: bool = False) -> bytes:
    """At most `bytes_max` inflated bytes. Raises DataSetError, whose text calls the data set `what`.

    More bytes are an error; with `may_be_longer` they are dropped.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, bytes_max)
    except zlib.error as error:
        raise DataSetError(f"the deflated {what} cannot be inflated: {error}") from None
    if inflater.unconsumed_tail and not may_be_longer:
        raise DataSetError(f"the deflated {what} has more than {bytes_max} bytes")
    return inflated


def deflate(data: Buffer) -> bytes:
    """The deflate stream of a data set."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()
