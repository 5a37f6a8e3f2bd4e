"""Rules that make workitems: once for an event, with patient, requests and input, and late instances with the first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import Config
from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.exchange import runner, workitem_making
from engine.exchange.settings import Rule
from engine.exchange.workitem_making import Subject, created, inputs_of
from engine.orders.attributes import Items, values_of
from engine.orders.settings import WorkitemTemplate
from engine.orders.values import (
    Identifier,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    ReportState,
    ReportUpdate,
    Source,
    StepUpdate,
)
from engine.orders.workitems import rules as workitem_rules
from engine.orders.workitems.facts import text_of
from engine.orders.workitems.search import Search, question_of
from engine.orders.workitems.store import Workitems
from engine.outbox import follower, tables
from tests import samples
from tests.archive.filled import store
from tests.exchange.rule_places import Place, placed, study_uid
from tests.orders import workitem_sets
from tests.system.server import wait_for

SEGMENT = WorkitemTemplate(
    name="segment",
    label="Segment the liver",
    worklist="AI",
    priority="HIGH",
    code="W1^99X^Segmentation",
    station_class="GPU",
    parameters={"threshold": "0.5"},
)


BEGUN = {
    tags.PerformedProcedureStepStatus: b"IN PROGRESS", tags.PerformedProcedureStepID: b"PPS1", tags.Modality: b"CT",
    tags.PerformedStationAETitle: b"CT1", tags.PerformedProcedureStepStartDate: b"20261130",
    tags.PerformedProcedureStepStartTime: b"0900", tags.PatientID: b"P7", tags.PatientName: b"Doe^Jane",
}  # fmt: skip


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (runner, tables, follower):
        monkeypatch.setattr(module, "CHECK_S", 0.02)


def stored(place: Place) -> list[tuple[str, Items]]:
    running, workitems = Search(question_of(workitem_making.Identifier({}))), Workitems(place.engine.orders())
    found: list[tuple[str, Items]] = []
    while (more := workitems.read(running)) is not None:
        found += more
    return found


def items_of(items: Items, tag: int) -> Iterator[Items]:
    value = items.get(tag) or []
    assert not isinstance(value, bytes)
    yield from map(values_of, value)


def instances_of(items: Items) -> int:
    inputs = items_of(items, tags.InputInformationSequence)
    return sum(1 for each in inputs for _ in items_of(each, tags.ReferencedSOPSequence))


def test_a_study_becomes_one_workitem_and_late_instances_join_it_until_it_is_claimed(tmp_path: Path) -> None:
    rule = Rule(
        name="ai", after="study_quiet", action="workitem", to=("segment",), keys={"ModalitiesInStudy": "CT"},
        retry_s=0.01,
    )  # fmt: skip
    with placed(tmp_path / "data", [rule], workitems=(SEGMENT,)) as place:
        workitems = Workitems(place.engine.orders())
        place.arrive(1, count=2, PatientID="P7", AccessionNumber="A7")
        place.arrive(2, modality="MR")
        wait_for(lambda: stored(place), what="the workitem")
        ((uid, items),) = stored(place)
        assert text_of(items, tags.ProcedureStepLabel) == "Segment the liver"
        assert text_of(items, tags.WorklistLabel) == "AI"
        assert text_of(items, tags.PatientID) == "P7"
        assert text_of(items, tags.InputReadinessState) == "READY"
        (request,) = items_of(items, tags.ReferencedRequestSequence)
        assert text_of(request, tags.AccessionNumber) == "A7"
        assert text_of(request, tags.StudyInstanceUID) == study_uid(1)
        (station,) = items_of(items, tags.ScheduledStationClassCodeSequence)
        assert text_of(station, tags.CodingSchemeDesignator) == "99LOCAL"
        assert instances_of(items) == 2

        place.arrive(1, count=3, PatientID="P7", AccessionNumber="A7")
        wait_for(lambda: instances_of(workitems.get(uid)) == 3, what="the late instance")
        assert len(stored(place)) == 1
        workitems.change_state(uid, "IN PROGRESS", "1.2.3", "AI1")
        place.arrive(1, count=4, PatientID="P7", AccessionNumber="A7")
        wait_for(lambda: len(stored(place)) == 2, what="another workitem")
        assert instances_of(workitems.get(uid)) == 3, "who performs it is not disturbed"
        position = place.outbox.load("rule:ai:segment")
        assert position is not None


def test_what_a_performer_has_made_of_a_study_is_no_work_again(tmp_path: Path) -> None:
    rule = Rule(name="ai", after="study_quiet", action="workitem", to=("segment",), retry_s=0.01)
    results = [samples.instance(1, 2, 1), samples.instance(1, 3, 1)]
    named = workitem_sets.item({tags.ReferencedSOPInstanceUID: results[0].SOPInstanceUID.encode()})
    outputs = [
        workitem_sets.item({
            tags.SeriesInstanceUID: result.SeriesInstanceUID.encode(),
            tags.ReferencedSOPSequence: references,
        })
        for result, references in zip(results, ([named], []), strict=True)  # of the second one the whole series
    ]  # fmt: skip
    done = workitem_sets.item({tags.OutputInformationSequence: outputs})
    with placed(tmp_path / "data", [rule], workitems=(SEGMENT,)) as place:
        workitems = Workitems(place.engine.orders())
        place.arrive(1, count=2)
        wait_for(lambda: stored(place), what="the workitem")
        ((uid, _),) = stored(place)
        workitems.change_state(uid, "IN PROGRESS", "1.2.3", "AI1")
        change = workitem_sets.changed("1.2.3", UnifiedProcedureStepPerformedProcedureSequence=[done])
        workitems.update(uid, change, "AI1", is_ours=True)
        store(place.archive, *map(samples.encoded, results), aet="AI1")
        place.follow()
        place.arrive(2)
        wait_for(lambda: len(stored(place)) > 1, what="the workitem of the next study")
        assert {text_of(items, tags.StudyInstanceUID) for _, items in stored(place)} == {study_uid(1), study_uid(2)}
        assert len(stored(place)) == 2
        place.arrive(1, count=3)
        wait_for(lambda: len(stored(place)) == 3, what="the workitem of a late instance")


def test_an_event_that_comes_again_makes_nothing(tmp_path: Path) -> None:
    rule = Rule(name="ai", after="study_complete", action="workitem", to=("segment",), retry_s=0.01)
    with placed(tmp_path / "data", [rule], workitems=(SEGMENT,)) as place:
        before = place.outbox.load("rule:ai:segment")
        assert before is not None
        place.arrive(1)
        wait_for(lambda: stored(place), what="the workitem")
        ((uid, _),) = stored(place)
        Workitems(place.engine.orders()).change_state(uid, "IN PROGRESS", "1.2.3", "AI1")
        wait_for(lambda: place.outbox.load("rule:ai:segment").cursor != before.cursor, what="the position")  # type: ignore[union-attr]
    place.outbox.save(before)  # as if the process had died before the position was saved
    with placed(tmp_path / "data", [rule], workitems=(SEGMENT,)) as place:
        place.arrive(2)
        wait_for(lambda: len(stored(place)) == 2, what="the workitem of the next study")
        assert uid in [each for each, _ in stored(place)]


def test_an_order_becomes_a_workitem_without_input(tmp_path: Path) -> None:
    rule = Rule(name="plan", after="order", action="workitem", to=("segment",), retry_s=0.01)
    with placed(tmp_path / "data", [rule], workitems=(SEGMENT,)) as place:
        procedure = ProcedureUpdate(
            study_instance_uid="1.2.5",
            attributes={"RequestedProcedureDescription": "CT liver"},
            steps=(StepUpdate(modality="CT"),),
        )
        patient = PatientUpdate(identifiers=(Identifier("P7"),), attributes={"PatientName": "Doe^Jane"})
        order = OrderUpdate(
            action=OrderAction.NEW, patient=patient, accession=Identifier("A1"), procedures=(procedure,)
        )
        place.engine.orders().apply(order, Source(name="RIS"))
        wait_for(lambda: stored(place), what="the workitem")
        ((_, items),) = stored(place)
        assert text_of(items, tags.InputReadinessState) == "UNAVAILABLE"
        assert text_of(items, tags.PatientName) == "Doe^Jane"
        (request,) = items_of(items, tags.ReferencedRequestSequence)
        assert text_of(request, tags.RequestedProcedureDescription) == "CT liver"
        assert text_of(request, tags.AccessionNumber) == "A1"


def test_a_completed_step_and_a_final_report_become_workitems_without_input(tmp_path: Path) -> None:
    """One for each step, also of one study; none for what goes on, is discontinued, or is preliminary."""
    rules = [
        Rule(name="check", after="step", action="workitem", to=("segment",), senders=("CT1",), retry_s=0.01),
        Rule(name="code", after="report", action="workitem", to=("coding",), retry_s=0.01),
    ]
    coding = WorkitemTemplate(name="coding", label="Code the report")
    with placed(tmp_path / "data", rules, workitems=(SEGMENT, coding)) as place:
        orders = place.engine.orders()
        procedure = ProcedureUpdate(
            requested_procedure_id="R1",
            study_instance_uid=study_uid(1),
            steps=tuple(StepUpdate(modality="CT", scheduled_procedure_step_id=each) for each in ("S1", "S2")),
        )
        patient = PatientUpdate(identifiers=(Identifier("P7"),), attributes={"PatientName": "Doe^Jane"})
        accession = Identifier("A1")
        orders.apply(
            OrderUpdate(action=OrderAction.NEW, patient=patient, accession=accession, procedures=(procedure,)),
            Source(name="RIS"),
        )
        for number, (step, end, by) in enumerate(
            [(b"S1", b"COMPLETED", "CT1"), (b"S2", b"COMPLETED", "CT1"), (b"S1", b"DISCONTINUED", "CT1"),
             (b"S1", b"COMPLETED", "CT2")], 1,
        ):  # fmt: skip
            scheduled = {
                tags.StudyInstanceUID: study_uid(1).encode(), tags.AccessionNumber: b"A1",
                tags.RequestedProcedureID: b"R1", tags.ScheduledProcedureStepID: step,
            }  # fmt: skip
            begun = {**BEGUN, tags.ScheduledStepAttributesSequence: [DataSet(scheduled)]}
            source = Source(name=by)
            orders.create_performed(f"1.2.9.{number}", DataSet(begun), source)
            orders.modify_performed(f"1.2.9.{number}", DataSet({tags.PerformedProcedureStepStatus: end}), source)
        for state in (ReportState.PRELIMINARY, ReportState.FINAL, ReportState.FINAL, ReportState.CORRECTED):
            orders.apply(ReportUpdate(patient=patient, accession=accession, state=state), Source(name="RIS"))
        for name, count in (("rule:check:segment", 8), ("rule:code:coding", 2)):
            wait_for(lambda: place.outbox.load(name).delivered == count, what="all events")  # type: ignore[union-attr]  # noqa: B023
        found = stored(place)
        labels = sorted(text_of(items, tags.ProcedureStepLabel) for _, items in found)
        assert labels == ["Code the report"] * 2 + ["Segment the liver"] * 2
        for _, items in found:
            assert text_of(items, tags.InputReadinessState) == "UNAVAILABLE"
            assert (text_of(items, tags.PatientID), text_of(items, tags.PatientName)) == ("P7", "Doe^Jane")
            (request,) = items_of(items, tags.ReferencedRequestSequence)
            assert text_of(request, tags.AccessionNumber) == "A1"


def test_a_template_makes_what_an_n_create_must_have() -> None:
    subject = Subject(patient={tags.PatientID: "P1"}, requests=[], study="1.2", inputs=inputs_of([], "FILMROOM"))
    found = created(SEGMENT, subject, 0.0)
    workitem_rules.check_created(found)
    left_out = Subject(patient={}, requests=[], study="1.2", left_out=3)
    assert created(SEGMENT, left_out, 0.0).text(tags.InputReadinessState) == "INCOMPLETE"
    assert "3 instances" in created(SEGMENT, left_out, 0.0).text(tags.CommentsOnTheScheduledProcedureStep)


@pytest.mark.parametrize(
    ("after", "to", "reason"),
    [
        ("deleted", "segment", "possible after order, report, step, study_complete"),
        ("order", "other", "which is no ..workitem"),
    ],
)
def test_a_rule_that_makes_what_cannot_be_is_refused(after: str, to: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        rule = Rule(name="r", after=after, action="workitem", to=(to,))  # type: ignore[arg-type]
        Config(rules=(rule,), workitems=(SEGMENT,))
