# Reads headers of data elements and skips values (PS3.5 section 7). Header only.
#
#     implicit VR        explicit VR, short        explicit VR, long (OB OD OF OL OV OW SQ SV UC UN UR UT UV)
#     group     u16      group     u16             group     u16
#     element   u16      element   u16             element   u16
#     length    u32      VR        2 letters       VR        2 letters
#                        length    u16             reserved  u16
#                                                  length    u32
#
# Length FFFFFFFF is undefined: items up to a delimiter. (FFFE,xxxx) are always implicit.
# Two capital letters are a VR; an unknown one has the long form (PS3.5 7.1.2), since future VRs have it.
# Faults of writers that readers tolerate: two characters that are no VR ("  ", "??", "un", NUL NUL) are skipped and
# followed by a length of 2 bytes, "ox" and "lt" by one of 4, as DCMTK writes and reads them (`odd_form`); the VR is
# then the dictionary's. An element without such characters in an explicit data set is read as implicit, and so is a
# whole item whose first element has none (legal below UN, PS3.5 6.2.2). Lengths may look like VRs, so the bytes after
# the first element of a data set or item must agree (`explicit_belief`).

from cursor cimport Cursor, holds, u16, u32
from libc.stdint cimport uint8_t, uint16_t, uint32_t


cdef enum:
    # The bits of an encoding, as dicom.transfer_syntax gives them.
    EXPLICIT_VR = 1
    BIG_ENDIAN = 2

cdef enum:
    ITEM = 0xFFFEE000
    ITEM_DELIMITER = 0xFFFEE00D
    SEQUENCE_DELIMITER = 0xFFFEE0DD
    UNDEFINED_LENGTH = 0xFFFFFFFF

cdef enum Status:
    OK = 0
    OVERRUN = 1  # the bytes end within an element
    MISPLACED = 2  # something else where an item or a delimiter must stand
    TOO_DEEP = 3
    TOO_LONG = 4  # a length that its field cannot hold
    ENCAPSULATED = 5  # fragments where only native values can be
    TOO_MANY = 6  # elements

cdef enum:
    # The deepest nesting of sequences, whatever is configured. pydicom fails at some 300.
    NESTING_MAX = 512
    # A sequence and an item for each.
    CONTAINERS_MAX = 2 * NESTING_MAX
    NO_END = -1

cdef enum:
    # VRs as their two letters, the first in the high byte; 0 is no VR on the wire.
    VR_AT = 0x4154
    VR_FD = 0x4644
    VR_FL = 0x464C
    VR_LO = 0x4C4F
    VR_OB = 0x4F42
    VR_OD = 0x4F44
    VR_OF = 0x4F46
    VR_OL = 0x4F4C
    VR_OV = 0x4F56
    VR_OW = 0x4F57
    VR_SL = 0x534C
    VR_SQ = 0x5351
    VR_SS = 0x5353
    VR_SV = 0x5356
    VR_UC = 0x5543
    VR_UI = 0x5549
    VR_UL = 0x554C
    VR_UN = 0x554E
    VR_UR = 0x5552
    VR_US = 0x5553
    VR_UT = 0x5554
    VR_UV = 0x5556
    # Choices that PS3.6 leaves open, in the form of dicom.tags.
    US_OR_SS = 0x7873
    OB_OR_OW = 0x6F78
    OW_OR_NUMBERS = 0x6C74


cdef enum:
    # The encoding of a data set is judged by this many bytes from its first element on.
    ROOT_LOOK = 112
    ITEM_LOOK = 24
    FIRST_BYTES_MAX = 0x20000000  # of a first element; four letters as a length are more


cdef enum OddForm:
    NO_VR
    ODD_SHORT
    ODD_LONG


cdef struct Header:
    uint32_t tag
    uint32_t length
    Py_ssize_t value_offset
    uint16_t vr


cdef struct Entry:
    # One line of the dictionary (dicom.tags.packed).
    uint32_t tag
    uint16_t vr
    uint16_t reserved


cdef struct Dictionary:
    const Entry *entries
    Py_ssize_t count


cdef struct Budget:
    # The limits of a walk, counted down over all elements at every depth.
    Py_ssize_t elements_left
    Py_ssize_t nesting_max


cdef struct Level:
    # One open container of `probe`.
    Py_ssize_t end  # the innermost defined one
    int encoding
    bint is_sequence
    bint is_delimited


