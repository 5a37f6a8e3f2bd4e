"""The sending side of one association: puts P-DATA-TF headers around the bytes as they are read from disk.

Does not decide what is sent: `dimse.assembly` is its door.

A frame is a buffer that goes to the socket in one write. `layout` writes the PDU and PDV headers (PS3.8 9.3.5) at
their places and returns views of the gaps between; a scattered read fills these, so a stored data set reaches the
socket with one copy and is never moved:

    | prefix (the command's own PDU) | 12 | fragment | 12 | fragment | … | 12 | last fragment |

Every fragment has an even length (PS3.8 9.3.1): a NUL, which is in no gap, follows a data set of odd length.

`StoreBatch` is the steady state of a retrieval. The caller adds stored data sets ahead of time; then each answer of the
peer makes it send the frame that is ready and read the next data set into a free frame.

    added ──read, checked──► ready ──sent──► sent ──C-STORE-RSP──► answered ──collect──► (its slot is free)
    head                     next_send       next_read             end       slots in a ring, numbered without end
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.unicode cimport PyUnicode_GET_LENGTH
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from crc32c_impl cimport crc32c_update


cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_send "send"(int fd, const void* data, size_t length, int flags)
    int MSG_DONTWAIT, MSG_NOSIGNAL

cdef extern from "<unistd.h>" nogil:
    int c_dup "fcntl"(int fd, int command, int least)
    int c_close "close"(int fd)

cdef extern from "<fcntl.h>" nogil:
    int F_DUPFD_CLOEXEC

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec* vectors, int count, int64_t offset, int flags)
    int RWF_NOWAIT

cdef extern from "Python.h":
    const char* PyUnicode_AsUTF8AndSize(object text, Py_ssize_t* size) except NULL


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
    """One send buffer; lay it out again when the socket has taken all of it."""

    cdef uint8_t* data
    cdef readonly Py_ssize_t capacity
    cdef readonly Py_ssize_t length
    """Bytes to send."""
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
        """Bytes of a frame for this prefix and payload, with a NUL after it."""
        return prefix + payload + 12 * ((payload + fragment - 1) // fragment + 1)

    def layout(self, bytes prefix not None, Py_ssize_t payload, Py_ssize_t fragment, uint8_t context_id, bint is_last):
        """Writes prefix and headers for `payload` bytes of a data set; returns views of the gaps, in order.

        `is_last`: the payload ends the data set, and is padded to an even length. Raises ValueError if the frame is too
        small.
        """
        cdef Py_ssize_t prefix_length = PyBytes_GET_SIZE(prefix)
        if payload < 0 or fragment < 1:
            raise ValueError("payload and fragment must not be negative")
        if Frame.room_for(prefix_length, payload, fragment) > self.capacity:
            raise ValueError("the frame is too small for this payload")
        memcpy(self.data, PyBytes_AS_STRING(prefix), prefix_length)
        self.put_headers(prefix_length, payload, fragment, context_id, is_last)
        return self.gaps()

    cdef list gaps(self):
        """Views of the gaps between the headers, in order."""
        cdef Py_ssize_t at = self.first, left = self.payload, length
        cdef list gaps = []
        whole = memoryview(self)
        while left:
            length = left if left < self.fragment else self.fragment
            gaps.append(whole[at + 12:at + 12 + length])
            at += 12 + length
            left -= length
        return gaps

    cdef void put_headers(self, Py_ssize_t first, Py_ssize_t payload, Py_ssize_t fragment, uint8_t context_id,
                          bint is_last) noexcept nogil:
        """Writes the headers for `payload` bytes after a prefix of `first` bytes; the caller has checked the room."""
        cdef Py_ssize_t at = first, left = payload, length, padding
        self.first = first
        self.fragment = fragment
        self.payload = payload
        while True:
            length = left if left < fragment else fragment
            left -= length
            # Only the last one may have an odd length: others are as long as `fragment`, which is even unless it is 1.
            padding = 1 if is_last and length & 1 and length < fragment else 0
            put_header(self.data + at, length + padding, context_id, 2 if left == 0 and is_last else 0)
            at += 12 + length
            if padding:
                self.data[at] = 0
                at += 1
            if left == 0:
                break
        self.length = at

    def crc(self, uint32_t value=0):
        """crc32c of the payload bytes in the gaps, continued from `value`."""
        cdef Py_ssize_t left = self.payload, length
        cdef const uint8_t* p = self.data + self.first
        with nogil:
            while left:
                length = left if left < self.fragment else self.fragment
                value = crc32c_update(value, p + 12, length)
                p += 12 + length
                left -= length
        return value


cdef class Outlet:
    """Writes whole messages to a socket past its transport, while the transport has nothing to write.

    It has its own descriptor, so it never writes to a reused number after the transport has closed the socket.
    """

    cdef readonly int fd
    """The descriptor; -1 when it is closed."""
    cdef public bint is_free
    """Whether a message may be sent now, with nothing waiting before it; the connection sets it."""

    def __cinit__(self, int fd):
        """Raises OSError if there is no descriptor left."""
        self.is_free = False
        self.fd = c_dup(fd, F_DUPFD_CLOEXEC, 3)
        if self.fd < 0:
            raise OSError(errno, "no descriptor for an outlet")

    def __dealloc__(self):
        self.close()

    cpdef void close(self):
        """Closes the descriptor; sends nothing more."""
        self.is_free = False
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1

    cdef Py_ssize_t send(self, const uint8_t* data, Py_ssize_t length) noexcept nogil:
        """The number of bytes that the kernel took at once; the transport handles errors of the socket."""
        cdef ssize_t sent
        while self.is_free:
            sent = c_send(self.fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL)
            if sent >= 0:
                return sent
            if errno != EINTR:
                break
        return 0


# Batches -----------------------------------------------------------------------------------------

DEF SLOTS = 128         # the most instances in a batch; a power of two
DEF HEADS = 128         # kinds of command, at most one for each presentation context (PS3.8 9.3.2.2)
DEF UID = 64            # characters of a UID (PS3.5 9.1)
DEF VECTORS = 1024      # IOV_MAX: fragments that one read fills

BATCH_SLOTS = SLOTS

# The reasons in `stopped`.
RUNNING = 0
NOT_CACHED = 1          # the next data set is not in the page cache, or not readable
DAMAGED = 2             # its checksum is wrong
ANSWERED_EARLY = 3      # the peer answered before the kernel had taken the whole of a frame
UNWANTED = 4
BROKEN = 5              # an exception of ours: `error`
HALTED = 6              # `halt` was called

cdef enum State:
    ADDED = 0
    READY = 1
    SENT = 2
    ANSWERED = 3


cdef struct Head:
    # A C-STORE-RQ into which the message id and SOP Instance UID of each instance are written.
    const uint8_t* data
    Py_ssize_t length
    Py_ssize_t message_id_at    # of the value
    Py_ssize_t uid_at           # of the value, which ends at uid_end
    Py_ssize_t uid_end
    uint8_t context_id


cdef struct Slot:
    int64_t offset
    Py_ssize_t length
    uint32_t crc
    int fd
    int frame
    int head
    uint16_t message_id
    uint16_t status
    uint8_t state
    uint8_t uid_length
    char uid[UID]


cdef inline uint32_t little32(const uint8_t* p) noexcept nogil:
    return (<uint32_t>p[3] << 24) | (<uint32_t>p[2] << 16) | (<uint32_t>p[1] << 8) | p[0]


cdef inline void put_little32(uint8_t* p, uint32_t value) noexcept nogil:
    p[0] = value & 0xFF
    p[1] = (value >> 8) & 0xFF
    p[2] = (value >> 16) & 0xFF
    p[3] = value >> 24


cdef Py_ssize_t find(const uint8_t* p, Py_ssize_t size, uint16_t element, Py_ssize_t length) noexcept nogil:
    """Offset of the value of an element of group 0000; -1: missing, or of another length (length -1: any)."""
    cdef Py_ssize_t at = 0
    cdef uint32_t count
    while at + 8 <= size:
        count = little32(p + at + 4)
        if count > size - at - 8:
            return -1
        if p[at] == 0 and p[at + 1] == 0 and (p[at + 2] | <uint16_t>p[at + 3] << 8) == element:
            return at + 8 if length < 0 or count == length else -1
        at += 8 + count
    return -1


cdef int us_value(const uint8_t* p, Py_ssize_t size, uint16_t element) noexcept nogil:
    """The value of a US element; -1 without it."""
    cdef Py_ssize_t at = find(p, size, element, 2)
    return p[at] | p[at + 1] << 8 if at >= 0 else -1


def store_response(bytes command not None):
    """(message id responded to, status) of a C-STORE-RSP (PS3.7 9.3.1.2) that `StoreBatch` accepts; None of others."""
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(command)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(command)
    cdef uint16_t message_id = 0, status = 0
    return (message_id, status) if parse_response(p, size, &message_id, &status) else None


cdef bint parse_response(const uint8_t* p, Py_ssize_t size, uint16_t* message_id, uint16_t* status) noexcept nogil:
    """Accepts only whole commands in order, of group 0000; `dimse.messages` judges the others."""
    cdef Py_ssize_t at = 0
    cdef int element, before = -1, field = -1, responded_to = -1, data_set_type = -1, code = -1
    cdef uint32_t length
    while at < size:
        if size - at < 8 or p[at] or p[at + 1]:
            return False
        element = p[at + 2] | p[at + 3] << 8
        length = little32(p + at + 4)
        at += 8
        if element <= before or length > size - at:
            return False
        before = element
        if element == 0x0100 or element == 0x0120 or element == 0x0800 or element == 0x0900:
            if length != 2:
                return False
            if element == 0x0100:
                field = p[at] | p[at + 1] << 8
            elif element == 0x0120:
                responded_to = p[at] | p[at + 1] << 8
            elif element == 0x0800:
                data_set_type = p[at] | p[at + 1] << 8
            else:
                code = p[at] | p[at + 1] << 8
        at += length
    if field != 0x8001 or data_set_type != 0x0101 or responded_to < 0 or code < 0:
        return False
    message_id[0] = responded_to
    status[0] = code
    return True


cdef class StoreBatch:
    """A batch of C-STORE sub-operations. Call it on one thread; nothing in it waits."""

    cdef Slot slots[SLOTS]
    cdef Head heads[HEADS]
    cdef int heads_count
    cdef list kept
    """The memory that `heads` points into."""
    cdef list fillers
    """By slot: what fills the frame of a data set that does not lie in its file as it is sent, else None."""
    cdef list frames
    cdef int free_frames[SLOTS]
    cdef int free_count
    cdef object connection
    cdef Outlet outlet
    cdef object is_wanted
    cdef object on_progress
    cdef Py_ssize_t capacity
    """Capacity of the smallest frame."""
    cdef Py_ssize_t fragment
    cdef public Py_ssize_t window
    """The most that may be outstanding. 0: `advance` reads one ahead, and sends nothing."""
    cdef Py_ssize_t head
    """The oldest one that is not collected."""
    cdef Py_ssize_t first_open
    """The oldest one that is not answered."""
    cdef Py_ssize_t next_send
    cdef Py_ssize_t next_read
    cdef Py_ssize_t end
    cdef bint advancing
    cdef readonly Py_ssize_t outstanding
    """Number of instances sent and not answered."""
    cdef readonly Py_ssize_t answered_count
    cdef readonly int stopped
    cdef readonly object error
    cdef public Py_ssize_t refill_below
    """Call `on_progress` when fewer instances than this are left to send; 0: never for that."""

    def __init__(self, connection, is_wanted, on_progress, list frames not None, Py_ssize_t fragment, Py_ssize_t window,
                 Outlet outlet=None):
        """`connection` has `send(data)` and `unsent_bytes`, and gets the bytes that `outlet` does not take at once.
        `is_wanted()` is called before each instance is sent.

        `on_progress()` is called when it has stopped, all is answered, or little is left to send. `fragment` in bytes. One
        frame more than `window` (outstanding answers) is enough.
        """
        if fragment < 1 or window < 1 or not 2 <= len(frames) <= SLOTS:
            raise ValueError("a batch needs a fragment, a window and 2 to 128 frames")
        self.connection = connection
        self.outlet = outlet
        self.is_wanted = is_wanted
        self.on_progress = on_progress
        self.frames = [<Frame?>frame for frame in frames]
        self.capacity = min([frame.capacity for frame in frames])
        self.fragment = fragment
        self.window = window
        self.kept = []
        self.fillers = [None] * SLOTS
        for number in range(len(frames)):
            self.free_frames[number] = number
        self.free_count = len(frames)

    # -- adding ---------------------------------------------------------------------------------

    @property
    def room(self):
        """The number of instances that can still be added."""
        return SLOTS - (self.end - self.head)

    @property
    def read_count(self):
        """Read and not collected: the number of the one that is read next, among those that are not collected."""
        return self.next_read - self.head

    @property
    def unsent_count(self):
        """Number of instances added and not sent."""
        return self.end - self.next_send

    def add_head(self, uint8_t context_id, bytes command not None):
        """Adds a kind of C-STORE-RQ, given with any message id and SOP Instance UID; returns its number.

        Raises ValueError if it is no C-STORE-RQ, exceeds a fragment, or is one kind too many.
        """
        cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(command)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(command)
        cdef Py_ssize_t uid_at = find(p, size, 0x1000, -1), message_id_at = find(p, size, 0x0110, 2)
        cdef Head* head
        if us_value(p, size, 0x0100) != 0x0001 or uid_at < 0 or message_id_at < 0 or find(p, size, 0x0000, 4) != 8:
            raise ValueError("no C-STORE-RQ")
        if size + UID > self.fragment:
            raise ValueError("the command does not fit one fragment")
        if self.heads_count == HEADS:
            raise ValueError("too many kinds of command")
        self.kept.append(command)
        head = &self.heads[self.heads_count]
        head.data = p
        head.length = size
        head.message_id_at = message_id_at
        head.uid_at = uid_at
        head.uid_end = uid_at + little32(p + uid_at - 4)
        head.context_id = context_id
        self.heads_count += 1
        return self.heads_count - 1

    def add(self, int head, uint16_t message_id, str uid not None, int fd, int64_t offset, Py_ssize_t length,
            uint32_t crc, filler=None):
        """Adds a data set of `length` bytes at `offset` of a file, which the caller keeps open. Returns whether it can.

        `filler(gaps)`, of an encrypted one, fills views of the gaps instead, and returns False if it would have to wait.
        It cannot if there is no room, the data set does not fit a frame, or its UID is invalid.
        """
        cdef Py_ssize_t size
        cdef const char* text
        cdef Slot* slot
        if not 0 <= head < self.heads_count:
            raise ValueError("no such head")
        if self.end - self.head == SLOTS or length < 1 or offset < 0 or PyUnicode_GET_LENGTH(uid) > UID:
            return False
        if length > VECTORS * self.fragment:
            return False
        if Frame.room_for(12 + self.heads[head].length + UID, length, self.fragment) > self.capacity:
            return False
        text = PyUnicode_AsUTF8AndSize(uid, &size)
        if size != PyUnicode_GET_LENGTH(uid):
            return False
        slot = &self.slots[self.end % SLOTS]
        slot.offset = offset
        slot.length = length
        slot.crc = crc
        slot.fd = fd
        slot.frame = -1
        slot.head = head
        slot.message_id = message_id
        slot.status = 0
        slot.state = ADDED
        self.fillers[self.end % SLOTS] = filler
        memcpy(slot.uid, text, size)
        if size & 1:
            slot.uid[size] = 0
            size += 1
        slot.uid_length = size
        self.end += 1
        return True

    # -- sending --------------------------------------------------------------------------------

    def advance(self):
        """Sends as much as it may, and reads ahead."""
        cdef Slot* slot
        if self.advancing:
            return  # called back by the connection
        self.advancing = True
        try:
            while not self.stopped:
                if self.next_read > self.next_send and self.outstanding < self.window:
                    self.send_next()
                elif self.next_read == self.next_send and self.next_read < self.end and self.free_count:
                    self.read_next()
                else:
                    break
        except BaseException as error:
            self.stopped = BROKEN
            self.error = error
        finally:
            self.advancing = False

    def halt(self):
        """Sends nothing more; outstanding instances may still be answered."""
        if not self.stopped or self.stopped == NOT_CACHED:
            self.stopped = HALTED

    def resume(self):
        """Goes on: what was not in the page cache is there now. Does nothing if it has stopped for another reason."""
        if self.stopped == NOT_CACHED:
            self.stopped = RUNNING
            self.advance()

    def let_go(self):
        """Stops and releases its frames. The kernel must have taken everything that was sent."""
        self.halt()
        self.frames = []
        self.free_count = 0

    cdef int send_next(self) except -1:
        cdef Slot* slot = &self.slots[self.next_send % SLOTS]
        cdef Frame frame
        cdef Py_ssize_t sent
        if not self.is_wanted():
            self.stopped = UNWANTED
            return 0
        # Do it before the call, which may lead to a query of this state.
        slot.state = SENT
        self.next_send += 1
        self.outstanding += 1
        frame = <Frame>self.frames[slot.frame]
        sent = 0 if self.outlet is None else self.outlet.send(frame.data, frame.length)
        if sent == frame.length:
            # The kernel has taken it: read the next one into this frame, which is still in the processor's cache.
            self.free_frames[self.free_count] = slot.frame
            self.free_count += 1
            slot.frame = -1
        elif sent == 0:
            self.connection.send(frame)
        else:
            self.connection.send(memoryview(frame)[sent:])
        return 0

    cdef int read_next(self) except -1:
        """Reads the next data set between the headers of a free frame; stops if that would wait."""
        cdef Slot* slot = &self.slots[self.next_read % SLOTS]
        cdef Frame frame = <Frame>self.frames[self.free_frames[self.free_count - 1]]
        cdef Py_ssize_t prefix = self.put_command(slot, frame)
        frame.put_headers(prefix, slot.length, self.fragment, self.heads[slot.head].context_id, True)
        filler = self.fillers[self.next_read % SLOTS]
        if not (read_gaps(frame, slot.fd, slot.offset) if filler is None else filler(frame.gaps())):
            self.stopped = NOT_CACHED
        elif frame.crc() != slot.crc:
            self.stopped = DAMAGED
        else:
            self.free_count -= 1
            slot.frame = self.free_frames[self.free_count]
            slot.state = READY
            self.next_read += 1
        return 0

    cdef Py_ssize_t put_command(self, Slot* slot, Frame frame) noexcept nogil:
        """Writes the P-DATA-TF of a C-STORE-RQ; returns its length."""
        cdef Head* head = &self.heads[slot.head]
        cdef uint8_t* p = frame.data + 12
        cdef Py_ssize_t rest = head.length - head.uid_end
        cdef Py_ssize_t length = head.uid_at + slot.uid_length + rest
        put_header(frame.data, length, head.context_id, 3)
        memcpy(p, head.data, head.uid_at)
        put_little32(p + 8, length - 12)
        p[head.message_id_at] = slot.message_id & 0xFF
        p[head.message_id_at + 1] = slot.message_id >> 8
        put_little32(p + head.uid_at - 4, slot.uid_length)
        memcpy(p + head.uid_at, slot.uid, slot.uid_length)
        memcpy(p + head.uid_at + slot.uid_length, head.data + head.uid_end, rest)
        return 12 + length

    # -- answers --------------------------------------------------------------------------------

    def take(self, Py_ssize_t context_id, bytes command not None):
        """Handles a command if it is a C-STORE-RSP to one of these. Returns whether it was."""
        cdef uint16_t message_id = 0, status = 0
        if not parse_response(<const uint8_t*>PyBytes_AS_STRING(command), PyBytes_GET_SIZE(command),
                              &message_id, &status):
            return False
        return self.note(message_id, status, context_id)

    def answered(self, uint16_t message_id, uint16_t status):
        """The same for a decoded response."""
        return self.note(message_id, status, -1)

    cdef bint note(self, uint16_t message_id, uint16_t status, Py_ssize_t context_id) except *:
        cdef Py_ssize_t number
        cdef Slot* slot
        for number in range(self.first_open, self.next_send):
            slot = &self.slots[number % SLOTS]
            if slot.state == SENT and slot.message_id == message_id:
                break
        else:
            return False
        if context_id >= 0 and context_id != self.heads[slot.head].context_id:
            return False
        slot.state = ANSWERED
        slot.status = status
        self.outstanding -= 1
        self.answered_count += 1
        while self.first_open < self.next_send and self.slots[self.first_open % SLOTS].state == ANSWERED:
            self.first_open += 1
        if (self.outlet is None or not self.outlet.is_free) and self.connection.unsent_bytes:
            if not self.stopped:
                self.stopped = ANSWERED_EARLY
        elif self.frames and slot.frame >= 0:
            self.free_frames[self.free_count] = slot.frame
            self.free_count += 1
        self.advance()
        if (self.stopped or self.end - self.next_send < self.refill_below
                or not self.outstanding and self.next_send == self.end):
            self.on_progress()
        return True

    def collect(self):
        """The statuses of the answered ones at the front, in order; frees their slots."""
        cdef list statuses = []
        while self.head < self.first_open:
            statuses.append(self.slots[self.head % SLOTS].status)
            self.head += 1
        return statuses

    def rest(self):
        """(is sent, status or None) of all uncollected ones, in order."""
        cdef list rest = []
        cdef Py_ssize_t number
        cdef Slot* slot
        for number in range(self.head, self.end):
            slot = &self.slots[number % SLOTS]
            rest.append((slot.state >= SENT, slot.status if slot.state == ANSWERED else None))
        return rest


cdef bint read_gaps(Frame frame, int fd, int64_t offset) noexcept nogil:
    """Fills a frame's gaps from the page cache. Returns whether all bytes were there."""
    cdef iovec vectors[VECTORS]
    cdef iovec* next_vector = vectors
    cdef Py_ssize_t left = frame.payload, length, done
    cdef uint8_t* p = frame.data + frame.first
    cdef int count = 0
    while left:
        length = left if left < frame.fragment else frame.fragment
        vectors[count].iov_base = p + 12
        vectors[count].iov_len = length
        count += 1
        p += 12 + length
        left -= length
    left = frame.payload
    while left:
        done = preadv2(fd, next_vector, count, offset, RWF_NOWAIT)
        if done < 0 and errno == EINTR:
            continue
        if done <= 0:
            return False
        left -= done
        offset += done
        while count and <size_t>done >= next_vector.iov_len:
            done -= next_vector.iov_len
            next_vector += 1
            count -= 1
        if done:
            next_vector.iov_base = <uint8_t*>next_vector.iov_base + done
            next_vector.iov_len -= done
    return True
