# Bounds-checked reads over borrowed bytes. Header only: `from cursor cimport Cursor, holds, u32`.
#
# A Cursor has the start of the bytes and the first offset that must not be read. Nothing here allocates or raises, or
# holds a Python object. Call `holds(cursor, offset, count)` once, then u16/u32 within that range. No arithmetic of ours
# overflows: offsets are signed 64 bit and lengths on the wire 32 bit.

from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef struct Cursor:
    const uint8_t *data
    Py_ssize_t end


cdef inline bint holds(const Cursor *cursor, Py_ssize_t offset, Py_ssize_t count) noexcept nogil:
    """Whether `count` bytes may be read at `offset`."""
    return 0 <= offset <= cursor.end and 0 <= count <= cursor.end - offset


cdef inline uint16_t u16(const Cursor *cursor, Py_ssize_t offset, bint big_endian) noexcept nogil:
    """Two bytes that `holds` has granted."""
    cdef const uint8_t *p = cursor.data + offset
    if big_endian:
        return <uint16_t>(p[0] << 8 | p[1])
    return <uint16_t>(p[1] << 8 | p[0])


cdef inline uint32_t u32(const Cursor *cursor, Py_ssize_t offset, bint big_endian) noexcept nogil:
    """Four bytes that `holds` has granted."""
    cdef const uint8_t *p = cursor.data + offset
    if big_endian:
        return <uint32_t>p[0] << 24 | <uint32_t>p[1] << 16 | <uint32_t>p[2] << 8 | p[3]
    return <uint32_t>p[3] << 24 | <uint32_t>p[2] << 16 | <uint32_t>p[1] << 8 | p[0]
