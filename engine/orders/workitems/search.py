"""Queries for workitems (PS3.4 CC.2.8): keys as conditions of attributes at any depth, and what an answer has of them.

    keys        as `orders.keys` has them; those within the item of a sequence must be met by one stored item
    UIDs        of instances lead to their workitems at once
    an answer   every requested attribute, empty if there is none; of a sequence whose item names attributes, only these

Nothing here waits or sends: `Search.next` reads some workitems in one short transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from engine.dicom import tags, values
from engine.dicom.identifier import Identifier, Value
from engine.errors import QueryError
from engine.orders.attributes import Items, values_of
from engine.orders.database import Reading
from engine.orders.keys import Test, condition_of, texts_of
from engine.orders.rows import WorkitemRow
from engine.orders.workitems.life import attributes_of

WORKITEMS_AT_ONCE: Final = 100
SLICE_S: Final = 0.005

Reach = Callable[[Items], bool]


@dataclass(slots=True)
class Conditions:
    """What attributes must be: of a workitem, or of an item in it."""

    tests: list[tuple[int, Test]] = field(default_factory=list)
    inner: list[tuple[int, Conditions]] = field(default_factory=list)

    def admit(self, items: Items) -> bool:
        """Whether attributes meet all of them."""
        for tag, test in self.tests:
            value = items.get(tag, b"")
            texts = values.split(tags.vr_of(tag), value.decode("utf-8", "replace")) if isinstance(value, bytes) else []
            if not any(test(text.strip(" \0")) for text in texts if text.strip(" \0")):
                return False
        for tag, conditions in self.inner:
            sequence = items.get(tag, [])
            if isinstance(sequence, bytes) or not any(conditions.admit(values_of(item)) for item in sequence):
                return False
        return True

    def __bool__(self) -> bool:
        return bool(self.tests or self.inner)


@dataclass(slots=True)
class Question:
    """A query for workitems."""

    conditions: Conditions
    uids: tuple[str, ...] = ()
    states: frozenset[str] = frozenset()
    """Other states are not asked for; none: any is."""
    keys: tuple[tuple[str, str], ...] = ()
    """Keyword and value of each key that restricts the answer, for people and the audit log."""
    reach: Reach | None = None
    """Which workitems exist for the one who asks; None: all."""

    def admits(self, uid: str, row: WorkitemRow, items: Callable[[], Items]) -> bool:
        """Whether a workitem meets all keys."""
        if (self.states and row.state not in self.states) or (self.uids and uid not in self.uids):
            return False
        if not self.conditions and self.reach is None:
            return True
        found = items()
        return self.conditions.admit(found) and (self.reach is None or self.reach(found))


def question_of(identifier: Identifier) -> Question:
    """The question of an identifier. Raises QueryError."""
    keys: list[tuple[str, str]] = []
    question = Question(_conditions(identifier, keys, ""))
    question.keys = tuple(keys)
    named = {tag: texts_of(tag, identifier.value(tag), b"") for tag in (tags.SOPInstanceUID, tags.ProcedureStepState)}
    question.uids = tuple(named[tags.SOPInstanceUID])
    if not any(mark in text for text in named[tags.ProcedureStepState] for mark in "*?"):
        question.states = frozenset(named[tags.ProcedureStepState])
    return question


def _conditions(identifier: Identifier, keys: list[tuple[str, str]], path: str) -> Conditions:
    found = Conditions()
    for tag, value in sorted(identifier.items.items()):
        name = path + tags.keyword_of(tag)
        if isinstance(value, list):
            if len(value) > 1:
                raise QueryError(f"{name} has more than one item", tag)
            if value and (inner := _conditions(value[0], keys, f"{name}.")):
                found.inner.append((tag, inner))
            continue
        if tag in (tags.TimezoneOffsetFromUTC, tags.TransactionUID):
            continue
        texts = texts_of(tag, value, identifier.character_set)
        if not texts:
            continue
        keys.append((name, "\\".join(texts)))
        tests = [condition_of(tag, tags.vr_of(tag), text) for text in texts]
        found.tests.append((tag, tests[0] if len(tests) == 1 else _any_of(tests)))
    return found


def _any_of(tests: list[Test]) -> Test:
    return lambda value: any(test(value) for test in tests)


def requested_of(items: Items, identifier: Identifier) -> dict[int, Value]:
    """The requested attributes of a workitem, or of an item in it."""
    found: dict[int, Value] = {}
    for tag, key in identifier.items.items():
        if tag == tags.TransactionUID:
            continue
        is_sequence = tags.vr_of(tag) == "SQ"
        value = items.get(tag, [] if is_sequence else b"")
        if is_sequence and isinstance(key, list) and key and key[0].items and not isinstance(value, bytes):
            value = [requested_of(values_of(item), key[0]) for item in value]
        found[tag] = value
    return found


class Search:
    """A query in progress."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._position: bytes | None = b""
        self._uids = list(dict.fromkeys(question.uids))

    def next(self, reading: Reading) -> list[tuple[str, Items]] | None:
        """The matches among the next workitems; None: there are no more. Uses only this transaction."""
        if self._position is None:
            return None
        if self._uids:
            return self._named(reading)
        found: list[tuple[str, Items]] = []
        end_s = perf_counter() + SLICE_S
        for count, (key, row) in enumerate(reading.rows_from(reading.database.workitems, self._position)):
            if count == WORKITEMS_AT_ONCE or (count and perf_counter() >= end_s):
                self._position = key
                return found
            self._add(found, reading, key.decode(), row)
        self._position = None
        return found

    def _named(self, reading: Reading) -> list[tuple[str, Items]]:
        found: list[tuple[str, Items]] = []
        names, self._uids = self._uids[:WORKITEMS_AT_ONCE], self._uids[WORKITEMS_AT_ONCE:]
        for uid in names:
            row = reading.get(reading.database.workitems, uid.encode()[:64])
            if row is not None:
                self._add(found, reading, uid, row)
        if not self._uids:
            self._position = None
        return found

    def _add(self, found: list[tuple[str, Items]], reading: Reading, uid: str, row: WorkitemRow) -> None:
        decoded: list[Items] = []

        def items() -> Items:
            if not decoded:
                decoded.append(attributes_of(reading, row))
            return decoded[0]

        if self._question.admits(uid, row, items):
            found.append((uid, items()))
