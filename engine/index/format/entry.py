"""The content of log records: one class for each kind, and its format in the record.

A record has position, kind, flags and stamp. Everything else is in its key and its meta block, so that a rebuild from
hints never reads a payload. Little endian. The record's checksum covers all of it. These formats are on customers'
disks: never change one; add a new version beside it.

INSTANCE (`Entry`): key: SOP Instance UID; payload: the data set; flags: policy (2 bits) and HEAL

    0       1       2       4       6       8       10      12           20              28
    +-------+-------+-------+-------+-------+-------+-------+------------+---------------+
    | ver 1 | zero  | class | t. s. | AE    | set   | mark  | received   | pixel data    |
    +-------+-------+-------+-------+-------+-------+-------+------------+---------------+
    28         32         36         40          44
    +----------+----------+----------+-----------+-- … ------------------------------------------------+
    | patient  | study    | series   | instance  | the eight values end to end, in the order of lengths |
    +----------+----------+----------+-----------+-- … ------------------------------------------------+

class, transfer syntax, calling AE title, Specific Character Set: lengths, u16. mark: u16, of the set of extra
attributes (`dicom.extra`) under which the blobs were extracted, 0 for none. received: u64 nanoseconds. pixel data: i64,
offset of the Pixel Data tag in the data set, -1 for none. patient to instance: u32 lengths of the level blobs of
`dicom.elements`, in the data set's own character set.

TOMBSTONE: key: the UID of the deleted entity; no payload; no flags

    0       1       2       4         8              16           24      26      28
    +-------+-------+-------+---------+--------------+------------+-------+-------+-- … --------------------------+
    | ver 1 | level | zero  | count n | target stamp | deleted ns | by    | reason| n lengths, by, reason, n UIDs |
    +-------+-------+-------+---------+--------------+------------+-------+-------+-- … --------------------------+

level: 0 patient to 3 instance. The UIDs are SOP Instance UIDs. Lengths are u16; by and reason are UTF-8.

HOLD: key: Study Instance UID; no payload; no flags

    0       1         2       4            12      14      16
    +-------+---------+-------+------------+-------+-------+-- … --+-- … --+
    | ver 1 | set 0/1 | zero  | set ns     | by    | reason| by    | reason|
    +-------+---------+-------+------------+-------+-------+-- … --+-- … --+

QUARANTINED: key: SOP Instance UID as claimed, "-" if there is none; payload: the data set as received; no flags

    0       1       2       4       6       8            16      18      20
    +-------+-------+-------+-------+-------+------------+-------+-------+-- … ---------------------------+
    | ver 1 | zero  | class | t. s. | AE    | received   | reason| zero  | class, t. s., AE title, reason |
    +-------+-------+-------+-------+-------+------------+-------+-------+-- … ---------------------------+

CORRECTION: key: the first of its names, "-" for an UNDO; no payload; no flags

    0       1       2       3       4         8         12           20        28      30      32
    +-------+-------+-------+-------+---------+---------+------------+---------+-------+-------+-- … -----------------+
    | ver 1 | op    | level | zero  | count n | items   | made ns    | undoes  | by    | reason| n lengths, by, reason|
    +-------+-------+-------+-------+---------+---------+------------+---------+-------+-------+-- … -----------------+
    | n names, items |
    +----------------+

TRASH: see `trash_record`.

op: an `Operation`. level: the kind of names. 0: Patient ID and issuer of one patient; 1: Study Instance UIDs; 2: Study
and Series Instance UID of one series. items: u32, length of the attributes to set, a level blob in UTF-8 (for a move or
a merge: the new patient). undoes: u64, the stamp of the correction that an UNDO cancels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, pairwise
from typing import TypeAlias

from engine.errors import IndexError_
from engine.index.format.meta_block import (
    META_VERSION,
    TEXT_BYTES_MAX,
    check_version,
    read_texts,
    too_short,
    unpack_head,
)
from engine.index.format.trash_record import TrashRecord
from engine.storage.record import META_BYTES_MAX, Kind, Position, Record

TOMBSTONE_KEEP_S = 30 * 86_400
"""How long a tombstone stays after the records that it killed are gone: a replica that was offline, or a segment that
someone restores by hand, must not revive deleted instances."""

# The low two bits of a record's flags: the policy if its SOP Instance UID is stored already with other bytes.
POLICY_KEEP_FIRST = 0
"""The stored instance stays current, the new one becomes a kept version."""
POLICY_REPLACE = 1
"""The new instance becomes current, the stored one is dead."""
POLICY_KEEP_BOTH = 2
"""The new instance becomes current, the stored one becomes a kept version."""
POLICY_MASK = 3
HEAL = 4
"""Flag of a record that replaces one with the same bytes, which can no longer be read."""

NO_UID = b"-"
"""The key of a quarantined record that claims no SOP Instance UID."""

_META = struct.Struct("<BxHHHHHQqIIII")
_pack_meta = _META.pack
_TOMBSTONE = struct.Struct("<BBxxIQQHH")
_CORRECTION = struct.Struct("<BBBxIIQQHH")
_HOLD = struct.Struct("<BBxxQHH")
_QUARANTINED = struct.Struct("<BxHHHQHxx")


@dataclass(slots=True)
class Entry:
    """One stored instance."""

    position: Position
    flags: int
    stamp: int
    """Orders the records of one SOP Instance UID."""
    sop_class_uid: bytes
    sop_instance_uid: bytes
    transfer_syntax_uid: bytes
    calling_ae_title: bytes
    received_ns: int
    pixel_data_offset: int
    character_set: bytes
    """Specific Character Set of the blobs."""
    patient: bytes
    study: bytes
    series: bytes
    instance: bytes
    mark: int = 0
    """Of the set of extra attributes under which the blobs were extracted."""

    def pack_meta(self) -> bytes:
        """The record's meta block."""
        sop_class_uid = self.sop_class_uid
        transfer_syntax_uid = self.transfer_syntax_uid
        calling_ae_title = self.calling_ae_title
        character_set = self.character_set
        patient = self.patient
        study = self.study
        series = self.series
        instance = self.instance
        return b"".join(
            (
                _pack_meta(
                    META_VERSION,
                    len(sop_class_uid),
                    len(transfer_syntax_uid),
                    len(calling_ae_title),
                    len(character_set),
                    self.mark,
                    self.received_ns,
                    self.pixel_data_offset,
                    len(patient),
                    len(study),
                    len(series),
                    len(instance),
                ),
                sop_class_uid,
                transfer_syntax_uid,
                calling_ae_title,
                character_set,
                patient,
                study,
                series,
                instance,
            )
        )

    @classmethod
    def unpack(cls, record: Record) -> Entry:
        """The entry of an INSTANCE record. Raises IndexError_ when the meta block is of another version."""
        return cls.unpack_meta(record.position, record.flags, record.stamp, record.key, record.meta)

    @classmethod
    def unpack_meta(cls, position: Position, flags: int, stamp: int, key: bytes, meta: bytes) -> Entry:
        """The same from the parts of a record."""
        try:
            (version, class_length, syntax_length, title_length, set_length, mark, received_ns, pixel_data_offset,
             patient_length, study_length, series_length, instance_length) = _META.unpack_from(meta)  # fmt: skip
        except struct.error as error:
            raise IndexError_(f"the meta block of {position} is too short") from error
        if version != META_VERSION:
            raise IndexError_(f"the meta block of {position} has version {version}; this engine reads {META_VERSION}")
        syntax_at = _META.size + class_length
        title_at = syntax_at + syntax_length
        set_at = title_at + title_length
        patient_at = set_at + set_length
        study_at = patient_at + patient_length
        series_at = study_at + study_length
        instance_at = series_at + series_length
        end = instance_at + instance_length
        if end > len(meta):
            raise IndexError_(f"the meta block of {position} has {len(meta)} bytes and should have {end}")
        return cls(
            position,
            flags,
            stamp,
            meta[_META.size : syntax_at],
            key,
            meta[syntax_at:title_at],
            meta[title_at:set_at],
            received_ns,
            pixel_data_offset,
            meta[set_at:patient_at],
            meta[patient_at:study_at],
            meta[study_at:series_at],
            meta[series_at:instance_at],
            meta[instance_at:end],
            mark,
        )


