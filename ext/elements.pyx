"""Walks data elements: engine._ext.elements, whose door is dicom.elements.

`extract` is on the path of every stored instance: one pass over the element headers, the wanted values noted by offset,
then one blob a level written at its exact size. No Python object is made for an element. `read_element` serves the slow
paths. The bytes' layout is in dataset.pxd, the writing of other encodings in reencode.pxd.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cursor cimport Cursor, holds, u32
from dataset cimport (
    BIG_ENDIAN, ENCAPSULATED, EXPLICIT_VR, ITEM, ITEM_DELIMITER, MISPLACED, NESTING_MAX, OB_OR_OW, OK, OVERRUN,
    OW_OR_NUMBERS, TOO_DEEP, TOO_LONG, TOO_MANY, UNDEFINED_LENGTH, US_OR_SS, VR_OB, VR_OW, VR_SQ, VR_UI, VR_UN, VR_US,
    Budget, Dictionary, Entry, Header, dictionary_vr, holds_items, probe, read_header, root_encoding, skip_undefined,
    swap_unit,
)
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset
from reencode cimport Walk, reencode as reencode_walk

cdef enum:
    LEVELS = 4
    CHARACTER_SET_LEVEL = 4  # kept beside the blobs
    WANTED_MAX = 192
    PRIVATE_MAX = 64
    CREATOR_BYTES_MAX = 64
    PIXEL_TAGS_MAX = 4
    ENTRY_BYTES = 8  # of a blob: tag and length before each value

cdef enum Kind:
    TEXT
    NUMBERS
    SEQUENCE

cdef struct Wanted:
    uint32_t tag
    int level
    uint16_t vr
    Kind kind

cdef struct Private:
    # A wanted private attribute: its place in `wanted`, and how the data set's own tag for it is found.
    Py_ssize_t at
    uint16_t group
    uint8_t element  # the low byte
    Py_ssize_t creator_length
    uint8_t creator[CREATOR_BYTES_MAX]

cdef struct Found:
    Py_ssize_t offset
    Py_ssize_t length
    Py_ssize_t blob_length  # of what a blob keeps of the value
    uint16_t vr
    bint is_present

cdef struct Scan:
    Cursor source
    int encoding
    bint is_complete
    Py_ssize_t offset
    Py_ssize_t needed  # how many bytes of the data set would bring the scan on
    Py_ssize_t pixel_data_offset
    Budget budget
    Found found[WANTED_MAX]
    uint8_t blocks[PRIVATE_MAX]  # of each private attribute: the block that its creator has reserved, 0 for none

cdef bytes dictionary_bytes = b""
cdef Dictionary dictionary
cdef Wanted wanted[WANTED_MAX]
cdef Py_ssize_t wanted_count = 0
cdef Private privates[PRIVATE_MAX]
cdef Py_ssize_t private_count = 0
cdef uint32_t last_wanted = 0  # nothing wanted has a higher tag
cdef uint32_t pixel_tags[PIXEL_TAGS_MAX]
cdef Py_ssize_t pixel_tag_count = 0
cdef Py_ssize_t value_bytes_max = 0
cdef Py_ssize_t sequence_bytes_max = 0
cdef Py_ssize_t sop_class_at = -1, sop_instance_at = -1, study_at = -1, series_at = -1, character_set_at = -1
cdef dict vr_names = {}

REASONS = {
    OVERRUN: "ends within an element",
    MISPLACED: "has something else where an item or its delimiter must stand",
    TOO_DEEP: "nests sequences too deeply",
    TOO_LONG: "has a length that the target encoding cannot express",
    ENCAPSULATED: "has encapsulated Pixel Data where only native can be",
    TOO_MANY: "has more elements than are taken",
}


class Malformed(ValueError):
    """Bytes that are no data set. `ends_early`: more bytes, at least `needed_bytes` in all, may mend it."""

    def __init__(self, status, offset, needed_bytes=0):
        super().__init__(f"the data set {REASONS[status]} at offset {offset}")
        self.offset = offset
        self.ends_early = status == OVERRUN
        self.needed_bytes = needed_bytes


@cython.auto_pickle(False)
cdef class Head:
    """What ingest needs to know of a data set; the fields are described in dicom.elements."""
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


def configure(levels, character_set, uids, pixel_data, bytes dictionary_, limits, extras=()):
    """Takes the tables of dicom.attributes and dicom.tags, on import of dicom.elements and when the extra ones change.

    `extras`: (tag, level, VR, creator) each; the creator is b"" for one that is not private. No thread may extract
    meanwhile.
    """
    global dictionary_bytes, wanted_count, pixel_tag_count, value_bytes_max, sequence_bytes_max
    global sop_class_at, sop_instance_at, study_at, series_at, character_set_at, private_count, last_wanted
    more = {tag: (VR, creator) for tag, _, VR, creator in extras}
    rows = sorted(
        [(tag, level) for level, tags in enumerate(levels) for tag in tags]
        + [(tag, level) for tag, level, _, _ in extras]
        + [(character_set, LEVELS)]
    )
    if len(rows) > WANTED_MAX or len(pixel_data) > PIXEL_TAGS_MAX or len(levels) != LEVELS or len(more) > PRIVATE_MAX:
        raise ValueError("more attributes than the tables of ext/elements.pyx hold")
    if any(len(creator) > CREATOR_BYTES_MAX for _, creator in more.values()):
        raise ValueError("a private creator is longer than the tables of ext/elements.pyx hold")
    dictionary_bytes = dictionary_
    dictionary.entries = <const Entry *>PyBytes_AS_STRING(dictionary_bytes)
    dictionary.count = len(dictionary_bytes) // sizeof(Entry)
    value_bytes_max, sequence_bytes_max = limits
    wanted_count = len(rows)
    private_count = 0
    last_wanted = 0
    for i, (tag, level) in enumerate(rows):
        wanted[i].tag = tag
        wanted[i].level = level
        VR, creator = more.get(tag, ("", b""))
        wanted[i].vr = ord(VR[0]) << 8 | ord(VR[1]) if VR else dictionary_vr(&dictionary, tag)
        wanted[i].kind = kind_of(wanted[i].vr)
        last_wanted = max(last_wanted, tag | 0xFFFF if creator else tag)
        if creator:
            add_private(i, tag, creator)
    pixel_tag_count = len(pixel_data)
    for i, tag in enumerate(pixel_data):
        pixel_tags[i] = tag
    order = [tag for tag, _ in rows]
    sop_class_at, sop_instance_at, study_at, series_at = [order.index(tag) for tag in uids]
    character_set_at = order.index(character_set)


cdef void add_private(Py_ssize_t at, uint32_t tag, bytes creator):
    global private_count
    cdef Private *one = &privates[private_count]
    one.at = at
    one.group = tag >> 16
    one.element = tag & 0xFF
    one.creator_length = len(creator)
    memcpy(one.creator, PyBytes_AS_STRING(creator), len(creator))
    private_count += 1


cdef Kind kind_of(uint16_t vr) noexcept nogil:
    if vr == VR_SQ:
        return SEQUENCE
    return NUMBERS if vr == US_OR_SS or swap_unit(vr) > 1 else TEXT


cdef int fail(int status, Py_ssize_t offset, Py_ssize_t needed) except -1:
    raise Malformed(status, offset, needed)


# extract ---------------------------------------------------------------------------------------------------------


def extract(const uint8_t[::1] head, int encoding, bint is_complete, Py_ssize_t nesting_max, Py_ssize_t element_count_max):
    """The wanted attributes of the data set that begins with `head`; see dicom.elements.extract."""
    cdef Scan scan
    cdef int status
    scan.source.data = &head[0] if head.shape[0] else NULL
    scan.source.end = head.shape[0]
    scan.encoding = root_encoding(&scan.source, encoding)
    scan.is_complete = is_complete
    scan.budget.nesting_max = nesting_max
    scan.budget.elements_left = element_count_max
    memset(scan.found, 0, wanted_count * sizeof(Found))
    memset(scan.blocks, 0, private_count)
    status = find(&scan)
    if status != OK:
        fail(status, scan.offset, scan.needed)
    return head_of(&scan)


cdef int find(Scan *scan) noexcept nogil:
    """Notes where the wanted values lie, up to Pixel Data, the end, or what is given of it."""
    cdef Header header
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t place
    cdef uint32_t tag_before = 0
    cdef uint32_t highest = 0
    cdef int status
    scan.offset = scan.needed = 0
    scan.pixel_data_offset = -1
    while scan.is_complete and scan.source.end - scan.offset >= 8 or not scan.is_complete:
        status = read_header(&scan.source, scan.offset, scan.encoding, &header)
        if status == OK and (header.tag == ITEM_DELIMITER or is_pixel_data(scan, header.tag)):
            return OK
        if status == OK:
            at = next_wanted(at if header.tag >= tag_before else 0, header.tag)
            tag_before = header.tag
            highest = max(highest, tag_before)
            place = at if at < wanted_count and wanted[at].tag == header.tag else -1
            if header.tag & 0x10000:
                place = private_place(scan, &header) if private_count else -1
            status = pass_value(scan, &header, place)
        else:
            scan.needed = scan.offset + 12
        if status == TOO_DEEP or status == TOO_MANY:
            return status
        if status != OK:
            scan.needed = max(scan.needed, scan.source.end + 1)
            return OK if highest > last_wanted else status  # what is broken after them is not for us to refuse
    return OK


cdef bint is_pixel_data(Scan *scan, uint32_t tag) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(pixel_tag_count):
        if tag == pixel_tags[i]:
            scan.pixel_data_offset = scan.offset
            return True
    return False


cdef Py_ssize_t next_wanted(Py_ssize_t at, uint32_t tag) noexcept nogil:
    """The first wanted attribute that is not before a tag."""
    while at < wanted_count and wanted[at].tag < tag:
        at += 1
    return at


cdef Py_ssize_t private_place(Scan *scan, const Header *header) noexcept nogil:
    """Where in `wanted` an element of an odd group stands, -1 for nowhere; takes note of private creators."""
    cdef uint32_t element = header.tag & 0xFFFF
    cdef Py_ssize_t i
    cdef Py_ssize_t length
    if element < 0x10:
        return -1
    for i in range(private_count):
        if privates[i].group != header.tag >> 16:
            continue
        if element > 0xFF:
            if element >> 8 == scan.blocks[i] and element & 0xFF == privates[i].element:
                return privates[i].at
        elif not scan.blocks[i] and header.length != UNDEFINED_LENGTH and holds(
            &scan.source, header.value_offset, header.length
        ):
            length = stripped(scan.source.data + header.value_offset, header.length)
            if length == privates[i].creator_length and memcmp(
                scan.source.data + header.value_offset, privates[i].creator, length
            ) == 0:
                scan.blocks[i] = <uint8_t>element
    return -1


cdef int pass_value(Scan *scan, const Header *header, Py_ssize_t at) noexcept nogil:
    """Goes to the next element; notes the value if it is wanted: `at` is its place in `wanted`, or -1."""
    cdef Py_ssize_t length = header.length
    cdef Py_ssize_t after = header.value_offset
    cdef int status
    scan.budget.elements_left -= 1
    if scan.budget.elements_left < 0:
        return TOO_MANY
    if header.length == UNDEFINED_LENGTH:
        status = skip_undefined(&scan.source, &after, scan.encoding, 1, is_opaque(header), &scan.budget)
        if status != OK:
            scan.offset = after
            return status
        length = after - 8 - header.value_offset
    elif holds(&scan.source, header.value_offset, length):
        after += length
        if holds_items(&scan.source, header, scan.encoding):
            status = probe(
                &scan.source, header.value_offset, after,
                scan.encoding & ~EXPLICIT_VR if header.vr == VR_UN else scan.encoding, True, 1, &scan.budget,
            )
            if status != OK:
                return status
    else:
        scan.needed = header.value_offset + length
        return OVERRUN
    if at >= 0:
        scan.found[at].offset = header.value_offset
        scan.found[at].length = length
        scan.found[at].vr = header.vr
        scan.found[at].is_present = is_fitting(wanted[at].kind, header)
    scan.offset = after
    return OK


cdef bint is_opaque(const Header *header) noexcept nogil:
    """Whether the items of an element of undefined length are fragments and no data sets."""
    return header.vr == VR_OB or header.vr == VR_OW


cdef bint is_fitting(Kind kind, const Header *header) noexcept nogil:
    """Whether the VR on the wire is of the kind that the attribute's readers expect."""
    if kind == SEQUENCE:
        return header.vr == VR_SQ or header.vr == VR_UN or header.vr == 0
    if header.length == UNDEFINED_LENGTH:
        return False
    if header.vr == VR_UN or header.vr == 0:
        return True
    return kind_of(header.vr) == kind and header.vr != VR_OB


