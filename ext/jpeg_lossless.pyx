"""Decodes lossless JPEG (ITU-T T.81 Annex H, process 14): engine._ext.jpeg_lossless, whose door is archive.pixels.

One frame of Huffman coded samples of 2 to 16 bits, all seven predictors, point transform, restarts, one interleaved
scan or a scan for each component. Not: arithmetic coding, hierarchical frames, subsampled components. Every byte of the
frame is hostile: reads go through cursor.pxd, and no size in it is believed; the caller says how large the frame is.
"""

from cursor cimport Cursor, holds, u16
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.string cimport memset

cdef enum:
    FAST_BITS = 10
    CODE_BITS_MAX = 16
    CATEGORY_MAX = 16
    TABLES = 4
    COMPONENTS_MAX = 4

cdef enum Status:
    OK
    NO_JPEG
    ENDS_EARLY
    OTHER_PROCESS
    OTHER_SIZE
    SUBSAMPLED
    BAD_SCAN
    BAD_TABLE
    BAD_CODE
    BAD_RESTART
    MISSING_SCAN

cdef enum Marker:
    SOF0 = 0xC0
    SOF3 = 0xC3
    DHT = 0xC4
    JPG = 0xC8
    DAC = 0xCC
    SOF15 = 0xCF
    RST0 = 0xD0
    RST7 = 0xD7
    SOI = 0xD8
    EOI = 0xD9
    SOS = 0xDA
    DRI = 0xDD
    TEM = 0x01

REASONS = {
    NO_JPEG: "no JPEG image",
    ENDS_EARLY: "the JPEG image ends early",
    OTHER_PROCESS: "the JPEG image is not coded by process 14",
    OTHER_SIZE: "the JPEG image has other rows, columns or components than the data set says",
    SUBSAMPLED: "the JPEG image has subsampled components",
    BAD_SCAN: "a scan of the JPEG image is against ITU-T T.81",
    BAD_TABLE: "a Huffman table of the JPEG image is against ITU-T T.81",
    BAD_CODE: "the JPEG image has a code that is in no Huffman table",
    BAD_RESTART: "a restart marker of the JPEG image is missing or misplaced",
    MISSING_SCAN: "a component of the JPEG image has no scan",
}


cdef struct Table:
    bint is_defined
    int code_max[CODE_BITS_MAX + 1]  # the largest code of that length, -1: none
    int value_at[CODE_BITS_MAX + 1]  # where its values begin, less the smallest code
    uint8_t values[256]
    uint16_t fast[1 << FAST_BITS]  # length << 8 | value of what begins with these bits, 0: a longer code


cdef struct Bits:
    Cursor source
    Py_ssize_t offset
    uint64_t value  # the lowest `count` bits are still to be taken
    int count
    int invented  # of them, zeros that stand for what lies beyond the end or a marker


cdef struct Frame:
    Cursor source
    Py_ssize_t offset
    int precision
    Py_ssize_t rows
    Py_ssize_t columns
    Py_ssize_t samples
    int restart_interval
    int point_transform
    uint8_t component_ids[COMPONENTS_MAX]
    bint is_scanned[COMPONENTS_MAX]
    Table tables[TABLES]


def decode(
    const unsigned char[::1] source, unsigned short[::1] target, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t samples
):
    """One frame into `target`, row by row, the samples of a pixel together; gives its precision in bits.

    Raises ValueError with a sentence for anything that is not that frame. Lets go of the interpreter lock.
    """
    cdef Frame frame
    cdef Status status
    if not (0 < rows <= 0xFFFF and 0 < columns <= 0xFFFF and 0 < samples <= COMPONENTS_MAX):
        raise ValueError(REASONS[OTHER_SIZE])
    if target.shape[0] != rows * columns * samples or source.shape[0] == 0:
        raise ValueError(REASONS[OTHER_SIZE if source.shape[0] else NO_JPEG])
    memset(&frame, 0, sizeof(frame))
    frame.source.data = &source[0]
    frame.source.end = source.shape[0]
    frame.rows, frame.columns, frame.samples = rows, columns, samples
    with nogil:
        status = read_frame(&frame, <uint16_t *>&target[0])
    if status != OK:
        raise ValueError(REASONS[status])
    return frame.precision


