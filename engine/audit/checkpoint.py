"""Checkpoints: signed statements of how far each chain had come, made by the keeper.

    DATA/audit/checkpoints/000000000001.signed      lines, from checkpoint number 1 on
    a line          SIGNATURE SPACE JSON \\n        Ed25519 of the JSON's bytes, in base64
    DATA/audit/signing-key.pem                      the key; only the keeper opens it
    DATA/audit/verify-key.pem                       its public half, behind those of earlier keys: keep a copy elsewhere

    {"checkpoint":17,"t":"2026-11-30T02:15:44.123456Z","previous":"<SHA-256 of the JSON before>",
     "chains":{"000":[4711,"<hash of record 4711>"]},"pruned":{"000":[1200,"<hash of record 1200>"]}}

`chains` has those with new records since the checkpoint before; they are synced before they are signed. `pruned` has
those of which the records up to a number were removed because of their age. A process that can write the log, but not
read the key, cannot change what was signed. Whoever has the key can: therefore checkpoints also go to the collector,
where `filmroom audit verify --anchor` finds them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson

from engine import log
from engine.audit.chain import Head, chain_files, chain_names, folder_of, make_private, read_head
from engine.audit.event import when
from engine.audit.reading import lines_of
from engine.errors import ConfigError, StorageError, StorageFailed
from engine.storage.files import Files, raise_write_error, replace_file

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

logger = log.get("audit.checkpoint")

CHECKPOINTS: Final = "checkpoints"
SUFFIX: Final = ".signed"
FILE_BYTES_MAX: Final = 16 << 20
SIGNING_KEY: Final = "signing-key.pem"
VERIFY_KEY: Final = "verify-key.pem"

_PEM: Final = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----\n?", re.S)
_LINE: Final = re.compile(rb'([A-Za-z0-9+/]{86}==) (\{"checkpoint":.*?\}\})')


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One statement, as it was read."""

    number: int
    time: str
    previous: str
    chains: Mapping[str, Head]
    pruned: Mapping[str, Head]
    statement: bytes
    signature: bytes

    @property
    def digest(self) -> str:
        """What the next checkpoint names as the one before."""
        return hashlib.sha256(self.statement).hexdigest()

    def is_signed_by(self, keys: Sequence[Ed25519PublicKey]) -> bool:
        """Whether its signature is that of one of these keys."""
        from cryptography.exceptions import InvalidSignature

        for key in keys:
            try:
                key.verify(self.signature, self.statement)
            except InvalidSignature:
                continue
            return True
        return False


