"""The format of every key and value in LMDB. Pure: bytes in, bytes out.

Ids are u32, never reused, and big endian in keys, so that key order is the order of arrival. `digest` is 8 bytes of
blake2b. `order` decides which of two records comes first, `place` is the position of a record; both are big endian:

    order    stamp u64, tie u64: the checksum and length of the payload. It contains no place, so that a record keeps
             its order when it is copied to another segment
    place    segment id u64, offset u64

Values are little endian. Named databases:

    instances           series id, instance id            INSTANCE, then the instance level's blob
    sop_uids            SOP Instance UID                  series id, instance id; empty: no current instance
    history             SOP Instance UID, 0, order, place HISTORY, then the record's meta block unless it is deleted,
                                                          and u64, the stamp of the PUT, if it is in the trash: every
                                                          record of the UID but its current one. In the order of a
                                                          record of the trash the tie is the stamp that it settles
    versions            as in history                     nothing: the records of history that are kept versions
    drops               SOP Instance UID, 0, target stamp nothing: tombstones with a target
                        u64, stamp u64, place
    tombstones          stamp u64, digest, place          TOMBSTONE, once a record
    deletions           level u8, UID, 0, stamp u64,      nothing: the tombstones of each study (1) and series (2). An
                        digest, place                     index older than this table lacks earlier tombstones
    holds               Study Instance UID, 0, order,     APART, then key and meta block
                        place
    quarantine          SOP Instance UID, 0, order, place APART, then key and meta block
    corrections         0, stamp u64, digest, place       APART, then key and meta block: every record; the last of its
                                                          copies has the state 1
                        1, stamp u64 of the correction,   nothing: every undo, with its own stamp
                        stamp u64, digest
                        2, level u8, name, 0, stamp u64,  operation u8, items: corrections in force, by each name. Name:
                        digest                            patient key; Study Instance UID; Series Instance UID, "/",
                                                          Study Instance UID
    trash               0, stamp u64, digest, place       APART, then key and meta block: every record; the last of its
                                                          copies has the state 1
                        1, stamp u64 of a PUT, stamp u64, operation u8: every RESTORE and EMPTY
                        digest
                        2, stamp u64 of a PUT             TRASH: the PUTs under which instances wait. An index older
                                                          than this table has nothing in the trash
    damage              place                             DAMAGE, then SOP Instance UID and the reason
    counts              study id, series id               COUNTS, Modality (length u8, text), SOP classes (name ids u32)
    series              series id                         study id, statements u32, uid length u16, uid, facts
    series_uids         Series Instance UID, 0, study id  series id
    series_statements   series id, digest                 order, digest of the study's statement, content
    studies             study id                          patient id, statements u32, uid length u16, uid, facts
    study_uids          Study Instance UID                study id
    study_statements    study id, digest                  order, content
    patients            patient id                        key length u16, patient key, facts
    patient_keys        patient key                       patient id
    patient_studies     patient id, study id              nothing
    search              tag u32 big endian, kind u8,      ids, several per key (dupsort), big endian: of studies for
                        normal form                       attributes of patient and study, of series for those of
                                                          series and instance. Kinds: see `terms`
    access              kind u8, text                     ids of studies, several per key (dupsort), big endian: what a
                                                          scope may ask of a study. See `access_tags`
    first_senders       series id                         order and u32, the name id of the calling AE title: the first
                                                          current instance of a series. None: older than this table
    texts               tag u32, block u32: the study's   the texts of the block's studies, in their order, each: 0xFF,
                        id >> 6; both big endian          0x80 | the low six bits of the id, normal form. See `texts`
    amended             segment id u64 big endian         AMENDED: the progress of extracting attributes again
    names               0, u32 or 1, text                 text or u32: UIDs and titles that many instances share
    segments            segment id u64 big endian         SEGMENT, then pairs (start u64, end u64)
    meta                word                              see below

Statement and facts: see `statements`. The only statement of a study or series has no content here: the facts contain
it. Everything follows from the log (except `damage`, which the next scrub finds again), so a change here is a new
FORMAT and a rebuild.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from hashlib import blake2b

FORMAT = 4

# meta
META_FORMAT = b"format"
"""FORMAT, u32."""
META_EPOCH = b"epoch"
"""u64; changes when anything is removed or moved: every process must then empty its caches."""
META_VERSIONS = b"versions"
"""u64; kept versions."""
META_CONFLICTS = b"conflicts"
"""u64; attributes of studies on which their instances disagree."""
META_DELETED = b"deleted"
"""u64; records that a tombstone has killed, as long as they are in their segments."""
META_HELD = b"held"
"""u64; studies on hold."""
META_CORRECTIONS = b"corrections"
"""u64; corrections in force."""
META_QUARANTINED = b"quarantined"
"""u64; records in quarantine."""
META_QUARANTINED_BYTES = b"quarantined bytes"
"""u64; their bytes."""
META_TRASHED = b"trashed"
"""u64; records in the trash."""
META_TRASHED_BYTES = b"trashed bytes"
"""u64; their bytes."""
META_ACCESS = b"access"
"""ACCESS_FILL: how far `access` has been filled in an index that is older than it. No row: from the start."""
META_CHANGED = b"changed"
"""u64, then ids of studies, u32 each: the last ones whose keys have changed. See `apply.changed_studies`."""
META_POSITION = b"position "
"""With a slot (u16 big endian): POSITION; how far the log of another node has been applied. No row: nothing of it."""
META_NEXT = {"patient": b"next patient", "study": b"next study", "series": b"next series", "name": b"next name"}
"""u32; the next free id."""

PAIR = struct.Struct(">II")
ID = struct.Struct(">I")
ORDER = struct.Struct(">QQ")
ORDER_BYTES = ORDER.size
PLACE = struct.Struct(">QQ")
ORDER_PLACE = struct.Struct(">QQQQ")
"""Order and place: they identify a record, and end the key of its row in `history`."""
TOMBSTONE_KEY = struct.Struct(">Q8sQQ")
CORRECTION_END = struct.Struct(">Q8s")
"""stamp, digest: they identify a correction."""
CORRECTION_RECORD = b"\0"
CORRECTION_UNDO = b"\1"
CORRECTION_NAME = b"\2"
TRASH_RECORD = b"\0"
TRASH_SETTLED = b"\1"
TRASH_ENTRY = b"\2"
TRASH_END = CORRECTION_END
FIRST_STATED = ORDER.pack(1, 0)
"""Lower orders are those of corrections: stamps of records begin with 1."""
DIGEST_BYTES = 8
U64_KEY = struct.Struct(">Q")
ACCESS_FILL = struct.Struct("<BI")
"""version of `access_tags`; the last study that has its rows, or ACCESS_FILLED."""
ACCESS_VERSION = 4
"""Of what `access_tags` makes of a value. An index with another one is filled again."""
META_COMMIT = b"commit of %d" % ACCESS_VERSION
"""u64: the last transaction of an engine that keeps `access` and `first_senders` as this version says. See
`database.commits`."""
ACCESS_FILLED = 0xFFFFFFFF
"""Every study has its rows."""
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
UID_HEAD = struct.Struct("<IIH")
"""study or patient id, statements, uid length."""
KEY_HEAD = struct.Struct("<H")

INSTANCE = struct.Struct("<QQQQqQIIHHIIII8s")
"""stamp, segment id, offset, payload_length, pixel_data_offset, received_ns, payload_crc, meta_length, key_length,
flags, name ids of SOP class, transfer syntax, calling AE title and character set, digest of the series statement."""
INSTANCE_END = struct.Struct("<IIII8s")
"""The end of INSTANCE, which all instances of one series statement, sender and SOP class share."""
COUNTS = struct.Struct("<IIQ")
"""instances, next instance id, bytes of payload."""
HISTORY = struct.Struct("<BBHQIIH")
"""state, kind, flags, payload_length, payload_crc, meta_length, key_length."""
TOMBSTONE = struct.Struct("<BIHI")
"""1 alive, 0 an earlier copy; meta_length, key_length, number of SOP Instance UIDs."""
APART = struct.Struct("<BQIIH")
"""state (of a hold: 1 it counts, 0 a later one counts), payload_length, payload_crc, meta_length, key_length."""
DAMAGE = struct.Struct("<QH")
"""found_ns, length of the SOP Instance UID."""
SEGMENT = struct.Struct("<QQQQQ")
"""indexed_bytes, end (of the records once sealed, else 0), live_count, live_bytes, dead_bytes."""
TRASH = struct.Struct("<IQ")
"""SOP Instance UIDs that wait under a PUT, and the bytes of their data sets."""
POSITION = struct.Struct("<QQ")
"""The number of the last group of a slot, and the largest stamp in all of them."""
SLOT = struct.Struct(">H")
AMENDED = struct.Struct("<8sQ")
"""digest of a set (`dicom.extra`), offset before which all records of the segment have its attributes."""
EXTENT = struct.Struct("<QQ")
"""A range beyond indexed_bytes that has been applied."""

_KEY_BYTES_MAX = 400
"""LMDB's limit is 511; prefix and suffix need room too."""
SEARCH_BYTES_MAX = 200
"""`search` cuts a normal form here; matching always checks the whole value."""
TIE_MAX = (1 << 64) - 1


