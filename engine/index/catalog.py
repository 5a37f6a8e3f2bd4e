"""Catalog: what the rest of the engine may ask of the index. One handle a process; the work is done in its neighbours.

Derived from the log and disposable: everything in here can be made again by `rebuild`. Any number of processes read
and write it at once, one writer at a time for tens of microseconds. Thread-safe. Open it after spawn: a forked child
that uses it is refused.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from engine.dicom.schema import STANDARD, Schema
from engine.errors import IndexError_
from engine.index.apply import bulk, corrections, overlay, reextract, relocation
from engine.index.apply.history import newest_stamp, read_kept
from engine.index.apply.writer import Writer
from engine.index.database.environment import MAP_BYTES, Environment
from engine.index.format import keys
from engine.index.format.entry import Correction, Entry, Hold, Quarantined, Tombstone
from engine.index.format.rows import decode_mark, read_count, scan_prefix
from engine.index.format.types import DamageRow, Instance, Match, Named, Outcome, Query, SegmentMark
from engine.index.query import conflicts, listing
from engine.index.query.listing import instance_of
from engine.index.query.search import read_instance, search, select, select_names
from engine.index.upkeep import checkpoint, epoch_id, liveness
from engine.storage.files import Files
from engine.storage.hints import Heads
from engine.storage.record import Position, Record


class Catalog:
    """One process's handle of the index."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._writer = Writer(environment)

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

        Raises IndexError_ when it cannot be opened or is of another format. After a stop of the machine
        `checkpoint.restore` must have been called before.
        """
        files = files or Files()
        environment = Environment(directory, files, read_only=read_only, map_bytes=map_bytes, schema=schema)
        if not read_only:
            try:
                environment.guard = checkpoint.Guard(directory, files)
            except OSError as error:
                environment.close()
                raise IndexError_(f"the index in {directory} cannot be opened: {error}") from error
        return cls(environment)

    @property
    def schema(self) -> Schema:
        """Which attributes are kept, and how."""
        return self.environment.schema

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
        """The same for instances, by who must not wait: None when another thread or process has been writing for some
        milliseconds. Raises as `apply` does."""
        writer = self._writer
        done = writer.try_batch(lambda txn: [writer.add(txn, entry) for entry in entries])
        return None if done is None else done[0]

    def load(self, heads: Heads, start_offset: int) -> bulk.Loaded:
        """Applies a sealed segment from an offset on, some thousand records a transaction: see `bulk`.

        Raises as `apply` does, and CorruptRecord when the footer has not the heads that it says.
        """
        return bulk.load(self._writer, heads, start_offset)

    def locate(self, sop_instance_uid: bytes) -> Instance | None:
        """Where the current instance of a UID lies."""
        environment = self.environment
        sop_key = keys.bounded(sop_instance_uid)
        with environment.reading() as txn:
            where = txn.get(sop_key, db=environment.sop_uids)
            if not where:
                return None
            return read_instance(txn, environment, where, txn.get(where, db=environment.instances))

    def known(self, sop_instance_uid: bytes) -> tuple[Instance | None, int]:
        """The current instance of a UID, and the stamp that a new record of it must be above to count.

        The stamp is not always that of the current instance: what was kept aside may be newer, and where there is none
        a deletion from before the clock was set back would kill what is stored now.
        """
        environment = self.environment
        sop_key = keys.bounded(sop_instance_uid)
        with environment.reading() as txn:
            where = txn.get(sop_key, db=environment.sop_uids)
            if where is None:
                return None, 0
            if not where:
                return None, newest_stamp(txn, environment.history, sop_key)
            current = read_instance(txn, environment, where, txn.get(where, db=environment.instances))
            return current, max(current.stamp, newest_stamp(txn, environment.history, sop_key))

    def instances(self, query: Query) -> list[Instance]:
        """What a retrieval with these keys names: by series, Instance Number, UID. Raises QueryError."""
        return list(select(self.environment, query))

    def select(self, query: Query) -> Iterator[Instance]:
        """The same one by one, in read transactions that end while a caller has one of them. Raises QueryError."""
        return select(self.environment, query)

    def names(self, query: Query) -> list[Named]:
        """The same instances as a deletion needs to know them, in no order. Raises QueryError."""
        return select_names(self.environment, query)

    def search(self, query: Query) -> Iterator[Match]:
        """The matches of a query in a stable order, page by page. Raises QueryError at once."""
        return search(self, query)

    def versions(self, sop_instance_uid: bytes) -> list[Instance]:
        """The current instance of a UID and those kept aside, the oldest first."""
        environment = self.environment
        sop_key = keys.bounded(sop_instance_uid)
        with environment.reading() as txn:
            found = []
            where = txn.get(sop_key, db=environment.sop_uids)
            if where:
                found.append(read_instance(txn, environment, where, txn.get(where, db=environment.instances)))
            found += [instance_of(told.entry(sop_instance_uid)) for told in read_kept(txn, environment, sop_key)]
        return sorted(found, key=lambda item: (item.stamp, item.position))

    def alike(self, sop_instance_uid: bytes, length: int, crc: int) -> list[Instance]:
        """What is kept aside of a UID with this length and checksum, the oldest first.

        Costs a look at the key of each version, and reads those that are alike.
        """
        environment = self.environment
        with environment.reading() as txn:
            kept = list(read_kept(txn, environment, keys.bounded(sop_instance_uid), keys.tie_of(length, crc)))
        return [instance_of(told.entry(sop_instance_uid)) for told in kept]

    def kept_count(self, sop_instance_uid: bytes) -> int:
        """How many versions of a UID are kept aside."""
        environment = self.environment
        with environment.reading() as txn:
            return sum(1 for _ in scan_prefix(txn, environment.versions, keys.bounded(sop_instance_uid) + b"\0"))

    def drops(self, sop_instance_uid: bytes, limit: int) -> list[Position]:
        """Where the tombstones lie that name one record of a UID each, the newest of the latest target first."""
        environment = self.environment
        found: list[Position] = []
        with environment.reading() as txn:
            rows = list(scan_prefix(txn, environment.drops, keys.bounded(sop_instance_uid) + b"\0"))
            for row_key, _ in reversed(rows[-limit:]):
                _, stamp, segment_id, offset = keys.TOLD.unpack(row_key[-keys.TOLD.size :])
                place = keys.PLACE.pack(segment_id, offset)
                for key, value in scan_prefix(txn, environment.tombstones, stamp.to_bytes(8, "big")):
                    if key.endswith(place):
                        _, meta_length, key_length, _ = keys.TOMBSTONE.unpack(value)
                        found.append(Position(segment_id, offset, key_length, meta_length, 0, 0))
        return found

    # -- what is no current instance --------------------------------------------------------------

    def kept_aside(self) -> Iterator[Instance]:
        """Every version that is kept aside, page by page."""
        return listing.read_kept_aside(self.environment)

    def version_count(self) -> int:
        """How many versions are kept aside."""
        return self._count(keys.META_VERSIONS)

    def holds(self) -> list[Hold]:
        """The studies on legal hold, whether or not anything of them is stored."""
        return listing.read_holds(self.environment)

    def is_held(self, study_instance_uid: bytes) -> bool:
        """Whether a study is on legal hold."""
        return listing.is_held(self.environment, study_instance_uid)

    def hold_stamp(self, study_instance_uid: bytes) -> int:
        """The stamp that a new hold of a study, or its release, must be above to count."""
        environment = self.environment
        with environment.reading() as txn:
            return newest_stamp(txn, environment.holds, keys.bounded(study_instance_uid))

    def corrections(self) -> Iterator[corrections.Listed]:
        """Every correction and every undo, the earliest first, page by page."""
        return corrections.read_corrections(self.environment)

    def corrected(self, study_instance_uid: bytes, series_instance_uid: bytes) -> dict[int, bytes]:
        """What corrections set of a study and one of its series, in UTF-8; b"" where there is to be no value."""
        environment = self.environment
        with environment.reading() as txn:
            if not txn.stat(environment.corrections)["entries"]:
                return {}
            return overlay.corrected(txn, environment, study_instance_uid, series_instance_uid)

    def conflicts(self) -> Iterator[conflicts.Conflicting]:
        """The studies and series whose instances disagree, and on what; page by page."""
        return conflicts.read_conflicts(self.environment)

    def quarantined(self) -> Iterator[Quarantined]:
        """What is in quarantine, page by page."""
        return listing.read_quarantined(self.environment)

    def quarantined_bytes(self) -> int:
        """What the quarantine takes in the log."""
        return self._count(keys.META_QUARANTINED_BYTES)

    def note_damage(self, segment_id: int, offset: int, sop_instance_uid: bytes, what: str, found_ns: int) -> None:
        """Keeps that a place in the log is not as it was written; a place has one note, the last."""
        uid = sop_instance_uid[:0xFFFF]
        row = keys.DAMAGE.pack(found_ns, len(uid)) + uid + what.encode("utf-8", "replace")
        table = self.environment.damage
        self.environment.write(lambda txn: txn.put(keys.PLACE.pack(segment_id, offset), row, db=table), _nothing)

    def damage(self) -> list[DamageRow]:
        """Known damage, by place."""
        return listing.read_damage(self.environment)

    def clear_damage(self, segment_id: int, offset: int) -> None:
        """Takes a note back."""
        table = self.environment.damage
        self.environment.write(lambda txn: txn.delete(keys.PLACE.pack(segment_id, offset), db=table), _nothing)

    # -- compaction -------------------------------------------------------------------------------

    def alive(self, segment_id: int, records: Sequence[Record], *, now_ns: int | None = None) -> list[bool]:
        """Which of these records, all of one segment, must survive its compaction: see `liveness`."""
        if any(record.position.segment_id != segment_id for record in records):
            raise IndexError_(f"not all of these records lie in segment {segment_id:016x}")
        with self.environment.reading() as txn:
            return liveness.alive(txn, self.environment, records, time.time_ns() if now_ns is None else now_ns)

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
        environment = self.environment
        relocation.check_dead(environment, segment_id)
        rows = relocation.rows_of(records) if records else relocation.rows_in(environment, segment_id)
        for at in range(0, len(rows), relocation.PAGE):
            self._writer.batch(partial(relocation.forget_rows, self._writer, rows[at : at + relocation.PAGE]))

        def end(txn: Any) -> None:
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

        def work(txn: Any) -> int:
            reextract.note(self.environment, txn, segment_id, digest, amended_bytes)
            return reextract.restate(self._writer, txn, entries)

        return self._writer.batch(work)

    def amended(self) -> dict[int, tuple[bytes, int]]:
        """For each segment the digest of the set of extra attributes that its records are under, and up to where."""
        return reextract.read_notes(self.environment)

    def drop_unsearched(self, count_max: int) -> bool:
        """Removes keys of attributes that are not searched any more; whether there may be more of them."""
        return self._writer.batch(lambda txn: reextract.drop_unsearched(self.environment, txn, count_max))

    # -- looking after ----------------------------------------------------------------------------

    def segment_marks(self) -> dict[int, SegmentMark]:
        """How far each segment is in the index, and how much of it is alive."""
        environment = self.environment
        with environment.reading() as txn, txn.cursor(db=environment.segments) as cursor:
            return {keys.U64_KEY.unpack(key)[0]: decode_mark(value) for key, value in cursor}

    def stats(self) -> dict[str, int]:
        """Counts of what the index holds, and bytes of what it points to and of itself."""
        environment = self.environment
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
        with self.environment.reading() as txn:
            return read_count(txn, self.environment, word)

    def reader_check(self) -> int:
        """Frees what dead processes hold; returns how many readers they were."""
        return self.environment.reader_check()

    def who_writes(self) -> str:
        """Which other process writes the index just now, and since when; "" when none does."""
        holder = self.environment.writer()
        return "" if holder is None else f"the index is being written by {holder}"

    def lifetime(self) -> bytes:
        """What tells ids of this index from those of another, or of another time; b"" when nothing does."""
        return epoch_id.read(self.environment.directory, self.environment.files)

    def close(self) -> None:
        """Ends all use by this process."""
        self.environment.close()


def _nothing() -> None:
    """After a failed transaction of one row there is nothing to forget."""
