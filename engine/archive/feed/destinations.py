"""Destinations of events (webhooks), and the progress of each, in DATA/feed/webhooks/NAME.

One small file each, replaced durably: the cursor after the last accepted event, and the failures since.

    delivering ── an attempt fails ──► waiting ── attempts_max in a row ──► parked
        ▲                                │                                    │
        └────────── accepted ────────────┘              NAME.resume ──────────┘   (`filmroom webhooks resume`)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from engine.archive.feed.cursor import read_small
from engine.archive.feed.layout import directory_of
from engine.archive.layout import Layout
from engine.errors import FeedError
from engine.storage import files as storage_files
from engine.storage.files import Files

DELIVERING = "delivering"
WAITING = "waiting"
PARKED = "parked"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class Standing(msgspec.Struct, kw_only=True):
    """The progress of one destination."""

    name: str
    state: str = DELIVERING
    cursor: str = ""
    """After the last event that it has accepted, or that it does not subscribe to."""
    attempts: int = 0
    """Number of failed attempts in a row."""
    error: str = ""
    """The error of the last attempt; "" if it succeeded."""
    reset: str = ""
    """Why events were left out; "" if it has been told, or none were."""
    delivered: int = 0
    """Number of events that it has accepted."""
    updated: str = ""
    """Time of this state, ISO 8601 in UTC."""

    def as_dict(self) -> dict[str, object]:
        """For people and for statistics."""
        return msgspec.structs.asdict(self)


class Destinations:
    """The files of all destinations of an archive."""

    def __init__(self, layout: Layout, files: Files | None = None) -> None:
        self._directory = f"{directory_of(layout)}/webhooks"
        self._files = files or Files()

    def load(self, name: str) -> Standing | None:
        """The progress of a destination; None if nothing was ever delivered to it, or its file is damaged."""
        content = read_small(self._path(name), self._files)
        if content is None:
            return None
        try:
            return msgspec.json.decode(content, type=Standing)
        except msgspec.DecodeError:
            return None

    def save(self, standing: Standing) -> None:
        """Saves the progress, durably. Raises StorageFull or StorageFailed."""
        path = self._path(standing.name)
        self._files.make_directory(self._directory)
        storage_files.replace_file(self._files, path, msgspec.json.encode(standing))

    def all(self) -> Sequence[Standing]:
        """All destinations, by name."""
        try:
            names = sorted(name for name in self._files.list_directory(self._directory) if _NAME.fullmatch(name))
        except FileNotFoundError:
            return []
        return [standing for name in names if (standing := self.load(name)) is not None]

    def resume(self, name: str) -> None:
        """Requests another try for a parked destination. Raises FeedError if there is none of that name."""
        if self.load(name) is None:
            raise FeedError(f"nothing was ever delivered to a webhook {name!r}")
        try:
            self._files.close(self._files.create(f"{self._path(name)}.resume"))
        except FileExistsError:
            pass  # asked before; nobody has looked yet

    def take_resume(self, name: str) -> bool:
        """Takes the request. Returns whether there was one."""
        path = f"{self._path(name)}.resume"
        if not self._files.exists(path):
            return False
        self._files.unlink(path)
        return True

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise FeedError(f"{name[:70]!r} is no valid name of a webhook: letters, digits, '_', '-', at most 64")
        return f"{self._directory}/{name}"
