"""What a writing process keeps: its segment log, the index, and the rule for an instance that is sent again.

Does not sync and does not answer anybody: the caller commits (`archive.ingestor` for a server, `Archive.ingest_batch`
for an import).

A SOP Instance UID that is already there (PS3.4 leaves this to the archive):
    same bytes                       success, nothing is stored twice
    other bytes, keep-first          the stored one stays current, the new one is kept aside
    other bytes, replace             the new one becomes current, the old one's space may be reclaimed
    other bytes, keep-both-versions  the new one becomes current, the old one is kept aside
The rule travels in the record's flags and is applied by the index writer, in the order of the stamps, so that a
rebuild comes to the same end, and so that eight senders of one UID at once leave one current instance.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.archive.ingest import StampClock
from engine.errors import InstanceRefused
from engine.index.entry import POLICY_KEEP_BOTH, POLICY_KEEP_FIRST, POLICY_REPLACE, Entry
from engine.index.tables import Index
from engine.index.types import Instance, Outcome, SegmentMark
from engine.storage.log import LogReader, SegmentLog
from engine.storage.record import Kind

if TYPE_CHECKING:
    from typing_extensions import Buffer

POLICIES = {"keep-first": POLICY_KEEP_FIRST, "replace": POLICY_REPLACE, "keep-both-versions": POLICY_KEEP_BOTH}
"""The configuration's words → the flag in the record."""


class Store:
    """One writing process's log and index."""

    def __init__(self, index: Index, log: SegmentLog, reader: LogReader) -> None:
        self.index = index
        self.log = log
        self.reader = reader
        self._clock = StampClock()
        self._sealing = threading.Lock()

    def same_instance(self, entry: Entry, length: int, crc: int) -> Instance | None:
        """The stored instance if it seems to be the same one: UID, transfer syntax, length and checksum agree.

        Those that were kept aside count too: a sender that tries again must not fill the disk.
        """
        current = self.index.locate(entry.sop_instance_uid)
        if current is None:
            return None
        entry.stamp = current.stamp
        if _is_same(current, entry, length, crc):
            return current
        return next(
            (kept for kept in self.index.versions(entry.sop_instance_uid) if _is_same(kept, entry, length, crc)), None
        )

    def confirm_same(self, stored: Instance, payload: Sequence[Buffer], *, durable: bool) -> None:
        """Compares the stored bytes with `payload`; with `durable` also syncs them. Blocks on the disk.

        Raises InstanceRefused when lengths and checksums agree and the bytes do not, CorruptRecord when the
        stored bytes are damaged.
        """
        have = memoryview(self.reader.read(stored.position, verify=True))
        at = 0
        for buffer in payload:
            view = memoryview(buffer).cast("B")
            # As bytes: memory views compare element by element, forty times as slowly.
            if have[at : at + len(view)].tobytes() != view.tobytes():
                raise InstanceRefused("another instance of this UID has the same length and checksum")
            at += len(view)
        if durable:
            self.reader.sync(stored.position.segment_id)

    def append(
        self, entry: Entry, payload: Sequence[Buffer], length: int, crc: int, policy: int, *, sync_soon: bool = True
    ) -> None:
        """Writes the record to the page cache and fills the entry's position, stamp and flags.

        `sync_soon`: the caller syncs before it answers.

        Raises StorageFull or StorageFailed.
        """
        entry.stamp = self._clock.next(entry.stamp)
        entry.flags = policy
        entry.position = self.log.append(
            Kind.INSTANCE,
            policy,
            entry.stamp,
            entry.sop_instance_uid,
            entry.pack_meta(),
            payload,
            length,
            crc,
            write_back=sync_soon,
        )

    def is_current(self, stored: Instance) -> bool:
        """Whether the current instance of its UID has the same bytes, so that it is not one kept aside.

        Not whether it lies at the same place: a copy sent at the same time, with an earlier stamp, may have become
        the current one meanwhile.
        """
        current = self.index.locate(stored.sop_instance_uid.encode())
        return (
            current is not None
            and current.position.payload_length == stored.position.payload_length
            and current.position.payload_crc == stored.position.payload_crc
            and current.transfer_syntax_uid == stored.transfer_syntax_uid
        )

    def stamp(self, entry: Entry, policy: int) -> None:
        """Gives a streamed entry, appended elsewhere, its stamp and flags."""
        stored = self.index.locate(entry.sop_instance_uid)
        entry.stamp = self._clock.next(stored.stamp if stored else 0)
        entry.flags = policy

    def apply(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Makes appended entries visible, in one index transaction."""
        return self.index.apply(entries)

    def seal_rolled(self) -> None:
        """Seals segments that are full and tells the index. Blocks on the disk; call it off the loop."""
        with self._sealing:
            for segment_id, length in self.log.seal_rolled():
                self.index.apply([], marks={segment_id: SegmentMark(indexed_bytes=length, sealed=True)})

    def close(self) -> None:
        """Syncs and seals the active segment."""
        self.seal_rolled()
        with self._sealing:
            for segment_id, length in self.log.close():
                self.index.apply([], marks={segment_id: SegmentMark(indexed_bytes=length, sealed=True)})


def _is_same(stored: Instance, entry: Entry, length: int, crc: int) -> bool:
    position = stored.position
    return (
        position.payload_length == length
        and position.payload_crc == crc
        and stored.transfer_syntax_uid.encode() == entry.transfer_syntax_uid
    )
