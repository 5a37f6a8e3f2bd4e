"""/api/worklist: what modalities have to do, and why a station's list is empty.

ScheduledStationAETitle=CT1    ScheduledProcedureStepStartDate=20261201-    Modality=    PatientName=    PatientID=
AccessionNumber=               all=true: also steps that are hidden         limit=
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from engine import audit
from engine.access import FULL, Action
from engine.errors import QueryError, RequestError
from engine.orders import listing
from engine.orders.reach import reach_of
from engine.orders.workitems.reach import reach_of as workitem_reach_of
from engine.runtime.audit_trail import Act
from engine.titles import readable
from engine.web.api.json_bodies import ROWS_MAX, answer, check_parameters, number_of, switch_of
from engine.web.errors import NotFound
from engine.web.route import Parameter

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request

KEYS: Final = (
    "ScheduledStationAETitle", "ScheduledProcedureStepStartDate", "Modality", "PatientName", "PatientID",
    "AccessionNumber",
)  # fmt: skip
PARAMETERS: Final = (
    *(Parameter(keyword, "As a key of a worklist query: wild cards, ranges of dates") for keyword in KEYS),
    Parameter("all", "true: also steps that are started, ended or canceled", options=("true", "false")),
    Parameter("limit", f"Maximum number of entries, up to {ROWS_MAX}", schema="integer"),
)
WHY_PARAMETERS: Final = (Parameter("aet", "The AE title of the station"),)


async def listed(request: Request) -> web.Response:
    """The entries that meet the keys, by date and time."""
    check_parameters(request, [parameter.name for parameter in PARAMETERS])
    engine = request.engine
    keys = [(keyword, value) for keyword in KEYS if (value := request.query.get(keyword, ""))]
    work = partial(
        listing.entries,
        keys=keys,
        settings=request.config.worklist,
        all_states=switch_of(request, "all"),
        limit=number_of(request, "limit", 100, ROWS_MAX) or 1,
        reach=reach_of(request.scope(Action.WORKLIST), engine.stations),
    )
    try:
        entries = await engine.pools.orders.run(lambda: work(engine.orders()))
    except QueryError as error:
        raise RequestError(str(error)) from None
    if audit.is_on():
        query = " ".join(f"{keyword}={value}" for keyword, value in keys)
        engine.audit_trail.query(Act(request.principal, "page"), f"worklist {query}".strip(), count=len(entries))
    return answer({"entries": entries})


async def step(request: Request) -> web.Response:
    """A scheduled step, the performed steps (MPPS) that name it, and the workitems (UPS) of its request."""
    check_parameters(request)
    engine, text = request.engine, request.path_values["step"]
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise NotFound("no such step")
    reach = reach_of(request.scope(Action.WORKLIST), engine.stations)
    sees_workitems = request.allowed(Action.WORKITEM)
    of_workitems = workitem_reach_of(request.scope(Action.WORKITEM), lambda: engine.stations.issuer)
    audit.check()
    found = await engine.pools.orders.run(lambda: listing.step(engine.orders(), int(text), reach, of_workitems))
    if found is None:
        raise NotFound("no such step")
    if not sees_workitems:
        found["workitems"] = []
    if audit.is_on():
        engine.audit_trail.query(Act(request.principal, "page"), f"worklist step {text}", count=1)
    return answer(found)


async def why(request: Request) -> web.Response:
    """The last query of a station, key by key: what each leaves alone, and what is without it. For who sees all."""
    check_parameters(request, ["aet"])
    if request.scope(Action.WORKLIST) is not FULL:
        raise NotFound("only who may see the worklists of all stations is told why one is empty")
    engine, ae_title = request.engine, request.query.get("aet", "")
    if not 0 < len(ae_title) <= 16:
        raise RequestError("aet: an AE title has 1 to 16 characters")
    scope = engine.access.scope_of_peer(ae_title, Action.WORKLIST)
    work = partial(listing.why, stations=engine.stations, ae_title=readable(ae_title), scope=scope)
    return answer(await engine.pools.orders.run(lambda: work(engine.orders())))


async def stations(request: Request) -> web.Response:
    """Each station that asked for its list, with its last query, and each [[station]] that never did.

    Who may not see the worklists of all stations gets none.
    """
    check_parameters(request)
    if request.scope(Action.WORKLIST) is not FULL:
        return answer({"stations": []})
    engine, configured = request.engine, request.config.stations
    return answer({"stations": await engine.pools.orders.run(lambda: listing.asked(engine.orders(), configured))})
