# Writes a data set, or the items of a sequence, in another encoding (PS3.5 section 7 and 6.2.2). Header only.
#
# One walk over the source with a stack of open containers; it runs twice: first with no target, to measure, then into
# exactly that many bytes. So nothing grows, and no length found on the wire is ever allocated.
#
# Kept: every element but group lengths (gggg,0000), which would be wrong afterwards; values; defined lengths stay
# defined and undefined ones undefined. Two exceptions, both so that the way back is possible: a sequence that the
# dictionary does not know goes to implicit VR with undefined length, and UN of undefined length becomes the SQ it is.
# An implicit value of a VR whose length field is too short for it becomes UN (PS3.5 6.2.2 note).

from cursor cimport Cursor, holds, u16, u32
from dataset cimport (
    BIG_ENDIAN, CONTAINERS_MAX, ENCAPSULATED, EXPLICIT_VR, ITEM, ITEM_DELIMITER, MISPLACED, NESTING_MAX, NO_END,
    OB_OR_OW, OK, OVERRUN, OW_OR_NUMBERS, SEQUENCE_DELIMITER, TOO_DEEP, TOO_LONG, UNDEFINED_LENGTH, US_OR_SS, VR_OB,
    VR_OW, VR_SQ, VR_SS, VR_UN, VR_US, Budget, Dictionary, Header, dictionary_vr, is_long, item_encoding, read_header, skip_undefined, swap_unit,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcpy


cdef enum:
    NO_PATCH = -1
    TAG_BITS_ALLOCATED = 0x00280100
    TAG_PIXEL_REPRESENTATION = 0x00280103
    TAG_WAVEFORM_BITS = 0x54001004
    TAG_PIXEL_DATA = 0x7FE00010


cdef struct Container:
    Py_ssize_t end  # in the source; NO_END: a delimiter ends it
    Py_ssize_t limit  # in the source; of the innermost container of defined length
    Py_ssize_t length_at  # in the target, to be patched on closing; NO_PATCH
    int encoding
    bint is_sequence
    bint is_delimited  # in the target
    # What decides the VRs that PS3.6 leaves open, inherited by items.
    uint16_t bits_allocated
    uint16_t pixel_representation
    uint16_t waveform_bits


cdef struct Walk:
    Cursor source
    Py_ssize_t offset
    const Dictionary *dictionary
    int target_encoding
    uint8_t *target  # NULL: only measure
    Py_ssize_t target_room
    Py_ssize_t size
    Py_ssize_t size_max  # stop beyond this
    Py_ssize_t whole_size  # after the last item of the root that is complete
    Py_ssize_t whole_offset
    Py_ssize_t depth
    Container open[CONTAINERS_MAX + 1]  # and the root


cdef inline void put(Walk *walk, const uint8_t *source, Py_ssize_t count) noexcept nogil:
    if walk.target != NULL and count <= walk.target_room - walk.size:
        memcpy(walk.target + walk.size, source, count)
    walk.size += count


cdef inline void put_swapped(Walk *walk, const uint8_t *source, Py_ssize_t count, int unit) noexcept nogil:
    """Numbers of `unit` bytes, each turned round; a rest that is no whole number goes as it is."""
    cdef Py_ssize_t numbers = count // unit
    cdef Py_ssize_t i
    cdef int k
    cdef uint8_t *target
    if walk.target != NULL and count <= walk.target_room - walk.size:
        target = walk.target + walk.size
        if unit == 2:  # the pixels: a loop that compilers turn into vectors
            for i in range(numbers):
                target[2 * i] = source[2 * i + 1]
                target[2 * i + 1] = source[2 * i]
        else:
            for i in range(numbers):
                for k in range(unit):
                    target[unit * i + k] = source[unit * i + unit - 1 - k]
        memcpy(target + unit * numbers, source + unit * numbers, count - unit * numbers)
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
    """VR 0, or an implicit target: none is written."""
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
    Walk *walk, const Header *header, bint is_sequence, bint is_delimited
) noexcept nogil:
    """Enters a sequence or item whose target header ends at the present size."""
    cdef Container *parent = &walk.open[walk.depth - 1]
    cdef Container *child
    if walk.depth > CONTAINERS_MAX:
        return TOO_DEEP
    child = &walk.open[walk.depth]
    child[0] = parent[0]
    child.is_sequence = is_sequence
    child.is_delimited = is_delimited
    child.length_at = NO_PATCH if is_delimited else walk.size - 4
    child.end = NO_END
    if header.length != UNDEFINED_LENGTH:
        if not holds(&walk.source, header.value_offset, header.length):
            return OVERRUN
        child.end = child.limit = header.value_offset + header.length
    walk.depth += 1
    walk.source.end = child.limit
    walk.offset = header.value_offset
    if not is_sequence:
        child.encoding = item_encoding(&walk.source, walk.offset, child.encoding)
    return OK


