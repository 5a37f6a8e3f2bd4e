# Writes a data set, or the items of a sequence, in another encoding (PS3.5 section 7 and 6.2.2). Header only.
#
# One walk over the source with a stack of open containers runs twice: first without target, to measure, then to write.
# It may stop anywhere, for lack of source or of room, and continues there: a data set of any length passes through a
# window. Memory grows only by one number for each container of defined length, since its length precedes its content.
# Never allocate by a length found on the wire.
#
#     PATCHED     source and target are whole: a length is written when its container is closed
#     MEASURED    nothing is written: lengths are noted, in the order in which their containers are opened
#     REPLAYED    lengths are taken from those notes
#
# Kept: every element but group lengths (gggg,0000), which would be wrong afterwards; values; defined lengths stay
# defined and undefined ones undefined. Two exceptions allow the way back: a sequence that the dictionary does not know
# gets undefined length in implicit VR, and UN of undefined length becomes SQ.
# An implicit value of a VR whose length field is too short for it becomes UN (PS3.5 6.2.2 note). Containers beyond
# LENGTHS_MAX get undefined length.
#
# Tolerated, as in readers: up to 7 bytes that cannot be an element at the end of anything of defined length; at the
# root anything invalid after Pixel Data, or short with a tag that is not above the last one: the data set ends before it
# (`Walk.tail_offset`). A plain value of the root that ends early is kept as far as it goes, with its own length: it
# stays truncated. If the result has an odd length, the root's last plain value of odd length is padded (PS3.5 7.1.1);
# others stay unchanged.

