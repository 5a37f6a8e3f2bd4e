"""Sends a range of a file to a socket, with bytes before and after it.

Does not open files, nor decide what is sent: `web` does. A message is made in one of two ways:

    | before | length bytes of the file | after |        fill ─► crc, if it must be checked ─► send ─► rest
    | before | after |   and the file                     refer ─────────────────────────────► send ─► rest

`fill` copies: one read, one send. The buffer is used again for each message, so the bytes are still in the processor's
cache when the kernel takes them. `refer` lets the kernel send the pages of the file (sendfile), which nobody reads: half a
megabyte then costs a third.

Nothing here waits: it takes only what is in the page cache, and returns the bytes that the kernel does not take.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from crc32c_impl cimport crc32c_update


cdef extern from *:
    """
    #include <sys/syscall.h>
    #include <unistd.h>
    #ifndef SYS_cachestat
    #define SYS_cachestat 451  /* Linux 6.5; the same number on all machines */
    #endif
    """
    const long SYS_cachestat

cdef extern from "<unistd.h>" nogil:
    long syscall(long number, ...)
    long sysconf(int name)
    int _SC_PAGESIZE
    ssize_t pread(int fd, void* data, size_t length, int64_t offset)

cdef extern from "<sys/stat.h>" nogil:
    struct stat_t "stat":
        int64_t st_size
    int fstat(int fd, stat_t* found)

cdef extern from "<sys/sendfile.h>" nogil:
    ssize_t sendfile(int to, int fd, int64_t* offset, size_t length)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void* data, size_t length, int flags)
    int MSG_DONTWAIT, MSG_MORE, MSG_NOSIGNAL

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec* vectors, int count, int64_t offset, int flags)
    int RWF_NOWAIT


cdef struct CachedPages:
    # struct cachestat of linux/mman.h
    uint64_t cached, dirty, written_back, evicted, recently_evicted


cdef class SendBuffer:
    """A buffer for messages to sockets. For one thread."""

    cdef uint8_t* data
    cdef readonly Py_ssize_t capacity
    """The longest message, in bytes."""
    cdef readonly Py_ssize_t length
    """Bytes of the current message."""
    cdef Py_ssize_t first
    cdef Py_ssize_t count
    """Bytes of the file, from `first` of the message on."""
    cdef int fd
    """Of the file, if the message refers to it; otherwise -1: they are in the buffer."""
    cdef int64_t offset

    def __cinit__(self, Py_ssize_t capacity):
        self.data = <uint8_t*>malloc(max(capacity, 1))
        if self.data == NULL:
            raise MemoryError
        self.capacity = capacity

    def __dealloc__(self):
        free(self.data)

    def lay_out(self, bytes before not None, Py_ssize_t count, bytes after not None):
        """The same for `count` bytes that the caller writes into the returned view, before it uses the message."""
        cdef Py_ssize_t before_size = PyBytes_GET_SIZE(before), after_size = PyBytes_GET_SIZE(after)
        self.length = 0
        if count < 0 or count > self.capacity - before_size - after_size:
            raise ValueError("the buffer is too small for this message")
        memcpy(self.data, PyBytes_AS_STRING(before), before_size)
        memcpy(self.data + before_size + count, PyBytes_AS_STRING(after), after_size)
        self.first, self.count, self.fd = before_size, count, -1
        self.length = before_size + count + after_size
        return memoryview(self)[before_size:before_size + count]

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.length, 0, flags)

    def fill(self, bytes before not None, int fd, int64_t offset, Py_ssize_t count, bytes after not None):
        """Fills the buffer with a message. Returns False if not all `count` bytes at `offset` are in the page cache.

        Raises ValueError for a message that is longer than the buffer.
        """
        cdef Py_ssize_t before_size = PyBytes_GET_SIZE(before), after_size = PyBytes_GET_SIZE(after)
        self.length = 0
        if count < 0 or offset < 0 or count > self.capacity - before_size - after_size:
            raise ValueError("the buffer is too small for this message")
        memcpy(self.data, PyBytes_AS_STRING(before), before_size)
        if not read_cached(self.data + before_size, fd, offset, count):
            return False
        memcpy(self.data + before_size + count, PyBytes_AS_STRING(after), after_size)
        self.first, self.count, self.fd = before_size, count, -1
        self.length = before_size + count + after_size
        return True

    def refer(self, bytes before not None, int fd, int64_t offset, Py_ssize_t count, bytes after not None):
        """As `fill`, but the kernel sends the bytes from the file, which must stay open until the message is sent.

        Returns False also if the kernel does not say what is in the page cache (before Linux 6.5, or a file of another
        owner).
        """
        cdef Py_ssize_t before_size = PyBytes_GET_SIZE(before), after_size = PyBytes_GET_SIZE(after)
        self.length = 0
        if count < 0 or offset < 0 or count > self.capacity - before_size - after_size:
            raise ValueError("the buffer is too small for this message")
        if not is_cached(fd, offset, count):
            return False
        memcpy(self.data, PyBytes_AS_STRING(before), before_size)
        memcpy(self.data + before_size, PyBytes_AS_STRING(after), after_size)
        self.first, self.count, self.fd, self.offset = before_size, count, fd, offset
        self.length = before_size + count + after_size
        return True

    def crc(self):
        """crc32c of the bytes of the file, which `fill` has read."""
        cdef uint32_t value
        if not self.length or self.fd >= 0:
            raise ValueError("there is no message in the buffer")
        with nogil:
            value = crc32c_update(0, self.data + self.first, self.count)
        return value

    def send(self, int fd):
        """Sends the message. Returns the number of bytes that the kernel took; the transport handles socket errors."""
        cdef Py_ssize_t sent
        if self.fd >= 0:
            with nogil:
                sent = self.send_by_reference(fd)
            return sent
        return send_some(fd, self.data, self.length, 0)

    cdef Py_ssize_t send_by_reference(self, int fd) noexcept nogil:
        cdef Py_ssize_t sent = send_some(fd, self.data, self.first, MSG_MORE), file_sent = 0
        cdef ssize_t got
        cdef int64_t at = self.offset
        if sent < self.first:
            return sent
        while file_sent < self.count:
            got = sendfile(fd, self.fd, &at, self.count - file_sent)
            if got < 0 and errno == EINTR:
                continue
            if got <= 0:
                return sent + file_sent
            file_sent += got
        sent += file_sent
        return sent + send_some(fd, self.data + self.first, self.length - sent, 0)

    def rest(self, Py_ssize_t sent):
        """The message from `sent` on, as a copy. Raises OSError if the file can no longer be read."""
        cdef Py_ssize_t file_sent
        cdef bytes part
        if not 0 <= sent <= self.length:
            raise ValueError("the message is not so long")
        if self.fd < 0:
            return PyBytes_FromStringAndSize(<char*>self.data + sent, self.length - sent)
        before = PyBytes_FromStringAndSize(<char*>self.data, self.first)[sent:]
        file_sent = min(max(sent - self.first, 0), self.count)
        part = PyBytes_FromStringAndSize(NULL, self.count - file_sent)
        if not read_whole(PyBytes_AS_STRING(part), self.fd, self.offset + file_sent, self.count - file_sent):
            raise OSError(EIO, "the bytes can no longer be read")
        after = PyBytes_FromStringAndSize(<char*>self.data + self.first, self.length - self.first - self.count)
        return before + part + after[max(sent - self.first - self.count, 0):]


cdef Py_ssize_t send_some(int fd, const uint8_t* data, Py_ssize_t length, int flags) noexcept nogil:
    """The number of bytes that the kernel took."""
    cdef ssize_t sent
    while length:
        sent = c_send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL | flags)
        if sent >= 0:
            return sent
        if errno != EINTR:
            break
    return 0


cdef bint is_cached(int fd, int64_t offset, Py_ssize_t count) noexcept nogil:
    """Whether the page cache has all pages of a range of a file."""
    cdef CachedPages pages
    cdef uint64_t stretch[2]
    cdef int64_t page = sysconf(_SC_PAGESIZE)
    cdef stat_t found
    if fstat(fd, &found) != 0 or offset > found.st_size - count:
        return False
    if not count:
        return True
    stretch[0] = offset
    stretch[1] = count
    if syscall(SYS_cachestat, fd, stretch, &pages, 0) != 0:
        return False
    return pages.cached >= <uint64_t>((offset + count - 1) // page - offset // page + 1)


cdef bint read_whole(char* target, int fd, int64_t offset, Py_ssize_t count) noexcept nogil:
    cdef ssize_t got
    while count:
        got = pread(fd, target, count, offset)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            return False
        target += got
        offset += got
        count -= got
    return True


cdef bint read_cached(uint8_t* target, int fd, int64_t offset, Py_ssize_t count) noexcept nogil:
    """Reads from the page cache. Returns whether all bytes were there."""
    cdef iovec vector
    cdef ssize_t got
    while count:
        vector.iov_base = target
        vector.iov_len = count
        got = preadv2(fd, &vector, 1, offset, RWF_NOWAIT)
        if got < 0 and errno == EINTR:
            continue
        if got <= 0:
            return False
        target += got
        offset += got
        count -= got
    return True
