"""The parameters and results of the index, beside `entry.Entry`: levels, queries, matches, places, marks.

Only construction and plain access, so that every module of this layer may import it.
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
        """The level that (0008,0052) names, also in lower case, which some peers send. Raises QueryError."""
        name = text.decode("ascii", "replace") if isinstance(text, bytes) else text
        try:
            return cls[name.strip(" \0").upper()]
        except KeyError:
            raise QueryError(
                f"(0008,0052) {name[:9]!r}: not PATIENT, STUDY, SERIES or IMAGE", tags.QueryRetrieveLevel
            ) from None


class Root(Enum):
    """The information models of PS3.4 C.3, with the levels that each has."""

    PATIENT = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.IMAGE)
    STUDY = (Level.STUDY, Level.SERIES, Level.IMAGE)
    PATIENT_STUDY_ONLY = (Level.PATIENT, Level.STUDY)
    """Retired, but peers still use it."""


class Outcome(IntEnum):
    """The outcome of storing an instance."""

    STORED = 0
    """It is the current instance of its SOP Instance UID, and the first."""
    DUPLICATE = 1
    """The same bytes are stored already."""
    KEPT_ASIDE = 2
    """Another instance stays current; this one is a kept version."""
    REPLACED = 3
    """It replaced another one as the current instance, or a later one has replaced it."""
    TRUNCATED = 4
    """It is the current instance, and its data set ends early, which this sender may do."""

    def of_cut(self) -> Outcome:
        """The outcome if the data set of the instance ends early."""
        return self if self is Outcome.KEPT_ASIDE else Outcome.TRUNCATED


@dataclass(frozen=True, slots=True)
class SegmentMark:
    """How much of a segment has been applied to the index, and how much of it is alive."""

    indexed_bytes: int
    """Every record that begins below this offset has been applied."""
    sealed: bool
    """The segment is sealed and all of it has been applied: a replay need not open it."""
    live_count: int = 0
    """Current instances, kept versions, quarantined records, and the hold that counts of each study."""
    live_bytes: int = 0
    """The bytes of these and of tombstones; padding and headers included."""
    dead_bytes: int = 0
    """The bytes of duplicates, replaced and deleted instances, which a compaction would free."""


@dataclass(frozen=True, slots=True)
class DamageRow:
    """A damaged place in the log, which a scrub or a reader has found."""

    segment_id: int
    offset: int
    sop_instance_uid: bytes
    """Empty if unknown."""
    what: str
    found_ns: int


@dataclass(slots=True)
class Instance:
    """The position of one instance, and the attributes that a retrieval needs before reading it."""

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
    """The character set of `attributes`."""


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
        """The identifiers of an instance."""
        return cls(
            instance.sop_instance_uid.encode(),
            instance.series_instance_uid,
            instance.study_instance_uid,
            instance.stamp,
            instance.position.payload_length,
        )


@dataclass(frozen=True, slots=True)
class Query:
    """A query at one level. `keys` are those of the identifier, without level and character set."""

    level: Level
    keys: Mapping[int, KeyValue]
    root: Root = Root.STUDY
    character_set: bytes = b""
    """Specific Character Set of the keys; b"" is ASCII."""
    limit: int | None = None
    """Limit for the number of matches."""
    offset: int = 0
    """Matches to skip at the start; the order is stable while nothing is stored or deleted."""
    count_max: int = 0
    """How many matches after the last one returned to count (`Explanation.beyond`)."""
    relational: bool = False
    """Keys of any level may be combined, and the unique keys above the level may be missing (PS3.4 C.4.1.2.2.2)."""
    date_time: bool = False
    """A date range and its time range are one range of moments (PS3.4 C.2.2.2.5)."""
    fuzzy: bool = False
    """Person names match by sound, with their words in any order (PS3.4 C.2.2.2.1.1)."""
    timezone: bool = False
    """Dates and times of the keys are in the zone of the key Timezone Offset From UTC (PS3.4 C.4.1.2.2.4)."""
    empty_values: bool = False
    """Two quotation marks match an attribute without a value (PS3.4 C.2.2.2.7)."""
    multiple_values: bool = False
    """If a key other than a UID has several values, each must match some stored value (PS3.4 C.2.2.2.8)."""
    is_keyed: bool = False
    """Whether each match has its place (ids, for `after`) in Record Key (0008,041B). See `epoch_id`."""
    after: bytes = b""
    """Return only matches after this Record Key of the same level."""


@dataclass(slots=True)
class Match:
    """One entity that a query found."""

    level: Level
    attributes: dict[int, bytes] = field(default_factory=dict)
    """The requested keys that the index has or computes, in ascending order of tags: text in UTF-8, numbers in little
    endian, a sequence as its items in Explicit VR Little Endian; b"" without a value."""
    unsupported: bool = False
    """The index lacks some requested key (status FF01)."""
    schema: Schema = field(default=STANDARD, repr=False, compare=False)
    """The schema of its archive."""

    def __getitem__(self, name: str) -> Any:
        """The value of an attribute by its keyword, as a plain Python value. Raises KeyError if it is not a key."""
        tag = keywords.tag_of(name)
        if tag is None or tag not in self.attributes:
            raise KeyError(name)
        return plain_values.value_of(tag, self.attributes[tag], self.schema.vr_of)

    def values(self, tag: int) -> tuple[str, ...]:
        """The values of an attribute that is text; none if it has none, or is not a key."""
        text = self.attributes.get(tag, b"").decode("utf-8", "replace")
        return tuple(value for part in text.split("\\") if (value := part.strip(" \0")))

    def to_dict(self) -> dict[str, Any]:
        """Keyword → value, in the order of tags."""
        vr_of = self.schema.vr_of
        return {
            tags.keyword_of(tag): plain_values.value_of(tag, value, vr_of) for tag, value in self.attributes.items()
        }


class ArrivalFact(Enum):
    """What is no attribute of a study, and studies can be ordered by: the value of the name in lower case."""

    SIZE = "size"
    """Bytes of all data sets."""
    SENDER = "sender"
    """Who sent the first instance of the first series."""
    INSTITUTION = "institution"
    """Of the first series that names one."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of studies."""

    tag: int | None
    """An attribute of patient or study; None: `fact`, or the order of arrival."""
    is_descending: bool = False
    fact: ArrivalFact | None = None

    @property
    def is_arrival(self) -> bool:
        """Whether it is the order of arrival."""
        return self.tag is None and self.fact is None

    @property
    def name(self) -> str:
        """What it orders by, in words."""
        if self.tag is not None:
            return tags.keyword_of(self.tag)
        return self.fact.value if self.fact else "arrival"


