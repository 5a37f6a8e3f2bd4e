"""A query for a worklist (PS3.4 K.4.1): its keys as tests, the steps that may meet them, and the entries that do.

    keys        single values, lists of UIDs, wild cards in every text, ranges of dates and times; several values are
                alternatives. Person names match without case and accents. An empty value matches no key.
    station     titles without wild cards are looked up; a step is for each of its AE titles
    date        a range of days is read day by day; with a time, by negotiation, both are one range of moments
    numbers     an accession number, procedure, step, patient or study leads to its steps at once
    name        of a patient, where no few days are asked for: a walk over the names, which are folded already

Nothing here waits or sends: `Search.next` reads some candidates in one short transaction, and the caller goes on when
it likes. Steps that come or go between two calls may be in the answer or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from time import perf_counter
from typing import Final

from engine.dicom import items, tags, values
from engine.dicom.identifier import Identifier as DataSet
from engine.errors import QueryError
from engine.orders.entry import ROOT, STEP, Entry, Field, entry_of
from engine.orders.keys import FIRST_DAY, LAST_DAY, Test, condition_of, interval_of, texts_of
from engine.orders.name_walk import NameWalk
from engine.orders.names import day_key, id_key, name_key
from engine.orders.rows import StepRow
from engine.orders.settings import Station, Worklist
from engine.orders.transactions import Reading

STEPS_AT_ONCE: Final = 100
"""Candidates of one call: some milliseconds."""
FEW_DAYS: Final = 7
SLICE_S: Final = 0.005
"""After this time the other candidates of a call wait for the next one."""

_SEQUENCE = tags.ScheduledProcedureStepSequence
_AE, _DATE, _TIME = (
    tags.ScheduledStationAETitle,
    tags.ScheduledProcedureStepStartDate,
    tags.ScheduledProcedureStepStartTime,
)


@dataclass(slots=True)
class Question:
    """A query, as tests of entries."""

    tests: list[tuple[int, Field, Test]] = field(default_factory=list)
    """Tag, where its value comes from, and what it must meet."""
    date_test: Test | None = None
    """Of the start date; those who read the steps of `days` need not apply it."""
    moments: tuple[str, str] | None = None
    """The first and last date and time, when both are one range."""
    aes: tuple[str, ...] = ()
    """AE titles without wild cards; (): any."""
    days: tuple[str, str] = (FIRST_DAY, LAST_DAY)
    is_one_range: bool = True
    """Whether every day of `days` meets the key."""
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Values without wild cards of the keys that lead to steps at once."""
    person_names: tuple[str, ...] = ()
    """Values of Patient's Name, with and without wild cards."""
    hidden: frozenset[str] = frozenset()
    shows_unassigned: bool = False
    reach: Callable[[Entry], bool] | None = None
    """Which entries exist for the one who asks (`reach`); None: all."""
    keys: tuple[tuple[str, str], ...] = ()
    """Keyword and value of each key that restricts the answer, for people and the audit log."""
    limit: int = 0

    def admits(self, entry: Entry, *, is_of_days: bool = False) -> bool:
        """Whether an entry meets every key. `is_of_days`: it was found by its day, among one range of days."""
        return self.admits_step(entry.step, is_of_days=is_of_days) and self.admits_rest(entry)

    def admits_rest(self, entry: Entry) -> bool:
        """Whether an entry meets the other keys, and exists for the one who asks."""
        if not all(_meets(test, of(entry)) for tag, of, test in self.tests if tag != tags.Modality):
            return False
        return self.reach is None or self.reach(entry)

    def admits_step(self, step: StepRow, *, is_of_days: bool = False) -> bool:
        """Whether a step meets the keys of which it knows the values alone, before its order and patient are read."""
        if step.is_unbooked or step.state in self.hidden:
            return False
        if self.aes and not (set(self.aes) & set(step.aes) or (self.shows_unassigned and not step.aes)):
            return False
        if not is_of_days and self.date_test is not None and not self.date_test(step.start_date):
            return False
        if self.moments is not None and not self._is_in_moments(step.start_date, step.start_time):
            return False
        return all(_meets(test, step.modality.encode()) for tag, _, test in self.tests if tag == tags.Modality)

    def _is_in_moments(self, date: str, time: str) -> bool:
        low, high = self.moments or ("", "")
        span = values.precision_range("TM", time) if time else None
        first = date + (span.low if span else "000000.000000")
        last = first if span else date + "235959.999999"
        return bool(date) and first <= high and last >= low


def _meets(test: Test, value: bytes) -> bool:
    return bool(value) and any(test(text) for text in value.decode("utf-8", "replace").split("\\"))


# keys ------------------------------------------------------------------------------------------------

_LOOKED_UP: Final = {
    tags.ScheduledProcedureStepID: "t",
    tags.AccessionNumber: "a",
    tags.RequestedProcedureID: "r",
    tags.StudyInstanceUID: "u",
    tags.PatientID: "i",
}
"""Keys that lead to steps at once, the most selective first, and their letters in `names`."""


