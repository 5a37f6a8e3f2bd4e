"""The test of an entity by one key (`Condition`), and the negotiated rules of matching (`Rules`).

`matching` and `date_time` make conditions, `access` finds candidates for them, `walk` tests the candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.dicom.schema import STANDARD, Schema
from engine.index.format.terms import Range
from engine.index.format.types import Query


@dataclass(frozen=True, slots=True)
class Condition:
    """The test of one attribute by one key, or of a date and a time by both their keys."""

    tag: int
    matches: Callable[[bytes], bool]
    """Whether a stored value, not empty, in UTF-8, meets it."""
    ranges: Sequence[Range] | None = None
    """Ranges of `search` that contain all entities that may meet it; None: test every entity."""
    also: Sequence[Sequence[Range]] = ()
    """Further ranges, each of which also contains all entities that may meet it."""
    infix: Sequence[bytes] = ()
    """Every entity that may meet it has one of these pieces in a text (see `texts`); empty: test every entity."""
    uids: Sequence[bytes] = ()
    """For a VR of UI: the values of the key."""
    may_meet: Callable[[bytes], object] | None = None
    """A quick test of a level blob in any character set: false only if the attribute certainly does not meet it."""
    meets_absent: bool = False
    """Whether an absent or empty attribute meets it."""
    together: Callable[[Mapping[int, bytes], bytes], bool] | None = None
    """Replaces `matches`: a test of several attributes and of the time zone of their dates and times."""
    test_count: int = 1
    """The number of tests for one value: the cost of one candidate."""

    def met_by(self, items: Mapping[int, bytes], zone: bytes = b"") -> bool:
        """Whether an entity with these attributes meets it. `zone` is its Timezone Offset From UTC."""
        if self.together is not None:
            return self.together(items, zone)
        value = items.get(self.tag)
        return self.matches(value) if value else self.meets_absent


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of matching, as negotiated (PS3.4 C.5.1.1)."""

    wildcards: bool = True
    """Whether `*` and `?` are wild cards; a retrieval has none."""
    date_time: bool = False
    fuzzy: bool = False
    empty_values: bool = False
    multiple_values: bool = False
    zone: str = ""
    """Timezone Offset From UTC of the dates and times in the keys; "": no adjustment."""
    schema: Schema = STANDARD
    """The schema of the archive."""

    @classmethod
    def of(cls, query: Query, zone: str, schema: Schema, *, wildcards: bool = True) -> Rules:
        """The rules of a query whose keys are in this zone."""
        return cls(
            wildcards=wildcards,
            date_time=query.date_time,
            fuzzy=query.fuzzy,
            empty_values=query.empty_values,
            multiple_values=query.multiple_values,
            zone=zone if query.timezone else "",
            schema=schema,
        )


BASELINE = Rules()
"""The rules without negotiation (PS3.4 C.2.2.2)."""
