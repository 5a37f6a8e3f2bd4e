# Steps through the containers of one element's value, piece by piece (PS3.5 7.5, A.4). Header only.
#
# A `Nest` is the stack of open containers. `pass_nest` continues until all are closed or the given bytes end; it then
# needs the bytes from `offset` on, and continues when these and more are given. Positions are relative to the given
# bytes: call `shift` when others replace them.
#
# A container of undefined length is walked strictly: items and delimiters must be at their places, since only they give
# its end. A value of defined length has a known end: it is walked only to detect sequences that are nested too deeply
# or too many for later readers; that walk ends at the first invalid element (`lenient`: the outermost such container).

from cursor cimport Cursor
from dataset cimport (
    CONTAINERS_MAX, EXPLICIT_VR, ITEM, ITEM_DELIMITER, ITEM_LOOK, MISPLACED, NESTING_MAX, NO_END, OK, OVERRUN,
    SEQUENCE_DELIMITER, TOO_DEEP, TOO_MANY, UNDEFINED_LENGTH, VR_OB, VR_OW, VR_UN, Budget, Header, holds_items,
    item_encoding, read_header,
)
from libc.stdint cimport uint32_t

cdef enum:
    # The most bytes for a decision: a long header and the first 8 bytes after it.
    LOOK_AHEAD = 20
    # In a sequence: an item's header, and the bytes that show the encoding of the item.
    LOOK_AHEAD_ITEM = 8 + ITEM_LOOK


cdef struct Container:
    Py_ssize_t end  # of the innermost one of defined length that it lies in; NO_END
    int encoding
    bint is_sequence
    bint is_delimited
    bint is_opaque  # its items are fragments


cdef struct Nest:
    Py_ssize_t depth
    Py_ssize_t lenient  # depth of the outermost container of defined length, 0 for none
    Container open[CONTAINERS_MAX]


cdef inline int enter(
    Nest *nest, Py_ssize_t end, int encoding, bint is_sequence, bint is_delimited, bint is_opaque, const Budget *budget
) noexcept nogil:
    """Opens a container; OK or TOO_DEEP."""
    cdef Container *top
    if nest.depth >= 2 * min(budget.nesting_max, <Py_ssize_t>NESTING_MAX):
        return TOO_DEEP
    top = &nest.open[nest.depth]
    top.end = end
    top.encoding = encoding
    top.is_sequence = is_sequence
    top.is_delimited = is_delimited
    top.is_opaque = is_opaque
    nest.depth += 1
    if not is_delimited and nest.lenient == 0:
        nest.lenient = nest.depth
    return OK


cdef inline void leave(Nest *nest) noexcept nogil:
    nest.depth -= 1
    if nest.depth < nest.lenient:
        nest.lenient = 0


cdef inline void shift(Nest *nest, Py_ssize_t count) noexcept nogil:
    """The given bytes begin `count` later now."""
    cdef Py_ssize_t i
    for i in range(nest.depth):
        if nest.open[i].end != NO_END:
            nest.open[i].end -= count


cdef inline int pass_nest(
    Nest *nest, const Cursor *source, Py_ssize_t *offset, bint is_last, Budget *budget
) noexcept nogil:
    """Moves the offset after the outermost container. OVERRUN: the bytes end before; with `is_last` that is final."""
    cdef Container *top
    cdef Cursor cursor
    cdef Header header
    cdef bint is_within  # a length limits the bytes that may be read
    cdef int status
    cursor.data = source.data
    while nest.depth > 0:
        top = &nest.open[nest.depth - 1]
        if not top.is_delimited and offset[0] >= top.end:
            leave(nest)
            continue
        if offset[0] > source.end:
            return OVERRUN
        is_within = top.end != NO_END and top.end <= source.end
        cursor.end = top.end if is_within else source.end
        if not top.is_sequence:
            pass_plain_within(top, &cursor, offset, budget)
            if not top.is_delimited and offset[0] >= top.end:
                continue
        if not is_within and not is_last and source.end - offset[0] < (
            LOOK_AHEAD_ITEM if top.is_sequence else LOOK_AHEAD
        ):
            return OVERRUN
        status = read_header(&cursor, offset[0], top.encoding, &header)
        if status == OK:
            budget.elements_left -= 1
            if budget.elements_left < 0:
                return TOO_MANY
            status = step(nest, &cursor, offset, &header, budget)
        elif not is_within:
            return OVERRUN
        if status == TOO_DEEP:
            return status
        if status != OK:
            if nest.lenient == 0:
                return status
            nest.depth = nest.lenient
            offset[0] = nest.open[nest.depth - 1].end
            leave(nest)
    return OK


cdef inline void pass_plain_within(
    const Container *top, const Cursor *cursor, Py_ssize_t *offset, Budget *budget
) noexcept nogil:
    """Passes the simple elements of an item, up to one that `step` must handle."""
    cdef Cursor source = cursor[0]
    cdef Header header
    cdef int encoding = top.encoding
    cdef Py_ssize_t at = offset[0]
    cdef Py_ssize_t elements_left = budget.elements_left
    while source.end - at >= LOOK_AHEAD and elements_left > 0:
        if read_header(&source, at, encoding, &header) != OK:
            break
        if header.tag >> 16 == 0xFFFE or <Py_ssize_t>header.length > source.end - header.value_offset:
            break
        if not top.is_opaque and holds_items(&source, &header, encoding):
            break
        at = header.value_offset + header.length
        elements_left -= 1
    offset[0] = at
    budget.elements_left = elements_left


cdef inline int step(
    Nest *nest, const Cursor *cursor, Py_ssize_t *offset, const Header *header, Budget *budget
) noexcept nogil:
    """Handles one header within the innermost container: OK, TOO_DEEP, or MISPLACED for an invalid one."""
    cdef Container *top = &nest.open[nest.depth - 1]
    cdef bint is_lenient = nest.lenient > 0
    cdef bint is_undefined = header.length == UNDEFINED_LENGTH
    cdef Py_ssize_t after = header.value_offset + header.length
    cdef int within = top.encoding
    cdef uint32_t delimiter = SEQUENCE_DELIMITER if top.is_sequence else ITEM_DELIMITER
    cdef Cursor inner
    if top.is_delimited and header.tag == delimiter:
        offset[0] = header.value_offset
        leave(nest)
        return OK
    if top.is_sequence and header.tag != ITEM:
        return MISPLACED
    if not top.is_sequence and header.tag >> 16 == 0xFFFE and (is_lenient or is_undefined):
        return MISPLACED
    if is_undefined:
        if is_lenient and (header.vr == VR_OB or header.vr == VR_OW):
            return MISPLACED  # fragments: irrelevant, since a length gives their end
        offset[0] = header.value_offset
        if top.is_sequence:
            within = item_encoding(cursor, header.value_offset, top.end, within)
        return enter(
            nest, top.end, within, not top.is_sequence, True,
            top.is_opaque or (not top.is_sequence and (header.vr == VR_OB or header.vr == VR_OW)), budget,
        )
    if is_lenient and after > top.end:
        return MISPLACED
    if top.is_sequence:
        if not is_lenient and (top.is_opaque or header.length < 8):
            offset[0] = after
            return OK
        inner = cursor[0]
        inner.end = min(inner.end, after)
        within = item_encoding(&inner, header.value_offset, after, within)
    elif top.is_opaque or not holds_items(cursor, header, within):
        offset[0] = after
        return OK
    elif header.vr == VR_UN:
        within = within & ~EXPLICIT_VR
    offset[0] = header.value_offset
    return enter(nest, after, within, not top.is_sequence, False, False, budget)
