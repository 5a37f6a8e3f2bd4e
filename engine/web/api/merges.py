"""/api/merges: merges of patients that HL7 messages have said, the latest first, and how one is undone.

before=     `older` of an earlier answer      limit=

Merges name patients: they are for who sees the whole archive. What people merged is in /api/corrections.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from engine.access import Action
from engine.archive import hospital
from engine.audit import Event, Kind, Patient
from engine.errors import UpdateRefused
from engine.orders import merging
from engine.orders.values import Source
from engine.runtime.audit_trail import Act, changing
from engine.web.api import reach
from engine.web.api.bodies import ReasonBody
from engine.web.api.json_bodies import ROWS_MAX, answer, body_of, check_parameters, number_of
from engine.web.errors import HttpError, NotFound
from engine.web.route import Parameter

if TYPE_CHECKING:
    from aiohttp import web

    from engine.orders.rows import MergeRow
    from engine.runtime.engine import Engine
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
    return answer({"merges": [merging.described(number, row) for number, row in rows], "older": older})


async def undo(request: Request) -> web.Response:
    """Undoes a merge; answers with what that changed, and with what stays."""
    body = await body_of(request, ReasonBody)
    reach.everything(request, Action.CORRECT)
    text = request.path_values["number"]
    if not (text.isascii() and text.isdigit() and len(text) < 17 and 0 < int(text) <= NUMBER_MAX):
        raise NotFound("there is no such merge")
    engine, number = request.engine, int(text)
    row = await engine.pools.orders.run(partial(_row, engine, number))
    if row is None:
        raise NotFound("there is no such merge")
    event = Event(
        kind=Kind.CORRECTED,
        principal=request.principal,
        action="page: merges",
        patient=Patient(row.prior.value, merging.issuer_of(row.prior)),
        reason=body.reason,
        detail=f"undoes merge {number}",
    )
    source = Source(name=request.principal.actor)
    async with changing(event):
        try:
            applied = await engine.pools.orders.run(partial(engine.orders().unmerge, number, source, body.reason))
        except UpdateRefused as error:
            raise HttpError(HTTPStatus.CONFLICT, str(error)) from None
    changes = [f"{each.kind} {each.action}" for each in applied.changes]
    return answer({"changes": changes, "warnings": list(applied.warnings)})


def _row(engine: Engine, number: int) -> MergeRow | None:
    """A merge, if there is one of this number."""
    if not hospital.has_orders(engine.archive):
        return None
    return dict(engine.orders().merges(before=number + 1, limit=1)).get(number)
