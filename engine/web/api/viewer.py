"""/api/viewer: whether the viewer OHIF is installed, and which one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from engine.web.api.json_bodies import answer, check_parameters
from engine.web.viewer_files import current

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def state(request: Request) -> web.Response:
    """What is installed; without an installation only that there is none."""
    check_parameters(request)
    directory = request.config.http.viewer_directory
    present = await request.engine.pools.reads.run(partial(current, directory))
    if present is None:
        return answer({"is_installed": False})
    manifest = present.manifest
    return answer(
        {
            "is_installed": True,
            "name": manifest.name,
            "version": manifest.version,
            "is_minified": manifest.is_minified,
            "is_current": manifest.is_current,
        }
    )
