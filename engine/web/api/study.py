"""/api/studies/{study}: one study beside its attributes: size, senders, hold, conflicts, corrections, state.

`state` is that of `archive.feed.study_states`; null without a change feed.

A conflict or correction has the values too, since whoever may query the study sees them anyway. The address of an
application entity is the one in the configuration: none is stored with an instance.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.access import Action
from engine.archive.admin import studies
from engine.web.api.json_bodies import answer, check_parameters
from engine.web.stored import missing, uid_of

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def one(request: Request) -> web.Response:
    """The facts of one study. Raises NotFound, Gone."""
    check_parameters(request)
    uid = uid_of(request, "study")
    facts = await request.engine.pools.index.run(partial(studies.details, request.view(Action.QUERY), uid))
    if facts is None:
        raise missing(request, uid, None)
    (state,) = await request.engine.pools.slow.run(partial(request.engine.archive.study_states.of, [uid]))
    facts["state"] = state and state.as_dict()
    for sender in facts["senders"]:
        peer = request.config.peer(sender["name"]) if sender["way"] == "dimse" else None
        address = f"{peer.host}:{peer.port}" if peer is not None and peer.has_address else ""
        sender["address"] = sender["name"] if sender["way"] == "http" else address
    return answer(facts)
