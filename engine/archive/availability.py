"""Availability: how soon instances can be retrieved (Instance Availability (0008,0056), PS3.3 C.4.23.1.1).

    ONLINE         every byte is on this machine
    NEARLINE       some bytes are in the bucket only: they are read through, or recalled from an archive class first
    UNAVAILABLE    the same, and the object store does not answer now
    OFFLINE        never: nothing here waits for somebody to insert a medium

A study or series has the worst value of its instances. An archive whose segments are all here pays one stat a query.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final, TypeAlias

from engine.archive.tiering.status_file import read_status
from engine.dicom import tags
from engine.index.format.types import Level

if TYPE_CHECKING:
    from engine.archive.layout import Layout
    from engine.index.catalog import Catalog
    from engine.index.format.types import Instance
    from engine.storage.files import Files

ONLINE: Final = b"ONLINE"
NEARLINE: Final = b"NEARLINE"
UNAVAILABLE: Final = b"UNAVAILABLE"

FRESH_S: Final = 60.0
"""A server notes the state of the object store every few seconds: an older note says nothing about now."""
COARSE_NS: Final = 1_000_000_000
"""A folder that has just changed may change again and have the same time."""

OfMatch: TypeAlias = Callable[[Mapping[int, bytes]], bytes]
"""Attributes of a match, with the UID of its level → its availability; b"": not known."""


class Availability:
    """What one process knows of where segments are."""

    def __init__(self, layout: Layout, files: Files, index: Catalog) -> None:
        """Reads nothing yet."""
        self._layout = layout
        self._files = files
        self._index = index
        self._identity: tuple[int, int] | None = None
        """Of the folder whose content is known."""
        self._remote: frozenset[int] = frozenset()

    def of_matches(self, level: Level) -> OfMatch | None:
        """The function for the matches of one query; None: all are ONLINE."""
        remote = self._segments()
        if not remote:
            return None
        elsewhere, index = self._elsewhere(), self._index

        def of_match(attributes: Mapping[int, bytes]) -> bytes:
            uid = attributes.get(_UIDS.get(level, 0), b"").strip(b" \0")
            if not uid:
                return b""
            if level is Level.IMAGE:
                instance = index.locate(uid)
                is_elsewhere = instance is not None and instance.position.segment_id in remote
            else:
                is_elsewhere = index.has_entity_in(level, uid, remote)
            return elsewhere if is_elsewhere else ONLINE

        return of_match

    def of_instances(self) -> Callable[[Instance], bytes]:
        """The availability of single instances."""
        remote = self._segments()
        if not remote:
            return lambda instance: ONLINE
        elsewhere = self._elsewhere()
        return lambda instance: elsewhere if instance.position.segment_id in remote else ONLINE

    def _segments(self) -> frozenset[int]:
        """The segments that are in the bucket only."""
        store = self._layout.elsewhere
        if store is None:
            return frozenset()
        identity = self._files.identity(str(self._layout.data / "elsewhere"))
        if identity is None:
            return frozenset()
        if identity != self._identity:
            self._remote = frozenset(store.segment_ids())
            self._identity = identity if time.time_ns() - identity[1] > COARSE_NS else None
        return self._remote

    def _elsewhere(self) -> bytes:
        near = NEARLINE if self._layout.membership is None else ONLINE
        """Nodes read each other's instances from the bucket, as a matter of course."""
        status = read_status(self._layout.data) or {}
        try:
            age_s = time.time() - datetime.fromisoformat(status["updated"]).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError):
            return near
        return UNAVAILABLE if status.get("state") in ("away", "refused") and 0 <= age_s < FRESH_S else near


_UIDS: Final = {
    Level.STUDY: tags.StudyInstanceUID,
    Level.SERIES: tags.SeriesInstanceUID,
    Level.IMAGE: tags.SOPInstanceUID,
}
