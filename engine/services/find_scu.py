"""Query/Retrieve Service Class, C-FIND SCU (PS3.4 C.4.1): asks another archive what it has.

Does not retrieve (`retrieve_scu`) and does not decide what is wanted (`pull`). Study Root is asked where the peer has
it, else Patient Root. The association is opened when something is asked, and once more when the peer has ended it
meanwhile, as many do with one on which nothing happens.

Peers answer what they like: a match without its unique key, or one that was given already, is overlooked; one that goes
on with such, or with no end, is cancelled.
"""

from __future__ import annotations

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
"""Of one C-FIND: as many studies as we give out ourselves (limits.query_results_max), some 100 MB."""

REPEATS_MAX = 1_000
"""Matches of one C-FIND that say nothing new, after which the peer is taken for one that never ends."""

UNIQUE = {
    "STUDY": tags.StudyInstanceUID,
    "SERIES": tags.SeriesInstanceUID,
    "IMAGE": tags.SOPInstanceUID,
}

Key: TypeAlias = "str | list[dict[int, Key]]"
Keys: TypeAlias = Mapping[int, Key]
"""Of one C-FIND: text, or the only item of a sequence; "" is only returned."""


@dataclass(slots=True)
class Answer:
    """The matches of one C-FIND, each unique key once."""

    matches: list[Identifier] = field(default_factory=list)
    is_cut: bool = False
    """There are more: the peer, or MATCHES_MAX, has ended it."""


class Finder:
    """Asks one peer; see the module's head."""

    def __init__(self, peer: Peer, config: Config) -> None:
        self._peer = peer
        self._address = Address.of(peer, config)
        self._requestor: Requestor | None = None
        self.information_model = STUDY_ROOT
        """Of the last question: STUDY_ROOT or PATIENT_ROOT."""

    async def find(self, level: str, keys: Keys) -> Answer:
        """What matches at "STUDY", "SERIES" or "IMAGE". Raises AssociationFailed."""
        requestor = self._requestor
        if requestor is not None and requestor.connection.is_open:
            try:
                return await self._ask(requestor, level, keys)
            except AssociationFailed:
                if requestor.connection.is_open:
                    raise
        self._requestor = requestor = await self._open()
        return await self._ask(requestor, level, keys)

    async def close(self) -> None:
        """Ends the association, if there is one."""
        requestor, self._requestor = self._requestor, None
        if requestor is not None and requestor.connection.is_open:
            await requestor.release()

    def abort(self) -> None:
        """The same at once."""
        if self._requestor is not None:
            self._requestor.connection.abort("not wanted any more")

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
        """The first one that was accepted: Study Root if that is."""
        assert requestor.accepted is not None
        context = requestor.accepted.contexts[min(requestor.accepted.contexts)]
        self.information_model = STUDY_ROOT if context.presentation_context_id == 1 else PATIENT_ROOT
        return context

    async def _ask(self, requestor: Requestor, level: str, keys: Keys) -> Answer:
        context = self._context(requestor)
        message_id, stream = requestor.request_several(
            context.presentation_context_id,
            lambda message_id: CFindRQ(message_id, context.abstract_syntax),
            encoded({**keys, tags.QueryRetrieveLevel: level}, context.transfer_syntax),
        )
        answer, given, repeats, is_ending = Answer(), set[bytes](), 0, False
        syntax = transfer_syntax.of(context.transfer_syntax)
        try:
            while True:
                try:
                    response, identifier = await stream.next(self._address.message_timeout_s)
                except TimeoutError:
                    why = f"{self._peer.aet} did not answer C-FIND within {self._address.message_timeout_s:g} s"
                    requestor.connection.abort(why)
                    raise AssociationFailed(why) from None
                outcome = category(response.status)
                if outcome is not Category.PENDING:
                    self._judge(answer, response.status, outcome, response.error_comment)
                    return answer
                unique = _unique(identifier, syntax, level)
                if unique is None or unique.value(UNIQUE[level]) in given:
                    repeats += 1
                elif len(given) < MATCHES_MAX:
                    given.add(unique.value(UNIQUE[level]))
                    answer.matches.append(unique)
                else:
                    answer.is_cut = True
                if repeats > 2 * REPEATS_MAX:
                    requestor.connection.abort("C-FIND has no end")
                    raise AssociationFailed(f"{self._peer.aet} answers C-FIND without end")
                if (repeats > REPEATS_MAX or answer.is_cut) and not is_ending:
                    is_ending = True
                    requestor.cancel(context.presentation_context_id, message_id)
        finally:
            requestor.responses.forget(message_id)

    def _judge(self, answer: Answer, status: int, outcome: Category, comment: str) -> None:
        """The final response: what has come is good where the peer stopped after so many matches."""
        if outcome is Category.SUCCESS:
            return
        if answer.matches:
            answer.is_cut = True
            return
        if outcome is Category.FAILURE:
            said = f": {comment}" if comment else ""
            raise AssociationFailed(f"{self._peer.aet} refused C-FIND with status {status:04X}{said}")


def _unique(identifier: bytes, syntax: transfer_syntax.TransferSyntax, level: str) -> Identifier | None:
    """A match that has its unique key; None for any other bytes."""
    try:
        match = decode_identifier(identifier, syntax)
    except DataSetError:
        return None
    return match if match.value(UNIQUE[level]) else None


def encoded(keys: Keys, transfer_syntax_uid: str) -> bytes:
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
    found = []
    for value in keys.values():
        found += [value] if isinstance(value, str) else [text for item in value for text in _texts(item)]
    return found


def _values(keys: Keys, codec: str) -> dict[int, Value]:
    return {
        tag: value.encode(codec) if isinstance(value, str) else [_values(item, codec) for item in value]
        for tag, value in keys.items()
    }
