"""KeyStore: the keys of one archive in DATA/keys.json, wrapped; the data keys only in memory.

    provider's key ──wraps──► master key ──wraps──► data keys ──encrypt──► records
    outside the archive       one, in two or        one a month, the last one is that of new records
                              more wrappings

    {"keys": {"format": 1, "archive_id", "is_encrypting", "data_key_days",
              "wrappings": [{"name", "kind", "settings", "wrapped", "made"}, …],
              "data_keys": [{"id", "wrapped", "made"}, …],
              "study_key": {"id", "wrapped", "made"}},     wraps the keys of studies (`study_keys`); may be missing
     "mac": "<HMAC-SHA256 of keys, as it is written, by a key from the master key>"}

The file is replaced as a whole, under the flock of DATA/keys.lock, and is a part of every backup and replica: it is of
no use without a provider's key. Thanks to the master key between both, a provider is asked once a process, and not for
new data keys. Whoever changes the file without the master key makes it invalid; an older file lacks newer data keys,
and their records are then reported and left alone.

Raises KeyStoreError; StorageFull or StorageFailed when the file cannot be replaced.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from msgspec import Struct

from engine import log
from engine.errors import KeyStoreError, StorageError, for_log
from engine.keys import lock
from engine.keys.providers import provider
from engine.storage.files import Files, replace_file
from engine.storage.keyring import KEY_ID_BYTES, SECRET_BYTES, DataKey

logger = log.get("keys")

FORMAT = 1
FILE = "keys.json"
FILE_BYTES_MAX = 1 << 20
DATA_KEY_DAYS = 30
_NONCE_BYTES = 12


class Wrapping(Struct, frozen=True, forbid_unknown_fields=True):
    """The master key, wrapped by one provider."""

    name: str
    kind: str
    settings: dict[str, str]
    wrapped: str
    made: str


class WrappedKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A data key, wrapped by the master key."""

    id: str
    wrapped: str
    made: str


