"""SegmentBytes: read access to the bytes of one segment, wherever they are stored.

Code that reads sealed segments takes SegmentBytes, not a descriptor: reader, footer, walks, inspection, rebuild, backup
and feed. So a sealed segment may come from elsewhere (`segment_store`). Of a file, the calls of `Files` are bound to
the descriptor once, which costs some 0.2 microseconds a read.

Reading raises:

    SegmentGone          the segment no longer exists: its records were moved or deleted
    StoreUnreachable     the store does not answer: the bytes are not damaged, and may be readable in a moment
    SegmentCold          the same, of a segment that has to be recalled first
    OSError              the bytes cannot be read (EIO): the caller adds what it was reading
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from functools import partial
from typing import Final, Protocol

from engine.storage.files import Files


class Where(Enum):
    """Where the bytes of a segment are, the nearest first."""

    LOCAL = "local"
    """A file on this machine."""
    PEER = "peer"
    """Another node."""
    OBJECT = "object"
    """An object store, which answers in milliseconds."""
    COLD = "cold"
    """An archive class of an object store: a read raises SegmentCold until the segment has been recalled."""


class SegmentBytes(Protocol):
    """The bytes of one segment, wherever they are stored. Closed with the last reference to this object."""

    @property
    def where(self) -> Where:
        """Where they are. Does not wait."""

    @property
    def fd(self) -> int:
        """The descriptor of the file on this machine, -1 if there is none."""

    def size(self) -> int:
        """Number of bytes; may grow until the segment is sealed."""

    def read(self, length: int, offset: int, /) -> bytes:
        """`length` bytes, or those up to the end."""

    def read_into(self, targets: Sequence[memoryview], offset: int, /) -> int:
        """Fills the targets as far as there are bytes; returns the number of bytes."""

    def read_many(self, ranges: Sequence[tuple[int, int]], /) -> list[bytes]:
        """The bytes of each (offset, length), as `read`; one request to a store that takes several ranges at once."""

    def try_read_into(self, targets: Sequence[memoryview], offset: int, /) -> int:
        """As `read_into`, but stops instead of waiting for a disk or another machine."""

    def next_data(self, offset: int) -> int:
        """The first offset from here on that may hold anything but zeros."""

    def next_hole(self, offset: int) -> int:
        """The end of the data that `next_data` found."""

    def expect_random(self) -> None:
        """A hint: do not read ahead."""

    def read_ahead(self, offset: int, length: int) -> None:
        """A hint: these bytes will be read soon. Does not wait for them."""

    def forget(self, offset: int, length: int) -> None:
        """A hint: read these bytes from their store next time, not from a cache."""

    def is_gone(self) -> bool:
        """Whether the segment has been removed meanwhile."""

    def sync(self) -> None:
        """Makes all bytes durable. Raises StorageFailed."""


class FileBytes:
    """SegmentBytes of a file that the caller opens and closes."""

    __slots__ = ("_files", "fd", "read", "read_into", "try_read_into")

    where: Final = Where.LOCAL

    def __init__(self, files: Files, fd: int) -> None:
        self._files = files
        self.fd: Final = fd
        self.read: Final[Callable[[int, int], bytes]] = partial(files.pread, fd)
        self.read_into: Final[Callable[[Sequence[memoryview], int], int]] = partial(files.preadv, fd)
        self.try_read_into: Final[Callable[[Sequence[memoryview], int], int]] = partial(files.preadv_cached, fd)

    def size(self) -> int:
        """The file's size in bytes."""
        return self._files.size(self.fd)

    def read_many(self, ranges: Sequence[tuple[int, int]], /) -> list[bytes]:
        """The bytes of each range, one call after the other: the page cache answers, or the disk reads ahead."""
        return [self.read(length, offset) for offset, length in ranges]

    def next_data(self, offset: int) -> int:
        """As `Files.next_data`."""
        return self._files.next_data(self.fd, offset)

    def next_hole(self, offset: int) -> int:
        """As `Files.next_hole`."""
        return self._files.next_hole(self.fd, offset)

    def expect_random(self) -> None:
        """As `Files.expect_random`."""
        self._files.expect_random(self.fd)

    def read_ahead(self, offset: int, length: int) -> None:
        """As `Files.read_ahead`."""
        self._files.read_ahead(self.fd, offset, length)

    def forget(self, offset: int, length: int) -> None:
        """As `Files.drop_cache_range`."""
        self._files.drop_cache_range(self.fd, offset, length)

    def is_gone(self) -> bool:
        """Whether the file no longer has a name."""
        return not self._files.is_linked(self.fd)

    def sync(self) -> None:
        """As `Files.fdatasync`."""
        self._files.fdatasync(self.fd)


class SegmentFile(FileBytes):
    """SegmentBytes of a file that is closed with the last reference to this object."""

    __slots__ = ()

    def __del__(self) -> None:
        self._files.close(self.fd)
