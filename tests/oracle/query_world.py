"""Random archives, as bytes: what a hospital stores, and what nobody should.

A world is a list of data sets in the order in which they are stored, in Explicit VR Little Endian, in many character
sets, with padding, empty and missing values, odd dates, lower case, sequences and private elements. Everything follows
from a seed. Text is encoded by pydicom, and only where pydicom reads it back as it was. Questions: `query_question`.
"""

from __future__ import annotations

import random
import re
import struct
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from pydicom import dcmread
from pydicom.charset import convert_encodings, decode_bytes, encode_string
from pydicom.dataset import Dataset
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName

from tests.oracle.key_matching import BINARY, CREATOR, LEFT_BY_PYDICOM, ONE_VALUE, TEXT, tag_of, vr_of_tag
from tests.oracle.matcher import IMAGE, LEVELS, SERIES, STUDY, UNIQUE

ROOT = "1.2.826.0.1.3680043.10.1599.98"
CLASSES = ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.88.11"]
LONG = {"OB", "OW", "SQ", "UC", "UN", "UR", "UT"}

Content = Mapping[int, Any]
"""Tag → text, number, or a list of such contents: an item each."""

NAMES_OF = {
    "": [
        "Doe^John^Q",
        "doe^jane",
        "Smith",
        "Smithson^Al^^Dr.",
        "O'Neil^Ann Marie",
        "Mueller^Hans",
        "MULLER^JORG",
        "Meyer^Anna",
        "Maier^Ana",
        "Schmidt^Erich",
        "Schmitt^Erik^Otto",
    ],
    "ISO_IR 100": ["Müller^Jörg", "MÜLLER^JÖRG^^Dr.", "Strauß^Renée", "Åström^Märta", "Núñez^José  María"],
    "ISO_IR 101": ["Dvořák^Jiří", "Łukasik^Żaneta", "Erdős^Pál"],
    "ISO_IR 148": ["İnönü^Işık", "Yıldız^Gül"],
    "ISO_IR 144": ["Люкceмбypг", "Иванов^Пётр", "ЁЛКИН^СЕМЁН"],
    "ISO_IR 126": ["Διονυσιος", "Παπαδόπουλος^Νίκος"],
    "ISO_IR 127": ["قباني^لنزار"],
    "ISO_IR 138": ["שרון^דבורה"],
    "ISO_IR 166": ["นามสกุล^ชื่อ"],
    "\\ISO 2022 IR 87": ["Yamada^Tarou=山田^太郎=やまだ^たろう", "Suzuki^Ichiro=鈴木^一郎"],
    "ISO 2022 IR 13\\ISO 2022 IR 87": ["ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"],
    "\\ISO 2022 IR 149": ["Hong^Gildong=洪^吉洞=홍^길동", "Kim^Chulsoo=金^喆洙=김^철수"],
    "\\ISO 2022 IR 58": ["Zhang^XiaoDong=张^小东=", "Wang^Wu=王^五"],
    "GB18030": ["Wang^XiaoDong=王^小东=", "㐂^𠮷"],
    "GBK": ["Li^Na=李^娜", "誠^實"],
}
TEXTS = ["CT Thorax", "ct thorax", "MR Kopf", "a*b", "x" * 64, "50 %", " ct  thorax"]
TEXTS_OF = {
    "ISO_IR 100": ["Schädel nativ", "Übersicht"],
    "ISO_IR 144": ["Обзор", "обзор"],
    "ISO_IR 126": ["Κρανίο"],
    "\\ISO 2022 IR 87": ["頭部 CT"],
    "\\ISO 2022 IR 149": ["두부 CT"],
    "GB18030": ["腹部单纯", "腹部"],
}
DATES = ["20240229", "20240301", "20231231", "20240115", "2024.01.15", "19991231"]
ODD_DATES = ["2024", "unbekannt", "00000000", "20241399", "2024-1-5"]
TIMES = ["08", "0815", "081530", "081530.25", "08:15:30", "235959.999999", "000000", "1200"]
ODD_TIMES = ["2500", "8:15", "midday"]
ZONES = ["+0100", "-0500", "+0000", "+0530"]


@dataclass
class World:
    """What is stored, in order."""

    data_sets: list[bytes] = field(default_factory=list)
    contents: list[dict[int, Any]] = field(default_factory=list)
    character_sets: list[str] = field(default_factory=list)
    has_extras: bool = False
    """Whether extra attributes are configured."""


# bytes -----------------------------------------------------------------------------------------------


