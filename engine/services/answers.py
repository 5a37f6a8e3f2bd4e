"""Encodes the pending responses of one C-FIND: matches to P-DATA-TF (PS3.4 C.4.1.1.3.2).

It neither searches nor sends. Common parts are encoded once: the commands, the values that the service itself adds, and
each value that is the same as in the match before, as most values below one study are.

    response      command FF00, or FF01 if a key is not supported    identifier
    identifier    the requested keys, Query/Retrieve Level, Retrieve AE Title; Instance Availability if requested
                  (0008,0005) only if a text is not ASCII
                  (0008,0201) only with a value: it must not be empty

A response is in the requested character set if that can encode all its texts, else in UTF-8. Both forms of each element
are kept, since the next match may need the other one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from engine.dicom import charset, items, tags, transfer_syntax
from engine.dicom.identifier import BINARY_VRS, finish, form_of, working_encoding
from engine.dimse.assembly import p_data_tf
from engine.dimse.messages import CFindRQ, CFindRSP
from engine.dimse.status import FindStatus
from engine.errors import DataSetError
from engine.index.query.private_attributes import vr_of_key

if TYPE_CHECKING:
    from engine.index.format.types import Match
    from engine.services.query import FindRequest
    from engine.services.session import Session


class FindResponses:
    """Encodes the matches of one query."""

    def __init__(
        self,
        session: Session,
        presentation_context_id: int,
        rq: CFindRQ,
        request: FindRequest,
        availability: Callable[[dict[int, bytes]], bytes] | None = None,
    ) -> None:
        """`availability`: of a match, by its attributes; None: all are ONLINE."""
        self._connection = session.connection
        self._context_id = presentation_context_id
        self._fragment = session.fragment
        self._complete = self._command(rq, FindStatus.PENDING)
        self._incomplete = self._command(rq, FindStatus.PENDING_OPTIONAL_KEYS_UNSUPPORTED)
        self._syntax = transfer_syntax.of(session.contexts[presentation_context_id].transfer_syntax)
        self._needs_finish = self._syntax.deflated or working_encoding(self._syntax) != self._syntax.encoding
        self._character_set = request.query.character_set
        constants = {
            tags.QueryRetrieveLevel: request.level_name,
            tags.RetrieveAETitle: session.config.aet.encode(),
        }
        if tags.InstanceAvailability in request.return_keys and availability is None:
            constants[tags.InstanceAvailability] = b"ONLINE"
        fields = sorted({*request.return_keys, *constants, tags.SpecificCharacterSet})
        encoding = working_encoding(self._syntax)
        self._forms = [form_of(tag, vr_of_key(request.query, tag, session.archive.schema), encoding) for tag in fields]
        self._character_set_index = fields.index(tags.SpecificCharacterSet)
        self._columns = [
            (i, request.substitutes.get(tag, tag))
            for i, tag in enumerate(fields)
            if tag not in constants and tag not in (tags.SpecificCharacterSet, tags.InstanceAvailability)
        ]
        self._availability = availability
        self._availability_at = -1
        if availability is not None and tags.InstanceAvailability in request.return_keys:
            self._availability_at = fields.index(tags.InstanceAvailability)
        self._values: list[bytes | None] = [None] * len(fields)
        """The present value of each element."""
        self._in_utf_8 = [b""] * len(fields)
        self._in_requested_set = [b""] * len(fields)
        self._beyond_ascii: set[int] = set()
        """Elements with text that needs a character set."""
        self._beyond_requested_set: set[int] = set()
        """Elements with text that the requested character set cannot encode."""
        self._unless_empty = fields.index(tags.TimezoneOffsetFromUTC) if tags.TimezoneOffsetFromUTC in fields else -1
        """The element that is left out when it is empty; -1: none."""
        for tag, value in constants.items():
            self._set(fields.index(tag), value)

    def _command(self, rq: CFindRQ, status: FindStatus) -> tuple[bytes, bytes]:
        """A command set, and the same as P-DATA-TF."""
        command = CFindRSP(rq.message_id, rq.affected_sop_class_uid, status, has_data_set=True).encode()
        return command, p_data_tf(self._context_id, True, command, self._fragment)

    def encode(self, match: Match) -> bytes:
        """The response for a match, as whole P-DATA-TF."""
        attributes, values = match.attributes, self._values
        for i, tag in self._columns:
            value = attributes.get(tag, b"")
            if value != values[i]:
                self._set(i, value)
        if self._availability is not None and self._availability_at >= 0:
            value = self._availability(attributes)
            if value != values[self._availability_at]:
                self._set(self._availability_at, value)
        elements = self._in_utf_8
        if self._beyond_ascii:
            elements = self._with_character_set()
        identifier = b"".join(elements)
        if self._needs_finish:
            identifier = finish(identifier, self._syntax)
        command, frames = self._incomplete if match.unsupported else self._complete
        self._connection.trace_command(self._context_id, command)
        return frames + p_data_tf(self._context_id, False, identifier, self._fragment)

    def _with_character_set(self) -> list[bytes]:
        """The elements in the requested character set or in UTF-8, with (0008,0005)."""
        elements, character_set = self._in_requested_set, self._character_set
        if self._beyond_requested_set:
            elements, character_set = self._in_utf_8, charset.UTF_8
        elements = elements.copy()
        elements[self._character_set_index] = self._forms[self._character_set_index].element(character_set)
        return elements

    def _set(self, i: int, value: bytes) -> None:
        """Encodes a new value of an element."""
        self._values[i] = value
        form = self._forms[i]
        self._beyond_ascii.discard(i)
        self._beyond_requested_set.discard(i)
        element = form.element_of_blob(value) if value or i != self._unless_empty else b""
        self._in_utf_8[i] = self._in_requested_set[i] = element
        if value.isascii() or form.vr in BINARY_VRS or (form.vr == "SQ" and not _has_text_beyond_ascii(value)):
            return
        self._beyond_ascii.add(i)
        new_value = self._recode(value, form.vr)
        if new_value is None:
            self._beyond_requested_set.add(i)
        else:
            self._in_requested_set[i] = form.element_of_blob(new_value)

    def _recode(self, value: bytes, vr: str) -> bytes | None:
        """A value in the requested character set; None if that cannot encode it."""
        if vr != "SQ":
            return self._recode_text(value, vr)
        try:
            return items.recode_texts(value, self._recode_text)
        except DataSetError:
            return None

    def _recode_text(self, text: bytes, vr: str) -> bytes | None:
        if vr not in charset.TEXT_VRS:
            return None  # the VR allows only ASCII, so no character set applies: UTF-8 keeps the text
        return charset.encode(text.decode("utf-8", "replace"), self._character_set, vr)


def _has_text_beyond_ascii(value: bytes) -> bool:
    try:
        return items.has_text_beyond_ascii(value)
    except DataSetError:
        return True
