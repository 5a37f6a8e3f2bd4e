"""What the archive reads and keeps: media, character sets, attributes of queries (PS3.2 Annexes A.5, A.6, A.8)."""

from __future__ import annotations

from collections.abc import Iterator

from engine.dicom import attributes, charset, tags
from engine.dicom.extra import LEVEL_NAMES
from engine.index.format.types import Level
from engine.index.query.plan import COMPUTED, UNIQUE
from engine.reports.document import Section, table
from engine.reports.facts import Facts
from engine.services.query import SERVICE_KEYS

_REQUIRED = frozenset(
    (
        tags.PatientName,
        tags.StudyDate,
        tags.StudyTime,
        tags.AccessionNumber,
        tags.StudyID,
        tags.Modality,
        tags.SeriesNumber,
        tags.InstanceNumber,
    )
)
"""Required keys of PS3.4 Tables C.6-1 to C.6-4."""


def media_interchange() -> Section:
    """Media storage."""
    return Section(
        "Media interchange",
        (
            "`filmroom import` reads File-sets with a DICOMDIR (FSR), `filmroom export` and downloads of the page write"
            " them (FSC), in folders and zip archives. No application profile of PS3.11 is claimed.",
        ),
    )


def character_sets() -> Section:
    """Values of Specific Character Set."""
    return Section(
        "Support of character sets",
        (
            "Read in data sets and identifiers, with code extensions. Matching ignores case, accents and script."
            " Answers are in the set of the identifier where it has all letters, else in ISO_IR 192.",
        ),
        (table("Specific Character Set", [(term,) for term in charset.DEFINED_TERMS]),),
    )


def annexes(facts: Facts) -> Section:
    """Attributes, private elements, coded terminology."""
    extra = [(each.tag, each.level, each.vr, each.creator) for each in facts.config.attributes or ()]
    return Section(
        "Annexes",
        sections=(
            Section(
                "Attributes of queries",
                (
                    "U: unique key, R: required, O: optional; computed: from what is stored. All are matched as PS3.4"
                    " C.2.2 says, and returned. An attribute of a higher level can be asked for at each lower one.",
                ),
                (table("level | attribute | tag | type", _keys()),),
            ),
            Section("Extra attributes of this site", tables=(table("tag | level | VR | creator", extra),)),
            Section("Data dictionary of private attributes", ("No private attribute is made.",)),
            Section("Coded terminology", ("No code is made. Codes in stored instances stay as they are.",)),
            Section("Private SOP classes and transfer syntaxes", ("None is defined.",)),
        ),
    )


def _keys() -> Iterator[tuple[str, str, str, str]]:
    unique = set(UNIQUE.values())
    for name, level_tags in zip(LEVEL_NAMES, attributes.LEVELS, strict=True):
        for tag in sorted(level_tags):
            kind = "U" if tag in unique else "R" if tag in _REQUIRED else "O"
            yield name, tags.keyword_of(tag), _tag(tag), kind
    for tag, level in sorted(COMPUTED.items()):
        yield _level_name(level), tags.keyword_of(tag), _tag(tag), "O, computed"
    for tag in sorted(SERVICE_KEYS):
        yield "all", tags.keyword_of(tag), _tag(tag), "answered by the service"


def _level_name(level: Level) -> str:
    return LEVEL_NAMES[int(level)]


def _tag(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
