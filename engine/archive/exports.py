"""Exports of everything in FHIR's form that clients have asked for, in small files that survive a restart.

    DATA/exports/ID.json      what was asked for: nothing of a patient. Removed when it is cancelled, or after KEPT_S

Nothing is copied: a file of an export is made while it is read, for whoever reads it. An id is 32 random hex digits.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import TYPE_CHECKING, Final

import msgspec

from engine.errors import JobsFull
from engine.storage.files import Files, replace_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from engine.archive.layout import Layout

KEPT_S: Final = 24 * 3600.0
COUNT_MAX: Final = 100
OWN_MAX: Final = 10
"""Of one actor, who could else keep all others from exporting."""
FILE_BYTES_MAX: Final = 16 << 10

_ID: Final = re.compile(r"[0-9a-f]{32}")


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    id: str
    by: str
    """The actor who asked: only that one sees and cancels it."""
    created_s: float
    request: str
    """The URL of the request."""
    kinds: tuple[str, ...]
    """Kinds of resources."""
    since: str = ""
    """Only what arrived at this instant or later; "": everything."""
    release: str = ""


class ExportFiles:
    """The exports of one archive."""

    def __init__(self, layout: Layout, files: Files, now_s: Callable[[], float] = time.time) -> None:
        self._directory = f"{layout.data}/exports"
        self._files = files
        self._now_s = now_s

    def add(self, *, by: str, request: str, kinds: tuple[str, ...], since: str, release: str) -> Export:
        """Keeps a new export, durably. Raises JobsFull, StorageFull, StorageFailed."""
        kept = self._kept()
        if sum(each.by == by for each in kept) >= OWN_MAX:
            raise JobsFull(f"you have {OWN_MAX} exports of the last day: delete some (DELETE on their status)")
        if len(kept) >= COUNT_MAX:
            raise JobsFull(f"there are {COUNT_MAX} exports of the last day: delete some (DELETE on their status)")
        export = Export(
            id=secrets.token_hex(16),
            by=by,
            created_s=self._now_s(),
            request=request,
            kinds=kinds,
            since=since,
            release=release,
        )
        self._files.make_directory(self._directory)
        replace_file(self._files, self._path(export.id), msgspec.json.encode(export))
        return export

    def load(self, identifier: str) -> Export | None:
        """The export with this id; None: there is none any more."""
        if not _ID.fullmatch(identifier):
            return None
        try:
            with open(self._path(identifier), "rb") as file:
                export = msgspec.json.decode(file.read(FILE_BYTES_MAX), type=Export)
        except (OSError, msgspec.DecodeError):
            return None
        return export if 0 <= self._now_s() - export.created_s < KEPT_S else None

    def remove(self, identifier: str) -> None:
        """Forgets an export."""
        if _ID.fullmatch(identifier):
            self._files.unlink(self._path(identifier))

    def _kept(self) -> list[Export]:
        """Those that are kept; removes what has ended."""
        try:
            names = self._files.list_directory(self._directory)
        except FileNotFoundError:
            return []
        found = []
        for name in names:
            identifier = name.removesuffix(".json")
            if (export := self.load(identifier)) is not None:
                found.append(export)
            elif _ID.fullmatch(identifier):
                self.remove(identifier)
        return found

    def _path(self, identifier: str) -> str:
        return f"{self._directory}/{identifier}.json"
