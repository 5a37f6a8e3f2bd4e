"""/api/reconciliation: studies without orders, orders without studies, conflicts; links, made and undone by hand.

since=, until=    days, as 20261201; the last week without them

It is for who sees the whole archive: whoever matches must see both sides. Links are records that a person can undo.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from engine.access import Action
from engine.archive import reconciliation
from engine.audit import Event, Kind
from engine.errors import RequestError, UpdateRefused
from engine.orders.values import Source
from engine.runtime.audit_trail import Act, changing
from engine.web.api import reach
from engine.web.api.bodies import UID, ReasonBody
from engine.web.api.json_bodies import answer, body_of, check_parameters
from engine.web.errors import HttpError, NotFound
from engine.web.route import Parameter

if TYPE_CHECKING:
    from aiohttp import web

    from engine.archive.archive import Archive
    from engine.orders.registry import Orders
    from engine.orders.values import Applied
    from engine.web.request import Request

DAYS: Final = 7
PARAMETERS: Final = (
    Parameter("since", "The first day, as 20261201"),
    Parameter("until", "The last day"),
)


class Link(ReasonBody, frozen=True, kw_only=True):
    """A study and an order."""

    study: UID
    order: int


async def listed(request: Request) -> web.Response:
    """What does not fit together on some days."""
    _check(request)
    check_parameters(request, [parameter.name for parameter in PARAMETERS])
    today = date.today()
    since = _day(request, "since", today - timedelta(days=DAYS - 1))
    until = _day(request, "until", today)
    engine = request.engine
    facts = await engine.pools.orders.run(lambda: _listed(engine.archive, engine.orders(), since, until))
    count = sum(len(facts[name]) for name in ("studies", "orders", "conflicts"))
    act = Act(request.principal, "page")
    engine.audit_trail.query(act, f"reconciliation {since}-{until}", count=count)
    return answer(facts)


def _listed(archive: Archive, orders: Orders, since: str, until: str) -> dict[str, Any]:
    studies, more_studies = reconciliation.unmatched_studies(archive, orders, since, until)
    unfilled, more_orders = reconciliation.unfilled_orders(orders, since, until)
    conflicts, more_conflicts = reconciliation.conflicts(archive, orders)
    return {
        "since": since,
        "until": until,
        "studies": studies,
        "orders": unfilled,
        "conflicts": conflicts,
        "more": {"studies": more_studies, "orders": more_orders, "conflicts": more_conflicts},
    }


async def of_study(request: Request) -> web.Response:
    """One study with its links, and the orders that it may fulfil."""
    _check(request)
    check_parameters(request)
    study = request.path_values["study"]
    if len(study) > 64 or not study.isascii():
        raise NotFound("there is no study with a UID of that form")
    engine = request.engine
    facts = await engine.pools.orders.run(lambda: reconciliation.of_study(engine.archive, engine.orders(), study))
    if facts is None:
        raise NotFound(f"there is no study {study}")
    engine.audit_trail.query(Act(request.principal, "page"), f"reconciliation {study}", count=1)
    return answer(facts)


async def link(request: Request) -> web.Response:
    """Links a study to an order."""
    return await _change(
        request, "links it with", lambda orders, body, source: orders.link(body.study, body.order, source)
    )


async def unlink(request: Request) -> web.Response:
    """Undoes a link, or says of a conflict that the study does not belong to the order."""
    return await _change(
        request, "unlinks it from", lambda orders, body, source: orders.unlink(body.study, body.order, source)
    )


async def _change(request: Request, what: str, change: Callable[[Orders, Link, Source], Applied]) -> web.Response:
    body = await body_of(request, Link)
    reach.everything(request, Action.CORRECT)
    if not 0 < body.order < 1 << 63:
        raise NotFound("there is no such order")
    engine = request.engine
    source = Source(name=request.principal.actor, reference=body.reason)
    if (
        await engine.pools.orders.run(partial(reconciliation.of_study, engine.archive, engine.orders(), body.study))
        is None
    ):
        raise NotFound(f"there is no study {body.study}")
    facts = await engine.pools.index.run(lambda: engine.archive.study_facts(body.study))
    event = Event(
        kind=Kind.CORRECTED,
        principal=request.principal,
        action="page: reconciliation",
        patient=facts.patient,
        study=body.study,
        reason=body.reason,
        detail=f"{what} order {body.order}",
    )
    async with changing(event):
        try:
            applied = await engine.pools.orders.run(partial(change, engine.orders(), body, source))
        except UpdateRefused as error:
            raise HttpError(HTTPStatus.CONFLICT, str(error)) from None
    return answer({"changes": [f"{each.kind} {each.action}" for each in applied.changes]})


def _check(request: Request) -> None:
    for action in (Action.WORKLIST, Action.QUERY):
        reach.everything(request, action)


def _day(request: Request, name: str, default: date) -> str:
    text = request.query.get(name, "")
    if not text:
        return f"{default:%Y%m%d}"
    try:
        if len(text) == 8 and text.isascii():
            return f"{date.fromisoformat(text):%Y%m%d}"
    except ValueError:
        pass
    raise RequestError(f"{name}: is no day, as 20261201")
