"""The index of workitems: three tables of the registry's database that follow from the rows of workitems.

    facts       SOP Instance UID              → Facts
    found       a key of `Facts.keys`      → nothing
    tallies     state NUL worklist label      → number of workitems (u64); label "": all of a state

A search so reads what it asks for, in the order of the starts, and decodes only what it sends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import merge
from itertools import islice
from typing import Any, Final

import msgspec

from engine.errors import OrdersError
from engine.orders.rows import WorkitemRow
from engine.orders.workitems.facts import ALL, Facts, facts_of, prefix_of, value_key
from engine.orders.workitems.rules import State

EVERY: Final = (prefix_of(ALL, "", ""),)
"""The beginnings of the keys of all workitems."""
LABELS_MAX: Final = 200
"""Worklist labels of a state that are listed for people."""

_DECODER: Final = msgspec.msgpack.Decoder(Facts)


class WorkitemIndex:
    """The tables of one database, used within its transactions."""

    def __init__(self, opened: Callable[[str], Any]) -> None:
        self.handles = tuple(opened(name) for name in ("facts", "found", "tallies"))
        self._facts, self._found, self._tallies = self.handles

    # -- writing ----------------------------------------------------------------------------------

    def put(self, txn: Any, uid: bytes, row: WorkitemRow | None) -> None:
        """Follows a row that was put; None: that was deleted."""
        before = self.facts(txn, uid)
        after = None if row is None else facts_of(row)
        if before == after:
            return
        old = set() if before is None else before.keys(uid)
        new = set() if after is None else after.keys(uid)
        for key in old - new:
            txn.delete(key, db=self._found)
        for key in new - old:
            txn.put(key, b"", db=self._found)
        if after is None:
            txn.delete(uid, db=self._facts)
        else:
            txn.put(uid, msgspec.msgpack.encode(after), db=self._facts)
        if before is not None:
            self._count(txn, before, -1)
        if after is not None:
            self._count(txn, after, 1)

    def _count(self, txn: Any, facts: Facts, more: int) -> None:
        state, label = facts.tally
        for key in {state + b"\0" + label, state + b"\0"}:
            count = int.from_bytes(txn.get(key, b"", db=self._tallies), "big") + more
            if count > 0:
                txn.put(key, count.to_bytes(8, "big"), db=self._tallies)
            else:
                txn.delete(key, db=self._tallies)

    # -- reading ----------------------------------------------------------------------------------

    def facts(self, txn: Any, uid: bytes) -> Facts | None:
        """The facts of one workitem. Raises OrdersError."""
        raw = txn.get(uid, db=self._facts)
        if raw is None:
            return None
        try:
            return _DECODER.decode(raw)
        except msgspec.MsgspecError as error:
            raise OrdersError(f"the facts of a workitem cannot be read: {error}") from error

    def tails(self, txn: Any, prefixes: tuple[bytes, ...], after: bytes, until: bytes | None) -> Iterator[bytes]:
        """START NUL UID of the workitems with one of these beginnings, by start, each once.

        `after`: only behind this one. `until`: only those with a start up to this one.
        """
        last = after
        for tail in merge(*(self._tails(txn, prefix, after) for prefix in prefixes)):
            if until is not None and tail[: tail.rindex(b"\0")] > until:
                return
            if tail > last:
                last = tail
                yield tail

    def _tails(self, txn: Any, prefix: bytes, after: bytes) -> Iterator[bytes]:
        with txn.cursor(db=self._found) as cursor:
            if not cursor.set_range(prefix + after):
                return
            for key in cursor.iternext(values=False):
                if not key.startswith(prefix):
                    return
                yield key[len(prefix) :]

    def count(self, txn: Any, state: str, label: str = "") -> int:
        """The workitems of a state, or of a state and a worklist label."""
        key = state.encode() + b"\0" + value_key("LO", label)
        return int.from_bytes(txn.get(key, b"", db=self._tallies), "big")

    def labels(self, txn: Any) -> list[str]:
        """Worklist labels in use, in their order; at most LABELS_MAX of each state."""
        found: set[str] = set()
        for state in State:
            prefix = state.encode() + b"\0"
            with txn.cursor(db=self._tallies) as cursor:
                keys = cursor.iternext(values=False) if cursor.set_range(prefix) else iter(())
                for key in islice(keys, LABELS_MAX):
                    if not key.startswith(prefix):
                        break
                    found.add(key[len(prefix) :].decode("utf-8", "replace"))
        return sorted(found - {""})