cdef Head head_of(Scan *scan):
    """Everything that is handed out, made from the noted places."""
    cdef Head head = Head.__new__(Head)
    cdef Py_ssize_t sizes[LEVELS + 1]
    memset(sizes, 0, sizeof(sizes))
    measure(scan, sizes)
    head.specific_character_set = value_at(scan, character_set_at)
    head.sop_class_uid = value_at(scan, sop_class_at)
    head.sop_instance_uid = value_at(scan, sop_instance_at)
    head.study_instance_uid = value_at(scan, study_at)
    head.series_instance_uid = value_at(scan, series_at)
    head.patient = blob(scan, 0, sizes[0])
    head.study = blob(scan, 1, sizes[1])
    head.series = blob(scan, 2, sizes[2])
    head.instance = blob(scan, 3, sizes[3])
    head.pixel_data_offset = scan.pixel_data_offset
    return head


cdef void measure(Scan *scan, Py_ssize_t *sizes) noexcept nogil:
    """Decides what a blob keeps of every value and adds up the sizes of the blobs."""
    cdef Py_ssize_t at
    cdef Found *found
    for at in range(wanted_count):
        found = &scan.found[at]
        if not found.is_present:
            continue
        if wanted[at].kind == SEQUENCE:
            found.is_present = measure_sequence(scan, found)
        else:
            found.blob_length = min(found.length, value_bytes_max)
            if wanted[at].kind == TEXT:
                found.blob_length = stripped(scan.source.data + found.offset, found.blob_length)
        if found.is_present:
            sizes[wanted[at].level] += ENTRY_BYTES + found.blob_length


