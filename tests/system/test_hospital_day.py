"""A day in a small hospital, with a kill -9 in it: at its end the books balance.

A system for information (HL7) registers patients, orders, cancels and merges; a modality asks for its worklist, reports
what it does (MPPS) and stores images, sometimes without the accession number. Everything that was answered with success
is accounted for: each message once, each order, step, report and instance; and each study belongs to its order.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import ModalityPerformedProcedureStep, ModalityWorklistInformationFind

from engine.archive import hospital, messages
from engine.archive.archive import Archive
from engine.archive.feed.event import STUDY_QUIET, Event
from engine.archive.order_links import OrderLinks
from engine.dicom import tags
from engine.hl7 import framed
from engine.index.format.types import Level, Query, Root
from engine.orders import linking, ordering, patients
from engine.orders.registry import NoRules, Orders
from engine.orders.values import Identifier, Issuer
from tests import effort, samples
from tests.hl7.samples import lines
from tests.system.server import Server, wait_for
from tests.system.test_hl7 import CONFIG, Sender, port_of

pytestmark = [pytest.mark.slow, pytest.mark.rotating(3)]

ORDERS = effort.amount("HOSPITAL_ORDERS", usual=8, everything=60)
DAY = "20301201"
ISSUER = Issuer("HOSP")


@dataclass
class Ordered:
    """One order, and what is to become of it."""

    number: int
    steps: int
    is_canceled: bool
    has_mpps: bool
    has_accession: bool
    uid: str = ""
    """Its study."""
    instances: list[str] = field(default_factory=list)
    """What was stored."""

    @property
    def accession(self) -> str:
        return f"ACC{self.number}"

    @property
    def patient(self) -> str:
        return f"PAT{self.number}"


def planned(chance: random.Random) -> list[Ordered]:
    """The orders of the day; the first four have one of each fate."""
    day = [
        Ordered(1, 1, is_canceled=False, has_mpps=True, has_accession=False),
        Ordered(2, 2, is_canceled=False, has_mpps=True, has_accession=True),
        Ordered(3, 1, is_canceled=True, has_mpps=False, has_accession=False),
        Ordered(4, 2, is_canceled=False, has_mpps=False, has_accession=False),
    ]
    for number in range(5, max(ORDERS, 5) + 1):
        fates = [chance.random() < likely for likely in (0.2, 0.6, 0.6)]
        day.append(Ordered(number, chance.randint(1, 2), *fates))
    for each in day:
        each.uid = f"{samples.ROOT}.{each.number}"
    return day


class Information:
    """The hospital's system: sends each message until it is answered, and counts it."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self._sender: Sender | None = None

    def connect(self, server: Server) -> None:
        self._sender = Sender(port_of(server))

    def close(self) -> None:
        if self._sender is not None:
            self._sender.close()

    def send(self, kind: str, *segments: str) -> None:
        self.sent.append(f"C{len(self.sent) + 1}")
        self._send(self._message(kind, *segments))

    def _message(self, kind: str, *segments: str) -> bytes:
        head = f"MSH|^~\\&|KIS|ST|FILMROOM|RAD|20301201080000||{kind}|{self.sent[-1]}|P|2.5.1"
        return lines(head, *segments)

    def _send(self, message: bytes) -> None:
        assert self._sender is not None
        assert self._sender.send(message) == "AA"

    @contextmanager
    def unanswered(self, server: Server, one: Ordered) -> Iterator[None]:
        """Sends a message and does not hear the answer; sends it again after what happens within the context."""
        self.sent.append(f"C{len(self.sent) + 1}")
        message = self._message("ADT^A08", person(one))
        with socket.create_connection(("127.0.0.1", port_of(server)), timeout=60) as connection:
            connection.sendall(framed(message))
            self.close()
            yield
        self._send(message)

    def register(self, one: Ordered) -> None:
        self.send("ADT^A04", person(one))

    def order(self, one: Ordered, control: str = "NW") -> None:
        steps = [
            f"IPC|{one.accession}^HOSP|RP{one.number}|{one.uid}|{one.number}S{step}|CT||||CT1"
            for step in range(1, one.steps + 1)
        ]
        request = f"OBR|1|P{one.number}^HOSP|F{one.number}^HOSP|CT01^CT Thorax^L"
        common = f"ORC|{control}|P{one.number}^HOSP|F{one.number}^HOSP||SC"
        self.send("OMI^O23", person(one), common, f"TQ1|1||||||{DAY}0900", request, *steps)

    def merge(self, prior: Ordered, survivor: Ordered) -> None:
        self.send("ADT^A40", person(survivor), f"MRG|{prior.patient}^^^HOSP")


