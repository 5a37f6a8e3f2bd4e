"""archive.hospital: what messages say of patients becomes corrections of stored studies, where these differ."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.feed.event import STUDY_COMPLETE, STUDY_QUIET, Event
from engine.archive.hospital import open_orders
from engine.archive.lifecycle import correction
from engine.archive.order_links import OrderLinks
from engine.config import Coercion, Config
from engine.dicom import items, tags
from engine.errors import EngineError
from engine.index.format.entry import Correction, LedgerItem, Operation
from engine.index.format.types import Level, Query, Root
from engine.orders import linking, ordering
from engine.orders.registry import NoRules, Orders
from engine.orders.values import (
    Identifier,
    Issuer,
    OrderAction,
    OrderUpdate,
    PatientMerge,
    PatientUpdate,
    ProcedureUpdate,
    Source,
    StepUpdate,
    VisitMove,
)
from engine.orders.work import Supply
from engine.services import coercion
from tests.actors import actor
from tests.archive.filled import opened, payload_of, store, study_query, uid
from tests.oracle import foreign

ADT = Source(name="ADT", reference="17")


class WestIsOurs(NoRules):
    """Identifiers without an authority are those of WEST."""

    issuer = "WEST"


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with opened(tmp_path / "data") as found:
        store(found, payload_of(1, 1, 1), payload_of(2, 1, 1, patient_id="P2", IssuerOfPatientID="WEST"))
        yield found


@pytest.fixture
def orders(archive: Archive) -> Iterator[Orders]:
    with open_orders(archive, WestIsOurs()) as registry:
        yield registry


def patient(number: str, name: str, issuer: str = "") -> PatientUpdate:
    return PatientUpdate(identifiers=(Identifier(number, Issuer(issuer)),), attributes={"PatientName": name})


def names(archive: Archive) -> dict[str, tuple[str, str]]:
    """Study → patient ID and name."""
    asked = (tags.StudyInstanceUID, tags.PatientID, tags.PatientName)
    matches = archive.find(Query(Level.STUDY, dict.fromkeys(asked, b""), Root.PATIENT, relational=True))
    rows = ([match.attributes[tag].decode() for tag in asked] for match in matches)
    return {study.rpartition(".")[2]: (number, name) for study, number, name in rows}


def made(archive: Archive) -> list[str]:
    return [facts["operation"] for facts in correction.list_all(archive)]


def test_changed_demographics_correct_stored_studies_once(archive: Archive, orders: Orders) -> None:
    for _ in range(2):
        orders.apply(patient("P1", "New^Name"), ADT)
    assert made(archive) == ["correct"]
    assert ("P1", "New^Name") in names(archive).values()


def test_what_stored_studies_say_already_and_patients_without_studies_add_nothing_to_the_ledger(
    archive: Archive, orders: Orders
) -> None:
    known = next(name for number, name in names(archive).values() if number == "P1")
    orders.apply(patient("P1", known.upper() + "^"), ADT)
    orders.apply(patient("P77", "Any^Name"), ADT)
    assert made(archive) == []


def test_a_correction_that_a_crash_prevented_is_made_when_the_message_is_applied_again(
    archive: Archive, orders: Orders
) -> None:
    corrections, orders.corrections = orders.corrections, None
    orders.apply(patient("P1", "New^Name"), ADT)
    assert made(archive) == []
    orders.corrections = corrections
    orders.apply(patient("P1", "New^Name"), ADT)
    assert made(archive) == ["correct"]


def test_a_merge_moves_studies_now_and_later_and_its_repetition_adds_nothing(archive: Archive, orders: Orders) -> None:
    merge = PatientMerge(survivor=patient("P3", "Survivor^Name"), prior=Identifier("P1"))
    for _ in range(2):
        orders.apply(merge, ADT)
    assert made(archive) == ["merge", "correct"], "the unknown survivor got the name in the message"
    store(archive, payload_of(9, 1, 1))
    assert [number for number, _ in names(archive).values()].count("P3") == 2


def test_an_authority_is_the_issuer_and_ours_is_that_of_studies_without_one(archive: Archive, orders: Orders) -> None:
    orders.apply(patient("P2", "East^Name", "EAST"), ADT)
    assert made(archive) == []
    orders.apply(patient("P2", "West^Name", "WEST"), ADT)
    orders.apply(patient("P1", "Ours^Name", "WEST"), ADT)
    assert {name for _, name in names(archive).values()} == {"West^Name", "Ours^Name"}


def test_an_order_corrects_no_stored_study(archive: Archive, orders: Orders) -> None:
    value = OrderUpdate(action=OrderAction.NEW, patient=patient("P1", "Stale^Name"), accession=Identifier("A1"))
    orders.apply(value, ADT)
    assert made(archive) == []


def order(accession: str, number: str, study: str = "") -> OrderUpdate:
    steps = (StepUpdate(scheduled_procedure_step_id=f"S{accession}"),)
    procedure = ProcedureUpdate(requested_procedure_id=f"R{accession}", study_instance_uid=study, steps=steps)
    return OrderUpdate(
        action=OrderAction.NEW, patient=patient(number, "X"), accession=Identifier(accession), procedures=(procedure,)
    )


def states(orders: Orders, *accessions: str) -> list[str]:
    with orders.read() as reading:
        found = [ordering.find(reading, accession=Identifier(each)) for each in accessions]
        return [str(row.state) for each in found if each for _, row in ordering.steps_of(reading, each[0])]


def test_a_study_that_has_come_is_linked_by_each_rule_and_its_steps_end_when_it_is_complete(
    archive: Archive, orders: Orders
) -> None:
    store(
        archive, payload_of(6, 1, 1, AccessionNumber="A2"), payload_of(7, 1, 1, patient_id="P7", AccessionNumber="A3")
    )
    for value in (order("A1", "P1", uid(1)), order("A2", "P1"), order("A3", "P1")):
        orders.apply(value, ADT)
    links = OrderLinks(archive)
    quiet = [Event(sequence=1, action=STUDY_QUIET, time="", study_instance_uid=uid(study)) for study in (1, 6, 7, 99)]
    links.handle(orders, quiet * 2, completes=True)
    with orders.read() as reading:
        rules = [[row.rule for row in linking.orders_of(reading, uid(study))] for study in (1, 6, 7)]
        conflicts = [row.study_instance_uid for _, row in reading.rows(reading.database.conflicts)]
    assert (rules, conflicts) == ([["study-uid"], ["accession"], []], [uid(7)])
    assert states(orders, "A1", "A2", "A3") == ["SCHEDULED"] * 3
    complete = [
        Event(sequence=2, action=STUDY_COMPLETE, time="", study_instance_uid=each.study_instance_uid) for each in quiet
    ]
    links.handle(orders, complete, completes=False)
    assert states(orders, "A1", "A2", "A3") == ["SCHEDULED"] * 3
    links.handle(orders, complete, completes=True)
    assert states(orders, "A1", "A2", "A3") == ["COMPLETED", "COMPLETED", "SCHEDULED"]


def test_a_study_that_comes_late_shows_what_was_known_of_its_patient_before(archive: Archive, orders: Orders) -> None:
    orders.apply(patient("P8", "Known^Before"), ADT)
    store(archive, payload_of(8, 1, 1, patient_id="P8"))
    OrderLinks(archive).handle(
        orders, [Event(sequence=1, action=STUDY_QUIET, time="", study_instance_uid=uid(8))], completes=True
    )
    assert ("P8", "Known^Before") in names(archive).values()


def test_an_archive_without_a_feed_has_nothing_to_follow(archive: Archive, orders: Orders) -> None:
    assert OrderLinks(archive).follow(orders, completes=True) is False


# what links supply -----------------------------------------------------------------------------------


def shown(archive: Archive, study: int) -> tuple[str, list[str], list[str]]:
    """Accession number, requested procedures of each series, other patient IDs, as a query has them."""
    asked = (tags.AccessionNumber, tags.RequestAttributesSequence, tags.OtherPatientIDsSequence, tags.SeriesInstanceUID)
    keys = {tags.StudyInstanceUID: uid(study).encode(), **dict.fromkeys(asked, b"")}
    matches = list(archive.find(Query(Level.SERIES, keys, Root.STUDY, relational=True)))
    matches.sort(key=lambda match: match.attributes[tags.SeriesInstanceUID])

    def texts(blob: bytes, tag: int) -> list[str]:
        return [each.value.decode().strip() for item in items.decode_items(blob) for each in item if each.tag == tag]

    first = matches[0].attributes
    requests = [
        ",".join(texts(match.attributes.get(tags.RequestAttributesSequence, b""), tags.RequestedProcedureID))
        for match in matches
    ]
    others = texts(first.get(tags.OtherPatientIDsSequence, b""), tags.PatientID)
    return first.get(tags.AccessionNumber, b"").decode().strip(), requests, others


def quiet(archive: Archive, orders: Orders, study: int) -> None:
    event = Event(sequence=1, action=STUDY_QUIET, time="", study_instance_uid=uid(study))
    OrderLinks(archive).handle(orders, [event], completes=False)


def number_of(orders: Orders, accession: str) -> int:
    with orders.read() as reading:
        found = ordering.find(reading, accession=Identifier(accession))
    assert found is not None
    return found[0]


def test_a_link_supplies_what_the_study_lacks_and_its_undoing_takes_that_away(archive: Archive, orders: Orders) -> None:
    store(archive, payload_of(6, 1, 1, AccessionNumber=""), payload_of(6, 2, 1, AccessionNumber=""))
    before = [bytes(archive.retrieval.open(each).read(0, 500)) for each in archive.instances(study_query(6))]
    known = PatientUpdate(identifiers=(Identifier("P1"), Identifier("OTHER", Issuer("EAST"))))
    orders.apply(known, ADT)
    for _ in range(2):
        orders.apply(order("Q1", "P1", uid(6)), ADT)
        quiet(archive, orders, 6)
    assert shown(archive, 6) == ("Q1", ["RQ1", "RQ1"], ["OTHER"])
    assert made(archive) == ["correct"] * 3, "one of the study, one of each series, once"
    found = list(archive.find(Query(Level.STUDY, {tags.AccessionNumber: b"Q1"}, Root.STUDY)))
    assert len(found) == 1, "it is found by what was supplied"
    store(archive, payload_of(6, 3, 1, AccessionNumber=""))
    quiet(archive, orders, 6)
    assert shown(archive, 6) == ("Q1", ["RQ1", "RQ1", "RQ1"], ["OTHER"])
    orders.unlink(uid(6), number_of(orders, "Q1"), ADT)
    quiet(archive, orders, 6)
    assert shown(archive, 6) == ("", ["", "", ""], [])
    after = [bytes(archive.retrieval.open(each).read(0, 500)) for each in archive.instances(study_query(6))]
    assert set(before) <= set(after)


@pytest.mark.parametrize("is_linked_last", [False, True])
def test_of_a_link_and_its_undoing_at_once_the_last_one_counts(
    archive: Archive, orders: Orders, monkeypatch: pytest.MonkeyPatch, is_linked_last: bool
) -> None:
    """The second is committed, and tells the archive, before the first one has told it."""
    store(archive, payload_of(6, 1, 1, AccessionNumber=""))
    orders.apply(order("A1", "P1"), ADT)
    number = number_of(orders, "A1")
    if is_linked_last:
        orders.link(uid(6), number, ADT)
    first, second = (orders.unlink, orders.link) if is_linked_last else (orders.link, orders.unlink)
    assert orders.corrections is not None
    supply, others = orders.corrections.supply, [second]

    def late(study: str, of: Callable[[], Supply], source: Source) -> Sequence[str]:
        while others:
            others.pop()(uid(6), number, ADT)
        return supply(study, of, source)

    monkeypatch.setattr(orders.corrections, "supply", late)
    first(uid(6), number, ADT)
    assert shown(archive, 6)[0] == ("A1" if is_linked_last else "")


def test_what_a_study_states_counts_more_than_what_is_supplied(archive: Archive, orders: Orders) -> None:
    store(archive, payload_of(6, 1, 1, AccessionNumber="OWN"))
    orders.apply(order("A1", "P1", uid(6)), ADT)
    quiet(archive, orders, 6)
    assert shown(archive, 6)[0] == "OWN"
    store(archive, payload_of(7, 1, 1, AccessionNumber=""))
    orders.apply(order("A2", "P1", uid(7)), ADT)
    quiet(archive, orders, 7)
    assert shown(archive, 7)[0] == "A2"
    store(archive, payload_of(7, 2, 1, AccessionNumber="LATE"))
    quiet(archive, orders, 7)
    assert shown(archive, 7)[0] == "LATE"


def test_two_orders_of_one_study_are_both_supplied_and_a_changed_order_is_followed(
    archive: Archive, orders: Orders
) -> None:
    store(archive, payload_of(6, 1, 1, AccessionNumber=""))
    orders.apply(order("A1", "P1", uid(6)), ADT)
    quiet(archive, orders, 6)
    orders.apply(order("A2", "P1"), ADT)
    orders.link(uid(6), number_of(orders, "A2"), ADT)
    assert shown(archive, 6)[:2] == ("A1", ["RA1,RA2"])
    cancel = OrderUpdate(action=OrderAction.CANCEL, patient=patient("P1", "X"), accession=Identifier("A2"))
    orders.apply(cancel, ADT)
    assert shown(archive, 6)[:2] == ("A1", ["RA1"])
    orders.unlink(uid(6), number_of(orders, "A1"), ADT)
    assert shown(archive, 6)[:2] == ("", [""]), "a canceled order supplies nothing"


def test_what_a_crash_prevented_is_supplied_when_the_study_is_told_of_again(archive: Archive, orders: Orders) -> None:
    store(archive, payload_of(6, 1, 1, AccessionNumber=""))
    corrections, orders.corrections = orders.corrections, None
    orders.apply(order("A1", "P1", uid(6)), ADT)
    quiet(archive, orders, 6)
    assert shown(archive, 6)[0] == ""
    orders.corrections = corrections
    quiet(archive, orders, 6)
    assert shown(archive, 6)[0] == "A1"
    with orders.read() as reading:
        assert [row.study_instance_uid for row in linking.studies_of(reading, number_of(orders, "A1"))] == [uid(6)]


def test_an_accession_number_that_dicom_does_not_allow_is_not_supplied(archive: Archive, orders: Orders) -> None:
    store(archive, payload_of(6, 1, 1, AccessionNumber=""))
    orders.apply(order("A" * 40, "P1", uid(6)), ADT)
    quiet(archive, orders, 6)
    assert shown(archive, 6)[0] == ""


def test_what_links_supply_is_the_same_after_a_rebuild(tmp_path: Path) -> None:
    with opened(tmp_path) as archive, open_orders(archive, WestIsOurs()) as orders:
        store(archive, payload_of(6, 1, 1, AccessionNumber=""))
        orders.apply(order("A1", "P1", uid(6)), ADT)
        quiet(archive, orders, 6)
        values = archive.corrected(uid(6), uid(6, 1))
    assert values[tags.AccessionNumber] == b"A1" and values[tags.RequestAttributesSequence]
    Archive.rebuild_index(tmp_path)
    with opened(tmp_path) as archive:
        assert archive.corrected(uid(6), uid(6, 1)) == values


def test_a_moved_visit_takes_the_studies_of_its_orders_along(archive: Archive, orders: Orders) -> None:
    """Studies of other visits stay, and the message may come again."""
    store(archive, payload_of(6, 1, 1), payload_of(7, 1, 1))
    visit = Identifier("V1", Issuer("HOSP"))
    for accession, study, of in (("A1", 6, visit), ("A2", 7, None)):
        orders.apply(replace(order(accession, "P1", uid(study)), visit=of), ADT)
        quiet(archive, orders, study)
    move = VisitMove(visit=visit, prior=Identifier("P1"), target=patient("P5", "Right^Person"))
    for _ in range(2):
        orders.apply(move, ADT)
    assert names(archive)["6"] == ("P5", "Right^Person")
    assert names(archive)["7"][0] == "P1" and names(archive)["1"][0] == "P1"
    assert made(archive).count("move") == 1
    (number,) = (facts["number"] for facts in correction.list_all(archive) if facts["operation"] == "move")
    correction.undo(archive, number, actor=actor("test"), reason="it was right before")
    assert names(archive)["6"][0] == "P1"


def test_a_retrieval_has_what_links_supply_where_corrections_are_sent(archive: Archive, orders: Orders) -> None:
    store(archive, payload_of(6, 1, 1, AccessionNumber=""))
    orders.apply(order("A1", "P1", uid(6)), ADT)
    quiet(archive, orders, 6)
    (instance,) = archive.instances(study_query(6))
    config = Config(data=archive.parts.layout.data, coercion=(Coercion(),))
    changes = coercion.Coercer(archive, config, "VIEWER").changes(instance)
    assert changes is not None
    stored = archive.retrieval.open(instance)
    source = coercion.apply(stored, stored.syntax, instance.pixel_data_offset, changes)
    sent = foreign.read_data_set(bytes(source.read(0, source.length)), stored.syntax)
    assert sent.AccessionNumber == "A1"
    (item,) = sent.RequestAttributesSequence
    assert (item.RequestedProcedureID, item.ScheduledProcedureStepID, item.StudyInstanceUID) == ("RA1", "SA1", uid(6))
    assert coercion.Coercer(archive, Config(data=config.data), "VIEWER").changes(instance) is None


def test_nobody_waits_for_the_ledger_if_there_is_nothing_to_supply(
    archive: Archive, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An MPPS that names a study which is not stored yet is answered while something long is deleted."""
    store(archive, payload_of(6, 1, 1, AccessionNumber=""))
    orders.apply(order("A1", "P1", uid(6)), ADT)
    quiet(archive, orders, 6)
    orders.apply(order("A2", "P1", uid(99)), ADT)
    monkeypatch.setattr(archive.parts.ledger, "locked", lambda: pytest.fail("it waits for the lock"))
    for study, accession in ((6, "A1"), (99, "A2")):
        orders.link(uid(study), number_of(orders, accession), ADT)


