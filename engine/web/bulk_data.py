"""WADO-RS: bulk data and pixel data (PS3.18 10.4.1.3, 10.4.1.7), with ranges.

    …/bulkdata/7FE00010                    Pixel Data, the same as …/pixeldata
    …/bulkdata/54000100/1/54001010         an element in item 1 of a sequence, as in BulkDataURIs of the metadata
    …/pixeldata                            of an instance, a series or a study

Native pixels are one stream in little endian; compressed ones are a part for each frame; video is one stream in which a
player may seek.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from engine.dicom import tags, transfer_syntax
from engine.dicom.content import Contents, Element
from engine.dicom.frames import ByteSwapped, is_video
from engine.dicom.sources import Inflated, Source
from engine.dicom.sources import Part as SourcePart
from engine.errors import NotAcceptable
from engine.web.accept import Choice, Offer
from engine.web.content import Part, Ranges
from engine.web.errors import NotFound
from engine.web.forms import EXPLICIT, IMAGE_TYPES, OCTET_STREAM, choices_of, frame_syntax, with_syntax
from engine.web.sending import IMMUTABLE, send, send_stream
from engine.web.stored import identity_of, instance_of, instances_of, pinned, url_of
from engine.web.wado_frames import first_form, frame_part

if TYPE_CHECKING:
    from aiohttp import web

    from engine.archive.retrieve import Instance, StoredInstance
    from engine.web.request import Request

PIXEL_TAGS: Final = frozenset((tags.PixelData, tags.FloatPixelData, tags.DoubleFloatPixelData))

_VIDEO_TYPES: Final = ("video/mpeg", "video/mp4", "video/H265")
_OFFERS: Final = (
    Offer(OCTET_STREAM, True),
    *(Offer(name, True) for name in (*IMAGE_TYPES, *_VIDEO_TYPES)),
    Offer(OCTET_STREAM),
    *(Offer(name) for name in (*IMAGE_TYPES, *_VIDEO_TYPES)),
)
_PDF: Final = "application/pdf"
_VALUE_OFFERS: Final = (Offer(OCTET_STREAM, True), Offer(OCTET_STREAM))
_TAG: Final = re.compile(r"[0-9A-Fa-f]{8}")


async def bulk_data(request: Request) -> web.StreamResponse:
    """Sends the value of one element of an instance."""
    instance = instance_of(request)
    path = _path(request)
    if len(path) == 1 and path[0] in PIXEL_TAGS:
        return await pixels_of(request, [instance], choices_of(request, _OFFERS))
    with pinned(request, [instance]):
        stored = request.engine.archive.retrieval.open(instance)
        value, document_type = await request.engine.pools.reads.run(lambda: value_of(stored, path))
        offers = (*_VALUE_OFFERS, Offer(_PDF)) if document_type == _PDF else _VALUE_OFFERS
        choice = choices_of(request, offers)[0]
        name = "/".join(f"{number:08X}" if at % 2 == 0 else str(number) for at, number in enumerate(path))
        content_type = choice.offer.media_type
        part = Part(
            Ranges(request.engine.pools.reads, value), content_type, f"{url_of(request, instance)}/bulkdata/{name}"
        )
        etag = f'"{identity_of(instance)}-{name}-{choice.offer.is_multipart:d}"'
        return await send(request, [part], etag, media_type=content_type if choice.offer.is_multipart else "")


async def pixel_data(request: Request) -> web.StreamResponse:
    """Sends the pixels of an instance, or of all instances of a series or study."""
    choices = choices_of(request, _OFFERS)
    instances = [instance_of(request)] if "instance" in request.path_values else await instances_of(request)
    return await pixels_of(request, instances, choices)


async def pixels_of(request: Request, found: Sequence[Instance], choices: Sequence[Choice]) -> web.StreamResponse:
    """Sends the pixels of these instances. Raises NotAcceptable when no requested form can hold them."""
    having = [each for each in found if each.pixel_data_offset >= 0]
    if not having:
        raise NotFound("there is no pixel data")
    with pinned(request, having):
        if len(having) == 1:
            whole = await _one_stream(request, having[0], choices)
            if whole is not None:
                return whole
        choice = next((each for each in choices if each.offer.is_multipart), None)
        if choice is None:
            raise NotAcceptable("several frames are several parts: request multipart/related")
        forms = {each.transfer_syntax_uid: _form(choices, each.transfer_syntax_uid) for each in having}
        named = "".join([f"{identity_of(each)} {forms[each.transfer_syntax_uid][1]}\n" for each in having])
        etag = f'"{blake2b(named.encode(), digest_size=16).hexdigest()}-{choice.offer.media_type}"'
        parts = _frames_of(request, having, forms)
        return await send_stream(request, parts, etag, choice.offer.media_type, cache=IMMUTABLE)


def _form(choices: Sequence[Choice], stored_uid: str) -> tuple[Choice, str]:
    return first_form([choice for choice in choices if choice.offer.is_multipart], stored_uid)


async def _one_stream(request: Request, found: Instance, choices: Sequence[Choice]) -> web.StreamResponse | None:
    """Sends native pixels or video as one stream; returns None for other pixels."""
    stored, choice = request.engine.archive.retrieval.open(found), choices[0]
    syntax = stored.syntax
    if not syntax.convertible and not is_video(syntax.uid):
        return None
    media_type = choice.offer.media_type
    if is_video(syntax.uid):
        if media_type in IMAGE_TYPES or choice.transfer_syntax not in ("", "*", syntax.uid):
            raise NotAcceptable(f"it is video, {syntax.name}")
        syntax_uid = syntax.uid
    elif frame_syntax(syntax.uid, media_type, choice.transfer_syntax) != EXPLICIT:
        return None
    else:
        syntax_uid = EXPLICIT
    source = await request.engine.pools.reads.run(stored.pixels)
    part = Part(
        Ranges(request.engine.pools.reads, source),
        with_syntax(media_type, syntax_uid),
        f"{url_of(request, found)}/pixeldata",
    )
    etag = f'"{identity_of(found)}-pixels-{choice.offer.is_multipart:d}"'
    return await send(request, [part], etag, media_type=media_type if choice.offer.is_multipart else "")


async def _frames_of(
    request: Request, having: Sequence[Instance], forms: dict[str, tuple[Choice, str]]
) -> AsyncIterator[Part]:
    for each in having:
        stored = request.engine.archive.retrieval.open(each)
        choice, syntax_uid = forms[each.transfer_syntax_uid]
        table = await request.engine.pools.reads.run(stored.frames)
        for number in range(1, table.count + 1):
            yield await frame_part(request, stored, number, choice, syntax_uid)


# One element -------------------------------------------------------------------------------------


def _path(request: Request) -> list[int]:
    """The tag, then an item number and a tag for each level below. Raises NotFound."""
    texts = [
        request.path_values[name] for name in ("tag", "item", "tag2", "item2", "tag3") if name in request.path_values
    ]
    path = []
    for at, text in enumerate(texts):
        if at % 2 == 0 and _TAG.fullmatch(text):
            path.append(int(text, 16))
        elif at % 2 and text.isascii() and text.isdigit() and len(text) < 10:
            path.append(int(text))
        else:
            raise NotFound("the path of bulk data has tags of 8 hexadecimal digits, with item numbers between them")
    return path


def value_of(stored: StoredInstance, path: Sequence[int]) -> tuple[Source, str]:
    """An element's value in little endian, and the media type of a document in it. Raises NotFound, DataSetError."""
    syntax, source = stored.syntax, stored if not stored.syntax.deflated else Inflated(stored)
    if syntax.deflated:
        syntax = transfer_syntax.EXPLICIT_VR_LITTLE_ENDIAN
    end = stored.instance.pixel_data_offset
    contents = Contents(source if end < 0 else SourcePart(source, 0, end), syntax)
    level = contents.root()[0]
    element = _of_tag(level, path[0])
    for item_number, tag in zip(path[1::2], path[2::2], strict=True):
        if not element.has_items or item_number < 1:
            raise NotFound("there is no such item")
        items = (each for number, each in enumerate(contents.items(element), 1) if number == item_number)
        item = next(items, None)
        if item is None:
            raise NotFound("there is no such item")
        element = _of_tag(item, tag)
    if element.has_items or element.is_open:
        raise NotFound("it is a sequence, not bulk data")
    document_type = ""
    if path[0] == tags.EncapsulatedDocument:
        kind = next((each for each in level if each.tag == tags.MIMETypeOfEncapsulatedDocument), None)
        document_type = contents.value(kind).decode("ascii", "replace").strip(" \0").lower() if kind is not None else ""
    value: Source = SourcePart(source, element.offset, element.offset + element.length)
    return (ByteSwapped(value, element.number_bytes) if element.number_bytes > 1 else value), document_type


def _of_tag(level: Sequence[Element], tag: int) -> Element:
    elements = [each for each in level if each.tag == tag]
    if not elements:
        raise NotFound(f"there is no element {tag:08X}")
    return elements[-1]