def person(one: Ordered) -> str:
    return f"PID|1||{one.patient}^^^HOSP||Person^{one.number}||1970010{1 + one.number % 9}|F"


@contextmanager
def associated(server: Server) -> Iterator[Association]:
    ae = AE("CT1")
    for sop_class in (ModalityWorklistInformationFind, ModalityPerformedProcedureStep, samples.CT):
        ae.add_requested_context(sop_class, "1.2.840.10008.1.2.1")
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 60
    association = ae.associate("127.0.0.1", server.port, ae_title="FILMROOM")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


class Modality:
    """CT1: performs what its worklist says."""

    def __init__(self) -> None:
        self.reports: list[str] = []

    def begin(self, server: Server, one: Ordered) -> None:
        """Finds the steps of an order in its list, and reports that they begin."""
        with associated(server) as association:
            entries = self._worklist(association, one)
            assert len(entries) == one.steps, one
            if one.has_mpps:
                self.reports.append(f"{one.uid}.99")
                self._create(association, one, entries)

    def _worklist(self, association: Association, one: Ordered) -> list[Dataset]:
        item = Dataset()
        item.ScheduledStationAETitle, item.ScheduledProcedureStepStartDate = "CT1", DAY
        item.ScheduledProcedureStepID = item.Modality = ""
        keys = Dataset()
        keys.ScheduledProcedureStepSequence = [item]
        keys.AccessionNumber, keys.PatientID = one.accession, ""
        keys.PatientName = keys.StudyInstanceUID = keys.RequestedProcedureID = ""
        answers = list(association.send_c_find(keys, ModalityWorklistInformationFind))
        assert answers[-1][0].Status == 0
        return [data_set for _, data_set in answers if data_set is not None]

    def _create(self, association: Association, one: Ordered, entries: list[Dataset]) -> None:
        created = Dataset()
        created.ScheduledStepAttributesSequence = [_scheduled(entry) for entry in entries]
        created.PatientID, created.PatientName = entries[0].PatientID, entries[0].PatientName
        created.PerformedProcedureStepID, created.PerformedStationAETitle = f"PPS{one.number}", "CT1"
        created.Modality, created.PerformedProcedureStepStatus = "CT", "IN PROGRESS"
        created.PerformedProcedureStepStartDate, created.PerformedProcedureStepStartTime = DAY, "0901"
        status, _ = association.send_n_create(created, ModalityPerformedProcedureStep, self.reports[-1])
        assert status.Status == 0

    def finish(self, server: Server, one: Ordered) -> None:
        """Stores images, and reports that the steps are done."""
        with associated(server) as association:
            for number in (1, 2):
                accession = one.accession if one.has_accession else ""
                image = samples.instance(one.number, 1, number, patient_id=one.patient, AccessionNumber=accession)
                assert association.send_c_store(image).Status == 0
                one.instances.append(str(image.SOPInstanceUID))
            if not one.has_mpps:
                return
            series = Dataset()
            series.SeriesInstanceUID, series.ProtocolName = f"{one.uid}.1", "Thorax"
            done = Dataset()
            done.PerformedProcedureStepStatus = "COMPLETED"
            done.PerformedProcedureStepEndDate, done.PerformedProcedureStepEndTime = DAY, "0930"
            done.PerformedSeriesSequence = [series]
            status, _ = association.send_n_set(done, ModalityPerformedProcedureStep, f"{one.uid}.99")
            assert status.Status == 0


def _scheduled(entry: Dataset) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID, item.AccessionNumber = entry.StudyInstanceUID, entry.AccessionNumber
    item.RequestedProcedureID = entry.RequestedProcedureID
    item.ScheduledProcedureStepID = entry.ScheduledProcedureStepSequence[0].ScheduledProcedureStepID
    return item


