"""/api/workitems: workitems (UPS) for people: a list in pages with counts, and one with its history and steps.

state=SCHEDULED    worklist=AI (Worklist Label)    PatientID=    ScheduledProcedureStepStartDateTime=
text=liver doe     limit=    after=: `next` of an earlier answer

What systems do with workitems is UPS-RS (`web.workitems`). Counts are for who may see all.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from engine import audit
from engine.access import FULL, Action
from engine.audit import Event, Kind, Outcome
from engine.errors import QueryError, RequestError, WorkitemRefused
from engine.orders.workitems import listing
from engine.orders.workitems.rules import State
from engine.runtime.audit_trail import Act
from engine.web.api.json_bodies import ROWS_MAX, answer, check_parameters, number_of
from engine.web.route import Parameter
from engine.web.workitems import reach, refusal, uid_of_path

if TYPE_CHECKING:
    from aiohttp import web

    from engine.orders.registry import Orders
    from engine.orders.workitems.search import Reach
    from engine.web.request import Request

TEXT_MAX: Final = 128
KEYS: Final = {
    "state": "ProcedureStepState",
    "worklist": "WorklistLabel",
    "PatientID": "PatientID",
    "ScheduledProcedureStepStartDateTime": "ScheduledProcedureStepStartDateTime",
}
"""Parameter → keyword."""
PARAMETERS: Final = (
    Parameter("state", "Procedure Step State", options=tuple(State)),
    Parameter("worklist", "Worklist Label, with wild cards"),
    Parameter("text", "Words in the label, the worklist, the patient's name or ID, or the UID"),
    Parameter("PatientID", "Whose it is, with wild cards"),
    Parameter("ScheduledProcedureStepStartDateTime", "When it is to begin: a date and time, or a range"),
    Parameter("limit", f"Maximum number of workitems, up to {ROWS_MAX}", schema="integer"),
    Parameter("after", "`next` of an earlier answer"),
)


async def listed(request: Request) -> web.Response:
    """The workitems that meet the keys, by their start; `next` leads on, "" at the end."""
    check_parameters(request, [parameter.name for parameter in PARAMETERS])
    engine = request.engine
    keys = [(keyword, value) for name, keyword in KEYS.items() if (value := request.query.get(name, ""))]
    if request.query.get("state", State.SCHEDULED) not in frozenset(State):
        raise RequestError(f"state: must be one of {', '.join(State)}")
    seen, label = reach(request), request.query.get("worklist", "")
    limit, after = number_of(request, "limit", 100, ROWS_MAX) or 1, request.query.get("after", "")
    text = request.query.get("text", "")
    if len(text) > TEXT_MAX:
        raise RequestError(f"text: has more than {TEXT_MAX} characters")
    work = partial(_page, keys=keys, limit=limit, after=after, text=text, reach=seen, label=label)
    audit.check()
    try:
        found = await engine.pools.orders.run(lambda: work(engine.orders()))
    except QueryError as error:
        raise RequestError(str(error)) from None
    if audit.is_on():
        query = " ".join(f"{keyword}={value}" for keyword, value in keys)
        act = Act(request.principal, "page")
        engine.audit_trail.query(act, f"workitems {query}".strip(), count=len(found["workitems"]))
    return answer(found)


def _page(
    orders: Orders, *, keys: list[tuple[str, str]], limit: int, after: str, text: str, reach: Reach | None, label: str
) -> dict[str, Any]:
    rows, following = listing.page(orders, keys, limit=limit, after=after, text=text, reach=reach)
    counts, labels = listing.counts(orders, label) if reach is None else (None, [])
    if any(mark in label for mark in "*?"):
        counts = None
    return {"workitems": rows, "next": following, "counts": counts, "worklists": labels}


async def one(request: Request) -> web.Response:
    """All attributes of a workitem but the Transaction UID, what happened to it, and the steps of its request."""
    check_parameters(request)
    uid, seen, engine = uid_of_path(request), reach(request), request.engine
    is_all = request.scope(Action.WORKLIST) is FULL
    audit.check()
    try:
        found = await engine.pools.orders.run(lambda: listing.one(engine.orders(), uid, seen, has_steps=is_all))
    except WorkitemRefused as error:
        raise refusal(error) from None
    if audit.is_on():
        action = "read workitem"
        audit.write(
            Event(kind=Kind.OPERATION, principal=request.principal, action=action, outcome=Outcome.SUCCESS, detail=uid)
        )
    return answer(found)
