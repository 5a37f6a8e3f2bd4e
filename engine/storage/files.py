"""The few file-system calls of the archive, as one object that a test can replace.

Do not touch an archive's files in any other way: tests/faulty_files.py replaces this object to fail the n-th call, tear
a write, or lose what was not synced. The only exceptions are LMDB and the lock files beside it. Keeps no state and
knows no format.

What an OSError becomes:

    any call that writes, ENOSPC or EDQUOT      StorageFull: room may come back; the same for EMFILE, ENFILE and ENOMEM
    any call that writes, anything else         StorageFailed: final for the writer; see fdatasync
    fdatasync, fsync, write_back                StorageFailed always: after a failed sync the kernel marks the pages
                                                clean, and the next sync says OK and lies (Rebello et al., ATC'20)
    open, pread, preadv, list_directory, …      the OSError itself: the caller knows what it was reading
    create, link on an existing path            FileExistsError: the caller tries another name
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from engine._ext import disk
from engine.errors import StorageError, StorageFailed, StorageFull

if TYPE_CHECKING:
    from typing_extensions import Buffer

IOV_MAX = 1024
"""Buffers that one pwritev or preadv takes (Linux UIO_MAXIOV)."""

ZEROS_BYTES = 1 << 20
"""Bytes that `write_zeros` writes at a time."""

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""No room on the disk, no descriptors, no memory: room may come back."""
_DONT_NEED = os.POSIX_FADV_DONTNEED
_NOT_SUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ESPIPE})


def raise_write_error(error: OSError, doing: str) -> NoReturn:
    """Raises the error of a failed writing call."""
    kind = StorageFull if error.errno in NO_ROOM else StorageFailed
    raise kind(f"{doing}: {error.strerror}") from error


def raise_sync_error(error: OSError, doing: str) -> NoReturn:
    """Raises the error of a failed sync, whatever its number."""
    raise StorageFailed(f"{doing}: {error.strerror}") from error


