"""Imports folders, files, zip archives and DICOMDIR media: the `import` command.

    media.sources ──► jobs threads: read, find the data set, crc32c ──► in order ──► batches ──► Archive.ingest_batch
                                                                            └─ larger than a batch ──► ingest_stream

Reading and checksums run in parallel because both release the interpreter lock; only the caller's thread writes, and
each batch is synced once. Reading ahead is bounded by bytes. Items are stored in the order of `media`, so `keep-first`
gives the same result in every run.

A repeated import stores nothing twice: the archive recognises an instance with the same bytes as a duplicate, and one
too large for a batch is compared with the stored one before it is written. So run an interrupted import again. The File
Meta Information gives the transfer syntax and the place of the data set, and is not kept; if its UIDs differ from the
data set's, those of the data set count.
"""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Protocol, TypeAlias

from engine import guards
from engine.archive.ingest.request import ReceivedInstance
from engine.archive.interchange import formats, media
from engine.archive.interchange.media import Refused, SourceItem
from engine.dicom import elements, part10, tags, transfer_syntax, uids
from engine.errors import CorruptRecord, DataSetError, EngineError, InstanceRefused, StoreUnreachable
from engine.index.format.types import Instance, Level, Outcome, Query
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

Progress: TypeAlias = Callable[[str, int, int], None]
"""(name of the step, done, total); a total of 0 is not known yet."""

WHOLE_BYTES_MAX: Final = 8 << 20
"""A larger file is not read into memory but streamed into its own segment."""
BATCH_BYTES: Final = 16 << 20
BATCH_INSTANCES: Final = 256
"""A batch with this many bytes or instances is committed: one sync costs as much as writing some 0.2 MB."""
READ_AHEAD_BYTES: Final = 64 << 20
"""Bytes of files that are read and not yet stored, without the batch."""
PIECE_BYTES: Final = 1 << 20
"""Length of a piece of a streamed data set; the first piece must contain the SOP Instance UID."""

_UID: Final = re.compile(r"[0-9.]{1,64}")

_ITEM_BYTES: Final = 4096
"""Bytes that each item adds to READ_AHEAD_BYTES: bounds the number of items."""


class Target(Protocol):
    """The part of an Archive that an import needs."""

    def ingest_batch(self, items: Sequence[ReceivedInstance], *, policy: str = ...) -> list[Outcome | EngineError]: ...
    def ingest_stream(self, chunks: Iterator[Buffer], *, transfer_syntax_uid: str, policy: str = ...) -> Outcome: ...
    def instances(self, query: Query) -> list[Instance]: ...
    def pieces(self, instance: Instance) -> Iterator[memoryview]: ...


@dataclass(slots=True)
class ImportSummary:
    """The result of an import; the counts and `refused` add up to the number of files."""

    stored: int = 0
    duplicates: int = 0
    """Stored before, with the same bytes or the same content."""
    kept_aside: int = 0
    """Versions of another instance that has their SOP Instance UID and stays current."""
    replaced: int = 0
    """Replaced another instance with their SOP Instance UID."""
    directories: int = 0
    """DICOMDIR files: they describe a medium and are no instances."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason). For a file that is not DICOM the reason begins with NOT_DICOM."""
    empty_paths: list[Path] = field(default_factory=list)
    """Given paths without a stored instance."""
    bytes: int = 0
    """Bytes of the data sets that are in the archive now."""
    seconds: float = 0.0


NOT_DICOM: Final = "not DICOM"
"""The beginning of the reason for a file that is not DICOM."""


def import_paths(
    archive: Target,
    paths: Sequence[Path],
    *,
    jobs: int = 2,
    progress: Progress | None = None,
    policy: str = "keep-first",
    follow: bool = False,
    summary: ImportSummary | None = None,
) -> ImportSummary:
    """Stores everything that it can; instances that it reports as stored are durable and visible.

    `follow`: follows symbolic links in folders. Fills a given `summary`, also if Ctrl-C ends the import. Raises
    StorageFull, StorageFailed or IndexError_ if the archive cannot continue; stored instances stay.
    """
    start_s = time.monotonic()
    stop = threading.Event()
    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="import") as readers:
        run = _Import(archive, readers, policy, progress, summary or ImportSummary())
        try:
            if progress is not None:
                guards.start("import-count", lambda: run.count(paths, stop, follow=follow))
            for number, path in enumerate(paths):
                for source in media.sources([path], follow=follow):
                    run.take(source, number)
            run.finish()
        except BaseException:
            readers.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            stop.set()
            run.summary.seconds = time.monotonic() - start_s
    run.summary.empty_paths = [path for number, path in enumerate(paths) if number not in run.used_paths]
    return run.summary


def store_item(archive: Target, item: SourceItem, *, policy: str = "keep-first") -> Outcome:
    """Stores one file; durable and visible when it returns. Raises InstanceRefused, StorageFull or StorageFailed."""
    content = _read(item)
    if isinstance(content, _Directory):
        raise InstanceRefused("it is a DICOMDIR, which describes a medium and is no instance")
    if isinstance(content, Refused):
        raise InstanceRefused(content.reason)
    if isinstance(content, _Large):
        answer, _ = _store_large(archive, content, policy)
    else:
        [answer] = archive.ingest_batch([content.instance], policy=policy)
    if isinstance(answer, EngineError):
        raise answer
    return answer


