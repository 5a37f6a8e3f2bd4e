"""Where an archive's files lie in its data directory, and who the archive is.

    DATA/archive.json         {"format": 1, "archive_id": "<32 hex digits>", "created": "<ISO 8601>"}
    DATA/keeper.lock          flock of the process that recovers and checkpoints (see `archive.keeper`)
    DATA/control.sock         control socket of a running server
    DATA/segments/*.seg       the log: the truth
    DATA/index/               LMDB, derived from the log; may be deleted while nothing runs

No name in here is ever made from a UID, an AE title or anything else that a peer sent.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson

from engine.errors import StorageError
from engine.storage.files import Files

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one archive."""

    data: Path
    archive_id: bytes
    """16 bytes, in every segment header: a segment of another archive is never taken for ours."""

    @property
    def segments(self) -> str:
        """The folder of the log."""
        return str(self.data / "segments")

    @property
    def index(self) -> str:
        """The folder of the index."""
        return str(self.data / "index")

    @property
    def keeper_lock(self) -> str:
        """The file whose flock makes a process the keeper."""
        return str(self.data / "keeper.lock")


def control_socket(data: Path) -> Path:
    """Where a running server of this data directory listens for commands."""
    return data / "control.sock"


def open_layout(data: Path, files: Files, *, create: bool) -> Layout:
    """Reads archive.json, or with `create` makes a new archive in an empty or missing folder.

    Raises StorageError when the folder holds no archive, or one of another format.
    """
    description = data / "archive.json"
    if not description.exists():
        if not create:
            raise StorageError(f"{data} holds no archive: start `filmroom serve --data {data}` or import into it first")
        _create(data, description, files)
    try:
        content = orjson.loads(description.read_bytes())
        archive_id = bytes.fromhex(content["archive_id"])
        if content["format"] != FORMAT or len(archive_id) != 16:
            raise ValueError(f"it has format {content['format']}, this version reads format {FORMAT}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{description} cannot be used: {error}") from error
    return Layout(data, archive_id)


def _create(data: Path, description: Path, files: Files) -> None:
    """Makes the folders first and archive.json last, so that a half-made archive is made again."""
    try:
        for folder in (data, data / "segments", data / "index"):
            folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"the data directory {data} cannot be made: {error.strerror}") from error
    content = orjson.dumps(
        {"format": FORMAT, "archive_id": uuid.uuid4().hex, "created": datetime.now(UTC).isoformat(timespec="seconds")}
    )
    temporary = f"{description}.{os.getpid()}"
    fd = files.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
    try:
        files.pwritev(fd, [content], 0)
        files.fdatasync(fd)
    finally:
        files.close(fd)
    # Two processes that start at once: the one that renames first wins, the other takes its archive.
    try:
        os.link(temporary, description)
    except FileExistsError:
        pass
    files.unlink(temporary)
    for folder in (data, data.parent):
        files.sync_directory(str(folder))
