"""/api/commitments, /api/webhooks and /api/outbox: what waits to be delivered to peers and other receivers.

Retry and resume are asynchronous: the answer is 202, and the process that delivers looks within a second.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from engine.archive.admin import commitments as waiting
from engine.web.api.bodies import Identifiers, ReasonBody
from engine.web.api.json_bodies import answer, body_of, check_parameters, page, page_of

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def commitments(request: Request) -> web.Response:
    """The storage commitment reports that their peers have not taken, with attempts and the last error."""
    check_parameters(request, ("limit", "offset"))
    limit, offset = page_of(request)

    def read() -> dict[str, Any]:
        return page("commitments", waiting.listed(request.config.data), limit, offset)

    return answer(await request.engine.pools.reads.run(read))


async def commitments_retry(request: Request) -> web.Response:
    """Makes reports, or all, due at once. Raises CommitmentError."""
    body = await body_of(request, Identifiers)
    count = await request.engine.pools.slow.run(partial(waiting.retry, request.config.data, body.ids))
    return answer({"count": count}, 202)


async def commitment_drop(request: Request) -> web.Response:
    """Removes a report; its peer must ask again. Raises CommitmentError."""
    await body_of(request, ReasonBody)
    identifier = request.path_values["id"]
    await request.engine.pools.slow.run(partial(waiting.drop, request.config.data, identifier))
    return answer({"dropped": identifier})


async def webhooks(request: Request) -> web.Response:
    """The [[webhook]] tables, each with its progress."""
    check_parameters(request)
    standings = await request.engine.pools.reads.run(request.engine.archive.feed_destinations().all)
    by_name = {standing.name: standing.as_dict() for standing in standings}
    rows = [
        {"state": "delivering", "delivered": 0, "error": "", **by_name.get(hook.name, {}), "name": hook.name}
        for hook in request.config.webhooks
    ]
    return answer({"webhooks": rows})


async def webhook_resume(request: Request) -> web.Response:
    """Resumes a parked or waiting webhook. Raises FeedError."""
    await body_of(request, ReasonBody)
    name = request.path_values["id"]
    await request.engine.pools.slow.run(partial(request.engine.archive.feed_destinations().resume, name))
    return answer({"name": name, "asked": "resume"}, 202)


async def outbox(request: Request) -> web.Response:
    """The receivers of [[route]] and [[rule]] tables, each with its progress."""
    check_parameters(request)
    standings = await request.engine.pools.reads.run(request.engine.archive.outbox().all)
    return answer({"outbox": [standing.as_dict() for standing in standings]})


async def outbox_resume(request: Request) -> web.Response:
    """Resumes a parked or waiting receiver. Raises FeedError."""
    await body_of(request, ReasonBody)
    name = request.path_values["id"]
    await request.engine.pools.slow.run(partial(request.engine.archive.outbox().resume, name))
    return answer({"name": name, "asked": "resume"}, 202)


async def outbox_resend(request: Request) -> web.Response:
    """Tries once more what was set aside for a receiver. Raises FeedError."""
    await body_of(request, ReasonBody)
    name = request.path_values["id"]
    await request.engine.pools.slow.run(partial(request.engine.archive.outbox().resend, name))
    return answer({"name": name, "asked": "resend"}, 202)
