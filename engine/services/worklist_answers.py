"""Encodes the pending responses of one worklist query: entries to P-DATA-TF (PS3.4 K.4.1.1.3.2).

    response    command FF00, or FF01 if a key is not supported    identifier
    identifier  every requested key, empty if there is no value, (0008,0005) only if a text is not ASCII
                (0040,0100) has one item with the requested keys of the step; all of them if none is named

A response is in the requested character set if that can encode all its texts, else in UTF-8. A [[station]] may have a
set of its own; then what the set lacks becomes a question mark.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from engine.dicom import charset, items, tags, transfer_syntax
from engine.dicom.identifier import BINARY_VRS, Form, finish, form_of, working_encoding
from engine.dimse.assembly import p_data_tf
from engine.dimse.messages import CFindRQ, CFindRSP
from engine.dimse.status import FindStatus
from engine.errors import DataSetError
from engine.orders.entry import ROOT, STEP, Attribute, Either, Entry, Field

if TYPE_CHECKING:
    from engine.dicom.identifier import Identifier
    from engine.orders.rows import StoredAttributes, StoredValue
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


class _Template:
    """The elements of some columns without values. An entry fills in what it has: most of what is asked is empty."""

    def __init__(self, columns: list[_Column]) -> None:
        self._columns = columns
        self._empty = [column.element(b"")[0] for column in columns]
        self._rows: dict[Callable[[Entry], StoredAttributes], dict[str, int]] = {}
        """Attributes of a row → keyword → place among the columns. What a later row says counts."""
        self._others: list[tuple[int, _Column]] = []
        self._stored: list[dict[StoredValue, tuple[bytes, bool]]] = [{} for _ in columns]
        """Beside the columns, as `_Column.elements`, by the value as it is stored."""
        self._blobs_of: dict[int, Callable[[StoredValue], bytes]] = {}
        eithers = [(place, column.of) for place, column in enumerate(columns) if isinstance(column.of, Either)]
        for place, either in eithers:
            self._add(place, either.of_visit)
        for place, either in eithers:
            self._add(place, either.of_order)
        for place, column in enumerate(columns):
            if isinstance(column.of, Attribute):
                self._add(place, column.of)
            elif not isinstance(column.of, Either):
                self._others.append((place, column))

    def _add(self, place: int, attribute: Attribute) -> None:
        self._rows.setdefault(attribute.of, {})[attribute.keyword] = place
        self._blobs_of[place] = attribute.blob_of

    def elements(self, entry: Entry) -> tuple[list[bytes], bool]:
        """The elements of an entry in UTF-8, and whether they need no character set."""
        parts = self._empty.copy()
        is_plain = True
        for attributes_of, places in self._rows.items():
            for keyword, stored in attributes_of(entry).items():
                place = places.get(keyword)
                if place is None:
                    continue
                found = self._stored[place].get(stored)
                if found is None:
                    found = self._element(place, stored)
                if found[0] != self._empty[place]:
                    parts[place] = found[0]
                    is_plain = is_plain and found[1]
        for place, column in self._others:
            value = column.of(entry)
            if value:
                found = column.elements.get(value) or column.element(value)
                parts[place] = found[0]
                is_plain = is_plain and found[1]
        return parts, is_plain

    def _element(self, place: int, stored: StoredValue) -> tuple[bytes, bool]:
        column = self._columns[place]
        value = self._blobs_of[place](stored)
        found = column.elements.get(value) or column.element(value)
        if len(self._stored[place]) < KEPT_ELEMENTS:
            self._stored[place][stored] = found
        return found


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
        self._root_template = _Template(self._before + self._after)
        self._step_template = _Template(self._step)
        self._sequence = form_of(_SEQUENCE, "SQ", encoding)
        self._set_form = form_of(tags.SpecificCharacterSet, "CS", encoding)
        is_supported = set(of_root) <= set(ROOT) and set(of_step) <= set(STEP)
        status = FindStatus.PENDING if is_supported else FindStatus.PENDING_OPTIONAL_KEYS_UNSUPPORTED
        self._command = CFindRSP(rq.message_id, rq.affected_sop_class_uid, status, has_data_set=True).encode()
        self._frames = p_data_tf(self._context_id, True, self._command, self._fragment)

    def encode(self, entry: Entry) -> bytes:
        """The response for an entry, as whole P-DATA-TF."""
        root, is_plain = self._root_template.elements(entry)
        step, is_plain_step = self._step_template.elements(entry) if self._has_step else ([], True)
        root.insert(len(self._before), self._item(b"".join(step)))
        identifier = b"".join(root)
        if not (is_plain and is_plain_step):
            identifier = self._with_character_set(entry, identifier)
        if self._needs_finish:
            identifier = finish(identifier, self._syntax)
        self._connection.trace_command(self._context_id, self._command)
        return self._frames + p_data_tf(self._context_id, False, identifier, self._fragment)

    def _item(self, elements: bytes) -> bytes:
        """Scheduled Procedure Step Sequence with its one item."""
        if not self._has_step:
            return b""
        return self._sequence.element(b"%b%b%b" % (_ITEM, len(elements).to_bytes(4, "little"), elements))

    def _with_character_set(self, entry: Entry, in_utf_8: bytes) -> bytes:
        """The identifier in the requested character set, else in UTF-8, with (0008,0005)."""
        before, step, after = (self._encoded(columns, entry) for columns in (self._before, self._step, self._after))
        # (0008,0005) is the first element of an identifier but for SOP Class UID and the like, which are no keys here.
        if before is None or step is None or after is None:
            return self._set_form.element(charset.UTF_8) + in_utf_8
        return b"".join((self._set_form.element(self._character_set), before, self._item(step), after))

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