@pytest.mark.parametrize("seed", [effort.seed("HOSPITAL")])
def test_the_books_of_a_day_balance_although_all_processes_are_killed_in_it(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    day = planned(chance)
    information, modality = Information(), Modality()
    server = Server(tmp_path / "data", config=CONFIG, workers=1)
    try:
        information.connect(server)
        kill_at = chance.randrange(len(day))
        for position, one in enumerate(day):
            information.register(one)
            information.order(one)
            wait_for_applied(server, information)
            if one.is_canceled:
                information.order(one, "CA")
            else:
                modality.begin(server, one)
            if position == kill_at:
                with information.unanswered(server, one):
                    server.kill_all()
                    server = Server(server.data, config=CONFIG, workers=1)
                    information.connect(server)
            if not one.is_canceled:
                modality.finish(server, one)
        information.merge(day[0], day[1])
        wait_for_applied(server, information)
        information.close()
        assert server.stop() == 0
    finally:
        information.close()
        server.kill_all()
    with Archive.open(tmp_path / "data") as archive, hospital.open_orders(archive, NoRules()) as orders:
        quiet = [
            Event(sequence=1, action=STUDY_QUIET, time="", study_instance_uid=one.uid)
            for one in day
            if not one.is_canceled
        ]
        OrderLinks(archive).handle(orders, quiet, completes=False)
        check_messages(archive, information)
        for one in day:
            check_order(orders, one)
            check_study(archive, one)
        check_reports(orders, modality)
        check_merge(archive, orders, day[0], day[1])


def wait_for_applied(server: Server, information: Information) -> None:
    wait_for(lambda: (server.stats()["messages"] or {}).get("applied_to", 0) >= len(information.sent))  # type: ignore[attr-defined]


def check_messages(archive: Archive, information: Information) -> None:
    """Each message is in the journal once, and was applied."""
    history = messages.history_of(archive)
    rows = list(history.rows())
    history.close()
    assert sorted(row.received.control_id for row in rows) == sorted(information.sent)
    assert {row.outcome.result.value for row in rows if row.outcome is not None} <= {"applied", "unchanged"}
    assert all(row.outcome is not None for row in rows)


def check_order(orders: Orders, one: Ordered) -> None:
    """The order, its steps in their states, and its study."""
    with orders.read() as reading:
        found = ordering.find(reading, accession=Identifier(one.accession, ISSUER))
        assert found is not None, one
        states = [str(step.state) for _, step in ordering.steps_of(reading, found[0])]
        links = [row.study_instance_uid for row in linking.studies_of(reading, found[0])]
    state = "CANCELED" if one.is_canceled else "COMPLETED" if one.has_mpps else "SCHEDULED"
    assert states == [state] * one.steps, one
    assert links == ([] if one.is_canceled else [one.uid]), one


def check_study(archive: Archive, one: Ordered) -> None:
    """Every instance that was answered is there, and the study shows the number of its order."""
    keys = {tags.StudyInstanceUID: one.uid.encode()}
    stored = [each.sop_instance_uid for each in archive.instances(Query(Level.STUDY, keys, Root.STUDY))]
    assert sorted(stored) == sorted(one.instances), one
    asked = {**keys, tags.AccessionNumber: b""}
    for match in archive.find(Query(Level.STUDY, asked, Root.STUDY)):
        assert match.attributes[tags.AccessionNumber].strip() == one.accession.encode(), one


def check_reports(orders: Orders, modality: Modality) -> None:
    for uid in modality.reports:
        row = orders.performed(uid)
        assert row is not None and row.status == "COMPLETED" and row.steps, uid
    assert orders.counts()["performed"] == len(modality.reports)


def check_merge(archive: Archive, orders: Orders, prior: Ordered, survivor: Ordered) -> None:
    """The orders of both are one person's."""
    with orders.read() as reading:
        one, other = (patients.find(reading, Identifier(each.patient, ISSUER)) for each in (prior, survivor))
    assert one is not None and other is not None and one[0] == other[0]
