"""/api/security: how safe the configuration in force is, as `filmroom doctor --security` says it.

{"findings": [{"subject": "security", "verdict": "warning", "what": "…", "advice": "…"}, …]}
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.web.api.json_bodies import answer, check_parameters

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def findings(request: Request) -> web.Response:
    """All findings, good and bad."""
    check_parameters(request)
    return answer({"findings": await request.engine.pools.slow.run(request.host_front.security_findings)})
