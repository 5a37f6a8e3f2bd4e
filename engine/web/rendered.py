"""Rendered resources and thumbnails, for clients that do not know DICOM (PS3.18 10.4.1.1.3, 10.4.1.1.4, 8.3.5).

    an image           JPEG, PNG, GIF, MP4; of several frames GIF and MP4 are animated, others show the middle frame
    a presentation     the first of its images that is here, as the state shows it (`web.presentation`)
    a report           HTML, text
    a document         the encapsulated PDF, CDA or model
    a video            the stored stream, in which a player may seek; JPEG and PNG show one of its pictures

One instance represents a study or a series (`archive.rendering.representative`), since every viewer expects a single
picture. Who accepts multipart/related gets one of each frame of each image, as the standard has it (`web.pictures`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from aiohttp import web

from engine.access import ARCHIVE, Action
from engine.archive.rendering import report
from engine.archive.rendering.options import ANIMATED, GIF, JPEG, MP4, PNG, PictureOptions
from engine.archive.rendering.representative import representative
from engine.dicom import frames, tags
from engine.dicom.sources import Part as SourcePart
from engine.errors import NotAcceptable, RequestError, TranscodeError
from engine.web import picture_parameters
from engine.web.accept import MULTIPART, Offer, negotiate
from engine.web.bulk_data import value_of
from engine.web.conditional import is_unchanged
from engine.web.content import Part, Ranges
from engine.web.errors import NotFound
from engine.web.pictures import picture, send_pictures
from engine.web.presentation import PRESENTATION_STATES, presented_image
from engine.web.route import DICOMWEB, Handler, Parameter, Route
from engine.web.sending import send
from engine.web.stored import identity_of, instance_of, instances_of, pinned

if TYPE_CHECKING:
    from engine.archive.retrieve import Instance, StoredInstance
    from engine.dicom.sources import Source
    from engine.web.request import Request

IMAGE_OFFERS: Final = (Offer(JPEG), Offer(PNG), Offer(GIF), Offer(MP4))
PARTS_OFFERS: Final = (Offer(JPEG, True), Offer(PNG, True))
"""Of several frames or images: one a part."""
REPORT_OFFERS: Final = (Offer(report.HTML), Offer(report.PLAIN))

DOCUMENTS: Final = {
    "1.2.840.10008.5.1.4.1.1.104.1": "application/pdf",
    "1.2.840.10008.5.1.4.1.1.104.2": "text/xml",
    "1.2.840.10008.5.1.4.1.1.104.3": "model/stl",
    "1.2.840.10008.5.1.4.1.1.104.4": "model/obj",
    "1.2.840.10008.5.1.4.1.1.104.5": "model/mtl",
}
"""Encapsulated documents by SOP class."""
REPORTS: Final = "1.2.840.10008.5.1.4.1.1.88."
_MPEG2: Final = ("1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.101")
_HEVC: Final = ("1.2.840.10008.1.2.4.107", "1.2.840.10008.1.2.4.108")
STILL_OFFERS: Final = (Offer(JPEG), Offer(PNG))
"""Of a video."""

CACHE: Final = "private, max-age=86400"
REVALIDATED: Final = "private, no-cache"

FRAMES_MAX: Final = 1000
"""Frames in one request: each is drawn."""
_NUMBER: Final = re.compile(r"0{0,8}[1-9][0-9]{0,8}", re.ASCII)

_PARAMETERS: Final = (
    Parameter("accept", "Media type, instead of the header"),
    Parameter("window", "Center, width, and linear, linear-exact or sigmoid"),
    Parameter("viewport", "Width and height that the picture fits into, and left, top, width, height of a region"),
    Parameter("quality", "Of JPEG, from 1 to 100", schema="integer"),
    Parameter("annotation", "patient, technique, or both"),
    Parameter("iccprofile", "no, yes, srgb, adobergb or rommrgb"),
)
_THUMBNAIL_PARAMETERS: Final = (Parameter("viewport", "Width and height that the picture fits into"),)


async def rendered(request: Request) -> web.StreamResponse:
    """Sends a picture of a study, a series or an instance."""
    if "instance" in request.path_values:
        instance = instance_of(request)
        if instance.sop_class_uid.startswith(PRESENTATION_STATES):
            return await _presented(request, instance)
        return await _rendered(request, [instance], None, is_revalidated=False)
    return await _rendered(request, await instances_of(request), None, is_revalidated=True)


async def rendered_frames(request: Request) -> web.StreamResponse:
    """Sends a picture of one frame of an instance, or of several."""
    numbers = frame_numbers(request)
    instance = instance_of(request)
    if len(numbers) > 1:
        return await _rendered_list(request, instance, numbers)
    return await _rendered(request, [instance], numbers[0], is_revalidated=False)


def frame_numbers(request: Request) -> list[int]:
    """The frame numbers in the path, one or more. Raises RequestError."""
    texts = request.path_values["frames"].split(",")
    if len(texts) > FRAMES_MAX or not all(_NUMBER.fullmatch(text) for text in texts):
        raise RequestError(f"frames: must be numbers from 1, at most {FRAMES_MAX}")
    return [int(text) for text in texts]


def frame_number(request: Request) -> int:
    """The frame number in the path. Raises RequestError."""
    numbers = frame_numbers(request)
    if len(numbers) > 1:
        raise RequestError("frames: must be the number of one frame, from 1")
    return numbers[0]


async def _rendered(
    request: Request, instances: Sequence[Instance], frame: int | None, *, is_revalidated: bool
) -> web.StreamResponse:
    instance = representative(instances)
    offers = offers_for(instance)
    if not offers:
        raise NotAcceptable("instances of this kind cannot be rendered")
    is_image = offers is IMAGE_OFFERS
    accept = request.headers.get("Accept")
    choice = negotiate((*offers, *PARTS_OFFERS) if is_image else offers, accept, request.query.getall("accept", ()))[0]
    media_type = choice.offer.media_type
    cache = REVALIDATED if is_revalidated else CACHE
    if choice.offer.is_multipart:
        images = [each for each in instances if offers_for(each) is IMAGE_OFFERS]
        return await send_pictures(request, images, media_type, cache=cache, numbers=() if frame is None else (frame,))
    headers = {"Cache-Control": cache, "Vary": "Accept"}
    tag = entity_tag(instance, media_type, request.query_string, frame)
    if not is_image and not (is_video(instance) and choice.offer in STILL_OFFERS):
        return await send_rendered(request, instance, media_type, tag, headers)
    if (answer := not_modified(request, tag, headers)) is not None:
        return answer
    headers["ETag"] = tag
    options, warnings = picture_parameters.rendered(request.query, media_type, frame=frame)
    for warning in warnings:
        headers["Warning"] = f'299 {request.root} "{warning}"'
    return await send_picture(request, instance, options, headers)


async def _rendered_list(request: Request, instance: Instance, numbers: Sequence[int]) -> web.StreamResponse:
    """Several frames: a part for each, or an animation of them."""
    if offers_for(instance) is not IMAGE_OFFERS:
        raise NotAcceptable("the instance has no frames that can be rendered")
    offers = (*PARTS_OFFERS, *(offer for offer in IMAGE_OFFERS if offer.media_type in ANIMATED))
    choice = negotiate(offers, request.headers.get("Accept"), request.query.getall("accept", ()))[0]
    media_type = choice.offer.media_type
    if choice.offer.is_multipart:
        return await send_pictures(request, [instance], media_type, cache=CACHE, numbers=numbers)
    headers = {"Cache-Control": CACHE, "Vary": "Accept"}
    tag = entity_tag(instance, media_type, f"{request.query_string} {numbers}", None)
    if (answer := not_modified(request, tag, headers)) is not None:
        return answer
    options, warnings = picture_parameters.rendered(request.query, media_type, frame=None)
    for warning in warnings:
        headers["Warning"] = f'299 {request.root} "{warning}"'
    return await send_picture(request, instance, replace(options, frames=tuple(numbers)), {**headers, "ETag": tag})


async def _presented(request: Request, instance: Instance) -> web.StreamResponse:
    """The first image here that a presentation state is for, as the state shows it. Raises NotFound, NotAcceptable."""
    choice = negotiate(IMAGE_OFFERS, request.headers.get("Accept"), request.query.getall("accept", ()))[0]
    media_type = choice.offer.media_type
    shown = await presented_image(request, instance)
    image = shown.image
    if offers_for(image) is not IMAGE_OFFERS:
        raise NotAcceptable("the presentation state is for an instance that is not rendered as an image")
    headers = {"Cache-Control": REVALIDATED, "Vary": "Accept"}
    upper = "" if shown.upper is None else identity_of(shown.upper.instance)
    tag = entity_tag(image, media_type, f"{request.query_string} {identity_of(instance)} {upper}", shown.frame)
    if (answer := not_modified(request, tag, headers)) is not None:
        return answer
    options, warnings = picture_parameters.rendered(request.query, media_type, frame=shown.frame, is_presentation=True)
    for warning in warnings:
        headers["Warning"] = f'299 {request.root} "{warning}"'
    options = replace(options, presentation=shown.presentation)
    return await send_picture(request, image, options, {**headers, "ETag": tag}, shown.upper)


async def send_rendered(
    request: Request, instance: Instance, media_type: str, tag: str, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """The answer for what is no picture, in a media type. Raises TranscodeError, CorruptRecord, NotAcceptable."""
    stored = request.engine.archive.retrieval.open(instance)
    if media_type in report.MEDIA_TYPES and instance.sop_class_uid.startswith(REPORTS):
        headers = {**(headers or {}), "ETag": tag}
        if (answer := not_modified(request, tag, headers)) is not None:
            return answer
        body = await request.engine.renderer.report(stored, stored.syntax, media_type)
        return web.Response(body=body, headers={**headers, "Content-Type": f"{media_type}; charset=utf-8"})
    reads = request.engine.pools.reads
    with pinned(request, [instance]):
        source = await reads.run(lambda: stored.pixels() if instance.pixel_data_offset >= 0 else _document(stored))
        return await send(request, [Part(Ranges(reads, source), media_type)], tag, headers=headers)


async def send_picture(
    request: Request,
    instance: Instance,
    options: PictureOptions,
    headers: Mapping[str, str] | None = None,
    upper: StoredInstance | None = None,
) -> web.Response:
    """The answer with a picture. Raises NotFound, NotAcceptable."""
    body = await picture(request, instance, options, upper)
    return web.Response(body=body, headers={**(headers or {}), "Content-Type": options.media_type})


def offers_for(instance: Instance) -> tuple[Offer, ...]:
    """The forms in which an instance can be rendered, the default first; () if there is none."""
    if instance.sop_class_uid.startswith(REPORTS):
        return REPORT_OFFERS
    if instance.sop_class_uid in DOCUMENTS:
        return (Offer(DOCUMENTS[instance.sop_class_uid]),)
    if instance.pixel_data_offset < 0:
        return ()
    if is_video(instance):
        uid = instance.transfer_syntax_uid
        stored = "video/mpeg" if uid in _MPEG2 else "video/H265" if uid in _HEVC else "video/mp4"
        return Offer(stored), *STILL_OFFERS
    return IMAGE_OFFERS


def is_video(instance: Instance) -> bool:
    """Whether the pixels of an instance are a video."""
    return frames.is_video(instance.transfer_syntax_uid)


def _document(stored: StoredInstance) -> Source:
    """The encapsulated document, without the byte that pads it. Blocks. Raises NotAcceptable."""
    try:
        document, _ = value_of(stored, [tags.EncapsulatedDocument])
    except NotFound as error:
        raise NotAcceptable("the instance has no document") from error
    try:
        number, _ = value_of(stored, [tags.EncapsulatedDocumentLength])
        length = int.from_bytes(bytes(number.read(0, 4)), "little")
    except NotFound:
        length = 0
    if not max(document.length - 1, 1) <= length <= document.length:
        is_padded = document.length > 0 and bytes(document.read(document.length - 1, 1)) == b"\0"
        length = document.length - is_padded
    return SourcePart(document, 0, length)


def entity_tag(instance: Instance, media_type: str, query: str, frame: int | None) -> str:
    """The entity tag of a picture: depends on the stored instance and on the picture's options."""
    text = f"{instance.sop_instance_uid} {identity_of(instance)} {media_type} {query} {frame}"
    return f'"{hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()}"'


