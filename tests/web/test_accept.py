"""Accept, `accept=`, q, wildcards and transfer syntaxes, as PS3.18 has them and as clients send them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import NotAcceptable, RequestError
from engine.web.accept import ANY, HEADER_CHARACTERS_MAX, Choice, Offer, accepts_utf_8, negotiate, parse_media_type

DICOM = Offer("application/dicom", is_multipart=True)
SINGLE = Offer("application/dicom")
OCTETS = Offer("application/octet-stream", is_multipart=True)
JPEGS = Offer("image/jpeg", is_multipart=True)
JLS = Offer("image/jls", is_multipart=True)
RLE = Offer("image/dicom-rle", is_multipart=True)
JSON = Offer("application/dicom+json")
PLAIN_JSON = Offer("application/json")
XML = Offer("application/dicom+xml", is_multipart=True)
JPEG, PNG, GIF = Offer("image/jpeg"), Offer("image/png"), Offer("image/gif")

STUDY = (DICOM, OCTETS)
INSTANCE = (DICOM, SINGLE, OCTETS)
FRAMES = (OCTETS, JPEGS, JLS, RLE)
METADATA = (JSON, PLAIN_JSON, XML)
RENDERED = (JPEG, PNG, GIF)
JPEG_LS = "1.2.840.10008.1.2.4.80"


@pytest.mark.parametrize(
    ("offers", "header", "expected"),
    [
        # What clients send.
        (FRAMES, 'multipart/related; type="application/octet-stream"; transfer-syntax="*"', Choice(OCTETS, ANY)),
        (FRAMES, "multipart/related; type=application/octet-stream; transfer-syntax=*", Choice(OCTETS, ANY)),
        (FRAMES, 'multipart/related; type="*/*"', Choice(OCTETS, "")),
        (FRAMES, "multipart/related;type=image/jls;transfer-syntax=" + JPEG_LS, Choice(JLS, JPEG_LS)),
        (FRAMES, "*/*", Choice(OCTETS, "")),
        (FRAMES, "multipart/related; type=image/x-dicom-rle", Choice(RLE, "")),
        (FRAMES, 'multipart/related; type="image/jls; transfer-syntax=*"', Choice(JLS, ANY)),
        (STUDY, 'multipart/related;type="application/dicom";transfer-syntax=*', Choice(DICOM, ANY)),
        (STUDY, "MULTIPART/Related; TYPE=APPLICATION/DICOM", Choice(DICOM, "")),
        (INSTANCE, "application/dicom; transfer-syntax=*", Choice(SINGLE, ANY)),
        (METADATA, "application/dicom+json, application/json", Choice(JSON, "")),
        (METADATA, "application/json", Choice(PLAIN_JSON, "")),
        (METADATA, "application/dicom+json,multipart/related; type=application/dicom+xml", Choice(JSON, "")),
        (METADATA, "multipart/related; type=application/dicom+xml", Choice(XML, "")),
        (RENDERED, "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", Choice(JPEG, "")),
        (RENDERED, "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", Choice(JPEG, "")),
        # q, specificity, order.
        (RENDERED, "image/jpeg;q=0.5, image/png", Choice(PNG, "")),
        (RENDERED, "image/png;q=0.5, image/gif;q=0.5", Choice(PNG, "")),
        (RENDERED, "*/*, image/gif", Choice(GIF, "")),
        (RENDERED, "image/*, image/jpeg;q=0", Choice(PNG, "")),
        (RENDERED, "*/*;q=0, image/gif;q=0.1", Choice(GIF, "")),
        (FRAMES, "multipart/related; type=image/*", Choice(JPEGS, "")),
        # What makes no sense is passed over.
        (RENDERED, "nonsense, image/png;q=2;;x, ,", Choice(PNG, "")),
        (FRAMES, "multipart/related; type=image/jls; transfer-syntax=1.2; transfer-syntax=*, */*", Choice(OCTETS, "")),
        (FRAMES, "multipart/related; type=image/jls; transfer-syntax=x, */*", Choice(OCTETS, "")),
        (FRAMES, "multipart/related; type=multipart/mixed, */*", Choice(OCTETS, "")),
        (
            FRAMES,
            'multipart/related; type="image/jls;transfer-syntax=1.2"; transfer-syntax=1.3, */*',
            Choice(OCTETS, ""),
        ),
        (RENDERED, "*/png, image/gif", Choice(GIF, "")),
        (RENDERED, 'image/png; a="b, image/gif; q=1', Choice(PNG, "")),
    ],
)
def test_the_best_choice_is_negotiated(offers: tuple[Offer, ...], header: str, expected: Choice) -> None:
    assert negotiate(offers, header)[0]._replace(quality=1.0) == expected


def test_several_transfer_syntaxes_come_in_their_order() -> None:
    header = (
        "multipart/related; type=application/dicom; transfer-syntax=1.2.840.10008.1.2.4.90;q=0.7, "
        "multipart/related; type=application/dicom; transfer-syntax=1.2.840.10008.1.2.4.201, "
        "multipart/related; type=application/dicom; transfer-syntax=1.2.840.10008.1.2.1;q=0"
    )
    found = [choice.transfer_syntax for choice in negotiate(STUDY, header)]
    assert found == ["1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.90"]


def test_an_excluded_type_is_not_the_default_of_a_wildcard() -> None:
    assert negotiate(RENDERED, "image/jpeg;q=0, */*") == [Choice(PNG, "")]
    for header in ("image/jpeg;q=0", "*/*;q=0", "application/pdf"):
        with pytest.raises(NotAcceptable, match="image/jpeg, or image/png"):
            negotiate(RENDERED, header)


def test_the_query_goes_before_the_header_and_has_no_wildcards() -> None:
    assert negotiate(RENDERED, "image/gif", ["image/png"]) == [Choice(PNG, ""), Choice(GIF, "")]
    assert negotiate(RENDERED, "image/gif", ["*/*"]) == [Choice(GIF, "")]
    assert negotiate(RENDERED, None, ["image/png", "image/gif"])[0] == Choice(PNG, "")
    with pytest.raises(NotAcceptable):
        negotiate(RENDERED, None, ["image/webp"])


def test_no_header_is_any_type_unless_strict() -> None:
    for header in (None, "", " "):
        assert negotiate(METADATA, header) == [Choice(JSON, "")]
        with pytest.raises(NotAcceptable):
            negotiate(METADATA, header, is_strict=True)


def test_dicom_and_rendered_types_are_not_mixed() -> None:
    for header in ("application/dicom, image/png", "multipart/related; type=application/octet-stream, image/gif"):
        with pytest.raises(RequestError, match="rendered"):
            negotiate(FRAMES, header)
    assert negotiate(RENDERED, "application/dicom;q=0, image/png") == [Choice(PNG, "")]


@pytest.mark.parametrize(
    ("header", "query", "expected"),
    [
        (None, [], True), ("", [], True), ("utf-8", [], True), ("ISO-8859-1,utf-8;q=0.7,*;q=0.7", [], True),
        ("iso-8859-1", [], False), ("*", [], True), ("utf-8;q=0, *", [], False), ("*;q=0", [], False),
        ("iso-8859-1", ["UTF-8"], True), ("utf-8", ["iso-8859-5"], False),
    ],
)  # fmt: skip
def test_utf_8_is_accepted_unless_it_is_excluded(header: str | None, query: list[str], expected: bool) -> None:
    assert accepts_utf_8(header, query) is expected


def test_a_content_type_is_parsed() -> None:
    found = parse_media_type('Multipart/Related; Boundary="a;b\\"c"; type=application/dicom;charset=utf-8')
    assert found is not None and found.name == "multipart/related"
    assert found.parameter("boundary") == 'a;b"c'
    assert found.parameter("type") == "application/dicom"
    assert found.parameter("start") == ""
    for text in ("", "text", "text/", "a/b/c", "text/plain; a=1; A=2", "a/b" + ";c=d" * 20, "a/" + "b" * 10_000):
        assert parse_media_type(text) is None


def test_only_the_beginning_of_a_long_header_is_parsed() -> None:
    assert negotiate(RENDERED, "image/png," + "x/y," * HEADER_CHARACTERS_MAX) == [Choice(PNG, "")]


TOKENS = st.sampled_from(["image/jpeg", "image/*", "*/*", "multipart/related", "application/dicom", "x", '"', "a/b"])
PARAMETERS = st.sampled_from(
    [
        "q=0",
        "q=0.5",
        "q=1",
        "q=x",
        "type=image/jls",
        'type="*/*"',
        "type=",
        "transfer-syntax=*",
        "transfer-syntax=1.2",
        "=",
    ]
)
RANGES = st.builds(lambda name, rest: ";".join([name, *rest]), TOKENS, st.lists(PARAMETERS, max_size=4))


@given(st.one_of(st.lists(RANGES, max_size=6).map(",".join), st.text(max_size=60)))
def test_any_header_gives_choices_of_what_is_offered_or_an_error_of_ours(header: str) -> None:
    for offers in (FRAMES, RENDERED, METADATA):
        try:
            choices = negotiate(offers, header)
        except (NotAcceptable, RequestError):
            continue
        assert choices and {choice.offer for choice in choices} <= set(offers)
        assert len(choices) == len(set(choices))


@given(st.lists(RANGES, min_size=1, max_size=4), st.sampled_from(RENDERED))
def test_a_type_that_is_named_alone_with_full_quality_is_chosen_whatever_else_has_less(
    others: list[str], offer: Offer
) -> None:
    header = ",".join(
        [offer.media_type, *(f"{name};q=0.1" for name in ("image/*", "*/*", "image/webp")[: len(others)])]
    )
    assert negotiate(RENDERED, header)[0] == Choice(offer, "")
