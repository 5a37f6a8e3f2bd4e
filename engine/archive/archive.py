"""Archive: all that a front end may call. One object per process; the roles differ in who recovers and checkpoints.

keeper   the only one that recovers, checkpoints and syncs what is written behind (see `archive.keeper`)
guest    a process beside a running keeper: a worker, or an import into a running archive
auto     keeper if nobody is, else guest; where nothing can be written, reader
reader   writes nothing at all (see `archive.readonly`)

Of a replica (see `archive.layout`) everybody only reads; `writer` gives a store that refuses.
"""

from __future__ import annotations

import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from engine import log
from engine.archive import extras, rebuilding
from engine.archive import layout as layouts
from engine.archive.ingest.batch import BatchIngestor
from engine.archive.ingest.request import ReceivedInstance
from engine.archive.ingest.resolver import VERSIONS_MAX
from engine.archive.ingest.writer import Writer
from engine.archive.keeper import Keeper, Progress
from engine.archive.lifecycle import deletion, holds
from engine.archive.lifecycle.deletion import Deletion
from engine.archive.lifecycle.ledger_copy import LEDGER_SEGMENT_BYTES
from engine.archive.metadata.blob_files import BlobFiles
from engine.archive.metadata.series_metadata import SeriesMetadata
from engine.archive.readonly import RefusingLog, RefusingWriter, UnwrittenIndex, is_unwritable, refuse
from engine.archive.register import Register
from engine.archive.retrieve import Retrieval
from engine.archive.selection import Selection
from engine.dicom import part10
from engine.dicom.extra import ExtraSet
from engine.dicom.schema import Schema
from engine.errors import (
    ArchiveInUse,
    EngineError,
    StorageError,
    StorageFailed,
    StorageFull,
)
from engine.index.catalog import Catalog
from engine.index.format.types import Instance, Level, Match, Named, Outcome, Query
from engine.index.query.explanation import Explanation
from engine.index.query.keywords import question
from engine.index.query.plan import UNIQUE
from engine.index.upkeep import rebuild
from engine.storage.files import Files
from engine.storage.reader import LogReader
from engine.storage.segment_log import SegmentLog

if TYPE_CHECKING:
    import pydicom
    from typing_extensions import Buffer

logger = log.get("archive")

METADATA_BYTES_MAX = 2 << 30
"""Of series metadata that is kept for HTTP: of some ten million instances."""

METADATA_RESERVE_BYTES = 4 << 30
"""What it leaves free on the disk: instances come first."""

PREPARE_S = 0.2
"""How long a start may prewrite its first segment."""

UIDS_AT_ONCE = 500
"""Of what a query matched, named in one retrieval: so many are looked up at a time."""


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """What a writing process wants of its log."""

    segment_bytes: int = 1 << 30
    disk_reserve_bytes: int = 0
    prewrite_bytes: int = 0
    versions_max: int = VERSIONS_MAX


