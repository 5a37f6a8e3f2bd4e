"""The settings of DIMSE services: queries, and what is changed on the way out."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.setting import AETitle

QueryOption = Literal["relational", "date-time", "fuzzy", "timezone", "empty-values", "multiple-values"]


class Queries(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a C-FIND may ask beyond the baseline, and which ones the log tells of."""

    options: tuple[QueryOption, ...] = ()
    """Options of PS3.4 C.5.1.1 that hold for everybody, negotiated or not; what a requestor negotiates it gets anyway.
    relational: unique keys of the levels above may be missing and keys of all levels be combined; date-time: a date
    and its time are one range; fuzzy: names match by sound; timezone: times are in the zone of the key Timezone Offset
    From UTC; empty-values: two quotation marks ask for what has no value; multiple-values: each value of a list
    must match. None by default: each changes what an identifier means, and who did not ask means the other thing."""

    slow_s: Annotated[float, Meta(ge=0, le=86400)] = 1.0
    """Seconds after which the log says of a C-FIND that it was slow, and by which keys, access and candidates: never
    by which values; 0: of none. A second is what people notice; an indexed query takes milliseconds. Time in which the
    asker does not read our answers is not counted."""


class Coercion(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How what is sent differs from what is stored: the first rule that names the receiver holds for it.

    Receiver is the destination of a C-MOVE, or who asks by C-GET. Without a rule everything is sent as it came."""

    aets: tuple[AETitle, ...] = ()
    """The receivers; empty: all that no rule before this one names."""

    corrections: bool = True
    """Whether what `filmroom correct`, `merge`, `move` and `split` have set is written into what is sent."""

    values: tuple[str, ...] = ()
    """More values to write, each KEYWORD=VALUE; KEYWORD= leaves the attribute without a value. Not for UIDs, numbers
    and sequences."""

    remove: tuple[str, ...] = ()
    """Keywords of attributes to leave out."""
