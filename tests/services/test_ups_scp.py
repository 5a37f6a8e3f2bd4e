"""Unified procedure steps over a socket, with pynetdicom as every SCU: statuses, answers, who may what."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import msgspec
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    UnifiedProcedureStepEvent,
    UnifiedProcedureStepPull,
    UnifiedProcedureStepPush,
    UnifiedProcedureStepQuery,
    UnifiedProcedureStepWatch,
)

from engine.access.role_settings import StudyRule
from engine.config import Config, Peer, Role
from engine.services.ups_events import EventReporter
from tests.services.serving import LIMITS, Serving, serve_in_thread

PUSH, PULL = UnifiedProcedureStepPush, UnifiedProcedureStepPull
WATCH, QUERY = UnifiedProcedureStepWatch, UnifiedProcedureStepQuery
UIDS = count(1)


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    data = tmp_path_factory.mktemp("ups") / "data"
    peers = (
        Peer(aet="WATCHER"),
        Peer(aet="SENDER", may=("store",)),
        Peer(aet="NARROW", role="one"),
        Peer(aet="CONFINED", role="recent"),
        Peer(aet="AWAY"),
    )
    roles = (
        Role(name="one", may=("workitem",), studies="none"),
        Role(name="recent", may=("workitem",), studies=(StudyRule(age_days=30),)),
    )
    config = Config(data=data, limits=LIMITS, peers=peers, roles=roles)
    with serve_in_thread(data, config, lambda _: None) as served:
        yield served


def patient(ae: AE) -> AE:
    """A busy machine takes its time."""
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = 300
    return ae


@contextmanager
def associated(serving: Serving, title: str = "AI1") -> Iterator[Association]:
    ae = patient(AE(title))
    for sop_class in (PUSH, PULL, WATCH, QUERY):
        ae.add_requested_context(sop_class)
    association = ae.associate("127.0.0.1", serving.port)
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def new_uid() -> str:
    return f"1.2.826.0.1.3680043.9.9998.{next(UIDS)}"


def code(value: str) -> list[Dataset]:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "99X", "meaning"
    return [item]


def scheduled(**changes: Any) -> Dataset:
    created = Dataset()
    created.SpecificCharacterSet = "ISO_IR 100"
    created.ProcedureStepState, created.ScheduledProcedureStepPriority = "SCHEDULED", "MEDIUM"
    created.ProcedureStepLabel, created.InputReadinessState = "Segment", "READY"
    created.ScheduledProcedureStepStartDateTime = "20261201090000"
    created.PatientName, created.PatientID = "Döe^Jane", "P1"
    for keyword, value in changes.items():
        setattr(created, keyword, value)
    return created


def with_state(state: str, transaction_uid: str) -> Dataset:
    action = Dataset()
    action.ProcedureStepState, action.TransactionUID = state, transaction_uid
    return action


def performed(transaction_uid: str) -> Dataset:
    done = Dataset()
    done.PerformedStationNameCodeSequence, done.PerformedWorkitemCodeSequence = code("AI1"), code("W1")
    done.PerformedProcedureStepStartDateTime = "20261201091000"
    done.PerformedProcedureStepEndDateTime = "20261201092000"
    output = Dataset()
    output.StudyInstanceUID = "1.2.3"
    done.OutputInformationSequence = [output]
    change = Dataset()
    change.TransactionUID = transaction_uid
    change.UnifiedProcedureStepPerformedProcedureSequence = [done]
    return change


def to(title: str, lock: str = "FALSE", **keys: Any) -> Dataset:
    action = Dataset()
    action.ReceivingAE, action.DeletionLock = title, lock
    for keyword, value in keys.items():
        setattr(action, keyword, value)
    return action


def create(association: Association, uid: str | None, **changes: Any) -> Any:
    return association.send_n_create(scheduled(**changes), PUSH, uid)[0]


def act(association: Association, kind: int, uid: str, information: Dataset | None, sop_class: str) -> int:
    status, _ = association.send_n_action(information, kind, PUSH, uid, meta_uid=sop_class)
    return int(status.Status)


def change(association: Association, uid: str, attributes: Dataset) -> int:
    status, _ = association.send_n_set(attributes, PUSH, uid, meta_uid=PULL)
    return int(status.Status)


def get(association: Association, uid: str, tags: list[Any], sop_class: str = PULL) -> tuple[int, Dataset | None]:
    status, attributes = association.send_n_get(tags, PUSH, uid, meta_uid=sop_class)
    return int(status.Status), attributes


def test_a_workitem_goes_from_its_scheduler_to_its_performer_and_is_completed(serving: Serving) -> None:
    uid = new_uid()
    with associated(serving) as peer:
        assert create(peer, uid).Status == 0x0000
        again = create(peer, uid)
        assert again.Status == 0x0111 and "exists already" in again.ErrorComment
        assert act(peer, 1, uid, with_state("COMPLETED", "1.2.9"), PULL) == 0xC310
        assert act(peer, 1, uid, with_state("IN PROGRESS", "1.2.9"), PULL) == 0x0000
        assert act(peer, 1, uid, with_state("IN PROGRESS", "1.2.8"), PULL) == 0xC301
        assert act(peer, 1, uid, with_state("IN PROGRESS", "1.2.9"), PULL) == 0xC302
        assert act(peer, 1, uid, with_state("SCHEDULED", "1.2.9"), PULL) == 0xC303
        assert act(peer, 1, uid, with_state("COMPLETED", "1.2.9"), PULL) == 0xC304
        assert change(peer, uid, performed("1.2.8")) == 0xC301
        assert change(peer, uid, performed("1.2.9")) == 0x0000
        assert act(peer, 1, uid, with_state("COMPLETED", "1.2.9"), PULL) == 0x0000
        assert act(peer, 1, uid, with_state("COMPLETED", "1.2.9"), PULL) == 0xB306
        assert act(peer, 1, uid, with_state("CANCELED", "1.2.9"), PULL) == 0xC300
        assert change(peer, uid, performed("1.2.9")) == 0xC300
        assert act(peer, 2, uid, None, PUSH) == 0xC311
        for sop_class in (PUSH, PULL, WATCH):
            status, attributes = get(peer, uid, [], sop_class)
            assert status == 0x0000 and attributes is not None
            assert attributes.ProcedureStepState == "COMPLETED" and "TransactionUID" not in attributes
            assert attributes.PatientName == "Döe^Jane" and attributes.SOPClassUID == PUSH
        assert get(peer, new_uid(), []) == (0xC307, None)
        _, one = get(peer, uid, [0x00741000])
        assert one is not None and [element.keyword for element in one] == ["ProcedureStepState"]


def test_a_scheduled_workitem_is_canceled_on_request_and_a_claimed_one_needs_a_listener(serving: Serving) -> None:
    scheduled_one, claimed = new_uid(), new_uid()
    with associated(serving) as peer:
        for uid in (scheduled_one, claimed):
            assert create(peer, uid).Status == 0x0000
        assert act(peer, 1, claimed, with_state("IN PROGRESS", "1.2.9"), PULL) == 0x0000
        for sop_class, expected in ((PUSH, 0x0000), (WATCH, 0xB304)):
            assert act(peer, 2, scheduled_one, None, sop_class) == expected
        assert act(peer, 2, claimed, None, WATCH) == 0xC312
        assert act(peer, 3, claimed, to("WATCHER"), WATCH) == 0x0000
        assert act(peer, 2, claimed, None, WATCH) == 0x0000
        assert act(peer, 1, claimed, with_state("CANCELED", "1.2.9"), PULL) == 0x0000
        assert act(peer, 1, claimed, with_state("CANCELED", "1.2.9"), PULL) == 0xB304
        assert act(peer, 2, new_uid(), None, WATCH) == 0xC307


def test_what_a_new_workitem_lacks_is_named(serving: Serving) -> None:
    with associated(serving) as peer:
        assert create(peer, new_uid(), ProcedureStepState="IN PROGRESS").Status == 0xC309
        lacking = scheduled()
        del lacking.ProcedureStepLabel
        status, _ = peer.send_n_create(lacking, PUSH, new_uid())
        assert status.Status == 0x0120 and "ProcedureStepLabel" in status.ErrorComment
        assert create(peer, new_uid(), ScheduledProcedureStepPriority="URGENT").Status == 0x0106
        assert create(peer, None, WorklistLabel="NAMELESS").Status == 0x0000
        (made,), _ = find(peer, QUERY, WorklistLabel="NAMELESS", SOPInstanceUID="")
        assert made.SOPInstanceUID.startswith("2.25.")


def test_each_class_has_its_actions_and_unknown_receivers_are_refused(serving: Serving) -> None:
    uid = new_uid()
    with associated(serving) as peer:
        assert create(peer, uid).Status == 0x0000
        assert act(peer, 1, uid, with_state("IN PROGRESS", "1.2.9"), PUSH) == 0x0123
        assert act(peer, 3, uid, to("AI1"), PULL) == 0x0123
        assert act(peer, 9, uid, to("AI1"), WATCH) == 0x0123
        assert act(peer, 3, uid, to("NOBODY"), WATCH) == 0xC308
        assert act(peer, 3, new_uid(), to("AI1"), WATCH) == 0xC307
        assert act(peer, 5, uid, to("AI1"), WATCH) == 0xC314
        assert act(peer, 3, uid, to("AI1", "PERHAPS"), WATCH) == 0x0106
        assert act(peer, 3, "1.2.840.10008.5.1.4.34.5.1", to("AI1"), WATCH) == 0x0120
        for uid_, information in (
            (uid, to("AI1")),
            ("1.2.840.10008.5.1.4.34.5", to("AI1", "TRUE")),
            ("1.2.840.10008.5.1.4.34.5.1", to("AI1", WorklistLabel="AI")),
        ):
            assert act(peer, 3, uid_, information, WATCH) == 0x0000
            assert act(peer, 4, uid_, information, WATCH) == 0x0000


def find(association: Association, sop_class: str, **keys: Any) -> tuple[list[Dataset], int]:
    identifier = Dataset()
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    *pending, (final, _) = association.send_c_find(identifier, sop_class)
    assert {status.Status for status, _ in pending} <= {0xFF00}
    return [answer for _, answer in pending if answer is not None], int(final.Status)


def test_queries_find_by_keys_and_return_what_is_asked_for(serving: Serving) -> None:
    uid, other = new_uid(), new_uid()
    with associated(serving) as peer:
        create(peer, uid, WorklistLabel="FIND", ScheduledStationNameCodeSequence=code("GPU1"))
        create(peer, other, WorklistLabel="FIND", PatientID="P2")
        station = Dataset()
        station.CodeValue = "GPU1"
        for sop_class in (PULL, WATCH, QUERY):
            (answer,), status = find(
                peer, sop_class, WorklistLabel="FIN*", ScheduledStationNameCodeSequence=[station], PatientName="döe*",
                SOPInstanceUID="", ProcedureStepState="SCHEDULED", SpecificCharacterSet="ISO_IR 100",
                ExpectedCompletionDateTime="",
            )  # fmt: skip
            assert status == 0x0000 and answer.SOPInstanceUID == uid and answer.PatientName == "Döe^Jane"
            assert answer.ExpectedCompletionDateTime == "" and "PatientID" not in answer
            assert [element.keyword for element in answer.ScheduledStationNameCodeSequence[0]] == ["CodeValue"]
        both, _ = find(peer, QUERY, WorklistLabel="FIND", PatientID="")
        assert {answer.PatientID for answer in both} == {"P1", "P2"}
        assert find(peer, QUERY, ScheduledProcedureStepStartDateTime="soon") == ([], 0xA900)


def test_who_may_not_see_workitems_is_refused_and_a_role_confines(serving: Serving) -> None:
    uid = new_uid()
    with associated(serving) as peer:
        create(peer, uid, WorklistLabel="MINE")
    ae = patient(AE("SENDER"))
    ae.add_requested_context(PULL)
    association = ae.associate("127.0.0.1", serving.port)
    assert not association.accepted_contexts
    association.abort()
    with associated(serving, "NARROW") as peer:
        assert find(peer, PULL, WorklistLabel="MINE") == ([], 0x0000)
        assert get(peer, uid, [])[0] == 0xC307
        assert act(peer, 1, uid, with_state("IN PROGRESS", "1.2.9"), PULL) == 0xC307
        assert create(peer, new_uid()).Status == 0x0124
        assert act(peer, 3, "1.2.840.10008.5.1.4.34.5", to("NARROW"), WATCH) == 0x0124
        for kind in (3, 4, 5):  # subscriptions of other peers are not its own
            assert act(peer, kind, "1.2.840.10008.5.1.4.34.5", to("WATCHER"), WATCH) == 0x0124


def test_a_confined_peer_hears_nothing_of_what_it_may_not_see_though_another_one_subscribed_it(
    serving: Serving,
) -> None:
    uid, heard = new_uid(), Heard()
    ae = patient(AE("CONFINED"))
    for sop_class in (WATCH, UnifiedProcedureStepEvent):
        ae.add_requested_context(sop_class)
    ear = ae.associate("127.0.0.1", serving.port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, heard.handle)])
    assert ear.is_established
    try:
        with associated(serving) as peer:
            for number, start in ((new_uid(), "19990101090000"), (uid, "21001201090000")):
                assert create(peer, number, ScheduledProcedureStepStartDateTime=start).Status == 0x0000
                assert act(peer, 3, number, to("CONFINED"), WATCH) == 0x0000
        assert heard.next(1) == [(uid, 1, "SCHEDULED")]
    finally:
        ear.release()


# events ----------------------------------------------------------------------------------------------


class Heard:
    """The events that a subscriber has received."""

    def __init__(self) -> None:
        self.events: queue.Queue[tuple[str, int, str]] = queue.Queue()

    def handle(self, event: Any) -> tuple[int, None]:
        request, information = event.request, event.event_information
        state = information.get("ProcedureStepState", information.get("ReasonForCancellation", ""))
        self.events.put((request.AffectedSOPInstanceUID, event.event_type, state))
        return 0x0000, None

    def next(self, count: int) -> list[tuple[str, int, str]]:
        return [self.events.get(timeout=300) for _ in range(count)]


def reasons(text: str) -> Dataset:
    information = Dataset()
    information.ReasonForCancellation = text
    return information


def test_a_subscriber_hears_of_changes_on_its_own_association(serving: Serving) -> None:
    uid, heard = new_uid(), Heard()
    ae = patient(AE("EAR"))
    for sop_class in (WATCH, UnifiedProcedureStepEvent):
        ae.add_requested_context(sop_class)
    ear = ae.associate("127.0.0.1", serving.port, evt_handlers=[(evt.EVT_N_EVENT_REPORT, heard.handle)])
    assert ear.is_established
    with associated(serving) as peer:
        create(peer, uid)
        assert act(peer, 3, uid, to("EAR"), WATCH) == 0xC308  # somebody else's title that is no peer
        assert act(ear, 3, uid, to("EAR"), WATCH) == 0x0000
        assert act(peer, 1, uid, with_state("IN PROGRESS", "1.2.9"), PULL) == 0x0000
        assert act(peer, 2, uid, reasons("too late"), PUSH) == 0x0000
        assert act(peer, 1, uid, with_state("CANCELED", "1.2.9"), PULL) == 0x0000
    try:
        assert heard.next(4) == [(uid, 1, "SCHEDULED"), (uid, 1, "IN PROGRESS"), (uid, 2, "too late"),
                                 (uid, 1, "CANCELED")]  # fmt: skip
    finally:
        ear.release()


def test_a_peer_without_an_association_is_called_and_misses_nothing_while_it_was_away(serving: Serving) -> None:
    uid, heard = new_uid(), Heard()
    with associated(serving) as peer:
        create(peer, uid)
        assert act(peer, 3, uid, to("AWAY"), WATCH) == 0x0000
        assert act(peer, 1, uid, with_state("IN PROGRESS", "1.2.9"), PULL) == 0x0000
    ae = patient(AE("AWAY"))
    ae.add_supported_context(UnifiedProcedureStepEvent, scu_role=False, scp_role=True)
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, heard.handle)])
    engine = serving.services.engine
    away = Peer(aet="AWAY", host="127.0.0.1", port=server.server_address[1])
    engine.config = msgspec.structs.replace(engine.config, peers=(*engine.config.peers[:-1], away))
    reporters: list[EventReporter] = []

    def start() -> None:
        reporters.append(EventReporter(serving.services))
        reporters[0].start()

    engine.loop.call_soon_threadsafe(start)
    try:
        assert heard.next(2) == [(uid, 1, "SCHEDULED"), (uid, 1, "IN PROGRESS")]
        with associated(serving) as peer:
            assert act(peer, 1, uid, with_state("CANCELED", "1.2.9"), PULL) == 0x0000
        assert heard.next(1) == [(uid, 1, "CANCELED")]
    finally:
        engine.loop.call_soon_threadsafe(lambda: reporters[0].close())
        server.shutdown()
