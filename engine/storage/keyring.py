"""The data keys that this process has unlocked: one ring for all archives that it opens, since an id names one key.

A record names its key by an id, so whoever reads the record asks the ring, and no reader passes keys along. What
unlocks an archive (`engine.keys`) adds its keys, and a way to look again: another process may have made one meanwhile.

Keys of studies are too many for memory: a *finder* looks them up one by one (`engine.keys.study_keys`).

Raises KeyMissing for a key that is nowhere: the record may be whole, so nothing is decided about it. Raises
KeyDestroyed for the destroyed key of a study: its records count as deleted.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.errors import KeyDestroyed, KeyMissing

KEY_ID_BYTES = 8
SECRET_BYTES = 32


class DataKey:
    """One data key: it encrypts records, and never leaves the process but wrapped."""

    __slots__ = ("archive_id", "heads", "key_id", "secret")

    def __init__(self, key_id: bytes, secret: bytes, archive_id: bytes) -> None:
        if len(key_id) != KEY_ID_BYTES or len(secret) != SECRET_BYTES:
            raise ValueError("a data key has an id of 8 bytes and 32 bytes")
        self.key_id = key_id
        self.secret = secret
        self.archive_id = archive_id
        self.heads = AESGCM(self.derive(b"filmroom head"))
        """Encrypts the meta areas of all records of this key."""

    def derive(self, purpose: bytes, salt: bytes = b"") -> bytes:
        """A key for one purpose, by HKDF-Expand with SHA-256 (RFC 5869 2.3): the data key is uniformly random."""
        return hmac.digest(self.secret, b"%b\0%b%b\x01" % (purpose, self.archive_id, salt), "sha256")

    def __repr__(self) -> str:
        return f"DataKey({self.key_id.hex()})"


class Keyring:
    """Data keys by their id. Thread-safe: each change replaces one entry."""

    def __init__(self) -> None:
        self._keys: dict[bytes, DataKey] = {}
        self._sources: dict[bytes, Callable[[], Iterable[DataKey]]] = {}
        self._finders: dict[str, Callable[[bytes], DataKey | None]] = {}

    def add(self, keys: Iterable[DataKey]) -> None:
        """Adds unlocked keys."""
        for key in keys:
            self._keys[key.key_id] = key

    def add_source(self, archive_id: bytes, source: Callable[[], Iterable[DataKey]]) -> None:
        """Sets who is asked for new keys of an archive when a record names an unknown one."""
        self._sources[archive_id] = source

    def add_finder(self, name: str, find: Callable[[bytes], DataKey | None]) -> None:
        """Sets who is asked for the keys of studies in the file `name`: it raises KeyDestroyed for a destroyed one."""
        self._finders[name] = find

    def remove_finder(self, name: str) -> None:
        """Asks it no longer."""
        self._finders.pop(name, None)

    def get(self, key_id: bytes) -> DataKey:
        """A key. Raises KeyMissing, KeyDestroyed."""
        key = self._keys.get(key_id)
        if key is None:
            key = self._found(key_id)
        if key is None:
            for source in list(self._sources.values()):
                self.add(source())
            key = self._keys.get(key_id)
        if key is None:
            raise KeyMissing(f"the record is encrypted with the key {key_id.hex()}, which keys.json does not have")
        return key

    def _found(self, key_id: bytes) -> DataKey | None:
        """The key of a study; None if no finder knows it."""
        destroyed: KeyDestroyed | None = None
        for find in list(self._finders.values()):
            try:
                key = find(key_id)
            except KeyDestroyed as error:
                destroyed = error
                continue
            if key is not None:
                return key
        if destroyed is not None:
            raise destroyed
        return None

    def clear(self) -> None:
        """Forgets all keys, for tests."""
        self._keys.clear()
        self._sources.clear()
        self._finders.clear()

    def drop(self, key_ids: Iterable[bytes]) -> None:
        """Forgets keys."""
        for key_id in key_ids:
            self._keys.pop(key_id, None)


KEYRING = Keyring()
"""The ring of this process."""
