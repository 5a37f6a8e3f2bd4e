"""When each application entity was seen last, from where, and what it and we agreed on: for people who set up peers.

One worker's part of it; `merged` puts those of all workers together. Known peers are kept, of other titles the last
OTHERS_MAX, so that made-up titles cost no memory and push nobody out. Nothing is copied while associations are
negotiated.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

OTHERS_MAX: Final = 200
CONTEXTS_MAX: Final = 128


class Context(Protocol):
    """An accepted presentation context."""

    @property
    def abstract_syntax(self) -> str: ...
    @property
    def transfer_syntax(self) -> str: ...


@dataclass(slots=True)
class _Contexts:
    """The contexts of one association."""

    at: float
    address: str
    title: str
    """The called title of its association with us; ours with it."""
    contexts: Iterable[Context]

    def snapshot(self) -> dict[str, Any]:
        pairs = [(str(each.abstract_syntax), str(each.transfer_syntax)) for each in self.contexts][:CONTEXTS_MAX]
        return {"time": self.at, "address": self.address, "title": self.title, "contexts": pairs}


@dataclass(slots=True)
class _Event:
    """Something without contexts: an answer, or why there is no association."""

    at: float
    address: str
    reason: str = ""

    def snapshot(self) -> dict[str, Any]:
        return {"time": self.at, "address": self.address, "reason": self.reason}


class Sightings:
    """What one process has seen of each title, as it was received or written."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, _Contexts | _Event]] = {}
        self._others: dict[str, dict[str, _Contexts | _Event]] = {}

    def associated(self, title: str, address: str, called: str, contexts: Iterable[Context], *, is_known: bool) -> None:
        """It opened an association with us."""
        self._of(title, is_known)["accepted"] = _Contexts(time.time(), address, called, contexts)

    def rejected(self, title: str, address: str, reason: str, *, is_known: bool) -> None:
        """We rejected its association."""
        self._of(title, is_known)["rejected"] = _Event(time.time(), address, reason)

    def reached(self, title: str, address: str, contexts: Iterable[Context]) -> None:
        """We opened an association with it."""
        self._of(title, True)["reached"] = _Contexts(time.time(), address, title, contexts)

    def answered(self, title: str, address: str) -> None:
        """It answered a C-ECHO, or a search."""
        self._of(title, True)["answered"] = _Event(time.time(), address)

    def unreachable(self, title: str, address: str, reason: str) -> None:
        """We could not open an association with it."""
        self._of(title, True)["unreachable"] = _Event(time.time(), address, reason)

    def _of(self, title: str, is_known: bool) -> dict[str, _Contexts | _Event]:
        table = self._known if is_known else self._others
        facts = table.get(title)
        if facts is None:
            if not is_known and len(table) >= OTHERS_MAX:
                del table[next(iter(table))]
            facts = table[title] = {}
        return facts

    def snapshot(self) -> dict[str, dict[str, Any]]:
        """As plain data: title → what was seen → facts."""
        return {
            title: {kind: fact.snapshot() for kind, fact in facts.items()}
            for table in (self._others, self._known)
            for title, facts in table.items()
        }


def merged(parts: Iterable[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The latest facts of all processes."""
    whole: dict[str, dict[str, Any]] = {}
    for part in parts:
        for title, facts in part.items():
            mine = whole.setdefault(title, {})
            for kind, fact in facts.items():
                if kind not in mine or mine[kind]["time"] < fact["time"]:
                    mine[kind] = fact
    return whole
