"""Finds the attributes for the index in a data set, in one pass: engine._ext.scan, whose door is dicom.elements.

An `Extractor` has the tables of the indexed attributes, which never change: two archives with different extra attributes
have one each. `Extractor.extract` reads a data set in one piece, and is on the path of every such instance; a `Scanner`
reads a data set of any size in pieces. Both are one walk over the element headers: they skip values by their length,
note the indexed ones, and write one blob a level at the end, at its exact size. They make no Python object for an
element. Of earlier pieces they keep only the indexed values, each up to its limit, and the stack of open containers
(nest.pxd).

The walk goes on after Pixel Data, to the end, and over fragments by their headers, to detect a data set that ends early
(`note_end`). The layout of the bytes is in dataset.pxd.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cursor cimport Cursor, holds, u16
from dataset cimport (
    BIG_ENDIAN, EXPLICIT_VR, ITEM_DELIMITER, MISPLACED, NO_END, OK, OVERRUN, TOO_DEEP, TOO_MANY, UNDEFINED_LENGTH,
    US_OR_SS, VR_OB, VR_OW, VR_SQ, VR_UN, Budget, Dictionary, Entry, Header, dictionary_vr, holds_items, is_listed_vr,
    read_header, root_encoding, root_look, swap_unit,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memmove, memset
from nest cimport LOOK_AHEAD, Nest, enter, pass_nest, shift
from reencode cimport Walk, reencode as reencode_walk

from engine._ext.elements import Malformed

cdef enum:
    LEVELS = 4
    BESIDE_LEVEL = 4  # kept beside the blobs
    INDEXED_MAX = 192
    PRIVATE_MAX = 64
    CREATOR_BYTES_MAX = 64
    PIXEL_TAGS_MAX = 4
    ENTRY_BYTES = 8  # of a blob: tag and length before each value
    CARRY_BYTES = 128  # more than ROOT_LOOK, and than a header with the bytes needed after it (a private creator)
    RAW_SEQUENCE_FACTOR = 16  # a blob's part of a sequence is within this many times its limit
    TAG_PIXEL_GROUP = 0x7FE00000
    TAG_PIXEL_DATA = 0x7FE00010
    TAG_SIGNATURES = 0xFFFAFFFA
    TAG_PADDING = 0xFFFCFFFC

cdef enum Kind:
    TEXT
    NUMBERS
    SEQUENCE

cdef enum Ending:
    WHOLE
    IN_VALUE
    IN_HEADER

cdef struct IndexedAttribute:
    uint32_t tag
    int level
    uint16_t vr
    Kind kind

cdef struct Private:
    # An indexed private attribute: its place in `indexed`, and the means to find the data set's tag for it.
    Py_ssize_t at
    uint16_t group
    uint8_t element  # the low byte
    Py_ssize_t creator_length
    uint8_t creator[CREATOR_BYTES_MAX]

cdef struct Tables:
    # The indexed attributes, by ascending tag, and the limits of the kept values. Written once.
    IndexedAttribute indexed[INDEXED_MAX]
    Py_ssize_t indexed_count
    Private privates[PRIVATE_MAX]
    Py_ssize_t private_count
    Dictionary dictionary
    uint32_t last_indexed  # nothing indexed has a higher tag
    uint32_t pixel_tags[PIXEL_TAGS_MAX]
    Py_ssize_t pixel_tag_count
    Py_ssize_t value_bytes_max
    Py_ssize_t sequence_bytes_max
    Py_ssize_t blobs_bytes_max
    # Places in `indexed`.
    Py_ssize_t sop_class_at
    Py_ssize_t sop_instance_at
    Py_ssize_t study_at
    Py_ssize_t series_at
    Py_ssize_t character_set_at
    Py_ssize_t image_at[5]  # Samples per Pixel, Number of Frames, Rows, Columns, Bits Allocated

cdef struct Found:
    Py_ssize_t offset  # in the bytes given; before them if it began earlier
    Py_ssize_t length
    Py_ssize_t blob_length  # of the value's part in a blob
    const uint8_t *value  # at the end
    Py_ssize_t items_length  # of a sequence: the end, in the value, of its part in a blob
    uint16_t vr
    uint8_t is_present
    uint8_t is_kept  # its bytes have been copied
    uint8_t is_brief  # a sequence whose items are shortened
    uint8_t is_left_out

cdef struct Scan:
    const Tables *tables
    Cursor source
    Py_ssize_t base  # of these bytes in the data set
    int encoding
    bint is_begun
    bint is_last
    bint is_inside  # a value: `header` and `place` belong to it
    bint is_past_pixels
    bint is_over  # the rest is ignored
    Ending ending
    Py_ssize_t offset
    Header header
    Py_ssize_t place
    uint32_t tag_before
    uint32_t highest
    Py_ssize_t at  # place in `indexed` for the search of the next tag
    Py_ssize_t pixel_data_offset
    Py_ssize_t pixel_data_length
    Budget budget
    Found found[INDEXED_MAX]
    uint8_t blocks[PRIVATE_MAX]  # of each private attribute: the block that its creator has reserved, 0 for none
    Nest nest

# How often to halve the limits of a value and of a sequence until everything fits.
cdef int[5] VALUE_HALVINGS = [0, 0, 3, 5, 7]
cdef int[5] SEQUENCE_HALVINGS = [0, 3, 3, 5, 7]
@cython.auto_pickle(False)
cdef class Head:
    """The facts of a data set that ingest needs; dicom.elements describes the fields."""
    cdef readonly bytes specific_character_set
    cdef readonly bytes patient
    cdef readonly bytes study
    cdef readonly bytes series
    cdef readonly bytes instance
    cdef readonly bytes sop_class_uid
    cdef readonly bytes sop_instance_uid
    cdef readonly bytes study_instance_uid
    cdef readonly bytes series_instance_uid
    cdef readonly Py_ssize_t pixel_data_offset
    cdef readonly Py_ssize_t pixel_data_length
    cdef readonly Py_ssize_t image_bytes
    cdef public str cut


@cython.auto_pickle(False)
cdef class Extractor:
    """The indexed attributes: the tables of dicom.attributes and dicom.tags, and the extra attributes of one archive.

    `extras`: (tag, level, VR, creator) each; the creator is b"" for one that is not private.
    """
    cdef Tables tables
    cdef bytes dictionary  # what `tables.dictionary` points into

    def __cinit__(self, levels, character_set, uids, pixel_data, image, bytes dictionary, limits, extras=()):
        cdef Tables *tables = &self.tables
        more = {tag: (VR, creator) for tag, _, VR, creator in extras}
        rows = [(tag, level) for level, tags in enumerate(levels) for tag in tags] + [
            (tag, level) for tag, level, _, _ in extras
        ]
        known = {tag for tag, _ in rows}
        rows = sorted(rows + [(tag, BESIDE_LEVEL) for tag in (character_set, *image) if tag not in known])
        if len(rows) > INDEXED_MAX or len(pixel_data) > PIXEL_TAGS_MAX or len(levels) != LEVELS or len(more) > PRIVATE_MAX:
            raise ValueError("more attributes than the tables of ext/scan.pyx hold")
        if any(len(creator) > CREATOR_BYTES_MAX for _, creator in more.values()):
            raise ValueError("a private creator is longer than the tables of ext/scan.pyx hold")
        self.dictionary = dictionary
        tables.dictionary.entries = <const Entry *>PyBytes_AS_STRING(dictionary)
        tables.dictionary.count = len(dictionary) // sizeof(Entry)
        tables.value_bytes_max, tables.sequence_bytes_max, tables.blobs_bytes_max = limits
        tables.indexed_count = len(rows)
        for i, (tag, level) in enumerate(rows):
            tables.indexed[i].tag = tag
            tables.indexed[i].level = level
            VR, creator = more.get(tag, ("", b""))
            tables.indexed[i].vr = ord(VR[0]) << 8 | ord(VR[1]) if VR else dictionary_vr(&tables.dictionary, tag)
            tables.indexed[i].kind = kind_of(tables.indexed[i].vr)
            tables.last_indexed = max(tables.last_indexed, <uint32_t>(tag | 0xFFFF if creator else tag))
            if creator:
                add_private(tables, i, tag, creator)
        tables.pixel_tag_count = len(pixel_data)
        for i, tag in enumerate(pixel_data):
            tables.pixel_tags[i] = tag
        order = [tag for tag, _ in rows]
        tables.sop_class_at, tables.sop_instance_at, tables.study_at, tables.series_at = [
            order.index(tag) for tag in uids
        ]
        tables.character_set_at = order.index(character_set)
        for i, tag in enumerate(image):
            tables.image_at[i] = order.index(tag)

    def extract(self, const uint8_t[::1] data, int encoding, Py_ssize_t nesting_max, Py_ssize_t element_count_max):
        """The indexed attributes of a whole data set; see dicom.elements.extract."""
        cdef Scan scan
        cdef Py_ssize_t at
        begin(&scan, &self.tables, encoding, nesting_max, element_count_max)
        scan.source.data = &data[0] if data.shape[0] else NULL
        scan.source.end = data.shape[0]
        scan.is_last = True
        advance(&scan)
        for at in range(self.tables.indexed_count):
            if scan.found[at].is_present:
                scan.found[at].value = scan.source.data + scan.found[at].offset
        return head_of(&scan)


cdef void add_private(Tables *tables, Py_ssize_t at, uint32_t tag, bytes creator):
    cdef Private *one = &tables.privates[tables.private_count]
    one.at = at
    one.group = tag >> 16
    one.element = tag & 0xFF
    one.creator_length = len(creator)
    memcpy(one.creator, PyBytes_AS_STRING(creator), len(creator))
    tables.private_count += 1


cdef Kind kind_of(uint16_t vr) noexcept nogil:
    if vr == VR_SQ:
        return SEQUENCE
    return NUMBERS if vr == US_OR_SS or swap_unit(vr) > 1 else TEXT


# the walk --------------------------------------------------------------------------------------------------------


cdef void begin(
    Scan *scan, const Tables *tables, int encoding, Py_ssize_t nesting_max, Py_ssize_t element_count_max
) noexcept nogil:
    scan.tables = tables
    scan.base = scan.offset = scan.at = 0
    scan.encoding = encoding
    scan.is_begun = scan.is_last = scan.is_inside = scan.is_past_pixels = scan.is_over = False
    scan.ending = WHOLE
    scan.place = -1
    memset(&scan.header, 0, sizeof(Header))
    scan.tag_before = scan.highest = 0
    scan.pixel_data_offset = scan.pixel_data_length = -1
    scan.budget.nesting_max = nesting_max
    scan.budget.elements_left = element_count_max
    scan.nest.depth = scan.nest.lenient = 0
    memset(scan.found, 0, tables.indexed_count * sizeof(Found))
    memset(scan.blocks, 0, tables.private_count)


cdef int run(Scan *scan) noexcept nogil:
    """Walks to the end of the given bytes. OK, or the error."""
    cdef int status
    if not scan.is_begun:
        if not scan.is_last and (
            scan.source.end < 8 or scan.source.end < root_look(&scan.source, scan.encoding)
        ):
            return OK
        scan.encoding = root_encoding(&scan.source, scan.encoding)
        scan.is_begun = True
    while not scan.is_over:
        if not scan.is_inside and not scan.is_past_pixels:
            pass_plain(scan)
        status = leave_value(scan) if scan.is_inside else next_element(scan)
        if status == OK:
            continue
        if status == OVERRUN:
            if scan.is_last:
                note_end(scan)
            return OK
        scan.is_over = True
        if scan.is_past_pixels or (status == MISPLACED and scan.highest > scan.tables.last_indexed):
            return OK  # malformed bytes after them are no reason to refuse
        return status
    return OK


cdef void pass_plain(Scan *scan) noexcept nogil:
    """Passes the simple elements before Pixel Data, up to one that `next_element` must handle.

    Has the same effect as `next_element`, but keeps its state in registers.
    """
    cdef const Tables *tables = scan.tables
    cdef const IndexedAttribute *indexed = tables.indexed
    cdef Py_ssize_t indexed_count = tables.indexed_count
    cdef bint has_privates = tables.private_count != 0
    cdef Cursor source = scan.source
    cdef Header header
    cdef Found *found
    cdef int encoding = scan.encoding
    cdef Py_ssize_t offset = scan.offset
    cdef Py_ssize_t at = scan.at
    cdef Py_ssize_t elements_left = scan.budget.elements_left
    cdef uint32_t tag_before = scan.tag_before
    cdef uint32_t highest = scan.highest
    while source.end - offset >= LOOK_AHEAD and elements_left > 0:
        if read_header(&source, offset, encoding, &header) != OK:
            break
        if header.tag & 0x10000 and has_privates or header.tag >= TAG_PIXEL_GROUP:
            break
        if <Py_ssize_t>header.length > source.end - header.value_offset or holds_items(&source, &header, encoding):
            break
        at = next_wanted(tables, at if header.tag >= tag_before else 0, header.tag)
        if at < indexed_count and indexed[at].tag == header.tag:
            found = &scan.found[at]
            found.offset = header.value_offset
            found.length = header.length
            found.vr = header.vr
            found.is_present = is_fitting(indexed[at].kind, &header)
            found.is_kept = False
        tag_before = header.tag
        highest = max(highest, tag_before)
        elements_left -= 1
        offset = header.value_offset + header.length
    scan.offset = offset
    scan.at = at
    scan.budget.elements_left = elements_left
    scan.tag_before = tag_before
    scan.highest = highest


cdef int next_element(Scan *scan) noexcept nogil:
    """Reads one header at the top level and passes or enters its value; OVERRUN if it is incomplete."""
    cdef Header *header = &scan.header
    cdef Py_ssize_t after
    if not scan.is_last and scan.source.end - scan.offset < LOOK_AHEAD:
        return OVERRUN
    if read_header(&scan.source, scan.offset, scan.encoding, header) != OK:
        return OVERRUN
    if header.tag == ITEM_DELIMITER or (scan.is_past_pixels and not may_follow_pixels(scan, header)):
        scan.is_over = True
        return OK
    after = header.value_offset + header.length
    scan.place = -1
    if is_pixel_data(scan.tables, header.tag):
        enter_pixel_data(scan)
    elif not scan.is_past_pixels:
        if header.tag & 0x10000 and scan.tables.private_count:
            if is_creator(header.tag) and after > scan.source.end and not scan.is_last and (
                header.length <= CREATOR_BYTES_MAX
            ):
                return OVERRUN
            scan.place = private_place(scan, header)
        else:
            scan.at = next_wanted(scan.tables, scan.at if header.tag >= scan.tag_before else 0, header.tag)
            if scan.at < scan.tables.indexed_count and scan.tables.indexed[scan.at].tag == header.tag:
                scan.place = scan.at
    scan.tag_before = header.tag
    scan.highest = max(scan.highest, header.tag)
    scan.budget.elements_left -= 1
    if scan.budget.elements_left < 0:
        return TOO_MANY
    if header.length != UNDEFINED_LENGTH and after <= scan.source.end and not holds_items(
        &scan.source, header, scan.encoding
    ):
        scan.offset = after
        note(scan, header.length)
        return OK
    return enter_value(scan, after)


cdef int enter_value(Scan *scan, Py_ssize_t after) noexcept nogil:
    """Handles a value of undefined length, one with items, or one longer than the given bytes."""
    cdef Header *header = &scan.header
    cdef int within = scan.encoding
    cdef bint is_opaque
    scan.is_inside = True
    scan.offset = header.value_offset
    if header.length == UNDEFINED_LENGTH:
        is_opaque = header.vr == VR_OB or header.vr == VR_OW or is_pixel_data(scan.tables, header.tag)
        return enter(&scan.nest, NO_END, within, True, True, is_opaque, &scan.budget)
    if holds_items(&scan.source, header, scan.encoding):
        if header.vr == VR_UN:
            within = within & ~EXPLICIT_VR
        return enter(&scan.nest, after, within, True, False, False, &scan.budget)
    scan.offset = after
    return OK


cdef int leave_value(Scan *scan) noexcept nogil:
    """Continues in an entered value; OVERRUN as long as it is incomplete."""
    cdef int status = pass_nest(&scan.nest, &scan.source, &scan.offset, scan.is_last, &scan.budget)
    if status != OK:
        return status
    if scan.offset > scan.source.end:
        return OVERRUN
    scan.is_inside = False
    if scan.header.length == UNDEFINED_LENGTH:
        note(scan, scan.offset - 8 - scan.header.value_offset)
    else:
        note(scan, scan.header.length)
    return OK


cdef void note(Scan *scan, Py_ssize_t length) noexcept nogil:
    """Notes the place of a passed value, if it is indexed."""
    cdef Found *found
    if scan.place < 0:
        return
    found = &scan.found[scan.place]
    found.offset = scan.header.value_offset
    found.length = length
    found.vr = scan.header.vr
    found.is_present = is_fitting(scan.tables.indexed[scan.place].kind, &scan.header)
    found.is_kept = False


cdef void enter_pixel_data(Scan *scan) noexcept nogil:
    """Ends the search: from here on only looks for the end, and counts nothing."""
    if scan.is_past_pixels:
        return
    scan.is_past_pixels = True
    scan.pixel_data_offset = scan.base + scan.offset
    if scan.header.tag == TAG_PIXEL_DATA and scan.header.length != UNDEFINED_LENGTH:
        scan.pixel_data_length = scan.header.length
    scan.budget.elements_left = <Py_ssize_t>1 << 62


cdef bint is_pixel_data(const Tables *tables, uint32_t tag) noexcept nogil:
    cdef Py_ssize_t i
    if tag >> 16 != TAG_PIXEL_DATA >> 16:
        return False
    for i in range(tables.pixel_tag_count):
        if tag == tables.pixel_tags[i]:
            return True
    return False


cdef bint may_follow_pixels(const Scan *scan, const Header *header) noexcept nogil:
    """Whether a header after Pixel Data is an element's, and not padding or garbage: by its tag and its VR."""
    if header.tag <= scan.tag_before:
        return False
    if header.tag >> 16 == TAG_PIXEL_DATA >> 16 or header.tag == TAG_SIGNATURES or header.tag == TAG_PADDING:
        return header.vr != 0 or not scan.encoding & EXPLICIT_VR
    if header.vr != 0:
        return is_listed_vr(header.vr)
    return header.tag >> 16 == 0x7FE1  # private elements of GE


