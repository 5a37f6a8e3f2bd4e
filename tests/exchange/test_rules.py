"""exchange.rules: others are told of studies, in order, again after failures, never of what is not theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind  # type: ignore[attr-defined]

from engine.access import Policy
from engine.access.role_settings import StudyRule
from engine.archive.archive import Archive
from engine.archive.feed.destinations import Skipped, Standing
from engine.archive.feed.quiet import QuietTimes
from engine.archive.feed.writer import FeedOptions
from engine.archive.hospital import open_orders
from engine.cli.rules import Place as Trial
from engine.config import Config, Limits, Peer, Role
from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.dicom.identifier import Value, decode_identifier, encode_identifier
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import NotStored
from engine.exchange import runner
from engine.exchange.hl7_notices import Numbers, notice
from engine.exchange.prefetch import Occasion, Prior, priors
from engine.exchange.settings import Route, Rule
from engine.exchange.trial import trial
from engine.hl7 import parse
from engine.hl7.settings import Hl7Destination
from engine.index.query.keywords import query_of_names
from engine.orders.settings import WorkitemTemplate
from engine.orders.stations import Stations
from engine.orders.values import (
    Identifier,
    OrderAction,
    OrderUpdate,
    PatientUpdate,
    ProcedureUpdate,
    Source,
    StepUpdate,
)
from engine.outbox import follower, tables
from engine.server.orders_job import oldest_of
from tests import samples
from tests.actors import actor
from tests.archive.filled import store
from tests.cli.commands import rows
from tests.exchange.receivers import Informed, Notified, Taker, informed, notified, taking
from tests.exchange.rule_places import Place, placed, study_uid
from tests.system.server import wait_for

PATIENT_LIMITS = Limits(disk_reserve_bytes=0, connect_timeout_s=60.0, dimse_timeout_s=60.0)
"""A request that a busy machine answers too late is sent again, which is no failure of the order."""


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "CHECK_S", 0.02)
    monkeypatch.setattr(tables, "CHECK_S", 0.02)
    monkeypatch.setattr(follower, "CHECK_S", 0.02)


@pytest.fixture
def ris() -> Iterator[Notified]:
    with notified() as scp:
        yield scp


@pytest.fixture
def taker() -> Iterator[Taker]:
    with taking() as receiver:
        yield receiver


def peer(scp: Notified, **more: Any) -> Peer:
    return Peer(aet="RIS", host="127.0.0.1", port=scp.port, **more)


def test_a_peer_is_told_of_whole_studies_and_of_deletions(tmp_path: Path, ris: Notified) -> None:
    rules = [
        Rule(
            name="here",
            after="study_complete",
            action="ian",
            to=("RIS",),
            keys={"ModalitiesInStudy": "CT"},
            retry_s=0.01,
        ),
        Rule(name="gone", after="deleted", action="ian", to=("RIS",)),
    ]
    ris.statuses = [0x0110, 0x0213]
    with placed(tmp_path / "data", rules, peers=(peer(ris),)) as place:
        place.arrive(1, count=3)
        place.arrive(2, modality="MR")
        wait_for(lambda: len(ris.notifications) == 1, what="the notification")
        assert ris.attempts == 3
        uid, told = ris.notifications[0]
        assert uid.startswith("2.25.")
        assert told.StudyInstanceUID == study_uid(1)
        assert list(told.ReferencedPerformedProcedureStepSequence) == []
        (series,) = told.ReferencedSeriesSequence
        assert [
            (item.ReferencedSOPInstanceUID, item.InstanceAvailability, item.RetrieveAETitle)
            for item in series.ReferencedSOPSequence
        ] == [(f"{study_uid(1)}.1.{number}", "ONLINE", "FILMROOM") for number in (1, 2, 3)]
        query = query_of_names("study", {"StudyInstanceUID": study_uid(1)}, place.archive.schema)
        place.archive.delete(query, actor=actor("alice"), reason="a test", into_trash=True)
        place.follow()
        wait_for(lambda: len(ris.notifications) == 2, what="the notification of the deletion")
        (series,) = ris.notifications[1][1].ReferencedSeriesSequence
        assert {item.InstanceAvailability for item in series.ReferencedSOPSequence} == {"UNAVAILABLE"}
        assert len(series.ReferencedSOPSequence) == 3


def test_a_study_whose_uid_is_none_stops_no_rule(tmp_path: Path, ris: Notified, taker: Taker) -> None:
    """Some devices make such UIDs, and what the archive has stored must be told."""
    rules = [
        Rule(name="here", after="study_quiet", action="ian", to=("RIS",), retry_s=3600.0),
        Rule(name="done", after="study_quiet", action="hl7", to=("his",), retry_s=3600.0),
    ]
    destination = Hl7Destination(name="his", host="127.0.0.1", port=taker.port)
    with placed(tmp_path / "data", rules, peers=(peer(ris),), hl7_destinations=(destination,)) as place:
        place.arrive(1, StudyInstanceUID="DOE1")
        wait_for(lambda: ris.notifications and taker.messages, what="both")
    assert ris.notifications[0][1].StudyInstanceUID == "DOE1" and b"ZDS|DOE1^" in taker.messages[0]


def test_a_peer_is_not_told_of_studies_that_it_may_not_see(tmp_path: Path, ris: Notified) -> None:
    roles = (Role(name="mr", may=("retrieve",), studies=(StudyRule(modality=("MR",)),)),)
    rules = [Rule(name="here", after="study_quiet", action="ian", to=("RIS",))]
    with placed(tmp_path / "data", rules, peers=(peer(ris, role="mr"),), roles=roles) as place:
        place.arrive(1)
        place.arrive(2, modality="MR")
        wait_for(lambda: ris.notifications, what="a notification")
    assert [told.StudyInstanceUID for _, told in ris.notifications] == [study_uid(2)]


def test_what_cannot_be_delivered_is_set_aside_and_sent_again_on_request(
    tmp_path: Path, taker: Taker, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = [
        Rule(name="done", after="study_quiet", action="hl7", to=("ris",), policy="skip", attempts_max=2, retry_s=0.01)
    ]
    taker.codes = ["AE", "AR"]
    name = "rule:done:ris"
    destination = Hl7Destination(name="ris", host="127.0.0.1", port=taker.port, application="RIS", facility="NORTH")
    with placed(tmp_path / "data", rules, hl7_destinations=(destination,)) as place:

        def skipped() -> list[str]:
            standing = place.outbox.load(name)
            return [each.error for each in standing.skipped] if standing is not None else []

        place.arrive(1, AccessionNumber="A1")
        place.arrive(2, AccessionNumber="A2")
        wait_for(lambda: len(taker.messages) == 3, what="the second message")
        assert skipped() == ["ris answered AR"], "its words may name the patient"
        ids = [parse(message).first("MSH").text(10) for message in taker.messages]  # type: ignore[union-attr]
        assert ids[0] == ids[1] != ids[2], "an attempt more is the same message"
        listed = rows(capsys, "rules", "list", "--data", str(tmp_path / "data"))
        assert [(one["name"], one["skipped"], one["state"]) for one in listed] == [(name, 1, "delivering")]
        rows(capsys, "rules", "resend", name, "--data", str(tmp_path / "data"))
        wait_for(lambda: len(taker.messages) == 4 and not skipped(), what="the first message, again")
    order = parse(taker.messages[3]).first("OBR")
    assert order is not None and order.text(18) == "A1"


def test_a_receiver_that_closes_an_idle_connection_gets_the_message_on_another(tmp_path: Path, taker: Taker) -> None:
    rules = [Rule(name="done", after="study_quiet", action="hl7", to=("ris",), message="ORU^R01", retry_s=3600.0)]
    destination = Hl7Destination(name="ris", host="127.0.0.1", port=taker.port)
    with placed(tmp_path / "data", rules, hl7_destinations=(destination,)) as place:
        place.arrive(1)
        wait_for(lambda: len(taker.messages) == 1, what="the first message")
        taker.codes = [""]
        place.arrive(2)
        wait_for(lambda: len(taker.messages) == 3, what="the second message, twice")
    assert taker.messages[1] == taker.messages[2]


def test_a_message_says_which_order_is_done_and_where_the_images_are() -> None:
    facts = {
        tags.PatientID: "P|1", tags.IssuerOfPatientID: "NORTH", tags.PatientName: "Müller^Änne^M^Dr^jun=X",
        tags.PatientBirthDate: "19700102", tags.PatientSex: "F", tags.AccessionNumber: "ACC",
        tags.StudyDescription: "Thorax", tags.StudyDate: "20261130", tags.StudyTime: "101112.5",
        tags.ModalitiesInStudy: "CT\\SR",
    }  # fmt: skip
    to = Hl7Destination(name="ris", host="h", application="RIS", facility="NORTH", sending_facility="RAD")
    data = notice(
        "ORU^R01", "1.2.3", facts, Numbers("PL1", "FI1", ""), control_id="C1", destination=to, sender="PACS", now=0.0
    )
    message = parse(data)
    assert message.first("MSH").text(9) == "ORU^R01^ORU_R01" or b"ORU^R01^ORU_R01" in data  # type: ignore[union-attr]
    assert b"P\\F\\1^^^NORTH" in data
    assert "Müller^Änne^M^jun^Dr".encode() in data
    segments = {line.split(b"|")[0]: line.decode().split("|") for line in data.rstrip(b"\r").split(b"\r")}
    assert segments[b"ORC"][1:6] == ["SC", "PL1", "FI1", "", "CM"]
    request = segments[b"OBR"]
    assert (request[2], request[3], request[4], request[7]) == ("PL1", "FI1", "^Thorax", "20261130101112")
    assert (request[18], request[24], request[25]) == ("ACC", "CT", "R")
    assert segments[b"OBX"][3:6] == ["110180^Study Instance UID^DCM", "1", "1.2.3"]
    assert segments[b"ZDS"][1] == "1.2.3^100^Application^DICOM"


def test_a_rule_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="hl7 is possible after"):
        Rule(name="x", after="deleted", action="hl7", to=("ris",))


def test_a_dry_run_says_what_rules_and_routes_would_have_done(tmp_path: Path) -> None:
    config = Config(
        data=tmp_path / "data",
        peers=(Peer(aet="RIS", host="h", port=1), Peer(aet="WS", host="h", port=1)),
        routes=(Route(name="cts", peers=("WS",), after="series_quiet", keys={"Modality": "CT"}, senders=("CT1",)),),
        rules=(
            Rule(name="here", after="study_complete", action="ian", to=("RIS",)),
            Rule(name="gone", after="deleted", action="ian", to=("RIS",)),
            Rule(name="ai", after="study_quiet", action="workitem", to=("segment",), keys={"ModalitiesInStudy": "MR"}),
        ),
        workitems=(WorkitemTemplate(name="segment", label="Segment"),),
    )
    with Archive.open(tmp_path / "data", role="keeper", create=True) as archive:
        writer = archive.feed_writer(FeedOptions(quiet=QuietTimes(0.0, 0.0, 0.0)))
        for study, modality, sender in ((1, "CT", "CT1"), (2, "MR", "MR1"), (3, "CT", "WS")):
            store(archive, samples.encoded(samples.instance(study, 1, 1, modality=modality)), aet=sender)
        writer.follow()
        writer.follow()
        feed, place = archive.feed(), Trial(archive, config, Policy(lambda: config))

        def outcomes(**options: Any) -> list[tuple[str, str, str, str]]:
            return [
                (row["rule"], row["action"], row["to"], row["study_instance_uid"])
                for row in trial(place, feed, **options)
            ]

        assert sorted(outcomes()) == sorted(
            [
                ("cts", "send", "WS", study_uid(1)),
                ("ai", "workitem", "segment", study_uid(2)),
                *(("here", "ian", "RIS", study_uid(number)) for number in (1, 2, 3)),
            ]
        )
        assert outcomes(name="ai") == [("ai", "workitem", "segment", study_uid(2))]
        assert outcomes(name="cts") == [("cts", "send", "WS", study_uid(1))]
        assert outcomes(since_s=4e9) == []
        with pytest.raises(NotStored):
            outcomes(name="nobody")
        feed.close()
        writer.close()


def step(uid: str, patient_id: str, name: str = "") -> DataSet:
    """The attributes of an N-CREATE."""
    items: dict[int, Value] = {
        tags.SpecificCharacterSet: b"ISO_IR 100",
        tags.PatientName: name.encode("latin-1"),
        tags.PatientID: patient_id.encode(),
        tags.Modality: b"CT",
        tags.PerformedStationAETitle: b"CT1",
        tags.PerformedProcedureStepStartDate: b"20261130",
        tags.PerformedProcedureStepStartTime: b"1200",
        tags.PerformedProcedureStepID: b"PPS1",
        tags.PerformedProcedureStepStatus: b"IN PROGRESS",
        tags.ScheduledStepAttributesSequence: [{tags.StudyInstanceUID: uid.encode()}],
    }
    return decoded(items)


def decoded(items: dict[int, Value]) -> DataSet:
    encoded = encode_identifier(dict(sorted(items.items())), EXPLICIT_VR_LITTLE_ENDIAN)
    return decode_identifier(encoded, EXPLICIT_VR_LITTLE_ENDIAN)


def test_performed_steps_are_forwarded_in_order_through_failures_and_a_restart(tmp_path: Path) -> None:
    rules = [Rule(name="steps", after="step", action="mpps", to=("MPPS",), retry_s=0.01)]
    end = decoded({tags.PerformedProcedureStepStatus: b"COMPLETED"})

    def serve(scp: Informed) -> AbstractContextManager[Place]:
        peers = (Peer(aet="MPPS", host="127.0.0.1", port=scp.port),)
        return placed(tmp_path / "data", rules, peers=peers, limits=PATIENT_LIMITS)

    def is_saved(place: Place, count: int) -> bool:
        standing = place.outbox.load("rule:steps:MPPS")
        return standing is not None and standing.delivered == count

    with informed() as scp:
        scp.statuses = [0x0213, 0xC001]
        with serve(scp) as place:
            orders = place.engine.orders()
            orders.create_performed("1.2.1", step("1.2.1.1", "P1", "M\u00fcller"), Source(name="CT1"))
            orders.create_performed("1.2.2", step("1.2.2.1", "P2"), Source(name="CT1"))
            orders.modify_performed("1.2.1", end, Source(name="CT1"))
            wait_for(lambda: len(scp.requests) == 3, what="three requests")
            # What the receiver has and we have not noted comes again after a restart.
            wait_for(lambda: is_saved(place, 3), what="the position")
            orders.create_performed("1.2.3", step("1.2.3.1", "P3"), Source(name="MPPS"))
        with serve(scp) as place:
            orders = place.engine.orders()
            orders.modify_performed("1.2.2", end, Source(name="CT1"))
            wait_for(lambda: len(scp.requests) == 4, what="what came after the restart")
        assert [(operation, uid) for operation, uid, _ in scp.requests] == [
            ("N-CREATE", "1.2.1"), ("N-CREATE", "1.2.2"), ("N-SET", "1.2.1"), ("N-SET", "1.2.2"),
        ]  # fmt: skip
        created = scp.requests[0][2]
        assert created.PatientName == "M\u00fcller"
        assert created.ScheduledStepAttributesSequence[0].StudyInstanceUID == "1.2.1.1"
        assert scp.requests[2][2].PerformedProcedureStepStatus == "COMPLETED"


def test_steps_that_no_rule_wants_are_not_kept_for_others(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "data", role="keeper", create=True) as archive:
        config = Config(data=tmp_path / "data")
        with open_orders(archive, Stations(lambda: config)) as orders:
            orders.create_performed("1.2.1", step("1.2.1.1", "P1"), Source(name="CT1"))
            assert orders.announcements(0, 10) == []
            config = Config(data=tmp_path / "data", rules=(Rule(name="s", after="step", action="mpps", to=("MPPS",)),))
            orders.create_performed("1.2.2", step("1.2.2.1", "P2"), Source(name="CT1"))
            ((number, row),) = orders.announcements(0, 10)
            assert row.subject == "1.2.2" and orders.announcements(number, 10, settled=True) == []
            assert orders.forget_announcements(number) == 1 and orders.announcements(0, 10) == []


def test_what_every_receiver_has_is_forgotten_but_not_what_was_set_aside() -> None:
    standing = Standing(name="x", cursor="17")
    assert oldest_of(standing) == 17
    standing.skipped.append(Skipped(at="9", error="", time=""))
    assert oldest_of(standing) == 9
    assert oldest_of(Standing(name="x")) == 0


def test_the_newest_priors_of_the_same_patient_are_chosen() -> None:
    rule = Rule(name="p", after="order", action="prefetch", to=("A",), priors_max=2, priors_days=365)
    occasion = Occasion(patient_id="P1", issuer="N", modalities=frozenset(("CT",)), studies=frozenset(("0",)))
    ct = frozenset(("CT", "SR"))
    present = [
        Prior("0", "20261129", "P1", "", ct),
        Prior("1", "20260101", "P1", "N", ct),
        Prior("2", "20261001", "P1", "", ct),
        Prior("3", "20261101", "P1", "N", ct),
        Prior("4", "20261102", "P2", "N", ct),
        Prior("5", "20261102", "P1", "S", ct),
        Prior("6", "20261102", "P1", "N", frozenset(("MR",))),
        Prior("7", "20201102", "P1", "N", ct),
        Prior("8", "", "P1", "N", ct),
    ]
    assert priors(present, occasion, rule, date(2026, 11, 30)) == ("3", "2")


class Archived:
    """An archive of others: an SCP that is asked for studies."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.port = 0

    def find(self, event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if event.identifier.get("StudyInstanceUID") or not event.identifier.get("PatientID"):
            return  # the job asks
        self.asked.append(str(event.identifier.PatientID))
        for study, when in (("1.9.1", "20261001"), ("1.9.2", "20261101")):
            row = Dataset()
            row.QueryRetrieveLevel, row.StudyInstanceUID, row.StudyDate = "STUDY", study, when
            row.PatientID, row.ModalitiesInStudy = event.identifier.PatientID, "CT"
            yield 0xFF00, row


def test_an_order_fetches_priors_and_a_study_of_that_archive_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.exchange.prefetch.date", Today)
    other, ae = Archived(), AE("OLD")
    ae.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, other.find)])
    peers = (Peer(aet="OLD", host="127.0.0.1", port=server.socket.getsockname()[1]),)
    rules = [
        Rule(name="orders", after="order", action="prefetch", to=("OLD",), priors_max=1),
        Rule(name="studies", after="study_quiet", action="prefetch", to=("OLD",)),
    ]
    try:
        with placed(tmp_path / "data", rules, peers=peers) as place:
            files = place.archive.job_files()
            patient = PatientUpdate(identifiers=(Identifier("P7"),))
            procedure = ProcedureUpdate(steps=(StepUpdate(modality="CT"),))
            order = OrderUpdate(
                action=OrderAction.NEW, patient=patient, accession=Identifier("A1"), procedures=(procedure,)
            )
            place.engine.orders().apply(order, Source(name="RIS"))
            wait_for(files.all, what="a job")
            (job,) = files.all()
            assert (job.kind, job.peer, job.by, job.work.studies) == ("pull", "OLD", "rule:orders", ("1.9.2",))
            place.arrive(1, sender="OLD", PatientID="P8")
            place.arrive(2, sender="CT1", PatientID="P9")
            wait_for(lambda: len(files.all()) == 2, what="the job for the study")
            assert other.asked[0] == "P7" and set(other.asked) == {"P7", "P9"}
    finally:
        server.shutdown()


class Today(date):
    """A day on which the studies of the test are not old."""

    @classmethod
    def today(cls) -> Today:
        return cls(2026, 11, 30)


def test_an_announced_study_is_pulled_from_who_has_announced_it(tmp_path: Path) -> None:
    rules = [Rule(name="theirs", after="available", action="pull", to=("OLD",))]
    peers = (Peer(aet="OLD", host="127.0.0.1", port=1),)
    with placed(tmp_path / "data", rules, peers=peers) as place:
        orders, files = place.engine.orders(), place.archive.job_files()
        orders.announce("study-available", "1.2.4", Source(name="SOMEBODY"))
        orders.announce("study-available", "1.2.5", Source(name="OLD"))
        wait_for(files.all, what="a job")
        (job,) = files.all()
        assert (job.kind, job.peer, job.by, job.work.studies) == ("pull", "OLD", "rule:theirs", ("1.2.5",))
