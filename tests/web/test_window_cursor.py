"""A cursor of a window is a place that only this server can read."""

from __future__ import annotations

import base64

import pytest

from engine.archive.questions import Bookmark, Order
from engine.dicom import tags
from engine.errors import RequestError
from engine.web.api import window_cursor
from engine.web.errors import Gone

SECRET = b"s" * 32
EPOCH = b"epoch number one"
ORDER = Order(tags.PatientName, True)
PLACE = Bookmark(b"\x00\x10\x00\x10\0HIDDEN^NAME", 123_456)


def test_a_cursor_leads_back_to_its_place() -> None:
    for place in (PLACE, Bookmark(b"", 0), Bookmark(b"k" * 511, 0xFFFFFFFF)):
        cursor = window_cursor.sealed(SECRET, ORDER, EPOCH, place)
        assert window_cursor.opened(SECRET, ORDER, EPOCH, cursor) == place


def test_a_cursor_says_nothing_of_the_study_at_its_place() -> None:
    cursor = window_cursor.sealed(SECRET, ORDER, EPOCH, PLACE)
    data = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    for word in (b"HIDDEN", PLACE.number.to_bytes(4, "big"), EPOCH[:8]):
        assert word not in data


@pytest.mark.parametrize("cursor", ["", "A", "!", "AAAA", "A" * 100, "A" * 5000, "\u00e9"])
def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(RequestError, match="not a cursor"):
        window_cursor.opened(SECRET, ORDER, EPOCH, cursor)


def test_a_cursor_that_was_changed_or_is_of_another_archive_is_refused() -> None:
    cursor = window_cursor.sealed(SECRET, ORDER, EPOCH, PLACE)
    changed = cursor[:-8] + ("A" if cursor[-8] != "A" else "B") + cursor[-7:]
    for secret, text in ((SECRET, changed), (b"t" * 32, cursor)):
        with pytest.raises(RequestError, match="not a cursor"):
            window_cursor.opened(secret, ORDER, EPOCH, text)


def test_a_cursor_is_for_one_order_and_one_index() -> None:
    cursor = window_cursor.sealed(SECRET, ORDER, EPOCH, PLACE)
    with pytest.raises(RequestError, match="another order"):
        window_cursor.opened(SECRET, Order(tags.PatientName), EPOCH, cursor)
    with pytest.raises(Gone):
        window_cursor.opened(SECRET, ORDER, b"another epoch", cursor)