from cursor cimport Cursor, holds, u16, u32
from dataset cimport (
    BIG_ENDIAN, CONTAINERS_MAX, ENCAPSULATED, EXPLICIT_VR, ITEM, ITEM_DELIMITER, MISPLACED, NESTING_MAX, NO_END,
    OB_OR_OW, OK, OVERRUN, OW_OR_NUMBERS, SEQUENCE_DELIMITER, TOO_DEEP, TOO_LONG, UNDEFINED_LENGTH, US_OR_SS, VR_OB,
    VR_OW, VR_SQ, VR_SS, VR_UI, VR_UN, VR_US, Budget, Dictionary, Header, dictionary_vr, is_long, item_encoding, read_header,
    skip_undefined, swap_unit,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy


cdef enum Mode:
    PATCHED
    MEASURED
    REPLAYED

cdef enum:
    # Not among the statuses of dataset.pxd: the walk continues with more bytes or room.
    STARVED = 100  # the window ends
    FULL = 101  # the target has no room, or the notes have none

cdef enum:
    LOOK_BYTES = 32  # the most bytes of the source that one step reads
    STEP_BYTES = 32  # the most bytes of the target that one step writes, without values
    LENGTHS_MAX = 2097152
    BRIEF_BYTES_MAX = 256
    TAIL_BYTES_MAX = 4096  # the most bytes that are tolerated without Pixel Data: a sector's padding

cdef enum:
    NO_OFFSET = -9223372036854775807
    NO_PATCH = -1
    TAG_BITS_ALLOCATED = 0x00280100
    TAG_PIXEL_REPRESENTATION = 0x00280103
    TAG_WAVEFORM_BITS = 0x54001004
    TAG_FLOAT_PIXEL_DATA = 0x7FE00008
    TAG_PIXEL_DATA = 0x7FE00010


cdef struct Container:
    Py_ssize_t end  # in the source; NO_END: a delimiter ends it
    Py_ssize_t limit  # in the source; of the innermost container of defined length
    Py_ssize_t length_at  # PATCHED: in the target; MEASURED: in the notes; NO_PATCH
    Py_ssize_t opened_size  # of the target, when its header had been written
    int encoding
    bint is_sequence
    bint is_delimited  # in the target
    # Decides the VRs that PS3.6 leaves open; items inherit it.
    uint16_t bits_allocated
    uint16_t pixel_representation
    uint16_t waveform_bits


cdef struct Walk:
    # All offsets count from the beginning of the window, `source.data`; ends may lie beyond its end.
    Cursor source  # its end is the limit of the innermost container
    Py_ssize_t available  # bytes in the window
    Py_ssize_t offset
    const Dictionary *dictionary
    int target_encoding
    Mode mode
    uint8_t *target  # NULL: only measure
    Py_ssize_t target_room
    Py_ssize_t target_at
    Py_ssize_t size  # of everything written up to now
    Py_ssize_t size_max  # stop beyond this
    bint is_brief  # the root's items lose their sequences, private elements and values beyond BRIEF_BYTES_MAX
    Py_ssize_t whole_size  # after the last item of the root that is complete
    Py_ssize_t whole_offset
    uint32_t *lengths
    Py_ssize_t lengths_count
    Py_ssize_t lengths_room
    Py_ssize_t value_left  # of the value that is being written
    int value_unit
    Py_ssize_t odd_offset  # of the root's last element with a plain value of odd length
    bint pads_odd  # and it gets one byte more
    bint is_padding_due
    uint8_t padding
    # The root's last element, for the tolerated bytes after it.
    Py_ssize_t tail_offset
    Py_ssize_t tail_size
    Py_ssize_t tail_lengths
    Py_ssize_t tail_odd_offset
    uint32_t root_tag
    bint may_be_tail
    bint is_past_pixels
    # Values that decide VRs, found at the root up to (0028,0103).
    bint is_found
    uint16_t found_bits_allocated
    uint16_t found_pixel_representation
    Py_ssize_t depth
    Container open[CONTAINERS_MAX + 1]  # and the root


cdef inline void put(Walk *walk, const uint8_t *source, Py_ssize_t count) noexcept nogil:
    if walk.target != NULL and count <= walk.target_room - walk.target_at:
        memcpy(walk.target + walk.target_at, source, count)
        walk.target_at += count
    walk.size += count


cdef inline void put_swapped(Walk *walk, const uint8_t *source, Py_ssize_t count, int unit) noexcept nogil:
    """Writes numbers of `unit` bytes in the other byte order. There must be room."""
    cdef Py_ssize_t numbers = count // unit
    cdef Py_ssize_t i
    cdef int k
    cdef uint8_t *target = walk.target + walk.target_at
    if unit == 2:  # the pixels: a loop that compilers turn into vectors
        for i in range(numbers):
            target[2 * i] = source[2 * i + 1]
            target[2 * i + 1] = source[2 * i]
    else:
        for i in range(numbers):
            for k in range(unit):
                target[unit * i + k] = source[unit * i + unit - 1 - k]
    walk.target_at += count
    walk.size += count


cdef inline void put_u16(Walk *walk, uint16_t value) noexcept nogil:
    cdef uint8_t b[2]
    cdef bint big_endian = (walk.target_encoding & BIG_ENDIAN) != 0
    b[1 - big_endian] = <uint8_t>(value >> 8)
    b[0 + big_endian] = <uint8_t>value
    put(walk, b, 2)


cdef inline void put_u32(Walk *walk, uint32_t value) noexcept nogil:
    if walk.target_encoding & BIG_ENDIAN:
        put_u16(walk, <uint16_t>(value >> 16))
        put_u16(walk, <uint16_t>value)
    else:
        put_u16(walk, <uint16_t>value)
        put_u16(walk, <uint16_t>(value >> 16))


cdef inline void put_tag(Walk *walk, uint32_t tag) noexcept nogil:
    put_u16(walk, <uint16_t>(tag >> 16))
    put_u16(walk, <uint16_t>tag)


cdef inline void put_header(Walk *walk, uint32_t tag, uint16_t vr, uint32_t length) noexcept nogil:
    """Writes a header; without the VR if that is 0 or the target is implicit."""
    cdef uint8_t letters[2]
    put_tag(walk, tag)
    if vr == 0 or not walk.target_encoding & EXPLICIT_VR:
        put_u32(walk, length)
        return
    letters[0] = <uint8_t>(vr >> 8)
    letters[1] = <uint8_t>vr
    put(walk, letters, 2)
    if is_long(vr):
        put_u16(walk, 0)
        put_u32(walk, length)
    else:
        put_u16(walk, <uint16_t>length)


cdef inline int open_container(
    Walk *walk, const Header *header, uint16_t vr, bint is_sequence, bint is_delimited
) noexcept nogil:
    """Writes the header of a sequence or item and enters it."""
    cdef Container *parent = &walk.open[walk.depth - 1]
    cdef Container *child
    cdef uint32_t length = UNDEFINED_LENGTH
    if walk.depth > CONTAINERS_MAX:
        return TOO_DEEP
    if header.length != UNDEFINED_LENGTH and not holds(&walk.source, header.value_offset, header.length):
        return OVERRUN
    if walk.mode != PATCHED and walk.lengths_count >= LENGTHS_MAX:
        is_delimited = True
    child = &walk.open[walk.depth]
    child[0] = parent[0]
    child.is_sequence = is_sequence
    child.is_delimited = is_delimited
    child.length_at = NO_PATCH
    if not is_delimited:
        if walk.mode == PATCHED:
            child.length_at = walk.size + (8 if vr != 0 and walk.target_encoding & EXPLICIT_VR else 4)
        elif walk.mode == MEASURED:
            child.length_at = walk.lengths_count
            walk.lengths[walk.lengths_count] = 0
            walk.lengths_count += 1
        elif walk.lengths_count >= walk.lengths_room:
            return MISPLACED  # other bytes than the measured ones
        else:
            length = walk.lengths[walk.lengths_count]
            walk.lengths_count += 1
    put_header(walk, header.tag, vr, length)
    child.opened_size = walk.size
    child.end = NO_END
    if header.length != UNDEFINED_LENGTH:
        child.end = child.limit = header.value_offset + header.length
    walk.depth += 1
    walk.source.end = child.limit
    walk.offset = header.value_offset
    if not is_sequence:
        child.encoding = item_encoding(&walk.source, walk.offset, child.limit, child.encoding)
    elif header.vr == VR_UN and child.encoding & BIG_ENDIAN and holds(&walk.source, walk.offset, 4):
        if u16(&walk.source, walk.offset, False) == 0xFFFE:  # implicit VR little endian, as PS3.5 6.2.2 has it
            child.encoding = 0
    return OK


cdef inline int close_container(Walk *walk) noexcept nogil:
    """Leaves the innermost container: writes its delimiter or its length."""
    cdef Container *closed = &walk.open[walk.depth - 1]
    cdef Py_ssize_t size = walk.size
    cdef Py_ssize_t length
    if closed.is_delimited:
        put_header(walk, SEQUENCE_DELIMITER if closed.is_sequence else ITEM_DELIMITER, 0, 0)
    elif closed.length_at != NO_PATCH:
        length = size - closed.opened_size
        if length >= UNDEFINED_LENGTH:
            return TOO_LONG
        if walk.mode == MEASURED:
            walk.lengths[closed.length_at] = <uint32_t>length
        else:
            walk.size = walk.target_at = closed.length_at
            put_u32(walk, <uint32_t>length)
            walk.size = walk.target_at = size
    walk.depth -= 1
    if walk.depth > 0:
        walk.source.end = walk.open[walk.depth - 1].limit
    if walk.depth == 1:
        if walk.size <= walk.size_max:
            walk.whole_size = walk.size
            walk.whole_offset = walk.offset
    return OK


cdef inline uint16_t resolved_vr(const Walk *walk, const Container *data_set, uint32_t tag) noexcept nogil:
    """The dictionary's VR, with its choices decided by PS3.5 Annex A and PS3.3 C.7.6.3."""
    cdef uint16_t vr = dictionary_vr(walk.dictionary, tag)
    if vr == US_OR_SS:
        return VR_SS if data_set.pixel_representation == 1 else VR_US
    if vr == OW_OR_NUMBERS:
        return VR_OW
    if vr == OB_OR_OW:
        if tag == TAG_PIXEL_DATA:
            return VR_OB if 0 < data_set.bits_allocated <= 8 else VR_OW
        if tag >> 16 == 0x5400:
            return VR_OB if 0 < data_set.waveform_bits <= 8 else VR_OW
        return VR_OW
    return vr


cdef inline void remember(const Walk *walk, Container *data_set, const Header *header) noexcept nogil:
    """Keeps the values that decide other elements' VRs."""
    cdef uint16_t value
    if header.length != 2:
        return
    if header.tag == TAG_BITS_ALLOCATED or header.tag == TAG_PIXEL_REPRESENTATION or header.tag == TAG_WAVEFORM_BITS:
        value = u16(&walk.source, header.value_offset, (data_set.encoding & BIG_ENDIAN) != 0)
        if header.tag == TAG_BITS_ALLOCATED:
            data_set.bits_allocated = value
        elif header.tag == TAG_PIXEL_REPRESENTATION:
            data_set.pixel_representation = value
        else:
            data_set.waveform_bits = value


cdef inline bint is_sequence_value(const Walk *walk, const Header *header, uint16_t vr, int encoding) noexcept nogil:
    """Whether an element's value has items: by its VR, its undefined length, or both dictionary and first tag."""
    cdef Header first
    if header.vr == VR_SQ or header.length == UNDEFINED_LENGTH:
        return True
    if header.vr != 0 or vr != VR_SQ:
        return False
    if header.length == 0:
        return True
    return read_header(&walk.source, header.value_offset, encoding, &first) == OK and first.tag == ITEM


cdef inline int step_value(Walk *walk, Container *data_set, const Header *header, uint16_t vr) noexcept nogil:
    """Writes the header of an element that is no sequence, and begins its value."""
    cdef Py_ssize_t length = header.length
    if not holds(&walk.source, header.value_offset, length):
        if walk.mode == PATCHED or walk.depth > 1 or walk.may_be_tail or walk.tail_size == 0:
            return OVERRUN
        length = walk.source.end - header.value_offset
    remember(walk, data_set, header)
    walk.value_unit = 1
    if (data_set.encoding ^ walk.target_encoding) & BIG_ENDIAN:
        walk.value_unit = swap_unit(vr)
    if header.length > 0xFFFF and not is_long(vr):
        vr = VR_UN
    if walk.mode == MEASURED and walk.depth == 1:
        if length & 1 and length == header.length and (is_long(vr) or length < 0xFFFF):
            walk.odd_offset = walk.tail_offset
    if walk.mode == REPLAYED and walk.depth == 1 and walk.pads_odd and walk.odd_offset == walk.tail_offset:
        walk.is_padding_due = True
        walk.padding = 0 if vr == VR_OB or vr == VR_UN or vr == VR_UI or swap_unit(vr) > 1 else 0x20
    put_header(walk, header.tag, vr, header.length + walk.is_padding_due)
    walk.offset = header.value_offset
    walk.value_left = length
    return OK


cdef inline int go_on_with_value(Walk *walk) noexcept nogil:
    """Writes as much of the value as it can; an incomplete number at the end is copied unchanged."""
    cdef Py_ssize_t count = walk.value_left
    if walk.target == NULL:
        walk.size += count
        walk.offset += count
        walk.value_left = 0
        return OK
    if walk.value_left < walk.value_unit:
        walk.value_unit = 1
    if count > walk.available - walk.offset:
        count = walk.available - walk.offset
    if count > walk.target_room - walk.target_at:
        count = walk.target_room - walk.target_at
    count -= count % walk.value_unit
    if count <= 0:
        return STARVED if walk.available - walk.offset < walk.value_unit else FULL
    if walk.value_unit == 1:
        put(walk, walk.source.data + walk.offset, count)
    else:
        put_swapped(walk, walk.source.data + walk.offset, count, walk.value_unit)
    walk.offset += count
    walk.value_left -= count
    return OK


cdef inline int step_over(Walk *walk, const Header *header) noexcept nogil:
    """Leaves one element out."""
    if not holds(&walk.source, header.value_offset, header.length):
        return OVERRUN
    walk.offset = header.value_offset + header.length
    return OK


cdef inline int leave_out(Walk *walk, const Container *data_set, const Header *header) noexcept nogil:
    """Leaves one element out, also one of undefined length."""
    cdef Budget budget
    if header.length != UNDEFINED_LENGTH:
        return step_over(walk, header)
    budget.nesting_max = NESTING_MAX
    budget.elements_left = walk.source.end
    walk.offset = header.value_offset
    return skip_undefined(&walk.source, &walk.offset, data_set.encoding, 1, True, &budget)


cdef inline void note_root_element(Walk *walk, const Container *root, const Header *header) noexcept nogil:
    """Notes that everything up to here is whole, and the current element of the root."""
    walk.tail_offset = walk.offset
    walk.tail_size = walk.size
    walk.tail_lengths = walk.lengths_count
    walk.tail_odd_offset = walk.odd_offset
    walk.may_be_tail = (
        walk.is_past_pixels or header.tag <= walk.root_tag and walk.source.end - walk.offset <= TAIL_BYTES_MAX
    )
    if header.tag & 0xFFFF:  # group lengths are left out
        walk.root_tag = header.tag
    if TAG_FLOAT_PIXEL_DATA <= header.tag <= TAG_PIXEL_DATA:
        walk.is_past_pixels = True
    if header.tag > TAG_PIXEL_REPRESENTATION and not walk.is_found:
        walk.is_found = True
        walk.found_bits_allocated = root.bits_allocated
        walk.found_pixel_representation = root.pixel_representation


cdef inline Py_ssize_t forgiven(const Walk *walk) noexcept nogil:
    """The bytes tolerated at the end of anything of defined length. Values for the index are read to the last byte."""
    return 1 if walk.mode == PATCHED else 8


cdef inline int step_element(Walk *walk, Container *data_set) noexcept nogil:
    """Handles one element of a data set, or its end."""
    cdef Header header
    cdef uint16_t vr
    cdef bint is_delimited
    if data_set.end != NO_END and walk.offset > data_set.end - forgiven(walk):
        walk.offset = data_set.end
        return close_container(walk)
    if read_header(&walk.source, walk.offset, data_set.encoding, &header) != OK:
        return OVERRUN
    if walk.depth == 1:
        note_root_element(walk, data_set, &header)
    if header.tag == ITEM_DELIMITER and data_set.end == NO_END:
        walk.offset = header.value_offset
        return close_container(walk)
    if header.tag >> 16 == 0xFFFE or header.tag & 0xFFFF == 0:  # a stray delimiter or a group length
        if header.length == UNDEFINED_LENGTH:
            return MISPLACED
        return step_over(walk, &header)
    vr = header.vr if header.vr != 0 else resolved_vr(walk, data_set, header.tag)
    if walk.is_brief and walk.depth == 2 and (
        header.tag & 0x10000 or header.length > BRIEF_BYTES_MAX or is_sequence_value(walk, &header, vr, data_set.encoding)
    ):
        return leave_out(walk, data_set, &header)
    if is_sequence_value(walk, &header, vr, data_set.encoding):
        if vr == VR_OB or vr == VR_OW or header.tag == TAG_PIXEL_DATA:
            return ENCAPSULATED
        is_delimited = header.length == UNDEFINED_LENGTH
        if not walk.target_encoding & EXPLICIT_VR and not is_delimited:
            is_delimited = dictionary_vr(walk.dictionary, header.tag) != VR_SQ
        return open_container(walk, &header, VR_SQ, True, is_delimited)
    return step_value(walk, data_set, &header, VR_UN if vr == VR_SQ else vr)


cdef inline int step_item(Walk *walk, Container *sequence) noexcept nogil:
    """Enters one item of a sequence, or handles its end."""
    cdef Header header
    if sequence.end != NO_END and walk.offset > sequence.end - forgiven(walk):
        walk.offset = sequence.end
        return close_container(walk)
    if read_header(&walk.source, walk.offset, sequence.encoding, &header) != OK:
        return OVERRUN
    if header.tag == ITEM:
        return open_container(walk, &header, 0, False, header.length == UNDEFINED_LENGTH)
    if header.tag == SEQUENCE_DELIMITER:
        walk.offset = header.value_offset
        return close_container(walk) if sequence.end == NO_END else OK
    return MISPLACED


cdef inline void begin(Walk *walk, Py_ssize_t offset, Py_ssize_t end, int encoding, bint is_sequence) noexcept nogil:
    """Starts the walk at source[offset:end]. Set source, target, lengths and found values before."""
    cdef Container *root = &walk.open[0]
    root.end = root.limit = end
    root.length_at = NO_PATCH
    root.encoding = encoding
    root.is_sequence = is_sequence
    root.is_delimited = False
    root.opened_size = root.waveform_bits = 0
    root.bits_allocated = walk.found_bits_allocated
    root.pixel_representation = walk.found_pixel_representation
    walk.offset = walk.whole_offset = walk.tail_offset = offset
    walk.source.end = end
    walk.size = walk.whole_size = walk.tail_size = walk.target_at = 0
    walk.value_left = walk.lengths_count = walk.tail_lengths = 0
    walk.is_padding_due = False
    walk.root_tag = 0
    walk.may_be_tail = walk.is_past_pixels = walk.is_found = False
    walk.depth = 1


cdef inline void move_window(Walk *walk, Py_ssize_t by) noexcept nogil:
    """Moves the start of the window by `by` bytes."""
    cdef Py_ssize_t i
    for i in range(walk.depth):
        if walk.open[i].end != NO_END:
            walk.open[i].end -= by
        walk.open[i].limit -= by
    walk.offset -= by
    walk.tail_offset -= by
    if walk.odd_offset != NO_OFFSET:
        walk.odd_offset -= by
    if walk.tail_odd_offset != NO_OFFSET:
        walk.tail_odd_offset -= by
    walk.source.end -= by


cdef inline int go_on(Walk *walk) noexcept nogil:
    """Walks until all is done (OK), or the window or the room ends. Else `walk.offset` is that of the fault."""
    cdef Container *top
    cdef int status = OK
    while status == OK and walk.depth > 0 and walk.size <= walk.size_max:
        if walk.value_left > 0:
            status = go_on_with_value(walk)
            continue
        if walk.available < walk.source.end and walk.available - walk.offset < LOOK_BYTES:
            return STARVED
        if walk.target != NULL and walk.mode != PATCHED and walk.target_room - walk.target_at < STEP_BYTES:
            return FULL
        if walk.mode == MEASURED and walk.lengths_count == walk.lengths_room and walk.lengths_count < LENGTHS_MAX:
            return FULL
        if walk.is_padding_due:
            put(walk, &walk.padding, 1)
            walk.is_padding_due = False
        top = &walk.open[walk.depth - 1]
        status = step_item(walk, top) if top.is_sequence else step_element(walk, top)
    return status


cdef inline int reencode(Walk *walk, Py_ssize_t offset, Py_ssize_t end, int encoding, bint is_sequence) noexcept nogil:
    """Walks source[offset:end], which is whole, and writes it. On failure `walk.offset` is that of the fault.

    The caller sets source, dictionary, target and its encoding, and size_max; size and whole_size are results.
    """
    walk.mode = PATCHED
    walk.available = walk.source.end
    walk.lengths = NULL
    walk.pads_odd = False
    walk.lengths_room = walk.found_bits_allocated = walk.found_pixel_representation = 0
    begin(walk, offset, end, encoding, is_sequence)
    return go_on(walk)
