"""`Workitems`: the workitems of a registry, for the services above: DIMSE and HTTP alike.

When a call returns, what it changed is on disk and visible to every process, and so are the events of it. Calls that
write wait for the disk: make them in a thread. What is out of the caller's reach does not exist.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from engine.dicom import tags
from engine.dicom.identifier import Identifier, Value
from engine.errors import WorkitemRefused
from engine.orders import attributes
from engine.orders.attributes import Items, in_utf_8
from engine.orders.rows import ChannelRow, EventRow
from engine.orders.values import Source
from engine.orders.workitems import life, subscriptions
from engine.orders.workitems.facts import ELEMENT_COUNT_MAX
from engine.orders.workitems.rules import Fault, Remark
from engine.orders.workitems.search import Question, Reach, Search, question_of
from engine.orders.workitems.subscriptions import FILTERED, GLOBAL

if TYPE_CHECKING:
    from engine.orders.registry import Orders
    from engine.orders.transactions import Reading
    from engine.orders.work import Work

CHANNEL_S: Final = 15.0
"""How long a channel that says nothing counts as open."""
_NOBODY = Source(name="archive")


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Who subscribes, and whom."""

    title: str
    owner: str = ""
    """The actor, where titles belong to somebody; "": a title is nobody's."""
    reach: Reach | None = None


