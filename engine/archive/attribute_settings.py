"""The [[attribute]] tables: attributes that the index keeps in addition to its own."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

AttributeLevel = Literal["patient", "study", "series", "instance"]


class Attribute(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An attribute that the index keeps in addition to those of PS3.4 C.6.

    Takes effect when a server starts, or with `filmroom reindex`; stored instances are then read again in the
    background. 64 at most."""

    tag: str
    """A keyword of PS3.6, or gggg,eeee. Give a private attribute in any block of its group: 0019,10A3 or 0019,xxA3.
    Queries that name no creator use the same form."""

    level: AttributeLevel
    """The level that it belongs to. There is no default, since a wrong level gives wrong matches: for a study, the
    first instance that has a value decides."""

    creator: str = ""
    """The private creator (gggg,00bb), word for word; required for an odd group."""

    vr: str = ""
    """Its value representation; required if the dictionary does not have it, as for private attributes. Bulk data (OB,
    OW, UN, …) are not kept; of a text, the first kilobyte is."""

    indexed: bool = False
    """Whether it gets search keys, so that a query need not look at every study: some 40 bytes a study or series. Not
    for numbers, long texts, sequences and the instance level. Without keys it is still kept, returned and matched."""
