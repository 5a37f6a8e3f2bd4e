"""Cursor: a subscriber's place in the feed. Clients keep cursors as text; we keep named ones for them.

    text       epoch (8 hex digits), "-", sequence (hex): "5f3a9c01-1b2e"
    epochs     DATA/feed/epochs   {"format": 1, "archive_id": …, "lineage": …, "epochs": [[epoch, first sequence], …]}
    named      DATA/feed/cursors/NAME   the text

Each start of the feed's writer begins an epoch. The events of an epoch are valid up to the next one's first sequence;
later ones were lost in a power cut, and come again under other numbers. So a cursor means

    with a known epoch              its sequence, but at most the last one before the next epoch
    with an unknown epoch           nothing: it is of another archive, of a copy that has diverged, or too old
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from engine.errors import CursorRefused, StorageError
from engine.storage import files as storage_files
from engine.storage.files import Files

FORMAT = 1
EPOCHS_MAX = 4096
"""Epochs that are kept; older cursors are refused. Ten starts a day for a year."""
_CURSOR = re.compile(r"([0-9a-f]{8})-([0-9a-f]{1,16})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILE_BYTES_MAX = 256 << 20
"""Room for the state of a feed with a million growing series."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the feed: the subscriber has read everything up to `sequence`."""

    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch:08x}-{self.sequence:x}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor in a client's text. Raises CursorRefused."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise CursorRefused(f"{text[:40]!r} is no cursor of this feed")
        return cls(int(match[1], 16), int(match[2], 16))


@dataclass(frozen=True, slots=True)
class Epochs:
    """The epochs of a feed: each with its first sequence, the last one is in effect."""

    archive_id: bytes
    lineage: str
    rows: tuple[tuple[int, int], ...]

    @property
    def current(self) -> int:
        """The epoch in which the feed grows."""
        return self.rows[-1][0]

    def resolve(self, cursor: Cursor) -> int:
        """The sequence up to which a cursor has seen this feed. Raises CursorRefused."""
        for number, (epoch, _) in enumerate(self.rows):
            if epoch == cursor.epoch:
                is_last = number + 1 == len(self.rows)
                return cursor.sequence if is_last else min(cursor.sequence, self.rows[number + 1][1] - 1)
        raise CursorRefused(f"cursor {cursor} is of another feed: read the archive once, and begin with a new cursor")

    def begin(self, epoch: int, first: int) -> Epochs:
        """These epochs and one more; drops the oldest beyond EPOCHS_MAX."""
        return Epochs(self.archive_id, self.lineage, (*self.rows[1 - EPOCHS_MAX :], (epoch, first)))


def read_epochs(directory: str, files: Files) -> Epochs | None:
    """The epochs of a feed; None if there are none, or the file is damaged."""
    content = read_small(f"{directory}/epochs", files)
    try:
        fields = orjson.loads(content or b"")
        rows = tuple((int(epoch, 16), int(first)) for epoch, first in fields["epochs"])
        if fields["format"] != FORMAT or not rows:
            return None
        return Epochs(bytes.fromhex(fields["archive_id"]), str(fields["lineage"]), rows)
    except (ValueError, KeyError, TypeError):
        return None


def write_epochs(directory: str, files: Files, epochs: Epochs) -> None:
    """Replaces the file, durably. Raises StorageFull or StorageFailed."""
    content = {
        "format": FORMAT,
        "archive_id": epochs.archive_id.hex(),
        "lineage": epochs.lineage,
        "epochs": [[f"{epoch:08x}", first] for epoch, first in epochs.rows],
    }
    storage_files.replace_file(files, f"{directory}/epochs", orjson.dumps(content))


class NamedCursors:
    """Cursors kept in the archive's folder, one small file each."""

    def __init__(self, directory: str, files: Files) -> None:
        self._directory = f"{directory}/cursors"
        self._files = files

    def load(self, name: str) -> Cursor | None:
        """The cursor with this name; None if there is none. Raises CursorRefused if it cannot be read."""
        content = read_small(self._path(name), self._files)
        return None if content is None else Cursor.parse(content.decode("ascii", "replace").strip())

    def save(self, name: str, cursor: Cursor) -> None:
        """Saves a cursor, durably. Raises StorageFull or StorageFailed."""
        path = self._path(name)
        self._files.make_directory(self._directory)
        storage_files.replace_file(self._files, path, f"{cursor}\n".encode())

    def remove(self, name: str) -> None:
        """Removes a cursor; no error if there is none."""
        self._files.unlink(self._path(name))

    def names(self) -> Sequence[str]:
        """All names, in order."""
        try:
            return sorted(name for name in self._files.list_directory(self._directory) if _NAME.fullmatch(name))
        except FileNotFoundError:
            return []

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise CursorRefused(f"{name[:70]!r} is no name of a cursor: letters, digits, '.', '_', '-', at most 64")
        return f"{self._directory}/{name}"


def read_small(path: str, files: Files) -> bytes | None:
    """The content of a small file; None if there is none. Raises StorageError if it cannot be read."""
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be opened: {error.strerror}") from error
    try:
        return files.pread(fd, min(files.size(fd), _FILE_BYTES_MAX), 0)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    finally:
        files.close(fd)