cdef void note_end(Scan *scan) noexcept nogil:
    """Decides whether the end of the bytes, at or before `offset`, is the data set's own end.

    It is not within a value, or among open sequences and fragments. Fewer bytes than a header are a truncated header,
    unless they are padding: zeros; blanks and line ends after group 0020 (none with such a number is stored); after
    Pixel Data everything but the beginning of Data Set Trailing Padding or of signatures; and a tag that is not above
    the previous one.
    """
    cdef Py_ssize_t left = scan.source.end - scan.offset
    cdef const uint8_t *rest = scan.source.data + scan.offset
    cdef uint32_t tag = 0
    cdef Py_ssize_t i
    cdef bint is_zero = True
    cdef bint is_blank = scan.tag_before >> 16 > 0x20
    scan.is_over = True
    if scan.is_inside:
        scan.ending = IN_VALUE
        return
    if left <= 0:
        return
    for i in range(left):
        is_zero = is_zero and rest[i] == 0
        is_blank = is_blank and (rest[i] == 0x20 or rest[i] == 0x0A or rest[i] == 0x0D)
    if is_zero or is_blank:
        return
    if left >= 4:
        tag = <uint32_t>u16(&scan.source, scan.offset, (scan.encoding & BIG_ENDIAN) != 0) << 16 | u16(
            &scan.source, scan.offset + 2, (scan.encoding & BIG_ENDIAN) != 0
        )
        if tag <= scan.tag_before:
            return
    if scan.is_past_pixels and tag != TAG_SIGNATURES and tag != TAG_PADDING:
        return
    scan.ending = IN_HEADER


