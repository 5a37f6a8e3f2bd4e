"""Destinations of events, and the progress of each: in DATA/feed, in webhooks, subscriptions (FHIR), outbox (others).

One small file each, replaced durably: the cursor after the last accepted event, and the failures since. Its name is
that of the destination, percent-encoded as in a URL, and a dot is %2E.

    delivering ── an attempt fails ──► waiting ── attempts_max in a row ──► parked, or the event is set aside (skipped)
        ▲                                │                                    │
        └────────── accepted ────────────┘         NAME=resume, empty ────────┘   (`filmroom webhooks resume`)

    NAME=resend, empty: a request to try what was set aside once more
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote, unquote

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

WEBHOOKS = "webhooks"
OUTBOX = "outbox"
SUBSCRIPTIONS = "subscriptions"

_FILE_NAME = re.compile(r"[A-Za-z0-9%_~-]{1,200}")
"""No request, and no file that is being replaced: those have a "=" or a "."."""
_RESUME, _RESEND = "resume", "resend"


class Skipped(msgspec.Struct, kw_only=True):
    """Something that was set aside."""

    at: str
    """The cursor before it."""
    error: str
    time: str


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
    skipped: list[Skipped] = []
    """What was set aside, the earliest first."""
    agreed: str = ""
    """What it has agreed to get, in words of its kind; "": it need not, or was not asked yet."""
    updated: str = ""
    """Time of this state, ISO 8601 in UTC."""

    def as_dict(self) -> dict[str, object]:
        """For people and for statistics."""
        return {**msgspec.structs.asdict(self), "skipped": len(self.skipped)}


class Destinations:
    """The files of all destinations of one kind of an archive."""

    def __init__(self, layout: Layout, files: Files | None = None, kind: str = WEBHOOKS) -> None:
        self._directory = f"{directory_of(layout)}/{kind}"
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

    def forget(self, name: str) -> None:
        """Removes the progress of a destination that is no more."""
        for rest in ("", f"={_RESUME}", f"={_RESEND}"):
            self._files.unlink(f"{self._path(name)}{rest}")

    def names(self) -> list[str]:
        """The names of all destinations, sorted."""
        try:
            present = self._files.list_directory(self._directory)
        except FileNotFoundError:
            return []
        return sorted(unquote(name) for name in present if _FILE_NAME.fullmatch(name))

    def all(self) -> Sequence[Standing]:
        """All destinations, by name."""
        return [standing for name in self.names() if (standing := self.load(name)) is not None]

    def resume(self, name: str) -> None:
        """Requests another try for a parked destination. Raises FeedError if there is none of that name."""
        self._request(name, _RESUME)

    def take_resume(self, name: str) -> bool:
        """Takes the request. Returns whether there was one."""
        return self._take(name, _RESUME)

    def resend(self, name: str) -> None:
        """Requests that what was set aside is tried again. Raises FeedError if there is no such destination."""
        self._request(name, _RESEND)

    def take_resend(self, name: str) -> bool:
        """Takes the request. Returns whether there was one."""
        return self._take(name, _RESEND)

    def _request(self, name: str, kind: str) -> None:
        if self.load(name) is None:
            raise FeedError(f"nothing was ever delivered to {name!r}")
        try:
            self._files.close(self._files.create(f"{self._path(name)}={kind}"))
        except FileExistsError:
            pass  # asked before; nobody has looked yet

    def _take(self, name: str, kind: str) -> bool:
        path = f"{self._path(name)}={kind}"
        if not self._files.exists(path):
            return False
        self._files.unlink(path)
        return True

    def _path(self, name: str) -> str:
        encoded = quote(name, safe="").replace(".", "%2E")
        if not _FILE_NAME.fullmatch(encoded):
            raise FeedError(f"{name[:70]!r} can be no name of a destination")
        return f"{self._directory}/{encoded}"