@dataclass(slots=True)
class Tombstone:
    """The deletion of SOP Instance UIDs: it kills every record of these with a smaller stamp.

    With a `target_stamp` it kills only the record of the UID with exactly this stamp: a kept version, or a quarantined
    record.
    """

    position: Position
    stamp: int
    level: int
    """Of the deleted entity: 0 patient, 1 study, 2 series, 3 instance."""
    uid: bytes
    """Its UID; for a patient its key in the index."""
    sop_instance_uids: tuple[bytes, ...]
    target_stamp: int = 0
    deleted_ns: int = 0
    by: bytes = b""
    """The person or program that deleted it, in UTF-8."""
    reason: bytes = b""
    """UTF-8."""

    def pack_meta(self) -> bytes:
        """The record's meta block. Raises IndexError_ when it is too large: use several tombstones with one stamp."""
        uids = self.sop_instance_uids
        by = self.by[:TEXT_BYTES_MAX]
        reason = self.reason[:TEXT_BYTES_MAX]
        lengths = struct.pack(f"<{len(uids)}H", *map(len, uids))
        head = _TOMBSTONE.pack(
            META_VERSION, self.level, len(uids), self.target_stamp, self.deleted_ns, len(by), len(reason)
        )
        meta = b"".join((head, lengths, by, reason, *uids))
        if len(meta) > META_BYTES_MAX:
            raise IndexError_(f"a tombstone of {len(uids)} UIDs takes {len(meta)} bytes; the limit is {META_BYTES_MAX}")
        return meta

    @classmethod
    def unpack(cls, record: Record) -> Tombstone:
        """The tombstone of a TOMBSTONE record. Raises IndexError_ when the meta block is of another version."""
        meta = record.meta
        version, level, count, target_stamp, deleted_ns, by_length, reason_length = unpack_head(_TOMBSTONE, record)
        check_version(version, record)
        at = _TOMBSTONE.size + 2 * count
        if at > len(meta):
            raise too_short(record)
        lengths = struct.unpack_from(f"<{count}H", meta, _TOMBSTONE.size)
        if at + by_length + reason_length + sum(lengths) > len(meta):
            raise too_short(record)
        by = meta[at : at + by_length]
        reason = meta[at + by_length : at + by_length + reason_length]
        ends = list(accumulate(lengths, initial=at + by_length + reason_length))
        uids = tuple([meta[start:end] for start, end in pairwise(ends)])
        return cls(record.position, record.stamp, level, record.key, uids, target_stamp, deleted_ns, by, reason)


