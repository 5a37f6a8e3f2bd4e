"""A data set as one object of the DICOM JSON Model, in one pass: engine._ext.json_model.

Its door is dicom.json_model, which decides what the standard leaves open. Knows no files, and of URLs only a prefix.

    data set  ──►  {"00080005":{"vr":"CS","Value":["ISO_IR 192"]},"00080008":{"vr":"CS","Value":["ORIGINAL", …]}, …}

The walk writes as it goes, and goes back in two cases only. Keys must ascend and be unique: each element notes the
place of its text (`Piece`), and a level with a tag out of order is sorted when it ends; of equal tags the last one
counts. And a sequence of defined length with malformed items is removed and written again as bytes. Python objects are
made only for text beyond ASCII and for floating-point numbers.

The layout of the bytes is in dataset.pxd. Standard: PS3.18 annex F.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free
from cursor cimport Cursor, holds, u16, u32
from dataset cimport (
    BIG_ENDIAN, EXPLICIT_VR, ITEM, ITEM_DELIMITER, MISPLACED, NESTING_MAX, OB_OR_OW, OK, OVERRUN, OW_OR_NUMBERS,
    SEQUENCE_DELIMITER, TOO_DEEP, TOO_LONG, TOO_MANY, UNDEFINED_LENGTH, US_OR_SS, VR_AT, VR_FD, VR_FL, VR_OB, VR_OD,
    VR_OF, VR_OL, VR_OV, VR_OW, VR_SL, VR_SQ, VR_SS, VR_SV, VR_UC, VR_UI, VR_UL, VR_UN, VR_UR, VR_US, VR_UT, VR_UV,
    Budget, Dictionary, Entry, Header, dictionary_vr, is_listed_vr, item_encoding, read_header, root_encoding,
    skip_undefined, swap_unit,
)
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, qsort, realloc
from libc.string cimport memcpy

from engine._ext.elements import Malformed

cdef extern from "Python.h":
    char *PyOS_double_to_string(double value, char format_code, int precision, int flags, int *type) except NULL
    int Py_DTSF_ADD_DOT_0

cdef extern from "math.h":
    bint isfinite(double value) nogil

cdef enum:
    LEVELS_MAX = 2 * NESTING_MAX + 1
    VR_CS = 0x4353
    VR_DS = 0x4453
    VR_IS = 0x4953
    VR_LT = 0x4C54
    VR_PN = 0x504E
    VR_ST = 0x5354
    TAG_CHARACTER_SET = 0x00080005
    TAG_PIXEL_REPRESENTATION = 0x00280103
    FIRST_PIXEL_TAG = 0x7FE00008
    LAST_PIXEL_TAG = 0x7FE00010
    DIGITS_MAX = 16  # of a decimal number that a double gives back
    EXPONENT_MAX = 300
    GROUPS_MAX = 3  # of a person name
    ROOM_KEPT = 0x400000  # bytes for what is written next
    TEXT_FACTOR_MAX = 32  # bytes written for one read: a BulkDataURI deep in sequences may be 80 times its element

cdef uint64_t SAFE_INTEGER = <uint64_t>1 << 53  # from here on a double leaves integers out

cdef enum:
    # The JSON type of a VR's values.
    TEXTS = 1
    ONE_TEXT
    DECIMALS
    INTEGERS
    NAMES
    NUMBERS
    TAGS
    BYTES

cdef struct Piece:
    # The place of one element's text in the output, without a comma.
    uint32_t tag
    Py_ssize_t start
    Py_ssize_t end

cdef struct Level:
    # One open data set, item or sequence.
    Py_ssize_t end  # of the innermost thing of defined length that it lies in
    Py_ssize_t text_start  # where its element, of a sequence, or its brace begins in what was written
    Py_ssize_t first_piece
    const uint8_t *character_set
    Py_ssize_t character_set_length
    uint32_t tag  # of a sequence
    uint32_t tag_before
    uint32_t item_count  # of a sequence
    int encoding
    bint is_sequence
    bint is_delimited
    bint is_signed  # Pixel Representation: what "US or SS" are
    bint is_in_order

cdef bytes dictionary_bytes = b""
cdef Dictionary dictionary
cdef const char *HEX = b"0123456789ABCDEF"
cdef const char *BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
cdef const char **GROUP_NAMES = [b'"Alphabetic":', b'"Ideographic":', b'"Phonetic":']
cdef Py_ssize_t *GROUP_NAME_LENGTHS = [13, 14, 11]


def configure(bytes dictionary_):
    """Takes the table of dicom.tags, on import of dicom.json_model."""
    global dictionary_bytes
    dictionary_bytes = dictionary_
    dictionary.entries = <const Entry *>PyBytes_AS_STRING(dictionary_bytes)
    dictionary.count = len(dictionary_bytes) // sizeof(Entry)


@cython.auto_pickle(False)
@cython.final
cdef class Writer:
    """Writes data sets one after the other; see dicom.json_model. One thread at a time.

    `decode` is dicom.charset.decode. `bulk_prefix`: what BulkDataURIs begin with; None puts every value inline.
    """

    cdef object decode
    cdef bytes bulk_prefix
    cdef bint has_bulk
    cdef Py_ssize_t binary_max
    cdef Py_ssize_t table_max
    cdef Py_ssize_t text_max
    cdef Py_ssize_t depth_max
    cdef Py_ssize_t element_count_max
    cdef Budget budget
    cdef Cursor source
    cdef Level levels[LEVELS_MAX]
    cdef Py_ssize_t depth
    cdef bint is_beyond_ascii
    cdef bint may_be_cut
    cdef readonly bint has_pixel_data
    """Whether the data set that was written last reaches Pixel Data at its top level."""
    cdef uint8_t *text
    cdef Py_ssize_t length
    cdef Py_ssize_t room
    cdef Piece *pieces
    cdef Py_ssize_t piece_count
    cdef Py_ssize_t piece_room

    def __cinit__(self, decode, limits):
        self.decode = decode
        self.binary_max, self.table_max, self.text_max, self.depth_max, self.element_count_max = limits
        self.depth_max = min(self.depth_max, <Py_ssize_t>NESTING_MAX)

    def __dealloc__(self):
        free(self.text)
        free(self.pieces)

    def data_set(
        self, const uint8_t[::1] data, int encoding, bytes bulk_prefix, const uint8_t[::1] tail, bint may_be_cut
    ):
        """One object. `data` may end within top-level Pixel Data; `tail`: the bytes after that."""
        self.begin(bulk_prefix)
        self.may_be_cut = may_be_cut
        self.source.data = &data[0] if data.shape[0] else NULL
        self.source.end = data.shape[0]
        self.open_root(root_encoding(&self.source, encoding))
        self.run()
        self.has_pixel_data = self.levels[0].tag_before >= FIRST_PIXEL_TAG
        if tail.shape[0]:
            self.source.data = &tail[0]
            self.source.end = self.levels[0].end = tail.shape[0]
            self.run()
        if self.is_beyond_ascii and not self.has_character_set():
            self.add_character_set()
        self.close_data_set()
        return self.result()

    def element(self, uint32_t tag, uint16_t vr, const uint8_t[::1] value):
        """`"GGGGEEEE":{…}` of one element, from a value in Explicit VR LE and UTF-8, without BulkDataURI."""
        cdef Header header
        self.begin(None)
        self.source.data = &value[0] if value.shape[0] else NULL
        self.source.end = value.shape[0]
        self.open_root(EXPLICIT_VR)
        self.levels[0].character_set = <const uint8_t *>b"ISO_IR 192"
        self.levels[0].character_set_length = 10
        self.length = 0
        header.tag = tag
        header.vr = vr
        header.length = <uint32_t>self.source.end
        header.value_offset = 0
        self.begin_element(tag, vr)
        if vr == VR_SQ and header.length:
            self.open_sequence(&header, self.source.end, False, EXPLICIT_VR)
            self.run_until(1)
        else:
            self.write_value(&header, vr)
        return self.result()

    cdef bytes result(self):
        """The output; frees the memory of an unusually long one."""
        cdef bytes result = PyBytes_FromStringAndSize(<const char *>self.text, self.length)
        if self.room > ROOM_KEPT:
            free(self.text)
            self.text = NULL
            self.room = 0
        return result

    # the walk ----------------------------------------------------------------------------------------------------

    cdef int begin(self, bytes bulk_prefix) except -1:
        self.has_bulk = bulk_prefix is not None
        self.bulk_prefix = bulk_prefix
        self.budget.nesting_max = self.depth_max
        self.budget.elements_left = self.element_count_max
        self.depth = self.length = self.piece_count = 0
        self.is_beyond_ascii = self.may_be_cut = False
        return 0

    cdef int open_root(self, int encoding) except -1:
        cdef Level *root = &self.levels[0]
        root.end = self.source.end
        root.character_set = NULL
        root.character_set_length = 0
        root.encoding = encoding
        root.is_delimited = root.is_signed = root.is_sequence = False
        root.tag_before = 0
        root.is_in_order = True
        root.text_start = root.first_piece = 0
        self.depth = 1
        return self.put(b'{')

    cdef int run(self) except -1:
        """Walks the source from its beginning to its end."""
        return self.walk(0, 1)

    cdef int run_until(self, Py_ssize_t depth) except -1:
        """Walks until the sequence that was opened has ended."""
        return self.walk(0, depth + 1)

    cdef int walk(self, Py_ssize_t offset, Py_ssize_t depth_min) except -1:
        cdef int status
        cdef bint is_behind
        while self.depth >= depth_min:
            status = self.step(&offset)
            if status == OK:
                continue
            if (status == MISPLACED or status == OVERRUN) and self.give_up_sequence(&offset):
                continue
            if status == DONE:
                return 0
            # Ingest accepts malformed bytes after Pixel Data.
            is_behind = status != TOO_MANY and self.levels[0].tag_before >= FIRST_PIXEL_TAG
            if is_behind or status == OVERRUN and self.may_be_cut:
                while self.depth > 1:
                    self.close()
                return 0
            raise Malformed(status, offset)
        return 0

    cdef int step(self, Py_ssize_t *offset) except -1:
        """Handles one element, item or delimiter. OK, DONE at the end of the source, or the error."""
        cdef Level *level = &self.levels[self.depth - 1]
        cdef Cursor cursor
        cdef Header header
        if not level.is_delimited and level.end - offset[0] < 8:  # skip up to 7 bytes that are no element
            if self.depth == 1:
                return DONE
            offset[0] = level.end
            self.close()
            return OK
        cursor.data = self.source.data
        cursor.end = level.end
        if read_header(&cursor, offset[0], level.encoding, &header) != OK:
            return OVERRUN
        self.budget.elements_left -= 1
        if self.budget.elements_left < 0:
            return TOO_MANY
        if level.is_delimited and header.tag == <uint32_t>(SEQUENCE_DELIMITER if level.is_sequence else ITEM_DELIMITER):
            offset[0] = header.value_offset
            self.close()
            return OK
        if level.is_sequence:
            return self.item(&cursor, &header, offset)
        return self.write_element(&cursor, &header, offset)

    cdef int item(self, const Cursor *cursor, const Header *header, Py_ssize_t *offset) except -1:
        cdef Level *sequence = &self.levels[self.depth - 1]
        cdef Level *item = &self.levels[self.depth]
        cdef Cursor inner = cursor[0]
        if header.tag != ITEM:
            return MISPLACED
        if header.length != UNDEFINED_LENGTH:
            if holds(cursor, header.value_offset, header.length):
                inner.end = header.value_offset + header.length
            elif not self.is_cut(cursor):
                return OVERRUN
        sequence.item_count += 1
        if sequence.item_count > 1:
            self.put(b',')
        item[0] = self.levels[self.depth - 2]
        item.end = inner.end
        item.is_sequence = False
        item.is_delimited = header.length == UNDEFINED_LENGTH or not holds(cursor, header.value_offset, header.length)
        item.encoding = item_encoding(&inner, header.value_offset, inner.end, sequence.encoding)
        item.text_start = self.length
        item.first_piece = self.piece_count
        item.tag_before = 0
        item.is_in_order = True
        self.depth += 1
        self.put(b'{')
        offset[0] = header.value_offset
        return OK

    cdef int write_element(self, const Cursor *cursor, const Header *header, Py_ssize_t *offset) except -1:
        cdef Level *level = &self.levels[self.depth - 1]
        cdef bint is_undefined = header.length == UNDEFINED_LENGTH
        cdef bint is_pixel_data = self.depth == 1 and FIRST_PIXEL_TAG <= header.tag <= LAST_PIXEL_TAG
        cdef uint16_t vr = self.vr_in_json(header)
        cdef Py_ssize_t after = header.value_offset
        cdef int within
        cdef int status
        if not is_undefined and not holds(cursor, after, header.length):
            if not is_pixel_data and not (vr == VR_SQ and self.is_cut(cursor)):
                return OVERRUN
            after = cursor.end
            is_undefined = vr == VR_SQ
        elif not is_undefined:
            after += header.length
        elif is_pixel_data or vr == VR_OB or vr == VR_OW:
            vr = VR_OB  # fragments
            status = skip_undefined(cursor, &after, level.encoding, 1, True, &self.budget)
            if status == OVERRUN and is_pixel_data:
                after = cursor.end
            elif status != OK:
                return status
        else:
            vr = VR_SQ
        if not header.tag & 0xFFFF or header.tag >> 16 == 0 or header.tag >> 16 == 2 or header.tag >> 16 == 0xFFFE:
            if vr == VR_SQ and is_undefined:
                return MISPLACED
            offset[0] = after
            return OK
        self.begin_element(header.tag, vr)
        if vr == VR_SQ and header.length:
            if self.depth >= 2 * self.depth_max:
                return TOO_DEEP
            within = level.encoding
            if header.vr == VR_UN and not is_undefined:
                within &= ~EXPLICIT_VR
            self.open_sequence(header, after, is_undefined, within)
            offset[0] = header.value_offset
            return OK
        offset[0] = after
        if is_pixel_data or is_undefined:
            return self.put_bulk_data_uri() if header.length and self.has_bulk else self.end_element()
        return self.write_value(header, vr)

    cdef bint is_cut(self, const Cursor *cursor) noexcept:
        """Whether an element may go beyond the cursor's end, since the bytes are cut there."""
        return self.may_be_cut and cursor.end == self.source.end

    cdef uint16_t vr_in_json(self, const Header *header) noexcept:
        """The VR on the wire; if there is none or UN, the dictionary's, with the choices of PS3.6 decided."""
        cdef uint16_t vr = header.vr
        cdef Py_ssize_t unit
        if vr != 0 and not is_listed_vr(vr):
            return VR_UN
        if vr == 0 or vr == VR_UN:
            vr = dictionary_vr(&dictionary, header.tag)
            if vr == US_OR_SS:
                vr = VR_SS if self.levels[self.depth - 1].is_signed else VR_US
            elif vr == OB_OR_OW or vr == OW_OR_NUMBERS:
                vr = VR_OW
        unit = 4 if vr == VR_AT else swap_unit(vr)
        if unit > 1 and header.length != UNDEFINED_LENGTH and header.length % unit:
            return VR_UN if header.tag < FIRST_PIXEL_TAG or header.tag > LAST_PIXEL_TAG else vr
        return vr

    cdef int open_sequence(self, const Header *header, Py_ssize_t after, bint is_delimited, int encoding) except -1:
        """Enters the items of the current element."""
        cdef Level *parent = &self.levels[self.depth - 1]
        cdef Level *level = &self.levels[self.depth]
        level[0] = parent[0]
        level.is_sequence = True
        level.is_delimited = is_delimited
        level.end = parent.end if is_delimited else after
        level.encoding = encoding
        level.tag = header.tag
        level.item_count = 0
        level.text_start = self.pieces[self.piece_count - 1].start
        level.first_piece = self.piece_count
        self.depth += 1
        return self.put_text(b',"Value":[', 10)

    cdef int close(self) except -1:
        """Ends the innermost item or sequence."""
        cdef Level *level = &self.levels[self.depth - 1]
        if not level.is_sequence:
            self.close_data_set()
            self.depth -= 1
            return 0
        self.depth -= 1
        self.piece_count = level.first_piece
        if level.item_count == 0:
            self.length -= 10  # an empty sequence has no Value
        else:
            self.put(b']')
        return self.end_element()

    cdef bint give_up_sequence(self, Py_ssize_t *offset) except -1:
        """Removes the innermost sequence of defined length, and writes its bytes instead; False: there is none."""
        cdef Py_ssize_t depth = self.depth
        cdef Level *level
        while depth > 1:
            level = &self.levels[depth - 1]
            if level.is_sequence and not level.is_delimited:
                break
            depth -= 1
        if depth <= 1:
            return False
        self.depth = depth - 1
        self.length = level.text_start
        self.piece_count = level.first_piece - 1
        offset[0] = level.end
        self.put_key(level.tag, VR_UN)
        if self.has_bulk:
            self.put_bulk_data_uri()
        else:
            self.end_element()
        return True

    # elements ----------------------------------------------------------------------------------------------------

    cdef int begin_element(self, uint32_t tag, uint16_t vr) except -1:
        cdef Level *level = &self.levels[self.depth - 1]
        if tag <= level.tag_before:
            level.is_in_order = False
        level.tag_before = tag
        if self.piece_count > level.first_piece:
            self.put(b',')
        return self.put_key(tag, vr)

    cdef int put_key(self, uint32_t tag, uint16_t vr) except -1:
        """Notes the start of the element, and writes it up to its VR."""
        cdef uint8_t *p
        self.add_piece(tag)
        self.need(24)
        p = self.text + self.length
        p[0] = c'"'
        write_hex(p + 1, tag)
        memcpy(p + 9, b'":{"vr":"', 9)
        p[18] = <uint8_t>(vr >> 8)
        p[19] = <uint8_t>(vr & 0xFF)
        p[20] = c'"'
        self.length += 21
        return 0

    cdef int end_element(self) except -1:
        self.put(b'}')
        self.pieces[self.piece_count - 1].end = self.length
        return 0

    cdef int close_data_set(self) except -1:
        """Ends an item or the whole data set, and sorts it if necessary."""
        cdef Level *level = &self.levels[self.depth - 1]
        if not level.is_in_order:
            self.put_in_order(level)
        self.piece_count = level.first_piece
        return self.put(b'}')

    cdef int put_in_order(self, Level *level) except -1:
        cdef Piece *pieces = self.pieces + level.first_piece
        cdef Py_ssize_t count = self.piece_count - level.first_piece
        cdef Py_ssize_t start = level.text_start + 1
        cdef Py_ssize_t i
        cdef Piece piece
        cdef bytes before = PyBytes_FromStringAndSize(<const char *>self.text + start, self.length - start)
        cdef const char *p = PyBytes_AS_STRING(before)
        qsort(pieces, count, sizeof(Piece), compare_pieces)
        self.length = start
        for i in range(count):
            piece = pieces[i]
            if i + 1 < count and pieces[i + 1].tag == piece.tag:
                continue
            if self.length > start:
                self.put(b',')
            self.put_text(p + piece.start - start, piece.end - piece.start)
        return 0

    cdef bint has_character_set(self) noexcept:
        cdef Py_ssize_t i
        for i in range(self.piece_count):
            if self.pieces[i].tag == TAG_CHARACTER_SET:
                return True
        return False

    cdef int add_character_set(self) except -1:
        self.begin_element(TAG_CHARACTER_SET, VR_CS)
        return self.put_utf_8()

    cdef int put_utf_8(self) except -1:
        self.put_text(b',"Value":["ISO_IR 192"]', 23)
        return self.end_element()

    # values ------------------------------------------------------------------------------------------------------

    cdef int write_value(self, const Header *header, uint16_t vr) except -1:
        """Writes the value and the end of the current element."""
        cdef Level *level = &self.levels[self.depth - 1]
        cdef const uint8_t *value = self.source.data + header.value_offset
        cdef Py_ssize_t length = header.length
        cdef int kind = kind_of(vr)
        if length == 0:
            return self.end_element()
        if header.tag == TAG_CHARACTER_SET:
            level.character_set = value
            level.character_set_length = length
            return self.put_utf_8()
        if header.tag == TAG_PIXEL_REPRESENTATION and length >= 2:
            level.is_signed = u16(&self.source, header.value_offset, level.encoding & BIG_ENDIAN) == 1
        if kind == BYTES:
            if self.has_bulk and length > (self.table_max if header.tag >> 16 == 0x0028 else self.binary_max):
                return self.put_bulk_data_uri()
            return self.put_binary(value, length, swap_unit(vr) if level.encoding & BIG_ENDIAN else 1)
        if self.has_bulk and length > self.text_max and may_be_bulk(vr):
            return self.put_bulk_data_uri()
        if kind == NUMBERS:
            return self.put_numbers(value, length, vr, level.encoding & BIG_ENDIAN)
        if kind == TAGS:
            return self.put_tags(value, length, level.encoding & BIG_ENDIAN)
        return self.put_texts(value, length, vr, kind)

    cdef int put_bulk_data_uri(self) except -1:
        """Writes the URI of the current value: the tags and item numbers of its path."""
        cdef Py_ssize_t i
        if self.length > TEXT_FACTOR_MAX * self.source.end + ROOM_KEPT:
            raise Malformed(TOO_LONG, self.source.end)
        self.put_text(b',"BulkDataURI":"', 16)
        self.put_text(PyBytes_AS_STRING(self.bulk_prefix), PyBytes_GET_SIZE(self.bulk_prefix))
        for i in range(1, self.depth):
            if self.levels[i].is_sequence:
                self.put(b'/')
                self.put_hex(self.levels[i].tag)
                self.put(b'/')
                self.put_unsigned(self.levels[i].item_count)
        self.put(b'/')
        self.put_hex(self.pieces[self.piece_count - 1].tag)
        self.put(b'"')
        return self.end_element()

    cdef int put_binary(self, const uint8_t *value, Py_ssize_t length, int unit) except -1:
        """Writes base64; `unit`: bytes of the numbers whose byte order must be changed."""
        cdef Py_ssize_t i
        cdef uint32_t word
        cdef uint8_t *p
        self.put_text(b',"InlineBinary":"', 17)
        self.need((length + 2) // 3 * 4)
        p = self.text + self.length
        for i in range(0, length, 3):
            word = <uint32_t>byte_at(value, i, length, unit) << 16
            word |= <uint32_t>byte_at(value, i + 1, length, unit) << 8 | byte_at(value, i + 2, length, unit)
            p[0] = BASE64[word >> 18]
            p[1] = BASE64[word >> 12 & 63]
            p[2] = BASE64[word >> 6 & 63] if i + 1 < length else c'='
            p[3] = BASE64[word & 63] if i + 2 < length else c'='
            p += 4
        self.length = p - self.text
        self.put(b'"')
        return self.end_element()

    cdef int put_tags(self, const uint8_t *value, Py_ssize_t length, bint big_endian) except -1:
        cdef Cursor cursor
        cdef Py_ssize_t i
        cursor.data = value
        cursor.end = length
        self.put_text(b',"Value":[', 10)
        for i in range(0, length - 3, 4):
            if i:
                self.put(b',')
            self.put(b'"')
            self.put_hex(<uint32_t>u16(&cursor, i, big_endian) << 16 | u16(&cursor, i + 2, big_endian))
            self.put(b'"')
        self.put(b']')
        return self.end_element()

    cdef int put_numbers(self, const uint8_t *value, Py_ssize_t length, uint16_t vr, bint big_endian) except -1:
        cdef Py_ssize_t unit = swap_unit(vr)
        cdef Py_ssize_t i
        cdef Py_ssize_t start = self.length
        cdef uint64_t bits
        self.put_text(b',"Value":[', 10)
        for i in range(0, length - unit + 1, unit):
            if i:
                self.put(b',')
            bits = read_bits(value + i, unit, big_endian)
            if vr == VR_FL or vr == VR_FD:
                if not self.put_float(bits, vr):
                    if self.has_bulk:
                        self.length = start
                        return self.put_bulk_data_uri()
                    self.put_text(b'null', 4)
            elif vr == VR_US or vr == VR_UL:
                self.put_unsigned(bits)
            elif vr == VR_SS:
                self.put_signed(<int16_t>bits)
            elif vr == VR_SL:
                self.put_signed(<int32_t>bits)
            else:
                self.put_long(bits, vr == VR_SV)
        self.put(b']')
        return self.end_element()

    cdef bint put_float(self, uint64_t bits, uint16_t vr) except -1:
        """Writes a number; False, and nothing written, if JSON has no such number."""
        cdef double number
        cdef float single
        cdef uint32_t half = <uint32_t>bits
        cdef char *text
        cdef Py_ssize_t length = 0
        if vr == VR_FL:
            memcpy(&single, &half, 4)
            number = single
        else:
            memcpy(&number, &bits, 8)
        if not isfinite(number):
            return False
        if number == <double><int32_t>number and -1e6 < number < 1e6 and not (number == 0 and bits):
            self.put_signed(<int64_t>number)
            self.put_text(b'.0', 2)
            return True
        text = PyOS_double_to_string(number, c'r', 0, Py_DTSF_ADD_DOT_0, NULL)
        try:
            while text[length]:
                length += 1
            self.put_text(text, length)
        finally:
            PyMem_Free(text)
        return True

    cdef int put_long(self, uint64_t bits, bint is_signed) except -1:
        """Writes a number, in quotes if a double cannot hold it exactly."""
        cdef int64_t number = <int64_t>bits
        cdef bint is_safe = (
            -<int64_t>SAFE_INTEGER < number < <int64_t>SAFE_INTEGER if is_signed else bits < SAFE_INTEGER
        )
        if not is_safe:
            self.put(b'"')
        if is_signed:
            self.put_signed(number)
        else:
            self.put_unsigned(bits)
        return 0 if is_safe else self.put(b'"')

    # texts -------------------------------------------------------------------------------------------------------

    cdef int put_texts(self, const uint8_t *value, Py_ssize_t length, uint16_t vr, int kind) except -1:
        cdef Level *level = &self.levels[self.depth - 1]
        cdef bytes encoded
        cdef Py_ssize_t start = self.length
        if is_plain(value, length):
            self.put_values(value, length, vr, kind)
        else:
            self.is_beyond_ascii = True
            text = self.decode(
                PyBytes_FromStringAndSize(<const char *>value, length),
                PyBytes_FromStringAndSize(<const char *>level.character_set, level.character_set_length),
                chr(vr >> 8) + chr(vr & 0xFF),
            )
            encoded = (<str>text).encode("utf-8", "replace")
            self.put_values(<const uint8_t *>PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded), vr, kind)
        if self.length == start + 10 + 4 and self.text[start + 10] == c'n':
            self.length = start  # one empty value: none
        else:
            self.put(b']')
        return self.end_element()

    cdef int put_values(self, const uint8_t *value, Py_ssize_t length, uint16_t vr, int kind) except -1:
        """Writes the opening bracket and all values, null for an empty one."""
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t end
        cdef Py_ssize_t low
        cdef Py_ssize_t high
        cdef bint keeps_leading = kind == ONE_TEXT or vr == VR_UC
        self.put_text(b',"Value":[', 10)
        while True:
            end = length
            if kind != ONE_TEXT:
                end = start
                while end < length and value[end] != c'\\':
                    end += 1
            low, high = start, end
            while high > low and (value[high - 1] == c' ' or value[high - 1] == 0):
                high -= 1
            while not keeps_leading and low < high and (value[low] == c' ' or value[low] == 0):
                low += 1
            if start:
                self.put(b',')
            self.put_one(value + low, high - low, kind)
            start = end + 1
            if end >= length:
                return 0

    cdef int put_one(self, const uint8_t *value, Py_ssize_t length, int kind) except -1:
        if length == 0:
            return self.put_text(b'null', 4)
        if kind == DECIMALS:
            if self.put_decimal(value, length):
                return 0
        elif kind == INTEGERS:
            if self.put_integer(value, length):
                return 0
        elif kind == NAMES:
            return self.put_name(value, length)
        return self.put_string(value, length)

    cdef int put_name(self, const uint8_t *value, Py_ssize_t length) except -1:
        """Writes the groups that are not empty, without surrounding spaces; the text after a third "=" stays in the
        last one."""
        cdef Py_ssize_t start = 0
        cdef Py_ssize_t end
        cdef Py_ssize_t low
        cdef Py_ssize_t high
        cdef int group
        cdef Py_ssize_t opened = self.length
        self.put(b'{')
        for group in range(GROUPS_MAX):
            end = start
            while end < length and (value[end] != c'=' or group == GROUPS_MAX - 1):
                end += 1
            low, high = start, end
            while low < high and value[low] == c' ':
                low += 1
            while low < high and value[high - 1] == c' ':
                high -= 1
            if high > low:
                if self.length > opened + 1:
                    self.put(b',')
                self.put_text(GROUP_NAMES[group], GROUP_NAME_LENGTHS[group])
                self.put_string(value + low, high - low)
            start = end + 1
            if start > length:
                break
        if self.length == opened + 1:
            self.length = opened
            return self.put_text(b'null', 4)
        return self.put(b'}')

    cdef bint put_integer(self, const uint8_t *value, Py_ssize_t length) except -1:
        """Writes a valid IS; False, and nothing written, for anything else."""
        cdef Py_ssize_t i = 0
        cdef int64_t number = 0
        cdef bint is_negative = value[0] == c'-'
        if is_negative or value[0] == c'+':
            i = 1
        if i == length or length - i > 12:
            return False
        while i < length:
            if not c'0' <= value[i] <= c'9':
                return False
            number = number * 10 + value[i] - c'0'
            i += 1
        if is_negative:
            number = -number
        if not -<int64_t>0x80000000 <= number <= 0x7FFFFFFF:
            return False
        self.put_signed(number)
        return True

    cdef bint put_decimal(self, const uint8_t *value, Py_ssize_t length) except -1:
        """Writes a DS as a JSON number, digit for digit; False, and nothing written, if no double holds it."""
        cdef Py_ssize_t i = 0
        cdef Py_ssize_t start = self.length
        cdef Py_ssize_t whole
        cdef Py_ssize_t point = -1
        cdef Py_ssize_t digits = 0
        cdef Py_ssize_t seen = 0
        cdef Py_ssize_t exponent = 0
        cdef Py_ssize_t exponent_at
        if length > 2 * DIGITS_MAX:
            return False
        self.need(length + 4)
        if value[0] == c'-':
            self.put(b'-')
            i = 1
        elif value[0] == c'+':
            i = 1
        while i + 1 < length and value[i] == c'0' and c'0' <= value[i + 1] <= c'9':
            i += 1
        whole = i
        if i < length and value[i] == c'.':
            self.put(b'0')
        while i < length and (c'0' <= value[i] <= c'9' or value[i] == c'.' and point < 0):
            if value[i] == c'.':
                point = i
            else:
                seen += 1
                if digits or value[i] != c'0':
                    digits += 1
            i += 1
        self.put_text(<const char *>value + whole, i - whole)
        if point == i - 1:
            self.length -= 1  # nothing behind it
        if seen == 0 or digits > DIGITS_MAX:
            self.length = start
            return False
        if i == length:
            return True
        exponent_at = i
        if value[i] != c'e' and value[i] != c'E':
            self.length = start
            return False
        i += 1
        if i < length and (value[i] == c'-' or value[i] == c'+'):
            i += 1
        if i == length or length - i > 3:
            self.length = start
            return False
        while i < length:
            if not c'0' <= value[i] <= c'9':
                self.length = start
                return False
            exponent = exponent * 10 + value[i] - c'0'
            i += 1
        if exponent > EXPONENT_MAX - DIGITS_MAX:
            self.length = start
            return False
        self.put_text(<const char *>value + exponent_at, length - exponent_at)
        return True

    cdef int put_string(self, const uint8_t *value, Py_ssize_t length) except -1:
        """Writes valid UTF-8 in quotes."""
        cdef Py_ssize_t i
        cdef uint8_t c
        cdef uint8_t *p
        self.need(6 * length + 2)
        p = self.text + self.length
        p[0] = c'"'
        p += 1
        for i in range(length):
            c = value[i]
            if c >= 0x20 and c != c'"' and c != c'\\':
                p[0] = c
                p += 1
            elif c >= 0x20:
                p[0] = c'\\'
                p[1] = c
                p += 2
            else:
                memcpy(p, b'\\u00', 4)
                p[4] = HEX[c >> 4]
                p[5] = HEX[c & 15]
                p += 6
        p[0] = c'"'
        self.length = p + 1 - self.text
        return 0

    # what was written --------------------------------------------------------------------------------------------

    cdef inline int need(self, Py_ssize_t count) except -1:
        """Makes room for this many more bytes, of which the caller has read a part."""
        cdef Py_ssize_t room
        cdef void *text
        if self.room - self.length >= count:
            return 0
        room = max(self.room * 2, self.length + count + 4096)
        text = realloc(self.text, room)
        if text == NULL:
            raise MemoryError
        self.text = <uint8_t *>text
        self.room = room
        return 0

    cdef int add_piece(self, uint32_t tag) except -1:
        cdef void *pieces
        cdef Piece *piece
        if self.piece_count == self.piece_room:
            pieces = realloc(self.pieces, (2 * self.piece_room + 256) * sizeof(Piece))
            if pieces == NULL:
                raise MemoryError
            self.pieces = <Piece *>pieces
            self.piece_room = 2 * self.piece_room + 256
        piece = &self.pieces[self.piece_count]
        piece.tag = tag
        piece.start = self.length
        piece.end = self.length
        self.piece_count += 1
        return 0

    cdef inline int put(self, const char *character) except -1:
        self.need(1)
        self.text[self.length] = character[0]
        self.length += 1
        return 0

    cdef inline int put_text(self, const char *text, Py_ssize_t length) except -1:
        self.need(length)
        memcpy(self.text + self.length, text, length)
        self.length += length
        return 0

    cdef int put_hex(self, uint32_t tag) except -1:
        self.need(8)
        write_hex(self.text + self.length, tag)
        self.length += 8
        return 0

    cdef int put_signed(self, int64_t number) except -1:
        if number >= 0:
            return self.put_unsigned(<uint64_t>number)
        self.put(b'-')
        return self.put_unsigned(0 - <uint64_t>number)

    cdef int put_unsigned(self, uint64_t number) except -1:
        cdef char[20] digits
        cdef int at = 20
        while True:
            at -= 1
            digits[at] = <char>(c'0' + number % 10)
            number //= 10
            if number == 0:
                break
        return self.put_text(&digits[at], 20 - at)


