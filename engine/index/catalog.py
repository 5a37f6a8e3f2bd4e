"""The catalogue: all that the rest of the engine may ask of the index, and tell it. Nothing of LMDB is seen from here.

Derived from the log and disposable: everything in here can be made again by `rebuild`. Any number of processes read
and write it at once, one writer at a time for tens of microseconds. Thread-safe. Open it after spawn: a forked child
that uses it is refused.

    before it is opened     `restore` brings its files to a state that may be opened; the keeper does that
    while it is open        `apply` makes records of the log visible; everything else is asked for
    what makes checkpoints  `checkpointer`; one for an index, in the keeper
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from engine.dicom.schema import STANDARD, Schema
from engine.errors import IndexError_
from engine.index.apply import bulk, overlay, reextract, relocation
from engine.index.apply.history import newest_stamp, read_kept
from engine.index.apply.versions import State as State
from engine.index.apply.writer import Writer
from engine.index.database.environment import MAP_BYTES, Environment, RunWrite
from engine.index.database.transactions import WriteTxn, present
from engine.index.database.turn import turn_path
from engine.index.format import keys
from engine.index.format.entry import Correction, Entry, Hold, LedgerItem, Quarantined, Tombstone
from engine.index.format.rows import decode_mark, read_count, scan_prefix
from engine.index.format.types import (
    Bookmark,
    DamageRow,
    Holder,
    Instance,
    Match,
    Named,
    Order,
    Outcome,
    Placed,
    Query,
    SegmentMark,
    SeriesRevision,
)
from engine.index.query import conflicts, corrections, ledger_records, listing, ordering, selection, visibility
from engine.index.query import search as searching
from engine.index.query.conflicts import Conflicting as Conflicting
from engine.index.query.corrections import Listed as Listed
from engine.index.query.explanation import Explanation
from engine.index.query.instances import instance_of, read_instance, read_versions
from engine.index.query.revision import read_revisions
from engine.index.query.snapshot import Snapshot as Snapshot
from engine.index.query.visibility import Current as Current
from engine.index.upkeep import audit, checkpoint_file, epoch_id, liveness, restoration
from engine.index.upkeep.checkpoint import Checkpointer
from engine.index.upkeep.guard import Guard
from engine.index.upkeep.restoration import Restored as Restored
from engine.storage.files import Files
from engine.storage.hints import Heads
from engine.storage.record import Position, Record

LOCATED_MAX = 4096
"""Instances that `locate` remembers: some 4 MB."""


class Catalog:
    """One process's handle of the index."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._writer = Writer(environment)
        self._located: tuple[int, dict[bytes, Instance]] = (-1, {})
        """The last commit, and what `locate` has found since."""

    @staticmethod
    def restore(directory: str, files: Files) -> Restored:
        """Brings the files of an index to a state that may be opened, after whatever end. For the keeper, before
        `open`.

        Raises IndexError_ or StorageError when the files cannot be read or written.
        """
        return restoration.restore(directory, files)

    @staticmethod
    def discard(directory: str, files: Files) -> None:
        """Throws an index away, to be made again from the log. Raises IndexError_ when it is in use."""
        restoration.discard(directory, files)

    @staticmethod
    def is_clean(directory: str, files: Files) -> bool:
        """Whether an index was closed cleanly and nobody has it open: it may be read and need not be changed."""
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
        """Opens the index of a directory, and creates it if there is none.

        Raises IndexError_ when it cannot be opened or is of another format. After a stop of the machine `restore` must
        have been called before.
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
        """Which attributes are kept, and how."""
        return self._environment.schema

    def checkpointer(self, sync_log: Callable[[], object], files: Files | None = None) -> Checkpointer:
        """What takes checkpoints from now on; make it before anything is written. `sync_log` makes durable whatever the
        log holds, and may be called by any thread. Raises IndexError_ when there is one already."""
        return Checkpointer(self._environment, files or self._environment.files, sync_log)

    # -- records become visible -------------------------------------------------------------------

    def apply(
        self,
        entries: Sequence[Entry],
        tombstones: Sequence[Tombstone] = (),
        marks: Mapping[int, SegmentMark] | None = None,
        covered: Mapping[int, int] | None = None,
        *,
        holds: Sequence[Hold] = (),
        quarantined: Sequence[Quarantined] = (),
        corrected: Sequence[Correction] = (),
    ) -> list[Outcome]:
        """Makes records of the log visible, all or none, in one transaction; one outcome an entry, in order.

        In any order and any number of times: the index comes to the same. A sealed mark says where the records of a
        segment end (`indexed_bytes`); `covered` that everything below an offset has been applied or is not there.
        Raises StorageFull, StorageFailed (final) or IndexError_.
        """
        return self._writer.apply(entries, tombstones, marks, covered, holds, quarantined, corrected)

    def try_apply(self, entries: Sequence[Entry]) -> list[Outcome] | None:
        """The same for instances and callers that must not wait: None when another thread or process has been writing
        for some milliseconds. Raises as `apply` does."""
        writer = self._writer
        done = writer.try_batch(lambda txn: [writer.add(txn, entry) for entry in entries])
        return None if done is None else done[0]

    def load(self, heads: Heads, start_offset: int) -> bulk.Loaded:
        """Applies a sealed segment from an offset on, some thousand records a transaction: see `bulk`.

        Raises as `apply` does, and CorruptRecord when the footer has not the heads that it says.
        """
        return bulk.load(self._writer, heads, start_offset)

    def locate(self, sop_instance_uid: bytes) -> Instance | None:
        """Where the current instance of a UID lies.

        Remembered until the next commit of any process: a viewer asks for thousands of frames of one slide.
        """
        environment = self._environment
        last_commit, located = self._located
        # A thread that was slower than a commit puts what it finds into the dictionary of its own commit.
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

    def known(self, sop_instance_uid: bytes) -> tuple[Instance | None, int]:
        """The current instance of a UID, and the stamp that a new record of it must be above to count.

        The stamp is not always that of the current instance: what was kept aside may be newer, and where there is none
        a deletion from before the clock was set back would kill what is stored now.
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

    def instances(self, query: Query) -> list[Instance]:
        """What a retrieval with these keys names: by series, Instance Number, UID. Raises QueryError."""
        return list(self.select(query))

    def select(self, query: Query) -> Iterator[Instance]:
        """The same one by one, in read transactions that end while a caller has one of them. Raises QueryError."""
        return selection.select(self._environment, query)

    def names(self, query: Query) -> list[Named]:
        """The same instances as a deletion needs to know them, in no order. Raises QueryError."""
        return selection.select_names(self._environment, query)

    def search(self, query: Query, explanation: Explanation | None = None) -> Iterator[Match]:
        """The matches of a query in a stable order, page by page; `explanation` is filled in on the way. Raises
        QueryError, at once and not at the first match."""
        return searching.search(self._environment, query, explanation)

    def search_steps(self, query: Query, explanation: Explanation | None = None) -> Iterator[Match | None]:
        """The same with a None wherever the search may be left for a while, for a caller who has others to serve."""
        return searching.search_steps(self._environment, query, explanation)

    def ordered_steps(
        self, query: Query, order: Order, after: Bookmark | None, explanation: Explanation, *, skip: int = 0
    ) -> Iterator[Placed | Bookmark | None]:
        """Studies that match in an order; see `query.ordering`. Raises QueryError."""
        return ordering.ordered_steps(self._environment, query, order, after, explanation, skip=skip)

    def bookmark_at(self, order: Order, text: str) -> Bookmark:
        """Where values begin that go on from a text. Raises QueryError."""
        return ordering.bookmark_at(order, text, self.schema)

    def versions(self, sop_instance_uid: bytes) -> list[Instance]:
        """The current instance of a UID and those kept aside, the oldest first."""
        return read_versions(self._environment, sop_instance_uid)

    def alike(self, sop_instance_uid: bytes, length: int, crc: int) -> list[Instance]:
        """What is kept aside of a UID with this length and checksum, the oldest first.

        Costs a look at the key of each version, and reads those that are alike.
        """
        environment = self._environment
        with environment.reading() as txn:
            records = list(read_kept(txn, environment, keys.bounded(sop_instance_uid), keys.tie_of(length, crc)))
        return [instance_of(told.entry(sop_instance_uid)) for told in records]

    def kept_count(self, sop_instance_uid: bytes) -> int:
        """How many versions of a UID are kept aside."""
        environment = self._environment
        with environment.reading() as txn:
            return sum(1 for _ in scan_prefix(txn, environment.versions, keys.bounded(sop_instance_uid) + b"\0"))

    def drops(self, sop_instance_uid: bytes, limit: int) -> list[Position]:
        """Where the tombstones lie that name one record of a UID each, the newest of the latest target first."""
        environment = self._environment
        positions: list[Position] = []
        with environment.reading() as txn:
            rows = list(scan_prefix(txn, environment.drops, keys.bounded(sop_instance_uid) + b"\0"))
            for row_key, _ in reversed(rows[-limit:]):
                _, stamp, segment_id, offset = keys.TOLD.unpack(row_key[-keys.TOLD.size :])
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
        """The revision of each series of a study, or of one of them; none if there is no such one."""
        return read_revisions(self._environment, study_instance_uid, series_instance_uid)

    # -- what is no current instance --------------------------------------------------------------

    def kept_aside(self) -> Iterator[Instance]:
        """Every version that is kept aside, page by page."""
        return listing.read_kept_aside(self._environment)

    def version_count(self) -> int:
        """How many versions are kept aside."""
        return self._count(keys.META_VERSIONS)

    def holds(self) -> list[Hold]:
        """The studies on legal hold, whether or not anything of them is stored."""
        return listing.read_holds(self._environment)

    def is_held(self, study_instance_uid: bytes) -> bool:
        """Whether a study is on legal hold."""
        return listing.is_held(self._environment, study_instance_uid)

    def hold_stamp(self, study_instance_uid: bytes) -> int:
        """The stamp that a new hold of a study, or its release, must be above to count."""
        environment = self._environment
        with environment.reading() as txn:
            return newest_stamp(txn, environment.holds, keys.bounded(study_instance_uid))

    def corrections(self) -> Iterator[Listed]:
        """Every correction and every undo, the earliest first, page by page."""
        return corrections.read_corrections(self._environment)

    def corrected(self, study_instance_uid: bytes, series_instance_uid: bytes) -> dict[int, bytes]:
        """What corrections set of a study and one of its series, in UTF-8; b"" where there is to be no value."""
        environment = self._environment
        with environment.reading() as txn:
            if not txn.stat(environment.corrections)["entries"]:
                return {}
            return overlay.corrected(txn, environment, study_instance_uid, series_instance_uid)

    def conflicts(self) -> Iterator[Conflicting]:
        """The studies and series whose instances disagree, and on what; page by page."""
        return conflicts.read_conflicts(self._environment)

    def quarantined(self) -> Iterator[Quarantined]:
        """What is in quarantine, page by page."""
        return listing.read_quarantined(self._environment)

    def quarantined_bytes(self) -> int:
        """What the quarantine takes in the log."""
        return self._count(keys.META_QUARANTINED_BYTES)

    def note_damage(self, segment_id: int, offset: int, sop_instance_uid: bytes, what: str, found_ns: int) -> None:
        """Keeps that a place in the log is not as it was written; a place has one note, the last."""
        uid = sop_instance_uid[:0xFFFF]
        row = keys.DAMAGE.pack(found_ns, len(uid)) + uid + what.encode("utf-8", "replace")
        table = self._environment.damage
        self._environment.write(lambda txn: txn.put(keys.PLACE.pack(segment_id, offset), row, db=table), _nothing)

    def damage(self) -> list[DamageRow]:
        """Known damage, by place."""
        return listing.read_damage(self._environment)

    def clear_damage(self, segment_id: int, offset: int) -> None:
        """Takes a note back."""
        table = self._environment.damage
        self._environment.write(lambda txn: txn.delete(keys.PLACE.pack(segment_id, offset), db=table), _nothing)

    # -- compaction -------------------------------------------------------------------------------

    def alive(self, segment_id: int, records: Sequence[Record], *, now_ns: int | None = None) -> list[bool]:
        """Which of these records, all of one segment, must survive its compaction: see `liveness`."""
        if any(record.position.segment_id != segment_id for record in records):
            raise IndexError_(f"not all of these records lie in segment {segment_id:016x}")
        with self._environment.reading() as txn:
            return liveness.alive(txn, self._environment, records, time.time_ns() if now_ns is None else now_ns)

    def relocate(self, moves: Sequence[tuple[Record, Position]]) -> int:
        """Tells that records have been copied: each counts where it lies now. Returns how many of them are news.

        Call it when the copies are durable, with some thousand at a time: it is one transaction. Idempotent. Raises as
        `apply` does.
        """
        return self._writer.batch(lambda txn: relocation.relocate(self._writer, txn, moves))

    def forget_segment(self, segment_id: int, records: Sequence[Record]) -> None:
        """Removes the mark of a segment whose file is gone, known damage in it, and the rows of its records.

        Without `records` (nobody can read them any more) all rows are looked at. Can be stopped and done again. Raises
        IndexError_ when something of it is alive.
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

        environment.write(end, _nothing)

    # -- attributes extracted anew ----------------------------------------------------------------

    def restate(self, entries: Sequence[Entry], segment_id: int, digest: bytes, amended_bytes: int) -> int:
        """Gives records of a segment the attributes that have been extracted anew (see `reextract`), and notes that
        everything before an offset is under the set of that digest. Returns how many of them said something else.

        One transaction: some hundred at a time. Idempotent. Raises as `apply` does.
        """

        def work(txn: WriteTxn) -> int:
            reextract.note(self._environment, txn, segment_id, digest, amended_bytes)
            return reextract.restate(self._writer, txn, entries)

        return self._writer.batch(work)

    def amended(self) -> dict[int, tuple[bytes, int]]:
        """For each segment the digest of the set of extra attributes that its records are under, and up to where."""
        return reextract.read_notes(self._environment)

    def drop_unsearched(self, count_max: int) -> bool:
        """Removes keys of attributes that are not searched any more; whether there may be more of them."""
        return self._writer.batch(lambda txn: reextract.drop_unsearched(self._environment, txn, count_max))

    # -- against the log --------------------------------------------------------------------------

    def current_instances(self) -> Iterator[Instance]:
        """Every current instance, by series, page by page."""
        return audit.current_instances(self._environment)

    def loose_rows(self) -> Iterator[list[tuple[Instance, str]]]:
        """The rows of instances that nothing leads to, and what is wrong; a list a page, often an empty one."""
        return audit.loose_rows(self._environment)

    def wrong_records(self, records: Sequence[Record]) -> list[tuple[Record, str]]:
        """Those of `records` that the index does not know at their positions, or knows otherwise; what is wrong."""
        return audit.wrong_records(self._environment, records)

    def tables_by_offset(self, segment_id: int) -> dict[int, str]:
        """Where records of a segment begin that are no current instances, and the table that knows each."""
        return audit.tables_by_offset(self._environment, segment_id)

    def knows(self, item: LedgerItem) -> bool:
        """Whether a tombstone, hold or correction has been applied, wherever it lies."""
        return ledger_records.is_known(self._environment, item)

    def would_change(self, item: LedgerItem) -> bool:
        """Whether a tombstone, hold or correction that the index does not know would change anything now."""
        return ledger_records.is_needed(self._environment, item)

    def ledger_places(self) -> Iterator[Position]:
        """Where each tombstone, hold and correction lies; of copies each."""
        return ledger_records.places(self._environment)

    # -- looking after ----------------------------------------------------------------------------

    def segment_marks(self) -> dict[int, SegmentMark]:
        """How far each segment is in the index, and how much of it is alive."""
        environment = self._environment
        with environment.reading() as txn, txn.cursor(db=environment.segments) as cursor:
            return {keys.U64_KEY.unpack(key)[0]: decode_mark(value) for key, value in cursor}

    def marks_between(self, ranges: Iterable[tuple[int, int]]) -> dict[int, SegmentMark]:
        """The marks of the segments with ids in these ranges, ends included; all as of one moment."""
        return visibility.marks_between(self._environment, ranges)

    def states(self, entries: Sequence[Entry]) -> list[State | None]:
        """What has become of each of these records; None: the index does not know it."""
        return visibility.states(self._environment, entries)

    def places_of_later(self, sop_instance_uid: bytes, stamp: int) -> list[tuple[int, int]]:
        """Where the records of a UID lie that come after one of this stamp, or kill it: segment and offset of each."""
        return visibility.places_of_later(self._environment, sop_instance_uid, stamp)

    def currents(self, sop_instance_uids: Sequence[bytes]) -> list[Current | None]:
        """The current record of each of these UIDs."""
        return visibility.currents(self._environment, sop_instance_uids)

    def correction(self, stamp: int) -> Listed | None:
        """The correction of a stamp."""
        with self._environment.reading() as txn:
            return corrections.find_correction(txn, self._environment, stamp)

    def stats(self) -> dict[str, int]:
        """Counts of what the index holds, and bytes of what it points to and of itself."""
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
        """Frees what dead processes hold; returns how many readers they were."""
        return self._environment.reader_check()

    def writing_process(self) -> Holder | None:
        """The other process that writes the index just now."""
        return self._environment.writer()

    @property
    def turn_path(self) -> str:
        """The file that every process which may write the index has open."""
        return turn_path(self._environment.directory)

    def who_writes(self) -> str:
        """The same in words; "" when none does."""
        holder = self._environment.writer()
        return "" if holder is None else f"the index is being written by {holder}"

    def write_by(self, run: RunWrite) -> None:
        """Has every write transaction of this handle run by `run`, which calls what it is given, on any thread."""
        self._environment.run_write = run

    def epoch_id(self) -> bytes:
        """What tells ids of this index from those of another, or of another time; b"" when nothing does."""
        return epoch_id.read(self._environment.directory, self._environment.files)

    def renew_epoch_id(self) -> None:
        """Ids that have been given away mean nothing any more. Raises StorageFull or StorageFailed."""
        epoch_id.renew(self._environment.directory, self._environment.files)

    def last_commit(self) -> int:
        """The number of the last write transaction, of any process."""
        return self._environment.last_transaction_id()

    def is_safe(self, commit: int) -> bool:
        """Whether a state of the index that has this write transaction survives a power cut."""
        saved = checkpoint_file.read_file(self._environment.directory, self._environment.files)
        return saved is not None and saved.kind != checkpoint_file.Kind.VOID and saved.transaction_id >= commit

    def close(self) -> None:
        """Ends all use by this process."""
        self._environment.close()


def _nothing() -> None:
    """After a failed transaction of one row there is nothing to forget."""