def question_of(
    identifier: DataSet,
    settings: Worklist,
    station: Station | None = None,
    *,
    date_time: bool = False,
) -> Question:
    """The question of an identifier. `station`: the [[station]] of the caller. Raises QueryError."""
    question = Question(limit=settings.limit, hidden=frozenset(settings.hide))
    question.shows_unassigned = settings.unassigned == "show"
    keys: list[tuple[str, str]] = []
    items_of_step = identifier.sequence(_SEQUENCE)
    if len(items_of_step) > 1:
        raise QueryError("Scheduled Procedure Step Sequence has more than one item", _SEQUENCE)
    for level, fields in ((identifier, ROOT), *((item, STEP) for item in items_of_step)):
        pair = _moments(level) if date_time and fields is STEP else None
        question.moments = pair or question.moments
        for tag, value in sorted(level.items.items()):
            if tag not in fields or tag == tags.TimezoneOffsetFromUTC:
                continue
            if isinstance(value, list):
                _add_codes(question, keys, tag, fields[tag], value)
                continue
            texts = texts_of(tag, value, level.character_set)
            if not texts:
                continue
            keys.append((tags.keyword_of(tag), "\\".join(texts)))
            _add(question, tag, fields[tag], texts, is_in_pair=pair is not None and tag in (_DATE, _TIME))
    if station is not None:
        _apply_station(question, keys, station)
    question.keys = tuple(keys)
    return question


def _add(question: Question, tag: int, of: Field, texts: list[str], *, is_in_pair: bool) -> None:
    has_wildcards = any("*" in text or "?" in text for text in texts)
    if tag == _AE and not has_wildcards:
        question.aes = tuple(texts)
        return
    if tag == tags.ScheduledProcedureStepStatus:
        question.hidden = frozenset()
    if tag == _DATE:
        question.days = _days(tag, texts)
        question.is_one_range = len(texts) == 1
        if not is_in_pair:
            tests = [condition_of(tag, "DA", text) for text in texts]
            question.date_test = lambda date: bool(date) and any(test(date) for test in tests)
        return
    if is_in_pair:
        return
    if tag in _LOOKED_UP and not has_wildcards:
        question.names[tag] = tuple(texts)
    if tag == tags.PatientName:
        question.person_names = tuple(texts)
    tests = [condition_of(tag, tags.vr_of(tag), text) for text in texts]
    question.tests.append((tag, of, tests[0] if len(tests) == 1 else lambda value: any(test(value) for test in tests)))


def _days(tag: int, texts: Iterable[str]) -> tuple[str, str]:
    """The first and the last day of some values or ranges. Raises QueryError."""
    low, high = LAST_DAY, FIRST_DAY
    for text in texts:
        interval = interval_of("DA", text)
        if interval is None:
            raise QueryError(f"{tags.keyword_of(tag)} is neither a date nor a range of dates", tag)
        low, high = min(low, interval[0]), max(high, interval[1])
    return low, high


def _moments(item: DataSet) -> tuple[str, str] | None:
    """A range of dates and one of times as one range of moments, if both are ranges open at the same ends."""
    date, time = item.text(_DATE).strip(), item.text(_TIME).strip()
    dates, times = values.parse_range("DA", date), values.parse_range("TM", time)
    if dates is None or times is None:
        return None
    if any((date is None) != (time is None) for date, time in zip(dates, times, strict=True)):
        return None
    low = dates[0].low + times[0].low if dates[0] and times[0] else ""
    high = dates[1].high + times[1].high if dates[1] and times[1] else LAST_DAY
    return low, high


def _add_codes(
    question: Question, keys: list[tuple[str, str]], tag: int, of: Field, key_items: Sequence[DataSet]
) -> None:
    """A key within a sequence of codes: some stored item meets all of its item's keys."""
    wanted: dict[int, list[Test]] = {}
    for item in key_items[:1]:
        for inner, value in item.items.items():
            texts = texts_of(inner, value, item.character_set) if isinstance(value, bytes) else []
            if texts:
                wanted[inner] = [condition_of(inner, tags.vr_of(inner), text) for text in texts]
                keys.append((f"{tags.keyword_of(tag)}.{tags.keyword_of(inner)}", "\\".join(texts)))
    if wanted:
        question.tests.append((tag, lambda entry: b"1" if _has_item(of(entry), wanted) else b"", lambda value: True))


def _has_item(blob: bytes, wanted: Mapping[int, list[Test]]) -> bool:
    for item in items.decode_items(blob):
        texts = {each.tag: each.value.decode("utf-8", "replace").strip(" \0") for each in item}
        if all(any(test(texts.get(tag, "")) for test in tests) for tag, tests in wanted.items()):
            return True
    return False


def _apply_station(question: Question, keys: list[tuple[str, str]], station: Station) -> None:
    if station.limit is not None:
        question.limit = station.limit
    is_asked = bool(question.aes) or any(tag == _AE for tag, _, _ in question.tests)
    if station.own_only and not is_asked:
        question.aes = (station.aet,)
        keys.append((f"{tags.keyword_of(_AE)} (own_only)", station.aet))


