"""The receiving side of one association: bytes off a socket → whole PDUs, command sets and data sets.

Knows neither the meaning of a message nor the state of the association: `dimse.assembly` is its door.

The kernel copies directly to the place where the data set is gathered. Within a data fragment
`get_buffer` returns exactly the rest of the fragment plus room for the next PDU and PDV header, so
fragments are consecutive in a chunk and nothing is moved afterwards:

    chunk   | fragment 1 | fragment 2 .. received .. | rest of fragment 2 | next header |
                                                     ^ window given to the kernel       ^

After the next header has been read, fragment 3 overwrites it (PS3.8 9.3.1):

    P-DATA-TF   04 | 00 | length (4, big endian) | PDV item …
    PDV item    length (4, big endian) | presentation context id | control: 1 command, 2 last | fragment

Everything else (commands, control PDUs) is small and is read into a buffer that all receivers of a pool share;
only incomplete bytes are kept in the receiver's own buffer when the kernel has no more, so an idle association
has none. A data set is a list of chunks from a pool; when it exceeds `part_bytes` it is delivered in parts, so
an object of any size needs bounded memory. crc32c is computed fragment by fragment, while the bytes are still in
the cache.

A sender with Nagle's algorithm (stock DCMTK, most modalities) writes command and data set separately and holds the
second back until the first is acknowledged, which Linux delays by up to 40 ms. So a read that empties the socket
within a message sets TCP_QUICKACK, which sends a pending acknowledgement at once. It is not permanent (tcp(7)): our
answer ends it, so it is set again when needed. A whole message does not need it, since the answer carries the
acknowledgement, and neither do long reads.

While a retrieval sends, the response to one instance has often come by the time the next one has been read. So with
`eager_fd` a read is followed by others while something is there, at most EAGER_READS of them: each saves a turn of the
event loop, and other connections wait no longer than that.

Never allocate memory by a length field: chunks are taken as bytes arrive.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

from crc32c_impl cimport crc32c_update


cdef extern from "<sys/socket.h>" nogil:
    int setsockopt(int fd, int level, int name, const void* value, unsigned int length)
    ssize_t c_recv "recv"(int fd, void* data, size_t length, int flags)
    int MSG_DONTWAIT

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_QUICKACK

# The events of buffer_updated: the first item of each tuple.
PDU = 1               # (PDU, pdu_type, body): a whole PDU other than P-DATA-TF
COMMAND = 2           # (COMMAND, presentation_context_id, command, has_data_set)
DATA_SET = 3          # (DATA_SET, presentation_context_id, DataSet): whole, or its last part
DATA_SET_PART = 4     # (DATA_SET_PART, presentation_context_id, DataSet): more follows
ERROR = 5             # (ERROR, reason, text): A-ABORT reason of PS3.8 Table 9-26; input is ignored from here on
P_DATA_EARLY = 6      # (P_DATA_EARLY,): a P-DATA-TF while `data_allowed` is False; input is ignored from here on

DEF SLACK = 512       # room after a chunk for the header that follows a fragment
DEF CONTROL = 16384   # the shared control buffer
DEF KEPT = 1024       # the smallest own buffer for incomplete bytes
DEF EAGER_READS = 8   # some milliseconds, where each makes a retrieval send an instance
DEF LONG_READ = 65536 # beyond the longest segment (loopback has 65 483 bytes): two have come, the kernel acknowledges these

cdef enum Stage:
    AT_PDU = 0        # wants a PDU header, 6 bytes
    AT_PDV = 1        # wants a PDV header, 6 bytes
    IN_COMMAND = 2
    IN_DATA = 3
    IN_CONTROL = 4    # body of a PDU that is no P-DATA-TF
    DEAD = 5


cdef inline uint32_t big32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline uint32_t little32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[3] << 24) | (<uint32_t>p[2] << 16) | (<uint32_t>p[1] << 8) | p[0]


cdef class ChunkPool


@cython.no_gc
cdef class Chunk:
    """`used` bytes of a data set, readable through the buffer protocol; belongs to its pool again after `give`."""

    cdef uint8_t* data
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t used
    cdef ChunkPool taken_from
    """The pool that counts it as outstanding; None while it is free."""

    def __cinit__(self, Py_ssize_t capacity):
        self.data = <uint8_t*>malloc(capacity + SLACK)
        if self.data == NULL:
            raise MemoryError
        self.capacity = capacity
        self.used = 0

    def __dealloc__(self):
        # Its holder, such as an exception's traceback, ended without `give`: correct the count.
        if self.taken_from is not None:
            self.taken_from.outstanding -= 1
        free(self.data)

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.used, 1, flags)

    def __len__(self):
        return self.used


cdef class ChunkPool:
    """Chunks for all associations of a worker; keeps up to `keep` free ones so that their pages stay mapped."""

    cdef list free_chunks
    cdef bytearray scratch
    """The buffer of receivers without incomplete bytes; empty between two of their calls."""
    cdef readonly Py_ssize_t chunk_bytes
    cdef readonly Py_ssize_t keep
    cdef readonly Py_ssize_t outstanding
    """Number of chunks in use."""

    def __cinit__(self, Py_ssize_t chunk_bytes=1 << 20, Py_ssize_t keep=32):
        if chunk_bytes < 4096:
            raise ValueError("chunk_bytes must be at least 4096")
        self.free_chunks = []
        self.scratch = bytearray(CONTROL)
        self.chunk_bytes = chunk_bytes
        self.keep = keep
        self.outstanding = 0

    cdef Chunk take(self):
        cdef Chunk chunk
        if self.free_chunks:
            chunk = self.free_chunks.pop()
            chunk.used = 0
        else:
            chunk = Chunk(self.chunk_bytes)
        chunk.taken_from = self
        self.outstanding += 1
        return chunk

    cdef int give(self, Chunk chunk) except -1:
        if chunk.taken_from is not self:
            return 0
        chunk.taken_from = None
        self.outstanding -= 1
        if len(self.free_chunks) < self.keep:
            self.free_chunks.append(chunk)
        return 0


cdef class DataSet:
    """A received data set, or a part of a large one, as chunks in the order of arrival."""

    cdef ChunkPool pool
    cdef readonly list chunks
    cdef readonly uint64_t length
    """Bytes in these chunks."""
    cdef readonly uint64_t offset
    """Bytes of the same data set in earlier parts."""
    cdef readonly uint32_t crc
    """crc32c of the data set from its start to the end of this part."""

    @property
    def buffers(self):
        return self.chunks

    @property
    def head(self):
        """The first chunk, or empty bytes: for the attribute scan."""
        return memoryview(self.chunks[0]) if self.chunks else memoryview(b"")

    def to_bytes(self):
        return b"".join(self.chunks)

    def release(self):
        """Returns the chunks to the pool; no view of them may exist. A second call does nothing."""
        cdef Chunk chunk
        for chunk in self.chunks:
            self.pool.give(chunk)
        self.chunks = []


cdef class _Context:
    """The message being gathered on one presentation context; messages of different contexts may interleave."""

    cdef bytearray command
    cdef bint awaits_data
    cdef list chunks
    cdef Chunk tail
    cdef uint64_t part_length
    cdef uint64_t total_length
    cdef uint32_t crc

    def __cinit__(self):
        self.command = None
        self.awaits_data = False
        self.chunks = []
        self.tail = None


cdef class _Window:
    """The place of the next bytes, as a buffer for the event loop without an allocation."""

    cdef uint8_t* data
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.length, 0, flags)


cdef class Receiver:
    """One association's receiving side; feed it through `get_buffer` and `buffer_updated`."""

    cdef ChunkPool pool
    cdef object on_events
    cdef _Window window
    cdef bytearray control
    """Its own control buffer, while that has incomplete bytes; None: the pool's buffer is used."""
    cdef uint8_t* ctl
    cdef Py_ssize_t ctl_start
    cdef Py_ssize_t ctl_end
    cdef Py_ssize_t ctl_size
    cdef Stage stage
    cdef bint window_in_chunk
    cdef uint8_t pdu_type
    cdef uint32_t pdu_left
    cdef uint32_t pdv_left
    cdef uint8_t context_id
    cdef uint8_t pdv_control
    cdef uint32_t pdv_count
    cdef _Context context
    cdef dict contexts
    cdef list events
    cdef uint32_t pdv_count_max
    cdef uint32_t p_data_length_max
    cdef uint32_t control_length_max
    cdef uint32_t command_length_max
    cdef uint64_t part_bytes
    cdef public bint data_allowed
    """Whether the association's state takes P-DATA-TF now."""
    cdef readonly uint64_t bytes_received
    cdef public int quick_ack_fd
    """The TCP socket of the association while it is open; -1: none, or a transport without that option."""
    cdef public int eager_fd
    """The same socket while more may be read from it than the event loop asked for; -1: it may not."""
    cdef readonly int read_errno
    """The error of such a read, 0 if none failed: the kernel reports it only once."""
    cdef public object on_command
    """Called first for each command without a data set, with (presentation context id, command); if it returns True,
    the command is handled and makes no event. None, the default: not called. It must not raise."""
    cdef readonly uint64_t quick_acks
    """How often TCP_QUICKACK was set."""

    def __cinit__(self, ChunkPool pool not None, on_events, *, uint32_t p_data_length_max=1 << 24,
                  uint32_t control_length_max=1 << 20, uint32_t command_length_max=1 << 16,
                  uint64_t part_bytes=4 << 20, uint32_t pdv_count_max=1 << 15):
        """`on_events(list)` is called with the events; lengths in bytes.

        A data set longer than `part_bytes` comes in parts; `pdv_count_max`: PDVs in one PDU.
        """
        self.pool = pool
        self.on_events = on_events
        self.window = _Window()
        self.share_control()
        self.stage = AT_PDU
        self.contexts = {}
        self.events = []
        self.p_data_length_max = p_data_length_max
        self.control_length_max = control_length_max
        self.command_length_max = command_length_max
        self.part_bytes = part_bytes
        self.pdv_count_max = pdv_count_max
        self.data_allowed = False
        self.quick_ack_fd = -1
        self.quick_acks = 0
        self.eager_fd = -1
        self.read_errno = 0

    # -- the event loop's side ------------------------------------------------------------------

    cpdef get_buffer(self, Py_ssize_t sizehint):
        """Where the next received bytes go; valid until `buffer_updated`."""
        cdef Chunk tail
        cdef Py_ssize_t room, extra
        if self.stage == IN_DATA and self.ctl_start == self.ctl_end:
            tail = self.chunk_with_room()
            room = tail.capacity - tail.used
            self.window_in_chunk = True
            self.window.data = tail.data + tail.used
            if <Py_ssize_t>self.pdv_left <= room:
                # After the last fragment anything may come; between fragments only the next header.
                extra = SLACK if self.pdv_control & 2 else 12
                self.window.length = self.pdv_left + extra
            else:
                self.window.length = room
            return self.window
        self.window_in_chunk = False
        if self.ctl_start == self.ctl_end:
            self.ctl_start = self.ctl_end = 0
        elif self.ctl_start > 0 and self.ctl_size - self.ctl_end < CONTROL // 2:
            memmove(self.ctl, self.ctl + self.ctl_start, self.ctl_end - self.ctl_start)
            self.ctl_end -= self.ctl_start
            self.ctl_start = 0
        if self.ctl_end == self.ctl_size:
            self.grow_control()
        self.window.data = self.ctl + self.ctl_end
        self.window.length = self.ctl_size - self.ctl_end
        return self.window

    def buffer_updated(self, Py_ssize_t count):
        """`count` bytes have arrived in the buffer; calls `on_events` if something is complete."""
        cdef Py_ssize_t got
        cdef int reads = 0
        self.take(count)
        while self.eager_fd >= 0 and self.stage != DEAD and reads < EAGER_READS:
            reads += 1
            self.get_buffer(-1)
            got = c_recv(self.eager_fd, self.window.data, self.window.length, MSG_DONTWAIT)
            if got <= 0:
                # Nothing is there, or the connection has ended, which the event loop will find too.
                if got < 0 and errno != EAGAIN and errno != EINTR:
                    self.read_errno = errno
                break
            self.take(got)

    cdef int take(self, Py_ssize_t count) except -1:
        cdef Py_ssize_t mine
        cdef Chunk tail
        cdef list events
        cdef bint emptied = count < self.window.length and count < LONG_READ
        if count < 0 or count > self.window.length:
            raise ValueError("more bytes than the buffer holds")
        self.bytes_received += count
        if self.stage == DEAD:
            self.ctl_start = self.ctl_end = 0
            return 0
        if self.window_in_chunk:
            mine = count if count < <Py_ssize_t>self.pdv_left else <Py_ssize_t>self.pdv_left
            tail = self.context.tail
            self.take_data(tail, mine)
            count -= mine
            if count:
                memcpy(self.ctl, tail.data + tail.used, count)
            self.ctl_start = 0
            self.ctl_end = count
            if self.pdv_left == 0:
                self.end_fragment()
        else:
            self.ctl_end += count
        self.parse()
        if emptied and self.quick_ack_fd >= 0 and self.awaits_more():
            # Do it before the events, which may close the socket.
            self.acknowledge()
        if self.ctl_start == self.ctl_end or self.stage == DEAD:
            self.share_control()
        elif self.control is None:
            self.keep_rest()
        if self.events:
            events = self.events
            self.events = []
            self.on_events(events)
        return 0

    def stop(self):
        """Ignores all further input (Sta13, or an abort has been sent) and frees incomplete messages.

        Do not leave this to the garbage collector: receiver and connection refer to each other.
        """
        cdef _Context context
        cdef Chunk chunk
        self.stage = DEAD
        self.quick_ack_fd = self.eager_fd = -1
        for event in self.events:
            # A part that `get_buffer` had to complete, and no more bytes came.
            if event[0] == DATA_SET_PART:
                (<DataSet>event[2]).release()
        self.events = []
        self.share_control()
        for entry in self.contexts.values():
            context = <_Context>entry
            for chunk in context.chunks:
                self.pool.give(chunk)
            context.chunks = []
            context.tail = None
            context.part_length = 0
        self.contexts.clear()

    @property
    def held_bytes(self):
        """Received bytes of incomplete messages and PDUs."""
        cdef uint64_t held = self.ctl_end - self.ctl_start
        for entry in self.contexts.values():
            held += (<_Context>entry).part_length
            if (<_Context>entry).command is not None:
                held += <uint64_t>len((<_Context>entry).command)
        return held

    @property
    def mid_message(self):
        """Whether a PDU, a command or a data set is incomplete."""
        return self.awaits_more()

    cdef bint awaits_more(self) except -1:
        if self.stage != AT_PDU or self.ctl_start != self.ctl_end:
            return True
        for entry in self.contexts.values():
            if (<_Context>entry).awaits_data or (<_Context>entry).command is not None:
                return True
        return False

    cdef int acknowledge(self) except -1:
        cdef int on = 1
        setsockopt(self.quick_ack_fd, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof(on))  # a failure costs time, no byte
        self.quick_acks += 1
        return 0

    # -- the parser -----------------------------------------------------------------------------

    cdef int parse(self) except -1:
        cdef Py_ssize_t have
        cdef const uint8_t* p
        while True:
            have = self.ctl_end - self.ctl_start
            p = self.ctl + self.ctl_start
            if self.stage == AT_PDU:
                if have < 6:
                    return 0
                self.begin_pdu(p)
            elif self.stage == AT_PDV:
                if self.pdu_left < 6:
                    self.fail(6, f"the last {self.pdu_left} bytes of a P-DATA-TF are no PDV item")
                    return 0
                if have < 6:
                    return 0
                self.begin_pdv(p)
            elif self.stage == IN_DATA:
                if have == 0 and self.pdv_left:
                    return 0
                self.copy_data(p, have)
            elif self.stage == IN_COMMAND:
                if have == 0 and self.pdv_left:
                    return 0
                self.copy_command(p, have)
            elif self.stage == IN_CONTROL:
                if have < <Py_ssize_t>self.pdu_left:
                    return 0
                self.events.append((PDU, self.pdu_type, PyBytes_FromStringAndSize(<char*>p, self.pdu_left)))
                self.ctl_start += self.pdu_left
                self.stage = AT_PDU
            else:
                return 0

    cdef int begin_pdu(self, const uint8_t* p) except -1:
        cdef uint8_t pdu_type = p[0]
        cdef uint32_t length = big32(p + 2)
        self.ctl_start += 6
        if pdu_type == 4:
            if not self.data_allowed:
                self.events.append((P_DATA_EARLY,))
                self.stage = DEAD
            elif length > self.p_data_length_max:
                self.fail(6, f"P-DATA-TF of {length} bytes, the limit is {self.p_data_length_max}")
            else:
                self.pdu_left = length
                self.pdv_count = 0
                self.stage = AT_PDV if length else AT_PDU
        elif pdu_type == 0 or pdu_type > 7:
            self.fail(1, f"unknown PDU type {pdu_type:#04x} (PS3.8 9.3.1)")
        elif length > self.control_length_max:
            self.fail(6, f"PDU type {pdu_type:#04x} of {length} bytes, the limit is {self.control_length_max}")
        else:
            self.pdu_type = pdu_type
            self.pdu_left = length
            self.stage = IN_CONTROL
        return 0

    cdef int begin_pdv(self, const uint8_t* p) except -1:
        cdef uint32_t length = big32(p)
        self.ctl_start += 6
        if length < 2 or length > self.pdu_left - 4:
            self.fail(6, f"PDV item of {length} bytes in the last {self.pdu_left} bytes of a P-DATA-TF")
            return 0
        self.pdu_left -= 6
        self.pdv_left = length - 2
        self.context_id = p[4]
        self.pdv_control = p[5]
        self.pdv_count += 1
        if self.pdv_count > self.pdv_count_max:
            self.fail(6, f"a P-DATA-TF of more than {self.pdv_count_max} PDV items")
            return 0
        if not self.context_id & 1:
            self.fail(6, f"presentation context id {self.context_id} is even")
            return 0
        entry = self.contexts.get(self.context_id)
        if entry is None:
            entry = _Context()
            self.contexts[self.context_id] = entry
        self.context = <_Context>entry
        if self.pdv_control & 1:
            if self.context.awaits_data:
                self.fail(5, "a command fragment where the data set of the last command was due")
                return 0
            if self.context.command is None:
                self.context.command = bytearray()
            self.stage = IN_COMMAND
        else:
            if not self.context.awaits_data:
                self.fail(5, "a data fragment without a command that announced it")
                return 0
            self.stage = IN_DATA
        return 0

    cdef int copy_command(self, const uint8_t* p, Py_ssize_t have) except -1:
        cdef Py_ssize_t count = have if have < <Py_ssize_t>self.pdv_left else <Py_ssize_t>self.pdv_left
        if <uint64_t>len(self.context.command) + count > self.command_length_max:
            self.fail(6, f"a command set of more than {self.command_length_max} bytes")
            return 0
        self.context.command += p[:count]
        self.ctl_start += count
        self.pdv_left -= count
        self.pdu_left -= count
        if self.pdv_left == 0:
            self.end_fragment()
        return 0

    cdef int copy_data(self, const uint8_t* p, Py_ssize_t have) except -1:
        cdef Chunk tail
        cdef Py_ssize_t count = have if have < <Py_ssize_t>self.pdv_left else <Py_ssize_t>self.pdv_left
        if count:
            tail = self.chunk_with_room()
            if count > tail.capacity - tail.used:
                count = tail.capacity - tail.used
            memcpy(tail.data + tail.used, p, count)
            self.ctl_start += count
            self.take_data(tail, count)
        if self.pdv_left == 0:
            self.end_fragment()
        return 0

    cdef int take_data(self, Chunk tail, Py_ssize_t count) except -1:
        """`count` bytes after `tail.used` belong to the current fragment."""
        cdef _Context context = self.context
        context.crc = crc32c_update(context.crc, tail.data + tail.used, count)
        tail.used += count
        context.part_length += count
        context.total_length += count
        self.pdv_left -= count
        self.pdu_left -= count
        return 0

    cdef Chunk chunk_with_room(self):
        cdef _Context context = self.context
        if context.tail is None or context.tail.used == context.tail.capacity:
            if context.part_length >= self.part_bytes:
                self.events.append((DATA_SET_PART, self.context_id, self.hand_over(context)))
            context.tail = self.pool.take()
            context.chunks.append(context.tail)
        return context.tail

    cdef int end_fragment(self) except -1:
        cdef _Context context = self.context
        self.stage = AT_PDV if self.pdu_left else AT_PDU
        if not self.pdv_control & 2:
            return 0
        if self.pdv_control & 1:
            command = bytes(context.command)
            context.command = None
            context.awaits_data = announces_data_set(command)
            # Report earlier events first.
            if self.on_command is not None and not context.awaits_data and not self.events:
                if self.on_command(self.context_id, command):
                    return 0
            self.events.append((COMMAND, self.context_id, command, bool(context.awaits_data)))
        else:
            self.events.append((DATA_SET, self.context_id, self.hand_over(context)))
            context.awaits_data = False
            context.total_length = 0
            context.crc = 0
        return 0

    cdef DataSet hand_over(self, _Context context):
        cdef DataSet data_set = DataSet.__new__(DataSet)
        data_set.pool = self.pool
        data_set.chunks = context.chunks
        data_set.length = context.part_length
        data_set.offset = context.total_length - context.part_length
        data_set.crc = context.crc
        context.chunks = []
        context.tail = None
        context.part_length = 0
        return data_set

    cdef int share_control(self) except -1:
        """Nothing is incomplete: switches to the pool's buffer."""
        self.control = None
        self.ctl = <uint8_t*>PyByteArray_AS_STRING(self.pool.scratch)
        self.ctl_size = CONTROL
        self.ctl_start = self.ctl_end = 0
        return 0

    cdef int keep_rest(self) except -1:
        """Copies incomplete bytes from the pool's buffer, which others are about to use."""
        cdef Py_ssize_t have = self.ctl_end - self.ctl_start
        cdef bytearray own = bytearray(max(KEPT, have * 2))
        memcpy(PyByteArray_AS_STRING(own), self.ctl + self.ctl_start, have)
        self.control = own
        self.ctl = <uint8_t*>PyByteArray_AS_STRING(own)
        self.ctl_size = len(own)
        self.ctl_start = 0
        self.ctl_end = have
        return 0

    cdef int grow_control(self) except -1:
        """Doubles the buffer for a long control PDU; bounded by control_length_max."""
        cdef Py_ssize_t have = self.ctl_end - self.ctl_start
        cdef bytearray larger = bytearray(self.ctl_size * 2)
        memcpy(PyByteArray_AS_STRING(larger), self.ctl + self.ctl_start, have)
        self.control = larger
        self.ctl = <uint8_t*>PyByteArray_AS_STRING(larger)
        self.ctl_size *= 2
        self.ctl_start = 0
        self.ctl_end = have
        return 0

    cdef int fail(self, int reason, text) except -1:
        self.events.append((ERROR, reason, text))
        self.stage = DEAD
        return 0


cdef bint announces_data_set(bytes command):
    """Whether Command Data Set Type (0000,0800) says that a data set follows (PS3.7 E.1: 0101H is none)."""
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(command)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(command)
    cdef Py_ssize_t at = 0
    cdef uint32_t length
    while at + 8 <= size:
        length = little32(p + at + 4)
        if p[at] == 0 and p[at + 1] == 0 and p[at + 2] == 0 and p[at + 3] == 8:
            return length >= 2 and at + 10 <= size and (p[at + 8] | (<uint16_t>p[at + 9] << 8)) != 0x0101
        if length > size - at - 8:
            return False
        at += 8 + length
    return False
