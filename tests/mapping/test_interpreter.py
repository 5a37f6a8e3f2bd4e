"""Messages say what HL7 and IHE say they say."""

from __future__ import annotations

from typing import Any

import pytest

from engine.hl7.acknowledgement import Condition
from engine.hl7.message import parse
from engine.mapping import interpreter
from engine.mapping.interpreter import Mapped, Options
from engine.mapping.profile import base, base_names
from engine.orders.values import (
    AppointmentAction,
    AppointmentUpdate,
    Code,
    Identifier,
    Issuer,
    OrderAction,
    OrderUpdate,
    PatientIdentifierChange,
    PatientIdentifierMove,
    PatientLink,
    PatientMerge,
    PatientUpdate,
    ReportState,
    ReportUpdate,
    StepState,
    VisitMove,
    VisitState,
    VisitUpdate,
)
from tests.hl7.samples import ADT_A08, OMI_O23, ORM_O01, lines

HOSP = Issuer("HOSP")
ALL = Options()


def head(kind: str, version: str = "2.5.1") -> str:
    return f"MSH|^~\\&|KIS|ST|FILMROOM|RAD|20261130101500||{kind}|1|P|{version}||||||UNICODE UTF-8"


def mapped(*segments: str | bytes, options: Options = ALL, profile: str = "ihe-2.5.1") -> Mapped:
    data = segments[0] if isinstance(segments[0], bytes) else lines(*segments)  # type: ignore[arg-type]
    return interpreter.apply(parse(data), base(profile), options)


def values(*segments: str | bytes, **more: Any) -> list[Any]:
    found = mapped(*segments, **more)
    assert not found.faults, found.faults
    return found.values


