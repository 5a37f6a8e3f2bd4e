"""Twenty complaints that users of other archives and integration engines have, and the test of each.

1   "timeout waiting for ACK", and no byte of the answer is shown      11  Request Attributes are doubled
2   a framing error is only on the console                             12  an order has no station
3   a late answer makes thousands of duplicates                        13  entries stay SCHEDULED for ever
4   one bad message blocks or reorders the others                      14  a step is not completed, since UIDs differ
5   umlauts hang the listener or vanish                                15  a list is empty, and nothing says why
6   an order is refused, since character sets differ                   16  a later order overwrites one of its study
7   two requests at once make two patients                             17  rules make no UPS events
8   a C-STORE is refused, since issuers differ within a study          18  a study is complete too early
9   a merge leaves the worklist behind                                 19  a notification gives up, and events are lost
10  a stored study cannot be linked to an unused order                 20  several archives, one FHIR server
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from engine.archive.archive import Archive
from engine.archive.hospital import open_orders
from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.exchange.fhir_push import Server, push
from engine.orders import linking, ordering
from engine.orders.linking import Named
from engine.orders.registry import NoRules, Orders
from engine.orders.values import (
    Identifier,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    Source,
    StepUpdate,
)
from engine.orders.workitems.store import Workitems
from tests.archive.filled import opened, payload_of, store, uid
from tests.exchange import test_fhir_push
from tests.orders import test_workitems
from tests.orders.test_limits import BEGUN
from tests.orders.workitem_sets import scheduled

ROOT = Path(__file__).resolve().parents[1]
RIS = Source(name="RIS")
HERE = "archive/test_complaints.py"
HOSPITAL, STATES = "archive/test_hospital.py", "archive/feed/test_study_states.py"
TESTS = {
    1: "messaging/test_client.py::test_what_is_no_answer_is_said_with_its_first_bytes",
    2: "hl7/test_frame.py::test_oddities_of_senders_are_understood_and_named",
    3: "messaging/test_listener.py::test_a_message_that_comes_again_is_answered_the_same_and_applied_once",
    4: "exchange/test_rules.py::test_what_cannot_be_delivered_is_set_aside_and_sent_again_on_request",
    5: "hl7/test_character_set.py::test_a_wrong_declaration_is_seen_and_named",
    6: f"{HERE}::test_an_order_and_a_study_in_other_character_sets_belong_together",
    7: f"{HERE}::test_many_messages_at_once_make_one_patient",
    8: f"{HERE}::test_an_instance_of_another_issuer_is_stored_in_the_same_study",
    9: "services/test_worklist_scp.py::test_an_order_a_merge_a_name_and_a_cancellation_are_seen_in_the_next_answer",
    10: "web/test_api_reconciliation.py::test_a_proposal_is_linked_supplies_the_study_and_is_undone",
    11: f"{HOSPITAL}::test_a_link_supplies_what_the_study_lacks_and_its_undoing_takes_that_away",
    12: "services/test_worklist_scp.py::test_stations_have_rules_and_peculiarities",
    13: f"{HOSPITAL}::test_a_study_that_has_come_is_linked_by_each_rule_and_its_steps_end_when_it_is_complete",
    14: f"{HERE}::test_a_step_of_another_study_uid_completes_the_one_of_its_accession_number",
    15: "browser/test_upkeep.py::test_the_worklist_shows_what_is_scheduled_and_why_a_station_has_nothing",
    16: f"{HERE}::test_a_later_order_of_a_study_leaves_the_earlier_one",
    17: f"{HERE}::test_a_workitem_of_a_rule_is_told_to_who_has_subscribed",
    18: f"{STATES}::test_a_study_arrives_becomes_quiet_and_complete_and_another_instance_reopens_it",
    19: "system/test_subscriptions.py::test_a_kill_loses_no_event_and_changes_no_number",
    20: f"{HERE}::test_several_archives_keep_their_studies_at_one_fhir_server",
}  # fmt: skip


@pytest.mark.parametrize("number", TESTS)
def test_each_complaint_has_its_test(number: int) -> None:
    path, _, name = TESTS[number].partition("::")
    functions = [
        node.name for node in ast.walk(ast.parse((ROOT / path).read_text())) if isinstance(node, ast.FunctionDef)
    ]
    assert name in functions


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with opened(tmp_path / "data") as found:
        yield found


@pytest.fixture
def orders(archive: Archive) -> Iterator[Orders]:
    with open_orders(archive, NoRules()) as registry:
        yield registry


def order(accession: str, study: str, name: str = "Doe^Jane", step: str = "S1") -> OrderUpdate:
    steps = (StepUpdate(modality="CT", scheduled_procedure_step_id=step),)
    return OrderUpdate(
        action=OrderAction.NEW,
        patient=PatientUpdate(identifiers=(Identifier("P1"),), attributes={"PatientName": name}),
        accession=Identifier(accession),
        procedures=(ProcedureUpdate(study_instance_uid=study, requested_procedure_id=f"R{accession}", steps=steps),),
    )


def states(orders: Orders, accession: str) -> list[str]:
    with orders.read() as reading:
        found = ordering.find(reading, accession=Identifier(accession))
        assert found is not None
        return [step.state.value for _, step in ordering.steps_of(reading, found[0])]


def test_an_order_and_a_study_in_other_character_sets_belong_together(archive: Archive, orders: Orders) -> None:
    orders.apply(order("A1", uid(1), "\u9673^\u5927\u6587"), RIS)
    orders.apply(order("A2", uid(2), "M\u00fcller^J\u00f6rg"), RIS)
    store(archive, payload_of(1, 1, 1, patient_name="Chen^Da Wen", AccessionNumber=""))
    store(archive, payload_of(2, 1, 1, patient_name="M\u00fcller^J\u00f6rg", SpecificCharacterSet="ISO_IR 100"))
    for study in (1, 2):
        orders.study_arrived(Named(study_instance_uid=uid(study), patient_id="P1"), RIS)
        with orders.read() as reading:
            assert [row.rule for row in linking.orders_of(reading, uid(study))] == ["study-uid"]
    assert archive.corrected(uid(1), uid(1, 1))[tags.AccessionNumber] == b"A1"


def test_many_messages_at_once_make_one_patient(archive: Archive, orders: Orders) -> None:
    failures: list[BaseException] = []
    begin = threading.Barrier(8)

    def apply(number: int) -> None:
        try:
            begin.wait()
            orders.apply(order(f"A{number}", f"1.2.{number}"), RIS)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=apply, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    counts = orders.counts()
    assert (counts["patients"], counts["orders"]) == (1, 8)
    assert all(states(orders, f"A{number}") == ["SCHEDULED"] for number in range(8))


def test_an_instance_of_another_issuer_is_stored_in_the_same_study(archive: Archive) -> None:
    store(archive, payload_of(1, 1, 1, IssuerOfPatientID="HOSP"), payload_of(1, 1, 2, IssuerOfPatientID="OTHER"))
    store(archive, payload_of(1, 2, 1))
    assert len(list(archive.find("instance", StudyInstanceUID=uid(1), SOPInstanceUID=""))) == 3
    assert len(list(archive.find("study", StudyInstanceUID=uid(1)))) == 1


def test_a_step_of_another_study_uid_completes_the_one_of_its_accession_number(orders: Orders) -> None:
    orders.apply(order("A1", "1.2.3"), RIS)
    item = DataSet({tags.StudyInstanceUID: b"1.2.99", tags.AccessionNumber: b"A1"})
    begun = {**BEGUN, tags.ScheduledStepAttributesSequence: [item]}
    orders.create_performed("1.2.9", DataSet(begun), RIS)
    assert states(orders, "A1") == ["STARTED"]
    orders.modify_performed("1.2.9", DataSet({tags.PerformedProcedureStepStatus: b"COMPLETED"}), RIS)
    assert states(orders, "A1") == ["COMPLETED"]
    with orders.read() as reading:
        assert [row.rule for row in linking.orders_of(reading, "1.2.99")] == ["mpps"]


def test_a_performed_step_that_fits_several_procedures_changes_none(orders: Orders) -> None:
    value = order("A1", "1.2.3")
    second = replace(value.procedures[0], study_instance_uid="1.2.4", requested_procedure_id="R2")
    orders.apply(replace(value, procedures=(*value.procedures, second)), RIS)
    named = {tags.StudyInstanceUID: b"1.2.99", tags.AccessionNumber: b"A1"}
    cases: list[tuple[dict[int, bytes], str]] = [
        ({}, "SCHEDULED"),
        ({tags.RequestedProcedureID: b"R9"}, "SCHEDULED"),
        ({tags.RequestedProcedureID: b"R2"}, "STARTED"),
    ]
    for number, (more, expected) in enumerate(cases):
        begun = {**BEGUN, tags.ScheduledStepAttributesSequence: [DataSet({**named, **more})]}
        applied, _ = orders.create_performed(f"1.2.9.{number}", DataSet(begun), RIS)
        assert states(orders, "A1") == ["SCHEDULED", expected]
        assert any("names no step" in each for each in applied.warnings) == (expected == "SCHEDULED")


def test_a_later_order_of_a_study_leaves_the_earlier_one(orders: Orders) -> None:
    """A grouped examination: one study, two orders."""
    orders.apply(order("A1", "1.2.3", step="S1"), RIS)
    orders.apply(order("A2", "1.2.3", step="S2"), RIS)
    orders.study_arrived(Named(study_instance_uid="1.2.3", patient_id="P1"), RIS)
    assert states(orders, "A1") == states(orders, "A2") == ["SCHEDULED"]
    with orders.read() as reading:
        assert len(linking.orders_of(reading, "1.2.3")) == 2


def test_a_workitem_of_a_rule_is_told_to_who_has_subscribed(orders: Orders) -> None:
    workitems = Workitems(orders)
    workitems.subscribe(test_workitems.GLOBAL, test_workitems.A, has_lock=False)
    workitems.create("1.2.1", scheduled(), "rule:ai:segment", is_ours=True)
    assert ("1.2.1", 1, "SCHEDULED") in test_workitems.events_of(workitems, "AE_A")


def test_several_archives_keep_their_studies_at_one_fhir_server(tmp_path: Path) -> None:
    """Each study once, with the address of its own archive."""
    records = test_fhir_push.Records()
    handler = type("Handler", (test_fhir_push._Handler,), {"records": records})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/fhir"
    try:
        for _ in range(2):
            for name, studies in (("one", (1, 2)), ("two", (3,))):
                with opened(tmp_path / name) as archive:
                    store(archive, *(payload_of(study, 1, 1) for study in studies))
                    push(archive, Server(url=url, dicomweb=f"https://{name}.example/dicom-web"), lambda uids: None)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert records.studies() == [1, 2, 3]
    addresses = [resource["contained"][0]["address"].split("/")[2] for resource in records.resources.values()]
    assert sorted(addresses) == ["one.example", "one.example", "two.example"]
