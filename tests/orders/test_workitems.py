"""Workitems without a socket: random histories against a table of PS3.4 CC.1.1, subscriptions, events, restarts."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.errors import WorkitemRefused
from engine.orders.registry import Orders
from engine.orders.values import Identifier, PatientMerge, PatientUpdate, Source
from engine.orders.workitems import life, subscriptions
from engine.orders.workitems.rules import Fault, Remark
from engine.orders.workitems.search import Search, question_of
from engine.orders.workitems.store import Subscriber, Workitems
from engine.orders.workitems.subscriptions import FILTERED, GLOBAL
from tests.orders.conftest import Open, Unsynced, opening
from tests.orders.workitem_sets import changed, code, performed, scheduled

NOTHING = DataSet({})
A, B = Subscriber("AE_A"), Subscriber("AE_B")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens the registry of this test."""
    yield from opening(tmp_path, Unsynced())


@pytest.fixture
def orders(opened: Open) -> Orders:
    return opened()


@pytest.fixture
def workitems(orders: Orders) -> Workitems:
    return Workitems(orders)


def outcome(work: Callable[[], Remark | None]) -> str:
    """The remark of a call, or the fault with which it is refused."""
    try:
        return str(work() or "")
    except WorkitemRefused as refusal:
        return refusal.fault


def state_of(workitems: Workitems, uid: str) -> str:
    value = workitems.get(uid)[tags.ProcedureStepState]
    assert isinstance(value, bytes)
    return value.decode()


def events_of(workitems: Workitems, title: str, after: int = 0) -> list[tuple[str, int, str]]:
    """Workitem, type and state of each event that waits."""
    found = []
    for _, row in workitems.waiting(title, after, 1000):
        state = subscriptions.attributes.decoded(row.data_set, element_count_max=100).text(tags.ProcedureStepState)
        found.append((row.uid, row.type, state))
    return found


# Table CC.1.1-2: event → what each state answers; a state's name is the state after a change.
TABLE: dict[str, dict[str, str]] = {
    "create": dict.fromkeys(("SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"), "duplicate") | {"": "SCHEDULED"},
    "claim": {"": "unknown", "SCHEDULED": "IN PROGRESS", "IN PROGRESS": "in-progress", "COMPLETED": "final",
              "CANCELED": "final"},
    "claim wrongly": {"": "unknown", "SCHEDULED": "IN PROGRESS", "IN PROGRESS": "transaction",
                      "COMPLETED": "transaction", "CANCELED": "transaction"},
    "claim without": {"": "unknown"} | dict.fromkeys(
        ("SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"), "transaction"),
    "schedule": {"": "unknown"} | dict.fromkeys(
        ("SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"), "only-created"),
    "complete": {"": "unknown", "SCHEDULED": "not-in-progress", "IN PROGRESS": "COMPLETED",
                 "COMPLETED": "already-completed", "CANCELED": "final"},
    "complete wrongly": {"": "unknown", "SCHEDULED": "not-in-progress", "IN PROGRESS": "transaction",
                         "COMPLETED": "transaction", "CANCELED": "transaction"},
    "cancel": {"": "unknown", "SCHEDULED": "not-in-progress", "IN PROGRESS": "CANCELED", "COMPLETED": "final",
               "CANCELED": "already-canceled"},
    "request": {"": "unknown", "SCHEDULED": "CANCELED", "IN PROGRESS": "nobody", "COMPLETED": "completed",
                "CANCELED": "already-canceled"},
    "set": {"": "unknown", "SCHEDULED": "not-in-progress", "IN PROGRESS": "", "COMPLETED": "final",
            "CANCELED": "final"},
    "set without": {"": "unknown", "SCHEDULED": "", "IN PROGRESS": "transaction", "COMPLETED": "final",
                    "CANCELED": "final"},
}  # fmt: skip


