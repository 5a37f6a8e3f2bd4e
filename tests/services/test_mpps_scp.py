"""MPPS over a socket, with pynetdicom as the modality: states, statuses, and what becomes of the worklist."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import ModalityPerformedProcedureStep, ModalityPerformedProcedureStepRetrieve

from engine.config import Config
from engine.orders import linking, ordering
from engine.orders.settings import Station
from engine.orders.values import (
    Identifier,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    Source,
    StepUpdate,
)
from tests.services.serving import LIMITS, Serving, serve_in_thread

RIS = Source(name="RIS")
UIDS = count(1)
CONFIG = {"stations": (Station(aet="STRICT", strict=True),), "limits": LIMITS}


def order(accession: str, number: str, *steps: str) -> OrderUpdate:
    return OrderUpdate(
        action=OrderAction.NEW,
        patient=PatientUpdate(identifiers=(Identifier(number),), attributes={"PatientName": "Doe^Jane"}),
        accession=Identifier(accession),
        procedures=(
            ProcedureUpdate(
                study_instance_uid=f"1.2.3.{accession[1:]}",
                steps=tuple(StepUpdate(scheduled_procedure_step_id=each, modality="CT") for each in steps),
            ),
        ),
    )


def fill(serving: Serving) -> None:
    orders = serving.services.engine.orders()
    for value in (
        order("A1", "P1", "S1"),
        order("A2", "P2", "S2a", "S2b"),
        order("A3", "P3", "S3"),
        order("A4", "P4", "S4"),
    ):
        orders.apply(value, RIS)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One server; each test has an order and performed steps of its own."""
    data = tmp_path_factory.mktemp("mpps") / "data"
    with serve_in_thread(data, Config(data=data, **CONFIG), fill) as served:  # type: ignore[arg-type]
        yield served


@contextmanager
def associated(serving: Serving, title: str = "CT1") -> Iterator[Association]:
    ae = AE(title)
    ae.add_requested_context(ModalityPerformedProcedureStep)
    ae.add_requested_context(ModalityPerformedProcedureStepRetrieve)
    association = ae.associate("127.0.0.1", serving.port)
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def new_uid() -> str:
    return f"1.2.826.0.1.3680043.9.9999.{next(UIDS)}"


def begun(accession: str, step_id: str, number: str, **more: Any) -> Dataset:
    """The attributes of an N-CREATE."""
    item = Dataset()
    item.StudyInstanceUID = f"1.2.3.{accession[1:]}"
    item.AccessionNumber = accession
    item.RequestedProcedureID = accession
    item.ScheduledProcedureStepID = step_id
    item.RequestedProcedureDescription = item.ScheduledProcedureStepDescription = ""
    item.ReferencedStudySequence = item.ScheduledProtocolCodeSequence = []
    created = Dataset()
    created.SpecificCharacterSet = "ISO_IR 100"
    created.ScheduledStepAttributesSequence = [item]
    created.PatientName, created.PatientID = "Döe^Jane", number
    created.PatientBirthDate = created.PatientSex = created.StudyID = ""
    created.ReferencedPatientSequence = created.ProcedureCodeSequence = []
    created.PerformedProcedureStepID, created.PerformedStationAETitle, created.Modality = "PPS1", "CT1", "CT"
    created.PerformedStationName = created.PerformedLocation = ""
    created.PerformedProcedureStepStartDate, created.PerformedProcedureStepStartTime = "20261201", "0901"
    created.PerformedProcedureStepStatus = "IN PROGRESS"
    created.PerformedProcedureStepDescription = created.PerformedProcedureTypeDescription = ""
    created.PerformedProtocolCodeSequence = created.PerformedSeriesSequence = []
    created.PerformedProcedureStepEndDate = created.PerformedProcedureStepEndTime = ""
    for keyword, value in more.items():
        setattr(created, keyword, value)
    return created


def ended(status: str = "COMPLETED", instances: int = 1) -> Dataset:
    """The attributes of the last N-SET."""
    series = Dataset()
    series.ProtocolName, series.SeriesInstanceUID, series.RetrieveAETitle = "", "1.2.3.99", ""
    series.ReferencedImageSequence = []
    for number in range(instances):
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = (
            "1.2.840.10008.5.1.4.1.1.2",
            f"1.2.3.99.{number}",
        )
        series.ReferencedImageSequence.append(reference)
    change = Dataset()
    change.PerformedProcedureStepStatus = status
    change.PerformedProcedureStepEndDate, change.PerformedProcedureStepEndTime = "20261201", "0930"
    change.PerformedSeriesSequence = [series]
    return change


def create(association: Association, attributes: Dataset, uid: str | None) -> Any:
    return association.send_n_create(attributes, ModalityPerformedProcedureStep, uid)[0]


def change(association: Association, attributes: Dataset, uid: str) -> Any:
    return association.send_n_set(attributes, ModalityPerformedProcedureStep, uid)[0]


def states(serving: Serving, accession: str) -> dict[str, str]:
    with serving.services.engine.orders().read() as reading:
        found = ordering.find(reading, accession=Identifier(accession))
        assert found is not None
        return {row.scheduled_procedure_step_id: row.state.value for _, row in ordering.steps_of(reading, found[0])}


