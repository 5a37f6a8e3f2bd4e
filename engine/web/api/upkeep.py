"""/api/retention, /api/scrub, /api/damage, /api/backups: maintenance of the archive, read-only."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from engine.access import FULL, Action
from engine.archive.admin import upkeep
from engine.web.api.json_bodies import answer, check_parameters, page, page_of
from engine.web.errors import NotFound

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def retention(request: Request) -> web.Response:
    """The rules, and the studies that they would delete now: a dry run."""
    check_parameters(request, ("rule", "limit", "offset"))
    limit, offset = page_of(request)
    name = request.query.get("rule")
    rules = [rule for rule in request.config.retention if name in (None, rule.name)]
    if name is not None and not rules:
        raise NotFound("there is no [[retention]] rule with that name")

    def read() -> dict[str, Any]:
        due = upkeep.due(request.engine.archive, rules) if request.scope(Action.QUERY) is FULL else iter(())
        return page("due", due, limit, offset)

    due = await request.engine.pools.slow.run(read)
    return answer({"rules": [msgspec.to_builtins(rule) for rule in rules], **due})


async def scrub(request: Request) -> web.Response:
    """The progress of the scrub, and the damage that it found."""
    check_parameters(request)
    work = partial(upkeep.scrub_status, request.engine.archive, request.config.scrub)
    return answer(await request.engine.pools.slow.run(work))


async def damage(request: Request) -> web.Response:
    """Damaged instances, and lost ones that are not acknowledged."""
    check_parameters(request, ("limit", "offset"))
    limit, offset = page_of(request)

    def read() -> dict[str, Any]:
        rows = upkeep.damage(request.engine.archive) if request.scope(Action.QUERY) is FULL else []
        return page("damage", rows, limit, offset)

    return answer(await request.engine.pools.index.run(read))


async def backups(request: Request) -> web.Response:
    """The backups, with the age and the last verification of each."""
    check_parameters(request)
    rows = await request.engine.pools.slow.run(request.engine.archive.backup_states)
    return answer({"backups": rows})
