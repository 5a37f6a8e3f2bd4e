"""Who gets which events of workitems (PS3.4 CC.2.3, CC.2.4), and the events that wait for them.

    subscribe to all            from now on every new workitem, and all that there are: with a lock, their states too
                to a filter     the same for those that meet its keys
                to one          its state now, and what becomes of it
    unsubscribe from one, or from all: then from single ones too, and what waits is dropped
    suspend                     new workitems mean nothing; those that are subscribed to remain

An event is a row of its receiver, written in the transaction of the change that it reports: what is acknowledged has
its events, also after a crash. A receiver takes them in order and says how far it got. EVENTS_MAX of them wait, with
EVENTS_BYTES_MAX in all; then the oldest are dropped, and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Final

from msgspec.structs import replace

from engine.dicom import tags
from engine.dicom.identifier import Identifier, Value
from engine.errors import WorkitemRefused
from engine.orders import attributes
from engine.orders.attributes import Items, values_of
from engine.orders.rows import EventRow, SubscriberRow, SubscriptionRow, WorkitemRow
from engine.orders.transactions import Reading
from engine.orders.work import Work
from engine.orders.workitems.facts import ELEMENT_COUNT_MAX
from engine.orders.workitems.rules import Fault, State

GLOBAL: Final = "1.2.840.10008.5.1.4.34.5"
FILTERED: Final = "1.2.840.10008.5.1.4.34.5.1"
"""The well-known instances that stand for all workitems, and for those that meet some keys."""

STATE_REPORT, CANCEL_REQUESTED, PROGRESS_REPORT, SCP_STATUS_CHANGE, ASSIGNED = range(1, 6)
"""Event Type IDs (Table CC.2.4-1)."""

EVENTS_MAX: Final = 10_000
"""Events that wait for one receiver: 3 MB, for most of them only name a state."""
EVENTS_BYTES_MAX: Final = 16 << 20
"""Of what they say."""
EVENT_BYTES_MAX: Final = 64 << 10
"""Of what one event says. A change is told to every subscriber, in one transaction: 64 MB at most."""
SUBSCRIBERS_MAX: Final = 1000
SUBSCRIPTIONS_BYTES_MAX: Final = 4 << 30
"""Of all subscriptions to single workitems: some tens of millions."""
TITLE_BYTES_MAX: Final = 64
Matches = Callable[[str], bool]
"""Whether a workitem meets the keys of a filter."""


class Mode(StrEnum):
    """What a new workitem means to a subscriber."""

    NOTHING = ""
    OPEN = "open"
    """It is subscribed to."""
    LOCKED = "locked"
    """It is subscribed to, and kept until the subscriber lets it go."""


def title_key(ae_title: str) -> bytes:
    """The key of a subscriber. Raises WorkitemRefused."""
    key = ae_title.strip().encode("utf-8", "replace")
    if not 0 < len(key) <= TITLE_BYTES_MAX or b"\0" in key or b"\\" in key:
        raise WorkitemRefused("Receiving AE is no AE title", Fault.VALUE, (tags.ReceivingAE,))
    return key


def subscription_key(uid: str, title: bytes) -> bytes:
    """The key of a subscription to one workitem."""
    return uid.encode() + b"\0" + title


def event_key(title: bytes, number: int) -> bytes:
    """The key of an event."""
    return title + b"\0" + number.to_bytes(8, "big")


def subscribers_of(reading: Reading, uid: str) -> list[bytes]:
    """The titles that get the events of a workitem."""
    prefix = subscription_key(uid, b"")
    return [key[len(prefix) :] for key in reading.keys(reading.database.subscriptions, prefix)]


def is_locked(reading: Reading, uid: str) -> bool:
    """Whether somebody keeps a workitem."""
    prefix = subscription_key(uid, b"")
    return any(row.has_lock for _, row in reading.rows(reading.database.subscriptions, prefix))


# subscribing -----------------------------------------------------------------------------------------


def subscribe(work: Work, uid: str, title: bytes, *, has_lock: bool, owner: str) -> None:
    """Subscribes to one workitem that exists, and reports its state."""
    _check_room(work)
    _put_subscriber(work, title, _subscriber(work, title, owner))
    work.writing.put(work.tables.subscriptions, subscription_key(uid, title), SubscriptionRow(has_lock=has_lock))
    row = work.writing.get(work.tables.workitems, uid.encode())
    assert row is not None
    emit(work, [title], uid, STATE_REPORT, state_report(row))


def subscribe_to_all(
    work: Work, title: bytes, *, has_lock: bool, owner: str, keys: bytes = b"", matches: Matches | None = None
) -> None:
    """Subscribes to all workitems, or to those that meet keys, also to come."""
    _check_room(work)
    mode = Mode.LOCKED if has_lock else Mode.OPEN
    _put_subscriber(work, title, replace(_subscriber(work, title, owner), mode=mode, keys=keys))
    table = work.tables.workitems
    for key, row in work.writing.rows_one_by_one(table):
        uid = key.decode()
        place = subscription_key(uid, title)
        if work.writing.raw(work.tables.subscriptions, place) is not None:
            continue
        if matches is None or matches(uid):
            work.writing.put(work.tables.subscriptions, place, SubscriptionRow(has_lock=has_lock))
            if has_lock:
                emit(work, [title], uid, STATE_REPORT, state_report(row))


def unsubscribe(work: Work, uid: str, title: bytes) -> None:
    """Ends the subscription to one workitem."""
    work.writing.delete(work.tables.subscriptions, subscription_key(uid, title))


def unsubscribe_from_all(work: Work, title: bytes) -> None:
    """Ends all subscriptions of a title, and drops the events that wait for it."""
    suffix = b"\0" + title
    for key in [each for each in work.writing.keys(work.tables.subscriptions) if each.endswith(suffix)]:
        work.writing.delete(work.tables.subscriptions, key)
    for key in list(work.writing.keys(work.tables.events, title + b"\0")):
        work.writing.delete(work.tables.events, key)
    row = work.writing.get(work.tables.subscribers, title)
    if row is not None:  # its next number stays, so that an old acknowledgement means none of the new events
        _put_subscriber(work, title, replace(row, mode=Mode.NOTHING, keys=b"", first=row.next, waiting_bytes=0))


def suspend(work: Work, title: bytes) -> None:
    """New workitems mean nothing any more."""
    row = work.writing.get(work.tables.subscribers, title)
    if row is not None:
        _put_subscriber(work, title, replace(row, mode=Mode.NOTHING, keys=b""))


def _subscriber(work: Work, title: bytes, owner: str) -> SubscriberRow:
    row = work.writing.get(work.tables.subscribers, title)
    if row is None:
        if work.writing.count(work.tables.subscribers) >= SUBSCRIBERS_MAX:
            raise WorkitemRefused(f"there are {SUBSCRIBERS_MAX} subscribers already", Fault.RESOURCES)
        return SubscriberRow(owner=owner)
    return row


def _check_room(work: Work) -> None:
    if work.writing.room_of(work.tables.subscriptions) >= SUBSCRIPTIONS_BYTES_MAX:
        raise WorkitemRefused("there are too many subscriptions already", Fault.RESOURCES)


def check_owner(row: SubscriberRow | None, owner: str, *, is_confined: bool) -> None:
    """Raises WorkitemRefused if a title is somebody else's; one without an owner is for who sees all workitems."""
    if row is not None and owner and row.owner != owner and (row.owner or is_confined):
        raise WorkitemRefused("somebody else has subscribed this AE title", Fault.NOT_ALLOWED)


