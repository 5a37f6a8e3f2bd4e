"""Publisher: brings sealed segments and their hints into the bucket, and removes what a compaction has removed here.

    upload s/ ─► size and checksums read back ─► upload h/ ─► read back ─► note in DATA/published

Repeatable at any point: what is not noted is uploaded again, to the same key, from the same bytes. A segment counts
when it is noted. It reads the log and its footers only, takes no role, and no writer waits for it.

    DATA/published     ["bucket", url], then a line for each step (`storage.journal`)
                       ["published", id, salt, bytes, crc32c]        ["removed", id, salt]

Another url begins the file anew: then everything is uploaded to that bucket. A segment is removed from the bucket when
its file has been gone for `remove_after_hours`, the index needs no record of it, no loss names it, and a manifest
without it has been written: so what took its place is there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from engine import log
from engine.accounts import dump
from engine.archive.copies import key_file, shipped_logs
from engine.archive.copies.shipped_logs import AllLogs
from engine.archive.layout import Layout
from engine.archive.tiering.study_key_shipping import StudyKeyShipping
from engine.errors import AccountsError, CorruptRecord, ObjectWrong, SegmentGone, StorageError, for_log
from engine.objects.bucket import PAGE_BYTES, Bucket, Place, Published, SegmentName, read_hint
from engine.objects.settings import ObjectStore
from engine.objects.versions import Versions
from engine.storage import hints
from engine.storage.files import Files
from engine.storage.journal import Journal, read_notes
from engine.storage.record import crc32c
from engine.storage.segment_bytes import SegmentFile

logger = log.get("archive.publisher")

FILE = "published"
_BUCKET = "bucket"
PIECE_BYTES = 1 << 20
KEPT_NOTES = 30
"""Manifests and key objects that stay in the bucket: each of the last ones, for a person who looks back."""
MANIFEST_EVERY_S = 600.0

Spent = Callable[[int], None]
"""Called with bytes that are about to be uploaded; returns when they may be. May raise to stop."""


class Sealed(NamedTuple):
    """A sealed segment here that is not in the bucket."""

    name: SegmentName
    bytes: int
    sealed_s: float
    """Unix time of its file."""


class SealedSegments:
    """The sealed segments of all logs: each file is opened once."""

    def __init__(self, layout: Layout, files: Files) -> None:
        self._layout = layout
        self._data = layout.data
        self._files = files
        self._logs = AllLogs(layout.data, files)
        self._looked: dict[int, tuple[tuple[int, int], SegmentName | None]] = {}
        """What each file was at the last look: identity, and its name if it is sealed."""

    def names(self) -> set[SegmentName]:
        """Those of the last look."""
        return {name for _, name in self._looked.values() if name is not None}

    def without(self, published: Collection[SegmentName]) -> list[Sealed]:
        """Those that are not published, the oldest first; those of DATA/hospital, which are few, before the images."""
        found = []
        present = [number for number in self._logs.numbers() if self._is_own(number)]
        for segment_id in present:
            path = shipped_logs.path_of(self._data, segment_id)
            identity = self._files.identity(path)
            if identity is None:
                continue
            known = self._looked.get(segment_id)
            if known is None or known[0] != identity or known[1] is None:
                known = self._looked[segment_id] = identity, self._look(segment_id)
            if known[1] is not None and known[1] not in published:
                found.append(Sealed(known[1], _size(path), identity[1] / 1e9))
        for segment_id in self._looked.keys() - set(present):
            del self._looked[segment_id]
        # Patients and orders before messages: what a message did is noted after the registry has it.
        return sorted(found, key=lambda item: (shipped_logs.is_image_log(item.name.segment_id), item.name))

    def _is_own(self, segment_id: int) -> bool:
        """Not of another node: that one has published it, and announces what becomes of it."""
        return not shipped_logs.is_image_log(segment_id) or self._layout.writes(segment_id)

    def _look(self, segment_id: int) -> SegmentName | None:
        try:
            trailer = hints.read_trailer(self._logs.open(segment_id), shipped_logs.id_of(segment_id))
        except (CorruptRecord, OSError):
            return None
        return None if trailer is None else SegmentName(segment_id, trailer.salt)


def waiting(layout: Layout, files: Files, settings: ObjectStore) -> list[Sealed]:
    """The backlog of an archive that another process may be publishing; writes nothing. Raises StorageError."""
    return SealedSegments(layout, files).without(published_of(layout, files, settings))


def published_of(layout: Layout, files: Files, settings: ObjectStore) -> dict[SegmentName, Published]:
    """The segments that the bucket has, by DATA/published. Raises StorageError."""
    path = str(layout.data / FILE)
    try:
        notes = read_notes(path, files)[0]
    except FileNotFoundError:
        notes = []
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    return published_in(notes, settings.url)


def note_published(layout: Layout, files: Files, settings: ObjectStore, published: Sequence[Published]) -> None:
    """Begins DATA/published with segments that the bucket has. Raises StorageFull or StorageFailed."""
    journal = Journal(str(layout.data / FILE), files)
    try:
        notes = [["published", *item.name, item.bytes, item.crc] for item in published]
        journal.replace([[_BUCKET, settings.url], *notes])
    finally:
        journal.close()


def published_in(notes: Sequence[Sequence[object]], url: str) -> dict[SegmentName, Published]:
    """The segments that the notes of DATA/published say to be in this bucket."""
    found: dict[SegmentName, Published] = {}
    if not notes or list(notes[0]) != [_BUCKET, url]:
        return found
    for note in notes[1:]:
        match note:
            case ["published", int(segment_id), int(salt), int(length), int(crc)]:
                name = SegmentName(segment_id, salt)
                found[name] = Published(name, length, crc)
            case ["removed", int(segment_id), int(salt)]:
                found.pop(SegmentName(segment_id, salt), None)
    return found


class Publisher:
    """For one thread."""

    def __init__(self, layout: Layout, files: Files, bucket: Bucket, settings: ObjectStore) -> None:
        """Reads DATA/published. Makes no request."""
        self._layout = layout
        self._files = files
        self._bucket = bucket
        self._settings = settings
        self._logs = AllLogs(layout.data, files)
        self.study_keys = StudyKeyShipping(layout, files, bucket, Versions(settings))
        self._journal = Journal(str(layout.data / FILE), files)
        self.published = published_in(self._journal.notes, settings.url)
        if self._journal.notes[:1] != [[_BUCKET, settings.url]]:
            self._journal.replace([[_BUCKET, settings.url]])
        self._sealed = SealedSegments(layout, files)
        self._gone_s: dict[SegmentName, float] = {}
        self._kept = ("", "")
        self._manifest_of: frozenset[SegmentName] | None = None
        self._manifest_s = -MANIFEST_EVERY_S

    def close(self) -> None:
        """Closes DATA/published."""
        self._journal.close()

    def backlog(self) -> list[Sealed]:
        """The sealed segments that are not in the bucket, the oldest first."""
        return self._sealed.without(self.published)

    # -- a segment ------------------------------------------------------------------------------

    def publish(self, name: SegmentName, spent: Spent = lambda count: None) -> Published | None:
        """Uploads one segment and its hint; None if its file is gone. Raises StoreUnreachable, ObjectWrong."""
        try:
            data = self._logs.open(name.segment_id, salt=name.salt)
        except SegmentGone:
            return None
        size = data.size()
        checksums = _Checksums()
        key = self._bucket.segment_key(name)
        self._bucket.objects.put_pieces(key, checksums.passing(_pieces(data, size, spent)), size)
        hint = read_hint(data, name.segment_id, checksums.pages, checksums.whole)
        self._read_back(key, size, hint.pages)
        content = hint.encode()
        hint_key = self._bucket.hint_key(name)
        self._bucket.objects.put(hint_key, content)
        if self._bucket.objects.get(hint_key, len(content)) != content:
            raise ObjectWrong(f"{hint_key} is not what was written")
        published = Published(name, size, checksums.whole)
        self._journal.append([["published", *name, size, checksums.whole]])
        self.published[name] = published
        return published

    def _read_back(self, key: str, size: int, pages: tuple[int, ...]) -> None:
        objects = self._bucket.objects
        if objects.head(key).size != size:
            raise ObjectWrong(f"{key} has another size than was written")
        numbers: Collection[int] = range(len(pages))
        if self._settings.read_back == "ends":
            numbers = {0, len(pages) - 1}
        for number in numbers:
            start = number * PAGE_BYTES
            if crc32c(objects.get_range(key, start, min(start + PAGE_BYTES, size))) != pages[number]:
                raise ObjectWrong(f"{key}: bytes from {start} on are not what was written")

    # -- what goes, and what is said of all -----------------------------------------------------

    def remove_gone(
        self,
        is_needed: Callable[[int], bool],
        elsewhere: Collection[SegmentName],
        announce: Callable[[SegmentName], None] = lambda name: None,
    ) -> int:
        """Removes segments from the bucket that a compaction has removed here; returns how many.

        `is_needed`: whether a segment without a file has records that somebody misses. `elsewhere`: the segments that
        are only in the bucket, on purpose. `announce` is called before the objects of a segment go.
        """
        present = self._sealed.names()
        now_s = time.monotonic()
        removed = 0
        for name in set(self.published) - present:
            if name in elsewhere or is_needed(name.segment_id):
                self._gone_s.pop(name, None)
                continue
            since_s = self._gone_s.setdefault(name, now_s)
            if now_s - since_s < self._settings.remove_after_hours * 3600:
                continue
            if self._manifest_of is None or name in self._manifest_of:
                continue
            announce(name)
            self._journal.append([["removed", *name]])
            del self.published[name]
            del self._gone_s[name]
            self._bucket.objects.delete([self._bucket.hint_key(name), self._bucket.segment_key(name)])
            removed += 1
        return removed

    def write_keys(self, *, with_accounts: bool = True) -> None:
        """Brings wrapped keys and accounts into the bucket if they have changed: before any record that needs them.

        Without `with_accounts` only the keys. Raises StoreRefused if studies have keys of their own and the store keeps
        old versions of objects: a key that is destroyed here must not live on in them, and without the keys the bucket
        would be of no use.
        """
        self.study_keys.ship()
        keys = key_file.content(self._layout, self._files)
        try:
            accounts = dump.text_of(self._layout.data) if with_accounts else self._kept[1]
        except AccountsError as error:
            logger.warning("the accounts are not in the bucket", error=for_log(error))
            accounts = self._kept[1]
        if (keys, accounts) == self._kept:
            return
        if (keys, accounts) != self._bucket.read_keys():
            self._bucket.write_keys(keys, accounts, datetime.now(UTC))
            self._prune("k")
        self._kept = keys, accounts

    def write_manifest(self, chains: Collection[Place]) -> None:
        """Writes a manifest if one is due, without the segments that are gone here."""
        names = frozenset(self.published.keys() - self._gone_s.keys())
        now_s = time.monotonic()
        if names == self._manifest_of or now_s - self._manifest_s < MANIFEST_EVERY_S:
            return
        segments = [self.published[name] for name in sorted(names)]
        self._bucket.write_manifest(segments, chains, self._layout.lineage, datetime.now(UTC))
        self._manifest_of, self._manifest_s = names, now_s
        self._prune("m")

    def _prune(self, folder: str) -> None:
        heads = self._bucket.timed(folder)
        self._bucket.objects.delete([head.key for head in heads[:-KEPT_NOTES]])


class _Checksums:
    """Takes the checksums of a segment while it passes."""

    def __init__(self) -> None:
        self.whole = 0
        self.pages: list[int] = []
        self._page = 0
        self._room = PAGE_BYTES

    def passing(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces; none lies across two pages."""
        for piece in pieces:
            self.whole = crc32c(piece, self.whole)
            self._page = crc32c(piece, self._page)
            self._room -= len(piece)
            if not self._room:
                self._end_page()
            yield piece
        if self._room < PAGE_BYTES:
            self._end_page()

    def _end_page(self) -> None:
        self.pages.append(self._page)
        self._page, self._room = 0, PAGE_BYTES


def _pieces(data: SegmentFile, size: int, spent: Spent) -> Iterator[bytes]:
    for at in range(0, size, PIECE_BYTES):
        length = min(PIECE_BYTES, size - at)
        spent(length)
        piece = data.read(length, at)
        if len(piece) != length:
            raise ObjectWrong(f"the segment file ends at {at + len(piece)}, and had {size} bytes")
        yield piece


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
