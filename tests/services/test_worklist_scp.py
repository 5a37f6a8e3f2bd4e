"""Modality Worklist over a socket: pynetdicom and DCMTK's findscu as modalities."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import msgspec
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import ModalityWorklistInformationFind

from engine.access.role_settings import Role, StudyRule
from engine.config import Config
from engine.config import Peer as KnownPeer
from engine.orders.registry import Orders
from engine.orders.settings import Station, Worklist
from engine.orders.values import (
    Code,
    Identifier,
    Issuer,
    OrderAction,
    OrderUpdate,
    PatientMerge,
    PatientUpdate,
    ProcedureUpdate,
    Source,
    StepState,
    StepUpdate,
    VisitUpdate,
)
from tests.services.serving import LIMITS, Serving, serve_in_thread

HOSPITAL = Issuer("HOSP", "1.2.3.4", "ISO")
RIS = Source(name="RIS")


def step(step_id: str, modality: str, ae: str, date: str, time: str, **more: object) -> StepUpdate:
    return StepUpdate(
        scheduled_procedure_step_id=step_id,
        modality=modality,
        station_aes=tuple(filter(None, ae.split("\\"))),
        start_date=date,
        start_time=time,
        attributes={
            "ScheduledProcedureStepDescription": f"Step {step_id}",
            "ScheduledPerformingPhysicianName": "Röntgen^W",
        },
        **more,  # type: ignore[arg-type]
    )


def order(accession: str, number: str, name: str, *steps: StepUpdate) -> OrderUpdate:
    """An order with one procedure."""
    return OrderUpdate(
        action=OrderAction.NEW,
        patient=PatientUpdate(
            identifiers=(Identifier(number, HOSPITAL), Identifier(f"N{number}", Issuer("STATE"))),
            attributes={"PatientName": name, "PatientSex": "F", "PatientBirthDate": "19700102"},
        ),
        accession=Identifier(accession, HOSPITAL),
        visit=Identifier("V1", HOSPITAL),
        attributes={"ReferringPhysicianName": "Ref^Doc", "PatientWeight": "71.5", "PregnancyStatus": "4"},
        procedures=(
            ProcedureUpdate(
                study_instance_uid=f"1.2.3.{accession[1:]}",
                attributes={
                    "RequestedProcedureDescription": "Chest",
                    "RequestedProcedureCodeSequence": (Code("RPCHEST", "99RIS", "Chest"),),
                },
                steps=steps,
            ),
        ),
    )


def fill(orders: Orders) -> None:
    """Five steps: two of CT1 on the 1st, one of two MRs on the 2nd, one of nobody, one that has begun."""
    values = [
        order("A1", "P1", "Müller^Jörg", step("S1", "CT", "CT1", "20261201", "0900")),
        order("A2", "P2", "Doe^Jane", step("S2", "CT", "CT1", "20261201", "1430")),
        order("A3", "P3", "Roe^Richard", step("S3", "MR", "MR1\\MR2", "20261202", "0800")),
        order("A4", "P4", "Yamada^Tarou=山田^太郎=やまだ^たろう", step("S4", "US", "", "20261203", "101500")),
        order("A5", "P5", "Begun^Has", step("S5", "CT", "CT1", "20261201", "0800", state=StepState.STARTED)),
        VisitUpdate(
            patient=(Identifier("P1", HOSPITAL),),
            visit=Identifier("V1", HOSPITAL),
            attributes={"CurrentPatientLocation": "WARD 7"},
        ),
    ]
    for value in values:
        orders.apply(value, RIS)


def keys(*, root: dict[str, str] | None = None, **of_step: str) -> Dataset:
    """An identifier with the usual return keys, and these values."""
    identifier = Dataset()
    item = Dataset()
    for keyword in ("ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime",
                    "Modality", "ScheduledProcedureStepID", "ScheduledProcedureStepDescription",
                    "ScheduledPerformingPhysicianName", "ScheduledStationName", "PreMedication"):  # fmt: skip
        setattr(item, keyword, of_step.get(keyword, ""))
    for keyword, value in of_step.items():
        setattr(item, keyword, value)
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "RequestedProcedureID", "StudyInstanceUID",
                    "RequestedProcedureDescription", "AdmissionID", "CurrentPatientLocation",
                    "MedicalAlerts"):  # fmt: skip
        setattr(identifier, keyword, "")
    for keyword, value in (root or {}).items():
        setattr(identifier, keyword, value)
    identifier.ScheduledProcedureStepSequence = [item]
    return identifier


Answer = tuple[list[Dataset], list[int]]


def ask(serving: Serving, identifier: Dataset, title: str = "CT1", *, options: bytes = b"") -> Answer:
    """The entries, and every status, of a query by pynetdicom."""
    ae = AE(title)
    ae.add_requested_context(ModalityWorklistInformationFind)
    association = ae.associate("127.0.0.1", serving.port, ext_neg=_negotiation(options))
    assert association.is_established
    try:
        answers = list(association.send_c_find(identifier, ModalityWorklistInformationFind))
    finally:
        association.release()
    return [found for _, found in answers if found is not None], [status.Status for status, _ in answers]


def _negotiation(options: bytes) -> list[object]:
    from pynetdicom.pdu_primitives import SOPClassExtendedNegotiation

    if not options:
        return []
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid = ModalityWorklistInformationFind
    item.service_class_application_information = options
    return [item]


STATIONS = (
    Station(aet="US1", modality=("US",)),
    Station(aet="LIMITED", limit=1),
    Station(aet="LATIN", character_set="ISO_IR 100"),
    Station(aet="MR1", own_only=True),
)
PEERS = (KnownPeer(aet="STORES", may=("store",)), KnownPeer(aet="NARROWED", role="archive-only"),
         KnownPeer(aet="MR2", role="own"), KnownPeer(aet="MAGNETS", role="magnets"))  # fmt: skip


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """One server for all: no test changes what another one sees."""
    data = tmp_path_factory.mktemp("worklist") / "data"
    roles = (
        Role(name="archive-only", may=("store",), studies="all"),
        Role(name="own", may=("worklist",), studies=(StudyRule(sender="me"),)),
        Role(name="magnets", may=("worklist",), studies=(StudyRule(modality="MR"),)),
    )
    config = Config(data=data, limits=LIMITS, stations=STATIONS, peers=PEERS, roles=roles)
    with serve_in_thread(data, config, lambda serving: fill(serving.services.engine.orders())) as served:
        yield served


def ids(entries: Sequence[Dataset]) -> list[str]:
    return sorted(entry.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID for entry in entries)


QUESTIONS: list[tuple[dict[str, str], dict[str, str], list[str]]] = [
    ({}, {}, ["S1", "S2", "S3", "S4"]),
    ({"ScheduledStationAETitle": "CT1"}, {}, ["S1", "S2"]),
    ({"ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartDate": "20261201"}, {}, ["S1", "S2"]),
    ({"ScheduledStationAETitle": "MR2"}, {}, ["S3"]),
    ({"ScheduledStationAETitle": "CT1\\MR1"}, {}, ["S1", "S2", "S3"]),
    ({"ScheduledStationAETitle": "*"}, {}, ["S1", "S2", "S3", "S4"]),
    ({"ScheduledStationAETitle": "?R*"}, {}, ["S3"]),
    ({"ScheduledStationAETitle": "CT9"}, {}, []),
    ({"ScheduledProcedureStepStartDate": "20261202-"}, {}, ["S3", "S4"]),
    ({"ScheduledProcedureStepStartDate": "-20261201"}, {}, ["S1", "S2"]),
    ({"ScheduledProcedureStepStartDate": "20261201-20261202"}, {}, ["S1", "S2", "S3"]),
    ({"ScheduledProcedureStepStartDate": "20261203", "Modality": "US"}, {}, ["S4"]),
    ({"ScheduledProcedureStepStartTime": "0830-1200"}, {}, ["S1", "S4"]),
    ({"ScheduledProcedureStepStartTime": "1430"}, {}, ["S2"]),
    ({"Modality": "MR\\US"}, {}, ["S3", "S4"]),
    ({"ScheduledProcedureStepID": "S2"}, {}, ["S2"]),
    ({"ScheduledProcedureStepDescription": "*S[12]*"}, {}, []),
    ({"ScheduledProcedureStepDescription": "step*"}, {}, []),
    ({"ScheduledProcedureStepDescription": "Step S?"}, {}, ["S1", "S2", "S3", "S4"]),
    ({"ScheduledProcedureStepStatus": "STARTED"}, {}, ["S5"]),
    ({}, {"PatientName": "muller*"}, ["S1"]),
    ({}, {"PatientName": "doe^jane"}, ["S2"]),
    ({}, {"PatientName": "*^*ar*"}, ["S3", "S4"]),
    ({}, {"PatientID": "P1"}, ["S1"]),
    ({}, {"PatientID": "P?"}, ["S1", "S2", "S3", "S4"]),
    ({"Modality": "MR"}, {"PatientID": "P1"}, []),
    ({}, {"AccessionNumber": "A3"}, ["S3"]),
    ({}, {"AccessionNumber": "A[3]"}, []),
    ({}, {"StudyInstanceUID": "1.2.3.1\\1.2.3.4"}, ["S1", "S4"]),
    ({}, {"RequestedProcedureID": "A2"}, ["S2"]),
    ({}, {"CurrentPatientLocation": "WARD*"}, ["S1", "S2", "S3", "S4"]),
]


def test_every_key_of_a_worklist_narrows_it_as_the_standard_says(serving: Serving) -> None:
    for of_step, root, expected in QUESTIONS:
        entries, statuses = ask(serving, keys(root=root, **of_step))
        assert (ids(entries), statuses[-1]) == (expected, 0), (of_step, root)


def test_an_answer_has_every_requested_key_and_a_character_set_if_it_needs_one(serving: Serving) -> None:
    entries, statuses = ask(serving, keys(root={"AccessionNumber": "A1", "SpecificCharacterSet": "ISO_IR 100"}))
    assert statuses == [0xFF00, 0]
    (entry,) = entries
    (item,) = entry.ScheduledProcedureStepSequence
    assert str(entry.PatientName) == "Müller^Jörg" and entry.SpecificCharacterSet == "ISO_IR 100"
    assert entry.MedicalAlerts in ("", None) and "PreMedication" in item and "ScheduledStationName" in item
    assert entry.StudyInstanceUID == "1.2.3.1" and entry.CurrentPatientLocation == "WARD 7"
    assert (item.ScheduledStationAETitle, item.ScheduledProcedureStepStartTime) == ("CT1", "0900")
    assert str(item.ScheduledPerformingPhysicianName) == "Röntgen^W"
    japanese, _ = ask(serving, keys(root={"AccessionNumber": "A4", "SpecificCharacterSet": "ISO_IR 100"}))
    assert str(japanese[0].PatientName) == "Yamada^Tarou=山田^太郎=やまだ^たろう"
    assert japanese[0].SpecificCharacterSet == "ISO_IR 192"
    plain, _ = ask(serving, keys(root={"AccessionNumber": "A2"}, ScheduledPerformingPhysicianName=""))
    assert "QueryRetrieveLevel" not in plain[0] and "RetrieveAETitle" not in plain[0]


def test_an_unsupported_optional_key_is_returned_empty_with_ff01(serving: Serving) -> None:
    entries, statuses = ask(serving, keys(root={"AccessionNumber": "A1", "PatientInsurancePlanCodeSequence": []}))  # type: ignore[dict-item]
    assert statuses == [0xFF01, 0] and "PatientInsurancePlanCodeSequence" in entries[0]


def test_sequences_numbers_and_other_identifiers_are_in_the_answer(serving: Serving) -> None:
    names = ("RequestedProcedureCodeSequence", "IssuerOfAccessionNumberSequence", "OtherPatientIDsSequence",
             "ReferencedStudySequence", "ReferencedPatientSequence", "IssuerOfPatientIDQualifiersSequence")  # fmt: skip
    sequences: dict[str, list[Dataset]] = {name: [] for name in names}
    root = {"AccessionNumber": "A1", "PatientWeight": "", "PregnancyStatus": None, **sequences}
    entries, statuses = ask(serving, keys(root=root))  # type: ignore[arg-type]
    (entry,) = entries
    assert statuses == [0xFF00, 0]
    assert entry.RequestedProcedureCodeSequence[0].CodeValue == "RPCHEST"
    assert entry.IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "HOSP"
    assert [item.PatientID for item in entry.OtherPatientIDsSequence] == ["NP1"]
    assert (entry.PatientWeight, entry.PregnancyStatus) == (71.5, 4)
    assert "ReferencedStudySequence" in entry and not entry.ReferencedStudySequence


def test_a_date_with_a_time_is_one_range_if_that_is_negotiated(serving: Serving) -> None:
    both = keys(ScheduledProcedureStepStartDate="20261201-20261202", ScheduledProcedureStepStartTime="1200-0830")
    assert ids(ask(serving, both)[0]) == []
    assert ids(ask(serving, both, options=b"\0\1")[0]) == ["S2", "S3"]


def test_an_order_a_merge_a_name_and_a_cancellation_are_seen_in_the_next_answer(serving: Serving) -> None:
    orders = serving.services.engine.orders()
    orders.apply(order("B1", "P8", "Old^Name", step("B1", "XA", "XA1", "20270101", "0900")), RIS)
    assert ids(ask(serving, keys(ScheduledStationAETitle="XA1"))[0]) == ["B1"]
    new = PatientUpdate(identifiers=(Identifier("P9", HOSPITAL),), attributes={"PatientName": "New^Name"})
    orders.apply(PatientMerge(survivor=new, prior=Identifier("P8", HOSPITAL)), RIS)
    (entry,) = ask(serving, keys(root={"AccessionNumber": "B1"}))[0]
    assert (str(entry.PatientName), entry.PatientID) == ("New^Name", "P9")
    assert ids(ask(serving, keys(root={"PatientID": "P9"}))[0]) == ["B1"]
    orders.apply(replace(order("B1", "P9", "New^Name"), action=OrderAction.CANCEL, procedures=()), RIS)
    assert ask(serving, keys(ScheduledStationAETitle="XA1"))[0] == []


def test_stations_have_rules_and_peculiarities(serving: Serving) -> None:
    assert ids(ask(serving, keys(ScheduledStationAETitle="US1"), "US1")[0]) == ["S4"]
    entries, statuses = ask(serving, keys(), "LIMITED")
    assert len(entries) == 1 and statuses[-1] == 0xA700
    latin = ask(serving, keys(root={"AccessionNumber": "A4", "SpecificCharacterSet": "ISO_IR 192"}), "LATIN")[0][0]
    assert latin.SpecificCharacterSet == "ISO_IR 100" and str(latin.PatientName).startswith("Yamada^Tarou=??^??")
    assert ids(ask(serving, keys(), "MR1")[0]) == ["S3"]
    assert ids(ask(serving, keys(ScheduledStationAETitle="CT1"), "MR1")[0]) == ["S1", "S2"]


def test_a_step_of_nobody_is_shown_to_each_station_if_that_is_configured(serving: Serving) -> None:
    orders, engine = serving.services.engine.orders(), serving.services.engine
    orders.apply(order("C1", "P7", "No^Station", step("C1", "PX", "", "20270201", "0900")), RIS)
    asked = keys(ScheduledStationAETitle="CT9", Modality="PX")
    assert ask(serving, asked)[0] == []
    before = engine.config
    engine.config = msgspec.structs.replace(before, worklist=Worklist(unassigned="show"))
    try:
        assert ids(ask(serving, asked)[0]) == ["C1"]
    finally:
        engine.config = before
        orders.apply(replace(order("C1", "P7", "No^Station"), action=OrderAction.CANCEL, procedures=()), RIS)


@pytest.mark.parametrize(
    ("key", "value"), [("ScheduledProcedureStepStartDate", "tomorrow"), ("ScheduledProcedureStepStartTime", "9-5-3")]
)
def test_what_is_no_date_or_time_is_refused_by_its_name(serving: Serving, key: str, value: str) -> None:
    identifier = keys()
    identifier.ScheduledProcedureStepSequence[0][key]._value = value
    assert ask(serving, identifier)[1] == [0xA900]


def test_a_peer_without_the_permission_gets_no_context_and_a_role_may_take_it_away(serving: Serving) -> None:
    for title in ("STORES", "NARROWED"):
        ae = AE(title)
        ae.add_requested_context(ModalityWorklistInformationFind)
        association = ae.associate("127.0.0.1", serving.port)
        assert not association.accepted_contexts
        association.release() if association.is_established else association.abort()


@pytest.mark.parametrize("title", ["MR2", "MAGNETS"])
def test_a_role_narrows_the_list_of_a_peer_whatever_it_asks_for(serving: Serving, title: str) -> None:
    entries, statuses = ask(serving, keys(), title)
    assert (ids(entries), statuses[-1]) == (["S3"], 0)
    for question in ({"ScheduledStationAETitle": "CT1"}, {"Modality": "CT"}, {"ScheduledProcedureStepID": "S1"}):
        assert ask(serving, keys(**question), title) == ([], [0])
    assert ask(serving, keys(root={"PatientID": "P2"}), title) == ([], [0])


def test_the_last_query_of_a_station_is_kept(serving: Serving) -> None:
    ask(serving, keys(ScheduledStationAETitle="CT9", Modality="CT"), "CT9")
    row = None
    while row is None:  # it is kept after the answer
        threading.Event().wait(0.01)
        with serving.services.engine.orders().read() as reading:
            row = reading.get(reading.database.asked, b"CT9")
    assert row is not None and row.matches == 0
    assert dict(row.keys) == {"ScheduledStationAETitle": "CT9", "Modality": "CT"}


@pytest.mark.skipif(shutil.which("findscu") is None, reason="DCMTK's findscu is not installed")
def test_findscu_sees_the_list_of_its_station(serving: Serving) -> None:
    where = "ScheduledProcedureStepSequence[0]"
    command = ["findscu", "-W", "-aet", "CT1", "127.0.0.1", str(serving.port), "-k", "PatientName", "-k", "PatientID",
               "-k", f"{where}.ScheduledStationAETitle=CT1", "-k", f"{where}.ScheduledProcedureStepStartDate=20261201",
               "-k", f"{where}.Modality", "-k", "SpecificCharacterSet=ISO_IR 192"]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, timeout=60, check=True)
    text = (shown.stdout + shown.stderr).decode("utf-8", "replace")
    assert "Doe^Jane" in text and "Müller^Jörg" in text and "Roe^Richard" not in text