class Workitems:
    """The workitems of one registry; thread-safe."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders

    # -- workitems --------------------------------------------------------------------------------

    def create(
        self, uid: str, data_set: Identifier, creator: str, reach: Reach | None = None, *, is_ours: bool = False
    ) -> None:
        """Creates one. Raises WorkitemRefused, OrdersError, StorageError, as all that follow.

        `is_ours`: the archive makes it, of what it has stored; values are taken as they are.
        """
        with self._orders.work(Source(name=creator, reference=uid)) as work:
            row = life.create(work, uid, data_set, lambda keys: _matches_of(keys, work.writing), is_ours=is_ours)
            if reach is not None and not reach(life.attributes_of(work.writing, row)):
                raise WorkitemRefused("not allowed to create a workitem of this patient or study", Fault.NOT_ALLOWED)

    def get(self, uid: str, reach: Reach | None = None) -> Items:
        """The attributes of one."""
        with self._orders.read_in_thread() as reading:
            return life.seen(reading, uid, reach)[1]

    def exists(self, uid: str) -> bool:
        """Whether there is one, or has been, in anybody's reach."""
        with self._orders.read_in_thread() as reading:
            return reading.is_gone(uid) or reading.raw(reading.database.workitems, uid.encode()) is not None

    def creator_of(self, uid: str) -> str:
        """Who created one; "": nobody, for there is none."""
        with self._orders.read_in_thread() as reading:
            row = reading.get(reading.database.workitems, uid.encode())
        return "" if row is None else row.creator

    def update(
        self, uid: str, data_set: Identifier, actor: str, reach: Reach | None = None, *, is_ours: bool = False
    ) -> Remark:
        """Sets attributes."""
        with self._orders.work(Source(name=actor, reference=uid)) as work:
            row = life.seen(work.writing, uid, reach)[0]
            return life.update(work, uid, data_set, row, is_ours=is_ours)

    def change_state(
        self, uid: str, state: str, transaction_uid: str, actor: str, reach: Reach | None = None
    ) -> Remark:
        """Claims or ends one."""
        with self._orders.work(Source(name=actor, reference=uid)) as work:
            return life.change_state(work, uid, state, transaction_uid, life.seen(work.writing, uid, reach)[0])

    def request_cancel(self, uid: str, information: Identifier, requester: str, reach: Reach | None = None) -> Remark:
        """Cancels one that nobody performs yet, else asks the performer to."""
        with self._orders.work(Source(name=requester, reference=uid)) as work:
            return life.request_cancel(work, uid, information, requester, life.seen(work.writing, uid, reach)[0])

    def read(self, search: Search) -> list[tuple[str, Items]] | None:
        """The next matches of a search; None: there are no more. For threads: one workitem may take a second."""
        with self._orders.read_in_thread() as reading:
            return search.next(reading)

    def forget(self, keep_s: float) -> int:
        """Removes what ended longer ago, unless somebody keeps it; returns the number."""
        with self._orders.work(_NOBODY) as work:
            return life.forget(work, work.now - keep_s)

    # -- subscriptions ----------------------------------------------------------------------------

    def subscribe(self, uid: str, who: Subscriber, *, has_lock: bool, keys: Identifier | None = None) -> None:
        """Subscribes a title to one workitem, to all (`GLOBAL`), or to those that meet keys (`FILTERED`)."""
        title = subscriptions.title_key(who.title)
        with self._orders.work(Source(name=who.owner or who.title)) as work:
            _check_owner(work, title, who)
            if uid not in (GLOBAL, FILTERED):
                life.seen(work.writing, uid, who.reach)
                subscriptions.subscribe(work, uid, title, has_lock=has_lock, owner=who.owner)
                return
            _check_reach(who)
            encoded, matches = b"", None
            if uid == FILTERED:
                if keys is None or not question_of(keys).keys:
                    raise WorkitemRefused("a filter needs keys with values", Fault.MISSING)
                encoded = attributes.encoded(in_utf_8(keys))
                matches = _matches_of(encoded, work.writing)
            subscriptions.subscribe_to_all(
                work, title, has_lock=has_lock, owner=who.owner, keys=encoded, matches=matches
            )

    def unsubscribe(self, uid: str, who: Subscriber) -> None:
        """Ends a subscription; that to all ends every one of the title."""
        title = subscriptions.title_key(who.title)
        with self._orders.work(Source(name=who.owner or who.title)) as work:
            _check_owner(work, title, who)
            if uid in (GLOBAL, FILTERED):
                subscriptions.unsubscribe_from_all(work, title)
            else:
                life.seen(work.writing, uid, who.reach)
                subscriptions.unsubscribe(work, uid, title)

    def suspend(self, uid: str, who: Subscriber) -> None:
        """Ends the subscription to workitems to come."""
        if uid not in (GLOBAL, FILTERED):
            raise WorkitemRefused("only a subscription to all workitems can be suspended", Fault.ACTION)
        title = subscriptions.title_key(who.title)
        with self._orders.work(Source(name=who.owner or who.title)) as work:
            _check_owner(work, title, who)
            subscriptions.suspend(work, title)

    def check_receiver(self, who: Subscriber) -> None:
        """Whether somebody may receive the events of a title. Raises WorkitemRefused."""
        with self._orders.read_in_thread() as reading:
            row = reading.get(reading.database.subscribers, subscriptions.title_key(who.title))
        if row is None:
            raise WorkitemRefused("nobody has subscribed this AE title", Fault.UNKNOWN)
        subscriptions.check_owner(row, who.owner, is_confined=who.reach is not None)

    # -- events -----------------------------------------------------------------------------------

    def restarted(self) -> None:
        """Tells every subscriber that the server was restarted, and that nothing is lost (CC.2.4.3)."""
        with self._orders.work(_NOBODY) as work:
            titles = [title for title, _ in work.writing.rows(work.tables.subscribers)]
            subscriptions.emit(work, titles, GLOBAL, subscriptions.SCP_STATUS_CHANGE, _RESTARTED)

    def receivers(self) -> list[str]:
        """The titles for which events wait."""
        with self._orders.read() as reading:
            return subscriptions.receivers(reading)

    def waiting(self, title: str, after: int, limit: int) -> list[tuple[int, EventRow]]:
        """The events behind a number, the oldest first."""
        with self._orders.read() as reading:
            return subscriptions.waiting(reading, subscriptions.title_key(title), after, limit)

    def tells(self, row: EventRow, reach: Reach | None) -> bool:
        """Whether an event may be told to a receiver with this reach now: roles and patients change after a
        subscription, and one may be made by somebody who sees more. For threads, as `read`."""
        if reach is None or row.type == subscriptions.SCP_STATUS_CHANGE:
            return True
        with self._orders.read_in_thread() as reading:
            try:
                life.seen(reading, row.uid, reach)
            except WorkitemRefused:
                return False
        return True

    def acknowledge(self, title: str, number: int) -> None:
        """A subscriber has its events up to this number."""
        with self._orders.work(_NOBODY) as work:
            subscriptions.acknowledge(work, subscriptions.title_key(title), number)

    def open_channel(self, title: str, token: str) -> None:
        """From now on the events of a title go to this connection, and to no other."""
        with self._orders.passing() as writing:
            writing.put_channel(subscriptions.title_key(title), ChannelRow(token=token, until=time.time() + CHANNEL_S))

    def keep_channel(self, title: str, token: str) -> bool:
        """Says that a channel is open; False: another connection has taken its place."""
        with self._orders.passing() as writing:
            key = subscriptions.title_key(title)
            row = writing.get(writing.database.channels, key)
            if row is not None and row.token != token:
                return False
            writing.put_channel(key, ChannelRow(token=token, until=time.time() + CHANNEL_S))
            return True

    def close_channel(self, title: str, token: str) -> None:
        """The connection has ended."""
        with self._orders.passing() as writing:
            key = subscriptions.title_key(title)
            row = writing.get(writing.database.channels, key)
            if row is not None and row.token == token:
                writing.put_channel(key, None)

    def has_channel(self, title: str) -> bool:
        """Whether a connection of a subscriber takes its events."""
        with self._orders.read() as reading:
            row = reading.get(reading.database.channels, subscriptions.title_key(title))
        now = time.time()
        return row is not None and now < row.until <= now + CHANNEL_S


def _check_owner(work: Work, title: bytes, who: Subscriber) -> None:
    row = work.writing.get(work.tables.subscribers, title)
    subscriptions.check_owner(row, who.owner, is_confined=who.reach is not None)


def _check_reach(who: Subscriber) -> None:
    if who.reach is not None:
        raise WorkitemRefused("only who may see all workitems may subscribe to all", Fault.NOT_ALLOWED)


def _matches_of(keys: bytes, reading: Reading) -> subscriptions.Matches:
    question = _question(keys)

    return lambda uid: question.admits(reading, uid)


@lru_cache(maxsize=64)
def _question(keys: bytes) -> Question:
    return question_of(attributes.decoded(keys, element_count_max=ELEMENT_COUNT_MAX))


_RESTARTED: Final[dict[int, Value]] = {
    tags.SCPStatus: b"RESTARTED",
    tags.SubscriptionListStatus: b"WARM START",
    tags.UnifiedProcedureStepListStatus: b"WARM START",
}
