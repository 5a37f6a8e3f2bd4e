"""Pictures of stored instances: one, or a part for each of many (PS3.18 8.7.4, 10.4.1.1.3)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING

import msgspec

from engine.access import Action
from engine.dicom.sources import Concatenation, Inflated
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import NotAcceptable, TranscodeError
from engine.web import picture_parameters
from engine.web.content import Memory, Part
from engine.web.errors import NotFound
from engine.web.sending import send_stream
from engine.web.stored import identity_of, pinned, url_of

if TYPE_CHECKING:
    from aiohttp import web

    from engine.archive.rendering.options import PictureOptions
    from engine.archive.rendering.presentation_state import Presentation
    from engine.archive.retrieve import Instance, StoredInstance
    from engine.dicom.sources import Source
    from engine.dicom.transfer_syntax import TransferSyntax
    from engine.web.request import Request


async def picture(
    request: Request, instance: Instance, options: PictureOptions, upper: StoredInstance | None = None
) -> bytes:
    """Renders a picture; annotations have corrected values. `upper`: the image that a presentation state lays over it.

    Raises NotFound for a missing frame, NotAcceptable if it cannot be rendered.
    """
    if options.annotation:
        corrections = request.view(Action.RETRIEVE).corrected(instance.study_instance_uid, instance.series_instance_uid)
        texts = tuple((tag, value.decode("utf-8", "replace")) for tag, value in corrections.items())
        options = replace(options, corrections=texts)
    stored = request.engine.archive.retrieval.open(instance)
    try:
        if upper is not None and options.presentation is not None and options.presentation.blending is not None:
            return await _blended(request, stored, upper, options, options.presentation)
        return await request.engine.renderer.picture(stored, stored.syntax, options)
    except TranscodeError as error:
        if "there is no frame" in str(error):
            raise NotFound(str(error)) from error
        raise NotAcceptable(str(error)) from error


async def _blended(
    request: Request,
    lower: StoredInstance,
    upper: StoredInstance,
    options: PictureOptions,
    presentation: Presentation,
) -> bytes:
    """Renders two images, one over the other. The process reads them end to end."""
    run = request.engine.pools.reads.run
    first, first_syntax = await run(lambda: _native(lower))
    second, second_syntax = await run(lambda: _native(upper))
    if presentation.blending is not None:
        blending = msgspec.structs.replace(
            presentation.blending, start=first.length, transfer_syntax_uid=second_syntax.uid
        )
        presentation = msgspec.structs.replace(presentation, blending=blending)
    options = replace(options, presentation=presentation)
    return await request.engine.renderer.picture(Concatenation(first, second), first_syntax, options)


def _native(stored: StoredInstance) -> tuple[Source, TransferSyntax]:
    """A data set that is not deflated. Blocks."""
    if stored.syntax.deflated:
        return Inflated(stored), EXPLICIT_VR_LITTLE_ENDIAN
    return stored, stored.syntax


async def send_pictures(
    request: Request, instances: Sequence[Instance], media_type: str, *, cache: str, numbers: Sequence[int] = ()
) -> web.StreamResponse:
    """Sends a part for each of these frames of the instances; (): for each frame. Draws them while it sends.

    The failure of the first picture is an error response, a later one breaks the answer off.
    """
    options, warnings = picture_parameters.rendered(request.query, media_type, frame=1)
    headers = {"Warning": f'299 {request.root} "{warnings[-1]}"'} if warnings else {}
    text = "".join([f"{identity_of(each)}\n" for each in instances])
    text += f"{media_type} {request.query_string} {numbers}"
    etag = f'"{blake2b(text.encode("utf-8", "replace"), digest_size=12).hexdigest()}"'
    with pinned(request, instances):
        parts = _parts(request, instances, numbers, options)
        return await send_stream(request, parts, etag, media_type, cache=cache, headers=headers)


async def _parts(
    request: Request, instances: Sequence[Instance], numbers: Sequence[int], options: PictureOptions
) -> AsyncIterator[Part]:
    for each in instances:
        stored = request.engine.archive.retrieval.open(each)
        chosen = numbers
        if not chosen:
            table = await request.engine.pools.reads.run(stored.frames)
            chosen = range(1, table.count + 1)
        for number in chosen:
            body = await picture(request, each, replace(options, frame=number))
            yield Part(Memory(body), options.media_type, f"{url_of(request, each)}/frames/{number}/rendered")
