"""Which transfer syntax a presentation context gets: a pure choice among those that the requestor proposes.

Knows which of them are native, that is without compression, and which side will send; not what is stored.

    we send       on a context on which the requestor is SCP (C-GET): a native one, since every instance can be brought
                  into it; our order, Explicit VR Little Endian first. A compressed one where nothing else is proposed.
    we receive    also a native one first, since a requestor that lists several need not be able to compress: Explicit
                  VR Little Endian, else Big Endian, since both keep private VRs, else Implicit VR, else Deflated. Its
                  compressed form where the context has no native one; or where it is known to hold compressed
                  instances (`prefer_compressed`), so that it need not decompress on our account: the first compressed
                  one in its own order.

Requestors that can send both propose a context for each (PS3.8 9.3.2.2), and get both.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1.99"
ENCAPSULATED_UNCOMPRESSED: Final = "1.2.840.10008.1.2.1.98"

PLAIN_TRANSFER_SYNTAXES: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN)
"""For classes whose data sets are identifiers: explicit first, since private VRs survive."""

_TO_SEND: Final = (*PLAIN_TRANSFER_SYNTAXES, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
"""What every instance can be converted into; our order."""
_TO_RECEIVE: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
_NOT_COMPRESSED: Final = frozenset({*_TO_SEND, ENCAPSULATED_UNCOMPRESSED})


def choose(
    proposed: tuple[str, ...], taken: Collection[str], *, we_send: bool, prefer_compressed: bool = False
) -> str | None:
    """The transfer syntax of a storage context; None when none of those proposed is one of `taken`."""
    possible = [transfer_syntax for transfer_syntax in proposed if transfer_syntax in taken]
    compressed = [transfer_syntax for transfer_syntax in possible if transfer_syntax not in _NOT_COMPRESSED]
    if prefer_compressed and compressed and not we_send:
        return compressed[0]
    for native in _TO_SEND if we_send else _TO_RECEIVE:
        if native in possible:
            return native
    return next(iter(compressed or possible), None)
