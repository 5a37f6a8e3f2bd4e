"""Decrypts the heads of format 2 in a footer, in place, for a rebuild: engine._ext.encrypted_heads.

Its door is storage.encryption, which draws the format; the cipher is OpenSSL's, called through `cryptography`. This module
spares the objects that Python would make for each head. Lengths are checked against the end of the bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from cryptography.exceptions import InvalidTag

cdef enum:
    HEADER_BYTES = 64
    CRC_AT = 56        # of the payload
    HEAD_CRC_AT = 60
    KEY_ID_BYTES = 8
    PREFIX_BYTES = 24  # id of the key, salt
    NONCE_BYTES = 12
    LEAST_BYTES = 44   # of an area whose meta is empty
    ENCRYPTED_FORMAT = 2
    KIND_AT = 5
    SHREDDED = 0xFF    # storage.record


cdef inline uint64_t load(const uint8_t* p, int count) noexcept nogil:
    cdef uint64_t value = 0
    while count:
        count -= 1
        value = value << 8 | p[count]
    return value


cdef inline void store(uint8_t* p, uint64_t value, int count) noexcept nogil:
    cdef int number
    for number in range(count):
        p[number] = <uint8_t>(value >> (8 * number))


def has_encrypted(bytes data not None, Py_ssize_t at, Py_ssize_t count):
    """Whether any of the `count` heads from `at` on has format 2. False too if they are cut off before one."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef const uint8_t* head
    while count and 0 <= at and size - at >= HEADER_BYTES:
        head = <const uint8_t*>PyBytes_AS_STRING(data) + at
        if head[4] == ENCRYPTED_FORMAT:
            return True
        at += HEADER_BYTES + load(head + 8, 2) + load(head + 12, 4)
        count -= 1
    return False


def open_heads(bytes data not None, Py_ssize_t at, Py_ssize_t count, uint64_t segment_id, decrypt_of):
    """A copy of `data` with the `count` heads from `at` on decrypted; the segment offset of the first head that is not
    authentic, if there is one.

    `decrypt_of(key_id)` returns a function of nonce, ciphertext and associated data, or None for a key that was destroyed:
    its heads get the kind SHREDDED and stay as they are. Raises what these two raise, but InvalidTag, and ValueError if the
    heads are cut off.
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), key_bytes, area_bytes, unused, length
    cdef uint8_t* head
    cdef uint8_t* area
    cdef uint8_t* out
    cdef uint8_t key_id[KEY_ID_BYTES]
    cdef bytes nonce, associated, ciphertext, content
    cdef bytes opened
    cdef object decrypt = None
    cdef bint is_known = False
    if at < 0 or size < HEADER_BYTES:
        raise ValueError("the heads are cut off")
    opened = PyBytes_FromStringAndSize(PyBytes_AS_STRING(data), size)  # nobody else has it until it is returned
    while count:
        count -= 1
        if size - at < HEADER_BYTES:
            raise ValueError("the heads are cut off")
        head = <uint8_t*>PyBytes_AS_STRING(opened) + at
        key_bytes = load(head + 8, 2)
        unused = load(head + 10, 2)
        area_bytes = load(head + 12, 4)
        if size - at - HEADER_BYTES < key_bytes + area_bytes:
            raise ValueError("the heads are cut off")
        at += HEADER_BYTES + key_bytes + area_bytes
        if head[4] != ENCRYPTED_FORMAT:
            continue
        if area_bytes - unused < LEAST_BYTES:
            raise ValueError("a head is too short to be encrypted")
        area = head + HEADER_BYTES + key_bytes
        if not is_known or memcmp(key_id, area, KEY_ID_BYTES) != 0:
            memcpy(key_id, area, KEY_ID_BYTES)
            decrypt = decrypt_of(PyBytes_FromStringAndSize(<char*>area, KEY_ID_BYTES))
            is_known = True
        if decrypt is None:
            head[KIND_AT] = SHREDDED
            continue
        nonce = PyBytes_FromStringAndSize(<char*>area + KEY_ID_BYTES, NONCE_BYTES)
        ciphertext = PyBytes_FromStringAndSize(<char*>area + PREFIX_BYTES, area_bytes - unused - PREFIX_BYTES)
        associated = PyBytes_FromStringAndSize(NULL, 8 + HEADER_BYTES + key_bytes + PREFIX_BYTES)
        out = <uint8_t*>PyBytes_AS_STRING(associated)
        store(out, segment_id, 8)
        memcpy(out + 8, head, HEADER_BYTES + key_bytes + PREFIX_BYTES)
        memset(out + 8 + HEAD_CRC_AT, 0, 4)
        try:
            content = decrypt(nonce, ciphertext, associated)
        except InvalidTag:
            return load(head + 40, 8)
        length = PyBytes_GET_SIZE(content) - 4
        if length < 0 or length > area_bytes or area_bytes - length > 0xFFFF:
            raise ValueError("a head has an impossible length")
        memcpy(area, PyBytes_AS_STRING(content), length)
        memset(area + length, 0, area_bytes - length)
        store(head + 10, area_bytes - length, 2)
        memcpy(head + CRC_AT, PyBytes_AS_STRING(content) + length, 4)
    return opened
