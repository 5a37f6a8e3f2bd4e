"""The part of `backend` for workitems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from engine.cli import backend
from engine.cli.worklist import opened
from engine.config import Config
from engine.dicom import plain_values, tags
from engine.dicom.identifier import Identifier

if TYPE_CHECKING:
    from engine.orders.attributes import Items

SHOWN: Final = (
    "SOPInstanceUID", "ProcedureStepState", "ScheduledProcedureStepStartDateTime", "ScheduledProcedureStepPriority",
    "ProcedureStepLabel", "WorklistLabel", "PatientName", "PatientID",
)  # fmt: skip


def listed(config: Config, keys: Sequence[tuple[str, str]], limit: int) -> list[dict[str, Any]]:
    """The workitems that meet the keys, by their start. Raises QueryError."""
    from engine.orders.workitems.search import Search, question_of
    from engine.orders.workitems.store import Workitems

    identifier = Identifier({tags.tag_of(keyword) or 0: value.encode() for keyword, value in keys}, b"ISO_IR 192")
    search, found = Search(question_of(identifier)), list[dict[str, Any]]()
    with opened(config) as orders:
        workitems = Workitems(orders)
        while len(found) < limit and (matches := workitems.read(search)) is not None:
            found += [_plain(items, SHOWN) for _, items in matches]
    return sorted(found[:limit], key=lambda row: str(row["ScheduledProcedureStepStartDateTime"]))


def one(config: Config, uid: str) -> dict[str, Any]:
    """All attributes of a workitem. Raises WorkitemRefused."""
    from engine.orders.workitems.store import Workitems

    with opened(config) as orders:
        items = Workitems(orders).get(uid)
    return _plain(items, [tags.keyword_of(tag) for tag in sorted(items)])


def cancel(config: Config, uid: str, reason: str) -> dict[str, Any]:
    """Cancels a workitem that nobody performs, else asks its performer to. Raises WorkitemRefused."""
    from engine.orders.workitems.store import Workitems

    information = Identifier({tags.ReasonForCancellation: reason.encode()} if reason else {}, b"ISO_IR 192")
    with opened(config) as orders:
        workitems = Workitems(orders)
        workitems.request_cancel(uid, information, backend.operator().actor)
        state = workitems.get(uid)[tags.ProcedureStepState]
    return {"uid": uid, "state": state.decode() if isinstance(state, bytes) else ""}


def _plain(items: Items, keywords: Sequence[str]) -> dict[str, Any]:
    whole = Identifier(dict(items))  # type: ignore[arg-type]
    return {keyword: _value(whole, tags.tag_of(keyword) or 0) for keyword in keywords}


def _value(item: Identifier, tag: int) -> Any:
    value = item.items.get(tag, b"")
    if isinstance(value, bytes):
        return plain_values.value_of(tag, value)
    return [{tags.keyword_of(inner): _value(each, inner) for inner in each.items} for each in value]
