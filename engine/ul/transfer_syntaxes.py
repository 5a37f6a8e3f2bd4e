"""Chooses the transfer syntax of a presentation context among those that the requestor proposes. Pure.

It depends on which of them are native, that is without compression, and on which side sends; not on stored instances.

    we send       (C-GET: the requestor is SCP of the context) a native one, since every instance can be converted into
                  it, in our order, Explicit VR Little Endian first. A compressed one if nothing else is proposed.
    we receive    also a native one first, since a requestor that lists several may not be able to compress: Explicit
                  VR Little Endian, else Big Endian, since both keep private VRs, else Implicit VR, else Deflated. A
                  compressed one if the context has no native one; or if the peer is known to have compressed instances
                  (`prefer_compressed`), so that it need not decompress for us: the first compressed one in its order.

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
"""For classes whose data sets are identifiers: explicit first, since it keeps private VRs."""

_TO_SEND: Final = (*PLAIN_TRANSFER_SYNTAXES, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN)
"""Transfer syntaxes that every instance can be converted into, in our order of preference."""
_TO_RECEIVE: Final = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
_NOT_COMPRESSED: Final = frozenset({*_TO_SEND, ENCAPSULATED_UNCOMPRESSED})


def choose(
    proposals: tuple[str, ...], supported: Collection[str], *, we_send: bool, prefer_compressed: bool = False
) -> str | None:
    """The transfer syntax of a storage context; None when none of the proposals is supported."""
    candidates = [transfer_syntax for transfer_syntax in proposals if transfer_syntax in supported]
    compressed = [transfer_syntax for transfer_syntax in candidates if transfer_syntax not in _NOT_COMPRESSED]
    if prefer_compressed and compressed and not we_send:
        return compressed[0]
    for native in _TO_SEND if we_send else _TO_RECEIVE:
        if native in candidates:
            return native
    return next(iter(compressed or candidates), None)