cdef enum:
    DONE = 100  # beside the statuses of dataset.pxd


cdef int kind_of(uint16_t vr) noexcept nogil:
    if vr == VR_PN:
        return NAMES
    if vr == VR_DS:
        return DECIMALS
    if vr == VR_IS:
        return INTEGERS
    if vr == VR_LT or vr == VR_ST or vr == VR_UT or vr == VR_UR:
        return ONE_TEXT
    if vr == VR_AT:
        return TAGS
    if vr == VR_OB or vr == VR_OW or vr == VR_UN or vr == VR_OF or vr == VR_OD or vr == VR_OL or vr == VR_OV:
        return BYTES
    if vr == VR_SQ:
        return BYTES
    return NUMBERS if swap_unit(vr) > 1 else TEXTS


cdef bint may_be_bulk(uint16_t vr) noexcept nogil:
    """Whether a BulkDataURI may replace a value of this VR, in addition to bytes (PS3.18 F.2.7)."""
    return (
        vr == VR_DS or vr == VR_IS or vr == VR_LT or vr == VR_ST or vr == VR_UC or vr == VR_UT
        or kind_of(vr) == NUMBERS
    )


cdef inline bint is_plain(const uint8_t *value, Py_ssize_t length) noexcept nogil:
    """Whether a value is ASCII without an escape."""
    cdef Py_ssize_t i
    cdef uint8_t seen = 0
    for i in range(length):
        seen |= value[i] & 0x80 | <uint8_t>(value[i] == 0x1B)
    return seen == 0


cdef inline uint8_t byte_at(const uint8_t *value, Py_ssize_t i, Py_ssize_t length, int unit) noexcept nogil:
    """The byte at this place in little endian; 0 after the end."""
    if i >= length:
        return 0
    if unit > 1:
        i = i - i % unit + unit - 1 - i % unit
    return value[i]


cdef inline uint64_t read_bits(const uint8_t *value, Py_ssize_t unit, bint big_endian) noexcept nogil:
    cdef uint64_t bits = 0
    cdef Py_ssize_t i
    for i in range(unit):
        bits = bits << 8 | value[i if big_endian else unit - 1 - i]
    return bits


cdef inline void write_hex(uint8_t *p, uint32_t tag) noexcept nogil:
    cdef int i
    for i in range(8):
        p[i] = HEX[tag >> (28 - 4 * i) & 15]


cdef int compare_pieces(const void *a, const void *b) noexcept nogil:
    cdef const Piece *first = <const Piece *>a
    cdef const Piece *second = <const Piece *>b
    if first.tag != second.tag:
        return -1 if first.tag < second.tag else 1
    if first.start == second.start:
        return 0
    return -1 if first.start < second.start else 1
