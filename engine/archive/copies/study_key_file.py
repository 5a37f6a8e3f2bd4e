"""DATA/study.keys in copies of an archive: the wrapped keys of studies (`keys.study_keys`).

A backup has the file once, beside its manifests, for all of its states. Each run replaces it, so a key that was
destroyed is gone from the backup too, and the study from all of its states. Whoever has a copy of the backup folder of
that time, and a provider's key, can still read the study: `restore` takes a list of what was destroyed since.

A replica gets the pieces that have changed, before the records that need them; so does a bucket (`archive.tiering`).
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Iterator, Mapping
from hashlib import blake2b
from pathlib import Path

from engine.archive.layout import Layout
from engine.errors import BackupError, KeyStoreError, ReplicationFailed
from engine.keys import study_keys
from engine.keys.study_keys import FILE
from engine.storage.files import Files

PIECE_BYTES = 1 << 16
PIECES_AT_ONCE = 8
"""Pieces in one message to a replica: less than a megabyte in Base64."""
COARSE_NS = 1_000_000_000
"""How much later a second change of a file has another time than the first, with room to spare."""
_READS_MAX = 100


def back_up(layout: Layout, folder: Path, files: Files) -> None:
    """Replaces the file in a backup, durably. Call it when the segments were copied: it must have all of their keys."""
    path = layout.data / FILE
    if files.exists(str(path)):
        _copy(path, folder / FILE, files)


def restore(folder: Path, layout: Layout, files: Files) -> None:
    """Puts the file of a backup into a new archive. Raises BackupError if it is damaged."""
    path = folder / FILE
    if files.exists(str(path)):
        check(folder, layout.archive_id, files)
        _copy(path, layout.data / FILE, files)


def check(folder: Path, archive_id: bytes, files: Files) -> None:
    """Raises BackupError if the file of a backup is damaged. Needs no key."""
    try:
        study_keys.check(folder / FILE, archive_id, files)
    except (KeyStoreError, OSError) as error:
        raise BackupError(f"the backup's {FILE}: {error}") from error


def is_in(folder: Path, files: Files) -> bool:
    """Whether a backup has the file."""
    return files.exists(str(folder / FILE))


def _copy(source: Path, target: Path, files: Files) -> None:
    temporary = f"{target}.{os.getpid()}"
    fd = files.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for at, piece in pieces(source, files):
            files.pwritev(fd, [piece], at)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    files.rename(temporary, str(target))
    files.sync_directory(str(target.parent))


def pieces(path: Path, files: Files) -> Iterator[tuple[int, bytes]]:
    """The pieces of a file that others write to, each of one moment."""
    fd = files.open(str(path), os.O_RDONLY)
    try:
        at = 0
        while piece := files.pread(fd, PIECE_BYTES, at):
            for _ in range(_READS_MAX):
                again = files.pread(fd, PIECE_BYTES, at)
                if again == piece:
                    break
                piece = again
            yield at, piece
            at += PIECE_BYTES
    finally:
        files.close(fd)


class Sender:
    """What a replica has of the file."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._path = layout.data / FILE
        self._files = files
        self._sent: dict[int, bytes] = {}
        self._identity: tuple[int, int] | None = None
        """Of the file when all of it had been sent."""

    def forget(self) -> None:
        """Begins anew, for a replica that was opened again."""
        self._sent.clear()
        self._identity = None

    def messages(self) -> Iterator[dict[str, object]]:
        """Messages for `receive` with all that has changed."""
        identity = self._files.identity(str(self._path))
        if identity is None or identity == self._identity:
            return
        changed: dict[str, str] = {}
        for at, piece in pieces(self._path, self._files):
            digest = blake2b(piece, digest_size=16).digest()
            if self._sent.get(at) == digest:
                continue
            changed[str(at)] = base64.b64encode(piece).decode("ascii")
            self._sent[at] = digest
            if len(changed) == PIECES_AT_ONCE:
                yield {"study_keys": changed}
                changed = {}
        if changed:
            yield {"study_keys": changed}
        # Times of files are coarse: one that has just been changed may change again and look the same.
        self._identity = identity if abs(time.time_ns() - identity[1]) > COARSE_NS else None


def receive(layout: Layout, message: Mapping[str, object], files: Files) -> None:
    """Writes what has changed into a replica, durably. Raises ReplicationFailed."""
    pieces = message.get("study_keys")
    if not isinstance(pieces, dict) or not pieces:
        return
    fd = files.open(str(layout.data / FILE), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        for at, text in pieces.items():
            try:
                offset, piece = int(at), base64.b64decode(str(text), validate=True)
            except ValueError as error:
                raise ReplicationFailed("the source has sent keys of studies that are none") from error
            if offset < 0 or offset % PIECE_BYTES or len(piece) > PIECE_BYTES or offset > study_keys.FILE_BYTES_MAX:
                raise ReplicationFailed("the source has sent keys of studies at an impossible place")
            files.pwritev(fd, [piece], offset)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    files.sync_directory(str(layout.data))
