"""`Archive`, the façade for front ends. A process has one; its role decides whether it recovers and checkpoints.

keeper   the only one that recovers, checkpoints and syncs what was written behind (see `archive.keeper`)
guest    a process beside a running keeper: a worker, or an import into a running archive
auto     keeper if there is none, else guest; reader if the archive cannot be written
reader   writes nothing at all (see `archive.readonly`)

Every process only reads a replica (see `archive.layout`): its `writer` refuses each instance.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import log
from engine.access.principal import Principal
from engine.access.scope import FULL, Scope
from engine.archive import extras, locks, rebuilding
from engine.archive import layout as layouts
from engine.archive.commitment.requests import CommitmentRequests
from engine.archive.commitment.transactions import Transactions
from engine.archive.copies import backup_notes, lag
from engine.archive.exports import ExportFiles
from engine.archive.feed.destinations import OUTBOX, SUBSCRIPTIONS, Destinations
from engine.archive.feed.layout import directory_of
from engine.archive.feed.study_states import StudyStates
from engine.archive.feed.subscription import Feed, Watch
from engine.archive.feed.writer import FeedOptions, FeedWriter, switch_off
from engine.archive.ingest.batch import BatchIngestor
from engine.archive.ingest.live import Ingestor
from engine.archive.ingest.resolver import VERSIONS_MAX
from engine.archive.ingest.second_copy import SecondCopies
from engine.archive.ingest.unparseable import QuarantineLimits as QuarantineLimits
from engine.archive.ingest.unparseable import Unparseable
from engine.archive.ingest.writer import Writer
from engine.archive.jobs.job_files import JobFiles
from engine.archive.keeper import Keeper, Progress
from engine.archive.lifecycle import deletion, holds, losses, reserve_file, shredding, trash
from engine.archive.lifecycle.deletion import Deletion
from engine.archive.lifecycle.losses import Loss
from engine.archive.lifecycle.shredding import Shredded
from engine.archive.lifecycle.trash import Settled
from engine.archive.metadata.blob_files import BlobFiles
from engine.archive.metadata.series_metadata import SeriesMetadata
from engine.archive.nodes.membership import Membership
from engine.archive.part_view import PartView
from engine.archive.parts import Parts
from engine.archive.readonly import RefusingLog, RefusingWriter, UnwrittenIndex, is_unwritable
from engine.archive.settings import SecondCopySettings
from engine.archive.stats_history import StatsHistory
from engine.archive.study_facts import StudyFacts, study_facts
from engine.archive.subscriptions import SubscriptionFiles
from engine.archive.survey import Survey as Survey
from engine.archive.survey import survey
from engine.archive.unlocking import let_go, require_encryption, unlock, use_study_keys
from engine.archive.view import View
from engine.archive.writer_watch import WriterWatch
from engine.dicom.extra import ExtraSet
from engine.dicom.schema import Schema
from engine.errors import ArchiveInUse, EngineError, StorageError, StorageFailed, StorageFull, for_log
from engine.index.catalog import Catalog
from engine.index.format.types import (
    Instance,
    InstanceIdentifiers,
    Level,
    Outcome,
    Query,
)
from engine.index.upkeep import rebuild
from engine.storage.files import Files, replace_file

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import Buffer

    from engine.archive.ingest.request import ReceivedInstance
    from engine.index.format.types import DamageRow
    from engine.storage.segment_store import SegmentStore

logger = log.get("archive")

METADATA_BYTES_MAX = 2 << 30
"""Limit of the cached series metadata for HTTP: room for some ten million instances."""

THUMBNAILS_BYTES_MAX = 2 << 30
"""Limit of the cached thumbnails: room for some 300 000 series."""

METADATA_RESERVE_BYTES = 4 << 30
"""Disk space that both caches leave free: instances come first."""

PREPARE_S = 0.2
"""How long a start may prewrite its first segment."""


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How a process writes its log."""

    segment_bytes: int = 1 << 30
    disk_reserve_bytes: int = 0
    prewrite_bytes: int = 0
    versions_max: int = VERSIONS_MAX