cdef Py_ssize_t next_wanted(const Tables *tables, Py_ssize_t at, uint32_t tag) noexcept nogil:
    """The first indexed attribute whose tag is not below this one."""
    while at < tables.indexed_count and tables.indexed[at].tag < tag:
        at += 1
    return at


cdef bint is_creator(uint32_t tag) noexcept nogil:
    return 0x10 <= tag & 0xFFFF <= 0xFF


cdef Py_ssize_t private_place(Scan *scan, const Header *header) noexcept nogil:
    """The place in `indexed` of an element of an odd group, -1 if it is not indexed; notes private creators."""
    cdef const Private *privates = scan.tables.privates
    cdef uint32_t element = header.tag & 0xFFFF
    cdef Py_ssize_t i
    cdef Py_ssize_t length
    if element < 0x10:
        return -1
    for i in range(scan.tables.private_count):
        if privates[i].group != header.tag >> 16:
            continue
        if element > 0xFF:
            if element >> 8 == scan.blocks[i] and element & 0xFF == privates[i].element:
                return privates[i].at
        elif not scan.blocks[i] and header.length <= CREATOR_BYTES_MAX and holds(
            &scan.source, header.value_offset, header.length
        ):
            length = stripped(scan.source.data + header.value_offset, header.length)
            if length == privates[i].creator_length and memcmp(
                scan.source.data + header.value_offset, privates[i].creator, length
            ) == 0:
                scan.blocks[i] = <uint8_t>element
    return -1