cdef Status read_frame(Frame *frame, uint16_t *target) noexcept nogil:
    """Goes from marker to marker; each scan is decoded as it comes."""
    cdef const Cursor *source = &frame.source
    cdef Py_ssize_t length, at
    cdef Status status
    cdef int marker
    if not holds(source, 0, 4) or source.data[0] != 0xFF or source.data[1] != SOI:
        return NO_JPEG
    frame.offset = 2
    while True:
        marker = next_marker(frame)
        if marker < 0 or marker == EOI:
            return all_scanned(frame, ENDS_EARLY if marker < 0 else MISSING_SCAN)
        if marker == TEM or RST0 <= marker <= SOI:
            continue
        if not holds(source, frame.offset, 2):
            return all_scanned(frame, ENDS_EARLY)
        length = u16(source, frame.offset, True)
        at = frame.offset + 2
        if length < 2 or not holds(source, frame.offset, length):
            return all_scanned(frame, ENDS_EARLY)
        frame.offset += length
        status = OK
        if marker == SOF3:
            status = read_frame_header(frame, at, length - 2)
        elif marker == DHT:
            status = read_tables(frame, at, length - 2)
        elif SOF0 <= marker <= SOF15 and marker != JPG and marker != DAC:
            status = OTHER_PROCESS
        elif marker == DRI:
            if length != 4:
                return BAD_SCAN
            frame.restart_interval = u16(source, at, True)
        elif marker == SOS:
            status = read_scan(frame, at, length - 2, target)
        if status != OK:
            return status


cdef Status all_scanned(const Frame *frame, Status otherwise) noexcept nogil:
    cdef Py_ssize_t component
    for component in range(frame.samples):
        if not frame.is_scanned[component]:
            return otherwise
    return OK


cdef int next_marker(Frame *frame) noexcept nogil:
    """The marker after whatever stands before it, or -1."""
    cdef const Cursor *source = &frame.source
    cdef uint8_t byte
    while holds(source, frame.offset, 2):
        byte = source.data[frame.offset + 1]
        if source.data[frame.offset] == 0xFF and byte != 0 and byte != 0xFF:
            frame.offset += 2
            return byte
        frame.offset += 1
    return -1


cdef Status read_frame_header(Frame *frame, Py_ssize_t at, Py_ssize_t length) noexcept nogil:
    """T.81 B.2.2: P, Y, X, Nf, then C, H and V, Tq of each component."""
    cdef const Cursor *source = &frame.source
    cdef Py_ssize_t component
    if frame.precision or length < 6 + 3 * frame.samples:
        return OTHER_SIZE
    frame.precision = source.data[at]
    if not 2 <= frame.precision <= 16:
        return OTHER_PROCESS
    # Y may be 0 and be told after the first scan (DNL).
    if u16(source, at + 1, True) not in (0, frame.rows) or u16(source, at + 3, True) != frame.columns:
        return OTHER_SIZE
    if source.data[at + 5] != frame.samples:
        return OTHER_SIZE
    for component in range(frame.samples):
        frame.component_ids[component] = source.data[at + 6 + 3 * component]
        if frame.samples > 1 and source.data[at + 7 + 3 * component] != source.data[at + 7]:
            return SUBSAMPLED
    return OK


cdef Status read_tables(Frame *frame, Py_ssize_t at, Py_ssize_t length) noexcept nogil:
    """T.81 B.2.4.2: Tc and Th, how many codes there are of each length, their values; again."""
    cdef const Cursor *source = &frame.source
    cdef Py_ssize_t end = at + length, count
    cdef int bits, index
    while at < end:
        if end - at < 17:
            return BAD_TABLE
        index = source.data[at]
        count = 0
        for bits in range(CODE_BITS_MAX):
            count += source.data[at + 1 + bits]
        if index >= TABLES or count > 256 or end - at < 17 + count:
            return BAD_TABLE
        if not make_table(&frame.tables[index], source.data + at + 1, source.data + at + 17, count):
            return BAD_TABLE
        at += 17 + count
    return OK


