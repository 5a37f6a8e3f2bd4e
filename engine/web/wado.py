"""WADO-RS: studies, series and instances (PS3.18 10.4).

Instances that are known to be unreadable are left out, and a Warning header says so; damage found while an answer is
sent breaks the answer off. Without a requested transfer syntax it is Explicit VR Little Endian; see `forms`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from engine import log
from engine.errors import NotAcceptable, TranscodeError, for_log
from engine.web import bulk_data, zip_archive
from engine.web.accept import Choice, Offer
from engine.web.forms import DICOM, EXPLICIT, OCTET_STREAM, choices_of, instance_syntax
from engine.web.instances import check_codecs, file_part
from engine.web.sending import send, send_stream
from engine.web.stored import check_reachable, identity_of, instance_of, instances_of, pinned, root_of

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
    each = instance_of(request)
    choice, syntax_uid = _forms_of(choices_of(request, INSTANCE_OFFERS), [each])[0]
    if choice.offer.media_type == OCTET_STREAM:
        return await bulk_data.pixels_of(request, [each], [choice])
    with pinned(request, [each]):
        part = await _part(request, each, choice, syntax_uid)
        is_multipart = choice.offer.is_multipart
        etag = _one_etag(each, part.content_type.rpartition("=")[2], is_multipart)
        return await send(request, [part], etag, media_type=DICOM if is_multipart else "")


async def instances(request: Request) -> web.StreamResponse:
    """All instances of a study or of a series."""
    choices = choices_of(request, OFFERS)
    all_instances = await instances_of(request)
    if choices[0].offer.media_type == OCTET_STREAM:
        return await bulk_data.pixels_of(request, all_instances, choices)
    if choices[0].offer.media_type == zip_archive.ZIP:
        return await zip_archive.send_zip(request, all_instances)
    choices = [choice for choice in choices if choice.offer.media_type != zip_archive.ZIP]
    with pinned(request, all_instances):
        readable = _readable(request, all_instances)
        await check_reachable(request, readable)
        forms = _forms_of(choices, readable)
        headers = {}
        if left_out := len(all_instances) - len(readable):
            headers["Warning"] = f'299 {root_of(request)} "{left_out} instances cannot be read and are left out"'
        etag = _etag(readable, [uid for _, uid in forms])
        if "Range" in request.headers and all(
            uid == each.transfer_syntax_uid for each, (_, uid) in zip(readable, forms, strict=True)
        ):
            parts = [await file_part(request, each, each.transfer_syntax_uid) for each in readable]
            return await send(request, parts, etag, media_type=DICOM, cache="private, no-cache", headers=headers)
        return await send_stream(request, _parts(request, readable, forms), etag, DICOM, headers=headers)


def entity_tags(request: Request, all_instances: Sequence[Instance], *, is_one: bool) -> frozenset[str]:
    """The entity tags of a study, series or instance, as it is stored and in Explicit VR Little Endian."""
    requests = ("*", "", EXPLICIT)
    if is_one:
        (one,) = all_instances
        uids = {instance_syntax(one.transfer_syntax_uid, requested) for requested in requests}
        return frozenset(_one_etag(one, uid, is_multipart) for uid in uids if uid for is_multipart in (True, False))
    readable = _readable(request, all_instances)
    tags = set()
    for requested in requests:
        syntaxes = [instance_syntax(each.transfer_syntax_uid, requested) for each in readable]
        tags.add(_etag(readable, [uid or "" for uid in syntaxes]))
    return frozenset(tags)


def _readable(request: Request, all_instances: Sequence[Instance]) -> Sequence[Instance]:
    damaged = request.engine.archive.retrieval.damaged_places()
    return [each for each in all_instances if each.position[:2] not in damaged] if damaged else all_instances


def _forms_of(choices: Sequence[Choice], instances_: Sequence[Instance]) -> list[tuple[Choice, str]]:
    """For each instance the first possible choice, and its transfer syntax. Raises NotAcceptable."""
    by_syntax: dict[str, tuple[Choice, str]] = {}
    for each in instances_:
        if each.transfer_syntax_uid not in by_syntax:
            by_syntax[each.transfer_syntax_uid] = _first_form(choices, each.transfer_syntax_uid)
    return [by_syntax[each.transfer_syntax_uid] for each in instances_]


def _first_form(choices: Sequence[Choice], stored_uid: str) -> tuple[Choice, str]:
    for choice in choices:
        if choice.offer.media_type == OCTET_STREAM:
            return choice, ""
        if (syntax_uid := instance_syntax(stored_uid, choice.transfer_syntax)) is not None:
            return choice, syntax_uid
    raise NotAcceptable(f"instances stored in transfer syntax {stored_uid} cannot be sent in the requested one")


async def _parts(
    request: Request, instances_: Sequence[Instance], forms: Sequence[tuple[Choice, str]]
) -> AsyncIterator[Part]:
    for each, (choice, syntax_uid) in zip(instances_, forms, strict=True):
        yield await _part(request, each, choice, syntax_uid)


async def _part(request: Request, each: Instance, choice: Choice, syntax_uid: str) -> Part:
    if syntax_uid != each.transfer_syntax_uid:
        check_codecs(request)
    try:
        return await file_part(request, each, syntax_uid)
    except TranscodeError as error:
        # A client that did not name a transfer syntax gets it as it is stored; the part's Content-Type says which.
        as_stored = instance_syntax(each.transfer_syntax_uid, "*")
        if choice.transfer_syntax or as_stored == syntax_uid or as_stored is None:
            raise
        logger.warning("sent as it is stored", sop_instance_uid=each.sop_instance_uid, reason=for_log(error))
        return await file_part(request, each, as_stored)


def _one_etag(each: Instance, syntax_uid: str, is_multipart: bool) -> str:
    return f'"{identity_of(each)}-{syntax_uid}-{is_multipart:d}"'


def _etag(instances_: Sequence[Instance], syntax_uids: Sequence[str]) -> str:
    digest = blake2b(digest_size=16)
    for each, uid in zip(instances_, syntax_uids, strict=True):
        digest.update(f"{identity_of(each)} {uid}\n".encode())
    return f'"{digest.hexdigest()}"'
