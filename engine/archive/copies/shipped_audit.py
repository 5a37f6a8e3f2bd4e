"""The files of audit logs on their way to a replica: what both ends say of them.

    here                                    there
    DATA/audit/                             DATA/sources/LINEAGE/audit/     LINEAGE: that of the source
    DATA/sources/OTHER/audit/               DATA/sources/OTHER/audit/       logs of its own sources
        verify-key.pem                          the same, replaced as a whole
        checkpoints/000000000001.signed         the same, with what came at its end
        chains/007/000000041234.events          the same; of an encrypted archive NAME.sealed (`sealed_file`)

The key that signs stays here. A file is named by numbers, so that no text of the other end becomes a path.
"""

from __future__ import annotations

import os
import re
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from engine.archive.copies import sealed_file
from engine.audit.chain import CHAINS, CHAINS_MAX, folder_of
from engine.audit.chain import SUFFIX as EVENTS
from engine.audit.checkpoint import CHECKPOINTS, VERIFY_KEY
from engine.audit.checkpoint import SUFFIX as SIGNED
from engine.audit.logs import source_root, source_roots
from engine.errors import ReplicationFailed
from engine.storage.files import Files
from engine.storage.record import crc32c

JOIN_BYTES: Final = 4096
"""How much of a file's end is compared before it is lengthened."""
KEY_BYTES_MAX: Final = 1 << 16
PIECE_BYTES: Final = 1 << 18
"""A record is shorter, so there is a line end in each piece."""
NUMBER_MAX: Final = 10**12 - 1
NO_LINEAGE: Final = "0" * 32
_NAME: Final = re.compile(
    rf"({CHECKPOINTS}|{CHAINS}/(?P<chain>[0-9]{{3,6}}))/(?P<first>[0-9]{{12}})({re.escape(SIGNED)}|{re.escape(EVENTS)})"
)


class Kind(IntEnum):
    """What is in a file."""

    VERIFY_KEY = 0
    CHECKPOINTS = 1
    CHAIN = 2


class AuditFile(NamedTuple):
    """One file of one log."""

    lineage: str
    kind: Kind
    chain: int = 0
    first: int = 0
    """The number of its first record or checkpoint."""

    @property
    def name(self) -> str:
        """Its name in the log's folder."""
        match self.kind:
            case Kind.VERIFY_KEY:
                return VERIFY_KEY
            case Kind.CHECKPOINTS:
                return f"{CHECKPOINTS}/{self.first:012}{SIGNED}"
            case Kind.CHAIN:
                return f"{CHAINS}/{self.chain:03}/{self.first:012}{EVENTS}"

    def path_below(self, root: Path) -> Path:
        """Its path in the log of ROOT/audit."""
        return folder_of(root) / self.name

    def path_at_replica(self, data: Path, *, is_sealed: bool) -> Path:
        """Its path in a replica."""
        path = self.path_below(source_root(data, self.lineage))
        return path.with_name(path.name + sealed_file.SUFFIX) if is_sealed else path

    @classmethod
    def of_name(cls, lineage: str, name: str) -> AuditFile | None:
        """The file of this name in the log's folder; None if there is no such."""
        if name == VERIFY_KEY:
            return cls(lineage, Kind.VERIFY_KEY)
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        kind = Kind.CHECKPOINTS if match["chain"] is None else Kind.CHAIN
        file = cls(lineage, kind, int(match["chain"] or 0), int(match["first"]))
        return file if file.name == name and file.first else None

    @classmethod
    def of_numbers(cls, lineage: bytes, kind: int, chain: int, first: int) -> AuditFile:
        """The file that these numbers from the network name. Raises ReplicationFailed if there is no such."""
        try:
            found = cls(lineage.hex(), Kind(kind), chain, first)
        except ValueError:
            raise ReplicationFailed("there is no such file of an audit log") from None
        if chain >= CHAINS_MAX or first > NUMBER_MAX or (first == 0) != (found.kind == Kind.VERIFY_KEY):
            raise ReplicationFailed("there is no such file of an audit log")
        return found


class HeldFile(NamedTuple):
    """A file as a replica has it."""

    is_sealed: bool
    end: int
    """How far it goes in the file here."""
    head: bytes
    """Of the last piece, if it is sealed."""
    crc: int
    """crc32c of the last JOIN_BYTES; of the last piece behind its head; of a whole key file."""


class Piece(NamedTuple):
    """What a file has more than its copy."""

    file: AuditFile
    is_sealed: bool
    is_new: bool
    """The copy there is of another file, and is set aside: it is evidence."""
    at: int
    """Where its bytes begin in the file here."""
    data: bytes
    """Lines; or the same as one piece of `sealed_file`."""


class AuditDestination(Protocol):
    """Where audit logs go."""

    def held(self) -> dict[AuditFile, HeldFile]: ...
    def write(self, piece: Piece) -> None: ...
    def commit(self) -> None: ...
    def close(self) -> None: ...


def files_of(root: Path, lineage: str) -> dict[AuditFile, bool]:
    """The files of the log in ROOT/audit, and whether each is sealed: the key, the checkpoints, then the chains."""
    log = folder_of(root)
    found: dict[AuditFile, bool] = {}
    for folder, _, names in os.walk(log):
        for name in names:
            path = Path(folder, name).relative_to(log)
            file = AuditFile.of_name(lineage, str(path).removesuffix(sealed_file.SUFFIX))
            if file is not None:
                found[file] = found.get(file, False) or path.suffix == sealed_file.SUFFIX
    return dict(sorted(found.items()))


def logs_of(data: Path, lineage: str) -> list[tuple[str, Path]]:
    """The logs that an archive ships: lineage, and the folder above `audit`."""
    return [(lineage or NO_LINEAGE, data), *source_roots(data).items()]


def held_file(path: Path, file: AuditFile, files: Files, *, is_sealed: bool) -> HeldFile:
    """How a replica has a file. Raises OSError."""
    fd = files.open(str(path), os.O_RDONLY)
    try:
        if is_sealed:
            last = max(sealed_file.pieces(fd, files), key=lambda piece: piece.offset, default=None)
            if last is None:
                return HeldFile(True, 0, b"", 0)
            behind = last.offset + sealed_file.HEAD_BYTES
            return HeldFile(True, last.content_end, last.head, crc32c(files.pread(fd, last.end - behind, behind)))
        end = files.size(fd)
        start = 0 if file.kind == Kind.VERIFY_KEY else max(0, end - JOIN_BYTES)
        return HeldFile(False, end, b"", crc32c(files.pread(fd, end - start, start)))
    finally:
        files.close(fd)
