"""What a writing process keeps: its segment log, the index, and the rule for an instance that is sent again.

Does not sync and does not answer anybody: the caller commits (`live` for a server, `Archive.ingest_batch` for an
import).

A SOP Instance UID that is already there (PS3.4 leaves this to the archive):
    same bytes                       success, nothing is stored twice
    other bytes, keep-first          the stored one stays current, the new one is kept aside
    other bytes, replace             the new one becomes current, the old one's space may be reclaimed; on legal hold
                                     the old one is kept aside
    other bytes, keep-both-versions  the new one becomes current, the old one is kept aside
    other bytes, same content        success, as the same bytes (not with replace): compared here when both are small
                                     and native, else stored, and retired later (`archive.lifecycle.resent`)
    other bytes, and as many kept aside as there may be (`versions_max`): refused, nothing is stored
The rule travels in the record's flags and is applied by the index writer, in the order of the stamps, so that a
rebuild comes to the same end, and so that eight senders of one UID at once leave one current instance.

A stored copy that can no longer be read is no copy: the same bytes that come again are stored with the flag HEAL and
take its place, and what had been noted as damaged is so no more. So is one that ends early: another one of its UID that
is whole becomes the current one, under `keep-first` too, and the cut one is kept aside.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine import log as logs
from engine.archive import completeness, likeness
from engine.archive.damage import note_damage
from engine.archive.ingest.entry import StampClock
from engine.dicom import transfer_syntax
from engine.dicom.sources import Whole
from engine.errors import CorruptRecord, InstanceRefused, Refusal, StorageFailed, StorageFull
from engine.index.catalog import Catalog
from engine.index.format.entry import (
    HEAL,
    POLICY_KEEP_BOTH,
    POLICY_KEEP_FIRST,
    POLICY_MASK,
    POLICY_REPLACE,
    Entry,
    Quarantined,
    Tombstone,
)
from engine.index.format.types import Instance, Outcome, SegmentMark
from engine.storage.log import LogReader, SegmentLog
from engine.storage.record import Kind

if TYPE_CHECKING:
    from typing_extensions import Buffer

POLICIES = {"keep-first": POLICY_KEEP_FIRST, "replace": POLICY_REPLACE, "keep-both-versions": POLICY_KEEP_BOTH}
"""The configuration's words → the flag in the record."""

COMPARED_BYTES_MAX = 1 << 20
"""Of two data sets that are compared before a C-STORE is answered: some milliseconds."""

COMPARED_ELEMENTS_MAX = 5000
"""Of each of them."""

RETIRED_MAX = 8
"""Of the versions that were retired of a UID, in how many these bytes are looked for."""

COMPARED_OTHERS_MAX = 2
"""With the current one and the oldest of those kept aside: that may be what a router sends again and again."""

VERSIONS_MAX = 100
"""The default of storage.versions_max."""

CONFIRM_TRIES = 3
"""How often a stored copy that is not where it was is looked for again: a compaction may be moving it."""

logger = logs.get("archive.ingest")