cdef bint is_fitting(Kind kind, const Header *header) noexcept nogil:
    """Whether the VR on the wire is of the kind that readers of the attribute expect."""
    if kind == SEQUENCE:
        return header.vr == VR_SQ or header.vr == VR_UN or header.vr == 0
    if header.length == UNDEFINED_LENGTH:
        return False
    if header.vr == VR_UN or header.vr == 0:
        return True
    return kind_of(header.vr) == kind and header.vr != VR_OB


# whole, and in pieces --------------------------------------------------------------------------------------------


cdef int advance(Scan *scan) except -1:
    cdef int status
    with nogil:
        status = run(scan)
    if status != OK:
        raise Malformed(status, scan.base + scan.offset)
    return 0


cdef class Scanner:
    """The same for a data set in pieces, each borrowed only for the call; see dicom.elements.Scanner."""
    cdef Extractor extractor  # whose tables `scan` uses
    cdef Scan scan
    cdef uint8_t carry[2 * CARRY_BYTES]  # what was left of the pieces before, too little to go on with
    cdef Py_ssize_t carried
    cdef list kept  # by place in `indexed`: the bytes of what was found in the pieces before
    cdef bytearray partial  # of the value in hand
    cdef readonly Py_ssize_t position
    """Bytes fed or skipped so far."""

    def __cinit__(
        self, Extractor extractor not None, int encoding, Py_ssize_t nesting_max, Py_ssize_t element_count_max
    ):
        self.extractor = extractor
        begin(&self.scan, &extractor.tables, encoding, nesting_max, element_count_max)
        self.kept = [None] * extractor.tables.indexed_count
        self.partial = bytearray()

    @property
    def needed_from(self):
        """The bytes before this offset are not needed: `skip` may skip them."""
        if self.scan.is_over:
            return <Py_ssize_t>1 << 62
        if self.carried or (self.scan.is_inside and self.scan.place >= 0):
            return self.position
        return max(self.position, self.scan.base + self.scan.offset)

    @property
    def is_settled(self):
        """Whether later bytes cannot change the result: Pixel Data has been reached."""
        return bool(self.scan.is_past_pixels or self.scan.is_over)

    def feed(self, const uint8_t[::1] piece):
        """Scans the next bytes. Raises Malformed."""
        cdef Py_ssize_t count = piece.shape[0]
        cdef Py_ssize_t carried = self.carried
        cdef Py_ssize_t taken = min(count, CARRY_BYTES)
        if count == 0:
            return
        if carried:  # first the bytes across the boundary
            memcpy(self.carry + carried, &piece[0], taken)
            self.look(self.carry, carried + taken, self.position - carried)
        if not carried or taken < count:
            self.look(&piece[0], count, self.position)
        self.carry_rest()
        self.position += count

    def skip(self, Py_ssize_t count):
        """Skips this many bytes, none of which may be needed."""
        if count < 0 or self.position + count > self.needed_from:
            raise ValueError("these bytes are needed")
        self.position += count

    def finish(self):
        """The result, after all of the data set was fed. Raises Malformed."""
        self.scan.is_last = True
        self.look(self.carry, self.carried, self.position - self.carried)
        return self.so_far()

    def so_far(self):
        """The result so far; complete only if `is_settled` or at the end of the data set."""
        cdef Py_ssize_t at
        for at in range(self.scan.tables.indexed_count):
            if self.scan.found[at].is_present:
                self.scan.found[at].value = <const uint8_t *>PyBytes_AS_STRING(<bytes>self.kept[at])
        return head_of(&self.scan)

    cdef int look(self, const uint8_t *data, Py_ssize_t count, Py_ssize_t base) except -1:
        """Continues in the bytes at `base` of the data set, and keeps the values found in them."""
        cdef Py_ssize_t moved = base - self.scan.base
        self.scan.base = base
        self.scan.offset -= moved
        self.scan.header.value_offset -= moved
        shift(&self.scan.nest, moved)
        self.scan.source.data = data
        self.scan.source.end = count
        advance(&self.scan)
        self.keep()
        return 0

    cdef int keep(self) except -1:
        """Copies the values found in the current bytes, and the part of an indexed value that continues."""
        cdef Scan *scan = &self.scan
        cdef Found *found
        cdef Py_ssize_t at
        cdef Py_ssize_t kept_bytes
        for at in range(scan.tables.indexed_count):
            found = &scan.found[at]
            if found.is_present and not found.is_kept:
                kept_bytes = min(found.length, bytes_of(scan.tables, scan.tables.indexed[at].kind))
                if found.offset < 0:  # it began in earlier bytes
                    self.gather(found.offset, kept_bytes)
                    self.kept[at] = bytes(self.partial)
                else:
                    self.kept[at] = PyBytes_FromStringAndSize(
                        <const char *>scan.source.data + found.offset, kept_bytes
                    )
                found.is_kept = True
        if not scan.is_inside or scan.place < 0:
            self.partial = bytearray()
            return 0
        kept_bytes = bytes_of(scan.tables, scan.tables.indexed[scan.place].kind)
        if scan.header.length != UNDEFINED_LENGTH:
            kept_bytes = min(kept_bytes, <Py_ssize_t>scan.header.length)
        if scan.header.value_offset >= 0:
            self.partial = bytearray()
        self.gather(scan.header.value_offset, kept_bytes)
        return 0

    cdef int gather(self, Py_ssize_t value_offset, Py_ssize_t kept_bytes) except -1:
        """Adds the current bytes of a value to `partial`."""
        cdef Py_ssize_t start = value_offset + len(self.partial)
        cdef Py_ssize_t end = min(value_offset + kept_bytes, self.scan.source.end)
        if start < end:
            self.partial += PyBytes_FromStringAndSize(<const char *>self.scan.source.data + start, end - start)
        return 0

    cdef void carry_rest(self) noexcept:
        """Keeps the last bytes if they are too few to continue."""
        cdef Py_ssize_t left = self.scan.source.end - self.scan.offset
        self.carried = 0 if self.scan.is_over else max(left, 0)
        if self.carried:
            memmove(self.carry, self.scan.source.data + self.scan.offset, self.carried)


