"""A study or a series as a zip archive with a DICOMDIR, streamed: for a disk that a patient or a colleague gets.

Not part of PS3.18; dcm4chee offers it under the same media type.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.archive.interchange.zip_stream import zip_pieces
from engine.web.content import PieceStream
from engine.web.sending import MUTABLE, VARY
from engine.web.stored import check_reachable, instances_of, pinned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from engine.archive.retrieve import Instance
    from engine.web.request import Request

ZIP: Final = "application/zip"

_NOT_IN_NAMES: Final = re.compile(r"[^0-9A-Za-z.-]")


async def zipped(request: Request) -> web.StreamResponse:
    """Sends a study or a series."""
    return await send_zip(request, await instances_of(request))


async def send_zip(request: Request, instances: Sequence[Instance], name: str = "") -> web.StreamResponse:
    """Sends these instances. `name` of the file; "": the UID, without characters that could form a path."""
    first = instances[0]
    name = name or (first.series_instance_uid if "series" in request.path_values else first.study_instance_uid)
    headers = {
        "Content-Type": ZIP,
        "Content-Disposition": f'attachment; filename="{_NOT_IN_NAMES.sub("_", name).strip(".")}.zip"',
        "Cache-Control": MUTABLE,
        "Vary": VARY,
    }
    response = web.StreamResponse(status=HTTPStatus.OK, headers=headers)
    if request.is_head:
        await response.prepare(request)
        await response.write_eof()
        return response
    with pinned(request, instances):
        await check_reachable(request, instances)
        content = PieceStream(request.engine.pools.reads, zip_pieces(request.engine.archive, instances))
        response.enable_chunked_encoding()
        await response.prepare(request)
        async for chunk in content.chunks(0, None):
            await response.write(chunk)  # type: ignore[arg-type]
    await response.write_eof()
    return response