@dataclass(slots=True)
class Hold:
    """Sets or releases the legal hold of a study: of several the one with the latest stamp counts."""

    position: Position
    stamp: int
    study_instance_uid: bytes
    is_set: bool
    set_ns: int
    by: bytes
    """The person or program that set or released it, in UTF-8."""
    reason: bytes
    """UTF-8."""

    def pack_meta(self) -> bytes:
        """The record's meta block."""
        by = self.by[:TEXT_BYTES_MAX]
        reason = self.reason[:TEXT_BYTES_MAX]
        return _HOLD.pack(META_VERSION, self.is_set, self.set_ns, len(by), len(reason)) + by + reason

    @classmethod
    def unpack(cls, record: Record) -> Hold:
        """The hold of a HOLD record. Raises IndexError_ when the meta block is of another version."""
        version, is_set, set_ns, by_length, reason_length = unpack_head(_HOLD, record)
        check_version(version, record)
        by, reason = read_texts(record, _HOLD.size, by_length, reason_length)
        return cls(record.position, record.stamp, record.key, bool(is_set), set_ns, by, reason)


@dataclass(slots=True)
class Quarantined:
    """A received data set that could not be stored as an instance."""

    position: Position
    stamp: int
    sop_instance_uid: bytes
    """As claimed; `NO_UID` if there is none."""
    sop_class_uid: bytes
    transfer_syntax_uid: bytes
    calling_ae_title: bytes
    received_ns: int
    reason: bytes
    """UTF-8."""

    def pack_meta(self) -> bytes:
        """The record's meta block."""
        reason = self.reason[:TEXT_BYTES_MAX]
        texts = (self.sop_class_uid, self.transfer_syntax_uid, self.calling_ae_title, reason)
        class_length, syntax_length, title_length, reason_length = map(len, texts)
        head = _QUARANTINED.pack(
            META_VERSION, class_length, syntax_length, title_length, self.received_ns, reason_length
        )
        return head + b"".join(texts)

    @classmethod
    def unpack(cls, record: Record) -> Quarantined:
        """The content of a QUARANTINED record. Raises IndexError_ when the meta block is of another version."""
        version, class_length, syntax_length, title_length, received_ns, reason_length = unpack_head(
            _QUARANTINED, record
        )
        check_version(version, record)
        sop_class_uid, syntax, title, reason = read_texts(
            record, _QUARANTINED.size, class_length, syntax_length, title_length, reason_length
        )
        return cls(record.position, record.stamp, record.key, sop_class_uid, syntax, title, received_ns, reason)


