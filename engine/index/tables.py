"""Index: what the rest of the engine may ask of the index. One handle a process; the work is done in its neighbours.

Derived from the log and disposable: everything in here can be made again by `rebuild`. Any number of processes read
and write it at once, one writer at a time for tens of microseconds. Thread-safe. Open it after spawn: a forked child
that uses it is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from engine.dicom import tags
from engine.dicom.elements import blob_items
from engine.index import checkpoint, keys
from engine.index.entry import Entry, Tombstone
from engine.index.environment import MAP_BYTES, Environment
from engine.index.fold import State, read_history
from engine.index.rows import decode_mark, read_count
from engine.index.search import read_instance, search, select
from engine.index.types import Instance, Match, Outcome, Query, SegmentMark
from engine.index.writer import Writer
from engine.storage.files import Files


class Index:
    """One process's handle of the index."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._writer = Writer(environment)

    @classmethod
    def open(
        cls, directory: str, *, read_only: bool = False, map_bytes: int = MAP_BYTES, files: Files | None = None
    ) -> Index:
        """Opens the index of a directory, and creates it if there is none.

        Raises IndexError_ when it cannot be opened or is of another format. After a stop of the machine
        `checkpoint.restore` must have been called before.
        """
        files = files or Files()
        environment = Environment(directory, files, read_only=read_only, map_bytes=map_bytes)
        if not read_only:
            environment.guard = checkpoint.Guard(directory, files)
        return cls(environment)

    def apply(
        self,
        entries: Sequence[Entry],
        tombstones: Sequence[Tombstone] = (),
        marks: Mapping[int, SegmentMark] | None = None,
        covered: Mapping[int, int] | None = None,
    ) -> list[Outcome]:
        """Makes records of the log visible, all or none, in one transaction; one outcome an entry, in order.

        In any order and any number of times: the index comes to the same. A sealed mark says where the records of a
        segment end (`indexed_bytes`); `covered` that everything below an offset has been applied or is not there.
        Raises StorageFull, StorageFailed (final) or IndexError_.
        """
        return self._writer.apply(entries, tombstones, marks, covered)

    def locate(self, sop_instance_uid: bytes) -> Instance | None:
        """Where the current instance of a UID lies."""
        environment = self.environment
        sop_key = keys.bounded(sop_instance_uid)
        with environment.reading() as txn:
            where = txn.get(sop_key, db=environment.sop_uids)
            if not where:
                return None
            return read_instance(txn, environment, where, txn.get(where, db=environment.instances))

    def instances(self, query: Query) -> list[Instance]:
        """What a retrieval with these keys names: by series, Instance Number, UID. Raises QueryError."""
        return select(self.environment, query)

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
            for told in read_history(txn, environment, sop_key):
                if told.state == State.VERSION:
                    found.append(_instance_of(told.entry(sop_instance_uid)))
        return sorted(found, key=lambda item: (item.stamp, item.position))

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
                "segments": txn.stat(environment.segments)["entries"],
                "live_bytes": sum(mark.live_bytes for mark in marks),
                "dead_bytes": sum(mark.dead_bytes for mark in marks),
                "index_bytes": environment.file_bytes(),
            }

    def reader_check(self) -> int:
        """Frees what dead processes hold; returns how many readers they were. For the keeper."""
        return self.environment.reader_check()

    def close(self) -> None:
        """Ends all use by this process."""
        self.environment.close()


def _instance_of(entry: Entry) -> Instance:
    study = blob_items(entry.study).get(tags.StudyInstanceUID, b"")
    series = blob_items(entry.series).get(tags.SeriesInstanceUID, b"")
    return Instance(
        entry.position,
        entry.stamp,
        entry.sop_class_uid.decode("utf-8", "replace"),
        entry.sop_instance_uid.decode("utf-8", "replace"),
        entry.transfer_syntax_uid.decode("utf-8", "replace"),
        study.decode("utf-8", "replace"),
        series.decode("utf-8", "replace"),
        entry.pixel_data_offset,
        entry.calling_ae_title.decode("utf-8", "replace"),
        entry.received_ns,
        entry.instance,
        entry.character_set,
    )