def test_a_step_is_started_and_completed_with_its_performed_step(serving: Serving) -> None:
    uid = new_uid()
    with associated(serving) as association:
        assert create(association, begun("A1", "S1", "P1"), uid).Status == 0
        assert states(serving, "A1") == {"S1": "STARTED"}
        assert change(association, ended(), uid).Status == 0
        assert states(serving, "A1") == {"S1": "COMPLETED"}
        again = change(association, ended(), uid)
        assert (again.Status, again.ErrorID) == (0x0110, 0xA710) and "no longer" in again.ErrorComment
    with serving.services.engine.orders().read() as reading:
        assert [row.rule for row in linking.orders_of(reading, "1.2.3.1")] == ["mpps"]


def test_a_step_ends_with_the_last_of_its_performed_steps(serving: Serving) -> None:
    one, other = new_uid(), new_uid()
    with associated(serving) as association:
        for uid in (one, other):
            assert create(association, begun("A2", "S2a", "P2"), uid).Status == 0
        assert change(association, ended("DISCONTINUED"), one).Status == 0
        assert states(serving, "A2") == {"S2a": "STARTED", "S2b": "SCHEDULED"}
        assert change(association, ended("COMPLETED"), other).Status == 0
        assert states(serving, "A2") == {"S2a": "COMPLETED", "S2b": "SCHEDULED"}


def test_an_unscheduled_step_and_one_of_another_patient_are_kept_and_change_no_scheduled_step(serving: Serving) -> None:
    with associated(serving) as association:
        assert create(association, begun("A99", "", "P99"), new_uid()).Status == 0
        assert create(association, begun("A3", "S3", "P77"), new_uid()).Status == 0
    assert states(serving, "A3") == {"S3": "SCHEDULED"}
    with serving.services.engine.orders().read() as reading:
        conflicts = [row.study_instance_uid for _, row in reading.rows(reading.database.conflicts)]
    assert conflicts == ["1.2.3.3"]


def test_the_same_again_succeeds_and_another_one_of_that_uid_is_a_duplicate(serving: Serving) -> None:
    uid = new_uid()
    with associated(serving) as association:
        assert create(association, begun("A4", "S4", "P4"), uid).Status == 0
        assert create(association, begun("A4", "S4", "P4"), uid).Status == 0
        assert create(association, begun("A4", "S4", "P4", PerformedProcedureStepID="PPS2"), uid).Status == 0x0111


def test_a_step_without_uid_gets_one_and_an_unknown_one_cannot_be_changed(serving: Serving) -> None:
    with associated(serving) as association:
        made = create(association, begun("A98", "", "P98"), None)
        assert made.Status == 0
        assert change(association, ended(), new_uid()).Status == 0x0112
    with serving.services.engine.orders().read() as reading:
        assert [key for key, _ in reading.rows(reading.database.performed, b"2.25.")]


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"PerformedProcedureStepStatus": "COMPLETED"}, 0x0106),
        ({"PerformedProcedureStepStatus": "RUNNING"}, 0x0106),
        ({"Modality": ""}, 0x0121),
        ({"ScheduledStepAttributesSequence": []}, 0x0121),
    ],
    ids=["ended", "unknown-status", "no-modality", "no-item"],
)
def test_wrong_values_have_their_statuses(serving: Serving, more: dict[str, Any], status: int) -> None:
    with associated(serving) as association:
        assert create(association, begun("A97", "", "P97", **more), new_uid()).Status == status


def test_a_missing_attribute_of_type_1_is_refused_one_of_type_2_only_by_strict_stations(serving: Serving) -> None:
    without_time, without_name = begun("A97", "", "P97"), begun("A97", "", "P97")
    del without_time.PerformedProcedureStepStartTime
    del without_name.PatientName
    with associated(serving) as association:
        assert create(association, without_time, new_uid()).Status == 0x0120
        assert create(association, without_name, new_uid()).Status == 0
    uid = new_uid()
    with associated(serving, "STRICT") as association:
        refused = create(association, without_name, new_uid())
        assert refused.Status == 0x0120 and refused.ErrorComment == "PatientName is missing"
        assert create(association, begun("A97", "", "P97"), uid).Status == 0
        named = Dataset()
        named.PatientName = "Other^Name"
        assert change(association, named, uid).Status == 0x0106


def test_what_may_not_be_changed_stays_and_the_rest_is_returned_by_retrieve(serving: Serving) -> None:
    uid = new_uid()
    with associated(serving) as association:
        assert create(association, begun("A96", "", "P96"), uid).Status == 0
        changes = ended()
        changes.PatientName, changes.PerformedProcedureStepDescription = "Other^Name", "Thorax"
        assert change(association, changes, uid).Status == 0
        status, attributes = association.send_n_get([], ModalityPerformedProcedureStepRetrieve, uid)
        assert status.Status == 0 and attributes is not None
        assert str(attributes.PatientName) == "Döe^Jane" and attributes.PerformedProcedureStepDescription == "Thorax"
        assert attributes.PerformedSeriesSequence[0].ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.99.0"
        _, one = association.send_n_get([0x00400252], ModalityPerformedProcedureStepRetrieve, uid)
        assert one is not None and [each.keyword for each in one][1:] == ["PerformedProcedureStepStatus"]
        status, _ = association.send_n_get([], ModalityPerformedProcedureStepRetrieve, new_uid())
        assert status.Status == 0x0112


def test_a_study_of_thousands_of_images_fits(serving: Serving) -> None:
    uid = new_uid()
    with associated(serving) as association:
        assert create(association, begun("A95", "", "P95"), uid).Status == 0
        assert change(association, ended(instances=4000), uid).Status == 0