cdef Py_ssize_t bytes_of(const Tables *tables, Kind kind) noexcept nogil:
    """The number of bytes to read of a value."""
    return RAW_SEQUENCE_FACTOR * tables.sequence_bytes_max if kind == SEQUENCE else tables.value_bytes_max


# what is handed out ----------------------------------------------------------------------------------------------


cdef Head head_of(Scan *scan):
    """Makes the result from the noted places."""
    cdef Head head = Head.__new__(Head)
    cdef Py_ssize_t sizes[LEVELS + 1]
    measure(scan, sizes)
    head.specific_character_set = value_at(scan, scan.tables.character_set_at)
    head.sop_class_uid = value_at(scan, scan.tables.sop_class_at)
    head.sop_instance_uid = value_at(scan, scan.tables.sop_instance_at)
    head.study_instance_uid = value_at(scan, scan.tables.study_at)
    head.series_instance_uid = value_at(scan, scan.tables.series_at)
    head.patient = blob(scan, 0, sizes[0])
    head.study = blob(scan, 1, sizes[1])
    head.series = blob(scan, 2, sizes[2])
    head.instance = blob(scan, 3, sizes[3])
    head.pixel_data_offset = scan.pixel_data_offset
    head.pixel_data_length = scan.pixel_data_length
    head.image_bytes = image_bytes(scan)
    head.cut = "" if scan.ending == WHOLE else cut_of(scan)
    return head