def _put_subscriber(work: Work, title: bytes, row: SubscriberRow) -> None:
    work.writing.put(work.tables.subscribers, title, row)


# events ----------------------------------------------------------------------------------------------


def announce(work: Work, uid: str, row: WorkitemRow, items: Items, matches_of: Callable[[bytes], Matches]) -> None:
    """A new workitem: subscribes those who want all, and tells them."""
    for title, subscriber in list(work.writing.rows(work.tables.subscribers)):
        if not subscriber.mode or (subscriber.keys and not matches_of(subscriber.keys)(uid)):
            continue
        _check_room(work)
        subscription = SubscriptionRow(has_lock=subscriber.mode == Mode.LOCKED)
        work.writing.put(work.tables.subscriptions, subscription_key(uid, title), subscription)
    report(work, uid, STATE_REPORT, state_report(row))
    if items.get(tags.ScheduledStationNameCodeSequence) or items.get(tags.ScheduledHumanPerformersSequence):
        report(work, uid, ASSIGNED, assigned(items))


def report(work: Work, uid: str, event_type: int, information: Items) -> int:
    """Tells all who have subscribed to a workitem; returns their number."""
    titles = subscribers_of(work.writing, uid)
    emit(work, titles, uid, event_type, information)
    return len(titles)


def emit(work: Work, titles: Iterable[bytes], uid: str, event_type: int, information: Items) -> None:
    """Adds an event to the queues of some subscribers. Raises WorkitemRefused if it says too much."""
    encoded = attributes.encoded(information)
    if len(encoded) > EVENT_BYTES_MAX:
        raise WorkitemRefused(f"an event would say more than {EVENT_BYTES_MAX} bytes", Fault.RESOURCES)
    for title in titles:
        row = work.writing.get(work.tables.subscribers, title) or SubscriberRow()
        event = EventRow(uid=uid, type=event_type, data_set=encoded, time=work.now)
        work.writing.put(work.tables.events, event_key(title, row.next), event)
        row = replace(row, next=row.next + 1, waiting_bytes=row.waiting_bytes + len(encoded))
        while row.next - row.first > EVENTS_MAX or row.waiting_bytes > EVENTS_BYTES_MAX:
            row = replace(_without_oldest(work, title, row), lost=row.lost + 1)
        work.writing.put(work.tables.subscribers, title, row)