class Content(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What keys.json says."""

    format: int
    archive_id: str
    is_encrypting: bool
    data_key_days: int
    wrappings: list[Wrapping]
    data_keys: list[WrappedKey]
    study_key: WrappedKey | None = None


class _Signed(Struct, frozen=True, forbid_unknown_fields=True):
    keys: msgspec.Raw
    mac: str


class KeyStore:
    """The keys of one archive. Thread-safe."""

    def __init__(self, data: Path, archive_id: bytes, files: Files) -> None:
        """Reads nothing yet."""
        self._path = str(data / FILE)
        self._data = data
        self._archive_id = archive_id
        self._files = files
        self._lock = threading.Lock()
        self._master = b""
        self._content: Content | None = None
        self._identity: tuple[int, int] | None = None
        """Of the file as it was read."""
        self._keys: dict[str, DataKey] = {}

    # -- making and unlocking -------------------------------------------------------------------

    @property
    def exists(self) -> bool:
        """Whether the archive has keys."""
        return self._files.exists(self._path)

    def create(self, name: str, kind: str, settings: Mapping[str, str], *, data_key_days: int = DATA_KEY_DAYS) -> None:
        """Makes the master key and the first data key, and writes keys.json."""
        with self._changing():
            if self.exists:
                raise KeyStoreError(f"{self._path} exists: this archive has keys already")
            self._master = os.urandom(SECRET_BYTES)
            wrapping = self._wrapping(name, kind, settings)
            keys = [self._new_data_key()]
            self._write(Content(FORMAT, self._archive_id.hex(), True, data_key_days, [wrapping], keys))

    def unlock(self) -> None:
        """Has a provider unwrap the master key, the first one that can, and unwraps the data keys."""
        signed = self._read()
        content = _decoded(signed, self._path)
        reasons = []
        for wrapping in content.wrappings:
            try:
                self._master = provider(wrapping.kind, wrapping.settings).unwrap(wrapping.wrapped, self._context)
                break
            except KeyStoreError as error:
                reasons.append(f"{wrapping.name}: {error}")
        else:
            raise KeyStoreError(f"the archive cannot be unlocked: {'; '.join(reasons) or 'keys.json has no wrapping'}")
        self._take(signed, content)

    @property
    def content(self) -> Content:
        """What keys.json says, checked. Call `unlock` or `create` first."""
        assert self._content is not None
        return self._content

    def unchecked(self) -> Content:
        """What keys.json says, without the keys to check it."""
        return _decoded(self._read(), self._path)

    # -- data keys ------------------------------------------------------------------------------

    def data_keys(self) -> list[DataKey]:
        """All data keys, after a look whether another process has changed the file."""
        with self._lock:
            self._refresh()
            return list(self._keys.values())

    def current(self) -> DataKey:
        """The data key of new records: the last one, or a new one if that is too old."""
        with self._lock:
            self._refresh()
        if self._age_days() >= self.content.data_key_days:
            try:
                self.rotate_data_key()
            except StorageError as error:
                logger.error("no new data key: the last one stays in use", reason=for_log(error))
        return self._keys[self.content.data_keys[-1].id]

    def _age_days(self) -> float:
        made = datetime.fromisoformat(self.content.data_keys[-1].made)
        return (datetime.now(UTC) - made).total_seconds() / 86400

    def study_key(self, *, create: bool = False) -> DataKey | None:
        """The key that wraps the keys of studies; None if there is none and not `create`."""
        wrapped = self.content.study_key
        if wrapped is None and create:
            with self._changing():
                wrapped = self.content.study_key
                if wrapped is None:
                    wrapped = self._new_data_key()
                    self._write(msgspec.structs.replace(self.content, study_key=wrapped))
        return None if wrapped is None else self._unwrap(wrapped)

    def rotate_data_key(self) -> str:
        """Makes a data key for new records; writers take it with their next segment. Returns its id."""
        with self._changing():
            key = self._new_data_key()
            self._write(msgspec.structs.replace(self.content, data_keys=[*self.content.data_keys, key]))
        logger.info("new data key", id=key.id)
        return key.id

    # -- wrappings ------------------------------------------------------------------------------

    def add_wrapping(self, name: str, kind: str, settings: Mapping[str, str]) -> None:
        """Wraps the master key by one more provider; one of the same name is replaced."""
        with self._changing():
            wrapping = self._wrapping(name, kind, settings)
            others = [each for each in self.content.wrappings if each.name != name]
            self._write(msgspec.structs.replace(self.content, wrappings=[*others, wrapping]))

    def remove_wrapping(self, name: str) -> None:
        """Removes a wrapping, but never the last one."""
        with self._changing():
            others = [each for each in self.content.wrappings if each.name != name]
            if len(others) == len(self.content.wrappings):
                raise KeyStoreError(f"there is no wrapping {name!r}")
            if not others:
                raise KeyStoreError(f"{name} is the last wrapping: without one the archive is lost")
            self._write(msgspec.structs.replace(self.content, wrappings=others))

    def rotate_master(self) -> None:
        """Makes a new master key, wrapped by all providers anew, and wraps the data keys with it. All must answer."""
        with self._changing():
            content, secrets = self.content, [self._keys[key.id] for key in self.content.data_keys]
            before, study_key = self._master, self.study_key()
            self._master = os.urandom(SECRET_BYTES)
            try:
                wrappings = [self._wrapping(each.name, each.kind, each.settings) for each in content.wrappings]
                keys = [
                    msgspec.structs.replace(key, wrapped=self._wrap(secret.key_id, secret.secret))
                    for key, secret in zip(content.data_keys, secrets, strict=True)
                ]
                content = msgspec.structs.replace(content, wrappings=wrappings, data_keys=keys)
                if content.study_key is not None and study_key is not None:
                    wrapped = self._wrap(study_key.key_id, study_key.secret)
                    content = msgspec.structs.replace(
                        content, study_key=msgspec.structs.replace(content.study_key, wrapped=wrapped)
                    )
                self._write(content)
            except BaseException:
                self._master = before
                raise

    # -- inside ---------------------------------------------------------------------------------

    @property
    def _context(self) -> bytes:
        return b"filmroom master key\0" + self._archive_id

    def _wrapping(self, name: str, kind: str, settings: Mapping[str, str]) -> Wrapping:
        opened = provider(kind, settings)
        wrapped = opened.wrap(self._master, self._context)
        if opened.unwrap(wrapped, self._context) != self._master:
            raise KeyStoreError(f"the key provider {kind} does not return what it has wrapped")
        return Wrapping(name, kind, dict(settings), wrapped, _now())

    def _new_data_key(self) -> WrappedKey:
        key = DataKey(os.urandom(KEY_ID_BYTES), os.urandom(SECRET_BYTES), self._archive_id)
        return WrappedKey(key.key_id.hex(), self._wrap(key.key_id, key.secret), _now())

    def _wrap(self, key_id: bytes, secret: bytes) -> str:
        nonce = os.urandom(_NONCE_BYTES)
        return _text(nonce + AESGCM(self._master).encrypt(nonce, secret, self._key_context(key_id)))

    def _unwrap(self, key: WrappedKey) -> DataKey:
        try:
            key_id, data = bytes.fromhex(key.id), base64.b64decode(key.wrapped, validate=True)
            context = self._key_context(key_id)
            secret = AESGCM(self._master).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], context)
            return DataKey(key_id, secret, self._archive_id)
        except (ValueError, binascii.Error, InvalidTag) as error:
            raise KeyStoreError(f"{self._path}: the data key {key.id} is damaged") from error

    def _key_context(self, key_id: bytes) -> bytes:
        return b"filmroom data key\0" + self._archive_id + key_id

    def _mac(self, content: bytes) -> str:
        key = hmac.digest(self._master, b"filmroom keys.json\0" + self._archive_id, "sha256")
        return hmac.new(key, content, "sha256").hexdigest()

    def _read(self) -> _Signed:
        try:
            with open(self._path, "rb") as file:
                return msgspec.json.decode(file.read(FILE_BYTES_MAX), type=_Signed)
        except FileNotFoundError as error:
            reason = "without it the archive cannot be read: take it from a backup"
            raise KeyStoreError(f"{self._path} is missing: {reason}") from error
        except (OSError, msgspec.MsgspecError) as error:
            raise KeyStoreError(f"{self._path} cannot be read: {error}") from error

    def _take(self, signed: _Signed, content: Content) -> None:
        """Uses a file that has been read. Raises KeyStoreError unless this master key has made it."""
        if not hmac.compare_digest(signed.mac, self._mac(bytes(signed.keys))):
            raise KeyStoreError(f"{self._path} has been changed by somebody without the master key, or is damaged")
        if content.format != FORMAT or content.archive_id != self._archive_id.hex():
            raise KeyStoreError(f"{self._path} is of another archive or version")
        if not content.data_keys:
            raise KeyStoreError(f"{self._path} has no data key")
        self._keys = {key.id: self._keys.get(key.id) or self._unwrap(key) for key in content.data_keys}
        self._content = content

    def _refresh(self) -> None:
        """Reads the file again if another process has replaced it; after a change of the master key the old one stays
        in use until the process ends."""
        identity = self._files.identity(self._path)
        if identity is None or identity == self._identity:
            return
        signed = self._read()
        try:
            self._take(signed, _decoded(signed, self._path))
        except KeyStoreError:
            self.unlock()
        self._identity = identity

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The right to replace the file, whose present content has been read."""
        with lock.hold(self._data, self._files), self._lock:
            if self._content is not None:
                self._refresh()
            yield

    def _write(self, content: Content) -> None:
        encoded = msgspec.json.encode(content)
        signed = _Signed(msgspec.Raw(encoded), self._mac(encoded))
        replace_file(self._files, self._path, msgspec.json.encode(signed))
        self._identity = None
        self._take(signed, content)


def _decoded(signed: _Signed, path: str) -> Content:
    try:
        return msgspec.json.decode(signed.keys, type=Content)
    except msgspec.MsgspecError as error:
        raise KeyStoreError(f"{path} cannot be read: {error}") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