def test_an_update_of_a_visit_says_who_and_where() -> None:
    patient, visit = values(ADT_A08)
    assert patient == PatientUpdate(
        identifiers=(
            Identifier("4711", Issuer("HOSP", "1.2.3", "ISO"), "MR"),
            Identifier("X99", Issuer("OTHER"), "PI"),
        ),
        attributes={"PatientName": "Müller^Jörg^Karl^Dr^jr", "PatientBirthDate": "19600229", "PatientSex": "M"},
    )
    assert visit == VisitUpdate(
        patient=patient.identifiers, visit=Identifier("V123", Issuer("VISITS")), state=None,
        attributes={"CurrentPatientLocation": "WARD1^101^2", "ReferringPhysicianName": "House^Gregory"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("event", "state", "arrived"),
    [
        ("A01", VisitState.PRESENT, False),
        ("A02", VisitState.PRESENT, False),
        ("A03", VisitState.DISCHARGED, False),
        ("A04", VisitState.PRESENT, False),
        ("A05", VisitState.EXPECTED, False),
        ("A06", VisitState.PRESENT, False),
        ("A07", VisitState.PRESENT, False),
        ("A10", VisitState.PRESENT, True),
        ("A11", VisitState.CANCELED, False),
        ("A12", VisitState.PRESENT, False),
        ("A13", VisitState.PRESENT, False),
        ("A38", VisitState.CANCELED, False),
    ],
)
def test_each_event_of_a_visit_has_its_state(event: str, state: VisitState, arrived: bool) -> None:
    _, visit = values(head(f"ADT^{event}"), "PID|1||1^^^HOSP", "PV1|1|I|||||||||||||||||V1^^^V")
    assert (visit.state, visit.arrived) == (state, arrived)


@pytest.mark.parametrize("event", ["A28", "A31"])
def test_an_update_of_a_person_says_nothing_of_a_visit(event: str) -> None:
    (patient,) = values(head(f"ADT^{event}"), "PID|1||1^^^HOSP", "PV1|1|I|||||||||||||||||V1")
    assert isinstance(patient, PatientUpdate)


@pytest.mark.parametrize("event", ["A18", "A34", "A36", "A40"])
def test_a_merge_names_who_survives(event: str) -> None:
    (merge,) = values(head(f"ADT^{event}"), "PID|1||1^^^HOSP||New", "MRG|2^^^HOSP")
    assert merge == PatientMerge(
        survivor=PatientUpdate(identifiers=(Identifier("1", HOSP),), attributes={"PatientName": "New"}),
        prior=Identifier("2", HOSP),
    )


def test_a_message_may_have_several_merges() -> None:
    found = values(head("ADT^A40"), "PID|1||1^^^HOSP", "MRG|2^^^HOSP", "PID|1||3^^^HOSP", "MRG|4^^^HOSP~5^^^HOSP")
    assert [(merge.survivor.identifiers[0].value, merge.prior.value) for merge in found] == [
        ("1", "2"), ("3", "4"), ("3", "5"),
    ]  # fmt: skip


def test_other_changes_of_identifiers_are_told_apart() -> None:
    pid, mrg = "PID|1||1^^^HOSP", "MRG|2^^^HOSP||||V7^^^VIS"
    one, two = Identifier("1", HOSP), Identifier("2", HOSP)
    target = PatientUpdate(identifiers=(one,))
    assert values(head("ADT^A47"), pid, mrg) == [PatientIdentifierChange(prior=two, current=target)]
    assert values(head("ADT^A43"), pid, mrg) == [PatientIdentifierMove(identifier=two, target=target)]
    assert values(head("ADT^A45"), pid, mrg) == [
        VisitMove(visit=Identifier("V7", Issuer("VIS")), prior=two, target=target)
    ]
    for event, linked in (("A24", True), ("A37", False)):
        assert values(head(f"ADT^{event}"), pid, "PID|2||2^^^HOSP") == [PatientLink(one=one, other=two, linked=linked)]


def test_an_imaging_order_has_a_step_for_each_of_its_ipc() -> None:
    (order,) = values(OMI_O23)
    assert isinstance(order, OrderUpdate)
    assert (order.action, order.placer, order.filler, order.accession) == (
        OrderAction.NEW,
        Identifier("P100", Issuer("RIS")),
        Identifier("F100", Issuer("RIS")),
        Identifier("ACC1", Issuer("RIS")),
    )
    assert order.visit == Identifier("V124")
    assert order.attributes["RequestingPhysician"] == "Cuddy^Lisa"
    assert order.attributes["MedicalAlerts"] == "allergic to contrast"
    (procedure,) = order.procedures
    assert (procedure.requested_procedure_id, procedure.study_instance_uid) == ("RP1", "1.2.276.0.1")
    assert procedure.attributes["RequestedProcedureCodeSequence"] == (Code("CT01", "L", "CT Thorax"),)
    assert procedure.attributes["RequestedProcedurePriority"] == "STAT"
    first, second = procedure.steps
    assert (first.scheduled_procedure_step_id, second.scheduled_procedure_step_id) == ("SPS1", "SPS2")
    assert (first.modality, first.station_aes, first.start_date, first.start_time) == (
        "CT", ("CTSCANNER",), "20261201", "080000",
    )  # fmt: skip
    assert first.state is StepState.SCHEDULED
    assert first.attributes["TimezoneOffsetFromUTC"] == "+0100", "from the time itself, and from nothing else"
    assert first.attributes["ScheduledProtocolCodeSequence"] == (Code("PC1", "L", "Thorax"),)


def test_an_old_order_message_has_its_step_in_obr_and_zds() -> None:
    for profile in base_names():
        (order,) = values(ORM_O01, profile=profile)
        assert (order.placer, order.filler, order.accession) == tuple(map(Identifier, ("P101", "F101", "ACC2")))
        (procedure,) = order.procedures
        assert (procedure.requested_procedure_id, procedure.study_instance_uid) == ("RP2", "1.2.276.0.2")
        (step,) = procedure.steps
        assert (step.scheduled_procedure_step_id, step.modality, step.start_date, step.start_time) == (
            "SPS3", "US", "20261201", "090000",
        )  # fmt: skip
        assert "TimezoneOffsetFromUTC" not in step.attributes


def test_every_order_of_a_message_counts() -> None:
    found = values(
        head("ORM^O01"), "PID|1||1^^^HOSP", "ORC|NW|P1|F1", "OBR|1|P1|F1|A||||||||||||||ACC1", "NTE|1||first",
        "ORC|CA|P2|F2", "OBR|1|P2|F2|B||||||||||||||ACC2", "OBR|2|P3|F3|C||||||||||||||ACC3",
    )  # fmt: skip
    assert [(order.action, order.accession.value) for order in found] == [
        (OrderAction.NEW, "ACC1"), (OrderAction.CANCEL, "ACC2"), (OrderAction.CANCEL, "ACC3"),
    ]  # fmt: skip
    assert found[0].procedures[0].attributes["RequestedProcedureComments"] == "first"
    assert "RequestedProcedureComments" not in found[1].procedures[0].attributes


@pytest.mark.parametrize(
    ("control", "status", "action", "state"),
    [
        ("NW", "", OrderAction.NEW, StepState.SCHEDULED),
        ("NW", "SC", OrderAction.NEW, StepState.SCHEDULED),
        ("NW", "IP", OrderAction.NEW, StepState.SCHEDULED),
        ("XO", "SC", OrderAction.CHANGE, StepState.SCHEDULED),
        ("XO", "CM", OrderAction.COMPLETE, StepState.COMPLETED),
        ("CA", "CA", OrderAction.CANCEL, StepState.CANCELED),
        ("CA", "", OrderAction.CANCEL, StepState.CANCELED),
        ("DC", "CA", OrderAction.DISCONTINUE, StepState.CANCELED),
        ("DC", "", OrderAction.DISCONTINUE, StepState.DISCONTINUED),
        ("SC", "CM", OrderAction.COMPLETE, StepState.COMPLETED),
        ("SC", "A", OrderAction.COMPLETE, StepState.COMPLETED),
        ("SC", "ZZ", OrderAction.STATUS, None),
    ],
)
def test_control_and_status_of_an_order_are_understood(
    control: str, status: str, action: OrderAction, state: StepState | None
) -> None:
    (order,) = values(head("ORM^O01"), "PID|1||1^^^HOSP", f"ORC|{control}|P1|||{status}", "OBR|1|P1")
    assert (order.action, order.procedures[0].steps[0].state) == (action, state)


def test_appointments_name_their_order_and_their_time() -> None:
    for event, action in (("S12", AppointmentAction.BOOK), ("S13", AppointmentAction.CHANGE),
                          ("S14", AppointmentAction.CHANGE), ("S15", AppointmentAction.CANCEL),
                          ("S26", AppointmentAction.NO_SHOW)):  # fmt: skip
        (found,) = values(
            head(f"SIU^{event}"), "SCH|A1||||||||||^^^20261202100000|||||||||||||||P100^RIS|F100^RIS",
            "PID|1||1^^^HOSP", "RGS|1", "AIL|1||RAD^CT2",
        )  # fmt: skip
        assert isinstance(found, AppointmentUpdate)
        assert (found.action, found.placer, found.room) == (action, Identifier("P100", Issuer("RIS")), "CT2")
        assert (found.step.start_date, found.step.start_time) == ("20261202", "100000")


def test_a_report_has_its_state_and_its_order() -> None:
    for code, state in (("F", ReportState.FINAL), ("P", ReportState.PRELIMINARY), ("C", ReportState.CORRECTED)):
        (found,) = values(
            head("ORU^R01"), "PID|1||1^^^HOSP", f"OBR|1|P1|F1|X{'|' * 14}ACC1{'|' * 7}{code}", "OBX|1|TX|||text"
        )
        assert isinstance(found, ReportUpdate)
        assert (found.state, found.accession) == (state, Identifier("ACC1"))


def test_absent_says_nothing_and_null_deletes() -> None:
    patient, *_ = values(head("ADT^A08"), 'PID|1||1^^^HOSP||""||""|')
    assert patient.attributes == {"PatientName": "", "PatientBirthDate": ""} and not patient.snapshot
    patient, *_ = values(head("ADT^A08"), "PID|1||1^^^HOSP", options=Options(snapshot=True))
    assert patient.snapshot


def test_names_are_put_into_the_order_of_dicom() -> None:
    def name(text: str) -> str:
        return str(values(head("ADT^A31"), f"PID|1||1^^^HOSP||{text}")[0].attributes.get("PatientName"))

    assert name("Doe^John^Q^jr^Dr^MD") == "Doe^John^Q^Dr^jr MD"
    japanese = name("Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P")
    assert japanese == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert name("van der Berg&van der&Berg^Jan") == "van der Berg^Jan"
    assert name("A\\S\\B=C^D") == "A B C^D"


def test_partial_and_wrong_values_are_left_out_with_a_warning_that_does_not_show_them() -> None:
    found = mapped(head("ADT^A31"), "PID|1||1^^^HOSP||X||1960|Q")
    assert found.values[0].attributes == {"PatientName": "X"}
    assert len(found.warnings) == 2 and not any("1960" in each for each in found.warnings)


def test_long_descriptions_are_cut_and_identifiers_never() -> None:
    found = mapped(head("ORM^O01"), f"PID|1||{'1' * 100}^^^HOSP", f"ORC|NW|{'2' * 99}", f"OBR|1|P1||X^{'d' * 99}")
    order = found.values[0]
    assert order.patient.identifiers[0].value == "1" * 100 and order.placer.value == "2" * 99
    assert len(order.procedures[0].attributes["RequestedProcedureDescription"]) == 64
    assert any("cut to 64" in each for each in found.warnings)


def test_identifiers_keep_blanks_and_zeros() -> None:
    patient, *_ = values(head("ADT^A31"), "PID|1||00 47^^^HOSP")
    assert patient.identifiers[0].value == "00 47"


def test_trusted_authorities_choose_the_primary_identifier() -> None:
    pid = "PID|1||1^^^A~2^^^B~3^^^C&1.2&ISO"
    options = Options(authorities=("1.2", "A"))
    patient, *_ = values(head("ADT^A31"), pid, options=options)
    assert [each.value for each in patient.identifiers] == ["3", "1"]
    found = mapped(head("ADT^A31"), "PID|1||2^^^B", options=options)
    assert [fault.condition for fault in found.faults] == [Condition.UNKNOWN_KEY] and not found.values


def test_weight_and_height_come_in_kilograms_and_metres() -> None:
    (order,) = values(
        head("ORM^O01"), "PID|1||1^^^HOSP", "ORC|NW|P1", "OBR|1|P1", "OBX|1|NM|29463-7^Body weight^LN||81500|g",
        "OBX|2|NM|^BODY HEIGHT||178|cm", "OBX|3|NM|8302-2||tall|m",
    )  # fmt: skip
    assert (order.attributes["PatientWeight"], order.attributes["PatientSize"]) == ("81.5", "1.78")


@pytest.mark.parametrize(
    ("segments", "condition", "location"),
    [
        ((head(""),), Condition.REQUIRED_FIELD_MISSING, ("MSH", 1, 9)),
        ((head("ADT^A99"), "PID|1||1"), Condition.UNSUPPORTED_EVENT_CODE, ("MSH", 1, 9)),
        ((head("MDM^T02"), "PID|1||1"), Condition.UNSUPPORTED_MESSAGE_TYPE, ("MSH", 1, 9)),
        ((head("ADT^A08"),), Condition.REQUIRED_FIELD_MISSING, ("PID", 1, 3)),
        ((head("ADT^A08"), "PID|1||^^^HOSP"), Condition.REQUIRED_FIELD_MISSING, ("PID", 1, 3)),
        ((head("ADT^A40"), "PID|1||1"), Condition.SEGMENT_SEQUENCE, ("MRG", 1, 0)),
        ((head("ADT^A40"), "PID|1||1", "MRG|"), Condition.REQUIRED_FIELD_MISSING, ("MRG", 1, 1)),
        ((head("ADT^A40"), "PID|1||1", "MRG|1"), Condition.DATA_TYPE, ("MRG", 1, 1)),
        ((head("ADT^A24"), "PID|1||1"), Condition.SEGMENT_SEQUENCE, ("PID", 1, 0)),
        ((head("ORM^O01"), "PID|1||1"), Condition.SEGMENT_SEQUENCE, ("ORC", 1, 0)),
        ((head("ORM^O01"), "PID|1||1", "ORC|QQ|P1"), Condition.TABLE_VALUE, ("ORC", 1, 1)),
        ((head("ORM^O01"), "PID|1||1", "ORC|NW"), Condition.REQUIRED_FIELD_MISSING, ("ORC", 1, 2)),
    ],
)
def test_what_cannot_be_mapped_says_where(
    segments: tuple[str, ...], condition: Condition, location: tuple[str, int, int]
) -> None:
    found = mapped(*segments)
    assert not found.values
    assert (found.faults[0].condition, found.faults[0].location) == (condition, location)
