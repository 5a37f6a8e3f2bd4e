"""Archive: all that a front end may call. One object per process; the roles differ in who recovers and checkpoints.

keeper   the only one that recovers, checkpoints and syncs what is written behind (see `archive.keeper`)
guest    a process beside a running keeper: a worker, or an import into a running archive
auto     keeper if nobody is, else guest
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engine import log
from engine.archive import layout as layouts
from engine.archive.ingest import ReceivedInstance, make_entry
from engine.archive.keeper import Keeper, KeeperLock, Progress, sync_log
from engine.archive.store import POLICIES, Store
from engine.dicom.elements import NeedMore
from engine.errors import ArchiveInUse, CorruptRecord, EngineError, InstanceRefused, StorageFull
from engine.index import rebuild
from engine.index.checkpoint import Checkpointer
from engine.index.entry import Entry
from engine.index.search import search
from engine.index.tables import Index
from engine.index.types import Instance, Match, Outcome, Query
from engine.storage.files import Files
from engine.storage.log import LogReader, SegmentLog
from engine.storage.record import Kind, crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

logger = log.get("archive")

PREPARE_S = 0.2
"""How long a start may prewrite its first segment."""

READ_BYTES = 1 << 20
"""How much `buffers` reads at a time."""


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """What a writing process wants of its log."""

    segment_bytes: int = 1 << 30
    disk_reserve_bytes: int = 0
    prewrite_bytes: int = 0


class Archive:
    """One archive, opened by one process."""

    def __init__(self, layout: layouts.Layout, files: Files, index: Index, keeper: Keeper | None) -> None:
        self.layout = layout
        self.index = index
        self.keeper = keeper
        self.reader = LogReader(layout.segments, files)
        self.files = files
        self._store: Store | None = None
        self._ingesting = threading.Lock()

    @classmethod
    def open(
        cls,
        data: Path,
        *,
        role: str = "auto",
        create: bool = False,
        files: Files | None = None,
        sync_interval_s: float = 1.0,
        on_keeper_failure: Callable[[EngineError], None] | None = None,
        progress: Progress | None = None,
    ) -> Archive:
        """Opens `data` as "keeper", "guest" or "auto".

        Raises StorageError when there is no archive and not `create`, ArchiveInUse when it must be keeper and is not.
        """
        files = files or Files()
        layout = layouts.open_layout(data, files, create=create)
        keeper: Keeper | None = None
        if role != "guest":
            try:
                keeper = Keeper(layout, files, progress)
            except ArchiveInUse:
                if role == "keeper":
                    raise
        if keeper is not None:
            archive = cls(layout, files, keeper.index, keeper)
            keeper.start(sync_interval_s, on_keeper_failure or archive._keeper_failed)
            return archive
        return cls(layout, files, Index.open(layout.index), None)

    @classmethod
    def rebuild_index(cls, data: Path, *, progress: Progress | None = None) -> rebuild.Report:
        """Throws the index of `data` away and makes it again from the log. Raises ArchiveInUse, StorageError."""
        files = Files()
        layout = layouts.open_layout(data, files, create=False)
        with KeeperLock(layout):
            index, report = rebuild.rebuild(layout.index, layout.segments, files, progress=progress)
            reader = LogReader(layout.segments, files)
            checkpointer = Checkpointer(index, layout.index, files, lambda: sync_log(index, reader))
            checkpointer.close(clean=True)
            reader.close()
            index.close()
        return report

    def _keeper_failed(self, error: EngineError) -> None:
        logger.error("checkpoint failed", error=str(error))

    def recover_dead_writers(self) -> None:
        """Replays and seals the segments that dead guests left. For the keeper."""
        if self.keeper is None:
            raise ArchiveInUse("only the keeper recovers segments")
        self.keeper.recover_dead_writers()

    # -- in -------------------------------------------------------------------------------------

    def writer(self, label: str, options: StorageOptions | None = None) -> Store:
        """This process's store, opened at the first call; `label` names the writer in its segments' headers."""
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
            self._store = Store(self.index, segment_log, self.reader)
        return self._store

    def prepare_writer(self) -> None:
        """Creates this process's first segment ahead, so that the first instance need not wait. Blocks."""
        if self._store is not None:
            try:
                self._store.log.prepare(PREPARE_S)
            except StorageFull as error:
                logger.warning("no segment could be prepared", error=str(error))

    def ingest_batch(
        self, items: Sequence[ReceivedInstance], *, policy: str = "keep-first"
    ) -> list[Outcome | EngineError]:
        """Stores whole instances; when it returns they are durable and visible. Blocks; for imports.

        One answer an item, in order: what became of it, or why it was refused.
        """
        with self._ingesting:
            store = self.writer(f"import-{os.getpid()}")
            answers: list[Outcome | EngineError] = []
            entries: list[Entry] = []
            waiting: list[int] = []
            for item in items:
                answer = self._place(store, item, POLICIES[policy])
                if isinstance(answer, Entry):
                    waiting.append(len(answers))
                    entries.append(answer)
                    answers.append(Outcome.STORED)
                else:
                    answers.append(answer)
            if entries:
                store.log.sync()
                for where, outcome in zip(waiting, store.apply(entries), strict=True):
                    answers[where] = outcome
            store.seal_rolled()
            return answers

    def _place(self, store: Store, item: ReceivedInstance, policy: int) -> Entry | Outcome | EngineError:
        try:
            entry = self._entry(item)
            stored = store.same_instance(entry, item.payload_length, item.payload_crc)
            if stored is not None:
                store.confirm_same(stored, item.payload, durable=True)
                return Outcome.DUPLICATE if store.is_current(stored) else Outcome.KEPT_ASIDE
            store.append(entry, item.payload, item.payload_length, item.payload_crc, policy)
            return entry
        except (InstanceRefused, CorruptRecord) as error:
            return error

    def _entry(self, item: ReceivedInstance) -> Entry:
        payload = item.payload
        head = memoryview(payload[0]).cast("B") if len(payload) == 1 else memoryview(b"".join(payload))
        return make_entry(
            head,
            complete=True,
            transfer_syntax_uid=item.transfer_syntax_uid,
            calling_ae_title=item.calling_ae_title,
            sop_class_uid=item.sop_class_uid,
            sop_instance_uid=item.sop_instance_uid,
        )

    def ingest_stream(
        self,
        chunks: Iterator[Buffer],
        *,
        transfer_syntax_uid: str,
        calling_ae_title: str = "",
        policy: str = "keep-first",
    ) -> Outcome:
        """Stores one object larger than memory, chunk by chunk; durable and visible when it returns.

        The first chunk must hold the kept attributes. Raises InstanceRefused, StorageFull or StorageFailed.
        """
        with self._ingesting:
            store = self.writer(f"import-{os.getpid()}")
            first = memoryview(next(chunks, b"")).cast("B")
            try:
                entry = make_entry(
                    first,
                    complete=False,
                    transfer_syntax_uid=transfer_syntax_uid,
                    calling_ae_title=calling_ae_title,
                    sop_class_uid=None,
                    sop_instance_uid=None,
                )
            except NeedMore as error:
                raise InstanceRefused(f"the kept attributes do not lie in the first bytes: {error}") from error
            store.stamp(entry, POLICIES[policy])
            meta = entry.pack_meta()
            appender = store.log.begin_stream(
                Kind.INSTANCE, entry.flags, entry.stamp, entry.sop_instance_uid, len(meta)
            )
            try:
                crc = crc32c(first)
                appender.write([first], len(first))
                for chunk in chunks:
                    crc = crc32c(chunk, crc)
                    appender.write([chunk], len(memoryview(chunk).cast("B")))
                entry.position = appender.finish(meta, crc)
            except BaseException:
                appender.abort()
                raise
            return store.apply([entry])[0]

    # -- out ------------------------------------------------------------------------------------

    def find(self, query: Query) -> Iterator[Match]:
        """Matches in a stable order. Holds no read transaction between pages. Raises QueryError."""
        return search(self.index, query)

    def instances(self, query: Query) -> list[Instance]:
        """Where the instances that a retrieval names lie, by series and instance number. Raises QueryError."""
        return self.index.instances(query)

    def buffers(self, instance: Instance) -> Iterator[memoryview]:
        """The stored data set piece by piece, checked against its checksum before the last piece is given out.

        Raises CorruptRecord. The memory of a piece is used again for the next one.
        """
        position = instance.position
        buffer = memoryview(bytearray(min(READ_BYTES, max(position.payload_length, 1))))
        at = crc = 0
        while at < position.payload_length or at == 0:
            piece = buffer[: min(len(buffer), position.payload_length - at)]
            self.reader.read_into(position, piece, at)
            crc = crc32c(piece, crc)
            at += len(piece)
            if at == position.payload_length:
                self.reader.check(position, crc)
            yield piece
            if position.payload_length == 0:
                return

    def read(self, instance: Instance) -> bytes:
        """The stored data set, whole and checked. Raises CorruptRecord."""
        return self.reader.read(instance.position, verify=True)

    def stats(self) -> dict[str, int]:
        """Counts of patients, studies, series, instances and bytes."""
        return self.index.stats()

    def close(self) -> None:
        """Seals this process's log; a keeper also checkpoints and gives its lock up."""
        if self._store is not None:
            self._store.close()
        self.reader.close()
        if self.keeper is not None:
            self.keeper.close()
        else:
            self.index.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