def read(data: bytes) -> Dataset:
    """A data set in Explicit VR Little Endian, as pydicom reads it."""
    return dcmread(BytesIO(data), force=True)


def text_bytes(vr: str, text: str, character_set: str) -> bytes | None:
    """Text in a character set as pydicom encodes it; None if it cannot."""
    if vr not in TEXT:
        return text.encode("ascii", "replace")
    if text.isascii():
        return text.encode("ascii")
    if not character_set:
        return None
    encodings = convert_encodings(character_set.split("\\"))
    parts = [text] if vr in ONE_VALUE else text.split("\\")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            if vr == "PN":
                # It leaves out the delimiters of empty groups at the end.
                bare = [(part.rstrip("="), len(part) - len(part.rstrip("="))) for part in parts]
                encoded = b"\\".join(PersonName(part, encodings).encode() + b"=" * count for part, count in bare)
            else:
                encoded = b"\\".join(encode_string(part, encodings) for part in parts)
            back = decode_bytes(encoded, encodings, TEXT_VR_DELIMS).replace(LEFT_BY_PYDICOM, "")
        except (UserWarning, ValueError, UnicodeError):
            return None
    if character_set.startswith("\\") and any(_has_no_escape(piece) for piece in re.split(rb"[\\^=]", encoded)):
        return None  # pydicom takes an empty first value for Latin-1: it is ASCII
    return encoded if back == text else None


def _has_no_escape(piece: bytes) -> bool:
    return not piece.isascii() and b"\x1b" not in piece


def encoded(
    content: Content, character_set: str, rng: random.Random | None = None, *, declared: bool = True
) -> bytes | None:
    """A data set; with `rng` with the padding that happens. None if the character set cannot carry it."""
    whole = dict(content)
    if character_set and declared:
        whole[tag_of("SpecificCharacterSet")] = character_set
    parts = []
    for tag in sorted(whole):
        vr, value = "LO" if tag >> 16 & 1 else vr_of_tag(tag), whole[tag]
        if vr == "SQ":
            # An item inherits the set of the data set around it.
            items = [encoded(item, character_set, declared=False) for item in value]
            if None in items:
                return None
            data = b"".join(struct.pack("<HHI", 0xFFFE, 0xE000, len(item)) + item for item in items if item is not None)
        elif vr in BINARY:
            data = b"" if value == "" else struct.pack("<H", int(value))
        else:
            bare = text_bytes(vr, str(value), character_set)
            if bare is None:
                return None
            data = _padded(vr, bare, rng if tag != tag_of("SpecificCharacterSet") else None)
        parts.append(_header(tag, vr, len(data)) + data)
    return b"".join(parts)


def _header(tag: int, vr: str, length: int) -> bytes:
    start = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return start + (struct.pack("<xxI", length) if vr in LONG else struct.pack("<H", length))


def _padded(vr: str, value: bytes, rng: random.Random | None) -> bytes:
    pad = b"\0" if vr == "UI" else b" "
    if rng is not None and value and vr not in ("DA", "TM"):
        kind = rng.random()
        if kind < 0.05:
            value += pad * rng.randrange(1, 5)
        elif kind < 0.08:
            pad = b"\0"
            value += b"\0\0"
        elif kind < 0.11 and vr in ("LO", "SH", "CS", "IS"):
            value = b" " + value
    return value + pad * (len(value) % 2)


# worlds ----------------------------------------------------------------------------------------------


@dataclass
class Words:
    """What the people of one world are called, and what they write."""

    rng: random.Random
    character_sets: list[str]
    names: list[str]
    texts: list[str]

    @classmethod
    def of(cls, rng: random.Random) -> Words:
        """Those of one or two scripts, and plain ones."""
        sets = rng.sample(list(NAMES_OF), rng.choice((1, 1, 2)))
        names = [name for character_set in sets for name in NAMES_OF[character_set]]
        texts = [text for character_set in sets for text in TEXTS_OF.get(character_set, [])]
        plain = rng.sample(NAMES_OF[""], 4)
        return cls(rng, [*sets, "ISO_IR 192"], [*names, *(name for name in plain if name not in names)], texts + TEXTS)

    def text(self) -> str:
        """A text, or none."""
        return self.rng.choice(["", *self.texts])

    def several(self) -> str:
        """Two names."""
        return "\\".join(self.rng.sample(self.names, 2))


def _date(rng: random.Random) -> str:
    return rng.choice(DATES) if rng.random() < 0.9 else rng.choice(["", *ODD_DATES])