def not_modified(request: Request, tag: str, headers: dict[str, str]) -> web.Response | None:
    """The answer 304 if the client's copy is current; else None."""
    if is_unchanged(request.headers, tag):
        return web.Response(status=304, headers={**headers, "ETag": tag})
    return None


async def thumbnail(request: Request) -> web.StreamResponse:
    """Sends a small picture of a study, a series, an instance or a frame, too small to read a name in it."""
    choices = negotiate((Offer(JPEG), Offer(PNG)), request.headers.get("Accept"), request.query.getall("accept", ()))
    media_type = choices[0].offer.media_type
    frame = frame_number(request) if "frames" in request.path_values else None
    options = picture_parameters.thumbnail(request.query, media_type, frame=frame)
    if "instance" in request.path_values:
        instance = instance_of(request)
    else:
        instance = representative(await instances_of(request))
    headers = {"Cache-Control": REVALIDATED, "Content-Type": media_type, "Vary": "Accept"}
    tag = entity_tag(instance, media_type, request.query_string, frame)
    if (answer := not_modified(request, tag, headers)) is not None:
        return answer
    thumbnails = request.engine.thumbnails
    body = await request.engine.pools.reads.run(lambda: thumbnails.cached(instance, options))
    if body is None:
        try:
            body = picture = await thumbnails.draw(instance, options)
        except TranscodeError as error:
            status = NotFound if "there is no frame" in str(error) else NotAcceptable
            raise status(str(error)) from error
        await request.engine.pools.reads.run(lambda: thumbnails.cache(instance, picture, options))
    return web.Response(body=body, headers={**headers, "ETag": tag})


