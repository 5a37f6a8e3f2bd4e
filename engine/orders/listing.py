"""Entries of the worklist and explanations as plain data, for the command line and for HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from engine.dicom import plain_values, tags
from engine.orders.entry import ROOT, STEP, Entry, entry_of
from engine.orders.explanation import explain, identifier_of
from engine.orders.reach import Reach, reach_of
from engine.orders.workitems import facets
from engine.orders.worklist import Search, question_of

if TYPE_CHECKING:
    from engine.access import Scope
    from engine.orders.registry import Orders
    from engine.orders.rows import AskedRow
    from engine.orders.settings import Station, Worklist
    from engine.orders.stations import Stations
    from engine.orders.workitems.search import Reach as WorkitemReach

SHOWN: Final = (
    "ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime", "ScheduledStationAETitle", "Modality",
    "PatientName", "PatientID", "AccessionNumber", "RequestedProcedureDescription", "ScheduledProcedureStepID",
    "ScheduledProcedureStepStatus", "StudyInstanceUID",
)  # fmt: skip
"""The attributes of an entry in a list."""

VALUES_MAX: Final = 5
"""Values that other entries have instead, in an explanation."""

_FIELDS = {**ROOT, **STEP}
_TAGS = tuple(tags.tag_of(keyword) or 0 for keyword in SHOWN)


def entries(
    orders: Orders,
    keys: Sequence[tuple[str, str]],
    settings: Worklist,
    *,
    all_states: bool,
    limit: int,
    reach: Reach | None = None,
) -> list[dict[str, Any]]:
    """The entries that meet the keys, by date and time; `all_states`: also hidden ones. Raises QueryError."""
    changes: dict[str, Any] = {"limit": limit, **({"hide": ()} if all_states else {})}
    question = question_of(identifier_of(keys), msgspec.structs.replace(settings, **changes))
    question.reach = reach
    search = Search(question)
    found: list[Entry] = []
    while len(found) < limit:
        with orders.read() as reading:
            more = search.next(reading)
        if more is None:
            break
        found += more
    found = sorted(found[:limit], key=lambda each: (each.step.start_date, each.step.start_time, each.number))
    return [_shown(entry) for entry in found]


def step(
    orders: Orders, number: int, reach: Reach | None = None, workitem_reach: WorkitemReach | None = None
) -> dict[str, Any] | None:
    """A scheduled step, what modalities report of it, and the workitems of its request; None: there is none."""
    with orders.read_in_thread() as reading:
        entry = entry_of(reading, number)
        if entry is None or (reach is not None and not reach(entry)):
            return None
        return {
            **_shown(entry),
            "performed": facets.performed_of(reading, [entry.step]),
            "workitems": facets.workitems_of(reading, entry.step, workitem_reach),
        }


def _shown(entry: Entry) -> dict[str, Any]:
    attributes = {
        keyword: plain_values.value_of(tag, _FIELDS[tag](entry), tags.vr_of)
        for keyword, tag in zip(SHOWN, _TAGS, strict=True)
    }
    return {**attributes, "step": entry.number}


@dataclass(slots=True)
class Gaps:
    """What keeps open steps from the lists of modalities."""

    open: int = 0
    """Steps that are on lists, or would be."""
    without_station: int = 0
    without_date: int = 0
    silent: tuple[str, ...] = ()
    """Each [[station]] that has never asked."""


def gaps(orders: Orders, settings: Worklist, stations: Sequence[Station]) -> Gaps:
    """Looks at every step: for people who ask. Raises OrdersError."""
    found = Gaps()
    with orders.read() as reading:
        table = reading.database.asked
        found.silent = tuple(each.aet for each in stations if reading.get(table, each.aet.encode()) is None)
        for _, step in reading.rows(reading.database.steps):
            if step.is_unbooked or step.state.value in settings.hide:
                continue
            found.open += 1
            found.without_station += not step.aes and settings.unassigned == "hide"
            found.without_date += not step.start_date
    return found


def asked(orders: Orders, stations: Sequence[Station]) -> list[dict[str, Any]]:
    """Each application entity that asked for its worklist, and each [[station]] that never did, by AE title."""
    with orders.read() as reading:
        rows = {key.decode("utf-8", "replace"): row for key, row in reading.rows(reading.database.asked)}
    titles = sorted({*rows, *(each.aet for each in stations)})
    return [_asked_facts(title, rows.get(title)) for title in titles]


def _asked_facts(ae_title: str, row: AskedRow | None) -> dict[str, Any]:
    return {
        "aet": ae_title,
        "asked": None if row is None else _moment(row.time),
        "host": "" if row is None else row.host,
        "status": "" if row is None else row.status,
        "matches": None if row is None else row.matches,
    }


def _moment(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).astimezone().isoformat("T", "seconds")


def why(orders: Orders, stations: Stations, ae_title: str, scope: Scope) -> dict[str, Any]:
    """The last query of an application entity, and what each of its keys leaves of the list. `scope`: that of its
    role."""
    with orders.read() as reading:
        row = reading.get(reading.database.asked, ae_title.encode())
        keys = row.keys if row is not None else (("ScheduledStationAETitle", ae_title),)
        found = explain(reading, keys, stations.settings, stations.of(ae_title), reach_of(scope, stations))
    facts = _asked_facts(ae_title, row)
    return {
        **{name: facts[name] for name in ("aet", "asked", "host", "status")},
        "matches_then": facts["matches"],
        "matches_now": found.entries,
        "scheduled": found.shown,
        "without_station": found.unassigned,
        "hidden": {state.lower(): count for state, count in found.hidden.items()},
        "unbooked": found.unbooked,
        "out_of_role": found.out_of_reach,
        "keys": [
            {
                "keyword": effect.keyword,
                "value": effect.value,
                "entries": effect.entries,
                "without_it": effect.without,
                "others_have": [value for value, _ in effect.seen.most_common(VALUES_MAX)],
            }
            for effect in found.keys
        ],
    }