class Store:
    """One writing process's log and index."""

    def __init__(self, index: Catalog, log: SegmentLog, reader: LogReader, *, versions_max: int = VERSIONS_MAX) -> None:
        """With `versions_max`, how many versions of one UID may be kept aside (some more when many come at once)."""
        self.index = index
        self.log = log
        self.reader = reader
        self._versions_max = versions_max
        self._clock = StampClock()
        self._sealing = threading.Lock()
        self._sealed: dict[int, SegmentMark] = {}
        """Sealed segments that the index has not been told of yet."""

    def same_instance(self, entry: Entry, length: int, crc: int) -> Instance | None:
        """The stored instance if it seems to be the same one: UID, transfer syntax, length and checksum agree.

        Those that were kept aside count too: a sender that tries again must not fill the disk.
        """
        current, entry.stamp = self.index.known(entry.sop_instance_uid)
        return None if current is None else self._alike(current, entry, length, crc)

    def _alike(self, current: Instance, entry: Entry, length: int, crc: int) -> Instance | None:
        """What is stored with these bytes: the current instance, or one kept aside."""
        if _is_same(current, entry, length, crc):
            return current
        kept = self.index.alike(entry.sop_instance_uid, length, crc)
        return next((one for one in kept if _is_same(one, entry, length, crc)), None)

    def confirm_same(
        self, entry: Entry, stored: Instance, payload: Sequence[Buffer], length: int, crc: int, *, durable: bool
    ) -> Instance | None:
        """The stored instance once its bytes are found to be those of `payload`, synced with `durable`. Blocks.

        None when no stored copy can be read any more: append the entry with HEAL. Raises InstanceRefused when lengths
        and checksums agree and the bytes do not.
        """
        for _ in range(CONFIRM_TRIES):
            try:
                self._compare(stored, payload, durable=durable)
                return stored
            except CorruptRecord as error:
                again = self.same_instance(entry, length, crc)
                if again is None or again.position == stored.position:
                    note_damage(self.index, stored, error)
                    return None
                stored = again
        return None

    def resent(
        self,
        entry: Entry,
        payload: Sequence[Buffer],
        length: int,
        *,
        durable: bool,
        bytes_max: int = COMPARED_BYTES_MAX,
        elements_max: int = COMPARED_ELEMENTS_MAX,
    ) -> Instance | None:
        """What is stored of an entry's UID with the same content in other bytes, synced with `durable`. Blocks.

        None: there is none, or it would take long to find out.
        """
        current = self.index.locate(entry.sop_instance_uid)
        if current is None:
            return None
        versions = self.index.versions(entry.sop_instance_uid)
        same = self._compared_before(entry, payload, versions)
        if same is None and length <= bytes_max:
            kept = [each for each in versions if each.stamp != current.stamp]
            same = self._compared_now(entry, payload, [current, *kept], bytes_max, elements_max)
        if same is not None and durable:
            with self._final_failures():
                self.reader.sync(same.position.segment_id)
        return same

    def _compared_before(
        self, entry: Entry, payload: Sequence[Buffer], versions: Sequence[Instance]
    ) -> Instance | None:
        """What these bytes were found to say the same as, when they came before; if that can still be read."""
        digest = ""
        for place in self.index.drops(entry.sop_instance_uid, RETIRED_MAX):
            try:
                tombstone = Tombstone.unpack(self.reader.read_record(place))
                known = likeness.read_reason(tombstone.by, tombstone.reason)
                stored = next((each for each in versions if known is not None and each.stamp == known[0]), None)
                if known is None or stored is None:
                    continue
                digest = digest or likeness.digest_of(entry.transfer_syntax_uid.decode("utf-8", "replace"), payload)
                if known[1] == digest:
                    self.reader.verify(stored.position)
                    return stored
            except CorruptRecord:
                continue  # then it is stored once more
        return None

    def _compared_now(
        self,
        entry: Entry,
        payload: Sequence[Buffer],
        versions: Sequence[Instance],
        bytes_max: int,
        elements_max: int,
    ) -> Instance | None:
        """The first of the versions with the same content, where nothing is to be inflated or decoded for it."""
        syntax = transfer_syntax.of(entry.transfer_syntax_uid.decode("utf-8", "replace"))
        if syntax.deflated:
            return None
        side = likeness.Side(Whole(b"".join(payload)), syntax)
        for stored in versions[:COMPARED_OTHERS_MAX]:
            of_stored = transfer_syntax.of(stored.transfer_syntax_uid)
            if stored.position.payload_length > bytes_max or of_stored.deflated:
                continue
            try:
                data = self.reader.read(stored.position, verify=True)
            except CorruptRecord:
                continue  # the two stay beside each other
            if likeness.is_same(side, likeness.Side(Whole(data), of_stored), elements_max=elements_max):
                return stored
        return None

    def is_whole(self, stored: Instance) -> bool:
        """Whether a stored instance's bytes are what they were. Blocks for as long as reading them takes."""
        try:
            self.reader.verify(stored.position)
        except CorruptRecord as error:
            note_damage(self.index, stored, error)
            return False
        return True

    def clear_healed(self, sop_instance_uid: bytes) -> None:
        """Forgets the damage of those records of a UID that others have taken the place of."""
        needed = {version.position[:2] for version in self.index.versions(sop_instance_uid)}
        for row in self.index.damage():
            if row.sop_instance_uid == sop_instance_uid and (row.segment_id, row.offset) not in needed:
                self.index.clear_damage(row.segment_id, row.offset)
                logger.warning(
                    "a damaged instance was healed by a re-send",
                    sop_instance_uid=sop_instance_uid.decode("ascii", "replace"),
                    segment=f"{row.segment_id:016x}",
                    offset=row.offset,
                )

    def _compare(self, stored: Instance, payload: Sequence[Buffer], *, durable: bool) -> None:
        """Raises InstanceRefused when stored are other bytes, CorruptRecord when they or their head are damaged."""
        self.reader.read_record(stored.position)
        have = memoryview(self.reader.read(stored.position, verify=True))
        at = 0
        for buffer in payload:
            view = memoryview(buffer).cast("B")
            # As bytes: memory views compare element by element, forty times as slowly.
            if have[at : at + len(view)].tobytes() != view.tobytes():
                raise InstanceRefused("another instance of this UID has the same length and checksum")
            at += len(view)
        if durable:
            with self._final_failures():
                self.reader.sync(stored.position.segment_id)

    @contextmanager
    def _final_failures(self) -> Iterator[None]:
        """A sync or a commit that failed beside the log ends this writer as one of the log's own does."""
        try:
            yield
        except StorageFailed as error:
            self.log.fail(error)
            raise

    def append(
        self, entry: Entry, payload: Sequence[Buffer], length: int, crc: int, policy: int, *, sync_soon: bool = True
    ) -> None:
        """Writes the record to the page cache and fills the entry's position, stamp and flags.

        `policy` may have HEAL in it. `sync_soon`: the caller syncs before it answers.

        Raises InstanceRefused when no more versions of this UID are kept aside, StorageFull or StorageFailed.
        """
        if entry.stamp:
            policy = self._sparing(entry, policy)
            self._check_room(entry, policy)
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

    def _sparing(self, entry: Entry, policy: int) -> int:
        """The policy that holds for an entry: what is on legal hold is not replaced, it is kept beside the new one."""
        if policy & POLICY_MASK != POLICY_REPLACE:
            return policy
        known = self.index.versions(entry.sop_instance_uid)
        if any(self.index.is_held(version.study_instance_uid.encode()) for version in known):
            return policy & ~POLICY_MASK | POLICY_KEEP_BOTH
        return policy

    def _check_room(self, entry: Entry, policy: int) -> None:
        """Raises InstanceRefused when another version would have to be kept aside and there are enough.

        A device that uses a UID for all that it makes must not slow everybody down for ever. Asked before anything is
        written, so that nothing that has been acknowledged is dropped.
        """
        if policy & HEAL or policy & POLICY_MASK == POLICY_REPLACE:
            return
        if self.index.kept_count(entry.sop_instance_uid) >= self._versions_max:
            raise InstanceRefused(
                f"{self._versions_max} versions of this UID are kept aside already", Refusal.OUT_OF_RESOURCES
            )

    def policy_against(self, entry: Entry, policy: int, cut: str) -> int:
        """The policy for an entry of a UID that is known: whole takes the place of cut, and cut of nothing. Blocks.

        `cut`: where the entry's data set ends early. What was cut stays beside the whole one as a version of it.
        """
        if cut:
            return policy & ~POLICY_MASK | POLICY_KEEP_FIRST
        if policy & POLICY_MASK != POLICY_KEEP_FIRST:
            return policy
        current = self.index.locate(entry.sop_instance_uid)
        if current is None or not completeness.cut_of(self.reader, current):
            return policy
        logger.warning(
            "a whole instance takes the place of one that was cut",
            sop_instance_uid=entry.sop_instance_uid.decode("ascii", "replace"),
        )
        return policy & ~POLICY_MASK | POLICY_KEEP_BOTH

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

    def next_stamp(self, after: int = 0) -> int:
        """A stamp above all that this store gave and above `after`."""
        return self._clock.next(after)

    def stamp(self, entry: Entry, policy: int) -> None:
        """Gives a streamed entry, appended elsewhere, its stamp and flags."""
        _, newest = self.index.known(entry.sop_instance_uid)
        entry.stamp = self._clock.next(newest)
        entry.flags = self._sparing(entry, policy)

    def heals(self, entry: Entry, length: int, crc: int) -> bool:
        """Whether a streamed entry that has come to its end takes the place of a copy that can't be read. Blocks.

        Raises InstanceRefused when no more versions of this UID are kept aside.
        """
        current, _ = self.index.known(entry.sop_instance_uid)
        if current is None:
            return False
        stored = self._alike(current, entry, length, crc)
        if stored is None:
            self._check_room(entry, entry.flags)
            return False
        return not self.is_whole(stored)

    def quarantine(self, kept: Quarantined, payload: Sequence[Buffer], length: int, crc: int) -> None:
        """Writes what could not be taken as an instance to the page cache; `book_quarantined` makes it visible.

        Raises StorageFull or StorageFailed.
        """
        kept.stamp = self._clock.next()
        kept.position = self.log.append(
            Kind.QUARANTINED, 0, kept.stamp, kept.sop_instance_uid, kept.pack_meta(), payload, length, crc
        )

    def book_quarantined(self, kept: Quarantined) -> None:
        """Makes a quarantined record visible."""
        self.index.apply([], quarantined=[kept])

    def apply(self, entries: Sequence[Entry]) -> list[Outcome]:
        """Makes appended entries visible, in one index transaction."""
        with self._final_failures():
            return self.index.apply(entries)

    def try_apply(self, entries: Sequence[Entry]) -> list[Outcome] | None:
        """The same for who must not wait; None when somebody else writes the index."""
        with self._final_failures():
            return self.index.try_apply(entries)

    def seal_rolled(self) -> None:
        """Seals segments that are full and tells the index. Blocks on the disk; call it off the loop."""
        with self._sealing:
            self._tell_sealed(self.log.seal_rolled())

    def close(self) -> None:
        """Syncs and seals the active segment."""
        self.seal_rolled()
        with self._sealing:
            self._tell_sealed(self.log.close())

    def _tell_sealed(self, segments: Sequence[tuple[int, int]]) -> None:
        """On a full disk the index is told at the next call, or finds out at the next start."""
        for segment_id, length in segments:
            self._sealed[segment_id] = SegmentMark(indexed_bytes=length, sealed=True)
        if not self._sealed:
            return
        try:
            self.index.apply([], marks=self._sealed)
        except StorageFull as error:
            logger.warning("the index does not know of sealed segments yet", count=len(self._sealed), error=str(error))
            return
        self._sealed.clear()


def _is_same(stored: Instance, entry: Entry, length: int, crc: int) -> bool:
    position = stored.position
    return (
        position.payload_length == length
        and position.payload_crc == crc
        and stored.transfer_syntax_uid.encode() == entry.transfer_syntax_uid
    )
