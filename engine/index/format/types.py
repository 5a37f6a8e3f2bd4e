"""The values that go into the index and come out of it, beside `entry.Entry`: levels, queries, matches, places, marks.

Holds no behaviour beyond construction and plain access, so that every module of this layer may import it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Final, NamedTuple, TypeAlias

from engine.dicom import keywords, plain_values, tags
from engine.dicom.identifier import Identifier
from engine.dicom.schema import STANDARD, Schema
from engine.errors import QueryError
from engine.storage.record import Position

KeyValue: TypeAlias = "bytes | Sequence[Identifier | Mapping[int, KeyValue]]"
"""A key of an identifier: the value's bytes in the identifier's character set, or a sequence's items."""


class Level(IntEnum):
    """Query/Retrieve levels from the root down (PS3.4 C.6.1.1)."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3

    @classmethod
    def of(cls, text: bytes | str) -> Level:
        """The level that (0008,0052) names, also in lower case, as some ask. Raises QueryError."""
        name = text.decode("ascii", "replace") if isinstance(text, bytes) else text
        try:
            return cls[name.strip(" \0").upper()]
        except KeyError:
            raise QueryError(
                f"(0008,0052) {name[:9]!r} is none of PATIENT, STUDY, SERIES, IMAGE", tags.QueryRetrieveLevel
            ) from None


class Root(Enum):
    """The information models of PS3.4 C.3, with the levels that each has."""

    PATIENT = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.IMAGE)
    STUDY = (Level.STUDY, Level.SERIES, Level.IMAGE)
    PATIENT_STUDY_ONLY = (Level.PATIENT, Level.STUDY)
    """Retired, still asked for."""


class Outcome(IntEnum):
    """The outcome of storing an instance."""

    STORED = 0
    """It is the current one of its SOP Instance UID, and the first."""
    DUPLICATE = 1
    """The same bytes are there already."""
    KEPT_ASIDE = 2
    """Another one stays current; this one is among the versions."""
    REPLACED = 3
    """It took another one's place as the current one, or was itself replaced by a later one."""
    TRUNCATED = 4
    """It is the current one, and its data set ends early, which its sender may do."""

    def of_cut(self) -> Outcome:
        """The same of an instance whose data set ends early."""
        return self if self is Outcome.KEPT_ASIDE else Outcome.TRUNCATED


@dataclass(frozen=True, slots=True)
class SegmentMark:
    """How far a segment has been applied to the index, and how much of it is alive."""

    indexed_bytes: int
    """Every record that begins below this offset has been applied."""
    sealed: bool
    """The segment is sealed and all of it has been applied: a replay need not open it."""
    live_count: int = 0
    """Current instances, kept versions, quarantined records, and the hold that counts of each study."""
    live_bytes: int = 0
    """Theirs, and those of tombstones; padding and headers included."""
    dead_bytes: int = 0
    """Of duplicates, replaced and deleted instances: what a compaction would win."""


@dataclass(frozen=True, slots=True)
class DamageRow:
    """A place in the log that is not as it was written, as a scrub or a reader found it."""

    segment_id: int
    offset: int
    sop_instance_uid: bytes
    """Empty if nobody knows."""
    what: str
    found_ns: int


@dataclass(slots=True)
class Instance:
    """Where one instance lies, and its attributes that a retrieval needs before reading it."""

    position: Position
    stamp: int
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    pixel_data_offset: int
    """-1 if the data set has no Pixel Data."""
    calling_ae_title: str
    received_ns: int
    attributes: bytes
    """The instance level's blob."""
    character_set: bytes
    """Of `attributes`."""


class InstanceIdentifiers(NamedTuple):
    """The identifiers of one instance, for a deletion."""

    sop_instance_uid: bytes
    series_instance_uid: str
    study_instance_uid: str
    stamp: int
    payload_length: int
    """Bytes."""

    @classmethod
    def of(cls, instance: Instance) -> InstanceIdentifiers:
        """The same of an instance."""
        return cls(
            instance.sop_instance_uid.encode(),
            instance.series_instance_uid,
            instance.study_instance_uid,
            instance.stamp,
            instance.position.payload_length,
        )