cdef Py_ssize_t stripped(const uint8_t *value, Py_ssize_t length) noexcept nogil:
    """The length without trailing spaces and NULs."""
    while length > 0 and (value[length - 1] == 0x20 or value[length - 1] == 0):
        length -= 1
    return length


cdef bytes value_at(Scan *scan, Py_ssize_t at):
    if not scan.found[at].is_present:
        return b""
    return PyBytes_FromStringAndSize(<const char *>scan.source.data + scan.found[at].offset, scan.found[at].blob_length)


cdef bytes blob(Scan *scan, int level, Py_ssize_t size):
    """One level's blob, its entries in the order of `wanted`."""
    cdef bytes result = PyBytes_FromStringAndSize(NULL, size)
    cdef uint8_t *target = <uint8_t *>PyBytes_AS_STRING(result)
    cdef Py_ssize_t at
    for at in range(wanted_count):
        if scan.found[at].is_present and wanted[at].level == level:
            put_u32_little(target, wanted[at].tag)
            put_u32_little(target + 4, <uint32_t>scan.found[at].blob_length)
            put_found(scan, &scan.found[at], &wanted[at], target + ENTRY_BYTES)
            target += ENTRY_BYTES + scan.found[at].blob_length
    return result


cdef void put_u32_little(uint8_t *target, uint32_t value) noexcept nogil:
    target[0] = <uint8_t>value
    target[1] = <uint8_t>(value >> 8)
    target[2] = <uint8_t>(value >> 16)
    target[3] = <uint8_t>(value >> 24)


