"""Converts a data set of any length to another encoding, through a window: engine._ext.reencoder.

Its door is dicom.reencoding. Knows no files: the caller passes the bytes that it requests, and room for the result.
reencode.pxd describes what is kept of a data set and which faults are tolerated.

    measure   reads the headers, returns the offset to read next, and skips values; then `size` is known
    write     reads everything, in order
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from dataset cimport OK, ROOT_LOOK, TOO_MANY, Dictionary, Entry, root_encoding
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, realloc
from reencode cimport (
    FULL, LENGTHS_MAX, LOOK_BYTES, MEASURED, NO_OFFSET, REPLAYED, STARVED, STEP_BYTES, Walk, begin, go_on, move_window,
)

from engine._ext.elements import Malformed

cdef enum:
    LENGTHS_ROOM = 256

WINDOW_BYTES_MIN = max(LOOK_BYTES, ROOT_LOOK)
TARGET_BYTES_MIN = 2 * STEP_BYTES


@cython.auto_pickle(False)
cdef class Reencoder:
    """One data set of `length` bytes; see dicom.reencoding."""

    cdef Walk walk
    cdef Dictionary dictionary
    cdef bytes dictionary_bytes  # what `dictionary` points into
    cdef Py_ssize_t start  # of the window, in the data set
    cdef Py_ssize_t length
    cdef int encoding
    cdef bint is_measuring
    cdef readonly Py_ssize_t size
    """Bytes of the result, after `measure`."""
    cdef readonly Py_ssize_t odd_offset
    """Offset of the root's last element with a plain value of odd length, or -1; after `measure`."""

    def __cinit__(self, bytes dictionary not None, Py_ssize_t length, int encoding, int target_encoding):
        self.dictionary_bytes = dictionary
        self.dictionary.entries = <const Entry *>PyBytes_AS_STRING(dictionary)
        self.dictionary.count = len(dictionary) // sizeof(Entry)
        self.walk.dictionary = &self.dictionary
        self.walk.target_encoding = target_encoding
        self.walk.mode = MEASURED
        self.walk.target = NULL
        self.walk.target_room = 0
        self.walk.size_max = <Py_ssize_t>1 << 62
        self.walk.pads_odd = False
        self.walk.odd_offset = self.walk.tail_odd_offset = NO_OFFSET
        self.walk.lengths = NULL
        self.walk.lengths_room = 0
        self.walk.found_bits_allocated = self.walk.found_pixel_representation = 0
        self.length = length
        self.encoding = encoding
        self.start = -1
        self.is_measuring = True
        self.size = self.odd_offset = -1

    def __dealloc__(self):
        free(self.walk.lengths)

    def measure(self, const uint8_t[::1] window, Py_ssize_t start):
        """The offset to read next, given the data set from `start` on; -1 if all is known. Raises Malformed."""
        cdef int status
        self.enter(window, start)
        while True:
            with nogil:
                status = go_on(&self.walk)
            if status == FULL:
                self.make_room()
            elif status == STARVED:
                return self.start + self.walk.offset
            elif status == OK or self.walk.may_be_tail:
                break
            else:
                raise Malformed(status, self.start + self.walk.offset)
        if status != OK:
            self.length = self.start + self.walk.tail_offset
            self.walk.size = self.walk.tail_size
            self.walk.lengths_count = self.walk.tail_lengths
            self.walk.odd_offset = self.walk.tail_odd_offset
        elif not self.walk.is_found:
            self.walk.found_bits_allocated = self.walk.open[0].bits_allocated
            self.walk.found_pixel_representation = self.walk.open[0].pixel_representation
        if self.walk.odd_offset != NO_OFFSET:
            self.walk.odd_offset += self.start  # relative to the first window
            self.odd_offset = self.walk.odd_offset
            self.walk.pads_odd = self.walk.size & 1
        self.size = self.walk.size + self.walk.pads_odd
        self.is_measuring = False
        self.start = -1
        return -1

    def write(self, const uint8_t[::1] window, Py_ssize_t start, uint8_t[::1] target):
        """(the offset to read next or -1, the number of bytes filled in the target). Raises Malformed.

        Call it after `measure` has returned -1. Other bytes than the measured ones only make it fail.
        """
        cdef int status
        if self.is_measuring:
            raise ValueError("not measured")
        if target.shape[0] < 2 * STEP_BYTES:
            raise ValueError("the target is too small")
        self.walk.mode = REPLAYED
        self.enter(window, start)
        self.walk.target = &target[0]
        self.walk.target_room = target.shape[0]
        self.walk.target_at = 0
        with nogil:
            status = go_on(&self.walk)
        if status != OK and status != FULL and status != STARVED or status == OK and self.walk.size != self.size:
            raise Malformed(status if status != OK else TOO_MANY, self.start + self.walk.offset)
        return -1 if status == OK else self.start + self.walk.offset, self.walk.target_at

    cdef int enter(self, const uint8_t[::1] window, Py_ssize_t start) except -1:
        cdef Py_ssize_t lengths_noted = self.walk.lengths_count
        self.walk.source.data = &window[0] if window.shape[0] else NULL
        self.walk.available = window.shape[0]
        if self.start < 0:
            if start != 0:
                raise ValueError("the first window is not at the beginning")
            self.start = 0
            self.walk.source.end = self.length
            if self.is_measuring:
                self.walk.source.end = min(self.length, self.walk.available)
                self.encoding = root_encoding(&self.walk.source, self.encoding)
            begin(&self.walk, 0, self.length, self.encoding, False)
            if not self.is_measuring:
                self.walk.lengths_room = lengths_noted
        else:
            move_window(&self.walk, start - self.start)
            self.start = start
        if self.walk.offset < 0 or self.start + self.walk.available > self.length and self.is_measuring:
            raise ValueError("this window was not requested")
        if self.walk.available < LOOK_BYTES and self.start + self.walk.available < self.length:
            raise ValueError("the window is too small")
        return 0

    cdef int make_room(self) except -1:
        """Makes room for notes, which grow with the number of containers found."""
        cdef Py_ssize_t room = min(max(2 * self.walk.lengths_room, LENGTHS_ROOM), LENGTHS_MAX)
        cdef void *lengths = realloc(self.walk.lengths, room * sizeof(uint32_t))
        if lengths == NULL:
            raise MemoryError
        self.walk.lengths = <uint32_t *>lengths
        self.walk.lengths_room = room
        return 0