class Twin:
    """What the table says of each workitem."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.locks: dict[str, str] = {}
        self.is_ready: dict[str, bool] = {}
        """Whether the performed procedure is there."""

    def expects(self, event: str, uid: str, transaction: str) -> str:
        """The answer to an event; changes the state."""
        state = self.states.get(uid, "")
        is_claimed = state not in ("", "SCHEDULED")
        if event in ("claim", "complete", "cancel") and is_claimed and transaction != self.locks.get(uid, "nobody's"):
            return "transaction"  # also when the archive itself canceled it
        answer = TABLE[event][state]
        if event == "complete" and answer == "COMPLETED" and not self.is_ready.get(uid):
            return "incomplete"
        if event == "set" and state == "IN PROGRESS":
            self.is_ready[uid] = True
        if answer in ("SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"):
            self.states[uid] = answer
            if answer == "IN PROGRESS":
                self.locks[uid] = transaction
            return ""
        return answer


def perform(workitems: Workitems, event: str, uid: str, lock: str) -> Remark | None:
    match event:
        case "create":
            workitems.create(uid, scheduled(), "RIS")
            return None
        case "claim" | "claim wrongly":
            return workitems.change_state(uid, "IN PROGRESS", lock, "AI")
        case "claim without":
            return workitems.change_state(uid, "IN PROGRESS", "", "AI")
        case "schedule":
            return workitems.change_state(uid, "SCHEDULED", lock, "AI")
        case "complete" | "complete wrongly":
            return workitems.change_state(uid, "COMPLETED", lock, "AI")
        case "cancel":
            return workitems.change_state(uid, "CANCELED", lock, "AI")
        case "request":
            return workitems.request_cancel(uid, NOTHING, "RIS")
        case "set":
            return workitems.update(uid, performed(lock), "AI")
        case _:
            return workitems.update(uid, changed("", ProcedureStepLabel=b"other"), "AI")


@pytest.mark.parametrize("seed", range(5))
def test_random_histories_answer_as_the_table_of_states_says(opened: Open, seed: int) -> None:
    chance, twin = random.Random(seed), Twin()
    workitems = Workitems(opened())
    uids = [f"1.2.{number}" for number in range(1, 7)]
    for step in range(250):
        event, uid = chance.choice(list(TABLE)), chance.choice(uids)
        lock = twin.locks.get(uid, "2.25.1")
        other = "9.9.9" if lock != "9.9.9" else "8.8.8"
        transaction = other if event.endswith("wrongly") else lock
        expected = twin.expects(event, uid, transaction)
        assert outcome(lambda: perform(workitems, event, uid, transaction)) == expected, (seed, step, event, uid)  # noqa: B023
        if chance.random() < 0.02:
            workitems = Workitems(opened())
    states = {uid: state_of(workitems, uid) for uid in twin.states}
    assert states == twin.states


def test_another_process_and_a_new_database_have_the_same_workitems(opened: Open, tmp_path: Any) -> None:
    first = Workitems(opened())
    first.subscribe(GLOBAL, A, has_lock=True)
    first.create("1.2.1", scheduled(), "RIS")
    first.change_state("1.2.1", "IN PROGRESS", "2.25.7", "AI")
    counts = (orders := opened()).counts()
    orders.close()
    for name in ("boot",):
        (tmp_path / "hospital" / name).write_bytes(b"another boot")
    later = opened()
    assert later.counts() == counts and counts["events"] == 2
    assert outcome(lambda: Workitems(later).change_state("1.2.1", "COMPLETED", "2.25.8", "AI")) == Fault.TRANSACTION


def test_the_transaction_uid_is_never_told(workitems: Workitems) -> None:
    workitems.create("1.2.1", scheduled(), "RIS")
    workitems.change_state("1.2.1", "IN PROGRESS", "2.25.7", "AI")
    workitems.update("1.2.1", changed("2.25.7", ProcedureStepLabel=b"x"), "AI")
    assert tags.TransactionUID not in workitems.get("1.2.1")
    search = Search(question_of(DataSet({tags.TransactionUID: b"2.25.8", tags.SOPInstanceUID: b""})))
    matches = workitems.read(search)
    assert matches is not None and [uid for uid, _ in matches] == ["1.2.1"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"ProcedureStepState": b"IN PROGRESS"}, Fault.NOT_SCHEDULED),
        ({"ProcedureStepLabel": b""}, Fault.NO_VALUE),
        ({"ScheduledProcedureStepPriority": b"URGENT"}, Fault.VALUE),
        ({"InputReadinessState": b"SOON"}, Fault.VALUE),
        ({"ScheduledProcedureStepStartDateTime": b"tomorrow"}, Fault.VALUE),
        ({"TransactionUID": b"1.2"}, Fault.VALUE),
        ({"UnifiedProcedureStepPerformedProcedureSequence": code(b"1")}, Fault.VALUE),
    ],
)
def test_a_workitem_that_lacks_something_is_refused_and_leaves_nothing(
    workitems: Workitems, changes: dict[str, Any], fault: Fault
) -> None:
    assert outcome(lambda: workitems.create("1.2.1", scheduled(**changes), "RIS")) == fault
    assert outcome(lambda: state_of(workitems, "1.2.1")) == Fault.UNKNOWN  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("uid", ["", "1.2.x", "1" * 65, "1..2", "1.2\0", "ü"])
def test_what_is_no_uid_is_no_workitem(workitems: Workitems, uid: str) -> None:
    assert outcome(lambda: workitems.create(uid, scheduled(), "RIS")) == Fault.UID
    assert outcome(lambda: workitems.request_cancel(uid, NOTHING, "RIS")) == Fault.UNKNOWN


def test_the_patient_stays_whoever_sets_attributes_and_follows_merges(orders: Orders, workitems: Workitems) -> None:
    ris = Source(name="RIS")
    for number, name in (("P1", "Doe^Jane"), ("P2", "Roe^Jane")):
        orders.apply(PatientUpdate(identifiers=(Identifier(number),), attributes={"PatientName": name}), ris)
    workitems.create("1.2.1", scheduled(), "RIS")
    remark = workitems.update("1.2.1", changed("", PatientID=b"P9", ProcedureStepLabel=b"new"), "AI")
    items = workitems.get("1.2.1")
    assert remark is Remark.NOT_SET and (items[tags.PatientID], items[tags.ProcedureStepLabel]) == (b"P1", b"new")
    assert workitems.update("1.2.1", changed("", PatientID=b"P1"), "AI") is Remark.NONE
    orders.apply(PatientMerge(prior=Identifier("P1"), survivor=PatientUpdate(identifiers=(Identifier("P2"),))), ris)
    items = workitems.get("1.2.1")
    assert (items[tags.PatientID], items[tags.PatientName]) == (b"P2", b"Roe^Jane")


def test_a_canceled_workitem_has_what_a_final_state_needs(workitems: Workitems) -> None:
    workitems.create("1.2.1", scheduled(), "RIS")
    workitems.request_cancel("1.2.1", DataSet({tags.ReasonForCancellation: b"by mistake"}), "RIS")
    progress = workitems.get("1.2.1")[tags.ProcedureStepProgressInformationSequence]
    assert not isinstance(progress, bytes) and isinstance(progress[0], DataSet)
    assert progress[0].value(tags.ReasonForCancellation) == b"by mistake"
    assert progress[0].value(tags.ProcedureStepCancellationDateTime)
    reason = progress[0].sequence(tags.ProcedureStepDiscontinuationReasonCodeSequence)[0]
    assert reason.value(tags.CodeValue) == b"110513"


# queries ---------------------------------------------------------------------------------------------


def found(workitems: Workitems, **keys: bytes | list[DataSet]) -> list[str]:
    search = Search(question_of(changed("", **keys)))
    uids: list[str] = []
    while (matches := workitems.read(search)) is not None:
        uids += [uid for uid, _ in matches]
    return uids


def test_a_query_finds_by_every_kind_of_key(workitems: Workitems) -> None:
    workitems.create("1.2.1", scheduled(WorklistLabel=b"AI", ScheduledStationNameCodeSequence=code(b"GPU1")), "RIS")
    workitems.create("1.2.2", scheduled(ScheduledProcedureStepStartDateTime=b"20261202100000+0100"), "RIS")
    for number in range(3, 250):
        workitems.create(f"1.2.{number}", scheduled(PatientID=b"P3", PatientName=b"X"), "RIS")
    workitems.request_cancel("1.2.2", NOTHING, "RIS")
    assert found(workitems, WorklistLabel=b"A*") == ["1.2.1"]
    wrong = DataSet({tags.CodeValue: b"GPU1", tags.CodingSchemeDesignator: b"other"})
    assert found(workitems, ScheduledStationNameCodeSequence=[wrong]) == []
    inner = DataSet({tags.CodeValue: b"GPU1"})
    assert found(workitems, ScheduledStationNameCodeSequence=[inner]) == ["1.2.1"]
    assert found(workitems, ProcedureStepState=b"CANCELED") == ["1.2.2"]
    assert found(workitems, ScheduledProcedureStepStartDateTime=b"20261202") == ["1.2.2"]
    assert found(workitems, ScheduledProcedureStepStartDateTime=b"20261202-") == ["1.2.2"]
    assert found(workitems, ScheduledProcedureStepStartDateTime=b"20261202085959-20261202100000") == ["1.2.2"]
    assert found(workitems, SOPInstanceUID=b"1.2.2\\1.2.77\\9.9") == ["1.2.2", "1.2.77"]
    assert found(workitems, PatientName=b"doe*", ProcedureStepState=b"SCHEDULED") == ["1.2.1"]
    assert len(found(workitems)) == 249


# subscriptions and events ----------------------------------------------------------------------------


def test_a_global_subscriber_hears_of_every_workitem_from_its_creation_on(workitems: Workitems) -> None:
    workitems.create("1.2.1", scheduled(), "RIS")
    workitems.subscribe(GLOBAL, A, has_lock=False)
    workitems.create("1.2.2", scheduled(ScheduledStationNameCodeSequence=code(b"GPU1")), "RIS")
    workitems.change_state("1.2.1", "IN PROGRESS", "2.25.1", "AI")
    workitems.update("1.2.1", changed("2.25.1", InputReadinessState=b"UNAVAILABLE"), "AI")
    progress = DataSet({tags.ProcedureStepProgress: b"50"})
    for _ in range(2):  # the second one changes nothing
        workitems.update("1.2.1", changed("2.25.1", ProcedureStepProgressInformationSequence=[progress]), "AI")
    workitems.request_cancel("1.2.1", NOTHING, "RIS")
    workitems.request_cancel("1.2.2", NOTHING, "RIS")
    assert events_of(workitems, "AE_A") == [
        ("1.2.2", 1, "SCHEDULED"), ("1.2.2", 5, ""), ("1.2.1", 1, "IN PROGRESS"), ("1.2.1", 1, "IN PROGRESS"),
        ("1.2.1", 3, ""), ("1.2.1", 2, ""), ("1.2.2", 2, ""), ("1.2.2", 1, "IN PROGRESS"), ("1.2.2", 1, "CANCELED"),
    ]  # fmt: skip


def test_a_filter_subscribes_to_what_meets_it_now_and_later(workitems: Workitems) -> None:
    workitems.create("1.2.1", scheduled(WorklistLabel=b"AI"), "RIS")
    workitems.create("1.2.2", scheduled(), "RIS")
    workitems.subscribe(FILTERED, A, has_lock=True, keys=changed("", WorklistLabel=b"AI"))
    workitems.create("1.2.3", scheduled(WorklistLabel=b"AI"), "RIS")
    workitems.create("1.2.4", scheduled(), "RIS")
    assert events_of(workitems, "AE_A") == [("1.2.1", 1, "SCHEDULED"), ("1.2.3", 1, "SCHEDULED")]
    assert outcome(lambda: workitems.subscribe(FILTERED, A, has_lock=True, keys=NOTHING)) == Fault.MISSING  # type: ignore[func-returns-value]


def test_subscriptions_end_one_by_one_all_at_once_or_for_workitems_to_come(workitems: Workitems) -> None:
    for number in (1, 2):
        workitems.create(f"1.2.{number}", scheduled(), "RIS")
    for who in (A, B):
        workitems.subscribe(GLOBAL, who, has_lock=True)
        workitems.acknowledge(who.title, 2)
    workitems.unsubscribe("1.2.1", A)
    workitems.suspend(GLOBAL, A)
    workitems.unsubscribe(GLOBAL, B)
    workitems.create("1.2.3", scheduled(), "RIS")
    for number in (1, 2, 3):
        workitems.change_state(f"1.2.{number}", "IN PROGRESS", "2.25.1", "AI")
    assert events_of(workitems, "AE_A") == [("1.2.2", 1, "IN PROGRESS")]
    assert events_of(workitems, "AE_B") == []
    assert outcome(lambda: workitems.suspend("1.2.1", A)) == Fault.ACTION  # type: ignore[func-returns-value]


def test_events_wait_until_they_are_acknowledged_and_the_oldest_make_room(
    workitems: Workitems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "EVENTS_MAX", 3)
    workitems.subscribe(GLOBAL, A, has_lock=False)
    for number in range(1, 6):
        workitems.create(f"1.2.{number}", scheduled(), "RIS")
    waiting = workitems.waiting("AE_A", 0, 10)
    assert [(number, row.uid) for number, row in waiting] == [(3, "1.2.3"), (4, "1.2.4"), (5, "1.2.5")]
    workitems.acknowledge("AE_A", 4)
    workitems.acknowledge("AE_A", 1)
    assert [number for number, _ in workitems.waiting("AE_A", 0, 10)] == [5] and workitems.receivers() == ["AE_A"]
    workitems.acknowledge("AE_A", 99)
    assert workitems.receivers() == []
    workitems.create("1.2.6", scheduled(), "RIS")
    assert [number for number, _ in workitems.waiting("AE_A", 0, 10)] == [6]


def test_a_title_that_begins_like_another_one_has_its_own_events(workitems: Workitems) -> None:
    workitems.subscribe(GLOBAL, Subscriber("AE"), has_lock=False)
    workitems.create("1.2.1", scheduled(), "RIS")
    workitems.subscribe("1.2.1", A, has_lock=False)
    assert len(workitems.waiting("AE", 0, 10)) == 1 and len(workitems.waiting("AE_A", 0, 10)) == 1
    workitems.unsubscribe(GLOBAL, Subscriber("A"))
    assert len(workitems.waiting("AE", 0, 10)) == 1


def test_a_restart_is_told_to_every_subscriber(workitems: Workitems) -> None:
    workitems.create("1.2.1", scheduled(), "RIS")
    workitems.subscribe("1.2.1", A, has_lock=False)
    workitems.restarted()
    assert events_of(workitems, "AE_A")[-1] == (GLOBAL, 4, "")


def test_a_final_workitem_is_kept_for_some_time_and_while_somebody_holds_a_lock(workitems: Workitems) -> None:
    for number in (1, 2, 3):
        workitems.create(f"1.2.{number}", scheduled(), "RIS")
    workitems.subscribe("1.2.1", A, has_lock=True)
    workitems.subscribe("1.2.2", A, has_lock=False)
    for number in (1, 2):
        workitems.request_cancel(f"1.2.{number}", NOTHING, "RIS")
    assert workitems.forget(3600) == 0
    assert workitems.forget(-1) == 1 and found(workitems) == ["1.2.1", "1.2.3"]
    workitems.subscribe("1.2.1", A, has_lock=False)
    assert workitems.forget(-1) == 1 and found(workitems) == ["1.2.3"]


def test_a_newer_channel_takes_the_place_of_an_older_one(workitems: Workitems) -> None:
    assert not workitems.has_channel("AE_A")
    workitems.open_channel("AE_A", "one")
    assert workitems.keep_channel("AE_A", "one") and workitems.has_channel("AE_A")
    workitems.open_channel("AE_A", "two")
    assert not workitems.keep_channel("AE_A", "one")
    workitems.close_channel("AE_A", "one")
    assert workitems.has_channel("AE_A")
    workitems.close_channel("AE_A", "two")
    assert not workitems.has_channel("AE_A")


def test_a_title_of_somebody_is_nobody_elses(workitems: Workitems) -> None:
    mine, other = Subscriber("AE_A", "http:ann"), Subscriber("AE_A", "http:bob")
    workitems.subscribe(GLOBAL, mine, has_lock=False)
    for attempt in (
        lambda: workitems.subscribe(GLOBAL, other, has_lock=False),
        lambda: workitems.unsubscribe(GLOBAL, other),
        lambda: workitems.suspend(GLOBAL, other),
        lambda: workitems.check_receiver(other),
    ):
        assert outcome(attempt) == Fault.NOT_ALLOWED  # type: ignore[arg-type, func-returns-value]
    workitems.check_receiver(mine)


def test_what_is_out_of_reach_does_not_exist(workitems: Workitems) -> None:
    workitems.create("1.2.1", scheduled(), "RIS")

    def reach(items: Any) -> bool:
        return bool(items[tags.PatientID] == b"P2")

    calls: tuple[Callable[[], Any], ...] = (
        lambda: workitems.get("1.2.1", reach),
        lambda: workitems.update("1.2.1", changed("", ProcedureStepLabel=b"x"), "X", reach),
        lambda: workitems.change_state("1.2.1", "IN PROGRESS", "1.2", "X", reach),
        lambda: workitems.request_cancel("1.2.1", NOTHING, "X", reach),
        lambda: workitems.subscribe("1.2.1", Subscriber("X", reach=reach), has_lock=False),
    )
    for call in calls:
        assert outcome(call) == Fault.UNKNOWN
    assert outcome(lambda: workitems.create("1.2.2", scheduled(), "X", reach)) == Fault.NOT_ALLOWED  # type: ignore[func-returns-value]
    assert outcome(lambda: workitems.subscribe(GLOBAL, Subscriber("X", reach=reach), has_lock=False)) == "not-allowed"  # type: ignore[func-returns-value]
    assert found(workitems) == ["1.2.1"] and life.CLASS_UID == "1.2.840.10008.5.1.4.34.6.1"


def test_an_event_is_told_only_to_who_may_see_its_workitem_by_now(workitems: Workitems) -> None:
    workitems.subscribe(GLOBAL, A, has_lock=False)
    for uid, patient in (("1.2.1", b"P1"), ("1.2.2", b"P2")):
        workitems.create(uid, scheduled(PatientID=patient), "RIS")
    workitems.restarted()
    rows = [row for _, row in workitems.waiting("AE_A", 0, 10)]

    def told(reach: Any) -> list[str]:
        return [row.uid for row in rows if workitems.tells(row, reach)]

    assert told(None) == ["1.2.1", "1.2.2", GLOBAL]
    assert told(lambda items: items[tags.PatientID] == b"P2") == ["1.2.2", GLOBAL]


def test_who_is_confined_ends_no_subscription_of_an_application_entity(workitems: Workitems) -> None:
    workitems.create("1.2.1", scheduled(), "RIS")
    workitems.subscribe(GLOBAL, A, has_lock=True)
    confined = Subscriber("AE_A", "http:ann", lambda items: True)
    attempts: tuple[Callable[[], Any], ...] = (
        lambda: workitems.unsubscribe(GLOBAL, confined),
        lambda: workitems.unsubscribe("1.2.1", confined),
        lambda: workitems.suspend(GLOBAL, confined),
        lambda: workitems.subscribe("1.2.1", confined, has_lock=False),
        lambda: workitems.check_receiver(confined),
    )
    for attempt in attempts:
        assert outcome(attempt) == Fault.NOT_ALLOWED
    assert [event[0] for event in events_of(workitems, "AE_A")] == ["1.2.1"]


def test_events_that_say_much_make_room_as_many_do(workitems: Workitems, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscriptions, "EVENTS_BYTES_MAX", 3000)
    workitems.create("1.2.1", scheduled(), "RIS")
    workitems.subscribe("1.2.1", A, has_lock=False)
    for number in range(10):
        progress = [DataSet({tags.ProcedureStepProgressDescription: b"%d" % number * 1000})]
        workitems.update("1.2.1", changed("", ProcedureStepProgressInformationSequence=progress), "X")
    events = workitems.waiting("AE_A", 0, 100)
    assert [number for number, _ in events] == [10, 11]
    workitems.acknowledge("AE_A", 11)
    workitems.update("1.2.1", changed("", InputReadinessState=b"UNAVAILABLE"), "X")
    assert len(workitems.waiting("AE_A", 0, 100)) == 1


def test_what_no_event_can_say_is_refused_and_changes_nothing(workitems: Workitems) -> None:
    workitems.create("1.2.1", scheduled(), "RIS")
    before = workitems.get("1.2.1")
    progress = [DataSet({tags.TextValue: b"x" * 70_000})]
    change = changed("", ProcedureStepProgressInformationSequence=progress)
    assert outcome(lambda: workitems.update("1.2.1", change, "X")) == Fault.RESOURCES
    assert workitems.get("1.2.1") == before


def test_workitems_leave_the_orders_room(workitems: Workitems, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life, "WORKITEMS_BYTES_MAX", 1 << 20)
    large = scheduled(TextValue=b"x" * (1 << 20))
    workitems.create("1.2.1", large, "X")
    assert outcome(lambda: workitems.create("1.2.2", scheduled(), "X")) == Fault.RESOURCES  # type: ignore[func-returns-value]
    workitems.update("1.2.1", changed("", ProcedureStepLabel=b"still"), "X")
    workitems.update("1.2.1", changed("", TextValue=b"x" * (3 << 20)), "X")
    assert outcome(lambda: workitems.update("1.2.1", changed("", ProcedureStepLabel=b"y"), "X")) == Fault.RESOURCES
    workitems.change_state("1.2.1", "IN PROGRESS", "1.9", "X")


def test_large_workitems_are_read_one_by_one(workitems: Workitems) -> None:
    for number in range(30):
        workitems.create(f"1.2.{number}", scheduled(TextValue=b"x" * (1 << 20)), "RIS")
    tracemalloc.start()
    try:
        workitems.subscribe(GLOBAL, A, has_lock=True)
        workitems.forget(0.0)
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()
    assert len(workitems.waiting("AE_A", 0, 100)) == 30


def test_subscriptions_leave_the_orders_room(workitems: Workitems, monkeypatch: pytest.MonkeyPatch) -> None:
    workitems.create("1.2.1", scheduled(), "RIS")
    workitems.subscribe(GLOBAL, A, has_lock=False)
    monkeypatch.setattr(subscriptions, "SUBSCRIPTIONS_BYTES_MAX", 1)
    for uid in (GLOBAL, "1.2.1"):
        assert outcome(lambda uid=uid: workitems.subscribe(uid, B, has_lock=False)) == Fault.RESOURCES  # type: ignore[misc]
    workitems.unsubscribe(GLOBAL, A)
    workitems.subscribe(GLOBAL, B, has_lock=False)
