"""/api/download: studies, series and instances of any choice in one zip archive with a DICOMDIR.

    /api/download?studies=UID,UID&series=UID&instances=UID

At least one of them; each instance is in the archive once. One study or series has its own resource in DICOMweb.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.access import Action
from engine.archive.questions import Level, Query
from engine.dicom import tags
from engine.errors import RequestError
from engine.runtime.audit_trail import Act, Contents
from engine.web.api.json_bodies import check_parameters
from engine.web.errors import NotFound, TooLarge
from engine.web.route import Parameter
from engine.web.stored import INSTANCES_MAX
from engine.web.zip_archive import send_zip

if TYPE_CHECKING:
    from aiohttp import web

    from engine.archive.retrieve import Instance
    from engine.web.request import Request

UIDS_MAX: Final = 1000
_LEVELS: Final = {
    "studies": (Level.STUDY, tags.StudyInstanceUID),
    "series": (Level.SERIES, tags.SeriesInstanceUID),
    "instances": (Level.IMAGE, tags.SOPInstanceUID),
}
PARAMETERS: Final = tuple(Parameter(name, "UIDs, separated by commas") for name in _LEVELS)


async def download(request: Request) -> web.StreamResponse:
    """Sends the archive. Raises RequestError, NotFound, TooLarge."""
    check_parameters(request, tuple(_LEVELS))
    queries = list(_queries(request))
    view = request.view(Action.RETRIEVE)

    def read() -> list[Instance]:
        by_uid: dict[str, Instance] = {}
        for query in queries:
            with view.select(query) as selection:
                while selection.gather():
                    if len(selection) + len(by_uid) > INSTANCES_MAX:
                        raise TooLarge(f"more than {INSTANCES_MAX} instances: download fewer at once")
                for batch in selection.batches():
                    by_uid.update((instance.sop_instance_uid, instance) for instance in batch)
        return list(by_uid.values())

    instances = await request.engine.pools.index.run(read)
    if not instances:
        raise NotFound("nothing of this is stored")
    contents = Contents()
    contents.add(instances)
    await request.engine.audit_trail.exporting(Act(request.principal, "download"), contents)
    return await send_zip(request, instances, name="studies")


def _queries(request: Request) -> list[Query]:
    """Raises RequestError."""
    queries = []
    for name, (level, tag) in _LEVELS.items():
        uids = [uid for uid in request.query.get(name, "").split(",") if uid]
        if len(uids) > UIDS_MAX:
            raise RequestError(f"{name}: at most {UIDS_MAX} UIDs")
        if any(not uid.isprintable() or any(character in uid for character in "*?\\ ") for uid in uids):
            raise RequestError(f"{name}: has something that is not a UID")
        if uids:
            queries.append(Query(level, {tag: "\\".join(uids).encode()}, relational=True))
    if not queries:
        raise RequestError("name what to download: studies, series or instances")
    return queries
