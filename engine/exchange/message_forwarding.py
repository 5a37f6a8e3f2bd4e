"""Passes received HL7 messages on to an [[hl7_destination]], in the order in which they came.

    journal ─► what was applied, of the rule's kinds and sources, not from the destination itself ─► MLLP

A message counts when it has been applied: then it is on stable storage, and its number is that of no other. What was
refused is not passed on, and what is replayed not again. The cursor is the number of the last message that was read.

A message whose content has come too often (`repetition`) goes round in a circle of systems: it is set aside, and what
follows is passed on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from engine import log
from engine.archive import messages
from engine.errors import CursorRefused, DeliveryFailed, DeliveryPointless, MessageUnreadable
from engine.exchange.hl7_notices import Receiver
from engine.exchange.identity import control_id_of
from engine.exchange.repetition import WINDOW_S, Repetitions
from engine.hl7 import parse
from engine.hl7.header_change import with_header
from engine.messaging.sources import Sources
from engine.outbox.source import Page, Unit

if TYPE_CHECKING:
    from engine.exchange.settings import Rule
    from engine.hl7 import Message
    from engine.hl7.settings import Hl7Destination
    from engine.journal import History, Row
    from engine.runtime.engine import Engine

logger = log.get("exchange.messages")

PAGE_ROWS: Final = 200
REFUSED: Final = "refused"
"""The result of a message that is not passed on."""


class MessageRows:
    """The messages that one rule passes on to one destination (`outbox.source.Source`); each is a unit."""

    def __init__(
        self, history: History, changed: Callable[[], asyncio.Future[None]], is_wanted: Callable[[Row], bool]
    ) -> None:
        self._history = history
        self._is_wanted = is_wanted
        self.changed = changed

    def newest(self) -> str:
        """The cursor after everything that has come."""
        return str(next((row.number for row in self._history.rows()), 0))

    def oldest(self) -> str:
        """The cursor before everything that is kept."""
        return "0"

    def read(self, cursor: str) -> Page[Row]:
        """What follows a cursor, up to the first message that waits. Raises CursorRefused, StorageError, KeyMissing."""
        if not cursor.isdecimal():
            raise CursorRefused(f"{cursor[:40]!r} is no cursor of messages")
        units: list[Unit[Row]] = []
        passed = cursor
        for row in self._rows(int(cursor)):
            if row.outcome is None:
                if row.received.fault is None:
                    break
                continue  # refused when it came; only an applied one behind it tells that this is on stable storage
            if len(units) == PAGE_ROWS:
                break
            if self._is_wanted(row):
                units.append(Unit(row, passed, str(row.number)))
            passed = str(row.number)
        return Page(units, passed, is_end=passed == cursor)

    def _rows(self, number: int) -> Iterator[Row]:
        while rows := self._history.rows_after(number, PAGE_ROWS):
            yield from rows
            number = rows[-1].number

    def close(self) -> None:
        """Closes the journal."""
        self._history.close()


class MessageForwarding:
    """Sends them (`outbox.follower.Sink`), and knows which are wanted."""

    def __init__(self, engine: Engine, rule: Rule, destination: Hl7Destination) -> None:
        self._engine = engine
        self._rule = rule
        self._destination = destination
        self._receiver = Receiver(engine, destination)
        self._repetitions = Repetitions(rule.repeats_max) if rule.repeats_max else None
        self._addresses: frozenset[str] | None = None
        self.history = messages.history_of(engine.archive)

    def is_wanted(self, row: Row) -> bool:
        """Whether a message is passed on. May look up a name; in a thread."""
        received, rule = row.received, self._rule
        if row.outcome is None or row.outcome.result.value == REFUSED:
            return False
        if rule.kinds and not any(received.kind == kind or received.kind.startswith(f"{kind}^") for kind in rule.kinds):
            return False
        return (not rule.sources or received.source in rule.sources) and not self._comes_from_there(row)

    def _comes_from_there(self, row: Row) -> bool:
        """Whether the destination has sent it, or we have: it would go round in a circle."""
        received, to = row.received, self._destination
        if received.application == self._engine.config.aet and received.facility == to.sending_facility:
            return True
        if to.application:
            return received.application == to.application and to.facility in ("", received.facility)
        if self._addresses is None:
            self._addresses = _addresses(to.host)
        return received.host in self._addresses

    def nothing(self, cursor: str) -> None:
        """No message says that others were left out."""

    async def close(self) -> None:
        """Closes the connection."""
        await self._receiver.close()

    async def deliver(self, unit: Unit[Row], reset: str) -> None:
        """Sends one message. Raises DeliveryFailed, DeliveryPointless, HL7SendFailed, StorageError."""
        data = await self._engine.pools.reads.run(partial(self._message, unit.content, unit.before))
        await self._receiver.send(data)
        self._engine.metrics.counters["hl7_messages_forwarded"] += 1

    def _message(self, row: Row, place: str) -> bytes:
        data = self.history.read(row.position)
        to, config = self._destination, self._engine.config
        settings = Sources(config.hl7, config.hl7_sources).named(row.received.source).settings
        try:
            message = parse(data, default=settings.default_charset, override=settings.charset)
            self._check(row, message)
            if self._rule.sender == "original":
                return data
            fields = {3: config.aet, 4: to.sending_facility, 5: to.application, 6: to.facility}
            fields[10] = control_id_of(self._engine, f"{self._rule.name}:{to.name}", place)
            return with_header(message, fields)
        except MessageUnreadable as error:
            raise DeliveryFailed(f"message {row.number}: {error}") from error

    def _check(self, row: Row, message: Message) -> None:
        """Raises DeliveryPointless for a message that goes round in a circle."""
        end = f" {message.separators.field}"  # some systems cut empty fields off
        lines = (message.kind, *(each.line.rstrip(end) for each in message if each.name != "MSH"))
        content = (f"{line}\r".encode("utf-8", "replace") for line in lines)
        if self._repetitions is None or self._repetitions.is_usual(row.number, row.received.time, content):
            return
        self._engine.metrics.counters["hl7_messages_circling"] += 1
        raise DeliveryPointless(
            f"message {row.number}: its content has come more than {self._rule.repeats_max} times in"
            f" {WINDOW_S / 60:.0f} minutes: it goes round in a circle of systems"
        )


def _addresses(host: str) -> frozenset[str]:
    """The addresses of a host; itself if nobody knows the name."""
    try:
        return frozenset(str(found[4][0]) for found in socket.getaddrinfo(host, None))
    except OSError:
        return frozenset((host,))