cdef void put_found(Scan *scan, const Found *found, const Wanted *attribute, uint8_t *target) noexcept nogil:
    """A value as blobs have it: text as it is, numbers in little endian, sequences in Explicit VR Little Endian."""
    cdef const uint8_t *value = scan.source.data + found.offset
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


cdef bint measure_sequence(Scan *scan, Found *found) noexcept nogil:
    """Cuts a sequence to the leading items that a blob has room for; False if not even one, or if they are malformed."""
    cdef Walk walk
    start_walk(&walk, &scan.source, NULL, 0)
    walk.size_max = sequence_bytes_max
    if reencode_walk(&walk, found.offset, found.offset + found.length, sequence_encoding(scan, found), True) != OK:
        return False
    if walk.depth > 0:  # stopped by size_max
        found.length = walk.whole_offset - found.offset
    found.blob_length = walk.whole_size
    return walk.depth == 0 or walk.whole_size > 0


cdef void put_sequence(Scan *scan, const Found *found, uint8_t *target) noexcept nogil:
    """The walk of measure_sequence again, now writing."""
    cdef Walk walk
    start_walk(&walk, &scan.source, target, found.blob_length)
    reencode_walk(&walk, found.offset, found.offset + found.length, sequence_encoding(scan, found), True)


cdef int sequence_encoding(Scan *scan, const Found *found) noexcept nogil:
    return scan.encoding if found.vr != VR_UN else scan.encoding & ~EXPLICIT_VR


