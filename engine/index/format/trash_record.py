"""The content of TRASH records: instances are put into the trash, restored from it, or emptied out of it.

    key: the UID of the entity that was put (study or series; the study for single instances); no payload; no flags

    0       1       2       3       4         8         12        16           24        32        40      42      44
    +-------+-------+-------+-------+---------+---------+---------+------------+---------+---------+-------+-------+
    | ver 1 | op    | level | zero  | count n | items   | series  | made ns    | settles | bytes   | by    | reason|
    +-------+-------+-------+-------+---------+---------+---------+------------+---------+---------+-------+-------+
    44
    +-- … ------------------------------------------+
    | n lengths, by, reason, n names, items         |
    +-- … ------------------------------------------+

op: a `TrashOperation`. level: of the deletion, 1 study to 3 instance. names: the Study Instance UID, then SOP Instance
UIDs. Lengths of names, by and reason are u16. items: u32, length of a level blob in UTF-8: what people saw of the
study when it was put. series: u32, the number of series. settles: u64, for RESTORE and EMPTY the stamp of the PUT whose
instances they concern. bytes: u64, of the data sets.

An engine that does not know this kind leaves these records and all instances alone: it shows again what is in the
trash, and loses nothing. Never change this format; add a new version beside it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from engine.errors import IndexError_
from engine.index.format.meta_block import (
    META_VERSION,
    TEXT_BYTES_MAX,
    check_version,
    read_texts,
    too_short,
    unpack_head,
)
from engine.storage.record import META_BYTES_MAX, Position, Record

_TRASH = struct.Struct("<BBBxIIIQQQHH")


class TrashOperation(IntEnum):
    """The operation of a TRASH record."""

    PUT = 1
    """Hides the instances as a tombstone does, and keeps their bytes."""
    EMPTY = 2
    """Ends what a PUT has kept: its instances are deleted for good."""
    RESTORE = 3
    """Brings the instances of a PUT back. It counts also beside an EMPTY, in any order."""


@dataclass(slots=True)
class TrashRecord:
    """One operation on the instances of one study in the trash."""

    position: Position
    stamp: int
    """Orders the records of each SOP Instance UID. The stamp of a PUT names its entry in the trash."""
    operation: int
    """A `TrashOperation`."""
    level: int
    """Of the deleted entity: 1 study, 2 series, 3 instances."""
    uid: bytes
    """Of the deleted entity; for instances that of their study."""
    study_instance_uid: bytes
    sop_instance_uids: tuple[bytes, ...]
    settles: int = 0
    """For RESTORE and EMPTY: the stamp of the PUT."""
    series: int = 0
    """The number of series that the instances belong to."""
    data_bytes: int = 0
    """Length of the data sets."""
    items: bytes = b""
    """A level blob in UTF-8: patient and study, as people saw them."""
    made_ns: int = 0
    by: bytes = b""
    """The person or program that did it, in UTF-8."""
    reason: bytes = b""
    """UTF-8."""

    @property
    def is_put(self) -> bool:
        """Whether it puts instances into the trash."""
        return self.operation == TrashOperation.PUT

    def pack_meta(self) -> bytes:
        """The record's meta block. Raises IndexError_ when it is too large: use several records with one stamp."""
        by = self.by[:TEXT_BYTES_MAX]
        reason = self.reason[:TEXT_BYTES_MAX]
        names = (self.study_instance_uid, *self.sop_instance_uids)
        head = _TRASH.pack(
            META_VERSION,
            self.operation,
            self.level,
            len(names),
            len(self.items),
            self.series,
            self.made_ns,
            self.settles,
            self.data_bytes,
            len(by),
            len(reason),
        )
        lengths = struct.pack(f"<{len(names)}H", *map(len, names))
        meta = b"".join((head, lengths, by, reason, *names, self.items))
        if len(meta) > META_BYTES_MAX:
            raise IndexError_(f"a record of {len(names)} UIDs takes {len(meta)} bytes; the limit is {META_BYTES_MAX}")
        return meta

    @classmethod
    def unpack(cls, record: Record) -> TrashRecord:
        """The content of a TRASH record. Raises IndexError_ when the meta block is of another version."""
        (version, operation, level, count, items_length, series, made_ns, settles, data_bytes, by_length,
         reason_length) = unpack_head(_TRASH, record)  # fmt: skip
        check_version(version, record)
        at = _TRASH.size + 2 * count
        if at > len(record.meta) or not count:
            raise too_short(record)
        lengths = struct.unpack_from(f"<{count}H", record.meta, _TRASH.size)
        by, reason, study_uid, *uids, items = read_texts(record, at, by_length, reason_length, *lengths, items_length)
        return cls(
            record.position,
            record.stamp,
            operation,
            level,
            record.key,
            study_uid,
            tuple(uids),
            settles,
            series,
            data_bytes,
            items,
            made_ns,
            by,
            reason,
        )