class SyncThread:
    """Runs `fdatasync` for one caller that does not wait, in a thread that needs no interpreter."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._thread = disk.SyncThread()
        self.begin = self._thread.begin
        """Starts fdatasync of a descriptor, which stays open until `finish`."""
        self.wait = self._thread.wait
        """Waits for so many microseconds, or until another descriptor is readable; whether the sync has ended."""
        self.fileno = self._thread.fileno
        """Of what is readable when a sync has ended and has not been finished."""
        self.close = self._thread.close
        """Waits for the sync that has begun, and ends the thread."""

    def finish(self) -> None:
        """Waits for the sync that has begun. Raises StorageFailed."""
        try:
            self._thread.finish()
        except OSError as error:
            raise_sync_error(error, "fdatasync")


class Files:
    """The calls themselves; one instance serves a process and any number of threads."""

    __slots__ = ()

    def open(self, path: str, flags: int, mode: int = 0o640) -> int:
        """A descriptor, closed on exec."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def create(self, path: str) -> int:
        """A descriptor of a new file; FileExistsError if there is one already."""
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        except FileExistsError:
            raise
        except OSError as error:
            raise_write_error(error, f"create {path}")

    def close(self, fd: int) -> None:
        """Closes the descriptor. Ignores errors of earlier writes: fdatasync reports them."""
        try:
            os.close(fd)
        except OSError:
            pass

    def lock(self, fd: int) -> bool:
        """Takes the advisory lock of this open file until it is closed; False if another process has it."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise_write_error(error, "flock")
        return True

    def is_linked(self, fd: int) -> bool:
        """Whether the open file still has a name."""
        return os.fstat(fd).st_nlink > 0

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int, length: int = -1) -> None:
        """Writes all of the buffers. With a `length` given, StorageError if they hold more or less than that."""
        try:
            count = os.pwritev(fd, buffers[:IOV_MAX] if len(buffers) > IOV_MAX else buffers, offset)
        except OSError as error:
            raise_write_error(error, "pwritev")
        if count != length:
            self._write_rest(fd, buffers, offset, count, length)

    def _write_rest(self, fd: int, buffers: Sequence[Buffer], offset: int, written: int, length: int) -> None:
        """Continues after a short write, and after the first IOV_MAX buffers."""
        views = [memoryview(buffer) for buffer in buffers]
        rest = [view.cast("B") for view in views if view.nbytes]
        total = sum(view.nbytes for view in rest)
        done = 0
        while True:
            done += written
            while rest and written >= rest[0].nbytes:
                written -= rest[0].nbytes
                del rest[0]
            if not rest:
                break
            rest[0] = rest[0][written:]
            try:
                written = os.pwritev(fd, rest[:IOV_MAX], offset + done)
            except OSError as error:
                raise_write_error(error, "pwritev")
            if written == 0:
                raise StorageFailed(f"pwritev: nothing written at {offset + done}")
        if length not in (-1, total):
            raise StorageError(f"the buffers hold {total} bytes and should hold {length}")

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """`length` bytes, or those up to the end of the file."""
        data = os.pread(fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        have = len(data)
        while have < length:
            data = os.pread(fd, length - have, offset + have)
            if not data:
                break
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def preadv(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        """Fills the buffers as far as the file goes; returns the number of bytes."""
        done = 0
        rest = list(buffers)
        while rest:
            count = os.preadv(fd, rest[:IOV_MAX], offset + done)
            if count == 0:
                break
            done += count
            while rest and count >= rest[0].nbytes:
                count -= rest[0].nbytes
                del rest[0]
            if count:
                rest[0] = rest[0][count:]
        return done

    def preadv_cached(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        """As `preadv`, but stops at the end of the page cache instead of waiting for the disk."""
        try:
            return os.preadv(fd, buffers[:IOV_MAX], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                return 0
            raise

    def fdatasync(self, fd: int) -> None:
        """Returns when the file's bytes and its size are on stable storage. An error is final: never call it again."""
        try:
            os.fdatasync(fd)
        except OSError as error:
            raise_sync_error(error, "fdatasync")

    def sync_thread(self) -> SyncThread:
        """A thread for `fdatasync`. Raises OSError."""
        return SyncThread()

    def write_back(self, fd: int, offset: int, length: int) -> None:
        """Starts to write these pages and does not wait, so that fdatasync finds little left. Promises nothing."""
        try:
            disk.start_write_back(fd, offset, length)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise_sync_error(error, "sync_file_range")

    def allocate(self, fd: int, offset: int, length: int) -> None:
        """Reserves blocks that read as zeros, and grows the file's size; without support, only the size grows."""
        try:
            disk.allocate(fd, offset, length)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED or length <= 0:
                raise_write_error(error, "fallocate")
            if self.size(fd) < offset + length:
                self.truncate(fd, offset + length)

    def keep_room(self, fd: int, offset: int, length: int) -> None:
        """Reserves blocks behind a file's end, which stays where it is. Does nothing where that is not supported."""
        try:
            disk.allocate(fd, offset, length, keep_size=True)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise_write_error(error, "fallocate")

    def write_zeros(self, path: str, offset: int, length: int) -> None:
        """Writes zeros over allocated blocks, past the page cache, and waits until the disk has them.

        Overwriting such blocks later needs no block allocation and no journal commit. `offset` and `length` are
        multiples of ZEROS_BYTES or of 4096.
        """
        try:
            fd = os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in _NOT_SUPPORTED:
                return  # a file system without direct I/O gains nothing from this
            raise_write_error(error, "open for direct writing")
        try:
            with mmap.mmap(-1, ZEROS_BYTES) as zeros, memoryview(zeros) as view:
                end = offset + length
                while offset < end:
                    with view[: end - offset] as piece:
                        offset += os.pwrite(fd, piece, offset)
            os.fdatasync(fd)
        except OSError as error:
            raise_write_error(error, "write zeros")
        finally:
            os.close(fd)

    def truncate(self, fd: int, length: int) -> None:
        """Cuts the file, or lengthens it with zeros."""
        try:
            os.ftruncate(fd, length)
        except OSError as error:
            raise_write_error(error, "ftruncate")

    def size(self, fd: int) -> int:
        """The file's size in bytes."""
        return os.fstat(fd).st_size

    def next_data(self, fd: int, offset: int) -> int:
        """The first offset from here on that may hold anything but zeros; the file's size if none does."""
        try:
            return os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return max(offset, self.size(fd))
            return offset

    def next_hole(self, fd: int, offset: int) -> int:
        """The end of the data that `next_data` found; the file's size if only data follows."""
        try:
            return os.lseek(fd, offset, os.SEEK_HOLE)
        except OSError:
            return self.size(fd)

    def expect_random(self, fd: int) -> None:
        """Disables read-ahead: pages of a preallocated file that were read count as data afterwards."""
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        except OSError:
            pass

    def read_ahead(self, fd: int, offset: int, length: int) -> None:
        """Begins to read these bytes into the page cache, and does not wait for them. Only a hint to the kernel."""
        try:
            os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)
        except OSError:
            pass

    def drop_cache(self, fd: int) -> None:
        """Drops this file's clean pages from the page cache: the next read comes from the disk.

        Call it after a failed sync: the cache may then hold pages that the disk lacks. Dirty pages stay.
        """
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            pass

    def identity(self, path: str) -> tuple[int, int] | None:
        """Changes when the name leads to another file or its content changes; None if there is none."""
        try:
            status = os.stat(path)
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    def exists(self, path: str) -> bool:
        """Whether there is a file or directory of this name."""
        return os.path.exists(path)

    def make_directory(self, path: str) -> None:
        """Makes a directory, durable after sync_directory of its parent; no error if there is one."""
        try:
            os.mkdir(path, 0o750)
        except FileExistsError:
            pass
        except OSError as error:
            raise_write_error(error, f"mkdir {path}")

    def link(self, source: str, target: str) -> None:
        """Another name for a file; FileExistsError if the name is taken."""
        try:
            os.link(source, target)
        except FileExistsError:
            raise
        except OSError as error:
            raise_write_error(error, f"link {target}")

    def drop_cache_range(self, fd: int, offset: int, length: int) -> None:
        """Drops the clean pages of these bytes: the next read comes from the disk. Only a hint to the kernel."""
        start = offset & -mmap.PAGESIZE
        try:
            os.posix_fadvise(fd, start, -(-(offset + length - start) // mmap.PAGESIZE) * mmap.PAGESIZE, _DONT_NEED)
        except OSError:
            pass

    def rename(self, source: str, target: str) -> None:
        """Renames, replacing the target; durable after sync_directory."""
        try:
            os.rename(source, target)
        except OSError as error:
            raise_write_error(error, f"rename {source}")

    def unlink(self, path: str) -> None:
        """Removes the name; no error if it is gone already."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise_write_error(error, f"unlink {path}")

    def sync_directory(self, path: str) -> None:
        """Makes creations, renames and removals in this directory durable."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise_write_error(error, f"open {path}")
        try:
            os.fsync(fd)
        except OSError as error:
            raise_sync_error(error, f"sync {path}")
        finally:
            os.close(fd)

    def list_directory(self, path: str) -> list[str]:
        """The names in a directory, in no order."""
        return os.listdir(path)

    def free_bytes(self, path: str) -> int:
        """Bytes of the file system that we may use."""
        status = os.statvfs(path)
        return status.f_bavail * status.f_frsize


def replace_file(files: Files, path: str, content: bytes, *, is_durable: bool = True) -> None:
    """Replaces the content of a small file, all or nothing: the one way to replace a file of an archive.

    Durable when it returns; without `is_durable` a power cut may lose the change (a status, for example). Raises
    StorageFull or StorageFailed.
    """
    temporary = f"{path}.{os.getpid()}.{threading.get_ident()}"
    files.unlink(temporary)
    fd = files.create(temporary)
    try:
        files.pwritev(fd, [content], 0)
        if is_durable:
            files.fdatasync(fd)
    finally:
        files.close(fd)
    files.rename(temporary, path)
    if is_durable:
        files.sync_directory(os.path.dirname(path))
