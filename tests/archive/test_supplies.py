"""archive.supplies: who is chosen gets what linked orders supply, and the archive itself stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.archive.questions import Explanation
from engine.archive.supplies import SuppliedFinder, Supplies
from engine.dicom import tags
from engine.index.format.types import Level, Match, Query, Root
from engine.orders.entry_values import order_of
from engine.orders.linking import Named
from engine.orders.registry import NoRules, Orders
from engine.orders.values import Identifier, Issuer, PatientUpdate, Source
from tests.archive.filled import opened, payload_of, store, uid

RIS = Source(name="RIS")


class Chosen(NoRules):
    """Nothing that links supply becomes a correction."""

    supplies_everybody = False


def entry(accession: str) -> dict[str, str]:
    return {
        "AccessionNumber": accession, "PatientID": "P1", "PatientName": "Doe^Jane", "Modality": "CT",
        "ScheduledProcedureStepStartDate": "20260105", "ScheduledStationAETitle": "CT1",
        "RequestedProcedureID": f"R{accession}",
    }  # fmt: skip


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with opened(tmp_path / "data") as found:
        store(
            found,
            payload_of(1, 1, 1, AccessionNumber=""),
            payload_of(1, 2, 1, AccessionNumber=""),
            payload_of(2, 1, 1, AccessionNumber="Q1"),
            payload_of(3, 1, 1, AccessionNumber=""),
        )
        yield found


@pytest.fixture
def orders(archive: Archive) -> Iterator[Orders]:
    with open_orders(archive, Chosen()) as registry:
        registry.apply(PatientUpdate(identifiers=(Identifier("P1"), Identifier("OTHER", Issuer("EAST")))), RIS)
        registry.apply(order_of(entry("Q1")), RIS)
        (order,) = order_numbers(registry)
        for study in (1, 2):
            registry.link(uid(study), order, RIS)
        yield registry


def order_numbers(orders: Orders) -> list[int]:
    with orders.read() as reading:
        return [int.from_bytes(bytes(key), "big") for key, _ in reading.rows(reading.database.orders, b"")]


def asked(level: Level = Level.STUDY, **more: object) -> Query:
    wanted = (tags.AccessionNumber, tags.StudyInstanceUID, tags.OtherPatientIDsSequence)
    keys = {**dict.fromkeys(wanted, b""), **more.pop("keys", {})}  # type: ignore[dict-item,arg-type]
    return Query(level, keys, Root.STUDY, relational=True, **more)  # type: ignore[arg-type]


def found(archive: Archive, orders: Orders, query: Query, explanation: Explanation | None = None) -> list[Match]:
    steps = SuppliedFinder(Supplies(archive, orders), archive).find_steps(query, explanation or Explanation())
    return [each for each in steps if each is not None]


def uids(matches: list[Match]) -> list[str]:
    return [each.attributes[tags.StudyInstanceUID].decode() for each in matches]


def test_answers_have_what_studies_lack_and_nothing_else_changes(archive: Archive, orders: Orders) -> None:
    matches = found(archive, orders, asked())
    stated = {match.attributes[tags.StudyInstanceUID]: dict(match.attributes) for match in archive.find(asked())}
    values = {
        match.attributes[tags.StudyInstanceUID].decode(): match.attributes[tags.AccessionNumber] for match in matches
    }
    assert values == {uid(1): b"Q1", uid(2): b"Q1", uid(3): b""}
    assert all(b"OTHER" in match.attributes[tags.OtherPatientIDsSequence] for match in matches[:2])
    assert stated[uid(1).encode()][tags.AccessionNumber] == b"", "the archive itself shows nothing of it"
    assert list(archive.parts.index.corrections()) == []


def test_a_whole_accession_number_finds_what_is_supplied_with_it(archive: Archive, orders: Orders) -> None:
    by_accession = {tags.AccessionNumber: b"Q1"}
    assert uids(found(archive, orders, asked(keys=by_accession))) == [uid(1), uid(2)]
    assert uids(found(archive, orders, asked(keys={tags.AccessionNumber: b"Q9\\Q1"}))) == [uid(1), uid(2)]
    assert uids(found(archive, orders, asked(keys={tags.AccessionNumber: b"Q?"}))) == [uid(2)]
    other = {**by_accession, tags.StudyInstanceUID: uid(2).encode()}
    assert uids(found(archive, orders, asked(keys=other))) == [uid(2)]
    assert uids(found(archive, orders, asked(keys={**by_accession, tags.PatientID: b"P9"}))) == []
    assert uids(list(archive.find(asked(keys=by_accession)))) == [uid(2)]


@pytest.mark.parametrize(
    ("offset", "limit", "expected", "beyond"), [(0, 1, [1], 1), (1, 1, [2], 0), (0, 0, [], 2), (2, 5, [], 0)]
)
def test_pages_of_answers_have_each_study_once(
    archive: Archive, orders: Orders, offset: int, limit: int, expected: list[int], beyond: int
) -> None:
    explanation = Explanation()
    query = asked(keys={tags.AccessionNumber: b"Q1"}, offset=offset, limit=limit, count_max=10)
    assert uids(found(archive, orders, query, explanation)) == [uid(each) for each in expected]
    assert explanation.beyond == beyond


def test_series_have_their_requests(archive: Archive, orders: Orders) -> None:
    query = asked(Level.SERIES, keys={tags.RequestAttributesSequence: b"", tags.StudyInstanceUID: uid(1).encode()})
    matches = found(archive, orders, query)
    assert len(matches) == 2
    for match in matches:
        assert b"RQ1" in match.attributes[tags.RequestAttributesSequence]
        assert match.attributes[tags.AccessionNumber] == b"Q1"
    by_study = found(archive, orders, asked(Level.SERIES, keys={tags.AccessionNumber: b"Q1"}))
    assert sorted(uids(by_study)) == [uid(1), uid(1), uid(2)]


def test_it_follows_the_link(archive: Archive, orders: Orders) -> None:
    supplies = Supplies(archive, orders)
    values = supplies.of_series(uid(1), uid(1, 1))
    assert values[tags.AccessionNumber] == b"Q1" and b"RQ1" in values[tags.RequestAttributesSequence]
    store(archive, payload_of(1, 3, 1, AccessionNumber="LATE"))
    assert tags.AccessionNumber not in supplies.of_series(uid(1), uid(1, 1)), "what is stated counts more"
    orders.unlink(uid(1), order_numbers(orders)[0], RIS)
    assert supplies.of_series(uid(1), uid(1, 1)) == {} == supplies.of_series(uid(77), uid(77, 1))


def test_what_was_corrected_before_is_undone_when_the_study_is_told_of_again(archive: Archive, orders: Orders) -> None:
    def is_corrected() -> bool:
        return bool(archive.corrected(uid(3), uid(3, 1)))

    orders.close()
    for rules, expected in ((NoRules(), True), (Chosen(), False)):
        with open_orders(archive, rules) as registry:
            registry.study_arrived(Named(study_instance_uid=uid(3), accession="Q1", patient_id="P1"), RIS)
        assert is_corrected() is expected


def test_matches_come_one_by_one(archive: Archive, orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study may have thousands of instances: nobody waits for all of them, and none is kept."""
    store(archive, *(payload_of(1, 1, number, AccessionNumber="") for number in range(2, 12)))
    find_steps, taken = Archive.find_steps, [0]

    def counted(view: Archive, query: Query, explanation: Explanation | None = None) -> Iterator[Match | None]:
        for match in find_steps(view, query, explanation):
            taken[0] += match is not None
            yield match

    monkeypatch.setattr(Archive, "find_steps", counted)
    query = asked(Level.IMAGE, keys={tags.AccessionNumber: b"Q1", tags.SOPInstanceUID: b""})
    steps = Supplies(archive, orders).steps(archive, query, None)
    assert next(each for each in steps if each is not None).attributes[tags.AccessionNumber] == b"Q1"
    assert taken[0] == 1
    assert sum(each is not None for each in steps) == 12
    before = taken[0]
    page = [each for each in Supplies(archive, orders).steps(archive, replace(query, offset=3, limit=2), None) if each]
    assert len(page) == 2 and taken[0] - before == 6
