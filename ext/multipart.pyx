"""A body of multipart/related (RFC 2046 5.1) taken apart where it was received: header blocks, and contents as views.

The kernel writes to where the body stays until it is stored. What is not yet a whole part lies in a block from a pool;
nothing is moved but the few bytes at a block's end of which nobody can say yet what they are:

    block   | … content | \\r\\n--boundary | \\r\\n header: value \\r\\n\\r\\n | content … known | doubtful | room |
                                                                  ^ content_start      ^ at       ^ used

A line end makes the boundary's line: LF, with CR before it or without. The boundary ends a part where blanks and a line
end follow it, and the whole where `--` does; anything else behind it makes it content. The first boundary may stand at
the very beginning: the first block begins with a LF of our own.

A piece of content is as long as it can be: it ends with its part or with its block. Its CRC-32C is taken while the bytes
are still in the cache, from where the data set of a DICOM file (PS3.10 7.1) begins, if group 0002 says so:

    preamble, 128 | DICM | 0002,0000 UL 4 | group length, 4 | … group length bytes … | data set

A block belongs to its pool again when the splitter has left it and the last view of it is gone.
Without a boundary, the body is one content. `engine.web.multipart` is the door; errors come as numbers.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcmp, memcpy

from crc32c_impl cimport crc32c_update


cdef extern from *:
    """
    #ifndef _GNU_SOURCE
    #define _GNU_SOURCE
    #endif
    #include <string.h>
    """

cdef extern from "<string.h>" nogil:
    void* memmem(const void* haystack, size_t haystack_length, const void* needle, size_t needle_length)
    void* memrchr(const void* bytes, int value, size_t count)

# What `take` gives, as the first item of each tuple.
PART = 1              # (PART, header block): a part begins
PIECE = 2             # (PIECE, view, summed_from, crc): the next piece of its content; see `crc_of_piece`
END = 3               # (END,): it is whole
FAULT = 4             # (FAULT, kind): what follows is ignored

# Kinds of faults.
NO_BOUNDARY = 1       # none within the first `preamble_bytes_max` bytes
LONG_HEADER = 2       # a header block of more than `header_bytes_max` bytes

DEF PADDING = 64      # how many blanks may stand between a boundary and its line end
DEF GROUP_2 = 144     # where what group 0002 counts begins
DEF GROUP_2_MAX = 1 << 20

cdef enum Stage:
    CONTENT = 0       # or the preamble, before the first part
    LINE = 1          # behind something that looks like a boundary
    HEADER = 2
    EPILOGUE = 3
    DEAD = 4


cdef class BlockPool:
    """Blocks for all bodies of a process; keeps up to `keep` free ones so that their pages stay mapped."""

    cdef list free_blocks
    cdef readonly Py_ssize_t block_bytes
    cdef readonly Py_ssize_t keep
    cdef object budget

    def __cinit__(self, budget=None, Py_ssize_t block_bytes=1 << 20, Py_ssize_t keep=16):
        """What the blocks hold is counted in `budget.taken_bytes`, if there is a budget."""
        if block_bytes < 65536:
            raise ValueError("block_bytes must be at least 65536")
        self.free_blocks = []
        self.block_bytes = block_bytes
        self.keep = keep
        self.budget = budget

    cdef Block take(self):
        cdef Block block
        if self.free_blocks:
            block = self.free_blocks.pop()
        else:
            block = Block(self.block_bytes)
        block.used = block.counted = 0
        block.is_filling = True
        block.taken_from = self
        return block

    cdef int give(self, Block block) except -1:
        block.taken_from = None
        self.count(-block.counted)
        if len(self.free_blocks) < self.keep:
            self.free_blocks.append(block)
        return 0

    cdef int count(self, Py_ssize_t length) except -1:
        if self.budget is not None:
            self.budget.taken_bytes += length
        return 0


@cython.no_gc
cdef class Block:
    """Memory for a part of a body; readable through views."""

    cdef uint8_t* data
    cdef Py_ssize_t capacity
    cdef Py_ssize_t used
    cdef Py_ssize_t counted
    """What the pool's budget knows of."""
    cdef Py_ssize_t view_count
    cdef bint is_filling
    """Whether a splitter still writes to it."""
    cdef BlockPool taken_from
    """None while it lies in its pool."""

    def __cinit__(self, Py_ssize_t capacity):
        self.data = <uint8_t*>malloc(capacity)
        if self.data == NULL:
            raise MemoryError
        self.capacity = capacity

    def __dealloc__(self):
        # Its splitter was dropped half-way: only the count matters.
        if self.taken_from is not None:
            self.taken_from.count(-self.counted)
        free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.used, 1, flags)
        self.view_count += 1

    def __releasebuffer__(self, Py_buffer* view):
        self.view_count -= 1
        self.give_if_left()

    cdef int add(self, Py_ssize_t count) except -1:
        """So many bytes more are in it."""
        self.used += count
        self.counted += count
        return self.taken_from.count(count)

    cdef int give_if_left(self) except -1:
        cdef BlockPool pool = self.taken_from
        # A reference of its own: the block may hold the last one.
        if not self.is_filling and self.view_count == 0 and pool is not None:
            pool.give(self)
        return 0


