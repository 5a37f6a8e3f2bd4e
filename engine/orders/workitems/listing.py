"""Workitems as plain data, for people: pages of a list, and one with its history and what belongs to it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from engine.dicom import charset, plain_values, tags, values
from engine.dicom.identifier import Identifier
from engine.errors import QueryError
from engine.orders.workitems import facets, life
from engine.orders.workitems.facts import text_of
from engine.orders.workitems.rules import State
from engine.orders.workitems.search import Search, question_of

if TYPE_CHECKING:
    from engine.orders.attributes import Items
    from engine.orders.registry import Orders
    from engine.orders.rows import HistoryRow
    from engine.orders.workitems.search import Reach

SHOWN: Final = (
    "SOPInstanceUID", "ProcedureStepState", "ScheduledProcedureStepStartDateTime", "ScheduledProcedureStepPriority",
    "ProcedureStepLabel", "WorklistLabel", "PatientName", "PatientID",
)  # fmt: skip
"""The attributes of a workitem in a list."""
_SEARCHED: Final = (
    tags.ProcedureStepLabel, tags.WorklistLabel, tags.PatientName, tags.PatientID, tags.SOPInstanceUID,
)  # fmt: skip
CURSOR_BYTES_MAX: Final = 200
SLICES_MAX: Final = 200
"""How much of a search one page may take: a second; then it says where to go on, perhaps with no row."""


def page(
    orders: Orders,
    keys: Sequence[tuple[str, str]],
    *,
    limit: int,
    after: str = "",
    text: str = "",
    reach: Reach | None = None,
) -> tuple[list[dict[str, Any]], str]:
    """Workitems that meet the keys, by their start, behind a cursor; and the cursor of the next page, "": the end.

    `text`: words that must be in what people see of a workitem, whatever their case and accents. Raises QueryError.
    """
    question = question_of(identifier_of(keys))
    question.reach, question.test = reach, _words_test(text)
    search, found = Search(question, after=_position(after), is_brief=True), list[dict[str, Any]]()
    last = b""
    for _ in range(SLICES_MAX):
        with orders.read_in_thread() as reading:
            matches = search.next_placed(reading)
        if matches is None:
            return found, ""
        for place, _uid, items in matches:
            if len(found) == limit:
                return found, _cursor(last)
            found.append(plain(items, SHOWN))
            last = place
    return found, _cursor(search.position)


def _words_test(text: str) -> Callable[[Items], bool] | None:
    words = values.fold(text).split()

    def test(items: Items) -> bool:
        seen = values.fold("\n".join(text_of(items, tag) for tag in _SEARCHED))
        return all(word in seen for word in words)

    return test if words else None


def identifier_of(keys: Sequence[tuple[str, str]]) -> Identifier:
    """Keywords and values as an identifier."""
    return Identifier({tags.tag_of(keyword) or 0: value.encode() for keyword, value in keys}, charset.UTF_8)


def counts(orders: Orders, label: str = "") -> tuple[dict[str, int], list[str]]:
    """How many workitems there are in each state, of a worklist label or of all; and the labels in use."""
    with orders.read_in_thread() as reading:
        return {state.value: reading.workitem_count(state, label) for state in State}, reading.worklist_labels()


def one(orders: Orders, uid: str, reach: Reach | None = None, *, has_steps: bool = True) -> dict[str, Any]:
    """A workitem: `attributes`, `history`, and the steps that it belongs to. Raises WorkitemRefused.

    `has_steps`: for who may see every step; else `related` is None.
    """
    with orders.read_in_thread() as reading:
        row, items = life.seen(reading, uid, reach)
        related = facets.of_workitem(reading, items) if has_steps else None
    return {
        "uid": uid,
        "state": row.state,
        "created": moment(row.created),
        "creator": row.creator,
        "attributes": plain(items, [tags.keyword_of(tag) for tag in sorted(items)]),
        "history": [_history(each) for each in row.history],
        "related": related,
    }


def _history(row: HistoryRow) -> dict[str, str]:
    return {"time": moment(row.time), "action": row.action, "by": row.by, "reason": row.text}


def moment(time_s: float) -> str:
    """A time for people, in local time."""
    return datetime.fromtimestamp(time_s, UTC).astimezone().isoformat("T", "seconds")


def plain(items: Items, keywords: Sequence[str]) -> dict[str, Any]:
    """Attributes by keyword."""
    whole = Identifier(dict(items))  # type: ignore[arg-type]
    return {keyword: _value(whole, tags.tag_of(keyword) or 0) for keyword in keywords}


def _value(item: Identifier, tag: int) -> Any:
    value = item.items.get(tag, b"")
    if isinstance(value, bytes):
        return plain_values.value_of(tag, value)
    inner = (each if isinstance(each, Identifier) else Identifier(dict(each)) for each in value)
    return [{tags.keyword_of(within): _value(each, within) for within in each.items} for each in inner]


def _cursor(position: bytes) -> str:
    return base64.urlsafe_b64encode(position).decode()


def _position(cursor: str) -> bytes:
    """The place of a cursor. Raises QueryError."""
    try:
        position = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        position = None
    if position is None or len(position) > CURSOR_BYTES_MAX:
        raise QueryError("the cursor is none that this server gave")
    return position