def parse(text: bytes) -> Checkpoint | None:
    """A checkpoint somewhere in a line, as a collector may have written it; None if there is none."""
    match = _LINE.search(text)
    if match is None:
        return None
    try:
        content = orjson.loads(match[2])
        return Checkpoint(
            number=int(content["checkpoint"]),
            time=str(content["t"]),
            previous=str(content["previous"]),
            chains=_heads(content["chains"]),
            pruned=_heads(content["pruned"]),
            statement=match[2],
            signature=base64.b64decode(match[1]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _heads(value: dict[str, Any]) -> dict[str, Head]:
    return {name: Head(int(number), bytes.fromhex(digits)) for name, (number, digits) in value.items()}


def checkpoint_files(data: Path) -> list[Path]:
    """The files of checkpoints, in order."""
    folder = folder_of(data) / CHECKPOINTS
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(SUFFIX)]
    except FileNotFoundError:
        return []


def checkpoint_lines(data: Path) -> Iterator[tuple[Path, int, bytes]]:
    """Every line of every file: path, line number, content."""
    for path in checkpoint_files(data):
        for number, line in enumerate(lines_of(path), 1):
            yield path, number, line


def last_checkpoint(data: Path) -> Checkpoint | None:
    """The last one that can be read."""
    for path in reversed(checkpoint_files(data)):
        last = None
        for line in lines_of(path):
            last = line
        if last is not None:
            return parse(last)
    return None


# -- keys ---------------------------------------------------------------------------------------------


def signing_key(data: Path, path: Path | None, files: Files) -> Ed25519PrivateKey:
    """The key of an archive; made when it has none and `path` names none. Raises ConfigError, StorageError."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    place = path or folder_of(data) / SIGNING_KEY
    if path is None and not place.exists():
        make_private(folder_of(data), files)
        new = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write_private(place, new)
        files.sync_directory(str(place.parent))
    try:
        key = serialization.load_pem_private_key(place.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"audit.signing_key: {place} cannot be read: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"audit.signing_key: {place} is no Ed25519 key (openssl genpkey -algorithm ed25519)")
    return key


def _write_private(path: Path, content: bytes) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, content)
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        raise_write_error(error, f"write {path}")


def verify_keys(path: Path) -> list[Ed25519PublicKey]:
    """Public keys in PEM, one behind the other. Raises ConfigError."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    keys: list[Ed25519PublicKey] = []
    try:
        for block in _PEM.findall(path.read_bytes()):
            key = serialization.load_pem_public_key(block)
            if not isinstance(key, Ed25519PublicKey):
                raise ConfigError(f"{path}: a key that is no Ed25519 public key")
            keys.append(key)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not keys:
        raise ConfigError(f"{path}: there is no public key in it")
    return keys


# -- signing ------------------------------------------------------------------------------------------


class Notary:
    """Signs the heads of all chains. The keeper has one; for one thread."""

    def __init__(self, data: Path, key_path: Path | None = None, files: Files | None = None) -> None:
        """Raises ConfigError, StorageError."""
        from cryptography.hazmat.primitives import serialization

        self._data = data
        self._files = files or Files()
        self._key = signing_key(data, key_path, self._files)
        public = self._key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        place = folder_of(data) / VERIFY_KEY
        make_private(folder_of(data), self._files)
        before = place.read_bytes() if place.exists() else b""
        if public not in before:
            replace_file(self._files, str(place), before + public)
        self._last = last_checkpoint(data)
        self._signed: dict[str, Head] = {}
        self._sizes: dict[str, tuple[str, int]] = {}

    def sign(self, pruned: Mapping[str, Head] | None = None) -> Checkpoint | None:
        """Makes a checkpoint if there is anything new. Returns it. Raises StorageFull, StorageFailed."""
        chains: dict[str, Head] = {}
        for name in chain_names(self._data):
            head = self._head_of(name)
            if head is not None and head.number and head != self._signed.get(name):
                chains[name] = head
        if not chains and not pruned:
            return None
        number = self._last.number + 1 if self._last is not None else 1
        content = {
            "checkpoint": number,
            "t": when(time.time_ns()),
            "previous": self._last.digest if self._last is not None else "",
            "pruned": _plain(pruned or {}),
            "chains": _plain(chains),
        }
        statement = orjson.dumps(content)
        line = base64.b64encode(self._key.sign(statement)) + b" " + statement
        self._append(line, number)
        self._last = parse(line)
        self._signed |= chains
        return self._last

    def _head_of(self, name: str) -> Head | None:
        """The end of a chain, durable; the one before if nothing was added."""
        paths = chain_files(self._data, name)
        if not paths:
            return None
        size = (paths[-1].name, paths[-1].stat().st_size)
        if self._sizes.get(name) == size:
            return self._signed.get(name)
        head = read_head(self._data, name)
        before = self._signed.get(name)
        if head is None or (before is not None and head.number < before.number):
            logger.error("the end of an audit chain cannot be read, or is older than what was signed", chain=name)
            return None
        fd = self._files.open(str(paths[-1]), os.O_RDONLY)
        try:
            self._files.fdatasync(fd)
        finally:
            self._files.close(fd)
        self._sizes[name] = size
        return head

    def _append(self, line: bytes, number: int) -> None:
        folder = folder_of(self._data) / CHECKPOINTS
        make_private(folder, self._files)
        paths = checkpoint_files(self._data)
        path = paths[-1] if paths and paths[-1].stat().st_size < FILE_BYTES_MAX else folder / f"{number:012}{SUFFIX}"
        try:
            fd = self._files.open(str(path), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise_write_error(error, f"open {path}")
        try:
            length = self._whole_length(fd)
            self._files.pwritev(fd, [line + b"\n"], length)
            self._files.fdatasync(fd)
        except StorageFailed:
            raise
        except StorageError:
            self._files.truncate(fd, length)
            raise
        finally:
            self._files.close(fd)
        self._files.sync_directory(str(folder))

    def _whole_length(self, fd: int) -> int:
        """The length up to the last line end; what a power cut left behind it is cut off."""
        size = self._files.size(fd)
        tail = self._files.pread(fd, 1 << 20, max(0, size - (1 << 20)))
        length = size - (len(tail) - (tail.rfind(b"\n") + 1))
        if length < size:
            self._files.truncate(fd, length)
        return length


def _plain(heads: Mapping[str, Head]) -> dict[str, list[object]]:
    return {name: [head.number, head.hash.hex()] for name, head in heads.items()}