class Archive:
    """One archive, opened by one process."""

    def __init__(self, layout: layouts.Layout, files: Files, index: Catalog, keeper: Keeper | None) -> None:
        self.layout = layout
        self.index = index
        self.keeper = keeper
        self.reader = LogReader(layout.segments, files)
        self.retrieval = Retrieval(index, self.reader)
        kept = BlobFiles(layout.metadata, bytes_max=METADATA_BYTES_MAX, reserve_bytes=METADATA_RESERVE_BYTES)
        self.metadata = SeriesMetadata(index, self.retrieval, kept)
        self.register = Register(layout, files) if keeper is None else keeper.register
        self.files = files
        self._store: Writer | None = None
        self._ledger: Writer | None = None
        self._ingesting = threading.Lock()
        self._batch_port: BatchIngestor | None = None
        self._unwritten: UnwrittenIndex | None = None

    @classmethod
    def open(
        cls,
        data: str | os.PathLike[str],
        *,
        role: str = "auto",
        create: bool = False,
        files: Files | None = None,
        sync_interval_s: float = 1.0,
        on_keeper_failure: Callable[[EngineError], None] | None = None,
        progress: Progress | None = None,
        extra_attributes: ExtraSet | None = None,
    ) -> Archive:
        """Opens `data` as "keeper", "guest", "reader" or "auto".

        The keeper may put other extra attributes in effect; all others, and it too without, take those of the archive.
        Raises StorageError when there is no archive and not `create`, ArchiveInUse when it must be keeper and is not.
        """
        files = files or Files()
        layout = layouts.open_layout(Path(data), files, create=create)
        chosen = extras.choose(layout, files, extra_attributes)
        schema = Schema(chosen)
        keeper: Keeper | None = None
        if role == "reader":
            return cls._read_only(layout, files, schema, progress)
        if role != "guest":
            try:
                keeper = Keeper(layout, files, progress, schema)
            except ArchiveInUse:
                if role == "keeper":
                    raise
            except StorageError as error:
                if role == "keeper" or not is_unwritable(error):
                    raise
                return cls._read_only(layout, files, schema, progress)
        if extra_attributes is not None:
            try:
                settled = extras.settle(layout, files, chosen, is_keeper=keeper is not None)
            except EngineError:
                if keeper is not None:
                    keeper.close()
                raise
            if keeper is not None and settled != chosen:
                keeper.close()
                keeper = Keeper(layout, files, progress, Schema(settled))
        if keeper is not None:
            archive = cls(layout, files, keeper.index, keeper)
            keeper.start(sync_interval_s, on_keeper_failure or archive._keeper_failed)
            return archive
        return cls(layout, files, Catalog.open(layout.index, files=files, schema=schema), None)

    @classmethod
    def _read_only(cls, layout: layouts.Layout, files: Files, schema: Schema, progress: Progress | None) -> Archive:
        unwritten = UnwrittenIndex(layout, files, schema, progress)
        archive = cls(layout, files, unwritten.index, None)
        archive._unwritten = unwritten
        return archive

    @property
    def schema(self) -> Schema:
        """Which attributes of its instances the archive keeps."""
        return self.index.schema

    @property
    def is_read_only(self) -> bool:
        """Whether it takes nothing in: no instance, no deletion, no compaction."""
        return self._unwritten is not None or self.layout.role == layouts.REPLICA

    @classmethod
    def rebuild_index(cls, data: Path, *, progress: Progress | None = None) -> rebuild.Report:
        """Throws the index of `data` away and makes it again from the log. Raises ArchiveInUse, StorageError."""
        return rebuilding.rebuild_index(data, progress=progress)

    def _keeper_failed(self, error: EngineError) -> None:
        logger.error("checkpoint failed", error=str(error))
        self._fail_stores(error)

    def _fail_stores(self, error: EngineError) -> None:
        """What is on the disk is unknown: this process stores and syncs no more."""
        for store in (self._store, self._ledger):
            if store is not None and isinstance(error, StorageFailed):
                store.log.fail(error)

    def recover_dead_writers(self) -> None:
        """Replays and seals the segments that dead guests left. For the keeper."""
        if self.keeper is None:
            raise ArchiveInUse("only the keeper recovers segments")
        self.keeper.recover_dead_writers()

    # -- in -------------------------------------------------------------------------------------

    def writer(self, label: str, options: StorageOptions | None = None) -> Writer:
        """This process's store, opened at the first call; `label` names the writer in its segments' headers."""
        if self._store is None and self.is_read_only:
            self._store = RefusingWriter(self.index, RefusingLog(self.layout, self.files), self.reader, self.layout)
        if self._store is None:
            options = options or StorageOptions()
            segment_log = SegmentLog(
                self.layout.segments,
                self.files,
                self.layout.archive_id,
                writer=label,
                segment_bytes=options.segment_bytes,
                reserve_bytes=options.disk_reserve_bytes,
                prewrite_bytes=options.prewrite_bytes,
            )
            self._store = Writer(self.index, segment_log, self.reader, versions_max=options.versions_max)
        return self._store

    def ledger(self) -> Writer:
        """This process's log of tombstones, holds and corrections, opened at first. Use it under `locks.ledger`.

        Apart from the one that ingests: the reserve of the disk does not hold for it, and another thread may use it.
        """
        if self.is_read_only:
            refuse(self.layout)
        if self._ledger is None:
            segment_log = SegmentLog(
                self.layout.segments,
                self.files,
                self.layout.archive_id,
                writer=f"ledger-{os.getpid()}",
                segment_bytes=LEDGER_SEGMENT_BYTES,
            )
            self._ledger = Writer(self.index, segment_log, self.reader)
        return self._ledger

    def prepare_writer(self) -> None:
        """Creates this process's first segment ahead, so that the first instance need not wait. Blocks."""
        if self._store is not None:
            try:
                self._store.log.prepare(PREPARE_S)
            except StorageFull as error:
                logger.warning("no segment could be prepared", error=str(error))

    def store(self, source: str | os.PathLike[str] | Buffer, *, policy: str = "keep-first") -> Outcome:
        """Stores one DICOM file, named by its path or given as its bytes; durable and visible when it returns.

        Raises InstanceRefused with the reason, StorageFull or StorageFailed. Whole folders, zip archives and media:
        `interchange.importer.import_paths`.
        """
        from engine.archive.interchange import importer, media

        return importer.store_item(self, media.item_of(source), policy=policy)

    def ingest_batch(
        self, items: Sequence[ReceivedInstance], *, policy: str = "keep-first"
    ) -> list[Outcome | EngineError]:
        """Stores whole instances; when it returns they are durable and visible. Blocks; for imports.

        One answer an item, in order: what became of it, or why it was refused.
        """
        return self._batches().ingest(items, policy=policy)

    def ingest_stream(
        self,
        chunks: Iterator[Buffer],
        *,
        transfer_syntax_uid: str,
        calling_ae_title: str = "",
        policy: str = "keep-first",
    ) -> Outcome:
        """Stores one object larger than memory, chunk by chunk; durable and visible when it returns.

        Raises InstanceRefused, StorageFull or StorageFailed.
        """
        return self._batches().ingest_stream(
            chunks, transfer_syntax_uid=transfer_syntax_uid, calling_ae_title=calling_ae_title, policy=policy
        )

    def _batches(self) -> BatchIngestor:
        with self._ingesting:
            if self._batch_port is None:
                self._batch_port = BatchIngestor(self.writer(f"import-{os.getpid()}"))
            return self._batch_port

    # -- out ------------------------------------------------------------------------------------

    def find(
        self,
        query: Query | str = "study",
        keys: Mapping[str, str] | None = None,
        *,
        limit: int | None = None,
        offset: int = 0,
        fuzzy: bool = False,
        explanation: Explanation | None = None,
        **named: str,
    ) -> Iterator[Match]:
        """Matches in a stable order. Holds no read transaction between pages. Raises QueryError.

        `query` is a Query, which says all, or a level ("patient", "study", "series", "instance"). With a level, keyword
        arguments are keys of C-FIND in plain strings (PatientName="DOE*"; "" only returns the attribute), and `keys`
        has those that no identifier can name ({"RequestAttributesSequence.RequestedProcedureID": "R7"}).
        """
        if isinstance(query, str):
            query = question(query, {**(keys or {}), **named}, self.schema, limit=limit, offset=offset, fuzzy=fuzzy)
        return self.index.search(query, explanation)

    def find_steps(self, query: Query, explanation: Explanation | None = None) -> Iterator[Match | None]:
        """As `find`, with a None where the search may be left for a while: for who has others to serve."""
        return self.index.search_steps(query, explanation)

    def instances(self, query: Query) -> list[Instance]:
        """Where the instances that a retrieval names lie, by series and instance number. Raises QueryError."""
        return self.index.instances(query)

    def matching(
        self, query: Query | str = "study", keys: Mapping[str, str] | None = None, **named: str
    ) -> Iterator[Instance]:
        """The instances of everything that matches, as `find` names it: of these studies, series, …; each once."""
        if isinstance(query, str):
            query = question(query, {**(keys or {}), **named}, self.schema)
        # PatientID alone does not tell patients apart; their studies do.
        query = replace(query, level=max(query.level, Level.STUDY))
        unique = UNIQUE[query.level]
        matches = self.find(replace(query, keys={unique: b"", **query.keys}))
        given: set[str] = set()
        while some := [match.attributes[unique] for match in itertools.islice(matches, UIDS_AT_ONCE)]:
            for instance in self.instances(replace(query, keys={unique: b"\\".join(some)})):
                if instance.sop_instance_uid not in given:
                    given.add(instance.sop_instance_uid)
                    yield instance

    def corrected(self, study_instance_uid: str, series_instance_uid: str) -> dict[int, bytes]:
        """What corrections set of a study and one of its series: tag → value in UTF-8, sequences in Explicit VR LE.

        b"": it is to have no value. Of attributes of patient, study and series only; empty, and quick, where nothing
        is corrected.
        """
        return self.index.corrected(study_instance_uid.encode(), series_instance_uid.encode())

    def select(self, query: Query) -> Selection:
        """The same in bounded memory, however many they are; `gather` reads them. Raises QueryError, StorageFull."""
        return Selection(self.index.select(query), Path(self.layout.index), at_once=False)

    def read(self, instance: Instance) -> bytes:
        """The stored data set, whole and checked. Raises CorruptRecord."""
        return self.retrieval.open(instance).whole()

    def pieces(self, instance: Instance) -> Iterator[memoryview]:
        """The same piece by piece; what is wrong raises before the last one. Each piece is overwritten by the next."""
        return self.retrieval.open(instance).pieces()

    def dataset(self, instance: Instance) -> pydicom.Dataset:
        """The stored data set as pydicom reads it, with its transfer syntax. Raises CorruptRecord."""
        import pydicom

        meta = part10.write_file_meta(instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
        return pydicom.dcmread(io.BytesIO(meta + self.read(instance)))

    # -- deleting -------------------------------------------------------------------------------

    def delete(self, query: Query, *, by: str, reason: str, dry_run: bool = False) -> Deletion:
        """Deletes what a retrieval with this query would name; gone for every process when it returns.

        Raises QueryError, DeletionRefused (something is on legal hold: nothing is deleted), StorageFull, StorageFailed.
        """
        return deletion.delete(
            self, lambda: self.index.names(query), level=query.level, by=by, reason=reason, dry_run=dry_run
        )

    def delete_instances(
        self, instances: Sequence[Instance], *, level: Level, by: str, reason: str, dry_run: bool = False
    ) -> Deletion:
        """The same for instances that have been chosen already, as whole studies, whole series, or one by one."""
        doomed = [Named.of(instance) for instance in instances]
        return deletion.delete(self, lambda: doomed, level=level, by=by, reason=reason, dry_run=dry_run)

    def set_holds(self, study_instance_uids: Sequence[str], *, by: str, reason: str) -> list[str]:
        """Puts studies on legal hold, there or not; those that were not yet. See `holds`."""
        return holds.change(self, study_instance_uids, is_set=True, by=by, reason=reason)

    def release_holds(self, study_instance_uids: Sequence[str], *, by: str, reason: str) -> list[str]:
        """Ends legal holds; those that were."""
        return holds.change(self, study_instance_uids, is_set=False, by=by, reason=reason)

    def stats(self) -> dict[str, int]:
        """Counts of patients, studies, series, instances and bytes."""
        return self.index.stats()

    def close(self) -> None:
        """Seals this process's log; a keeper also checkpoints and gives its lock up."""
        stores = [store for store in (self._store, self._ledger) if store is not None]
        if self.keeper is not None and self.keeper.failed is not None:
            self._fail_stores(self.keeper.failed)
        for store in stores:
            store.close()
        self.reader.close()
        if self.keeper is not None:
            # What a failed log has written is for the next start to judge: no checkpoint may say that it is safe.
            self.keeper.close(clean=all(store.log.failed is None for store in stores))
        elif self._unwritten is not None:
            self._unwritten.close()
        else:
            self.index.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
