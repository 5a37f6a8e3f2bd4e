"""Queries at every level against the slow matcher of tests/index/oracle.py, paging, retrieval, what is refused."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.dicom import tags
from engine.dicom.identifier import Identifier, encode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import QueryError
from engine.index import access
from engine.index import search as searching
from engine.index import walk as walking
from engine.index.entry import Entry
from engine.index.search import search
from engine.index.tables import Index
from engine.index.types import Level, Query, Root
from tests.index import oracle
from tests.index.made import ROOT, Tail, blob, entry, tombstone
from tests.index.oracle import Made

NAMES = [
    "Müller^Jörg",
    "MULLER^JORG^^Dr.",
    "Mueller^Hans",
    "Doe^John^Q",
    "Doe^Jane",
    "O'Neil^Ann Marie",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "Hong^Gildong=洪^吉洞",
    "Smith",
    "Smithson^Al",
    "",
]
MODALITIES = ["CT", "MR", "US", "SR", "DX"]
CLASSES = ["1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4", "1.2.840.10008.5.1.4.1.1.88.11"]
DESCRIPTIONS = ["CT Thorax", "ct thorax", "MR Kopf", "Schädel", "a*b", "", "x" * 64]


def random_archive(rng: random.Random, studies: int) -> list[Made]:
    """Instances in the order in which they are stored."""
    made = []
    for study in range(studies):
        number = rng.randrange(max(studies // 2, 1))
        patient = {
            tags.PatientName: NAMES[number % len(NAMES)],
            tags.PatientID: rng.choice(["", f"P{number}", f"P{number}", f"P{number}"]),
            tags.PatientBirthDate: f"19{10 + number % 80}0{1 + number % 9}1{number % 9}",
            tags.PatientSex: rng.choice("MFO"),
        }
        if rng.random() < 0.2:
            patient[tags.IssuerOfPatientID] = rng.choice(["A", "B"])
        above = patient | {
            tags.StudyInstanceUID: f"{ROOT}.{study}",
            tags.StudyDate: f"2024{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}" if rng.random() < 0.9 else "",
            tags.StudyTime: rng.choice(["08", "0815", "081530", "081530.25", "235959", "1200", ""]),
            tags.AccessionNumber: rng.choice(["", f"A{study}", f"A{study}", f"a{study}"]),
            tags.StudyID: f"S{rng.randrange(9)}",
            tags.ReferringPhysicianName: rng.choice(NAMES),
            tags.StudyDescription: rng.choice(DESCRIPTIONS),
        }
        for series in range(rng.randrange(1, 4)):
            of_series = {
                tags.SeriesInstanceUID: f"{ROOT}.{study}.{series}",
                tags.Modality: rng.choice(MODALITIES),
                tags.SeriesNumber: rng.choice([str(series), f"0{series}", f"{series} "]).strip(),
                tags.SeriesDescription: rng.choice(DESCRIPTIONS),
                tags.BodyPartExamined: rng.choice(["CHEST", "HEAD", ""]),
            }
            sop_class = rng.choice(CLASSES)
            for instance in range(rng.randrange(1, 5)):
                items = above | of_series
                if rng.random() < 0.1:
                    items[rng.choice([tags.StudyDescription, tags.SeriesDescription, tags.PatientSex])] = ""
                if rng.random() < 0.05:
                    items[tags.PatientName] = rng.choice(NAMES)
                items |= {
                    tags.SOPInstanceUID: f"{ROOT}.{study}.{series}.{instance}",
                    tags.SOPClassUID: sop_class,
                    tags.InstanceNumber: str(instance),
                    tags.ImageType: rng.choice(["ORIGINAL\\PRIMARY", "DERIVED\\SECONDARY\\MIP"]),
                    tags.ContentLabel: rng.choice(["", "LABEL"]),
                    tags.ContentDescription: rng.choice(["", "Übersicht", "Overview"]),
                }
                made.append(Made(items))
    if rng.random() < 0.5:
        # Several senders at once.
        rng.shuffle(made)
    return made


def stored(made: Made, tail: Tail, character_set: str = "utf-8") -> Entry:
    """The same as an entry; latin-1 where it can be."""
    try:
        encoded = {tag: text.encode("latin-1") for tag, text in made.items.items()}
        declared = b"ISO_IR 100"
    except UnicodeEncodeError:
        encoded = {tag: text.encode("utf-8") for tag, text in made.items.items()}
        declared = b"ISO_IR 192"
    of = [{tag: encoded[tag] for tag in oracle.LEVELS[level] if tag in encoded} for level in range(4)]
    whole = entry(tail, character_set=declared, sop_instance_uid=encoded[tags.SOPInstanceUID])
    whole.patient, whole.study, whole.series, whole.instance = map(blob, of)
    whole.sop_class_uid = encoded[tags.SOPClassUID]
    return whole


def filled(directory: Path, instances: list[Made]) -> Index:
    index = Index.open(str(directory), map_bytes=1 << 30)
    tail = Tail()
    index.apply([stored(made, tail) for made in instances])
    return index


def texts(index: Index, query: Query) -> list[dict[int, str]]:
    return [{tag: value.decode() for tag, value in match.attributes.items()} for match in search(index, query)]


# random questions ----------------------------------------------------------------------------------


def _twisted(rng: random.Random, tag: int, value: str) -> str:
    """A key that may or may not match this value."""
    vr = tags.vr_of(tag)
    kind = rng.random()
    if kind < 0.25 or not value:
        return value
    if vr == "UI":
        return value if kind < 0.6 else f"{value}\\{ROOT}.{rng.randrange(9)}\\1.2.3"
    if vr in ("DA", "TM"):
        other = rng.choice(["20240401", "20240815", "19500101"] if vr == "DA" else ["08", "1200", "081530.5"])
        low, high = sorted((value, other))
        return rng.choice([f"{low}-{high}", f"{other}-", f"-{other}", f"{value}-{value}", other])
    if vr == "IS":
        return rng.choice(["1", "01", "2", "7", "1\\2"])
    if vr == "PN" and kind < 0.5:
        value = rng.choice(
            [value.upper(), value.lower(), value.replace("ü", "u").replace("ö", "o"), value.split("=")[-1]]
        )
    at = rng.randrange(len(value) + 1)
    return rng.choice(
        [
            value[:at] + "*",
            "*" + value[at:],
            "*" + value[at : at + 3] + "*",
            value[:at] + "?" + value[at + 1 :],
            value[:at] + "*" + value[min(at + 2, len(value)) :],
            "*",
            "?*",
            value + "\\" + "nothing" if vr != "ST" else value,
            value + "  ",
        ]
    )


ASKED = {
    oracle.PATIENT: [tags.PatientName, tags.PatientID, tags.PatientBirthDate, tags.PatientSex, tags.IssuerOfPatientID],
    oracle.STUDY: [
        tags.StudyDate,
        tags.StudyTime,
        tags.AccessionNumber,
        tags.StudyID,
        tags.StudyInstanceUID,
        tags.ReferringPhysicianName,
        tags.StudyDescription,
    ],
    oracle.SERIES: [
        tags.Modality,
        tags.SeriesNumber,
        tags.SeriesInstanceUID,
        tags.SeriesDescription,
        tags.BodyPartExamined,
    ],
    oracle.IMAGE: [
        tags.InstanceNumber,
        tags.SOPInstanceUID,
        tags.SOPClassUID,
        tags.ImageType,
        tags.ContentLabel,
        tags.ContentDescription,
    ],
}


def random_query(rng: random.Random, instances: list[Made]) -> tuple[int, dict[int, str], bool]:
    level = rng.randrange(4)
    relational = rng.random() < 0.5
    example = rng.choice(instances).items
    keys: dict[int, str] = {}
    for of in range(4 if relational else level + 1):
        for tag in ASKED[of]:
            chance = rng.random()
            if chance < 0.15:
                keys[tag] = _twisted(rng, tag, example.get(tag, ""))
            elif chance < 0.5:
                keys[tag] = ""
    for tag, of in oracle.COMPUTED.items():
        if of <= level and rng.random() < 0.3:
            keys[tag] = ""
    if level >= oracle.STUDY and rng.random() < 0.2:
        keys[tags.ModalitiesInStudy] = rng.choice(["CT", "MR\\US", "C*", "XA", "*"])
    if level >= oracle.STUDY and rng.random() < 0.1:
        keys[tags.SOPClassesInStudy] = rng.choice(CLASSES)
    if not relational:
        for of, tag in enumerate((tags.PatientID, tags.StudyInstanceUID, tags.SeriesInstanceUID)):
            if of < level:
                keys[tag] = example[tag] or "none"
    return level, keys, relational


@pytest.mark.parametrize("seed", range(12))
def test_every_answer_is_what_the_slow_matcher_says(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    instances = random_archive(rng, rng.choice((3, 12, 30)))
    index = filled(tmp_path / "index", instances)
    answered = 0
    for turn in range(60):
        level, keys, relational = random_query(rng, instances)
        query = Query(
            Level(level),
            {tag: text.encode() for tag, text in keys.items()},
            Root.PATIENT,
            b"ISO_IR 192",
            relational=relational,
        )
        expected = oracle.find(instances, level, keys, relational=relational)
        found = texts(index, query)
        assert found == expected, f"seed {seed} turn {turn}: {Level(level).name} {keys} relational={relational}"
        answered += bool(found)
    assert answered > 5
    index.close()


def test_pages_are_pieces_of_the_whole_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "FIRST_PAGE", 2)
    monkeypatch.setattr(searching, "PAGE", 3)
    monkeypatch.setattr(walking, "EXAMINED_MAX", 4)
    monkeypatch.setattr(access, "KEYS_MAX", 5)
    rng = random.Random(2)
    instances = random_archive(rng, 30)
    index = filled(tmp_path / "index", instances)
    for turn in range(60):
        level, keys, relational = random_query(rng, instances)
        asked = {tag: text.encode() for tag, text in keys.items()}
        expected = oracle.find(instances, level, keys, relational=relational)
        for offset, limit in ((0, None), (0, 1), (3, 4), (1, None), (0, 0), (500, 5)):
            query = Query(Level(level), asked, Root.PATIENT, b"ISO_IR 192", limit, offset, relational)
            end = None if limit is None else offset + limit
            assert texts(index, query) == expected[offset:end], f"turn {turn} {keys}"
    index.close()


def test_no_transaction_is_open_while_a_match_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "FIRST_PAGE", 2)
    monkeypatch.setattr(searching, "PAGE", 2)
    tail = Tail()
    index = Index.open(str(tmp_path / "index"), map_bytes=1 << 30)
    index.apply([entry(tail, study=study) for study in range(1, 8)])
    seen = []
    for match in search(index, Query(Level.STUDY, {tags.StudyInstanceUID: b""})):
        assert index.environment._readers == 0
        seen.append(match.attributes[tags.StudyInstanceUID])
        if len(seen) == 3:
            # Deleted while the answer is on its way, and something new at its end.
            index.apply([entry(tail, study=8)], [tombstone(tail, f"{ROOT}.6.1.1".encode())])
    assert seen == [f"{ROOT}.{study}".encode() for study in (1, 2, 3, 4, 5, 7, 8)]
    index.close()


# what the standard forbids -------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index.open(str(tmp_path / "index"), map_bytes=1 << 30)
    tail = Tail()
    opened.apply([entry(tail, study=s, series=r, instance=i) for s in (1, 2) for r in (1, 2) for i in (1, 2, 10)])
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("level", "root", "keys", "word"),
    [
        (Level.PATIENT, Root.STUDY, {}, "no level PATIENT"),
        (Level.SERIES, Root.PATIENT_STUDY_ONLY, {}, "no level SERIES"),
        (Level.STUDY, Root.PATIENT, {}, "PatientID"),
        (Level.STUDY, Root.PATIENT, {tags.PatientID: b"P*"}, "PatientID must be a single value"),
        (Level.SERIES, Root.STUDY, {}, "StudyInstanceUID"),
        (Level.SERIES, Root.STUDY, {tags.StudyInstanceUID: b"1.2\\1.3"}, "StudyInstanceUID must be a single value"),
        (Level.IMAGE, Root.STUDY, {tags.StudyInstanceUID: b"1.2"}, "SeriesInstanceUID"),
    ],
)
def test_the_hierarchy_is_kept_unless_the_query_is_relational(
    index: Index, level: Level, root: Root, keys: Mapping[int, bytes], word: str
) -> None:
    with pytest.raises(QueryError, match=word):
        search(index, Query(level, keys, root))
    if level in root.value:
        list(search(index, Query(level, keys, root, relational=True)))


def test_levels_have_names() -> None:
    assert Level.of(b"STUDY ") == Level.STUDY
    with pytest.raises(QueryError, match="FRAME"):
        Level.of(b"FRAME")


def test_what_is_not_known_is_said_to_be_unsupported(index: Index) -> None:
    found = list(search(index, Query(Level.STUDY, {tags.StudyInstanceUID: b"", tags.ImageType: b""})))
    assert all(match.unsupported and list(match.attributes) == [tags.StudyInstanceUID] for match in found)
    found = list(search(index, Query(Level.STUDY, {tags.StudyID: b"", tags.RetrieveAETitle: b""})))
    assert not any(match.unsupported for match in found)


def test_keys_come_in_the_requesters_character_set(tmp_path: Path) -> None:
    index = Index.open(str(tmp_path / "charsets"), map_bytes=1 << 30)
    index.apply([entry(Tail(), patient={tags.PatientName: "Müller^Jörg".encode()}, character_set=b"ISO_IR 192")])
    for name, declared in (("müller^jörg", b"ISO_IR 100"), ("MULLER^J?RG", b""), ("Müller*", b"ISO_IR 192")):
        encoded = name.encode("latin-1" if declared == b"ISO_IR 100" else "utf-8")
        query = Query(Level.STUDY, {tags.PatientName: encoded}, character_set=declared)
        assert [match.attributes[tags.PatientName] for match in search(index, query)] == ["Müller^Jörg".encode()]
    index.close()


def _items(*items: dict[int, Any]) -> bytes:
    parts = []
    for item in items:
        content = encode_identifier(item, EXPLICIT_VR_LITTLE_ENDIAN)
        parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)
    return b"".join(parts)


def test_sequences_match_by_their_items(tmp_path: Path) -> None:
    index = Index.open(str(tmp_path / "sequences"), map_bytes=1 << 30)
    tail = Tail()
    request = _items(
        {tags.RequestedProcedureID: b"R1", tags.ScheduledProcedureStepID: b"S1"},
        {tags.RequestedProcedureID: b"R2", tags.ScheduledProcedureStepDescription: "Schädel".encode("latin-1")},
    )
    index.apply(
        [
            entry(tail, series=1, series_items={tags.RequestAttributesSequence: request}, character_set=b"ISO_IR 100"),
            entry(tail, series=2, instance=2),
        ]
    )
    uid = f"{ROOT}.1".encode()

    def found(*keys: dict[int, bytes]) -> list[bytes]:
        asked: dict[int, Any] = {
            tags.StudyInstanceUID: uid,
            tags.SeriesNumber: b"",
            tags.RequestAttributesSequence: keys,
        }
        return [match.attributes[tags.SeriesNumber] for match in search(index, Query(Level.SERIES, asked))]

    assert found({tags.RequestedProcedureID: b"R1"}) == [b"1"]
    assert found({tags.RequestedProcedureID: b"R2", tags.ScheduledProcedureStepID: b"S1"}) == []
    assert found({tags.RequestedProcedureID: b"R?", tags.ScheduledProcedureStepID: b"S1"}) == [b"1"]
    assert found({tags.RequestedProcedureID: b""}) == [b"1", b"2"]
    asked = Identifier({tags.ScheduledProcedureStepDescription: "Schädel".encode()}, b"ISO_IR 192")
    query = Query(Level.SERIES, {tags.StudyInstanceUID: uid, tags.RequestAttributesSequence: [asked]})
    (match,) = search(index, query)
    assert "Schädel".encode() in match.attributes[tags.RequestAttributesSequence]
    index.close()


def test_long_values_are_found_by_exact_and_by_beginning(tmp_path: Path) -> None:
    index = Index.open(str(tmp_path / "long"), map_bytes=1 << 30)
    tail = Tail()
    texts_ = ["d" * 300, "d" * 300 + "e", "d" * 199, "d" * 1000]
    index.apply([entry(tail, study=i, study_items={tags.StudyDescription: t.encode()}) for i, t in enumerate(texts_)])
    for i, text in enumerate(texts_):
        query = Query(Level.STUDY, {tags.StudyDescription: text.encode(), tags.StudyID: b""})
        assert [match.attributes[tags.StudyID] for match in search(index, query)] == [b"S%d" % i]
    query = Query(Level.STUDY, {tags.StudyDescription: b"d" * 250 + b"*"})
    assert len(list(search(index, query))) == 3
    index.close()


# retrieval -----------------------------------------------------------------------------------------


def _uids(found: list[Any]) -> list[str]:
    return [instance.sop_instance_uid.removeprefix(ROOT + ".") for instance in found]


def test_a_retrieval_lists_instances_by_series_and_number(index: Index) -> None:
    study = f"{ROOT}.1".encode()
    expected = ["1.1.1", "1.1.2", "1.1.10", "1.2.1", "1.2.2", "1.2.10"]
    assert _uids(index.instances(Query(Level.STUDY, {tags.StudyInstanceUID: study}))) == expected
    assert _uids(index.instances(Query(Level.PATIENT, {tags.PatientID: b"P1"}, Root.PATIENT))) == expected
    series = f"{ROOT}.1.2\\{ROOT}.2.1".encode()
    assert _uids(index.instances(Query(Level.SERIES, {tags.SeriesInstanceUID: series}))) == [
        "1.2.1", "1.2.2", "1.2.10", "2.1.1", "2.1.2", "2.1.10",
    ]  # fmt: skip
    several = f"{ROOT}.2.1.1\\{ROOT}.1.1.10\\1.2.3".encode()
    assert _uids(index.instances(Query(Level.IMAGE, {tags.SOPInstanceUID: several}))) == ["1.1.10", "2.1.1"]
    within = {tags.SOPInstanceUID: several, tags.StudyInstanceUID: study}
    assert _uids(index.instances(Query(Level.IMAGE, within))) == ["1.1.10"]
    elsewhere = {tags.StudyInstanceUID: study, tags.PatientID: b"P2"}
    assert index.instances(Query(Level.STUDY, elsewhere, Root.PATIENT)) == []


def test_a_retrieval_needs_the_key_of_its_level(index: Index) -> None:
    with pytest.raises(QueryError, match="SeriesInstanceUID"):
        index.instances(Query(Level.SERIES, {tags.StudyInstanceUID: b"1.2"}))
    with pytest.raises(QueryError, match="PATIENT"):
        index.instances(Query(Level.PATIENT, {tags.PatientID: b"P1"}, Root.STUDY))


def test_a_retrieval_takes_wild_cards_for_what_they_are(index: Index) -> None:
    assert index.instances(Query(Level.PATIENT, {tags.PatientID: b"P*"}, Root.PATIENT)) == []
