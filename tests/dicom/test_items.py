"""dicom.items: sequences of level blobs, decoded, encoded, and in another character set."""

from __future__ import annotations

import pytest

from engine.dicom import charset, elements, items, tags
from engine.dicom.items import Content
from engine.dicom.transfer_syntax import EXPLICIT_VR_LITTLE_ENDIAN
from engine.errors import DataSetError
from tests.oracle import data_sets

PRIVATE = 0x00091001


def stored() -> bytes:
    """A sequence with nested sequences, as in the index."""
    head = elements.extract(data_sets.encode(data_sets.ct_head(undefined=True), 1), EXPLICIT_VR_LITTLE_ENDIAN)
    return elements.blob_items(head.series)[tags.RequestAttributesSequence]


def nested(depth: int, text: bytes) -> bytes:
    inner = items.encode_items([[Content(tags.CodeMeaning, "LO", text)]])
    for _ in range(depth):
        inner = items.encode_items([[Content(tags.ProcedureCodeSequence, "SQ", inner)]])
    return inner


def in_latin_1(text: bytes, vr: str) -> bytes | None:
    return charset.encode(text.decode(), b"ISO_IR 100", vr)


def test_decoded_items_encode_to_the_same_bytes() -> None:
    decoded = items.decode_items(stored())
    assert items.decode_items(items.encode_items(decoded)) == decoded
    assert decoded[0][-1].value == b"SPS1"
    assert items.decode_items(b"") == []
    assert items.encode_items([]) == b""


def test_vrs_stay_as_they_are_and_long_ones_have_long_lengths() -> None:
    content = [Content(tags.CodeValue, "SH", b"T-1"), Content(PRIVATE, "UT", b"x"), Content(PRIVATE + 1, "US", b"\1\2")]
    decoded = items.decode_items(items.encode_items([content, []]))
    assert decoded == [[content[0]._replace(value=b"T-1 "), content[1]._replace(value=b"x "), content[2]], []]


def test_texts_at_every_depth_are_recoded() -> None:
    recoded = items.recode_texts(nested(3, "Schädel".encode()), in_latin_1)
    assert recoded == nested(3, "Schädel".encode("latin-1"))
    assert items.recode_texts(nested(3, "山".encode()), in_latin_1) is None


def test_numbers_and_codes_are_left_alone() -> None:
    whole = items.encode_items([[Content(tags.Rows, "US", b"\xc4\x89"), Content(tags.Modality, "CS", b"CT")]])
    assert items.recode_texts(whole, lambda _text, _vr: None) == whole


def test_text_beyond_ascii_is_seen_but_not_lengths_and_numbers() -> None:
    assert items.has_text_beyond_ascii(nested(3, "Schädel".encode()))
    long = items.encode_items([[Content(tags.CodeMeaning, "LO", b"x" * 200), Content(tags.Rows, "US", b"\xc4\x89")]])
    assert not long.isascii()
    assert not items.has_text_beyond_ascii(long)


def test_invalid_and_too_deep_items_are_refused() -> None:
    with pytest.raises(DataSetError):
        items.decode_items(b"no item at all")
    deep = nested(items.NESTING_MAX + 1, "ä".encode())
    with pytest.raises(DataSetError, match="nests more than"):
        items.recode_texts(deep, in_latin_1)
