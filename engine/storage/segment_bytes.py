"""SegmentBytes: the bytes of one segment, to read, wherever they lie.

Code that reads sealed segments takes SegmentBytes, not a descriptor: reader, footer, walks, inspection, rebuild, backup
and feed. So a sealed segment may come from elsewhere (`segment_store`). Files are the only implementation
now: the calls of `Files` are bound to the descriptor once, which costs some 0.2 microseconds a read.

What reading raises:

    SegmentGone          there is no such segment any more: what lay in it was moved or deleted
    StoreUnreachable     nothing is known of the bytes: they are not damaged, and may be read in a moment
    OSError              these bytes cannot be read where they should be (EIO): the caller says what it was reading

"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from engine.storage.files import Files


class SegmentBytes(Protocol):
    """The bytes of one segment, wherever they lie. Closed when the last reference goes."""

    @property
    def fd(self) -> int:
        """The descriptor of the file on this machine, -1 if there is none."""

    def size(self) -> int:
        """Bytes; those of a segment that is not sealed may grow."""

    def read(self, length: int, offset: int, /) -> bytes:
        """`length` bytes, or those up to the end."""

    def read_into(self, targets: Sequence[memoryview], offset: int, /) -> int:
        """Fills the targets, or as much as there is; returns how many bytes that was."""

    def try_read_into(self, targets: Sequence[memoryview], offset: int, /) -> int:
        """The same, but stops where it would have to wait: for a disk, or for another machine."""

    def next_data(self, offset: int) -> int:
        """The first offset from here on that may hold anything but zeros."""

    def next_hole(self, offset: int) -> int:
        """Up to where what `next_data` found goes."""

    def expect_random(self) -> None:
        """A hint: read no further ahead than asked for."""

    def forget(self, offset: int, length: int) -> None:
        """A hint: the next read of these bytes comes from where they are kept, not from a cache."""

    def is_gone(self) -> bool:
        """Whether the segment has been removed meanwhile."""

    def sync(self) -> None:
        """Makes what is there durable. Raises StorageFailed."""


class FileBytes:
    """SegmentBytes of a file that somebody else has opened and closes."""

    __slots__ = ("_files", "fd", "read", "read_into", "try_read_into")

    def __init__(self, files: Files, fd: int) -> None:
        self._files = files
        self.fd: Final = fd
        self.read: Final[Callable[[int, int], bytes]] = partial(files.pread, fd)
        self.read_into: Final[Callable[[Sequence[memoryview], int], int]] = partial(files.preadv, fd)
        self.try_read_into: Final[Callable[[Sequence[memoryview], int], int]] = partial(files.preadv_cached, fd)

    def size(self) -> int:
        """The file's size in bytes."""
        return self._files.size(self.fd)

    def next_data(self, offset: int) -> int:
        """As `Files.next_data`."""
        return self._files.next_data(self.fd, offset)

    def next_hole(self, offset: int) -> int:
        """As `Files.next_hole`."""
        return self._files.next_hole(self.fd, offset)

    def expect_random(self) -> None:
        """As `Files.expect_random`."""
        self._files.expect_random(self.fd)

    def forget(self, offset: int, length: int) -> None:
        """As `Files.drop_cache_range`."""
        self._files.drop_cache_range(self.fd, offset, length)

    def is_gone(self) -> bool:
        """Whether the file has no name any more."""
        return not self._files.is_linked(self.fd)

    def sync(self) -> None:
        """As `Files.fdatasync`."""
        self._files.fdatasync(self.fd)


class SegmentFile(FileBytes):
    """SegmentBytes of a file that is closed with the last reference to this object."""

    __slots__ = ()

    def __del__(self) -> None:
        self._files.close(self.fd)
