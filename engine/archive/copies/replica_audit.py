"""The writing end of a replica's audit logs: those of its source, beside its own (`shipped_audit`).

Nothing that came is changed: a file only grows, and one that is another here than there is set aside as NAME.old-1.
The events of a source are never in the log of the replica itself, which has what processes here did. A replica may have
no key: `promote` opens what is sealed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine import log
from engine.archive.copies import growing_copy, sealed_file
from engine.archive.copies.audit_copy import open_sealed
from engine.archive.copies.shipped_audit import (
    KEY_BYTES_MAX,
    PIECE_BYTES,
    AuditFile,
    HeldFile,
    Kind,
    Piece,
    files_of,
    held_file,
)
from engine.audit.chain import folder_of, make_private
from engine.audit.logs import SOURCES, source_root, source_roots
from engine.errors import ReplicationFailed
from engine.storage.files import Files, replace_file

logger = log.get("archive.replica")

OPEN_MAX: Final = 256
"""Files that may wait for a commit."""


@dataclass(slots=True)
class _Growing:
    """A file with bytes that are not committed yet."""

    fd: int
    path: Path
    length: int
    end: int
    """How far it goes in the file of the source."""


class ReplicaAudit:
    """The audit logs of sources in the folder of a replica. For one thread."""

    def __init__(self, data: Path, files: Files) -> None:
        self._data = data
        self._files = files
        self._growing: dict[AuditFile, _Growing] = {}

    def held(self) -> dict[AuditFile, HeldFile]:
        """What is here. Raises OSError."""
        return {
            file: held_file(
                file.path_at_replica(self._data, is_sealed=is_sealed), file, self._files, is_sealed=is_sealed
            )
            for lineage, root in source_roots(self._data).items()
            for file, is_sealed in files_of(root, lineage).items()
        }

    def write(self, piece: Piece) -> None:
        """Lengthens a file. Raises ReplicationFailed for bytes that do not belong at its end; StorageError, OSError."""
        content_length = _checked(piece)
        self._make_folders(piece.file)
        path = piece.file.path_at_replica(self._data, is_sealed=piece.is_sealed)
        if piece.file.kind == Kind.VERIFY_KEY:
            replace_file(self._files, str(path), piece.data)
            return
        if piece.is_new:
            self._set_aside(piece.file, path)
        growing = self._growing.get(piece.file)
        if growing is None:
            growing = self._growing[piece.file] = self._opened(path, is_sealed=piece.is_sealed)
        if growing.path != path or growing.end != piece.at:
            raise ReplicationFailed(f"{path.name} of the audit log ends at {growing.end} here, not at {piece.at}")
        self._files.pwritev(growing.fd, [piece.data], growing.length, len(piece.data))
        growing.length += len(piece.data)
        growing.end += content_length
        if len(self._growing) > OPEN_MAX:
            self.commit()

    def commit(self) -> None:
        """Makes what was written durable. Raises StorageError."""
        for file, growing in self._growing.items():
            self._files.fdatasync(growing.fd)
            self._files.sync_directory(str(growing.path.parent))
            for is_sealed in (False, True):
                other = file.path_at_replica(self._data, is_sealed=is_sealed)
                if other != growing.path and self._files.exists(str(other)):
                    self._files.unlink(str(other))  # of before the archive was encrypted, or until it no longer was
        self.close()

    def close(self) -> None:
        """Closes its files. What was not committed is compared the next time."""
        for growing in self._growing.values():
            self._files.close(growing.fd)
        self._growing.clear()

    def _make_folders(self, file: AuditFile) -> None:
        make_private(self._data / SOURCES, self._files)
        root = source_root(self._data, file.lineage)
        make_private(root, self._files)
        for folder in reversed(Path(file.name).parents):
            make_private(folder_of(root) / folder, self._files)

    def _set_aside(self, file: AuditFile, path: Path) -> None:
        growing = self._growing.pop(file, None)
        if growing is not None:
            self._files.close(growing.fd)
        if self._files.exists(str(path)):
            growing_copy.set_aside(path, self._files)
            logger.error("security alert: the audit log of the source was changed; the copy is kept", file=file.name)

    def _opened(self, path: Path, *, is_sealed: bool) -> _Growing:
        fd = growing_copy.open_copy(path, self._files)
        length = end = self._files.size(fd)
        if is_sealed:
            length = end = 0
            for each in sealed_file.pieces(fd, self._files):
                length, end = each.end, each.content_end
        return _Growing(fd, path, length, end)


def _checked(piece: Piece) -> int:
    """How many bytes of the source's file are in a piece. Raises ReplicationFailed if it is none."""
    length = len(piece.data)
    if piece.is_new and piece.at:
        raise ReplicationFailed("a new file of the audit log begins in its middle")
    if piece.file.kind == Kind.VERIFY_KEY:
        is_right = 0 < length <= KEY_BYTES_MAX and not piece.is_sealed
    elif piece.is_sealed:
        head = sealed_file.Piece.parse(piece.data[: sealed_file.HEAD_BYTES].ljust(sealed_file.HEAD_BYTES, b"\0"))
        is_right = head.at == piece.at and head.end == length and 0 < head.length <= PIECE_BYTES
        length = head.length
    else:
        is_right = 0 < length <= PIECE_BYTES
    if not is_right:
        raise ReplicationFailed("a piece of the audit log that is none")
    return length


def open_all(data: Path, files: Files) -> list[Path]:
    """Opens what is sealed of sources' logs; returns the sealed files, which are not needed any more.

    Raises StorageError, OSError: call it again. What is damaged is logged, and stays.
    """
    opened: list[Path] = []
    for root in source_roots(data).values():
        findings: list[str] = []
        open_sealed(root, root, files, findings)
        for finding in findings:
            logger.error("a part of the source's audit log cannot be read", reason=finding)
        if not findings:
            opened += sorted(folder_of(root).rglob(f"*{sealed_file.SUFFIX}"))
    return opened
