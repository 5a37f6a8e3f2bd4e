"""Queries for workitems (PS3.4 CC.2.8): keys as conditions of attributes at any depth, and what an answer has of them.

    keys        as `orders.keys` has them; those within the item of a sequence must be met by one stored item
    UIDs        of instances lead to their workitems at once, other keys by way of the index (`index`)
    an answer   every requested attribute, empty if there is none; of a sequence whose item names attributes, only these

Nothing here waits or sends: `Search.next` reads some workitems in one short transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

from engine.dicom import tags, values
from engine.dicom.identifier import Identifier, Value
from engine.errors import QueryError
from engine.orders.attributes import Items, values_of
from engine.orders.keys import Test, condition_of, interval_of, texts_of
from engine.orders.names import id_key, name_key
from engine.orders.transactions import Reading
from engine.orders.workitems.facts import (
    LETTERS,
    LETTERS_WITHIN,
    START_BYTES_MAX,
    TOP,
    WITHIN,
    many_prefix,
    number_prefix,
    prefix_of,
    text_of,
)
from engine.orders.workitems.index import EVERY
from engine.orders.workitems.life import attributes_of, with_patient
from engine.orders.workitems.rules import is_uid

WORKITEMS_AT_ONCE: Final = 100
SLICE_S: Final = 0.005
PREFIXES_MAX: Final = 64
"""Beginnings of keys that are followed side by side, by a cursor each; with more values all workitems are looked at."""
WAY_MAX: Final = 1000
"""How far the ways to the matches of a search are compared."""

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

    def parted(self) -> tuple[Conditions, Conditions]:
        """Those of attributes that the index has, and the others."""
        known, other = Conditions(), Conditions()
        for tag, test in self.tests:
            (known if tag in TOP else other).tests.append((tag, test))
        for tag, inner in self.inner:
            is_known = not inner.inner and all(within in WITHIN.get(tag, ()) for within, _ in inner.tests)
            (known if is_known else other).inner.append((tag, inner))
        return known, other

    def __bool__(self) -> bool:
        return bool(self.tests or self.inner)


@dataclass(frozen=True, slots=True)
class Way:
    """Keys of the index that lead to every match."""

    letter: str
    vr: str
    texts: tuple[str, ...]

    def prefixes(self, reading: Reading) -> tuple[bytes, ...]:
        """The beginnings of these keys."""
        found = {prefix_of(self.letter, self.vr, text) for text in self.texts} | {many_prefix(self.letter)}
        if self.letter == LETTERS[tags.PatientID]:
            for text in self.texts:
                found |= {number_prefix(number) for number in _numbers(reading, text)}
        return tuple(sorted(found))


def _numbers(reading: Reading, patient_id: str) -> set[int]:
    """The patients with an identifier, and those that were merged into them: workitems keep whom they were made for."""
    found: set[int] = set()
    todo = reading.ids(name_key("i", patient_id))
    while todo:
        number = todo.pop()
        if number not in found:
            found.add(number)
            todo += reading.ids(b"m" + id_key(number))
    return found


@dataclass(slots=True)
class Question:
    """A query for workitems."""

    conditions: Conditions
    by_facts: Conditions = field(default_factory=Conditions)
    """Those of the conditions that the index answers."""
    rest: Conditions = field(default_factory=Conditions)
    """The others."""
    ways: tuple[Way, ...] = ()
    start: tuple[str, str] | None = None
    """The first and the last scheduled start, in normal form."""
    uids: tuple[str, ...] = ()
    states: frozenset[str] = frozenset()
    """Other states are not asked for; none: any is."""
    keys: tuple[tuple[str, str], ...] = ()
    """Keyword and value of each key that restricts the answer, for people and the audit log."""
    reach: Reach | None = None
    """Which workitems exist for the one who asks; None: all."""
    test: Reach | None = None
    """What else must be true of attributes that the index has; None: nothing."""

    def admits(self, reading: Reading, uid: str) -> bool:
        """Whether a workitem meets all keys."""
        return self.seen(reading, uid) is not None

    def seen(self, reading: Reading, uid: str, *, is_brief: bool = True) -> Items | None:
        """The attributes of a workitem that meets all keys. `is_brief`: perhaps only those of `facts`."""
        facts = reading.facts(uid)
        if facts is None or (self.uids and uid not in self.uids):
            return None
        if self.states and text_of(facts.items, tags.ProcedureStepState) not in self.states:
            return None
        known = with_patient(reading, facts.items, facts.patient)
        if facts.is_whole and not self._admit(self.by_facts, known):
            return None
        if facts.is_whole and is_brief and not self.rest:
            return known
        row = reading.get(reading.database.workitems, uid.encode())
        if row is None:
            return None
        whole = attributes_of(reading, row)
        return whole if self._admit(self.rest if facts.is_whole else self.conditions, whole) else None

    def _admit(self, conditions: Conditions, items: Items) -> bool:
        return conditions.admit(items) and all(each is None or each(items) for each in (self.reach, self.test))


def question_of(identifier: Identifier) -> Question:
    """The question of an identifier. Raises QueryError."""
    keys: list[tuple[str, str]] = []
    question = Question(_conditions(identifier, keys, ""))
    question.keys = tuple(keys)
    question.by_facts, question.rest = question.conditions.parted()
    question.ways = tuple(_ways(identifier))
    question.start = _start(identifier)
    named = {tag: texts_of(tag, identifier.value(tag), b"") for tag in (tags.SOPInstanceUID, tags.ProcedureStepState)}
    question.uids = tuple(named[tags.SOPInstanceUID])
    if not any(mark in text for text in named[tags.ProcedureStepState] for mark in "*?"):
        question.states = frozenset(named[tags.ProcedureStepState])
    return question


def _ways(identifier: Identifier) -> Iterator[Way]:
    for tag, letter in LETTERS.items():
        yield from _way(letter, tag, identifier)
    for (sequence, tag), letter in LETTERS_WITHIN.items():
        items = identifier.items.get(sequence)
        if isinstance(items, list) and items:
            yield from _way(letter, tag, items[0])


def _way(letter: str, tag: int, identifier: Identifier) -> Iterator[Way]:
    value = identifier.items.get(tag, b"")
    texts = texts_of(tag, value, identifier.character_set) if isinstance(value, bytes) else []
    if texts and not any(mark in text for text in texts for mark in "*?"):
        yield Way(letter, tags.vr_of(tag), tuple(texts))


def _start(identifier: Identifier) -> tuple[str, str] | None:
    tag = tags.ScheduledProcedureStepStartDateTime
    texts = texts_of(tag, identifier.value(tag), b"")
    return interval_of("DT", texts[0]) if len(texts) == 1 else None


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
    """A query in progress. Matches come in the order of their scheduled start, those that are named by UID as named."""

    def __init__(self, question: Question, *, after: bytes = b"", skip: int = 0, is_brief: bool = False) -> None:
        """`after`: the `position` of an earlier search; `skip`: matches that are passed over.

        `is_brief`: an answer may lack attributes that the index has not.
        """
        self._question = question
        self._is_brief = is_brief
        self._skip = skip
        self._after = after
        self._prefixes: tuple[bytes, ...] | None = None
        self._until: bytes | None = None
        self._is_over = False
        self._uids = list(dict.fromkeys(question.uids))

    @property
    def position(self) -> bytes:
        """Where it is: what follows, a later search finds with `after`."""
        return self._after

    def next(self, reading: Reading) -> list[tuple[str, Items]] | None:
        """The matches among the next workitems; None: there are no more. Uses only this transaction."""
        return None if (found := self.next_placed(reading)) is None else [match[1:] for match in found]

    def next_placed(self, reading: Reading) -> list[tuple[bytes, str, Items]] | None:
        """The same, each match with its position."""
        if self._is_over:
            return None
        if self._uids:
            return self._named(reading)
        if self._prefixes is None:
            self._choose(reading)
        assert self._prefixes is not None
        found: list[tuple[bytes, str, Items]] = []
        end_s = perf_counter() + SLICE_S
        for tail in reading.workitems_found(self._prefixes, self._after, self._until):
            self._after = tail
            self._add(found, reading, tail, tail[tail.rindex(b"\0") + 1 :].decode())
            if len(found) == WORKITEMS_AT_ONCE or perf_counter() >= end_s:
                return found
        self._is_over = True
        return found

    def _choose(self, reading: Reading) -> None:
        """Takes the way that leads to the fewest workitems."""
        first = b""
        if self._question.start is not None:
            first, self._until = (text.encode()[:START_BYTES_MAX] for text in self._question.start)
        self._after = max(self._after, first)
        found = (way.prefixes(reading) for way in self._question.ways)
        ways = [prefixes for prefixes in found if len(prefixes) <= PREFIXES_MAX]
        rooms = [(reading.workitem_room(prefixes, self._until, WAY_MAX), prefixes) for prefixes in ways]
        self._prefixes = min(rooms, default=(0, EVERY), key=lambda pair: pair[0])[1]

    def _named(self, reading: Reading) -> list[tuple[bytes, str, Items]]:
        found: list[tuple[bytes, str, Items]] = []
        names, self._uids = self._uids[:WORKITEMS_AT_ONCE], self._uids[WORKITEMS_AT_ONCE:]
        for uid in names:
            if is_uid(uid):
                self._add(found, reading, b"", uid)
        self._is_over = not self._uids
        return found

    def _add(self, found: list[tuple[bytes, str, Items]], reading: Reading, tail: bytes, uid: str) -> None:
        items = self._question.seen(reading, uid, is_brief=self._is_brief or self._skip > 0)
        if items is None:
            return
        if self._skip:
            self._skip -= 1
        else:
            found.append((tail, uid, items))