cdef void start_walk(Walk *walk, const Cursor *source, uint8_t *target, Py_ssize_t room) noexcept nogil:
    walk.source = source[0]
    walk.dictionary = &dictionary
    walk.target_encoding = EXPLICIT_VR
    walk.target = target
    walk.target_room = room
    walk.size_max = <Py_ssize_t>1 << 62


def blob_items(const uint8_t[::1] blob_):
    """A level's blob as tag → value; raises Malformed."""
    cdef Cursor cursor
    cdef Py_ssize_t offset = 0
    cdef uint32_t length
    cdef dict items = {}
    cursor.data = &blob_[0] if blob_.shape[0] else NULL
    cursor.end = blob_.shape[0]
    while offset < cursor.end:
        if not holds(&cursor, offset, ENTRY_BYTES):
            fail(OVERRUN, offset, 0)
        length = u32(&cursor, offset + 4, False)
        if not holds(&cursor, offset + ENTRY_BYTES, length):
            fail(OVERRUN, offset, 0)
        items[u32(&cursor, offset, False)] = PyBytes_FromStringAndSize(
            <const char *>cursor.data + offset + ENTRY_BYTES, length
        )
        offset += ENTRY_BYTES + length
    return items


# one element at a time -------------------------------------------------------------------------------------------


def root_encoding_of(const uint8_t[::1] data, int encoding):
    """The encoding in which a data set really is, told by its first element."""
    cdef Cursor cursor
    cursor.data = &data[0] if data.shape[0] else NULL
    cursor.end = data.shape[0]
    return root_encoding(&cursor, encoding)


def read_element(const uint8_t[::1] data, Py_ssize_t offset, Py_ssize_t end, int encoding):
    """(tag, VR, value offset, value length, is undefined length, offset after it) of the element or item at an offset."""
    cdef Cursor cursor
    cdef Header header
    cdef Budget budget
    cdef Py_ssize_t after
    cdef Py_ssize_t length
    cdef int status
    budget.nesting_max = NESTING_MAX
    budget.elements_left = data.shape[0]
    cursor.data = &data[0] if data.shape[0] else NULL
    cursor.end = min(end, data.shape[0])
    if read_header(&cursor, offset, encoding, &header) != OK:
        fail(OVERRUN, offset, offset + 12)
    after = header.value_offset
    if header.length == UNDEFINED_LENGTH:
        # Opaque: what it steps over is looked into when it is walked itself.
        status = skip_undefined(&cursor, &after, encoding, 2 if header.tag == ITEM else 1, True, &budget)
        if status != OK:
            fail(status, after, after + 8)
        length = after - 8 - header.value_offset
    else:
        length = header.length
        if not holds(&cursor, after, length):
            fail(OVERRUN, offset, after + length)
        after += length
    return header.tag, vr_name(&header), header.value_offset, length, header.length == UNDEFINED_LENGTH, after


cdef str vr_name(const Header *header):
    """The VR on the wire, else the dictionary's, the open choices as dicom.tags.vr_of; SQ for UN of undefined length."""
    cdef uint16_t vr = header.vr
    if header.tag >> 16 == 0xFFFE:
        return ""
    if vr == 0:
        vr = dictionary_vr(&dictionary, header.tag)
        if vr == US_OR_SS:
            vr = VR_US
        elif vr == OB_OR_OW or vr == OW_OR_NUMBERS:
            vr = VR_OW
    if vr == VR_UN and header.length == UNDEFINED_LENGTH:
        vr = VR_SQ
    name = vr_names.get(vr)
    if name is None:
        name = vr_names[vr] = chr(vr >> 8) + chr(vr & 0xFF)
    return name