def _time(rng: random.Random) -> str:
    return rng.choice(TIMES) if rng.random() < 0.9 else rng.choice(["", *ODD_TIMES])


def _some(rng: random.Random, content: dict[str, Any]) -> dict[int, Any]:
    """Some of these attributes; some of them empty."""
    return {
        tag_of(keyword): "" if rng.random() < 0.08 and not isinstance(value, list) else value
        for keyword, value in content.items()
        if rng.random() < 0.88
    }


def _items(rng: random.Random, kinds: Mapping[str, Sequence[str]], words: Words) -> list[dict[int, str]]:
    """Up to three items; where there is a description it may be in the script of the world."""
    items = []
    for _ in range(rng.randrange(4)):
        item = {tag_of(keyword): rng.choice(values) for keyword, values in kinds.items() if rng.random() < 0.85}
        for keyword in ("ScheduledProcedureStepDescription", "CodeMeaning"):
            if tag_of(keyword) in item and rng.random() < 0.3:
                item[tag_of(keyword)] = words.text()
        items.append(item)
    return items


REQUEST = {
    "ScheduledProcedureStepDescription": ["Kopf", "kopf", "Thorax p.a.", ""],
    "ScheduledProcedureStepID": ["S1", "S2", "S3"],
    "RequestedProcedureID": ["R1", "R2", "r1", "R10"],
}
OTHER_IDS = {
    "PatientID": ["X1", "X2", "Y*"],
    "IssuerOfPatientID": ["A", "B", ""],
    "TypeOfPatientID": ["TEXT", "RFID"],
}
CODES = {
    "CodeValue": ["T-D1100", "P5-09051", "T-D1"],
    "CodingSchemeDesignator": ["SRT", "99LOCAL"],
    "CodeMeaning": ["Head", "head", "Headache"],
}
PRIVATE = 0x00091001
EXTRA_LEVELS = tuple(
    LEVELS[level] | frozenset(tags)
    for level, tags in enumerate(
        (
            [tag_of("PatientMotherBirthName")],
            [tag_of("AdmissionID")],
            [tag_of("InstitutionAddress"), tag_of("AnatomicRegionSequence"), PRIVATE],
            [tag_of("AcquisitionDateTime")],
        )
    )
)
"""What is known where extra attributes are configured."""
DATE_TIMES = ["20240115081530", "20240115", "202401150815+0100", "20240229120000.5-0500", "2024", "20240115 0815", ""]
SEQUENCES = {
    tag_of("AnatomicRegionSequence"): CODES,
    tag_of("RequestAttributesSequence"): REQUEST,
    tag_of("OtherPatientIDsSequence"): OTHER_IDS,
    tag_of("ProcedureCodeSequence"): CODES,
}


def _patient(rng: random.Random, number: int, words: Words) -> dict[int, Any]:
    content = _some(
        rng,
        {
            "PatientName": words.names[number % len(words.names)],
            "PatientID": rng.choice([f"P{number}", f"P{number}", f"p{number}", f"P{number // 2}"]),
            "PatientBirthDate": _date(rng),
            "PatientBirthTime": _time(rng),
            "PatientSex": rng.choice(["M", "F", "O", "f"]),
            "OtherPatientIDs": rng.choice(["Z1", "Z1\\Z2", "z2"]),
            "OtherPatientNames": rng.choice([*words.names, words.several()]),
            "OtherPatientIDsSequence": _items(rng, OTHER_IDS, words),
            "PatientComments": words.text(),
            "PatientMotherBirthName": rng.choice(words.names),
        },
    )
    if rng.random() < 0.2:
        content[tag_of("IssuerOfPatientID")] = rng.choice(["A", "B"])
    return content


def _study(rng: random.Random, study: int, words: Words) -> dict[int, Any]:
    content = _some(
        rng,
        {
            "StudyDate": _date(rng),
            "StudyTime": _time(rng),
            "AccessionNumber": rng.choice([f"A{study}", f"a{study}", "A1"]),
            "ReferringPhysicianName": rng.choice(words.names),
            "StudyDescription": words.text(),
            "StudyID": f"S{rng.randrange(9)}",
            "AdmissionID": rng.choice([f"V{study}", "V1", "v1"]),
            "NameOfPhysiciansReadingStudy": words.several(),
            "PatientAge": rng.choice(["042Y", "003M"]),
            "PatientWeight": rng.choice(["70", "70.0", "7.25"]),
            "ProcedureCodeSequence": _items(rng, CODES, words),
        },
    )
    if rng.random() < 0.3:
        content[tag_of("TimezoneOffsetFromUTC")] = rng.choice(ZONES)
    return content | {UNIQUE[STUDY]: f"{ROOT}.{study}"}