def _route(
    path: str, handler: Handler, summary: str, parameters: tuple[Parameter, ...], produces: tuple[str, ...]
) -> Route:
    return Route(
        "GET",
        path,
        handler,
        summary,
        Action.RETRIEVE,
        parameters,
        produces=produces,
        statuses=(200, 206, 304),
        errors=(404, 406, 410, 416),
        tag="WADO-RS",
        target=ARCHIVE,
    )


_STUDY: Final = f"{DICOMWEB}/studies/{{study}}"
_SERIES: Final = f"{_STUDY}/series/{{series}}"
_INSTANCE: Final = f"{_SERIES}/instances/{{instance}}"
_FRAME: Final = f"{_INSTANCE}/frames/{{frames}}"
_TYPES: Final = (
    *(offer.media_type for offer in (*IMAGE_OFFERS, *REPORT_OFFERS)),
    *DOCUMENTS.values(),
    "video/mpeg",
    "video/H265",
    *(f'{MULTIPART}; type="{offer.media_type}"' for offer in PARTS_OFFERS),
)
_LEVELS: Final = (
    (_STUDY, "study", rendered),
    (_SERIES, "series", rendered),
    (_INSTANCE, "instance", rendered),
    (_FRAME, "frame", rendered_frames),
)

ROUTES: Final = (
    *(
        _route(f"{path}/rendered", handler, f"A picture of a {name}", _PARAMETERS, _TYPES)
        for path, name, handler in _LEVELS
    ),
    *(
        _route(f"{path}/thumbnail", thumbnail, f"A small picture of a {name}", _THUMBNAIL_PARAMETERS, (JPEG, PNG))
        for path, name, _ in _LEVELS
    ),
)
