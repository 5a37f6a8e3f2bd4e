"""Finds events, the newest first, in all chains of all logs together (`logs`).

A cursor names, for each chain, the record before which the next page begins: "000-4711.001-12". A search reads at most
RECORDS_MAX records a page, so that its time is bounded; a page may therefore be empty, and `older` leads on.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import orjson

from engine.audit.chain import Head
from engine.audit.logs import Chain, chains
from engine.audit.reading import backward

RECORDS_MAX: Final = 300_000
_LAST: Final = 10**17
_PLACE: Final = r"([0-9a-f]{32}/)?\d{3,6}-\d{1,18}"
_CURSOR: Final = re.compile(rf"{_PLACE}(\.{_PLACE})*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What an event must meet: all that is not empty."""

    kind: str = ""
    user: str = ""
    """The name or the address of the principal, the user of an association, or the third party."""
    patient: str = ""
    """Patient ID."""
    study: str = ""
    """Study Instance UID."""
    outcome: str = ""
    """"failure": not a success."""
    text: str = ""
    """Occurs somewhere in the record, in any case."""
    since: str = ""
    """Not before this time: ISO 8601 in UTC, or its beginning."""
    until: str = ""
    """Before this time."""

    def parse(self, record: bytes) -> dict[str, Any] | None:
        """The event of a record; None if it does not meet the conditions."""
        for value in (self.patient, self.study):
            if value and orjson.dumps(value)[1:-1] not in record:
                return None
        if self.text and self.text.lower() not in record.decode("utf-8", "replace").lower():
            return None
        try:
            event: dict[str, Any] = orjson.loads(record)
            who, time = event["who"], event["t"]
            if (self.since and time < self.since) or (self.until and time >= self.until):
                return None
            if self.kind and event["kind"] != self.kind:
                return None
            if self.patient and event.get("patient", {}).get("id") != self.patient:
                return None
            if self.study and event.get("study") != self.study:
                return None
            names = {who.get(field) for field in ("name", "user", "claimed_user", "address")}
            names |= {event.get("peer"), event.get("peer_address")}
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return None
        if self.user and self.user not in names:
            return None
        if self.outcome == "failure" and not event.get("outcome"):
            return None
        return event

    @property
    def summary(self) -> str:
        """Its fields, for the record of who read the audit log."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return ", ".join(f"{name}={value}" for name, value in named.items() if value)


@dataclass(frozen=True, slots=True)
class Page:
    """Some events."""

    events: list[dict[str, Any]]
    older: str | None
    """The cursor for the events before these; None: there are none."""


def search(data: Path, condition: Condition, limit: int, before: str = "") -> Page:
    """At most `limit` events before a cursor. Raises ValueError for an invalid one, OSError."""
    positions = _positions(before)
    found = {label: chain for label, chain in chains(data).items() if not before or label in positions}
    left = {label: positions.get(label, _LAST) for label in found}
    streams = [_stream(chain, label, left[label]) for label, chain in found.items()]
    events: list[dict[str, Any]] = []
    merged = heapq.merge(*streams, key=lambda each: each[0], reverse=True)
    for count, (time, label, head, record) in enumerate(merged):
        if condition.since and time < condition.since.encode():
            # Older ones follow in every chain, but for clocks that were set.
            return Page(events, None)
        if len(events) == limit or count == RECORDS_MAX:
            return Page(events, ".".join(f"{each}-{number}" for each, number in left.items()))
        left[label] = head.number
        event = condition.parse(record)
        if event is not None:
            events.append({"chain": label, **event})
    return Page(events, None)


def _stream(chain: Chain, label: str, before: int) -> Iterator[tuple[bytes, str, Head, bytes]]:
    for head, record in backward(chain.root, chain.name, before):
        start = record.find(b",") + len(b',"t":"')
        yield record[start : start + 27], label, head, record


def _positions(cursor: str) -> dict[str, int]:
    if not cursor:
        return {}
    if not _CURSOR.fullmatch(cursor):
        raise ValueError("is not a cursor")
    pairs = (part.split("-") for part in cursor.split("."))
    return {label: int(number) for label, number in pairs}