cdef str cut_of(const Scan *scan):
    """Describes where the data set ends early."""
    cdef Py_ssize_t missing = scan.header.value_offset + scan.header.length - scan.source.end
    cdef uint32_t number = scan.tag_before if scan.ending == IN_HEADER else scan.header.tag
    tag = f"({number >> 16:04X},{number & 0xFFFF:04X})"
    if scan.ending == IN_HEADER:
        return f"ends within the header that follows {tag}"
    if scan.header.length != UNDEFINED_LENGTH:
        return f"ends within {tag}, {missing} bytes early"
    return f"ends within {tag}, which is not closed"


cdef Py_ssize_t image_bytes(const Scan *scan) noexcept nogil:
    """The expected length of native Pixel Data (PS3.5 8.1.1, without padding); -1 if the attributes do not say."""
    cdef Py_ssize_t samples = number_at(scan, scan.tables.image_at[0])
    cdef Py_ssize_t frames = number_at(scan, scan.tables.image_at[1])
    cdef Py_ssize_t rows = number_at(scan, scan.tables.image_at[2])
    cdef Py_ssize_t columns = number_at(scan, scan.tables.image_at[3])
    cdef Py_ssize_t bits = number_at(scan, scan.tables.image_at[4])
    if rows < 0 or columns < 0 or bits <= 0 or bits > 64:
        return -1
    samples = 1 if samples < 0 else samples
    frames = 1 if frames < 0 else min(frames, <Py_ssize_t>1 << 24)
    if samples > 16:
        return -1
    return (rows * columns * samples * bits * frames + 7) // 8 if frames < 1 << 20 else -1


