"""Query/Retrieve Service Class, C-FIND SCU (PS3.4 C.4.1): queries another archive.

It uses Study Root if the peer supports it, else Patient Root. It opens the association at the first query, and again
when the peer has ended it meanwhile, as many peers do with idle ones. `retrieve_scu` retrieves, `pull` decides what.

Peers may send anything: matches without a unique key, and repeated ones, are ignored; a query with too many of them, or
without end, is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from engine.dicom import tags, transfer_syntax
from engine.dicom.identifier import Identifier, Value, decode_identifier, encode_identifier
from engine.dimse.messages import CFindRQ
from engine.dimse.status import Category, category
from engine.errors import AssociationFailed, DataSetError
from engine.net.client import PLAIN, Address, Requestor, open_association
from engine.services.information_models import FIND, PATIENT_ROOT, STUDY_ROOT, sop_class
from engine.ul.pdu import PresentationContextRQ

if TYPE_CHECKING:
    from engine.config import Config, Peer
    from engine.ul.negotiation import AcceptedContext

MATCHES_MAX = 100_000
"""Matches of one C-FIND, some 100 MB: as many as we ourselves return (limits.query_results_max)."""

STUCK_FACTOR = 4
"""A peer that answers but has no new match is given up after so many times its timeout."""

REPEATS_MAX = 1_000
"""Ignored matches of one C-FIND, after which we assume that the peer never ends."""

UNIQUE = {
    "STUDY": tags.StudyInstanceUID,
    "SERIES": tags.SeriesInstanceUID,
    "IMAGE": tags.SOPInstanceUID,
}

Key: TypeAlias = "str | list[dict[int, Key]]"
Keys: TypeAlias = Mapping[int, Key]
"""The keys of one C-FIND: a text, or the only item of a sequence; "": a return key without matching."""


@dataclass(slots=True)
class FindResult:
    """The matches of one C-FIND, each unique key once."""

    matches: list[Identifier] = field(default_factory=list)
    is_incomplete: bool = False
    """Whether there are more matches: the peer, or MATCHES_MAX, has ended the C-FIND early."""


class Finder:
    """Queries one peer."""

    def __init__(self, peer: Peer, config: Config) -> None:
        self._peer = peer
        self._address = Address.of(peer, config)
        self._requestor: Requestor | None = None
        self.information_model = STUDY_ROOT
        """Of the last query: STUDY_ROOT or PATIENT_ROOT."""

    async def find(self, level: str, keys: Keys) -> FindResult:
        """The matches at level "STUDY", "SERIES" or "IMAGE". Raises AssociationFailed."""
        requestor = self._requestor
        if requestor is not None and requestor.connection.is_open:
            try:
                return await self._query(requestor, level, keys)
            except AssociationFailed:
                if requestor.connection.is_open:
                    raise
        self._requestor = requestor = await self._open()
        return await self._query(requestor, level, keys)

    async def close(self) -> None:
        """Releases the association, if there is one."""
        requestor, self._requestor = self._requestor, None
        if requestor is not None and requestor.connection.is_open:
            await requestor.release()

    def abort(self) -> None:
        """Aborts the association, if there is one."""
        if self._requestor is not None:
            self._requestor.connection.abort("no longer needed")

    # -- inside ---------------------------------------------------------------------------------

    async def _open(self) -> Requestor:
        models = (STUDY_ROOT, PATIENT_ROOT)
        contexts = [
            PresentationContextRQ(2 * number + 1, sop_class(model, FIND), PLAIN) for number, model in enumerate(models)
        ]
        requestor = await open_association(self._address, contexts)
        assert requestor.accepted is not None
        if not requestor.accepted.contexts:
            await requestor.release()
            raise AssociationFailed(f"{self._peer.aet} does not answer queries (C-FIND)")
        return requestor

    def _context(self, requestor: Requestor) -> AcceptedContext:
        """The first accepted context: Study Root if accepted."""
        assert requestor.accepted is not None
        context = requestor.accepted.contexts[min(requestor.accepted.contexts)]
        self.information_model = STUDY_ROOT if context.presentation_context_id == 1 else PATIENT_ROOT
        return context

    async def _query(self, requestor: Requestor, level: str, keys: Keys) -> FindResult:
        context = self._context(requestor)
        message_id, stream = requestor.request_several(
            context.presentation_context_id,
            lambda message_id: CFindRQ(message_id, context.abstract_syntax),
            encode_keys({**keys, tags.QueryRetrieveLevel: level}, context.transfer_syntax),
        )
        result, unique_values, repeats, is_ending = FindResult(), set[bytes](), 0, False
        loop, limit_s = asyncio.get_running_loop(), self._address.message_timeout_s
        new_at = loop.time()
        syntax = transfer_syntax.of(context.transfer_syntax)
        try:
            while True:
                try:
                    response, identifier = await stream.next(self._address.message_timeout_s)
                except TimeoutError:
                    why = f"{self._peer.aet} did not answer C-FIND within {self._address.message_timeout_s:g} s"
                    why = requestor.connection.end_reason or why
                    requestor.connection.abort(why)
                    raise AssociationFailed(why) from None
                outcome = category(response.status)
                if outcome is not Category.PENDING:
                    self._finish(result, response.status, outcome, response.error_comment)
                    return result
                match = _decode_match(identifier, syntax, level)
                if match is None or match.value(UNIQUE[level]) in unique_values:
                    repeats += 1
                elif len(unique_values) < MATCHES_MAX:
                    unique_values.add(match.value(UNIQUE[level]))
                    result.matches.append(match)
                    new_at = loop.time()
                else:
                    result.is_incomplete = True
                if repeats > 2 * REPEATS_MAX or loop.time() - new_at > STUCK_FACTOR * limit_s:
                    requestor.connection.abort("C-FIND has no end")
                    raise AssociationFailed(f"{self._peer.aet} answers C-FIND without end")
                if (repeats > REPEATS_MAX or result.is_incomplete) and not is_ending:
                    is_ending = True
                    requestor.cancel(context.presentation_context_id, message_id)
        finally:
            requestor.responses.forget(message_id)

    def _finish(self, result: FindResult, status: int, outcome: Category, comment: str) -> None:
        """Handles the final response: after a failure the matches that have come are still valid."""
        if outcome is Category.SUCCESS:
            return
        if result.matches:
            result.is_incomplete = True
            return
        if outcome is Category.FAILURE:
            raise AssociationFailed(f"{self._peer.aet} refused C-FIND with status {status:04X}").quoting(comment)


def _decode_match(identifier: bytes, syntax: transfer_syntax.TransferSyntax, level: str) -> Identifier | None:
    """A match with its unique key; None for any other bytes."""
    try:
        match = decode_identifier(identifier, syntax)
    except DataSetError:
        return None
    return match if match.value(UNIQUE[level]) else None


def encode_keys(keys: Keys, transfer_syntax_uid: str) -> bytes:
    """An identifier, in the smallest character set that has its letters."""
    text = "".join(_texts(keys))
    charset, codec = ("", "ascii") if text.isascii() else ("ISO_IR 192", "utf-8")
    if charset and all(ord(letter) < 0x100 for letter in text):
        charset, codec = "ISO_IR 100", "latin-1"
    values = _values(keys, codec)
    if charset:
        values[tags.SpecificCharacterSet] = charset.encode()
    return encode_identifier(values, transfer_syntax.of(transfer_syntax_uid))


def _texts(keys: Keys) -> list[str]:
    texts = []
    for value in keys.values():
        texts += [value] if isinstance(value, str) else [text for item in value for text in _texts(item)]
    return texts


def _values(keys: Keys, codec: str) -> dict[int, Value]:
    return {
        tag: value.encode(codec) if isinstance(value, str) else [_values(item, codec) for item in value]
        for tag, value in keys.items()
    }
