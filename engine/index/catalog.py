"""The catalogue: the interface of the index to the rest of the engine. Nothing of LMDB is visible through it.

Derived from the log and disposable: `rebuild` can make all of it again. Any number of processes read and write it at
once, one writer at a time for tens of microseconds. Thread-safe. Open it after spawn: a forked child that uses it is
refused.

    before opening    `restore` brings its files to a state that may be opened; only the keeper calls it
    while open        `apply` makes records of the log visible; the other methods read
    checkpoints       `checkpointer` takes them; one for each index, in the keeper
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from functools import partial

from engine.access.scope import FULL, AccessFacts, Scope
from engine.dicom.schema import STANDARD, Schema
from engine.errors import CatalogBehind, IndexError_
from engine.index.apply import access_tags, bulk, overlay, positions, reextract, relocation
from engine.index.apply.history import newest_stamp, read_kept_versions
from engine.index.apply.other_records import deletion_prefix
from engine.index.apply.versions import State as State
from engine.index.apply.writer import Writer
from engine.index.database.environment import DATABASE_VERSION as DATABASE_VERSION
from engine.index.database.environment import MAP_BYTES, Environment, RunWrite
from engine.index.database.transactions import WriteTxn, present
from engine.index.database.turn import turn_path
from engine.index.format import keys
from engine.index.format.entry import Entry, Hold, Item, LedgerItem, Quarantined
from engine.index.format.rows import decode_mark, read_count, scan_prefix
from engine.index.format.types import (
    Bookmark,
    DamageRow,
    Holder,
    Instance,
    InstanceIdentifiers,
    Level,
    Match,
    Order,
    Outcome,
    PlacedMatch,
    Query,
    SegmentMark,
    SeriesRevision,
)
from engine.index.query import (
    admission,
    arrivals,
    conflicts,
    corrections,
    ledger_records,
    listing,
    ordering,
    selection,
    trash,
    visibility,
    whereabouts,
)
from engine.index.query import search as searching
from engine.index.query.arrivals import SeriesArrival as SeriesArrival
from engine.index.query.conflicts import Conflict as Conflict
from engine.index.query.corrections import CorrectionStatus as CorrectionStatus
from engine.index.query.explanation import Explanation
from engine.index.query.instances import instance_of, read_instance, read_versions
from engine.index.query.revision import read_revisions
from engine.index.query.snapshot import Snapshot as Snapshot
from engine.index.query.study_attributes import read_study_attributes
from engine.index.query.trash import TrashEntry as TrashEntry
from engine.index.query.visibility import CurrentRecord as CurrentRecord
from engine.index.upkeep import audit, checkpoint_file, epoch_id, liveness, restoration
from engine.index.upkeep.checkpoint import Checkpointer
from engine.index.upkeep.guard import Guard
from engine.index.upkeep.restoration import RestoreResult as RestoreResult
from engine.storage.files import Files
from engine.storage.hints import Heads
from engine.storage.record import Position, Record

WAIT_POLL_S = 0.001
"""How often `wait` looks for a commit: a call without a lock, so a waiting query costs one percent of a core."""

LOCATED_MAX = 4096
"""Instances that `locate` caches: some 4 MB."""


class Catalog:
    """One process's handle of the index."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._writer = Writer(environment)
        self._located: tuple[int, dict[bytes, Instance]] = (-1, {})
        """The last commit, and the results of `locate` since then."""
        self._admitted: tuple[int, dict[tuple[Scope, bytes, date], bool]] = (-1, {})
        """The last commit, and the results of `is_in_scope` since then."""

    @staticmethod
    def restore(directory: str, files: Files) -> RestoreResult:
        """Brings the files of an index to a state that may be opened, after any kind of stop. Only the keeper calls
        this, before `open`.

        Raises IndexError_ or StorageError when the files cannot be read or written.
        """
        return restoration.restore(directory, files)

    @staticmethod
    def discard(directory: str, files: Files) -> None:
        """Deletes an index, to be made again from the log. Raises IndexError_ when it is in use."""
        restoration.discard(directory, files)

    @staticmethod
    def is_clean(directory: str, files: Files) -> bool:
        """Whether an index was closed cleanly and no process has it open: it can be read without a change."""
        return restoration.is_clean(directory, files)

    @classmethod
    def open(
        cls,
        directory: str,
        *,
        read_only: bool = False,
        map_bytes: int = MAP_BYTES,
        files: Files | None = None,
        schema: Schema = STANDARD,
    ) -> Catalog:
        """Opens the index of a directory, and creates it if there is none. After a stop of the machine, call `restore`
        first.

        Raises IndexError_ when it cannot be opened or has another format.
        """
        files = files or Files()
        environment = Environment(directory, files, read_only=read_only, map_bytes=map_bytes, schema=schema)
        if not read_only:
            try:
                environment.guard = Guard(directory, files)
            except OSError as error:
                environment.close()
                raise IndexError_(f"the index in {directory} cannot be opened: {error}") from error
        return cls(environment)

    @property
    def schema(self) -> Schema:
        """The attributes that the index holds, and their form."""
        return self._environment.schema

    def checkpointer(self, sync_log: Callable[[], object], files: Files | None = None) -> Checkpointer:
        """The checkpointer of this index. Make it before you write anything. `sync_log` makes everything in the log
        durable; any thread may call it. Raises IndexError_ when the index has a checkpointer already."""
        return Checkpointer(self._environment, files or self._environment.files, sync_log)

    # -- records become visible -------------------------------------------------------------------

    def apply(
        self,
        items: Sequence[Item],
        *,
        marks: Mapping[int, SegmentMark] | None = None,
        covered: Mapping[int, int] | None = None,
    ) -> list[Outcome]:
        """Makes records of the log visible, all or none, in one transaction. Returns one outcome for each instance.

        Records may be applied in any order and any number of times; the result is the same. A sealed mark says where
        the records of a segment end (`indexed_bytes`). `covered` gives, by segment, an offset below which every record
        has been applied or does not exist. Raises StorageFull, StorageFailed (final) or IndexError_.
        """
        return self._writer.apply(items, marks or {}, covered or {})

    def try_apply(self, entries: Sequence[Entry]) -> list[Outcome] | None:
        """Applies instances for a caller that must not wait. Returns None when another thread or process has been
        writing for some milliseconds. Raises as `apply` does."""
        writer = self._writer
        result = writer.try_batch(lambda txn: [writer.add(txn, entry) for entry in entries])
        return None if result is None else result[0]

    def apply_promptly(self, entries: Sequence[Entry], is_durable: Callable[[], bool]) -> list[Outcome] | None:
        """As `try_apply`, for a caller that makes the log durable meanwhile: `is_durable` is called before the commit.

        Returns None if it returns False, and nothing becomes visible; and if other processes write, which would wait.
        """
        writer = self._writer
        if not writer.is_alone():
            return None
        result = writer.try_batch(lambda txn: [writer.add(txn, entry) for entry in entries], is_durable)
        return None if result is None else result[0]

    def apply_group(
        self,
        slot: int,
        number: int,
        items: Sequence[Item],
        marks: Mapping[int, SegmentMark] | None = None,
        covered: Mapping[int, int] | None = None,
    ) -> bool:
        """Applies a group of another node's log and notes its number, all in one transaction; False: it was applied.

        The groups of a slot have the numbers 1, 2, 3, ... and are applied in this order; slots do not wait for others.
        Raises CatalogBehind if groups are missing before this one, and as `apply` does.
        """
        return self._writer.apply_group(slot, number, items, marks or {}, covered or {})

    def skip_groups(self, slot: int, number: int) -> None:
        """Notes that all groups of a slot up to this number have been applied in another way: by the footers of their
        segments. The stamps in them are not known here: their records still count, by `apply`."""
        self._writer.skip_groups(slot, number)

    def position(self) -> dict[int, int]:
        """The number of the last applied group of each slot; none for a slot of which nothing has been applied."""
        with self._environment.reading() as txn:
            return {slot: number for slot, (number, _) in positions.read_all(txn, self._environment).items()}

    def newest_group_stamp(self) -> int:
        """The largest stamp in the applied groups; 0 without any."""
        with self._environment.reading() as txn:
            return max((stamp for _, stamp in positions.read_all(txn, self._environment).values()), default=0)

    def wait(self, vector: Mapping[int, int], timeout_s: float) -> None:
        """Waits until the position has reached all of `vector`: what was acknowledged there is visible here.

        Any process may apply the groups. Blocks. Raises CatalogBehind when that takes too long.
        """
        give_up_at = time.monotonic() + timeout_s
        commit = -1
        while True:
            # A commit after this call only costs another look.
            if (last := self.last_commit()) != commit:
                commit, position = last, self.position()
                missing = sum(max(0, number - position.get(slot, 0)) for slot, number in vector.items())
                if not missing:
                    return
            if time.monotonic() >= give_up_at:
                raise CatalogBehind(f"{missing} groups of other nodes are not applied after {timeout_s:g} s", missing)
            threading.Event().wait(WAIT_POLL_S)

    def load(self, heads: Heads, start_offset: int) -> bulk.LoadResult:
        """Applies a sealed segment from an offset on, some thousand records in a transaction: see `bulk`.

        Raises as `apply` does, and CorruptRecord when the footer has fewer heads than it says.
        """
        return bulk.load(self._writer, heads, start_offset)

    def locate(self, sop_instance_uid: bytes) -> Instance | None:
        """The current instance of a UID, with its place in the log.

        Cached until the next commit of any process: a viewer asks for thousands of frames of one slide.
        """
        environment = self._environment
        last_commit, located = self._located
        # A thread that was slower than a commit puts its result into the dictionary of its own commit.
        if (now := environment.last_transaction_id()) != last_commit or len(located) >= LOCATED_MAX:
            located = {}
            self._located = now, located
        if (instance := located.get(sop_instance_uid)) is not None:
            return instance
        sop_key = keys.bounded(sop_instance_uid)
        with environment.reading() as txn:
            where = txn.get(sop_key, db=environment.sop_uids)
            if not where:
                return None
            instance = read_instance(txn, environment, where, present(txn.get(where, db=environment.instances)))
        located[sop_instance_uid] = instance
        return instance

    def current_and_newest_stamp(self, sop_instance_uid: bytes) -> tuple[Instance | None, int]:
        """The current instance of a UID, and the highest stamp of its records. A new record needs a higher one to
        count.

        The highest stamp may belong to a kept version. It may also belong to a deletion: if the clock has been set back
        since then, that deletion would kill a new instance with the time as its stamp.
        """
        environment = self._environment
        sop_key = keys.bounded(sop_instance_uid)
        with environment.reading() as txn:
            where = txn.get(sop_key, db=environment.sop_uids)
            if where is None:
                return None, 0
            if not where:
                return None, newest_stamp(txn, environment.history, sop_key)
            current = read_instance(txn, environment, where, present(txn.get(where, db=environment.instances)))
            return current, max(current.stamp, newest_stamp(txn, environment.history, sop_key))

    def was_deleted(self, level: Level, uid: bytes) -> bool:
        """Whether a study or series with this UID was deleted as a whole, as long as its tombstones are in the log."""
        environment = self._environment
        if environment.deletions is None:
            return False
        with environment.reading() as txn:
            return any(True for _ in scan_prefix(txn, environment.deletions, deletion_prefix(level, uid)))

    def is_in_scope(self, study_instance_uid: bytes, scope: Scope) -> bool:
        """Whether a study is stored and in scope. Cached until the next commit of any process, as `locate` is."""
        environment = self._environment
        last_commit, admitted = self._admitted
        if (now := environment.last_transaction_id()) != last_commit or len(admitted) >= LOCATED_MAX:
            admitted = {}
            self._admitted = now, admitted
        key = (scope, study_instance_uid, date.today())
        answer = admitted.get(key)
        if answer is None:
            with environment.reading() as txn:
                answer = admission.is_admitted(txn, environment, scope, study_instance_uid)
            admitted[key] = answer
        return answer

    def has_study(self, study_instance_uid: bytes) -> bool:
        """Whether a study is stored."""
        with self._environment.reading() as txn:
            return txn.get(keys.bounded(study_instance_uid), db=self._environment.study_uids) is not None

    def access_facts(self, study_instance_uid: bytes) -> AccessFacts | None:
        """What a scope may ask of a study; None: it is not stored."""
        with self._environment.reading() as txn:
            return admission.facts_for(txn, self._environment, study_instance_uid)

    def study_attributes(self, study_instance_uid: bytes) -> dict[int, bytes] | None:
        """The attributes of a study and its patient as queries return them; None: it is not stored."""
        return read_study_attributes(self._environment, study_instance_uid)

    def instances(self, query: Query, scope: Scope = FULL) -> list[Instance]:
        """The instances that a retrieval with these keys names: by series, Instance Number, UID. Raises QueryError."""
        return list(self.select(query, scope))

    def select(self, query: Query, scope: Scope = FULL) -> Iterator[Instance]:
        """The same one by one; no read transaction is open while the caller handles one. Raises QueryError."""
        return selection.select(self._environment, query, scope)

    def identifiers(self, query: Query, scope: Scope = FULL) -> list[InstanceIdentifiers]:
        """The identifiers of the same instances, for a deletion, in no order. Raises QueryError."""
        return selection.select_identifiers(self._environment, query, scope)

    def search(self, query: Query, explanation: Explanation | None = None, scope: Scope = FULL) -> Iterator[Match]:
        """The matches of a query in a stable order, page by page; fills in `explanation` on the way. Raises QueryError
        at once, not at the first match."""
        return searching.search(self._environment, query, explanation, scope)

    def search_steps(
        self, query: Query, explanation: Explanation | None = None, scope: Scope = FULL
    ) -> Iterator[Match | None]:
        """The same, with a None wherever the caller may pause the search to serve others."""
        return searching.search_steps(self._environment, query, explanation, scope)

    def ordered_steps(
        self,
        query: Query,
        order: Order,
        after: Bookmark | None,
        explanation: Explanation,
        *,
        skip: int = 0,
        scope: Scope = FULL,
    ) -> Iterator[PlacedMatch | Bookmark | None]:
        """The matching studies in an order; see `query.ordering`. Raises QueryError."""
        return ordering.ordered_steps(self._environment, query, order, after, explanation, skip=skip, scope=scope)

    def bookmark_at(self, order: Order, text: str) -> Bookmark:
        """The bookmark before the values that begin with a text. Raises QueryError."""
        return ordering.bookmark_at(order, text, self.schema)

    def versions(self, sop_instance_uid: bytes) -> list[Instance]:
        """The current instance of a UID and its kept versions, the oldest first."""
        return read_versions(self._environment, sop_instance_uid)

    def versions_with_bytes(self, sop_instance_uid: bytes, length: int, crc: int) -> list[Instance]:
        """The kept versions of a UID that have this length and checksum, the oldest first.

        Looks at the key of each version, and reads those that match.
        """
        environment = self._environment
        with environment.reading() as txn:
            records = list(
                read_kept_versions(txn, environment, keys.bounded(sop_instance_uid), keys.tie_of(length, crc))
            )
        return [instance_of(record.entry(sop_instance_uid)) for record in records]

    def kept_version_count(self, sop_instance_uid: bytes) -> int:
        """How many kept versions a UID has."""
        environment = self._environment
        with environment.reading() as txn:
            return sum(1 for _ in scan_prefix(txn, environment.versions, keys.bounded(sop_instance_uid) + b"\0"))

    def targeted_tombstones(self, sop_instance_uid: bytes, limit: int) -> list[Position]:
        """The positions of the tombstones with a target that a UID has: the latest target first, of one target the
        newest."""
        environment = self._environment
        positions: list[Position] = []
        with environment.reading() as txn:
            rows = list(scan_prefix(txn, environment.drops, keys.bounded(sop_instance_uid) + b"\0"))
            for row_key, _ in reversed(rows[-limit:]):
                _, stamp, segment_id, offset = keys.ORDER_PLACE.unpack(row_key[-keys.ORDER_PLACE.size :])
                place = keys.PLACE.pack(segment_id, offset)
                for key, value in scan_prefix(txn, environment.tombstones, stamp.to_bytes(8, "big")):
                    if key.endswith(place):
                        _, meta_length, key_length, _ = keys.TOMBSTONE.unpack(value)
                        positions.append(Position(segment_id, offset, key_length, meta_length, 0, 0))
        return positions

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """Patients, studies and corrections at one moment, within the context."""
        with self._environment.reading() as txn:
            yield Snapshot(txn, self._environment)

    def revisions(self, study_instance_uid: bytes, series_instance_uid: bytes | None = None) -> list[SeriesRevision]:
        """The revision of each series of a study, or of one series; empty if there is none."""
        return read_revisions(self._environment, study_instance_uid, series_instance_uid)

    def sizes(self, study_instance_uids: Sequence[bytes]) -> list[tuple[int, int]]:
        """Instances and bytes of each of these studies that is stored."""
        return list(arrivals.read_sizes(self._environment, study_instance_uids))

    def arrivals(self, study_instance_uid: bytes, *, whole: bool = False) -> list[SeriesArrival]:
        """How the series of a study arrived; `whole`: by every instance, not only the first and the last."""
        return arrivals.read_arrivals(self._environment, study_instance_uid, whole=whole)

    def has_entity_in(self, level: Level, uid: bytes, segment_ids: Collection[int]) -> bool:
        """Whether a study or series has current instances in these segments."""
        has_in = whereabouts.has_study_in if level is Level.STUDY else whereabouts.has_series_in
        return has_in(self._environment, uid, segment_ids)

    # -- everything that is not a current instance ------------------------------------------------

    def kept_versions(self) -> Iterator[Instance]:
        """Every kept version, page by page."""
        return listing.list_kept_versions(self._environment)

    def version_count(self) -> int:
        """How many kept versions there are."""
        return self._count(keys.META_VERSIONS)

    def holds(self) -> list[Hold]:
        """The studies on legal hold, stored or not."""
        return listing.read_holds(self._environment)

    def is_held(self, study_instance_uid: bytes) -> bool:
        """Whether a study is on legal hold."""
        return listing.is_held(self._environment, study_instance_uid)

    def hold_stamp(self, study_instance_uid: bytes) -> int:
        """The stamp of a study's latest hold or release. A new one needs a higher stamp to count."""
        environment = self._environment
        with environment.reading() as txn:
            return newest_stamp(txn, environment.holds, keys.bounded(study_instance_uid))

    def corrections(self) -> Iterator[CorrectionStatus]:
        """Every correction and every undo, the earliest first, page by page."""
        return corrections.read_corrections(self._environment)

    def corrected_values(self, study_instance_uid: bytes, series_instance_uid: bytes) -> dict[int, bytes]:
        """The attributes of a study and one of its series that corrections set, in UTF-8; b"": set to no value."""
        environment = self._environment
        with environment.reading() as txn:
            if not txn.stat(environment.corrections)["entries"]:
                return {}
            return overlay.corrected_values(txn, environment, study_instance_uid, series_instance_uid)

    def conflicts(self) -> Iterator[Conflict]:
        """The studies and series whose instances disagree, and on which attributes; page by page."""
        return conflicts.read_conflicts(self._environment)

    def conflicts_of(self, study_instance_uid: bytes) -> list[Conflict]:
        """The conflicts of one study and of its series."""
        return conflicts.read_conflicts_of(self._environment, study_instance_uid)

    def quarantined(self) -> Iterator[Quarantined]:
        """The records in quarantine, page by page."""
        return listing.read_quarantined(self._environment)

    def quarantined_bytes(self) -> int:
        """The bytes of the quarantine in the log."""
        return self._count(keys.META_QUARANTINED_BYTES)

    def trash_entries(self, before: int, limit: int) -> list[TrashEntry]:
        """What is in the trash, the latest first; `before`: only entries with a lower stamp (0: all)."""
        return trash.read_entries(self._environment, before, limit)

    def trash_entry(self, stamp: int) -> TrashEntry | None:
        """The entry of the trash with this stamp."""
        return trash.find_entry(self._environment, stamp)

    def in_trash(self, entry: TrashEntry) -> Iterator[Instance]:
        """The instances that wait under an entry of the trash, kept versions included; page by page."""
        return trash.read_instances(self._environment, entry)

    def note_damage(self, segment_id: int, offset: int, sop_instance_uid: bytes, what: str, found_ns: int) -> None:
        """Records damage at a place in the log. A later note of the same place replaces it."""
        uid = sop_instance_uid[:0xFFFF]
        row = keys.DAMAGE.pack(found_ns, len(uid)) + uid + what.encode("utf-8", "replace")
        table = self._environment.damage
        self._environment.write(lambda txn: txn.put(keys.PLACE.pack(segment_id, offset), row, db=table), _no_undo)

    def damage(self) -> list[DamageRow]:
        """Known damage, by place."""
        return listing.read_damage(self._environment)

    def clear_damage(self, segment_id: int, offset: int) -> None:
        """Removes the note of damage at a place."""
        table = self._environment.damage
        self._environment.write(lambda txn: txn.delete(keys.PLACE.pack(segment_id, offset), db=table), _no_undo)

    # -- compaction -------------------------------------------------------------------------------

    def alive(self, segment_id: int, records: Sequence[Record], *, now_ns: int | None = None) -> list[bool]:
        """Which of these records, all of one segment, must survive its compaction: see `liveness`."""
        if any(record.position.segment_id != segment_id for record in records):
            raise IndexError_(f"not all of these records lie in segment {segment_id:016x}")
        with self._environment.reading() as txn:
            return liveness.alive(txn, self._environment, records, time.time_ns() if now_ns is None else now_ns)

    def relocate(self, moves: Sequence[tuple[Record, Position]]) -> int:
        """Applies copies of records: each record now counts at the place of its copy. Returns how many were new.

        Call this when the copies are durable, with some thousand at a time: it is one transaction. Idempotent. Raises
        as `apply` does.
        """
        return self._writer.batch(lambda txn: relocation.relocate(self._writer, txn, moves))

    def forget_segment(self, segment_id: int, records: Sequence[Record]) -> None:
        """Removes the mark of a segment whose file is gone, the notes of damage in it, and the rows of its records.

        Without `records` (if the file can no longer be read) this reads all rows of the index. May be interrupted and
        repeated. Raises IndexError_ when a record of the segment is alive.
        """
        environment = self._environment
        relocation.check_dead(environment, segment_id)
        rows = relocation.rows_of(records) if records else relocation.rows_in(environment, segment_id)
        for at in range(0, len(rows), relocation.PAGE):
            self._writer.batch(partial(relocation.forget_rows, self._writer, rows[at : at + relocation.PAGE]))

        def end(txn: WriteTxn) -> None:
            for key, _ in list(scan_prefix(txn, environment.damage, keys.U64_KEY.pack(segment_id))):
                txn.delete(key, db=environment.damage)
            txn.delete(keys.U64_KEY.pack(segment_id), db=environment.amended)
            txn.delete(keys.U64_KEY.pack(segment_id), db=environment.segments)

        environment.write(end, _no_undo)

    # -- attributes extracted again ---------------------------------------------------------------

    def replace_attributes(self, entries: Sequence[Entry], segment_id: int, digest: bytes, amended_bytes: int) -> int:
        """Gives records of a segment the attributes that have been extracted again (see `reextract`), and notes that
        all records before an offset have the attributes of the set with this digest. Returns how many have changed.

        One transaction: pass some hundred at a time. Idempotent. Raises as `apply` does.
        """

        def work(txn: WriteTxn) -> int:
            reextract.write_progress(self._environment, txn, segment_id, digest, amended_bytes)
            return reextract.replace_attributes(self._writer, txn, entries)

        return self._writer.batch(work)

    def reextraction_progress(self) -> dict[int, tuple[bytes, int]]:
        """For each segment the digest of a set of extra attributes, and the offset before which all records have its
        attributes."""
        return reextract.read_progress(self._environment)

    def drop_unsearched(self, count_max: int) -> bool:
        """Removes keys of attributes that are no longer searchable. Returns whether there may be more."""
        return self._writer.batch(lambda txn: reextract.drop_unsearched(self._environment, txn, count_max))

    # -- keys of scopes -----------------------------------------------------------------------------

    def fill_access_tags(self) -> bool:
        """Gives some studies the keys by which scopes find them, in an index that is older than these. Returns whether
        there are more to fill."""
        return self._writer.batch(lambda txn: access_tags.fill_some(txn, self._environment))

    def has_access_tags(self) -> bool:
        """Whether scopes find all their studies by keys."""
        environment = self._environment
        if environment.access is None:
            return False
        with environment.reading() as txn:
            return access_tags.read_fill(txn, environment).is_complete

    # -- comparison with the log ------------------------------------------------------------------

    def current_instances(self) -> Iterator[Instance]:
        """Every current instance, by series, page by page."""
        return audit.current_instances(self._environment)

    def unreferenced_rows(self) -> Iterator[list[tuple[Instance, str]]]:
        """The rows of instances that no UID leads to, and the fault of each. One list for each page, often empty."""
        return audit.unreferenced_rows(self._environment)

    def wrong_records(self, records: Sequence[Record]) -> list[tuple[Record, str]]:
        """The records that the index does not know at their positions, or that differ from it; and the fault."""
        return audit.wrong_records(self._environment, records)

    def tables_by_offset(self, segment_id: int) -> dict[int, str]:
        """The offsets of a segment's records that are not current instances, and the table that has each."""
        return audit.tables_by_offset(self._environment, segment_id)

    def knows(self, item: LedgerItem) -> bool:
        """Whether a record of the ledger has been applied, at any place."""
        return ledger_records.is_known(self._environment, item)

    def would_change(self, item: LedgerItem) -> bool:
        """Whether a record of the ledger that the index does not know would change anything now."""
        return ledger_records.is_needed(self._environment, item)

    def ledger_places(self) -> Iterator[tuple[Position, ...]]:
        """The positions of each record of the ledger: several while a compaction has copied it."""
        return ledger_records.places(self._environment)

    # -- state and upkeep -------------------------------------------------------------------------

    def segment_marks(self) -> dict[int, SegmentMark]:
        """How far each segment has been applied, and how much of it is alive."""
        environment = self._environment
        with environment.reading() as txn, txn.cursor(db=environment.segments) as cursor:
            return {keys.U64_KEY.unpack(key)[0]: decode_mark(value) for key, value in cursor}

    def marks_between(self, ranges: Iterable[tuple[int, int]]) -> dict[int, SegmentMark]:
        """The marks of the segments with ids in these ranges, ends included, read in one transaction."""
        return visibility.marks_between(self._environment, ranges)

    def states(self, entries: Sequence[Entry]) -> list[State | None]:
        """The state of each of these records; None: the index does not know it."""
        return visibility.states(self._environment, entries)

    def places_of_later(self, sop_instance_uid: bytes, stamp: int) -> list[tuple[int, int]]:
        """Segment and offset of each record of a UID that comes after the one with this stamp, or kills it."""
        return visibility.places_of_later(self._environment, sop_instance_uid, stamp)

    def current_records(self, sop_instance_uids: Sequence[bytes]) -> list[CurrentRecord | None]:
        """The current record of each of these UIDs."""
        return visibility.current_records(self._environment, sop_instance_uids)

    def correction(self, stamp: int) -> CorrectionStatus | None:
        """The correction with a stamp."""
        with self._environment.reading() as txn:
            return corrections.find_correction(txn, self._environment, stamp)

    def stats(self) -> dict[str, int]:
        """The counts of the index's contents, and the bytes of the log's records and of the index itself."""
        environment = self._environment
        marks = self.segment_marks().values()
        with environment.reading() as txn:
            return {
                "patients": txn.stat(environment.patients)["entries"],
                "studies": txn.stat(environment.studies)["entries"],
                "series": txn.stat(environment.series)["entries"],
                "instances": txn.stat(environment.instances)["entries"],
                "versions": read_count(txn, environment, keys.META_VERSIONS),
                "conflicts": read_count(txn, environment, keys.META_CONFLICTS),
                "deleted": read_count(txn, environment, keys.META_DELETED),
                "held_studies": read_count(txn, environment, keys.META_HELD),
                "corrections": read_count(txn, environment, keys.META_CORRECTIONS),
                "quarantined": read_count(txn, environment, keys.META_QUARANTINED),
                "trashed": read_count(txn, environment, keys.META_TRASHED),
                "trashed_bytes": read_count(txn, environment, keys.META_TRASHED_BYTES),
                "damaged": txn.stat(environment.damage)["entries"],
                "segments": txn.stat(environment.segments)["entries"],
                "live_bytes": sum(mark.live_bytes for mark in marks),
                "dead_bytes": sum(mark.dead_bytes for mark in marks),
                "index_bytes": environment.file_bytes(),
            }

    def _count(self, word: bytes) -> int:
        with self._environment.reading() as txn:
            return read_count(txn, self._environment, word)

    def reader_check(self) -> int:
        """Frees the reader slots of dead processes. Returns how many there were."""
        return self._environment.reader_check()

    def writing_process(self) -> Holder | None:
        """The other process that is writing the index now."""
        return self._environment.writer()

    @property
    def turn_path(self) -> str:
        """The file that every process which may write the index keeps open."""
        return turn_path(self._environment.directory)

    def describe_writer(self) -> str:
        """The process that is writing the index, as a sentence for people; "" if there is none."""
        holder = self._environment.writer()
        return "" if holder is None else f"the index is being written by {holder}"

    def run_writes_with(self, run: RunWrite) -> None:
        """Runs every write transaction of this handle through `run`, which calls its argument on any thread."""
        self._environment.run_write = run

    def epoch_id(self) -> bytes:
        """The epoch in which the ids of this index are valid; b"" if there is none."""
        return epoch_id.read(self._environment.directory, self._environment.files)

    def renew_epoch_id(self) -> None:
        """Begins a new epoch: ids given out before become invalid. Raises StorageFull or StorageFailed."""
        epoch_id.renew(self._environment.directory, self._environment.files)

    def last_commit(self) -> int:
        """The number of the last write transaction, of any process."""
        return self._environment.last_transaction_id()

    def is_durable(self, commit: int) -> bool:
        """Whether the effect of this write transaction survives a power cut."""
        saved = checkpoint_file.read_file(self._environment.directory, self._environment.files)
        return saved is not None and saved.kind != checkpoint_file.Kind.VOID and saved.transaction_id >= commit

    def close(self) -> None:
        """Closes the index for this process."""
        self._environment.close()


def _no_undo() -> None:
    """A failed transaction of single rows leaves nothing in a cache."""
