"""The settings of DIMSE services: queries, and the coercion of sent instances."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import AETitle

QueryOption = Literal["relational", "date-time", "fuzzy", "timezone", "empty-values", "multiple-values"]


class Queries(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of C-FIND, and the limit for slow queries in the log."""

    options: tuple[QueryOption, ...] = ()
    """Options of PS3.4 C.5.1.1 that apply to everybody, negotiated or not; a requestor can always negotiate more.
    relational: unique keys of higher levels may be missing, and keys of all levels combined; date-time: a date and its
    time are one range; fuzzy: names match by sound; timezone: times are in the zone of the key Timezone Offset From
    UTC; empty-values: two quotation marks match attributes without a value; multiple-values: each value of a list must
    match. None by default: each option changes the meaning of an identifier, also for requestors without it."""

    slow_s: Annotated[float, Meta(ge=0, le=86400)] = 1.0
    """Seconds after which the log reports a slow C-FIND, with its keys, access and candidates, never with values; 0:
    never. People notice a second; an indexed query takes milliseconds. Time in which the requestor does not read our
    responses is not counted."""


class Coercion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Changes to sent instances: the first rule that names the receiver applies to it.

    The receiver is the destination of a C-MOVE, or the requestor of a C-GET. Without a rule every instance is sent as
    it was received."""

    aets: tuple[AETitle, ...] = ()
    """The receivers; empty: all that no earlier rule names."""

    corrections: bool = True
    """Whether the changes of `filmroom correct`, `merge`, `move` and `split` are written into sent instances."""

    values: tuple[str, ...] = ()
    """More values to write, each KEYWORD=VALUE; KEYWORD= empties the attribute. Not for UIDs, numbers and sequences."""

    remove: tuple[str, ...] = ()
    """Keywords of attributes to remove."""