cdef class _Window:
    """Where the next bytes go, as something the event loop can take a buffer of without an allocation."""

    cdef uint8_t* data
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.length, 0, flags)

    def __len__(self):
        return self.length


cdef class Splitter:
    """Takes one body apart: feed it, or let the event loop write into it with `get_buffer` and `buffer_updated`."""

    cdef BlockPool pool
    cdef Block block
    cdef _Window window
    cdef bytes delimiter
    cdef const uint8_t* needle
    cdef Py_ssize_t needle_length
    """0: there is no boundary."""
    cdef Stage stage
    cdef Py_ssize_t content_start
    """Of what is not handed out yet of the content under way."""
    cdef Py_ssize_t content_stop
    """In stage LINE: where the content ends, if this is a boundary."""
    cdef Py_ssize_t at
    """Where to go on looking. It may lie one before `content_start`: the line end of a header block may be the boundary's
    too. In stage LINE: what follows the boundary; in stage HEADER: behind `header_start`."""
    cdef Py_ssize_t header_start
    """Of the line end before a header block."""
    cdef Py_ssize_t sum_at
    """Where to go on with the checksum; may lie beyond what has come."""
    cdef Py_ssize_t summed_from
    """Offset in the part's content; -1: not known yet, -2: it cannot be known."""
    cdef uint32_t crc
    cdef bint is_first_piece
    cdef Py_ssize_t preamble_bytes
    cdef Py_ssize_t preamble_bytes_max
    cdef Py_ssize_t header_bytes_max
    cdef list events
    cdef readonly Py_ssize_t part_count
    cdef public long long bytes_left
    """Of the body; -1: nobody knows. No window is longer than that."""

    def __cinit__(self, BlockPool pool not None, bytes boundary not None, *, long long bytes_left=-1,
                  Py_ssize_t preamble_bytes_max=64 << 10, Py_ssize_t header_bytes_max=16 << 10):
        """`boundary` is without its dashes; b"": there is none, the body is one content."""
        self.pool = pool
        self.window = _Window()
        self.events = []
        self.bytes_left = bytes_left
        self.preamble_bytes_max = preamble_bytes_max
        self.header_bytes_max = header_bytes_max
        self.delimiter = b"\n--" + boundary
        self.needle = <const uint8_t*>PyBytes_AS_STRING(self.delimiter)
        self.needle_length = PyBytes_GET_SIZE(self.delimiter) if boundary else 0
        if header_bytes_max + len(self.delimiter) + PADDING > pool.block_bytes // 2:
            raise ValueError("a block must hold more than a header block")
        self.stage = CONTENT
        self.block = pool.take()
        if boundary:
            self.block.data[0] = 10
            self.block.used = self.content_start = 1
        else:
            self.begin_part(b"", 0)

    # -- what comes -----------------------------------------------------------------------------

    def get_buffer(self, Py_ssize_t sizehint):
        """Where the next bytes go; valid until `buffer_updated`. Of no length where the body has ended."""
        cdef Py_ssize_t room
        if self.block is None or self.block.used == self.block.capacity:
            self.turn_block()
        room = self.block.capacity - self.block.used
        if 0 <= self.bytes_left < room:
            room = self.bytes_left
        self.window.data = self.block.data + self.block.used
        self.window.length = room
        return self.window

    def buffer_updated(self, Py_ssize_t count):
        """So many bytes have come; the number of events that wait."""
        if count < 0 or count > self.window.length:
            raise ValueError("more bytes than the buffer holds")
        self.window.length = 0
        if self.bytes_left >= 0:
            self.bytes_left -= count
        self.block.add(count)
        self.parse()
        return len(self.events)

    def feed(self, object data):
        """The next bytes, which are copied."""
        cdef Py_buffer view
        cdef Py_ssize_t offset = 0, count
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while offset < view.len:
                self.get_buffer(0)
                count = min(view.len - offset, self.window.length)
                if count == 0:
                    raise ValueError("more bytes than the body has")
                memcpy(self.window.data, <uint8_t*>view.buf + offset, count)
                offset += count
                self.buffer_updated(count)
        finally:
            PyBuffer_Release(&view)

    def take(self):
        """What became known since it was asked last."""
        cdef list events = self.events
        self.events = []
        return events

    def waiting(self):
        """What `take` would give, which is not taken, and whether the closing boundary is behind it."""
        return self.events, self.stage == EPILOGUE

    def finish(self):
        """The body has ended; whether it may end here."""
        if self.needle_length == 0 and self.stage == CONTENT:
            self.hand_out(self.block.used)
            self.events.append((END,))
            self.stage = EPILOGUE
        self.stop()
        return self.stage == EPILOGUE

    def stop(self):
        """Gives the memory back that nobody sees."""
        cdef Block block = self.block
        self.block = None
        if block is not None:
            block.is_filling = False
            block.give_if_left()

    # -- inside ---------------------------------------------------------------------------------

    cdef int parse(self) except -1:
        cdef bint goes_on = True
        while goes_on:
            if self.stage == CONTENT:
                goes_on = self.find_boundary()
            elif self.stage == LINE:
                goes_on = self.judge_line()
            elif self.stage == HEADER:
                goes_on = self.find_header_end()
            else:
                goes_on = False
        return 0

    cdef bint find_boundary(self) except -1:
        """Whether something that looks like one was found."""
        cdef uint8_t* data = self.block.data
        cdef Py_ssize_t used = self.block.used, first
        cdef void* found
        if self.needle_length == 0:
            self.at = used
            self.sum_to(used)
            return False
        found = memmem(data + self.at, used - self.at, self.needle, self.needle_length)
        if found != NULL:
            self.stage = LINE
            self.at = <uint8_t*>found - data
            self.content_stop = self.line_end_from(self.at)
            self.at += self.needle_length
            return self.check_preamble(self.content_stop)
        first = max(self.at, used - self.needle_length + 1)
        found = memrchr(data + first, 10, used - first)
        if found != NULL and memcmp(found, self.needle, data + used - <uint8_t*>found) == 0:
            self.at = <uint8_t*>found - data
        else:
            self.at = used
        first = self.line_end_from(self.at)
        self.sum_to(first)
        self.check_preamble(first)
        return False

    cdef Py_ssize_t line_end_from(self, Py_ssize_t newline) noexcept:
        """Where the content ends if a line end is at, or comes to, that place."""
        if newline > self.content_start and self.block.data[newline - 1] == 13:
            return newline - 1
        return max(newline, self.content_start)

    cdef bint judge_line(self) except -1:
        """Whether it is clear now what the boundary was."""
        cdef const uint8_t* data = self.block.data
        cdef Py_ssize_t stop = min(self.block.used, self.at + PADDING), i = self.at
        if stop - i >= 2 and data[i] == 45 and data[i + 1] == 45:
            self.end_part()
            self.stage = EPILOGUE
            return True
        while i < stop and (data[i] == 32 or data[i] == 9 or data[i] == 13):
            i += 1
        if i < stop and data[i] == 10:
            self.end_part()
            self.stage = HEADER
            self.header_start = self.at = i
            return True
        if stop < self.at + PADDING and (i == stop or (i == self.at and stop == i + 1 and data[i] == 45)):
            return False
        self.stage = CONTENT
        return True

    cdef bint find_header_end(self) except -1:
        """Whether it was found. An end is an empty line."""
        cdef uint8_t* data = self.block.data
        cdef Py_ssize_t used = self.block.used, newline, after
        cdef void* found
        while True:
            found = memchr(data + self.at, 10, used - self.at)
            if found == NULL:
                self.at = used
                break
            newline = <uint8_t*>found - data
            after = newline + 1
            if after < used and data[after] == 13:
                after += 1
            if after >= used:
                self.at = newline
                break
            if data[after] == 10:
                return self.end_header(newline, after + 1)
            self.at = newline + 1
        if self.at - self.header_start > self.header_bytes_max:
            return self.fail(LONG_HEADER)
        return False

    cdef bint end_header(self, Py_ssize_t last_line_end, Py_ssize_t stop) except -1:
        cdef Py_ssize_t start = self.header_start + 1
        if last_line_end - self.header_start > self.header_bytes_max:
            return self.fail(LONG_HEADER)
        self.begin_part(
            PyBytes_FromStringAndSize(<const char*>self.block.data + start, max(0, last_line_end + 1 - start)), stop
        )
        self.at = stop - 1
        return True

    cdef int begin_part(self, bytes header_block, Py_ssize_t start) except -1:
        self.part_count += 1
        self.events.append((PART, header_block))
        self.stage = CONTENT
        self.content_start = self.at = self.sum_at = start
        self.summed_from = -1
        self.crc = 0
        self.is_first_piece = True
        return 0

    cdef int end_part(self) except -1:
        if self.part_count:
            self.hand_out(self.content_stop)
            self.events.append((END,))
        return 0

    cdef int hand_out(self, Py_ssize_t stop) except -1:
        """The content up to there is one piece."""
        cdef Py_ssize_t start = self.content_start
        if stop <= start:
            return 0
        self.content_start = stop
        if self.part_count == 0:
            self.preamble_bytes += stop - start
            return 0
        self.sum_to_in(start, stop)
        if self.summed_from == -1:
            self.summed_from = -2
        self.is_first_piece = False
        self.events.append((PIECE, memoryview(self.block)[start:stop], max(self.summed_from, -1), self.crc))
        return 0

    cdef bint check_preamble(self, Py_ssize_t stop) except -1:
        if self.part_count == 0 and self.preamble_bytes + stop - self.content_start > self.preamble_bytes_max:
            return self.fail(NO_BOUNDARY)
        return True

    cdef int sum_to(self, Py_ssize_t stop) except -1:
        return self.sum_to_in(self.content_start, stop)

    cdef int sum_to_in(self, Py_ssize_t start, Py_ssize_t stop) except -1:
        """Takes the content up to there, which begins at `start`, into the checksum."""
        cdef const uint8_t* head = self.block.data + start
        cdef uint32_t length
        if self.part_count == 0:
            return 0
        if self.summed_from == -1 and self.is_first_piece and stop - start >= GROUP_2:
            self.summed_from = -2
            if memcmp(head + 128, b"DICM\2\0\0\0UL\4\0", 12) == 0:
                memcpy(&length, head + 140, 4)
                if length <= GROUP_2_MAX:
                    self.summed_from = GROUP_2 + <Py_ssize_t>length
                    self.sum_at = start + self.summed_from
        if self.summed_from >= 0 and stop > self.sum_at:
            self.crc = crc32c_update(self.crc, self.block.data + self.sum_at, stop - self.sum_at)
            self.sum_at = stop
        return 0

    cdef int turn_block(self) except -1:
        """Goes on in another block, which begins with what is not clear yet of this one."""
        cdef Block full = self.block, block
        cdef Py_ssize_t keep_from, shift
        if full is None:
            self.block = self.pool.take()
            return 0
        if self.stage == CONTENT:
            if self.needle_length == 0:
                keep_from = full.used
                self.hand_out(keep_from)
            else:
                self.hand_out(self.line_end_from(self.at))
                keep_from = min(self.at, self.content_start)
        elif self.stage == LINE:
            self.hand_out(self.content_stop)
            keep_from = min(self.content_stop, self.at - self.needle_length)
        elif self.stage == HEADER:
            keep_from = self.header_start
        else:
            keep_from = full.used
            if full.view_count == 0:
                full.add(-full.used)
                return 0
        block = self.pool.take()
        block.add(full.used - keep_from)
        memcpy(block.data, full.data + keep_from, block.used)
        shift = -keep_from
        self.at += shift
        self.content_start += shift
        self.content_stop += shift
        self.header_start += shift
        self.sum_at += shift
        self.block = block
        full.is_filling = False
        full.give_if_left()
        return 0

    cdef bint fail(self, int kind) except -1:
        self.events.append((FAULT, kind))
        self.stage = DEAD
        return False
