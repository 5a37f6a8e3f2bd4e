"""The test that one key makes of an entity (`Condition`), and the negotiated rules of matching (`Rules`).

`matching` and `date_time` make conditions, `access` finds where they may be met, `walk` tests candidates with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from engine.dicom.schema import STANDARD, Schema
from engine.index.format.terms import Range
from engine.index.format.types import Query


@dataclass(frozen=True, slots=True)
class Condition:
    """The test that one key makes of one attribute, or a date and its time of both."""

    tag: int
    matches: Callable[[bytes], bool]
    """Whether a stored value, not empty, in UTF-8, meets it."""
    ranges: Sequence[Range] | None = None
    """The ranges of `search` with all entities that may meet it; None: look at everything."""
    also: Sequence[Sequence[Range]] = ()
    """Further ranges, each of which also has all entities that may meet it."""
    infix: Sequence[bytes] = ()
    """Every entity that may meet it has one of these pieces in a text (see `texts`); none: look at everything."""
    uids: Sequence[bytes] = ()
    """For a VR of UI: the values asked for."""
    may_meet: Callable[[bytes], object] | None = None
    """A quick look at a level blob, in any character set: false only if the attribute surely does not meet it."""
    meets_absent: bool = False
    """Whether an attribute that is absent or empty meets it."""
    together: Callable[[Mapping[int, bytes], bytes], bool] | None = None
    """In place of `matches`: a test of several attributes, and of the zone in which their dates and times are."""
    test_count: int = 1
    """How many tests a value may go through: the cost of one candidate."""

    def met_by(self, items: Mapping[int, bytes], zone: bytes = b"") -> bool:
        """Whether an entity with these attributes meets it; `zone` is its Timezone Offset From UTC."""
        if self.together is not None:
            return self.together(items, zone)
        value = items.get(self.tag)
        return self.matches(value) if value else self.meets_absent


@dataclass(frozen=True, slots=True)
class Rules:
    """How keys are matched, as negotiated (PS3.4 C.5.1.1)."""

    wildcards: bool = True
    """Whether `*` and `?` are wild cards; a retrieval has none."""
    date_time: bool = False
    fuzzy: bool = False
    empty_values: bool = False
    multiple_values: bool = False
    zone: str = ""
    """Timezone Offset From UTC of the dates and times asked for; "" leaves all of them as they are."""
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
