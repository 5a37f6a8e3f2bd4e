"""Two Linux file calls that the `os` module lacks: sync_file_range(2) and fallocate(2). Their door is engine.storage.files.

Both let the GIL go, take plain ints and raise OSError with errno. Offsets and lengths are the kernel's to judge.
"""

import os

from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t


cdef extern from "<fcntl.h>" nogil:
    int c_sync_file_range "sync_file_range"(int fd, int64_t offset, int64_t length, unsigned int flags)
    int c_fallocate "fallocate"(int fd, int mode, int64_t offset, int64_t length)
    unsigned int SYNC_FILE_RANGE_WRITE


cdef int _raise(int number) except -1:
    raise OSError(number, os.strerror(number))


def start_write_back(int fd, int64_t offset, int64_t length):
    """Ask the kernel to begin writing these dirty pages; does not wait, promises nothing, consumes no error."""
    cdef int result
    cdef int number = 0
    with nogil:
        result = c_sync_file_range(fd, offset, length, SYNC_FILE_RANGE_WRITE)
        if result != 0:
            number = errno
    if result != 0:
        _raise(number)


def allocate(int fd, int64_t offset, int64_t length):
    """Reserve disk blocks that read as zeros, and grow the file to hold them (fallocate, mode 0)."""
    cdef int result
    cdef int number = 0
    with nogil:
        result = c_fallocate(fd, 0, offset, length)
        while result != 0 and errno == EINTR:
            result = c_fallocate(fd, 0, offset, length)
        if result != 0:
            number = errno
    if result != 0:
        _raise(number)