@dataclass(frozen=True, slots=True)
class Query:
    """A question at one level. `keys` are the identifier's, without level and character set."""

    level: Level
    keys: Mapping[int, KeyValue]
    root: Root = Root.STUDY
    character_set: bytes = b""
    """Specific Character Set of the keys; b"" is ASCII."""
    limit: int | None = None
    """Matches to give at most."""
    offset: int = 0
    """Matches to leave out at the start; the order is stable while nothing is stored or deleted."""
    count_max: int = 0
    """How many matches after the last one returned to count (`Explanation.beyond`)."""
    relational: bool = False
    """Keys of any level may be combined, and the unique keys above the level may be missing (PS3.4 C.4.1.2.2.2)."""
    date_time: bool = False
    """A date and its time, each a range, are one range of moments (PS3.4 C.2.2.2.5)."""
    fuzzy: bool = False
    """Person names match by sound, whatever the order of their words (PS3.4 C.2.2.2.1.1)."""
    timezone: bool = False
    """Dates and times asked for are in the zone of the key Timezone Offset From UTC (PS3.4 C.4.1.2.2.4)."""
    empty_values: bool = False
    """Two quotation marks ask for an attribute without a value (PS3.4 C.2.2.2.7)."""
    multiple_values: bool = False
    """Several values of a key that is no UID: each of them must match some stored value (PS3.4 C.2.2.2.8)."""
    is_keyed: bool = False
    """Whether each match has its place (ids, for `after`) in Record Key (0008,041B). See `epoch_id`."""
    after: bytes = b""
    """Only what stands behind this Record Key, of the same level."""


@dataclass(slots=True)
class Match:
    """One entity that a query found."""

    level: Level
    attributes: dict[int, bytes] = field(default_factory=dict)
    """The requested keys that the index knows, computed ones included, in ascending order of tags: text in UTF-8,
    numbers in little endian, a sequence as its items in Explicit VR Little Endian; b"" where there is no value."""
    unsupported: bool = False
    """Some requested key is not known here (status FF01)."""
    schema: Schema = field(default=STANDARD, repr=False, compare=False)
    """Of the archive that it is from."""

    def __getitem__(self, name: str) -> Any:
        """The value of an attribute by its keyword, as Python has it. Raises KeyError when it was not asked for."""
        tag = keywords.tag_of(name)
        if tag is None or tag not in self.attributes:
            raise KeyError(name)
        return plain_values.value_of(tag, self.attributes[tag], self.schema.vr_of)

    def to_dict(self) -> dict[str, Any]:
        """Keyword → value, in the order of tags."""
        vr_of = self.schema.vr_of
        return {
            tags.keyword_of(tag): plain_values.value_of(tag, value, vr_of) for tag, value in self.attributes.items()
        }


@dataclass(frozen=True, slots=True)
class Order:
    """The order of studies."""

    tag: int | None
    """An attribute of patient or study; None: their arrival."""
    is_descending: bool = False


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A place in an ordered list of studies; the list continues after it."""

    key: bytes
    """Of its value; b"" where it has none."""
    number: int
    """Its id; 0: before all of that value, or in descending order behind all of it."""


@dataclass(frozen=True, slots=True)
class PlacedMatch:
    """A match, and where it stands."""

    match: Match
    place: Bookmark


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds the write turn."""

    pid: int
    """0: of another PID namespace, where a process id means something else."""
    foreign_pid: int
    """Its process id in its own namespace."""
    held_s: float
    command: str

    def __str__(self) -> str:
        who = f"pid {self.pid}" if self.pid else f"pid {self.foreign_pid} of another PID namespace (a container)"
        return f"{who} ({self.command}), for {self.held_s:.0f} s"

    def as_dict(self) -> dict[str, object]:
        """For statistics and the log."""
        where = {"pid": self.pid} if self.pid else {"pid_elsewhere": self.foreign_pid}
        return {**where, "command": self.command, "held_s": round(self.held_s, 1)}


_IDENTITY: Final = struct.Struct("<QQI")
IDENTITY_BYTES: Final = _IDENTITY.size
"""Of one instance: the stamp, length and checksum of its record."""


@dataclass(frozen=True, slots=True)
class SeriesRevision:
    """The state of one series at one time."""

    study_instance_uid: str
    series_instance_uid: str
    identities: bytes
    """IDENTITY_BYTES for each instance, in ascending order."""
    corrections: bytes
    """Stands for what corrections set of study and series; b"" if that is nothing."""

    @property
    def count(self) -> int:
        """Instances."""
        return len(self.identities) // IDENTITY_BYTES


def identity_of(stamp: int, payload_length: int, payload_crc: int) -> bytes:
    """The identity of one instance in a `SeriesRevision`."""
    return _IDENTITY.pack(stamp, payload_length, payload_crc)
