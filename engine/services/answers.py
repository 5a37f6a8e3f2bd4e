"""The pending responses of one C-FIND, from matches to P-DATA-TF (PS3.4 C.4.1.1.3.2).

Does not search and does not send. What matches in a row have in common is encoded once: the commands, what the service
says itself, and each value for as long as the matches that come have the very same one, as all below one study do.

    response      command FF00, or FF01 where a key is not known    identifier
    identifier    the keys that were asked for, Query/Retrieve Level, Retrieve AE Title; Instance Availability if asked
                  (0008,0005) where any text is not ASCII, and only there
                  (0008,0201) only with a value: it must not be empty

An answer is in the character set that was asked for if that can carry all its texts, else in UTF-8. Both are kept
ready, element by element, since the next match may need the other one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.dicom import charset, items, tags, transfer_syntax
from engine.dicom.identifier import BINARY_VRS, finished, form_of, working_encoding
from engine.dimse.assembly import p_data_tf
from engine.dimse.messages import CFindRQ, CFindRSP
from engine.dimse.status import FindStatus
from engine.errors import DataSetError
from engine.index.query.private_attributes import vr_of_key

if TYPE_CHECKING:
    from engine.index.format.types import Match
    from engine.services.query import Asked
    from engine.services.session import Session


class Answers:
    """Encodes the matches of one query."""

    def __init__(self, session: Session, presentation_context_id: int, rq: CFindRQ, asked: Asked) -> None:
        self._connection = session.connection
        self._context_id = presentation_context_id
        self._fragment = session.fragment
        self._complete = self._command(rq, FindStatus.PENDING)
        self._incomplete = self._command(rq, FindStatus.PENDING_OPTIONAL_KEYS_UNSUPPORTED)
        self._syntax = transfer_syntax.of(session.contexts[presentation_context_id].transfer_syntax)
        self._needs_finish = self._syntax.deflated or working_encoding(self._syntax) != self._syntax.encoding
        self._character_set = asked.query.character_set
        said = {
            tags.QueryRetrieveLevel: asked.level_name,
            tags.RetrieveAETitle: session.config.aet.encode(),
        }
        if tags.InstanceAvailability in asked.returned:
            said[tags.InstanceAvailability] = b"ONLINE"
        wanted = sorted({*asked.returned, *said, tags.SpecificCharacterSet})
        encoding = working_encoding(self._syntax)
        self._forms = [form_of(tag, vr_of_key(asked.query, tag, session.archive.schema), encoding) for tag in wanted]
        self._declaring = wanted.index(tags.SpecificCharacterSet)
        self._columns = [
            (i, asked.said_by.get(tag, tag))
            for i, tag in enumerate(wanted)
            if tag not in said and tag != tags.SpecificCharacterSet
        ]
        self._shown: list[bytes | None] = [None] * len(wanted)
        """The value of each element at the moment."""
        self._in_utf_8 = [b""] * len(wanted)
        self._in_asked = [b""] * len(wanted)
        self._beyond_ascii: set[int] = set()
        """Elements with text that needs a character set."""
        self._beyond_asked: set[int] = set()
        """And those that the one asked for cannot carry."""
        self._unless_empty = wanted.index(tags.TimezoneOffsetFromUTC) if tags.TimezoneOffsetFromUTC in wanted else -1
        for tag, value in said.items():
            self._show(wanted.index(tag), value)

    def _command(self, rq: CFindRQ, status: FindStatus) -> tuple[bytes, bytes]:
        """A command, and the same as P-DATA-TF."""
        command = CFindRSP(rq.message_id, rq.affected_sop_class_uid, status, has_data_set=True).encode()
        return command, p_data_tf(self._context_id, True, command, self._fragment)

    def encoded(self, match: Match) -> bytes:
        """The response for a match, as whole P-DATA-TF."""
        values, shown = match.attributes, self._shown
        for i, tag in self._columns:
            value = values.get(tag, b"")
            if value != shown[i]:
                self._show(i, value)
        elements = self._in_utf_8
        if self._beyond_ascii:
            elements = self._declared()
        identifier = b"".join(elements)
        if self._needs_finish:
            identifier = finished(identifier, self._syntax)
        command, frames = self._incomplete if match.unsupported else self._complete
        self._connection.trace_command(self._context_id, command)
        return frames + p_data_tf(self._context_id, False, identifier, self._fragment)

    def _declared(self) -> list[bytes]:
        """The elements in the set asked for or in UTF-8, with (0008,0005)."""
        elements, character_set = self._in_asked, self._character_set
        if self._beyond_asked:
            elements, character_set = self._in_utf_8, charset.UTF_8
        elements = elements.copy()
        elements[self._declaring] = self._forms[self._declaring].element(character_set)
        return elements

    def _show(self, i: int, value: bytes) -> None:
        """Takes over a value of an element."""
        self._shown[i] = value
        form = self._forms[i]
        self._beyond_ascii.discard(i)
        self._beyond_asked.discard(i)
        element = form.element_of_blob(value) if value or i != self._unless_empty else b""
        self._in_utf_8[i] = self._in_asked[i] = element
        if value.isascii() or form.vr in BINARY_VRS or (form.vr == "SQ" and not _has_text_beyond_ascii(value)):
            return
        self._beyond_ascii.add(i)
        recoded = self._recoded(value, form.vr)
        if recoded is None:
            self._beyond_asked.add(i)
        else:
            self._in_asked[i] = form.element_of_blob(recoded)

    def _recoded(self, value: bytes, vr: str) -> bytes | None:
        """A value in the character set asked for; None if that cannot carry it."""
        if vr != "SQ":
            return self._recoded_text(value, vr)
        try:
            return items.recoded(value, self._recoded_text)
        except DataSetError:
            return None

    def _recoded_text(self, text: bytes, vr: str) -> bytes | None:
        if vr not in charset.TEXT_VRS:
            return None  # it must be ASCII and is not: UTF-8 says at least what it is
        return charset.encode(text.decode("utf-8", "replace"), self._character_set, vr)


def _has_text_beyond_ascii(value: bytes) -> bool:
    try:
        return items.has_text_beyond_ascii(value)
    except DataSetError:
        return True
