"""STOW-RS: instances in the body of a request (PS3.18 10.5).

    multipart/related      parts of application/dicom, in any number and of any size,
                           or metadata and bulk data (`stow_model`)
    application/dicom      one file, which is not in PS3.18 but used by clients

Each instance is stored when it has arrived, whatever follows it; the response is sent when all are stored (`upload`,
`stow_response`). A part without a Content-Type has the type that the multipart header names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.access import Action
from engine.errors import ArchiveReadOnly, DataSetError, MultipartError, RequestError
from engine.web.accept import MULTIPART, MediaType, parse_media_type
from engine.web.errors import UnsupportedMediaType
from engine.web.forms import DICOM, OCTET_STREAM, choices_of
from engine.web.multipart import Event, PartBegin, PartEnd, Reader, boundary_in
from engine.web.route import DICOMWEB, Parameter, Route
from engine.web.stored import root_of, uid_of
from engine.web.stow_model import METADATA_TYPES, Models
from engine.web.stow_response import JSON_TYPE, OFFERS, XML_TYPE, Reason, StoreResponse
from engine.web.upload import Uploads

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def store(request: Request) -> web.StreamResponse:
    """Stores the instances of the body."""
    media_type = choices_of(request, OFFERS)[0].offer.media_type
    study = uid_of(request, "study") if "study" in request.path_values else None
    if request.engine.archive.is_read_only:
        raise ArchiveReadOnly("this archive is read-only")
    content_type = parse_media_type(request.headers.get("Content-Type", ""))
    response = StoreResponse(root_of(request), study)
    uploads = Uploads(request.engine, request.principal, response, study)
    body: _Body | None = None
    try:
        if content_type is not None and content_type.name == MULTIPART:
            body = _Body(request, boundary_in(content_type))
            await _store_parts(request, content_type, body, uploads, response)
        elif content_type is not None and content_type.name == DICOM:
            body = _Body(request, "")
            await _store_one(body, uploads)
        else:
            raise UnsupportedMediaType(f"the body must be {MULTIPART} or {DICOM}")
    finally:
        if body is not None:
            body.stop()
        uploads.abandon()
    await uploads.settle()
    return await response.send(request, media_type)


class _Body:
    """Reads the parts of a request's body."""

    def __init__(self, request: Request, boundary: str) -> None:
        """`boundary`: "" if the body is one file."""
        self._request = request
        self._has_ended = False
        direct = request.direct_body
        if direct is not None and direct.reader is not None:
            self._reader = direct.reader  # `quick_stores` has begun
            return
        self._reader = Reader(boundary, request.blocks)
        if direct is not None:
            direct.begin(self._reader)

    @property
    def part_count(self) -> int:
        """Parts that have begun."""
        return self._reader.part_count

    async def next(self) -> list[Event]:
        """The events since the last call; empty: the body has ended. Raises MultipartError."""
        if self._has_ended:
            return []
        if events := await self._receive():
            return events
        self._has_ended = True
        return self._reader.finish()

    async def _receive(self) -> list[Event]:
        direct, content = self._request.direct_body, self._request.content
        if direct is not None:
            return await direct.events()
        events: list[Event] = []
        while not events and (chunk := await content.readany()):
            events = self._reader.feed(chunk)
        return events

    def stop(self) -> None:
        """Ends reading: the rest of the body is dropped."""
        if self._request.direct_body is not None:
            self._request.direct_body.drop()
        self._reader.stop()


async def _store_one(body: _Body, uploads: Uploads) -> None:
    """The body is one file."""
    while events := await body.next():
        for event in events:
            if isinstance(event, PartBegin):
                uploads.begin()
            elif isinstance(event, PartEnd):
                await uploads.end()
            else:
                await uploads.add(*event)


async def _store_parts(
    request: Request, content_type: MediaType, body: _Body, uploads: Uploads, response: StoreResponse
) -> None:
    """Each part is a file, or metadata, or bulk data. Raises RequestError if an invalid body has no instance."""
    default_type = parse_media_type(content_type.parameter("type"))
    models: Models | None = None
    sink: Uploads | Models | None = None
    try:
        while events := await body.next():
            for event in events:
                if isinstance(event, PartBegin):
                    part_type = event.content_type or default_type
                    if part_type is None or is_file(part_type, default_type, has_models=models is not None):
                        uploads.begin()
                        sink = uploads
                    elif models is not None or part_type.name in METADATA_TYPES:
                        sink = models = models or Models(request.engine)
                        models.begin(part_type, event.content_location)
                    else:
                        sink = None
                        response.unsupported()
                elif sink is None:
                    continue
                elif isinstance(event, PartEnd):
                    await sink.end()
                else:
                    await sink.add(*event)
        if not body.part_count:
            raise MultipartError("the multipart body has no part")
        if models is not None:
            await models.store(uploads)
    except (RequestError, DataSetError) as error:
        await uploads.settle()
        if not response.stored_count and not response.failed_count:
            raise
        error.without_frames()
        response.failed("", "", Reason.CANNOT_UNDERSTAND)


def is_file(content_type: MediaType, default_type: MediaType | None, *, has_models: bool = False) -> bool:
    """Whether a part is a DICOM file; application/octet-stream counts if the multipart header allows files."""
    if content_type.name == DICOM:
        return True
    return content_type.name == OCTET_STREAM and not has_models and (default_type is None or default_type.name == DICOM)


_CONSUMES: Final = (*(f'{MULTIPART}; type="{name}"' for name in (DICOM, JSON_TYPE, XML_TYPE)), DICOM)
_PRODUCES: Final = tuple(map(str, OFFERS))
_STATUSES: Final = (200, 202, 409, 415, 503)


def _row(path: str, summary: str) -> Route:
    return Route(
        "POST",
        path,
        store,
        summary,
        Action.STORE,
        parameters=(Parameter("accept", "Media types that the answer may have, instead of the header Accept"),),
        consumes=_CONSUMES,
        produces=_PRODUCES,
        statuses=_STATUSES,
        errors=(404, 406),
        tag="STOW-RS",
        schema="DataSet",
        takes_body=True,
    )


ROUTES: Final = (
    _row(f"{DICOMWEB}/studies", "Store instances"),
    _row(f"{DICOMWEB}/studies/{{study}}", "Store instances of one study"),
)
"""The rows of the route table."""