class Operation(IntEnum):
    """The operation of a correction."""

    CORRECT = 1
    """Sets attributes of the entity that it names: a patient with all studies, a study, or a series."""
    MERGE = 2
    """Gives the studies of the patient that it names to another patient, future ones too."""
    MOVE = 3
    """Gives the studies that it names to another patient."""
    UNDO = 4
    """Cancels another correction."""


@dataclass(slots=True)
class Correction:
    """Changes the attributes that users see of a patient, study or series; the bytes of its instances do not change."""

    position: Position
    stamp: int
    """Its unique number; the later correction counts."""
    operation: int
    """An `Operation`."""
    level: int
    """Of the entities that it names: 0 patient, 1 study, 2 series."""
    names: tuple[bytes, ...]
    items: bytes = b""
    """A level blob in UTF-8; an empty value removes the value of an attribute."""
    undoes: int = 0
    made_ns: int = 0
    by: bytes = b""
    """The person or program that made it, in UTF-8."""
    reason: bytes = b""
    """UTF-8."""

    @property
    def key(self) -> bytes:
        """The record's key."""
        return (self.names[0] if self.names else b"") or NO_UID

    def pack_meta(self) -> bytes:
        """The record's meta block. Raises IndexError_ when it is too large."""
        by = self.by[:TEXT_BYTES_MAX]
        reason = self.reason[:TEXT_BYTES_MAX]
        names = self.names
        head = _CORRECTION.pack(
            META_VERSION,
            self.operation,
            self.level,
            len(names),
            len(self.items),
            self.made_ns,
            self.undoes,
            len(by),
            len(reason),
        )
        lengths = struct.pack(f"<{len(names)}H", *map(len, names))
        meta = b"".join((head, lengths, by, reason, *names, self.items))
        if len(meta) > META_BYTES_MAX:
            raise IndexError_(f"a correction takes {len(meta)} bytes; the limit is {META_BYTES_MAX}")
        return meta

    @classmethod
    def unpack(cls, record: Record) -> Correction:
        """The correction of a CORRECTION record. Raises IndexError_ when the meta block is of another version."""
        version, operation, level, count, items_length, made_ns, undoes, by_length, reason_length = unpack_head(
            _CORRECTION, record
        )
        check_version(version, record)
        at = _CORRECTION.size + 2 * count
        if at > len(record.meta):
            raise too_short(record)
        lengths = struct.unpack_from(f"<{count}H", record.meta, _CORRECTION.size)
        by, reason, *names, items = read_texts(record, at, by_length, reason_length, *lengths, items_length)
        return cls(record.position, record.stamp, operation, level, tuple(names), items, undoes, made_ns, by, reason)


LedgerItem: TypeAlias = Tombstone | Hold | Correction | TrashRecord
"""The kinds of records in the ledger."""
Item: TypeAlias = Entry | Quarantined | LedgerItem


def unpack_record(record: Record) -> Item:
    """The content of a record, by its kind. Raises IndexError_ for a kind that this engine does not know."""
    if record.kind == Kind.INSTANCE:
        return Entry.unpack(record)
    if record.kind == Kind.TOMBSTONE:
        return Tombstone.unpack(record)
    if record.kind == Kind.HOLD:
        return Hold.unpack(record)
    if record.kind == Kind.QUARANTINED:
        return Quarantined.unpack(record)
    if record.kind == Kind.CORRECTION:
        return Correction.unpack(record)
    if record.kind == Kind.TRASH:
        return TrashRecord.unpack(record)
    raise IndexError_(f"{record.position} is a record of kind {record.kind}, which this engine does not know")
