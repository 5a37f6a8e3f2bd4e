"""The cursor of a window of studies: a place in an order, sealed so that nobody reads it.

    base64url( AES-SIV( order 8 bytes, direction 1, epoch EPOCH_BYTES, id u32 big endian, search key ) )

A search may stop at a study that its client may not see, and the place has that study's value and number. The key comes
from the secret of the accounts, so every process opens the cursors of the others, and SIV needs no nonce: one place has
one cursor.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from engine.archive.questions import Bookmark, Order
from engine.errors import RequestError
from engine.web.errors import Gone

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

EPOCH_BYTES: Final = 8
_LENGTH_MAX: Final = 1024
"""Characters of a cursor: a search key has at most 511 bytes."""
_NO_CURSOR: Final = "after: is not a cursor"


def sealed(secret: bytes, order: Order, epoch: bytes, place: Bookmark) -> str:
    """The cursor of a place."""
    packed = _head(order, epoch) + place.number.to_bytes(4, "big") + place.key
    return base64.urlsafe_b64encode(_cipher(secret).encrypt(packed, None)).rstrip(b"=").decode("ascii")


def opened(secret: bytes, order: Order, epoch: bytes, cursor: str) -> Bookmark:
    """The place of a cursor. Raises RequestError for one that is not ours, Gone for one of another index."""
    from cryptography.exceptions import InvalidTag

    if len(cursor) > _LENGTH_MAX:
        raise RequestError(_NO_CURSOR)
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        packed = _cipher(secret).decrypt(data, None)
    except (binascii.Error, ValueError, InvalidTag):
        raise RequestError(_NO_CURSOR) from None
    head = _head(order, epoch)
    length = len(head)
    if packed[: length - EPOCH_BYTES] != head[: length - EPOCH_BYTES]:
        raise RequestError("after: is a cursor of another order")
    if packed[:length] != head:
        raise Gone("after: the index has been rebuilt; begin again without a cursor")
    return Bookmark(packed[length + 4 :], int.from_bytes(packed[length : length + 4], "big"))


def _head(order: Order, epoch: bytes) -> bytes:
    name = order.fact.value[:8].encode().ljust(8, b"_") if order.fact else b"%08x" % (order.tag or 0)
    return name + (b"-" if order.is_descending else b"+") + epoch[:EPOCH_BYTES].ljust(EPOCH_BYTES, b"\0")


@lru_cache(maxsize=4)
def _cipher(secret: bytes) -> AESSIV:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    return AESSIV(hmac.digest(secret, b"cursor of a window", "sha512"))
