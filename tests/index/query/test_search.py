"""Queries: pages, refusals, character sets, sequences, long values, retrieval.

tests/index/query/test_query_twin.py checks that every answer is right.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine.dicom import tags
from engine.dicom.identifier import Identifier, encode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import QueryError
from engine.index.catalog import Catalog
from engine.index.format.types import Level, Query, Root
from engine.index.query import search as searching
from engine.index.query import selection
from tests.index.entries import ROOT, Tail, entry, tombstone


def test_no_transaction_is_open_while_the_caller_has_a_match(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "FIRST_PAGE", 2)
    monkeypatch.setattr(searching, "PAGE", 2)
    tail = Tail()
    index = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    index.apply([entry(tail, study=study) for study in range(1, 8)])
    names = []
    for match in index.search(Query(Level.STUDY, {tags.StudyInstanceUID: b""})):
        assert index._environment._readers == 0
        names.append(match.attributes[tags.StudyInstanceUID])
        if len(names) == 3:
            # Deleted while the answer is on its way, and something new at its end.
            index.apply([entry(tail, study=8), tombstone(tail, f"{ROOT}.6.1.1".encode())])
    assert names == [f"{ROOT}.{study}".encode() for study in (1, 2, 3, 4, 5, 7, 8)]
    index.close()


# what the standard forbids -------------------------------------------------------------------------


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Catalog]:
    opened = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
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
        (Level.STUDY, Root.PATIENT, {tags.PatientID: b"P*"}, "needs a single PatientID"),
        (Level.SERIES, Root.STUDY, {}, "StudyInstanceUID"),
        (Level.SERIES, Root.STUDY, {tags.StudyInstanceUID: b"1.2\\1.3"}, "needs a single StudyInstanceUID"),
        (Level.IMAGE, Root.STUDY, {tags.StudyInstanceUID: b"1.2"}, "SeriesInstanceUID"),
    ],
)
def test_the_hierarchy_is_kept_unless_the_query_is_relational(
    index: Catalog, level: Level, root: Root, keys: Mapping[int, bytes], word: str
) -> None:
    with pytest.raises(QueryError, match=word):
        index.search(Query(level, keys, root))
    if level in root.value:
        list(index.search(Query(level, keys, root, relational=True)))


def test_levels_have_names() -> None:
    assert Level.of(b"STUDY ") == Level.STUDY
    for text in (b"study", b" Study", b"sTuDy\0", "study "):
        assert Level.of(text) == Level.STUDY
    with pytest.raises(QueryError, match="FRAME"):
        Level.of(b"FRAME")


def test_unknown_keys_are_unsupported(index: Catalog) -> None:
    matches = list(index.search(Query(Level.STUDY, {tags.StudyInstanceUID: b"", tags.ImageType: b""})))
    assert all(match.unsupported and list(match.attributes) == [tags.StudyInstanceUID] for match in matches)
    matches = list(index.search(Query(Level.STUDY, {tags.StudyID: b"", tags.RetrieveAETitle: b""})))
    assert not any(match.unsupported for match in matches)


def test_keys_come_in_the_requesters_character_set(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path / "charsets"), map_bytes=1 << 30)
    index.apply([entry(Tail(), patient={tags.PatientName: "Müller^Jörg".encode()}, character_set=b"ISO_IR 192")])
    for name, declared in (("müller^jörg", b"ISO_IR 100"), ("MULLER^J?RG", b""), ("Müller*", b"ISO_IR 192")):
        encoded = name.encode("latin-1" if declared == b"ISO_IR 100" else "utf-8")
        query = Query(Level.STUDY, {tags.PatientName: encoded}, character_set=declared)
        assert [match.attributes[tags.PatientName] for match in index.search(query)] == ["Müller^Jörg".encode()]
    index.close()


def _items(*items: dict[int, Any]) -> bytes:
    parts = []
    for item in items:
        content = encode_identifier(item, EXPLICIT_VR_LITTLE_ENDIAN)
        parts.append(struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content)
    return b"".join(parts)


def test_sequences_match_by_their_items(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path / "sequences"), map_bytes=1 << 30)
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

    def study_uids(*keys: dict[int, bytes]) -> list[bytes]:
        sequence_keys: dict[int, Any] = {
            tags.StudyInstanceUID: uid,
            tags.SeriesNumber: b"",
            tags.RequestAttributesSequence: keys,
        }
        return [match.attributes[tags.SeriesNumber] for match in index.search(Query(Level.SERIES, sequence_keys))]

    assert study_uids({tags.RequestedProcedureID: b"R1"}) == [b"1"]
    assert study_uids({tags.RequestedProcedureID: b"R2", tags.ScheduledProcedureStepID: b"S1"}) == []
    assert study_uids({tags.RequestedProcedureID: b"R?", tags.ScheduledProcedureStepID: b"S1"}) == [b"1"]
    assert study_uids({tags.RequestedProcedureID: b""}) == [b"1", b"2"]
    sequence_keys = Identifier({tags.ScheduledProcedureStepDescription: "Schädel".encode()}, b"ISO_IR 192")
    query = Query(Level.SERIES, {tags.StudyInstanceUID: uid, tags.RequestAttributesSequence: [sequence_keys]})
    (match,) = index.search(query)
    assert "Schädel".encode() in match.attributes[tags.RequestAttributesSequence]
    index.close()


def test_long_values_are_found_by_exact_and_by_beginning(tmp_path: Path) -> None:
    index = Catalog.open(str(tmp_path / "long"), map_bytes=1 << 30)
    tail = Tail()
    texts_ = ["d" * 300, "d" * 300 + "e", "d" * 199, "d" * 1000]
    index.apply([entry(tail, study=i, study_items={tags.StudyDescription: t.encode()}) for i, t in enumerate(texts_)])
    for i, text in enumerate(texts_):
        query = Query(Level.STUDY, {tags.StudyDescription: text.encode(), tags.StudyID: b""})
        assert [match.attributes[tags.StudyID] for match in index.search(query)] == [b"S%d" % i]
    query = Query(Level.STUDY, {tags.StudyDescription: b"d" * 250 + b"*"})
    assert len(list(index.search(query))) == 3
    index.close()


# retrieval -----------------------------------------------------------------------------------------


def _uids(instances: list[Any]) -> list[str]:
    return [instance.sop_instance_uid.removeprefix(ROOT + ".") for instance in instances]


def test_a_retrieval_lists_instances_by_series_and_number(index: Catalog) -> None:
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


def test_a_retrieval_needs_the_key_of_its_level(index: Catalog) -> None:
    with pytest.raises(QueryError, match="SeriesInstanceUID"):
        index.instances(Query(Level.SERIES, {tags.StudyInstanceUID: b"1.2"}))
    with pytest.raises(QueryError, match="PATIENT"):
        index.instances(Query(Level.PATIENT, {tags.PatientID: b"P1"}, Root.STUDY))


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_retrieval_lists_the_same_in_one_read_transaction_or_in_many(
    index: Catalog, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(selection, "SELECT_S", seconds)
    series = [f"{study}.{series}" for study in (1, 2) for series in (1, 2)]
    everything = [f"{one}.{number}" for one in series for number in (1, 2, 10)]
    patients = Query(Level.PATIENT, {tags.PatientID: b"P1\\P2"}, Root.PATIENT)
    uids = []
    for instance in index.select(patients):
        assert index._environment._readers == 0, "a page of the index is kept for whoever is slow"
        uids.append(instance)
    assert _uids(uids) == everything
    named = sorted(one.sop_instance_uid.decode().removeprefix(ROOT + ".") for one in index.identifiers(patients))
    assert named == sorted(everything)


def test_instances_stored_and_deleted_during_a_retrieval_do_not_change_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "SELECT_S", 0.0)
    tail = Tail()
    index = Catalog.open(str(tmp_path / "index"), map_bytes=1 << 30)
    index.apply([entry(tail, study=1, series=series) for series in range(1, 7)])
    uids = []
    for instance in index.select(Query(Level.STUDY, {tags.StudyInstanceUID: f"{ROOT}.1".encode()})):
        uids.append(instance)
        if len(uids) == 2:
            index.apply([entry(tail, study=1, series=7), tombstone(tail, f"{ROOT}.1.5.1".encode())])
    assert _uids(uids) == ["1.1.1", "1.2.1", "1.3.1", "1.4.1", "1.6.1", "1.7.1"]
    index.close()


def test_a_retrieval_has_no_wild_cards(index: Catalog) -> None:
    assert index.instances(Query(Level.PATIENT, {tags.PatientID: b"P*"}, Root.PATIENT)) == []
