"""StudyKeys: a key for each study, in DATA/study.keys, so that a study can be made unreadable wherever copies lie.

    0             4096        4352        4608
    +-------------+-----------+-----------+-- … --+
    | header      | slot 0    | slot 1    |       |      a slot has 256 bytes: it lies in one sector
    +-------------+-----------+-----------+-- … --+

    header   0   4   magic "FRsk"          slot    0    4   crc32c of bytes 4 to 128
             4   4   format 1                      4    8   key_id      number of the slot (u32, big endian), 4 random
             8   16  archive id                    12   8   made ns
             24  4   crc32c of bytes 0 to 24       20   12  nonce
             512 8   generation                    32   48  wrapped     by keys.json's study_key
             520 1   used for new records: 0, 1    128  4   crc32c of bytes 132 to 256
                                                   132  1   state       FREE to DESTROYED
                                                   136  8   changed ns
                                                   144  16  digest      HMAC of the Study Instance UID
                                                   160  12  nonce
                                                   172  80  the Study Instance UID, padded, encrypted likewise

    made ──of──► ASSIGNED ──retire──► RETIRED ──destroy──► DESTROYED
    FREE         new records          old records only     the wrapped key is overwritten; for ever

A slot's key is durable before a record is encrypted by it, since a process makes RESERVE keys at a time, and syncs them
once. The study is noted when the first of its records comes, and synced with it (`SegmentLog.sync`). A study may have
several keys: one of each process that stored it, another one after a restart, and after its key was retired. Keys
that a process has made and not used stay FREE.

The generation changes with each retirement and destruction. A writer looks at it after each record: if the key that it
has just used was retired meanwhile, it writes the record again, by another key. So a record that is written after the
retirement never counts, and whoever has retired a key finds all records that do in the log.

Integers but the number in key_id are little endian. Raises KeyStoreError, StorageFull, StorageFailed.
"""

from __future__ import annotations

import hmac
import os
import struct
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from engine.errors import KeyDestroyed, KeyStoreError
from engine.keys import lock
from engine.storage.files import Files
from engine.storage.keyring import SECRET_BYTES, DataKey
from engine.storage.record import crc32c

FILE = "study.keys"
MAGIC = b"FRsk"
FORMAT = 1
HEADER_BYTES = 4096
SLOT_BYTES = 256
RESERVE = 64
"""Keys made at once: 16 KiB and one sync for so many new studies."""
UID_BYTES_MAX = 64
"""A study with a longer UID, which DICOM does not allow, has no key of its own."""
CURRENT_MAX = 256
"""Studies whose key a process has at hand for new records; each is looked at after a retirement."""
FOUND_MAX = 4096
"""Keys of old records that a process has at hand."""

_HEAD = struct.Struct("<4sI16s")
_GENERATION_AT = 512
_IN_USE_AT = 520
_KEY = struct.Struct("<8sQ12s48s")
_USE = struct.Struct("<B3xQ16s12s80s")
_KEY_BYTES = 128
_U32 = struct.Struct("<I")
_DIGEST_AT = 144
_STATE_AT = 132
_DIGEST_BYTES = 16
_NONCE_BYTES = 12
_CHUNK_SLOTS = 4096

FILE_BYTES_MAX = HEADER_BYTES + (SLOT_BYTES << 32)


class State(IntEnum):
    """The state of a key."""

    FREE = 0
    ASSIGNED = 1
    RETIRED = 2
    DESTROYED = 3


class StudyKey(NamedTuple):
    """A key of a study, without the key."""

    number: int
    """Of its slot."""
    key_id: bytes
    state: State
    changed_ns: int
    digest: bytes


