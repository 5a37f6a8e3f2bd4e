"""A stored instance as a `dicom.sources.Source`: read at any offset, and checked against its checksum in the end."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

from engine.errors import CorruptRecord
from engine.storage.record import crc32c

if TYPE_CHECKING:
    from engine.archive.archive import Archive
    from engine.index.format.types import Instance

_PIECE_BYTES: Final = 1 << 20


class StoredSource:
    """Blocks. What has been read is to be trusted after `finish` only."""

    def __init__(self, archive: Archive, instance: Instance) -> None:
        self._archive = archive
        self._instance = instance
        self.length = instance.position.payload_length
        self._crc = self._checked_bytes = 0

    def read(self, offset: int, count: int) -> memoryview:
        """See `Source`. Raises CorruptRecord."""
        count = max(min(count, self.length - offset), 0)
        target = memoryview(bytearray(count))
        read = functools.partial(self._archive.reader.read_into, target=target, payload_offset=offset)
        try:
            self._archive.following(self._instance, read)
        except CorruptRecord as error:
            self._archive.note_damage(self._instance, error)
            raise
        # Each byte once, in order, whatever is read again or ahead.
        if offset <= self._checked_bytes < offset + count:
            self._crc = crc32c(target[self._checked_bytes - offset :], self._crc)
            self._checked_bytes = offset + count
        return target

    def finish(self) -> None:
        """Reads what has not been read. Raises CorruptRecord if the checksum is not that of what was stored."""
        while self._checked_bytes < self.length:
            self.read(self._checked_bytes, _PIECE_BYTES)
        try:
            self._archive.reader.check(self._instance.position, self._crc)
        except CorruptRecord as error:
            self._archive.note_damage(self._instance, error)
            raise
