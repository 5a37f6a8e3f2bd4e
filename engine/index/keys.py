"""The format of every key and value in LMDB. Pure: bytes in, bytes out.

Ids are u32, in keys big endian so that key order is order of arrival, and are never given twice. `order` is
(stamp, segment id, offset), 3 x u64 big endian: which of two records comes first. `digest` is 8 bytes of blake2b.
Values are little endian. Named databases:

    instances           series id, instance id            INSTANCE, then the instance level's blob
    sop_uids            SOP Instance UID                  series id, instance id; empty: no current instance
    history             SOP Instance UID, 0, order        HISTORY, then the record's meta block: every record of the UID
                                                          but its current one
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
    search              tag u32 big endian, normal form,  nothing. The id is a study's for the attributes of patient
                        0, id                             and study, a series' for those of series
    names               0, u32 or 1, text                 text or u32: UIDs and titles that many instances share
    segments            segment id u64 big endian         SEGMENT, then pairs (start u64, end u64)
    meta                word                              see below

Statement and facts: see `statements`. The content of a statement is left out where it is the only one of its study or
series: the facts say the same. All of it follows from the log, so a change here is a new FORMAT and a rebuild.
"""

from __future__ import annotations

import struct
from hashlib import blake2b

FORMAT = 1

# meta
META_FORMAT = b"format"
"""FORMAT, u32."""
META_EPOCH = b"epoch"
"""u64; changes when anything is removed or moved: then no process may rely on what it remembers."""
META_VERSIONS = b"versions"
"""u64; versions kept aside."""
META_CONFLICTS = b"conflicts"
"""u64; attributes of studies on which their instances disagree."""
META_NEXT = {"patient": b"next patient", "study": b"next study", "series": b"next series", "name": b"next name"}
"""u32; the next free id."""

PAIR = struct.Struct(">II")
ID = struct.Struct(">I")
ORDER = struct.Struct(">QQQ")
ORDER_BYTES = ORDER.size
DIGEST_BYTES = 8
U64_KEY = struct.Struct(">Q")
U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
UID_HEAD = struct.Struct("<IIH")
"""study or patient id, statements, uid length."""
KEY_HEAD = struct.Struct("<H")

INSTANCE = struct.Struct("<QQQQqQIIHHIIII8s")
"""stamp, segment id, offset, payload_length, pixel_data_offset, received_ns, payload_crc, meta_length, key_length,
flags, name ids of SOP class, transfer syntax, calling AE title and character set, digest of the series statement."""
COUNTS = struct.Struct("<IIQ")
"""instances, next instance id, bytes of payload."""
HISTORY = struct.Struct("<BBHQIIH")
"""state, kind, flags, payload_length, payload_crc, meta_length, key_length."""
SEGMENT = struct.Struct("<QQQQQ")
"""indexed_bytes, end (of the records once sealed, else 0), live_count, live_bytes, dead_bytes."""
EXTENT = struct.Struct("<QQ")
"""A part beyond indexed_bytes that has been applied already."""

_KEY_BYTES_MAX = 400
"""LMDB's limit is 511; prefix and suffix need room too."""
SEARCH_BYTES_MAX = 200
"""A normal form is cut here in `search`: matches are always checked against the whole value."""


def bounded(text: bytes) -> bytes:
    """`text` as part of a key: itself, unless it is empty, too long, or has a NUL in it."""
    if 0 < len(text) <= _KEY_BYTES_MAX and b"\0" not in text:
        return text
    return b"\x01" + text[:64].replace(b"\0", b"\x01") + blake2b(text, digest_size=16).hexdigest().encode()


def patient_key(patient_id: bytes, issuer: bytes, study_uid: bytes) -> bytes:
    """Who a patient is: ID and issuer; without an ID every study has a patient of its own, since nothing joins them."""
    if not patient_id:
        return b"\0\0" + bounded(study_uid)
    if not issuer:
        return bounded(patient_id) + b"\0"
    joined = bounded(patient_id) + b"\0" + bounded(issuer)
    return joined if len(joined) <= _KEY_BYTES_MAX else b"\x01" + bounded(joined)


def search_prefix(tag: int, normal: bytes) -> bytes:
    """Where the keys of `search` begin whose normal form begins so."""
    return tag.to_bytes(4, "big") + normal[:SEARCH_BYTES_MAX].replace(b"\0", b"\x01")


def search_key(tag: int, normal: bytes, owner: bytes) -> bytes:
    """The key of `search` for a study or series; `owner` is its id in key form."""
    return search_prefix(tag, normal) + b"\0" + owner


def digest_of(*parts: bytes) -> bytes:
    """The digest that stands for these parts, and no others."""
    hashed = blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        hashed.update(len(part).to_bytes(4, "little"))
        hashed.update(part)
    return hashed.digest()