cdef Py_ssize_t number_at(const Scan *scan, Py_ssize_t at) noexcept nogil:
    """The first number of a US or IS value; -1 if there is none."""
    cdef const Found *found = &scan.found[at]
    cdef Py_ssize_t number = 0
    cdef Py_ssize_t i
    cdef bint is_number = False
    if not found.is_present:
        return -1
    if scan.tables.indexed[at].kind == NUMBERS:
        if found.length < 2:
            return -1
        if scan.encoding & BIG_ENDIAN:
            return found.value[0] << 8 | found.value[1]
        return found.value[1] << 8 | found.value[0]
    for i in range(min(found.length, <Py_ssize_t>12)):
        if 0x30 <= found.value[i] <= 0x39:
            number = 10 * number + found.value[i] - 0x30
            is_number = True
        elif is_number or found.value[i] != 0x20:
            break
    return number if is_number else -1


cdef void measure(Scan *scan, Py_ssize_t *sizes) noexcept nogil:
    """Decides how much a blob keeps of every value and adds up the sizes of the blobs.

    If the sum exceeds the limit of all blobs, sequences are cut to an eighth of their limit, then values too, then
    both further.
    """
    cdef int i
    for i in range(5):
        if measure_within(
            scan,
            sizes,
            scan.tables.value_bytes_max >> VALUE_HALVINGS[i],
            scan.tables.sequence_bytes_max >> SEQUENCE_HALVINGS[i],
        ) <= scan.tables.blobs_bytes_max:
            return


cdef Py_ssize_t measure_within(
    Scan *scan, Py_ssize_t *sizes, Py_ssize_t value_max, Py_ssize_t sequence_max
) noexcept nogil:
    cdef const IndexedAttribute *indexed = scan.tables.indexed
    cdef Py_ssize_t at
    cdef Py_ssize_t total = 0
    cdef Found *found
    memset(sizes, 0, (LEVELS + 1) * sizeof(Py_ssize_t))
    for at in range(scan.tables.indexed_count):
        found = &scan.found[at]
        if not found.is_present:
            continue
        found.is_left_out = False
        if indexed[at].kind == SEQUENCE:
            found.is_left_out = not measure_sequence(scan, found, sequence_max)
        else:
            found.blob_length = min(found.length, value_max)
            if indexed[at].kind == TEXT:
                found.blob_length = stripped(found.value, found.blob_length)
        if not found.is_left_out:
            sizes[indexed[at].level] += ENTRY_BYTES + found.blob_length
            total += ENTRY_BYTES + found.blob_length
    return total


