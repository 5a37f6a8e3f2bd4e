"""Why a worklist is empty: what each key of a query leaves, and what else keeps steps from the list.

Looks at every step: for people who ask, not for each query.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.dicom import tags
from engine.dicom.identifier import Identifier as DataSet
from engine.orders.entry import STEP, Entry, entry_of
from engine.orders.reach import Reach
from engine.orders.settings import Station, Worklist
from engine.orders.transactions import Reading
from engine.orders.worklist import Question, question_of


@dataclass(slots=True)
class KeyEffect:
    """What one key leaves by itself."""

    keyword: str
    value: str
    entries: int = 0
    """Entries of the list that meet it."""
    without: int = 0
    """Entries that meet all other keys."""
    seen: Counter[str] = field(default_factory=Counter)
    """The values of entries that meet all other keys."""


@dataclass(slots=True)
class Explanation:
    """Why a query has the entries that it has."""

    entries: int = 0
    """What the query has now."""
    shown: int = 0
    """Entries of all stations, before any key."""
    hidden: Counter[str] = field(default_factory=Counter)
    """Steps that are on no list, by their state."""
    unbooked: int = 0
    out_of_reach: int = 0
    """Entries that the role of the one who asks does not let them see."""
    unassigned: int = 0
    """Shown entries without a station."""
    keys: list[KeyEffect] = field(default_factory=list)


def explain(
    reading: Reading,
    keys: Sequence[tuple[str, str]],
    settings: Worklist,
    station: Station | None = None,
    reach: Reach | None = None,
) -> Explanation:
    """Explains a query with these keys, as `Question.keys` has them."""
    plain = [(keyword, value) for keyword, value in keys if tags.tag_of(keyword)]
    questions = [_question([key], settings) for key in plain]
    others = [_question([other for other in plain if other is not key], settings) for key in plain]
    whole = _question(plain, settings, station)
    result = Explanation(keys=[KeyEffect(keyword, value) for keyword, value in plain])
    for key, _ in reading.rows(reading.database.steps):
        entry = entry_of(reading, int.from_bytes(key, "big"))
        if entry is None:
            continue
        if entry.step.is_unbooked:
            result.unbooked += 1
        elif entry.step.state in whole.hidden:
            result.hidden[entry.step.state.value] += 1
        elif reach is not None and not reach(entry):
            result.out_of_reach += 1
        else:
            _count(result, entry, whole, questions, others)
    return result


def _count(
    result: Explanation, entry: Entry, whole: Question, questions: list[Question], others: list[Question]
) -> None:
    result.shown += 1
    result.unassigned += not entry.step.aes
    result.entries += whole.admits(entry)
    for effect, alone, other in zip(result.keys, questions, others, strict=True):
        effect.entries += alone.admits(entry)
        if other.admits(entry):
            effect.without += 1
            effect.seen[_value(entry, effect.keyword)] += 1


def _value(entry: Entry, keyword: str) -> str:
    of_step = STEP.get(tags.tag_of(keyword) or 0)
    return of_step(entry).decode("utf-8", "replace") if of_step is not None else ""


def _question(keys: Sequence[tuple[str, str]], settings: Worklist, station: Station | None = None) -> Question:
    return question_of(identifier_of(keys), settings, station)


def identifier_of(keys: Sequence[tuple[str, str]]) -> DataSet:
    """The identifier with these keys, in UTF-8. Those of the step go into its sequence."""
    root: dict[int, bytes | list[DataSet]] = {}
    item: dict[int, bytes | list[DataSet]] = {}
    for keyword, value in keys:
        tag = tags.tag_of(keyword) or 0
        (item if tag in STEP else root)[tag] = value.encode()
    root[tags.ScheduledProcedureStepSequence] = [DataSet(item, b"ISO_IR 192")]
    return DataSet(root, b"ISO_IR 192")
