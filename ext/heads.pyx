"""Makes rows of the index from the heads of instance records: engine._ext.heads, whose door is index.apply.bulk.

A rebuild reads millions of heads in the hints of sealed segments (storage/hints.py). Python makes the decisions:
`Gatherer.run` stops at every head that is not simply one more instance of a series in `Gatherer.groups`, and continues
when Python has handled that head. Heads of format 2 come decrypted (storage/encryption.py). The formats are drawn in storage/record.py (head), index/format/entry.py (meta block)
and index/format/keys.py (rows). A checksum covers the bytes; lengths are checked against their end nevertheless.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItem
from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memchr, memcmp, memcpy

cdef enum:
    HEADER_BYTES = 64
    META_BYTES = 44
    LENGTHS_BYTES = 24  # the lengths in the meta block: 0 to 12 and 28 to 40
    ROW_BYTES = 84  # INSTANCE of index/format/keys.py
    TAIL_BYTES = 24  # the end of that: name ids and digest
    KEY_BYTES_MAX = 128
    META_VERSION = 1
    ENCRYPTED_FORMAT = 2
    BLOCK_BYTES = 65536
    TAG_BYTES = 16


cdef class Counter:
    """A series: its next instance id, and the count and bytes of the gathered instances."""

    cdef public uint32_t series_id
    cdef public uint32_t next_id
    cdef public uint64_t count
    cdef public uint64_t payload_bytes

    def __init__(self, uint32_t series_id, uint32_t next_id):
        self.series_id = series_id
        self.next_id = next_id
        self.count = 0
        self.payload_bytes = 0


cdef class HeadGroup:
    """All heads with the same texts: their series, the lowest order to accept, and the common end of their rows."""

    cdef Counter counter
    cdef uint64_t first_stamp
    cdef uint64_t first_tie
    cdef uint8_t tail[TAIL_BYTES]

    def __init__(self, Counter counter not None, uint64_t first_stamp, uint64_t first_tie, bytes tail not None):
        if len(tail) != TAIL_BYTES:
            raise ValueError(f"the end of a row has {len(tail)} bytes, not {TAIL_BYTES}")
        self.counter = counter
        self.first_stamp = first_stamp
        self.first_tie = first_tie
        memcpy(self.tail, PyBytes_AS_STRING(tail), TAIL_BYTES)


cdef inline uint16_t load16(const uint8_t *p) noexcept nogil:
    return <uint16_t>(p[0] | p[1] << 8)


cdef inline uint32_t load32(const uint8_t *p) noexcept nogil:
    return <uint32_t>p[0] | <uint32_t>p[1] << 8 | <uint32_t>p[2] << 16 | <uint32_t>p[3] << 24


cdef inline uint64_t load64(const uint8_t *p) noexcept nogil:
    return <uint64_t>load32(p) | <uint64_t>load32(p + 4) << 32


cdef inline void store32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>value
    p[1] = <uint8_t>(value >> 8)
    p[2] = <uint8_t>(value >> 16)
    p[3] = <uint8_t>(value >> 24)


cdef inline void store64(uint8_t *p, uint64_t value) noexcept nogil:
    store32(p, <uint32_t>value)
    store32(p + 4, <uint32_t>(value >> 32))


cdef inline void store_big32(uint8_t *p, uint32_t value) noexcept nogil:
    p[0] = <uint8_t>(value >> 24)
    p[1] = <uint8_t>(value >> 16)
    p[2] = <uint8_t>(value >> 8)
    p[3] = <uint8_t>value


cdef class Gatherer:
    """Rows for one transaction."""

    cdef readonly dict groups
    """Texts (see `texts_of`) → HeadGroup."""
    cdef readonly dict places
    """SOP Instance UID → the key of its row in `instances`."""
    cdef readonly list rows
    """(key, value) for `instances`."""
    cdef readonly uint64_t record_bytes
    """The bytes of the gathered records in their segment."""

    def __init__(self):
        self.groups = {}
        self.places = {}
        self.rows = []
        self.record_bytes = 0

    def run(self, bytes data not None, Py_ssize_t at, Py_ssize_t end, uint64_t segment_id, Py_ssize_t rows_max):
        """Gathers the heads from `at` on. Returns the offset of the first one that it leaves to the caller, or `end`.

        Also stops at `rows_max` rows. The caller handles the head itself, or adds the missing group to `groups`.
        """
        cdef const uint8_t *base = <const uint8_t *>PyBytes_AS_STRING(data)
        cdef const uint8_t *head
        cdef const uint8_t *meta
        cdef const uint8_t *last_texts = NULL
        cdef Py_ssize_t last_size = 0
        cdef Py_ssize_t head_bytes, size, blob_bytes
        cdef uint64_t stamp, tie, payload_length
        cdef uint32_t payload_crc
        cdef uint8_t *out
        cdef HeadGroup group = None
        cdef Counter counter
        cdef bytes key, where, row, texts = b""
        cdef PyObject *entry
        if end > PyBytes_GET_SIZE(data) or at < 0:
            raise ValueError("the heads end after their bytes")
        while at < end and len(self.rows) < rows_max:
            head = base + at
            head_bytes = measure(head, end - at, &size, &blob_bytes)
            if head_bytes == 0:
                return at
            meta = head + HEADER_BYTES + load16(head + 8)
            # Heads of one series are side by side: compare with the last one before making a key.
            if (
                last_texts == NULL
                or size != last_size
                or memcmp(last_texts, meta, 12) != 0
                or memcmp(last_texts + 28, meta + 28, 12) != 0
                or memcmp(last_texts + META_BYTES, meta + META_BYTES, size) != 0
            ):
                texts = make_texts(meta, size)
                entry = PyDict_GetItem(self.groups, texts)
                if entry == NULL:
                    return at
                group = <HeadGroup>entry
                last_texts = meta
                last_size = size
            stamp = load64(head + 24)
            payload_length = load64(head + 16)
            payload_crc = load32(head + 56)
            tie = <uint64_t>payload_crc << 32 | (payload_length & <uint64_t>0xFFFFFFFF)
            if stamp < group.first_stamp or (stamp == group.first_stamp and tie < group.first_tie):
                return at
            key = PyBytes_FromStringAndSize(<const char *>head + HEADER_BYTES, load16(head + 8))
            if PyDict_GetItem(self.places, key) != NULL:
                return at
            counter = group.counter
            if counter.next_id == 0xFFFFFFFF:
                return at
            where = PyBytes_FromStringAndSize(NULL, 8)
            out = <uint8_t *>PyBytes_AS_STRING(where)
            store_big32(out, counter.series_id)
            store_big32(out + 4, counter.next_id)
            row = PyBytes_FromStringAndSize(NULL, ROW_BYTES + blob_bytes)
            out = <uint8_t *>PyBytes_AS_STRING(row)
            store64(out, stamp)
            store64(out + 8, segment_id)
            memcpy(out + 16, head + 40, 8)  # offset
            store64(out + 24, payload_length)
            memcpy(out + 32, meta + 20, 8)  # pixel data
            memcpy(out + 40, meta + 12, 8)  # received
            store32(out + 48, payload_crc)
            memcpy(out + 52, head + 12, 4)  # meta_length
            if head[4] == ENCRYPTED_FORMAT:
                out[55] |= 0x80  # ENCRYPTED
                payload_length += (payload_length + BLOCK_BYTES - 1) // BLOCK_BYTES * TAG_BYTES
            memcpy(out + 56, head + 8, 2)  # key_length
            memcpy(out + 58, head + 6, 2)  # flags
            memcpy(out + 60, group.tail, TAIL_BYTES)
            memcpy(out + ROW_BYTES, meta + META_BYTES + size, blob_bytes)
            self.places[key] = where
            self.rows.append((where, row))
            counter.next_id += 1
            counter.count += 1
            counter.payload_bytes += load64(head + 16)
            self.record_bytes += (<uint64_t>head_bytes + payload_length + 7) & ~<uint64_t>7
            at += head_bytes
        return at


def texts_of(bytes meta not None):
    """The texts that heads of one series and one sender share, from a whole meta block: the key of `Gatherer.groups`."""
    cdef Py_ssize_t size, blob_bytes
    if not split(<const uint8_t *>PyBytes_AS_STRING(meta), PyBytes_GET_SIZE(meta), &size, &blob_bytes):
        raise ValueError("not the meta block of an instance")
    return make_texts(<const uint8_t *>PyBytes_AS_STRING(meta), size)


cdef bytes make_texts(const uint8_t *meta, Py_ssize_t size):
    cdef bytes texts = PyBytes_FromStringAndSize(NULL, LENGTHS_BYTES + size)
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(texts)
    memcpy(out, meta, 12)
    memcpy(out + 12, meta + 28, 12)
    memcpy(out + LENGTHS_BYTES, meta + META_BYTES, size)
    return texts


cdef bint split(const uint8_t *meta, Py_ssize_t length, Py_ssize_t *size, Py_ssize_t *blob_bytes) noexcept nogil:
    """The lengths of a meta block's texts before the instance level's blob, and of the blob."""
    if length < META_BYTES or meta[0] != META_VERSION:
        return False
    size[0] = (
        <Py_ssize_t>load16(meta + 2) + load16(meta + 4) + load16(meta + 6) + load16(meta + 8)
        + load32(meta + 28) + load32(meta + 32) + load32(meta + 36)
    )
    blob_bytes[0] = load32(meta + 40)
    return META_BYTES + size[0] + blob_bytes[0] <= length


cdef Py_ssize_t measure(
    const uint8_t *head, Py_ssize_t length, Py_ssize_t *size, Py_ssize_t *blob_bytes
) noexcept nogil:
    """The length of the head of an instance with an ordinary UID; 0 for any other head."""
    cdef Py_ssize_t key_length, meta_length, meta_unused
    if length < HEADER_BYTES or memcmp(head, b"FRec", 4) != 0 or head[5] != 1:
        return 0
    if head[4] != 1 and head[4] != ENCRYPTED_FORMAT:
        return 0
    key_length = load16(head + 8)
    meta_unused = load16(head + 10)
    meta_length = load32(head + 12)
    if meta_unused > meta_length or HEADER_BYTES + key_length + meta_length > length:
        return 0
    if not 0 < key_length <= KEY_BYTES_MAX or memchr(head + HEADER_BYTES, 0, key_length) != NULL:
        return 0
    if not split(head + HEADER_BYTES + key_length, meta_length - meta_unused, size, blob_bytes):
        return 0
    return HEADER_BYTES + key_length + meta_length