cdef Py_ssize_t stripped(const uint8_t *value, Py_ssize_t length) noexcept nogil:
    """The length without trailing spaces and NULs."""
    while length > 0 and (value[length - 1] == 0x20 or value[length - 1] == 0):
        length -= 1
    return length


cdef bytes value_at(Scan *scan, Py_ssize_t at):
    if not scan.found[at].is_present or scan.found[at].is_left_out:
        return b""
    return PyBytes_FromStringAndSize(<const char *>scan.found[at].value, scan.found[at].blob_length)


cdef bytes blob(Scan *scan, int level, Py_ssize_t size):
    """One level's blob, its entries in the order of `indexed`."""
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t *target = <uint8_t *>PyBytes_AS_STRING(result)
    cdef const IndexedAttribute *indexed = scan.tables.indexed
    cdef Py_ssize_t at
    for at in range(scan.tables.indexed_count):
        if scan.found[at].is_present and not scan.found[at].is_left_out and indexed[at].level == level:
            put_u32_little(target, indexed[at].tag)
            put_u32_little(target + 4, <uint32_t>scan.found[at].blob_length)
            put_found(scan, &scan.found[at], &indexed[at], target + ENTRY_BYTES)
            target += ENTRY_BYTES + scan.found[at].blob_length
    return result


cdef void put_u32_little(uint8_t *target, uint32_t value) noexcept nogil:
    target[0] = <uint8_t>value
    target[1] = <uint8_t>(value >> 8)
    target[2] = <uint8_t>(value >> 16)
    target[3] = <uint8_t>(value >> 24)


cdef void put_found(Scan *scan, const Found *found, const IndexedAttribute *attribute, uint8_t *target) noexcept nogil:
    """Writes a value in the form of blobs: text unchanged, numbers in little endian, sequences in Explicit VR LE."""
    cdef const uint8_t *value = found.value
    cdef int unit
    cdef Py_ssize_t i
    if attribute.kind == SEQUENCE:
        put_sequence(scan, found, target)
        return
    memcpy(target, value, found.blob_length)
    if attribute.kind == NUMBERS and scan.encoding & BIG_ENDIAN:
        unit = swap_unit(found.vr if found.vr != 0 and found.vr != VR_UN else attribute.vr)
        for i in range(found.blob_length - found.blob_length % unit):
            target[i] = value[i - i % unit + unit - 1 - i % unit]


cdef bint measure_sequence(Scan *scan, Found *found, Py_ssize_t bytes_max) noexcept nogil:
    """Decides how much a blob keeps of a sequence: all items, or, shortened, the leading ones that fit.

    False if there are none, or if they are malformed.
    """
    found.is_brief = False
    if measure_items(scan, found, bytes_max):
        return True
    found.is_brief = True
    return measure_items(scan, found, bytes_max) and found.blob_length > 0


cdef bint measure_items(Scan *scan, Found *found, Py_ssize_t bytes_max) noexcept nogil:
    """Walks the items; False if they are malformed, or if they do not all fit and are not shortened."""
    cdef Walk walk
    cdef Py_ssize_t length = min(found.length, RAW_SEQUENCE_FACTOR * scan.tables.sequence_bytes_max)
    cdef bint is_all
    cdef int status
    start_walk(&walk, scan.tables, found, NULL, 0)
    walk.source.end = length
    walk.size_max = bytes_max
    status = reencode_walk(&walk, 0, length, sequence_encoding(scan, found), True)
    if status != OK and (status != OVERRUN or length == found.length):
        found.blob_length = 0
        return False
    found.blob_length = walk.whole_size
    is_all = walk.depth == 0 and walk.size <= bytes_max
    found.items_length = length if is_all else walk.whole_offset
    return is_all or found.is_brief


cdef void put_sequence(Scan *scan, const Found *found, uint8_t *target) noexcept nogil:
    """Repeats the walk of measure_items, and writes."""
    cdef Walk walk
    start_walk(&walk, scan.tables, found, target, found.blob_length)
    walk.source.end = found.items_length
    reencode_walk(&walk, 0, found.items_length, sequence_encoding(scan, found), True)


cdef int sequence_encoding(Scan *scan, const Found *found) noexcept nogil:
    return scan.encoding if found.vr != VR_UN else scan.encoding & ~EXPLICIT_VR


cdef void start_walk(
    Walk *walk, const Tables *tables, const Found *found, uint8_t *target, Py_ssize_t room
) noexcept nogil:
    walk.source.data = found.value
    walk.is_brief = found.is_brief
    walk.dictionary = &tables.dictionary
    walk.target_encoding = EXPLICIT_VR
    walk.target = target
    walk.target_room = room
    walk.size_max = <Py_ssize_t>1 << 62
