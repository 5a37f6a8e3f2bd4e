"""STOW-RS: instances in the body of a request (PS3.18 10.5).

    multipart/related      parts of application/dicom, in any number and of any size
    application/dicom      one file, which PS3.18 leaves out and clients send

Instances are stored as they come, whatever follows them; the answer is sent when all of them are (see `upload`, and
`stow_response` for what it says). A part without a Content-Type is of the type that the whole names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.access import Action
from engine.errors import ArchiveReadOnly, MultipartError
from engine.web.accept import MULTIPART, MediaType, parse_media_type
from engine.web.errors import UnsupportedMediaType
from engine.web.forms import DICOM, OCTET_STREAM, choices_of
from engine.web.multipart import PartBegin, PartEnd, Reader, boundary_in
from engine.web.route import DICOMWEB, Parameter, Route
from engine.web.stored import root_of, uid_of
from engine.web.stow_response import OFFERS, Reason, StoreResponse
from engine.web.upload import Uploads

if TYPE_CHECKING:
    from aiohttp import web

    from engine.web.request import Request


async def store(request: Request) -> web.StreamResponse:
    """Stores what the body holds."""
    media_type = choices_of(request, OFFERS)[0].offer.media_type
    study = uid_of(request, "study") if "study" in request.path_values else None
    if request.engine.archive.is_read_only:
        raise ArchiveReadOnly("this archive takes nothing in")
    content_type = parse_media_type(request.headers.get("Content-Type", ""))
    response = StoreResponse(root_of(request), study)
    uploads = Uploads(request.engine, request.principal, response, study)
    try:
        if content_type is not None and content_type.name == MULTIPART:
            await _store_parts(request, content_type, uploads, response)
        elif content_type is not None and content_type.name == DICOM:
            await _store_one(request, uploads)
        else:
            raise UnsupportedMediaType(f"the body must be {MULTIPART} or {DICOM}")
    finally:
        uploads.abandon()
    await uploads.settle()
    return response.answer(media_type)


async def _store_one(request: Request, uploads: Uploads) -> None:
    """The body is one file."""
    uploads.begin()
    async for chunk in request.content.iter_any():
        await uploads.add(chunk)
    await uploads.end()


async def _store_parts(request: Request, content_type: MediaType, uploads: Uploads, response: StoreResponse) -> None:
    """Each part is one. Raises MultipartError when there was none before the body turned out to be wrong."""
    reader = Reader(boundary_in(content_type))
    usual = parse_media_type(content_type.parameter("type"))
    is_taken = False
    try:
        async for chunk in request.content.iter_any():
            for event in reader.feed(chunk):
                if isinstance(event, PartBegin):
                    is_taken = _is_file(event.content_type or usual, usual)
                    if is_taken:
                        uploads.begin()
                    else:
                        response.unsupported()
                elif not is_taken:
                    continue
                elif isinstance(event, PartEnd):
                    await uploads.end()
                else:
                    await uploads.add(event)
        reader.finish()
        if not reader.part_count:
            raise MultipartError("the multipart body has no part")
    except MultipartError:
        await uploads.settle()
        if not response.stored_count and not response.failed_count:
            raise
        response.failed("", "", Reason.CANNOT_UNDERSTAND)


def _is_file(content_type: MediaType | None, usual: MediaType | None) -> bool:
    """Whether a part is a DICOM file; bytes of no type are where the whole is of such."""
    if content_type is None or content_type.name == DICOM:
        return True
    return content_type.name == OCTET_STREAM and (usual is None or usual.name == DICOM)


_CONSUMES: Final = (f'{MULTIPART}; type="{DICOM}"', DICOM)
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
    )


ROUTES: Final = (
    _row(f"{DICOMWEB}/studies", "Store instances"),
    _row(f"{DICOMWEB}/studies/{{study}}", "Store instances of one study"),
)
"""The rows of the route table."""
