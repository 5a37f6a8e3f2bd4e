"""WADO-URI: one instance by query parameters, the older form of WADO (PS3.18 9).

    requestType=WADO & studyUID & seriesUID & objectUID      all required
    contentType     application/dicom, or a rendered type; without it an image is a JPEG, a report a page
    transferSyntax  of application/dicom; without it Explicit VR Little Endian
    presentationUID & presentationSeriesUID     a presentation state of the study, as which the image is shown; it has a
                    window and a region of its own

`anonymize=yes` is refused: the instance would need a new SOP Instance UID and a de-identification profile, which we do
not have.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from engine.access import ARCHIVE, Action
from engine.archive.rendering.options import GIF, JPEG, PNG
from engine.errors import NotAcceptable, RequestError
from engine.web import picture_parameters, rendered
from engine.web.accept import ANY, Offer, negotiate
from engine.web.forms import DICOM, EXPLICIT, instance_syntax
from engine.web.instances import check_codecs, file_part
from engine.web.presentation import presented_image
from engine.web.route import Parameter, Route
from engine.web.sending import send
from engine.web.stored import UID_CHARACTERS_MAX, identity_of, named_instance, pinned

if TYPE_CHECKING:
    from aiohttp import web

    from engine.archive.rendering.options import PictureOptions
    from engine.archive.retrieve import Instance, StoredInstance
    from engine.web.request import Request

_REQUIRED: Final = ("studyUID", "seriesUID", "objectUID")
_PRESENTATION: Final = ("presentationSeriesUID", "presentationUID")


async def wado(request: Request) -> web.StreamResponse:
    """Answers a request for an instance."""
    query = request.query
    if query.get("requestType") != "WADO":
        raise RequestError("requestType: must be WADO")
    uids = [query.get(name, "") for name in _REQUIRED]
    for name, uid in zip(_REQUIRED, uids, strict=True):
        if not 0 < len(uid) <= UID_CHARACTERS_MAX or not uid.isascii() or not uid.isprintable():
            raise RequestError(f"{name}: must be a UID")
    if query.get("anonymize", "no") != "no":
        raise NotAcceptable("anonymize: this server does not de-identify")
    instance = named_instance(request, *uids)
    offers = (*rendered.offers_for(instance), Offer(DICOM))
    accept = query.get("contentType") or request.headers.get("Accept")
    media_type = negotiate(offers, accept)[0].offer.media_type
    if media_type not in (JPEG, PNG, GIF) and "presentationUID" in query:
        raise RequestError("presentationUID: only for a picture")
    if media_type == DICOM:
        return await _file(request, instance, query.get("transferSyntax", EXPLICIT))
    if "transferSyntax" in query:
        raise RequestError("transferSyntax: only for application/dicom")
    if media_type in (JPEG, PNG, GIF):
        options, upper = await _presented(request, instance, picture_parameters.wado_uri(query, media_type))
        return await rendered.send_picture(request, instance, options, upper=upper)
    tag = rendered.entity_tag(instance, media_type, "", None)
    return await rendered.send_rendered(request, instance, media_type, tag)


async def _presented(
    request: Request, image: Instance, options: PictureOptions
) -> tuple[PictureOptions, StoredInstance | None]:
    """The options with those of the presentation state that the request names (PS3.18 9.1.2.2.1), and the image that
    the state lays over the image. Raises NotFound."""
    query = request.query
    uids = [query.get(name, "") for name in _PRESENTATION]
    if not any(uids):
        return options, None
    if not all(uids):
        raise RequestError("presentationUID and presentationSeriesUID: both are required together")
    for name in ("windowCenter", "region"):
        if name in query:
            raise RequestError(f"{name}: a presentation state has its own")
    state = named_instance(request, image.study_instance_uid, *uids)
    shown = await presented_image(request, state, image)
    return replace(options, presentation=shown.presentation, frame=options.frame or shown.frame), shown.upper


async def _file(request: Request, instance: Instance, requested_uid: str) -> web.StreamResponse:
    request.authentication.check_files(request)
    syntax_uid = None if requested_uid == ANY else instance_syntax(instance.transfer_syntax_uid, requested_uid)
    if syntax_uid is None:
        raise NotAcceptable("transferSyntax: the instance cannot be sent in it")
    if syntax_uid != instance.transfer_syntax_uid:
        check_codecs(request)
    with pinned(request, [instance]):
        part = await file_part(request, instance, syntax_uid)
        return await send(request, [part], f'"{identity_of(instance)}-{syntax_uid}"')


ROUTES: Final = (
    Route(
        "GET",
        "/wado",
        wado,
        "One instance by WADO-URI (PS3.18 9)",
        Action.RETRIEVE,
        parameters=(
            Parameter("requestType", "WADO", is_required=True, options=("WADO",)),
            *(Parameter(name, "Of the instance", is_required=True) for name in _REQUIRED),
            Parameter("contentType", "Media types that the answer may have"),
            Parameter("transferSyntax", "Of application/dicom"),
            Parameter("frameNumber", "From 1", schema="integer"),
            Parameter("rows", "Pixels that the picture's height fits into", schema="integer"),
            Parameter("columns", "Pixels that the picture's width fits into", schema="integer"),
            Parameter("region", "Left, top, right, bottom, from 0 to 1"),
            Parameter("windowCenter", "With windowWidth", schema="number"),
            Parameter("windowWidth", "With windowCenter", schema="number"),
            Parameter("imageQuality", "Of JPEG, from 1 to 100", schema="integer"),
            Parameter("annotation", "patient, technique, or both"),
            *(Parameter(name, "Of a presentation state, instead of a window and a region") for name in _PRESENTATION),
        ),
        produces=(DICOM, JPEG, PNG, GIF, *(offer.media_type for offer in rendered.REPORT_OFFERS)),
        statuses=(200, 206, 304),
        errors=(404, 406, 410, 416),
        tag="WADO-URI",
        target=ARCHIVE,
    ),
)
