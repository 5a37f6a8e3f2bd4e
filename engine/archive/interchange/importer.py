"""Imports folders, files, zip archives and DICOMDIR media: the `import` command.

    media.sources ──► jobs threads: read, find the data set, crc32c ──► in order ──► batches ──► Archive.ingest_batch
                                                                            └─ larger than a batch ──► ingest_stream

Reading and checksums run beside each other because both let go of the interpreter lock; one thread, the caller's,
writes, and each batch is synced once. What is read ahead is bounded by bytes. Items are stored in the order in which
`media` gives them, so that `keep-first` means the same in every run.

Started again it stores nothing twice: an instance with the same bytes is told by the archive to be a duplicate, and one
too large for a batch is compared with what is stored before it is written. So an interrupted import is resumed by
starting it again. The File Meta Information serves to find the transfer syntax and the data set, and is not kept;
where its UIDs differ from the data set's, the data set is right.
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
from engine.errors import CorruptRecord, DataSetError, EngineError, InstanceRefused
from engine.index.format.types import Instance, Level, Outcome, Query
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from typing_extensions import Buffer

Progress: TypeAlias = Callable[[str, int, int], None]
"""(what, done, total); a total of 0 is not known yet."""

WHOLE_BYTES_MAX: Final = 8 << 20
"""A larger file is not read into memory but streamed into a segment of its own."""
BATCH_BYTES: Final = 16 << 20
BATCH_INSTANCES: Final = 256
"""A batch is committed when it has so many bytes or instances: one sync costs as much as writing some 0.2 MB."""
READ_AHEAD_BYTES: Final = 64 << 20
"""Of files that are read and not yet stored, beside the batch."""
PIECE_BYTES: Final = 1 << 20
"""Of a data set that is streamed; its SOP Instance UID is looked for in the first."""

_UID: Final = re.compile(r"[0-9.]{1,64}")

_ITEM_BYTES: Final = 4096
"""Bytes that an item counts for in READ_AHEAD_BYTES before it is read: bounds the number of items."""


class Target(Protocol):
    """What of an Archive is needed here."""

    def ingest_batch(self, items: Sequence[ReceivedInstance], *, policy: str = ...) -> list[Outcome | EngineError]: ...
    def ingest_stream(self, chunks: Iterator[Buffer], *, transfer_syntax_uid: str, policy: str = ...) -> Outcome: ...
    def instances(self, query: Query) -> list[Instance]: ...
    def pieces(self, instance: Instance) -> Iterator[memoryview]: ...


@dataclass(slots=True)
class ImportSummary:
    """The result of an import; the counts and `refused` add up to the number of files."""

    stored: int = 0
    duplicates: int = 0
    """Were there already, with the same bytes or the same content."""
    kept_aside: int = 0
    """Another instance has their SOP Instance UID and stays current."""
    replaced: int = 0
    """Took the place of another one of their SOP Instance UID."""
    directories: int = 0
    """DICOMDIR files: they describe a medium and are no instances."""
    refused: list[tuple[str, str]] = field(default_factory=list)
    """(name, reason). A file that is no DICOM has a reason that begins with NOT_DICOM."""
    barren: list[Path] = field(default_factory=list)
    """Of the paths that were given, those of which no instance is in the archive."""
    bytes: int = 0
    """Of the data sets that are in the archive now."""
    seconds: float = 0.0


NOT_DICOM: Final = "not DICOM"
"""How the reason begins when a refused file is none of ours."""


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
    """Stores everything that can be stored; what it reports as stored is durable and visible.

    `follow`: through symbolic links in folders too. A `summary` that is given is filled, also when Ctrl-C ends it.
    Raises StorageFull, StorageFailed or IndexError_ when the archive cannot go on; what was stored until then stays.
    """
    began = time.monotonic()
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
            run.summary.seconds = time.monotonic() - began
    run.summary.barren = [path for number, path in enumerate(paths) if number not in run.fruitful]
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
class _Whole:
    """A data set in memory."""

    name: str
    instance: ReceivedInstance
    number: int = 0
    """Of the path that it lies under."""


@dataclass(frozen=True, slots=True)
class _Large:
    """A data set that is to be streamed."""

    item: SourceItem
    transfer_syntax_uid: str
    data_set_offset: int
    passing: tuple[bytes, BinaryIO] | None = None
    """Of an item that can be opened once: what has been read of its data set, and where the rest comes from."""


@dataclass(frozen=True, slots=True)
class _Directory:
    """A DICOMDIR."""


_Read: TypeAlias = _Whole | _Large | _Directory | Refused


class _Import:
    """One run: what is being read, the batch that gathers, and the summary."""

    def __init__(
        self,
        archive: Target,
        readers: ThreadPoolExecutor,
        policy: str,
        progress: Progress | None,
        summary: ImportSummary,
    ) -> None:
        self.summary = summary
        self.fruitful: set[int] = set()
        """Numbers of paths of which something is in the archive."""
        self._archive = archive
        self._readers = readers
        self._policy = policy
        self._progress = progress
        self._reading: deque[tuple[Future[_Read] | Refused, int, int]] = deque()
        """What is being read, what it counts for in READ_AHEAD_BYTES, and the number of its path."""
        self._reading_bytes = 0
        self._batch: list[_Whole] = []
        self._batch_bytes = 0
        self._done = 0
        self._total = 0

    def count(self, paths: Sequence[Path], stop: threading.Event, *, follow: bool) -> None:
        """Walks the sources once more, ahead of the import, so that the time left can be told."""
        total = 0
        for _ in media.sources(paths, follow=follow, shallow=True):
            if stop.is_set():
                return
            total += 1
        self._total = total

    def take(self, source: media.Source, number: int = 0) -> None:
        """One more source, of the path of this number: starts reading it, and stores what has been read."""
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
        """Stores all that has been taken."""
        while self._reading:
            self._next()
        self._commit()

    def _is_ready(self) -> bool:
        first = self._reading[0][0]
        return not isinstance(first, Future) or first.done()

    def _next(self) -> None:
        """Brings the oldest source to its end, or into the batch."""
        first, size, number = self._reading.popleft()
        self._reading_bytes -= size
        content = first.result() if isinstance(first, Future) else first
        if isinstance(content, _Whole):
            self._batch.append(replace(content, number=number))
            self._batch_bytes += content.instance.payload_length
            if self._batch_bytes >= BATCH_BYTES or len(self._batch) >= BATCH_INSTANCES:
                self._commit()
            return
        if isinstance(content, _Large):
            self._commit()  # so that the order of the sources is the order of storing
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
        """One that can be opened once: read and stored before the next source is asked for."""
        try:
            with item.open() as stream:
                content = _found(item, stream.read(part10.FILE_META_BYTES_MAX), is_whole=False, stream=stream)
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
        self.fruitful.add(number)
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
    """The data set of a file, or where it is, or why there is none."""
    try:
        with item.open() as stream:
            if item.size_bytes > WHOLE_BYTES_MAX:
                start = stream.read(part10.FILE_META_BYTES_MAX)
                return _found(item, start, is_whole=False)
            data = stream.read(item.size_bytes + 1)
            if len(data) > item.size_bytes:
                return Refused(item.name, "has become longer while it was read")
            return _found(item, data, is_whole=True)
    except media.READ_ERRORS as error:
        return Refused(item.name, media.reason_of(error))


def _found(item: SourceItem, data: bytes, *, is_whole: bool, stream: BinaryIO | None = None) -> _Read:
    if not data:
        return Refused(item.name, f"{NOT_DICOM}: it is empty")
    try:
        meta = part10.read_file_meta(data)
    except DataSetError as error:
        if data[part10.PREAMBLE_BYTES :][:4] == part10.MAGIC:
            return Refused(item.name, f"the File Meta Information cannot be read: {error}")
        reason = formats.described(data) or str(error).removeprefix("no DICOM file: ")
        return Refused(item.name, f"{NOT_DICOM}: {reason}")
    if meta.media_storage_sop_class_uid == uids.MediaStorageDirectoryStorage:
        return _Directory()
    if not _UID.fullmatch(meta.transfer_syntax_uid):
        return Refused(item.name, "Transfer Syntax UID (0002,0010) has characters that no UID may have")
    payload = memoryview(data)[meta.data_set_offset :]
    if not payload:
        return Refused(item.name, "there is no data set after its File Meta Information")
    if not is_whole:
        passing = (bytes(payload), stream) if stream is not None else None
        return _Large(item, meta.transfer_syntax_uid, meta.data_set_offset, passing)
    return _Whole(item.name, ReceivedInstance([payload], len(payload), crc32c(payload), meta.transfer_syntax_uid))


# Objects larger than memory ----------------------------------------------------------------------


def _store_large(archive: Target, large: _Large, policy: str) -> tuple[Outcome | EngineError, int]:
    """Streams one object into the archive unless it is there; with its length."""
    length = large.item.size_bytes - large.data_set_offset
    try:
        if large.passing is not None:  # the archive tells a duplicate when it has it
            chunks = _chunks(*large.passing)
            return archive.ingest_stream(chunks, transfer_syntax_uid=large.transfer_syntax_uid, policy=policy), length
        with large.item.open() as stream:
            _skip(stream, large.data_set_offset)
            first = stream.read(PIECE_BYTES)
            scanner = elements.Scanner(transfer_syntax.of(large.transfer_syntax_uid))
            scanner.feed(first)
            stored = _stored(archive, scanner.so_far().sop_instance_uid, large.transfer_syntax_uid, length)
            if stored is None or not _is_same(archive, stored, large):
                chunks = _chunks(first, stream)
                syntax = large.transfer_syntax_uid
                return archive.ingest_stream(chunks, transfer_syntax_uid=syntax, policy=policy), length
            return Outcome.DUPLICATE, length
    except (InstanceRefused, CorruptRecord) as error:
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


def _stored(archive: Target, sop_instance_uid: bytes, transfer_syntax_uid: str, length: int) -> Instance | None:
    """The stored instance of that UID, if it may be the same one."""
    if not sop_instance_uid:
        return None
    query = Query(Level.IMAGE, {tags.SOPInstanceUID: sop_instance_uid}, relational=True)
    for instance in archive.instances(query):
        if instance.position.payload_length == length and instance.transfer_syntax_uid == transfer_syntax_uid:
            return instance
    return None


def _is_same(archive: Target, stored: Instance, large: _Large) -> bool:
    """Compares a file with what is stored, piece by piece."""
    with large.item.open() as stream:
        _skip(stream, large.data_set_offset)
        for piece in archive.pieces(stored):
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
