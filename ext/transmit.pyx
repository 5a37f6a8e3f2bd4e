"""The sending side of one association: P-DATA-TF framing laid around the bytes as they are read from disk.

Does not read files, nor decide what is sent: `dimse.assembly` is its door.

A frame is one stretch of memory that goes to the socket in one write. `layout` puts the PDU and PDV headers
(PS3.8 9.3.5) where they belong and gives back views of the gaps between; a scattered read fills these, so a
stored data set reaches the socket with one copy and is never moved:

    | prefix (the command's own PDU) | 12 | fragment | 12 | fragment | … | 12 | last fragment |

Every fragment has an even length (PS3.8 9.3.1): a data set of odd length is followed by one NUL, which is in no gap.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from crc32c_impl cimport crc32c_update


cdef inline void put_big32(uint8_t* p, uint32_t value) noexcept nogil:
    p[0] = value >> 24
    p[1] = (value >> 16) & 0xFF
    p[2] = (value >> 8) & 0xFF
    p[3] = value & 0xFF


cdef inline void put_header(uint8_t* p, uint32_t fragment, uint8_t context_id, uint8_t control) noexcept nogil:
    p[0] = 4
    p[1] = 0
    put_big32(p + 2, fragment + 6)
    put_big32(p + 6, fragment + 2)
    p[10] = context_id
    p[11] = control


def fragment_bytes(Py_ssize_t pdu_length_max, Py_ssize_t ours):
    """The longest even fragment that both the peer's maximum length (0: no limit) and `ours` allow.

    The maximum length counts the PDV items with their headers, not the PDU header (PS3.8 D.1).
    """
    cdef Py_ssize_t limit = ours if pdu_length_max == 0 or pdu_length_max > ours else pdu_length_max
    return max((limit - 6) & ~1, 2) if limit > 7 else 1


def p_data_tf(Py_ssize_t context_id, bint is_command, bytes payload not None, Py_ssize_t fragment):
    """A short command or data set as one or more P-DATA-TF of at most `fragment` bytes each."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(payload)
    cdef Py_ssize_t count = 1 if size == 0 else (size + fragment - 1) // fragment
    cdef bytearray out = bytearray(size + 12 * count)
    cdef uint8_t[::1] view = out
    cdef uint8_t* p = &view[0]
    cdef const uint8_t* source = <const uint8_t*>PyBytes_AS_STRING(payload)
    cdef Py_ssize_t at = 0, length
    cdef uint8_t control = 1 if is_command else 0
    while count:
        count -= 1
        length = size - at if size - at < fragment else fragment
        put_header(p, length, context_id, control | (2 if count == 0 else 0))
        memcpy(p + 12, source + at, length)
        p += 12 + length
        at += length
    return bytes(out)


cdef class Frame:
    """One send buffer; it may be laid out again when the socket has taken all of it."""

    cdef uint8_t* data
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t length
    """Bytes laid out: what is to be sent."""
    cdef Py_ssize_t first
    cdef Py_ssize_t fragment
    cdef Py_ssize_t payload

    def __cinit__(self, Py_ssize_t capacity):
        self.data = <uint8_t*>malloc(capacity)
        if self.data == NULL:
            raise MemoryError
        self.capacity = capacity

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.length, 0, flags)

    @staticmethod
    def room_for(Py_ssize_t prefix, Py_ssize_t payload, Py_ssize_t fragment):
        """Bytes that a frame must hold for so long a prefix and payload, and for a NUL behind it."""
        return prefix + payload + 12 * ((payload + fragment - 1) // fragment + 1)

    def layout(self, bytes prefix not None, Py_ssize_t payload, Py_ssize_t fragment, uint8_t context_id, bint is_last):
        """Writes prefix and headers for `payload` bytes of a data set; returns views of the gaps, in order.

        `is_last`: the payload ends the data set, and is padded to an even length. Raises ValueError when the frame is
        too small.
        """
        cdef Py_ssize_t prefix_length = PyBytes_GET_SIZE(prefix)
        cdef Py_ssize_t at = prefix_length, left = payload, length, padding
        cdef list gaps = []
        if payload < 0 or fragment < 1:
            raise ValueError("payload and fragment must not be negative")
        if Frame.room_for(prefix_length, payload, fragment) > self.capacity:
            raise ValueError("the frame is too small for this payload")
        memcpy(self.data, PyBytes_AS_STRING(prefix), prefix_length)
        self.first = prefix_length
        self.fragment = fragment
        self.payload = payload
        self.length = self.capacity
        whole = memoryview(self)
        while True:
            length = left if left < fragment else fragment
            left -= length
            # Of odd length is only the last one: others are as long as `fragment`, which is even unless it is 1.
            padding = 1 if is_last and length & 1 and length < fragment else 0
            put_header(self.data + at, length + padding, context_id, 2 if left == 0 and is_last else 0)
            at += 12
            if length:
                gaps.append(whole[at:at + length])
            at += length
            if padding:
                self.data[at] = 0
                at += 1
            if left == 0:
                break
        self.length = at
        return gaps

    def crc(self, uint32_t value=0):
        """crc32c of the payload bytes in the gaps, carried on from `value`."""
        cdef Py_ssize_t left = self.payload, length
        cdef const uint8_t* p = self.data + self.first
        with nogil:
            while left:
                length = left if left < self.fragment else self.fragment
                value = crc32c_update(value, p + 12, length)
                p += 12 + length
                left -= length
        return value
