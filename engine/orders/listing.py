"""Entries of the worklist and explanations as plain data, for the command line and for HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from engine.dicom import plain_values, tags
from engine.orders.entry import ROOT, STEP, Entry
from engine.orders.explanation import explain, identifier_of
from engine.orders.reach import Reach, reach_of
from engine.orders.worklist import Search, question_of

if TYPE_CHECKING:
    from engine.access import Scope
    from engine.orders.registry import Orders
    from engine.orders.settings import Station, Worklist
    from engine.orders.stations import Stations

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


def _shown(entry: Entry) -> dict[str, Any]:
    return {
        keyword: plain_values.value_of(tag, _FIELDS[tag](entry), tags.vr_of)
        for keyword, tag in zip(SHOWN, _TAGS, strict=True)
    }


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
        asked = reading.database.asked
        found.silent = tuple(each.aet for each in stations if reading.get(asked, each.aet.encode()) is None)
        for _, step in reading.rows(reading.database.steps):
            if step.is_unbooked or step.state.value in settings.hide:
                continue
            found.open += 1
            found.without_station += not step.aes and settings.unassigned == "hide"
            found.without_date += not step.start_date
    return found


def why(orders: Orders, stations: Stations, ae_title: str, scope: Scope) -> dict[str, Any]:
    """The last query of an application entity, and what each of its keys leaves of the list. `scope`: that of its
    role."""
    with orders.read() as reading:
        asked = reading.get(reading.database.asked, ae_title.encode())
        keys = asked.keys if asked is not None else (("ScheduledStationAETitle", ae_title),)
        found = explain(reading, keys, stations.settings, stations.of(ae_title), reach_of(scope, stations))
    moment = None if asked is None else datetime.fromtimestamp(asked.time, UTC).astimezone()
    return {
        "aet": ae_title,
        "asked": None if moment is None else moment.isoformat("T", "seconds"),
        "host": "" if asked is None else asked.host,
        "status": "" if asked is None else asked.status,
        "matches_then": None if asked is None else asked.matches,
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
