"""Walks data elements one at a time: engine._ext.elements, whose door is dicom.elements.

`ElementReader` is for slow paths, `blob_items` for readers of the blobs of ext/scan.pyx. The layout of the bytes is in
dataset.pxd.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cursor cimport Cursor, holds, u32
from dataset cimport (
    ENCAPSULATED, ITEM, MISPLACED, NESTING_MAX, OB_OR_OW, OK, OVERRUN, OW_OR_NUMBERS, TOO_DEEP, TOO_LONG, TOO_MANY,
    UNDEFINED_LENGTH, US_OR_SS, VR_OW, VR_SQ, VR_UN, VR_US, Budget, Dictionary, Entry, Header, dictionary_vr,
    item_encoding, read_header, root_encoding, skip_undefined,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t

cdef enum:
    ENTRY_BYTES = 8  # of a blob: tag and length before each value

cdef dict vr_names = {}

REASONS = {
    OVERRUN: "ends within an element",
    MISPLACED: "has something else where an item or its delimiter must stand",
    TOO_DEEP: "nests sequences too deeply",
    TOO_LONG: "has a length that the target encoding cannot express",
    ENCAPSULATED: "has encapsulated Pixel Data where only native can be",
    TOO_MANY: "has more elements than are taken",
}


class Malformed(ValueError):
    """Bytes that are no data set. `ends_early`: with more bytes they may be."""

    def __init__(self, status, offset):
        super().__init__(f"the data set {REASONS[status]} at offset {offset}")
        self.offset = offset
        self.ends_early = status == OVERRUN


cdef int fail(int status, Py_ssize_t offset) except -1:
    raise Malformed(status, offset)


def blob_items(const uint8_t[::1] blob_):
    """A level's blob as tag → value; raises Malformed."""
    cdef Cursor cursor
    cdef Py_ssize_t offset = 0
    cdef uint32_t length
    cdef dict items = {}
    cursor.data = &blob_[0] if blob_.shape[0] else NULL
    cursor.end = blob_.shape[0]
    while offset < cursor.end:
        if not holds(&cursor, offset, ENTRY_BYTES):
            fail(OVERRUN, offset)
        length = u32(&cursor, offset + 4, False)
        if not holds(&cursor, offset + ENTRY_BYTES, length):
            fail(OVERRUN, offset)
        items[u32(&cursor, offset, False)] = PyBytes_FromStringAndSize(
            <const char *>cursor.data + offset + ENTRY_BYTES, length
        )
        offset += ENTRY_BYTES + length
    return items


# one element at a time -------------------------------------------------------------------------------------------


def root_encoding_of(const uint8_t[::1] data, int encoding):
    """The actual encoding of a data set, judged by its beginning."""
    cdef Cursor cursor
    cursor.data = &data[0] if data.shape[0] else NULL
    cursor.end = data.shape[0]
    return root_encoding(&cursor, encoding)


def item_encoding_of(const uint8_t[::1] value, int encoding):
    """The encoding within an item with this value."""
    cdef Cursor cursor
    cursor.data = &value[0] if value.shape[0] else NULL
    cursor.end = value.shape[0]
    return item_encoding(&cursor, 0, cursor.end, encoding)


@cython.auto_pickle(False)
cdef class ElementReader:
    """Reads elements one at a time; `dictionary` is dicom.tags.packed()."""

    cdef bytes dictionary_bytes  # what `dictionary` points into
    cdef Dictionary dictionary

    def __cinit__(self, bytes dictionary not None):
        self.dictionary_bytes = dictionary
        self.dictionary.entries = <const Entry *>PyBytes_AS_STRING(dictionary)
        self.dictionary.count = len(dictionary) // sizeof(Entry)

    def read(self, const uint8_t[::1] data, Py_ssize_t offset, Py_ssize_t end, int encoding):
        """(tag, VR, value offset, value length, is undefined length, offset after it) of the element or item there."""
        cdef Cursor cursor
        cdef Header header
        cdef Budget budget
        cdef Py_ssize_t after
        cdef Py_ssize_t length
        cdef int status
        budget.nesting_max = NESTING_MAX
        budget.elements_left = data.shape[0]
        cursor.data = &data[0] if data.shape[0] else NULL
        cursor.end = min(end, data.shape[0])
        if read_header(&cursor, offset, encoding, &header) != OK:
            fail(OVERRUN, offset)
        after = header.value_offset
        if header.length == UNDEFINED_LENGTH:
            # Opaque: the bytes that it steps over are checked when they are walked themselves.
            status = skip_undefined(&cursor, &after, encoding, 2 if header.tag == ITEM else 1, True, &budget)
            if status != OK:
                fail(status, after)
            length = after - 8 - header.value_offset
        else:
            length = header.length
            if not holds(&cursor, after, length):
                fail(OVERRUN, offset)
            after += length
        vr = vr_name(&self.dictionary, &header)
        return header.tag, vr, header.value_offset, length, header.length == UNDEFINED_LENGTH, after


cdef str vr_name(const Dictionary *dictionary, const Header *header):
    """The VR on the wire, else the dictionary's, the open choices as dicom.tags.vr_of; SQ for UN of undefined length."""
    cdef uint16_t vr = header.vr
    if header.tag >> 16 == 0xFFFE:
        return ""
    if vr == 0:
        vr = dictionary_vr(dictionary, header.tag)
        if vr == US_OR_SS:
            vr = VR_US
        elif vr == OB_OR_OW or vr == OW_OR_NUMBERS:
            vr = VR_OW
    if vr == VR_UN and header.length == UNDEFINED_LENGTH:
        vr = VR_SQ
    name = vr_names.get(vr)
    if name is None:
        name = vr_names[vr] = chr(vr >> 8) + chr(vr & 0xFF)
    return name
