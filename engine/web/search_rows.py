"""The rows of a search: matches encoded as objects of the DICOM JSON Model.

What consecutive rows have in common is encoded once: each element while consecutive matches have the same value, and
the elements of the levels above while consecutive matches belong to the same entity.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from engine.archive.questions import Level, level_of, vr_of_key
from engine.dicom import json_model, tags
from engine.web.urls import segment

if TYPE_CHECKING:
    from engine.archive.questions import Match
    from engine.dicom.schema import Schema
    from engine.web.search_request import SearchRequest

_UTF_8: Final = b"ISO_IR 192"
_ONLINE: Final = b"ONLINE"
_CS: Final = json_model.vr_number("CS")
_UR: Final = json_model.vr_number("UR")
_IS_PLAIN: Final = re.compile(rb"[0-9A-Za-z._-]+").fullmatch
_UID_ABOVE: Final = {Level.SERIES: tags.StudyInstanceUID, Level.IMAGE: tags.SeriesInstanceUID}


class Rows:
    """Encodes the matches of one search; for one thread at a time."""

    def __init__(
        self,
        request: SearchRequest,
        schema: Schema,
        base_url: str,
        availability: Callable[[dict[int, bytes]], bytes] | None = None,
    ) -> None:
        """`base_url`: the part of Retrieve URLs before `/studies`. `availability`: of a match; None: all are ONLINE."""
        query = request.query
        self._level = query.level
        self._url_start = f"{base_url}/studies/".encode()
        self._write = json_model.element_writer()
        constants = {
            tags.SpecificCharacterSet: self._write(tags.SpecificCharacterSet, _CS, _UTF_8),
            tags.InstanceAvailability: self._write(tags.InstanceAvailability, _CS, _ONLINE),
        }
        elements = sorted({*query.keys, *constants, tags.RetrieveURL})
        self._texts = [constants.get(tag, b"") for tag in elements]
        """The current text of each element; b"": it is left out."""
        self._values: list[bytes | None] = [None] * len(elements)
        self._url_at = elements.index(tags.RetrieveURL)
        self._availability = availability
        self._availability_at = elements.index(tags.InstanceAvailability)
        columns = [
            (at, tag, json_model.vr_number(vr_of_key(query, tag, schema)), tag in request.always)
            for at, tag in enumerate(elements)
            if tag in query.keys
        ]
        self._columns = columns
        levels = {tag: level_of(tag, schema) for tag in query.keys}
        above = {tag for tag, level in levels.items() if level is not None and level < query.level}
        self._own_columns = [column for column in columns if column[1] not in above]
        self._tag_above = _UID_ABOVE.get(query.level, 0)
        self._uid_above: bytes | None = None

    def encode(self, match: Match) -> bytes:
        """Encodes a match as its row: one JSON object."""
        attributes, values, texts = match.attributes, self._values, self._texts
        uid_above = attributes.get(self._tag_above)
        columns = self._own_columns if uid_above and uid_above == self._uid_above else self._columns
        self._uid_above = uid_above
        for at, tag, vr, is_always in columns:
            value = attributes.get(tag, b"")
            if value != values[at]:
                values[at] = value
                texts[at] = self._write(tag, vr, value) if value or is_always else b""
        if self._availability is not None:
            value = self._availability(attributes)
            if value != values[self._availability_at]:
                values[self._availability_at] = value
                at = self._availability_at
                texts[at] = self._write(tags.InstanceAvailability, _CS, value) if value else b""
        texts[self._url_at] = self._write(tags.RetrieveURL, _UR, self._url(attributes))
        return b"{%b}" % b",".join([text for text in texts if text])

    def _url(self, attributes: dict[int, bytes]) -> bytes:
        url = self._url_start + _segment(attributes[tags.StudyInstanceUID])
        if self._level >= Level.SERIES:
            url += b"/series/" + _segment(attributes[tags.SeriesInstanceUID])
        if self._level == Level.IMAGE:
            url += b"/instances/" + _segment(attributes[tags.SOPInstanceUID])
        return url


def _segment(uid: bytes) -> bytes:
    return uid if _IS_PLAIN(uid) else segment(uid.decode("utf-8", "replace")).encode("ascii")
