"""/api/merges: merges of patients that HL7 messages have said, the latest first, and how one is undone.

before=     `older` of an earlier answer      limit=

Merges name patients: they are for who sees the whole archive. What people merged is in /api/corrections.
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from engine import audit
from engine.access import Action
from engine.archive import hospital
from engine.audit import Event, Kind, Patient
from engine.errors import UpdateRefused
from engine.orders.values import RefusalReason, Source
from engine.runtime.audit_trail import Act
from engine.web.api import reach
from engine.web.api.bodies import ReasonBody
from engine.web.api.json_bodies import ROWS_MAX, answer, body_of, check_parameters, number_of
from engine.web.errors import HttpError, NotFound
from engine.web.route import Parameter

if TYPE_CHECKING:
    from aiohttp import web

    from engine.orders.rows import MergeRow
    from engine.orders.values import Identifier
    from engine.web.request import Request

NUMBER_MAX: Final = (1 << 53) - 1
PARAMETERS: Final = (
    Parameter("before", "`older` of an earlier answer", schema="integer"),
    Parameter("limit", f"Maximum number of merges, up to {ROWS_MAX}", schema="integer"),
)


async def listed(request: Request) -> web.Response:
    """One page of merges."""
    for action in (Action.WORKLIST, Action.QUERY):
        reach.everything(request, action)
    check_parameters(request, [parameter.name for parameter in PARAMETERS])
    before = number_of(request, "before", 0, NUMBER_MAX) or NUMBER_MAX
    limit = number_of(request, "limit", 100, ROWS_MAX) or 1
    engine = request.engine
    rows: list[tuple[int, MergeRow]] = []
    if hospital.has_orders(engine.archive):
        rows = await engine.pools.orders.run(lambda: engine.orders().merges(before=before, limit=limit))
    engine.audit_trail.query(Act(request.principal, "page"), "merges", count=len(rows))
    older = rows[-1][0] if len(rows) == limit else None
    return answer({"merges": [_facts(number, row) for number, row in rows], "older": older})


async def undo(request: Request) -> web.Response:
    """Undoes a merge; answers with what that changed, and with what stays."""
    body = await body_of(request, ReasonBody)
    reach.everything(request, Action.CORRECT)
    text = request.path_values["number"]
    if not (text.isascii() and text.isdigit() and len(text) < 17 and 0 < int(text) <= NUMBER_MAX):
        raise NotFound("there is no such merge")
    engine, number = request.engine, int(text)
    if not hospital.has_orders(engine.archive):
        raise NotFound("there is no such merge")
    source = Source(name=request.principal.actor)
    try:
        applied = await engine.pools.orders.run(partial(engine.orders().unmerge, number, source, body.reason))
    except UpdateRefused as error:
        if error.reason == RefusalReason.UNKNOWN_KEY:
            raise NotFound(str(error)) from None
        raise HttpError(HTTPStatus.CONFLICT, str(error)) from None
    if audit.is_on():
        ((_, row),) = await engine.pools.orders.run(lambda: engine.orders().merges(before=number + 1, limit=1))
        await audit.begin(
            Event(
                kind=Kind.CORRECTED,
                principal=request.principal,
                action="page: merges",
                patient=Patient(row.prior.value, _issuer(row.prior)),
                reason=body.reason,
                detail=f"merge {number} undone",
            )
        )
    changes = [f"{each.kind} {each.action}" for each in applied.changes]
    return answer({"changes": changes, "warnings": list(applied.warnings)})


def _facts(number: int, row: MergeRow) -> dict[str, Any]:
    return {
        "number": number,
        "time": _time(row.time),
        "prior": _patient(row.prior),
        "survivor": _patient(row.survivor),
        "by": row.by,
        "messages": list(row.references),
        "undone_by": row.undone_by,
        "undone": _time(row.undone),
        "reason": row.reason,
    }


def _issuer(identifier: Identifier) -> str:
    return identifier.issuer.name or identifier.issuer.universal_id


def _patient(identifier: Identifier) -> dict[str, str]:
    return {"PatientID": identifier.value, "IssuerOfPatientID": _issuer(identifier)}


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds") if seconds else ""
