"""Extra attributes: those that a site adds to the index, beside the tables of `attributes`.

An `ExtraSet` is a value, made from the [[attribute]] tables of a configuration or read from an archive. `schema.Schema`
derives from it the levels, VRs and extracted attributes of the archive.

A private attribute has the same tag in the index as in the configuration. In data sets and identifiers it may be in any
block of its group: the one that its private creator element (gggg,00bb) reserves (PS3.5 7.8.1).

    configuration         0019,10A3 with creator "ACME 1.0"         (0019,xxA3 is the same)
    a data set            (0019,0012) ACME 1.0    (0019,12A3) value
    a level blob          (0019,10A3) value

A set has a number, which grows with every change of the archive's configuration: a set that is configured again is a
new one. It has a digest of 8 bytes, and a *mark* of 16 bits made from the digest. Records carry the mark, which shows
whether their attributes were extracted under the archive's present set. Zeros: the archive has never had extra
attributes. One change in 65 535 gives the mark of an earlier set; records stored under that set are then not updated.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from engine.dicom import attributes, tags
from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.config import Attribute

COUNT_MAX: Final = 64
"""Limit for extra attributes: each instance is searched for all of them, and the index stores the values."""
CREATOR_BYTES_MAX: Final = 64
"""The limit of VR LO."""
DIGEST_BYTES: Final = 8
LEVEL_NAMES: Final = ("patient", "study", "series", "instance")

_FORMAT = 1
_BULK_VRS = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN"))
_NUMBER_VRS = frozenset(("AT", "FL", "FD", "SL", "SS", "SV", "UL", "US", "UV"))
_LONG_TEXT_VRS = frozenset(("LT", "ST", "UT", "UR"))
_TEXT_VRS = frozenset(("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "PN", "SH", "TM", "UC", "UI"))
VRS: Final = _NUMBER_VRS | _LONG_TEXT_VRS | _TEXT_VRS | {"SQ"}
"""VRs that an extra attribute may have; the index does not store bulk data."""

_COMPUTED = frozenset(
    (
        tags.NumberOfPatientRelatedStudies,
        tags.NumberOfPatientRelatedSeries,
        tags.NumberOfPatientRelatedInstances,
        tags.NumberOfStudyRelatedSeries,
        tags.NumberOfStudyRelatedInstances,
        tags.NumberOfSeriesRelatedInstances,
        tags.ModalitiesInStudy,
        tags.SOPClassesInStudy,
        tags.AvailableTransferSyntaxUID,
        tags.QueryRetrieveLevel,
        tags.RetrieveAETitle,
        tags.InstanceAvailability,
    )
)
BUILT_IN: Final = {tag: level for level, table in enumerate(attributes.LEVELS) for tag in table}
"""Tag → the level at which every archive keeps it, 0 patient to 3 instance."""


@dataclass(frozen=True, slots=True, order=True)
class Extra:
    """One extra attribute."""

    tag: int
    """In the index."""
    level: int
    vr: str
    creator: str = ""
    """Private creator; "" for an element of the standard."""
    is_searched: bool = False
    """Whether it has search keys of its own."""


@dataclass(frozen=True)
class ExtraSet:
    """The extra attributes of an archive, in ascending order of tags."""

    extras: tuple[Extra, ...] = field(default=())
    number: int = 0
    """0: no archive has adopted this set yet."""

    @cached_property
    def digest(self) -> bytes:
        """Identifies this set."""
        if not self.extras and not self.number:
            return bytes(DIGEST_BYTES)
        return blake2b(repr((_FORMAT, self.number, self.extras)).encode(), digest_size=DIGEST_BYTES).digest()

    @cached_property
    def mark(self) -> int:
        """The 16 bits by which a record names the set under which its attributes were extracted."""
        return (int.from_bytes(self.digest[:2], "little") or 1) if any(self.digest) else 0

    def find_private(self, group: int, creator: str, element: int) -> Extra | None:
        """The extra attribute of a private creator, by the low byte of its element."""
        for extra in self.extras:
            if extra.creator == creator and extra.tag >> 16 == group and extra.tag & 0xFF == element:
                return extra
        return None


NONE: Final = ExtraSet()


def is_built_in(tag: int) -> bool:
    """Whether every archive stores or computes this attribute, with any configuration."""
    return tag in BUILT_IN or tag in _COMPUTED


# from the configuration ------------------------------------------------------------------------------------------


def of(attributes_: Iterable[Attribute]) -> ExtraSet:
    """The set that [[attribute]] tables describe. Raises ConfigError, which names the table and its fault."""
    extras: dict[int, Extra] = {}
    for one in attributes_:
        extra = _extra(one)
        other = extras.get(extra.tag)
        if other is not None:
            if other.creator != extra.creator:
                conflict = f"{other.creator!r} has this tag already"
                raise _error(one, f"{conflict}: write another block, such as {_tag_in_next_block(extra)}")
            raise _error(one, "it is configured twice")
        if extra.creator and any(_same_element(extra, other) for other in extras.values()):
            raise _error(one, "it is configured twice, in another block")
        extras[extra.tag] = extra
    if len(extras) > COUNT_MAX:
        raise ConfigError(f"there are {len(extras)} [[attribute]] tables; the limit is {COUNT_MAX}")
    return ExtraSet(tuple(sorted(extras.values())))


def _same_element(one: Extra, other: Extra) -> bool:
    return one.creator == other.creator and (one.tag ^ other.tag) & 0xFFFF00FF == 0


def _tag_in_next_block(extra: Extra) -> str:
    return tag_text(extra.tag + 0x100 if extra.tag & 0xFF00 != 0xFF00 else extra.tag - 0xEF00)


def tag_text(tag: int) -> str:
    """A tag as the standard writes it, without brackets."""
    return f"{tag >> 16:04X},{tag & 0xFFFF:04X}"


def _error(one: Attribute, fault: str) -> ConfigError:
    return ConfigError(f"[[attribute]] {one.tag!r}: {fault}")


def _extra(one: Attribute) -> Extra:
    tag = _tag(one)
    if tags.is_private(tag):
        _check_private(one, tag)
    elif one.creator:
        raise _error(one, "only private attributes, which have odd groups, have a creator")
    if tag in BUILT_IN:
        raise _error(one, f"every archive has it already, at the {LEVEL_NAMES[BUILT_IN[tag]]} level")
    if tag in _COMPUTED:
        raise _error(one, "it is computed for answers, not stored in instances; queries return it anyway")
    if tag < 0x00080000 or not tag & 0xFFFF or tag == tags.SpecificCharacterSet or tag >> 16 >= 0x7FE0:
        raise _error(one, "it cannot be indexed: it describes the data set itself, or comes after its head")
    vr = _vr(one, tag)
    level = LEVEL_NAMES.index(one.level)
    if one.indexed and (vr not in _TEXT_VRS or level == 3):
        where = "at the instance level" if level == 3 else f"of VR {vr}"
        raise _error(one, f"an attribute {where} cannot be indexed; without indexed = true it can still be matched")
    return Extra(tag, level, vr, one.creator.strip(), one.indexed)


def _tag(one: Attribute) -> int:
    text = one.tag.strip()
    numbers = re.fullmatch(r"\(?([0-9A-Fa-f]{4}),\s*([0-9A-Fa-f]{4}|[xX]{2}[0-9A-Fa-f]{2})\)?", text)
    if numbers:
        return int(numbers[1], 16) << 16 | int(re.sub("[xX]{2}", "10", numbers[2]), 16)
    tag = tags.tag_of(text) if re.fullmatch(r"[A-Z]\w*", text) and not re.fullmatch(r"[0-9A-F]{8}", text) else None
    if tag is not None:
        return tag
    words = [name for name, value in vars(tags).items() if isinstance(value, int) and name[:1].isupper()]
    near = difflib.get_close_matches(text, words, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise _error(one, f"it is neither a keyword of PS3.6 nor a tag like 0032,000A{hint}")


def _check_private(one: Attribute, tag: int) -> None:
    creator = one.creator.strip()
    if not creator:
        raise _error(one, "its group is odd, so it is private: the creator is missing")
    if len(creator) > CREATOR_BYTES_MAX or not (creator.isascii() and creator.isprintable()) or "\\" in creator:
        raise _error(one, f"{creator!r} is not a private creator: 1 to 64 ASCII characters without a backslash")
    if tag & 0xFFFF < 0x1000:
        raise _error(one, "private elements begin at gggg,1000; blocks are 10 to FF (PS3.5 7.8.1)")


def _vr(one: Attribute, tag: int) -> str:
    listed = tags.dictionary_vr(tag)
    if listed == "UN":
        if not one.vr:
            raise _error(one, "the dictionary has no VR for it: vr is missing")
        vr = one.vr
    else:
        vr = tags.vr_of(tag)
        if one.vr and one.vr != vr:
            raise _error(one, f"its VR is {vr}, not {one.vr}; leave vr out")
    if vr in _BULK_VRS:
        raise _error(one, f"values of VR {vr} cannot be indexed")
    if vr not in VRS:
        near = difflib.get_close_matches(vr.upper(), sorted(VRS), n=1, cutoff=0.5)
        raise _error(one, f"{vr!r} is not a VR" + (f"; did you mean {near[0]!r}?" if near else ""))
    return vr
