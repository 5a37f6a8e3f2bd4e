"""Random tokens, of which only the SHA-256 is stored.

token       random bytes in base64url, known to its owner only
digest      SHA-256 of the token's text: the key of its row
id          the beginning of the digest in hexadecimal, for lists and logs: it opens nothing
"""

from __future__ import annotations

import secrets
from hashlib import sha256
from typing import Final

SESSION_BYTES: Final = 32
LINK_BYTES: Final = 24
ID_LENGTH: Final = 24
TOKEN_LENGTH_MAX: Final = 128


def new_token(length: int) -> str:
    """A token of so many random bytes."""
    return secrets.token_urlsafe(length)


def digest_of(token: str) -> bytes:
    """The key of a token's row."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def id_of(digest: bytes) -> str:
    """The public name of a token."""
    return digest.hex()[:ID_LENGTH]


def prefix_of(identifier: str) -> bytes | None:
    """The beginning of the digest with this id; None: no id has this form."""
    if len(identifier) != ID_LENGTH:
        return None
    try:
        return bytes.fromhex(identifier)
    except ValueError:
        return None
