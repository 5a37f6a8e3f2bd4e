"""The [[attribute]] tables: what the index keeps beside what it always keeps."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

AttributeLevel = Literal["patient", "study", "series", "instance"]


class Attribute(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One more attribute that the index keeps, beside those of PS3.4 C.6 that it always keeps.

    Taken over when a server starts, or by `filmroom reindex`; what is stored already is then looked through again in
    the background. 64 at most."""

    tag: str
    """A keyword of PS3.6, or gggg,eeee. A private one in any block of its group: 0019,10A3 or 0019,xxA3; that is what
    it is called in queries too that name no creator."""

    level: AttributeLevel
    """The level that it is an attribute of. There is no default, since one at the wrong level is found wrongly: of a
    study the first instance that has a value decides."""

    creator: str = ""
    """The private creator (gggg,00bb), word for word; needed for an odd group."""

    vr: str = ""
    """Its value representation; needed where no dictionary has it, so for private ones. Bulk data (OB, OW, UN, …) are
    not kept, and of a text the first kilobyte."""

    indexed: bool = False
    """Whether it gets keys by which it is found without looking at every study: some 40 bytes a study or series. Not
    for numbers, long texts, sequences and the instance level. Without it, it is kept, returned and matched."""