cdef bint make_table(Table *table, const uint8_t *counts, const uint8_t *values, Py_ssize_t count) noexcept nogil:
    """Codes ascend with their length (T.81 Annex C); False if there are more than the length has room for."""
    cdef int bits, code = 0, number = 0, first, k
    memset(table, 0, sizeof(Table))
    for k in range(<int>count):
        table.values[k] = values[k]
    for bits in range(1, CODE_BITS_MAX + 1):
        table.value_at[bits] = number - code
        for k in range(counts[bits - 1]):
            if code >= 1 << bits:
                return False
            if bits <= FAST_BITS:
                for first in range(code << (FAST_BITS - bits), (code + 1) << (FAST_BITS - bits)):
                    table.fast[first] = <uint16_t>(bits << 8 | table.values[number])
            code += 1
            number += 1
        table.code_max[bits] = code - 1 if counts[bits - 1] else -1
        code <<= 1
    table.is_defined = True
    return True


cdef Status read_scan(Frame *frame, Py_ssize_t at, Py_ssize_t length, uint16_t *target) noexcept nogil:
    """T.81 B.2.3: Ns, then Cs, Td and Ta of each component, then the predictor, 0, and the point transform."""
    cdef const Cursor *source = &frame.source
    cdef const Table *tables[COMPONENTS_MAX]
    cdef Py_ssize_t components[COMPONENTS_MAX]
    cdef Py_ssize_t count, k, component
    cdef int predictor, table
    if not frame.precision or length < 1:
        return BAD_SCAN
    count = source.data[at]
    if not 1 <= count <= frame.samples or length < 4 + 2 * count:
        return BAD_SCAN
    for k in range(count):
        component = 0
        while component < frame.samples and (
            frame.component_ids[component] != source.data[at + 1 + 2 * k] or frame.is_scanned[component]
        ):
            component += 1
        table = source.data[at + 2 + 2 * k] >> 4
        if component == frame.samples or table >= TABLES or not frame.tables[table].is_defined:
            return BAD_SCAN
        frame.is_scanned[component] = True
        components[k] = component
        tables[k] = &frame.tables[table]
    predictor = source.data[at + 1 + 2 * count]
    frame.point_transform = source.data[at + 3 + 2 * count] & 0x0F
    if not 1 <= predictor <= 7 or frame.point_transform >= frame.precision:
        return BAD_SCAN
    return read_samples(frame, components, tables, count, predictor, target)


cdef Status read_samples(
    Frame *frame,
    const Py_ssize_t *components,
    const Table **tables,
    Py_ssize_t count,
    int predictor,
    uint16_t *target,
) noexcept nogil:
    """The entropy coded part of a scan (T.81 H.1.2, H.2)."""
    cdef Bits bits
    cdef Py_ssize_t row_samples = frame.columns * frame.samples
    cdef Py_ssize_t step = frame.samples
    cdef Py_ssize_t y, x, k, until_restart = 0
    cdef uint16_t *sample
    cdef int category, difference, prediction, left, above, corner
    cdef int initial = 1 << (frame.precision - frame.point_transform - 1)
    cdef bint is_first_row = True
    # A restart begins the prediction anew, so that it has to come with a row (T.81 H.1.1).
    if frame.restart_interval % frame.columns:
        return BAD_RESTART
    memset(&bits, 0, sizeof(bits))
    bits.source = frame.source
    bits.offset = frame.offset
    for y in range(frame.rows):
        if frame.restart_interval:
            if until_restart == 0 and y > 0:
                if not restart(&bits):
                    return BAD_RESTART
                is_first_row = True
            if until_restart == 0:
                until_restart = frame.restart_interval
            until_restart -= frame.columns
        for x in range(frame.columns):
            for k in range(count):
                sample = target + y * row_samples + x * step + components[k]
                if bits.count < 32:
                    fill(&bits)
                category = next_category(&bits, tables[k])
                if category < 0:
                    return ENDS_EARLY if bits.invented > bits.count else BAD_CODE
                difference = next_difference(&bits, category)
                if x == 0:
                    prediction = initial if is_first_row else (sample - row_samples)[0]
                elif is_first_row or predictor == 1:
                    prediction = (sample - step)[0]
                else:
                    left, above = (sample - step)[0], (sample - row_samples)[0]
                    corner = (sample - row_samples - step)[0]
                    prediction = predict(predictor, left, above, corner)
                sample[0] = <uint16_t>(prediction + difference)
        is_first_row = False
        if bits.invented > bits.count:
            return ENDS_EARLY
    frame.offset = bits.offset
    if frame.point_transform:
        shift_left(frame, components, count, target)
    return OK


