"""Finds the facts that `decision` needs about an instance whose SOP Instance UID is known, in the index and the log.

    Resolver     looks a UID up: one index read; an instance with a new UID needs nothing else
    Duplicate    one instance of a known UID, until the decision

`Duplicate.decide` reads the index only, and may run on an event loop. `Duplicate.settle` reads stored bytes too, and
blocks. A stored copy that cannot be read is noted as damaged.

Contents are compared before the answer if both data sets are small and native. Longer and compressed ones are stored as
another version; `archive.lifecycle.resent` compares them later and retires one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine import log
from engine.archive import completeness, likeness
from engine.archive.damage import note_damage
from engine.archive.ingest.decision import Copy, Decision, Facts, Step, decide
from engine.dicom import transfer_syntax
from engine.dicom.content import ELEMENTS_MAX
from engine.dicom.sources import Whole
from engine.errors import CorruptRecord, InstanceRefused, Refusal, StoreUnreachable
from engine.index.format.entry import Entry, Tombstone
from engine.index.format.types import Instance, Outcome

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from engine.index.catalog import Catalog
    from engine.storage.reader import LogReader

logger = log.get("archive.ingest")

VERSIONS_MAX: Final = 100
"""The default of storage.versions_max."""

RETIRED_MAX: Final = 8
"""The most retired versions of a UID that are searched for the received bytes."""

COMPARED_VERSIONS_MAX: Final = 2
"""The current one and the oldest of those kept aside, since a router may send these again and again."""

CONFIRM_TRIES: Final = 3
"""How often to look a stored copy up again if it is not at its place: a compaction may be moving it."""


@dataclass(frozen=True, slots=True)
class Effort:
    """Limits for comparing two data sets before the answer; a larger instance is stored and compared later."""

    bytes_max: int
    """Limit for each of them."""
    elements_max: int


QUICK: Final = Effort(1 << 20, 5000)
"""For a waiting sender: some milliseconds."""

THOROUGH: Final = Effort(64 << 20, ELEMENTS_MAX)
"""For an import, where nobody waits."""


class Resolver:
    """Looks SOP Instance UIDs up, for one writing process."""

    def __init__(
        self, index: Catalog, reader: LogReader, sync_segment: Callable[[int], None], *, versions_max: int
    ) -> None:
        """`sync_segment` makes a stored record durable. `versions_max`: the most versions of one UID that are kept
        aside (some more if many arrive at once)."""
        self.index = index
        self.reader = reader
        self.sync_segment = sync_segment
        self.versions_max = versions_max

    def look_up(self, entry: Entry, length: int, crc: int) -> Instance | None:
        """The stored version with the entry's UID, transfer syntax, length and checksum: probably the same bytes.

        Versions kept aside count too: repeated sends must not fill the disk. Sets the entry's stamp to the newest of
        its UID; 0: the UID is new.
        """
        current, entry.stamp = self.index.current_and_newest_stamp(entry.sop_instance_uid)
        if current is None or _is_alike(current, entry, length, crc):
            return current
        versions = self.index.versions_with_bytes(entry.sop_instance_uid, length, crc)
        return next((version for version in versions if _is_alike(version, entry, length, crc)), None)

    def outcome_of(self, stored: Instance) -> Outcome:
        """The answer if these bytes were stored before.

        Compares bytes, not places: a copy that arrived at the same time, with an earlier stamp, may have become the
        current one meanwhile.
        """
        current = self.index.locate(stored.sop_instance_uid.encode())
        is_current = (
            current is not None
            and current.position.payload_length == stored.position.payload_length
            and current.position.payload_crc == stored.position.payload_crc
            and current.transfer_syntax_uid == stored.transfer_syntax_uid
        )
        return Outcome.DUPLICATE if is_current else Outcome.KEPT_ASIDE

    def clear_healed(self, sop_instance_uid: bytes) -> None:
        """Clears the damage of those records of a UID that other records have replaced."""
        positions = {version.position[:2] for version in self.index.versions(sop_instance_uid)}
        for row in self.index.damage():
            if row.sop_instance_uid == sop_instance_uid and (row.segment_id, row.offset) not in positions:
                self.index.clear_damage(row.segment_id, row.offset)
                logger.warning(
                    "a damaged instance was healed by a re-send",
                    sop_instance_uid=sop_instance_uid.decode("ascii", "replace"),
                    segment=f"{row.segment_id:016x}",
                    offset=row.offset,
                )


class Duplicate:
    """One instance of a known UID."""

    def __init__(
        self,
        resolver: Resolver,
        entry: Entry,
        stored: Instance | None,
        payload: Sequence[Buffer] | None,
        length: int,
        crc: int,
        *,
        policy: int,
        is_cut: bool = False,
        durable: bool = True,
        effort: Effort = QUICK,
    ) -> None:
        """`stored`: the result of `look_up`. `payload`: None if the bytes are not in memory; then checksums decide.

        With `durable`, a stored copy is synced before it is acknowledged.
        """
        self.entry = entry
        self.stored = stored
        """The stored copy, if the decision is to acknowledge it."""
        self._resolver = resolver
        self._index = resolver.index
        self._reader = resolver.reader
        self._payload = payload
        self._length = length
        self._crc = crc
        self._durable = durable
        self._effort = effort
        self._facts = Facts(policy, is_cut, Copy.NONE if stored is None else Copy.CLAIMED)
        if payload is None:
            self._facts.has_same_content = False

    def decide(self) -> Decision | None:
        """Decides by the index alone; None if stored bytes must be read: then call `settle`, in a thread.

        Raises InstanceRefused if too many versions are kept aside.
        """
        return self._decide(may_block=False)

    def settle(self) -> Decision:
        """Decides whether to acknowledge or to append. Blocks.

        Raises InstanceRefused if too many versions are kept aside, or if lengths and checksums agree and bytes do not.
        """
        decision = self._decide(may_block=True)
        assert decision is not None
        return decision

    def settle_written(self) -> Decision:
        """The same for bytes that are in the log already: never acknowledges, since the index detects equal ones."""
        decision = self.settle()
        if decision.step is Step.ACKNOWLEDGE:
            self._facts.copy = Copy.NONE
            self._facts.has_room = True
            decision = self.settle()
        return decision

    def _decide(self, *, may_block: bool) -> Decision | None:
        facts = self._facts
        while True:
            decision = decide(facts)
            match decision.step:
                case Step.ACKNOWLEDGE | Step.APPEND:
                    return decision
                case Step.REFUSE:
                    raise InstanceRefused(
                        f"{self._resolver.versions_max} versions of this UID are kept aside already",
                        Refusal.OUT_OF_RESOURCES,
                    )
                case Step.CHECK_HOLD:
                    facts.is_held = self._is_held()
                case Step.COUNT:
                    # Decide before anything is written, so that nothing acknowledged is dropped.
                    count = self._index.kept_version_count(self.entry.sop_instance_uid)
                    facts.has_room = count < self._resolver.versions_max
                case _ if not may_block:
                    return None
                case Step.CONFIRM:
                    facts.copy = Copy.SOUND if self._confirm() else Copy.DAMAGED
                case Step.COMPARE:
                    facts.has_same_content = self._compare()
                case Step.INSPECT:
                    facts.is_current_cut = self._is_current_cut()

    def _is_held(self) -> bool:
        versions = self._index.versions(self.entry.sop_instance_uid)
        return any(self._index.is_held(version.study_instance_uid.encode()) for version in versions)

    def _is_current_cut(self) -> bool:
        current = self._index.locate(self.entry.sop_instance_uid)
        try:
            if current is None or not completeness.cut_of(self._reader, current):
                return False
        except StoreUnreachable:
            return False  # keep both, rather than refuse instances while a store is away
        logger.warning(
            "a whole instance replaces a truncated one",
            sop_instance_uid=self.entry.sop_instance_uid.decode("ascii", "replace"),
        )
        return True

    # -- the same bytes -------------------------------------------------------------------------

    def _confirm(self) -> bool:
        """Whether a stored copy has these bytes; False if it is damaged. Raises InstanceRefused if it has others."""
        for _ in range(CONFIRM_TRIES):
            assert self.stored is not None
            try:
                self._compare_bytes(self.stored)
                if self._durable:
                    self._resolver.sync_segment(self.stored.position.segment_id)
                return True
            except CorruptRecord as error:
                second_look = self._resolver.look_up(self.entry, self._length, self._crc)
                if second_look is None or second_look.position == self.stored.position:
                    note_damage(self._index, self.stored, error)
                    return False
                self.stored = second_look
        return False

    def _compare_bytes(self, stored: Instance) -> None:
        """Raises InstanceRefused if other bytes are stored, CorruptRecord if they or their head are damaged."""
        if self._payload is None:
            self._reader.verify(stored.position)
            return
        self._reader.read_record(stored.position)
        data = memoryview(self._reader.read(stored.position, verify=True))
        at = 0
        for buffer in self._payload:
            view = memoryview(buffer).cast("B")
            # Compare as bytes: memory views compare element by element, forty times as slowly.
            if data[at : at + len(view)].tobytes() != view.tobytes():
                raise InstanceRefused("another instance of this UID has the same length and checksum")
            at += len(view)

    # -- the same content -----------------------------------------------------------------------

    def _compare(self) -> bool:
        """Whether a stored version has the same content in other bytes; False if the comparison would take long."""
        assert self._payload is not None
        entry = self.entry
        current = self._index.locate(entry.sop_instance_uid)
        if current is None:
            return False
        versions = self._index.versions(entry.sop_instance_uid)
        same = self._find_earlier_result(self._payload, versions)
        if same is None and self._length <= self._effort.bytes_max:
            other_versions = [version for version in versions if version.stamp != current.stamp]
            same = self._find_same_content(self._payload, [current, *other_versions])
        if same is None:
            return False
        if self._durable:
            self._resolver.sync_segment(same.position.segment_id)
        self.stored = same
        return True

    def _find_earlier_result(self, payload: Sequence[Buffer], versions: Sequence[Instance]) -> Instance | None:
        """The version that these bytes were equal to when they came before, if it is still readable."""
        entry = self.entry
        digest = ""
        for place in self._index.targeted_tombstones(entry.sop_instance_uid, RETIRED_MAX):
            try:
                tombstone = Tombstone.unpack(self._reader.read_record(place))
                finding = likeness.read_reason(tombstone.by, tombstone.reason)
                stored = next(
                    (version for version in versions if finding is not None and version.stamp == finding[0]), None
                )
                if finding is None or stored is None:
                    continue
                digest = digest or likeness.digest_of(entry.transfer_syntax_uid.decode("utf-8", "replace"), payload)
                if finding[1] == digest:
                    self._reader.verify(stored.position)
                    return stored
            except (CorruptRecord, StoreUnreachable):
                continue  # unreadable: store the bytes once more
        return None

    def _find_same_content(self, payload: Sequence[Buffer], versions: Sequence[Instance]) -> Instance | None:
        """The first version with the same content; compares only those that need no inflating or decoding."""
        syntax = transfer_syntax.of(self.entry.transfer_syntax_uid.decode("utf-8", "replace"))
        if syntax.deflated:
            return None
        side = likeness.Side(Whole(b"".join(payload)), syntax)
        for stored in versions[:COMPARED_VERSIONS_MAX]:
            of_stored = transfer_syntax.of(stored.transfer_syntax_uid)
            if stored.position.payload_length > self._effort.bytes_max or of_stored.deflated:
                continue
            try:
                data = self._reader.read(stored.position, verify=True)
            except (CorruptRecord, StoreUnreachable):
                continue  # unreadable, at least now: keep both
            other = likeness.Side(Whole(data), of_stored)
            if likeness.is_same(side, other, elements_max=self._effort.elements_max):
                return stored
        return None


def _is_alike(stored: Instance, entry: Entry, length: int, crc: int) -> bool:
    position = stored.position
    return (
        position.payload_length == length
        and position.payload_crc == crc
        and stored.transfer_syntax_uid.encode() == entry.transfer_syntax_uid
    )