@dataclass(frozen=True, slots=True)
class _InMemory:
    """A data set in memory."""

    name: str
    instance: ReceivedInstance
    number: int = 0
    """Number of the path that it was found under."""


@dataclass(frozen=True, slots=True)
class _Large:
    """A data set to stream."""

    item: SourceItem
    transfer_syntax_uid: str
    data_set_offset: int
    passing: tuple[bytes, BinaryIO] | None = None
    """For an item that can be opened only once: the first bytes of its data set, and the stream of the rest."""


@dataclass(frozen=True, slots=True)
class _Directory:
    """A DICOMDIR."""


_Read: TypeAlias = _InMemory | _Large | _Directory | Refused


class _Import:
    """One run: the items being read, the current batch, and the summary."""

    def __init__(
        self,
        archive: Target,
        readers: ThreadPoolExecutor,
        policy: str,
        progress: Progress | None,
        summary: ImportSummary,
    ) -> None:
        self.summary = summary
        self.used_paths: set[int] = set()
        """Numbers of paths with a stored instance."""
        self._archive = archive
        self._readers = readers
        self._policy = policy
        self._progress = progress
        self._reading: deque[tuple[Future[_Read] | Refused, int, int]] = deque()
        """The items being read, their bytes for READ_AHEAD_BYTES, and the numbers of their paths."""
        self._reading_bytes = 0
        self._batch: list[_InMemory] = []
        self._batch_bytes = 0
        self._done = 0
        self._total = 0

    def count(self, paths: Sequence[Path], stop: threading.Event, *, follow: bool) -> None:
        """Walks the sources ahead of the import, to estimate the remaining time."""
        total = 0
        for _ in media.sources(paths, follow=follow, shallow=True):
            if stop.is_set():
                return
            total += 1
        self._total = total

    def take(self, source: media.Source, number: int = 0) -> None:
        """Starts reading a source of the path with this number, and stores sources that have been read."""
        size = _ITEM_BYTES
        if isinstance(source, SourceItem) and source.is_passing:
            self.finish()
            self._note_passing(source, number)
            return
        if isinstance(source, SourceItem):
            if source.size_bytes <= WHOLE_BYTES_MAX:
                size += source.size_bytes
            self._reading.append((self._readers.submit(_read, source), size, number))
        else:
            self._reading.append((source, size, number))
        self._reading_bytes += size
        while self._reading and (self._reading_bytes > READ_AHEAD_BYTES or self._is_ready()):
            self._next()

    def finish(self) -> None:
        """Stores all sources."""
        while self._reading:
            self._next()
        self._commit()

    def _is_ready(self) -> bool:
        first = self._reading[0][0]
        return not isinstance(first, Future) or first.done()

    def _next(self) -> None:
        """Finishes the oldest source, or adds it to the batch."""
        first, size, number = self._reading.popleft()
        self._reading_bytes -= size
        content = first.result() if isinstance(first, Future) else first
        if isinstance(content, _InMemory):
            self._batch.append(replace(content, number=number))
            self._batch_bytes += content.instance.payload_length
            if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_INSTANCES:
                self._commit()
            return
        if isinstance(content, _Large):
            self._commit()  # store in the order of the sources
            self._note(content.item.name, number, *_store_large(self._archive, content, self._policy))
        elif isinstance(content, Refused):
            self.summary.refused.append((content.name, content.reason))
        else:
            self.summary.directories += 1
        self._advance(1)

    def _commit(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return
        answers = self._archive.ingest_batch([content.instance for content in batch], policy=self._policy)
        for content, answer in zip(batch, answers, strict=True):
            self._note(content.name, content.number, answer, content.instance.payload_length)
        self._advance(len(batch))

    def _note_passing(self, item: SourceItem, number: int) -> None:
        """Reads and stores an item that can be opened only once, before the next source."""
        try:
            with item.open() as stream:
                content = _read_content(item, stream.read(part10.FILE_META_BYTES_MAX), is_whole=False, stream=stream)
                if isinstance(content, _Large):
                    self._note(item.name, number, *_store_large(self._archive, content, self._policy))
                elif isinstance(content, Refused):
                    self.summary.refused.append((content.name, content.reason))
                else:
                    self.summary.directories += 1
        except media.READ_ERRORS as error:
            self.summary.refused.append((item.name, media.reason_of(error)))
        self._advance(1)

    def _note(self, name: str, number: int, answer: Outcome | EngineError, payload_length: int) -> None:
        summary = self.summary
        if isinstance(answer, EngineError):
            summary.refused.append((name, str(answer)))
            return
        self.used_paths.add(number)
        summary.bytes += payload_length
        if answer is Outcome.STORED:
            summary.stored += 1
        elif answer is Outcome.DUPLICATE:
            summary.duplicates += 1
        elif answer is Outcome.KEPT_ASIDE:
            summary.kept_aside += 1
        else:
            summary.replaced += 1

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress("importing", self._done, max(self._total, self._done) if self._total else 0)


# Reading, in the threads -------------------------------------------------------------------------


def _read(item: SourceItem) -> _Read:
    """The data set of a file, or its place, or the reason why there is none."""
    try:
        with item.open() as stream:
            if item.size_bytes > WHOLE_BYTES_MAX:
                start = stream.read(part10.FILE_META_BYTES_MAX)
                return _read_content(item, start, is_whole=False)
            data = stream.read(item.size_bytes + 1)
            if len(data) > item.size_bytes:
                return Refused(item.name, "grew while it was read")
            return _read_content(item, data, is_whole=True)
    except media.READ_ERRORS as error:
        return Refused(item.name, media.reason_of(error))


def _read_content(item: SourceItem, data: bytes, *, is_whole: bool, stream: BinaryIO | None = None) -> _Read:
    if not data:
        return Refused(item.name, f"{NOT_DICOM}: it is empty")
    try:
        meta = part10.read_file_meta(data)
    except DataSetError as error:
        if data[part10.PREAMBLE_BYTES :][:4] == part10.MAGIC:
            return Refused(item.name, f"the File Meta Information cannot be read: {error}")
        reason = formats.described(data) or str(error).removeprefix("not a DICOM file: ")
        return Refused(item.name, f"{NOT_DICOM}: {reason}")
    if meta.media_storage_sop_class_uid == uids.MediaStorageDirectoryStorage:
        return _Directory()
    if not _UID.fullmatch(meta.transfer_syntax_uid):
        return Refused(item.name, "Transfer Syntax UID (0002,0010) has invalid characters")
    payload = memoryview(data)[meta.data_set_offset :]
    if not payload:
        return Refused(item.name, "there is no data set after its File Meta Information")
    if not is_whole:
        passing = (bytes(payload), stream) if stream is not None else None
        return _Large(item, meta.transfer_syntax_uid, meta.data_set_offset, passing)
    return _InMemory(item.name, ReceivedInstance([payload], len(payload), crc32c(payload), meta.transfer_syntax_uid))


# Objects larger than memory ----------------------------------------------------------------------


def _store_large(archive: Target, large: _Large, policy: str) -> tuple[Outcome | EngineError, int]:
    """Streams an object into the archive unless it is stored. Returns the outcome and its length."""
    length = large.item.size_bytes - large.data_set_offset
    try:
        if large.passing is not None:  # the archive recognises a duplicate after it has received it
            chunks = _chunks(*large.passing)
            return archive.ingest_stream(chunks, transfer_syntax_uid=large.transfer_syntax_uid, policy=policy), length
        with large.item.open() as stream:
            _skip(stream, large.data_set_offset)
            first = stream.read(PIECE_BYTES)
            scanner = elements.Scanner(transfer_syntax.of(large.transfer_syntax_uid))
            scanner.feed(first)
            instance = _stored_instance(archive, scanner.so_far().sop_instance_uid, large.transfer_syntax_uid, length)
            if instance is None or not _is_same(archive, instance, large):
                chunks = _chunks(first, stream)
                syntax = large.transfer_syntax_uid
                return archive.ingest_stream(chunks, transfer_syntax_uid=syntax, policy=policy), length
            return Outcome.DUPLICATE, length
    except (InstanceRefused, CorruptRecord, StoreUnreachable) as error:
        return error, length
    except DataSetError as error:
        return InstanceRefused(f"the data set cannot be read: {error}"), length
    except media.READ_ERRORS as error:
        return InstanceRefused(media.reason_of(error)), length


def _skip(stream: BinaryIO, count: int) -> None:
    while count > 0:
        piece = stream.read(min(count, PIECE_BYTES))
        if not piece:
            raise EOFError
        count -= len(piece)


def _stored_instance(
    archive: Target, sop_instance_uid: bytes, transfer_syntax_uid: str, length: int
) -> Instance | None:
    """The stored instance with this UID, transfer syntax and length."""
    if not sop_instance_uid:
        return None
    query = Query(Level.IMAGE, {tags.SOPInstanceUID: sop_instance_uid}, relational=True)
    for instance in archive.instances(query):
        if instance.position.payload_length == length and instance.transfer_syntax_uid == transfer_syntax_uid:
            return instance
    return None


def _is_same(archive: Target, instance: Instance, large: _Large) -> bool:
    """Compares a file with a stored instance, piece by piece."""
    with large.item.open() as stream:
        _skip(stream, large.data_set_offset)
        for piece in archive.pieces(instance):
            at = 0
            while at < len(piece):
                data = stream.read(len(piece) - at)
                if not data or piece[at : at + len(data)].tobytes() != data:  # ten times as fast as without a copy
                    return False
                at += len(data)
        return not stream.read(1)


def _chunks(first: bytes, stream: BinaryIO) -> Iterator[Buffer]:
    yield first
    while piece := stream.read(PIECE_BYTES):
        yield piece
