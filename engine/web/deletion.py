"""DELETE of a study, a series or an instance. PS3.18 does not have it; other servers have the same paths and statuses.

204   deleted for every process. With trash_days it is in the trash, and Filmroom-Trash names the entry; without, it is
      final, and compaction frees the space later
404   there is no such study, series or instance          410   it was deleted before
409   some of it is on legal hold, and nothing was deleted
412   If-Match has another entity tag than the same URL has for GET; with the right one, what it stands for is deleted
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.access import Action
from engine.archive.questions import Level, Query
from engine.dicom import tags
from engine.errors import ArchiveReadOnly
from engine.web.conditional import check_match
from engine.web.errors import Gone, NotFound
from engine.web.route import DICOMWEB, Parameter, Route
from engine.web.stored import instance_of, instances_of, missing, uid_of
from engine.web.wado import entity_tags

if TYPE_CHECKING:
    from engine.web.request import Request

_REASON: Final = "deleted over HTTP"
"""The recorded reason if the client gives none."""

TRASH_ENTRY: Final = "Filmroom-Trash"
"""The header with the number of the entry in the trash."""

_LEVELS: Final = (
    ("instance", Level.IMAGE, tags.SOPInstanceUID),
    ("series", Level.SERIES, tags.SeriesInstanceUID),
    ("study", Level.STUDY, tags.StudyInstanceUID),
)


async def delete(request: Request) -> web.StreamResponse:
    """Deletes the study, series or instance of the path."""
    archive = request.engine.archive
    if archive.is_read_only:
        raise ArchiveReadOnly("this archive is read-only")
    uids = [(level, tag, uid_of(request, name)) for name, level, tag in _LEVELS if name in request.path_values]
    level, _, uid = uids[0]
    query = Query(level, {tag: uid.encode() for _, tag, uid in uids})
    reason = request.query.get("reason", "") or _REASON

    view = request.view(Action.DELETE)
    into_trash = request.config.deletion.trash_days > 0
    among = await _matching(request) if "If-Match" in request.headers else None

    def work() -> tuple[int, list[str]]:
        deletion = archive.delete(
            query, scope=view.scope, actor=request.principal, reason=reason, into_trash=into_trash, among=among
        )
        return deletion.instances, deletion.trash

    instances, entries = await request.engine.pools.slow.run(work)
    if not instances:
        if level is Level.IMAGE and view.was_deleted(uid):
            raise Gone(f"instance {uid} was deleted")
        if level is not Level.IMAGE:
            raise missing(request, uid_of(request, "study"), uid if level is Level.SERIES else None)
        raise NotFound("there is no such instance")
    headers = {TRASH_ENTRY: ", ".join(entries)} if entries else None
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=headers)


async def _matching(request: Request) -> frozenset[bytes]:
    """The SOP Instance UIDs that the entity tag of If-Match stands for. Raises PreconditionFailed, NotFound, Gone."""
    is_one = "instance" in request.path_values
    instances = [instance_of(request)] if is_one else await instances_of(request)
    check_match(request.headers, entity_tags(request, instances, is_one=is_one))
    return frozenset(each.sop_instance_uid.encode() for each in instances)


def _row(path: str, name: str) -> Route:
    return Route(
        "DELETE",
        f"{DICOMWEB}/studies/{{study}}{path}",
        delete,
        f"Delete {name}",
        Action.DELETE,
        parameters=(Parameter("reason", "The reason, which is recorded with the client's address"),),
        produces=(),
        statuses=(204,),
        errors=(404, 409, 410, 412),
        tag="deletion",
    )


ROUTES: Final = (
    _row("", "a study"),
    _row("/series/{series}", "a series"),
    _row("/series/{series}/instances/{instance}", "an instance"),
)
"""The rows of the route table."""