cdef inline bint is_letters(uint8_t first, uint8_t second) noexcept nogil:
    return 0x41 <= first <= 0x5A and 0x41 <= second <= 0x5A


cdef extern from *:
    """
    /* By first letter, a bit for each second one: AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US. */
    static const uint32_t SHORT_VRS[26] = {
        0xC0010, 0x0, 0x40000, 0xC0001, 0x0, 0x808, 0x0, 0x0, 0x40000, 0x0, 0x0, 0x84000, 0x0, 0x0, 0x0,
        0x2000, 0x0, 0x0, 0xC0880, 0x1000, 0x40900, 0x0, 0x0, 0x0, 0x0, 0x0
    };
    """
    const uint32_t *SHORT_VRS


cdef inline bint is_long(uint16_t vr) noexcept nogil:
    """Whether a VR is followed by 2 reserved bytes and a length of 4 (PS3.5 Table 7.1-1): all but those (7.1.2)."""
    cdef uint32_t first = <uint32_t>(vr >> 8) - 0x41
    cdef uint32_t second = <uint32_t>(vr & 0xFF) - 0x41
    return first >= 26 or second >= 26 or not SHORT_VRS[first] >> second & 1


cdef inline bint is_listed_vr(uint16_t vr) noexcept nogil:
    """Whether a VR is one of PS3.5 6.2."""
    if not is_long(vr) or vr == VR_SQ or vr == VR_SV or vr == VR_UC or vr == VR_UN or vr == VR_UR or vr == VR_UT:
        return True
    return vr == VR_UV or vr == VR_OB or vr == VR_OD or vr == VR_OF or vr == VR_OL or vr == VR_OV or vr == VR_OW


cdef inline bint is_alphanumeric(uint8_t c) noexcept nogil:
    return 0x30 <= c <= 0x39 or 0x41 <= c <= 0x5A or 0x61 <= c <= 0x7A


cdef inline OddForm odd_form(const uint8_t *header, uint32_t group, bint big_endian) noexcept nogil:
    """The form in place of a VR, in 8 bytes of an explicit header without two capital letters there.

    An implicit length must be of 8 KiB or more to look like it (NUL NUL: a multiple of 64 KiB, and in big endian
    any); only that of pixels is likely to.
    """
    cdef uint8_t first = header[4]
    cdef uint8_t second = header[5]
    if first == 0x6F and second == 0x78 or first == 0x6C and second == 0x74:  # ox lt
        return ODD_LONG
    if group == 0x7FE0:
        return NO_VR
    if first == 0 and second == 0:
        return ODD_SHORT if not big_endian and (header[6] != 0 or header[7] != 0) else NO_VR
    if first == second and 0x20 <= first <= 0x7E or is_alphanumeric(first) and is_alphanumeric(second):
        return ODD_SHORT
    return NO_VR


cdef inline int swap_unit(uint16_t vr) noexcept nogil:
    """Bytes of one number of a VR, for a change of byte order; 1 if that does not matter."""
    if vr == VR_US or vr == VR_SS or vr == VR_OW or vr == VR_AT:
        return 2
    if vr == VR_UL or vr == VR_SL or vr == VR_FL or vr == VR_OF or vr == VR_OL:
        return 4
    if vr == VR_FD or vr == VR_OD or vr == VR_OV or vr == VR_SV or vr == VR_UV:
        return 8
    return 1


cdef inline int read_header(const Cursor *cursor, Py_ssize_t offset, int encoding, Header *header) noexcept nogil:
    """Reads the header at an offset; OK or OVERRUN."""
    cdef bint big_endian = (encoding & BIG_ENDIAN) != 0
    cdef const uint8_t *p
    cdef OddForm odd
    if not holds(cursor, offset, 8):
        return OVERRUN
    p = cursor.data + offset
    header.tag = <uint32_t>u16(cursor, offset, big_endian) << 16 | u16(cursor, offset + 2, big_endian)
    header.value_offset = offset + 8
    if encoding & EXPLICIT_VR and is_letters(p[4], p[5]) and header.tag >> 16 != 0xFFFE:
        header.vr = <uint16_t>(p[4] << 8 | p[5])
        if not is_long(header.vr):
            header.length = u16(cursor, offset + 6, big_endian)
            return OK
        if not holds(cursor, offset, 12):
            return OVERRUN
        header.length = u32(cursor, offset + 8, big_endian)
        header.value_offset = offset + 12
        return OK
    header.vr = 0
    if encoding & EXPLICIT_VR and header.tag >> 16 != 0xFFFE:
        odd = odd_form(p, header.tag >> 16, big_endian)
        if odd == ODD_SHORT:
            header.length = u16(cursor, offset + 6, big_endian)
            return OK
        if odd == ODD_LONG:
            if not holds(cursor, offset, 12):
                return OVERRUN
            header.length = u32(cursor, offset + 8, big_endian)
            header.value_offset = offset + 12
            return OK
    header.length = u32(cursor, offset + 4, big_endian)
    return OK