def _series(rng: random.Random, study: int, series: int, words: Words) -> dict[int, Any]:
    content = _some(
        rng,
        {
            "SeriesDate": _date(rng),
            "SeriesTime": _time(rng),
            "Modality": rng.choice(["CT", "MR", "US", "SR", "DX", "ct"]),
            "SeriesNumber": rng.choice([str(series), f"0{series}", f"+{series}", "x7"]),
            "SeriesDescription": words.text(),
            "BodyPartExamined": rng.choice(["CHEST", "HEAD", "head"]),
            "InstitutionName": words.text(),
            "InstitutionAddress": rng.choice([words.text(), "a\\b"]),
            "AnatomicRegionSequence": _items(rng, CODES, words),
            "StationName": rng.choice(["CT1", "CT10", "MR?1"]),
            "OperatorsName": words.several(),
            "PerformedProcedureStepStartDate": _date(rng),
            "PerformedProcedureStepStartTime": _time(rng),
            "RequestAttributesSequence": _items(rng, REQUEST, words),
        },
    )
    return content | {UNIQUE[SERIES]: f"{ROOT}.{study}.{series}"}


def _instance(rng: random.Random, study: int, series: int, instance: int, words: Words) -> dict[int, Any]:
    content = _some(
        rng,
        {
            "InstanceNumber": rng.choice([str(instance), f"0{instance}"]),
            "ImageType": rng.choice(["ORIGINAL\\PRIMARY", "DERIVED\\SECONDARY\\MIP", "ORIGINAL\\PRIMARY\\AXIAL"]),
            "ContentDate": _date(rng),
            "ContentTime": _time(rng),
            "ContentLabel": rng.choice(["LABEL", "label"]),
            "ContentDescription": words.text(),
            "AcquisitionDateTime": rng.choice(DATE_TIMES),
            "NumberOfFrames": rng.choice(["1", "12"]),
            "Rows": rng.choice([16, 512]),
        },
    )
    if rng.random() < 0.5:
        block = rng.choice((0x10, 0x11, 0xE0))
        content |= {
            0x00090000 | block: CREATOR,
            0x00090001 | block << 8: rng.choice(["private", "PRIVATE", words.text()]),
        }
    if rng.random() < 0.2:
        content |= {0x00090012: "SOMEBODY ELSE", 0x00091201: "theirs"}
    return content | {UNIQUE[IMAGE]: f"{ROOT}.{study}.{series}.{instance}"}


def world(rng: random.Random) -> World:
    """A random archive of some ten studies."""
    made: list[tuple[dict[int, Any], str]] = []
    studies = rng.choice((2, 6, 10, 10, 10, 150 if rng.random() < 0.3 else 4))
    words = Words.of(rng)
    for study in range(1, studies + 1):
        patient = _patient(rng, rng.randrange(max(studies // 2, 1)), words)
        of_study = patient | _study(rng, study, words)
        for series in range(rng.randrange(1, 3)):
            of_series = of_study | _series(rng, study, series, words)
            sop_class, character_set = rng.choice(CLASSES), rng.choice(words.character_sets)
            for instance in range(rng.randrange(1, 4)):
                content = of_series | _instance(rng, study, series, instance, words)
                content[tag_of("SOPClassUID")] = sop_class
                if rng.random() < 0.15:
                    content = _differing(rng, content, words)
                made.append((content, character_set))
    if rng.random() < 0.5:
        rng.shuffle(made)
    filled = World(has_extras=rng.random() < 0.4)
    for content, wanted in made:
        for character_set in (wanted, "ISO_IR 100", "ISO_IR 192"):
            data = encoded(content, character_set, rng)
            if data is not None:
                filled.data_sets.append(data)
                filled.contents.append(content)
                filled.character_sets.append(character_set)
                break
    return filled


def _differing(rng: random.Random, content: dict[int, Any], words: Words) -> dict[int, Any]:
    """An instance that contradicts the others of its study."""
    keyword = rng.choice(["PatientName", "StudyDescription", "SeriesDescription", "StudyDate", "PatientSex"])
    value = {"PatientName": rng.choice(words.names), "StudyDate": _date(rng), "PatientSex": rng.choice(["M", ""])}
    return content | {tag_of(keyword): value.get(keyword, words.text())}