class StudyKeys:
    """The keys of an archive's studies. Thread-safe."""

    def __init__(self, data: Path, archive_id: bytes, files: Files, wrapping_key: DataKey) -> None:
        """Opens the file. Raises KeyStoreError if it is missing or of another archive."""
        self.path = str(data / FILE)
        self._data = data
        self._archive_id = archive_id
        self._files = files
        self._wrapping = AESGCM(wrapping_key.derive(b"filmroom study keys"))
        self._naming = wrapping_key.derive(b"filmroom study digest")
        self._lock = threading.RLock()
        self._current: dict[bytes, DataKey] = {}
        self._found: dict[bytes, DataKey] = {}
        self._reserve: list[tuple[int, DataKey]] = []
        self.has_unsynced = False
        """Whether a study that was noted with its key may not be on stable storage."""
        try:
            self._fd = files.open(self.path, os.O_RDWR)
        except OSError as error:
            raise KeyStoreError(f"{self.path} cannot be opened: {error.strerror}; take it from a backup") from error
        _check_header(files, self._fd, self.path, archive_id)
        self._generation = self._read_generation()

    @classmethod
    def create(cls, data: Path, archive_id: bytes, files: Files) -> None:
        """Makes a file without keys, durably. Leaves one that is there."""
        path = str(data / FILE)
        if files.exists(path):
            return
        temporary = f"{path}.{os.getpid()}"
        fd = files.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            head = _HEAD.pack(MAGIC, FORMAT, archive_id)
            files.pwritev(fd, [(head + _U32.pack(crc32c(head))).ljust(HEADER_BYTES, b"\0")], 0)
            files.fdatasync(fd)
        finally:
            files.close(fd)
        files.rename(temporary, path)
        files.sync_directory(str(data))

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            if self._fd >= 0:
                self._files.close(self._fd)
                self._fd = -1

    # -- for new records ------------------------------------------------------------------------

    @property
    def is_in_use(self) -> bool:
        """Whether new records are encrypted by keys of studies."""
        # A damaged byte counts as 1: records with a key of their study are the ones that can be shredded.
        return self._files.pread(self._fd, 1, _IN_USE_AT) != b"\0"

    def use(self, is_in_use: bool) -> None:
        """Sets whether they are, from the next study on. Durable."""
        if self.is_in_use != is_in_use:
            self._files.pwritev(self._fd, [b"\1" if is_in_use else b"\0"], _IN_USE_AT)
            self._files.fdatasync(self._fd)

    def of(self, study: bytes) -> DataKey:
        """The key of a study's new records. Then write the record, and ask `is_current`."""
        with self._lock:
            self._look()
            key = self._current.get(study)
            if key is None:
                number, key = self._spare()
                self._assign(number, key, study)
            return key

    def fresh(self) -> DataKey:
        """A key for one record whose study is not known yet: `assign` it before the record counts."""
        with self._lock:
            return self._spare()[1]

    def assign(self, key: DataKey, study: bytes) -> None:
        """Notes the study of a fresh key."""
        with self._lock:
            self._assign(_number_of(key.key_id), key, study)

    def is_current(self, study: bytes, key: DataKey) -> bool:
        """Whether a record that was just written by this key counts: False if the key was retired meanwhile."""
        with self._lock:
            self._look()
            if self._current.get(study) is key:
                return True
            slot = self._slot(_number_of(key.key_id))
            return slot is not None and slot.state == State.ASSIGNED

    def sync(self) -> None:
        """Makes all that was noted durable."""
        with self._lock:
            self.has_unsynced = False
            if self._fd >= 0:
                self._files.fdatasync(self._fd)

    # -- for old records ------------------------------------------------------------------------

    def find(self, key_id: bytes) -> DataKey | None:
        """A key by its id; None if it is not one of this file. Raises KeyDestroyed, KeyStoreError if it is damaged."""
        with self._lock:
            if self._fd < 0:
                return None
            self._look()
            key = self._found.get(key_id)
            if key is None:
                key = self._read(key_id)
                if key is not None:
                    if len(self._found) >= FOUND_MAX:
                        del self._found[next(iter(self._found))]
                    self._found[key_id] = key
            return key

    def is_mine(self, key_id: bytes) -> bool:
        """Whether an id is of a key in this file, destroyed or not."""
        with self._lock:
            slot = self._slot(_number_of(key_id))
            return slot is not None and slot.key_id == key_id

    # -- retiring and destroying ----------------------------------------------------------------

    def of_studies(self, studies: Iterable[bytes]) -> dict[bytes, list[StudyKey]]:
        """The keys of these studies, those that are destroyed too. Reads the whole file."""
        names = {self._digest(study): study for study in studies}
        keys: dict[bytes, list[StudyKey]] = {}
        for slot in self.slots() if names else ():
            if slot.digest in names:
                keys.setdefault(names[slot.digest], []).append(slot)
        return keys

    def retire(self, keys: Collection[StudyKey]) -> None:
        """From now on no new record is encrypted by these keys, in any process. Durable when it returns."""
        self._change([key for key in keys if key.state == State.ASSIGNED], State.RETIRED)

    def destroy(self, keys: Collection[StudyKey]) -> None:
        """Destroys keys for good. Durable when it returns."""
        keys = [key for key in keys if key.state != State.DESTROYED]
        # The state first: a power cut may leave a destroyed key whose bytes are still there, never the other way round.
        self._change(keys, State.DESTROYED)
        self._overwrite(keys)

    def settle(self) -> int:
        """Finishes what a power cut has interrupted: overwrites keys that count as destroyed. Returns their number."""
        keys = [key for key in self.slots() if key.state == State.DESTROYED and self._has_secret(key.number)]
        self._overwrite(keys)
        return len(keys)

    def slots(self) -> Iterator[StudyKey]:
        """All keys. Raises KeyStoreError if a slot is damaged."""
        return _slots(self._files, self._fd)

    def study_of(self, key: StudyKey) -> bytes:
        """The Study Instance UID of a retired key; b"" if it cannot be read."""
        data = self._files.pread(self._fd, SLOT_BYTES, HEADER_BYTES + key.number * SLOT_BYTES)
        if len(data) < SLOT_BYTES:
            return b""
        _, _, _, nonce, uid = _USE.unpack_from(data, _STATE_AT)
        try:
            return self._wrapping.decrypt(nonce, uid, self._aad(key.key_id, b"uid")).rstrip(b"\0")
        except InvalidTag:
            return b""

    def destroyed_ids(self) -> set[bytes]:
        """The ids of all destroyed keys."""
        return {slot.key_id for slot in self.slots() if slot.state == State.DESTROYED}

    def destroy_ids(self, key_ids: Collection[bytes]) -> int:
        """Destroys keys that another copy of this file names as destroyed. Returns how many were not yet."""
        keys = [slot for slot in self.slots() if slot.key_id in key_ids and slot.state != State.DESTROYED]
        self.destroy(keys)
        return len(keys)

    # -- inside ---------------------------------------------------------------------------------

    def _look(self) -> None:
        """Forgets keys that any process has retired or destroyed since the last look."""
        generation = self._read_generation()
        if generation == self._generation:
            return
        self._generation = generation
        self._found.clear()
        for study, key in list(self._current.items()):
            slot = self._slot(_number_of(key.key_id))
            if slot is None or slot.state != State.ASSIGNED:
                del self._current[study]

    def _read_generation(self) -> int:
        return int.from_bytes(self._files.pread(self._fd, 8, _GENERATION_AT), "little")

    def _spare(self) -> tuple[int, DataKey]:
        if not self._reserve:
            self._reserve = self._make()
        return self._reserve.pop(0)

    def _make(self) -> list[tuple[int, DataKey]]:
        """Makes RESERVE keys, durably."""
        with self._changing():
            first = max(self._files.size(self._fd) - HEADER_BYTES, 0)
            first = -(-first // SLOT_BYTES)
            made: list[tuple[int, DataKey]] = []
            slots: list[bytes] = []
            for number in range(first, first + RESERVE):
                key_id = number.to_bytes(4, "big") + os.urandom(4)
                key = DataKey(key_id, os.urandom(SECRET_BYTES), self._archive_id)
                nonce = os.urandom(_NONCE_BYTES)
                wrapped = self._wrapping.encrypt(nonce, key.secret, self._aad(key_id, b"key"))
                slots.append(_checked(_KEY.pack(key_id, time.time_ns(), nonce, wrapped)) + bytes(_KEY_BYTES))
                made.append((number, key))
            self._files.pwritev(self._fd, [b"".join(slots)], HEADER_BYTES + first * SLOT_BYTES)
            self._files.fdatasync(self._fd)
        return made

    def _assign(self, number: int, key: DataKey, study: bytes) -> None:
        nonce = os.urandom(_NONCE_BYTES)
        uid = self._wrapping.encrypt(nonce, study.ljust(UID_BYTES_MAX, b"\0"), self._aad(key.key_id, b"uid"))
        self._write_use(number, State.ASSIGNED, self._digest(study), nonce, uid)
        self.has_unsynced = True
        if len(self._current) >= CURRENT_MAX:
            del self._current[next(iter(self._current))]
        self._current[study] = key

    def _write_use(self, number: int, state: State, digest: bytes, nonce: bytes, uid: bytes) -> None:
        use = _checked(_USE.pack(state, time.time_ns(), digest, nonce, uid))
        self._files.pwritev(self._fd, [use], HEADER_BYTES + number * SLOT_BYTES + _KEY_BYTES)

    def _change(self, keys: Collection[StudyKey], state: State) -> None:
        if not keys:
            return
        with self._changing():
            for key in keys:
                data = self._files.pread(self._fd, SLOT_BYTES, HEADER_BYTES + key.number * SLOT_BYTES)
                _, _, digest, nonce, uid = _USE.unpack_from(data, _STATE_AT)
                is_over = state == State.DESTROYED
                nonce, uid = (bytes(12), bytes(80)) if is_over else (nonce, uid)
                self._write_use(key.number, state, digest, nonce, uid)
            generation = (self._read_generation() + 1).to_bytes(8, "little")
            self._files.pwritev(self._fd, [generation], _GENERATION_AT)
            self._files.fdatasync(self._fd)

    def _overwrite(self, keys: Collection[StudyKey]) -> None:
        if not keys:
            return
        for key in keys:
            slot = _checked(_KEY.pack(key.key_id, 0, bytes(_NONCE_BYTES), bytes(SECRET_BYTES + 16)))
            self._files.pwritev(self._fd, [slot], HEADER_BYTES + key.number * SLOT_BYTES)
        self._files.fdatasync(self._fd)

    def _has_secret(self, number: int) -> bool:
        data = self._files.pread(self._fd, _KEY.size, HEADER_BYTES + number * SLOT_BYTES + 4)
        return any(_KEY.unpack(data)[3])

    def _slot(self, number: int) -> StudyKey | None:
        """A slot; None if there is none, or no key was ever made in it. Raises KeyStoreError if it is damaged."""
        data = self._files.pread(self._fd, SLOT_BYTES, HEADER_BYTES + number * SLOT_BYTES)
        return _decoded(number, data) if len(data) == SLOT_BYTES else None

    def _read(self, key_id: bytes) -> DataKey | None:
        number = _number_of(key_id)
        slot = self._slot(number)
        if slot is None or slot.key_id != key_id:
            return None
        if slot.state == State.DESTROYED:
            raise KeyDestroyed(f"the study of this record was shredded: its key {key_id.hex()} was destroyed")
        data = self._files.pread(self._fd, _KEY.size, HEADER_BYTES + number * SLOT_BYTES + 4)
        _, _, nonce, wrapped = _KEY.unpack(data)
        try:
            return DataKey(key_id, self._wrapping.decrypt(nonce, wrapped, self._aad(key_id, b"key")), self._archive_id)
        except InvalidTag:
            raise KeyStoreError(f"{self.path}: the key {key_id.hex()} is not authentic") from None

    def _digest(self, study: bytes) -> bytes:
        return hmac.digest(self._naming, study, "sha256")[:_DIGEST_BYTES]

    def _aad(self, key_id: bytes, part: bytes) -> bytes:
        return b"filmroom study " + part + b"\0" + self._archive_id + key_id

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """The right to make keys or to change their states, of one thread of one process at a time."""
        with self._lock, lock.hold(self._data, self._files):
            yield


def check(path: Path, archive_id: bytes, files: Files) -> None:
    """Reads a file without the key that wraps its keys. Raises KeyStoreError if it is damaged, OSError."""
    fd = files.open(str(path), os.O_RDONLY)
    try:
        _check_header(files, fd, str(path), archive_id)
        for _ in _slots(files, fd):
            pass
    finally:
        files.close(fd)


def destroyed_in(path: Path, archive_id: bytes, files: Files) -> set[bytes]:
    """The ids of the keys that a copy of the file names as destroyed; needs no key. Raises KeyStoreError, OSError."""
    states = states_in(path, archive_id, files)
    return {bytes.fromhex(key_id) for key_id, state in states.items() if state == State.DESTROYED}


def states_in(path: Path, archive_id: bytes, files: Files) -> dict[str, State]:
    """The states of all keys by their ids in hex digits; needs no key. Raises KeyStoreError, OSError."""
    fd = files.open(str(path), os.O_RDONLY)
    try:
        _check_header(files, fd, str(path), archive_id)
        return {slot.key_id.hex(): slot.state for slot in _slots(files, fd)}
    finally:
        files.close(fd)


def _check_header(files: Files, fd: int, path: str, archive_id: bytes) -> None:
    header = files.pread(fd, HEADER_BYTES, 0)
    head = header[: _HEAD.size]
    if len(header) < HEADER_BYTES or _U32.pack(crc32c(head)) != header[_HEAD.size : _HEAD.size + 4]:
        raise KeyStoreError(f"{path} is damaged: take it from a backup")
    if _HEAD.unpack(head) != (MAGIC, FORMAT, archive_id):
        raise KeyStoreError(f"{path} is of another archive or version")


def _slots(files: Files, fd: int) -> Iterator[StudyKey]:
    at = 0
    while data := files.pread(fd, _CHUNK_SLOTS * SLOT_BYTES, HEADER_BYTES + at * SLOT_BYTES):
        for start in range(0, len(data) - SLOT_BYTES + 1, SLOT_BYTES):
            slot = _decoded(at, data[start : start + SLOT_BYTES])
            at += 1
            if slot is not None:
                yield slot
        if len(data) < _CHUNK_SLOTS * SLOT_BYTES:
            return


def _number_of(key_id: bytes) -> int:
    return int.from_bytes(key_id[:4], "big")


def _checked(content: bytes) -> bytes:
    """One half of a slot."""
    content = content.ljust(_KEY_BYTES - 4, b"\0")
    return _U32.pack(crc32c(content)) + content


def _decoded(number: int, data: bytes) -> StudyKey | None:
    """A slot; None if no key was made in it, as a power cut may leave it. Raises KeyStoreError if it is damaged."""
    key, use = data[:_KEY_BYTES], data[_KEY_BYTES:]
    state, changed_ns, digest, _, _ = _USE.unpack_from(use, 4)
    is_used = any(use)
    if is_used and (_U32.pack(crc32c(use[4:])) != use[:4] or state > State.DESTROYED):
        # Only the note of the study was being written, or damaged: the key itself may be whole.
        state, changed_ns, digest = State.FREE, 0, b""
    key_id = key[4:12]
    if _U32.pack(crc32c(key[4:])) != key[:4] or _number_of(key_id) != number:
        # DESTROYED: a power cut while its bytes were overwritten. That state is durable before; so a retired key whose
        # bytes are wrong is damaged, and a copy of the file may have it whole.
        if state == State.FREE:
            return None
        if state != State.DESTROYED:
            raise KeyStoreError(f"slot {number} of {FILE} is damaged: take the file from a backup")
    return StudyKey(number, key_id, State(state), changed_ns, digest)