cdef inline bint looks_explicit(const Cursor *cursor, Py_ssize_t offset, int encoding) noexcept nogil:
    """Whether the element at an offset has a VR, or a tolerated form in its place."""
    cdef const uint8_t *p = cursor.data + offset
    cdef bint big_endian = (encoding & BIG_ENDIAN) != 0
    if not holds(cursor, offset, 8):
        return False
    if is_letters(p[4], p[5]):
        return True
    return odd_form(p, u16(cursor, offset, big_endian), big_endian) != NO_VR


cdef enum Belief:
    REFUTED
    DOUBTFUL
    UNSEEN
    CONFIRMED


cdef inline Belief explicit_belief(
    const Cursor *cursor, Py_ssize_t offset, Py_ssize_t end, int encoding, Py_ssize_t look
) noexcept nogil:
    """Whether a data set's first element, which looks explicit, is explicit, judged by `look` bytes from it on.

    The length of an implicit element may be letters, from 16 705 bytes on, or a tolerated form. Read as explicit, the
    element is empty or a few bytes long and invalid bytes follow, or it has an impossible length. A caller that has the
    bytes in pieces must pass `look` of them at once, unless the data set ends: no more is read.
    """
    cdef bint big_endian = (encoding & BIG_ENDIAN) != 0
    cdef Cursor seen = cursor[0]
    cdef Header first
    cdef Header second
    cdef Py_ssize_t after
    cdef uint16_t vr
    seen.end = min(seen.end, offset + look)
    if read_header(&seen, offset, encoding | EXPLICIT_VR, &first) != OK:
        return UNSEEN
    after = first.value_offset
    if after == offset + 12 and u16(&seen, offset + 6, big_endian) != 0:
        return REFUTED
    if first.length == UNDEFINED_LENGTH or first.vr == VR_SQ and first.length > 0:
        if not holds(&seen, after, 4):
            return UNSEEN
        return CONFIRMED if u16(&seen, after, big_endian) == 0xFFFE else REFUTED
    if <Py_ssize_t>first.length > (FIRST_BYTES_MAX if end == NO_END else end - after):
        return REFUTED
    after += first.length
    if not holds(&seen, after, 8):
        return CONFIRMED if after == seen.end and seen.end < offset + look else UNSEEN
    read_header(&seen, after, encoding & ~EXPLICIT_VR, &second)
    if second.tag >> 16 == 0xFFFE:
        return CONFIRMED if second.tag == ITEM_DELIMITER else REFUTED
    vr = <uint16_t>(seen.data[after + 4] << 8 | seen.data[after + 5])
    if is_letters(seen.data[after + 4], seen.data[after + 5]) and is_listed_vr(vr):
        return CONFIRMED if second.tag > first.tag else DOUBTFUL
    if second.tag <= first.tag or second.tag >> 16 != first.tag >> 16:
        return REFUTED
    return DOUBTFUL if looks_explicit(&seen, after, encoding) else REFUTED


cdef inline int item_encoding(const Cursor *cursor, Py_ssize_t offset, Py_ssize_t end, int encoding) noexcept nogil:
    """The encoding of an item's data set, by its beginning: it may turn implicit here (PS3.5 6.2.2), not explicit.

    `end`: of the innermost container of defined length, NO_END if there is none.
    """
    cdef Header header
    if not encoding & EXPLICIT_VR:
        return encoding
    if read_header(cursor, offset, encoding & ~EXPLICIT_VR, &header) != OK or header.tag >> 16 == 0xFFFE:
        return encoding
    if not looks_explicit(cursor, offset, encoding):
        return encoding & ~EXPLICIT_VR
    if encoding & BIG_ENDIAN or (end != NO_END and <Py_ssize_t>header.length > end - header.value_offset):
        return encoding
    if explicit_belief(cursor, offset, end, encoding, ITEM_LOOK) == REFUTED:
        return encoding & ~EXPLICIT_VR
    return encoding


