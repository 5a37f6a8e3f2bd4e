"""CRC-32C for other extensions: `from crc32c_impl cimport crc32c_update`. Header only; see crc32c_impl.h."""

from libc.stdint cimport uint8_t, uint32_t


cdef extern from "crc32c_impl.h" nogil:
    int crc32c_has_hardware
    uint32_t crc32c_update(uint32_t crc, const uint8_t *data, size_t count) noexcept
    uint32_t crc32c_lanes(uint32_t crc, const uint8_t *data, size_t count) noexcept
    uint32_t crc32c_software(uint32_t crc, const uint8_t *data, size_t count) noexcept
