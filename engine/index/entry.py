"""One instance, or one deletion, as the index is told about it, and how a record of the log carries it.

The record has position, kind, flags and stamp; its key is the SOP Instance UID; everything else is in its meta block:

    0       1       2       4       6       8       10      12           20              28
    +-------+-------+-------+-------+-------+-------+-------+------------+---------------+
    | ver 1 | zero  | class | t. s. | AE    | set   | zero  | received   | pixel data    |
    +-------+-------+-------+-------+-------+-------+-------+------------+---------------+
    28         32         36         40          44
    +----------+----------+----------+-----------+-- … ------------------------------------------------+
    | patient  | study    | series   | instance  | the eight values end to end, in the order of lengths |
    +----------+----------+----------+-----------+-- … ------------------------------------------------+

class, transfer syntax, calling AE title, Specific Character Set: lengths, u16. received: u64 nanoseconds. pixel data:
i64, offset of the Pixel Data tag in the data set, -1 for none. patient to instance: u32 lengths of the level blobs of
`dicom.elements`, in the data set's own character set. Little endian. The record's checksum covers all of it.
These numbers are on customers' disks: a change is a new version beside this one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from engine.errors import IndexError_
from engine.storage.record import Kind, Position, Record

# The low two bits of a record's flags: what happens when its SOP Instance UID is there already with other bytes.
POLICY_KEEP_FIRST = 0
"""The stored one stays current, the new one is kept aside."""
POLICY_REPLACE = 1
"""The new one becomes current, the stored one is dead."""
POLICY_KEEP_BOTH = 2
"""The new one becomes current, the stored one is kept aside."""
POLICY_MASK = 3

META_VERSION = 1
_META = struct.Struct("<BxHHHHxxQqIIII")
_pack_meta = _META.pack


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
            (version, class_length, syntax_length, title_length, set_length, received_ns, pixel_data_offset,
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
        )


@dataclass(slots=True)
class Tombstone:
    """The deletion of a SOP Instance UID: everything of it with a smaller stamp is dead."""

    position: Position
    stamp: int
    sop_instance_uid: bytes

    @classmethod
    def unpack(cls, record: Record) -> Tombstone:
        """The tombstone that a TOMBSTONE record is."""
        return cls(record.position, record.stamp, record.key)


def unpack_record(record: Record) -> Entry | Tombstone:
    """What a record says, by its kind. Raises IndexError_ when it is of a kind that this engine does not know."""
    if record.kind == Kind.INSTANCE:
        return Entry.unpack(record)
    if record.kind == Kind.TOMBSTONE:
        return Tombstone.unpack(record)
    raise IndexError_(f"{record.position} is a record of kind {record.kind}, which this engine does not know")
