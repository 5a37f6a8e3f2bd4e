"""Subscriptions to workitems over HTTP (PS3.18 11.10 to 11.12).

    POST   /workitems/{workitem}/subscribers/{aetitle}?deletionlock=true&filter=ATTRIBUTE=VALUE,…     201
    DELETE /workitems/{workitem}/subscribers/{aetitle}                                                200
    POST   /workitems/{workitem}/subscribers/{aetitle}/suspend                                        200

The well-known UIDs 1.2.840.10008.5.1.4.34.5 and .5.1 stand for all workitems, and for those that meet the filter. A
title that a user has subscribed is that user's.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from engine.access import Action
from engine.errors import RequestError
from engine.orders.workitems.store import Subscriber
from engine.web import workitem_keys
from engine.web.api.json_bodies import check_parameters, switch_of
from engine.web.route import DICOMWEB, Parameter, Route
from engine.web.workitems import PATH, TAG, WORKITEM, reach, run, uid_of_path

if TYPE_CHECKING:
    from engine.web.request import Request


async def subscribe(request: Request) -> web.StreamResponse:
    """Subscribes a title."""
    check_parameters(request, ("deletionlock", "filter"))
    uid, who, has_lock = uid_of_path(request), subscriber_of(request), switch_of(request, "deletionlock")
    text = request.query.get("filter", "")
    keys = workitem_keys.filter_of(text) if text else None
    await run(request, lambda workitems: workitems.subscribe(uid, who, has_lock=has_lock, keys=keys))
    scheme, _, rest = request.root.partition("://")
    channel = f"{'wss' if scheme == 'https' else 'ws'}://{rest}{DICOMWEB}/subscribers/{who.title}"
    return web.Response(status=HTTPStatus.CREATED, headers={"Content-Location": channel})


async def unsubscribe(request: Request) -> web.StreamResponse:
    """Ends a subscription."""
    uid, who = uid_of_path(request), subscriber_of(request)
    await run(request, lambda workitems: workitems.unsubscribe(uid, who))
    return web.Response()


async def suspend(request: Request) -> web.StreamResponse:
    """Ends the subscription to workitems to come."""
    uid, who = uid_of_path(request), subscriber_of(request)
    await run(request, lambda workitems: workitems.suspend(uid, who))
    return web.Response()


def subscriber_of(request: Request) -> Subscriber:
    """The title of the path, and whose it is. Raises RequestError."""
    title = request.path_values["aetitle"].strip()
    if not 0 < len(title) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
        raise RequestError("an AE title has 1 to 16 ASCII characters")
    return Subscriber(title, request.principal.actor, reach(request))


TITLE: Final = Parameter("aetitle", "AE title of the subscriber", "path", is_required=True)


def _route(method: str, path: str, handler: Any, summary: str, status: int, *parameters: Parameter) -> Route:
    return Route(
        method,
        f"{PATH}/{{workitem}}/subscribers/{{aetitle}}{path}",
        handler,
        summary,
        Action.WORKITEM,
        parameters=(WORKITEM, TITLE, *parameters),
        produces=(),
        statuses=(status,),
        errors=(403, 404, 410, 503),
        tag=TAG,
    )


ROUTES: Final = (
    _route(
        "POST", "", subscribe, "Subscribe to a workitem, or to all", 201,
        Parameter("deletionlock", "Whether workitems are kept for the subscriber", options=("true", "false")),
        Parameter("filter", "Keys that workitems must meet: attribute=value, separated by commas"),
    ),
    _route("DELETE", "", unsubscribe, "End a subscription", 200),
    _route("POST", "/suspend", suspend, "End the subscription to workitems to come", 200),
)  # fmt: skip
"""The rows of the route table."""
