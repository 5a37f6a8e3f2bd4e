"""Sends a range of a file to a socket, with bytes before and after it: one read, one send.

Does not open files, nor decide what is sent: `web` does. The buffer is used again for each message, so the bytes are
still in the processor's cache when the kernel takes them:

    | before | length bytes of the file | after |        fill ─► crc, if it must be checked ─► send ─► rest

Nothing here waits: it reads only from the page cache, and returns the bytes that the kernel does not take.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from crc32c_impl cimport crc32c_update


cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void* data, size_t length, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec* vectors, int count, int64_t offset, int flags)
    int RWF_NOWAIT


cdef class SendBuffer:
    """A buffer for messages to sockets. For one thread."""

    cdef uint8_t* data
    cdef readonly Py_ssize_t capacity
    """The longest message, in bytes."""
    cdef readonly Py_ssize_t length
    """Bytes of the current message."""
    cdef Py_ssize_t first
    cdef Py_ssize_t count

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
        self.first, self.count = before_size, count
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
        self.first, self.count = before_size, count
        self.length = before_size + count + after_size
        return True

    def crc(self):
        """crc32c of the bytes of the file."""
        cdef uint32_t value
        if not self.length:
            raise ValueError("there is no message in the buffer")
        with nogil:
            value = crc32c_update(0, self.data + self.first, self.count)
        return value

    def send(self, int fd):
        """Sends the message. Returns the number of bytes that the kernel took; the transport handles socket errors."""
        cdef ssize_t sent
        while self.length:
            sent = c_send(fd, self.data, self.length, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent >= 0:
                return sent
            if errno != EINTR:
                break
        return 0

    def rest(self, Py_ssize_t sent):
        """The message from `sent` on, as a copy."""
        if not 0 <= sent <= self.length:
            raise ValueError("the message is not so long")
        return PyBytes_FromStringAndSize(<char*>self.data + sent, self.length - sent)


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
