"""Random questions about a random archive (`query_world`): an identifier, and the flags of extended negotiation.

Every kind of matching, at each level of each model; some keys that match what is there, and some that do not.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.oracle.key_matching import BINARY, CREATOR, Question, tag_of, vr_of_tag
from tests.oracle.matcher import COMPUTED, LEVELS, NAMES, PATIENT, STUDY, UNIQUE
from tests.oracle.query_world import (
    CLASSES,
    EXTRA_LEVELS,
    NAMES_OF,
    PRIVATE,
    ROOT,
    SEQUENCES,
    ZONES,
    Content,
    World,
    encoded,
    read,
)


@dataclass
class Asked:
    """A question as it goes to the archive, and as the judge gets it."""

    level: int
    root: str
    identifier: bytes
    flags: dict[str, bool]
    content: Content
    character_set: str

    def question(self) -> Question:
        """For the judge."""
        return Question(self.level, read(self.identifier), **self.flags)

    def __str__(self) -> str:
        flags = [name for name, is_set in self.flags.items() if is_set]
        keys = {f"{tag:08X}": value for tag, value in self.content.items() if value}
        universal = " ".join(f"{tag:08X}" for tag, value in self.content.items() if not value)
        return f"{NAMES[self.level]} of {self.root} {keys} in {self.character_set!r} {flags}; also {universal}"


ASKED = [
    [tag for tag in LEVELS[level] if any(tag == tag_of(word) for word in words.split())]
    for level, words in enumerate(
        (
            "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex OtherPatientIDs"
            " OtherPatientNames OtherPatientIDsSequence PatientComments",
            "StudyDate StudyTime AccessionNumber ReferringPhysicianName StudyDescription StudyID PatientAge"
            " PatientWeight NameOfPhysiciansReadingStudy ProcedureCodeSequence StudyInstanceUID TimezoneOffsetFromUTC",
            "SeriesDate SeriesTime Modality SeriesNumber SeriesDescription BodyPartExamined InstitutionName StationName"
            " OperatorsName PerformedProcedureStepStartDate PerformedProcedureStepStartTime SeriesInstanceUID"
            " RequestAttributesSequence",
            "InstanceNumber SOPInstanceUID SOPClassUID ImageType ContentDate ContentTime ContentLabel"
            " ContentDescription NumberOfFrames Rows",
        )
    )
]
for _several in ASKED:
    _several.sort()
EXTRAS = [sorted(EXTRA_LEVELS[level] - LEVELS[level]) for level in range(4)]


def _folded_name(rng: random.Random, value: str) -> str:
    return rng.choice(
        [value.upper(), value.lower(), value.replace("ü", "u").replace("ö", "o").replace("ř", "r"), value + "^"]
    )


def _wildcarded(rng: random.Random, value: str) -> str:
    at = rng.randrange(len(value) + 1)
    return rng.choice(
        [
            value[:at] + "*",
            "*" + value[at:],
            "*" + value[at : at + 3] + "*",
            value[:at] + "?" + value[at + 1 :],
            value[:at] + "?" + value[at:],
            value[:-1],
            value[:at] + "*" + value[min(at + 2, len(value)) :],
            "?*",
            "*",
        ]
    )


SPELLINGS = [("ü", "ue"), ("ö", "oe"), ("th", "t"), ("ph", "f"), ("ei", "ai"), ("ey", "ai"), ("y", "i"), ("dt", "tt")]
SPELLINGS += [("ck", "k"), ("ch", "k"), ("ll", "l"), ("l", "ll"), ("n", "nn"), ("k", "c"), ("s", "z"), ("z", "s")]


def _word_of(rng: random.Random, value: str) -> str:
    """Words of a name in another order, a beginning of one, or one spelt otherwise."""
    words = value.replace("^", " ").replace("=", " ").split() or [value]
    word = rng.choice(words)
    other = rng.choice([word.replace(*pair) for pair in SPELLINGS if pair[0] in word] or [word.upper()])
    return rng.choice(
        [
            word,
            other,
            other.upper(),
            f"{other} {rng.choice(words)}",
            word[:3] + "*",
            " ".join(reversed(words)),
            word + "^nobody",
        ]
    )


def _range(rng: random.Random, value: str, others: Sequence[str]) -> str:
    low, high = sorted((value, rng.choice(others)))
    return rng.choice([f"{low}-{high}", f"{low}-", f"-{high}", f"{value}-{value}", f"{low} - {high}", low])


def twisted(rng: random.Random, tag: int, value: Any, *, fuzzy: bool = False) -> Any:
    """A key that may or may not match this value."""
    vr, kind = vr_of_tag(tag), rng.random()
    if vr == "SQ":
        return _sequence_key(rng, tag, value or [])
    if vr in BINARY:
        return value or 16
    value = str(value)
    if kind < 0.04:
        return '""'
    if kind < 0.25 or not value:
        return value
    if vr == "UI":
        return value if kind < 0.6 else f"{value}\\{ROOT}.{rng.randrange(9)}\\1.2.3"
    if vr == "DT":
        return rng.choice(
            [value, "2024", "20240115-", "-20240229", "202401-202402", "20240115081530+0100", "2023-2024"]
        )
    if vr in ("DA", "TM"):
        if not value.replace(".", "").replace(":", "").isdigit():
            return value
        return _range(rng, value, ["20240201", "20230101"] if vr == "DA" else ["07", "0900", "081530.1"])
    if vr in ("IS", "DS"):
        return rng.choice([value, "1", "01", "2", "70", "1\\2"])
    if vr in ("AS",):
        return value
    several = value.split("\\")
    one = rng.choice(several)
    if vr == "PN" and fuzzy:
        return _word_of(rng, one)
    if vr == "PN" and kind < 0.5:
        group = rng.choice(one.split("="))
        later = "=" + "=".join(one.split("=")[1:])
        return rng.choice([_folded_name(rng, one), group, later if later.strip("=") else one, _wildcarded(rng, group)])
    return rng.choice([_wildcarded(rng, one), one + "  ", one.lower(), one.upper(), f"{one}\\nothing", value])


def _sequence_key(rng: random.Random, tag: int, items: Sequence[Content]) -> list[dict[int, Any]]:
    kinds = SEQUENCES[tag]
    if rng.random() < 0.15:
        return rng.choice([[], [{}]])
    example = dict(rng.choice(items)) if items else {}
    asked: dict[int, Any] = {}
    for keyword, values in kinds.items():
        nested = tag_of(keyword)
        chance = rng.random()
        if chance < 0.35:
            asked[nested] = twisted(rng, nested, example.get(nested) or rng.choice(values))
        elif chance < 0.6:
            asked[nested] = ""
    return [asked]


def _same(tag: int, other: int) -> bool:
    """Whether an element of a data set is the one asked for, our private one being in any block."""
    return tag == other or (tag == PRIVATE == other & 0xFFFF00FF | 0x1000 and other not in (0x00091201,))


def question(rng: random.Random, archive: World) -> Asked:
    """A random question about a world."""
    level, relational = rng.randrange(4), rng.random() < 0.5
    flags = {"relational": relational}
    for name in ("date_time", "fuzzy", "timezone", "empty_values", "multiple_values"):
        flags[name] = rng.random() < 0.25
    example = rng.choice(archive.contents)
    possible = [tag for of in range(4 if relational else level + 1) for tag in ASKED[of]]
    if archive.has_extras:
        # Twice, so that they are asked for often.
        possible += [tag for of in range(4 if relational else level + 1) for tag in EXTRAS[of]] * 2
    keys: dict[int, Any] = {tag: [] if vr_of_tag(tag) == "SQ" else "" for tag in possible if rng.random() < 0.3}
    # Few, so that what one of them gets wrong is not hidden by another; most of them names.
    names = [tag for tag in possible if vr_of_tag(tag) == "PN"]
    for _ in range(rng.choice((0, 1, 1, 1, 1, 2, 2, 3))):
        tag = rng.choice(names if rng.random() < 0.3 else possible)
        value = next((value for other, value in example.items() if _same(tag, other)), "")
        keys[tag] = twisted(rng, tag, value, fuzzy=flags["fuzzy"])
    if flags["date_time"] and rng.random() < 0.4:
        keys |= {tag_of("StudyDate"): "20240101-20240301", tag_of("StudyTime"): rng.choice(["0815-1000", "08-", "-12"])}
    zone = tag_of("TimezoneOffsetFromUTC")
    keys.pop(zone, None)
    if flags["timezone"]:
        keys[zone] = rng.choice(ZONES)
    elif rng.random() < 0.1:
        keys[zone] = rng.choice(["", *ZONES])
    for tag, of in sorted(COMPUTED.items()):
        if of <= level and rng.random() < 0.2:
            keys[tag] = ""
    if level >= STUDY and rng.random() < 0.08:
        keys[tag_of("ModalitiesInStudy")] = rng.choice(["CT", "MR\\US", "C*", "XA", "*", "CT\\MR"])
    if level >= STUDY and rng.random() < 0.05:
        keys[tag_of("SOPClassesInStudy")] = rng.choice(CLASSES)
    root = rng.choice(["PATIENT", "STUDY"] if level >= STUDY else ["PATIENT"])
    if level <= STUDY and rng.random() < 0.1:
        root = "PATIENT_STUDY_ONLY"
    if not relational:
        for of in range(STUDY if root == "STUDY" else PATIENT, level):
            keys[UNIQUE[of]] = str(example.get(UNIQUE[of], "")) or "none"
    # Without these nobody can tell what an answer is about.
    for tag in (*UNIQUE[: level + 1], *([tag_of("IssuerOfPatientID")] if level == PATIENT else [])):
        keys.setdefault(tag, "")
    wanted = rng.choice(["ISO_IR 192", rng.choice(list(NAMES_OF)), "ISO_IR 100"])
    if PRIVATE in keys and rng.random() < 0.6:
        block = rng.choice((0x10, 0x11, 0x77))
        keys = {0x00090000 | block: CREATOR, 0x00090001 | block << 8: keys.pop(PRIVATE), **keys}
    for character_set in (wanted, "ISO_IR 192"):
        data = encoded(keys, character_set)
        if data is not None:
            return Asked(level, root, data, flags, keys, character_set)
    raise AssertionError(f"pydicom cannot encode {keys}")