# candidates ------------------------------------------------------------------------------------------


class Search:
    """A query in progress."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._queue: list[int] | None = None
        self._walk: NameWalk | None = None
        self._is_by_day = True
        is_any_day = question.days == (FIRST_DAY, LAST_DAY)
        self._position: bytes | None = b"\0" if is_any_day else day_key(question.days[0], "")
        self._seen: set[int] = set()
        self.candidates = 0
        """Steps looked at so far."""

    def next(self, reading: Reading) -> list[Entry] | None:
        """The entries among the next candidates; None: there are no more. Uses only this transaction."""
        numbers = self._next_numbers(reading)
        if numbers is None:
            return None
        is_of_days = self._is_by_day and self._question.is_one_range
        found: list[Entry] = []
        end_s = perf_counter() + SLICE_S
        question = self._question
        for count, number in enumerate(numbers, 1):
            step = reading.get(reading.database.steps, id_key(number))
            if step is not None and question.admits_step(step, is_of_days=is_of_days):
                entry = entry_of(reading, number, step)
                if entry is not None and question.admits_rest(entry):
                    found.append(entry)
            if perf_counter() >= end_s:
                numbers, self._queue = numbers[:count], numbers[count:] + (self._queue or [])
                break
        self.candidates += len(numbers)
        return found

    def _next_numbers(self, reading: Reading) -> list[int] | None:
        if self._queue is None:
            self._queue = self._looked_up(reading)
            if self._queue is None and self._has_many_days:
                self._walk = NameWalk.of(self._question.person_names)
            if self._queue is not None or self._walk is not None:
                self._is_by_day = False
                self._position = None
            self._queue = self._queue or []
        if not self._queue and self._walk is not None:
            walked = self._walk.next(reading)
            self._queue = [each for each in dict.fromkeys(walked or ()) if each not in self._seen]
            self._seen.update(self._queue)
            if walked is not None and not self._queue:
                return []
        if not self._queue and self._position is not None:
            found = dict.fromkeys(self._scan(reading, self._position))
            self._queue = [each for each in found if each not in self._seen]
            self._seen.update(self._queue)
            if not self._queue and self._position is not None:
                return []
        if not self._queue:
            return None
        numbers, self._queue = self._queue[:STEPS_AT_ONCE], self._queue[STEPS_AT_ONCE:]
        return numbers

    @property
    def _has_many_days(self) -> bool:
        """Whether it is worth while to look for names first; of a few days every step is looked at."""
        first, last = self._question.days
        try:
            count = (date.fromisoformat(last) - date.fromisoformat(first)).days
        except ValueError:  # an open end, or no day of the calendar
            count = int(last) - int(first)
        return count > FEW_DAYS

    def _looked_up(self, reading: Reading) -> list[int] | None:
        """The steps that a number leads to; None if the query has none."""
        names = self._question.names
        tag = next((tag for tag in _LOOKED_UP if tag in names), None)
        if tag is None:
            return None
        letter = _LOOKED_UP[tag]
        found = [number for value in names[tag] for number in reading.ids(name_key(letter, value))]
        if letter == "i":
            found = [order for number in found for order in reading.ids(b"o" + id_key(number))]
        if letter != "t":
            found = [step for order in found for step in reading.ids(b"s" + id_key(order))]
        return list(dict.fromkeys(found))

    def _scan(self, reading: Reading, start: bytes) -> list[int]:
        """Some steps of the days from a position on; sets the next position."""
        question = self._question
        aes = question.aes + (("",) if question.shows_unassigned and question.aes else ())
        numbers: list[int] = []
        last = question.days[1].encode()
        with reading.day_cursor() as cursor:
            found = cursor.set_range(start)
            while found:
                key = cursor.key()
                if key[:8] > last:
                    break
                if len(numbers) >= STEPS_AT_ONCE:
                    self._position = bytes(key)
                    return numbers
                if not aes:
                    if cursor.value().decode() not in question.hidden:
                        numbers.append(int.from_bytes(key[24:], "big"))
                    found = cursor.next()
                    continue
                day = bytes(key[:8])
                for ae in aes:
                    numbers += self._of_station(cursor, day, ae)
                found = cursor.set_range(day + b"\xff" * 16)
        self._position = None
        return numbers

    def _of_station(self, cursor: object, day: bytes, ae: str) -> list[int]:
        prefix = day_key(day.decode("ascii", "replace").rstrip("\0"), ae)
        numbers: list[int] = []
        found = cursor.set_range(prefix)  # type: ignore[attr-defined]
        while found:
            key = cursor.key()  # type: ignore[attr-defined]
            if not key.startswith(prefix):
                break
            if cursor.value().decode() not in self._question.hidden:  # type: ignore[attr-defined]
                numbers.append(int.from_bytes(key[24:], "big"))
            found = cursor.next()  # type: ignore[attr-defined]
        return numbers