cdef inline int close_container(Walk *walk) noexcept nogil:
    """Leaves the innermost container: its delimiter, or its length put where it belongs."""
    cdef Container *closed = &walk.open[walk.depth - 1]
    cdef Py_ssize_t size = walk.size
    cdef Py_ssize_t length
    if closed.is_delimited:
        put_header(walk, SEQUENCE_DELIMITER if closed.is_sequence else ITEM_DELIMITER, 0, 0)
    elif closed.length_at != NO_PATCH:
        length = size - closed.length_at - 4
        if length >= UNDEFINED_LENGTH:
            return TOO_LONG
        walk.size = closed.length_at
        put_u32(walk, <uint32_t>length)
        walk.size = size
    walk.depth -= 1
    if walk.depth > 0:
        walk.source.end = walk.open[walk.depth - 1].limit
    if walk.depth == 1:
        if walk.size <= walk.size_max:
            walk.whole_size = walk.size
            walk.whole_offset = walk.offset
    return OK


cdef inline uint16_t resolved_vr(const Walk *walk, const Container *data_set, uint32_t tag) noexcept nogil:
    """The dictionary's VR, its open choices decided as PS3.5 Annex A and PS3.3 C.7.6.3 have it."""
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
    """Whether an element's value is items: by its VR, its undefined length, or both dictionary and first tag."""
    cdef Header first
    if header.vr == VR_SQ or header.length == UNDEFINED_LENGTH:
        return True
    if header.vr != 0 or vr != VR_SQ:
        return False
    if header.length == 0:
        return True
    return read_header(&walk.source, header.value_offset, encoding, &first) == OK and first.tag == ITEM


cdef inline int step_value(Walk *walk, Container *data_set, const Header *header, uint16_t vr) noexcept nogil:
    """Writes one element that is no sequence."""
    cdef int unit = 1
    if not holds(&walk.source, header.value_offset, header.length):
        return OVERRUN
    remember(walk, data_set, header)
    if (data_set.encoding ^ walk.target_encoding) & BIG_ENDIAN:
        unit = swap_unit(vr)
    if header.length > 0xFFFF and not is_long(vr):
        vr = VR_UN
    put_header(walk, header.tag, vr, header.length)
    if unit == 1:
        put(walk, walk.source.data + header.value_offset, header.length)
    else:
        put_swapped(walk, walk.source.data + header.value_offset, header.length, unit)
    walk.offset = header.value_offset + header.length
    return OK


cdef inline int step_over(Walk *walk, const Header *header) noexcept nogil:
    """Leaves one element out."""
    if not holds(&walk.source, header.value_offset, header.length):
        return OVERRUN
    walk.offset = header.value_offset + header.length
    return OK