def tie_of(payload_length: int, payload_crc: int) -> int:
    """The second part of an order; the same for every copy of a record."""
    return payload_crc << 32 | payload_length & 0xFFFFFFFF


def bounded(text: bytes) -> bytes:
    """`text` as part of a key: unchanged, unless it is empty, too long, or contains a NUL."""
    if 0 < len(text) <= _KEY_BYTES_MAX and b"\0" not in text:
        return text
    return b"\x01" + text[:64].replace(b"\0", b"\x01") + blake2b(text, digest_size=16).hexdigest().encode()


def is_whole(key: bytes) -> bool:
    """Whether a part that `bounded` may have made is the text itself; false if in doubt."""
    return bounded(key) == key and not key.startswith(b"\x01")


def patient_key(patient_id: bytes, issuer: bytes, study_uid: bytes) -> bytes:
    """The identity of a patient: ID and issuer. Without an ID, every study has a patient of its own."""
    if not patient_id:
        return b"\0\0" + bounded(study_uid)
    if not issuer:
        return bounded(patient_id) + b"\0"
    joined = bounded(patient_id) + b"\0" + bounded(issuer)
    return joined if len(joined) <= _KEY_BYTES_MAX else b"\x01" + bounded(joined)


def correction_order(stamp: int) -> bytes:
    """The order of a correction's attributes: before those of all statements, the latest correction first."""
    return ORDER.pack(0, (1 << 64) - 1 - stamp)


def correction_prefix(level: int, name: bytes) -> bytes:
    """The prefix of the rows of `corrections` that are in force for a patient, study or series."""
    return CORRECTION_NAME + bytes((level,)) + name + b"\0"


def search_key(tag: int, normal: bytes, kind: bytes = b"\0") -> bytes:
    """The key of `search` for a normal form; a prefix of the keys of all longer ones."""
    return tag.to_bytes(4, "big") + kind + normal[:SEARCH_BYTES_MAX].replace(b"\0", b"\x01")


def digest_of(*parts: bytes) -> bytes:
    """The digest of these parts; other parts have another digest."""
    data = b"".join([piece for part in parts for piece in (len(part).to_bytes(4, "little"), part)])
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


def instance_count(rows: Iterable[bytes]) -> int:
    """The number of instances in these rows of `counts`."""
    return sum([COUNTS.unpack_from(row)[0] for row in rows])
