"""The segment log and the index of a writing process. Appends records and makes them visible.

Does not sync and does not answer: the ports commit (`live`, `batch`). Does not decide about duplicates (`decision`). A
process has one writer for instances, and one for the ledger: tombstones, holds and corrections.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from engine import log as logs
from engine.archive.ingest.resolver import VERSIONS_MAX, Resolver
from engine.archive.ingest.stamp_clock import StampClock
from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.dicom.schema import Schema
from engine.errors import StorageFailed, StorageFull, for_log
from engine.index.format.entry import HEAL, Entry, Quarantined
from engine.index.format.types import Outcome, SegmentMark
from engine.keys.study_keys import UID_BYTES_MAX
from engine.storage.record import Kind

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.index.catalog import Catalog
    from engine.storage.reader import LogReader
    from engine.storage.segment_log import SegmentLog

logger = logs.get("archive.ingest")


def study_of(entry: Entry) -> bytes:
    """The Study Instance UID of an instance, whose key encrypts its record; b"" if the study can have none."""
    return _uid_in(entry.study)


@lru_cache(maxsize=256)
def _uid_in(study: bytes) -> bytes:
    uid = blob_items(study).get(tags.StudyInstanceUID, b"")
    return uid if len(uid) <= UID_BYTES_MAX else b""


class Writer:
    """One writing process's log and index."""

    def __init__(self, index: Catalog, log: SegmentLog, reader: LogReader, *, versions_max: int = VERSIONS_MAX) -> None:
        self.index = index
        self.log = log
        self.resolver = Resolver(index, reader, self._sync_segment, versions_max=versions_max)
        self._reader = reader
        self._clock = StampClock(index.newest_group_stamp())
        self._sealing = threading.Lock()
        self._sealed: dict[int, SegmentMark] = {}
        """Sealed segments that are not marked in the index yet."""

    @property
    def schema(self) -> Schema:
        """The attributes of instances that the index keeps."""
        return self.index.schema

    def next_stamp(self, after: int = 0) -> int:
        """A stamp above all earlier ones of this writer and above `after`."""
        return self._clock.next(after)

    def observe(self, stamp: int) -> bool:
        """Gives only higher stamps than this one, of another node's record, from now on; see `StampClock.observe`."""
        return self._clock.observe(stamp)

    def append(
        self, entry: Entry, payload: Sequence[Buffer], length: int, crc: int, flags: int, *, sync_soon: bool = True
    ) -> None:
        """Writes the record to the page cache, and fills the entry's position, stamp and flags.

        Before the call, the entry's stamp is the newest of its UID. `flags`: the policy, and perhaps HEAL. `sync_soon`:
        the caller syncs before it answers. Raises StorageFull or StorageFailed.
        """
        entry.stamp = self._clock.next(entry.stamp)
        entry.flags = flags
        entry.position = self.log.append(
            Kind.INSTANCE,
            flags,
            entry.stamp,
            entry.sop_instance_uid,
            entry.pack_meta(),
            payload,
            length,
            crc,
            write_back=sync_soon,
            study=study_of(entry) if self.log.has_study_keys else b"",
        )

    def quarantine(self, claim: Quarantined, payload: Sequence[Buffer], length: int, crc: int) -> None:
        """Writes a refused data set to the page cache; `book_quarantined` makes it visible.

        Raises StorageFull or StorageFailed.
        """
        claim.stamp = self._clock.next()
        claim.position = self.log.append(
            Kind.QUARANTINED, 0, claim.stamp, claim.sop_instance_uid, claim.pack_meta(), payload, length, crc
        )

    def book_quarantined(self, claim: Quarantined) -> None:
        """Makes a quarantined record visible."""
        self.index.apply([claim])

    def apply(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Makes appended entries visible, in one index transaction."""
        with self._final_failures():
            return self.index.apply(entries)

    def try_apply(self, entries: Sequence[Entry]) -> list[Outcome] | None:
        """The same for a caller that must not wait; None if another process writes the index."""
        with self._final_failures():
            return self.index.try_apply(entries)

    def apply_promptly(self, entries: Sequence[Entry], is_durable: Callable[[], bool]) -> list[Outcome] | None:
        """The same for a caller that makes the log durable meanwhile: see `Catalog.apply_promptly`."""
        with self._final_failures():
            return self.index.apply_promptly(entries, is_durable)

    def outcome_of(self, entry: Entry, outcome: Outcome) -> Outcome:
        """The answer for an entry that is visible now; clears the damage that it has healed. Blocks."""
        if not entry.flags & HEAL:
            return outcome
        self.resolver.clear_healed(entry.sop_instance_uid)
        return Outcome.KEPT_ASIDE if outcome is Outcome.KEPT_ASIDE else Outcome.STORED

    def seal_rolled(self) -> None:
        """Seals full segments and marks them in the index. Blocks on the disk: do not call it on the loop."""
        with self._sealing:
            self._mark_sealed(self.log.seal_rolled())

    def close(self) -> None:
        """Syncs and seals the active segment."""
        self.seal_rolled()
        with self._sealing:
            self._mark_sealed(self.log.close())

    def _sync_segment(self, segment_id: int) -> None:
        with self._final_failures():
            self._reader.sync(segment_id)

    @contextmanager
    def _final_failures(self) -> Iterator[None]:
        """Ends this writer after a failed sync or commit elsewhere, as after a failure of its own log."""
        try:
            yield
        except StorageFailed as error:
            self.log.fail(error)
            raise

    def _mark_sealed(self, segments: Sequence[tuple[int, int]]) -> None:
        """Marks sealed segments in the index. On a full disk the next call does it, or the next start."""
        for segment_id, length in segments:
            self._sealed[segment_id] = SegmentMark(indexed_bytes=length, sealed=True)
        if not self._sealed:
            return
        try:
            self.index.apply([], marks=self._sealed)
        except StorageFull as error:
            logger.warning(
                "sealed segments are not marked in the index yet", count=len(self._sealed), error=for_log(error)
            )
            return
        self._sealed.clear()