@dataclass(frozen=True, slots=True)
class Bookmark:
    """A place in an ordered list of studies; the list continues after it."""

    key: bytes
    """The search key of the study's value; b"" if it has none."""
    number: int
    """The id of the study; 0: before all studies with this value, or in descending order after them."""


@dataclass(frozen=True, slots=True)
class PlacedMatch:
    """A match, and its place in the list."""

    match: Match
    place: Bookmark


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds the write turn."""

    pid: int
    """0: it is in another PID namespace."""
    foreign_pid: int
    """Its process id in its own namespace."""
    held_s: float
    command: str

    def __str__(self) -> str:
        process = f"pid {self.pid}" if self.pid else f"pid {self.foreign_pid} of another PID namespace (a container)"
        return f"{process} ({self.command}), for {self.held_s:.0f} s"

    def as_dict(self) -> dict[str, object]:
        """The same for statistics and the log."""
        process = {"pid": self.pid} if self.pid else {"pid_elsewhere": self.foreign_pid}
        return {**process, "command": self.command, "held_s": round(self.held_s, 1)}


_IDENTITY: Final = struct.Struct("<QQI")
IDENTITY_BYTES: Final = _IDENTITY.size
"""The identity of one instance: the stamp, length and checksum of its record."""


@dataclass(frozen=True, slots=True)
class SeriesRevision:
    """The state of one series at one time."""

    study_instance_uid: str
    series_instance_uid: str
    identities: bytes
    """IDENTITY_BYTES for each instance, in ascending order."""
    corrections: bytes
    """A digest of the attributes that corrections set in study and series; b"" if there are none."""

    @property
    def count(self) -> int:
        """The number of instances."""
        return len(self.identities) // IDENTITY_BYTES


def identity_of(stamp: int, payload_length: int, payload_crc: int) -> bytes:
    """The identity of one instance in a `SeriesRevision`."""
    return _IDENTITY.pack(stamp, payload_length, payload_crc)
