"""Encodes the pending responses of one worklist query: entries to P-DATA-TF (PS3.4 K.4.1.1.3.2).

    response    command FF00, or FF01 if a key is not supported    identifier
    identifier  every requested key, empty if there is no value, (0008,0005) only if a text is not ASCII
                (0040,0100) has one item with the requested keys of the step; all of them if none is named

A response is in the requested character set if that can encode all its texts, else in UTF-8. A [[station]] may have a
set of its own; then what the set lacks becomes a question mark.
"""

from __future__ import annotations

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


class _Columns:
    """The requested attributes of one level, in the order of their tags."""

    def __init__(self, requested: list[int], fields: dict[int, Field], encoding: int) -> None:
        self.columns: list[tuple[int, Form, Field]] = [
            (tag, form_of(tag, tags.vr_of(tag), encoding), fields.get(tag, _empty)) for tag in sorted(requested)
        ]

    def values(self, entry: Entry) -> list[bytes]:
        """Their values, with texts in UTF-8."""
        return [of(entry) for _, _, of in self.columns]


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
        self._root = _Columns(of_root, dict(ROOT), encoding)
        self._step = _Columns(of_step or list(STEP), dict(STEP), encoding)
        self._sequence = form_of(_SEQUENCE, "SQ", encoding)
        self._set_form = form_of(tags.SpecificCharacterSet, "CS", encoding)
        is_supported = set(of_root) <= set(ROOT) and set(of_step) <= set(STEP)
        status = FindStatus.PENDING if is_supported else FindStatus.PENDING_OPTIONAL_KEYS_UNSUPPORTED
        self._command = CFindRSP(rq.message_id, rq.affected_sop_class_uid, status, has_data_set=True).encode()
        self._frames = p_data_tf(self._context_id, True, self._command, self._fragment)

    def encode(self, entry: Entry) -> bytes:
        """The response for an entry, as whole P-DATA-TF."""
        root, step = self._root.values(entry), self._step.values(entry) if self._has_step else []
        character_set = b""
        if not all(map(bytes.isascii, root)) or not all(map(bytes.isascii, step)):
            root, step, character_set = self._in_character_set(root, step)
        identifier = self._joined(root, step, character_set)
        if self._needs_finish:
            identifier = finish(identifier, self._syntax)
        self._connection.trace_command(self._context_id, self._command)
        return self._frames + p_data_tf(self._context_id, False, identifier, self._fragment)

    def _joined(self, root: list[bytes], step: list[bytes], character_set: bytes) -> bytes:
        parts = [
            (tag, form.element_of_blob(value))
            for (tag, form, _), value in zip(self._root.columns, root, strict=True)
            if value or tag != tags.TimezoneOffsetFromUTC
        ]
        if character_set:
            parts.append((tags.SpecificCharacterSet, self._set_form.element(character_set)))
        if self._has_step:
            item = b"".join(
                [form.element_of_blob(value) for (_, form, _), value in zip(self._step.columns, step, strict=True)]
            )
            items_of_step = b"%b%b%b" % (_ITEM, len(item).to_bytes(4, "little"), item)
            parts.append((_SEQUENCE, self._sequence.element(items_of_step)))
        parts.sort()
        return b"".join([element for _, element in parts])

    def _in_character_set(self, root: list[bytes], step: list[bytes]) -> tuple[list[bytes], list[bytes], bytes]:
        """The values in the requested character set, else in UTF-8, and the set."""
        encoded_root = self._encoded(self._root, root)
        encoded_step = self._encoded(self._step, step)
        if encoded_root is None or encoded_step is None:
            return root, step, charset.UTF_8
        is_ascii = all(map(bytes.isascii, encoded_root + encoded_step))
        needs_set = not is_ascii or b"\x1b" in b"".join(encoded_root + encoded_step)
        return encoded_root, encoded_step, self._character_set if needs_set else b""

    def _encoded(self, columns: _Columns, texts: list[bytes]) -> list[bytes] | None:
        """None: the set lacks a character, and another one may be used."""
        result = []
        for (_, form, _), value in zip(columns.columns, texts, strict=False):
            new_value: bytes | None = value
            if value and form.vr == "SQ" and not value.isascii():
                try:
                    new_value = items.recode_texts(value, self._recode)
                except DataSetError:
                    new_value = None
            elif form.vr not in BINARY_VRS and form.vr != "SQ" and not value.isascii():
                new_value = self._recode(value, form.vr)
            if new_value is None:
                return None
            result.append(new_value)
        return result

    def _recode(self, value: bytes, vr: str) -> bytes | None:
        if vr not in charset.TEXT_VRS:
            return value
        text = value.decode("utf-8", "replace")
        encoded = charset.encode(text, self._character_set, vr)
        if encoded is not None or not self._is_forced:
            return encoded
        known = (one if charset.encode(one, self._character_set, vr) is not None else "?" for one in text)
        return charset.encode("".join(known), self._character_set, vr)
