"""CRC-32C of a buffer: the Python face of crc32c_impl.h. Its door is engine.storage.record.

Accepts any contiguous buffer. Releases the GIL above 4 KiB, where the sum takes longer than taking the GIL back.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uint32_t

from crc32c_impl cimport crc32c_has_hardware, crc32c_lanes, crc32c_software, crc32c_update


def crc32c(object buffer, uint32_t value=0):
    """The CRC-32C of `buffer`, continuing from `value` (0 or the result for the bytes before)."""
    cdef Py_buffer view
    cdef uint32_t crc
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    if view.len > 4096:
        with nogil:
            crc = crc32c_update(value, <const uint8_t *> view.buf, <size_t> view.len)
    else:
        crc = crc32c_update(value, <const uint8_t *> view.buf, <size_t> view.len)
    PyBuffer_Release(&view)
    return crc


def crc32c_by_table(object buffer, uint32_t value=0):
    """The same by the software path, on any processor: for tests and comparisons."""
    cdef Py_buffer view
    cdef uint32_t crc
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    with nogil:
        crc = crc32c_software(value, <const uint8_t *> view.buf, <size_t> view.len)
    PyBuffer_Release(&view)
    return crc


def crc32c_by_lanes(object buffer, uint32_t value=0):
    """The same by the path of processors without AVX-512: for tests and comparisons."""
    cdef Py_buffer view
    cdef uint32_t crc
    PyObject_GetBuffer(buffer, &view, PyBUF_SIMPLE)
    with nogil:
        crc = crc32c_lanes(value, <const uint8_t *> view.buf, <size_t> view.len)
    PyBuffer_Release(&view)
    return crc


def has_hardware():
    """Whether this processor computes it in hardware (SSE4.2)."""
    return crc32c_has_hardware != 0
