"""Decides what to do with a folder without archive.json: make a new archive, restore a lost archive.json, or refuse.

missing, empty, or the remains of a start that was killed    a new archive
segments whose headers all name one archive                  archive.json is written anew with that id, and logged
segments of several archives, a replica, anything else       StorageError: nothing is created or changed
"""

from __future__ import annotations

import os
from pathlib import Path

from engine import log
from engine.errors import CorruptRecord, StorageError, for_log
from engine.storage.files import Files
from engine.storage.segment import list_segments, read_segment_header, segment_path
from engine.storage.segment_bytes import FileBytes

logger = log.get("archive.founding")

_NO_OBSTACLE = {"filmroom.toml", "lost+found", ".keep", ".gitkeep", ".snapshot", "control.sock", "keeper.lock"}
_REPLICA_FILES = ("replica.journal", "replica.json")
_NAMES_MAX = 3


def lost_id(data: Path, files: Files) -> bytes | None:
    """The id of the archive whose segments lie here without archive.json. None: there are no segments.

    Raises StorageError when the segments do not name one archive, or when this was a replica.
    """
    directory = str(data / "segments")
    segment_ids = list_segments(directory, files) if files.exists(directory) else []
    if not segment_ids:
        return None
    if any(files.exists(str(data / name)) for name in _REPLICA_FILES):
        raise StorageError(f"{data} is a replica without its archive.json: remove it and replicate into a new folder")
    archive_ids = {_archive_id(directory, segment_id, files) for segment_id in segment_ids} - {None}
    if len(archive_ids) != 1:
        reason = "no header can be read" if not archive_ids else f"its segments are of {len(archive_ids)} archives"
        raise StorageError(f"{data} holds segments without archive.json, and {reason}: restore a backup")
    return archive_ids.pop()


def _archive_id(directory: str, segment_id: int, files: Files) -> bytes | None:
    fd = files.open(segment_path(directory, segment_id), os.O_RDONLY)
    try:
        return read_segment_header(FileBytes(files, fd), segment_id).archive_id
    except CorruptRecord as error:
        logger.warning("segment header unreadable", segment=f"{segment_id:016x}", error=for_log(error))
        return None
    finally:
        files.close(fd)


def refuse_foreign(data: Path, files: Files) -> None:
    """Raises StorageError if the folder holds files that are not an archive's."""
    if not files.exists(str(data)):
        return
    try:
        names = sorted(files.list_directory(str(data)))
    except OSError as error:
        raise StorageError(f"{data} cannot be used as a data directory: {error.strerror}") from error
    foreign = [name for name in names if not _is_no_obstacle(data, name, files)]
    if foreign:
        listing = ", ".join(foreign[:_NAMES_MAX]) + (" and more" if len(foreign) > _NAMES_MAX else "")
        raise StorageError(
            f"{data} holds other files ({log.escape(listing)}) and no archive.json: use a new or an empty folder"
        )


def _is_no_obstacle(data: Path, name: str, files: Files) -> bool:
    if name in _NO_OBSTACLE or name.startswith("archive.json."):
        return True
    try:
        return not files.list_directory(str(data / name))  # an empty folder
    except OSError:
        return False
