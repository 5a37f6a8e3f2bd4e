"""The metadata of series for HTTP: from a cached file, which is updated when the series has changed.

    revision of the series (index) ── the same as the file's ──────────────► as it is
                                   ── the file's and more ─► the new ones are read and added ─┐
                                   ── anything else ───────► all are read again ──────────────┴─► written, returned

So an instance that was deleted, replaced or corrected is never shown again, and a file that cannot be read or written
costs time but fails no request. A file holds the root of the URLs in its BulkDataURIs; each root has its own file.
Instances stand in the order in which they were added. Corrections change the metadata, as they do in a C-FIND; stored
bytes stay as they are. Blocks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from engine import log
from engine.archive.metadata import blob as blobs
from engine.archive.metadata.blob import Blob
from engine.archive.metadata.gzip_pieces import Growing
from engine.archive.metadata.instance_json import changes_of, instance_json
from engine.dicom import tags
from engine.errors import CorruptRecord, DataSetError, for_log
from engine.index.format.types import IDENTITY_BYTES, KeyValue, Level, Query, SeriesRevision, identity_of

if TYPE_CHECKING:
    from engine.archive.metadata.blob_files import BlobFiles
    from engine.archive.retrieve import Retrieval
    from engine.dicom.coercion import Changes
    from engine.index.catalog import Catalog
    from engine.index.format.types import Instance

logger = log.get("archive.metadata")

TRIES: Final = 3
"""How often to read a series that changes while it is read; the last result is returned and not cached."""


class SeriesMetadata:
    """The metadata of an archive's series. Thread-safe."""

    def __init__(self, index: Catalog, retrieval: Retrieval, files: BlobFiles) -> None:
        self._index = index
        self._retrieval = retrieval
        self._files = files
        self.hits = self.misses = 0
        self._lock = threading.Lock()
        self._making: dict[bytes, tuple[threading.Lock, int]] = {}
        """Locks of the blobs being made, and the number of their waiters: a second request finds the blob ready."""

    def snapshot(self) -> dict[str, int]:
        """How often a file was up to date, and how often it was made or updated."""
        return {"hits": self.hits, "misses": self.misses}

    def revisions(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[SeriesRevision]:
        """The revisions of a study's series, or of one series, for `etag` and `blob`. Takes milliseconds."""
        series = series_instance_uid.encode() if series_instance_uid is not None else None
        return self._index.revisions(study_instance_uid.encode(), series)

    def cached(self, revision: SeriesRevision, root: str) -> Blob | None:
        """The cached metadata of a series; takes a millisecond. None: call `blob`, which makes it."""
        cached = self._load(revision, root)
        return cached if _is_current(cached, revision) else None

    def blob(self, revision: SeriesRevision, root: str) -> Blob:
        """The metadata of a series. `root`: the beginning of the URLs of studies, "https://host/dicom-web".

        It may have a later revision. Raises EngineError if the index cannot be read.
        """
        key = _key(revision, root)
        cached = self._load(revision, root)
        if _is_current(cached, revision):
            self.hits += 1
            return cached
        self.misses += 1
        with self._one_at_a_time(key):
            cached = self._load(revision, root)
            if _is_current(cached, revision):
                return cached
            blob, is_settled = cached, False
            for _ in range(TRIES):
                blob = self._make(blob, revision, root)
                revisions = self.revisions(revision.study_instance_uid, revision.series_instance_uid)
                is_settled = revisions == [revision]
                if is_settled or not revisions:
                    break
                revision = revisions[0]
            if is_settled and blob != cached:
                self._files.write(_owner(revision), root.encode(), blobs.encode(blob))
            return blob

    def instance(self, instance: Instance, root: str) -> bytes:
        """One instance as a JSON object. Raises CorruptRecord, DataSetError."""
        changes = self._changes(instance.study_instance_uid, instance.series_instance_uid)
        return instance_json(self._retrieval.open(instance), root, changes)

    def purge(self) -> Iterator[bool]:
        """Removes the files of series that have changed or been deleted, so that nothing of a deleted patient stays.

        Each step checks one file, and yields whether it was removed.
        """
        for head, path in self._files.heads():
            key, state = blobs.head_of(head)
            study_uid, series_uid, *_ = (*key.split(b"\0"), b"", b"")
            revisions = self._index.revisions(study_uid, series_uid) if series_uid else []
            is_stale = not revisions or blobs.state_of(revisions[0].identities, revisions[0].corrections) != state
            if is_stale:
                self._files.remove(path)
            yield is_stale

    # -- inside ---------------------------------------------------------------------------------

    def _load(self, revision: SeriesRevision, root: str) -> Blob:
        key = _key(revision, root)
        data = self._files.read(_owner(revision), root.encode())
        cached = blobs.decode(data, key) if data is not None else None
        return cached if cached is not None else Blob(key)

    def _make(self, cached: Blob, revision: SeriesRevision, root: str) -> Blob:
        """The blob of a revision, made from the cached one if all of that is still right."""
        expected, known = set(_split(revision.identities)), set(_split(cached.identities))
        if cached.corrections != revision.corrections or not known <= expected:
            cached, known = Blob(cached.key), set()
        missing = expected - known
        changes = self._changes(revision.study_instance_uid, revision.series_instance_uid)
        growing, count, unreadable = Growing(cached.piece), cached.count, cached.unreadable
        for instance in self._instances(revision):
            identity = identity_of(instance.stamp, *instance.position[4:])
            if identity not in missing:
                continue
            try:
                text = instance_json(self._retrieval.open(instance), root, changes)
            except DataSetError as error:
                uid = instance.sop_instance_uid
                logger.warning("an instance has no metadata", sop_instance_uid=uid, reason=for_log(error))
                unreadable += 1
            except CorruptRecord:
                continue  # noted as damage: try again later, since a re-send may heal it
            else:
                growing.add(b"," + text if count else text)
                count += 1
            known.add(identity)
        identities = b"".join(sorted(known))
        return Blob(cached.key, identities, revision.corrections, count, unreadable, growing.finish())

    def _instances(self, revision: SeriesRevision) -> list[Instance]:
        keys: dict[int, KeyValue] = {
            tags.StudyInstanceUID: revision.study_instance_uid.encode(),
            tags.SeriesInstanceUID: revision.series_instance_uid.encode(),
        }
        return self._index.instances(Query(Level.SERIES, keys))

    def _changes(self, study_instance_uid: str, series_instance_uid: str) -> Changes | None:
        return changes_of(self._index.corrected_values(study_instance_uid.encode(), series_instance_uid.encode()))

    @contextmanager
    def _one_at_a_time(self, key: bytes) -> Iterator[None]:
        with self._lock:
            lock, count = self._making.get(key, (threading.Lock(), 0))
            self._making[key] = lock, count + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, count = self._making.pop(key)
                if count > 1:
                    self._making[key] = lock, count - 1


def etag(states: Sequence[SeriesRevision | Blob], root: str) -> str:
    """The entity tag of the metadata of series in these states; the same for revisions and for the blobs of them.

    It does not identify the bytes: the order of instances may differ.
    """
    digest = blake2b(blobs.MAGIC + root.encode(), digest_size=16)
    for state in states:
        digest.update(blobs.state_of(state.identities, state.corrections))
    return digest.hexdigest()


def _is_current(blob: Blob, revision: SeriesRevision) -> bool:
    return blob.identities == revision.identities and blob.corrections == revision.corrections


def _split(identities: bytes) -> list[bytes]:
    return [identities[at : at + IDENTITY_BYTES] for at in range(0, len(identities), IDENTITY_BYTES)]


def _owner(revision: SeriesRevision) -> bytes:
    return f"{revision.study_instance_uid}\0{revision.series_instance_uid}".encode()


def _key(revision: SeriesRevision, root: str) -> bytes:
    return _owner(revision) + b"\0" + root.encode()
