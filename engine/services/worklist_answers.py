"""Encodes the pending responses of one worklist query: entries to P-DATA-TF (PS3.4 K.4.1.1.3.2).

    response    command FF00, or FF01 if a key is not supported    identifier
    identifier  every requested key, empty if there is no value, (0008,0005) only if a text is not ASCII
                (0040,0100) has one item with the requested keys of the step; all of them if none is named

A response is in the requested character set if that can encode all its texts, else in UTF-8. A [[station]] may have a
set of its own; then what the set lacks becomes a question mark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from engine.dicom import charset, items, tags, transfer_syntax
from engine.dicom.identifier import BINARY_VRS, Form, finish, form_of, working_encoding
from engine.dimse.assembly import p_data_tf
from engine.dimse.messages import CFindRQ, CFindRSP
from engine.dimse.status import FindStatus
from engine.errors import DataSetError
from engine.orders.entry import ROOT, STEP, Entry, Field

if TYPE_CHECKING:
    from engine.dicom.identifier import Identifier
    from engine.services.session import Session

_SEQUENCE = tags.ScheduledProcedureStepSequence
_ITEM = b"\xfe\xff\x00\xe0"


def _empty(entry: Entry) -> bytes:
    return b""


KEPT_ELEMENTS = 4096
"""Encoded values of one attribute that are kept: most entries of a list share most values."""


class _Column:
    """One requested attribute: where its value comes from, and the elements of values that were encoded before."""

    __slots__ = ("elements", "form", "of", "tag")

    def __init__(self, tag: int, of: Field, encoding: int) -> None:
        self.tag = tag
        self.form: Form = form_of(tag, tags.vr_of(tag), encoding)
        self.of = of
        self.elements: dict[bytes, tuple[bytes, bool]] = {}
        """Value → element in UTF-8, and whether it needs no character set."""

    def element(self, value: bytes) -> tuple[bytes, bool]:
        """Encodes a value that was not kept."""
        form = self.form
        is_plain = value.isascii() or form.vr in BINARY_VRS
        is_left_out = not value and self.tag == tags.TimezoneOffsetFromUTC  # it must not be empty
        found = (b"" if is_left_out else form.element_of_blob(value), is_plain)
        if len(self.elements) < KEPT_ELEMENTS:
            self.elements[value] = found
        return found


def _columns(requested: list[int], fields: Mapping[int, Field], encoding: int) -> list[_Column]:
    return [_Column(tag, fields.get(tag, _empty), encoding) for tag in sorted(requested)]


def _elements(columns: list[_Column], entry: Entry) -> tuple[bytes, bool]:
    """The elements of an entry in UTF-8, and whether they need no character set."""
    parts = []
    is_plain = True
    for column in columns:
        value = column.of(entry)
        found = column.elements.get(value)
        if found is None:
            found = column.element(value)
        parts.append(found[0])
        is_plain = is_plain and found[1]
    return b"".join(parts), is_plain


class WorklistResponses:
    """Encodes the entries of one query."""

    def __init__(
        self, session: Session, presentation_context_id: int, rq: CFindRQ, identifier: Identifier, forced_set: str = ""
    ) -> None:
        self._connection = session.connection
        self._context_id = presentation_context_id
        self._fragment = session.fragment
        self._syntax = transfer_syntax.of(session.contexts[presentation_context_id].transfer_syntax)
        encoding = working_encoding(self._syntax)
        self._needs_finish = self._syntax.deflated or encoding != self._syntax.encoding
        self._is_forced = bool(forced_set)
        self._character_set = forced_set.encode() or identifier.character_set
        of_step = [tag for item in identifier.sequence(_SEQUENCE) for tag in item.items]
        of_root = [tag for tag in identifier.items if tag not in (_SEQUENCE, tags.SpecificCharacterSet)]
        self._has_step = _SEQUENCE in identifier.items
        self._before = _columns([tag for tag in of_root if tag < _SEQUENCE], ROOT, encoding)
        self._after = _columns([tag for tag in of_root if tag > _SEQUENCE], ROOT, encoding)
        self._step = _columns(of_step or list(STEP), STEP, encoding)
        self._sequence = form_of(_SEQUENCE, "SQ", encoding)
        self._set_form = form_of(tags.SpecificCharacterSet, "CS", encoding)
        is_supported = set(of_root) <= set(ROOT) and set(of_step) <= set(STEP)
        status = FindStatus.PENDING if is_supported else FindStatus.PENDING_OPTIONAL_KEYS_UNSUPPORTED
        self._command = CFindRSP(rq.message_id, rq.affected_sop_class_uid, status, has_data_set=True).encode()
        self._frames = p_data_tf(self._context_id, True, self._command, self._fragment)

    def encode(self, entry: Entry) -> bytes:
        """The response for an entry, as whole P-DATA-TF."""
        before, is_plain = _elements(self._before, entry)
        after, is_plain_after = _elements(self._after, entry)
        step, is_plain_step = _elements(self._step, entry) if self._has_step else (b"", True)
        if is_plain and is_plain_after and is_plain_step:
            identifier = b"".join((before, self._item(step), after))
        else:
            identifier = self._with_character_set(entry, before, step, after)
        if self._needs_finish:
            identifier = finish(identifier, self._syntax)
        self._connection.trace_command(self._context_id, self._command)
        return self._frames + p_data_tf(self._context_id, False, identifier, self._fragment)

    def _item(self, elements: bytes) -> bytes:
        """Scheduled Procedure Step Sequence with its one item."""
        if not self._has_step:
            return b""
        return self._sequence.element(b"%b%b%b" % (_ITEM, len(elements).to_bytes(4, "little"), elements))

    def _with_character_set(self, entry: Entry, before: bytes, step: bytes, after: bytes) -> bytes:
        """The identifier in the requested character set, else in UTF-8, with (0008,0005)."""
        character_set = self._character_set
        encoded = [self._encoded(columns, entry) for columns in (self._before, self._step, self._after)]
        if encoded[0] is None or encoded[1] is None or encoded[2] is None:
            character_set = charset.UTF_8
        else:
            before, step, after = encoded[0], encoded[1] if self._has_step else b"", encoded[2]
        # (0008,0005) is the first element of an identifier but for SOP Class UID and the like, which are no keys here.
        return b"".join((self._set_form.element(character_set), before, self._item(step), after))

    def _encoded(self, columns: list[_Column], entry: Entry) -> bytes | None:
        """The elements in the requested character set; None: it lacks a character, and another one may be used."""
        parts = []
        for column in columns:
            value = column.of(entry)
            element, is_plain = column.elements.get(value) or column.element(value)
            if not is_plain:
                new_value = self._in_set(column, value)
                if new_value is None:
                    return None
                element = column.form.element_of_blob(new_value)
            parts.append(element)
        return b"".join(parts)

    def _in_set(self, column: _Column, value: bytes) -> bytes | None:
        if column.form.vr != "SQ":
            return self._recode(value, column.form.vr)
        try:
            return items.recode_texts(value, self._recode)
        except DataSetError:
            return None

    def _recode(self, value: bytes, vr: str) -> bytes | None:
        if vr not in charset.TEXT_VRS:
            return value
        text = value.decode("utf-8", "replace")
        encoded = charset.encode(text, self._character_set, vr)
        if encoded is not None or not self._is_forced:
            return encoded
        known = (one if charset.encode(one, self._character_set, vr) is not None else "?" for one in text)
        return charset.encode("".join(known), self._character_set, vr)
