"""WADO-RS: frames (PS3.18 10.4.1.6) by number, counted from 1, in the requested order.

A frame is the bare codestream, or native samples in little endian. A frame that is in the page cache, and is sent as it
is stored, costs one read and no thread.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from engine import log
from engine.dicom import transfer_syntax
from engine.dicom.frames import NativeFrames
from engine.dicom.sources import Part as SourcePart
from engine.errors import NoSuchFrame, NotAcceptable, RequestError, TranscodeError, for_log
from engine.web.accept import Choice, Offer
from engine.web.content import Memory, Part, Ranges
from engine.web.errors import NotFound, TooLarge
from engine.web.forms import EXPLICIT, IMAGE_TYPES, OCTET_STREAM, choices_of, frame_syntax, image_type, with_syntax
from engine.web.instances import check_codecs
from engine.web.sending import IMMUTABLE, send, send_stream
from engine.web.stored import identity_of, instance_of, pinned, url_of

if TYPE_CHECKING:
    from aiohttp import web
    from typing_extensions import Buffer

    from engine.archive.retrieve import Instance, StoredInstance
    from engine.web.request import Request

logger = log.get("web.wado")

HELD_BYTES_MAX: Final = 256 << 20
"""The maximum of a frame in memory. Longer native frames are read while they are sent."""

FRAMES_MAX: Final = 10_000
"""Frames in one request; their numbers fill its first line."""

OFFERS: Final = (
    Offer(OCTET_STREAM, True),
    *(Offer(name, True) for name in IMAGE_TYPES),
)
ONE_OFFERS: Final = (*OFFERS, Offer(OCTET_STREAM), *(Offer(name) for name in IMAGE_TYPES))
"""One frame may be the body itself."""


async def frames(request: Request) -> web.StreamResponse:
    """Sends frames of one instance."""
    numbers = _numbers(request.path_values["frames"])
    instance = instance_of(request)
    stored = request.engine.archive.retrieval.open(instance)
    choice, syntax_uid = first_form(choices_of(request, OFFERS if len(numbers) > 1 else ONE_OFFERS), stored.syntax.uid)
    with pinned(request, [instance]):
        if len(numbers) > 1:
            await request.engine.pools.reads.run(partial(_check_numbers, stored, numbers))
            etag = f'"{identity_of(instance)}-{request.path_values["frames"]}-{choice.offer.media_type}-{syntax_uid}"'
            parts = frame_parts(request, stored, numbers, choice, syntax_uid)
            return await send_stream(request, parts, etag, choice.offer.media_type, cache=IMMUTABLE)
        part = await frame_part(request, stored, numbers[0], choice, syntax_uid)
        is_multipart = choice.offer.is_multipart
        etag = etag_of(instance, numbers[0], part.content_type.rpartition("=")[2], choice)
        media_type = choice.offer.media_type if is_multipart else ""
        return await send(request, [part], etag, media_type=media_type)


def _check_numbers(stored: StoredInstance, numbers: Sequence[int]) -> None:
    """Checks frame numbers before the answer begins. Raises NotFound, FramesUnreadable, CorruptRecord."""
    try:
        stored.frames().check(max(numbers))
    except NoSuchFrame as error:
        raise NotFound(str(error)) from error


def etag_of(instance: Instance, number: int, syntax_uid: str, choice: Choice) -> str:
    """The entity tag of one frame in the transfer syntax in which it is sent."""
    return f'"{identity_of(instance)}-{number}-{syntax_uid}-{choice.offer.is_multipart:d}"'


async def frame_parts(
    request: Request, stored: StoredInstance, numbers: Sequence[int], choice: Choice, syntax_uid: str
) -> AsyncIterator[Part]:
    """Frames one by one."""
    for number in numbers:
        yield await frame_part(request, stored, number, choice, syntax_uid)


async def frame_part(request: Request, stored: StoredInstance, number: int, choice: Choice, syntax_uid: str) -> Part:
    """One frame. Raises NotFound, CorruptRecord, FramesUnreadable, TranscodeError."""
    frame: Buffer | None = stored.frame_cached(number)
    media_type = choice.offer.media_type
    location = f"{url_of(request, stored.instance)}/frames/{number}"
    if frame is None:
        try:
            span = await request.engine.pools.reads.run(lambda: _long_span(stored, number, syntax_uid))
            if span is not None:
                content = Ranges(request.engine.pools.reads, SourcePart(stored, *span))
                return Part(content, with_syntax(media_type, EXPLICIT), location)
            frame = await request.engine.pools.reads.run(lambda: stored.frame(number))
        except NoSuchFrame as error:
            raise NotFound(str(error)) from error
    stored_uid = stored_syntax(stored.syntax.uid)
    if syntax_uid != stored_uid:
        check_codecs(request)
        try:
            frame = await _transcoded(request, stored, frame, stored_uid, syntax_uid)
        except TranscodeError as error:
            if choice.transfer_syntax or media_type != OCTET_STREAM:
                raise
            uid = stored.instance.sop_instance_uid
            logger.warning("sent as it is stored", sop_instance_uid=uid, reason=for_log(error))
            syntax_uid = stored_uid
    return Part(Memory(frame), with_syntax(media_type, syntax_uid), location)


def _long_span(stored: StoredInstance, number: int, syntax_uid: str) -> tuple[int, int] | None:
    """Start and end of a frame that is too long for memory; None: it fits. Raises TooLarge, FramesUnreadable."""
    table = stored.frames()
    table.check(number)
    length = table.frame_bits // 8 if isinstance(table, NativeFrames) else (table.span(number) or (0, 0))[1]
    if length <= HELD_BYTES_MAX:
        return None
    span = table.span(number)
    if span is None or table.is_encapsulated or stored.syntax.deflated or syntax_uid != EXPLICIT:
        raise TooLarge(f"frame {number} has {length} bytes; the maximum of a converted frame is {HELD_BYTES_MAX}")
    return span[0], span[0] + span[1]


async def _transcoded(
    request: Request, stored: StoredInstance, frame: Buffer, stored_uid: str, syntax_uid: str
) -> bytes:
    image = await request.engine.pools.reads.run(stored.image_pixel)
    target = "" if syntax_uid == EXPLICIT else syntax_uid
    return await request.engine.transcoder.frame(frame, stored_uid, target, image)


def first_form(choices: Sequence[Choice], stored_uid: str) -> tuple[Choice, str]:
    """The best possible choice, and its transfer syntax: of equally welcome ones that name a transfer syntax the one in
    which the frames are stored, else the first. Raises NotAcceptable.
    """
    own_uid = stored_syntax(stored_uid)
    first: tuple[Choice, str] | None = None
    for choice in choices:
        if first is not None and (choice.quality != first[0].quality or not first[0].transfer_syntax):
            break
        syntax_uid = frame_syntax(stored_uid, choice.offer.media_type, choice.transfer_syntax)
        if syntax_uid == own_uid:
            return choice, syntax_uid
        if syntax_uid is not None and first is None:
            first = choice, syntax_uid
    if first is not None:
        return first
    name = transfer_syntax.of(stored_uid).name
    raise NotAcceptable(f"the frames are {image_type(stored_uid)} in {name}, which no requested media type allows")


def stored_syntax(stored_uid: str) -> str:
    """The transfer syntax of frames that are sent as they are stored."""
    return EXPLICIT if transfer_syntax.of(stored_uid).convertible else stored_uid


def _numbers(text: str) -> list[int]:
    """Raises RequestError."""
    if not re.fullmatch(r"\s*[0-9]{1,9}\s*(,\s*[0-9]{1,9}\s*)*", text):
        raise RequestError(f"frames must be numbers separated by commas, as 1,2,5: {text[:32]!r}")
    numbers = [int(number) for number in text.split(",")]
    if len(numbers) > FRAMES_MAX:
        raise RequestError(f"{len(numbers)} frames in one request, {FRAMES_MAX} are allowed")
    if 0 in numbers:
        raise RequestError("frames are numbered from 1")
    if len(set(numbers)) < len(numbers):
        # As PS3.18 requires; so an answer is never longer than the pixel data of its instance.
        raise RequestError("a frame number occurs twice")
    return numbers