cdef inline int step_element(Walk *walk, Container *data_set) noexcept nogil:
    """One element of a data set, or the end of it."""
    cdef Header header
    cdef uint16_t vr
    cdef bint is_delimited
    if data_set.end != NO_END and walk.offset >= data_set.end:
        return close_container(walk)
    if read_header(&walk.source, walk.offset, data_set.encoding, &header) != OK:
        return OVERRUN
    if header.tag == ITEM_DELIMITER and data_set.end == NO_END:
        walk.offset = header.value_offset
        return close_container(walk)
    if header.tag >> 16 == 0xFFFE or header.tag & 0xFFFF == 0:  # a stray delimiter or a group length
        if header.length == UNDEFINED_LENGTH:
            return MISPLACED
        return step_over(walk, &header)
    vr = header.vr if header.vr != 0 else resolved_vr(walk, data_set, header.tag)
    if is_sequence_value(walk, &header, vr, data_set.encoding):
        if vr == VR_OB or vr == VR_OW or header.tag == TAG_PIXEL_DATA:
            return ENCAPSULATED
        is_delimited = header.length == UNDEFINED_LENGTH
        if not walk.target_encoding & EXPLICIT_VR and not is_delimited:
            is_delimited = dictionary_vr(walk.dictionary, header.tag) != VR_SQ
        put_header(walk, header.tag, VR_SQ, UNDEFINED_LENGTH)
        return open_container(walk, &header, True, is_delimited)
    return step_value(walk, data_set, &header, VR_UN if vr == VR_SQ else vr)


cdef inline int step_item(Walk *walk, Container *sequence) noexcept nogil:
    """One item of a sequence entered, or the end of the sequence."""
    cdef Header header
    if sequence.end != NO_END and walk.offset >= sequence.end:
        return close_container(walk)
    if read_header(&walk.source, walk.offset, sequence.encoding, &header) != OK:
        return OVERRUN
    if header.tag == ITEM:
        put_header(walk, ITEM, 0, UNDEFINED_LENGTH)
        return open_container(walk, &header, False, header.length == UNDEFINED_LENGTH)
    if header.tag == SEQUENCE_DELIMITER:
        walk.offset = header.value_offset
        return close_container(walk) if sequence.end == NO_END else OK
    return MISPLACED


cdef inline void find_pixel_representation(Walk *walk, Container *data_set) noexcept nogil:
    """Looks ahead at the root, because elements before (0028,0103), and items in them, depend on it too."""
    cdef Py_ssize_t offset = walk.offset
    cdef Header header
    cdef Budget budget
    budget.elements_left = walk.source.end
    budget.nesting_max = NESTING_MAX
    while read_header(&walk.source, offset, data_set.encoding, &header) == OK:
        if header.tag > TAG_PIXEL_REPRESENTATION:
            return
        offset = header.value_offset
        if header.length == UNDEFINED_LENGTH:
            if skip_undefined(&walk.source, &offset, data_set.encoding, 1, True, &budget) != OK:
                return
        elif holds(&walk.source, offset, header.length):
            remember(walk, data_set, &header)
            offset += header.length
        else:
            return


cdef inline int reencode(Walk *walk, Py_ssize_t offset, Py_ssize_t end, int encoding, bint is_sequence) noexcept nogil:
    """Walks source[offset:end] and writes it. On failure `walk.offset` is where it went wrong.

    The caller has set source, dictionary, target and its encoding, and size_max; size and whole_size come back.
    """
    cdef Container *root = &walk.open[0]
    cdef Container *top
    cdef int status = OK
    root.end = root.limit = end
    root.length_at = NO_PATCH
    root.encoding = encoding
    root.is_sequence = is_sequence
    root.is_delimited = False
    root.bits_allocated = root.pixel_representation = root.waveform_bits = 0
    walk.offset = walk.whole_offset = offset
    walk.source.end = end
    walk.size = walk.whole_size = 0
    walk.depth = 1
    if not is_sequence:
        find_pixel_representation(walk, root)
    while status == OK and walk.depth > 0 and walk.size <= walk.size_max:
        top = &walk.open[walk.depth - 1]
        status = step_item(walk, top) if top.is_sequence else step_element(walk, top)
    return status