class Archive(View):
    """One archive, opened by one process: the view of everything, and all that changes it."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts, FULL)
        layout = parts.layout
        cache = partial(BlobFiles, reserve_bytes=METADATA_RESERVE_BYTES, sealing=layout.sealing)
        blob_files = cache(layout.metadata, bytes_max=METADATA_BYTES_MAX)
        self.metadata = SeriesMetadata(parts.index, parts.retrieval, blob_files)
        self.thumbnail_files = cache(layout.thumbnails, bytes_max=THUMBNAILS_BYTES_MAX)
        self._writer: Writer | None = None
        self._batch_port: BatchIngestor | None = None
        self._opening = threading.Lock()

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
        must_encrypt: bool = False,
        elsewhere: SegmentStore | None = None,
        study_keys: bool | None = None,
    ) -> Archive:
        """Opens `data` as "keeper", "guest", "reader" or "auto".

        `extra_attributes`: a keeper puts them in effect. Without them, and in other roles, the archive's own apply.
        `must_encrypt`: refuse an archive that does not encrypt new records. `study_keys`: whether each study that comes
        gets a key of its own; None: as it was. `elsewhere`: has sealed segments that are not on this machine; None:
        the archive's object store.
        Raises StorageError if there is no archive and not `create`, KeyStoreError before anything is written if it is
        encrypted and cannot be unlocked, ArchiveInUse for a second keeper.
        """
        files = files or Files()
        layout = unlock(layouts.open_layout(Path(data), files, create=create), files)
        if elsewhere is not None:
            layout = replace(layout, elsewhere=elsewhere)
        if must_encrypt:
            require_encryption(layout)
        if study_keys is not None and layout.role == layouts.ARCHIVE:
            layout = use_study_keys(layout, files, study_keys)
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
            archive = cls(Parts(layout, files, keeper.index, keeper))
            keeper.start(sync_interval_s, on_keeper_failure or archive._keeper_failed)
            return archive
        return cls(Parts(layout, files, Catalog.open(layout.index, files=files, schema=schema)))

    @classmethod
    def _read_only(cls, layout: layouts.Layout, files: Files, schema: Schema, progress: Progress | None) -> Archive:
        unwritten = UnwrittenIndex(layout, files, schema, progress)
        return cls(Parts(layout, files, unwritten.index, unwritten=unwritten))

    def view(self, scope: Scope) -> View:
        """The archive as somebody with this scope sees it."""
        if scope is FULL:
            return self
        series = scope.series
        return View(self.parts, scope) if series is None else PartView(self.parts, scope, series)

    @property
    def is_read_only(self) -> bool:
        """Whether it refuses every change: instances, deletions, compaction."""
        return self.parts.is_read_only

    @property
    def is_keeper(self) -> bool:
        """Whether this process keeps the archive."""
        return self.parts.keeper is not None

    @property
    def membership(self) -> Membership | None:
        """The cluster that this archive is a node of; None: it has one node."""
        return self.parts.layout.membership

    def applied_of_nodes(self) -> dict[int, int]:
        """How far this node has applied the logs of the others: the number of the last group of each slot."""
        return self.parts.index.position()

    def catch_up(self) -> None:
        """Returns when this node knows what any node has acknowledged until now. Blocks.

        Raises ClusterUnreachable, or CatalogBehind when that takes too long.
        """
        if (membership := self.membership) is not None:
            membership.catch_up(self.parts.index)

    @property
    def is_new(self) -> bool:
        """Whether this process has created it."""
        return self.parts.layout.is_new

    @property
    def scratch_folder(self) -> Path:
        """A folder for temporary files of this process."""
        return Path(tempfile.gettempdir()) if self.is_read_only else Path(self.parts.layout.index)

    @classmethod
    def rebuild_index(
        cls, data: Path, *, progress: Progress | None = None, elsewhere: SegmentStore | None = None
    ) -> rebuild.Report:
        """Discards the index of `data` and makes a new one from the log. Raises ArchiveInUse, StorageError."""
        return rebuilding.rebuild_index(data, progress=progress, elsewhere=elsewhere)

    def _keeper_failed(self, error: EngineError) -> None:
        logger.error("checkpoint failed", error=for_log(error))
        self._fail_stores(error)

    def _fail_stores(self, error: EngineError) -> None:
        """After a failed write or sync the state of the disk is unknown: this process stores and syncs no more."""
        if isinstance(error, StorageFailed):
            if self._writer is not None:
                self._writer.log.fail(error)
            self.parts.ledger.fail(error)

    def recover_dead_writers(self) -> None:
        """Replays and seals the segments that dead guests left. For the keeper."""
        if self.parts.keeper is None:
            raise ArchiveInUse("only the keeper recovers segments")
        self.parts.keeper.recover_dead_writers()

    # -- ingest ---------------------------------------------------------------------------------

    def writer(self, label: str, options: StorageOptions | None = None) -> Writer:
        """This process's writer, opened at the first call; `label` names it in its segments' headers."""
        parts = self.parts
        if self._writer is None and self.is_read_only:
            refusing = RefusingLog(parts.layout, parts.files)
            self._writer = RefusingWriter(parts.index, refusing, parts.reader, parts.layout)
        if self._writer is None:
            options = options or StorageOptions()
            segment_log = parts.layout.segment_log(
                parts.files,
                label,
                segment_bytes=options.segment_bytes,
                reserve_bytes=options.disk_reserve_bytes,
                prewrite_bytes=options.prewrite_bytes,
            )
            self._writer = Writer(parts.index, segment_log, parts.reader, versions_max=options.versions_max)
        return self._writer

    def live_port(
        self,
        loop: asyncio.AbstractEventLoop,
        label: str,
        options: StorageOptions,
        on_failure: Callable[[EngineError], None],
        *,
        quarantine: QuarantineLimits | None = None,
        counters: MutableMapping[str, int] | None = None,
        second_copy: Callable[[], SecondCopySettings] = SecondCopySettings,
    ) -> Ingestor:
        """The ingest port of a server on `loop`; a process has one. `label`, `options`: as for `writer`.

        `on_failure` is called after a failed write or sync, which is final. With `quarantine`, data sets that are no
        instances are kept within these limits, and counted in `counters`. `second_copy`: the settings in force.
        """
        unparseable = Unparseable(self.parts.index, quarantine, counters) if quarantine is not None else None
        counters = {} if counters is None else counters
        copies = SecondCopies(loop, self.parts.layout.data, second_copy, counters)
        return Ingestor(loop, self.writer(label, options), on_failure, unparseable, copies)

    def prepare_writer(self) -> None:
        """Creates this process's first segment ahead, so that the first instance need not wait. Blocks."""
        if self._writer is not None:
            try:
                self._writer.log.prepare(PREPARE_S)
            except StorageFull as error:
                logger.warning("no segment could be prepared", error=for_log(error))

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

        One answer an item, in order: its outcome, or why it was refused.
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
        with self._opening:
            if self._batch_port is None:
                self._batch_port = BatchIngestor(self.writer(f"import-{os.getpid()}"))
            return self._batch_port

    @property
    def secret(self) -> bytes:
        """A secret that all processes of this archive share, to derive values that nobody can guess."""
        return self.parts.layout.archive_id

    def note_reads(self, studies: Iterable[str]) -> None:
        """Notes that these studies are read now, for the rules of tiers. For a thread that may wait for the disk."""
        if not self.is_read_only:
            self.parts.last_reads.note(studies)

    def study_facts(self, study_instance_uid: str) -> StudyFacts:
        """Whose a study is, for the audit log."""
        return study_facts(self.parts.index, study_instance_uid)

    # -- deleting -------------------------------------------------------------------------------

    def delete(
        self,
        query: Query,
        *,
        scope: Scope = FULL,
        actor: Principal,
        reason: str,
        dry_run: bool = False,
        into_trash: bool = False,
        among: Collection[bytes] | None = None,
    ) -> Deletion:
        """Deletes what a retrieval with this query would name in a scope; gone for every process when it returns.

        `into_trash`: it can be taken back (`lifecycle.trash`). `among`: only these SOP Instance UIDs.
        Raises QueryError, DeletionRefused (something is on legal hold: nothing is deleted), StorageFull, StorageFailed.
        """

        def choose() -> Sequence[InstanceIdentifiers]:
            named = self.parts.index.identifiers(query, scope)
            return named if among is None else [each for each in named if each.sop_instance_uid in among]

        work = trash.put if into_trash else deletion.delete
        return work(
            self.parts,
            choose,
            level=query.level,
            actor=actor,
            reason=reason,
            dry_run=dry_run,
        )

    def delete_instances(
        self,
        instances: Sequence[Instance],
        *,
        level: Level,
        actor: Principal,
        reason: str,
        dry_run: bool = False,
        into_trash: bool = False,
        must_shred: bool = False,
    ) -> Deletion:
        """The same for given instances, as whole studies, whole series, or one by one. `must_shred`: see `deletion`."""
        names = [InstanceIdentifiers.of(instance) for instance in instances]
        work = trash.put if into_trash else partial(deletion.delete, must_shred=must_shred)
        return work(self.parts, lambda: names, level=level, actor=actor, reason=reason, dry_run=dry_run)

    def in_trash(self, number: str) -> list[Instance]:
        """The instances of an entry of the trash; none if it is not there any more."""
        entry = self.parts.index.trash_entry(int(number)) if number.isdecimal() else None
        return [] if entry is None else list(self.parts.index.in_trash(entry))

    def expire_trash(
        self, days: float, now_ns: int, *, actor: Principal, is_stopping: Callable[[], bool] = lambda: False
    ) -> Settled:
        """Deletes for good what has been in the trash for these days. Raises RetentionRefused if the clock has jumped,
        StorageFull or StorageFailed."""
        return trash.expire(self.parts, days, now_ns, actor=actor, is_stopping=is_stopping)

    def shred_left(
        self, *, actor: Principal, everything: bool, is_stopping: Callable[[], bool] = lambda: False
    ) -> Shredded:
        """Destroys the keys of deleted studies that an interruption has left. See `lifecycle.shredding`."""
        return shredding.sweep(self.parts, actor=actor, everything=everything, is_stopping=is_stopping)

    def set_holds(self, study_instance_uids: Sequence[str], *, actor: Principal, reason: str) -> list[str]:
        """Puts studies on legal hold, stored or not. Returns those that were not on hold before. See `holds`."""
        return holds.change(self.parts, study_instance_uids, is_set=True, actor=actor, reason=reason)

    def release_holds(self, study_instance_uids: Sequence[str], *, actor: Principal, reason: str) -> list[str]:
        """Ends legal holds. Returns the studies that were on hold."""
        return holds.change(self.parts, study_instance_uids, is_set=False, actor=actor, reason=reason)

    # -- state ----------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Counts of patients, studies, series, instances and bytes."""
        return self.parts.index.stats()

    def free_bytes(self) -> int:
        """Free bytes of the disk that the segments are on. Raises OSError."""
        return self.parts.files.free_bytes(str(self.parts.layout.segments))

    def epoch_id(self) -> bytes:
        """The epoch in which the ids of this index are valid; b"" when it has none."""
        return self.parts.index.epoch_id()

    def damage(self) -> list[DamageRow]:
        """Stored records that are known to be damaged."""
        return self.parts.index.damage()

    def losses(self) -> list[Loss]:
        """Losses that nobody has acknowledged. Raises StorageError."""
        return losses.outstanding(self.parts.layout, self.parts.files, self.parts.index)

    def acknowledge_losses(self, segment_ids: Collection[int] | None, *, actor: Principal) -> list[Loss]:
        """Acknowledges the losses in these segments (None: in all), and returns them."""
        return losses.acknowledge(self.parts.layout, self.parts.files, self.parts.index, segment_ids, actor=actor)

    def survey(self) -> Survey:
        """A look at all segments that reads no payload."""
        return survey(self.parts)

    @property
    def identity(self) -> str:
        """The archive's id, which its copies share."""
        return self.parts.layout.archive_id.hex()

    # -- the change feed ------------------------------------------------------------------------

    def feed(self) -> Feed:
        """The events of the archive, for subscribers."""
        return Feed(self.parts.layout)

    @cached_property
    def study_states(self) -> StudyStates:
        """Whether studies are arriving, quiet, complete or reopened, for readers."""
        return StudyStates(self.parts.layout, self.parts.files)

    def feed_watch(self, loop: asyncio.AbstractEventLoop) -> Watch:
        """Wakes the tasks of a loop when something has been added to the feed."""
        return Watch(directory_of(self.parts.layout), loop)

    def feed_writer(self, options: FeedOptions) -> FeedWriter:
        """The writer of the feed. An archive has one, in its keeper. Raises StorageError, StorageFull."""
        return FeedWriter(self.parts.layout, self.parts.files, self.parts.index, options)

    def feed_destinations(self) -> Destinations:
        """The webhooks that the feed is delivered to, and how far each has got."""
        return Destinations(self.parts.layout, self.parts.files)

    def outbox(self) -> Destinations:
        """The destinations of [[route]] and [[rule]] tables, and how far each has got."""
        return Destinations(self.parts.layout, self.parts.files, OUTBOX)

    def delivering(self) -> AbstractContextManager[None]:
        """The right to deliver the feed to them. Raises ArchiveInUse when another process has it."""
        return locks.webhooks(self.parts.layout, self.parts.files)

    def switch_feed_off(self) -> None:
        """Switches the feed off: compaction no longer waits for it."""
        switch_off(self.parts.layout, self.parts.files)

    # -- what a server needs --------------------------------------------------------------------

    def commitment_requests(self) -> CommitmentRequests:
        """Requests for storage commitment whose answers are fetched under their Transaction UID."""
        return CommitmentRequests(self.parts.layout.data, self.parts.files, self.parts.layout.sealing)

    def commitment_transactions(self) -> Transactions:
        """Requests for storage commitment that wait for their report."""
        return Transactions(self.parts.layout.data, self.parts.files, self.parts.layout.sealing)

    def job_files(self) -> JobFiles:
        """The jobs that send to and pull from other archives."""
        return JobFiles(self.parts.layout, self.parts.files)

    def export_files(self) -> ExportFiles:
        """The exports in FHIR's form that clients have asked for."""
        return ExportFiles(self.parts.layout, self.parts.files)

    def subscription_files(self) -> SubscriptionFiles:
        """The subscriptions of FHIR clients."""
        return SubscriptionFiles(self.parts.layout, self.parts.files)

    def subscription_standings(self) -> Destinations:
        """How far each of them has been told."""
        return Destinations(self.parts.layout, self.parts.files, SUBSCRIPTIONS)

    def notifying(self) -> AbstractContextManager[None]:
        """The right to tell them. Raises ArchiveInUse when another process has it."""
        return locks.subscriptions(self.parts.layout, self.parts.files)

    def running_jobs(self) -> AbstractContextManager[None]:
        """The right to run jobs. Raises ArchiveInUse when another process has it."""
        return locks.jobs(self.parts.layout, self.parts.files)

    def stats_history(self, now: Callable[[], float] = time.time) -> StatsHistory:
        """Statistics of this archive's servers over the last days."""
        return StatsHistory(self.parts.layout, self.parts.files, now)

    def keeping_history(self) -> AbstractContextManager[None]:
        """The right to write it. Raises ArchiveInUse when another process has it."""
        return locks.history(self.parts.layout, self.parts.files)

    def backup_states(self) -> list[dict[str, Any]]:
        """Where the backups of this archive are, and how old; see `copies.backup_notes`."""
        return backup_notes.states(self.parts.layout.data)

    def replication_states(self) -> list[dict[str, Any]]:
        """The replications of this archive with their present lag; of a replica, the last status from its source."""
        return lag.states(self.parts.layout)

    def save_file(self, name: str, content: bytes) -> None:
        """Replaces a small file of DATA, durably. Raises ArchiveReadOnly, StorageFull, StorageFailed."""
        self.parts.refuse_writing()
        replace_file(self.parts.files, str(self.parts.layout.data / name), content)

    def reporting(self) -> AbstractContextManager[None]:
        """The right to send pending commitment reports. Raises ArchiveInUse when another process has it."""
        return locks.commitments(self.parts.layout, self.parts.files)

    def reporting_workitems(self) -> AbstractContextManager[None]:
        """The right to send events of workitems on associations of our own. Raises ArchiveInUse."""
        return locks.workitems(self.parts.layout, self.parts.files)

    def keep_reserve_file(self) -> None:
        """Makes the space that deletions may need on a full disk, if there is room. Raises StorageFailed."""
        reserve_file.make(self.parts.layout, self.parts.files)

    def watch_writers(self, counters: MutableMapping[str, int]) -> WriterWatch:
        """A watch that ends index transactions in which another process has stopped."""
        index = self.parts.index
        return WriterWatch(index.writing_process, index.turn_path, counters)

    def write_index_by(self, run: Callable[[Callable[[], Any]], Any]) -> None:
        """From now on, `run` runs this process's index transactions: in a thread of another priority."""
        self.parts.index.run_writes_with(run)

    def close(self) -> None:
        """Seals this process's log; a keeper also checkpoints and releases its lock."""
        parts = self.parts
        if parts.keeper is not None and parts.keeper.failed is not None:
            self._fail_stores(parts.keeper.failed)
        writers = [writer for writer in (self._writer, parts.ledger.opened) if writer is not None]
        for writer in writers:
            writer.close()
        parts.reader.close()
        parts.last_reads.close()
        if parts.keeper is not None:
            # After a failure only the next start may judge what the log has written. Do not checkpoint it as safe.
            parts.keeper.close(clean=all(writer.log.failed is None for writer in writers))
        elif parts.unwritten is not None:
            parts.unwritten.close()
        else:
            parts.index.close()
        let_go(parts.layout)

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
