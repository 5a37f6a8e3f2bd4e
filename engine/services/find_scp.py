"""Query Service Class, C-FIND SCP (PS3.4 C.4.1).

Does not match (`index.search` does) and does not choose keys: it turns an identifier into a query, and each match into
a pending response with the keys that were asked for, until the last one, C-CANCEL or the limit.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import TYPE_CHECKING

from engine import log
from engine.dicom import tags, transfer_syntax
from engine.dicom.identifier import encode_identifier
from engine.dimse.messages import CFindRQ, CFindRSP
from engine.dimse.status import FindStatus, GeneralStatus, Service, status_of
from engine.errors import EngineError
from engine.services.query import Asked, find_query

if TYPE_CHECKING:
    from collections.abc import Iterator

    from engine.dicom.transfer_syntax import TransferSyntax
    from engine.index.types import Match
    from engine.services.provider import ServiceProvider

logger = log.get("services.find_scp")

SLICE_S = 0.005
"""How long answers are made before the loop may serve others; ingest never waits longer for a long query."""


SEND_BYTES = 32 << 10
"""Responses are sent together when they make so much, but the first one at once: a system call costs as much as a
match."""


async def find(provider: ServiceProvider, presentation_context_id: int, rq: CFindRQ, identifier: bytes) -> None:
    """Answers one C-FIND."""
    provider.services.metrics.counters["find"] += 1
    began = perf_counter()
    if not provider.services.config.may(provider.calling_ae_title, "query"):
        provider.respond(presentation_context_id, _response(rq, GeneralStatus.NOT_AUTHORIZED))
        return
    limit = provider.services.config.limits.query_results_max
    try:
        asked = find_query(provider.contexts[presentation_context_id], identifier, limit)
        matches = provider.services.archive.find(asked.query)
        code, count = await _answer(provider, presentation_context_id, rq, asked, matches)
    except EngineError as error:
        code, count = status_of(error, Service.FIND), 0
        logger.warning("query refused", calling=provider.calling_ae_title, status=f"{code:04X}", error=str(error))
        provider.respond(presentation_context_id, _response(rq, code, comment=str(error)))
        return
    provider.respond(presentation_context_id, _response(rq, code))
    if limit and count == limit:
        logger.warning("query cut at the limit", calling=provider.calling_ae_title, limit=limit)
    logger.info(
        "query",
        calling=provider.calling_ae_title,
        query_level=asked.query.level.name.lower(),
        matches=count,
        seconds=round(perf_counter() - began, 4),
    )


async def _answer(
    provider: ServiceProvider, context_id: int, rq: CFindRQ, asked: Asked, matches: Iterator[Match]
) -> tuple[int, int]:
    """Sends the pending responses; the final status and how many there were."""
    syntax = transfer_syntax.of(provider.contexts[context_id].transfer_syntax)
    pending = _response(rq, FindStatus.PENDING, has_data_set=True).encode()
    incomplete = _response(rq, FindStatus.PENDING_OPTIONAL_KEYS_UNSUPPORTED, has_data_set=True).encode()
    connection = provider.connection
    count = 0
    gathered = bytearray()
    slice_ends = perf_counter() + SLICE_S
    for match in matches:
        if provider.cancelled(rq.message_id):
            connection.send(bytes(gathered))
            return FindStatus.CANCEL, count
        if not connection.is_open:
            raise ConnectionResetError("the asker is gone")
        response = incomplete if match.unsupported else pending
        identifier = _identifier(provider, asked, match, syntax)
        gathered += connection.encoded(context_id, response, identifier, provider.fragment)
        count += 1
        is_late = perf_counter() > slice_ends
        if is_late or count == 1 or len(gathered) >= SEND_BYTES:
            connection.send(bytes(gathered))
            gathered.clear()
        if is_late:
            await connection.drained()
            await asyncio.sleep(0)
            slice_ends = perf_counter() + SLICE_S
    connection.send(bytes(gathered))
    return FindStatus.SUCCESS, count


def refuse(provider: ServiceProvider, presentation_context_id: int, rq: CFindRQ, comment: str) -> None:
    """Answers one C-FIND for which there is no room at the moment."""
    provider.respond(presentation_context_id, _response(rq, FindStatus.OUT_OF_RESOURCES, comment=comment))


def _response(rq: CFindRQ, code: int, *, has_data_set: bool = False, comment: str = "") -> CFindRSP:
    return CFindRSP(rq.message_id, rq.affected_sop_class_uid, code, has_data_set, comment[:64])


def _identifier(provider: ServiceProvider, asked: Asked, match: Match, syntax: TransferSyntax) -> bytes:
    found = match.attributes
    answer = {tag: found.get(tag, b"") for tag in asked.returned}
    answer[tags.QueryRetrieveLevel] = asked.level_name
    answer[tags.RetrieveAETitle] = provider.services.config.aet.encode("ascii")
    if tags.InstanceAvailability in asked.returned:
        answer[tags.InstanceAvailability] = b"ONLINE"
    if not all(value.isascii() for value in answer.values()):
        answer[tags.SpecificCharacterSet] = b"ISO_IR 192"
    elif tags.SpecificCharacterSet in answer:
        answer[tags.SpecificCharacterSet] = b""
    return encode_identifier(answer, syntax)