cdef inline Py_ssize_t root_look(const Cursor *cursor, int encoding) noexcept nogil:
    """The number of bytes that `root_encoding` reads, if the data set has as many; 8 of them must exist."""
    if not is_letters(cursor.data[4], cursor.data[5]):
        return 8
    return ITEM_LOOK if encoding & EXPLICIT_VR else ROOT_LOOK


cdef inline int root_encoding(const Cursor *cursor, int encoding) noexcept nogil:
    """The encoding of a whole data set, by its beginning if that contradicts the transfer syntax."""
    cdef Belief belief
    cdef uint16_t vr
    if not holds(cursor, 0, 8):
        return encoding
    if not is_letters(cursor.data[4], cursor.data[5]):
        if encoding & EXPLICIT_VR and looks_explicit(cursor, 0, encoding):
            return encoding
        return encoding & ~EXPLICIT_VR
    belief = explicit_belief(cursor, 0, NO_END, encoding, root_look(cursor, encoding))
    if encoding & EXPLICIT_VR:
        return encoding & ~EXPLICIT_VR if belief == REFUTED and not encoding & BIG_ENDIAN else encoding
    vr = <uint16_t>(cursor.data[4] << 8 | cursor.data[5])
    if belief == CONFIRMED or (belief == UNSEEN and not is_long(vr)):
        return encoding | EXPLICIT_VR
    return encoding


cdef inline bint holds_items(const Cursor *cursor, const Header *header, int encoding) noexcept nogil:
    """Whether a value of defined length may be a sequence that is not empty: by VR, if there is one, and first tag."""
    cdef bint big_endian = (encoding & BIG_ENDIAN) != 0
    if header.vr != VR_SQ and header.vr != VR_UN and header.vr != 0:
        return False
    if header.length < 8 or not holds(cursor, header.value_offset, 8):
        return False
    return u16(cursor, header.value_offset, big_endian) == 0xFFFE and u16(
        cursor, header.value_offset + 2, big_endian
    ) == 0xE000


cdef inline int probe(
    const Cursor *source, Py_ssize_t offset, Py_ssize_t end, int encoding, bint is_sequence, Py_ssize_t depth, Budget *budget
) noexcept nogil:
    """Checks a value of defined length, which is otherwise skipped, for TOO_DEEP and TOO_MANY only.

    `depth` counts containers as in skip_undefined, this one included. Other faults in it do not matter, since the
    length gives its end; the check ends at the first invalid element.
    """
    cdef Level open[CONTAINERS_MAX + 1]
    cdef Level *top = &open[0]
    cdef Cursor cursor = source[0]
    cdef Py_ssize_t level = 0
    cdef Py_ssize_t containers_max = 2 * min(budget.nesting_max, <Py_ssize_t>NESTING_MAX) - depth
    cdef uint32_t delimiter
    cdef bint is_delimited
    cdef Header header
    if containers_max < 0:
        return TOO_DEEP
    top.end = end
    top.encoding = encoding
    top.is_sequence = is_sequence
    top.is_delimited = False
    while True:
        top = &open[level]
        cursor.end = top.end
        if offset >= top.end and not top.is_delimited:
            if level == 0:
                return OK
            level -= 1
            continue
        if read_header(&cursor, offset, top.encoding, &header) != OK:
            return OK
        budget.elements_left -= 1
        if budget.elements_left < 0:
            return TOO_MANY
        offset = header.value_offset
        is_delimited = header.length == UNDEFINED_LENGTH
        if header.tag >> 16 == 0xFFFE and header.tag != ITEM:
            delimiter = SEQUENCE_DELIMITER if top.is_sequence else ITEM_DELIMITER
            if header.tag != delimiter or not top.is_delimited:
                return OK
            level -= 1
            continue
        if top.is_sequence != (header.tag == ITEM) or not (is_delimited or holds(&cursor, offset, header.length)):
            return OK
        if not top.is_sequence and not is_delimited and not holds_items(&cursor, &header, top.encoding):
            offset += header.length
            continue
        if header.vr == VR_OB or header.vr == VR_OW:
            return OK  # fragments
        level += 1
        if level > containers_max:
            return TOO_DEEP
        open[level].end = top.end if is_delimited else offset + header.length
        open[level].is_delimited = is_delimited
        open[level].is_sequence = not top.is_sequence
        open[level].encoding = top.encoding & ~EXPLICIT_VR if header.vr == VR_UN and not is_delimited else top.encoding
        if top.is_sequence:
            cursor.end = open[level].end
            open[level].encoding = item_encoding(&cursor, offset, cursor.end, top.encoding)


