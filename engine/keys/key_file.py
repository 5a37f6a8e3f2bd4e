"""A key in a file: one line, "filmroom-key-1 " and 64 hex digits. Only its owner may read it.

FILMROOM_KEY_FILE names another path than keys.json does, for a restore on another machine.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.errors import KeyStoreError
from engine.keys.provider_fields import setting

_MARK = "filmroom-key-1 "
_FILE_BYTES_MAX = 4096
_NONCE_BYTES = 12


class KeyInMemory:
    """Wraps with an AES-256 key that this process has."""

    def __init__(self, key: bytes, name: str) -> None:
        self._aes = AESGCM(key)
        self._name = name

    def wrap(self, secret: bytes, context: bytes) -> str:
        """See `Provider`."""
        nonce = os.urandom(_NONCE_BYTES)
        return base64.b64encode(nonce + self._aes.encrypt(nonce, secret, context)).decode("ascii")

    def unwrap(self, wrapped: str, context: bytes) -> bytes:
        """See `Provider`."""
        try:
            data = base64.b64decode(wrapped, validate=True)
            return self._aes.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context)
        except (binascii.Error, InvalidTag, ValueError):
            raise KeyStoreError(f"{self._name} is not the key of this archive") from None


def open_provider(settings: Mapping[str, str]) -> KeyInMemory:
    """The provider for the file at `path`. Raises KeyStoreError."""
    path = os.environ.get("FILMROOM_KEY_FILE") or setting(settings, "path", "file")
    return KeyInMemory(read(path), f"the key in {path}")


def make(path: Path) -> None:
    """Makes a new key in a new file of mode 0400. Raises KeyStoreError."""
    content = f"{_MARK}{os.urandom(32).hex()}\n".encode()
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyStoreError(f"the key file {path} cannot be made: {error.strerror}") from error


def read(path: str) -> bytes:
    """The key in a file. Raises KeyStoreError if it is no key, or if others may read it."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_FILE_BYTES_MAX)
    except OSError as error:
        raise KeyStoreError(f"the key file {path} cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode) & 0o077:
        raise KeyStoreError(f"the key file {path} can be read by others: chmod 0400 {path}")
    return parse(content, f"the key file {path}")


def parse(content: bytes, what: str) -> bytes:
    """The key in the content of such a file. Raises KeyStoreError."""
    try:
        text = content.decode("ascii").strip()
        key = bytes.fromhex(text.removeprefix(_MARK))
    except ValueError:
        key, text = b"", ""
    if not text.startswith(_MARK) or len(key) != 32:
        raise KeyStoreError(f"{what} holds no key: make one with `filmroom encryption new-key`")
    return key