def test_an_undone_merge_gives_the_studies_back_and_what_came_later_stays(archive: Archive, orders: Orders) -> None:
    before = names(archive)
    orders.apply(PatientMerge(survivor=patient("P3", "Survivor^Name"), prior=Identifier("P1")), ADT)
    store(archive, payload_of(9, 1, 1), payload_of(10, 1, 1, patient_id="P3"))
    assert {study for study, (number, _) in names(archive).items() if number == "P3"} == {"1", "9", "10"}
    ((number, _),) = orders.merges()
    applied = orders.unmerge(number, Source(name="ann"), "two persons")
    assert [change.action for change in applied.changes if change.kind == "correction"] == ["undone"]
    after = names(archive)
    assert {study for study, (number, _) in after.items() if number == "P1"} == {"1", "9"}
    assert after["1"] == before["1"] and after["10"][0] == "P3"
    assert orders.apply(PatientMerge(survivor=patient("P3", "S"), prior=Identifier("P1")), ADT).warnings, "a replay"
    assert names(archive)["1"][0] == "P1"


# a merge and what the survivor is called ----------------------------------------------------------------


@pytest.fixture
def writes(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The operations of each write to the ledger."""
    found: list[list[str]] = []
    write = archive.parts.ledger.write

    def noted(records: Sequence[LedgerItem]) -> None:
        found.append([Operation(each.operation).name for each in records if isinstance(each, Correction)])
        write(records)

    monkeypatch.setattr(archive.parts.ledger, "write", noted)
    return found


def merge_of(survivor: PatientUpdate) -> PatientMerge:
    return PatientMerge(survivor=survivor, prior=Identifier("P1"))


def test_a_merge_and_the_name_of_the_survivor_are_one_write(
    archive: Archive, orders: Orders, writes: list[list[str]]
) -> None:
    """Whether the survivor has studies or not, and what the prior patient was called by a correction."""
    applied = orders.apply(merge_of(patient("P3", "Survivor^Name")), ADT)
    assert writes == [["MERGE", "CORRECT"]]
    assert [each.action for each in applied.changes if each.kind == "correction"] == ["merged", "corrected"]
    assert [each["number"] for each in correction.list_all(archive)] == [
        each.key for each in applied.changes if each.kind == "correction"
    ]
    assert names(archive)["1"] == ("P3", "Survivor^Name")
    orders.apply(merge_of(patient("P3", "Survivor^Name")), ADT)
    assert len(writes) == 1, "its repetition adds nothing"
    store(archive, payload_of(5, 1, 1, patient_id="P5"), payload_of(6, 1, 1, patient_id="P6"))
    orders.apply(patient("P5", "Other^Name"), ADT)
    del writes[:]
    orders.apply(PatientMerge(survivor=patient("P6", "Other^Name"), prior=Identifier("P5")), ADT)
    assert writes == [["MERGE", "CORRECT"]]
    assert {names(archive)[study] for study in "56"} == {("P6", "Other^Name")}
    store(archive, payload_of(7, 1, 1, patient_id="P7"))
    orders.apply(patient("P7", "New^Name"), ADT)
    del writes[:]
    orders.apply(PatientMerge(survivor=patient("P8", "New^Name"), prior=Identifier("P7")), ADT)
    assert writes == [["MERGE", "CORRECT"]], "a correction of the prior patient does not go along"
    assert names(archive)["7"] == ("P8", "New^Name")


def test_a_merge_corrects_nothing_where_the_survivor_is_called_so_already(
    archive: Archive, orders: Orders, writes: list[list[str]]
) -> None:
    stated = names(archive)["1"][1]
    orders.apply(merge_of(patient("P3", stated.upper())), ADT)
    assert writes == [["MERGE"]]
    orders.unmerge(orders.merges()[0][0], Source(name="ann"), "two persons")
    orders.apply(merge_of(patient("P3", "New^Name")), replace(ADT, reference="18"))
    orders.unmerge(orders.merges()[0][0], Source(name="ann"), "two persons")
    assert names(archive)["1"] == ("P1", stated)
    orders.apply(merge_of(patient("P3", "New^Name")), replace(ADT, reference="19"))
    assert writes[1:] == [["UNDO"], ["MERGE", "CORRECT"], ["UNDO"], ["MERGE"]], "the name is in force still"
    assert names(archive)["1"] == ("P3", "New^Name")
    orders.apply(PatientMerge(survivor=patient("P77", "Any"), prior=Identifier("P78")), ADT)
    assert writes[-1] == ["MERGE"], "neither has a study"


def test_a_value_that_dicom_does_not_allow_prevents_no_merge(archive: Archive, orders: Orders) -> None:
    survivor = PatientUpdate(identifiers=(Identifier("P3"),), attributes={"PatientBirthDate": "next year"})
    orders.apply(merge_of(survivor), ADT)
    assert made(archive) == ["merge"] and names(archive)["1"][0] == "P3"


def test_of_a_merge_that_a_crash_cut_off_the_rest_follows_when_the_message_is_applied_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as archive:
        store(archive, payload_of(1, 1, 1))
        with open_orders(archive, WestIsOurs()) as orders:
            write = archive.parts.ledger.write

            def cut_off(records: Sequence[LedgerItem]) -> None:
                write(records[:1])
                raise EngineError("the process was killed")

            monkeypatch.setattr(archive.parts.ledger, "write", cut_off)
            with pytest.raises(EngineError):
                orders.apply(merge_of(patient("P3", "Survivor^Name")), ADT)
    with opened(tmp_path) as archive, open_orders(archive, WestIsOurs()) as orders:
        assert made(archive) == ["merge"]
        for _ in range(2):
            orders.apply(merge_of(patient("P3", "Survivor^Name")), ADT)
        assert made(archive) == ["merge", "correct"]
        assert names(archive)["1"] == ("P3", "Survivor^Name")
        ((number, _),) = orders.merges()
        orders.unmerge(number, Source(name="ann"), "two persons")
        assert names(archive)["1"][0] == "P1"