def _without_oldest(work: Work, title: bytes, row: SubscriberRow) -> SubscriberRow:
    """Removes the oldest event that waits; returns the row of its subscriber."""
    key, first = event_key(title, row.first), row.first + 1
    event = work.writing.get(work.tables.events, key)
    work.writing.delete(work.tables.events, key)
    if first == row.next:  # events of earlier versions were not added up
        return replace(row, first=first, waiting_bytes=0)
    length = len(event.data_set) if event is not None else 0
    return replace(row, first=first, waiting_bytes=max(0, row.waiting_bytes - length))


def acknowledge(work: Work, title: bytes, number: int) -> None:
    """A subscriber has its events up to this number."""
    row = work.writing.get(work.tables.subscribers, title)
    if row is None or number < row.first:
        return
    while row.first <= min(number, row.next - 1):
        row = _without_oldest(work, title, row)
    work.writing.put(work.tables.subscribers, title, row)


def waiting(reading: Reading, title: bytes, after: int, limit: int) -> list[tuple[int, EventRow]]:
    """The events behind a number that wait for a subscriber, the oldest first."""
    prefix = title + b"\0"
    found: list[tuple[int, EventRow]] = []
    for key, row in reading.rows_from(reading.database.events, event_key(title, after + 1)):
        if not key.startswith(prefix) or len(key) != len(prefix) + 8 or len(found) == limit:
            break
        found.append((int.from_bytes(key[-8:], "big"), row))
    return found


def receivers(reading: Reading) -> list[str]:
    """The titles for which events wait."""
    rows = reading.rows(reading.database.subscribers)
    return [title.decode() for title, row in rows if row.first < row.next]


# what events say -------------------------------------------------------------------------------------


def state_report(row: WorkitemRow) -> dict[int, Value]:
    """UPS State Report."""
    stored = decoded(row)
    found: dict[int, Value] = {
        tags.ProcedureStepState: row.state.encode(),
        tags.InputReadinessState: stored.value(tags.InputReadinessState),
    }
    progress = stored.sequence(tags.ProcedureStepProgressInformationSequence)
    if row.state == State.CANCELED and progress:
        for tag in (tags.ReasonForCancellation, tags.ProcedureStepDiscontinuationReasonCodeSequence):
            if value := progress[0].items.get(tag):
                found[tag] = value
    return found


def assigned(items: Items) -> dict[int, Value]:
    """UPS Assigned."""
    found: dict[int, Value] = {}
    if stations := items.get(tags.ScheduledStationNameCodeSequence):
        found[tags.ScheduledStationNameCodeSequence] = stations
    performers = items.get(tags.ScheduledHumanPerformersSequence) or []
    codes: list[Identifier | Mapping[int, Value]] = []
    for performer in () if isinstance(performers, bytes) else performers:
        values = values_of(performer)
        code = values.get(tags.HumanPerformerCodeSequence)
        codes += code if code and not isinstance(code, bytes) else []
        if organization := values.get(tags.HumanPerformerOrganization):
            found.setdefault(tags.HumanPerformerOrganization, organization)
    if codes:
        found[tags.HumanPerformerCodeSequence] = codes
    return found


def decoded(row: WorkitemRow) -> Identifier:
    """The attributes of a workitem."""
    return attributes.decoded(row.data_set, element_count_max=ELEMENT_COUNT_MAX)
