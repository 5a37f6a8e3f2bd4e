"""Encryption of the small files and caches beside the log, by the archive's current data key.

    0        8        16      28
    +--------+--------+-------+-- … ----------+
    | magic  | key_id | nonce | ciphertext    |      AES-256-GCM, authenticated with the purpose and what else is bound
    +--------+--------+-------+-- … ----------+

What does not begin with the magic was written before the archive had keys, and is taken as it is: these files are no
proof of anything, and none of their formats begins like this.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.storage.keyring import KEY_ID_BYTES, KEYRING, DataKey

MAGIC: Final = b"FRsealed"
_NONCE_BYTES: Final = 12
_HEAD_BYTES: Final = len(MAGIC) + KEY_ID_BYTES + _NONCE_BYTES
MORE_BYTES: Final = _HEAD_BYTES + 16
"""Bytes by which sealed content is longer."""


class Unsealable(ValueError):
    """Sealed content that was changed, cut off, or written for another purpose: damaged."""


@dataclass(frozen=True, slots=True)
class Sealing:
    """Seals what one archive writes."""

    data_key: Callable[[], DataKey] | None = None
    """None: the archive does not encrypt, and everything stays as it is."""

    def seal(self, purpose: bytes, content: bytes, bound: bytes = b"") -> bytes:
        """The content as it is written. `bound`: what it must be read with, such as its name."""
        if self.data_key is None:
            return content
        key = self.data_key()
        nonce = os.urandom(_NONCE_BYTES)
        return b"".join((MAGIC, key.key_id, nonce, _cipher(key, purpose).encrypt(nonce, content, bound)))


PLAIN: Final = Sealing()


def unseal(purpose: bytes, content: bytes, bound: bytes = b"") -> bytes:
    """The content that was sealed, or that never was. Raises Unsealable, KeyMissing."""
    if not content.startswith(MAGIC):
        return content
    if len(content) < MORE_BYTES:
        raise Unsealable("sealed content is cut off")
    key = KEYRING.get(content[len(MAGIC) : len(MAGIC) + KEY_ID_BYTES])
    nonce = content[_HEAD_BYTES - _NONCE_BYTES : _HEAD_BYTES]
    try:
        return _cipher(key, purpose).decrypt(nonce, memoryview(content)[_HEAD_BYTES:], bound)
    except InvalidTag:
        raise Unsealable("sealed content was changed, or is another's") from None


def _cipher(key: DataKey, purpose: bytes) -> AESGCM:
    return AESGCM(key.derive(b"filmroom file " + purpose))