cdef inline int skip_undefined(
    const Cursor *cursor, Py_ssize_t *offset, int encoding, Py_ssize_t depth, bint is_opaque, Budget *budget
) noexcept nogil:
    """Moves the offset from the first byte of a value of undefined length to the end of its delimiter.

    Depth 1 begins in a sequence, 2 in an item. Only containers of undefined length are entered, so they alternate and
    the parity of the depth tells which one is open, and there is no stack. Opaque: its items are fragments. On failure
    the offset is that of the fault.
    """
    cdef Py_ssize_t last_depth = depth - 1
    cdef Py_ssize_t containers_max = 2 * min(budget.nesting_max, <Py_ssize_t>NESTING_MAX)
    cdef Py_ssize_t implicit_depth = 0  # the item from which on everything is implicit VR
    cdef Py_ssize_t opaque_depth = depth if is_opaque else 0  # the element whose items are fragments
    cdef int here = encoding
    cdef int within
    cdef uint32_t delimiter
    cdef Cursor inner
    cdef Header header
    while depth > last_depth:
        if read_header(cursor, offset[0], here, &header) != OK:
            return OVERRUN
        budget.elements_left -= 1
        if budget.elements_left < 0:
            return TOO_MANY
        delimiter = SEQUENCE_DELIMITER if depth & 1 else ITEM_DELIMITER
        if header.tag == delimiter:
            offset[0] = header.value_offset
            depth -= 1
            if depth < implicit_depth:
                implicit_depth = 0
                here = encoding
            if depth < opaque_depth:
                opaque_depth = 0
        elif depth & 1 and header.tag != ITEM:
            return MISPLACED
        elif not depth & 1 and header.tag >> 16 == 0xFFFE and header.length == UNDEFINED_LENGTH:
            return MISPLACED
        elif header.length == UNDEFINED_LENGTH:
            offset[0] = header.value_offset
            depth += 1
            if depth > containers_max:
                return TOO_DEEP
            if depth & 1 and not opaque_depth and (header.vr == VR_OB or header.vr == VR_OW):
                opaque_depth = depth
            if not depth & 1 and not implicit_depth and item_encoding(cursor, offset[0], NO_END, here) != here:
                here = here & ~EXPLICIT_VR
                implicit_depth = depth
        elif holds(cursor, header.value_offset, header.length):
            offset[0] = header.value_offset + header.length
            if not opaque_depth and header.length >= 8 and (depth & 1 or holds_items(cursor, &header, here)):
                within = here & ~EXPLICIT_VR if header.vr == VR_UN else here
                inner = cursor[0]
                inner.end = offset[0]
                if depth & 1:
                    within = item_encoding(&inner, header.value_offset, inner.end, within)
                if probe(&inner, header.value_offset, inner.end, within, not depth & 1, depth + 1, budget) != OK:
                    return TOO_DEEP if budget.elements_left >= 0 else TOO_MANY
        else:
            return OVERRUN
    return OK


cdef inline uint16_t listed_vr(const Dictionary *dictionary, uint32_t tag) noexcept nogil:
    """The VR of a tag by binary search, 0 if it is not listed."""
    cdef Py_ssize_t low = 0
    cdef Py_ssize_t high = dictionary.count
    cdef Py_ssize_t middle
    while low < high:
        middle = (low + high) >> 1
        if dictionary.entries[middle].tag < tag:
            low = middle + 1
        else:
            high = middle
    if low < dictionary.count and dictionary.entries[low].tag == tag:
        return dictionary.entries[low].vr
    return 0


cdef inline uint16_t dictionary_vr(const Dictionary *dictionary, uint32_t tag) noexcept nogil:
    """As dicom.tags.dictionary_vr; leaves the choices open."""
    cdef uint32_t group = tag >> 16
    cdef uint16_t vr
    if not tag & 0xFFFF:
        return VR_UL
    if group & 1:
        return VR_LO if 0x10 <= tag & 0xFFFF <= 0xFF else VR_UN
    vr = listed_vr(dictionary, tag)
    if vr == 0 and (group >> 8 == 0x50 or group >> 8 == 0x60):
        vr = listed_vr(dictionary, tag & ~<uint32_t>0x00FF0000)
    return vr if vr != 0 else VR_UN
