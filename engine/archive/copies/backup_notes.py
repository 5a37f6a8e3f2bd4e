"""Where the backups of an archive are, and when each was read again: for whoever asks how old the newest one is.

    DATA/backups.json        destination → the last state that was taken there; written by the archive's side
    DEST/verified.json       which state was newest when the whole was last read again without a finding

Both are notes: without them nothing is lost, and nothing else reads them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine import log
from engine.archive.admin.times import time_text
from engine.archive.copies.manifest import BackupFolder
from engine.errors import StorageError, for_log
from engine.storage.files import Files, replace_file

if TYPE_CHECKING:
    from engine.archive.layout import Layout

logger = log.get("archive.backup")

DESTINATIONS_MAX = 100


class Taken(msgspec.Struct):
    """The last state at one destination."""

    manifest: str
    taken_ns: int


class Verified(msgspec.Struct):
    """What a destination was like when it was read again."""

    manifest: str
    verified_ns: int


def note_taken(layout: Layout, destination: Path, manifest: str) -> None:
    """A backup has been brought up to now."""
    notes = _notes(layout.data)
    notes[os.path.abspath(destination)] = Taken(manifest, time.time_ns())
    latest = sorted(notes.items(), key=lambda item: -item[1].taken_ns)[:DESTINATIONS_MAX]
    _write(str(layout.data / "backups.json"), msgspec.json.encode(dict(latest)))


def note_verified(destination: Path) -> None:
    """All of it has been read, and was right."""
    names = BackupFolder(destination, Files()).names()
    if names:
        _write(f"{destination}/verified.json", msgspec.json.encode(Verified(names[-1], time.time_ns())))


def states(data: Path) -> list[dict[str, Any]]:
    """Each destination: when it was last taken and verified, the latest first. A verification is None where there was
    none, or where the destination is not to be read from here."""
    rows = []
    for destination, taken in sorted(_notes(data).items(), key=lambda item: -item[1].taken_ns):
        verified = _verified(destination)
        rows.append(
            {
                "destination": destination,
                "taken": time_text(taken.taken_ns),
                "age_s": round((time.time_ns() - taken.taken_ns) / 1e9),
                "verified": time_text(verified.verified_ns) if verified else None,
                "verified_age_s": round((time.time_ns() - verified.verified_ns) / 1e9) if verified else None,
                "is_newest_verified": verified is not None and verified.manifest == taken.manifest,
            }
        )
    return rows


def _notes(data: Path) -> dict[str, Taken]:
    try:
        return msgspec.json.decode((data / "backups.json").read_bytes(), type=dict[str, Taken])
    except (OSError, msgspec.DecodeError):
        return {}


def _verified(destination: str) -> Verified | None:
    try:
        return msgspec.json.decode((Path(destination) / "verified.json").read_bytes(), type=Verified)
    except (OSError, msgspec.DecodeError):
        return None


def _write(path: str, content: bytes) -> None:
    try:
        replace_file(Files(), path, content, is_durable=False)
    except StorageError as error:
        logger.warning("it is not noted how old a backup is", path=path, error=for_log(error))