cdef inline int predict(int predictor, int left, int above, int corner) noexcept nogil:
    """T.81 Table H.1."""
    if predictor == 2:
        return above
    if predictor == 3:
        return corner
    if predictor == 4:
        return left + above - corner
    if predictor == 5:
        return left + ((above - corner) >> 1)
    if predictor == 6:
        return above + ((left - corner) >> 1)
    return (left + above) >> 1


cdef void shift_left(
    const Frame *frame, const Py_ssize_t *components, Py_ssize_t count, uint16_t *target
) noexcept nogil:
    """The point transform taken back, once prediction needs the samples no more (T.81 H.2.1)."""
    cdef Py_ssize_t pixel, k, at
    for pixel in range(frame.rows * frame.columns):
        for k in range(count):
            at = pixel * frame.samples + components[k]
            target[at] = <uint16_t>(target[at] << frame.point_transform)


cdef void fill(Bits *bits) noexcept nogil:
    """Takes bytes until there are more than 56 bits; at a marker or the end, zeros."""
    cdef uint8_t byte
    while bits.count <= 56:
        byte = 0
        if not holds(&bits.source, bits.offset, 1):
            bits.invented += 8
        elif bits.source.data[bits.offset] != 0xFF:
            byte = bits.source.data[bits.offset]
            bits.offset += 1
        elif holds(&bits.source, bits.offset, 2) and bits.source.data[bits.offset + 1] == 0:
            byte = 0xFF
            bits.offset += 2
        elif holds(&bits.source, bits.offset, 2) and bits.source.data[bits.offset + 1] == 0xFF:
            bits.offset += 1
            continue
        else:
            bits.invented += 8
        bits.value = bits.value << 8 | byte
        bits.count += 8


cdef inline int next_category(Bits *bits, const Table *table) noexcept nogil:
    """How many bits the next difference has, or -1. 32 bits are at hand."""
    cdef int next_bits = <int>(bits.value >> (bits.count - CODE_BITS_MAX)) & 0xFFFF
    cdef int found = table.fast[next_bits >> (CODE_BITS_MAX - FAST_BITS)]
    cdef int length, code, value_at
    if found:
        bits.count -= found >> 8
        found &= 0xFF
        return found if found <= CATEGORY_MAX else -1
    for length in range(FAST_BITS + 1, CODE_BITS_MAX + 1):
        code = next_bits >> (CODE_BITS_MAX - length)
        if code <= table.code_max[length]:
            bits.count -= length
            value_at = table.value_at[length] + code
            if not 0 <= value_at < 256:
                return -1
            found = table.values[value_at]
            return found if found <= CATEGORY_MAX else -1
    return -1


cdef inline int next_difference(Bits *bits, int category) noexcept nogil:
    """T.81 F.2.2.1 and H.1.2.2: 16 stands for 32768 and has no bits of its own."""
    cdef int value
    if category == 0:
        return 0
    if category == CATEGORY_MAX:
        return 32768
    bits.count -= category
    value = <int>(bits.value >> bits.count) & ((1 << category) - 1)
    if value < 1 << (category - 1):
        value -= (1 << category) - 1
    return value


cdef bint restart(Bits *bits) noexcept nogil:
    """Goes on after the next restart marker, from a whole byte."""
    cdef uint8_t byte
    if bits.invented > bits.count:
        return False
    # What has been taken ahead never passes a marker.
    while holds(&bits.source, bits.offset, 2):
        byte = bits.source.data[bits.offset + 1]
        if bits.source.data[bits.offset] == 0xFF and byte != 0 and byte != 0xFF:
            if not RST0 <= byte <= RST7:
                return False
            bits.offset += 2
            bits.value, bits.count, bits.invented = 0, 0, 0
            return True
        bits.offset += 1
    return False
