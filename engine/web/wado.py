"""WADO-RS: studies, series and instances (PS3.18 10.4).

What cannot be read and is known for it is left out, and a Warning says so; what turns out to be damaged on the way cuts
the answer off. A transfer syntax that was not asked for is Explicit VR Little Endian; see `forms`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from engine import log
from engine.errors import NotAcceptable, TranscodeError
from engine.web import bulk_data, zip_archive
from engine.web.accept import Choice, Offer
from engine.web.forms import DICOM, OCTET_STREAM, choices_of, instance_syntax
from engine.web.instances import check_codecs, file_part
from engine.web.sending import send, send_stream
from engine.web.stored import identity_of, instance_of, instances_of, pinned, root_of

if TYPE_CHECKING:
    from aiohttp import web

    from engine.archive.retrieve import Instance
    from engine.web.content import Part
    from engine.web.request import Request

logger = log.get("web.wado")

OFFERS: Final = (Offer(DICOM, True), Offer(OCTET_STREAM, True), Offer(zip_archive.ZIP))
INSTANCE_OFFERS: Final = (Offer(DICOM, True), Offer(DICOM), Offer(OCTET_STREAM, True))


async def instance(request: Request) -> web.StreamResponse:
    """One instance."""
    found = instance_of(request)
    choice, syntax_uid = _chosen(choices_of(request, INSTANCE_OFFERS), [found])[0]
    if choice.offer.media_type == OCTET_STREAM:
        return await bulk_data.pixels_of(request, [found], [choice])
    with pinned(request, [found]):
        part = await _part(request, found, choice, syntax_uid)
        is_multipart = choice.offer.is_multipart
        etag = f'"{identity_of(found)}-{part.content_type.rpartition("=")[2]}-{is_multipart:d}"'
        return await send(request, [part], etag, media_type=DICOM if is_multipart else "")


async def instances(request: Request) -> web.StreamResponse:
    """All instances of a study or of a series."""
    choices = choices_of(request, OFFERS)
    found = await instances_of(request)
    if choices[0].offer.media_type == OCTET_STREAM:
        return await bulk_data.pixels_of(request, found, choices)
    if choices[0].offer.media_type == zip_archive.ZIP:
        return await zip_archive.send_zip(request, found)
    choices = [choice for choice in choices if choice.offer.media_type != zip_archive.ZIP]
    with pinned(request, found):
        damaged = request.engine.archive.retrieval.damaged_places()
        there = [each for each in found if each.position[:2] not in damaged] if damaged else found
        chosen = _chosen(choices, there)
        headers = {}
        if missing := len(found) - len(there):
            headers["Warning"] = f'299 {root_of(request)} "{missing} instances cannot be read and are left out"'
        etag = _etag(there, chosen)
        if "Range" in request.headers and all(
            uid == each.transfer_syntax_uid for each, (_, uid) in zip(there, chosen, strict=True)
        ):
            parts = [await file_part(request, each, each.transfer_syntax_uid) for each in there]
            return await send(request, parts, etag, media_type=DICOM, cache="private, no-cache", headers=headers)
        return await send_stream(request, _parts(request, there, chosen), etag, DICOM, headers=headers)


def _chosen(choices: Sequence[Choice], instances_: Sequence[Instance]) -> list[tuple[Choice, str]]:
    """For each instance the first form that does, and its transfer syntax. Raises NotAcceptable."""
    by_syntax: dict[str, tuple[Choice, str]] = {}
    found = []
    for each in instances_:
        stored_uid = each.transfer_syntax_uid
        if stored_uid not in by_syntax:
            by_syntax[stored_uid] = _first(choices, stored_uid)
        found.append(by_syntax[stored_uid])
    return found


def _first(choices: Sequence[Choice], stored_uid: str) -> tuple[Choice, str]:
    for choice in choices:
        if choice.offer.media_type == OCTET_STREAM:
            return choice, ""
        if (syntax_uid := instance_syntax(stored_uid, choice.transfer_syntax)) is not None:
            return choice, syntax_uid
    raise NotAcceptable(f"what is stored in transfer syntax {stored_uid} cannot be given in the one that is asked for")


async def _parts(
    request: Request, instances_: Sequence[Instance], chosen: Sequence[tuple[Choice, str]]
) -> AsyncIterator[Part]:
    for each, (choice, syntax_uid) in zip(instances_, chosen, strict=True):
        yield await _part(request, each, choice, syntax_uid)


async def _part(request: Request, each: Instance, choice: Choice, syntax_uid: str) -> Part:
    if syntax_uid != each.transfer_syntax_uid:
        check_codecs(request)
    try:
        return await file_part(request, each, syntax_uid)
    except TranscodeError as error:
        # Who asked for none by name gets it as it is stored, which the part says.
        as_stored = instance_syntax(each.transfer_syntax_uid, "*")
        if choice.transfer_syntax or as_stored == syntax_uid or as_stored is None:
            raise
        logger.warning("sent as it is stored", sop_instance_uid=each.sop_instance_uid, reason=str(error))
        return await file_part(request, each, as_stored)


def _etag(instances_: Sequence[Instance], chosen: Sequence[tuple[Choice, str]]) -> str:
    digest = blake2b(digest_size=16)
    for each, (_, uid) in zip(instances_, chosen, strict=True):
        digest.update(f"{identity_of(each)} {uid}\n".encode())
    return f'"{digest.hexdigest()}"'
