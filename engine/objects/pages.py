"""PageCache: pages of segments that are only in a bucket, on this machine's disk, within a bound. Thread-safe.

    FOLDER/<segment>/<page, 6 hex digits>.once     was fetched, and needed for as long as it was in memory
    FOLDER/<segment>/<page>.kept                   was needed again later

When there is too much, pages that were needed once go first, the oldest before the others, until they are a tenth of
the bound; then those that have not been needed for the longest time. So one export, which reads everything once, does
not push out what people look at. Every page is compared with its checksum when it is read from the disk or fetched: a
damaged file is fetched again, and nothing that a store answers wrongly stays.

Several processes share the folder. Nothing in it is needed: it may be removed at any time.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from engine import log
from engine.errors import ObjectWrong, StorageError, for_log
from engine.objects.bucket import SegmentName
from engine.storage.files import Files
from engine.storage.record import crc32c

logger = log.get("objects.pages")

MEMORY_PAGES = 8
"""Pages that a process keeps in memory, 4 MiB each: the series that it is sending now."""
LOW_SHARE = 0.75
ONCE_SHARE = 0.1
LOOK_EVERY_BYTES = 256 << 20
"""How much a process writes between two looks at the size of the folder."""
RESERVE_BYTES = 4 << 30
"""Disk space that stays free: instances come first."""
ATTEMPTS = 2
"""How often a page is fetched whose bytes are wrong."""


class _File(NamedTuple):
    used_s: float
    path: str
    bytes: int
    is_kept: bool


class PageCache:
    """The pages of one archive."""

    def __init__(self, folder: str, files: Files, bytes_max: Callable[[], int]) -> None:
        """Makes the folder when it has something to keep. `bytes_max`: asked at each look."""
        self._folder = folder
        self._files = files
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._memory: OrderedDict[tuple[SegmentName, int], bytes] = OrderedDict()
        self._busy: dict[tuple[SegmentName, int], threading.Lock] = {}
        self._written_bytes = LOOK_EVERY_BYTES

    def in_memory(self, name: SegmentName, number: int) -> bytes | None:
        """A page if it is here at once."""
        with self._lock:
            page = self._memory.get((name, number))
            if page is not None:
                self._memory.move_to_end((name, number))
        return page

    def get(self, name: SegmentName, number: int, crc: int, fetch: Callable[[], bytes]) -> bytes:
        """A page, fetched if it is not here. Raises as `fetch`, and ObjectWrong when its bytes are wrong each time."""
        page = self.in_memory(name, number)
        if page is not None:
            return page
        key = (name, number)
        with self._lock:
            busy = self._busy.setdefault(key, threading.Lock())
        with busy:
            try:
                page = self.in_memory(name, number)
                if page is None:
                    page = self._load(name, number, crc)
                if page is None:
                    page = self._fetched(name, number, crc, fetch)
                    self._keep(name, number, page)
                with self._lock:
                    self._memory[key] = page
                    self._memory.move_to_end(key)
                    while len(self._memory) > MEMORY_PAGES:
                        self._memory.popitem(last=False)
            finally:
                with self._lock:
                    self._busy.pop(key, None)
        return page

    def forget(self, name: SegmentName, number: int) -> None:
        """Removes a page: the next read fetches it."""
        with self._lock:
            self._memory.pop((name, number), None)
        for path in self._paths(name, number):
            self._unlink(path)

    def forget_segment(self, name: SegmentName) -> None:
        """Removes all pages of a segment, which is a file again."""
        with self._lock:
            for key in [key for key in self._memory if key[0] == name]:
                del self._memory[key]
        for file in list(self._files_of(f"{self._folder}/{name}")):
            self._unlink(file.path)

    def _fetched(self, name: SegmentName, number: int, crc: int, fetch: Callable[[], bytes]) -> bytes:
        for attempt in range(1, ATTEMPTS + 1):
            page = fetch()
            if crc32c(page) == crc:
                return page
            logger.warning("the object store answers with wrong bytes", segment=str(name), page=number, attempt=attempt)
        raise ObjectWrong(f"page {number} of segment {name} is not what was written")

    # -- the folder -----------------------------------------------------------------------------

    def _paths(self, name: SegmentName, number: int) -> tuple[str, str]:
        path = f"{self._folder}/{name}/{number:06x}"
        return f"{path}.kept", f"{path}.once"

    def _load(self, name: SegmentName, number: int, crc: int) -> bytes | None:
        kept, once = self._paths(name, number)
        for path in (kept, once):
            try:
                with open(path, "rb") as file:
                    page = file.read()
            except OSError:
                continue
            if crc32c(page) != crc:
                self._unlink(path)
                continue
            try:
                if path == once:
                    os.rename(once, kept)
                os.utime(kept)
            except OSError:
                pass  # another process has removed it meanwhile
            return page
        return None

    def _keep(self, name: SegmentName, number: int, page: bytes) -> None:
        """Writes a page, if there is room. It is not synced: a checksum judges it."""
        path = self._paths(name, number)[1]
        temporary = f"{path}.{os.getpid()}.{threading.get_ident()}"
        try:
            os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
            if self._files.free_bytes(self._folder) - len(page) < RESERVE_BYTES:
                return
            with open(temporary, "xb") as file:
                file.write(page)
            os.rename(temporary, path)
        except (OSError, StorageError) as error:
            logger.warning("a page is not kept on the disk", segment=str(name), error=for_log(error))
            self._unlink(temporary)
            return
        with self._lock:
            self._written_bytes += len(page)
            must_look = self._written_bytes >= min(LOOK_EVERY_BYTES, self._bytes_max() // 8)
            if must_look:
                self._written_bytes = 0
        if must_look:
            self.make_room()

    def make_room(self) -> None:
        """Removes pages if there are more than may be."""
        files = sorted(self._all())
        total = sum(file.bytes for file in files)
        bytes_max = self._bytes_max()
        if total <= bytes_max:
            return
        once = sum(file.bytes for file in files if not file.is_kept)
        low = bytes_max * LOW_SHARE
        for file in (file for file in files if not file.is_kept):
            if total <= low or once <= bytes_max * ONCE_SHARE:
                break
            self._unlink(file.path)
            total, once = total - file.bytes, once - file.bytes
        for file in files:
            if total <= low:
                return
            if file.is_kept:
                self._unlink(file.path)
                total -= file.bytes
        for file in files:
            if total <= low:
                return
            if not file.is_kept:
                self._unlink(file.path)
                total -= file.bytes

    def _all(self) -> Iterator[_File]:
        try:
            names = os.listdir(self._folder)
        except OSError:
            return
        for name in names:
            yield from self._files_of(f"{self._folder}/{name}")

    def _files_of(self, folder: str) -> Iterator[_File]:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            return
        for entry in entries:
            try:
                status = entry.stat()
            except OSError:
                continue
            yield _File(status.st_mtime, entry.path, status.st_size, entry.name.endswith(".kept"))

    def _unlink(self, path: str) -> None:
        try:
            os.unlink(path)
        except OSError:
            pass
